"""Error of trained diffuse heads of few dimensions against the law of long rows."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from depthwidth.formulas.heads import diffuse_errors, power_spectrum

from ..rows import Row
from . import Comparison, Context, Job, Limit, Measurement, Prediction, Run, Verdict, outcome_of, version_of

LOWEST = 0.5
"""Least ratio of the trained error to the law. The law is that of infinitely long rows and overestimates short ones."""

TEACHER_DIMS = 16


class _Size(NamedTuple):
    lengths: tuple[int, ...]
    dims: tuple[int, ...]
    seeds: int
    steps: int


_SIZES: dict[str, _Size] = {
    "tiny": _Size((32, 64), (4,), 1, 60),
    "small": _Size((64, 256), (1, 4, 8, 12), 1, 800),
    "gpu": _Size((64, 256, 1024), (1, 2, 4, 8, 12), 3, 2000),
    "full": _Size((64, 256, 1024, 4096), (1, 2, 4, 6, 8, 10, 12, 14), 5, 5000),
}


@functools.cache
def _law(length: int) -> tuple[float, ...]:
    """The predicted error for each number of dimensions of the student, from 0."""
    return tuple(map(float, diffuse_errors(power_spectrum(TEACHER_DIMS, 1.0, 1.0), length)))


def runs(size: str) -> Iterator[Run]:
    """One training for each length, head dimension and seed."""
    made, version = _SIZES[size], version_of("depthwidth.formulas.heads")
    for n in made.lengths:
        for d in made.dims:
            predicted = Prediction("truncation_error", _law(n)[d], "depthwidth.formulas.heads.diffuse_errors", version)
            for seed in range(made.seeds):
                spec = {"length": n, "head_dim": d, "teacher_dims": TEACHER_DIMS, "steps": made.steps, "dtype": "float32"}
                labels = {"length": n, "heads": 1, "head_dim": d, "steps": made.steps}
                yield Run(spec, seed, labels, (predicted,), cost=made.steps * (64 + n))


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """Train one student; its error on fresh rows."""
    from ..training.single_heads import train_diffuse

    error, stderr = train_diffuse(
        spec["length"],
        spec["head_dim"],
        power_spectrum(spec["teacher_dims"], 1.0, 1.0),
        seed=context.seed,
        steps=spec["steps"],
        folder=context.folder / "training",
        device=context.device,
    )
    yield Measurement("truncation_error", error, stderr=stderr)


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """Each head dimension at each length, by the mean over seeds; and the order of the lengths."""
    settings: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        if row.quantity == "truncation_error":
            settings.setdefault((row.labels["head_dim"], row.labels["length"]), []).append(row)
    if not settings:
        return Verdict("undecided", "no rows")
    lines, good = [], []
    ratio = {key: mean(row.value for row in its) / its[0].expected for key, its in settings.items()}
    for (d, n), its in sorted(settings.items()):
        shorter = [ratio[key] for key in settings if key[0] == d and key[1] < n]
        nearer = all(other < ratio[d, n] for other in shorter)
        passes = LOWEST <= ratio[d, n] <= 1 and nearer
        limit = Limit(LOWEST * its[0].expected, its[0].expected) if nearer else None
        values = [row.value for row in its]
        spread = stdev(values) if len(values) > 1 else its[0].stderr
        note = f"{ratio[d, n]:.3f} of the law"
        lines.append(Comparison(f"d_h={d} n={n}", its[0].expected, mean(values), spread, passes, note, limit))
        good += [(d, n)] if passes else []
    summary = f"{len(good)} of {len(settings)} settings are below the law and nearer to it at greater length"
    return Verdict(outcome_of(len(good), len(settings) - len(good)), summary, tuple(lines))


JOB = Job(
    name="diffuse-saturation",
    question="Does the error of a diffuse head with too few dimensions fall with the row's length as the law of long rows?",
    claim="The error is that of the truncated teacher, proportional to 1/n for long rows; the law overestimates short rows.",
    measured="Squared error of a trained student's attention weights, with fewer dimensions than its random-attention teacher.",
    criterion=f"The error is {LOWEST:g} to 1 times the law, and the ratio is nearer to 1 at every greater length. "
    "It holds on the settings that meet this.",
    runs=runs,
    measure=measure,
    judge=judge,
)
