"""A job for the tests: a random walk that keeps checkpoints, is slow on demand, and fails or dies on demand."""

import json
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

from verify.files import write_whole
from verify.jobs import Comparison, Ensemble, Job, Measurement, Prediction, Run, Verdict

SIZES = {"tiny": (3, 40), "small": (6, 60)}


def runs(size):
    count, steps = SIZES[size]
    for seed in range(count):
        predictions = (Prediction("position", 0.0, "tests.walk", "1", "end", steps),)
        yield Run({"steps": steps, "dtype": "float64"}, seed, {"steps": steps}, predictions, cost=steps)


def measure(spec, context):
    trouble = os.environ.get("WALK_TROUBLE", "")
    kept = context.folder / "checkpoint.json"
    generator = random.Random(context.seed)  # noqa: S311
    step, position, path = 0, 0.0, []
    try:
        saved = json.loads(kept.read_text())
        step, position, path = saved["step"], saved["position"], saved["path"]
        internal, gauss = saved["state"]
        generator.setstate((3, tuple(internal), gauss))
    except (OSError, ValueError, KeyError):
        pass
    while step < spec["steps"]:
        position += generator.gauss(0, 1)
        step += 1
        if step % 10 == 0:
            path.append(position)
            _, internal, gauss = generator.getstate()
            saved = {"step": step, "position": position, "path": path, "state": [internal, gauss]}
            write_whole(kept, json.dumps(saved).encode())
            context.progress(step / spec["steps"])
        mark = Path(os.environ.get("WALK_MARK", context.folder)) / f"died-{context.seed}"
        if trouble == f"die {context.seed}" and step == 25 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == f"die always {context.seed}" and step == 25:
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == f"raise {context.seed}" and step == 25:
            raise RuntimeError("the walker stumbled")
        time.sleep(float(os.environ.get("WALK_PAUSE", 0.0)))
    for number, value in enumerate(path, 1):
        last = 10 * number == spec["steps"]
        yield Measurement("position", value, "end" if last else "way", 10 * number)
    if log := os.environ.get("WALK_LOG"):
        with Path(log).open("a") as file:
            file.write(f"{context.seed}\n")


def together(specs, contexts, folder):
    """Several walks, each in a folder of its own in the common one."""
    if os.environ.get("WALK_TROUBLE") == "raise together":
        raise MemoryError("too many walkers")
    with (Path(os.environ.get("WALK_MARK", folder)) / "together").open("a") as file:
        file.write("".join(str(context.seed) for context in contexts) + "\n")
    for spec, context in zip(specs, contexts, strict=True):
        own = folder / str(context.seed)
        own.mkdir(parents=True, exist_ok=True)
        yield tuple(measure(spec, replace(context, folder=own)))


def judge(rows, predictions):
    ends = [row for row in rows if row.site == "end"]
    lines = tuple(
        Comparison(f"seed {row.seed}", row.predicted, row.value, passes=abs(row.value) < 4 * row.step**0.5) for row in ends
    )
    return Verdict("holds" if ends and all(line.passes for line in lines) else "fails", f"{len(ends)} walks ended", lines)


JOB = Job(
    name="walk",
    question="Does a random walk stay near its start?",
    claim="Its mean is zero.",
    measured="The position.",
    criterion="Every end lies within four standard deviations of the start.",
    runs=runs,
    measure=measure,
    judge=judge,
    ensemble=Ensemble(lambda spec: spec["steps"], together),
)
