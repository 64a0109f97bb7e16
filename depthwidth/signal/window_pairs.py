r"""Positions for sliding windows in longer contexts: moments of pairs are stored by their distance.

In a layer whose tokens see the last w positions, the covariance of two tokens depends on their distance, on the scale of w,
and hardly on their place. So a few positions of the later token are nodes, and each has pairs at several distances back: near
ones that resolve the windows, then distances at growing steps, and some first positions of the sequence.

Functions of pairs are interpolated by cubics that do not cross a window's length, where they bend. Near tokens are compared at
equal distance, far ones at equal position of the earlier token.

Derivation: docs/derivations/tokens.md, (T10).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..checks import whole
from ..errors import InputError
from ..values import frozen_fields
from .positions import Array, Positions, neighbor_weights

_FIRST, _START, _STEP, _FAR = 2.0, 1.5, 2.0, 4.0
"""Ratios of successive nodes up to an eighth of a window, up to its length and beyond it, and of first positions."""
_MOST = 7
"""Most steps from a window's length to half the sequence; longer ones have larger steps."""
_CLOSE = 3.0
"""Ratio of successive distances up to a quarter of a window."""
_NEAR = (1.0, 1 / 2, 3 / 4, 1.5, 2.0, 3.0, 4.5, 7.0)
"""Distances stored near a token, in windows."""
_ENDING = (1 / 2, 1 / 4, 1.5, 2.5)
"""Nodes near the end, in windows from it: tokens there are seen by fewer others."""
_SAMPLES = 32
"""Distances around a stored one over which a function that oscillates is averaged."""
_LEAST = 0.2
"""Least gap of nodes, and of distances, in their logarithm: cubics through nodes of unequal gaps are unstable."""


@frozen_fields
class WindowPairs(Positions):
    """Nodes among the positions of a sequence, and pairs at several distances back from each.

    A moment of two different tokens is an array c (P,), or (2, P) if pairs of equal tokens are stored apart.
    """

    late: Array
    """Index of the node that is the later token of each pair; (P,)"""
    early: Array
    """Position of the earlier token of each pair; (P,)"""
    reaches: tuple[int, ...]
    """The windows of the layers that read these positions, ascending"""

    @classmethod
    def of(cls, length: int, reaches: tuple[int, ...], match: float | None = None) -> WindowPairs:
        """The positions of a sequence of `length` tokens for layers with these windows, shorter than the sequence.

        Examples
        --------
        >>> positions = WindowPairs.of(64, (4,))
        >>> positions.nodes.tolist()
        [1, 2, 3, 4, 6, 8, 16, 32, 46, 54, 58, 61, 62, 63, 64]
        >>> positions.early[positions.late == positions.count - 1].tolist()
        [63, 62, 61, 60, 58, 56, 52, 46, 36, 32, 8, 2, 1]
        """
        length, short = whole("WindowPairs", "length", length), tuple(sorted({w for w in reaches if w < length}))
        if not (short and short[0] >= 1):
            raise InputError(f"WindowPairs: of the windows {reaches} none is from 1 to {length - 1}")
        return _window_pairs(length, short, match)

    def pairs(self, values: Array) -> tuple[Array, Array]:
        """Values at the nodes as values at the later and at the earlier token of each pair; (P,) both."""
        return values[self.late], self.weights[self.early - 1] @ values

    def swap(self, values: Array) -> Array:
        """The values themselves: a value that depends on the order of a pair is that of its later token."""
        return values

    def average_kinds(self, values: Array) -> Array:
        """Values at pairs (..., 2, P) of different and of equal tokens, averaged over both: (..., P)."""
        if self.match is None:
            return values
        return (1 - self.match) * values[..., 0, :] + self.match * values[..., 1, :]

    @property
    def distances(self) -> Array:
        """Distance between the two tokens of each pair, in positions."""
        distances: Array = self.nodes[self.late] - self.early
        return distances

    def mean_around(self, values: Callable[[Array], Array]) -> Array:
        """A function of the distance, averaged over the distances that are nearest to that of each stored pair; (P,)."""
        low, high = np.empty((2, self.late.size))
        for own in self._of_node:
            middles = (self.distances[own][1:] + self.distances[own][:-1]) / 2
            low[own[:1]], high[own[-1:]] = self.distances[own[:1]], self.distances[own[-1:]]
            low[own[1:]], high[own[:-1]] = middles, middles
        along = low[:, None] + (high - low)[:, None] * (np.arange(_SAMPLES) + 0.5) / _SAMPLES
        found, index = np.unique(np.maximum(np.rint(along), 1).astype(int), return_inverse=True)
        averaged: Array = values(found)[index].reshape(along.shape).mean(1)
        return averaged

    @property
    def pair_shape(self) -> tuple[int, ...]:
        """Shape of values at pairs: (P,), or (2, P) if pairs of equal tokens are stored apart."""
        return (*(() if self.match is None else (2,)), self.late.size)

    def moved(self, second_moment: Array, covariance: Array, steps: int) -> tuple[Array, Array]:
        """The moments of a signal whose tokens have moved by `steps` positions.

        Moments are multiplied by the share of tokens that remain in the sequence. Distances between tokens do not change.
        """
        length = self.length
        left = max(0, length - abs(steps))
        mixed = self.average_kinds(covariance) * (left * (left - 1) / (length * (length - 1)))
        return second_moment * (left / length), mixed if self.match is None else np.stack([mixed, mixed])

    @functools.cached_property
    def _pair_share(self) -> Array:
        # The sum over earlier tokens, at positions between the nodes, and then over those, linearly between them.
        knots = _refine_nodes(self.nodes)
        grids = [_knots_back(int(t), self.reaches) for t in knots]
        sizes = [grid.size for grid in grids]
        late = np.repeat(knots, sizes)
        index, weights = self.at_pairs(late, late - np.concatenate(grids))
        shares = np.concatenate([_shares(grid) for grid in grids]) * np.repeat(_shares(knots), sizes)
        result = np.bincount(index.ravel(), (weights * shares[:, None]).ravel(), self.late.size)
        return result / result.sum()

    def at_pairs(self, one: Array, other: Array) -> tuple[Array, Array]:
        """Interpolation to any pairs of positions: indices of stored pairs and their weights, both (points, 16).

        A token paired with itself is taken for two neighbours.
        """
        later = np.maximum(np.maximum(one, other), 2)
        apart = np.maximum(np.abs(one - other), 1)
        several = np.flatnonzero(self.nodes >= 2)
        breaks, variable = _breaks(self.length, self.reaches), _position_variable(self.length, self.reaches[0])
        place, share = _bent(self.nodes[several], later, breaks, variable)
        index, weights = np.zeros((later.size, 4, 4), dtype=int), np.zeros((later.size, 4, 4))
        for k, node in enumerate(several):
            row, column = np.nonzero(place == k)
            live = share[row, column] != 0
            row, column = row[live], column[live]
            if not row.size:
                continue
            t, own = int(self.nodes[node]), self._of_node[node]
            distance = _match_distance(apart[row].astype(float), later[row].astype(float), t)
            breaks = (_close(t, self.reaches[0]), *self.reaches)
            at, along = _bent(t - self.early[own], distance, breaks, _distance_variable(t, self.reaches[0]), np.cbrt)
            index[row, column, : at.shape[1]] = own[at]
            weights[row, column, : at.shape[1]] = share[row, column][:, None] * along
        return index.reshape(later.size, 16), weights.reshape(later.size, 16)

    @functools.cached_property
    def _neighbours(self) -> tuple[Array, Array]:
        return self.at_pairs(self.nodes, self.nodes)

    def near(self, values: Array) -> Array:
        """Values (P,) of one kind, at two neighbours of each node."""
        index, weights = self._neighbours
        return (values[index] * weights).sum(-1)

    @functools.cached_property
    def _of_node(self) -> list[Array]:
        """Indices of the pairs of each node, at ascending distances."""
        found = [np.flatnonzero(self.late == node) for node in range(self.count)]
        return [own[np.argsort(-self.early[own], kind="stable")] for own in found]


def _breaks(length: int, reaches: tuple[int, ...]) -> tuple[int, ...]:
    """Positions at which moments bend: rows are full from the first on, keys are seen by fewer rows after the second."""
    return tuple(sorted({*reaches, *(length - reach + 1 for reach in reaches)}))


def _position_variable(length: int, reach: int) -> Callable[[Array], Array]:
    """A variable in which moments are smooth: the logarithm of the position, and near the end the distance from it."""
    return lambda position: np.log(position) - np.arcsinh((length - position) / (2 * reach))


def _distance_variable(t: int, reach: int) -> Callable[[Array], Array]:
    """A variable in which moments of pairs are smooth: the distance, then its logarithm, then that of the earlier position."""
    return lambda distance: np.arcsinh(distance / (2 * reach)) - np.log(np.maximum(t - distance, 0.5))


def _close(t: int, reach: int) -> int:
    """The distance from t up to which moments are smooth in its cube root."""
    return max(1, min(round(reach / 4), t // 2))


def _match_distance(distance: Array, later: Array, t: int) -> Array:
    """The distance back from node t at which a pair is stored that is like one at `distance` back from `later`."""
    near = 2 * distance <= later
    from_end = np.where(near, distance, np.maximum(later - distance, 1))
    from_end = 1 / np.sqrt(np.maximum(1 / from_end**2 - 4 / later**2 + 4 / t**2, 1 / t**2))
    return np.clip(np.where(near, from_end, t - from_end), 1, t - 1)


def _bent(
    nodes: Array, at: Array, breaks: tuple[int, ...], variable: Callable[[Array], Array], first: Any = None
) -> tuple[Array, Array]:
    """Interpolation by cubics through the four nearest nodes on one side of all breaks, of those that are nodes themselves.

    `variable` is that in which functions are smooth; `first`, if there is one, up to the first break. Returns indices of the
    nodes and weights, both of shape (points, 4); missing ones have weight 0.
    """
    index, weights = np.zeros((at.size, 4), dtype=int), np.zeros((at.size, 4))
    inner = sorted({b for b in breaks if nodes[0] < b < nodes[-1]} & set(nodes.tolist()))
    ends = [0, *np.searchsorted(nodes, inner).tolist(), nodes.size - 1]
    for low, high in itertools.pairwise(ends) if nodes.size > 1 else [(0, 0)]:
        inside = (at > nodes[low] if low > 0 else True) & (at <= nodes[high] if high < nodes.size - 1 else True)
        chosen = np.flatnonzero(np.broadcast_to(inside, at.shape))
        along = first if first is not None and nodes[high] <= breaks[0] else variable
        found, share = neighbor_weights(along(nodes[low : high + 1]), along(at[chosen]))
        index[chosen, : found.shape[1]], weights[chosen, : found.shape[1]] = found + low, share
    return index, weights


def _steps(low: float, high: float, ratio: float) -> Array:
    """Numbers from low to high, evenly spaced in their logarithm, at most this ratio apart; empty if low exceeds high."""
    if high <= low:
        return np.array([])
    count = int(np.ceil(np.log(high / low) / np.log(ratio)))
    return low * (high / low) ** (np.arange(count + 1) / count)


def _chosen(values: Any, low: int, high: int) -> Array:
    """The distinct whole numbers nearest to these, from low to high, ascending."""
    rounded = np.unique(np.rint(np.concatenate([np.atleast_1d(part) for part in values])).astype(int))
    return rounded[(rounded >= low) & (rounded <= high)]


def _spaced(values: Any, low: int, high: int) -> Array:
    """As :func:`_chosen`, without those that are too near to one that comes before them in the list."""
    kept: dict[int, float] = {}
    for value in np.rint(np.concatenate([np.atleast_1d(part) for part in values])).astype(int).tolist():
        if low <= value <= high and value not in kept:
            place = math.log(value / (high + 1 - value))
            if all(abs(place - other) >= _LEAST for other in kept.values()):
                kept[value] = place
    return np.array(sorted(kept), dtype=int)


def _knots_back(t: int, reaches: tuple[int, ...]) -> Array:
    """Distances back from t between which moments of pairs are nearly linear, from 1 to t - 1."""
    steps = _steps(1, t, 1.25)
    return _chosen([steps, t - steps, *([reach, 2 * reach] for reach in reaches), [1, t - 1]], 1, t - 1)


def _refine_nodes(nodes: Array) -> Array:
    """Nodes from 2 on, with four times as many."""
    nodes = nodes[nodes >= 2].astype(float)
    parts = [nodes, *(nodes[:-1] ** (1 - s) * nodes[1:] ** s for s in (0.25, 0.5, 0.75))]
    return _chosen(parts, 2, int(nodes[-1]))


def _shares(knots: Array) -> Array:
    """Weights of the values at ascending whole numbers in the sum over all from the first to the last, linear between them."""
    gaps = np.diff(knots)
    result = np.zeros(knots.size)
    result[:-1] += (gaps + 1) / 2  # of 0, 1/g, ..., (g-1)/g from a knot on, without the next
    result[1:] += (gaps - 1) / 2
    result[-1] += 1
    return result


@functools.lru_cache(maxsize=16)
def _window_pairs(length: int, reaches: tuple[int, ...], match: float | None) -> WindowPairs:
    scale, half = reaches[0], length / 2
    bends = [part for reach in reaches for part in (reach, length - reach + 1)]
    others = [part for reach in reaches for part in (1.5 * reach, 2 * reach)]
    first, step = max(1.0, min(scale, half) / 8), max(_STEP, (half / scale) ** (1 / _MOST))
    starts = [_steps(first, min(scale, half), _START), _steps(scale, half, step), _steps(1, first, _FIRST)]
    ends = [length - scale * np.array(_ENDING), length - _steps(_ENDING[-1] * scale, half, step)]
    nodes = _spaced([[1, length], bends, [2, 4], others, *ends, *starts], 1, length)
    late, early = [], []
    for node, t in enumerate(nodes.tolist()[1:], 1):
        close, middle = _close(t, scale), max(t / 2, 1.5 * scale)
        near = scale * np.array(_NEAR)
        parts = [
            [1, t - 1, *reaches, close], near[near <= middle], [1.5 * reach for reach in reaches if 1.5 * reach < t / 2],
            _steps(1, close, _CLOSE), _steps(scale * _NEAR[-1], t / 2, step), t - _steps(2, t / 2, _FAR), [t / 2],
        ]  # fmt: skip
        apart = _spaced(parts, 1, t - 1)
        late += [node] * apart.size
        early += (t - apart).tolist()
    position = np.arange(1, length + 1)
    index, weights = _bent(nodes, position, _breaks(length, reaches), _position_variable(length, scale))
    every = np.zeros((length, nodes.size))
    for column in range(index.shape[1]):  # missing nodes repeat the first, with weight 0
        every[position - 1, index[:, column]] += weights[:, column]
    return WindowPairs(nodes, every, False, np.array(late, dtype=int), np.array(early, dtype=int), reaches, match=match)
