r"""Averages over the leaves of a tree of random hyperplanes: counts of keys, and the sides of exchangeable tokens.

Tokens of correlation r have the scores ``sqrt(r) z + sqrt(1 - r) e_t`` at a node, with z common to all. Given z, a key goes to
one side with the probability ``U = Phi(a z)``, ``a^2 = r/(1 - r)``; nodes are independent, and so are queries and keys, whose
maps are. A leaf of a tree of h levels holds each key with the probability ``pi_h``, the product of h such U.

Derivation: docs/derivations/tree-attention.md, (R1) to (R6).
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from .hermite import gauss_hermite

Array = Any

_NODES = 40
_POINTS = 1024
_STEP = 0.01
_CLASS = 10
_TINY = 1e-12


class SideMoments(NamedTuple):
    """Averages over z of the moments that a side of a node selects in its keys, in units of the tokens' second moment."""

    shift: float
    """(1 - r) E lambda^2: the squared mean of the keys' own part across the hyperplane"""
    common: float
    """sqrt(r (1 - r)) E z lambda: its product with the common part; below 0"""
    across: float
    """the product of the means of both sides, beyond the square of the common part"""
    narrowed: float
    """(1 - r) times the variance that a side takes from the own part"""


@functools.lru_cache(maxsize=4096)
def side_moments(correlation: float) -> SideMoments:
    """The averages of :class:`SideMoments` at a correlation of the tokens in [0, 1)."""
    if correlation >= 1 - _TINY:
        return SideMoments(0.0, 0.0, 0.0, 0.0)
    r = max(0.0, correlation)
    from scipy.special import ndtri

    z = ndtri((np.arange(_POINTS) + 0.5) / _POINTS)  # steps of Phi(a z) narrow as a grows
    weights = np.full(_POINTS, 1 / _POINTS)
    at = math.sqrt(r / (1 - r)) * z
    one, other = _mills(at), _mills(-at)
    shift = (1 - r) * float(weights @ (one * one))
    common = math.sqrt(r * (1 - r)) * float(weights @ (z * one))
    across = 2 * common - (1 - r) * float(weights @ (one * other))
    narrowed = (1 - r) * float(weights @ (one * (one + at)))
    return SideMoments(shift, common, across, narrowed)


def _mills(t: Array) -> Array:
    """phi(t) / Phi(t): the mean of a Gaussian above -t."""
    from scipy.special import log_ndtr

    return np.exp(-t * t / 2 - 0.5 * math.log(2 * math.pi) - log_ndtr(t))


@functools.lru_cache(maxsize=4096)
def leaf_shares(correlation: float, height: int, length: int) -> tuple[Array, Array]:
    """Probabilities that a leaf holds a key, ``pi_h``, and their weights.

    A convolution of ln U on a grid, gathered in classes of a tenth; shares below e^-10/length hold no key and are one class.
    """
    if height == 0:
        return np.ones(1), np.ones(1)
    r = max(0.0, correlation)
    if r < _TINY:
        return np.array([0.5**height]), np.ones(1)
    from scipy.special import log_ndtr, ndtri

    deepest = math.log(length) + 10
    size = math.ceil(deepest / _STEP) + 1
    z = ndtri((np.arange(_POINTS) + 0.5) / _POINTS)
    slope = math.sqrt(r / (1 - r)) if r < 1 - _TINY else 1e6
    depth = np.minimum(-log_ndtr(slope * z), deepest) / _STEP
    low = np.minimum(depth.astype(int), size - 2)
    one = np.zeros(size)
    np.add.at(one, low, (1 - (depth - low)) / _POINTS)
    np.add.at(one, low + 1, (depth - low) / _POINTS)
    total = one
    for _ in range(height - 1):
        whole = np.convolve(total, one)
        total = whole[:size].copy()
        total[-1] += whole[size:].sum()
    shares = np.exp(-_STEP * np.arange(size))
    classes = np.arange(size) // _CLASS
    weights, means = np.bincount(classes, total), np.bincount(classes, total * shares)
    kept = weights > _TINY
    return means[kept] / weights[kept], weights[kept]


@functools.lru_cache(maxsize=1024)
def count_weights(correlation: float, height: int, keys: int, length: int) -> Array:
    """Probability of each number of keys, 0 to `keys`, in the leaf of a query; `length` sets the resolution of shares."""
    shares, weights = leaf_shares(correlation, height, length)
    if height == 0:
        return np.eye(keys + 1)[-1]
    shares = np.minimum(shares, 1 - _TINY)
    numbers = np.arange(keys + 1)
    logs = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, keys + 1)))))
    choose = logs[-1] - logs - logs[::-1]
    inside, outside = np.log(shares)[:, None], np.log1p(-shares)[:, None]
    result: Array = weights @ np.exp(choose + numbers * inside + (keys - numbers) * outside)
    return result


@functools.lru_cache(maxsize=1024)
def nested_means(correlation: float, height: int, length: int) -> Array:
    """``E [m_l' > 0] / m_l`` for the numbers of keys m in the nodes of one path, l <= l' up to the height: (h+1, h+1).

    Entry (l, l') is that of the coarser of both levels in the denominator and the finer in the condition, in either order; the
    root holds all keys.
    """
    levels = height + 1
    table = np.zeros((levels, levels))
    for coarse in range(levels):
        counts = count_weights(correlation, coarse, length, length)
        numbers = np.arange(length + 1)
        held = np.where(numbers > 0, 1 / np.maximum(numbers, 1), 0.0)
        for fine in range(coarse, levels):
            shares, weights = leaf_shares(correlation, fine - coarse, length)
            # Each of m keys of the coarser node is in the finer one by a share that is drawn again below it.
            filled = 1 - weights @ (1 - shares[:, None]) ** numbers if fine > coarse else 1.0
            table[coarse, fine] = table[fine, coarse] = float(counts @ (held * filled))
    return table


def filled_levels(correlation: float, height: int, length: int) -> Array:
    """Probability that the node of each level on a query's path holds a key: (height + 1,)."""
    return np.array([1 - count_weights(correlation, level, length, length)[0] for level in range(height + 1)])


@functools.lru_cache(maxsize=4096)
def decision_slope(variance: float, sharpness: float) -> float:
    """``E (d sigmoid(sharpness z) / dz)^2`` over z ~ N(0, variance)."""
    z, weights = gauss_hermite(_NODES)
    soft = 1 / (1 + np.exp(-sharpness * math.sqrt(variance) * z))
    return float(weights @ (sharpness * soft * (1 - soft)) ** 2)
