r"""The positions at which the moments of a signal are stored, and the attention window of each.

A sequence has positions 1 ... L. Moments are stored at some of them, the *nodes*: at every position for a text, at about a
dozen for exchangeable tokens under a causal mask, whose moments are smooth functions of ln t. An interpolation matrix maps
values at the nodes to values at all positions, so sums over positions become products with small matrices, computed once.

Derivation: docs/derivations/tokens.md, (T1) and (T2).
"""

from __future__ import annotations

import functools
from dataclasses import field
from typing import Any

import numpy as np

from ..checks import whole
from ..errors import InputError
from ..numerics.distinct import distinct
from ..numerics.interpolation import lagrange_weights, spline, spline_values
from ..numerics.matches import match_variance
from ..values import frozen_fields

Array = Any

_FIRST = 4  # the first positions are all nodes: there a single key matters most
_RATIO = 1.7
ALL_NODES = _FIRST + 2
"""Length of the sequences up to which every position is a node."""


@frozen_fields
class Positions:
    """Nodes among the positions of a sequence.

    A moment of one token is an array q (n,) over the nodes. A moment of two different tokens is a symmetric array c (n, n):
    c[a, a] is that of two different tokens near node a; if every position is a node, there is no such pair and it is ignored.
    """

    nodes: Array
    """t_1 < ... < t_n, positions from 1 to L; shape (n,)"""
    weights: Array
    """Interpolation: a smooth function of position is `weights @` its values at the nodes. Shape (L, n), rows sum to 1."""
    dense: bool
    """True if every position is a node."""
    match: float | None = field(default=None, kw_only=True)
    """Probability that two positions hold one token, if such pairs are stored apart: a moment of two tokens is then an array c
    (2, n, n), of two different tokens and of two equal ones. Otherwise None."""

    @classmethod
    def every(cls, length: int) -> Positions:
        """All positions: for a text, in which each pair of tokens may have a different correlation.

        Examples
        --------
        >>> Positions.every(3).nodes.tolist()
        [1, 2, 3]
        """
        return _every(whole("Positions", "length", length))

    @classmethod
    def smooth(cls, length: int, match: float | None = None) -> Positions:
        """Nodes for exchangeable tokens under a causal mask: the first few positions, then evenly spaced in ln t.

        With `match`, pairs of equal tokens are stored apart; of six positions or fewer, all of which are nodes, they are not.

        Examples
        --------
        >>> Positions.smooth(64).nodes.tolist()
        [1, 2, 3, 4, 6, 10, 16, 25, 40, 64]
        """
        return _smooth(whole("Positions", "length", length), match)

    @classmethod
    def one(cls, length: int, match: float | None = None) -> Positions:
        """A single node: for exchangeable tokens without a mask.

        Examples
        --------
        >>> Positions.one(64).mean([0.5])
        0.5
        """
        return _one(whole("Positions", "length", length), match)

    @property
    def length(self) -> int:
        """L, number of positions of the sequence."""
        return int(self.weights.shape[0])

    @property
    def count(self) -> int:
        """n, number of nodes."""
        return int(self.nodes.size)

    @property
    def alike(self) -> bool:
        """True if one node stands for all of several positions."""
        return self.count == 1 and self.length > 1

    @property
    def takes_several(self) -> bool:
        """True if a pullback takes several gradients side by side, along the first axis of their moments."""
        return not self.dense

    of_kinds = False
    """True if moments are those of one token and of two kinds of pairs, and may be arrays over blocks"""

    def pairs(self, values: Array) -> tuple[Array, Array]:
        """Values at the nodes, shape (n,), as values at the first and at the second token of each pair; the two broadcast."""
        return values[:, None], values

    def swap(self, values: Array) -> Array:
        """Values at pairs, with the two tokens of each pair exchanged."""
        return values.swapaxes(-1, -2)

    def average_kinds(self, values: Array) -> Array:
        """Values at pairs (..., 2, n, n) of different and of equal tokens, averaged over both: (..., n, n)."""
        if self.match is None:
            return values
        return (1 - self.match) * values[..., 0, :, :] + self.match * values[..., 1, :, :]

    @functools.cached_property
    def _orders(self) -> tuple[Array, Array] | None:
        """Of square arrays of pairs, the places of each pair in one order, and for each place the index of its pair."""
        n = self.count
        if self.dense or n == 1 or self.pair_shape[-2:] != (n, n):
            return None
        one, other = np.triu_indices(n)
        index = np.empty((n, n), dtype=int)
        index[one, other] = index[other, one] = np.arange(one.size)
        return one * n + other, index

    def once(self, values: Array) -> Array:
        """Symmetric values at pairs (..., n, n), one of both orders of each pair: (..., n (n + 1) / 2). Other shapes stay."""
        if self._orders is None:
            return values
        found: Array = values.reshape(*values.shape[:-2], -1).take(self._orders[0], axis=-1)
        return found

    def twice(self, values: Array) -> Array:
        """The inverse of :meth:`once`."""
        return values if self._orders is None else values.take(self._orders[1], axis=-1)

    @property
    def distances(self) -> Array:
        """Distance between the two tokens of each pair, in positions."""
        return np.abs(np.subtract.outer(self.nodes, self.nodes))

    @functools.cached_property
    def match_variances(self) -> Array:
        """Variance over texts of the share of equal pairs up to the later token of each pair; broadcasts against covariances.

        The shares up to two positions have the variance of the longer stretch as their covariance. It is 0 without `match`.
        """
        one, other = self.pairs(self.nodes.astype(float))
        return np.zeros(1) if not self.match else match_variance(self.match, np.maximum(np.maximum(one, other), 2))

    @functools.cached_property
    def _share(self) -> Array:
        return self.weights.mean(0)

    @functools.cached_property
    def _pair_share(self) -> Array:
        length = self.length
        if length == 1:
            return np.zeros((1, 1))
        rows = self._share if self.dense or self.count == 1 else self._bent_share
        return (length * self._share[:, None] * rows - np.diag(self._share)) / (length - 1)

    @functools.cached_property
    def _share_of_kinds(self) -> Array:
        """Shares of pairs, of each kind if there are two."""
        share = self._pair_share
        return share if self.match is None else np.stack([(1 - self.match) * share, self.match * share])

    def bent_weights(self, node: int) -> Array:
        """Interpolation weights for a function that is smooth on either side of one node but may bend there; (L, n).

        As a function of t', a covariance of positions t and t' bends at t' = t, where the shorter window changes.
        """
        if self.dense or self.count == 1:
            return self.weights
        result = np.zeros_like(self.weights)
        at = int(self.nodes[node])
        position = np.arange(1, self.length + 1)
        result[:at, : node + 1] = _interpolation(self.nodes[: node + 1], position[:at])
        result[at - 1 :, node:] = _interpolation(self.nodes[node:], position[at - 1 :])
        result[at - 1] = 0
        result[at - 1, node] = 1
        return result

    @functools.cached_property
    def _bent_share(self) -> Array:
        """Average over all positions of :meth:`bent_weights`; (bent node, n)."""
        stretches = _Stretches(self, np.array([], dtype=int), np.ones((1, self.length)))
        return np.stack([stretches.sums(node=node).sum(0) for node in range(self.count)]) / self.length

    def mean(self, values: Array) -> float:
        """Average over all positions of values at the nodes, shape (n,)."""
        return float(self._share @ np.asarray(values))

    def pair_mean(self, values: Array) -> float:
        """Average over all pairs of different positions of values at pairs of nodes, shape (n, n); 0 for one position."""
        return _weighted_sum(self._share_of_kinds, np.asarray(values))

    def averages_of(self, moments: list[tuple[Array, Array]]) -> list[tuple[float, float]]:
        """:meth:`mean` and :meth:`pair_mean` of several signals' moments of one token and of two."""
        tokens, pairs = (np.array(values) for values in zip(*moments, strict=True))
        means = pairs.reshape(len(pairs), -1) @ self._share_of_kinds.ravel()
        return list(zip((tokens @ self._share).tolist(), means.tolist(), strict=True))

    def pair_mean_of_kind(self, values: Array) -> float:
        """As :meth:`pair_mean`, of values (n, n) at pairs of one kind: of different tokens, or of equal ones."""
        return _weighted_sum(self._pair_share, np.asarray(values))

    def row_means(self, values: Array) -> Array:
        """:meth:`pair_mean_of_kind` of values of each kind, (2, n, n) or (n, n); it broadcasts against them."""
        if values.ndim == len(self.pair_shape):
            return np.array([self.pair_mean_of_kind(part) for part in values]).reshape(2, *(1,) * (values.ndim - 1))
        return np.array(self.pair_mean_of_kind(values))

    def near(self, values: Array) -> Array:
        """Values (n, n) of one kind at two tokens near each node; the mean over its pairs if every position is a node."""
        own = values.diagonal(0, -2, -1)
        return own if not self.dense or self.count == 1 else (values.sum(-1) - own) / (self.count - 1)

    @property
    def pair_shape(self) -> tuple[int, ...]:
        """Shape of values at pairs of nodes: (n, n), or (2, n, n) if pairs of equal tokens are stored apart."""
        return (*(() if self.match is None else (2,)), self.count, self.count)

    def uniform(self, second_moment: float, covariance: float) -> tuple[Array, Array]:
        """The moments q and c at the nodes of a signal with the same moments at every position."""
        return np.full(self.count, float(second_moment)), np.full(self.pair_shape, float(covariance))

    def moved(self, second_moment: Array, covariance: Array, steps: int) -> tuple[Array, Array]:
        """The moments at the nodes of a signal whose tokens have moved by `steps` positions, to later ones if it is positive.

        Positions that no token reaches have zeros. Nodes other than the first few stand for many positions: a move to earlier
        ones leaves them the share of tokens that remain. Pairs of distances keep theirs. With equal and different tokens apart
        both kinds of pairs have the mean of both, since the tokens before two equal ones are as any two.
        """
        if not steps:
            return second_moment, covariance
        length = self.length
        left = max(0, length - abs(steps))
        pairs = left * (left - 1) / max(1, length * (length - 1))
        if self.alike or not isinstance(covariance, np.ndarray) or covariance.ndim == 1:
            return second_moment * (left / length), covariance * pairs
        at = self.nodes - steps
        if steps > 0 or self.dense:
            rows = np.where(((at >= 1) & (at <= length))[:, None], self.weights[np.clip(at, 1, length) - 1], 0.0)
            shares = 1.0, 1.0
        else:
            rows, shares = self.weights[np.clip(at, 1, length) - 1], (left / length, pairs)
        mixed = rows @ self.average_kinds(covariance) @ rows.T
        return shares[0] * (rows @ second_moment), shares[1] * (mixed if self.match is None else np.stack([mixed, mixed]))

    def at_all_positions(self, second_moment: Array, covariance: Array) -> tuple[Array, Array]:
        """Moments q (L,) and c (L, L) at all positions, with q on the diagonal of c."""
        q = self.weights @ np.asarray(second_moment)
        c = self.weights @ self.average_kinds(np.asarray(covariance)) @ self.weights.T
        np.fill_diagonal(c, q)
        return q, c


@frozen_fields
class Distances(Positions):
    """Nodes among the positions of a sequence, and several distances back from each node.

    If attention prefers near tokens, the correlation of two tokens depends on their distance as much as on their positions. A
    moment of two different tokens is an array c (P,): the first of a pair is at a node, the second before it, at distances
    evenly spaced in their logarithm. Functions of pairs are smooth in ln t and in the logarithm of the distance.
    """

    takes_several = False
    late: Array
    """Index of the node that is the first token of each pair; (P,)"""
    early: Array
    """Position of the second token of each pair; (P,)"""

    @classmethod
    def back(cls, length: int) -> Distances:
        """Nodes evenly spaced in ln t, with all short distances, then distances at growing steps, and the first positions.

        Examples
        --------
        >>> Distances.back(100).early[-10:].tolist()
        [94, 90, 83, 71, 50, 39, 16, 6, 2, 1]
        """
        return _distances(whole("Positions", "length", length))

    def pairs(self, values: Array) -> tuple[Array, Array]:
        """Values at the nodes, shape (n,), as values at the first and at the second token of each pair; (P,) both."""
        return values[self.late], self.weights[self.early - 1] @ values

    def swap(self, values: Array) -> Array:
        """The values themselves: a value that depends on the order of a pair is that of its later token."""
        return values

    @property
    def distances(self) -> Array:
        """Distance between the two tokens of each pair, in positions."""
        distances: Array = self.nodes[self.late] - self.early
        return distances

    @functools.cached_property
    def _pair_share(self) -> Array:
        result = np.zeros(self.late.size)
        position = np.arange(1, self.length + 1)
        # The mean over earlier tokens is a constant, a term in 1/t and a remainder that is smooth in ln t.
        before = (position - 1) / max(1, (position - 1).sum())
        of_node = (before / position) @ self.weights * self.nodes
        of_node[-1] += before.sum() - of_node.sum()
        for node, t in enumerate(self.nodes):
            pairs_of_node = np.flatnonzero(self.late == node)
            if pairs_of_node.size:
                distance = np.arange(1, t)
                index, weights = neighbor_weights(
                    _distance_variable(t - self.early[pairs_of_node], t), _distance_variable(distance, t)
                )
                result += of_node[node] * np.bincount(pairs_of_node[index].ravel(), weights.ravel(), self.late.size) / (t - 1)
        return result / result.sum()

    @functools.cached_property
    def _neighbours(self) -> Array:
        return self.at_pairs(self.nodes, self.nodes)

    def near(self, values: Array) -> Array:
        """Values (P,) at two neighbours of each node."""
        return self._neighbours @ values

    @property
    def pair_shape(self) -> tuple[int, ...]:
        """Shape of values at pairs: (P,)."""
        return (self.late.size,)

    def at_pairs(self, one: Array, other: Array) -> Array:
        """Interpolation to any pairs of positions: (points, P), rows sum to 1.

        A token paired with itself is treated as two neighbours; the excess of its second moment is not smooth and kept
        separately.
        """
        later = np.maximum(np.maximum(one, other), 2)
        apart = np.maximum(np.abs(one - other), 1)
        nodes = np.flatnonzero(self.nodes >= 2)
        end = self.length + 1
        index, weights = neighbor_weights(_distance_variable(self.nodes[nodes], end), _distance_variable(later, end))
        result = np.zeros((later.size, self.late.size))
        for k, node in enumerate(nodes):
            row, column = np.nonzero(index == k)
            own = np.flatnonzero(self.late == node)
            t, far = float(self.nodes[node]), later[row].astype(float)
            # Near tokens are compared at equal distance, far ones at equal position of the earlier token.
            near = 2 * apart[row] <= far
            from_end = np.where(near, apart[row], np.maximum(far - apart[row], 1))
            from_end = 1 / np.maximum(1 / from_end - 2 / far + 2 / t, 1 / t)
            distance = np.clip(np.where(near, from_end, t - from_end), 1, t - 1)
            at, share = neighbor_weights(_distance_variable(t - self.early[own], t), _distance_variable(distance, t))
            np.add.at(result, (row[:, None], own[at]), weights[row, column][:, None] * share)
        return result


@frozen_fields
class Alike(Positions):
    """A single node for exchangeable tokens without a mask, pairs of equal tokens apart, in one block or in several at once.

    Moments of one token are an array q (n,) over n blocks; those of two different tokens and of two equal ones an array
    c (2, n). Several gradients have more axes before these.
    """

    of_kinds = True

    @classmethod
    def of(cls, length: int, match: float) -> Alike:
        """The positions of a sequence of two tokens or more.

        Examples
        --------
        >>> Alike.of(64, 0.25).pair_mean(np.array([[0.0], [1.0]]))
        0.25
        """
        return _alike(whole("Positions", "length", length), match)

    @property
    def alike(self) -> bool:
        """Always true."""
        return True

    def pairs(self, values: Array) -> tuple[Array, Array]:
        """The values themselves, twice."""
        return values, values

    def swap(self, values: Array) -> Array:
        """The values themselves."""
        return values

    def average_kinds(self, values: Array) -> Array:
        """Values at pairs (..., 2, n) of different and of equal tokens, averaged over both."""
        match = 0.0 if self.match is None else self.match
        return (1 - match) * values[..., 0, :] + match * values[..., 1, :]

    def mean(self, values: Array) -> Any:
        """The values themselves; of one block a number."""
        return values if values.size > 1 else float(values[0])

    def pair_mean(self, values: Array) -> Any:
        """The average over both kinds; of one block a number."""
        return self.mean(self.average_kinds(np.asarray(values)))

    def averages_of(self, moments: list[tuple[Array, Array]]) -> list[tuple[Any, Any]]:
        """The same of several signals."""
        return [(self.mean(one), self.pair_mean(two)) for one, two in moments]

    def pair_mean_of_kind(self, values: Array) -> Any:
        """The values themselves; of one block a number."""
        return self.mean(values)

    def row_means(self, values: Array) -> Array:
        """The values themselves."""
        return values

    def near(self, values: Array) -> Array:
        """The values themselves."""
        return values

    def uniform(self, second_moment: float, covariance: float) -> tuple[Array, Array]:
        """The moments q and c of one block with the same covariance for both kinds of pairs."""
        return np.array([float(second_moment)]), np.full((2, 1), float(covariance))


def _weighted_sum(weights: Array, values: Array) -> float:
    """The sum of values times weights, in one pass where none has to be repeated."""
    return float(np.vdot(weights, values) if values.shape == weights.shape else (weights * values).sum())


def _distance_variable(distance: Array, t: Any) -> Array:
    """A variable in which functions of the distance are smooth near both the token at t and the first token."""
    return np.log(distance / (t - distance))


def neighbor_weights(nodes: Array, at: Array) -> tuple[Array, Array]:
    """Interpolation by the cubic through the four nearest nodes, or through all if there are fewer.

    Parameters
    ----------
    nodes : ascending, shape (n,).
    at : the points at which to interpolate, shape (points,).

    Returns
    -------
    Indices of the nodes and their weights, both of shape (points, k) with k at most 4.
    """
    count = min(4, nodes.size)
    first = np.clip(np.searchsorted(nodes, at) - count // 2, 0, nodes.size - count)
    index = first[:, None] + np.arange(count)
    weights = lagrange_weights(list(nodes[index].T), at)
    return index, np.stack([np.broadcast_to(weight, at.shape) for weight in weights], axis=1)


@functools.lru_cache(maxsize=8)
def _every(length: int) -> Positions:
    return Positions(np.arange(1, length + 1), np.eye(length), True)


@functools.lru_cache(maxsize=64)
def _one(length: int, match: float | None = None) -> Positions:
    return Positions(np.array([length]), np.ones((length, 1)), length == 1, match=match)


@functools.lru_cache(maxsize=64)
def _alike(length: int, match: float) -> Alike:
    return Alike(np.array([length]), np.ones((length, 1)), False, match=match)


def smooth_nodes(length: int) -> Array:
    """The nodes of :meth:`Positions.smooth`, without the interpolation to all positions."""
    if length <= ALL_NODES:
        return np.arange(1, length + 1)
    more = int(np.ceil(np.log(length / _FIRST) / np.log(_RATIO)))
    spaced = _FIRST * (length / _FIRST) ** (np.arange(1, more + 1) / more)
    return distinct(np.concatenate([np.arange(1, _FIRST + 1), np.rint(spaced).astype(int)]))


@functools.lru_cache(maxsize=64)
def _smooth(length: int, match: float | None = None) -> Positions:
    if length <= ALL_NODES:
        return _every(length)
    nodes = smooth_nodes(length)
    return Positions(nodes, _interpolation(nodes, np.arange(1, length + 1)), False, match=match)


_NEAR = (1, 2, 3, 4, 6)
"""Short distances, which are all stored."""
_FAR = 2.5
"""Ratio of successive second positions near the beginning."""
_WIDE, _END = 2.0, 3.0
"""Ratios of successive nodes, and of their distances from the end: near it, fewer tokens attend to a token."""


@functools.lru_cache(maxsize=16)
def _distances(length: int) -> Distances:
    half = max(length / 2, _FIRST)
    more = int(np.ceil(np.log(half / _FIRST) / np.log(_WIDE)))
    spaced = _FIRST * (half / _FIRST) ** (np.arange(1, more + 1) / max(more, 1))
    ending = _END ** np.arange(np.log(max(length / 3, 1)) / np.log(_END))
    nodes = np.concatenate(
        [np.arange(1, _FIRST + 1), np.rint(spaced).astype(int), [length], length - np.rint(ending).astype(int)]
    )
    nodes = distinct(nodes[(nodes >= 1) & (nodes <= length)])
    late, early = [], []
    for node, t in enumerate(nodes.tolist()):
        half = t / 2
        more = int(np.ceil(np.log(max(half / _NEAR[-1], 1)) / np.log(_RATIO)))
        spaced = _NEAR[-1] * (half / _NEAR[-1]) ** (np.arange(1, more + 1) / max(more, 1))
        beginning = _FAR ** np.arange(np.log(max(half, 1)) / np.log(_FAR))
        apart = distinct(np.concatenate([_NEAR, np.rint(spaced).astype(int), t - np.rint(beginning).astype(int)]))
        apart = apart[(apart >= 1) & (apart < t)]
        late += [node] * apart.size
        early += (t - apart).tolist()
    position = np.arange(1, length + 1)
    index, weights = neighbor_weights(_distance_variable(nodes, length + 1), _distance_variable(position, length + 1))
    every = np.zeros((length, nodes.size))
    np.put_along_axis(every, index, weights, axis=1)
    return Distances(nodes, every, False, np.array(late, dtype=int), np.array(early, dtype=int))


def _interpolation(nodes: Array, positions: Array) -> Array:
    """Weights of the nodes at each position, for functions that are smooth in ln t; (positions, nodes)."""
    if nodes.size == 1:
        return np.ones((positions.size, 1))
    if nodes.size == 2:  # too few for a curvature; that of 1/t is the likeliest
        share = (1 / positions - 1 / nodes[0]) / (1 / nodes[1] - 1 / nodes[0])
        return np.stack([1 - share, share], axis=1)
    weights: Array = spline_values(np.log(nodes), np.eye(nodes.size), np.log(positions))
    return weights


def _interpolation_sums(nodes: Array, sums: Array, panel: Array) -> Array:
    """:func:`_interpolation` summed over stretches of positions, each from node number `panel` on, before the next; (m, nodes).

    `sums` has the sums of the third to the zeroth power of ln t since that node, and of 1/t; (5, m).
    """
    if nodes.size == 2:
        share = (sums[4] - sums[3] / nodes[0]) / (1 / nodes[1] - 1 / nodes[0])
        return np.stack([sums[3] - share, share], axis=1)
    summed: Array = np.einsum("km,kmn->mn", sums[:4], spline(np.log(nodes), np.eye(nodes.size))[:, panel])
    return summed


class _Stretches:
    """Stretches of positions between nodes and cuts, and sums of interpolated functions over them.

    Between two nodes the weights are polynomials of ln t, whose sums are those of its powers: the time does not grow with the
    length times the square of the number of nodes. A sum over a range adds stretches and subtracts none, so nothing cancels.

    Parameters
    ----------
    positions : the positions with their nodes.
    cuts : positions, counted from 0, at which ranges begin or end.
    shares : factors of each position; shape (k, L).
    """

    def __init__(self, positions: Positions, cuts: Array, shares: Array) -> None:
        self.nodes, length = positions.nodes, positions.length
        starts = distinct(np.concatenate([[0], self.nodes - 1, cuts]))
        self.starts = starts[starts < length]
        position = np.arange(1, length + 1)
        before = np.maximum(np.searchsorted(self.nodes, position, side="right") - 1, 0)
        self.panel = before[self.starts]
        along = np.log(position) - np.log(self.nodes)[before]
        terms = np.stack([along**3, along**2, along, np.ones(length), 1 / position])
        self.powers = [np.add.reduceat(terms * share, self.starts, axis=1) for share in shares]

    def inside(self, low: Array, high: Array) -> Array:
        """1 for each stretch within the range from `low` until before `high`, counted from 0; (..., m)."""
        return ((self.starts >= low[..., None]) & (self.starts < high[..., None])).astype(float)

    def sums(self, share: int = 0, node: int = 0) -> Array:
        """Sums of :meth:`Positions.bent_weights` times a share over each stretch; plain weights for node 0; (m, n)."""
        count, powers, panel = self.nodes.size, self.powers[share], self.panel
        if count == 1:
            return powers[3][:, None]
        result = np.zeros((panel.size, count))
        left, right, last = panel < node, (panel >= node) & (panel < count - 1), panel == count - 1
        if left.any():
            result[left, : node + 1] = _interpolation_sums(self.nodes[: node + 1], powers[:, left], panel[left])
        if right.any():
            result[right, node:] = _interpolation_sums(self.nodes[node:], powers[:, right], panel[right] - node)
        result[last, -1] = powers[3, last]
        return result


# ---- windows of attention ----


class Windows:
    """The range of source positions that each query attends to, and sums of smooth functions over these ranges.

    Parameters
    ----------
    queries, source : positions of the queries and of the keys; the same object in self-attention.
    causal : a position attends to itself and to those before it.
    window : number of latest positions, its own included; None for all.
    """

    def __init__(self, queries: Positions, source: Positions, causal: bool, window: int | None = None) -> None:
        if queries.dense != source.dense and min(queries.length, source.length) > 1 and causal:
            raise InputError("a causal mask needs queries and keys at the same positions")
        self.queries, self.source, self.causal, self.window = queries, source, causal, window
        position = np.arange(1, queries.length + 1)
        last = position if causal else np.full(position.size, source.length)
        first = np.ones_like(last) if window is None or not causal else np.maximum(position - window + 1, 1)
        rows = queries.nodes - 1
        self.lengths = (last - first + 1)[rows].astype(float)
        """Keys in the window of each node; shape (n,)"""
        self.dense = queries.dense and source.dense
        if self.dense:
            # Which of the source's nodes each position attends to; (L_q, n_k)
            self.seen = ((source.nodes >= first[:, None]) & (source.nodes <= last[:, None])).astype(float)
            return
        low, high = first[rows] - 1, last[rows]
        keys = _Stretches(source, np.concatenate([low, high]), np.ones((1, source.length)))
        inside = keys.inside(low, high)
        self.sums = inside @ keys.sums()
        """Sum over the window of node a of a function given at source nodes b; shape (n_q, n_k)"""
        self.common = keys.inside(np.maximum.outer(low, low), np.minimum.outer(high, high)) @ keys.sums()
        """The same over the intersection of the windows of nodes a and a'; shape (n_q, n_q, n_k)"""
        size = (last - first + 1).astype(float)
        # The positions that attend to a source node form a range too: the ends of windows never decrease.
        start, stop = np.searchsorted(last, source.nodes), np.searchsorted(first, source.nodes, side="right")
        askers = _Stretches(queries, np.concatenate([start, stop]), np.stack([1 / size, 1 / size**2]))
        asked = askers.inside(start, stop)
        self.askers = asked @ askers.sums()
        """Sum over the positions that attend to source node b, each divided by its window's length; shape (n_k, n_q)"""
        self.both = askers.inside(np.maximum.outer(start, start), np.minimum.outer(stop, stop)) @ askers.sums(1)
        """Sum over the positions that attend to source nodes b and c, divided by the length squared; (n_k, n_k, n_q)"""
        # The same sums of functions of two positions, which bend where the two are equal.
        self.sums_beside = np.stack([inside @ keys.sums(node=node) for node in range(source.count)])
        self.askers_beside = np.stack([asked @ askers.sums(node=node) for node in range(rows.size)])


@functools.lru_cache(maxsize=64)
def windows(queries: Positions, source: Positions, causal: bool, window: int | None = None) -> Windows:
    """The :class:`Windows` for these arguments, cached."""
    return Windows(queries, source, causal, window)
