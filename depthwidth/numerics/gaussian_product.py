r"""Singular values of a product of two Gaussian matrices: a head's score matrix at the start.

A and B are (d, d_h) with independent entries of variance 1/d. As both grow at a fixed ratio c = d_h/d, the nonzero squared
singular values x of A B' become those of a product of two free Marchenko-Pastur matrices, of S-transform 1/(1 + c z) each. So
w(x), the sum of the moments over x^k, solves ``x w = (1 + w) (1 + c w)^2``. The mean of x is 1.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from ..errors import InputError

Array = Any
POINTS = 512
"""Nodes of the integrals over the spectrum; the effective rank is right to 1e-4 with them."""


class StartingRanks(NamedTuple):
    """Ranks of a product of Gaussian factors, over the inner dimension, in the limit of large matrices."""

    effective: float
    """exp of the entropy of the singular values' shares, over d_h"""
    stable: float
    """squared Frobenius norm over the largest squared singular value, over d_h"""


def edges(ratio: float) -> tuple[float, float]:
    """Smallest and largest x of the spectrum, where x of the equation for w is stationary.

    >>> [round(one, 6) for one in edges(1.0)]
    [0.0, 6.75]
    """
    if not 0 < ratio <= 1:
        raise InputError(f"the inner dimension is at most the width: a ratio in (0, 1], not {ratio}")
    root = math.sqrt(ratio**2 + 8 * ratio)
    low, high = ((1 + z) * (1 + ratio * z) ** 2 / z for z in ((-ratio - root) / (4 * ratio), (-ratio + root) / (4 * ratio)))
    return max(0.0, low), high


def density(x: Array, ratio: float) -> Array:
    """Density of the squared singular values at each of `x`, inside of :func:`edges`.

    >>> round(float(density([1.0], 1.0)[0]), 4)
    0.179
    """
    import numpy as np

    at = np.asarray(x, float)
    c = ratio
    roots = np.array([np.roots([c * c, 2 * c + c * c, 1 + 2 * c - one, 1.0]) for one in at])
    return np.abs(roots.imag).max(1) / (np.pi * at)


@functools.lru_cache(maxsize=64)
def starting_ranks(ratio: float) -> StartingRanks:
    """Ranks of the product of two Gaussian matrices of width d and inner dimension d_h, over d_h.

    Parameters
    ----------
    ratio : d_h/d, in (0, 1].

    Raises
    ------
    InputError
        if the ratio is outside (0, 1].

    >>> [round(64 * share, 1) for share in starting_ranks(64 / 768)]
    [62.6, 31.4]
    """
    import numpy as np

    low, high = edges(ratio)
    # x = low + (high - low) sin^2: the square roots at the edges become smooth, the midpoint rule then converges quickly.
    angle = (np.arange(POINTS) + 0.5) * (np.pi / 2 / POINTS)
    x = low + (high - low) * np.sin(angle) ** 2
    weight = density(x, ratio) * (high - low) * np.sin(2 * angle) * (np.pi / 2 / POINTS)
    size = np.sqrt(x)
    mean = float((weight * size).sum())
    entropy = float((weight * size / mean * np.log(size / mean)).sum())
    return StartingRanks(math.exp(-entropy), 1 / high)
