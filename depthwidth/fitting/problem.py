"""The minimisation of a fit: a search by variable projection, and the objective itself in whitened coordinates.

A law is affine in some of its coefficients. For any values of the others these follow from a linear least-squares problem
(non-negative, for coefficients that are), so that a search runs over the few others alone (variable projection: Golub and
Pereyra 1973, SIAM J. Numer. Anal. 10, 413). The best of its minima are refined in all coefficients under the objective itself:
squares by ``scipy.optimize.least_squares``, a Huber loss by SciPy's BFGS with thresholds that fall step by step. If the
threshold is far below the residuals, the surface of a Huber loss is as ragged as that of absolute values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize, nnls

from ..errors import InputError, shown
from ..numerics.expressions import Node
from .slopes import linear_coefficients, value_and_slopes

Array = NDArray[np.float64]
Index = NDArray[np.intp]

FAR = 1e100
"""Residual of a point at which a law has no finite value."""
_ZERO = -200.0
"""Logarithm below which a coefficient is zero."""
_REVIVED = 1e-3
"""Change of the logarithm of the prediction (or of itself) that a coefficient found at zero is raised to."""
_FLOORS = (1e-2, 1e-4, 1e-7)
"""Singular values, relative to the largest, below which a direction is not stretched further."""
_LADDER = (30.0, 10.0, 3.0, 1.0)
"""Thresholds of the refinement, in units of the one asked for."""


@dataclass(frozen=True)
class Objective:
    """The sum that a fit minimises: half of squares, or Huber's loss with threshold `delta`, of log errors or plain ones."""

    delta: float | None = None
    """None for least squares."""
    logarithm: bool = True

    def of(self, residuals: Array, weights: Array | None = None) -> float:
        """The objective of residuals, each counted `weights` times; shapes (points,)."""
        size = np.abs(residuals)
        each = size**2 / 2
        if self.delta is not None:
            each = np.where(size <= self.delta, each, self.delta * (size - self.delta / 2))
        return float(each.sum() if weights is None else weights @ each)

    def __str__(self) -> str:
        what = "log errors" if self.logarithm else "errors"
        return f"least squares of {what}" if self.delta is None else f"Huber loss of {what}, threshold {self.delta:g}"


@dataclass(frozen=True)
class Problem:
    """A law on columns of data.

    A vector `theta` has one number a coefficient, in the order of `names`: its logarithm for those in `positive`, else itself.
    """

    right: Node
    names: tuple[str, ...]
    data: Mapping[str, Array]
    target: Array
    objective: Objective
    positive: frozenset[str] = frozenset()
    weights: Array | None = None
    """The number of times that each point counts, shape (points,)."""
    cells: Index | None = None
    """Cell of each point: each has a factor of its own, which is eliminated."""

    def __post_init__(self) -> None:
        if self.objective.logarithm and not (self.target > 0).all():
            raise InputError("fit: the logarithm cannot be fitted, because the left side is not always positive")

    def taken(self, times: Array) -> Problem:
        """The same problem with each point counted `times` as often, shape (points,); points counted 0 times are left out."""
        kept = times > 0
        old = 1.0 if self.weights is None else self.weights[kept]
        return replace(
            self,
            data={name: column[kept] for name, column in self.data.items()},
            target=self.target[kept],
            weights=times[kept] * old,
            cells=None if self.cells is None else np.unique(self.cells[kept], return_inverse=True)[1],
        )

    @cached_property
    def _positive(self) -> NDArray[np.bool_]:
        return np.array([name in self.positive for name in self.names])

    @cached_property
    def _roots(self) -> Array | float:
        return 1.0 if self.weights is None else np.sqrt(self.weights)

    def values(self, theta: Array) -> Array:
        """The coefficients themselves, shape (coefficients,)."""
        return np.where(self._positive, np.exp(np.clip(np.where(self._positive, theta, 0.0), -300, 300)), theta)

    def theta(self, values: Array) -> Array:
        """The vector of given coefficients."""
        return np.where(self._positive, np.log(np.maximum(np.where(self._positive, values, 1.0), 1e-100)), values)

    def _named(self, values: Array) -> dict[str, Any]:
        return {**self.data, **dict(zip(self.names, map(float, values), strict=True))}

    def residuals(self, theta: Array) -> Array:
        """Predictions minus data, or that of their logarithms, shape (points,)."""
        with np.errstate(all="ignore"):
            value = np.asarray(self.right(self._named(self.values(theta))), dtype=float)
        return self._errors(value)

    def _errors(self, value: Array) -> Array:
        with np.errstate(all="ignore"):
            error = np.log(value) - np.log(self.target) if self.objective.logarithm else value - self.target
        error = np.broadcast_to(error, self.target.shape)
        return self.centred(np.clip(np.where(np.isfinite(error), error, FAR), -FAR, FAR))

    def jacobian(self, theta: Array) -> Array:
        """Derivatives of the residuals by `theta`, shape (points, coefficients)."""
        return self.residuals_and_jacobian(theta)[1]

    def residuals_and_jacobian(self, theta: Array) -> tuple[Array, Array]:
        """Both in one pass over the law."""
        values = self.values(theta)
        with np.errstate(all="ignore"):
            value, slopes = value_and_slopes(self.right, self._named(values), set(self.names))
            value = np.asarray(value, dtype=float)
            found = np.zeros((len(self.names), len(self.target)))
            for i, name in enumerate(self.names):
                slope = slopes.get(name, 0.0)
                found[i] = slope * values[i] if name in self.positive else slope
            if self.objective.logarithm:
                found /= value
        return self._errors(value), self.centred(np.clip(np.where(np.isfinite(found), found, 0.0), -FAR, FAR).T)

    def centred(self, each: Array) -> Array:
        """`each` less its mean in its cell, shape (points,) or (points, columns): it eliminates one factor a cell."""
        return each if self.cells is None else _centre(each, self.cells, self.weights)

    def value(self, theta: Array) -> float:
        """The objective."""
        return self.objective.of(self.residuals(theta), self.weights)

    # ---- refinement of all coefficients ----

    def refine(self, theta: Array) -> Array:
        """The minimum of the objective that is reached from `theta`, shape (coefficients,)."""
        return min(map(self._refined, self._with_revived(theta)), key=self.value)

    def _refined(self, theta: Array) -> Array:
        delta = self.objective.delta
        if delta is None:
            for floor in _FLOORS:  # first without the directions that change little, along which a step soon leads far off
                theta = self._descend(theta, 1e-15, 200, floor)
            return theta
        for step in _LADDER:
            theta = self._descend_huber(theta, step * delta, 1e-6)
        return theta

    def refine_quickly(self, starts: Sequence[Array]) -> Array:
        """The least of the minima that are reached from starts near to them: for the many fits of a bootstrap."""
        delta = self.objective.delta
        starts = [one for theta in starts for one in self._with_revived(theta)]
        if delta is None:
            ends = (self._descend(self._descend(theta, 1e-8, 50, _FLOORS[0]), 1e-8, 50, _FLOORS[-1]) for theta in starts)
            return min(ends, key=self.value)
        half = replace(self.objective, delta=10 * delta)
        upper = [self._descend_huber(theta, 10 * delta, 1e-2) for theta in starts]
        best = min(upper, key=lambda theta: half.of(self.residuals(theta), self.weights))
        return self._descend_huber(best, delta, 1e-3)

    def _descend(self, theta: Array, fine: float, most: int, floor: float) -> Array:
        """Least squares by a trust region in whitened coordinates."""
        frame = _frame(self, theta, 1.0, floor)
        roots = np.reshape(self._roots, (-1, 1))
        with np.errstate(all="ignore"):
            found = least_squares(
                lambda z: self.residuals(theta + frame @ z) * self._roots, np.zeros(frame.shape[1]),
                lambda z: self.jacobian(theta + frame @ z) @ frame * roots, method="trf",
                xtol=fine, ftol=fine, gtol=1e-15, max_nfev=most,
            )  # fmt: skip
        end = np.asarray(theta + frame @ found.x)
        return end if np.isfinite(end).all() and self.value(end) <= self.value(theta) else theta

    def _descend_huber(self, theta: Array, delta: float, fine: float) -> Array:
        """A Huber loss by BFGS in coordinates whitened by its own weights.

        The trust region of ``least_squares`` stops short of such minima: beyond the threshold it has no curvature.
        """
        objective = replace(self.objective, delta=delta)
        times = 1.0 if self.weights is None else self.weights
        far = np.minimum(1.0, delta / np.maximum(np.abs(self.residuals(theta)), 1e-300))
        frame = _frame(self, theta, far)
        scale = 100 / max(self.value_by(objective, theta), 1e-300)

        def scaled(z: Array) -> tuple[float, Array]:
            residuals, jacobian = self.residuals_and_jacobian(theta + frame @ z)
            pull = np.clip(residuals, -delta, delta) * times
            return scale * objective.of(residuals, self.weights), scale * (frame.T @ (jacobian.T @ pull))

        with np.errstate(all="ignore"):
            found = minimize(scaled, np.zeros(frame.shape[1]), jac=True, method="BFGS", options={"maxiter": 300, "gtol": fine})
        end = np.asarray(theta + frame @ found.x)
        return end if np.isfinite(end).all() and self.value_by(objective, end) <= self.value_by(objective, theta) else theta

    def value_by(self, objective: Objective, theta: Array) -> float:
        """Another objective of the same residuals."""
        return objective.of(self.residuals(theta), self.weights)

    # ---- the search by variable projection ----

    @cached_property
    def linear(self) -> frozenset[str]:
        """Coefficients that a projection eliminates."""
        if self.cells is not None:
            return frozenset()
        # The coefficients of a product of two sums are linear one factor at a time: the factor with more of them is taken.
        return max((linear_coefficients(self.right, order) for order in (self.names, self.names[::-1])), key=len)

    def search(self, starts: Sequence[Mapping[str, float]], progress: Callable[[int], None] = lambda n: None) -> list[Array]:
        """Minima of the relative (or plain) least squares from each start of the coefficients that are not linear, best first.

        Raises
        ------
        InputError
            if the law has no finite value at any start.
        """
        free = [name for name in self.names if name not in self.linear]
        found: list[tuple[float, Array]] = []
        for number, start in enumerate(starts if free else starts[:1]):
            progress(number)
            one = self._project(free, start)
            if one is not None:
                found.append(one)
        if not found:
            raise InputError("fit: the law has no finite value at the start; change the --start values")
        found.sort(key=lambda pair: pair[0])
        return [theta for _, theta in found]

    def _project(self, free: Sequence[str], start: Mapping[str, float]) -> tuple[float, Array] | None:
        logs = np.array([name in self.positive for name in free], dtype=bool)

        def of(z: Array) -> dict[str, float]:
            return dict(zip(free, np.where(logs, np.exp(np.clip(np.where(logs, z, 0.0), -50, 50)), z), strict=True))

        z = np.array([np.log(start[name]) if log else start[name] for name, log in zip(free, logs, strict=True)])
        residuals, whole = self._best_linear(of(z))
        if not (np.abs(residuals) < FAR).all():
            return None
        if len(free):
            with np.errstate(all="ignore"):
                found = least_squares(
                    lambda at: self._best_linear(of(at))[0], z, x_scale=np.where(logs, 1.0, np.maximum(np.abs(z), 1e-8)),
                    xtol=1e-6, ftol=1e-8, gtol=1e-12, max_nfev=60,
                )  # fmt: skip
            residuals, whole = self._best_linear(of(found.x))
        return float(residuals @ residuals), self.theta(whole)

    def _with_revived(self, theta: Array) -> list[Array]:
        """`theta`, and if it has coefficients at zero, the same with those a little above it.

        A refinement in the logarithm of a coefficient cannot raise it from zero.
        """
        values = self.values(theta)
        gone = [i for i, name in enumerate(self.names) if name in self.positive and theta[i] < _ZERO]
        if not gone:
            return [theta]
        found = values.copy()
        for i in gone:
            found[i] = 1.0
            slope = self.jacobian(self.theta(found))[:, i]
            rms = float(np.sqrt(np.mean(slope**2)))
            found[i] = _REVIVED / rms if rms > 0 else _REVIVED
        return [theta, self.theta(found)]

    def _best_linear(self, free: Mapping[str, float]) -> tuple[Array, Array]:
        """Residuals, shape (points,), and all coefficients, with the linear ones at their best for the others in `free`."""
        eliminated = [name for name in self.names if name in self.linear]
        values = {**self.data, **free, **dict.fromkeys(eliminated, 1.0)}
        with np.errstate(all="ignore"):
            if not eliminated:
                theta = self.theta(np.array([free[name] for name in self.names]))
                return self.residuals(theta) * self._roots, self.values(theta)
            value, slopes = value_and_slopes(self.right, values, set(eliminated))
            columns = np.zeros((len(self.target), len(eliminated)))
            for i, name in enumerate(eliminated):
                columns[:, i] = slopes.get(name, 0.0)
            rest = value - columns.sum(axis=1)  # the law is affine: the rest has none of them
            scale: Array = self._roots * np.ones_like(self.target) / (self.target if self.objective.logarithm else 1.0)
            matrix, right = columns * scale[:, None], (self.target - rest) * scale
        if not (np.abs(matrix) < FAR).all() or not (np.abs(right) < FAR).all():  # NaN is not less either
            return np.full(self.target.shape, FAR), np.array([free.get(name, 1.0) for name in self.names])
        best = _solve(matrix, right, [name in self.positive for name in eliminated])
        by_name = {**free, **dict(zip(eliminated, best, strict=True))}
        return matrix @ best - right, np.array([by_name[name] for name in self.names])


def _frame(problem: Problem, theta: Array, far: Array | float, floor: float = _FLOORS[-1]) -> Array:
    """Directions in which the weighted residuals change equally, as columns; if nothing changes, steps of limited size."""
    residuals, jacobian = problem.residuals_and_jacobian(theta)
    roots: Array = np.sqrt(far) * problem._roots * np.ones_like(problem.target)
    jacobian = np.clip(jacobian * np.reshape(roots, (-1, 1)), -FAR, FAR)
    lengths = np.linalg.norm(jacobian, axis=0)
    lengths = np.where(lengths > 0, lengths, 1.0)
    _, singular, rotation = np.linalg.svd(jacobian / lengths, full_matrices=False)
    size = float(np.linalg.norm(residuals * roots)) or 1.0
    scale = min(size, 1e3) / np.sqrt(len(problem.target))
    return np.asarray(scale * (rotation.T / np.maximum(singular, floor * max(singular[0], 1e-300))) / lengths[:, None])


def _centre(each: Array, cells: Index, weights: Array | None) -> Array:
    if each.ndim > 1:
        return np.stack([_centre(column, cells, weights) for column in each.T], axis=1)
    times = np.ones(len(each)) if weights is None else weights
    return np.asarray(each - (np.bincount(cells, times * each) / np.bincount(cells, times))[cells])


def _solve(matrix: Array, right: Array, positive: Sequence[bool]) -> Array:
    """Least squares with some of the unknowns not below zero."""
    lengths = np.linalg.norm(matrix, axis=0)
    lengths = np.where(lengths > 0, lengths, 1.0)
    matrix = matrix / lengths
    if not any(positive):
        return np.asarray(np.linalg.lstsq(matrix, right, rcond=None)[0] / lengths)
    signed = [i for i, known in enumerate(positive) if not known]
    # An orthogonal reduction to a small triangle: the same minimum, from far fewer rows.
    triangle: Array = np.asarray(np.linalg.qr(np.column_stack([matrix, -matrix[:, signed], right]), mode="r"))
    try:
        found, _ = nnls(triangle[:, :-1], triangle[:, -1])
    except RuntimeError:  # it does not converge on nearly equal columns
        found = np.maximum(np.linalg.lstsq(triangle[:, :-1], triangle[:, -1], rcond=None)[0], 0.0)
    best = found[: len(positive)].copy()
    best[signed] -= found[len(positive) :]
    return np.asarray(best / lengths)


def random_starts(ranges: Mapping[str, tuple[float, float]], count: int, rng: np.random.Generator) -> list[dict[str, float]]:
    """Values drawn from `ranges`: log-uniform between ends of one sign, uniform otherwise.

    Raises
    ------
    InputError
        if a range is not finite.
    """
    for name, ends in ranges.items():
        if not np.isfinite(ends).all():
            raise InputError(f"fit: the range of {name}, {shown(ends)}, is not finite")

    def one(low: float, high: float) -> float:
        if low * high > 0:
            sign = 1.0 if low > 0 else -1.0
            return float(sign * np.exp(rng.uniform(*sorted((np.log(abs(low)), np.log(abs(high)))))))
        return float(rng.uniform(low, high))

    return [{name: one(*ends) for name, ends in ranges.items()} for _ in range(count)]
