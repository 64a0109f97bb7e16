"""Drivers of data: texts and tokenizers, tables of runs and of coefficients, checkpoints."""

import contextlib
import io
import json
import shutil
from pathlib import Path

from drivers import (
    BRIEF,
    DRIVERS,
    GOOD,
    LLAMA,
    NUMBERS,
    WORDS,
    damaged_bytes,
    mutate,
    run,
    runs_table,
    text_of,
)

import depthwidth

DATA = Path(depthwidth.__file__).parents[1] / "data" / "coefficients"

# Texts and tokenizers.


def npy_bytes(rng):
    """An array of token numbers in NumPy's format, harmed half of the time."""
    shape = rng.choice(("(40,)", "(5, 8)", "()", "(10**12,)", "(-1,)", "(1000000000000,)"))
    kind = rng.choice(("<i8", "<i4", "|u1", "<f8", "|O", "<U4", ">i8", "nonsense"))
    header = f"{{'descr': '{kind}', 'fortran_order': {rng.choice(('False', 'True'))}, 'shape': {shape}, }}"
    if rng.random() < 0.2:
        header = rng.choice(("(" * 5000, "{", "__import__('os')", "9" * 5000, "\x00", header[: rng.randrange(len(header))]))
    head = header.encode("latin-1").ljust(117) + b"\n"
    version = rng.choice((b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x09\x00"))
    data = b"\x93NUMPY" + version + len(head).to_bytes(2, "little") + head
    return damaged_bytes(rng, data + bytes(i % 7 for i in range(320)))


def tokenizer_tree(rng):
    """A tokenizer of words as the tokenizers library writes it, one value changed half of the time."""
    tree = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1, "c": 2, "[UNK]": 3}, "unk_token": "[UNK]"},
    }  # fmt: skip
    for _ in range(rng.choice((0, 1, 1, 2))):
        mutate(rng, tree)
    return tree


WORDINGS = ("a b a c a b " * 40, "1 2 3 1 2 " * 40, "a", "", " \n", "a\0b c", "9" * 5000, "-1 2", "1.5 2", "\x1b[31m b",
            "a" * 100_000, "\r\n" * 50, "é à " * 50, "\ufeffa b a b ", "1_0 2")  # fmt: skip


def texts(rng, folder):
    """A text, token numbers or a tokenizer, perhaps harmed, for each command that reads one."""
    (folder / "llama.json").write_text(json.dumps(LLAMA))
    text = rng.choice(WORDINGS[:2] if rng.random() < 0.4 else WORDINGS).encode()
    if rng.random() < 0.3:
        text = damaged_bytes(rng, text)
    (folder / "text.txt").write_bytes(text)
    (folder / "ids.npy").write_bytes(npy_bytes(rng))
    (folder / "tokenizer.json").write_bytes(text_of(rng, tokenizer_tree(rng)))
    file = str(folder / rng.choice(("text.txt", "text.txt", "ids.npy")))
    kind = "ids" if file.endswith(".npy") else rng.choice((None, "bytes", "words", "ids", str(folder / "tokenizer.json"), "x"))
    words = [] if kind is None else ["--tokenizer", kind]
    words += ["--context", str(rng.choice((2, 8, 24, 1024, *NUMBERS[:10])))] if rng.random() < 0.4 else []
    command = rng.choice((("text",), ("text", "--json"), ("moments",), ("moments", "--windows", "2"), ("init",)))
    if command[0] == "text":
        run(*command, file, *words)
    else:
        words = words if command[0] == "moments" else words[: 2 * (kind is not None)]
        run(*command, folder / "llama.json", "--text", file, *words)


# Tables of runs and of coefficients.


def harmed_table(rng, name, data):
    """A table by the ending of its name, harmed half of the time."""
    if name.endswith((".jsonl", ".ndjson")):
        names, *rows = (line.split(",") for line in data.decode("utf-8", "surrogatepass").splitlines())
        trees = [dict(zip(names, row, strict=False)) for row in rows]
        for _ in range(rng.choice((0, 1, 2))):
            mutate(rng, trees)
        lines = [text_of(rng, tree) if rng.random() < 0.1 else json.dumps(tree).encode() for tree in trees]
        return b"\n".join(lines)
    if name.endswith(".parquet") and rng.random() < 0.7:
        with contextlib.suppress(Exception):  # what pandas cannot write is no case
            import pandas as pd

            buffer = io.BytesIO()
            pd.read_csv(io.BytesIO(data)).to_parquet(buffer)
            data = buffer.getvalue()
    return damaged_bytes(rng, data) if rng.random() < 0.5 else data


COEFFICIENTS = b"""name,value,stderr,unit,status,source
a,5.039,0.03,layers,fitted,x
b,0.0555,0.001,,fitted,x
"""


def tables(rng, folder):
    """A table of runs, or coefficients of a fit, for each command that reads one."""
    name = rng.choice(("runs.csv", "runs.csv", "runs.jsonl", "runs.ndjson", "runs.parquet", "runs.tsv"))
    (folder / name).write_bytes(harmed_table(rng, name, runs_table(rng)))
    law = rng.choice(("gemstones2025", "measured2025", "levine2020", "hoffmann2022", "mine"))
    stored = COEFFICIENTS
    with contextlib.suppress(OSError):
        stored = (DATA / f"{law}.csv").read_bytes()
    lines = stored.decode().splitlines()
    if rng.random() < 0.6:
        at = rng.randrange(len(lines))
        cells = lines[at].split(",")
        cells[rng.randrange(len(cells))] = rng.choice(WORDS)
        lines[at] = ",".join(cells)
    (folder / "law.csv").write_bytes(damaged_bytes(rng, "\n".join(lines).encode("utf-8", "surrogatepass")))
    table, rule = str(folder / name), str(folder / "law.csv")
    run(*rng.choice((
        ("fit", table, *BRIEF["fit"]), ("fit", table, *BRIEF["fit"], "--json"),
        ("fit", table, *BRIEF["fit"], "--law", rng.choice(GOOD["law"])),
        ("evidence", table, *BRIEF["evidence"]), ("evidence", table, *BRIEF["evidence"], "--cells", "--csv"),
        ("evidence", table, *BRIEF["evidence"], "--head-size"),
        ("plan", "1B", "--rule", rule), ("compare", "4x64", "2x96", "--rule", rule),
    )))  # fmt: skip


# Checkpoints.


def checkpoints(rng, folder):
    """A checkpoint of a small Llama with tensors left out, misshaped or odd, for each command that reads weights."""
    import numpy as np
    from safetensors.numpy import save

    place = folder / "checkpoint"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    draw = np.random.default_rng(rng.randrange(2**32))
    config = {**LLAMA, "tie_word_embeddings": True, "head_dim": 8}
    matrices = {"self_attn.q_proj": (32, 32), "self_attn.k_proj": (16, 32), "self_attn.v_proj": (16, 32),
                "self_attn.o_proj": (32, 32), "mlp.gate_proj": (48, 32), "mlp.up_proj": (48, 32), "mlp.down_proj": (32, 48),
                "input_layernorm": (32,), "post_attention_layernorm": (32,)}  # fmt: skip
    tensors = {"model.embed_tokens.weight": draw.standard_normal((97, 32)), "model.norm.weight": draw.standard_normal(32)}
    for layer in range(2):
        tensors |= {f"model.layers.{layer}.{name}.weight": draw.standard_normal(shape) for name, shape in matrices.items()}
    tensors = {name: one.astype(np.float32) for name, one in tensors.items()}
    for _ in range(rng.choice((0, 1, 1, 2))):
        name = rng.choice(sorted(tensors))
        what = rng.random()
        if what < 0.2:
            del tensors[name]
        elif what < 0.4:
            tensors[name] = np.zeros(rng.choice(((), (0,), (1,), (32, 0), (7, 5), (2, 3, 4))), np.float32)
        elif what < 0.5:
            tensors[rng.choice(WORDS[:20])] = tensors[name]
        elif what < 0.6:
            tensors[name] = tensors[name].astype(rng.choice(("int64", "bool", "float64", "float16", "uint8")))
        else:
            flat = tensors[name].reshape(-1)
            flat[: rng.choice((1, flat.size))] = rng.choice((np.nan, np.inf, 0.0, 1e38, 1e-45, -1e30))
    if rng.random() < 0.2:
        mutate(rng, config)
    data = save(tensors)
    (place / "model.safetensors").write_bytes(damaged_bytes(rng, data) if rng.random() < 0.3 else data)
    (place / "config.json").write_bytes(text_of(rng, config))
    run(*rng.choice((
        ("effective-rank", place), ("effective-rank", place, "--per-head", "--json"), ("effective-rank", place, "--csv"),
        ("effective-rank", place / "model.safetensors"), ("verify", "capacity", place),
        ("verify", "capacity", place, "--samples", "100", "--margin", "1", "--json"), ("verify", "capacity", place, "--csv"),
        ("describe", place, "--trained", place, "--no-diagnosis"),
        ("describe", place, "--trained", place, "--no-diagnosis", "--json"),
    )))  # fmt: skip


DRIVERS |= {one.__name__: one for one in (texts, tables, checkpoints)}
