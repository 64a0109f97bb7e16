"""Fits of laws to training runs: search, refinement, errors, predictions of unseen models, and a verdict in words."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..checks import check_whole
from ..errors import InputError, nearest, shown
from ..progress import during
from . import errors as resampling
from .held_out import held_out as out_of_sample
from .held_out import order_of
from .laws import Law, find_law, own_law, two_sides
from .prepare import prepare_law
from .problem import Objective, Problem, random_starts
from .result import Fit, HeldOut, central
from .table import Runs, names_column, open_table, read_runs
from .verdict import judge_coefficients, most_influential, sentences, term_sizes

Array = NDArray[np.float64]

METHODS = ("bootstrap", "curvature", "profile", "none")
LOSSES = ("huber", "squares")
STARTS = 24
"""Searches from random starts."""
POLISHED = 3
"""Minima of the search that are refined under the objective itself."""
MOST_DRAWS = 10_000
LEAST_DELTA = 1e-9
"""Least threshold of a Huber loss, and its inverse the largest: far below and far above any error of a loss."""
LARGEST_LOG = 300.0
"""Largest logarithm of a factor or a constant, and its negative the least: a smaller one is 0, and squares stay numbers."""
FAR_OFF = 4.0
"""Robust standard errors beyond which a bootstrap fit counts as that far off: 6 in 100,000 of a normal distribution are."""


def fit(
    runs: Any,
    law: str = "gemstones",
    *,
    columns: Mapping[str, str] | None = None,
    where: Sequence[str] | str = (),
    start: Mapping[str, float] | None = None,
    loss: str | None = None,
    delta: float | None = None,
    logarithm: bool = True,
    errors: str = "bootstrap",
    draws: int = 100,
    held_out: bool = True,
    starts: int = STARTS,
    seed: int = 0,
    rule: str = "levine2020",
    least: bool = False,
) -> Fit:
    """Fit a law to a table of training runs.

    Parameters
    ----------
    runs : path of a ``.csv``, ``.jsonl`` or ``.parquet`` file, a DataFrame, or mappings, one a row: one row per run and point.
    law : a name of :data:`~depthwidth.fitting.laws.LAWS`, or a law such as ``loss = E + A * width**-alpha``: a column on the
        left; on the right numbers, columns, coefficients, ``+ - * / **`` and functions. It is parsed, never executed.
    columns : from a quantity (``width``, ``depth``, ``parameters``, ``tokens``, ``loss``, ``model`` ...) to the table's column
        or an expression in its columns; the others are guessed, see :attr:`Fit.guesses`. ``model`` identifies the model.
    where : conditions on rows, such as ``step % 2385 == 0``.
    start : of a law of your own, approximate values of coefficients; names without a value may be given as 0. By default every
        name of the law that the table has no column for is a coefficient, and starts are drawn at random.
    loss : ``huber`` or ``squares``; by default that of the law's paper.
    delta : threshold of the Huber loss; by default that of the paper, or 1e-3.
    logarithm : fit the logarithm of both sides, so that errors are relative.
    errors : ``bootstrap`` (models drawn with replacement), ``curvature`` or ``profile`` (of the sum of squares), or ``none``.
    draws : bootstrap fits, up to 10,000.
    held_out : predict each model from the others, and large models from small ones; jackknife errors come with it.
    starts : searches from random starts.
    seed : of the random numbers.
    rule : of the law ``shape-penalty``, the rule for shapes around which the penalty is taken.
    least : of rows that are equal in all that the law uses, fit the one of least loss: the best of several recipes.

    Returns
    -------
    :class:`Fit`.

    Raises
    ------
    InputError
        if the table or the law cannot be used, in one sentence.

    Examples
    --------
    >>> rows = [{"width": w, "loss": 2 + 30 * w**-0.5} for w in (64, 96, 128, 192, 256, 384, 512, 768)]
    >>> found = fit(rows, "loss = E + A * width**-p", draws=20)
    >>> round(found["E"], 6), round(found["A"], 4), round(found["p"], 6)
    (2.0, 30.0, 0.5)
    """
    where = (where,) if isinstance(where, str) else tuple(where)
    if "=" in law:
        known, table = _own(law, runs, columns, where, start)
        table = table.least(known.left) if least else table
    else:
        if start:
            raise InputError(f"fit: {find_law(law).name} needs no start values; its searches start anywhere")
        known, table = prepare_law(law, runs, columns, where, rule, least)
    return fit_runs(
        table, known, objective=objective_of(known, loss, delta, logarithm), errors=errors, draws=draws, held_out=held_out,
        starts=starts, seed=seed,
    )  # fmt: skip


def _own(
    law: str, runs: Any, columns: Mapping[str, str] | None, where: Sequence[str], start: Mapping[str, float] | None
) -> tuple[Law, Runs]:
    """A user's own law, and the table of its columns; names without a column are coefficients."""
    left, right = two_sides(law)
    table = open_table(runs)
    given = dict(start or {})
    names = tuple(given) + tuple(
        sorted(name for name in right.variables - given.keys() if not names_column(name, table.names, columns or {}))
    )
    if not names:
        raise InputError(f"fit: {shown(law)} has no coefficient: the table has a column for every name")
    own = own_law(law, names, start_ranges(given))
    needed = [name for name in own.columns if name != left]
    return own, read_runs(table, [left, *needed], columns=columns, where=where)


def start_ranges(start: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Ranges of start values within a factor of three of those given; a start of 0 is ignored."""
    return {name: tuple(sorted((value / 3, value * 3))) for name, value in start.items() if value}  # type: ignore[misc]


def objective_of(law: Law, loss: str | None = None, delta: float | None = None, logarithm: bool = True) -> Objective:
    """The objective of a fit: by default that of the law's paper, else as :func:`fit` describes it.

    Raises
    ------
    InputError
        if the words are none that are known, or do not go together.
    """
    loss = loss or ("squares" if law.delta is None and delta is None else "huber")
    if loss not in LOSSES:
        raise InputError(f"fit: loss={shown(loss)} is not one of {', '.join(LOSSES)}{nearest(str(loss), LOSSES)}")
    if loss == "squares":
        if delta is not None:
            raise InputError("fit: delta is the threshold of the Huber loss and has no meaning for least squares")
        return Objective(None, logarithm)
    if law.cells:
        raise InputError(f"fit: {law.name} is fitted by least squares, because its factors are eliminated by means")
    delta = (law.delta or 1e-3) if delta is None else delta
    if not LEAST_DELTA <= delta <= 1 / LEAST_DELTA:
        raise InputError(f"fit: delta={shown(delta)} is not a number from {LEAST_DELTA:g} to {1 / LEAST_DELTA:g}")
    return Objective(float(delta), logarithm)


SEARCH_SHARE = 0.07
"""Share of the time of a fit with errors that the search for the minimum takes: reports of progress need it to a tenth."""


def fit_runs(
    runs: Runs,
    law: Law,
    *,
    objective: Objective,
    errors: str = "bootstrap",
    draws: int = 100,
    held_out: bool = True,
    starts: int = STARTS,
    seed: int = 0,
    guesses: Sequence[Mapping[str, float]] = (),
) -> Fit:
    """Fit a law to runs that are read already; :func:`fit` describes the parameters.

    Parameters
    ----------
    guesses : complete start values, tried before the random ones.

    Raises
    ------
    InputError
        if there are too few models, or the rows do not determine a coefficient.
    """
    if law.derive is not None:
        runs = replace(runs, columns=law.derive(runs.columns))
    _check(runs, law, objective, errors, draws, starts)
    rng = np.random.default_rng(seed)
    problem, centres = problem_of(runs, law, objective)
    with during(span=SEARCH_SHARE, done=lambda: 0.0):
        theta, reached, tried = minimum(problem, law, starts, rng, guesses)
    if not law.terms and objective.delta is None:
        resampling.inverse_curvature(problem.jacobian(theta), law.coefficients)  # refuses a law that says the same twice
    report = Reporter(problem, law, centres)
    residuals = problem.residuals(theta)
    freedom = max(runs.rows - len(law.coefficients) - (int(problem.cells.max()) + 1 if problem.cells is not None else 0), 1)
    scatter = float(residuals @ residuals) / freedom
    folds = min(len(runs.models), resampling.MOST_FOLDS) if held_out else 0
    drawn = (1 - SEARCH_SHARE) * draws / (draws + 2 * folds) if errors == "bootstrap" else 0.0
    method, samples, failed = errors, np.empty((0, len(theta))), 0
    if errors == "bootstrap":
        with during(span=drawn, done=lambda: SEARCH_SHARE):
            samples, failed = resampling.bootstrap(problem, theta, runs.model, draws, rng)
        raw = report.values(samples)
        covariance, (inner, outer) = report.covariance(samples, theta), (central(raw), central(raw, 0.95))
    elif errors == "none":
        covariance = np.zeros((len(theta), len(theta)))
        inner = outer = np.repeat(report.values(theta)[:, None], 2, axis=1)
    else:
        covariance, inner, outer = _curvature_errors(problem, theta, runs, report, residuals, scatter, freedom, errors)
    with during(span=1 - SEARCH_SHARE - drawn, done=lambda: SEARCH_SHARE + drawn):
        jackknife, held, influence = (
            _jackknife_errors(problem, theta, runs, report, covariance) if held_out else (None, None, None)
        )
    values = report.values(theta)
    raw_draws = report.values(samples) if len(samples) else samples
    verdicts = {} if errors == "none" else judge_coefficients(law, law.coefficients, values, outer)
    error = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(*(np.where(error > 0, error, 1.0),) * 2)
    logs = np.log(problem.target) if objective.logarithm else problem.target
    rms = float(np.sqrt(np.mean(residuals**2)))
    return Fit(
        law, law.coefficients, values, covariance, inner, outer, jackknife, method, objective.of(residuals), str(objective),
        float(np.sqrt(scatter)), float(np.median(np.abs(residuals))), float(np.max(np.abs(residuals))),
        float(1 - np.sum(residuals**2) / max(np.sum(problem.centred(logs - logs.mean()) ** 2), 1e-300)),
        runs.rows, len(runs.models), failed, tried, reached, held, verdicts,
        sentences(
            law, law.coefficients, verdicts, correlation, term_sizes(law, law.coefficients, values, raw_draws, centres), held,
            rms, influence, tried, reached,
        ),
        {name: (float(column.min()), float(column.max())) for name, column in runs.columns.items()}, centres,
        runs.guesses, runs.notes, digest(runs.columns, law), raw_draws, objective.logarithm,
        f"one factor for each of {int(problem.cells.max()) + 1} {' x '.join(law.cells)}" if problem.cells is not None else "",
    )  # fmt: skip


def _check(runs: Runs, law: Law, objective: Objective, errors: str, draws: int, starts: int) -> None:
    if errors not in METHODS:
        raise InputError(f"fit: there is no method {shown(errors)}; there are {', '.join(METHODS)}")
    if objective.delta is not None and errors in ("curvature", "profile"):
        raise InputError(f"fit: errors by {errors} need least squares; use bootstrap, or loss squares")
    for name, value, low in (("draws", draws, 2), ("starts", starts, 1)):
        check_whole("fit", low, MOST_DRAWS, **{name: value})
    models, count = len(runs.models), len(law.coefficients)
    if models <= count:
        one = "run" if models == 1 else "runs"
        raise InputError(f"fit: {models} {one} cannot determine {count} coefficients and the scatter")
    if models < runs.rows and errors == "profile":
        raise InputError(
            f"fit: the profile method needs independent points, but there are {runs.rows} points from {models} runs; "
            "use bootstrap or curvature, or one point per run"
        )
    for _, _, name in law.terms:
        column = runs[name]
        if np.ptp(column) <= 1e-12 * np.abs(column).max():
            raise InputError(f"fit: {name} is {column[0]:g} in every row, so its coefficients cannot be fitted")


def problem_of(runs: Runs, law: Law, objective: Objective) -> tuple[Problem, dict[str, float]]:
    """The problem in columns divided by their geometric means where the law has powers of them, and those means."""
    data = {name: runs[name] for name in law.right.variables - set(law.coefficients)}
    centres = {column: float(np.exp(np.mean(np.log(runs[column])))) for _, _, column in law.terms}
    for name, centre in centres.items():
        data[name] = data[name] / centre
    cells = None
    if law.cells:
        cells = np.unique(np.stack([runs[name] for name in law.cells]), axis=1, return_inverse=True)[1].ravel()
    return Problem(law.right, law.coefficients, data, runs[law.left], objective, law.positive, None, cells), centres


def minimum(
    problem: Problem, law: Law, starts: int, rng: np.random.Generator, guesses: Sequence[Mapping[str, float]]
) -> tuple[Array, int, int]:
    """The least minimum found, how many searches ended at it, and how many there were."""
    free = [name for name in law.coefficients if name not in problem.linear]
    drawn = random_starts({name: law.ranges[name] for name in free if name in law.ranges}, starts, rng)
    others = [name for name in free if name not in law.ranges]
    for start in drawn:
        start.update((name, _random_start(problem, rng, name in problem.positive)) for name in others)
    tried = [*guesses, *drawn] if free else [{}]
    state = {"at": 0}
    with during(lambda: f"search {state['at'] + 1} of {len(tried)}", lambda: state["at"] / len(tried)):
        found = problem.search(tried, lambda number: state.update(at=number))
    direct = [problem.theta(np.array([guess[name] for name in problem.names])) for guess in guesses[:1]]
    direct = [theta for theta in direct if np.abs(problem.residuals(theta)).max() < 1e99]
    with during("refining"):
        ends = [problem.refine(theta) for theta in (*_distinct(problem, found), *direct)]
    best = min(ends, key=problem.value)
    if not problem.value(best) < 1e90:
        raise InputError("fit: the law has no finite value at the start; change the --start values")
    squares = [float(np.sum(np.square(problem.residuals(theta)))) for theta in found]
    reached = sum(value <= squares[0] * (1 + 1e-3) + 1e-20 for value in squares)
    return best, reached, len(tried)


def _random_start(problem: Problem, rng: np.random.Generator, positive: bool) -> float:
    """A start for an unknown coefficient: any sign and size, in units of one or of a column's inverse."""
    size = 10 ** rng.uniform(-2, 0.7) * (1 if positive or rng.uniform() < 0.75 else -1)
    if problem.data and rng.uniform() < 0.3:
        column = list(problem.data.values())[rng.integers(len(problem.data))]
        size /= np.median(np.abs(column)) or 1.0
    return float(size)


def _distinct(problem: Problem, thetas: Sequence[Array]) -> list[Array]:
    """The best few of the minima that differ in their value."""
    kept: list[tuple[float, Array]] = []
    for theta in thetas:
        value = float(np.sum(np.square(problem.residuals(theta))))
        if all(abs(value - other) > 1e-4 * (value + other) for other, _ in kept):
            kept.append((value, theta))
        if len(kept) == POLISHED:
            break
    return [theta for _, theta in kept]


class Reporter:
    """Converts the vectors of a problem, in scaled columns, to the coefficients of the law as written."""

    def __init__(self, problem: Problem, law: Law, centres: Mapping[str, float]) -> None:
        self.problem = problem
        names = problem.names
        self.factors = [
            (names.index(factor), names.index(exponent), float(np.log(centres[column])))
            for factor, exponent, column in law.terms
        ]
        self.logs = np.array([law.units.get(name) == "nats" and name in law.positive for name in names])

    def logarithms(self, thetas: Array) -> Array:
        """Coefficients, with factors and constants as logarithms, which are nearly normal."""
        found = np.where(self.logs, thetas, self.problem.values(thetas))
        exponents = self.problem.values(thetas)
        for factor, exponent, log_centre in self.factors:
            found[..., factor] = found[..., factor] + exponents[..., exponent] * log_centre
        return np.where(self.logs, np.clip(found, -LARGEST_LOG, LARGEST_LOG), found)

    def values(self, thetas: Array) -> Array:
        """The coefficients."""
        found = self.logarithms(thetas)
        return np.where(self.logs, np.exp(np.where(self.logs, found, 0.0)), found)

    def covariance(self, thetas: Array, centre: Array) -> Array:
        """Covariance of fits, of factors to first order from that of their logarithms.

        Fits further than :data:`FAR_OFF` robust standard errors from the median count as that far, so that one among many whose
        exponent ran away does not stand for all.
        """
        found = self.logarithms(thetas)
        ends = central(found)
        middle, error = np.median(found, axis=0), (ends[:, 1] - ends[:, 0]) / 2
        found = np.clip(found, middle - FAR_OFF * error, middle + FAR_OFF * error)
        return self.first_order(np.atleast_2d(np.cov(found, rowvar=False)), centre)

    def first_order(self, covariance: Array, centre: Array) -> Array:
        """Covariance of the coefficients from that of :meth:`logarithms`."""
        scale = np.where(self.logs, self.values(centre), 1.0)
        return np.asarray(covariance * np.outer(scale, scale))

    def slopes(self, theta: Array) -> Array:
        """Derivatives of :meth:`logarithms` by the vector of the problem, shape (coefficients, coefficients)."""
        positive = np.array([name in self.problem.positive for name in self.problem.names])
        values = self.problem.values(theta)
        found = np.diag(np.where(positive & ~self.logs, values, 1.0))
        for factor, exponent, log_centre in self.factors:
            found[factor, exponent] += values[exponent] * log_centre
        return found


def _curvature_errors(
    problem: Problem, theta: Array, runs: Runs, report: Reporter, residuals: Array, scatter: float, freedom: int, method: str
) -> tuple[Array, Array, Array]:
    """Covariance and intervals from the curvature of the sum of squares, or its profile."""
    names = problem.names
    jacobian = problem.jacobian(theta)
    inverse = resampling.inverse_curvature(jacobian, names)
    several = len(runs.models) < runs.rows
    inner = (
        resampling.cluster_covariance(residuals, jacobian, inverse, runs.model, runs.models, names)
        if several
        else scatter * inverse
    )
    slopes = report.slopes(theta)
    covariance = report.first_order(slopes @ inner @ slopes.T, theta)
    values, error = report.values(theta), np.sqrt(np.diag(covariance))
    count = len(runs.models) - len(names)
    ends = [
        values[:, None] + resampling.student_quantile(count, share) * error[:, None] * np.array([-1.0, 1.0])
        for share in (resampling.ONE_SIGMA, 0.95)
    ]
    if method == "profile":
        ends[0] = np.array(
            [resampling.profile(problem, theta, i, scatter, freedom, float(np.sqrt(inner[i, i]))) for i in range(len(names))]
        )
        whole = np.repeat(theta[:, None], 2, axis=1)
        for i in range(len(names)):
            moved = whole.copy()
            moved[i] = ends[0][i]
            ends[0][i] = [report.values(moved[:, side])[i] for side in (0, 1)]
    return covariance, ends[0], ends[1]


def _jackknife_errors(
    problem: Problem, theta: Array, runs: Runs, report: Reporter, covariance: Array
) -> tuple[Array, HeldOut, tuple[str, str, float, float] | None]:
    """Jackknife covariance, predictions of unseen models, and the model that matters most."""
    left = resampling.jackknife(problem, theta, runs.model)
    logs = report.logarithms(left.thetas)
    jackknife = report.first_order(left.covariance(logs), theta)
    with during("predicting large models from small ones"):
        held = out_of_sample(problem, theta, runs.model, left.residuals, order_of(runs.columns), resampling.refit)
    spread = np.sqrt(np.diag(covariance if covariance.any() else jackknife))
    influence = most_influential(problem.names, report.values(theta), spread, report.values(left.thetas), runs.models)
    return jackknife, held, influence


def digest(columns: Mapping[str, Array], law: Law) -> str:
    """SHA-256 of the columns that a law uses, first 16 hexadecimal digits."""
    used = json.dumps([[name, list(map(repr, columns[name].tolist()))] for name in law.columns]).encode()
    return hashlib.sha256(used).hexdigest()[:16]
