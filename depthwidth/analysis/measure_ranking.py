"""Measures of capacity ranked by their agreement with the generalisation gap over a sweep of trained networks.

The granulated protocol (Jiang et al. 2020) averages Kendall's coefficient over groups of networks that differ in one
hyperparameter; the robust one (Dziugaite et al. 2020) looks at the worst such pair of values instead, and weighs a pair by the
certainty of its order under the noise of the test set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..formulas.capacity import pair_certainty
from ..numerics.ranking import granulated_kendall, sign_errors
from ..values import frozen

CERTAIN = 0.5
"""Certainty up to which a pair of networks is left out of the robust protocol."""


@frozen
class MeasureRank:
    """The agreement of one measure with the gap."""

    measure: str
    networks: int
    """Those that have the measure."""
    mean: float
    """Psi: the mean over hyperparameters of Kendall's coefficient among networks that differ in one only."""
    by_hyperparameter: Mapping[str, float]
    overall: float
    """Kendall's coefficient among all networks."""
    worst_error: float | None
    """Largest mean sign error over environments, from 0 to 1; None if no pair is certain."""
    worst_environment: str
    """The hyperparameter and its two values there; empty if none."""

    def to_dict(self) -> dict[str, Any]:
        """One row of plain data."""
        parts = {f"psi {name}": value for name, value in self.by_hyperparameter.items()}
        own = {name: value for name, value in vars(self).items() if name != "by_hyperparameter"}
        return own | parts


def rank_measures(
    measures: Mapping[str, Sequence[float | None]], gaps: Sequence[float], settings: Mapping[str, Sequence[Any]],
    test_points: int | None = None,
) -> tuple[MeasureRank, ...]:  # fmt: skip
    """Every measure with its agreement, the best by Psi first.

    Parameters
    ----------
    measures : of each name one value for each network, seeds averaged; None if it has none for that network.
    gaps : test error less training error of each network.
    settings : of each hyperparameter its value for each network.
    test_points : of the test errors; pairs whose order is their noise then count less, or not at all, in the worst error.

    Raises
    ------
    InputError
        if lengths differ, numbers are not finite, or no two networks with a measure differ in one hyperparameter.

    Examples
    --------
    >>> gaps, width, depth = [0.1, 0.2, 0.4, 0.3], [8, 16, 8, 16], [2, 2, 3, 3]
    >>> found = rank_measures({"the gap": gaps, "its negative": [-g for g in gaps]}, gaps, {"width": width, "depth": depth})
    >>> [(one.measure, one.mean, one.worst_error) for one in found]
    [('the gap', 1.0, 0.0), ('its negative', -1.0, 1.0)]
    """
    found = []
    for name, values in measures.items():
        if len(values) != len(gaps):
            raise InputError(f"measure {name} has {len(values)} values, expected one for each of {len(gaps)} networks")
        there = [i for i, value in enumerate(values) if value is not None]
        mu, g = [values[i] for i in there], [gaps[i] for i in there]
        own = {key: [some[i] for i in there] for key, some in settings.items()}
        one = granulated_kendall(mu, g, own)
        errors = sign_errors(mu, g, own, None if test_points is None else certainties(g, test_points))
        worst = max(errors, key=lambda key: errors[key], default=None)
        found.append(
            MeasureRank(
                name, len(there), one.mean, one.by_hyperparameter, one.overall, None if worst is None else errors[worst],
                "" if worst is None else f"{worst[0]} {worst[1]} to {worst[2]}",
            )
        )  # fmt: skip
    return tuple(sorted(found, key=lambda one: -one.mean))


def certainties(gaps: Sequence[float], test_points: int) -> Any:
    """The weight of each pair of networks, (networks, networks): its certainty less one half, at least 0.

    Examples
    --------
    >>> certainties([0.0, 0.05], 10_000).round(6).tolist()
    [[0.0, 0.499985], [0.499985, 0.0]]
    """
    g = np.asarray(gaps, dtype=float)
    return np.maximum(pair_certainty(np.minimum(np.abs(g[:, None] - g), 1.0), test_points) - CERTAIN, 0.0)
