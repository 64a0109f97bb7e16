"""Errors of predictions for unseen models, of a fit and of a plain quadratic surface."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .problem import Problem
from .result import HeldOut

Array = NDArray[np.float64]
Index = NDArray[np.intp]


def held_out(
    problem: Problem, theta: Array, model: Index, left_out: Array, size: tuple[str, Array] | None,
    refit: Callable[[Problem, Array], Array],
) -> HeldOut:  # fmt: skip
    """Errors out of sample.

    Parameters
    ----------
    problem, theta : the problem and its minimum.
    model : number of each point's model.
    left_out : error of each point as predicted without its model.
    size : name and values of the column that orders models by size, if there is one.
    refit : the minimum of a problem, from a start.
    """
    large = large_bias = large_from = None
    if size is not None:
        by_model = np.array([size[1][model == m].mean() for m in range(model.max() + 1)])
        order = np.argsort(by_model, kind="stable")
        some = order[len(order) - len(order) // 3 :]
        rest = len(order) - len(some)
        if len(some) and rest > len(problem.names) and by_model[some].min() > by_model[order[0]]:
            out = np.isin(model, some)
            found = refit(problem.taken((~out).astype(float)), theta)
            errors = problem.taken(out.astype(float)).residuals(found)
            large, large_bias, large_from = _rms(errors), float(np.mean(errors)), float(by_model[some].min())
    surface = surface_errors(problem, model)
    gap = None
    if surface is not None:
        each = np.array([np.mean(left_out[model == m] ** 2 - surface[model == m] ** 2) for m in range(model.max() + 1)])
        gap = float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each)))
    return HeldOut(
        _rms(left_out), float(np.median(np.abs(left_out))), large, large_bias, large_from, size[0] if size else "",
        None if surface is None else _rms(surface), gap,
    )  # fmt: skip


def _rms(errors: Array) -> float:
    return float(np.sqrt(np.mean(errors**2)))


def surface_errors(problem: Problem, model: Index) -> Array | None:
    """Error of each point as predicted without its model by a quadratic in the logarithms of the columns, shape (points,).

    None if there are fewer models than its terms and three more, a column is not positive, or cells have factors of their own.
    """
    columns = {name: problem.data[name] for name in sorted(problem.right.variables & problem.data.keys())}
    if problem.cells is not None or not columns or any((column <= 0).any() for column in columns.values()):
        return None
    logs = _independent(columns)
    if not logs:
        return None
    design = np.stack([np.ones(len(model)), *logs, *(a * b for i, a in enumerate(logs) for b in logs[: i + 1])], axis=1)
    count = int(model.max()) + 1
    q, size, _ = np.linalg.svd(design, full_matrices=False)
    q = q[:, size > 1e-8 * size[0]]  # a column of two values has no square of its own
    if count < q.shape[1] + 3:
        return None
    target = np.log(problem.target) if problem.objective.logarithm else problem.target
    errors = np.zeros(len(model))
    # Leaving out a cluster of an ordinary regression needs no refit: e_out = (1 - H_gg)^-1 e.
    e = target - q @ (q.T @ target)
    for m in range(count):
        rows = np.flatnonzero(model == m)
        if len(rows) > 2000:
            return None
        hat = q[rows] @ q[rows].T
        try:
            errors[rows] = -np.linalg.solve(np.eye(len(rows)) - hat, e[rows])
        except np.linalg.LinAlgError:
            return None
    return errors


def _independent(columns: Mapping[str, Array]) -> list[Array]:
    """Logarithms of the columns, centred and scaled, without those that follow from the others."""
    kept: list[Array] = []
    for column in columns.values():
        log = np.log(column)
        spread = log.std()
        if spread < 1e-9:
            continue
        log = (log - log.mean()) / spread
        if kept:
            basis = np.stack([np.ones(len(log)), *kept], axis=1)
            rest = log - basis @ np.linalg.lstsq(basis, log, rcond=None)[0]
            if rest.std() < 0.02:
                continue
        kept.append(log)
    return kept


def order_of(
    columns: Mapping[str, Array], names: Sequence[str] = ("non_embedding", "parameters", "size", "width", "depth")
) -> tuple[str, Array] | None:
    """The column that orders models by size, and its name; None if there is none."""
    return next(((name, columns[name]) for name in names if name in columns), None)
