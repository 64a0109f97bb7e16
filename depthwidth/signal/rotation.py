"""Rotary positions between two rows of attention: the effect of distances on the covariance of their scores.

Scores of rows i and i' for keys j and l have the factor g((j - l) - (i - i')), g the mean cosine of the rotation by a distance.

Derivation: docs/derivations/tokens.md, (T11) to (T13).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..numerics.distinct import distinct
from .positions import Positions, Windows

Array = Any

_DISTANCES = 4096
_TINY = 1e-9


class Rotation(NamedTuple):
    """Factors of rotation over pairs of rows, then each row with itself."""

    keys: Array
    """Between the keys of two different tokens of one row; (n, n)"""
    same: Array
    """Between two rows, for one key: g of the rows' distance"""
    different: Array
    """Between two rows, the mean over different keys by which a softmax of both falls (T12)"""
    level: Array
    """The same of keys that are not rotated against each other by the rows' distance"""

    def of_layer(self, own: Array, apart: Array, of_values: Array, correlation: Array, split: int) -> Turned:
        """The factors at the moments of a layer, over pairs of rows, then from `split` on each row with itself.

        Parameters
        ----------
        own, apart, of_values : of the keys of two rows, mean second moment and the parts that tokens do not share, of scores
            and of values.
        correlation : of the two queries' tokens.
        """
        known = apart > _TINY * own
        inverse = 1 / np.where(known, apart, np.inf)
        response = np.where(known, (own * self.same - (own - of_values) * self.different) * inverse, self.same)
        keys = correlation * (self.same - response)
        away = correlation * (self.same - self.different)
        response[split:], keys[split:] = 1.0, 0.0
        rows = np.minimum(np.maximum(correlation * response, -1.0), 1.0)
        stretch = np.where(known, of_values * inverse, 1.0)
        alone = self.different[split:]
        across = correlation * self.different
        across[split:] = alone
        centred = own - (own - of_values) * self.level
        centred[split:] = apart[split:]
        per_score = np.where(known, apart / np.where(known & (centred > _TINY * own), centred, 1.0), 1.0)
        return Turned(rows, stretch, per_score, response * per_score, keys, away, 1 - alone, across, self.different, split)


class Turned(NamedTuple):
    """Rotation at the moments of one layer, over pairs of rows, then each row with itself."""

    rows: Array
    """Correlation of two rows' scores"""
    stretch: Array
    """The part of values that tokens do not share, over that of scores"""
    per_score: Array
    """The part of scores that tokens do not share, mean of both rows, over that in the centring over both windows"""
    response: Array
    """Factor on the response in the path of the queries"""
    keys: Array
    """Product of two queries at one key, less the correlation of their rows"""
    away: Array
    """The same product, less that at two different keys"""
    lost: Array
    """Of a row with itself, the share of the product that is lost at two different keys"""
    across: Array
    """Product of two queries at two different keys"""
    different: Array
    """As :attr:`Rotation.different`"""
    split: int

    def side_by_side(self) -> Turned:
        """The same in flat arrays, from those of shape (pairs or rows, blocks)."""
        *parts, split = self
        return Turned._make([*(part.ravel() for part in parts), split * self.rows.shape[-1]])

    def products(self, first: Array, second: Array) -> Array:
        """For two rows, the product of the parts that tokens do not share in values over that in scores."""
        own = self.stretch[self.split :]
        product: Array = own.take(first) * own.take(second)
        return product

    def of_pairs(self, diagonals: Array, product: Array, sizes: Array, apart: Array, one: Array) -> tuple[Array, Array]:
        """The addition to the product of two different keys' gradients, and the factor that removes it from a key with itself.

        Parameters
        ----------
        diagonals : overlap of the two rows' Jacobians.
        product : of two queries at one key.
        sizes : geometric mean of both queries' second moments.
        one : 1 - 1/n.
        """
        away = sizes * self.away
        away[self.split :] = product[self.split :] * self.lost
        part = one * apart / self.per_score
        return diagonals * apart * self.stretch * away, 1 / np.where(part > _TINY, part, np.inf)


def kernel(rotation: Callable[[Array], Array], length: int) -> Array:
    """The mean cosine at the distances 0 to length - 1; beyond a few thousand interpolated."""
    every = np.arange(length)
    at = every if length <= _DISTANCES else distinct(np.append(0, np.geomspace(1, length - 1, _DISTANCES).astype(int)))
    values: Array = np.interp(every, at, rotation(at))
    return values


def over_all(cosines: Array) -> Array:
    """Sum over all pairs of keys without a mask, for rows at each distance, from the cosines at twice as many distances."""
    length = (cosines.size + 1) // 2
    weights = length - np.abs(np.arange(1 - length, length))
    sums: Array = np.convolve(np.append(cosines[:0:-1], cosines), weights, mode="valid")[length - 1 :]
    return sums


def over_windows(cosines: Array, short: Array, long: Array) -> Array:
    """Sum over the pairs of keys of two windows that end at their rows, of these lengths."""
    sums = np.append(0.0, np.cumsum(np.cumsum(cosines)))
    found: Array = sums[short] + sums[long] - sums[long - short] - short
    return found


@functools.lru_cache(maxsize=64)
def over_pairs(rotation: Callable[[Array], Array], length: int) -> tuple[float, float]:
    """Mean cosines without a mask: of two keys of one row, which is that of two rows for one key, and of both, four positions.

    Beyond a few thousand positions from every second one, or fewer.
    """
    step = max(1, length // _DISTANCES)
    count = length // step
    if count < 2:
        return 1.0, 1.0
    cosines = rotation(step * np.arange(2 * count - 1))
    share = 2 * (count - np.arange(1, count)) / (count * (count - 1))
    sums = (over_all(cosines) - count * cosines[:count]) / (count * (count - 1))
    return float(cosines[1:count] @ share), float(sums[1:] @ share)


def rotation_of(
    rotation: Callable[[Array], Array], queries: Positions, mask: Windows, causal: bool, pairs: tuple[Array, Array, int]
) -> Rotation:
    """The factors for the rows of a mask; `pairs` are the rows of each pair, and the first pair of a row with itself."""
    first, second, split = pairs
    length = queries.length
    if queries.alike:
        near, far = over_pairs(rotation, length)
        same, different = np.full(first.size, near), np.full(first.size, far)
        same[split:], different[split:] = 1.0, near
        return Rotation(np.array([[near]]), same, different, np.full(first.size, near))
    apart = np.abs(queries.nodes[:, None] - queries.nodes)
    if not queries.dense:  # two tokens near one node are a third of the way to its neighbours apart
        apart = apart + np.diag(np.maximum(1, np.gradient(queries.nodes.astype(float)).astype(int) // 3))
    apart = np.minimum(apart, length - 1)
    distance = apart[first, second]
    distance[split:] = 0
    if causal:
        lengths = mask.lengths.astype(int)
        # A pair near the last node ends beyond it.
        cosines = kernel(rotation, max(length, int((lengths[first] + distance).max())))
        near = cosines[apart] if queries.dense else around(cosines, queries.nodes, length)
        same = near[first, second]
        same[split:] = 1.0
        return Rotation(near, *between_rows(cosines, lengths[first], lengths[second], distance, same))
    cosines = rotation(np.arange(2 * length - 1))
    same = cosines[distance]
    over = over_all(cosines)
    different = (over[distance] - length * same) / max(length * (length - 1), 1)
    return Rotation(cosines[apart], same, different, np.full(first.size, (over[0] - length) / max(length * (length - 1), 1)))


def around(cosines: Array, nodes: Array, length: int) -> Array:
    """The mean cosines of two different positions near two nodes, each no further from it than half of the way to the next."""
    middle = (nodes[1:] + nodes[:-1] - 1) // 2  # nodes count from 1
    start, end = np.append(0, middle), np.append(middle, length)

    def summed(one: Array, other: Array) -> Array:
        return over_windows(cosines, np.minimum(one, other), np.maximum(one, other))

    one, other = (start[:, None], end[:, None]), (start[None], end[None])
    total = summed(one[1], other[1]) - summed(one[0], other[1]) - summed(one[1], other[0]) + summed(one[0], other[0])
    size = end - start
    pairs = np.outer(size, size).astype(float)
    alone = np.diag(size)
    found: Array = (total - alone) / np.maximum(pairs - alone, 1)
    single = np.flatnonzero(size == 1)
    found[single, single] = cosines[min(1, length - 1)]
    return found


def between_rows(
    cosines: Array, earlier: Array, later: Array, distance: Array, same: Array = None
) -> tuple[Array, Array, Array]:
    """The factors of two causal rows at a distance, by the lengths of their windows; `same` if it is not the cosine there.

    That of different keys is the mean that is left when one is taken off in the centring of the keys of both windows.
    """

    def summed(one: Array, other: Array) -> Array:
        return over_windows(cosines, np.minimum(one, other), np.maximum(one, other))

    at = cosines[distance]
    common = np.maximum(np.minimum(earlier, later - distance), 0)
    one, other = 1 / np.maximum(earlier, 1), 1 / np.maximum(later, 1)
    weight = common * (1 - one - other + common * one * other)

    def mean(own: Array, at: Array, shared_later: Array, earlier_shared: Array, both: Array) -> Array:
        """From the sums over common keys and those of the later row, keys of the earlier row and common ones, and all."""
        fall = common * (at + both * one * other) - shared_later * other - earlier_shared * one
        return own - np.where(weight > _TINY, fall / np.maximum(weight, _TINY), 0.0)

    same = at if same is None else same
    # Counted back from each row, then from the first key of the earlier one.
    different = mean(
        same, at, summed(common, later), summed(earlier, distance + common) - summed(earlier, distance), summed(earlier, later)
    )
    start, end = earlier - common, earlier + distance
    beyond = summed(earlier, end - later)
    every = summed(earlier, end) - beyond
    of_common = every - summed(start, end) + summed(start, end - later)
    level = mean(1.0, 1.0, of_common, summed(earlier, earlier) - summed(earlier, start), every)
    return same, different, level
