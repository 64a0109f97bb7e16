"""Rows in, coefficients with errors out: any law on any rows, the shape penalty, a refit of the Gemstones width-depth law.

The errors count runs, not points, as independent: the points of one training run share its luck. The shape penalty and the
Gemstones law are fitted to published measurements of 22 models.
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
    """Loss = (E + M (N/N_0)^-g) (1 + k (ln(w/d*(N)) - x0 - s ln(N/N_0))^2), fitted at one number of training tokens."""

    k: float
    x0: float
    s: float
    covariance: Array
    """Of (k, x0, s)."""
    floor: float
    amplitude: float
    exponent: float
    residual_rms: float
    """Relative, root mean square."""
    size0: float

    @property
    def stderr(self) -> Array:
        """Standard errors of (k, x0, s)."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    def loss_exponent(self, parameters: float) -> float:
        """dln(loss)/dln(N) at the best shape, for N parameters without embeddings."""
        falling: float = self.amplitude * (parameters / self.size0) ** -self.exponent
        return -self.exponent * falling / (self.floor + falling)


def fit_shape_penalty(rows: Sequence[Point], loss: str = "loss_nats_100B_tokens", size0: float = 2e8) -> PenaltyFit:
    """Fit the quadratic penalty of a shape away from the best one, on models trained on equally many tokens.

    Parameters
    ----------
    rows : one per model, with ``width``, ``nonembedding_params`` and the loss column.
    loss : the column with the loss, nats per token.
    size0 : N_0, the size at which x0 is taken.

    Notes
    -----
    The best shape's loss is a power law in N above a floor, so that six numbers are fitted; ordinary least squares on the
    logarithm of the loss, errors from the curvature and the residuals' scatter.
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


# The nine fitted numbers of loss = A w^-alpha + B d^-beta + C p^-gamma + D T^-zeta + epsilon, and a step of natural size each.
GEMSTONES_NAMES = ("alpha", "beta", "gamma", "zeta", "ln_A", "ln_B", "ln_C", "ln_D", "ln_epsilon")
_STEPS = np.array([0.01, 0.01, 0.01, 0.01, 0.1, 0.1, 0.2, 0.3, 0.02])


@dataclass(frozen=True)
class GemstonesRuns:
    """Training points as arrays: logarithms of width, depth, parameters and tokens, of the loss, and which model each is of."""

    logs: Array
    log_loss: Array
    model: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Point], every: int = 2385) -> GemstonesRuns:
        """The points at steps divisible by `every`; 2385 gives the 770 points of the authors' fit."""
        kept = [row for row in rows if row["step"] % every == 0]
        columns = ("width", "depth", "params_active_precise", "tokens", "final_loss")
        logs = np.log(np.array([[float(row[name]) for row in kept] for name in columns]))
        _, model = np.unique([row["run_name"] for row in kept], return_inverse=True)
        return cls(logs[:4], logs[4], model)

    @property
    def models(self) -> int:
        """How many models there are."""
        return int(self.model.max()) + 1


def gemstones_objective(runs: GemstonesRuns, theta: Array, delta: float = 1e-4, weights: Array | None = None) -> float:
    """Sum over the points of the Huber loss of the error in ln(loss), the quantity the authors minimise."""
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
    """The nine numbers in :data:`GEMSTONES_NAMES` that minimise :func:`gemstones_objective`, from `start`."""
    weights = np.ones_like(runs.log_loss) if weights is None else weights

    def scaled(steps: Array) -> tuple[float, Array]:
        value, gradient = _objective(start + steps * _STEPS, runs, weights, delta)
        return value / delta, gradient * _STEPS / delta

    found = minimize(scaled, np.zeros(len(_STEPS)), jac=True, method="BFGS", options={"maxiter": 3000, "gtol": 1e-7})
    return np.asarray(start + found.x * _STEPS)


def jackknife_gemstones(runs: GemstonesRuns, start: Array, delta: float = 1e-4) -> Array:
    """Covariance of the nine numbers from leaving out one model at a time.

    It is what linear error propagation needs: the steps are small, where a bootstrap over 22 models reaches fits with alpha
    near 0 or above 1 and has no useful covariance (:func:`bootstrap_gemstones` shows that).
    """
    left_out = [fit_gemstones(runs, start, delta, (runs.model != model).astype(float)) for model in range(runs.models)]
    deviations = np.array(left_out) - np.mean(left_out, axis=0)
    return np.asarray((runs.models - 1) / runs.models * deviations.T @ deviations)


def bootstrap_gemstones(runs: GemstonesRuns, start: Array, draws: int, rng: np.random.Generator, delta: float = 1e-4) -> Array:
    """One refit a row, each on as many models drawn with replacement."""
    fits = []
    for _ in range(draws):
        times_drawn = np.bincount(rng.integers(0, runs.models, runs.models), minlength=runs.models)
        fits.append(fit_gemstones(runs, start, delta, times_drawn[runs.model].astype(float)))
    return np.array(fits)


# Any law on any rows.


@dataclass(frozen=True)
class Fit:
    """A law fitted to rows."""

    law: str
    names: tuple[str, ...]
    values: Array
    covariance: Array
    """Of the coefficients, in the order of `names`, by `method`."""
    intervals: Array
    """Shape (coefficients, 2): the ends of each coefficient's 68.3 % interval, by `method`."""
    method: str
    residual_rms: float
    """Root of the sum of squares over degrees of freedom, in the unit of the left side or, if so fitted, of its logarithm."""
    points: int
    groups: int
    """Independent runs among the points; the errors count these."""
    failed: int
    """Bootstrap draws whose refit did not converge; left out of the errors."""
    rows_sha256: str
    """Of the columns that were used."""

    @property
    def stderr(self) -> Array:
        """One standard error of each coefficient."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    def __getitem__(self, name: str) -> float:
        return float(self.values[self.names.index(name)])

    def rows(self) -> list[dict[str, Any]]:
        """One row a coefficient."""
        return [
            {"name": n, "value": float(v), "stderr": float(e), "low": float(low), "high": float(high)}
            for n, v, e, (low, high) in zip(self.names, self.values, self.stderr, self.intervals, strict=True)
        ]


METHODS = ("curvature", "bootstrap", "profile")
STARTS = 8
"""Besides the given start, as many others within a factor of three of it; the best of all fits is taken."""
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
    law : as ``"loss = E + A * width**-alpha"``. On the left a column; on the right numbers, columns, coefficients,
        ``+ - * / **``, brackets, ``exp``, ``log`` and ``sqrt``. It is read by a parser that can do nothing else.
    rows : one per point.
    start : the coefficients, and a value near which to look for each.
    logarithm : fit the logarithm of both sides, so that errors are relative.
    group : column that names the run of a point. Points of one run share its luck, so that runs are drawn in the bootstrap and
        not points; by default every point is a run.
    method : ``bootstrap`` (refits on runs drawn with replacement), ``curvature`` (of the sum of squares at its minimum) or
        ``profile`` (the covariance of ``curvature``, and intervals from where the sum of squares, at its least over all other
        coefficients, has risen by one standard error's worth).
    draws, seed : of the bootstrap.

    Notes
    -----
    Where each run has one point, ``curvature`` takes errors as equal and independent: the covariance is s^2 (J'J)^-1. Where one
    has several, it is the cluster-robust (sandwich) covariance over runs, which assumes nothing of how the points of a run hang
    together: Liang and Zeger 1986, Biometrika 73, 13, with Bell and McCaffrey's (2002) correction of residuals for their own
    run's pull on the fit; Cameron and Miller 2015, J. Human Resources 50, 317, review both. Its intervals are Student's with as
    many degrees of freedom as there are more runs than coefficients. A profile exists for independent points alone.

    Raises
    ------
    InputError
        if the law cannot be read, a column is missing, there are too few runs, the rows do not determine a coefficient, or a
        profile is asked for of runs with several points.
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
            f"fit: a profile is of independent points, and these are {len(rows)} points of {len(groups)} runs; "
            "take bootstrap or curvature, or one point a run"
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
                f"fit: {failed} of {draws} bootstrap refits do not converge; the rows do not determine the coefficients"
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
    except (TypeError, ValueError):
        raise InputError(f"fit: not every row has a number in column {shown(name)}") from None
    if not np.isfinite(found).all():
        raise InputError(f"fit: column {shown(name)} holds {found[~np.isfinite(found)][0]}; leave such rows out")
    return found


def _starts(theta: Array, seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    return [theta, *(theta * 3.0 ** rng.uniform(-1, 1, (STARTS, len(theta))))]


def _inverse(jacobian: Array, names: Sequence[str]) -> Array:
    """Inverse of J'J, by the singular values of J with its columns scaled to one length."""
    lengths = np.linalg.norm(jacobian, axis=0)
    if (lengths == 0).any():
        raise InputError(f"fit: the rows do not depend on {names[int(np.argmin(lengths))]}")
    _, singular, rotation = np.linalg.svd(jacobian / lengths, full_matrices=False)
    if singular[-1] < 1e-7 * singular[0]:  # half of a float's digits: their squares would be all of them
        raise InputError(f"fit: the rows do not determine {names[int(np.argmax(np.abs(rotation[-1])))]}")
    half = rotation.T / singular
    return np.asarray(half @ half.T / np.outer(lengths, lengths))


def _cluster_covariance(
    residuals: Array, jacobian: Array, inverse: Array, which: NDArray[np.intp], groups: NDArray[Any], names: Sequence[str]
) -> Array:
    """(J'J)^-1 (sum over runs of s s') (J'J)^-1 with s = J_g' (1 - H_gg)^-1/2 r_g, H = J (J'J)^-1 J' (Bell and McCaffrey's).

    Parameters
    ----------
    residuals, jacobian : r and J at the minimum, shapes (points,) and (points, coefficients).
    inverse : (J'J)^-1.
    which : the number of each point's run in `groups`.
    """
    scores = []
    for run, name in enumerate(groups):
        its = jacobian[which == run]
        left, directions = np.linalg.eigh(np.eye(len(its)) - its @ inverse @ its.T)
        if left[0] < 1e-9:  # the fit goes through these points whatever they are: leverage 1, to a float's rounding
            alone = names[int(np.argmax(np.abs(inverse @ its.T @ directions[:, 0]) / np.sqrt(np.diag(inverse))))]
            raise InputError(f"fit: run {name} alone determines {alone}, so that its error cannot be known; add runs like it")
        scores.append(its.T @ (directions @ (directions.T @ residuals[which == run] / np.sqrt(left))))
    half = inverse @ np.array(scores).T
    return np.asarray(half @ half.T)


def _quantile(freedom: int) -> float:
    """Student's t at the upper end of a 68.3 % interval."""
    return float(scipy.stats.t.ppf((1 + _ONE_SIGMA) / 2, freedom))


@dataclass(frozen=True)
class _Problem:
    """Least squares of a law on columns."""

    right: Node
    names: tuple[str, ...]
    data: Mapping[str, Array]
    target: Array
    logarithm: bool

    def __post_init__(self) -> None:
        if self.logarithm and (self.target <= 0).any():
            raise InputError("fit: a logarithm is asked for, and the left side is not always positive")

    def residuals(self, theta: Array, weights: Array | None = None) -> Array:
        """Law minus rows, 1e100 where the law has no value."""
        with np.errstate(all="ignore"):
            value = np.asarray(self.right({**self.data, **dict(zip(self.names, theta, strict=True))}), dtype=float)
            error = np.broadcast_to(
                np.log(value) - np.log(self.target) if self.logarithm else value - self.target, self.target.shape
            )
        error = np.where(np.isfinite(error), error, 1e100)
        return np.asarray(error if weights is None else error * weights)

    def jacobian(self, theta: Array) -> Array:
        """By central differences."""
        steps = np.cbrt(np.finfo(float).eps) * np.maximum(np.abs(theta), 1e-8)
        columns = []
        for i, step in enumerate(steps):
            off = np.zeros_like(theta)
            off[i] = step
            columns.append((self.residuals(theta + off) - self.residuals(theta - off)) / (2 * step))
        return np.array(columns).T

    def solve(self, starts: Sequence[Array], weights: Array | None = None) -> Array:
        """The best of the fits from several starts."""
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
            raise InputError("fit: the law has no value at the start; give other --start values")
        return np.asarray(best.x)

    def profile(self, theta: Array, which: int, scatter: float, freedom: int, step: float) -> tuple[float, float]:
        """Where the least sum of squares at a fixed coefficient has risen by one standard error's worth, on either side."""
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
                    raise InputError(f"fit: the rows put no end to {self.names[which]}")
            found = brentq(lambda off: excess(float(theta[which]) + side * off), 0.0, far, xtol=1e-3 * step)
            return float(theta[which]) + side * float(found)

        return end(-1.0), end(1.0)


def points(rows: Sequence[Row], site: str = "", steps: str = "last") -> list[dict[str, Any]]:
    """Rows of a store as points to fit: one a run and step, with its labels and each quantity as a column.

    Parameters
    ----------
    rows : as a store has them.
    site : whose quantities to take; by default those that belong to no site.
    steps : ``last`` takes the last step of each run, ``all`` every one. Quantities without a step belong to each.

    Returns
    -------
    Points with `run`, `seed`, `step`, the labels and the quantities. Values that are not finite, as the loss of a diverged run,
    are left out, and with them whatever point needs them.
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
        raise InputError(f"fit: {shown(law)} is not of the form COLUMN = LAW, as loss = E + A * width**-alpha")
    return left.strip(), read(right.strip())


def save_fit(
    found: Fit, folder: str | Path, name: str, rows: Sequence[Point], *, unit: Mapping[str, str] | None = None
) -> Path:
    """Write a fit as ``data/coefficients`` has them: coefficients, covariance, and the rows they came from.

    Parameters
    ----------
    found : the fit.
    folder : where ``NAME.csv``, ``NAME.covariance.csv`` and ``NAME.rows.csv`` go.
    name : of the law; small letters, digits and underscores.
    rows : that were fitted.
    unit : of coefficients, where it is not 1.
    """
    if not name.isidentifier() or not name.islower():
        raise InputError(f"fit: a law's name is made of small letters, digits and _, not {shown(name)}")
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
