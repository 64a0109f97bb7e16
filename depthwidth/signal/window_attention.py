r"""Softmax attention over sliding windows of a longer context, with pairs of tokens stored by their distance.

The softmax is that of :mod:`.attention`, (T3) to (T6), with the marginals a = 1/n: that keys differ from their neighbours,
(T7), moves moments by 3e-4 at score variance 1. Rows are those of all positions that occur in a pair; what a row has alone is
computed at the nodes and interpolated. Sums over the windows of two rows are matrices over pairs, made once for each window.

Derivation: docs/derivations/tokens.md, (T10).
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..numerics.powers import powers_of
from ..numerics.softmax_responses import responses
from .attention import _NEGLIGIBLE, AttentionOutput, Bias, TokenAttention, _Layer, _Tables
from .positions import Array, _interpolation, smooth_nodes
from .rotation import Rotation, between_rows, kernel
from .window_pairs import WindowPairs, _chosen, _steps
from .window_sums import Moments, _Repetitions

_KNOTS = 1.3  # ratio of successive distances at which sums over positions evaluate a function


class WindowAttention(TokenAttention):
    """Causal self-attention at :class:`WindowPairs`, of one window or full rows.

    Parameters and errors are those of :class:`TokenAttention`.

    Examples
    --------
    >>> positions = WindowPairs.of(64, (8,))
    >>> layer = WindowAttention(positions, window=8, head_dim=64, width=256)
    >>> out = layer(*positions.uniform(1.0, 0.2))
    >>> print(f"{positions.mean(out.second_moment):.3f} {positions.pair_mean(out.covariance):.3f}")
    0.393 0.213
    """

    def __init__(
        self,
        positions: WindowPairs,
        source: None = None,
        *,
        causal: bool = True,
        window: int | None = None,
        head_dim: int | None = None,
        width: float | None = None,
        dropout: float = 0.0,
        rotation: Any = None,
        equal_norms: bool | None = None,
    ) -> None:
        if not 0 <= dropout < 1:
            raise InputError(f"dropout={dropout} is outside [0, 1)")
        if source is not None or not causal:
            raise InputError("WindowAttention: it is for causal self-attention")
        self.positions = positions
        self.queries = self.source = positions
        self.head_dim, self.width, self.equal_norms = head_dim, width, equal_norms
        self.noise = dropout / (1 - dropout)
        reach = positions.length if window is None else min(window, positions.length)
        self.sums = _WindowSums(positions, reach, head_dim)
        kinds = 1 if positions.match is None else 2
        late, early = self.sums.at[positions.late], self.sums.at_early
        self.split = kinds * late.size
        rows = np.arange(self.sums.n.size)
        self.first, self.second = np.concatenate([*[late] * kinds, rows]), np.concatenate([*[early] * kinds, rows])
        self._tables = {}
        self.rotation = None if rotation is None else self._rotation(rotation)

    def _rotation(self, rotation: Any) -> Rotation:
        positions, lengths = self.positions, self.sums.n.astype(int)
        keys = positions.mean_around(rotation)
        same = np.ones(self.first.size)
        same[: self.split] = np.tile(keys, self.split // keys.size)
        distance = np.zeros(self.first.size, dtype=int)
        distance[: self.split] = np.tile(positions.distances, self.split // keys.size)
        cosines = kernel(rotation, positions.length)
        return Rotation(keys, *between_rows(cosines, lengths[self.second], lengths[self.first], distance, same))

    def _own_seen(self) -> tuple[Array, Array]:
        near = self.positions.distances < self.sums.reach
        return 1 + near, np.ones(near.size)  # the first is the later one

    def square(self, flat: Array) -> Array:
        """The values at stored pairs, (P,) or (2, P), from a flat array."""
        pairs = flat[..., : self.split]
        return pairs if self.positions.match is None else pairs.reshape(*flat.shape[:-1], 2, -1)

    def flat(self, square: Array) -> Array:
        """A flat array of values at stored pairs; those of rows with themselves are 0."""
        before = square.shape[: square.ndim - (1 if self.positions.match is None else 2)]
        return np.concatenate([square.reshape(*before, -1), np.zeros((*before, self.sums.n.size))], axis=-1)

    def parts(self, flat: Array) -> tuple[Array, Array]:
        """The values at stored pairs of any kind, and those of each node with itself."""
        return self.queries.average_kinds(self.square(flat)), flat[..., self.split :][..., self.sums.at]

    def both(self, values: Array) -> Array:
        """The product of the values of the two tokens of each stored pair: (P,)."""
        product: Array = values[self.sums.at[self.positions.late]] * values[self.sums.at_early]
        return product

    def of_rows(self, values: Array) -> Array:
        """Values at pairs of nodes and at nodes (..., P + m) as a flat array."""
        return self.sums.to_flat(values)

    def _tables_to(self, largest: float) -> _Tables:
        return _RowTables(largest, self)

    def _layer(self, tokens: Moments, keys: Moments, score_gain: float, normed: bool, bias: Bias | None) -> _Layer:
        if keys is not tokens:
            raise InputError("WindowAttention: a memory has no windows")
        rows = self.sums.expand(tokens[0]), tokens[1]
        return _WindowLayer(self, rows, rows, score_gain, normed, bias)


class _RowTables(_Tables):
    """Tables for all rows, interpolated once between a few lengths."""

    def __init__(self, largest: float, owner: WindowAttention) -> None:
        lengths = owner.sums.n
        self.nodes = smooth_nodes(int(lengths.max()))
        self.responses = responses(largest, tuple(int(n) for n in self.nodes), owner.head_dim)
        self._row_table = self.responses.with_tokens if owner.finite else self.responses.row_table
        self._first, self._second = owner.first, owner.second
        pairs = self.responses.pairs
        self._kept = np.argwhere(np.abs(pairs).max((0, 3, 4)) > _NEGLIGIBLE).T
        self._spread = _interpolation(self.nodes, lengths)
        self._rows = self._row_table @ self._spread.T
        of_first = (self._spread @ pairs[:, self._kept[0], self._kept[1]])[..., self._first, :]
        self._pairs = np.einsum("fkpm,pm->fkp", of_first, self._spread[self._second])


class _WindowLayer(_Layer):
    owner: WindowAttention

    def output(self) -> AttentionOutput:
        found = super().output()
        at = self.owner.sums.at
        return found._replace(second_moment=found.second_moment[at], score_variance=found.score_variance[at])

    def pull(self, gq: Array, gc: Array) -> tuple[Moments, Moments]:
        sums = self.owner.sums
        (asked, asked_pair), sent = super().pull(sums.expand(np.asarray(gq, dtype=float)), gc)
        return (asked[..., sums.at], asked_pair), sent


@functools.lru_cache(maxsize=32)
def window_attention(*arguments: Any, **options: Any) -> WindowAttention:
    """The :class:`WindowAttention` for these arguments, cached."""
    return WindowAttention(*arguments, **options)


# ---- sums over windows ----
#
# Functions of two positions are vectors over M = 2 P + m ordered pairs: with the later token first, with the earlier first, and
# each node with itself. Symmetric ones are vectors over the P stored pairs, or over these and the m nodes.


class _Matrices(NamedTuple):
    """Sums over windows, as matrices, with a_i(s) the weight of key s in row i, and sym(f)(i, i') = f(i, i') + f(i', i)."""

    one: Array
    """sum_s a_i(s) f(s, y) of symmetric f; (M, P)"""
    two: Array
    """sum_s,s' a_i(s) a_i'(s') f(s, s'); (P + m, P)"""
    mixed: Array
    """sym of sum_s a_i'(s) f(i, s); (P + m, M)"""
    mixed_common: Array
    """sym of sum_s a_i(s) a_i'(s) f(i, s); (P + m, M)"""
    common: Array
    """sum_s a_i(s) a_i'(s) h(s); (P + m, m)"""
    back_one: Array
    """sum_t a_t(j) f(t, y) of symmetric f; (M, P)"""
    back_two: Array
    """sum_t,t' a_t(j) a_t'(l) f(t, t'); (P + m, P)"""
    back_mixed: Array
    """sym of sum_t a_t(j) f(t, l); (P + m, M)"""
    back_mixed_common: Array
    """sym of sum_t a_t(j) a_t(l) f(t, l); (P + m, M)"""
    back_common: Array
    """sum_t a_t(j) a_t(l) h(t); (P + m, m)"""


class _Stored:
    """Ordered pairs, and the positions between which functions of two positions are linear."""

    def __init__(self, positions: WindowPairs) -> None:
        self.positions, nodes, early = positions, positions.nodes, positions.early
        late = nodes[positions.late]
        self.rows = np.unique(np.concatenate([nodes, early]))
        """All positions that occur"""
        self.at, self.at_early = np.searchsorted(self.rows, nodes), np.searchsorted(self.rows, early)
        self.expansion = positions.weights[self.rows - 1]
        """From values at the nodes to those at all rows"""
        count, m = late.size, nodes.size
        self.count = count
        self.first, self.second = np.concatenate([late, early, nodes]), np.concatenate([early, late, nodes])
        self.swap = np.concatenate([count + np.arange(count), np.arange(count), 2 * count + np.arange(m)])
        lone, beside = positions.at_pairs(nodes, nodes)
        self.beside = np.zeros((m, count))
        """Of each node, the value of two neighbours there"""
        np.add.at(self.beside, (np.arange(m)[:, None], lone), beside)
        self.knots = [self._knots_of(int(y)) for y in self.rows]
        one = np.concatenate(self.knots)
        sizes = np.array([knots.size for knots in self.knots])
        other = np.repeat(self.rows, sizes)
        index, weights = positions.at_pairs(one, other)
        index = index + np.where(one < other, count, 0)[:, None]
        same = one == other
        every = positions.weights[one[same] - 1]
        ends = np.cumsum(sizes)[:-1]
        self._index, self._weights = np.split(index, ends), np.split(weights, ends)
        self._own = every

    def _knots_of(self, y: int) -> Array:
        length, reaches = self.positions.length, self.positions.reaches
        steps = _steps(1, length, _KNOTS)
        bends = [[y - reach, y + reach, reach, length - reach + 1] for reach in reaches]
        return _chosen([[1, 2, y, y - 1, y + 1, length], y - steps, y + steps, steps, length - steps, *bends], 1, length)

    def between(self, k: int) -> Array:
        """Interpolation of a function of two positions, the second row k, to the knots of that row; (knots, M)."""
        knots, index, weights = self.knots[k], self._index[k], self._weights[k]
        flat = (np.arange(knots.size)[:, None] * self.first.size + index).ravel()
        result = np.bincount(flat, weights.ravel(), knots.size * self.first.size).reshape(knots.size, -1)
        same = int(np.searchsorted(knots, self.rows[k]))
        result[same] = 0
        result[same, 2 * self.count :] = self._own[k]
        return result

    def sums(self, low: Array, high: Array, factors: Array) -> Array:
        """Sums of f(s, y), with factors of each s, from `low` until before `high` for each ordered pair (., y); (M, M)."""
        cumulative = _cumulative(factors)
        result = np.zeros((self.first.size, self.first.size))
        for k, y in enumerate(self.rows):
            members = np.flatnonzero(self.second == y)
            if members.size:
                result[members] = _range_shares(cumulative, self.knots[k], low[members], high[members]) @ self.between(k)
        return result

    def own_sums(self, low: Array, high: Array, factors: Array) -> Array:
        """The same of a function h(s), which the nodes give; (len(low), m)."""
        knots = _chosen([self.positions.nodes, *self.knots[:: max(1, len(self.knots) - 1)]], 1, self.positions.length)
        return _range_shares(_cumulative(factors), knots, low, high) @ self.positions.weights[knots - 1]


def _cumulative(factors: Array) -> Array:
    """Sums of the factors, and of factors times positions, until before each position; (2, L + 1)."""
    result = np.zeros((2, factors.size + 1))
    np.cumsum(factors, out=result[0, 1:])
    np.cumsum(factors * np.arange(1, factors.size + 1), out=result[1, 1:])
    return result


def _range_shares(cumulative: Array, knots: Array, low: Array, high: Array) -> Array:
    """Weights of a function's values at the knots, between which it is linear, in its sums over [low, high); (n, knots)."""
    ends = np.append(knots[:-1], knots[-1] + 1)  # the last piece has its end
    cut = np.clip(ends, low[:, None], np.maximum(low, high)[:, None]) - 1
    m0, m1 = np.diff(cumulative[:, cut], axis=2)
    right = (m1 - knots[:-1] * m0) / np.diff(knots)
    shares = np.zeros((low.size, knots.size))
    shares[:, :-1] += m0 - right
    shares[:, 1:] += right
    return shares


@functools.lru_cache(maxsize=4)
def _stored_operators(positions: WindowPairs) -> _Stored:
    return _Stored(positions)


@functools.lru_cache(maxsize=6)
def _matrices(positions: WindowPairs, reach: int) -> _Matrices:
    stored, length, count = _stored_operators(positions), positions.length, positions.late.size
    ones = np.ones(length)
    size = np.minimum(np.arange(1, length + 1), reach).astype(float)
    i, y = stored.first, stored.second
    pair = np.concatenate([np.arange(count), 2 * count + np.arange(positions.count)])
    """Ordered pairs with the later token first, and nodes"""
    swapped, swap = stored.swap[pair], stored.swap
    low, low_y = np.maximum(i - reach + 1, 1), np.maximum(y - reach + 1, 1)
    # Rows see keys; keys are seen by rows.
    over = stored.sums(low, i + 1, ones) / size[i - 1][:, None]
    until, until_y = np.minimum(i + reach, length + 1), np.minimum(y + reach, length + 1)
    back = stored.sums(i, until, 1 / size)
    both = stored.sums(np.maximum(low, low_y), np.minimum(i, y) + 1, ones) / (size[i - 1] * size[y - 1])[:, None]
    asked = stored.sums(np.maximum(i, y), np.minimum(until, until_y), 1 / size**2)

    def folded(matrix: Array) -> Array:
        """For symmetric functions, without their values of a position with itself, which neighbours give."""
        return matrix[:, :count] + matrix[:, count : 2 * count] + matrix[:, 2 * count :] @ stored.beside

    one, back_one, turned, turned_both = folded(over), folded(back), over[:, swap], both[:, swap]
    at, until_at = np.maximum(low, low_y)[pair], np.minimum(until, until_y)[pair]
    common = stored.own_sums(at, np.minimum(i, y)[pair] + 1, ones) / (size[i - 1] * size[y - 1])[pair][:, None]
    back_common = stored.own_sums(np.maximum(i, y)[pair], until_at, 1 / size**2)
    return _Matrices(
        one=one,
        two=over[swapped] @ one[swap],
        mixed=turned[pair] + turned[swapped],
        mixed_common=turned_both[pair] + turned_both[swapped],
        common=common,
        back_one=back_one,
        back_two=back[swapped] @ back_one[swap],
        back_mixed=back[pair] + back[swapped],
        back_mixed_common=asked[pair] + asked[swapped],
        back_common=back_common,
    )


class _WindowSums(_Repetitions):
    """Sums over the windows of one reach. Symmetric functions of kinds are arrays (2, P)."""

    dense = False
    stretches = True

    def __init__(self, positions: WindowPairs, reach: int, head_dim: int | None) -> None:
        self.keys, self.reach, self.head_dim = positions, reach, head_dim
        stored = _stored_operators(positions)
        self.at, self.at_early, self.expansion, self.beside = stored.at, stored.at_early, stored.expansion, stored.beside
        self.swap, self.count = stored.swap, stored.count
        self.n = np.minimum(stored.rows, reach).astype(float)
        self.size = np.minimum(stored.first, reach).astype(float)
        self.second_at = np.searchsorted(stored.rows, stored.second)
        self.first_at = np.searchsorted(stored.rows, stored.first)
        self.mats = _matrices(positions, reach)
        length = positions.length
        nodes, size = positions.nodes, np.minimum(np.arange(1, length + 1), reach)
        self.seen = stored.own_sums(np.maximum(nodes - reach + 1, 1), nodes + 1, np.ones(length)) / size[nodes - 1][:, None]
        self.asked = stored.own_sums(nodes, np.minimum(nodes + reach, length + 1), 1 / size)
        self.repeats = positions.match is not None
        self.share = self.equal = self.match = positions.match or 0.0
        self.mean_row = self._nearest_to_mean()

    def expand(self, values: Array) -> Array:
        """Values at nodes as values at all rows."""
        return values @ self.expansion.T

    def to_flat(self, values: Array) -> Array:
        """Values at pairs of nodes and at nodes (..., P + m) as a flat array."""
        pairs = [values[..., : self.count]] * (2 if self.repeats else 1)
        return np.concatenate([*pairs, self.expand(values[..., self.count :])], axis=-1)

    def _average(self, pairs: Array) -> Array:
        return (1 - self.share) * pairs[..., 0, :] + self.share * pairs[..., 1, :] if self.repeats else pairs

    def stretch_scores(self, x: Array, xq: Array, variance: Array, exponent: Array) -> Moments:
        """As without distances; K itself without repetitions."""
        return super().stretch_scores(x, xq, variance, exponent) if self.repeats else (x, xq)

    def row_mean(self, values: Array) -> float:
        return self.keys.mean(values[self.at])

    def pair_mean(self, pairs: Array) -> float:
        """The mean over the pairs of a window, which may be much nearer than all pairs."""
        if self.reach == self.keys.length:
            return super().pair_mean(pairs)
        return self.keys.mean(self.mats.two[self.count :] @ pairs)

    def near(self, pairs: Array) -> Array:
        """Values (P,) of two neighbours at each row."""
        return self.expand(self.beside @ pairs)

    def _different(self, pairs: Array) -> Array:
        return pairs[..., 0, :] if self.repeats else pairs

    def window_moments(self, x: Array, xq: Array) -> tuple[Array, Array, float, Array]:
        x, q = self._different(x), xq[self.at]
        own = self.seen @ q
        of_nodes = slice(self.count, None)
        total = self.mats.two[of_nodes] @ x + self.mats.common[of_nodes] @ (q - self.beside @ x)
        n = self.n[self.at]
        apart = np.maximum((own - total) / np.where(n == 1, 1.0, 1 - 1 / n), 0.0)
        if n[0] == 1 and n.size > 1 and n.max() > 1:
            apart[n == 1] = apart[n > 1][0]
        return self.expand(own), np.maximum(self.expand(apart), 0.0), 0.0, self.n

    def weigh(self, logarithm: Array) -> None:
        """Marginals are even."""

    def _beyond(self, pairs: Array, own: Array) -> Array:
        """Values a token has with itself beyond those of two neighbours there (..., m), of values (..., P) of pairs."""
        return own - pairs @ self.beside.T

    def _over_two(self, pairs: Array, beyond: Array) -> Array:
        """Sums over two windows: of values (..., P) of pairs, and of a token's excess with itself; (..., P + m)."""
        return pairs @ self.mats.two.T + beyond @ self.mats.common.T

    def products(self, x: Array, xq: Array, terms: int, values: Moments) -> tuple[Array, ...]:
        """As of windows without distances, of K for the scores and the covariances `values`."""
        v, vq = values[0], values[1][self.at]
        self.x, self.xq = powers_of(x, terms + 2), powers_of(xq[self.at], terms + 2)
        average = self._average(self.x)
        self.one, self.beyond = one, beyond = average @ self.mats.one.T, self._beyond(average, self.xq)
        self.full = full = different = self._over_two(average, beyond)
        if self.repeats:
            different = self._over_two(self.x[:, 0], self._beyond(self.x[:, 0], self.xq))
        one_v, beyond_v = self._average(v) @ self.mats.one.T, self._beyond(self._average(v), vq)
        self.mean_values = self._over_two(self._average(v), beyond_v)
        weighed = self._average(self.x[1:-1] * v)
        products = self._over_two(weighed, self._beyond(weighed, self.xq[1:-1] * vq))
        key, key_v = self._keys(beyond), self._keys(beyond_v)
        pieces = one[1:-1] * key_v + key[1:-1] * (one_v + key_v / self.size)
        mixed = (one[1:-1] * one_v) @ self.mats.mixed.T + pieces @ self.mats.mixed_common.T
        return products - mixed + full[1:-1] * self.mean_values, full, self.xq @ self.mats.common.T, different

    def _keys(self, values: Array) -> Array:
        """Values at nodes as values at the second of each ordered pair."""
        return self.expand(values)[..., self.second_at]

    def back(self, h: Array, own: Array) -> Moments:
        """Gradients, given those of each power of K and last without K, of pairs (.., P) and of rows with themselves (.., m).

        Several gradients are along the first axis of both arguments.
        """
        g, g_own, h, h_own = h[..., -1, :], own[..., -1, :], h[..., :-1, :], own[..., :-1, :]
        mats, count, beside = self.mats, self.count, self.beside.T
        one, full, key = self.one[1:-1], self.full[1:-1], self._keys(self.beyond[1:-1])
        extra = h_own - h @ beside
        right = h @ mats.back_one.T
        of_rows = right[..., self.swap]
        mass = h @ mats.back_two.T + extra @ mats.back_common.T
        direct = (one * of_rows).sum(-2)
        patch = ((one + key / self.size) * self.expand(extra)[..., self.first_at] + key * of_rows).sum(-2)
        crossed = direct @ mats.back_mixed.T + patch @ mats.back_mixed_common.T
        inner = g + (h * full[:, :count]).sum(-2)
        inner_own = g_own + (h_own * full[:, count:]).sum(-2)
        rest = inner @ mats.back_two.T + (inner_own - inner @ beside) @ mats.back_common.T - crossed
        second = rest[..., count:] + (self.xq[1:-1] * mass[..., count:]).sum(-2)
        of_pairs, mass = rest[..., :count], mass[..., :count]
        if not self.repeats:
            return second, of_pairs + (self.x[1:-1] * mass).sum(-2)
        weights = np.array([(1 - self.share) / (1 - self.match), self.share / self.match])
        return second, weights[:, None] * (of_pairs[..., None, :] + (self.x[1:-1] * mass[..., None, :]).sum(-3))

    def mean(self, values: Array) -> Array:
        """Mean over each window."""
        return self.expand(self.seen @ values[self.at])

    def query_sums(self, values: Array) -> Array:
        """Sum over the rows that attend to each key, each divided by the row's length."""
        return values[..., self.at] @ self.asked.T

    def query_pair_sums(self, values: Array) -> Array:
        pairs = values[..., self.at] @ self.mats.back_common[: self.count].T
        return pairs[..., None, :] if self.repeats else pairs
