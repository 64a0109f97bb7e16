"""Drivers that hand the command line mutated inputs. A case is a pure function of its driver's name, its number and a seed.

The seed is empty unless ``DEPTHWIDTH_FUZZ_SEED`` has a word; each word chooses other cases.

A case fails if a traceback ends it, if it takes longer than :data:`LIMIT_S` seconds of processor or more than
:data:`MEMORY` bytes beside what the process holds, if what it prints is no clean text, or if an error is not one sentence.
"""

import contextlib
import io
import json
import math
import os
import random
import resource
import shutil
import signal
import struct
import sys
import zipfile
from pathlib import Path

import click
from gguf_files import llama_bytes

from depthwidth.__main__ import main
from depthwidth.architecture.hf import FAMILIES
from depthwidth.cli.main import COMMANDS, cli
from depthwidth.formula import _REQUIRED, formulas
from depthwidth.initialization import schemes

SEED = os.environ.get("DEPTHWIDTH_FUZZ_SEED", "")
LIMIT_S = 20.0
MEMORY = 3 * 2**30

# Values.

NUMBERS = (
    0, 1, -1, 2, 3, 7, 64, 1000, 10**6, 10**12, 10**18, 2**63, 2**64, 10**30, 10**400, 0.0, -0.0, 0.5, 1.0, -0.5,
    1e-12, 1e-308, 5e-324,
    1e30, 1e308, float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
WORDS = (
    "", " ", "0", "1", "-1", "2", "8", "1e3", "1e12", "1e30", "1e99", "1e99999999", "1e-308", "5e-324", "0.5", "1.0",
    "nan", "inf", "-inf",
    "8/3", "1/0", "0x10", "1_000", "1,2,3", "1,,2", "a", "x=1", "\x1b[31mred", "two\nlines", "\ud800", "null\0byte",
    "é名", "=1+1",
    "../..", "/dev/null", "/dev/zero", "/etc/passwd", "/", "x" * 5000, "9" * 5000, "unit", "loss", "bf16", "int4",
    "rmsnorm", "relu", "none",
    "full", "rotary", "alibi", "2:3,4:5", "0-3", "3-0", "0-1e9",
)  # fmt: skip


def value(rng, depth=0):
    """Any JSON value, mostly an odd one."""
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(NUMBERS)
    if kind < 0.7:
        return rng.choice(WORDS)
    if kind < 0.85 or depth > 2:
        return rng.choice((None, True, False, [], {}))
    items = [value(rng, depth + 1) for _ in range(rng.randrange(3))]
    return items if rng.random() < 0.5 else {str(rng.choice(WORDS)): item for item in items}


def places(tree, at=()):
    """The path of every value in nested lists and objects."""
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, one in pairs:
        yield (*at, key)
        yield from places(one, (*at, key))


def mutate(rng, tree):
    """Change, remove or double one value anywhere in nested data, in place."""
    found = list(places(tree))
    if not found:
        return
    path = rng.choice(found)
    holder = tree
    for key in path[:-1]:
        holder = holder[key]
    what = rng.random()
    if what < 0.15:
        del holder[path[-1]]
    elif what < 0.25 and isinstance(holder, list):
        holder.append(holder[path[-1]])
    elif what < 0.3 and isinstance(holder, dict):
        holder[str(rng.choice(WORDS))] = value(rng)
    else:
        holder[path[-1]] = value(rng)


def text_of(rng, tree):
    """JSON, sometimes damaged as text."""
    text = json.dumps(tree)
    data = text.encode("utf-8", "surrogatepass")
    what = rng.random()
    if what < 0.03:
        return data[: rng.randrange(len(data) + 1)]
    if what < 0.06:
        at = rng.randrange(len(data))
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if what < 0.07:
        return rng.choice((b"", b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"null", b"[]", b"3", b'"x"'))
    return data


# Running.


class TooLong(BaseException):
    """The time of a case is over; no handler of the product catches it."""


def _stop(*_):
    raise TooLong


@contextlib.contextmanager
def limits():
    """Bound the processor time and the memory of the block."""
    before = signal.signal(signal.SIGVTALRM, _stop)
    most = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, most[1]))
        signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_S)
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, most)


def run(*arguments):
    """The command line as a process runs it; returns the status."""
    out, err = io.StringIO(), io.StringIO()
    words = list(map(str, arguments))
    argv, sys.argv = sys.argv, ["depthwidth", *words]
    try:
        with limits(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as stop:
                status = stop.code or 0
    finally:
        sys.argv = argv
    check(status, out.getvalue(), err.getvalue())
    return status


def check(status, out, err):
    """Hold what a command printed against what is promised."""
    assert status in (0, 1, 2, 3), (status, err)
    assert "Traceback" not in err, err
    assert "more memory than there is" not in err, err
    for text in (out, err):
        assert all(letter.isprintable() or letter in "\n" for letter in text), ascii(text)[:300]
    if status == 2:
        *notes, last = err.splitlines()
        assert last.startswith("Error: "), err
        assert all(note.startswith(("Left out: ", "Set aside ", "Skipped: ")) for note in notes), err


# Configurations.

SMALL = {
    "hidden_size": 32, "n_embd": 32, "d_model": 32, "dim": 32, "num_hidden_layers": 3, "n_layer": 3, "num_layers": 3,
    "n_layers": 3,
    "num_attention_heads": 4, "n_head": 4, "num_heads": 4, "n_heads": 4, "num_key_value_heads": 2, "vocab_size": 97,
    "intermediate_size": 48, "n_inner": 48, "d_ff": 48, "ffn_dim": 48, "max_position_embeddings": 24,
    "n_positions": 24, "n_ctx": 24,
    "head_dim": 8, "d_kv": 8, "hidden_dim": 48,
    # Of families with experts, latent attention, mixers, two stacks, images and sounds.
    "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24, "moe_shared_expert_intermediate_size": 24,
    "shared_intermediate_size": 24, "intermediate_size_mlp": 24, "num_experts": 4, "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "moe_topk": 2, "moe_k": 2,
    "kv_lora_rank": 8, "q_lora_rank": 12, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 8, "rotary_dim": 4,
    "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 4, "mamba_num_heads": 4, "mamba_head_dim": 8,
    "ssm_state_size": 4, "state_size": 4, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 4,
    "linear_value_head_dim": 4, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_decoder_layers": 2, "attention_heads": 4,
    "image_size": 24, "patch_size": 8, "num_mel_bins": 8, "max_source_positions": 12, "max_target_positions": 24,
    "embedding_size": 16, "projection_dim": 16, "sliding_window": 8, "local_attention": 8, "window_size": 8,
    "vocab_size_per_layer_input": 97, "hidden_size_per_layer_input": 8, "laurel_rank": 8,
    "attention_chunk_size": 8, "seq_length": 24, "max_seq_len": 24, "context_length": 24,
}  # fmt: skip
# What a family needs that differs from the same field of others.
LATENT = {"num_key_value_heads": 4}
STACK = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 24, "sliding_window": 30}  # fmt: skip
OWN = {
    **dict.fromkeys(("deepseek_v2", "deepseek_v3", "minicpm3"), LATENT),
    "falcon_h1": {"mamba_d_head": 8},
    "gpt_neo": {"attention_types": [[["global", "local", "global"], 1]]},
    "mamba2": {"num_heads": 8},
    "nemotron_h": {"n_groups": 2},
    "gemma3n_text": {"num_kv_shared_layers": 1},
    "t5gemma": {"encoder": STACK, "decoder": STACK},
}
ALWAYS = ("max_position_embeddings", "vocab_size")


def small_config(rng):
    """A family's defaults, made small."""
    name = rng.choice(sorted(FAMILIES))
    family = FAMILIES[name]
    known = dict(family.defaults)
    config = {"model_type": name}
    config |= {key: SMALL[key] for key in known if key in SMALL} | OWN.get(name, {})
    extra = [key for key in known if key not in SMALL]
    for key in rng.sample(extra, min(len(extra), rng.randrange(4))):
        config[key] = known[key]
    return config


MEANINGS = (
    ("describe", "--no-diagnosis"), ("describe", "--no-diagnosis", "--json"), ("describe",), ("moments",), ("moments",
    "--json"),
    ("moments", "--attention"), ("moments", "--gradient", "loss"), ("moments", "--lengths", "8,4"), ("init",), ("init",
    "--csv"), ("heads",),
    ("plan", "1B", "--like"), ("plan", "1B", "--kv-heads", "4", "--like"), ("moments", "--variance", "1e-308"),
    ("check-invariance",), ("check-invariance", "--twin", "--csv"),
)  # fmt: skip


def configurations(rng, folder):
    """A mutated configuration, for each command that reads one."""
    config = small_config(rng)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        if rng.random() < 0.5:
            config[rng.choice(sorted(FAMILIES[config["model_type"]].defaults))] = value(rng)
        else:
            mutate(rng, config)
            config.setdefault("model_type", "gpt2")
            if not isinstance(config["model_type"], str) or config["model_type"] not in FAMILIES:
                break
    path = folder / "config.json"
    path.write_bytes(text_of(rng, config))
    words = rng.choice(MEANINGS)
    if words[0] in ("init", "moments") and rng.random() < 0.5:
        words = (*words, "--scheme", rng.choice(schemes()))
        if words[0] == "init":
            words = tuple(word for word in words if word != "--csv")
    if words[0] == "heads":
        words = ("heads", "--context", "16")
    run(*words, path)


# Options.

PLAIN = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 97, "n_positions": 24}
LLAMA = {
    "model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "vocab_size": 97, "max_position_embeddings": 24,
}  # fmt: skip
FREE = (
    "plan",
    "compare",
    "rules",
    "evidence",
    "fit",
    "check-invariance",
    "compute",
    "pareto",
    "serve",
    "describe",
    "moments",
    "init",
    "heads",
    "effective-rank",
    "text",
    "table",
    "formulas list",
    "formulas show",
    "derive",
    "verify list",
)
GOOD = {
    "preset": ("gpt3", "llama2", "llama3", "mixtral", "vit"), "rule": ("levine2020", "gpt3", "sovit2023", "liu2026",
    "measured2025"),
    "scheme": ("gpt2", "deepnorm", "rezero", "unit-scaling", "shipped", "mup"), "norm": ("rmsnorm", "layernorm"),
    "positions": ("alibi", "rotary", "none", "learned"), "kind": ("encoder", "decoder", "encoder-decoder", "exact",
    "fitted"),
    "dtype": ("bf16", "int4", "fp32"), "recompute": ("full", "none"), "gradient": ("loss", "unit"), "budget": ("1B",
    "1e9", "100M", "2**30"),
    "tokenizer": ("bytes", "words", "ids"), "flops": ("1e19", "1e21"), "parameters": ("100M", "1B"),
    "law": ("liu2026", "chinchilla", "inverse-depth", "crossings", "shape-penalty", "head-size", "conditional", "gemstones",
    "loss = E + A * width**-alpha + B / depth", "width = a + b * depth"),
    "models": ("24x1024", "12x1408", "2 x 64", "1x1"), "refit": ("gemstones2025", "measured2025"),
    "where": ("width > 100", "depth % 2 == 0", "tokens < 0"), "columns": ("tokens=depth", "loss=log(loss)", "parameters=width"),
    "errors": ("bootstrap", "curvature", "profile", "none"), "starts_at": ("A=1", "alpha=0.5", "E=nan"), "loss": ("huber",
    "squares"),
    "accelerator": ("H100", "L4"), "smallest": ("0.1", "0.9"),
    "names": ("H100", "hoffmann2022"), "optimizer": ("muon", "sgd"), "frozen": ("stem", "head"), "lora_on": ("attention",),
    "zero": ("0", "3"), "served": ("1B",),
}  # fmt: skip


def command_of(path):
    """A command of the group by its words."""
    found = cli
    for word in path.split():
        found = found.get_command(click.Context(found), word)
    return found


def option_value(rng, parameter):
    """A word for an option or an argument, good or odd."""
    good = GOOD.get(parameter.name, ("1", "2", "4", "8", "16", "0.5", "1.5"))
    return rng.choice(good) if rng.random() < 0.5 else rng.choice(WORDS)


def runs_table(rng):
    """A table of small runs, with one odd cell or name half of the time."""
    rows = [["width", "depth", "parameters", "non_embedding", "tokens", "loss", "head_dim"]]
    for width in (64, 96, 128, 192):
        for depth in (2, 4, 8):
            size = 12 * depth * width**2
            loss = 1.5 + 8 * width**-0.5 + depth**-0.9 + 400 * size**-0.5
            rows.append([str(one) for one in (width, depth, size + 97 * width, size, 20 * size, loss, 16)])
    if rng.random() < 0.5:
        row = rng.choice(rows)
        row[rng.randrange(len(row))] = rng.choice(WORDS)
    return "\n".join(",".join(row) for row in rows).encode("utf-8", "surrogatepass")


BRIEF = {"fit": ("--draws", "2", "--starts", "1", "--no-held-out"), "evidence": ("--draws", "4")}
"""Options that keep a command short; those of the case come after them, and count."""


def options(rng, folder):
    """A command with odd values for some of its options."""
    (folder / "runs.csv").write_bytes(runs_table(rng))
    for name, config in (("gpt2.json", PLAIN), ("llama.json", LLAMA)):
        (folder / name).write_text(json.dumps(config))
    (folder / "text.txt").write_text("a b a c a b " * 40)
    path = rng.choice(FREE)
    words = [*path.split(), *BRIEF.get(path, ())]
    parameters = command_of(path).params
    share = min(0.17, 3 / len(parameters))  # of many options, most would be odd and the first one refused
    for parameter in parameters:
        if isinstance(parameter, click.Argument):
            files = {"config": ("gpt2.json", "llama.json"), "model": ("gpt2.json", "llama.json"), "file": ("text.txt",),
                     "runs": ("runs.csv",)}  # fmt: skip
            if parameter.nargs == -1:
                words += [
                    rng.choice((str(folder / "llama.json"), option_value(rng, parameter))) for _ in range(rng.randrange(4))
                ]
            elif parameter.name in files and rng.random() < 0.9:
                words.append(str(folder / rng.choice(files[parameter.name])))
            elif parameter.required or rng.random() < (0.9 if parameter.name == "budget" else 0.5):
                words.append(option_value(rng, parameter))
        elif rng.random() < share and parameter.name not in ("measure", "plot", "plot_collapse", "html", "help"):
            name = rng.choice([*parameter.opts, *parameter.secondary_opts])
            files = {"text": "text.txt", "like": rng.choice(("gpt2.json", "llama.json")), "save": "mine.json"}
            files |= {"save": "mine"} if path == "fit" else {}
            if parameter.is_flag:
                words.append(name)
            elif parameter.name in files and (rng.random() < 0.9 or parameter.name == "save"):
                words += [name, str(folder / files[parameter.name])]
            else:
                words += [name, option_value(rng, parameter)]
    run(*words)


# Folders of runs and archives.

RUNS = ("0123456789abcdef", "fedcba9876543210")


def base_folder(folder):
    """A folder with two plans, a run that is done, one that failed, one that is leased, and an ensemble."""
    from verify.rows import Row
    from verify.runs.store import Store

    store = Store(folder).open()
    prediction = {"quantity": "loss", "value": 1.5, "formula": "f", "version": "1", "site": "end", "step": 10, "stderr": None}
    for job in ("unknown-job", "moments"):
        runs = [
            {"run": run, "seed": 1, "spec": {"steps": 4, "dtype": "float32"}, "labels": {"depth": 2, "scheme": "gpt2"},
             "cost": 1.0,
             "cpus": 1.0, "gpus": 0.0, "predictions": [prediction]}
            for run in RUNS
        ]  # fmt: skip
        store.write_plan(
            {"job": job, "size": "tiny", "code": "c" * 16, "judging": "j", "created": "2026-01-01T00:00:00Z", "commit": "",
             "depthwidth": "0.1.0", "question": "q", "claim": "c", "measured": "m", "criterion": "c",
             "predictions": [prediction],
             "runs": runs, "ensemble": 2}
        )  # fmt: skip
    rows = [
        Row(job="moments", run=RUNS[0], step=step, site="end", quantity="loss", predicted=1.5, value=1.4, stderr=0.1,
            formula="f 1", seed=1,
            labels={"depth": 2, "scheme": "gpt2"}, code="c", depthwidth="0.1.0", torch="2", device="cpu",
            dtype="float32", wall_s=1.5,
            date="2026-01-02T00:00:00Z")
        for step in (10, 20, 30)
    ]  # fmt: skip
    store.publish(RUNS[0], rows)
    store.write_failure(RUNS[1], {"job": "moments", "error": "it fell", "deaths": 1, "host": "h", "date": "d"})
    lease = {"token": "t", "machine": "m", "pid": 1, "started": "1", "since": 1.0}
    (folder / "leases" / f"{RUNS[1]}.json").write_text(json.dumps(lease))
    store.begin_ensemble(RUNS)
    work = folder / "work" / RUNS[1]
    work.mkdir()
    (work / "progress").write_text(json.dumps({"share": 0.5, "step": 3, "loss": 1.5}))


def harmed_file(rng, name, data):
    """Another name and content for a file, with a right seal or digest half of the time."""
    from verify.rows import canonical, digest_of

    if rng.random() < 0.15:
        at = rng.randrange(max(1, len(data)))
        return name, rng.choice(
            (data[:at], data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :], b"", b"[" * 100_000, b"\xff")
        )
    if name.endswith(".csv"):
        lines = data.decode().splitlines()
        cells = lines[rng.randrange(len(lines))].split(",")
        cells[rng.randrange(len(cells))] = str(rng.choice((*NUMBERS[:14], *NUMBERS[15:], *WORDS)))
        lines[rng.randrange(len(lines))] = ",".join(cells)
        data = ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
        run = name.partition(".")[0]
        return f"{run}.{digest_of(data)}.csv", data
    tree = json.loads(data)
    if isinstance(tree, dict):
        tree.pop("sha256", None)
    for _ in range(rng.choice((1, 1, 2))):
        mutate(rng, tree)
    if "error" in name or not isinstance(tree, dict) or "runs" not in tree:
        return name, text_of(rng, tree)
    with contextlib.suppress(ValueError):
        tree["sha256"] = digest_of(canonical(tree).encode())
    return name, json.dumps(tree, indent=1, sort_keys=True).encode("utf-8", "surrogatepass")


LOOKS = (
    ("status",), ("status", "--json"), ("status", "--csv"), ("report",), ("report", "--json"), ("report",
    "--markdown"), ("resume",),
    ("export", "rows.csv"), ("export", "rows.zip"), ("export", "evidence.csv", "--evidence"),
    ("fit", "moments", "loss = a + b*step", "--start", "a=1", "--start", "b=0", "--site", "end", "--steps", "all",
    "--errors", "curvature"),
)  # fmt: skip


def look(rng, place, folder):
    """Commands that read a folder of runs."""
    for words in rng.sample(LOOKS, 2):
        if words[0] == "resume":  # then only runs of the unknown job are left, and nothing is measured
            for path in (place / "plans").glob("moments.*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        words = [str(folder / word) if word.startswith(("rows.", "evidence.")) else word for word in words]
        run("verify", *words, "--out", place)


def files_under_out(rng, folder):
    """Harm to one to three files of a folder of runs, then commands that read it."""
    place = folder / "runs"
    shutil.rmtree(place, ignore_errors=True)
    base_folder(place)
    files = sorted(path for path in place.rglob("*") if path.is_file() and path.suffix in (".json", ".csv"))
    for path in rng.sample(files, rng.choice((1, 1, 2, 3))):
        what = rng.random()
        name, data = harmed_file(rng, path.name, path.read_bytes())
        path.unlink()
        if what < 0.04:
            os.mkfifo(path)
        elif what < 0.08:
            path.mkdir()
        elif what < 0.1:
            path.symlink_to("/dev/zero")
        else:
            path.with_name(name).write_bytes(data)
    look(rng, place, folder)


def archives(rng, folder):
    """An archive with harm to some of its files, imported and looked at."""
    source, place = folder / "source", folder / "runs"
    if not source.is_dir():
        base_folder(source)
    shutil.rmtree(place, ignore_errors=True)
    path = folder / "rows.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in ("plans", "rows"):
            for file in sorted((source / part).iterdir()):
                name, data = file.name, file.read_bytes()
                if rng.random() < 0.5:
                    name, data = harmed_file(rng, name, data)
                if rng.random() < 0.02:
                    name = rng.choice(("../x", "x", "a/b.csv", "\x1b[31m.csv"))
                archive.writestr(f"{part}/{name}", data)
    if rng.random() < 0.15:
        data = path.read_bytes()
        at = rng.randrange(len(data))
        path.write_bytes(data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :])
    run("verify", "import", path, "--out", place)
    if place.is_dir():
        look(rng, place, folder)


# Expressions.

PIECES = (
    "x", "y", "a", "b", "loss", "step", "depth", "1", "2", "0", "1e308", "1e-308", "10**30", "9" * 400, "3.5", "(",
    ")", "+", "-", "*", "/",
    "**", "<", "==", ",", "exp(", "log(", "sqrt(", "tanh(", "sigmoid(", "erf(", "abs(", "max(", "min(", ".", "[", "]",
    "'", "lambda", "import",
    "__", "if", "else", " ", "\n", "\0", "é",
)  # fmt: skip


def expression(rng):
    """A law or an activation of random pieces, or one that is nearly right."""
    if rng.random() < 0.5:
        return "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 9)))
    good = rng.choice(("a + b*x", "a*exp(-b*x)", "x*sigmoid(2*x)", "a*x**-b", "tanh(x)*x", "max(x, 0)", "a/(x - b)"))
    at = rng.randrange(len(good))
    return good[:at] + rng.choice(PIECES) + good[at + rng.randrange(2) :]


def argument(rng, domain):
    """A value for an argument of a formula: in its domain, odd, a list or a letter."""
    kind = rng.random()
    if kind < 0.4:
        return f"{rng.uniform(*domain.typical):.{rng.choice((1, 6))}g}"
    if kind < 0.55:
        return ",".join(rng.choice(("1", "2", "0.5", "24", "n", "1e30", "1e-300", "nan")) for _ in range(rng.randrange(1, 4)))
    if kind < 0.7:
        return rng.choice(("n", "x", "E", "I", "pi", "lambda", "N1"))
    return rng.choice(WORDS)


def expressions(rng, folder):
    """Formulas at odd arguments, laws to fit, activations and derivations by name."""
    what = rng.random()
    if what < 0.7:
        formula = rng.choice(formulas())
        words = [
            f"{one.name}={argument(rng, one.domain)}"
            for one in formula.parameters.values()
            if one.default is _REQUIRED or rng.random() < 0.3
        ]
        run("formulas", "eval", formula.name, *words, *rng.choice(((), ("--json",))))
    elif what < 0.9:
        place = folder / "rows"
        if not place.is_dir():
            base_folder(place)
        law = f"loss = {expression(rng)}" if rng.random() < 0.8 else expression(rng)
        starts = [
            word for name in ("a", "b") for word in ("--start", f"{name}={rng.choice(('1', '0', '1e308', 'nan', '-2', 'x'))}")
        ]
        method = rng.choice(("curvature", "profile"))
        run("verify", "fit", "moments", law, *starts, "--site", "end", "--steps", "all", "--errors", method, "--out", place)
    else:
        config = {**PLAIN, "activation_function": expression(rng)}
        (folder / "config.json").write_bytes(json.dumps(config).encode())
        run("moments", folder / "config.json")


# Weights with and without a configuration.

NUMBERS_8 = (0, 1, 2, 3, 7, 8, 9, 255, 2**16, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1)


def damaged_bytes(rng, data):
    """Bytes with one to three harms: cut, a byte or a number of eight changed, a piece doubled or left out."""
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        at, what = rng.randrange(max(1, min(len(data), 2000))), rng.random()
        if what < 0.15:
            data = data[:at]
        elif what < 0.4:
            data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
        elif what < 0.75:
            data = data[:at] + struct.pack("<Q", rng.choice(NUMBERS_8)) + data[at + 8 :]
        elif what < 0.9:
            data = data[:at] + data[at : at + rng.randrange(64)] + data[at:]
        else:
            data = data[:at] + data[at + rng.randrange(64) :]
    return data


def safetensors_bytes(rng):
    """A safetensors file of a few tensors with Llama's names, its header changed or damaged."""
    tensors, start = {}, 0
    for name, shape in (("model.embed_tokens.weight", [97, 32]), ("model.layers.0.self_attn.q_proj.weight", [32, 32]),
                        ("model.norm.weight", [32])):  # fmt: skip
        size = 2 * math.prod(shape)
        tensors[name] = {"dtype": "F16", "shape": shape, "data_offsets": [start, start + size]}
        start += size
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        mutate(rng, tensors)
    text = text_of(rng, tensors)
    return len(text).to_bytes(8, "little") + text + bytes(start)


STORED = (("describe", "--no-diagnosis"), ("describe", "--json"), ("describe", "--csv"), ("moments",), ("init",), ("serve",),
          ("plan", "1B", "--like"), ("compare", "4x64"))  # fmt: skip


def stored_files(rng, folder):
    """A folder with some of a GGUF file, safetensors, an index, a configuration and a params.json, each perhaps harmed."""
    place = folder / "model"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    index = {"weight_map": {"model.norm.weight": "model.safetensors"}}
    mutate(rng, index)
    params = {"dim": 32, "n_layers": 2, "n_heads": 4, "vocab_size": 97, "multiple_of": 16}
    mutate(rng, params)
    kinds = {
        "model.gguf": lambda: damaged_bytes(rng, llama_bytes()),
        "model.safetensors": lambda: safetensors_bytes(rng),
        "model.safetensors.index.json": lambda: text_of(rng, index),
        "config.json": lambda: text_of(rng, LLAMA),
        "params.json": lambda: text_of(rng, params),
        "model-00001-of-00002.gguf": lambda: damaged_bytes(rng, llama_bytes()),
    }
    names = rng.sample(sorted(kinds), rng.choice((1, 1, 2, 3)))
    for name in names:
        if rng.random() < 0.03:
            os.mkfifo(place / name)
        else:
            (place / name).write_bytes(kinds[name]())
    run(*rng.choice(STORED), place if rng.random() < 0.4 else place / names[0])


DRIVERS = {one.__name__: one for one in (configurations, options, archives, files_under_out, expressions, stored_files)}
"""All drivers by name, once :mod:`data_drivers` and :mod:`page_drivers` have added theirs."""
assert set(COMMANDS) >= {path.split()[0] for path in FREE}


def case(driver, number, folder):
    """Run one case."""
    DRIVERS[driver](random.Random(f"{SEED} {driver} {number}".lstrip()), folder)  # noqa: S311
