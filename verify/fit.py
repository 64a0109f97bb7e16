"""Rows in, coefficients with errors out: the shape penalty, and a refit of the Gemstones width-depth law.

Both work on published measurements of 22 models. The errors count models, not points, as independent: the points of one
training run share its luck.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize

from depthwidth.formulas.shape import levine_optimal_width

Array = NDArray[np.float64]
Row = Mapping[str, Any]


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


def fit_shape_penalty(rows: Sequence[Row], loss: str = "loss_nats_100B_tokens", size0: float = 2e8) -> PenaltyFit:
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
    def of(cls, rows: Sequence[Row], every: int = 2385) -> GemstonesRuns:
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
