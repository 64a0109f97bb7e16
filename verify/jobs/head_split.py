"""One budget of value dimensions, split among more and more heads that read several lags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from depthwidth.formulas.heads import dedicated_lag_loss

from ..rows import Row
from . import Comparison, Context, Job, Limit, Measurement, Prediction, Run, Verdict, outcome_of, version_of

TOLERANCE = 1e-4
"""Allowed relative loss below the floor: the rounding of a floor that training has reached."""


class _Size(NamedTuple):
    heads: tuple[int, ...]
    lags: int
    size: int
    """of the map of each lag"""
    budget: int
    """of value dimensions, shared by all heads"""
    seeds: int
    starts: int
    """trainings for each draw of the maps, of which the best counts"""
    steps: int


_SIZES: dict[str, _Size] = {
    "tiny": _Size((2, 4), 4, 6, 12, 1, 1, 400),
    "small": _Size((1, 2, 4, 8, 16, 32), 4, 16, 32, 3, 2, 4000),
    "gpu": _Size((1, 2, 4, 8, 16, 32), 4, 16, 32, 5, 4, 4000),
    "full": _Size((1, 2, 4, 8, 16, 32, 64), 8, 32, 128, 10, 8, 20_000),
}


def runs(size: str) -> Iterator[Run]:
    """One run for each number of heads and draw of the maps. The floor depends on the maps, which torch draws."""
    from ..training.single_heads import lag_floor

    made, version = _SIZES[size], version_of("depthwidth.formulas.heads")
    for heads in made.heads:
        for seed in range(made.seeds):
            if heads < made.lags:
                value = lag_floor(heads, lags=made.lags, size=made.size, seed=seed)
                predicted = Prediction("relative_loss", value, "depthwidth.formulas.heads.lag_floor", version)
            else:
                value = float(dedicated_lag_loss(made.budget // made.lags, made.size, 1))
                predicted = Prediction("relative_loss", value, "heads.dedicated_lag_loss", version)
            spec = {
                "heads": heads,
                "lags": made.lags,
                "size": made.size,
                "budget": made.budget,
                "starts": made.starts,
                "steps": made.steps,
                "dtype": "float64",
            }
            labels = {
                "length": made.lags,
                "heads": heads,
                "head_dim": made.budget // heads,
                "bound": "floor" if heads < made.lags else "dedicated",
            }
            yield Run(spec, seed, labels, (predicted,), cost=made.starts * made.steps)


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """The best of a few trainings."""
    from ..training.single_heads import train_lag_split

    losses = []
    for start in range(spec["starts"]):
        sizes = {name: spec[name] for name in ("lags", "size", "budget", "steps")}
        folder = context.folder / f"start-{start}"
        losses.append(train_lag_split(spec["heads"], **sizes, seed=context.seed, start=start, folder=folder))
        context.progress((start + 1) / spec["starts"])
    yield Measurement("relative_loss", min(losses))


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """Each number of heads, by its worst draw of the maps."""
    counts: dict[int, list[Row]] = {}
    for row in rows:
        if row.quantity == "relative_loss":
            counts.setdefault(row.labels["heads"], []).append(row)
    if not counts:
        return Verdict("undecided", "no rows")
    lines, good = [], []
    for heads, its in sorted(counts.items()):
        below = heads < its[0].labels["length"]
        worst = min(its, key=lambda r: r.value - r.expected) if below else max(its, key=lambda r: r.value - r.expected)
        limit = Limit(low=worst.expected - TOLERANCE) if below else Limit(high=worst.expected)
        passes = limit.is_met(worst.value, None)
        what = f"{heads} heads: {'not below the floor' if below else 'not above dedicated heads'}, worst of {len(its)} draws"
        lines.append(Comparison(what, worst.expected, worst.value, None, passes, limit=limit))
        good += [heads] if passes else []
    summary = f"{len(good)} of {len(counts)} numbers of heads keep to their bound"
    return Verdict(outcome_of(len(good), len(counts) - len(good)), summary, tuple(lines))


JOB = Job(
    name="head-split",
    question="Given one budget of value dimensions, is it better to share heads among lags than to dedicate each to one lag?",
    claim="Fewer heads than lags cannot pass a floor; as many or more lose no more than heads dedicated to one lag each.",
    measured="Relative loss of the best of several trainings, in float64, of heads with free position biases.",
    criterion="For every draw of the maps the loss is not below the floor if heads are fewer than lags, and otherwise not "
    "above the loss of dedicated heads. It holds for the numbers of heads that meet this.",
    runs=runs,
    measure=measure,
    judge=judge,
)
