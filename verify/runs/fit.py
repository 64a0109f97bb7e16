"""Least-squares fits with standard errors: any law to any rows, the shape penalty, and the Gemstones width-depth law.

Standard errors treat runs, not points, as independent, because the points of one training run share its random numbers. The
shape penalty and the Gemstones law are fitted to published measurements of 22 models.

Fits use ``scipy.optimize.least_squares`` with cluster-robust standard errors, and not the lmfit library, for three reasons.
lmfit's standard errors assume independent points: it has neither a cluster-robust covariance nor a bootstrap over runs. Its
``ExpressionModel`` evaluates expressions with asteval, an interpreter, whereas laws are read here by a parser with a whitelist,
which cannot execute code. Its profile confidence intervals are available here as ``method="profile"``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from scipy.optimize import brentq, least_squares, minimize

from depthwidth.cli.output import as_csv
from depthwidth.errors import InputError, nearest, shown
from depthwidth.formulas.rules import levine_optimal_width
from depthwidth.numerics.expressions import Node, read

from ..files import write_whole
from ..rows import Row

Array = NDArray[np.float64]
Point = Mapping[str, Any]


@dataclass(frozen=True)
class PenaltyFit:
    """Fit of loss = (E + M (N/N_0)^-g) (1 + k (ln(w/d*(N)) - x0 - s ln(N/N_0))^2) at one number of training tokens."""

    k: float
    x0: float
    s: float
    covariance: Array
    """Covariance of (k, x0, s), shape (3, 3)."""
    floor: float
    """E, nats per token."""
    amplitude: float
    """M, nats per token."""
    exponent: float
    """g."""
    residual_rms: float
    """Root mean square of the relative residuals."""
    size0: float
    """N_0, parameters without embeddings."""

    @property
    def stderr(self) -> Array:
        """Standard errors of (k, x0, s)."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    def loss_exponent(self, parameters: float) -> float:
        """Logarithmic derivative dln(loss)/dln(N) at the best shape, for N parameters without embeddings."""
        falling: float = self.amplitude * (parameters / self.size0) ** -self.exponent
        return -self.exponent * falling / (self.floor + falling)


def fit_shape_penalty(rows: Sequence[Point], loss: str = "loss_nats_100B_tokens", size0: float = 2e8) -> PenaltyFit:
    """Fit the quadratic penalty for shapes away from the optimum, to models trained on equally many tokens.

    Parameters
    ----------
    rows : one row per model, with ``width``, ``nonembedding_params`` and the loss column.
    loss : name of the column with the loss in nats per token.
    size0 : N_0, the reference size of x0.

    Notes
    -----
    The loss of the best shape is a power law in N plus a constant, so six numbers are fitted, by ordinary least squares on the
    logarithm of the loss. Standard errors come from the curvature and the variance of the residuals.
    """
    width, size, measured = (np.array([float(row[name]) for row in rows]) for name in ("width", "nonembedding_params", loss))
    log_size = np.log(size / size0)
    offset = np.log(width / levine_optimal_width(size))

    def residuals(theta: Array) -> Array:
        ln_floor, ln_amplitude, exponent, k, x0, s = theta
        smooth = np.log(np.exp(ln_floor) + np.exp(ln_amplitude - exponent * log_size))
        return np.asarray(smooth + np.log1p(k * (offset - x0 - s * log_size) ** 2) - np.log(measured))

    found = least_squares(residuals, [0.5, 0.1, 0.2, 0.03, 0.1, 0.0], x_scale=[0.1, 0.1, 0.1, 0.01, 0.1, 0.1], xtol=1e-14)
    spread = float(found.fun @ found.fun) / (len(rows) - len(found.x))
    covariance = spread * np.linalg.inv(found.jac.T @ found.jac)
    ln_floor, ln_amplitude, exponent, k, x0, s = map(float, found.x)
    return PenaltyFit(
        k=k,
        x0=x0,
        s=s,
        covariance=covariance[3:, 3:],
        floor=float(np.exp(ln_floor)),
        amplitude=float(np.exp(ln_amplitude)),
        exponent=exponent,
        residual_rms=float(np.sqrt(np.mean(found.fun**2))),
        size0=size0,
    )


# The nine coefficients of loss = A w^-alpha + B d^-beta + C p^-gamma + D T^-zeta + epsilon, and a typical step of each.
GEMSTONES_NAMES = ("alpha", "beta", "gamma", "zeta", "ln_A", "ln_B", "ln_C", "ln_D", "ln_epsilon")
_STEPS = np.array([0.01, 0.01, 0.01, 0.01, 0.1, 0.1, 0.2, 0.3, 0.02])


@dataclass(frozen=True)
class GemstonesRuns:
    """Training points as arrays."""

    logs: Array
    """Logarithms of width, depth, parameters and tokens, shape (4, points)."""
    log_loss: Array
    """Logarithm of the loss, shape (points,)."""
    model: NDArray[np.int64]
    """Number of the model of each point, shape (points,)."""

    @classmethod
    def of(cls, rows: Sequence[Point], every: int = 2385) -> GemstonesRuns:
        """The points at steps divisible by `every`. With 2385 they are the 770 points of the authors' fit."""
        kept = [row for row in rows if row["step"] % every == 0]
        columns = ("width", "depth", "params_active_precise", "tokens", "final_loss")
        logs = np.log(np.array([[float(row[name]) for row in kept] for name in columns]))
        _, model = np.unique([row["run_name"] for row in kept], return_inverse=True)
        return cls(logs[:4], logs[4], model)

    @property
    def models(self) -> int:
        """Number of models."""
        return int(self.model.max()) + 1


def gemstones_objective(runs: GemstonesRuns, theta: Array, delta: float = 1e-4, weights: Array | None = None) -> float:
    """Sum over the points of the Huber loss of the error in ln(loss), which the authors minimise."""
    return _objective(theta, runs, np.ones_like(runs.log_loss) if weights is None else weights, delta)[0]


def _objective(theta: Array, runs: GemstonesRuns, weights: Array, delta: float) -> tuple[float, Array]:
    terms = np.vstack([theta[4:8, None] - theta[:4, None] * runs.logs, np.full((1, runs.logs.shape[1]), theta[8])])
    highest = terms.max(axis=0)
    shares = np.exp(terms - highest)
    total = shares.sum(axis=0)
    shares /= total
    error = highest + np.log(total) - runs.log_loss
    size = np.abs(error)
    huber = np.where(size <= delta, error**2 / 2, delta * (size - delta / 2))
    jacobian = np.concatenate([-shares[:4] * runs.logs, shares])
    return float(weights @ huber), jacobian @ (weights * np.clip(error, -delta, delta))


def fit_gemstones(runs: GemstonesRuns, start: Array, delta: float = 1e-4, weights: Array | None = None) -> Array:
    """The nine coefficients :data:`GEMSTONES_NAMES` that minimise :func:`gemstones_objective`, searched from `start`."""
    weights = np.ones_like(runs.log_loss) if weights is None else weights

    def scaled(steps: Array) -> tuple[float, Array]:
        value, gradient = _objective(start + steps * _STEPS, runs, weights, delta)
        return value / delta, gradient * _STEPS / delta

    found = minimize(scaled, np.zeros(len(_STEPS)), jac=True, method="BFGS", options={"maxiter": 3000, "gtol": 1e-7})
    return np.asarray(start + found.x * _STEPS)


def jackknife_gemstones(runs: GemstonesRuns, start: Array, delta: float = 1e-4) -> Array:
    """Jackknife covariance of the nine coefficients, from fits that leave out one model each; shape (9, 9).

    It suits linear error propagation because its changes are small. A bootstrap over 22 models includes fits with alpha near 0
    or above 1, so its covariance is not useful (see :func:`bootstrap_gemstones`).
    """
    left_out = [fit_gemstones(runs, start, delta, (runs.model != model).astype(float)) for model in range(runs.models)]
    deviations = np.array(left_out) - np.mean(left_out, axis=0)
    return np.asarray((runs.models - 1) / runs.models * deviations.T @ deviations)


def bootstrap_gemstones(runs: GemstonesRuns, start: Array, draws: int, rng: np.random.Generator, delta: float = 1e-4) -> Array:
    """Bootstrap fits, shape (draws, 9): each row is a fit to as many models, drawn with replacement."""
    fits = []
    for _ in range(draws):
        times_drawn = np.bincount(rng.integers(0, runs.models, runs.models), minlength=runs.models)
        fits.append(fit_gemstones(runs, start, delta, times_drawn[runs.model].astype(float)))
    return np.array(fits)


# Fits of any law to any rows.


@dataclass(frozen=True)
class Fit:
    """A law fitted to rows."""

    law: str
    names: tuple[str, ...]
    values: Array
    covariance: Array
    """Covariance of the coefficients by `method`, in the order of `names`."""
    intervals: Array
    """Lower and upper ends of the 68.3 % interval of each coefficient by `method`, shape (coefficients, 2)."""
    method: str
    residual_rms: float
    """Square root of the sum of squared residuals per degree of freedom, in the unit of the left side, or of its logarithm if
    that was fitted."""
    points: int
    groups: int
    """Number of independent runs among the points, on which standard errors are based."""
    failed: int
    """Number of bootstrap fits that did not converge and are excluded from the errors."""
    rows_sha256: str
    """SHA-256 of the columns that were used, first 16 hexadecimal digits."""

    @property
    def stderr(self) -> Array:
        """Standard error of each coefficient."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    def __getitem__(self, name: str) -> float:
        return float(self.values[self.names.index(name)])

    def rows(self) -> list[dict[str, Any]]:
        """One row per coefficient."""
        return [
            {"name": n, "value": float(v), "stderr": float(e), "low": float(low), "high": float(high)}
            for n, v, e, (low, high) in zip(self.names, self.values, self.stderr, self.intervals, strict=True)
        ]


METHODS = ("curvature", "bootstrap", "profile")
STARTS = 8
"""Number of random starting points within a factor of three of the given one; the best of all fits is used."""
_ONE_SIGMA = 0.6826894921370859


def fit_law(
    law: str,
    rows: Sequence[Point],
    start: Mapping[str, float],
    *,
    logarithm: bool = False,
    group: str = "",
    method: str = "bootstrap",
    draws: int = 300,
    seed: int = 0,
) -> Fit:
    """Fit the coefficients of a law by least squares, with errors and covariance.

    Parameters
    ----------
    law : for example ``"loss = E + A * width**-alpha"``: a column on the left, and on the right numbers, columns, coefficients,
        ``+ - * / **``, brackets, ``exp``, ``log`` and ``sqrt``. The parser accepts nothing else and executes no code.
    rows : one row per point.
    start : names of the coefficients, each with an approximate value at which the search starts.
    logarithm : fit the logarithm of both sides, so that errors are relative.
    group : column with the name of each point's run; by default every point is a run of its own. Points of one run share its
        random numbers, so the bootstrap draws runs and not points.
    method : ``bootstrap`` (fits to runs drawn with replacement), ``curvature`` (of the sum of squares at its minimum) or
        ``profile`` (the covariance of ``curvature``; an interval ends at the value of a coefficient at which the sum of
        squares, minimised over the other coefficients, exceeds its minimum by the amount of one standard error).
    draws, seed : number of bootstrap fits, and seed of the random numbers.

    Returns
    -------
    :class:`Fit`.

    Notes
    -----
    If each run has one point, ``curvature`` assumes equal and independent errors: the covariance is s^2 (J'J)^-1. If a run has
    several points, it is the cluster-robust (sandwich) covariance over runs, which makes no assumption about correlation within
    a run (Liang and Zeger 1986, Biometrika 73, 13), with residuals corrected for leverage (Bell and McCaffrey 2002); Cameron
    and Miller 2015, J. Human Resources 50, 317, review both. Intervals use Student's distribution, whose degrees of freedom are
    the number of runs minus the number of coefficients. ``profile`` needs independent points.

    Raises
    ------
    InputError
        if the law cannot be read, a column is missing, there are too few runs, the rows do not determine a coefficient, or the
        method is ``profile`` and a run has several points.
    """
    if method not in METHODS:
        raise InputError(f"fit: there is no method {shown(method)}; there are {', '.join(METHODS)}")
    left, right = _two_sides(law)
    names = tuple(start)
    columns = sorted(right.variables - set(names))
    if unused := set(names) - right.variables:
        raise InputError(f"fit: the law does not mention {', '.join(sorted(unused))}")
    data = {column: _column(rows, column) for column in (left, *columns)}
    groups, which = np.unique([str(row[group]) for row in rows] if group else np.arange(len(rows)), return_inverse=True)
    if len(groups) <= len(names):
        raise InputError(f"fit: {len(groups)} runs cannot determine {len(names)} coefficients and the scatter")
    several = len(groups) < len(rows)
    if several and method == "profile":
        raise InputError(
            f"fit: the profile method needs independent points, but there are {len(rows)} points from {len(groups)} runs; "
            "use bootstrap or curvature, or one point per run"
        )
    problem = _Problem(right, names, data, data[left], logarithm)
    theta = problem.solve(_starts(np.array([float(start[n]) for n in names]), seed))
    residuals, jacobian = problem.residuals(theta), problem.jacobian(theta)
    freedom = len(rows) - len(names)
    scatter = float(residuals @ residuals) / freedom
    inverse = _inverse(jacobian, names)
    covariance = _cluster_covariance(residuals, jacobian, inverse, which, groups, names) if several else scatter * inverse
    ends = theta[:, None] + _quantile(len(groups) - len(names)) * np.sqrt(np.diag(covariance))[:, None] * np.array([-1.0, 1.0])
    failed = 0
    if method == "bootstrap":
        rng = np.random.default_rng(seed)
        fits = []
        for _ in range(draws):
            times = np.bincount(rng.integers(0, len(groups), len(groups)), minlength=len(groups))[which]
            try:
                fits.append(problem.solve([theta], np.sqrt(times)))
            except InputError:
                failed += 1
        if failed > draws // 10:
            raise InputError(
                f"fit: {failed} of {draws} bootstrap fits do not converge; the rows do not determine the coefficients"
            )
        covariance = np.atleast_2d(np.cov(np.array(fits), rowvar=False))
        ends = np.quantile(np.array(fits), [(1 - _ONE_SIGMA) / 2, (1 + _ONE_SIGMA) / 2], axis=0).T
    elif method == "profile":
        ends = np.array(
            [problem.profile(theta, i, scatter, freedom, float(np.sqrt(covariance[i, i]))) for i in range(len(names))]
        )
    used = json.dumps([[column, list(map(repr, data[column].tolist()))] for column in sorted(data)]).encode()
    return Fit(
        law, names, theta, covariance, ends, method, float(np.sqrt(scatter)), len(rows), len(groups), failed,
        hashlib.sha256(used).hexdigest()[:16],
    )  # fmt: skip


def _column(rows: Sequence[Point], name: str) -> Array:
    try:
        found = np.array([float(row[name]) for row in rows])
    except KeyError:
        known = sorted({key for row in rows for key in row})
        raise InputError(f"fit: the rows have no column {shown(name)}{nearest(name, known)}") from None
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"fit: not every row has a number in column {shown(name)}") from None
    if not np.isfinite(found).all():
        raise InputError(f"fit: column {shown(name)} contains {found[~np.isfinite(found)][0]}; remove such rows")
    return found


def _starts(theta: Array, seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [theta, *(theta * 3.0 ** rng.uniform(-1, 1, (STARTS, len(theta))))]


def _inverse(jacobian: Array, names: Sequence[str]) -> Array:
    """Inverse of J'J, by the singular values of J with all columns scaled to norm 1."""
    lengths = np.linalg.norm(jacobian, axis=0)
    if (lengths == 0).any():
        raise InputError(f"fit: the rows do not depend on {names[int(np.argmin(lengths))]}")
    _, singular, rotation = np.linalg.svd(jacobian / lengths, full_matrices=False)
    if singular[-1] < 1e-7 * singular[0]:  # the squares, on which J'J depends, then differ by all digits of a float
        raise InputError(f"fit: the rows do not determine {names[int(np.argmax(np.abs(rotation[-1])))]}")
    half = rotation.T / singular
    return np.asarray(half @ half.T / np.outer(lengths, lengths))


def _cluster_covariance(
    residuals: Array, jacobian: Array, inverse: Array, which: NDArray[np.intp], groups: NDArray[Any], names: Sequence[str]
) -> Array:
    """Cluster-robust covariance with the leverage correction of Bell and McCaffrey, shape (coefficients, coefficients).

    It is (J'J)^-1 (sum over runs of s s') (J'J)^-1 with s = J_g' (1 - H_gg)^-1/2 r_g and H = J (J'J)^-1 J'.

    Parameters
    ----------
    residuals, jacobian : r and J at the minimum, shapes (points,) and (points, coefficients).
    inverse : (J'J)^-1.
    which : index in `groups` of each point's run.
    groups : names of the runs.
    names : names of the coefficients.
    """
    scores = []
    for run, name in enumerate(groups):
        its = jacobian[which == run]
        left, directions = np.linalg.eigh(np.eye(len(its)) - its @ inverse @ its.T)
        if left[0] < 1e-9:  # leverage 1, up to rounding: the fit passes through these points whatever their values
            alone = names[int(np.argmax(np.abs(inverse @ its.T @ directions[:, 0]) / np.sqrt(np.diag(inverse))))]
            raise InputError(f"fit: run {name} alone determines {alone}, so {alone} has no standard error; add similar runs")
        scores.append(its.T @ (directions @ (directions.T @ residuals[which == run] / np.sqrt(left))))
    half = inverse @ np.array(scores).T
    return np.asarray(half @ half.T)


def _quantile(freedom: int) -> float:
    """Quantile of Student's t at the upper end of a central 68.3 % interval."""
    return float(scipy.stats.t.ppf((1 + _ONE_SIGMA) / 2, freedom))


@dataclass(frozen=True)
class _Problem:
    """The least-squares problem of a law and columns of data."""

    right: Node
    names: tuple[str, ...]
    data: Mapping[str, Array]
    target: Array
    logarithm: bool

    def __post_init__(self) -> None:
        if self.logarithm and (self.target <= 0).any():
            raise InputError("fit: the logarithm cannot be fitted, because the left side is not always positive")

    def residuals(self, theta: Array, weights: Array | None = None) -> Array:
        """Predictions minus data, shape (points,); 1e100 for points at which the law has no finite value."""
        with np.errstate(all="ignore"):
            value = np.asarray(self.right({**self.data, **dict(zip(self.names, theta, strict=True))}), dtype=float)
            error = np.broadcast_to(
                np.log(value) - np.log(self.target) if self.logarithm else value - self.target, self.target.shape
            )
        error = np.where(np.isfinite(error), error, 1e100)
        return np.asarray(error if weights is None else error * weights)

    def jacobian(self, theta: Array) -> Array:
        """Derivatives of the residuals by central differences, shape (points, coefficients)."""
        steps = np.cbrt(np.finfo(float).eps) * np.maximum(np.abs(theta), 1e-8)
        columns = []
        for i, step in enumerate(steps):
            off = np.zeros_like(theta)
            off[i] = step
            columns.append((self.residuals(theta + off) - self.residuals(theta - off)) / (2 * step))
        return np.array(columns).T

    def solve(self, starts: Sequence[Array], weights: Array | None = None) -> Array:
        """The best fit from several starting points, shape (coefficients,)."""
        best: Any = None
        for start in starts:
            if not (np.abs(self.residuals(start)) < 1e99).all():
                continue
            with np.errstate(all="ignore"):
                found = least_squares(
                    self.residuals, start, args=(weights,), jac="3-point", method="trf",
                    x_scale=np.maximum(np.abs(start), 1e-8), xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=2000,
                )  # fmt: skip
            if found.status >= 0 and np.isfinite(found.x).all() and (best is None or found.cost < best.cost):
                best = found
        if best is None:
            raise InputError("fit: the law has no finite value at the start; change the --start values")
        return np.asarray(best.x)

    def profile(self, theta: Array, which: int, scatter: float, freedom: int, step: float) -> tuple[float, float]:
        """Both ends of a coefficient's profile interval.

        At an end, the sum of squares, minimised over the other coefficients, exceeds its minimum by t^2 times the scatter.
        """
        if not step > 0:  # a perfect fit: the interval is a point
            return float(theta[which]), float(theta[which])
        t = _quantile(freedom)
        least = float(np.sum(self.residuals(theta) ** 2))
        others = [i for i in range(len(theta)) if i != which]

        def excess(value: float) -> float:
            def rest(free: Array) -> Array:
                whole = np.empty_like(theta)
                whole[which], whole[others] = value, free
                return self.residuals(whole)

            if not others:
                return float(np.sum(rest(np.empty(0)) ** 2)) - least - t**2 * scatter
            with np.errstate(all="ignore"):
                found = least_squares(
                    rest, theta[others], x_scale=np.maximum(np.abs(theta[others]), 1e-8), xtol=1e-12, ftol=1e-12
                )
            return 2 * float(found.cost) - least - t**2 * scatter

        def end(side: float) -> float:
            far = step
            while excess(float(theta[which]) + side * far) < 0:
                far *= 2
                if far > 1e6 * step:
                    raise InputError(f"fit: the rows do not bound {self.names[which]}")
            found = brentq(lambda off: excess(float(theta[which]) + side * off), 0.0, far, xtol=1e-3 * step)
            return float(theta[which]) + side * float(found)

        return end(-1.0), end(1.0)


def points(rows: Sequence[Row], site: str = "", steps: str = "last") -> list[dict[str, Any]]:
    """Convert rows of a store to points for a fit: one per run and step, with labels and quantities as columns.

    Parameters
    ----------
    rows : rows of a store.
    site : site whose quantities are used; by default the quantities without a site.
    steps : ``last`` for the last step of each run, ``all`` for every step. Quantities without a step are in every point.

    Returns
    -------
    Points with `run`, `seed`, `step`, the labels and the quantities. Values that are not finite, such as the loss of a diverged
    run, are omitted.

    Raises
    ------
    InputError
        if `steps` is neither ``last`` nor ``all``.
    """
    if steps not in ("last", "all"):
        raise InputError(f"fit: steps={shown(steps)} is not one of last, all")
    runs: dict[str, list[Row]] = {}
    for row in rows:
        if row.site == site and np.isfinite(row.value):
            runs.setdefault(row.run, []).append(row)
    found = []
    for run, its in runs.items():
        always = {row.quantity: row.value for row in its if row.step is None}
        known: list[int | None] = [*sorted({row.step for row in its if row.step is not None})] or [None]
        for step in known if steps == "all" else known[-1:]:
            here = {row.quantity: row.value for row in its if row.step == step}
            found.append({"run": run, "seed": its[0].seed, "step": step, **its[0].labels, **always, **here})
    return found


def _two_sides(law: str) -> tuple[str, Node]:
    left, equals, right = law.partition("=")
    if not equals or not left.strip().isidentifier():
        raise InputError(f"fit: {shown(law)} is not of the form COLUMN = LAW, for example loss = E + A * width**-alpha")
    return left.strip(), read(right.strip())


def save_fit(
    found: Fit, folder: str | Path, name: str, rows: Sequence[Point], *, unit: Mapping[str, str] | None = None
) -> Path:
    """Write a fit in the format of ``data/coefficients``: its coefficients, its covariance, and the fitted rows.

    Parameters
    ----------
    found : the fit.
    folder : folder for ``NAME.csv``, ``NAME.covariance.csv`` and ``NAME.rows.csv``.
    name : name of the law: lower-case letters, digits and underscores.
    rows : the rows that were fitted.
    unit : unit of each coefficient that is not dimensionless.

    Returns
    -------
    The path of ``NAME.csv``.

    Raises
    ------
    InputError
        if the name is invalid or the folder cannot be written to.
    """
    if not name.isidentifier() or not name.islower():
        raise InputError(f"fit: the name of a law consists of lower-case letters, digits and _, not {shown(name)}")
    target = Path(folder)
    source = f"{found.points} rows of {found.groups} runs, rows {found.rows_sha256}"
    values = [
        {
            "edition": found.method, "name": n, "value": repr(float(v)), "stderr": repr(float(e)),
            "unit": (unit or {}).get(n, "1"), "status": "measured", "source": source,
            "note": f"{found.law}; 68.3 % interval {low:.6g} to {high:.6g}",
        }
        for n, v, e, (low, high) in zip(found.names, found.values, found.stderr, found.intervals, strict=True)
    ]  # fmt: skip
    pairs = [
        {"edition": found.method, "row": a, "column": b, "value": repr(float(found.covariance[i, j])), "status": "measured"}
        for i, a in enumerate(found.names)
        for j, b in enumerate(found.names[: i + 1])
    ]
    try:
        target.mkdir(parents=True, exist_ok=True)
        for ending, table in (("csv", values), ("covariance.csv", pairs), ("rows.csv", rows)):
            write_whole(target / f"{name}.{ending}", as_csv(table).encode())
    except OSError as error:
        raise InputError(f"fit: {shown(str(folder))} cannot be written to ({error.strerror})") from None
    return target / f"{name}.csv"
