"""GGUF headers as configurations: files written with the format's own package, and damaged ones."""

import json
import os
import struct

import pytest
from gguf_files import KEYS, MODELS, SHAPES, entry, header, info, word, write_file, write_model

from depthwidth import InputError, Transformer
from depthwidth.architecture.hf import NoConfigError, read_source
from depthwidth.gguf_header import FORMATS, GGUFHeader, read_header

gguf = pytest.importorskip("gguf")


@pytest.mark.slow
@pytest.mark.hf
@pytest.mark.parametrize("name", MODELS)
def test_a_header_is_the_tree_of_its_configuration(tmp_path, name):
    """The tree equals that of the library's configuration, and its count that of the stored tensors."""
    pytest.importorskip("transformers")
    config, stored = write_model(tmp_path / "model.gguf", name, tokens=96)
    fields = read_source(tmp_path / "model.gguf")
    tree, expected = Transformer.from_config(fields), Transformer.from_config(config)
    assert tree.parameters == expected.parameters == stored
    assert tree == expected
    assert [note for note in fields.notes if "disagrees" in note] == []


def llama(path, keys=KEYS, shapes=SHAPES, **options):
    return write_file(path, "llama", keys, shapes, **options)


def disagreement(fields):
    return [note for note in fields.notes if note.startswith("the header disagrees with itself")]


def test_a_header_written_here_agrees_with_itself(tmp_path):
    fields = read_source(llama(tmp_path / "model.gguf"))
    assert disagreement(fields) == []
    assert Transformer.from_config(fields).parameters == 24_736
    file = f"GGUF file {str(tmp_path / 'model.gguf')!r}"
    assert fields.notes[0] == f"the configuration is the header of {file}, whose tensors take 49.5 KB, most of them F16"
    assert fields.read_from == str(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("keys", "shapes", "where"),
    [
        ({"vocab_size": 100}, {}, "in the embedding (3,072 and 3,200) and in 1 more parts"),
        ({"block_count": 3}, {}, "in block 2 (0 and 9,280)"),
        ({"block_count": 1}, {}, "in block 1 (9,280 and 0)"),
        ({"feed_forward_length": 32}, {}, "in block 0 (9,280 and 6,208) and in 1 more parts"),
        ({}, {"blk.1.ffn_up.bias": (64,)}, "in block 1 (9,344 and 9,280)"),
        ({}, {"output_extra.weight": (5, 32)}, "in the last norm and the head (3,264 and 3,104)"),
    ],
)
def test_tensors_that_disagree_with_the_metadata(tmp_path, keys, shapes, where):
    """The negative control of the first test: each change is named, with the part it is in."""
    (note,) = disagreement(read_source(llama(tmp_path / "model.gguf", KEYS | keys, SHAPES | shapes)))
    assert f"they differ {where}" in note


def test_older_files_store_a_copy_of_a_tied_table(tmp_path):
    gpt = {"n_embd": 32}
    keys = {name: KEYS[name] for name in ("block_count", "context_length", "embedding_length", "feed_forward_length")}
    keys |= {"attention.head_count": 4, "attention.layer_norm_epsilon": 1e-5}
    block = {
        "attn_norm.weight": (32,), "attn_norm.bias": (32,), "attn_qkv.weight": (96, 32), "attn_qkv.bias": (96,),
        "attn_output.weight": (32, 32), "attn_output.bias": (32,), "ffn_norm.weight": (32,), "ffn_norm.bias": (32,),
        "ffn_up.weight": (64, 32), "ffn_up.bias": (64,), "ffn_down.weight": (32, 64), "ffn_down.bias": (32,),
    }  # fmt: skip
    shapes = {"token_embd.weight": (96, 32), "position_embd.weight": (64, 32), "output.weight": (96, 32),
              "output_norm.weight": (32,), "output_norm.bias": (32,),
              **{f"blk.{i}.{name}": shape for i in range(2) for name, shape in block.items()}}  # fmt: skip
    fields = read_source(write_file(tmp_path / "model.gguf", "gpt2", keys, shapes))
    assert fields["n_embd"] == gpt["n_embd"]
    assert disagreement(fields) == []
    assert not Transformer.from_config(fields).head.parameters


def test_an_architecture_without_a_family_is_counted(invoke, tmp_path):
    path = write_file(tmp_path / "model.gguf", "rwkv7", {"block_count": 2}, SHAPES)
    with pytest.raises(NoConfigError, match=r"architecture 'rwkv7' of GGUF file .* has no family here") as found:
        read_source(path)
    assert found.value.counts.parameters == 24_736
    result = json.loads(invoke("describe", path, "--json").output)
    assert (result["parameters"], result["theory"], result["weight_bytes"]) == (24_736, False, 2 * 24_736)
    assert {row["site"]: row["copies"] for row in result["components"]}["blk.*.attn_q"] == 2
    page = invoke("describe", path)
    assert (page.status, page.error) == (0, "")
    assert "the theory does not cover this model" in page.output
    assert invoke("moments", path).error.count("\n") == 1


def test_a_model_in_several_files(tmp_path):
    half = dict(list(SHAPES.items())[:10])
    rest = {name: shape for name, shape in SHAPES.items() if name not in half}
    for i, shapes in enumerate((half, rest)):
        keys = (KEYS if not i else {}) | {"split.count": 2, "split.no": i, "split.tensors.count": len(SHAPES)}
        llama(tmp_path / f"model-{i + 1:05d}-of-00002.gguf", keys, shapes)
    for name in ("model-00001-of-00002.gguf", "model-00002-of-00002.gguf", "."):
        fields = read_source(tmp_path / name)
        assert disagreement(fields) == []
        assert Transformer.from_config(fields).parameters == 24_736
    (tmp_path / "other.gguf").write_bytes((tmp_path / "model-00001-of-00002.gguf").read_bytes())
    with pytest.raises(InputError, match="is one part of a model in 2 files, and its name does not say which"):
        read_source(tmp_path / "other.gguf")
    (tmp_path / "model-00002-of-00002.gguf").unlink()
    with pytest.raises(InputError, match=r"there is no GGUF file .*model-00002-of-00002.gguf"):
        read_source(tmp_path / "model-00001-of-00002.gguf")


def test_a_folder_with_two_models_is_ambiguous(tmp_path):
    for name in ("model-Q4.gguf", "model-Q8.gguf"):
        llama(tmp_path / name)
    with pytest.raises(InputError, match=r"has no config.json and 2 models in GGUF: name one of them"):
        read_source(tmp_path)


def test_sizes_of_quantised_tensors_are_those_of_the_format(tmp_path):
    """The table of formats is that of the package, and a file of blocks of 32 weights reads as one of single numbers."""
    known = {code.value: (code.name, *gguf.GGML_QUANT_SIZES[code]) for code in gguf.GGMLQuantizationType}
    assert known.items() <= FORMATS.items()
    assert {code for code, _ in FORMATS.items() if code not in known} == set()


ARCH = entry("general.architecture", 8, word("llama"))
HUGE = 2**63
DAMAGED = {
    "empty": (b"", "does not begin as a GGUF file does|truncated in its header"),
    "four bytes": (b"GGUF", "is truncated in its header"),
    "other magic": (b"GGUX" + bytes(60), "does not begin as a GGUF file does"),
    "version 1": (header(version=1), "is of version 1 of the format; 2 and 3 are read"),
    "big end": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "of the other byte order"),
    "huge keys": (header(counts=(0, HUGE)), "has a header of more than 3,000,000 values"),
    "huge tensors": (header(counts=(HUGE, 0)), "has a header of more than 3,000,000 values"),
    "many keys": (header(counts=(0, 1000)), "its header promises 1,000 entries beyond its end"),
    "long key": (header(struct.pack("<Q", HUGE) + b"x" * 20), "is truncated in its header"),
    "key twice": (header(ARCH, ARCH), "has the key 'general.architecture' twice"),
    "unknown kind": (header(entry("x", 99, bytes(8))), "'x' is of the unknown kind 99"),
    "list in a list": (header(entry("x", 9, struct.pack("<IQ", 9, 1) + bytes(20))), "has lists within the list 'x'"),
    "huge list": (header(entry("x", 9, struct.pack("<IQ", 0, HUGE) + bytes(20))), "has a header of more than 3,000,000"),
    "long list": (header(entry("x", 9, struct.pack("<IQ", 0, 1000) + bytes(20))), "promises 1,000 entries beyond its end"),
    "long word in a list": (
        header(entry("x", 9, struct.pack("<IQ", 8, 1) + struct.pack("<Q", HUGE) + bytes(9))),
        "is truncated in its header",
    ),
    "no text": (header(entry(b"\xff\xfe", 0, b"\1")), "holds a word that is not UTF-8 text"),
    "no architecture": (header(), "names no architecture"),
    "architecture is a number": (header(entry("general.architecture", 4, bytes(4))), "names no architecture"),
    "alignment": (
        header(ARCH, entry("general.alignment", 4, struct.pack("<I", 3))),
        "general.alignment=3 is not a power of two",
    ),
    "no dimensions": (header(ARCH, tensors=(info("a", ()),)), "tensor 'a' has 0 dimensions"),
    "many dimensions": (header(ARCH, tensors=(info("a", (1,) * 9),)), "tensor 'a' has 9 dimensions"),
    "empty tensor": (header(ARCH, tensors=(info("a", (0,)),)), r"tensor 'a' has the shape \[0\]"),
    "huge tensor": (header(ARCH, tensors=(info("a", (HUGE, 2)),)), "tensor 'a' has the shape"),
    "broken block": (header(ARCH, tensors=(info("a", (33,), 2),)), "rows of 33 in tensor 'a' do not fit Q4_0"),
    "tensor twice": (header(ARCH, tensors=(info("a", (8,)), info("a", (8,), 0, 32))), "has the tensor 'a' twice"),
    "overlap": (
        header(ARCH, tensors=(info("a", (64,)), info("b", (8,), 0, 32))) + bytes(600),
        "tensor 'b' does not begin after 'a'",
    ),
    "beyond the end": (header(ARCH, tensors=(info("a", (64,), 0, 0),)), r"is truncated: its header promises"),
    "no sizes": (
        header(ARCH, entry("llama.block_count", 6, struct.pack("<f", 2.5))),
        "num_hidden_layers=2.5 is not a whole number",
    ),
    "infinite": (
        header(ARCH, entry("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", float("inf")))),
        "rms_norm_eps=inf is not a positive number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_header_is_one_sentence(invoke, tmp_path, name):
    data, expected = DAMAGED[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises(InputError, match=expected) as found:
        read_source(path)
    assert "\n" not in str(found.value)
    result = invoke("describe", path)
    assert (result.status, result.error.count("\n")) == (2, 1)


def test_a_pipe_and_a_folder_are_no_headers(tmp_path):
    os.mkfifo(tmp_path / "pipe.gguf")
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(InputError, match="is not a regular file"):
        read_source(tmp_path / "pipe.gguf")
    with pytest.raises(InputError, match=r"has no config\.json"):
        read_source(tmp_path / "folder.gguf")
    (tmp_path / "config.json").write_bytes(llama(tmp_path / "model.gguf").read_bytes())  # known by its content
    assert Transformer.from_config(tmp_path / "config.json").parameters == 24_736


@pytest.mark.slow
def test_a_header_with_a_large_vocabulary_is_read_quickly(tmp_path):
    """128,256 tokens and 280,147 merges, as Llama 3 has; the reader keeps their numbers only."""
    tokens = entry("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 128_256) + word("token") * 128_256)
    merges = entry("tokenizer.ggml.merges", 9, struct.pack("<IQ", 8, 280_147) + word("to ken") * 280_147)
    scores = entry("tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, 128_256) + bytes(4 * 128_256))
    (tmp_path / "model.gguf").write_bytes(header(ARCH, tokens, merges, scores))
    found: GGUFHeader = read_header(tmp_path / "model.gguf")
    assert found.lengths == {
        "tokenizer.ggml.tokens": 128_256, "tokenizer.ggml.merges": 280_147, "tokenizer.ggml.scores": 128_256
    }  # fmt: skip
    assert set(found.metadata) == {"general.architecture"}
