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
from typing import Any, NamedTuple

import numpy as np

from ..numerics.distinct import distinct
from ..numerics.repeated_softmax import Repetition, repetitions
from ..numerics.softmax_responses import Growth, PairResponse, Responses, RowResponse, repelling_bases
from .rotation import Rotation, Turned

Array = Any

_LEAST = 1e-150
_TINY = 1e-9


class AlikeAttention(NamedTuple):
    """Moments of the kinds of pairs, for each of n blocks: different tokens, equal ones, a token with itself."""

    covariance: Array
    """Of the output before its projection, per feature, for values with the second moment of the source; (3, n)"""
    back: Array
    """The map from those moments of the output's gradient to those of the input's; (3, 3, n)"""

    def pull(self, g: Array) -> Array:
        """The gradient at the input (..., 3, n), given that at the output."""
        return np.einsum("jin,...in->...jn", self.back, g)


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
    moments: Array, score_gain: Array, head_dims: Array, setting: Setting, normed: bool = False
) -> AlikeAttention:
    """The output of attention and the map of its gradient.

    Parameters
    ----------
    moments : covariance of two different tokens, of two equal ones, and second moment; shape (3, n), the last >= 0.
    score_gain : A, variance of a raw score between tokens of second moment 1, nats^2; (n,).
    head_dims : d_h of each block; 0 for the limit of infinite heads; (n,).
    setting : what the blocks share.
    normed : queries and keys are normalised, so that scores depend on correlations only.
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
    correlation = np.clip(unit[:2] / np.maximum(q, _LEAST), -1.0, 1.0)
    turned: Turned | None = None
    if setting.rotation != (1.0, 1.0):
        one = np.ones_like(q)
        same, different = np.array([near, near, 1.0])[:, None] * one, np.array([far_apart, far_apart, near])[:, None] * one
        tokens = np.concatenate([correlation, one[None]])
        turned = Rotation(keys[:1], same, different).of_layer(q + 0 * same, apart + 0 * same, q - unit[0] + 0 * same, tokens, 2)
        correlation = turned.rows[:2]
    found = _responses(variance, correlation, head_dims, setting.length)
    rows = found.rows
    exponent = gain * np.concatenate([found.pairs.exponent, rows.ratio[None]])
    slope = np.concatenate([found.pairs.slope, rows.slope[None]])
    product = q * np.concatenate([found.pairs.product, rows.norm[None]])

    kinds, weights, further = _scores(keys, variance, exponent[2], head_dims, setting)
    grown = np.exp(exponent[:, None] * further)
    weighed = further * grown
    far = found.far
    if far is not None:  # rows that repel may have no exponent; w is then linear in the covariance of the scores
        grown[:2] = np.where(far[:, None], found.growth.growth[:, None] * gain * further, grown[:2])
        weighed[:2] = np.where(far[:, None], further, weighed[:2])
        slope[:2] = np.where(far, found.growth.slope, slope[:2])
        product[:2] = np.where(far, q * found.growth.product, product[:2])
    share = grown - (weights * grown).sum(1, keepdims=True) + 1
    moved = slope[:, None] * (weighed - (weights * weighed).sum(1, keepdims=True))
    values = weights * unit
    covariance, response = (values * share).sum(1), (values * moved).sum(1)
    alone = 1 / setting.length
    jacobian = slope[:2] * np.exp(found.pairs.exponent * variance)
    if far is not None:
        jacobian = np.where(far, slope[:2], jacobian)
    passed = share
    if turned is not None:
        response *= turned.response
        product = product + q * turned.keys
        diagonals = np.concatenate([alone * (1 - alone) * jacobian, rows.T[None]])
        away, per_key = turned.of_pairs(diagonals, product, q, apart, 1 - alone)
        centred = further - (weights * further).sum(0)
        passed = share + (score_gain * away)[:, None] * (1 - per_key * centred)
        moved = moved * turned.stretch[:, None]
    if setting.width is not None:
        # Products of tokens fluctuate: off the diagonal, this is their variance about the mean.
        stir = apart * apart / setting.width
        left = (1 - rows.P) ** 2
        covariance[:2] += score_gain * stir * left * unit[:2]
        response[:2] += stir * (left - alone * (1 - alone) * jacobian)
        covariance[2] += gain * stir * rows.output_noise
        response[2] += stir * rows.query_noise
    back = (kinds[:, None, None] * (passed + score_gain * product[:, None] * moved)).swapaxes(0, 1)
    back = back * (weights / kinds[:, None])[:, None]
    if setting.dropout:
        noise = setting.dropout / (1 - setting.dropout)
        covariance[2] += noise * rows.P * q
        response[2] += noise * q * apart * rows.T
        dropped = noise * score_gain * product[2] * q * rows.T
        back[2, 2] += noise * rows.P + dropped
        back[:2, 2] -= dropped / (setting.length - 1)
    back[range(3), range(3)] += score_gain * response
    return AlikeAttention(covariance * (size if normed else 1.0), back)


def _scores(keys: Array, variance: Array, steep: Array, head_dims: Array, setting: Setting) -> tuple[Array, Array, Array]:
    """Shares of the kinds among pairs (3,) and by the weights of two rows (3, n), and y of each kind (3, n).

    Equal tokens, and a token itself, get what Zipf's law gives them in a row, (T9).
    """
    alone, match = 1 / setting.length, setting.match
    kinds = np.array([(1 - alone) * (1 - match), (1 - alone) * match, alone])
    further = keys - keys[0]
    apart, own = further[1], further[2]
    steep = np.broadcast_to(steep, own.shape)
    usual = (own > 0) & (apart > _TINY * own) & (steep * apart > _TINY)
    shared = np.where(usual, np.minimum(1.0, apart / np.where(usual, own, 1.0)), 0.0)
    found = _repetitions(variance, shared, head_dims, setting)
    share = np.where(usual, match * found.other_row, match)
    itself, equal = found.itself - 1, found.same_row / found.other_row - 1
    mean = (itself * alone + share * equal) / np.maximum(1 - alone - share, alone)  # which centring takes off again
    stretched = np.log1p(np.maximum(0.0, np.stack([equal, itself]) + mean)) / np.where(usual, steep, 1.0)
    further = np.concatenate([0 * own[None], np.where(usual, stretched, further[1:])])
    weights = np.stack([(1 - alone) * (1 - share), (1 - alone) * share, alone + 0 * own])
    return kinds, weights, further


def _repetitions(variance: Array, shared: Array, head_dims: Array, setting: Setting) -> Repetition:
    """Weights of repetitions in each block, whose heads differ in little but their kind."""
    found = np.empty((3, variance.size))
    for head_dim in distinct(head_dims):
        at = head_dims == head_dim
        found[:, at] = repetitions(setting.match, float(setting.length), variance[at], shared[at], int(head_dim) or None)
    return Repetition(*found)


# ---- responses of the softmax ----


class _Found(NamedTuple):
    """Responses of one row, and of two rows with different and with equal tokens; (n,) and (2, n)."""

    rows: RowResponse
    pairs: PairResponse
    far: Array | None
    """True for pairs of rows that repel, if there are any"""
    growth: Growth


@functools.lru_cache(maxsize=64)
def _tables(octave: int, length: int, head_dim: int | None) -> Responses:
    return Responses(2.0**octave, (length,), head_dim)


def _responses(variance: Array, correlation: Array, head_dims: Array, length: int) -> _Found:
    """The responses at each block's variance, from tables up to a power of two above it, 1 or more: right to 2e-6 below."""
    octaves = np.maximum(np.ceil(np.log2(np.maximum(variance, _TINY)) - _TINY), 0).astype(int)
    rows, pairs, growth = np.empty((len(RowResponse._fields), variance.size)), *np.empty((2, 3, *correlation.shape))
    far = np.zeros(correlation.shape, dtype=bool)
    for octave, head_dim in sorted(set(zip(octaves.tolist(), head_dims.tolist(), strict=True))):
        at = np.flatnonzero((octaves == octave) & (head_dims == head_dim))
        tables, s2, r = _tables(octave, length, head_dim or None), variance[at], correlation[:, at]
        rows[:, at] = tables.rows(s2, tables.row_table)
        over_x, over_y = tables.bases(s2, r)
        both = np.einsum("fkrp,kp->frp", np.tensordot(tables.pairs[..., 0, 0], over_y, (2, 0)), over_x)
        pairs[: len(both), :, at] = both
        if len(both) == 2:
            pairs[2, :, at] = r.T
        low = r < tables.lowest
        if low.any():
            over_x, over_y = repelling_bases(s2, r, tables.largest)
            far[:, at] = low
            growth[:, :, at] = np.einsum("fkl,kp,lrp->frp", tables.repelling[..., 0, 0], over_x, over_y)
    return _Found(RowResponse(*rows), PairResponse(*pairs), far if far.any() else None, Growth(*growth))
