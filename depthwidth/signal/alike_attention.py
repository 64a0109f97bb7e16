r"""Softmax attention without a mask over exchangeable tokens, pairs of equal and of different tokens apart, for many blocks.

All rows see the same keys, so that the sums over windows of :mod:`.attention` are sums over three kinds of pairs: two different
tokens, two equal ones, and a token with itself. With :math:`u_j` the share of each kind among the pairs of positions,
:math:`P_j` its share by the weights of two rows, :math:`K_j` its covariance in the scores and :math:`y_j = K_j - K_0`, two rows
of kind i have the weights

.. math:: W_{ij} = 1 + e^{\zeta_i y_j} - \langle e^{\zeta_i y} \rangle, \qquad
          \dot W_{ij} = \zeta_i' \, [y_j e^{\zeta_i y_j} - \langle y e^{\zeta_i y} \rangle],
          \qquad \langle f \rangle = \sum_j P_j f_j

and the covariance :math:`\sum_j P_j K_j W_{ij}`. The exponents are summed in closed form, so that no series is cut off.

Derivation: docs/derivations/tokens.md, (T3) to (T9).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..numerics.distinct import distinct
from ..numerics.repeated_softmax import Repetition, repetitions
from ..numerics.softmax_responses import Growth, PairResponse, Responses, RowResponse
from ..numerics.softmax_tokens import TokenAverages
from ..values import cached_property, once
from .attention_width import Overlaps, Rows, WidthTerms, bend_per_key, width_terms_of_blocks
from .rotation import Rotation, Turned
from .row_matches import OwnMatches, match_response

Array = Any

_LEAST = 1e-150
_TINY = 1e-9


class AlikeAttention(NamedTuple):
    """Moments of the kinds of pairs, for each of n blocks: different tokens, equal ones, a token with itself."""

    covariance: Array
    """Of the output before its projection, per feature, for values with the second moment of the source; (3, n)"""
    back: Callable[[], Array]
    """Makes the map from those moments of the output's gradient to those of the input's; (3, 3, n)"""

    def pull(self, g: Array) -> Array:
        """The gradient at the input (..., 3, n), given that at the output."""
        return np.einsum("jin,...in->...jn", self.back(), g)


class Setting(NamedTuple):
    """The parts of attention that all blocks share."""

    length: int
    """L, tokens of a row"""
    match: float
    """Probability that two positions hold the same token"""
    width: float | None
    """d, of the tokens; None for the limit of infinite width"""
    dropout: float = 0.0
    """p, of the probabilities"""
    rotation: tuple[float, float] = (1.0, 1.0)
    """Factors of rotary positions: on the covariance of the keys of two positions, and on that of the scores of two rows for
    two keys (:func:`~depthwidth.signal.rotation.over_pairs`)"""


def alike_attention(
    moments: Array,
    score_gain: Array,
    head_dims: Array,
    setting: Setting,
    normed: bool = False,
    equal_norms: Any = None,
) -> AlikeAttention:
    """The output of attention and the map of its gradient.

    Parameters
    ----------
    moments : covariance of two different tokens, of two equal ones, and second moment; shape (3, n), the last >= 0.
    score_gain : A, variance of a raw score between tokens of second moment 1, nats^2; (n,).
    head_dims : d_h of each block; 0 for the limit of infinite heads; (n,).
    setting : what the blocks share.
    normed : queries and keys are normalised, so that scores depend on correlations only.
    equal_norms : whether all tokens have one norm, or those of Gaussian vectors, of all blocks or of each: the terms of order
        1/d and 1/d_h of :mod:`.attention_width`. Left out by default.
    """
    size = moments[2]
    unit = moments / np.maximum(size, _LEAST) if normed else moments
    q = unit[2]
    gain = score_gain * q
    keys = unit.copy()
    near, far_apart = setting.rotation
    keys[:2] *= near
    apart = np.maximum(q - keys[0], 0.0)
    variance = gain * apart
    correlation = (unit[:2] / np.maximum(q, _LEAST)).clip(-1.0, 1.0)
    turned: Turned | None = None
    if setting.rotation != (1.0, 1.0):
        one = np.ones_like(q)
        same, different = np.array([near, near, 1.0])[:, None] * one, np.array([far_apart, far_apart, near])[:, None] * one
        tokens = np.concatenate([correlation, one[None]])
        turned = Rotation(keys[:1], same, different, near + 0 * same).of_layer(
            q + 0 * same, apart + 0 * same, q - unit[0] + 0 * same, tokens, 2
        )
        correlation = turned.rows[:2]
    finite = setting.width is not None and equal_norms is not None
    found = _responses(variance, correlation, head_dims, setting.length, finite)
    exponent = gain * np.concatenate([found.pairs.exponent, found.rows.ratio[None]])
    kinds, weights, further = _scores(keys, variance, exponent[2], head_dims, setting)
    grown = np.exp(exponent[:, None] * further)
    weighed = further * grown
    if found.far is not None:  # rows that repel may have no exponent; w is then linear in the covariance of the scores
        far = found.far.pairs[:, None]
        grown[:2] = np.where(far, found.far.growth.growth[:, None] * gain * further, grown[:2])
        weighed[:2] = np.where(far, further, weighed[:2])
    layer = _Layer(
        unit, score_gain, apart, variance, correlation, head_dims, equal_norms, found, turned, kinds, weights, further, grown,
        weighed, setting,
    )  # fmt: skip
    return AlikeAttention(layer.output() * (size if normed else 1.0), once(layer.back))


@dataclass(eq=False)
class _Layer:
    """Attention in each block, from which follow its output and, for those that have one, its gradient."""

    unit: Array
    score_gain: Array
    apart: Array
    """The part of the keys that different tokens do not share"""
    variance: Array
    correlation: Array
    """Of two rows with different and with equal tokens; (2, n)"""
    head_dims: Array
    equal_norms: Any
    found: _Found
    turned: Turned | None
    kinds: Array
    weights: Array
    further: Array
    """Shares and covariances of the kinds, from :func:`_scores`"""
    grown: Array
    weighed: Array
    """exp(zeta_i y_j), and y_j times that; (3, 3, n)"""
    setting: Setting

    def share(self) -> Array:
        """W; (3, 3, n)."""
        share: Array = self.grown - (self.weights * self.grown).sum(1, keepdims=True) + 1
        if self.terms is not None:
            share += self._bent(self.terms.overlap)
        return share

    @cached_property
    def terms(self) -> WidthTerms | None:
        """The terms of order 1/d and 1/d_h; each (3, n)."""
        found, setting, q = self.found, self.setting, self.unit[2]
        if found.tokens is None or setting.width is None:
            return None
        rows, pairs, far = found.rows, found.pairs, found.far
        own, one = np.ones_like(q), 1 - 1 / setting.length
        every = np.tile(np.arange(q.size), 3)
        jacobian = np.exp(pairs.exponent * self.variance) * pairs.slope

        def flat(of_pairs: Array, of_rows: Array) -> Array:
            return np.concatenate([of_pairs.ravel(), of_rows])

        response = PairResponse(flat(pairs.exponent, rows.ratio), flat(pairs.slope, rows.slope), flat(pairs.product, own))
        grown = np.exp(response.exponent * self.variance[every])
        overlaps = Overlaps(
            response, flat(self.correlation, own), self.variance[every], 1 / setting.length + 0 * grown, one + 0 * grown, grown,
            flat(jacobian, grown[every.size - q.size :] * rows.slope), q[every], (self.apart * self.apart)[every],
        )  # fmt: skip
        given = Rows(
            rows, found.tokens, q, self.apart, overlaps, self.score_gain[every], every, every, 2 * q.size,
            None if self.turned is None else self.turned.side_by_side(),
        )  # fmt: skip
        terms = width_terms_of_blocks(given, setting.width, self.head_dims, self.equal_norms)
        terms = WidthTerms(*(part.reshape(3, -1) for part in terms))
        if far is not None:  # the overlap of rows that repel has no exponent to correct
            terms.overlap[:2] = np.where(far.pairs, 0.0, terms.overlap[:2])
        return terms

    def _bent(self, change: Array) -> Array:
        """A change (3, n) of the overlap of two rows' weights, by a multiple of the centred y; (3, 3, n)."""
        setting, kinds = self.setting, self.further
        centred = kinds - (self.weights * kinds).sum(0)
        squares = (self.weights * self.unit * centred).sum(0)
        alone = self.apart * self.apart * (1 - 1 / setting.length) / setting.length
        stretch = 1.0 if self.turned is None else self.turned.stretch
        bent: Array = (change * bend_per_key(squares, stretch, alone))[:, None] * centred
        return bent

    @property
    def stir(self) -> tuple[Array, Array]:
        """Variance about the mean of the products of tokens, off the diagonal, as two rows and as one row see it.

        Rotation turns the products in the scores as it turns the keys.
        """
        near, far_apart = self.setting.rotation
        apart = np.maximum(self.unit[2] - self.unit[0], 0.0)
        stir = apart * apart / self.setting.width
        return stir * far_apart, stir * near

    @property
    def noise(self) -> float:
        """The part that dropout adds, p / (1 - p)."""
        return self.setting.dropout / (1 - self.setting.dropout)

    def output(self) -> Array:
        """The covariances of the output; (3, n)."""
        rows, q = self.found.rows, self.unit[2]
        covariance: Array = (self.weights * self.unit * self.share()).sum(1)
        if self.setting.match:
            even, gap = (self.weights * self.unit).sum(0), self.unit[1] - self.unit[0]
            response = match_response(covariance, even, q, gap)
            of_rows = response[2] / np.maximum(covariance[2], _LEAST)
            own = _own_matches(self.setting.match, self.setting.length)
            covariance[:2] += own.change(covariance[:2], response[:2], of_rows, of_rows, np.maximum(covariance[2], 0.0))
        if self.terms is not None:
            covariance += self.terms.covariance
        elif self.setting.width is not None:
            across, within = self.stir
            covariance[:2] += self.score_gain * across * (1 - rows.P) ** 2 * self.unit[:2]
            covariance[2] += self.score_gain * q * within * rows.output_noise
        if self.setting.dropout:
            covariance[2] += self.noise * rows.P * q
        return covariance

    def back(self) -> Array:
        """The map of the gradient's moments from the output to the input; (3, 3, n)."""
        rows, pairs, far = self.found.rows, self.found.pairs, self.found.far
        q, apart, weights, further = self.unit[2], self.apart, self.weights, self.further
        slope = np.concatenate([pairs.slope, rows.slope[None]])
        terms = self.terms
        product = q * (np.concatenate([pairs.product, rows.norm[None]]) if terms is None else terms.product)
        alone = 1 / self.setting.length
        jacobian = slope[:2] * np.exp(pairs.exponent * self.variance)
        if far is not None:
            slope[:2] = np.where(far.pairs, far.growth.slope, slope[:2])
            product[:2] = np.where(far.pairs, q * far.growth.product, product[:2])
            jacobian = np.where(far.pairs, slope[:2], jacobian)
        passed = self.share()
        if terms is not None:
            passed = passed + self._bent(terms.two_paths)
        moved = slope[:, None] * (self.weighed - (weights * self.weighed).sum(1, keepdims=True))
        response = (weights * self.unit * moved).sum(1)
        if self.turned is not None:
            response *= self.turned.response
            product = product + q * self.turned.keys
            diagonals = np.concatenate([alone * (1 - alone) * jacobian, rows.T[None]])
            away, per_key = self.turned.of_pairs(diagonals, product, q, apart, 1 - alone)
            centred = further - (weights * further).sum(0)
            passed = passed + (self.score_gain * away)[:, None] * (1 - per_key * centred)
            moved = moved * self.turned.stretch[:, None]
        if terms is not None:
            response = response * terms.asked + terms.response
        elif self.setting.width is not None:
            across, within = self.stir
            response[:2] += across * ((1 - rows.P) ** 2 - alone * (1 - alone) * jacobian)
            response[2] += within * rows.query_noise
        kinds = self.kinds[:, None, None]
        back = (kinds * (passed + self.score_gain * product[:, None] * moved)).swapaxes(0, 1) * (weights / kinds[:, 0])[:, None]
        if self.setting.dropout:
            response[2] += self.noise * q * apart * rows.T
            dropped = self.noise * self.score_gain * product[2] * q * rows.T
            back[2, 2] += self.noise * rows.P + dropped
            back[:2, 2] -= dropped / (self.setting.length - 1)
        back[range(3), range(3)] += self.score_gain * response
        return back


@functools.lru_cache(maxsize=64)
def _own_matches(match: float, length: int) -> OwnMatches:
    """Of rows that see all positions."""
    return OwnMatches.of(match, length, length, 2, 2)


def _scores(keys: Array, variance: Array, steep: Array, head_dims: Array, setting: Setting) -> tuple[Array, Array, Array]:
    """Shares of the kinds among pairs (3,) and by the weights of two rows (3, n), and y of each kind (3, n).

    Equal tokens, and a token itself, get what Zipf's law gives them in a row, (T9).
    """
    alone, match = 1 / setting.length, setting.match
    kinds = np.array([(1 - alone) * (1 - match), (1 - alone) * match, alone])
    further = keys - keys[0]
    if match == 0:  # the exponents are those of tokens without repetitions
        return kinds, np.broadcast_to(kinds[:, None], further.shape), further
    apart, own = further[1], further[2]
    steep = np.broadcast_to(steep, own.shape)
    usual = (own > 0) & (apart > _TINY * own) & (steep * apart > _TINY)
    every = bool(usual.all())
    shared = np.minimum(1.0, apart / own) if every else np.where(usual, np.minimum(1.0, apart / np.where(usual, own, 1.0)), 0.0)
    found = _repetitions(variance, shared, head_dims, setting)
    share = match * found.other_row if every else np.where(usual, match * found.other_row, match)
    itself, equal = found.itself - 1, found.same_row / found.other_row - 1
    mean = (itself * alone + share * equal) / np.maximum(1 - alone - share, alone)  # which centring takes off again
    stretched = np.log1p(np.maximum(0.0, np.array([equal, itself]) + mean)) / (steep if every else np.where(usual, steep, 1.0))
    further = np.concatenate([0 * own[None], stretched if every else np.where(usual, stretched, further[1:])])
    weights = np.array([(1 - alone) * (1 - share), (1 - alone) * share, alone + 0 * own])
    return kinds, weights, further


def _repetitions(variance: Array, shared: Array, head_dims: Array, setting: Setting) -> Repetition:
    """Weights of repetitions in each block, whose heads differ in little but their kind."""
    length = float(setting.length)
    if (head_dims == head_dims[0]).all():
        return repetitions(setting.match, length, variance, shared, int(head_dims[0]) or None)
    found = np.empty((3, variance.size))
    for head_dim in distinct(head_dims):
        at = head_dims == head_dim
        found[:, at] = repetitions(setting.match, length, variance[at], shared[at], int(head_dim) or None)
    return Repetition(*found)


# ---- responses of the softmax ----


class _Far(NamedTuple):
    """Pairs of rows that repel."""

    pairs: Array
    """True for them; (2, n)"""
    growth: Growth
    """Their responses; (2, n)"""


class _Found(NamedTuple):
    """Responses of one row, and of two rows with different and with equal tokens; (n,) and (2, n)."""

    rows: RowResponse
    pairs: PairResponse
    far: _Far | None
    """None if no rows repel"""
    tokens: TokenAverages | None = None
    """Averages of one row and its logits; None if not asked for"""


@functools.lru_cache(maxsize=64)
def _tables(octave: int, length: int, head_dim: int | None) -> Responses:
    return Responses(2.0**octave, (length,), head_dim)


def _responses(variance: Array, correlation: Array, head_dims: Array, length: int, with_tokens: bool) -> _Found:
    """The responses at each block's variance, from tables up to a power of two above it, 1 or more: right to 2e-6 below."""
    low, high = (max(0, math.ceil(math.log2(max(float(end), _TINY)) - _TINY)) for end in (variance.min(), variance.max()))
    if low == high and (head_dims == head_dims[0]).all():
        return _read(_tables(low, length, int(head_dims[0]) or None), variance, correlation, with_tokens)
    octaves = np.maximum(np.ceil(np.log2(np.maximum(variance, _TINY)) - _TINY), 0).astype(int)
    rows, pairs, growth = np.empty((len(RowResponse._fields), variance.size)), *np.empty((2, 3, *correlation.shape))
    far, tokens = np.zeros(correlation.shape, dtype=bool), np.empty((len(TokenAverages._fields), variance.size))
    for octave, head_dim in sorted(set(zip(octaves.tolist(), head_dims.tolist(), strict=True))):
        at = np.flatnonzero((octaves == octave) & (head_dims == head_dim))
        part = _read(_tables(octave, length, head_dim or None), variance[at], correlation[:, at], with_tokens)
        rows[:, at], pairs[:, :, at] = part.rows, part.pairs
        if part.tokens is not None:
            tokens[:, at] = part.tokens
        if part.far is not None:
            far[:, at], growth[:, :, at] = part.far
    repelled = _Far(far, Growth(*growth)) if far.any() else None
    return _Found(RowResponse(*rows), PairResponse(*pairs), repelled, TokenAverages(*tokens) if with_tokens else None)


def _read(tables: Responses, variance: Array, correlation: Array, with_tokens: bool) -> _Found:
    """The responses of blocks that share tables."""
    rows, pairs, tokens = tables.of_one_length(variance, correlation, with_tokens)
    far, low = None, correlation < tables.lowest
    if low.any():
        table, over_x, over_y = tables.repelling(variance, correlation)
        far = _Far(low, Growth(*np.einsum("fkl,kp,lrp->frp", table[..., 0, 0], over_x, over_y)))
    return _Found(rows, pairs, far, tokens)
