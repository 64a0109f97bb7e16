"""Configurations from folders and from the headers of stored weights."""

import json
import os

import numpy as np
import pytest
from analysis.checkpoints import CONFIG, llama_tensors, saved

from depthwidth import InputError, Transformer
from depthwidth.architecture.hf import NoConfigError, read_source

PARAMS = {"dim": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 97, "multiple_of": 16}


def notes(invoke, path):
    found = json.loads(invoke("describe", path, "--no-diagnosis", "--json").output)
    return found["parameters"], [one for one in found["findings"] if "tensor" in one or "index" in one]


def test_a_folder_with_params_alone(tmp_path):
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    fields = read_source(tmp_path)
    assert fields["n_layers"] == 2
    assert fields.notes == (f"the configuration is {str(tmp_path / 'params.json')!r}",)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))  # comes first
    assert read_source(tmp_path)["hidden_size"] == 24
    assert read_source(tmp_path / "config.json").notes == ()
    assert read_source(tmp_path / "params.json").notes == ()


def test_named_weights_are_compared_with_the_configuration_beside_them(invoke, tmp_path):
    """All tensors fit; then one is missing, one is too many, and one has another shape."""
    tensors = llama_tensors()
    total = sum(one.size for one in tensors.values())
    folder = saved(tmp_path / "model", tensors)
    beside = f"the configuration is {str(folder / 'config.json')!r}, beside the tensors"
    assert notes(invoke, folder / "model.safetensors") == (total, [beside])
    lacking = {name: one for name, one in tensors.items() if "layers.1.mlp.up" not in name}
    saved(folder, lacking | {"model.extra.weight": np.zeros(3, np.float32)})
    assert notes(invoke, folder / "model.safetensors") == (
        total,
        [
            beside,
            "tensors that the tree does not have are left out: 'model.extra.weight'",
            "tensors are missing: 'decoder.block.1.feed_forward.up.weight'",
        ],
    )
    saved(folder, tensors | {"model.norm.weight": np.zeros(25, np.float32)})
    _, (_, note) = notes(invoke, folder / "model.safetensors")
    assert note.startswith("the tensors disagree with the configuration: ")
    assert "norm" in note
    assert notes(invoke, folder) == (total, [])  # a folder's configuration is read alone


def test_weights_without_a_configuration_are_counted(invoke, tmp_path):
    tensors = llama_tensors()
    folder = saved(tmp_path / "model", tensors)
    (folder / "config.json").unlink()
    total = sum(one.size for one in tensors.values())
    for path in (folder, folder / "model.safetensors"):
        found = json.loads(invoke("describe", path, "--json").output)
        assert (found["parameters"], found["weight_bytes"], found["tensors"]) == (total, 4 * total, len(tensors))
        assert found["theory"] is False
        assert found["read_from"] == str(folder / "model.safetensors")
        rows = {row["site"]: row for row in found["components"]}
        assert rows["model.layers.*.self_attn.q_proj"] == {
            "site": "model.layers.*.self_attn.q_proj", "dtype": "F32", "copies": 2, "parameters": 2 * 32 * 24,
        }  # fmt: skip
        assert sum(row["parameters"] for row in rows.values()) == total
        with pytest.raises(NoConfigError, match=r"has no config\.json beside it; `depthwidth describe` counts"):
            Transformer.from_config(path)
    page = invoke("describe", folder)
    assert (page.status, page.error) == (0, "")
    assert "the theory does not cover this model" in page.output
    result = invoke("plan", "1B", "--like", folder)
    assert (result.status, result.error.count("\n")) == (2, 1)
    assert "--trained reads the weights" in invoke("describe", folder, "--trained", folder).error


def indexed(folder, metadata, files=("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")):
    folder.mkdir(exist_ok=True)
    places = {name: files[i % 2] for i, name in enumerate(llama_tensors())}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": metadata, "weight_map": places}))
    return places


def test_an_index_without_its_files_is_compared_by_its_sums(invoke, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    total = Transformer.from_config(CONFIG).parameters
    index = tmp_path / "model.safetensors.index.json"
    for metadata, expected in (
        ({"total_parameters": total}, []),
        ({"total_size": 2 * total}, []),
        ({}, []),
        ({"total_parameters": total + 1}, [f"the index states {total + 1:,} parameters"]),
        ({"total_size": 3 * total}, [f"the index states {3 * total:,} bytes"]),
    ):
        indexed(tmp_path, metadata)
        parameters, (_, absent, *found) = notes(invoke, index)
        assert parameters == total
        assert absent == "none of the files that the index names is here, so that tensors are not compared one by one"
        assert len(found) == len(expected)
        assert all(one.startswith(start) for one, start in zip(found, expected, strict=True))


def test_an_index_is_counted_over_its_files(invoke, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    places, tensors = indexed(tmp_path, {}), llama_tensors()
    for file in set(places.values()):
        safetensors.save_file({name: tensors[name] for name in tensors if places[name] == file}, tmp_path / file)
    total = sum(one.size for one in tensors.values())
    for path in (tmp_path, tmp_path / "model.safetensors.index.json"):
        assert json.loads(invoke("describe", path, "--json").output)["parameters"] == total
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert notes(invoke, tmp_path / "model.safetensors.index.json")[1][1:] == []
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    result = invoke("describe", tmp_path / "model.safetensors.index.json")
    assert (result.status, result.error.count("\n")) == (2, 1)
    assert "there is no checkpoint" in result.error


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ((), "has no config.json"),
        (("readme.md",), "has no config.json"),
        (("a.safetensors", "b.safetensors"), "has no config.json, and 2 safetensors files: name one of them"),
        (("pytorch_model.bin",), "has no config.json"),
        (("model.safetensors",), "is not a safetensors file"),
    ],
)
def test_folders_that_say_nothing(invoke, tmp_path, files, sentence):
    for name in files:
        (tmp_path / name).write_bytes(b"x")
    result = invoke("describe", tmp_path)
    assert (result.status, result.error.count("\n")) == (2, 1)
    assert sentence in result.error


def test_a_pipe_in_the_place_of_each_file(tmp_path):
    for name in ("config.json", "params.json", "model.gguf", "model.safetensors", "model.safetensors.index.json"):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        os.mkfifo(folder / name)
        with pytest.raises(InputError, match="is not a regular file"):
            read_source(folder)
