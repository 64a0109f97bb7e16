"""Comparisons of a measure with the generalisation gap over trained networks: Kendall's coefficient, plain and granulated.

The granulated coefficient compares only networks that differ in one hyperparameter, so that one with a large effect on both
does not carry the rest. All values are measures of agreement, from -1 to 1, or shares of pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..values import frozen

Array = Any


def kendall(measure: Any, gap: Any) -> float:
    """Kendall's coefficient: the mean over ordered pairs of the product of the signs of both differences; ties count 0.

    Parameters
    ----------
    measure, gap : one number for each network, two networks at least.

    Examples
    --------
    >>> kendall([1, 2, 3], [0.1, 0.3, 0.2])
    0.3333333333333333
    """
    mu, g = _numbers(measure, gap)
    if len(mu) < 2:
        raise InputError("Kendall's coefficient needs two networks at least")
    return float(_agreement(mu, g).sum() / (len(mu) * (len(mu) - 1)))


def _agreement(mu: Array, g: Array) -> Array:
    return np.sign(mu[:, None] - mu) * np.sign(g[:, None] - g)


def _numbers(measure: Any, gap: Any) -> tuple[Array, Array]:
    mu, g = np.asarray(measure, dtype=float), np.asarray(gap, dtype=float)
    if mu.ndim != 1 or mu.shape != g.shape:
        raise InputError(f"measure has shape {mu.shape} and gap {g.shape}, expected one number for each network")
    if not (np.isfinite(mu).all() and np.isfinite(g).all()):
        raise InputError("measure or gap holds NaN or infinity")
    return mu, g


@frozen
class Granulated:
    """The granulated coefficient and its parts."""

    by_hyperparameter: dict[str, float]
    """psi of each hyperparameter with two values at least."""
    mean: float
    """Psi."""
    overall: float
    """Kendall's coefficient of all networks."""


def granulated_kendall(measure: Any, gap: Any, settings: Mapping[str, Sequence[Any]]) -> Granulated:
    """Kendall's coefficient among networks that differ in one hyperparameter only, averaged over the others' settings.

    Parameters
    ----------
    measure, gap : one number for each network.
    settings : the value of each hyperparameter for each network. A seed is not a hyperparameter: average over it beforehand.

    Raises
    ------
    InputError
        if two networks have equal settings, or no two networks differ in one only.

    Examples
    --------
    >>> granulated_kendall([1, 2, 3, 4], [1, 2, 4, 3], {"width": [8, 16, 8, 16], "depth": [2, 2, 3, 3]}).by_hyperparameter
    {'width': 0.0, 'depth': 1.0}
    """
    mu, g = _numbers(measure, gap)
    rows = _settings(settings, len(mu))
    psi = {}
    for k, name in enumerate(settings):
        alike = defaultdict(list)
        for i, row in enumerate(rows):
            alike[row[:k] + row[k + 1 :]].append(i)
        found = [kendall(mu[i], g[i]) for i in alike.values() if len(i) > 1]
        if found:
            psi[name] = float(np.mean(found))
    if not psi:
        raise InputError("no two networks differ in one hyperparameter only")
    return Granulated(psi, float(np.mean(list(psi.values()))), kendall(mu, g))


def _settings(settings: Mapping[str, Sequence[Any]], networks: int) -> list[tuple[Any, ...]]:
    for name, values in settings.items():
        if len(values) != networks:
            raise InputError(f"settings of {name!r} are {len(values)}, expected one for each of {networks} networks")
    rows = list(zip(*settings.values(), strict=True))
    if len(set(rows)) < len(rows):
        raise InputError("two networks have equal settings; average them beforehand")
    return rows


def sign_errors(
    measure: Any, gap: Any, settings: Mapping[str, Sequence[Any]], weights: Any = None
) -> dict[tuple[str, Any, Any], float]:
    """Share of pairs ordered wrongly in each environment: two values of one hyperparameter, all others equal.

    Parameters
    ----------
    measure, gap, settings : as of :func:`granulated_kendall`.
    weights : weight of each pair, shape (networks, networks), symmetric; 1 by default. An environment of no weight is left out.

    Returns
    -------
    The mean of ``(1 - sign sign)/2``, from 0 to 1, by hyperparameter and its two values. A robust measure has a small maximum.

    Examples
    --------
    >>> sign_errors([1, 2, 3, 4], [1, 2, 4, 3], {"width": [8, 16, 8, 16], "depth": [2, 2, 3, 3]})
    {('width', 8, 16): 0.5, ('depth', 2, 3): 0.0}
    """
    mu, g = _numbers(measure, gap)
    rows = _settings(settings, len(mu))
    weight = np.ones((len(mu), len(mu))) if weights is None else np.asarray(weights, dtype=float)
    if weight.shape != (len(mu), len(mu)) or not (weight >= 0).all() or not np.array_equal(weight, weight.T):
        raise InputError(f"weights of pairs have shape {weight.shape}, expected a symmetric {len(mu)} x {len(mu)} from 0 up")
    wrong = (1 - _agreement(mu, g)) / 2
    sums: dict[tuple[str, Any, Any], list[float]] = {}
    for i, one in enumerate(rows):
        for j in range(i + 1, len(rows)):
            differ = [k for k, (a, b) in enumerate(zip(one, rows[j], strict=True)) if a != b]
            if len(differ) == 1 and weight[i, j] > 0:
                name = list(settings)[differ[0]]
                key = (name, one[differ[0]], rows[j][differ[0]])
                total = sums.setdefault((key[0], key[2], key[1]) if (key[0], key[2], key[1]) in sums else key, [0.0, 0.0])
                total[0] += weight[i, j] * wrong[i, j]
                total[1] += weight[i, j]
    return {key: float(error / whole) for key, (error, whole) in sums.items()}
