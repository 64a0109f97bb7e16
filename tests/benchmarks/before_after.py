"""Speed of this checkout compared with another one, in one run.

    python tests/benchmarks/before_after.py OTHER_CHECKOUT           # a table of medians and ratios; --json for machines
    python tests/benchmarks/before_after.py OTHER_CHECKOUT --only moments --repeats 31

Each command or call is timed in both checkouts alternately (A B B A ..), after one run of each that is not timed, so that
changes in the speed of the machine affect both. Commands are timed as whole processes; calls run in one long-lived process per
checkout. Every process imports its own checkout by PYTHONPATH, and the imported file is printed.

Compiled modules are kept in a temporary folder, as those of an installed package are, whatever PYTHONDONTWRITEBYTECODE says.

Times are processor times of processes and their children, which stay valid on a busy machine; the wall clock is printed too. A
ratio is the time of this checkout divided by that of the other, as the median over pairs; its standard error comes from the
quartiles over pairs. To measure the noise of a machine, compare a checkout with a copy of itself.

This script measures; nothing passes or fails.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve()
GPT2 = {"model_type": "gpt2", "n_layer": 96, "n_embd": 1536, "n_head": 16, "vocab_size": 50257, "n_positions": 1024}
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}


class Taken(NamedTuple):
    """Seconds of one run."""

    cpu: float
    wall: float


LLAMA_3 = LLAMA | {
    "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 8192, "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 8, "rope_theta": 500000.0, "vocab_size": 128256,
}  # fmt: skip

CONFIGS = {"CONFIG": GPT2, "LLAMA": LLAMA_3}

# Commands, timed as whole processes; CONFIG and LLAMA are replaced by files that contain GPT2 and LLAMA_3.

COMMANDS: dict[str, list[str]] = {
    "plan 1T (process)": ["plan", "1T"],
    "--help (process)": ["--help"],
    "moments, 96 layers of GPT-2 (process)": ["moments", "CONFIG"],
    "describe Llama 3 8B (process)": ["describe", "LLAMA"],
    "init --json, 96 layers of GPT-2 (process)": ["init", "CONFIG", "--json"],
}


# Calls, in a long-lived process. Each function prepares and returns the function to time. They use public names, which both
# checkouts have; other names are looked for in their old and new modules.


def _from(name: str, *modules: str) -> Any:
    """`name` from the first of given modules that defines it."""
    for module in modules:
        try:
            return getattr(import_module(module), name)
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"{name} is in none of {', '.join(modules)}")


def _stack(mask: str) -> Callable[[], object]:
    from depthwidth import Transformer, propagate, recipe

    tree = Transformer(
        1000, 128, 2, kind="encoder" if mask == "full" else "decoder", activation="relu", bias=False, positions="none",
        vocab=100, context=64, head="none", final_norm=False, norm_affine=False,
    )  # fmt: skip
    made = recipe(tree, "xavier")
    times = 5 if mask == "full" else 1
    return lambda: [propagate(tree, made, variance=1.0, correlation=0.2) for _ in range(times)]


def _default(kind: str) -> Callable[[], object]:
    """1000 blocks of the default design, with a head, positions and learned norms."""
    from depthwidth import Transformer, propagate, recipe

    tree = Transformer(1000, 1024, 16, kind=kind)
    made = recipe(tree, "xavier")
    return lambda: propagate(tree, made)


def _post_norm() -> Callable[[], object]:
    from depthwidth import Transformer, propagate, recipe

    tree = Transformer(1000, 128, 2, kind="encoder", placement="post", vocab=100, context=64)
    made = recipe(tree, "deepscale")
    return lambda: propagate(tree, made, variance=1.0, correlation=0.2)


def _count() -> Callable[[], object]:
    from depthwidth import Transformer

    described = dict(LLAMA)

    return lambda: [Transformer.from_config(described).parameters for _ in range(100)]


def _sweep() -> Callable[[], object]:
    import numpy as np

    from depthwidth import Transformer, recipe, sweep

    tree = Transformer(12, 512, 8, kind="encoder", vocab=1000, context=128)
    made = recipe(tree, "xavier")
    rng = np.random.default_rng(1)
    depth, correlation, branch = rng.integers(1, 1001, 10_000), rng.uniform(0, 1, 10_000), rng.uniform(0.05, 1, 10_000)
    return lambda: sweep(tree, made, depth=depth, correlation=correlation, branch=branch)


def _describe() -> Callable[[], object]:
    from depthwidth import Transformer, describe

    tree = Transformer.from_config(dict(LLAMA))
    return lambda: describe(tree).to_dict()


def _deepscale() -> Callable[[], object]:
    from depthwidth import Transformer, recipe

    tree = Transformer(100, 512, 8, kind="encoder", placement="post", vocab=1000, context=128)
    return lambda: [recipe(tree, "deepscale") for _ in range(20)]


def _train() -> Callable[[], object]:
    import torch

    from depthwidth import Transformer, recipe
    from verify import apply_init, build

    torch.set_num_threads(1)
    homes = ("verify.training", "verify.training.train", "verify.train")
    train = _from("train", *homes)
    training = _from("Training", "verify.training.settings", *homes)
    corpus = _from("zipf_markov", "verify.training.corpus", "verify.corpus")(20_000, vocab=64)
    tree = Transformer(depth=4, width=64, heads=4, vocab=64, context=32)
    made = recipe(tree, "gpt2")
    settings = training(steps=20, batch=8, context=32, warmup=5, learning_rate=1e-3, seed=1)

    def updates() -> object:
        torch.manual_seed(1)
        model = build(tree)
        apply_init(model, made)
        return train(model, corpus, settings, device="cpu", progress=False)

    return updates


CALLS: dict[str, Callable[[], Callable[[], object]]] = {
    "propagate 1000 layers, 5 times": lambda: _stack("full"),
    "propagate 1000 layers, causal mask": lambda: _stack("causal"),
    "propagate 1000 layers, default encoder": lambda: _default("encoder"),
    "propagate 1000 layers, default decoder": lambda: _default("decoder"),
    "propagate 1000 layers, post-norm": _post_norm,
    "read and count a Llama, 100 times": _count,
    "sweep 10,000 settings": _sweep,
    "describe a Llama": _describe,
    "deepscale recipe, 100 layers, 20 times": _deepscale,
    "build a small model, train 20 updates": _train,
}


def serve() -> None:
    """Read names of calls, one per line, and print the seconds of each; other output goes to the error stream."""
    answers, sys.stdout = sys.stdout, sys.stderr
    prepared: dict[str, Callable[[], object]] = {}
    for line in sys.stdin:
        name = line.strip()
        if name not in prepared:
            prepared[name] = CALLS[name]()
        cpu, wall = time.process_time(), time.perf_counter()
        prepared[name]()
        taken = Taken(time.process_time() - cpu, time.perf_counter() - wall)
        answers.write(json.dumps(taken) + "\n")
        answers.flush()


class Checkout:
    """One of the two checkouts, and its process for calls."""

    def __init__(self, root: Path, folder: Path) -> None:
        """Start the process and print which files it imports; `folder` holds the configurations and takes compiled modules."""
        self.root, self._folder = root.resolve(), folder
        others = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self._environment = others | {
            "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1", "PYTHONPYCACHEPREFIX": str(folder / "compiled")
        }  # fmt: skip
        source = "import depthwidth, verify; print(depthwidth.__file__); print(verify.__file__)"
        found = subprocess.check_output([sys.executable, "-c", source], env=self._environment, text=True, cwd="/")  # noqa: S603
        if any(Path(line).parents[1] != self.root for line in found.split()):
            raise SystemExit(f"{self.root} does not import itself but {' '.join(found.split())}")
        print(f"imports {', '.join(found.split())}", file=sys.stderr)  # noqa: T201
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([sys.executable, HERE, "--serve"], env=self._environment, **pipes)  # noqa: S603

    def call(self, name: str) -> Taken:
        """Seconds of one call."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(name + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise SystemExit(f"{name} failed in {self.root}")
        return Taken(*json.loads(answer))

    def command(self, name: str) -> Taken:
        """Seconds of one process."""
        words = [str(self._folder / f"{word}.json") if word in CONFIGS else word for word in COMMANDS[name]]
        start = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "depthwidth", *words], env=self._environment, stdout=subprocess.DEVNULL, cwd="/"
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{name} failed in {self.root}")
        return Taken(used.ru_utime + used.ru_stime, time.perf_counter() - start)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def compare(name: str, other: Checkout, ours: Checkout, repeats: int) -> dict[str, object]:
    """Time one command or call in both checkouts, alternately."""
    times: list[tuple[Taken, Taken]] = []
    for i in range(repeats + 1):
        # The order within a pair alternates.
        pair = (other, ours) if i % 2 else (ours, other)
        taken = [one.command(name) if name in COMMANDS else one.call(name) for one in pair]
        if i:
            times.append((taken[0], taken[1]) if i % 2 else (taken[1], taken[0]))
    row: dict[str, object] = {"what": name}
    for kind in ("cpu", "wall"):
        before, after = zip(*((getattr(a, kind), getattr(b, kind)) for a, b in times), strict=True)
        ratios = [b / a for a, b in zip(before, after, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        # For a normal sample the quartiles differ by 1.349 standard deviations, and the standard error of the median is 1.253
        # times that of the mean.
        error = 1.253 * (high - low) / 1.349 / math.sqrt(len(ratios))
        row |= {f"before_{kind}": statistics.median(before), f"after_{kind}": statistics.median(after)}
        row |= {f"ratio_{kind}": statistics.median(ratios), f"ratio_{kind}_error": error}
    return row


def line(row: dict[str, object]) -> str:
    """A row of the table."""
    cpu = f"{row['before_cpu']:9.4f} {row['after_cpu']:8.4f}{row['ratio_cpu']:9.3f} +- {row['ratio_cpu_error']:.3f}"
    return f"{row['what']:42}{cpu}{row['before_wall']:11.4f} {row['after_wall']:8.4f}{row['ratio_wall']:8.3f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("other", type=Path, nargs="?", help="a checkout to compare this one with")
    parser.add_argument("--repeats", type=int, default=15, help="timed pairs  [15]")
    parser.add_argument("--only", help="only what has this text in its name")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    if options.other is None or options.repeats < 2:
        parser.error("give the other checkout, and at least 2 repeats")
    with tempfile.TemporaryDirectory() as folder:
        for name, config in CONFIGS.items():
            (Path(folder) / f"{name}.json").write_text(json.dumps(config))
        other, ours = Checkout(options.other, Path(folder)), Checkout(HERE.parents[2], Path(folder))
        names = [name for name in (*COMMANDS, *CALLS) if options.only is None or options.only in name]
        if not options.json:
            print(f"{'':42}{'seconds of CPU':>18}{'ratio':>17}{'seconds':>20}{'ratio':>8}")  # noqa: T201
        rows = []
        for name in names:
            rows.append(compare(name, other, ours, options.repeats))
            if not options.json:
                print(line(rows[-1]), flush=True)  # noqa: T201
        other.close()
        ours.close()
    if options.json:
        print(json.dumps(rows, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
