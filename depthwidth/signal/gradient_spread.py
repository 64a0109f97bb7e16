"""The spread over draws of a post-norm stack's gradient: the step of one block.

Derivation: docs/derivations/post-norm.md, (N7).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .signal import AnySignal, DrawSpread, Number, TokenSignal, quotient
from .trace import GradientStep

_OF_ONE_SIGN = 0.9
"""Least mean of covariances, over that of their sizes, at which they count as of one sign. From .75 to .98 predictions differ
by at most 5 %."""
_NEGLIGIBLE = 1e-12
"""Mean covariance, over the second moment, that counts as none."""


def gradient_step(
    stream: tuple[AnySignal, AnySignal],
    gradient: tuple[AnySignal, AnySignal, AnySignal],
    units: Sequence[tuple[Number, Number]],
    draw: DrawSpread,
    width: int,
    length: int,
    last: Number,
) -> GradientStep:
    """The :class:`GradientStep` of a post-norm residual.

    Parameters
    ----------
    stream : the sum that the norm divides, and the branch's output in it.
    gradient : the gradient at the block's output; at its input the part that passed the skip path, and that through the branch.
    units : second moment and covariance at the input of a gradient of second moment 1, and of one of covariance 1.
    draw : the variation between draws of the branch's weights.
    width : features of the stream.
    length : tokens of a sequence.
    last : 1 for the last block, whose gradient is that of Gaussian features, and 0 for every other.

    Notes
    -----
    Derivation: docs/derivations/post-norm.md, (N7).
    """
    _, kept, through = gradient
    (g, g_pair), (q, c), (b, b_pair) = (part.averages for part in gradient)
    size = q + b
    to_own, to_pair = units
    scale = quotient(g, size)
    matrix = scale * to_own[0], scale * to_pair[0], scale * to_own[1], scale * to_pair[1]
    omega, few, inverse = draw.omega, max(length, 2), quotient(1.0, width * size * size)
    own, apart = _size_covariances(kept, through, omega)
    pairs = 4 * c * b_pair + omega * b_pair * b_pair
    # Tokens with a larger gradient count more in the second moment than in the covariance.
    larger = 1.0
    if isinstance(kept, TokenSignal) and not kept.positions.of_kinds:
        larger = min(max(quotient(apart, pairs), 1.0), length**2) ** 0.5
    with_pair = 2 * (q * b_pair + c * b) + omega * b * b_pair
    one_shared = q * b_pair + 2 * c * b_pair + c * b + omega / 2 * (b * b_pair + b_pair * b_pair)
    two_shared = 2 * (q * b + c * b_pair) + omega / 2 * (b * b + b_pair * b_pair)
    even = _evenness(gradient[0])
    noise = (
        inverse * _over_tokens(own, apart, length),
        inverse * larger * even * (2 * with_pair + (few - 2) * pairs) / few,
        inverse * even * (2 * two_shared + 4 * (few - 2) * one_shared + (few - 2) * (few - 3) * pairs) / (few * (few - 1)),
    )
    summed, (a, a_pair) = stream[0], stream[1].averages
    alike, q = quotient(a_pair, a), summed.averages[0]
    divided = quotient(_over_tokens(*_means_of_sizes(summed, kept.plus(through)), length), q * q)
    shared = 2 * draw.common * quotient(a, q) * quotient(b, size) * _over_tokens(1.0, alike * alike, length)
    divided = divided - shared / width
    share = quotient(kept.averages[1] + b_pair, size)
    step = GradientStep(*matrix, noise[0] + divided, noise[1] + divided * share, noise[2] + divided * share * share)
    if isinstance(last, float) and last == 0:
        return step
    r = quotient(g_pair, g)
    start = (
        2 / width * _over_tokens(1.0, r * r, length),
        2 / width * (2 * r + (few - 2) * r * r) / few,
        (2 * (1 + r * r) + 4 * (few - 2) * (r + r * r) + 2 * (few - 2) * (few - 3) * r * r) / (width * few * (few - 1)),
    )
    moved = step._replace(noise=0.0, noise_of_both=0.0, noise_of_pairs=0.0).advance(start)
    return GradientStep(*matrix, *(part + last * more for part, more in zip(step[4:], moved, strict=True)))


def _size_covariances(kept: AnySignal, added: AnySignal, omega: Number) -> tuple[Number, Number]:
    """Width times the variance of |kept + added|^2 per feature of one token, and its covariance for two, mean over tokens."""
    own = added.second_moment * (4 * kept.second_moment + omega * added.second_moment)
    pair = added.covariance * (4 * kept.covariance + omega * added.covariance)
    return (kept.positions.mean(own), kept.positions.pair_mean(pair)) if isinstance(kept, TokenSignal) else (own, pair)


def _means_of_sizes(x: AnySignal, weights: AnySignal) -> tuple[Number, Number]:
    """Var(q_t) and Cov(q_t, q_t') of a stream, mean over tokens that count by their second moments in `weights`."""
    own, pair = x.spread.second_moment, x.spread.second_moments
    if not isinstance(x, TokenSignal):
        return own, pair
    share = weights.second_moment / weights.averages[0]
    one, two = x.positions.pairs(share)
    return x.positions.mean(share * share * own), x.positions.pair_mean(one * two * pair)


def unit_gradients(g: AnySignal) -> tuple[Any, Any]:
    """The gradient's second moments and its covariances alone, each over its mean.

    The geometric means of the tokens' second moments take the place of covariances that vanish, or whose signs differ: blocks
    act on the signs apart, so that the mean of such a pattern can grow although the gradient that it is part of does not.
    """
    q, c = g.averages
    zero, pairs = 0.0 * g.second_moment, 0.0 * g.covariance
    sizes = g.positions.pair_mean(abs(g.covariance)) if isinstance(g, TokenSignal) else abs(c)
    known = (abs(c) > _NEGLIGIBLE * q) & (abs(c) >= _OF_ONE_SIGN * sizes)
    if not isinstance(known, bool):
        known = bool(known.all())
    pattern = g.covariance
    if not known:
        size = g.second_moment.clip(0.0) if isinstance(g, TokenSignal) else q
        pattern = pairs + g.of(size, pairs).pair_second_moment
        c = g.of(zero, pattern).averages[1]
    return g.of(quotient(g.second_moment, q), pairs), g.of(zero, quotient(pattern, c))


def _evenness(g: AnySignal) -> Number:
    """Mean product of two tokens' second moments over the square of their mean: 0 if one token has all of the gradient."""
    if not isinstance(g, TokenSignal) or g.positions.of_kinds:
        return 1.0
    one, two = g.positions.pairs(g.second_moment)
    even = quotient(g.positions.pair_mean(one * two + 0.0 * g.covariance), g.averages[0] ** 2)
    return min(max(even, 0.0), 1.0)


def _over_tokens(own: Number, pair: Number, length: int) -> Number:
    """Mean over all pairs of tokens, each with itself included."""
    return (own + (length - 1) * pair) / length
