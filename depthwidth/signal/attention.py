r"""Softmax attention between tokens that are not exchangeable: moments at every position, forward and backward.

A signal has second moments q_i at its positions and covariances K_ij between them. Queries, keys and values are random linear
maps of it, so that the scores of rows i and i' are Gaussian with covariance Z K_jl, Z = A K_ii'. With A_ij the probabilities of
row i, and U(i) its window,

.. math:: w_{jl} = E A_{ij} A_{i'l} = a_{ij} a_{i'l}\,[1 + \text{centred}(B)_{jl}], \qquad
          B_{jl} = e^{\zeta K_{jl}} / \langle e^{\zeta K} \rangle - 1

where a are the marginals E A, centring is over both windows with these weights (so that rows sum to their marginals), and the
exponent zeta(Z) makes w exact for exchangeable tokens (:mod:`.softmax_responses`). The gradient of the scores follows from w:
by Price's theorem, for the Jacobians J = diag A - AA',

.. math:: E (J_i K J_{i'}^\top)_{jl} = \partial w_{jl} / \partial Z

With G the covariance of the output's gradient, the input's gradient has the covariance

=======  =====================================================
value    sum over i, i' of G_ii' w_jl
query    A G_ii' sum over j, l of K_jl dw_jl/dZ
key      A sum over i, i' of G_ii' K_ii' dw_jl/dZ
=======  =====================================================

Since the exponent is a product of a function of the rows and one of the columns, every sum is a short power series of products
of n by n matrices.

Derivation: docs/derivations/tokens.md, (T3) to (T9).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..numerics.distinct import distinct
from ..numerics.powers import powers_of
from ..numerics.softmax_responses import Growth, PairResponse, RowResponse, responses
from ..numerics.softmax_tokens import TokenAverages
from ..values import cached_property
from .attention_width import Overlaps, Rows, WidthTerms, bend_per_key, width_terms
from .positions import Positions, Windows, _interpolation, smooth_nodes, windows
from .rotation import Rotation, Turned, rotation_of
from .row_matches import OwnMatches, match_response
from .window_sums import _TINY, Moments, _sums

Array = Any
Bias = tuple[float, float, int | None]
"""Of a score bias: its variance within a row, the share of it that two rows have in common for a key, and the dimensions of a
query, if heads are finite"""

_NEGLIGIBLE = 3e-6  # coefficient of a table below which it is dropped
_TOLERANCE = 1e-5  # remainder of the power series, relative to its sum
_MOST_TERMS = 60
_DISTANCES = 4096
_ALL = 1.0  # share of a logit, without a bias, that tells something of its token
_LEAST = 1e-150  # replaces a second moment of 0


class AttentionOutput(NamedTuple):
    """Output and pullback of attention, for values with the second moment of the source."""

    second_moment: Array
    """Of the output before its projection, per feature, at each node; (n,)"""
    covariance: Array
    """Between two tokens of the output; (n, n)"""
    rows: RowResponse
    """The softmax of each node's row: P and its derivatives"""
    score_variance: Array
    """Of the scores in each node's row, about their common part, nats^2; (n,)"""
    pull: Callable[[Array, Array], tuple[Moments, Moments]]
    """The map from the moments of the output's gradient to those of the gradient of the queries' tokens through the queries,
    and of the gradient of the source through keys and values. It is linear; in self-attention the two are added."""


class TokenAttention:
    """Attention over one set of windows; all quantities that do not depend on the signal are computed once.

    Parameters
    ----------
    queries : positions of the queries.
    source : positions of keys and values; those of the queries in self-attention.
    causal, window : as in :class:`~depthwidth.signal.positions.Windows`.
    head_dim : d_h; None for the limit of infinite heads.
    width : d, of the tokens; None for the limit of infinite width.
    dropout : p, of the probabilities. 0 <= p < 1.
    rotation : for rotary positions, the average cosine between two keys as a function of their distance; self-attention only.
        The covariance of two scores is then less than that of the values (:mod:`.rotation`).
    equal_norms : whether all tokens have one norm, as after a norm, or those of Gaussian vectors: the terms of order
        1/d and 1/d_h of :mod:`.attention_width`. Left out by default.

    Raises
    ------
    InputError
        if dropout is out of range, or a causal mask is given between different positions.

    Notes
    -----
    Exact at infinite width, except for the tables (1e-3), for exchangeable tokens without a mask or with a causal one. Compared
    with simulation of one causal layer, 16 to 48 tokens, score variances 1 and 4: exchangeable tokens, and the output of a
    causal layer as input, within the noise of 0.5 %; text with a Zipf vocabulary of 1000, half of each embedding the token's,
    within 2 % forward and 1.5 % in the gradient's second moment; with a vocabulary of 30 and nine tenths, 5 to 10 % and 4 %.
    Tokens of unequal norm, which a norm before attention excludes, are less accurate: with squares spread by a sixth, the
    query path is 7 % too high at score variance 1 and 40 % at 4.

    A few nodes are right to 1e-3 under a causal mask. With a window of a third of the sequence or less, use
    :class:`.WindowAttention`, or every position: a few nodes have the gradient's covariance 10 % too low for a quarter, and
    several times too large for less.

    A layer of ten nodes takes 0.35 ms, its pullback 0.05 ms; of 256 positions, 0.4 s and 0.1 s. One signal at a time.

    Examples
    --------
    >>> causal = TokenAttention(Positions.smooth(64), causal=True, head_dim=64, width=256)
    >>> q, c = causal.queries.uniform(1.0, 0.2)
    >>> out = causal(q, c)
    >>> print(f"{causal.queries.mean(out.second_moment):.3f} {causal.queries.pair_mean(out.covariance):.3f}")
    0.294 0.227
    """

    def __init__(
        self,
        queries: Positions,
        source: Positions | None = None,
        *,
        causal: bool,
        window: int | None = None,
        head_dim: int | None = None,
        width: float | None = None,
        dropout: float = 0.0,
        rotation: Callable[[Array], Array] | None = None,
        equal_norms: bool | None = None,
    ) -> None:
        if not 0 <= dropout < 1:
            raise InputError(f"dropout={dropout} is outside [0, 1)")
        self.queries, self.source = queries, queries if source is None else source
        self.windows = windows(queries, self.source, causal, window)
        self.head_dim, self.width, self.equal_norms = head_dim, width, equal_norms
        self.noise = dropout / (1 - dropout)
        self.sums: Any = _sums(self.windows, self.source, head_dim)
        rows = np.arange(queries.count)
        upper = np.triu_indices(queries.count, 0 if not self.sums.dense else 1)
        kinds = 1 if queries.match is None else 2
        self.split = int(kinds * upper[0].size)
        """Index in a flat array of the first pair of a row with itself"""
        self.first, self.second = (np.concatenate([*[part] * kinds, rows]) for part in upper)
        place = np.empty((kinds, queries.count, queries.count), dtype=int)
        if self.sums.dense:
            place[0, rows, rows] = self.split + rows
        for kind in range(kinds):
            along = kind * upper[0].size + np.arange(upper[0].size)
            place[kind][upper] = place[kind][upper[::-1]] = along
        self._place = place if kinds == 2 else place[0]
        kind_of_pair = np.append(np.repeat(np.arange(kinds), upper[0].size), np.zeros(queries.count, dtype=int))
        self._flat = (kind_of_pair * queries.count + self.first) * queries.count + self.second
        self._tables: dict[int, _Tables] = {}
        self.rotation: Rotation | None = None
        if rotation is not None:
            self.rotation = rotation_of(rotation, queries, self.windows, causal, (self.first, self.second, self.split))

    @property
    def finite(self) -> bool:
        """True if terms of order 1/width are followed."""
        return self.width is not None and self.equal_norms is not None

    def square(self, flat: Array) -> Array:
        """A symmetric matrix (..., n, n) from values at pairs of rows.

        Its diagonal holds pairs of two different rows near a node, or of a row with itself if every position is a node.
        """
        return flat.take(self._place, axis=-1)

    def flat(self, square: Array) -> Array:
        """The values at pairs of rows of a matrix of pairs; at the end those near the nodes."""
        axes = 2 if self.queries.match is None else 3
        values: Array = square.reshape(*square.shape[:-axes], -1).take(self._flat, axis=-1)
        return values

    @cached_property
    def _at_rows(self) -> Array:
        return self.first * self.queries.count + self.second

    @cached_property
    def _kinds(self) -> tuple[float, float]:
        """Shares of different and of equal tokens in the mean over both."""
        match = self.queries.match or 0.0
        return 1 - match, match

    @cached_property
    def own_matches(self) -> OwnMatches:
        """Of the pairs of different rows, in the order of the flat arrays."""
        n, half = self.sums.n, self.split // 2
        return OwnMatches.of(self.queries.match or 0.0, n[self.first[:half]], n[self.second[:half]], *self._own_seen())

    def _own_seen(self) -> tuple[Array, Array]:
        """The number of both rows' own positions in the window of the first of each pair, and of the second; 1 or 2."""
        mask, half = self.windows, self.split // 2
        if not mask.causal:
            return 2, 2
        nodes, first, second = self.queries.nodes, self.first[:half], self.second[:half]
        near = True if mask.window is None else nodes[second] - nodes[first] < mask.window
        return 1, 1 + near * np.ones(half)  # the second is the later one

    @cached_property
    def _lengths(self) -> _Lengths:
        return _Lengths.of(self.sums.n, self.first, self.second)

    def lengths(self, n: Array) -> _Lengths:
        """Quantities of the row lengths; computed once if these do not depend on the signal."""
        return self._lengths if n is self.sums.n else _Lengths.of(n, self.first, self.second)

    def both(self, values: Array) -> Array:
        """The product of the values of the two tokens of each pair: (n, n)."""
        return values[:, None] * values

    def of_rows(self, values: Array) -> Array:
        """Of a result of the sums over two windows, (..., n, n), the value at each pair of rows."""
        found: Array = values.reshape(*values.shape[:-2], -1).take(self._at_rows, axis=-1)
        return found

    def parts(self, flat: Array) -> tuple[Array, Array | None]:
        """The matrix, and the excess of one row with itself over its diagonal; None if the diagonal already holds that."""
        if self.sums.dense:
            return self.queries.average_kinds(self.square(flat)), None
        pairs, place = flat, self._place
        if self.queries.match is not None:  # the mean over both kinds, before each pair is copied to two places
            half, (different, equal) = self.split // 2, self._kinds
            pairs, place = different * flat[..., :half] + equal * flat[..., half : self.split], place[0]
        square = pairs.take(place, axis=-1)
        return square, flat[..., self.split :] - square.diagonal(0, -2, -1)

    def tables(self, largest: float) -> _Tables:
        """Integrals of the softmax for score variances up to 1, or a power of two from `largest` on: right to 2e-6 below 1."""
        octave = max(0, math.ceil(math.log2(max(largest, 1e-9)) - 1e-9))
        tables = self._tables.get(octave)
        if tables is None:
            tables = self._tables[octave] = self._tables_to(2.0**octave)
        return tables

    def _tables_to(self, largest: float) -> _Tables:
        return _Tables(largest, self.windows, self.head_dim, self.first, self.second, self.finite)

    def __call__(
        self,
        q: Array,
        c: Array,
        score_gain: float = 1.0,
        memory: Moments | None = None,
        normed: bool = False,
        bias: Bias | None = None,
    ) -> AttentionOutput:
        """The output of attention and its pullback.

        Parameters
        ----------
        q, c : moments of the queries' tokens, at the nodes.
        score_gain : A, variance of a raw score q.k / sqrt(d_h) between tokens of second moment 1, in nats^2.
        memory : moments of the source in cross-attention.
        normed : queries and keys are normalised (QK-norm), so that scores depend on correlations only.
        bias : a score bias that is drawn with the weights; `head_dim` is then that of (A23).

        Raises
        ------
        InputError
            if shapes do not match the nodes, a number is out of range, or scores vary too much for the series.
        """
        q, c = np.asarray(q, dtype=float), np.asarray(c, dtype=float)
        tokens = (q, c)
        keys, given = tokens, [("tokens", self.queries, tokens)]
        if memory is not None:
            keys = np.asarray(memory[0], dtype=float), np.asarray(memory[1], dtype=float)
            given.append(("source", self.source, keys))
        elif self.source is not self.queries:
            given.append(("source", self.source, tokens))
        for what, positions, (second, pair) in given:
            n = positions.count
            if second.shape != (n,) or pair.shape != positions.pair_shape:
                raise InputError(f"moments of the {what} have shapes {second.shape} and {pair.shape}, not those of {n} nodes")
            if not (second.min() >= 0 and np.isfinite(pair).all()):
                raise InputError(f"a second moment of the {what} is negative or not a number")
        if not 0 <= score_gain < math.inf:
            raise InputError(f"score_gain={score_gain} is negative or not finite")
        return self._layer(tokens, keys, float(score_gain), normed, bias).output()

    def _layer(self, tokens: Moments, keys: Moments, score_gain: float, normed: bool, bias: Bias | None) -> _Layer:
        """The attention of these tokens to these keys; both are the same object without a memory."""
        return _Layer(self, tokens, keys, score_gain, normed, bias)


@functools.lru_cache(maxsize=32)
def token_attention(*arguments: Any, **options: Any) -> TokenAttention:
    """The :class:`TokenAttention` for these arguments, cached."""
    return TokenAttention(*arguments, **options)


class _Lengths(NamedTuple):
    """Quantities that depend on the number of keys each row sees."""

    lone: Array
    """Rows of one key, if a first row has one and others follow"""
    several: Array
    """Rows of several keys"""
    one: Array
    """1 - 1/n of the shorter row of each pair"""

    @classmethod
    def of(cls, n: Array, first: Array, second: Array) -> _Lengths:
        lone = np.flatnonzero(n == 1) if n[0] == 1 and n.size > 1 else np.zeros(0, dtype=int)
        return cls(lone, np.flatnonzero(n > 1), 1 - 1 / np.minimum(n[first], n[second]))


# ---- integrals at the row lengths of the windows ----


class _Tables:
    """:class:`~depthwidth.numerics.softmax_responses.Responses` for the rows of a mask."""

    def __init__(
        self, largest: float, mask: Windows, head_dim: int | None, first: Array, second: Array, with_tokens: bool
    ) -> None:
        lengths = distinct(mask.lengths.astype(int))
        self.nodes = smooth_nodes(int(lengths[-1])) if mask.dense else lengths
        self.responses = responses(largest, tuple(int(n) for n in self.nodes), head_dim)
        self._row_table = self.responses.with_tokens if with_tokens else self.responses.row_table
        self._first, self._second = first, second
        self._pairs: Array = None
        pairs = self.responses.pairs
        self._kept = np.argwhere(np.abs(pairs).max((0, 3, 4)) > _NEGLIGIBLE).T  # high orders are mostly negligible
        self._spread: Array = None
        if not mask.dense:
            self._index = index = np.searchsorted(lengths, mask.lengths)
            self._rows = self._row_table[:, :, index]
            at_kept = pairs[:, self._kept[0], self._kept[1]]
            self._pairs = np.ascontiguousarray(at_kept[..., index[first], index[second]])

    def at(self, lengths: Array) -> None:
        """Interpolate to rows of these lengths, which need not be integers."""
        self._spread = _interpolation(self.nodes, np.minimum(np.maximum(lengths, 1.0), self.nodes[-1]))
        self._rows = self._row_table @ self._spread.T
        self._pairs = None

    def row(self, variance: Array) -> tuple[RowResponse, TokenAverages | None]:
        found = self.responses.values(variance, self._rows)
        fields = len(RowResponse._fields)
        return RowResponse(*found[:fields]), TokenAverages(*found[fields:]) if len(found) > fields else None

    def pair(self, variance: Array, correlation: Array) -> PairResponse:
        over_x, over_y = self.responses.bases(variance, correlation)
        k, m = self._kept
        if self._pairs is not None:
            both = np.einsum("fkp,kp->fp", self._pairs, over_x.take(k, axis=0) * over_y.take(m, axis=0))
        else:  # too many pairs to store their coefficients
            pairs = self.responses.pairs
            both = np.zeros((pairs.shape[0], variance.size))
            for i, j in zip(k, m, strict=True):
                table = self._spread @ pairs[:, i, j] @ self._spread.T
                both += table[:, self._first, self._second] * (over_x[i] * over_y[j])
        return PairResponse(both[0], both[1], both[2] if both.shape[0] == 3 else correlation)

    def repelling(self, variance: Array, correlation: Array, where: Array) -> Growth:
        """The responses of pairs of negative correlation, at these indices of the flat arrays."""
        found, over_x, over_y = self.responses.repelling(variance, correlation)
        a, b = self._first[where], self._second[where]
        if self._spread is None:
            index, count = self._index, found.shape[-1]
            at = found.reshape(*found.shape[:-2], -1).take(index[a] * count + index[b], axis=-1)
        else:
            at = np.einsum("fklnm,pn,pm->fklp", found, self._spread[a], self._spread[b], optimize=True)
        return Growth(*np.einsum("fklp,klp->fp", at, over_x[:, None] * over_y))


# ---- one layer ----


class _Layer:
    """The softmax of one layer, with its forward and backward pass.

    Quantities of two rows are in flat arrays: the upper triangle of pairs of different rows, then each row with itself.
    """

    def __init__(
        self, owner: TokenAttention, queries: Moments, source: Moments, gain: float, normed: bool, bias: Bias | None = None
    ) -> None:
        self.owner, self.gain, self.bias = owner, gain, bias
        self.extra: tuple[Array, Array] | None = None
        """The share of the bias for a key paired with itself: to the weights of each row, and to their response"""
        (q, c), (qs, cs) = queries, source
        self.unit = q, qs
        if normed:
            root, root_s = (np.sqrt(np.maximum(m, _LEAST)) for m in (q, qs))
            q, c = np.ones_like(q), c / owner.both(root)
            qs, cs = np.ones_like(qs), cs / owner.both(root_s)
        self.q = q
        values = cs
        if owner.rotation is not None:
            cs = cs * owner.rotation.keys
            if owner.sums.dense:
                values = values.copy()
                np.fill_diagonal(values, qs)
        self._softmax(c, qs, cs, values)
        if normed:
            self._scale(*self.unit)

    def _softmax(self, c: Array, qs: Array, cs: Array, values: Array) -> None:
        owner, gain, q = self.owner, self.gain, self.q
        sums = self.sums = _copied(owner.sums)  # each layer has different weights in its windows
        a, b, split = owner.first, owner.second, owner.split
        tokens = owner.flat(c)
        if sums.dense:
            cs = cs.copy()
            np.fill_diagonal(cs, qs)
        # Exponents are relative to the middle of the covariances: a constant cancels in a softmax.
        low, high = min(cs.min(), qs.min()), max(cs.max(), qs.max())
        middle, reach = (low + high) / 2, (high - low) / 2
        x, xq = cs - middle, qs - middle
        own, apart, column, n, of_values = _window_moments(owner, sums, x, xq, values - middle)
        lone, several_keys, one = owner.lengths(n)
        if lone.size:  # a single token has no part that tokens do not share; nor has any, in windows of one
            apart[lone] = apart[several_keys[0]] if several_keys.size else 0.0
        self.n, self.own = n, own + middle
        self.s2 = s2 = gain * q * apart
        whole = s2 if self.bias is None else s2 + self.bias[0]
        tables = owner.tables(float(whole.max()))
        if sums.dense:
            tables.at(n)
        rows, averages = tables.row(whole)
        self.rows = rows
        root, s = np.sqrt(q), np.sqrt(whole)
        roots, variance = root.take(a) * root.take(b), s.take(a) * s.take(b)
        parts = apart.take(a) * apart.take(b)
        correlation = np.minimum(np.maximum(tokens / np.maximum(roots, _LEAST), -1.0), 1.0)
        turned = self._turned(of_values, apart, correlation)
        if turned is not None:
            correlation = turned.rows
        if self.bias is not None:
            content = np.sqrt(np.maximum(s2[a] * s2[b], _TINY))
            unbiased, correlation = correlation, (correlation * content + self.bias[1] * self.bias[0]) / variance
        pair = tables.pair(variance, correlation)
        exponent, slope, product = pair.exponent * (gain * roots), pair.slope, pair.product * roots
        norm = rows.norm
        if self.bias is not None:
            exponent = exponent * variance / content
            norm, moved = self._of_queries(rows.norm, pair.product, whole, content / variance, unbiased, correlation)
            product = moved * roots
        exponent[split:], slope[split:] = gain * q * rows.ratio, rows.slope
        product[split:] = q * norm
        self.product = product
        self.two_paths: Array = 0.0
        self.key_pairs: Array = None
        # A token receives more attention (E p_j > 1/n) if its logit has more variance, or less covariance with the others.
        sums.weigh(0.5 * gain * (rows.attraction * q)[:, None] * (xq - 2 * column))
        most = max(-exponent.min(), exponent.max())
        if sums.stretches:
            scores = sums.stretch_scores(x, xq, s2, exponent[split:])
            far = reach if scores[0] is x else max(float(np.abs(part).max()) for part in scores)
            terms = _terms(far * most)
            products = sums.products(*scores, terms, (values - middle, xq))
        else:
            terms = _terms(reach * most)
            products = sums.products(x, xq, terms, None if turned is None else (values - middle, xq))
        covariances, diagonal, different = (owner.of_rows(products[place]) for place in (0, 2, 3))
        shared = diagonal[0]
        several = shared < 1 - _TINY  # two windows of the same single token have no pair of different tokens
        off = np.where(several, (different - diagonal) / np.where(several, 1 - shared, 1.0), diagonal)
        self.e, self.f = _coefficients(exponent, slope, off, terms)
        grown = np.exp(pair.exponent * variance)
        jacobian = grown * slope
        terms_of_width: WidthTerms | None = None
        told: Any = 0.0  # the share of a logit that tells something of its token; a bias does not
        if averages is not None:
            told = _ALL if self.bias is None else content / variance
            overlaps = Overlaps(pair, correlation, variance, shared, one, grown, jacobian, roots, parts)
            found = Rows(rows, averages, self.own, apart, overlaps, gain, a, b, split, turned)
            terms_of_width = width_terms(found, owner.width or math.inf, owner.head_dim, bool(owner.equal_norms))
            alone = shared * one * parts  # the mean square of a K of unlike tokens
            self._bend(terms_of_width, covariances[0], 1.0 if turned is None else turned.stretch, alone, told)
            product[:] = _mixed(told, terms_of_width.product * roots, product)
        self._repel(tables, variance, correlation, roots, slope, jacobian)
        of_means = owner.of_rows(sums.mean_values) + middle
        covariance = of_means + (self.e * covariances).sum(0)
        response = (self.f * covariances).sum(0)
        _match_own(self, covariance, of_means, values)
        if turned is not None:
            response *= turned.response
            self._turn_keys(turned, roots, apart, shared * jacobian, one)
        if terms_of_width is not None:
            response *= _mixed(told, terms_of_width.asked, 1.0)
            covariance += _mixed(told, terms_of_width.covariance, 0.0)
            response += _mixed(told, terms_of_width.response, 0.0)
        if owner.width is not None and told is not _ALL:
            stir = (1 - told) * (parts if turned is None else parts * turned.products(a, b) * turned.different) / owner.width
            added, responding = _stirred(rows, a, b, split, q, tokens, one * shared * jacobian)
            covariance += gain * stir * added
            response += stir * responding
        self._add_noise(covariance, response, apart)
        self.covariance, self.response = covariance, response

    def _turned(self, of_values: Array, apart: Array, correlation: Array) -> Turned | None:
        """Rotation between the rows; `of_values` is the part that tokens do not share in the values of each row."""
        owner = self.owner
        if owner.rotation is None:
            return None
        found = np.array([self.own, apart, np.where(self.n > 1, of_values, apart)])
        own, parts, values = (found.take(owner.first, axis=1) + found.take(owner.second, axis=1)) / 2
        return owner.rotation.of_layer(own, parts, values, correlation, owner.split)

    def _turn_keys(self, turned: Turned, roots: Array, apart: Array, jacobians: Array, one: Array) -> None:
        """Add the path of the keys. If queries are rotated by the distance from each key, its gradients do not sum to zero."""
        a, b = self.owner.first, self.owner.second
        diagonals = one * jacobians
        diagonals[self.owner.split :] = self.rows.T
        self.f *= turned.stretch * turned.per_score
        self.product += roots * turned.keys
        self.key_pairs, self.per_key = turned.of_pairs(diagonals, self.product, roots, (apart[a] + apart[b]) / 2, one)

    def _repel(self, tables: _Tables, variance: Array, correlation: Array, roots: Array, slope: Array, jacobian: Array) -> None:
        """Replace the responses of rows that repel, which may have no exponent.

        Exchangeable tokens take any function of K, so that w is linear in it here.
        """
        far = np.flatnonzero(correlation[: self.owner.split] < tables.responses.lowest)
        if far.size:
            grown = tables.repelling(variance[far], correlation[far], far)
            self.e[:, far] = self.f[:, far] = 0
            self.e[0, far], self.f[0, far] = grown.growth * (self.gain * roots[far]), grown.slope
            slope[far], jacobian[far], self.product[far] = grown.slope, grown.slope, grown.product * roots[far]

    def _bend(self, terms: WidthTerms, squares: Array, stretch: Array, alone: Array, told: Array) -> None:
        """Change the overlap of two rows' weights by a multiple of the centred K, whose mean square over both is given."""
        per_key = told * bend_per_key(squares, stretch, alone)
        self.e[0] += terms.overlap * per_key
        self.two_paths = terms.two_paths * per_key

    def _add_noise(self, covariance: Array, response: Array, apart: Array) -> None:
        """Add fluctuations of rows with themselves: dropout, and the bias."""
        rows, noise, split = self.rows, self.owner.noise, self.owner.split
        if noise:
            covariance[split:] += noise * rows.P * self.own
            response[split:] += noise * self.own * apart * rows.T
        if self.bias is not None:
            self._bias_of_own_keys(apart, covariance[split:], response[split:])

    def _of_queries(
        self, norm: Array, product: Array, whole: Array, share: Array, tokens: Array, rows: Array
    ) -> tuple[Array, Array]:
        """Norms and products of queries, from those of rows with the bias, in proportion of their covariances with the row."""
        dims, own = self.owner.head_dim, self.bias[2] if self.bias is not None else None
        if dims is None or own is None:
            return np.ones_like(norm), tokens
        part = self.s2 / whole * dims / own
        both = share * dims / own * (1 + tokens**2) / (1 + rows**2)
        return 1 + part * (norm - 1), tokens + both * (product - rows)

    def _bias_of_own_keys(self, apart: Array, covariance: Array, response: Array) -> None:
        """Add what a bias does for one key of one row: keys have it apart from their covariances, so the series lacks it."""
        rows, n = self.rows, self.n
        one = (1 - 1 / n) / n
        grown = np.exp(rows.ratio * self.s2)
        weights, responses = rows.P - 1 / n - one * (grown - 1), rows.T - one * grown * rows.slope
        if self.sums.stretches:
            # Of the weight that a key takes from others, a part is from equal ones. Beside simulations of 50 words by Zipf's
            # law and a bias of variance 2, variance and gradient are 7 and 11 % too high, without the bias 30 % too low.
            weights, responses = (1 - self.sums.equal) * weights, (1 - self.sums.equal) * responses
        covariance += weights * apart
        response += responses * apart * apart
        self.extra = weights, responses * apart

    def _scale(self, q: Array, qs: Array) -> None:
        """Rescale from tokens of unit norm. The norms of the keys cancel those of the values of the same tokens."""
        a, b = self.owner.first, self.owner.second
        mean = np.sqrt(self.sums.mean(qs))
        own = np.sqrt(q)
        values = mean[a] * mean[b]
        self.covariance *= values
        self.response *= values / np.maximum(own[a] * own[b], _LEAST)

    def output(self) -> AttentionOutput:
        owner = self.owner
        return AttentionOutput(self.covariance[owner.split :], owner.square(self.covariance), self.rows, self.s2, self.pull)

    def pull(self, gq: Array, gc: Array) -> tuple[Moments, Moments]:
        """The gradient at the input, given that at the output; several gradients along the first axis if nodes are few."""
        owner, sums, split = self.owner, self.sums, self.owner.split
        g = owner.flat(np.asarray(gc, dtype=float))
        g[..., split:] = gq
        ask = self._asked * g
        second, covariance = sums.back(*owner.parts(g[..., None, :] * self._sent))
        if owner.noise or self.extra is not None:
            of_rows = g[..., split:]
            weighed = self._weights[split:] * of_rows
        if owner.noise:
            dropped = owner.noise * weighed * self.own * self.rows.T
            second = second + sums.query_sums(owner.noise * of_rows * self.rows.P + dropped)
            covariance = covariance - sums.query_pair_sums(dropped * self.n / np.maximum(self.n - 1, 1))
        if self.extra is not None:
            added = of_rows * self.extra[0] + weighed * self.extra[1]
            second = second + sums.query_sums(added)
            covariance = covariance - sums.query_pair_sums(added * self.n / np.maximum(self.n - 1, 1))
        return (ask[..., split:], owner.square(ask)), (second, covariance)

    # A layer takes several gradients back.

    @cached_property
    def _asked(self) -> Array:
        return self.gain * self.response

    @cached_property
    def _weights(self) -> Array:
        return self.gain * self.product

    @cached_property
    def _sent(self) -> Array:
        return _sent_of(self)


def _match_own(layer: _Layer, covariance: Array, even: Array, values: Array) -> None:
    """Change the correlations of outputs by the share of equal keys that each kind of pair of rows sees, (T17)."""
    owner, split = layer.owner, layer.owner.split
    if not (layer.sums.stretches and owner.queries.match):
        return
    a, b, half = owner.first, owner.second, split // 2
    gap = layer.sums.pair_mean(values[1] - values[0])
    response = match_response(covariance, even, (layer.own[a] + layer.own[b]) / 2, gap)
    of_rows = response[split:] / np.maximum(covariance[split:], _LEAST)
    pairs, one, other = covariance[:split].reshape(2, half), of_rows[a[:half]], of_rows[b[:half]]
    root = np.maximum(covariance[split:], 0.0) ** 0.5
    whole = root[a[:half]] * root[b[:half]]
    covariance[:split] += owner.own_matches.change(pairs, response[:split].reshape(2, half), one, other, whole).ravel()


def _sent_of(layer: _Layer) -> Array:
    """Factors on the gradient of two rows, for each power of K, and without K for values; (terms + 1, pairs)."""
    sent = np.ones((len(layer.e) + 1, layer.e.shape[1]))
    powers = sent[:-1]
    np.multiply(layer.f, layer._weights, out=powers)
    powers += layer.e
    powers[0] += layer.two_paths
    if layer.key_pairs is not None:
        pairs = layer.gain * layer.key_pairs
        sent[-1] += pairs
        powers[0] -= pairs * layer.per_key
    return sent


def _copied(sums: Any) -> Any:
    """A copy with the same attributes: `copy.copy` takes ten times as long."""
    copied: Any = object.__new__(type(sums))
    copied.__dict__.update(sums.__dict__)
    return copied


def _mixed(share: Any, one: Array, other: Any) -> Array:
    """The mean of two numbers with this share of the first, which is 1 in most layers."""
    return one if share is _ALL else share * one + (1 - share) * other


def _window_moments(
    owner: TokenAttention, sums: Any, x: Array, xq: Array, values: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """Those of the sums, and if positions are rotary the part of the values that tokens do not share."""
    own, apart, column, n = sums.window_moments(x, xq)
    if owner.rotation is None:
        return own, apart, column, n, None
    _, of_values, _, n = sums.window_moments(values, xq)  # tokens repeat if their values do
    return own, apart, column, n, of_values


def _stirred(
    rows: RowResponse, first: Array, second: Array, split: int, q: Array, tokens: Array, jacobians: Array
) -> tuple[Array, Array]:
    """Responses of output and gradient to the noise in products of tokens, without the terms of :mod:`.attention_width`."""
    left = 1 - rows.P
    kept = left[first] * left[second]
    added, responding = kept * tokens, kept - jacobians
    added[split:], responding[split:] = q * rows.output_noise, rows.query_noise
    return added, responding


def _terms(x: float) -> int:
    """Number of terms of exp(x) with a remainder below the tolerance."""
    term, k = 1.0, 0
    while k < 2 or (term > _TOLERANCE and k < _MOST_TERMS):
        k += 1
        term *= x / k
    if k == _MOST_TERMS:
        raise InputError(f"attention scores vary too much for this recursion: {x:.3g} nats about their mean")
    return k


@functools.lru_cache(maxsize=_MOST_TERMS + 1)
def _inverse_factorials(count: int) -> Array:
    """1/k! for k from 0; (count, 1)."""
    return np.array([[1 / math.factorial(k)] for k in range(count)])


def _coefficients(exponent: Array, slope: Array, off: Array, terms: int) -> tuple[Array, Array]:
    """Coefficients of each power of K in w / (a a') and in its derivative with respect to Z, from the first power on."""
    powers = powers_of(exponent, terms + 1)
    powers *= _inverse_factorials(terms + 1)
    norm = 1 / (powers * off[:-1]).sum(0)
    centre = norm * (powers * off[1:]).sum(0)
    norm_slope = norm * slope
    return norm * powers[1:], norm_slope * (powers[:-1] - centre * powers[1:])
