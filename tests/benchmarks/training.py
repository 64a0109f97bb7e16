"""Tokens per second of our training beside nanoGPT's ``train.py``: one model, and a sweep of many.

    python tests/benchmarks/training.py --nanogpt PATH             # a checkout of github.com/karpathy/nanoGPT
    python tests/benchmarks/training.py --nanogpt PATH --sweep     # 16 models, ours in one program against 16 runs

Both train the same shape (no biases, tied embedding, GELU, learned positions) on the same bytes with the same batch, context,
optimizer and precision, each in processes of their own, in turn (A B A B ..) so that a machine that slows down slows both. What is
printed is the median of each and of the ratios of neighbouring runs, with quartiles. nanoGPT's files are linked into a temporary
folder, as it reads its data relative to where it is started; nothing of it is copied or changed.

Nothing here passes or fails: it measures.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BYTES = 1 << 21
WARM = 5  # updates not counted: caches, and nanoGPT's first evaluation


def prepare(nanogpt: Path, folder: Path) -> None:
    """Links to nanoGPT's files, and the corpus as it wants it."""
    from verify.corpus import python_sources

    for name in ("train.py", "model.py", "configurator.py"):
        if not (nanogpt / name).is_file():
            raise SystemExit(f"{nanogpt} is not a checkout of nanoGPT: it has no {name}")
        (folder / name).symlink_to((nanogpt / name).resolve())
    data = folder / "data" / "bytes"
    data.mkdir(parents=True)
    corpus = python_sources(BYTES)
    for name, tokens in (("train", corpus.train), ("val", corpus.validation)):
        tokens.numpy().astype("<u2").tofile(data / f"{name}.bin")
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": 256}))
    corpus.save(folder / "corpus")


def run(command: list[str], folder: Path, threads: int) -> tuple[str, float, float]:
    """Output, seconds of wall clock and of processors."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(done.stderr)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def theirs(options: argparse.Namespace, folder: Path, seed_steps: int) -> dict[str, Any]:
    """One run of nanoGPT."""
    settings = {
        "dataset": "bytes", "out_dir": "out", "device": options.device, "dtype": options.dtype, "compile": options.compile,
        "n_layer": options.depth, "n_head": options.heads, "n_embd": options.width, "block_size": options.context,
        "batch_size": options.batch, "gradient_accumulation_steps": 1, "dropout": 0.0, "bias": False, "learning_rate": 1e-3,
        "weight_decay": 0.1, "grad_clip": 1.0, "warmup_iters": 10, "lr_decay_iters": seed_steps, "min_lr": 1e-4,
        "max_iters": seed_steps - 1, "eval_interval": 10**9, "eval_iters": 1, "log_interval": 1,
        "always_save_checkpoint": False,
    }  # fmt: skip
    command = [sys.executable, "train.py", *(f"--{name}={value}" for name, value in settings.items())]
    output, wall, cpu = run(command, folder, options.threads)
    found = re.findall(r"iter \d+: loss ([\d.]+), time ([\d.]+)ms", output)
    if len(found) != seed_steps:
        raise SystemExit(f"nanoGPT did {len(found)} of {seed_steps} updates:\n{output}")
    return {
        "wall": wall,
        "cpu": cpu,
        "loss": float(found[-1][0]),
        "step": statistics.median(float(ms) / 1e3 for _, ms in found[WARM:]),
    }


OURS = """
import json, sys, time
import torch
from depthwidth import Transformer
from verify.corpus import load
from verify.ensemble import train_ensemble
from verify.model import build
from verify.train import Training, train

o = json.loads(sys.argv[1])
tree = Transformer(depth=o["depth"], width=o["width"], heads=o["heads"], vocab=256, context=o["context"], bias=False, norm_bias=False)
corpus = load("corpus")
torch.backends.cuda.matmul.allow_tf32 = True
times = [time.perf_counter()]
if o["members"] == 1:
    class Clock:
        def log(self, step, values):
            times.append(time.perf_counter())
        def close(self):
            pass
    training = Training(steps=o["steps"], batch=o["batch"], context=o["context"], warmup=10, precision=o["precision"],
                        compile=o["compile"], evaluate_batches=0)
    outcomes = [train(build(tree, seed=o["first"]), corpus, training, device=o["device"], loggers=[Clock()], log_every=1, progress=False)]
    mode = "single"
else:
    models = [build(tree, seed=o["first"] + i) for i in range(o["members"])]
    trainings = [Training(steps=o["steps"], batch=o["batch"], context=o["context"], warmup=10, precision=o["precision"], data_seed=i,
                          compile=o["compile"], learning_rate=1e-3, evaluate_batches=0) for i in range(o["members"])]
    outcomes = train_ensemble(models, corpus, trainings, mode=o["mode"], device=o["device"],
                              on_step=lambda step, losses: times.append(time.perf_counter()))
print(json.dumps({"times": times, "losses": [x.final_loss for x in outcomes], "parameters": tree.parameters}))
"""


def ours(options: argparse.Namespace, folder: Path, steps: int, members: int = 1, workers: int = 1) -> dict[str, Any]:
    """One run of ours: a model, or an ensemble split over some processes."""
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": str(options.threads if workers == 1 else 1)}
    base = {
        name: getattr(options, name) for name in ("depth", "width", "heads", "context", "batch", "device", "compile", "mode")
    }
    base |= {"steps": steps, "precision": options.dtype}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    started = []
    for worker in range(workers):
        share = members // workers + (worker < members % workers)
        argument = json.dumps({**base, "members": share, "first": worker * 100})
        command = [sys.executable, "-c", OURS, argument]
        started.append(subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True))  # noqa: S603
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("our run failed")
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = [json.loads(output) for output in outputs]
    steps_taken = [
        statistics.median(b - a for a, b in zip(one["times"][WARM:], one["times"][WARM + 1 :], strict=False)) for one in found
    ]
    losses = [loss for one in found for loss in one["losses"]]
    return {
        "wall": wall,
        "cpu": cpu,
        "loss": statistics.mean(losses),
        "step": max(steps_taken),
        "parameters": found[0]["parameters"],
    }


def quartiles(values: list[float]) -> str:
    """Median and quartiles."""
    if len(values) < 2:
        return f"{values[0]:.2f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both in turn."""
    members, steps, tokens = (options.members if options.sweep else 1), options.steps, options.batch * options.context
    a: list[dict[str, Any]] = []
    b: list[dict[str, Any]] = []
    for _ in range(options.repeats):
        peers = [theirs(options, folder, steps) for _ in range(members)]
        summed = {name: sum(one[name] for one in peers) for name in ("wall", "cpu", "step")}
        b.append({**summed, "loss": statistics.mean(one["loss"] for one in peers)})
        a.append(ours(options, folder, steps, members, options.workers if options.sweep else 1))
        for name, one in (("nanoGPT", b[-1]), ("ours", a[-1])):
            print(name, {key: round(value, 4) for key, value in one.items()}, file=sys.stderr)
    return {
        "models": members,
        "parameters": a[0]["parameters"],
        "shape": f"depth {options.depth}, width {options.width}, {options.heads} heads, context {options.context}, "
        f"batch {options.batch}, {options.dtype}, compile {options.compile}, {options.device}, {options.threads} threads",
        "updates a model": steps,
        "nanoGPT tokens/s, steady": quartiles([members * tokens / one["step"] for one in b]),
        "our tokens/s, steady": quartiles([members * tokens / one["step"] for one in a]),
        "ratio, steady": quartiles([y["step"] / x["step"] for x, y in zip(a, b, strict=True)]),
        "ratio, wall clock of whole processes": quartiles([y["wall"] / x["wall"] for x, y in zip(a, b, strict=True)]),
        "ratio, processor seconds": quartiles([y["cpu"] / x["cpu"] for x, y in zip(a, b, strict=True)]),
        "last losses, nanoGPT and ours": f"{statistics.mean(one['loss'] for one in b):.3f}, "
        f"{statistics.mean(one['loss'] for one in a):.3f}",
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True)
    parser.add_argument("--sweep", action="store_true", help="many models instead of one")
    for name, value in (("members", 16), ("workers", 1), ("depth", 4), ("width", 128), ("heads", 4), ("context", 64), ("batch", 12),
                        ("steps", 60), ("repeats", 5), ("threads", 1)):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--mode", default="auto")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        prepare(options.nanogpt, Path(name))
        found = compare(options, Path(name))
    print(json.dumps(found, indent=1) if options.json else "\n".join(f"{key:<40}{value}" for key, value in found.items()))


if __name__ == "__main__":
    main()
