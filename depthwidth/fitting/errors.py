"""Errors of fitted coefficients: bootstrap and jackknife over models, curvature with clusters, and profiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats
from numpy.typing import NDArray
from scipy.optimize import brentq, least_squares

from ..errors import InputError
from ..progress import during
from .problem import Problem

Array = NDArray[np.float64]
Index = NDArray[np.intp]

ONE_SIGMA = 0.6826894921370859
"""Probability within one standard error of a normal distribution."""
MOST_FOLDS = 40
"""Fits of a jackknife; of more models, several are left out together."""


@dataclass(frozen=True)
class LeftOut:
    """Fits that leave out one model, or one group of models, each."""

    thetas: Array
    """Shape (folds, coefficients)."""
    residuals: Array
    """Error of each point as predicted without its model, shape (points,)."""
    models: int
    """Number of models."""

    def covariance(self, values: Array) -> Array:
        """Jackknife covariance of any quantities of the fits, shape (folds, quantities)."""
        off = values - values.mean(axis=0)
        return np.asarray((len(values) - 1) / len(values) * off.T @ off)


def bootstrap(problem: Problem, theta: Array, model: Index, draws: int, rng: np.random.Generator) -> tuple[Array, int]:
    """Fits to as many models, drawn with replacement: shape (draws that converged, coefficients), and how many did not.

    Each starts at the fit, and at the projection of its own sample, so that a draw may leave the fit's minimum.
    """
    count = int(model.max()) + 1
    fits: list[Array] = []
    failed = 0
    with during(lambda: f"bootstrap {len(fits) + failed} of {draws}", lambda: (len(fits) + failed) / draws):
        for _ in range(draws):
            times = np.bincount(rng.integers(0, count, count), minlength=count)[model]
            try:
                fits.append(refit(problem.taken(times.astype(float)), theta))
            except (InputError, np.linalg.LinAlgError):
                failed += 1
    if failed > draws // 10:
        raise InputError(f"fit: {failed} of {draws} bootstrap fits do not converge; the rows do not determine the coefficients")
    return np.array(fits), failed


def refit(problem: Problem, theta: Array) -> Array:
    """The minimum of a problem that differs little from one with its minimum at `theta`."""
    values = dict(zip(problem.names, problem.values(theta), strict=True))
    best = problem.refine_quickly([theta, *problem.search([values])])
    if not problem.value(best) < 1e90:
        raise InputError("fit: the law has no finite value there")
    return best


def jackknife(problem: Problem, theta: Array, model: Index) -> LeftOut:
    """Fits that leave out one model each; above :data:`MOST_FOLDS` models, one of that many groups of models."""
    count = int(model.max()) + 1
    fold = (np.arange(count) if count <= MOST_FOLDS else np.random.default_rng(0).permutation(count) % MOST_FOLDS)[model]
    folds = int(fold.max()) + 1
    thetas: list[Array] = []
    residuals = np.zeros(len(problem.target))
    with during(lambda: f"left out {len(thetas)} of {folds}", lambda: len(thetas) / folds):
        for one in range(folds):
            kept = (fold != one).astype(float)
            part = problem.taken(kept)
            thetas.append(part.refine(refit(part, theta)))
            residuals[fold == one] = problem.taken(1.0 - kept).residuals(thetas[-1])
    return LeftOut(np.array(thetas), residuals, count)


def inverse_curvature(jacobian: Array, names: Sequence[str]) -> Array:
    """Inverse of J'J, by the singular values of J with all columns scaled to norm 1."""
    lengths = np.linalg.norm(jacobian, axis=0)
    if (lengths == 0).any():
        raise InputError(f"fit: the rows do not depend on {names[int(np.argmin(lengths))]}")
    _, singular, rotation = np.linalg.svd(jacobian / lengths, full_matrices=False)
    if singular[-1] < 1e-7 * singular[0]:  # the squares, on which J'J depends, then differ by all digits of a float
        raise InputError(f"fit: the rows do not determine {names[int(np.argmax(np.abs(rotation[-1])))]}")
    half = rotation.T / singular
    return np.asarray(half @ half.T / np.outer(lengths, lengths))


def cluster_covariance(
    residuals: Array, jacobian: Array, inverse: Array, model: Index, models: Sequence[str], names: Sequence[str]
) -> Array:
    """Cluster-robust covariance with the leverage correction of Bell and McCaffrey, shape (coefficients, coefficients).

    It is (J'J)^-1 (sum over models of s s') (J'J)^-1 with s = J_g' (1 - H_gg)^-1/2 r_g and H = J (J'J)^-1 J'.

    Parameters
    ----------
    residuals, jacobian : r and J at the minimum, shapes (points,) and (points, coefficients).
    inverse : (J'J)^-1.
    model : number of each point's model in `models`.
    models : names of the models.
    names : names of the coefficients.
    """
    scores = []
    for number, name in enumerate(models):
        its = jacobian[model == number]
        left, directions = np.linalg.eigh(np.eye(len(its)) - its @ inverse @ its.T)
        if left[0] < 1e-9:  # leverage 1, up to rounding: the fit passes through these points whatever their values
            alone = names[int(np.argmax(np.abs(inverse @ its.T @ directions[:, 0]) / np.sqrt(np.diag(inverse))))]
            raise InputError(f"fit: run {name} alone determines {alone}, so {alone} has no standard error; add similar runs")
        scores.append(its.T @ (directions @ (directions.T @ residuals[model == number] / np.sqrt(left))))
    half = inverse @ np.array(scores).T
    return np.asarray(half @ half.T)


def student_quantile(freedom: int, share: float = ONE_SIGMA) -> float:
    """Quantile of Student's t at the upper end of a central interval of probability `share`."""
    return float(scipy.stats.t.ppf((1 + share) / 2, freedom))


def profile(problem: Problem, theta: Array, which: int, scatter: float, freedom: int, step: float) -> tuple[float, float]:
    """Both ends of a coefficient's profile interval, by least squares.

    At an end, the sum of squares, minimised over the other coefficients, exceeds its minimum by t^2 times the scatter.
    """
    if not step > 0:  # a perfect fit: the interval is a point
        return float(theta[which]), float(theta[which])
    t = student_quantile(freedom)
    least = float(np.sum(problem.residuals(theta) ** 2))
    others = [i for i in range(len(theta)) if i != which]

    def excess(value: float) -> float:
        def whole(free: Array) -> Array:
            found = np.empty_like(theta)
            found[which], found[others] = value, free
            return found

        if not others:
            return float(np.sum(problem.residuals(whole(np.empty(0))) ** 2)) - least - t**2 * scatter
        with np.errstate(all="ignore"):
            found = least_squares(
                lambda free: problem.residuals(whole(free)),
                theta[others],
                lambda free: problem.jacobian(whole(free))[:, others],
                x_scale=np.maximum(np.abs(theta[others]), 1e-8), xtol=1e-12, ftol=1e-12,
            )  # fmt: skip
        return 2 * float(found.cost) - least - t**2 * scatter

    def end(side: float) -> float:
        far = step
        while excess(float(theta[which]) + side * far) < 0:
            far *= 2
            if far > 1e6 * step:
                raise InputError(f"fit: the rows do not bound {problem.names[which]}")
        found = brentq(lambda off: excess(float(theta[which]) + side * off), 0.0, far, xtol=1e-3 * step)
        return float(theta[which]) + side * float(found)

    return end(-1.0), end(1.0)
