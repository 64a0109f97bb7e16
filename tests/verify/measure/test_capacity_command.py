"""``depthwidth verify capacity`` from the outside: its page, its memory, and one sentence for what is no checkpoint."""

import json
import pickle

import numpy as np
import pytest

safetensors = pytest.importorskip("safetensors.numpy")


@pytest.fixture
def checkpoint(tmp_path, rng):
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in
               (("a.weight", (5, 4)), ("b.weight", (3, 5)), ("b.bias", (3,)), ("embed.weight", (7, 4)))}  # fmt: skip
    safetensors.save_file(tensors | {"steps": np.array([3])}, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors", tensors


def test_the_weights_alone(invoke, checkpoint):
    path, tensors = checkpoint
    found = json.loads(invoke("verify", "capacity", path, "--samples", "100", "--margin", "2", "--json").output)
    spectral = [np.linalg.norm(tensors[name], 2) for name in ("a.weight", "b.weight")]
    values = {one["name"]: one["value"] for one in found["results"]}
    expected = np.log(np.prod(spectral) ** 2 / 4 / 100) / 2
    assert values["log-prod-of-spec-over-margin"] == pytest.approx(expected, rel=1e-5)
    assert {one["name"]: one["spectral"] is None for one in found["matrices"]} == {
        "a.weight": False, "b.weight": False, "embed.weight": True,
    }  # fmt: skip
    page = invoke("verify", "capacity", path).output
    assert "log-prod-of-spec " in page
    assert "no bound follows" in page
    assert invoke("verify", "capacity", path, "--csv").output.startswith("name,value,nature,formula")


def test_a_pickle_is_not_opened(invoke, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        found = invoke("verify", "capacity", tmp_path / name)
        assert (found.status, found.error.count("\n")) == (2, 1)
        assert "not a safetensors file" in found.error
    assert not (tmp_path / "sprung").exists()


def test_damaged_weights_and_misplaced_options_are_one_sentence(invoke, checkpoint, tmp_path):
    path, tensors = checkpoint
    tensors["a.weight"][0, 0] = np.nan
    safetensors.save_file(tensors, tmp_path / "nan.safetensors")
    zero = {"a.weight": np.zeros((2, 2), np.float32)}
    safetensors.save_file(zero, tmp_path / "zero.safetensors")
    for arguments, sentence in (
        ((tmp_path / "nan.safetensors",), "not finite"),
        ((tmp_path / "zero.safetensors",), "a.weight is zero"),
        ((tmp_path / "none.safetensors",), "there is no checkpoint"),
        ((path, "--samples", "1"), "samples=1 is not a whole number from 2"),
        ((path, "--margin", "0"), "margin=0"),
        ((path, "--margin", "inf"), "not a finite number"),
        ((path, "--context", "8"), "--context applies with --text only"),
        ((path, "--worst-case"), "--worst-case applies with --text only"),
        ((path, "--text", path), "--text needs a model's folder"),
        ((tmp_path, "--text", path, "--samples", "5"), "follow from the text"),
    ):
        found = invoke("verify", "capacity", *arguments)
        assert (found.status, found.error.count("\n")) == (2, 1), found.error
        assert sentence in found.error


def test_memory_is_bounded_by_a_tensor(tmp_path):
    """Forty matrices of 1 MB each, read one at a time: the most that Python holds is a few of them in double precision."""
    import tracemalloc

    from depthwidth.analysis.capacity import stored_capacity
    from depthwidth.stored_tensors import open_tensors

    one = np.eye(512, dtype=np.float32)
    safetensors.save_file({f"w{i}": one for i in range(40)}, tmp_path / "model.safetensors")
    stored = open_tensors(tmp_path)
    tracemalloc.start()
    found = stored_capacity(stored, stored.entries)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.matrices) == 40
    assert peak < 12 * one.nbytes


def test_tables_and_large_matrices_in_pieces_have_the_norms_of_the_whole(tmp_path, monkeypatch):
    from depthwidth.analysis import capacity
    from depthwidth.stored_tensors import StoredTensors, open_tensors

    draw = np.random.default_rng(0).standard_normal
    state = {"wte.weight": draw((50, 6)), "head.weight": draw((40, 8)), "experts": draw((3, 4, 5)), "conv": draw((4, 3, 2, 2)),
             "bias": draw(4)}  # fmt: skip
    safetensors.save_file({name: one.astype(np.float32) for name, one in state.items()}, tmp_path / "model.safetensors")
    stored, read = open_tensors(tmp_path), StoredTensors.read

    def small_tensors_alone(self, name):
        assert name in ("conv", "bias"), f"{name} was read as a whole"
        return read(self, name)

    whole = capacity.state_capacity((name, stored.read(name)) for name in stored.entries)
    monkeypatch.setattr(capacity, "LARGEST_WHOLE", 100)
    monkeypatch.setattr(StoredTensors, "read", small_tensors_alone)
    found = capacity.stored_capacity(stored, stored.entries)
    assert [one.name for one in found.matrices] == [one.name for one in whole.matrices]
    for one, other in zip(found.matrices, whole.matrices, strict=True):
        assert (one.spectral is None) == (other.spectral is None)
        numbers = [(it.outputs, it.inputs, it.spectral or 0.0, it.frobenius, it.largest_row) for it in (one, other)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-3)
    assert [one.value for one in found.results] == pytest.approx([one.value for one in whole.results], rel=1e-3)


@pytest.mark.slow
@pytest.mark.hf
def test_a_model_on_a_text(invoke, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=1, n_embd=16, n_head=2, vocab_size=256, n_positions=16, bos_token_id=0, eos_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("One sentence after another, each much like the one before it. " * 20)
    words = ("verify", "capacity", tmp_path / "model", "--text", tmp_path / "text.txt", "--steps", "1", "--draws", "2")
    found = json.loads(invoke(*words, "--json").output)
    by_name = {one["name"]: one for one in found["results"]}
    assert by_name["PAC-Bayes bound of noisy weights"]["vacuous"] is True
    assert by_name["spectral margin bound"]["value"] is None
    assert "LayerNorm" in by_name["spectral margin bound"]["sentence"]
    assert by_name["pacbayes-flatness"]["value"] is None
    assert (found["facts"]["samples"], len(found["heads"])) == (8, 2)
    page = invoke(*words).output
    assert "does not apply" in page
    assert "says nothing" in page
    (tmp_path / "short.txt").write_text("too short")
    refused = invoke(*words[:4], tmp_path / "short.txt")
    assert refused.status == 2
    assert refused.error.startswith("Error: capacity: the text has")
