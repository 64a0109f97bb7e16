"""Checkpoints read tensor by tensor: the numbers of the format's own library, bounded memory, and one sentence for the rest."""

import json
import pickle

import numpy as np
import pytest

from depthwidth import InputError
from depthwidth.stored_tensors import open_tensors

safetensors = pytest.importorskip("safetensors.numpy")


def written(path, entries, data=b"", length=None):
    """A file with this header, whose length may be stated wrongly."""
    header = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.fixture
def tensors():
    draw = np.random.default_rng(0).standard_normal
    return {"a": draw((3, 5)), "b": draw((7, 2, 3)).astype(np.float32), "c": draw(4).astype(np.float16), "d": np.float32(2.0)}


def test_the_numbers_are_those_of_the_formats_own_library(tensors, tmp_path):
    safetensors.save_file(
        {name: np.asarray(one) for name, one in tensors.items()}, tmp_path / "m.safetensors", {"format": "np"}
    )
    for path in (tmp_path, tmp_path / "m.safetensors"):
        stored = open_tensors(path)
        assert set(stored.entries) == set(tensors)
        for name, one in tensors.items():
            found = stored.read(name)
            assert found.shape == np.shape(one)
            assert found.dtype == (np.float64 if name == "a" else np.float32)
            assert (found == one).all()
            pieces = list(stored.pieces(name, most=40))
            assert (np.concatenate([piece.ravel() for piece in pieces]) == np.ravel(one)).all()
            assert len(pieces) == {"a": 2, "b": 7, "c": 1, "d": 1}[name]


def test_half_precision_is_read_exactly(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    values = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    values[0] = torch.tensor([0.0, -0.0, 2.0**-130, -(2.0**127)])
    save_file({"w": values}, tmp_path / "m.safetensors")
    assert (open_tensors(tmp_path).read("w") == values.float().numpy()).all()


def test_an_index_names_the_file_of_each_tensor(tensors, tmp_path):
    safetensors.save_file({"a": tensors["a"]}, tmp_path / "one.safetensors")
    safetensors.save_file({"b": tensors["b"], "extra": tensors["a"]}, tmp_path / "two.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    places = {"a": "one.safetensors", "b": "two.safetensors"}
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for path in (tmp_path, index):
        stored = open_tensors(path)
        assert set(stored.entries) == {"a", "b"}
        assert (stored.read("b") == tensors["b"]).all()
    for wrong, sentence in (
        ({"a": "two.safetensors"}, "tensor 'a' is not in 'two.safetensors'"),
        ({"a": "three.safetensors"}, "there is no checkpoint"),
        ({"a": "../one.safetensors"}, "which is not a safetensors file in the same folder"),
        ({"a": "one.bin"}, "which is not a safetensors file in the same folder"),
        ({"a": 1}, "has no weight_map"),
        ({}, "has no weight_map"),
    ):
        index.write_text(json.dumps({"weight_map": wrong}))
        with pytest.raises(InputError, match=sentence):
            open_tensors(tmp_path)
    index.unlink()
    with pytest.raises(InputError, match="holds 2 safetensors files and no index: name one of them"):
        open_tensors(tmp_path)


class Executed:
    """A pickle that raises if anything unpickles it."""

    def __reduce__(self):
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize("name", ["model.bin", "model.safetensors", "model.pt", "none"])
def test_a_pickle_is_not_executed(name, tmp_path):
    (tmp_path / name).write_bytes(pickle.dumps(Executed()))
    for path in (tmp_path, tmp_path / name):
        sentence = (
            "has no safetensors file" if path == tmp_path and name == "none" else "no other format is read, as a pickle can"
        )
        with pytest.raises(InputError, match=sentence):
            open_tensors(path)


FULL = np.float32([1, 2]).tobytes()
DAMAGED = {
    "no other format is read": (b"[1, 2]", FULL, None),
    "no other format is read ": ({"a": entry()}, FULL, 10**9),
    "is truncated: its header alone has 1,000 bytes": ({"a": entry()}, FULL, 1000),
    "is truncated: its header promises": ({"a": entry()}, FULL[:5], None),
    "is not JSON": (b"{'a': 1}", FULL, None),
    "has the key 'a' twice": (b'{"a": 1, "a": 2}', FULL, None),
    "is damaged at tensor 'a'": ({"a": 1}, FULL, None),
    "is damaged at tensor 'a' ": ({"a": entry(shape=[-2])}, FULL, None),
    "is damaged at tensor 'a'  ": ({"a": entry(shape=[True, 2])}, FULL, None),
    "is damaged at tensor 'a'   ": ({"a": entry(offsets=[0, 4, 8])}, FULL, None),
    "has 8 bytes for the shape": ({"a": entry(shape=[3])}, FULL, None),
    "has -8 bytes for the shape": ({"a": entry(offsets=[8, 0])}, FULL, None),
    "does not begin where the one before ends": ({"a": entry(offsets=[4, 12])}, FULL, None),
    "does not begin where the one before ends ": ({"a": entry(), "b": entry()}, FULL, None),
    "stored as 'F3', an unknown number format": ({"a": entry("F3")}, FULL, None),
    "unknown number format": ({"a": entry(["F32"])}, FULL, None),
}


@pytest.mark.parametrize("sentence", DAMAGED)
def test_a_damaged_file_gets_one_sentence(sentence, tmp_path):
    path = written(tmp_path / "m.safetensors", *DAMAGED[sentence])
    with pytest.raises(InputError, match=sentence.strip()):
        open_tensors(path)
    assert (open_tensors(written(path, {"a": entry()}, FULL)).read("a") == [1, 2]).all()  # the same file undamaged


@pytest.mark.parametrize(
    ("one", "data", "sentence"),
    [
        (entry(), np.float32([1, np.nan]).tobytes(), "holds numbers that are not finite"),
        (entry("BF16", (4,)), b"\x80\x7f" * 4, "holds numbers that are not finite"),
        (entry("I8", (8,)), bytes(8), "stored as I8; quantised weights are not read"),
        (entry("F8_E4M3", (8,)), bytes(8), "stored as F8_E4M3; quantised weights are not read"),
        (entry("C64", (1,)), bytes(8), "complex numbers are not read"),
        (entry(shape=(0, 10**18), offsets=(0, 0)), b"", "is empty"),
    ],
)
def test_a_tensor_that_is_no_weight_gets_one_sentence(one, data, sentence, tmp_path):
    stored = open_tensors(written(tmp_path / "m.safetensors", {"a": one}, data))
    for read in (stored.read, lambda name: list(stored.pieces(name))):
        with pytest.raises(InputError, match=sentence):
            read("a")
    with pytest.raises(InputError, match="has no tensor 'b'"):
        stored.read("b")


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path):
    stored = open_tensors(written(tmp_path / "m.safetensors", {"a": entry()}, FULL))
    written(tmp_path / "m.safetensors", {"a": entry()}, FULL[:3])
    with pytest.raises(InputError, match="has become shorter"):
        stored.read("a")
