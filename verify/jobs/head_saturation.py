"""Error of a trained look-up head, and its knee over the head dimension, against theory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from depthwidth.formulas.heads import best_retrieval_error, critical_head_dim

from ..rows import Row
from . import Comparison, Context, Job, Limit, Measurement, Prediction, Run, Verdict, outcome_of, version_of

TOLERANCE = 0.02
"""Allowed difference between a trained error and the predicted one, absolute."""

_FACTORS = (0.5, 1.0, 1.5, 2.0)

# lengths, head dimensions in units of 2 ln n, steps, seeds
_SIZES: dict[str, tuple[tuple[int, ...], tuple[float, ...], int, int]] = {
    "tiny": ((16,), (0.5, 1.5), 300, 1),
    "small": ((16, 64, 256, 1024), _FACTORS, 1500, 2),
    "gpu": ((16, 64, 256, 1024), _FACTORS, 2500, 3),
    "full": ((16, 64, 256, 1024, 4096), (0.25, *_FACTORS, 3.0), 5000, 5),
}


def runs(size: str) -> Iterator[Run]:
    """One training for each length, head dimension and seed."""
    lengths, factors, steps, seeds = _SIZES[size]
    version = version_of("depthwidth.formulas.heads")
    for n in lengths:
        for d in sorted({max(1, round(f * critical_head_dim(n))) for f in factors}):
            predicted = Prediction("retrieval_error", best_retrieval_error(n, d), "heads.best_retrieval_error", version)
            for seed in range(seeds):
                spec = {"length": n, "head_dim": d, "steps": steps, "dtype": "float32"}
                labels = {"length": n, "head_dim": d, "over_critical": round(d / critical_head_dim(n), 3)}
                yield Run(spec, seed, labels, (predicted,), cost=steps * (64 + n))


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """Train one head; its error on fresh rows."""
    from ..training.single_heads import train_retrieval

    error, stderr = train_retrieval(
        spec["length"], spec["head_dim"], seed=context.seed, steps=spec["steps"],
        folder=context.folder / "training", device=context.device,
    )  # fmt: skip
    yield Measurement("retrieval_error", error, stderr=stderr)


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """Each setting, by its worst seed."""
    settings: dict[tuple[int, int], list[Row]] = {}
    for row in rows:
        if row.quantity == "retrieval_error":
            settings.setdefault((int(row.labels["length"]), int(row.labels["head_dim"])), []).append(row)
    if not settings:
        return Verdict("undecided", "no rows")
    lines, good = [], []
    for (n, d), its in sorted(settings.items()):
        values, predicted = [row.value for row in its], its[0].expected
        passes = all(abs(v - predicted) <= TOLERANCE for v in values)
        spread = stdev(values) if len(values) > 1 else its[0].stderr
        limit = Limit.around(predicted, TOLERANCE) if passes else None  # by the worst seed: the mean does not tell a failure
        lines.append(Comparison(f"n={n} d_h={d}", predicted, mean(values), spread, passes, limit=limit))
        good += [(n, d)] if passes else []
    worst = max(abs(row.value - row.expected) for its in settings.values() for row in its)
    summary = f"{len(good)} of {len(settings)} settings within {TOLERANCE} of the least error; the worst is {worst:.3f} off"
    return Verdict(outcome_of(len(good), len(settings) - len(good)), summary, tuple(lines))


JOB = Job(
    name="head-saturation",
    question="Does a trained head look tokens up as well as the theory's best head, at every length and head dimension?",
    claim="The error is min over c of 1 - (E p_t)^2 / E sum p^2, with the knee at 2 ln n dimensions and nothing fitted.",
    measured="Normalised squared error of a trained look-up head on fresh Gaussian keys.",
    criterion=f"Every seed's error is within {TOLERANCE} of the predicted one. It holds on the settings that meet this.",
    runs=runs,
    measure=measure,
    judge=judge,
)
