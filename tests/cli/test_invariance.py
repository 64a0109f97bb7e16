"""``depthwidth check-invariance``: every form, the options, and the refusals."""

import csv
import io
import json

import pytest

from depthwidth import Transformer
from depthwidth.analysis.invariance import scale_invariance, scale_invariant_twin

QWEN = {
    "model_type": "qwen3", "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 16, "intermediate_size": 48, "vocab_size": 60, "max_position_embeddings": 24,
}  # fmt: skip


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(QWEN))
    return path


def test_every_form_has_what_the_library_returns(invoke, config):
    found = scale_invariance(Transformer.from_config(QWEN), ("*.query.*",))
    command = ("check-invariance", config, "--weights", "*.query.*")
    assert json.loads(invoke(*command, "--json").output) == found.to_dict()
    rows = list(csv.DictReader(io.StringIO(invoke(*command, "--csv").output)))
    assert [row["name"] for row in rows] == [row["name"] for row in found.rows()]
    assert invoke(*command, "--markdown").output.count("\n") == len(rows) + 2
    page = invoke(*command).output
    assert "decoder.block.attention.query.weight" in page
    assert "in 2 roles." in page
    assert "a degree marked ~ holds while" in page


def test_the_twin_is_the_scale_invariant_encoder(invoke, config):
    data = json.loads(invoke("check-invariance", config, "--twin", "--json").output)
    twin = scale_invariance(scale_invariant_twin(Transformer.from_config(QWEN)))
    assert data == twin.to_dict()
    assert data["groups"][1]["invariant"]
    page = invoke("check-invariance", config, "--twin").output
    assert f"in {len(twin.invariant)} roles." in page


@pytest.mark.slow
def test_measured_degrees_stand_beside_them(invoke, config):
    pytest.importorskip("torch")
    data = json.loads(invoke("check-invariance", config, "--measure", "--json").output)
    told = {row["name"]: (row["degree"], row["exact"]) for row in (*data["groups"], *data["weights"])}
    assert {row["name"]: (row["degree"], row["exact"]) for row in data["measured"]} == told
    page = invoke("check-invariance", config, "--measure").output
    assert "measured" in page.splitlines()[1]


@pytest.mark.parametrize(
    ("change", "options", "sentence"),
    [
        ({}, ("--weights", "nothing"), "no weight matches 'nothing'"),
        ({"model_type": "vit", "hidden_size": 32, "num_attention_heads": 2}, ("--twin",), "reads tokens"),
        ({"model_type": "qwen33"}, (), "qwen3"),
        ({"hidden_size": -1}, (), "hidden_size"),
    ],
)
def test_mistakes_are_one_sentence(invoke, config, change, options, sentence):
    config.write_text(json.dumps({**QWEN, **change}))
    done = invoke("check-invariance", config, *options)
    assert done.status == 2
    assert sentence in done.error
    assert done.error.count("\n") == 1


def test_a_model_without_invariant_weights_says_so(invoke, config):
    config.write_text(json.dumps({**QWEN, "model_type": "llama"}))
    assert "No weights are scale invariant" in invoke("check-invariance", config).output
