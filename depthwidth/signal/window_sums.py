"""Sums of covariances over the windows of attention, weighed by its probabilities, forward and backward.

The formulas are those of :mod:`.attention`. Windows of all positions are rows of a matrix, those of a few nodes sums of smooth
functions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..numerics.powers import powers_of
from ..numerics.repeated_softmax import repetition
from ..values import cached_property
from .positions import Positions, Windows

Array = Any
Moments = tuple[Array, Array]
"""q (n,) and c (n, n) at the nodes"""
_TINY = 1e-9


class _Dense:
    """Every position is a node: windows are rows of a matrix, and the diagonal of a covariance holds the second moments."""

    dense = True
    stretches = False

    def __init__(self, mask: Windows) -> None:
        self.seen, self.n = mask.seen, mask.lengths
        self.even = self.seen / self.n[:, None]

    def window_moments(self, x: Array, xq: Array) -> tuple[Array, Array, Array, Array]:
        """Per window: mean second moment, its part that tokens do not share, covariance with each key, number of tokens.

        Repeated tokens count less: n - 1 is tr(K)^2 / |K|^2 of the centred covariances, their effective rank.
        """
        column = self.even @ x
        own = self.even @ xq
        total = (column * self.even).sum(1)
        squares = ((self.even @ (x * x)) * self.even).sum(1) - 2 * (column * column * self.even).sum(1) + total * total
        apart = np.maximum(own - total, 0.0)
        known = squares > _TINY * (1e-30 + apart * apart)
        self.count = np.where(known, 1 + apart * apart / np.where(known, squares, 1.0), self.n)
        self.count = np.sqrt(np.minimum(np.maximum(self.count, 1.0), self.n) * self.n)
        return own, apart / np.where(self.count > 1, 1 - 1 / self.count, 1.0), column, self.count

    def weigh(self, logarithm: Array) -> None:
        self.a = self.seen * np.exp(np.where(self.seen > 0, logarithm, 0.0))
        self.a /= self.a.sum(1, keepdims=True)

    def products(self, x: Array, xq: Array, terms: int, values: Moments | None = None) -> tuple[Array, ...]:
        """Weighted covariances of K^k with K (k from 1), means of K^k over two windows, and their diagonal parts.

        Then the means of K^k over different tokens, and what is diagonal: if tokens do not repeat, the means again. The
        covariances are with `values`, if these are not K.
        """
        a, rows = self.a, self.a.shape[0]
        self.x = x
        full, diagonal = np.empty((2, terms + 2, rows, rows))
        covariances = np.empty((terms, rows, rows))
        level = (a @ a.T) if np.ptp(xq) == 0 else None  # the sums of one second moment, as tokens have after a norm
        power = np.ones_like(x)
        one_v: Array = None if values is None else a @ values[0]
        for k in range(terms + 2):
            one = a @ power
            np.matmul(one, a.T, out=full[k])
            diagonal[k] = (a * xq**k) @ a.T if level is None else xq[0] ** k * level
            if k == 1:
                self.one = one
            if 1 <= k <= terms:
                mixed = (one * (self.one if values is None else one_v)) @ a.T
                np.add(mixed, mixed.T, out=covariances[k - 1])
                if values is not None:
                    np.subtract(a @ (power * values[0]) @ a.T, covariances[k - 1], out=covariances[k - 1])
            power *= x
        # A token and its repetitions are equal.
        repeated = self.n / self.count
        longer = self.n[:, None] - self.n
        diagonal *= np.where(
            longer > 0, repeated[:, None], np.where(longer < 0, repeated, np.sqrt(np.outer(repeated, repeated)))
        )
        if values is not None:
            self.mean_values = one_v @ a.T
            covariances += full[1:-1] * self.mean_values
            return covariances, full, diagonal, full
        for k in range(1, terms + 1):
            covariances[k - 1] = full[k + 1] - covariances[k - 1] + full[k] * full[1]
        self.mean_values = full[1].copy()
        return covariances, full, diagonal, full

    def back(self, h: Array, own: None) -> Moments:
        # Powers of K and their sums are computed again: those of every layer at once took gigabytes.
        a, (*h, g) = self.a, h
        inner = g.copy()
        mixed, result = np.zeros_like(self.one), np.zeros_like(self.x)
        power = np.ones_like(self.x)
        for part in h:
            power = power * self.x
            one, right = a @ power, part @ a
            result += power * (a.T @ right)
            mixed += one * right
            inner += part * (one @ a.T)
        crossed = a.T @ mixed
        result += a.T @ inner @ a - crossed - crossed.T
        return np.diagonal(result).copy(), result

    def mean(self, values: Array) -> Array:
        """Mean over each window."""
        return self.even @ values

    def query_sums(self, values: Array) -> Array:
        """Sum over the rows that attend to each key, each divided by the row's length."""
        return self.even.T @ values

    def query_pair_sums(self, values: Array) -> Array:
        return (self.even.T * values) @ self.even


def _sum_over_first(sums: Array, x: Array) -> Array:
    """Sums over the first position of functions x (..., n, n) that bend where the two positions are equal; (..., row, n)."""
    if x.ndim == 2:
        return np.matmul(sums, x.T[:, :, None])[..., 0].T
    return np.matmul(sums, x.transpose(2, 1, 0)).transpose(2, 1, 0)


class _Smooth:
    """Few nodes. The diagonal, one token with itself, is not part of the smooth covariance and is stored separately."""

    dense = False
    stretches = False

    def __init__(self, mask: Windows) -> None:
        self.mask, self.n = mask, mask.lengths
        self.even = mask.sums / self.n[:, None]
        self.even_beside = mask.sums_beside / self.n[:, None]
        along = np.arange(self.n.size)
        self.alone = mask.common[along, along] / (self.n**2)[:, None]
        self.inverse = 1 / self.n[:, None]
        self.left = np.where(self.n == 1, 1.0, 1 - 1 / self.n)

    def window_moments(self, x: Array, xq: Array) -> tuple[Array, Array, Array, Array]:
        beyond = xq - x.diagonal()
        column = _sum_over_first(self.even_beside, x)
        own = self.even @ xq
        total = (column * self.even).sum(1) + self.alone @ beyond
        apart = (own - total) / self.left
        return own, np.maximum(apart, 0.0), column + beyond * self.inverse, self.n

    def weigh(self, logarithm: Array) -> None:
        mask = self.mask
        density = np.exp(logarithm)
        density /= (self.even * density).sum(1, keepdims=True)
        self.a = self.even * density
        self.a_beside = self.even_beside * density
        self.density, self.of_keys = density * self.inverse, np.ascontiguousarray(density.T)
        self.common = mask.common * (self.density[:, None] * self.density)

    # For gradients. A layer takes several back, or none if the recursion along the depth tries another block.

    @cached_property
    def askers(self) -> Array:
        return self.mask.askers * self.of_keys

    @cached_property
    def askers_beside(self) -> Array:
        return np.ascontiguousarray((self.mask.askers_beside * self.of_keys).transpose(0, 2, 1))  # products in half the time

    @cached_property
    def both(self) -> Array:
        return self.mask.both * (self.of_keys[:, None] * self.of_keys)

    def products(self, x: Array, xq: Array, terms: int, values: Moments | None = None) -> tuple[Array, ...]:
        if values is not None:
            return self._products_with(x, xq, terms, *values)
        a = self.a
        self.x, self.xq = powers_of(x, terms + 2), powers_of(xq, terms + 2)
        self.one, self.beyond, self.full = one, beyond, full = self._over_windows(self.x, self.xq)
        self.mean_values = full[1]
        lone = self.density * beyond[1]
        mixed = (one[1:-1] * one[1]) @ a.T
        pieces = one[1:-1] * beyond[1] + beyond[1:-1, None] * (one[1] + lone)  # (k, row, key)
        mixed += self._over_own(pieces)
        return full[2:] - mixed - mixed.transpose(0, 2, 1) + full[1:-1] * full[1], full, self._over_common(self.xq), full

    def _products_with(self, x: Array, xq: Array, terms: int, v: Array, vq: Array) -> tuple[Array, ...]:
        """The same for K of the scores and the covariances v and second moments vq of values."""
        self.x, self.xq = powers_of(x, terms + 2), powers_of(xq, terms + 2)
        self.one, self.beyond, self.full = one, beyond, full = self._over_windows(self.x, self.xq)
        one_v, beyond_v, self.mean_values = self._over_windows(v, vq)
        products = self._over_windows(self.x[1:-1] * v, self.xq[1:-1] * vq)[2]
        mixed = (one[1:-1] * one_v) @ self.a.T
        pieces = one[1:-1] * beyond_v + beyond[1:-1, None] * (one_v + self.density * beyond_v)
        mixed += self._over_own(pieces)
        covariances = products - mixed - mixed.transpose(0, 2, 1) + full[1:-1] * self.mean_values
        return covariances, full, self._over_common(self.xq), full

    def _over_windows(self, pairs: Array, own: Array) -> tuple[Array, Array, Array]:
        """Sums over one window and over two: of values (..., n, n) of pairs, and of a token's excess with itself."""
        beyond = own - pairs.diagonal(0, -2, -1)
        one = _sum_over_first(self.a_beside, pairs)
        sums = one @ self.a.T
        sums += self._over_common(beyond).reshape(sums.shape)
        return one, beyond, sums

    def _over_own(self, pieces: Array) -> Array:
        """Sums over the keys that two windows share, of values (k, row, key) of the first row: (k, row, row)."""
        return np.matmul(self.common, pieces.transpose(1, 2, 0)).transpose(2, 0, 1)

    def _over_common(self, own: Array) -> Array:
        """Sums over the keys that two windows share, of values (k, keys) or (keys,): (k, rows, rows)."""
        rows, keys = self.a.shape
        return (own.reshape(-1, keys) @ self.common.reshape(rows * rows, keys).T).reshape(-1, rows, rows)

    def back(self, h: Array, own: Array) -> Moments:
        """The gradient of the keys, given that of each power of K, from the first on, and at last without K.

        Parameters
        ----------
        h : of pairs of rows, (..., terms + 1, rows, rows), which is overwritten; several gradients are along the first axis.
        own : the excess of each row with itself, (..., terms + 1, rows), likewise.
        """
        second, rest, mass = self._parts_back(h, own)
        return second, rest + (self.x[1:-1] * mass).sum(-3)

    @cached_property
    def _full_own(self) -> Array:
        return self.full[1:-1].diagonal(0, 1, 2)

    @cached_property
    def _one_with_lone(self) -> Array:
        return self.one[1:-1] + self.density * self.beyond[1:-1, None]

    def _parts_back(self, h: Array, own: Array) -> tuple[Array, Array, Array]:
        """The second moment of a key's gradient, the covariance without K^k, and the factor on each K^k."""
        t, one, beyond = self.askers, self.one[1:-1], self.beyond[1:-1]
        keys, rows = t.shape
        extra = own[..., :-1, :]
        h[..., -1, :, :] += np.einsum("kab,...kab->...ab", self.full[1:-1], h[..., :-1, :, :])
        own[..., -1, :] += np.einsum("ka,...ka->...a", self._full_own, extra)
        # Sums over the other row; (..., k, row, key).
        over_other = self._beside_other(h.reshape(-1, rows, rows)).reshape(*h.shape[:-1], keys)
        asked = t @ over_other
        asked += self._asked_of_both(own)
        mass, right = asked[..., :-1, :, :], over_other[..., :-1, :, :]
        direct = np.einsum("kac,...kac->...ac", one, right)
        patch = np.einsum("kc,...kac->...ac", beyond, right)
        patch += np.einsum("kac,...ka->...ac", self._one_with_lone, extra)
        crossed = t @ direct
        # For each second key c the sum over rows of both (b, c, row) times patch (row, c).
        crossed += np.matmul(self.both.transpose(1, 0, 2), patch.T.reshape(keys, rows, -1)).T.reshape(crossed.shape)
        rest = asked[..., -1, :, :] - crossed - crossed.swapaxes(-1, -2)
        second = rest.diagonal(0, -2, -1) + (self.xq[1:-1] * mass.diagonal(0, -2, -1)).sum(-2)
        return second, rest, mass

    def _beside_other(self, pairs: Array) -> Array:
        """Sums over the second row of values (m, rows, rows), for every key: (m, row, key)."""
        return np.matmul(pairs.transpose(1, 0, 2), self.askers_beside).transpose(1, 0, 2)

    def _asked_of_both(self, values: Array) -> Array:
        """Sums over the rows that attend to two keys of values (..., rows): (..., keys, keys)."""
        keys, _, rows = self.both.shape
        return (self.both.reshape(keys * keys, rows) @ values.reshape(-1, rows).T).T.reshape(*values.shape[:-1], keys, keys)

    def mean(self, values: Array) -> Array:
        return self.even @ values

    def query_sums(self, values: Array) -> Array:
        return values @ self.mask.askers.T

    def query_pair_sums(self, values: Array) -> Array:
        return self._of_kinds((self.mask.both @ values[..., None, :, None])[..., 0])

    def _of_kinds(self, pairs: Array) -> Array:
        """The same values for both kinds of pairs, if there are two."""
        return pairs


class _Repetitions:
    """Windows with pairs of different and of equal tokens apart: equal ones get what Zipf's law gives, (T8) and (T9)."""

    keys: Positions
    n: Array
    match: float
    head_dim: int | None
    share: float
    """Probability that two positions hold the same token, by the weights of two rows"""
    equal: float
    """The same by the weights of one row and one key"""

    mean_row: int
    """The row whose length is nearest to the mean"""

    def _nearest_to_mean(self) -> int:
        return int(np.abs(self.n - self.row_mean(self.n)).argmin())

    def row_mean(self, values: Array) -> float:
        """The mean over all positions of values at the rows."""
        return self.keys.mean(values)

    def pair_mean(self, pairs: Array) -> float:
        """The mean of values of one kind over the pairs of two tokens in a row."""
        return self.keys.pair_mean_of_kind(pairs)

    def near(self, pairs: Array) -> Array:
        """Values of pairs at two tokens near each row."""
        return np.diagonal(pairs)

    def stretch_scores(self, x: Array, xq: Array, variance: Array, exponent: Array) -> Moments:
        """A K of the scores, whose exponential gives equal tokens, and a token with itself, their averages in a mean row.

        Parameters
        ----------
        x, xq : K of pairs (2, ...) and second moments (n,).
        variance, exponent : of the scores in each row, and the factor of K in the exponent; (n,).
        """
        row = self.mean_row
        steep, n = float(exponent[row]), max(2.0, float(self.n[row]))
        apart, further = self.pair_mean(x[1] - x[0]), self.row_mean(xq) - self.pair_mean(x[0])
        self.share = self.match
        if not (further > 0 and apart > _TINY * further and steep * apart > _TINY):
            return x, xq
        shared = min(1.0, apart / further)
        found = repetition(self.match, n, float(variance[row]) * shared, float(variance[row]) * (1 - shared), self.head_dim)
        self.share = self.match * found.other_row
        self.equal = min(1.0, self.match * found.same_row)
        itself, equal = found.itself - 1, found.same_row / found.other_row - 1
        mean = (itself / n + self.share * equal) / max(1 - 1 / n - self.share, 1 / n)  # which centring takes off again
        itself, equal = (math.log1p(max(0.0, gain + mean)) / steep for gain in (itself, equal))
        near = self.near(x[0])
        return np.stack([x[0], x[0] + equal / apart * (x[1] - x[0])]), near + itself / further * (xq - near)


class _Repeated(_Repetitions, _Smooth):
    """Few nodes, and pairs of different and of equal tokens: a covariance K is an array (2, n, n)."""

    stretches = True

    def __init__(self, mask: Windows, keys: Positions, match: float, head_dim: int | None) -> None:
        super().__init__(mask)
        self.keys, self.match, self.head_dim = keys, match, head_dim
        self.equal = self.share = match
        self.mean_row = self._nearest_to_mean()

    def window_moments(self, x: Array, xq: Array) -> tuple[Array, Array, Array, Array]:
        """As of different tokens, which decide how much the scores of a row vary."""
        return super().window_moments(x[0], xq)

    def _average(self, pairs: Array) -> Array:
        """Values at pairs (..., 2, n, n) of different and of equal tokens, averaged over both."""
        shares = np.array([1 - self.share, self.share])
        return (shares @ pairs.reshape(*pairs.shape[:-2], -1)).reshape(*pairs.shape[:-3], *pairs.shape[-2:])

    def products(self, x: Array, xq: Array, terms: int, values: Moments | None = None) -> tuple[Array, ...]:
        """As of windows without repetitions, of K for the scores and the covariances `values`."""
        v, vq = (x, xq) if values is None else values
        self.x, self.xq = powers_of(x, terms + 2), powers_of(xq, terms + 2)
        # In this order, side by side: powers of K, products of powers and values, the values, and powers of different tokens.
        powers, products, different = slice(terms + 2), slice(terms + 2, 2 * terms + 2), slice(2 * terms + 3, 3 * terms + 5)
        of_values = 2 * terms + 2
        pairs, own = np.empty((different.stop, *x.shape[1:])), np.empty((different.stop, xq.size))
        kinds = np.empty((of_values + 1, *x.shape))
        kinds[powers], own[powers] = self.x, self.xq
        np.multiply(self.x[1:-1], v, out=kinds[products])
        np.multiply(self.xq[1:-1], vq, out=own[products])
        kinds[of_values], own[of_values] = v, vq
        pairs[: of_values + 1] = self._average(kinds)
        pairs[different], own[different] = self.x[:, 0], self.xq
        every, every_beyond, sums = self._over_windows(pairs, own)
        self.one, self.beyond, self.full = one, beyond, full = every[powers], every_beyond[powers], sums[powers]
        one_v, beyond_v, self.mean_values = every[of_values], every_beyond[of_values], sums[of_values]
        crossed = (one[1:-1] * one_v) @ self.a.T
        pieces = one[1:-1] * beyond_v + beyond[1:-1, None] * (one_v + self.density * beyond_v)
        crossed += self._over_own(pieces)
        covariances = sums[products] - crossed - crossed.transpose(0, 2, 1) + full[1:-1] * self.mean_values
        return covariances, full, self._over_common(self.xq), sums[different]

    def back(self, h: Array, own: Array) -> Moments:
        second, rest, mass = self._parts_back(h, own)
        of_kinds = np.einsum("kzbc,...kbc->...zbc", self._weighed, mass)
        of_kinds += self._weights * self._of_kinds(rest)
        return second, of_kinds

    @cached_property
    def _weights(self) -> Array:
        """Shares of both kinds of pairs over those in the mean."""
        return np.array([(1 - self.share) / (1 - self.match), self.share / self.match])[:, None, None]

    @cached_property
    def _weighed(self) -> Array:
        return self._weights * self.x[1:-1]

    def _of_kinds(self, pairs: Array) -> Array:
        return pairs[..., None, :, :]


def _sums(mask: Windows, keys: Positions, head_dim: int | None) -> _Dense | _Smooth:
    if mask.dense:
        return _Dense(mask)
    return _Smooth(mask) if keys.match is None else _Repeated(mask, keys, keys.match, head_dim)
