"""Tokens per second of our training beside nanoGPT's ``train.py``: one model, and a sweep of many.

    python tests/benchmarks/training.py --nanogpt PATH             # a checkout of github.com/karpathy/nanoGPT
    python tests/benchmarks/training.py --nanogpt PATH --sweep     # 16 models, ours in one program against 16 runs
    python tests/benchmarks/training.py --nanogpt PATH --updates   # updates alone, in turn in one process
    python tests/benchmarks/training.py --modes                    # without nanoGPT: our two ways through an ensemble

Both train the same shape (no biases, tied embedding, GELU, learned positions) on the same bytes with the same batch, context,
optimizer and precision, each in processes of their own, in turn (A B A B ..) so that a machine that slows down slows both.
nanoGPT's files are linked into a temporary folder, as it reads its data relative to where it is started; none is copied.

Three ratios are printed, nanoGPT's time over ours, as medians over the repeats with quartiles:

- *whole processes*: from the command to its end, imports included;
- *wall clock of an update*: the median update, as each prints or records it;
- *processor time of an update*: that of a long run less that of a short one, over the updates between them. With one thread it
  says the same as the wall clock on a machine that nobody else uses, and it is what to read on one that others use.

Nothing here passes or fails: it measures.
"""

from __future__ import annotations

import argparse
import itertools
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
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

BYTES = 1 << 21
SHORT = 8  # updates of a short run
WARM = 5  # updates not counted in the median: caches, and nanoGPT's first evaluation


class Taken(NamedTuple):
    """What one run took: seconds, and the mean loss of its last five updates."""

    wall: float
    cpu: float
    update: float
    loss: float


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


def processes(commands: list[list[str]], folder: Path, threads: int) -> tuple[list[str], float, float]:
    """Run commands side by side: outputs, seconds of wall clock and of processors."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": root}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, cwd=folder, env=environment, **pipes) for command in commands]  # type: ignore[call-overload]  # noqa: S603
    outputs = [process.communicate() for process in started]
    for process, (_, error) in zip(started, outputs, strict=True):
        if process.returncode:
            raise SystemExit(error)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return [output for output, _ in outputs], wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def theirs(options: argparse.Namespace, folder: Path, steps: int) -> Taken:
    """One run of nanoGPT."""
    settings = {
        "dataset": "bytes", "out_dir": "out", "device": options.device, "dtype": options.dtype, "compile": options.compile,
        "n_layer": options.depth, "n_head": options.heads, "n_embd": options.width, "block_size": options.context,
        "batch_size": options.batch, "gradient_accumulation_steps": 1, "dropout": 0.0, "bias": False, "learning_rate": 1e-3,
        "weight_decay": 0.1, "grad_clip": 1.0, "warmup_iters": 10, "lr_decay_iters": steps, "min_lr": 1e-4,
        "max_iters": steps - 1, "eval_interval": 10**9, "eval_iters": 1, "log_interval": 1, "always_save_checkpoint": False,
    }  # fmt: skip
    command = [sys.executable, "train.py", *(f"--{name}={value}" for name, value in settings.items())]
    (output,), wall, cpu = processes([command], folder, options.threads)
    found = re.findall(r"iter \d+: loss ([\d.]+), time ([\d.]+)ms", output)
    if len(found) != steps:
        raise SystemExit(f"nanoGPT did {len(found)} of {steps} updates:\n{output}")
    update = statistics.median(float(ms) / 1e3 for _, ms in found[WARM:])
    return Taken(wall, cpu, update, statistics.mean(float(loss) for loss, _ in found[-5:]))


OURS = """
import json, sys, time
from depthwidth import Transformer
from verify.corpus import load
from verify.ensemble import train_ensemble
from verify.model import build
from verify.train import Training, train

o = json.loads(sys.argv[1])
tree = Transformer(
    depth=o["depth"], width=o["width"], heads=o["heads"], vocab=256, context=o["context"], bias=False, norm_bias=False
)
corpus, times = load("corpus"), [time.perf_counter()]
trainings = [
    Training(steps=o["steps"], batch=o["batch"], context=o["context"], warmup=10, precision=o["precision"], data_seed=i,
             compile=o["compile"], evaluate_batches=0)
    for i in range(o["members"])
]
models = [build(tree, seed=o["first"] + i) for i in range(o["members"])]

class Clock:
    def log(self, step, values):
        times.append(time.perf_counter())
    def close(self):
        pass

if len(models) == 1:
    outcomes = [train(models[0], corpus, trainings[0], device=o["device"], loggers=[Clock()], log_every=1, progress=False)]
else:
    outcomes = train_ensemble(
        models, corpus, trainings, mode=o["mode"], device=o["device"], on_step=lambda step, losses: Clock().log(step, losses)
    )
print(json.dumps({"times": times, "losses": [x.losses[-5:] for x in outcomes]}))
"""


def ours(options: argparse.Namespace, folder: Path, steps: int, members: int) -> Taken:
    """One run of ours: a model, or an ensemble split over some processes."""
    workers = min(options.workers, members)
    base = {
        name: getattr(options, name) for name in ("depth", "width", "heads", "context", "batch", "device", "compile", "mode")
    }
    commands = []
    for worker in range(workers):
        share = members // workers + (worker < members % workers)
        argument = {**base, "steps": steps, "precision": options.dtype, "members": share, "first": 100 * worker}
        commands.append([sys.executable, "-c", OURS, json.dumps(argument)])
    outputs, wall, cpu = processes(commands, folder, options.threads)
    found = [json.loads(output) for output in outputs]
    clocks = [one["times"][WARM:] for one in found]
    update = max(statistics.median(b - a for a, b in itertools.pairwise(times)) for times in clocks)
    return Taken(wall, cpu, update, statistics.mean(loss for one in found for row in one["losses"] for loss in row))


def long_and_short(run: Callable[[int], Taken], steps: int) -> tuple[Taken, float]:
    """A long run, and processor seconds of an update."""
    short, long = run(SHORT), run(steps)
    return long, (long.cpu - short.cpu) / (steps - SHORT)


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Both in turn."""
    members, steps, tokens = (options.members if options.sweep else 1), options.steps, options.batch * options.context
    peers = min(options.peers, members) if options.sweep else 1
    rows = []
    for _ in range(options.repeats):
        theirs_taken = [long_and_short(lambda n: theirs(options, folder, n), steps) for _ in range(peers)]
        ours_taken, our_cpu = long_and_short(lambda n: ours(options, folder, n, members), steps)
        scale = members / peers
        rows.append(
            {
                "their wall": scale * sum(one.wall for one, _ in theirs_taken),
                "our wall": ours_taken.wall,
                "their update": scale * sum(one.update for one, _ in theirs_taken),
                "our update": ours_taken.update,
                "their cpu": scale * sum(cpu for _, cpu in theirs_taken),
                "our cpu": our_cpu,
                "their loss": statistics.mean(one.loss for one, _ in theirs_taken),
                "our loss": ours_taken.loss,
            }
        )
        sys.stderr.write(json.dumps({name: round(value, 4) for name, value in rows[-1].items()}) + "\n")

    def ratio(name: str) -> str:
        return spread([row[f"their {name}"] / row[f"our {name}"] for row in rows])

    return {
        "models": f"{members}; nanoGPT run {peers} times{'' if peers == members else ', its times scaled up'}",
        "shape": f"depth {options.depth}, width {options.width}, {options.heads} heads, context {options.context}, "
        f"batch {options.batch}, {options.dtype}, compile {options.compile}, {options.device}",
        "updates a model": f"{steps}; {options.threads} threads a process, {options.workers} of ours",
        "nanoGPT, tokens a processor second": spread([members * tokens / row["their cpu"] for row in rows], 0),
        "ours, tokens a processor second": spread([members * tokens / row["our cpu"] for row in rows], 0),
        "ratio, whole processes": ratio("wall"),
        "ratio, wall clock of an update": ratio("update"),
        "ratio, processor time of an update": ratio("cpu"),
        "last losses, nanoGPT": spread([row["their loss"] for row in rows]),
        "last losses, ours": spread([row["our loss"] for row in rows]),
    }


def modes(members: int, repeats: int) -> dict[str, str]:
    """Processor milliseconds of an update of all members, in one thread, the two ways in turn."""
    import torch

    from depthwidth import Transformer
    from verify.corpus import python_sources
    from verify.ensemble import train_ensemble
    from verify.model import build
    from verify.train import Training

    torch.set_num_threads(1)
    corpus, found = python_sources(BYTES), {}
    for width, batch, context in ((32, 4, 32), (128, 1, 32), (128, 1, 64), (128, 4, 64), (128, 12, 64)):
        tree = Transformer(depth=4, width=width, heads=4, vocab=256, context=context)
        training = Training(steps=4, batch=batch, context=context, evaluate_batches=0)
        taken: dict[str, list[float]] = {"batched": [], "loop": []}
        for _ in range(repeats):
            for mode, seconds in taken.items():
                times: list[float] = []
                train_ensemble(
                    [build(tree, seed=i) for i in range(members)], corpus, training, mode=mode, device="cpu",  # type: ignore[arg-type]
                    on_step=lambda *_, times=times: times.append(time.process_time()),  # type: ignore[misc]
                )  # fmt: skip
                seconds.append(1e3 * statistics.median(b - a for a, b in itertools.pairwise(times)))
        name = f"{members} of {tree.parameters:,} parameters, {batch * context} tokens"
        found[name] = ", ".join(f"{mode} {spread(seconds, 0)}" for mode, seconds in taken.items())
    return found


def updates(options: argparse.Namespace) -> dict[str, str]:
    """Processor milliseconds of an update, in one process and one thread, nanoGPT's model and optimizer and ours in turn.

    What ``train.py`` does in an update is written out here with nanoGPT's own model, optimizer and way to read its data; it is
    what to read on a machine that others use, where the times of whole processes mean little.
    """
    import numpy as np
    import torch

    from depthwidth import Transformer
    from verify.corpus import python_sources
    from verify.ensemble import train_ensemble
    from verify.model import build
    from verify.train import Training, train

    sys.path.insert(0, str(options.nanogpt))
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    corpus, context, batch, members = python_sources(BYTES), options.context, options.batch, options.members
    data = corpus.train.numpy().astype(np.uint16)
    shape = {"n_layer": options.depth, "n_head": options.heads, "n_embd": options.width, "block_size": context}
    peer = GPT(GPTConfig(vocab_size=256, dropout=0.0, bias=False, **shape))
    optimizer = peer.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")

    def their_update() -> None:
        places = torch.randint(len(data) - context, (batch,))
        x, y = (torch.stack([torch.from_numpy(data[i + j : i + j + context].astype(np.int64)) for i in places]) for j in (0, 1))
        peer(x, y)[1].backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    tree = Transformer(
        depth=options.depth, width=options.width, heads=options.heads, vocab=256, context=context, bias=False, norm_bias=False
    )
    taken: dict[str, list[float]] = {"nanoGPT": [], "ours, one model": [], "ours, ensemble": []}

    def lap(name: str, since: list[float], models: int) -> None:
        """Add the time since the last lap, then let nanoGPT have its turn."""
        now = time.process_time()
        if since:
            taken[name].append(1e3 * (now - since.pop()) / models)
        start = time.process_time()
        their_update()
        taken["nanoGPT"].append(1e3 * (time.process_time() - start))
        since.append(time.process_time())

    class Clock:
        since: list[float]

        def log(self, step: int, values: object) -> None:
            lap("ours, one model", self.since, 1)

        def close(self) -> None:
            pass

    clock, since = Clock(), list[float]()
    clock.since = []
    training = Training(steps=options.steps, batch=batch, context=context, evaluate_batches=0)
    train(build(tree, seed=0), corpus, training, loggers=[clock], log_every=1, device="cpu", progress=False)
    training = Training(
        steps=max(options.steps // 4, 6), batch=batch, context=context, evaluate_batches=0, compile=options.compile
    )
    models = [build(tree, seed=i) for i in range(members)]
    train_ensemble(
        models, corpus, training, mode=options.mode, device="cpu", on_step=lambda *_: lap("ours, ensemble", since, members)
    )
    middle = {name: statistics.median(times) for name, times in taken.items()}
    found = {f"{name}, ms a model": spread(times, 2) for name, times in taken.items()}
    found |= {f"ratio, {name}": f"{middle['nanoGPT'] / middle[name]:.2f}" for name in ("ours, one model", "ours, ensemble")}
    return {"shape": f"{members} of {tree.parameters:,} parameters, {batch * context} tokens, {options.mode}", **found}


def spread(values: list[float], digits: int = 2) -> str:
    """Median and quartiles."""
    if len(values) < 2:
        return f"{values[0]:,.{digits}f}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path)
    parser.add_argument("--updates", action="store_true", help="compare updates inside one process")
    parser.add_argument("--modes", action="store_true", help="compare the ways through an ensemble")
    parser.add_argument("--sweep", action="store_true", help="many models instead of one")
    sizes = {"members": 16, "peers": 16, "workers": 1, "depth": 4, "width": 128, "heads": 4, "context": 64, "batch": 12}
    for name, value in {**sizes, "steps": 60, "repeats": 5, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    parser.add_argument("--mode", default="auto", choices=("auto", "batched", "loop"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.steps <= SHORT + WARM:
        parser.error(f"--steps must exceed {SHORT + WARM}")
    if options.modes:
        found: dict[str, Any] = modes(options.members, options.repeats)
    elif options.updates and options.nanogpt is not None:
        found = updates(options)
    elif options.nanogpt is None:
        parser.error("--nanogpt PATH or --modes says what to measure")
    else:
        with tempfile.TemporaryDirectory() as name:
            prepare(options.nanogpt, Path(name))
            found = compare(options, Path(name))
    lines = json.dumps(found, indent=1) if options.json else "\n".join(f"{key:<44}{value}" for key, value in found.items())
    sys.stdout.write(lines + "\n")


if __name__ == "__main__":
    main()
