"""Training speed compared with nanoGPT's ``train.py``, for one model and for a sweep of many.

    python tests/benchmarks/training.py --nanogpt PATH             # a checkout of github.com/karpathy/nanoGPT
    python tests/benchmarks/training.py --nanogpt PATH --sweep     # 16 models: one ensemble against 16 runs
    python tests/benchmarks/training.py --nanogpt PATH --updates   # single updates, alternating in one process
    python tests/benchmarks/training.py --nanogpt PATH --ceiling   # the time of an update by operation, and the possible gain
    python tests/benchmarks/training.py --modes                    # without nanoGPT: the two modes of an ensemble

Both train the same shape (no biases, tied embedding, GELU, learned positions) on the same bytes with the same batch, context,
optimizer and precision. Each runs in its own processes, alternating (A B A B ..), so that changes in the speed of the machine
affect both. nanoGPT's files are linked into a temporary folder, because it reads its data relative to the working directory.

Three ratios are printed, nanoGPT's time over ours, as medians over the repeats with quartiles:

- *whole processes*: from start to end, including imports;
- *wall clock of an update*: the median update, as printed or recorded by each program;
- *processor time of an update*: the difference between a long and a short run, divided by the difference in updates. With one
  thread it equals the wall clock on an idle machine, and it stays valid on a busy one. With several threads it includes threads
  that spin while they wait, which dominates on a busy machine.

The share of the processors used by other programs is printed too. If it is large, the wall clock and, with several threads, the
processor time are not meaningful.

This script measures; nothing passes or fails.
"""

from __future__ import annotations

import argparse
import functools
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
    """The times of one run in seconds, and the mean loss of its last five updates."""

    wall: float
    cpu: float
    update: float
    loss: float


def prepare(nanogpt: Path, folder: Path) -> None:
    """Create links to nanoGPT's files, and write the corpus in nanoGPT's format."""
    from verify.training.corpus import python_sources

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
    """Run commands concurrently; returns their outputs, and the seconds of wall clock and of processors."""
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


def busy() -> tuple[float, float]:
    """Seconds since the machine started that all processors were busy, and in total."""
    user, nice, system, idle, waiting, *rest = (
        int(word) for word in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
    )
    working, tick = user + nice + system + sum(rest), os.sysconf("SC_CLK_TCK")
    return working / tick, (working + idle + waiting) / tick


def theirs(options: argparse.Namespace, folder: Path, steps: int) -> Taken:
    """One run of nanoGPT."""
    settings = {
        "dataset": "bytes", "out_dir": "out", "device": options.device, "dtype": options.dtype,
        "compile": options.compile == "both",
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
from verify.training.corpus import load
from verify.training.ensemble import train_ensemble
from verify.models.model import build
from verify.training.train import Training, train

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
    base = {name: getattr(options, name) for name in ("depth", "width", "heads", "context", "batch", "device", "mode")}
    base["compile"] = options.compile is not None
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
    """The result of a long run, and the processor seconds per update."""
    short, long = run(SHORT), run(steps)
    return long, (long.cpu - short.cpu) / (steps - SHORT)


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Compare both programs, alternating runs."""
    members, steps, tokens = (options.members if options.sweep else 1), options.steps, options.batch * options.context
    peers = min(options.peers, members) if options.sweep else 1
    rows, known = [], Path("/proc/stat").exists()
    before, own = busy() if known else (0.0, 0.0), sum(os.times()[:4])
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

    after = busy() if known else (0.0, 0.0)
    others = (after[0] - before[0] - sum(os.times()[:4]) + own) / (after[1] - before[1]) if known else float("nan")

    def ratio(name: str) -> str:
        return spread([row[f"their {name}"] / row[f"our {name}"] for row in rows])

    return {
        "models": f"{members}; nanoGPT run {peers} times{'' if peers == members else ', its times scaled up'}",
        "shape": f"depth {options.depth}, width {options.width}, {options.heads} heads, context {options.context}, "
        f"batch {options.batch}, {options.dtype}, compile {options.compile or 'neither'}, {options.device}",
        "updates a model": f"{steps}; {options.threads} threads a process, {options.workers} of ours",
        "nanoGPT, tokens a processor second": spread([members * tokens / row["their cpu"] for row in rows], 0),
        "ours, tokens a processor second": spread([members * tokens / row["our cpu"] for row in rows], 0),
        "ratio, whole processes": ratio("wall"),
        "ratio, wall clock of an update": ratio("update"),
        "ratio, processor time of an update": ratio("cpu"),
        "processors that others took": f"{others:.0%}",
        "last losses, nanoGPT": spread([row["their loss"] for row in rows]),
        "last losses, ours": spread([row["our loss"] for row in rows]),
    }


def modes(members: int, repeats: int) -> dict[str, str]:
    """Processor milliseconds per update of all members with one thread, for both modes in alternation."""
    import torch

    from depthwidth import Transformer
    from verify.models.model import build
    from verify.training.corpus import python_sources
    from verify.training.ensemble import train_ensemble
    from verify.training.train import Training

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


def peer(options: argparse.Namespace, tokens: Any) -> Callable[[], None]:
    """A function that makes one update like nanoGPT's ``train.py``, with nanoGPT's model and optimizer."""
    import numpy as np
    import torch

    sys.path.insert(0, str(options.nanogpt))
    from model import GPT, GPTConfig  # type: ignore[import-not-found]

    context, data = options.context, tokens.astype(np.uint16)
    shape = {"n_layer": options.depth, "n_head": options.heads, "n_embd": options.width, "block_size": context}
    model = GPT(GPTConfig(vocab_size=256, dropout=0.0, bias=False, **shape))
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.95), "cpu")

    def update() -> None:
        places = torch.randint(len(data) - context, (options.batch,))
        x, y = (torch.stack([torch.from_numpy(data[i + j : i + j + context].astype(np.int64)) for i in places]) for j in (0, 1))
        model(x, y)[1].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return update


def updates(options: argparse.Namespace) -> dict[str, str]:
    """Processor milliseconds per update in one process and one thread, for nanoGPT and ours in alternation.

    An update of ``train.py`` is repeated here with nanoGPT's model, optimizer and data reader. These times stay valid on a busy
    machine, unlike the times of whole processes.
    """
    import torch

    from depthwidth import Transformer
    from verify.models.model import build
    from verify.training.corpus import python_sources
    from verify.training.ensemble import train_ensemble
    from verify.training.train import Training, train

    torch.set_num_threads(1)
    corpus, context, batch, members = python_sources(BYTES), options.context, options.batch, options.members
    their_update = peer(options, corpus.train.numpy())

    tree = Transformer(
        depth=options.depth, width=options.width, heads=options.heads, vocab=256, context=context, bias=False, norm_bias=False
    )
    taken: dict[str, list[float]] = {"nanoGPT": [], "ours, one model": [], "ours, ensemble": []}

    def lap(name: str, since: list[float], models: int) -> None:
        """Add the time since the last lap, then make an update of nanoGPT."""
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
        steps=max(options.steps // 4, 6), batch=batch, context=context, evaluate_batches=0, compile=options.compile is not None
    )
    models = [build(tree, seed=i) for i in range(members)]
    train_ensemble(
        models, corpus, training, mode=options.mode, device="cpu", on_step=lambda *_: lap("ours, ensemble", since, members)
    )
    middle = {name: statistics.median(times) for name, times in taken.items()}
    found = {f"{name}, ms a model": spread(times, 2) for name, times in taken.items()}
    found |= {f"ratio, {name}": f"{middle['nanoGPT'] / middle[name]:.2f}" for name in ("ours, one model", "ours, ensemble")}
    return {"shape": f"{members} of {tree.parameters:,} parameters, {batch * context} tokens, {options.mode}", **found}


class Operations:
    """The minimum over updates of the time of each operation, which is little affected by other programs.

    The sum of these minima is below the time of any update: no update is fastest in all operations, and the sum excludes the
    time of Python between operations.
    """

    def __init__(self) -> None:
        self.taken: dict[tuple[str, ...], list[list[float]]] = {}
        self.profile: Any = None

    def start(self) -> None:
        """Start profiling an update."""
        from torch.profiler import ProfilerActivity, profile

        self.profile = profile(activities=[ProfilerActivity.CPU])
        self.profile.__enter__()

    def stop(self) -> None:
        """Stop profiling and record the operations."""
        if self.profile is not None:
            self.profile.__exit__(None, None, None)
            events = sorted(self.profile.events(), key=lambda event: (event.time_range.start, -event.time_range.end))
            names = tuple(event.name for event in events)
            self.taken.setdefault(names, []).append([event.self_cpu_time_total / 1e3 for event in events])

    def milliseconds(self) -> tuple[float, float]:
        """Milliseconds of all operations, and of matrix products."""
        names, rows = max(self.taken.items(), key=lambda item: len(item[1]))
        least = [min(column) for column in zip(*rows, strict=True)]
        products = ("aten::mm", "aten::addmm", "aten::bmm")
        return sum(least), sum(time for name, time in zip(names, least, strict=True) if name in products)


def ceiling(options: argparse.Namespace) -> dict[str, str]:
    """The time of an update on both sides, compared with the time of its matrix products alone.

    nanoGPT runs with one thread and with all threads, ours with one thread per member, because members run concurrently. The
    matrix products are those of linear layers, without attention.
    """
    import torch
    from torch.nn import functional

    from depthwidth import Transformer
    from verify.models.model import build
    from verify.training.corpus import python_sources
    from verify.training.ensemble import train_ensemble
    from verify.training.train import Training

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    corpus, tokens, width = python_sources(BYTES), options.batch * options.context, options.width
    their_update = peer(options, corpus.train.numpy())

    def least(function: Callable[[], Any]) -> float:
        """Milliseconds of the fastest of 100 calls, in one thread."""
        times = []
        for _ in range(100):
            start = time.process_time()
            function()
            times.append(1e3 * (time.process_time() - start))
        return min(times)

    def watched(threads: int) -> tuple[float, float]:
        torch.set_num_threads(threads)
        found = Operations()
        for _ in range(options.steps):
            found.start()
            their_update()
            found.stop()
        return found.milliseconds()

    theirs_alone, theirs_all = watched(1), watched(cores)
    torch.set_num_threads(1)
    square = torch.randn(1024, 1024)
    peak = 2 * 1024**3 / least(lambda: square @ square) / 1e6
    linear = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)] * options.depth + [(256, width)]
    alone = 0.0
    for outputs, inputs in linear:
        x, w, g = torch.randn(tokens, inputs), torch.randn(outputs, inputs), torch.randn(tokens, outputs)
        alone += least(functools.partial(functional.linear, x, w)) + least(functools.partial(torch.mm, g, w))
        alone += least(functools.partial(torch.mm, g.t(), x))
    flops = 6 * tokens * sum(a * b for a, b in linear)
    tree = Transformer(
        depth=options.depth, width=width, heads=options.heads, vocab=256, context=options.context, bias=False, norm_bias=False
    )
    found = Operations()

    def step(*_: Any) -> None:
        found.stop()
        found.start()

    training = Training(steps=options.steps, batch=options.batch, context=options.context, evaluate_batches=0)
    train_ensemble([build(tree, seed=0)], corpus, training, mode="loop", device="cpu", on_step=step)
    found.profile.__exit__(None, None, None)
    ours_alone = found.milliseconds()

    def line(taken: tuple[float, float]) -> str:
        return f"{taken[0]:.1f}, of it products {taken[1]:.1f} ({flops / taken[1] / 1e6:.0f} GFLOP/s)"

    return {
        "shape": f"{tree.parameters:,} parameters, {tokens} tokens, {flops / 1e9:.2f} GFLOP in products of linear maps",
        "GFLOP/s of a core, 1024 x 1024 by 1024": f"{peak:.0f}",
        "products by themselves, ms": f"{alone:.1f} ({flops / alone / 1e6:.0f} GFLOP/s)",
        "nanoGPT, one thread, ms": line(theirs_alone),
        f"nanoGPT, {cores} threads, ms": line(theirs_all),
        "ours, one thread, ms": line(ours_alone),
        "ratio, one thread": f"{theirs_alone[0] / ours_alone[0]:.2f}",
        "ratio, all threads": f"{cores * theirs_all[0] / ours_alone[0]:.2f}",
        "ratio, one thread, ours but its products": f"{theirs_alone[0] / ours_alone[1]:.2f}",
        "ratio, all threads, ours but its products": f"{cores * theirs_all[0] / ours_alone[1]:.2f}",
    }


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
    parser.add_argument("--ceiling", action="store_true", help="where an update's time goes, and what could be gained")
    parser.add_argument("--sweep", action="store_true", help="many models instead of one")
    sizes = {"members": 16, "peers": 16, "workers": 1, "depth": 4, "width": 128, "heads": 4, "context": 64, "batch": 12}
    for name, value in {**sizes, "steps": 60, "repeats": 5, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    parser.add_argument("--mode", default="auto", choices=("auto", "batched", "loop"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    # nanoGPT's own command for a CPU has compile=False.
    parser.add_argument("--compile", choices=("ours", "both"), help="which side torch.compile is on for; neither by default")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.steps <= SHORT + WARM:
        parser.error(f"--steps must exceed {SHORT + WARM}")
    if options.modes:
        found: dict[str, Any] = modes(options.members, options.repeats)
    elif options.updates and options.nanogpt is not None:
        found = updates(options)
    elif options.ceiling and options.nanogpt is not None:
        found = ceiling(options)
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
