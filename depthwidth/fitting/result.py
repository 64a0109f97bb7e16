"""The result of a fit: coefficients with errors, residuals, and predictions of unseen models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..display import Overview, with_overview
from ..errors import InputError
from ..quantities import numbered
from .errors import ONE_SIGMA
from .laws import Law

Array = NDArray[np.float64]


@dataclass(frozen=True)
class HeldOut:
    """Errors of predictions for models that were not fitted, in logarithms of the loss if these were fitted."""

    one_model: float
    """Root mean square over rows, each predicted without its model."""
    one_model_median: float
    """Median of their sizes."""
    large: float | None
    """Root mean square for the largest third of the models, predicted from the others; None if too few remain."""
    large_bias: float | None
    """Mean of those errors: above 0 if the prediction is too high."""
    large_from: float | None
    """The smallest of these models, in parameters (or in what else the models are ordered by)."""
    ordered_by: str
    surface: float | None
    """As `one_model`, by a quadratic surface in the logarithms of the law's columns; None if there are too few models."""
    surface_gap: tuple[float, float] | None
    """Mean over models of the law's squared error less that of the surface, and its standard error."""


@with_overview
@dataclass(frozen=True, repr=False)
class Fit:
    """A law fitted to runs. All arrays follow the order of `names`."""

    law: Law
    names: tuple[str, ...]
    values: Array
    covariance: Array
    """Covariance by `method`; to first order for factors, because their logarithms are nearly normal."""
    intervals: Array
    """Ends of the 68.3 % interval of each coefficient by `method`, shape (coefficients, 2)."""
    intervals_95: Array
    """The same at 95 %."""
    jackknife_covariance: Array | None
    """The same by leaving out one model at a time; None if that was not asked for. Its changes are small, as linear error
    propagation needs them."""
    method: str
    """``bootstrap``, ``curvature``, ``profile`` or ``none``."""
    objective: float
    """The minimum of the sum that was minimised."""
    minimised: str
    """That sum in words."""
    residual_rms: float
    """Square root of the sum of squared residuals per degree of freedom, in the unit of the left side, or of its logarithm if
    that was fitted."""
    residual_median: float
    """Median size of a residual."""
    residual_worst: float
    explained: float
    """Share of the variance of the left side, or of its logarithm, that the law explains."""
    points: int
    groups: int
    """Number of independent models among the points, on which errors are based."""
    failed: int
    """Number of bootstrap fits that did not converge and are excluded from the errors."""
    starts: int
    reached: int
    """Number of the searches, from `starts` random starts, that end at the same minimum."""
    held_out: HeldOut | None
    verdicts: Mapping[str, str]
    """The fault of a coefficient, in words, by name; a coefficient that the rows pin down is absent."""
    sentences: tuple[str, ...]
    """Caveats on the fit as a whole."""
    ranges: Mapping[str, tuple[float, float]]
    """Least and largest value of each column that was used."""
    centres: Mapping[str, float]
    """Geometric mean of each column of a term."""
    guesses: Mapping[str, str]
    notes: tuple[str, ...]
    rows_sha256: str
    """SHA-256 of the columns that were used, first 16 hexadecimal digits."""
    draws: Array
    """The bootstrap fits, shape (draws, coefficients)."""
    logarithm: bool = True
    """True if the logarithm was fitted, so that errors are relative."""
    factor: str = ""
    """In words, the factor of each cell that was eliminated; empty if there is none."""

    @property
    def stderr(self) -> Array:
        """Standard error of each coefficient by `method`."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    @property
    def jackknife(self) -> Array | None:
        """Standard errors by leaving out one model at a time."""
        return None if self.jackknife_covariance is None else np.asarray(np.sqrt(np.diag(self.jackknife_covariance)))

    @property
    def correlation(self) -> Array:
        """Correlations of the coefficients by `method`, shape (coefficients, coefficients)."""
        error = np.where(self.stderr > 0, self.stderr, 1.0)
        return np.asarray(self.covariance / np.outer(error, error))

    def __getitem__(self, name: str) -> float:
        if name not in self.names:
            raise InputError(f"fit: there is no coefficient {name}; there are {', '.join(self.names)}")
        return float(self.values[self.names.index(name)])

    def predict(self, columns: Mapping[str, Any], values: Array | None = None) -> Any:
        """The prediction of the law.

        Parameters
        ----------
        columns : the columns of :attr:`Law.columns` but the left one, numbers or arrays, as the law calls them.
        values : coefficients other than those fitted, such as a row of `draws`.

        Raises
        ------
        InputError
            if a column is missing.
        """
        for name in self.law.right.variables - set(self.names):
            if name not in columns:
                raise InputError(f"fit: a prediction of {self.law.name} needs {name}")
        given = self.values if values is None else values
        return self.law.right({**columns, **dict(zip(self.names, map(float, given), strict=True))})

    def overview(self) -> Overview:
        """The short form."""
        facts = {
            "rows": f"{self.points:,} of {numbered(self.groups, 'model')}",
            "minimised": f"{self.minimised}, {self.objective:.6g}",
        }
        facts["residual"] = f"{self.residual_rms:.3%}" if self.logarithm else f"{self.residual_rms:.4g}"
        if self.held_out is not None:
            facts["unseen models"] = f"{self.held_out.one_model:.3%}" if self.logarithm else f"{self.held_out.one_model:.4g}"
        cells = [(row["name"], f"{row['value']:.5g}", f"{row['stderr']:.2g}", row["verdict"]) for row in self.rows()]
        return Overview(
            f"Fit of {self.law.text}", facts, ("coefficient", "value", "error", "verdict"), cells, ("verdict",), ".rows()"
        )

    def rows(self) -> list[dict[str, Any]]:
        """One row per coefficient."""
        found = []
        for i, name in enumerate(self.names):
            low, high = map(float, self.intervals[i])
            found.append({
                "name": name, "value": float(self.values[i]), "stderr": float(self.stderr[i]), "low": low, "high": high,
                "jackknife": None if self.jackknife is None else _finite(self.jackknife[i]),
                "unit": self.law.units.get(name, "1"), "verdict": self.verdicts.get(name, ""),
            })  # fmt: skip
        return found

    def to_dict(self) -> dict[str, Any]:
        """All of it, as plain values."""
        held = self.held_out
        return {
            "law": self.law.text, "name": self.law.name, "source": self.law.source, "method": self.method,
            "coefficients": self.rows(), "covariance": self.covariance.tolist(), "correlation": self.correlation.tolist(),
            "objective": self.objective, "minimised": self.minimised, "residual_rms": self.residual_rms,
            "residual_median": self.residual_median, "residual_worst": self.residual_worst, "explained": self.explained,
            "points": self.points, "runs": self.groups, "failed": self.failed, "starts": self.starts, "reached": self.reached,
            "held_out": None if held is None else {
                "one_model": held.one_model, "one_model_median": held.one_model_median, "large": held.large,
                "large_bias": held.large_bias, "large_from": held.large_from, "ordered_by": held.ordered_by,
                "surface": held.surface,
            },
            "sentences": list(self.sentences), "notes": list(self.notes), "columns": dict(self.guesses),
            "ranges": {name: list(ends) for name, ends in self.ranges.items()}, "rows": self.rows_sha256,
        }  # fmt: skip


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def central(draws: Array, share: float = ONE_SIGMA) -> Array:
    """Ends of the central interval of each column of `draws`, shape (columns, 2)."""
    return np.asarray(np.quantile(draws, [(1 - share) / 2, (1 + share) / 2], axis=0).T)
