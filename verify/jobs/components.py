"""Moments of single components against their formulas, over the grids of Kedia et al. 2024 and, for attention, beyond them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ..measure.component_settings import Problem, cells, sample, settings_of, site
from ..rows import Row
from . import Comparison, Context, Job, Limit, Measurement, Prediction, Run, Verdict, outcome_of, version_of

PERCENTILES = (50, 90, 99)
ROUNDING = 0.05
"""Half of the last digit of the authors' percentiles, in per cent."""
BEYOND = 5.0
"""Allowed 90th percentile of the error beyond the grids, in per cent."""


class _Size(NamedTuple):
    problems: int | None
    """of each component and grid, a seeded sample; all by default"""
    effort: float
    """draws, in units of the usual number"""
    seeds: int
    only: tuple[str, ...] = ()
    """components and grids; all by default"""


_SIZES: dict[str, _Size] = {
    "tiny": _Size(1, 0.5, 1, ("layernorm", "softmax", "dropout", "short")),
    "small": _Size(None, 1.0, 1),
    "gpu": _Size(None, 10.0, 1),
    "full": _Size(None, 100.0, 4),
}


def runs(size: str) -> Iterator[Run]:
    """One run for each problem and seed. Attention on the grid, where draws are largest, takes half the usual number."""
    made = _SIZES[size]
    version = version_of("depthwidth.analysis.component_grid", "depthwidth.signal.alibi_attention")
    for problem in sample(made.problems, 1):
        if made.only and not {problem.component, problem.grid} & set(made.only):
            continue
        predicted = tuple(_predicted(problem, version))
        effort = made.effort * (0.5 if (problem.component, problem.grid) == ("attention", "official") else 1.0)
        spec = {
            "component": problem.component,
            "grid": problem.grid,
            "settings": [list(one) for one in problem.settings],
            "effort": effort,
            "dtype": "float32",
        }
        for seed in range(1, made.seeds + 1):
            labels = {"component": problem.component, "grid": problem.grid}
            yield Run(spec, seed, labels, predicted, cost=effort * _COST.get(problem.component, 1.0))


_COST = {"attention": 3.0, "linear": 2.0, "relu": 4.0, "gelu": 4.0}
"""Seconds of one problem on one core, about."""


def _predicted(problem: Problem, version: str) -> Iterator[Prediction]:
    from ._component_moments import predictions

    for cell in cells(problem):
        expected, _ = predictions(problem.component, problem.grid, (*problem.settings, *cell.free.items()))
        for quantity in cell.quantities:
            formula = "depthwidth.analysis.component_grid.predict"
            yield Prediction(quantity, expected[quantity], formula, version, site(problem, cell.free))


def predicted_now(row: Row) -> float:
    """The prediction of today's formulas for a row, which may have been measured at any time."""
    from ._component_moments import predictions

    component, grid = row.labels["component"], row.labels["grid"]
    return predictions(component, grid, settings_of(component, grid, row.site))[0][row.quantity]


def measure(spec: Mapping[str, Any], context: Context) -> Iterator[Measurement]:
    """Simulate one problem. A killed simulation starts again."""
    from ..measure.components import Draws, simulate
    from ._component_moments import predictions

    problem = Problem(spec["component"], spec["grid"], tuple((name, value) for name, value in spec["settings"]))
    about = {site(problem, cell.free): cell for cell in cells(problem)}
    for found in simulate(problem, Draws(context.device, context.seed, spec["effort"])):
        cell = about[found.site]
        _, published = predictions(problem.component, problem.grid, (*problem.settings, *cell.free.items()))
        labels: dict[str, Any] = {"cells": cell.stands_for, "draws": found.draws}
        if found.scale is not None:
            labels["scale"] = found.scale
        if found.quantity in published:
            labels["published"] = float(published[found.quantity])
        yield Measurement(found.quantity, found.value, found.site, stderr=found.stderr, labels=labels)


# ---- what the rows say together ----


def relative_error(row: Row) -> float:
    """The recorded relative error of a row if there is one, else that of its own numbers."""
    if "relative_error" in row.labels:
        return float(row.labels["relative_error"])
    unit = _unit(row)
    return (row.expected - row.value) / unit if unit else 0.0


def standard_errors(row: Row) -> float:
    """The difference of prediction and measurement in standard errors, recorded or computed; 0 if nothing was drawn."""
    if "z" in row.labels:
        return float(row.labels["z"])
    error = row.stderr or 0.0
    return (row.expected - row.value) / error if error > 1e-9 * _unit(row) else 0.0


def _unit(row: Row) -> float:
    return abs(float(row.labels.get("scale", row.value)))


def summary(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Percentiles of the error over settings, for each component, grid and quantity, in per cent.

    ``error`` is as measured, ``noise`` the standard error, and ``clean`` the error with the noise taken out in squares,
    sqrt(max(0, error^2 - stderr^2)). Each row counts for the settings it stands for. ``authors`` are the percentiles that
    Kedia et al. print, ``published`` those of their forms against our measurements.
    """
    import numpy as np

    from depthwidth.coefficients import reference

    theirs = {(r["component"], r["quantity"]): r for r in reference("kedia2024_component_errors")}
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.labels["component"], row.labels["grid"], row.quantity), []).append(row)
    found = []
    for (component, grid, quantity), members in groups.items():
        error = np.abs([relative_error(row) for row in members])
        noise = np.array([(row.stderr or 0.0) / (_unit(row) or 1.0) for row in members])
        weight = np.array([row.labels["cells"] for row in members])
        z = np.abs([standard_errors(row) for row in members])
        line = {"component": component, "grid": grid, "quantity": quantity, "settings": int(weight.sum()), "rows": len(members)}
        line |= _percentiles("error", error, weight)
        line |= _percentiles("noise", noise, weight)
        line |= _percentiles("clean", np.sqrt(np.maximum(error**2 - noise**2, 0)), weight)
        if grid == "official" and (by := theirs.get((component, quantity))):
            line |= {f"authors_p{p}": float(by[f"p{p}_percent"]) for p in PERCENTILES}
        if published := [row for row in members if "published" in row.labels]:
            other = np.abs([(row.labels["published"] - row.value) / _unit(row) for row in published])
            line |= _percentiles("published", other, np.array([row.labels["cells"] for row in published]))
        line |= {
            "worst": round(100 * float(error.max()), 3),
            "worst_at": members[int(error.argmax())].site,
            "beyond_3_stderr": round(float(weight[z > 3].sum() / weight.sum()), 4),
        }
        found.append(line)
    return found


def _percentiles(name: str, values: Any, weights: Any) -> dict[str, float]:
    """Weighted percentiles, in per cent."""
    import numpy as np

    order = np.argsort(values)
    reached = np.cumsum(weights[order]) / weights.sum()
    return {
        f"{name}_p{p}": round(100 * float(values[order][min(int(np.searchsorted(reached, p / 100)), order.size - 1)]), 4)
        for p in PERCENTILES
    }


def judge(rows: Sequence[Row], predictions: Sequence[Prediction]) -> Verdict:
    """Each quantity of each component and grid, by percentiles over settings."""
    lines, good = [], []
    for line in summary(rows):
        name = f"{line['component']} {line['grid']}: {line['quantity']}"
        if "authors_p50" in line:
            gaps = {p: line[f"clean_p{p}"] - line[f"authors_p{p}"] for p in PERCENTILES}
            worst = max(gaps, key=lambda p: gaps[p])
            limit, passes = line[f"authors_p{worst}"], gaps[worst] <= ROUNDING
            most = limit + ROUNDING
        else:
            worst, limit, most = 90, BEYOND, BEYOND
            passes = line["clean_p90"] <= BEYOND
        note = f"{line['settings']} settings, noise {line[f'noise_p{worst}']:.2g}"
        what = f"{name}, percentile {worst} of the error in per cent (predicted: the limit)"
        lines.append(Comparison(what, limit, line[f"clean_p{worst}"], None, passes, note, Limit(high=most)))
        good += [name] if passes else []
    if not lines:
        return Verdict("undecided", "no rows")
    text = f"{len(good)} of {len(lines)} quantities of components are within their limits"
    return Verdict(outcome_of(len(good), len(lines) - len(good)), text, tuple(lines))


JOB = Job(
    name="components",
    question="Are the moments of single components, forward and backward, those of their formulas over whole grids?",
    claim="Mean, variance and covariance of the output, and of the gradient at the input, follow from the formulas alone.",
    measured="Those moments of linear maps, activations, norms, dropout, softmax and attention, over random draws.",
    criterion="With the noise taken out in squares, no percentile (50, 90, 99) of the error over a grid of Kedia et al. is "
    f"above theirs; beyond their grids 9 of 10 settings are within {BEYOND:g} %. It holds for the quantities that meet this.",
    runs=runs,
    measure=measure,
    judge=judge,
)
