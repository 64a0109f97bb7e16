r"""Softmax attention with a score penalty linear in distance (ALiBi): moments at every position, forward and backward.

The scores of one head are a Gaussian part as in :mod:`.attention`, of covariance Z K_jl with Z = A K_ii', minus m times the
distance. The marginals a_ij = E A_ij of its probabilities are not uniform over the window. With S = sum a a' over two rows (one
row twice, or two different rows), the weights of two rows are

.. math:: w_{jl} = E A_{ij} A_{i'l} = a_{ij} a_{i'l}\,[1 + \text{centred}(B)_{jl}], \qquad
          B_{jj} = e^\theta - 1, \quad B_{jl} = \zeta K_{jl} \;(j \ne l)

so that for exchangeable tokens sum_j w_jj = S + (e^theta - 1) J with J = S + S^2 - sum a^2 a' - sum a a'^2. For a row with
itself, theta and its slope follow from the exact E sum p^2 and Jacobian (:mod:`depthwidth.numerics.alibi_softmax`). For two
rows, theta is a cubic in the covariance v of their scores. It has this value and slope for equal rows; at v = 0 it is 0 and has
the slope of independent rows. Compared with simulation of two rows at distance 1, slopes 1/256 to 0.84: sum_j
w_jj within 1.3 % (2.9 % at score variance 4), the overlap of two Jacobians within 4.5 % (9 %). Rows at distance 8 overlap less;
with a slope of 0.84 the overlap is 200 times smaller and its error up to 15 %.

Each head has its slope; a layer is the average over heads (:func:`~depthwidth.numerics.alibi_softmax.slope_groups`).

Derivation: docs/derivations/alibi.md, (L6) to (L8).
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError
from ..numerics.alibi_softmax import BiasedRows, biased_rows, marginals, slope_groups
from ..numerics.distinct import distinct
from ..numerics.softmax import query_products
from ..numerics.softmax_responses import PairResponse, RowResponse, responses
from ..numerics.softmax_tokens import TokenAverages
from .attention_width import Overlaps, Rows, WidthTerms, width_terms
from .positions import Distances, Positions, _interpolation, smooth_nodes

Array = Any
Moments = tuple[Array, Array]

_TINY = 1e-12
_LEAST = 1e-150
_STEP = 1 / 3
"""Step of log2(1 + s2) between the score variances at which marginals are computed. Twice this step would lower gradients at
s2 = 2 by 3 %."""
_STEEPEST_LOG = 60.0
_KNOTS = 1.2  # ratio of successive distances at which sums over positions evaluate a function


class BiasedAttention:
    """Causal attention with penalties linear in distance; all quantities that do not depend on the signal are computed once.

    Parameters
    ----------
    positions : positions of queries and keys.
    slopes : penalties of the heads, nats per position, each from 0 to 1.
    window : number of latest positions that a query may see; None for all.
    head_dim : d_h; None for the limit of infinite heads.
    width : d, of the tokens; None for the limit of infinite width.
    dropout : p, of the probabilities. 0 <= p < 1.
    equal_norms : whether all tokens have one norm, as after a norm, or those of Gaussian vectors: the terms of order
        1/d and 1/d_h of :mod:`.attention_width`. Left out by default.

    Raises
    ------
    InputError
        if a slope or dropout is out of range, or the positions are nodes without distances.

    Notes
    -----
    Off the diagonal the weights are of first order in the covariances. The higher attention to keys that differ from their
    neighbours, included in :class:`.TokenAttention`, is neglected. Errors against simulation of one layer of exchangeable
    tokens (width 256, heads of 64, lengths 16 to 256, score variances 0.01 to 4, 1 to 16 heads; 50, 90 and 99 percentiles):
    variance 0.14, 0.6 and 2.0 %; covariance 0.2, 0.7 and 1.7; gradient 0.5, 1.0 and 1.6; its covariance 0.1, 0.6 and 1.1. Four
    to six layers, Xavier weights, 32 to 128 tokens: variance within 1.3 %, covariance 4 %, gradient 2 % of the mean of 96
    draws, whose own errors are 0.5, 1.5 and 0.7 %. Nodes with distances back differ from all positions by 0.3 % in moments and
    1.5 % in gradients, and by 3 % if the window is shorter than the sequence.

    At 2048 positions the sums take 0.1 s for each slope and score variance, a layer 15 ms, its pullback 10 ms; time and memory
    grow with the length.

    Examples
    --------
    >>> layer = BiasedAttention(Distances.back(64), (0.25, 0.0625), head_dim=64, width=256)
    >>> q, c = layer.positions.uniform(1.0, 0.2)
    >>> out = layer(q, c)
    >>> print(f"{layer.positions.mean(out.second_moment):.3f} {layer.positions.pair_mean(out.covariance):.3f}")
    0.343 0.216
    """

    def __init__(
        self,
        positions: Positions,
        slopes: tuple[float, ...],
        *,
        window: int | None = None,
        head_dim: int | None = None,
        width: float | None = None,
        dropout: float = 0.0,
        equal_norms: bool | None = None,
    ) -> None:
        if not (slopes and all(0 <= slope <= 1 for slope in slopes)):
            raise InputError(f"slopes={slopes} are not numbers from 0 to 1")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout={dropout} is outside [0, 1)")
        if not (positions.dense or isinstance(positions, Distances)):
            raise InputError("scores that depend on distance need every position, or distances back from each node")
        self.positions, self.groups = positions, slope_groups(slopes)
        self.window, self.head_dim, self.width, self.equal_norms = window, head_dim, width, equal_norms
        self.noise = dropout / (1 - dropout)
        self.lengths = positions.nodes if window is None else np.minimum(positions.nodes, window)
        known = positions.nodes if not positions.dense else Positions.smooth(positions.length).nodes
        self.known = known[known <= self.lengths.max()]
        self._sums: dict[tuple[float, int], _Dense | _Distant] = {}

    def sums(self, slope: float, variance: float) -> _Dense | _Distant:
        """Sums over the windows of heads with this slope, with the weights at about this variance of the scores."""
        near = round(math.log2(1 + variance) / _STEP)
        sums = self._sums.get((slope, near))
        if sums is None:
            centre = 2.0 ** (near * _STEP) - 1
            keys = marginals(centre, slope, int(self.lengths.max()))
            positions = self.positions
            sums = _Distant(positions, keys) if isinstance(positions, Distances) else _Dense(positions, keys)
            self._sums[slope, near] = sums
        return sums

    def rows(self, slope: float, largest: float) -> BiasedRows:
        """Integrals of the softmax for score variances up to `largest`, or a power of two above it."""
        octave = max(-10, math.ceil(math.log2(max(largest, 1e-9)) - 1e-9))
        return biased_rows(2.0**octave, slope, tuple(int(n) for n in self.known), self.head_dim)

    def tokens(self, variance: Array, keys: Array) -> TokenAverages:
        """Averages of a row and its logits for rows without penalties, of these variances and numbers of keys."""
        octave = max(0, math.ceil(math.log2(max(float(variance.max()), _TINY)) - _TINY))
        nodes = smooth_nodes(int(self.lengths.max()))
        found = responses(2.0**octave, tuple(int(n) for n in nodes), self.head_dim)
        at_keys = _interpolation(nodes, np.clip(keys, 1.0, nodes[-1]))
        return TokenAverages(*found.values(variance, found.token_table @ at_keys.T))

    @functools.cached_property
    def rows_of_pairs(self) -> tuple[Array, Array]:
        """The two rows of each pair, then of each row with itself: indices, or weights of the rows that stand for them."""
        every = np.arange(self.lengths.size)
        if self.positions.dense:
            return np.append(np.repeat(every, every.size), every), np.append(np.tile(every, every.size), every)
        each = np.eye(every.size)
        pairs = zip(*(self.positions.pairs(row) for row in each), strict=True)
        one, two = (np.concatenate([np.stack(part, axis=1), each]) for part in pairs)
        return one, two

    def __call__(self, q: Array, c: Array, score_gain: float = 1.0, normed: bool = False) -> AttentionOutput:
        """The output of attention and its pullback.

        Parameters
        ----------
        q, c : moments of the tokens, with the shapes of their positions.
        score_gain : A, variance of a raw score q.k / sqrt(d_h) between tokens of second moment 1, in nats^2.
        normed : queries and keys are normalised (QK-norm), so that scores depend on correlations only.
        """
        q, c = np.asarray(q, dtype=float), np.asarray(c, dtype=float)
        heads = [(share, _Heads(self, slope, q, c, float(score_gain), normed)) for slope, share in self.groups]

        def mean(name: str) -> Array:
            return sum(share * getattr(head, name) for share, head in heads)

        return AttentionOutput(mean("second"), mean("covariance"), mean("s2"), heads)


class AttentionOutput(NamedTuple):
    """Output and pullback of attention, for values with the second moment of the source."""

    second_moment: Array
    covariance: Array
    score_variance: Array
    """Of the scores in each node's row, about their common part, nats^2, averaged over heads"""
    heads: Any

    def pull(self, gq: Array, gc: Array) -> tuple[Moments, Moments]:
        """Moments of the tokens' gradient through the queries, and through keys and values, given those of the output's."""
        parts = [(share, head.pull(gq, gc)) for share, head in self.heads]

        def mean(which: int, moment: int) -> Array:
            return sum(share * part[which][moment] for share, part in parts)

        return (mean(0, 0), mean(0, 1)), (mean(1, 0), mean(1, 1))


@functools.lru_cache(maxsize=32)
def biased_attention(*arguments: Any, **options: Any) -> BiasedAttention:
    """The :class:`BiasedAttention` for these arguments, cached."""
    return BiasedAttention(*arguments, **options)


# ---- one layer, heads of one slope ----


class _Heads:
    """The softmax of heads of one slope in one layer, with its forward and backward pass.

    A function of two positions has the layout of the sums; the excess of a token paired with itself is stored separately.
    """

    def __init__(self, owner: BiasedAttention, slope: float, q: Array, c: Array, gain: float, normed: bool) -> None:
        self.owner, self.gain, positions = owner, gain, owner.positions
        self.unit = None
        if normed:
            one, two = positions.pairs(np.sqrt(np.maximum(q, _LEAST)))
            self.unit = np.maximum(q, _LEAST), one * two
            q, c = np.ones_like(q), c / (one * two)
        self.q = q
        # The marginals depend on the variance of the scores, which follows from the marginals: one iteration.
        rough = gain * float(q.mean()) * max(float(q.mean() - positions.pair_mean(c)), 0.0)
        sums = owner.sums(slope, rough)
        self.x = x = sums.smooth(q, c)
        own, total = sums.window_means(q), self._mean(sums, x, q)
        apart = np.maximum(own - sums.self_of(total), 0.0) / sums.one_less
        if apart.size > 1:  # a single token has no part that tokens do not share
            apart[owner.lengths == 1] = apart[owner.lengths > 1][:1]
        self.s2 = s2 = gain * q * apart
        self.sums, self.own = sums, own
        self._rows(slope, s2, apart)
        self._forward(own, total, c)
        if self.unit is not None:
            single, pair = self.unit
            mean, (one, two) = sums.window_means(single), positions.pairs(np.sqrt(sums.window_means(single)))
            self.second, self.covariance = self.second * mean, self.covariance * one * two
            self.response = self.response * sums.combine(one * two / pair, mean / single)

    def _mean(self, sums: Any, x: Array, q: Array) -> Array:
        """Covariance averaged over two windows, and its parts."""
        self.beyond = q - sums.diagonal_values(x)
        self.o = sums.over(x)
        self.full = sums.swap(sums.over(sums.swap(self.o)))
        return self.full + sums.common(self.beyond)

    def _rows(self, slope: float, s2: Array, apart: Array) -> None:
        """Theta and the quantities that follow from it: exact for each row with itself, interpolated for two different rows."""
        owner, sums = self.owner, self.sums
        table = owner.rows(slope, float(s2.max()))

        def to_known(values: Array) -> Array:
            return values if owner.known.size == s2.size else np.interp(np.log(owner.known), np.log(owner.lengths), values)

        def to_nodes(values: Array) -> Array:
            if owner.known.size == s2.size:
                return values
            return np.interp(np.log(owner.lengths), np.log(owner.known), values)

        variance = to_known(s2)
        s, j = to_known(sums.self_of(sums.S)), to_known(sums.self_of(sums.J))
        several = owner.known > 1
        plain = table.row(variance)
        row, heavy = (plain, np.ones_like(variance)) if owner.head_dim is None else table.average_over_norms(variance)

        def calibrate(p: Array, t: Array) -> tuple[Array, Array]:
            grown = np.maximum((p - s) / np.maximum(j, _TINY), 0.0)
            return np.log1p(grown), t / (np.maximum(j, _TINY) * (1 + grown))

        def fill(values: Array) -> Array:
            """The values, with that of the next row for a row of one key, which has no response."""
            if several.all() or not several.any():
                return values
            return np.where(several, values, values[several][0])

        theta, slope_row = calibrate(plain.P, plain.T)
        tiny = np.maximum(variance, _TINY)
        ratio, steep = to_nodes(fill(theta / tiny)), to_nodes(fill(slope_row))
        kept = to_nodes(fill((1 - plain.P) / np.maximum(1 - s, _TINY)))
        s2_nodes = np.maximum(s2, _TINY)
        if owner.head_dim is None:
            own_theta, own_slope = ratio * s2, steep
        else:
            theta, slope_row = calibrate(row.P, row.T)
            own_theta, own_slope = to_nodes(fill(theta / tiny)) * s2, to_nodes(fill(slope_row))
        grown = np.expm1(own_theta)
        own_s, own_j = sums.self_of(sums.S), sums.self_of(sums.J)
        self.P, self.T = own_s + grown * own_j, own_j * (1 + grown) * own_slope
        self.output_noise = to_nodes(1 - row.P - 4 * (row.P - row.M3) + 6 * row.A22)
        self.query_noise = to_nodes(1 - 3 * row.P + 2 * row.M3 + 2 * row.A22)
        self.attraction = to_nodes(1 - 3 * row.P + 2 * row.M3)
        self.apart = apart
        self._two_rows(s2_nodes, (ratio, steep, kept), own_theta, own_slope, to_nodes(fill(heavy)))

    def _two_rows(self, s2: Array, exponents: tuple[Array, ...], own_theta: Array, own_slope: Array, heavy: Array) -> None:
        """Theta of pairs of rows and its slope, a cubic in the product of queries, from those of each row with itself.

        `exponents` hold for each row theta/s2, its slope at equal queries and the square root of its slope at independent ones;
        `heavy` is the factor by which the averages weight the norm of the queries.
        """
        owner, sums, positions, apart = self.owner, self.sums, self.owner.positions, self.apart
        grown = np.expm1(own_theta)
        c, q = sums.pairs_of(self.x), self.q
        (s_one, s_two), (q_one, q_two), (a_one, a_two) = (positions.pairs(np.sqrt(v)) for v in (s2, q, apart))
        deviation, roots, apart_pair = s_one * s_two, q_one * q_two, a_one * a_two
        ratio, steep, kept = ((one + two) / 2 for one, two in map(positions.pairs, exponents))
        kept = kept * kept
        rho = np.clip(c / np.maximum(roots, _LEAST), -1.0, 1.0)
        square, cubic = (3 * ratio - 2 * kept - steep) / deviation, (steep + kept - 2 * ratio) / deviation**2
        products, weights = query_products(rho[..., None], owner.head_dim)
        v = products * deviation[..., None]
        # Beyond equal queries, which finite heads reach, the tangent continues the cubic.
        inside = np.minimum(v, deviation[..., None])
        theta = inside * (kept[..., None] + inside * (square[..., None] + inside * cubic[..., None]))
        slopes = kept[..., None] + inside * (2 * square[..., None] + 3 * inside * cubic[..., None])
        theta = np.clip(theta + (v - inside) * slopes, -_STEEPEST_LOG, _STEEPEST_LOG)
        growth, responses = np.exp(theta), np.exp(theta) * slopes
        mean_growth, mean_response = growth @ weights, responses @ weights
        product = (responses * products) @ weights / np.where(mean_response > 0, mean_response, 1.0)
        self.deviation = deviation
        self.g = sums.combine(mean_growth - 1, grown)
        self.g_slope = sums.combine(mean_response * apart_pair, (1 + grown) * own_slope * apart)
        theta_pair = np.log(np.maximum(mean_growth, _LEAST))
        safe = np.maximum(apart_pair, _TINY)
        self.zeta = sums.combine(theta_pair / safe, own_theta / np.maximum(apart, _TINY))
        self.zeta_slope = sums.combine(mean_response / mean_growth, own_slope)
        self.product = sums.combine(product * roots, q * heavy)
        self.T_pairs = sums.combine(mean_response, (1 + grown) * own_slope) * sums.J
        if owner.width is not None and owner.equal_norms is not None:
            one, both = np.ones_like(s2), _PairsAndRows(sums)
            shared = np.maximum(both.of(sums.S), _TINY)
            jacobian = both.joined(mean_response, (1 + grown) * own_slope)
            pair = PairResponse(both.joined(theta_pair, own_theta), jacobian, both.joined(product, one))
            overlaps = Overlaps(
                pair, both.joined(rho, one), both.joined(deviation, s2), shared, both.of(sums.J) / shared,
                both.joined(mean_growth, 1 + grown), jacobian, both.joined(roots, q), both.joined(apart_pair, apart) ** 2,
            )  # fmt: skip
            self._add_width_terms(overlaps, heavy, sums.combine(roots, q), sums.J * sums.combine(apart_pair, apart))

    def _add_width_terms(self, overlaps: Overlaps, heavy: Array, sizes: Array, alone: Array) -> None:
        """The terms of order 1/d and 1/d_h, of rows whose logits tell of their tokens as those of fewer keys do.

        A row has as many keys as its marginals allow, 1 over the sum of their squares. The overlap of two rows' weights changes
        by what a key has with itself, `alone` being what it changes by for an excess of 1.
        """
        owner, sums = self.owner, self.sums
        none = np.zeros_like(self.s2)
        row = RowResponse(none, none, self.T, self.output_noise, self.query_noise, self.attraction, self.P, heavy)
        tokens = owner.tokens(self.s2, 1 / np.maximum(sums.self_of(sums.S), _TINY))
        rows = Rows(
            row, tokens, self.own, self.apart, overlaps, self.gain, *owner.rows_of_pairs, overlaps.sizes.size - none.size
        )
        both = _PairsAndRows(sums)
        self.terms = WidthTerms(
            *map(both.apart, width_terms(rows, owner.width or math.inf, owner.head_dim, bool(owner.equal_norms)))
        )
        self.product = self.terms.product * sizes
        per_key = np.where(alone > _TINY, 1 / np.maximum(alone, _TINY), 0.0)  # a row of one key has no weights that change
        self.g, self.two_paths = self.g + self.terms.overlap * per_key, self.terms.two_paths * per_key

    second: Array
    covariance: Array
    response: Array
    terms: WidthTerms | None = None
    two_paths: Any = 0.0

    def _forward(self, own: Array, total: Array, c: Array) -> None:
        owner, sums, x, o, beyond = self.owner, self.sums, self.x, self.o, self.beyond
        met = sums.swap(sums.over_both(sums.swap(o)))
        twice = sums.common_twice(beyond)
        self.diagonal = sums.common(self.q) - met - sums.swap(met) - twice - sums.swap(twice) + sums.S * total
        squares = sums.swap(sums.over(sums.swap(sums.over(x * x))))
        mixed = sums.swap(sums.over(sums.swap(o * o)))
        varied = np.maximum(squares - mixed - sums.swap(mixed) + self.full**2, 0.0)
        covariance = total + self.g * self.diagonal + self.zeta * varied
        response = self.g_slope * self.diagonal + self.zeta_slope * varied
        self.total = total
        if self.terms is not None:
            covariance, response = covariance + self.terms.covariance, response * self.terms.asked + self.terms.response
        elif owner.width is not None:
            one, two = owner.positions.pairs(self.apart)
            kept_one, kept_two = owner.positions.pairs(1 - self.P)
            kept = kept_one * kept_two
            stir = sums.combine(one * two, self.apart**2) / owner.width
            covariance = covariance + self.gain * stir * sums.combine(kept * c, self.q * self.output_noise)
            left = sums.combine(kept - sums.pairs_of(self.T_pairs), self.query_noise)
            response = response + stir * left
        second = sums.self_of(covariance)
        self.covariance = sums.pairs_of(covariance)
        if owner.noise:
            second = second + owner.noise * self.P * own
            response = response + sums.combine(0.0 * self.deviation, owner.noise * own * self.apart * self.T)
        self.second, self.response = second, response

    def pull(self, gq: Array, gc: Array) -> tuple[Moments, Moments]:
        """The gradient at the input, given that at the output."""
        owner, sums = self.owner, self.sums
        g = sums.combine(np.asarray(gc, dtype=float), np.asarray(gq, dtype=float))
        ask = self.gain * self.response * g
        weighed = self.gain * self.product * g
        beta = g * (self.g + self.two_paths) + weighed * self.g_slope
        gamma = g * self.zeta + weighed * self.zeta_slope
        head = g + beta * sums.S + gamma * self.full
        (head, head_own), (beta, beta_own), (gamma, gamma_own) = map(sums.split, (head, beta, gamma))

        def twice(f: Array, extra: Array) -> Array:
            return sums.swap(sums.back(sums.swap(sums.back(f)))) + sums.back_common(extra)

        half = sums.back(beta)
        crossed = sums.swap(sums.back_both(sums.swap(half))) + sums.back_common_twice(beta_own)
        rho = sums.swap(sums.back(sums.swap(gamma)))
        crossed = crossed + sums.back(self.o * rho) + sums.back_both(sums.scale_rows(self.o, gamma_own))
        result = twice(head, head_own) - crossed - sums.swap(crossed) + self.x * twice(gamma, gamma_own)
        second = sums.self_of(result + twice(beta, beta_own))
        if owner.noise:
            dropped = owner.noise * sums.self_of(weighed) * self.own * self.T
            second = second + sums.query_sums(owner.noise * gq * self.P + dropped)
            result = result - sums.back_common(dropped / sums.one_less)
        return (sums.self_of(ask), sums.pairs_of(ask)), (second, sums.pairs_of(result))


class _PairsAndRows:
    """Flat arrays of pairs of rows, then each row with itself, from functions of two positions and back."""

    def __init__(self, sums: _Dense | _Distant) -> None:
        self._sums = sums
        self._shape = sums.pairs_of(sums.S).shape

    def joined(self, pairs: Array, rows: Array) -> Array:
        return np.concatenate([pairs.ravel(), rows])

    def of(self, f: Array) -> Array:
        return self.joined(self._sums.pairs_of(f), self._sums.self_of(f))

    def apart(self, flat: Array) -> Array:
        count = math.prod(self._shape)
        return self._sums.combine(flat[:count].reshape(self._shape), flat[count:])


# ---- sums over windows ----
#
# A function of two positions is `smooth` if the two differ; `swap` exchanges them. With a_i(s) the weight of key s in row i:
#   over(f)[i, y]            sum_s a_i(s) f(s, y)                back(f)[j, y]             sum_t a_t(j) f(t, y)
#   over_both(f)[i, y]       sum_s a_i(s) a_y(s) f(s, y)         back_both(f)[j, y]        sum_t a_t(j) a_t(y) f(t, y)
#   common(h)[i, y]          sum_s a_i(s) a_y(s) h(s)            back_common(h)[j, y]      sum_t a_t(j) a_t(y) h(t)
#   common_twice(h)[i, y]    sum_s a_i(s)^2 a_y(s) h(s)          back_common_twice(h)      sum_t a_t(j)^2 a_t(y) h(t)


class _Dense:
    """Every position is a node: a function of two positions is a square matrix, whose diagonal pairs rows with themselves."""

    def __init__(self, positions: Positions, keys: Array) -> None:
        n = positions.length
        distance = np.subtract.outer(np.arange(n), np.arange(n))
        seen = (distance >= 0) & (distance < keys.size)
        self.a = a = np.where(seen, keys[np.clip(distance, 0, keys.size - 1)], 0.0)
        a /= a.sum(1, keepdims=True)
        self.S = a @ a.T
        mixed = (a * a) @ a.T
        self.J = np.maximum(self.S + self.S**2 - mixed - mixed.T, 0.0)
        self.one_less = np.where(np.arange(n) > 0, 1 - np.diagonal(self.S), 1.0)

    def smooth(self, q: Array, c: Array) -> Array:
        """A covariance off the diagonal, extrapolated to the diagonal from the neighbouring tokens."""
        x = np.array(c, dtype=float)
        beside = np.diagonal(x, 1)
        x[np.diag_indices_from(x)] = (np.append(beside, beside[-1]) + np.append(beside[0], beside)) / 2
        return x

    def diagonal_values(self, f: Array) -> Array:
        return np.diagonal(f)

    def swap(self, f: Array) -> Array:
        return f.T

    def self_of(self, f: Array) -> Array:
        return np.diagonal(f).copy()

    def pairs_of(self, f: Array) -> Array:
        return f

    def combine(self, pairs: Array, selves: Array) -> Array:
        f = np.array(np.broadcast_to(pairs, self.a.shape), dtype=float)
        f[np.diag_indices_from(f)] = selves
        return f

    def split(self, f: Array) -> tuple[Array, Array]:
        return f, np.zeros(len(f))

    def scale_rows(self, f: Array, h: Array) -> Array:
        return h[:, None] * f

    def window_means(self, h: Array) -> Array:
        return self.a @ h

    def query_sums(self, h: Array) -> Array:
        return self.a.T @ h

    def over(self, f: Array) -> Array:
        return self.a @ f

    def over_both(self, f: Array) -> Array:
        return self.a @ (self.a.T * f)

    def back(self, f: Array) -> Array:
        return self.a.T @ f

    def back_both(self, f: Array) -> Array:
        return self.a.T @ (self.a * f)

    def common(self, h: Array) -> Array:
        return (self.a * h) @ self.a.T

    def common_twice(self, h: Array) -> Array:
        return (self.a**2 * h) @ self.a.T

    def back_common(self, h: Array) -> Array:
        return (self.a.T * h) @ self.a

    def back_common_twice(self, h: Array) -> Array:
        return ((self.a**2).T * h) @ self.a


class _Distant:
    """Nodes and distances back from them: sums are matrices over ordered pairs, computed once for each set of marginals.

    A function of two positions is a vector: pairs with the later position first, the same with the earlier first, then each
    node with itself.
    """

    def __init__(self, positions: Distances, keys: Array) -> None:
        self.layout = layout = _layout(positions)
        self.positions, self.count = positions, layout.count
        length = positions.length
        rows, columns = _weights(layout.unique, keys, length)  # of keys in a row; of a key in rows
        x, y = layout.first[layout.distinct], layout.second[layout.distinct]
        both, back_both = rows[x] * rows[y], columns[x] * columns[y]
        self.R, self.C, self.O, self.B = layout.matrices(
            (rows, layout.first), (columns, layout.first), (both, layout.undirected), (back_both, layout.undirected)
        )
        spread = positions.weights
        self.r, self.c = (w[layout.undirected] for w in (both @ spread, back_both @ spread))
        self.r2, self.c2 = (
            np.concatenate([(w[x] * product) @ spread, ((w[y] * product) @ spread)[: self.count]])[layout.directed]
            for w, product in ((rows, both), (columns, back_both))
        )
        self.S = both.sum(1)[layout.undirected]
        mixed = self.r2.sum(1)  # interpolation weights sum to 1
        self.J = np.maximum(self.S + self.S**2 - mixed - self.swap(mixed), 0.0)
        selves = layout.first[2 * self.count :]
        self.w, self.v = rows[selves] @ spread, columns[selves] @ spread
        self.one_less = np.where(positions.nodes > 1, 1 - self.self_of(self.S), 1.0)

    def smooth(self, q: Array, c: Array) -> Array:
        return np.concatenate([c, c, self.layout.beside @ np.concatenate([c, c])])

    def diagonal_values(self, f: Array) -> Array:
        return f[2 * self.count :]

    def swap(self, f: Array) -> Array:
        n = self.count
        return np.concatenate([f[n : 2 * n], f[:n], f[2 * n :]])

    def self_of(self, f: Array) -> Array:
        return f[2 * self.count :]

    def pairs_of(self, f: Array) -> Array:
        return f[: self.count]

    def combine(self, pairs: Array, selves: Array) -> Array:
        return np.concatenate([pairs, pairs, selves])

    def split(self, f: Array) -> tuple[Array, Array]:
        """A smooth function, and the excess of a row with itself over it."""
        beside = self.layout.beside @ f[: 2 * self.count]
        return np.concatenate([f[: 2 * self.count], beside]), f[2 * self.count :] - beside

    def scale_rows(self, f: Array, h: Array) -> Array:
        late, early = self.positions.pairs(h)
        return f * np.concatenate([late, early, h])

    def window_means(self, h: Array) -> Array:
        return self.w @ h

    def query_sums(self, h: Array) -> Array:
        return self.v @ h

    def over(self, f: Array) -> Array:
        return self.R @ f

    def over_both(self, f: Array) -> Array:
        return self.O @ f

    def back(self, f: Array) -> Array:
        return self.C @ f

    def back_both(self, f: Array) -> Array:
        return self.B @ f

    def common(self, h: Array) -> Array:
        return self.r @ h

    def common_twice(self, h: Array) -> Array:
        return self.r2 @ h

    def back_common(self, h: Array) -> Array:
        return self.c @ h

    def back_common_twice(self, h: Array) -> Array:
        return self.c2 @ h


def _weights(at: Array, keys: Array, length: int) -> tuple[Array, Array]:
    """a_i(s) for the rows i in `at` and every s, and for the keys s in `at` and every row; (len(at), length) each."""
    position = np.arange(1, length + 1)
    mass = np.cumsum(np.concatenate([keys, np.zeros(max(0, length - keys.size))]))[:length]
    distance = at[:, None] - position
    reach = keys.size
    rows = np.where((distance >= 0) & (distance < reach), keys[np.clip(distance, 0, reach - 1)], 0.0) / mass[at - 1][:, None]
    columns = np.where((distance <= 0) & (-distance < reach), keys[np.clip(-distance, 0, reach - 1)], 0.0) / mass
    return rows, columns


class _Layout:
    """Ordered pairs, and for each second position the knots at which a function of the first is evaluated."""

    def __init__(self, positions: Distances) -> None:
        late, early, nodes = positions.nodes[positions.late], positions.early, positions.nodes
        self.count, self.length = late.size, positions.length
        one, other = np.concatenate([late, early, nodes]), np.concatenate([early, late, nodes])
        self.unique, index = np.unique(np.concatenate([one, other]), return_inverse=True)
        self.first, self.second = np.split(index, 2)
        """The second position of each ordered pair, as an index into `unique`"""
        n, m = self.count, nodes.size
        self.distinct = np.concatenate([np.arange(n), 2 * n + np.arange(m)])
        """Indices of unordered pairs, and of each node with itself"""
        self.undirected = np.concatenate([np.arange(n), np.arange(n), n + np.arange(m)])
        """The unordered pair of each ordered pair"""
        self.directed = np.concatenate([np.arange(n), n + m + np.arange(n), n + np.arange(m)])
        self.members = [np.flatnonzero(self.second == k) for k in range(self.unique.size)]
        self.knots = [_knots(int(y), positions.length) for y in self.unique]
        sizes = [knots.size for knots in self.knots]
        self.at = np.split(
            self._between(positions, np.concatenate(self.knots), np.repeat(self.unique, sizes)), np.cumsum(sizes)[:-1]
        )
        # A position with itself: the mean of its two neighbours, which are the first and the second of their pairs.
        self.beside = np.tile(positions.at_pairs(nodes, nodes) / 2, 2)

    def _between(self, positions: Distances, one: Array, other: Array) -> Array:
        """Interpolation weights of a function of two positions from its stored values; (points, stored)."""
        n, values = self.count, np.zeros((one.size, self.first.size))
        for sign, part in ((1, slice(0, n)), (-1, slice(n, 2 * n))):
            side = np.sign(one - other) == sign
            values[side, part] = positions.at_pairs(one[side], other[side])
        same = one == other
        values[same, 2 * n :] = positions.weights[one[same] - 1]
        return values

    def matrices(self, *parts: tuple[Array, Array]) -> list[Array]:
        """Matrices that sum a function over its first position with given weights; the function is linear between its knots.

        Each part is the weights over positions, in rows, and the index of the row that each ordered pair uses.
        """
        position, sums = np.arange(1, self.length + 1), []
        for weights, which in parts:
            both = np.zeros((2, weights.shape[0], self.length + 1))
            np.cumsum(weights, axis=1, out=both[0, :, 1:])
            np.cumsum(weights * position, axis=1, out=both[1, :, 1:])
            sums.append((both, which))
        result = np.empty((len(parts), self.first.size, self.first.size))
        for members, knots, values in zip(self.members, self.knots, self.at, strict=True):
            ends = np.append(knots[:-1] - 1, knots[-1])  # each piece from its knot to before the next, the last with its end
            taken = np.concatenate([both[:, which[members]][:, :, ends] for both, which in sums], axis=1)
            m0, m1 = np.diff(taken, axis=2)
            right = (m1 - knots[:-1] * m0) / np.diff(knots)
            shares = np.zeros((m0.shape[0], knots.size))
            shares[:, :-1] += m0 - right
            shares[:, 1:] += right
            result[:, members] = (shares @ values).reshape(len(parts), members.size, -1)
        return list(result)


def _knots(y: int, length: int) -> Array:
    """The positions between which a function that bends at y is nearly linear."""
    steps = distinct(np.rint(_KNOTS ** np.arange(math.log(length + 1) / math.log(_KNOTS) + 1)).astype(int))
    knots = np.concatenate([[1, length, y], y - steps, y + steps, steps])
    return distinct(knots[(knots >= 1) & (knots <= length)])


@functools.lru_cache(maxsize=16)
def _layout(positions: Distances) -> _Layout:
    return _Layout(positions)
