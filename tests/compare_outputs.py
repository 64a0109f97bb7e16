"""Compare what two checkouts print: every command that prints numbers, over all families and schemes, to the last digit.

    python tests/compare_outputs.py record FOLDER [--checkout PATH] [--only WORD]   # of this checkout, or of another
    python tests/compare_outputs.py compare OLD NEW [--numbers]                     # exit status 1 if anything differs

``record`` runs ``plan``, ``describe``, ``moments``, ``init``, ``heads`` and ``table`` through ``depthwidth.__main__.main`` in
one process, some 1,750 cases in 100 s, and stores the arguments, exit status, output and error text of each as one file of
FOLDER. It uses nothing of the package but the command line, so it runs on checkouts before and after a change of layout. An
exception that is not turned into a sentence is recorded by its type and message.

``compare`` lists each difference by its case and its path in the JSON, with both values. Differences of numbers, keys, lengths
and exit statuses come first; texts whose numbers agree are listed after them, each once. With ``--numbers`` those do not count.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

# One thread, set before NumPy is imported: the order of a sum over threads is in its last digits.
os.environ["OMP_NUM_THREADS"] = "1"

SCHEMES = [
    *("shipped", "normal", "gpt2", "xavier", "kaiming", "t-fixup", "deepnorm", "admin", "ds-init", "rezero", "skipinit"),
    *("layernorm-scaling", "mup", "depth-mup", "completep", "unit-scaling", "deepscale"),
]
RULES = ("levine2020", "gemstones2025", "liu2026", "measured2025", "completep2025", "nanochat", "marin", "gpt3", "sovit2023")
TABLES = ("levine2020-projections", "real_models")

Case = tuple[str, ...]


# Small configurations, one of each family and of what a family can be switched to. Sizes are spelt out: a family's defaults are
# full models.


def _gpt2(kind: str = "gpt2", model: str = "GPT2LMHeadModel", depth: int = 5, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "architectures": [model],
        "n_layer": depth,
        "n_embd": 48,
        "n_head": 4,
        "vocab_size": 211,
        "n_positions": 32,
        **more,
    }


def _llama(kind: str, model: str, depth: int = 4, kv: int = 2, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "architectures": [model],
        "num_hidden_layers": depth,
        "hidden_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": kv,
        "intermediate_size": 128,
        "vocab_size": 211,
        "max_position_embeddings": 32,
        **more,
    }


def _bert(kind: str, model: str, depth: int = 4, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind,
        "architectures": [model],
        "num_hidden_layers": depth,
        "hidden_size": 48,
        "num_attention_heads": 4,
        "intermediate_size": 192,
        "vocab_size": 211,
        "max_position_embeddings": 32,
        **more,
    }


def _t5(**more: Any) -> dict[str, Any]:
    return {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "num_layers": 3,
        "d_model": 48,
        "d_kv": 12,
        "d_ff": 128,
        "num_heads": 4,
        "vocab_size": 211,
        "n_positions": 32,
        **more,
    }


_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "decoder_sparse_step": 1}
_VIT = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "num_hidden_layers": 4,
    "hidden_size": 48,
    "num_attention_heads": 4,
    "intermediate_size": 192,
    "image_size": 24,
    "patch_size": 4,
    "num_labels": 10,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": _gpt2(),
    "gpt_neo": {
        "model_type": "gpt_neo",
        "architectures": ["GPTNeoForCausalLM"],
        "num_layers": 4,
        "hidden_size": 48,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 2]],
        "window_size": 8,
        "vocab_size": 211,
        "max_position_embeddings": 32,
    },
    "gptj": _gpt2("gptj", "GPTJForCausalLM", rotary_dim=4),
    "codegen": _gpt2("codegen", "CodeGenForCausalLM", rotary_dim=4),
    "gpt_neox": _bert("gpt_neox", "GPTNeoXForCausalLM", rotary_pct=0.5),
    "opt": _bert("opt", "OPTForCausalLM", ffn_dim=192),
    "bloom": {
        "model_type": "bloom",
        "architectures": ["BloomForCausalLM"],
        "n_layer": 4,
        "hidden_size": 48,
        "n_head": 4,
        "vocab_size": 211,
        "seq_length": 32,
    },
    "falcon": {
        "model_type": "falcon",
        "architectures": ["FalconForCausalLM"],
        "num_hidden_layers": 4,
        "hidden_size": 48,
        "num_attention_heads": 4,
        "multi_query": True,
        "parallel_attn": True,
        "bias": False,
        "alibi": False,
        "new_decoder_architecture": False,
        "vocab_size": 211,
        "max_position_embeddings": 32,
    },
    "phi": _llama("phi", "PhiForCausalLM", kv=4, partial_rotary_factor=0.5),
    "llama": _llama("llama", "LlamaForCausalLM"),
    "mistral": _llama("mistral", "MistralForCausalLM", sliding_window=8),
    "mixtral": _llama("mixtral", "MixtralForCausalLM", num_local_experts=4, num_experts_per_tok=2),
    "phi3": _llama("phi3", "Phi3ForCausalLM", sliding_window=20),
    "qwen2": _llama("qwen2", "Qwen2ForCausalLM"),
    "qwen3": _llama("qwen3", "Qwen3ForCausalLM", head_dim=16),
    "qwen2_moe": _llama("qwen2_moe", "Qwen2MoeForCausalLM", shared_expert_intermediate_size=96, **_MOE),
    "qwen3_moe": _llama("qwen3_moe", "Qwen3MoeForCausalLM", head_dim=16, mlp_only_layers=[], **_MOE),
    "gemma": _llama("gemma", "GemmaForCausalLM", kv=1, head_dim=16),
    "gemma2": _llama("gemma2", "Gemma2ForCausalLM", head_dim=16, query_pre_attn_scalar=16, sliding_window=8),
    "gemma3_text": _llama("gemma3_text", "Gemma3ForCausalLM", depth=6, head_dim=16, sliding_window=8),
    "olmo": _llama("olmo", "OlmoForCausalLM", kv=4),
    "olmo2": _llama("olmo2", "Olmo2ForCausalLM"),
    "stablelm": _llama("stablelm", "StableLmForCausalLM", kv=4),
    "starcoder2": _llama("starcoder2", "Starcoder2ForCausalLM"),
    "bert": _bert("bert", "BertForMaskedLM"),
    "roberta": _bert("roberta", "RobertaForMaskedLM", max_position_embeddings=34, pad_token_id=1, type_vocab_size=1),
    "distilbert": {
        "model_type": "distilbert",
        "architectures": ["DistilBertForMaskedLM"],
        "n_layers": 4,
        "dim": 48,
        "n_heads": 4,
        "hidden_dim": 192,
        "vocab_size": 211,
        "max_position_embeddings": 32,
    },
    "vit": _VIT,
    "t5": _t5(),
}

VARIANTS: dict[str, dict[str, Any]] = {
    "gpt2-deep": _gpt2(depth=60),
    "gpt2-no-dropout": _gpt2(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, activation_function="relu"),
    "gpt2-base": _gpt2(model="GPT2Model", n_inner=96),
    "gpt2-silu": _gpt2(activation_function="silu", tie_word_embeddings=False),
    "neox-serial": _bert("gpt_neox", "GPTNeoXForCausalLM", use_parallel_residual=False, hidden_dropout=0.1),
    "opt-post": _bert("opt", "OPTForCausalLM", ffn_dim=192, do_layer_norm_before=False, word_embed_proj_dim=24),
    "falcon-alibi": FAMILIES["falcon"] | {"alibi": True, "parallel_attn": False, "multi_query": False, "bias": True},
    "falcon-new": FAMILIES["falcon"] | {"new_decoder_architecture": True, "num_kv_heads": 2},
    "llama-untied-bias": _llama("llama", "LlamaForCausalLM", attention_bias=True, mlp_bias=True, kv=1),
    "mixtral-of-2": _llama("mixtral", "MixtralForCausalLM", num_local_experts=2, num_experts_per_tok=1, kv=4),
    "stablelm-parallel": _llama("stablelm", "StableLmForCausalLM", kv=4, use_parallel_residual=True),
    "bert-deep": _bert("bert", "BertForMaskedLM", depth=100),
    "bert-classifier": _bert("bert", "BertForSequenceClassification", num_labels=3, hidden_act="relu"),
    "vit-relu": _VIT | {"hidden_act": "relu", "num_hidden_layers": 30},
    "t5-gated": _t5(feed_forward_proj="gated-gelu", tie_word_embeddings=False, num_decoder_layers=5),
    "t5-encoder": _t5(architectures=["T5EncoderModel"]),
}
"""Other switches of the same families; the deep ones pass through the shortcuts that are taken along the depth."""

FULL: dict[str, dict[str, Any]] = {
    "full-gpt2": {"model_type": "gpt2"},
    "full-llama": {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    "full-mixtral": {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]},
    "full-bert": {"model_type": "bert"},
    "full-t5": {"model_type": "t5"},
}
"""Full models: what the counts and verdicts are read for."""

SMALL = FAMILIES | VARIANTS
ALL_SCHEMES = ("gpt2", "gpt2-no-dropout", "llama", "bert", "opt-post", "gemma2", "qwen2_moe", "t5", "vit", "neox-serial", "phi")
"""One of each structure: pre-norm, post-norm, sandwiched, parallel, gated, of experts, of two stacks, of images."""


def configurations() -> dict[str, dict[str, Any]]:
    """Every configuration by the name of its file."""
    return SMALL | FULL


_PLANS = """\
--flops 1e22
--flops 1e22 --tokens 1T --masked
--flops 1e20 --tokens-per-parameter 40
--memory 80GB
--memory 80GB --recompute full --batch 4
--weights 16GB
--weights 16GB --dtype int4 --untied --gated --ffn-ratio 8/3
100M --non-embedding
47B --preset mixtral --active
1.3B --preset llama3 --tp 4
100M --vocab 256 --context 512 --norm rmsnorm --positions alibi --no-bias
1B --kind encoder-decoder
1B --kind encoder
2B --head-dim 80
2B --multiple 256
2B --experts 16 --top-k 4 --kv-heads 4
5M
20K --vocab 50
1T --rule x
-5
7B --like full-llama.json
7B --like full-mixtral.json --context 8K
3B --like full-t5.json"""

_HEADS = """\
--heads 16
--head-dim 64
--kv-heads 8
--value-dim 64
--multiple 16
--tp 8
--budget 1.5B
--features 64
--diffuse 20-31,3
--positional 0-3
--share 3
--diffuse 0-31 --tolerance 0.01
--diffuse 16-31 --positional 0,1 --kv-heads 8 --budget 1B --tp 4"""


def _plans() -> Iterator[Case]:
    for budget in ("100M", "1.3B", "6.7e9", "47B", "1T"):
        yield "plan", budget, "--json"
    for preset in ("gpt3", "llama2", "llama3", "mixtral", "vit"):
        yield "plan", "300M", "--preset", preset, "--json"
        yield "plan", "30B", "--preset", preset, "--json"
    for rule in RULES:
        yield "plan", "800M", "--rule", rule, "--json"
        yield "plan", "70B", "--rule", rule, "--preset", "llama2", "--json"
    for options in _PLANS.splitlines():
        yield "plan", *options.split(), "--json"
    for form in ((), ("--csv",), ("--markdown",)):
        yield "plan", "1T", *form


def _descriptions() -> Iterator[Case]:
    for name in configurations():
        yield "describe", f"{name}.json", "--json"
    for name in ALL_SCHEMES:
        for scheme in SCHEMES:
            yield "describe", f"{name}.json", "--scheme", scheme, "--json"
    for name in ("gpt2", "bert", "llama", "t5", "full-gpt2"):
        yield "describe", f"{name}.json", "--dtype", "fp16", "--diagnosis", "--json"
        yield "describe", f"{name}.json", "--context", "16", "--batch", "3", "--masked", "--json"
    for dtype in ("fp32", "fp8", "e4m3", "int8"):
        yield "describe", "gpt2.json", "--dtype", dtype, "--json"
    yield "describe", "t5.json", "--context", "8", "--source", "20", "--json"
    for form in ((), ("--csv",), ("--markdown",)):
        for name in ("gpt2", "bert-deep", "full-llama"):
            yield "describe", f"{name}.json", *form


def _moments() -> Iterator[Case]:
    for name in SMALL:
        yield "moments", f"{name}.json", "--json"
        yield "moments", f"{name}.json", "--attention", "--json"
        yield "moments", f"{name}.json", "--no-dropout", "--gradient", "loss", "--json"
        yield "moments", f"{name}.json", "--lengths", "12:16,7:5" if name in ("t5", "t5-gated") else "12,7,12", "--json"
    for name in ALL_SCHEMES:
        for scheme in SCHEMES:
            yield "moments", f"{name}.json", "--scheme", scheme, "--json"
            yield "moments", f"{name}.json", "--scheme", scheme, "--attention", "--json"
        for options in (("--variance", "1", "--correlation", "0.3"), ("--context", "16"), ("--gradient-correlation", "0.2")):
            yield "moments", f"{name}.json", *options, "--json"
    for scheme in SCHEMES:
        yield "moments", "bert-deep.json", "--scheme", scheme, "--variance", "1", "--correlation", "0.5", "--json"
        yield "moments", "gpt2-deep.json", "--scheme", scheme, "--correlation", "0.2", "--json"
    yield "moments", "t5.json", "--context", "8", "--source", "20", "--json"
    for form in ((), ("--csv",), ("--markdown",)):
        yield "moments", "gpt2.json", *form
        yield "moments", "gpt2.json", "--attention", *form


def _recipes() -> Iterator[Case]:
    for name in SMALL:
        for scheme in SCHEMES:
            yield "init", f"{name}.json", "--scheme", scheme, "--json"
    for name in FULL:
        yield "init", f"{name}.json", "--json"
    for form in ((), ("--csv",), ("--markdown",)):
        for name in ("gpt2", "t5"):
            yield "init", f"{name}.json", *form
    yield "init", "--json"


def _heads() -> Iterator[Case]:
    new = ("heads", "--width", "4096", "--layers", "32", "--context")
    for context in ("128", "8192", "1M"):
        yield *new, context, "--json"
    for options in _HEADS.splitlines():
        yield *new, "8192", *options.split(), "--json"
    for name in ("gpt2", "llama", "gemma2", "t5", *FULL):
        yield "heads", f"{name}.json", "--json"
    for form in ((), ("--csv",), ("--markdown",)):
        yield *new, "8192", *form


def cases() -> list[Case]:
    """Arguments of every command that is run."""
    tables: list[Case] = [("table", name, "--json") for name in TABLES]
    return [*_plans(), *_descriptions(), *_moments(), *_recipes(), *_heads(), *tables]


# Recording.


class Printed(NamedTuple):
    """Result of one command: exit status, or the name of an uncaught exception; output; error text."""

    status: int | str
    output: str
    error: str


def _run(arguments: Case) -> Printed:
    """One command, run as a process would run it."""
    from depthwidth.__main__ import main

    out, err = io.StringIO(), io.StringIO()
    sys.argv = ["depthwidth", *arguments]
    status: int | str = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            main()
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else str(stop.code)
        except Exception as error:  # what crashes today is recorded too
            status = type(error).__name__
            err.write(f"{error}\n")
    # By category and text: a warning's file and line are no output.
    err.write("".join(sorted({f"{w.category.__name__}: {w.message}\n" for w in caught})))
    return Printed(status, out.getvalue(), err.getvalue())


def record(folder: Path, checkout: Path, only: str | None) -> None:
    """Run every case on `checkout` and store what it printed."""
    sys.path.insert(0, str(checkout))
    import depthwidth

    home = Path(depthwidth.__file__).parent
    if home.parent != checkout:
        raise SystemExit(f"imported {home}, which is not in {checkout}")
    chosen = [case for case in cases() if only is None or only in " ".join(case)]
    print(f"{len(chosen)} cases of {home}")  # noqa: T201
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.json"):
        old.unlink()
    start, statuses = time.process_time(), Counter[int | str]()
    with tempfile.TemporaryDirectory() as work:
        # Relative names, so that a path in an error text is the same wherever this runs.
        os.chdir(work)
        for name, config in configurations().items():
            Path(f"{name}.json").write_text(json.dumps(config))
        for case in chosen:
            printed = _run(case)
            statuses[printed.status] += 1
            text = json.dumps({"arguments": case, **printed._asdict()})
            (folder / f"{_file_name(case)}.json").write_text(text, encoding="utf-8")
        os.chdir(folder)
    ended = ", ".join(f"{count} with status {status}" for status, count in statuses.items())
    print(f"{time.process_time() - start:.0f} s of CPU; {ended}")  # noqa: T201


def _file_name(case: Case) -> str:
    return re.sub(r"[^A-Za-z0-9._=,:-]", "_", "+".join(case).replace("+--", "+"))


# Comparing.

_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")


class Difference(NamedTuple):
    """One place at which two outputs differ."""

    path: str
    old: Any
    new: Any
    words_only: bool


def _numbers(text: str) -> Counter[str]:
    return Counter(found.rstrip(",.").lstrip("+") for found in _NUMBER.findall(text))


def differences(old: Any, new: Any, path: str = "") -> Iterator[Difference]:
    """Every place at which two values of JSON differ; numbers must be equal to the last digit, and of one type."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            if key in old and key in new:
                yield from differences(old[key], new[key], f"{path}.{key}")
            else:
                yield Difference(f"{path}.{key}", old.get(key, "(absent)"), new.get(key, "(absent)"), False)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from differences(one, other, f"{path}[{i}]")
    elif isinstance(old, list) and isinstance(new, list):
        yield Difference(f"{path} (length)", len(old), len(new), False)
    elif isinstance(old, str) and isinstance(new, str):
        if old != new:
            yield Difference(path, old, new, _numbers(old) == _numbers(new))
    elif type(old) is not type(new) or old != new:
        yield Difference(path, old, new, False)


def _parsed(text: str) -> Any:
    """Output as JSON where it is that, else as its lines."""
    try:
        return json.loads(text)
    except ValueError:
        return text.splitlines()


def compare(old: Path, new: Path, *, numbers: bool) -> int:
    """Print every difference between two recordings; 1 if there is any, or any of numbers."""
    for folder in (old, new):
        if not any(folder.glob("*.json")):
            raise SystemExit(f"{folder} holds no recording")
    names = sorted({path.name for folder in (old, new) for path in folder.glob("*.json")})
    words: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], str] = {}
    counted = differing = 0
    for name in names:
        missing = [folder for folder in (old, new) if not (folder / name).exists()]
        if missing:
            counted += 1
            print(f"{name}: not in {missing[0]}")  # noqa: T201
            continue
        one, other = (json.loads((folder / name).read_text(encoding="utf-8")) for folder in (old, new))
        title, before = " ".join(one["arguments"]), counted
        for data in (one, other):
            data["output"], data["error"] = _parsed(data["output"]), data["error"].splitlines()
        for found in differences(one, other):
            if found.words_only:
                words[found.old, found.new] += 1
                first.setdefault((found.old, found.new), f"{title}: {found.path}")
            else:
                counted += 1
                print(f"{title}: {found.path}\n    {found.old!r}\n    {found.new!r}")  # noqa: T201
        differing += counted > before
    for (one, other), times in words.items():
        print(f"words, {times} times, first in {first[one, other]}\n    {one!r}\n    {other!r}")  # noqa: T201
    total = f"{len(names)} cases: {counted} differences of numbers or structure in {differing} cases"
    print(f"{total}; {sum(words.values())} of words alone ({len(words)} different)")  # noqa: T201
    return int(counted > 0 or (len(words) > 0 and not numbers))


def main() -> None:
    """Record or compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True)
    recording = commands.add_parser("record", help="store what a checkout prints")
    recording.add_argument("folder", type=Path)
    recording.add_argument("--checkout", type=Path, default=Path(__file__).resolve().parents[1], help="the tree to run  [this]")
    recording.add_argument("--only", help="only cases with this text in their arguments")
    comparing = commands.add_parser("compare", help="list the differences between two recordings")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    comparing.add_argument("--numbers", action="store_true", help="exit with 0 if words alone differ")
    options = parser.parse_args()
    if "folder" in options:
        record(options.folder, options.checkout.resolve(), options.only)
    else:
        sys.exit(compare(options.old, options.new, numbers=options.numbers))


if __name__ == "__main__":
    main()
