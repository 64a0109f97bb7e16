r"""Shares of equal tokens among the positions of a text, if frequencies follow Zipf's law.

Each of the positions holds token v with probability :math:`p_v`, independently. Two positions match with probability
:math:`F_2 = \sum p_v^2`. Whether two pairs match is independent if they share no position. If they share one, the covariance is
:math:`\zeta_1 = F_3 - F_2^2` with :math:`F_3 = \sum p_v^3`; a pair with itself has :math:`\zeta_2 = F_2 - F_2^2`.

Derivation: docs/derivations/tokens.md, (T15) and (T16).
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from .repeated_softmax import zipf_classes

Array = Any


@functools.lru_cache(maxsize=64)
def _covariances(match: float) -> tuple[float, float]:
    """The covariance of two pairs with one position in common, and the variance of one pair."""
    p, count = zipf_classes(match)
    return max(0.0, float(count @ p**3) - match**2), match - match**2


def match_variance(match: float, n: Array) -> Array:
    """Variance over texts of the share of equal pairs among the pairs of n positions.

    Parameters
    ----------
    match : F_2, probability that two positions hold the same token, in (0, 1].
    n : number of positions, at least 2; any shape.

    Examples
    --------
    >>> float(match_variance(0.5, 2))  # a single pair
    0.25
    """
    shared, single = _covariances(match)
    return (4 * (n - 2) * shared + 2 * single) / (n * (n - 1))


def match_covariance(match: float, n: Array, other: Array, seen: Array, seen_by_other: Array) -> Array:
    """Covariance over texts: the match of two rows' own tokens, and the share of matches of a key of one with one of the other.

    A key of both rows is paired with itself too, and that pair does not vary.

    Parameters
    ----------
    match : as of :func:`match_variance`.
    n, other : number of keys of each row, its own position included; any shapes.
    seen, seen_by_other : how many of the two own positions are keys of the one row and of the other, 1 or 2.

    Examples
    --------
    >>> bool(np.isclose(match_covariance(0.1, 8, 8, 2, 2), 7 / 8 * match_variance(0.1, 8)))  # two rows of all positions
    True
    """
    shared, single = _covariances(match)
    one = seen * (other - seen_by_other) + seen_by_other * (n - seen)
    both = 1 + (seen - 1) * (seen_by_other - 1)
    return (np.maximum(one, 0) * shared + both * single) / (n * other)


def row_match_covariance(match: float, n: Array, seen: Array) -> Array:
    """The same with the share of matches of two keys of one row.

    Examples
    --------
    >>> bool(np.isclose(row_match_covariance(0.1, 8, 2), match_covariance(0.1, 8, 8, 2, 2)))
    True
    """
    shared, single = _covariances(match)
    return seen * (2 * np.maximum(n - seen, 0) * shared + (seen - 1) * single) / n**2
