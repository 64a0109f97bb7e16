"""Moments of a tensor at one site of a network, or of the gradient there, in two grains.

A :class:`Signal` has two numbers for a tensor of exchangeable tokens; each may be an array over blocks. A :class:`TokenSignal`
has one number for each position and each pair of positions, for tokens that a causal mask or a text makes different. Most
components use only the attributes that both have.

Derivation: docs/derivations/finite-width.md, (W1) to (W9), for the classes Spread and DrawSpread, (W10) for Offset.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import InputError
from ..formulas.depth import feed_forward_matrix_moment, feed_forward_matrix_spread
from ..formulas.finite_width import aligned_share, gaussian_spread
from ..formulas.moments import dropout_second_moment, least_correlation
from ..values import cached_property

if TYPE_CHECKING:
    from .positions import Positions

Number = Any
"""A float, or an array over blocks; in a :class:`TokenSignal` an array over positions or pairs of them."""


class Offset(NamedTuple):
    """The mean over the features of fixed vectors in a stream, such as sinusoidal positions, which a LayerNorm takes off.

    Random vectors have none: what they have in one draw is of order 1/width, and :mod:`.residual` follows it.
    """

    second_moment: Number
    """E m_t^2, with m_t the mean over the features of the vector at position t"""
    covariance: Number
    """E m_t m_t' over two different positions"""
    rest: Number
    """Second moment of these vectors about their mean"""
    rest_covariance: Number
    width: int
    """Features"""

    def times(self, factor: Number) -> Offset:
        """That of the stream with its second moment times `factor`."""
        square, pair, rest, rest_pair, width = self
        return Offset(factor * square, factor * pair, factor * rest, factor * rest_pair, width)


class Signal(NamedTuple):
    """Two uncentred moments per feature of a tensor of exchangeable tokens, or of its gradient.

    They are uncentred, because the output of a random linear map depends on these only: the square of a mean that all tokens
    share is part of the covariance.
    """

    second_moment: Number
    """E[x_t^2]"""
    covariance: Number
    """E[x_t x_t'] over two different tokens"""
    spread: Spread | None = None
    """Variances of the moments over draws of the weights at finite width; None in the limit of infinite width."""
    leaning: Signal | None = None
    """Of a gradient at finite width, its fall with the second moment of the stream there: -dE/dq of the two moments."""
    offset: Offset | None = None
    """The mean over the features, which the moments and the spread leave out until :meth:`whole`; None if it is zero."""

    @property
    def pair_second_moment(self) -> Number:
        """Geometric mean of the second moments of two tokens."""
        return self.second_moment

    @property
    def first_second_moment(self) -> Number:
        """Second moment of the first token of a pair."""
        return self.second_moment

    @property
    def correlation(self) -> Number:
        """Covariance over second moment; 0 for a signal that is 0."""
        return quotient(self.covariance, self.second_moment)

    @property
    def averages(self) -> tuple[Number, Number]:
        """Second moment of a token and covariance of two, averaged over positions."""
        return self.second_moment, self.covariance

    @property
    def text_variance(self) -> float:
        """0: all pairs of tokens are of one kind."""
        return 0.0

    def deviation(self, length: int) -> Number:
        """Relative standard deviation over draws of the weights of the second moment, averaged over `length` tokens.

        It is 0 if sizes of two tokens vary against each other, as those of tokens that repel can.
        """
        return math.nan if self.spread is None else _deviation(*self.spread[:2], self.second_moment, length)

    def of(self, second_moment: Number, covariance: Number, spread: Spread | None = None) -> Signal:
        """A signal at the same positions with these moments."""
        return Signal(second_moment, covariance, spread)

    def times(self, factor: Number, pair_factor: Number | None = None) -> Signal:
        """The signal with its second moment times `factor` and its covariance times `pair_factor`, the same by default."""
        leaning = self.leaning and self.leaning.times(factor, pair_factor)
        pair = self.covariance * (factor if pair_factor is None else pair_factor)
        return Signal(self.second_moment * factor, pair, None, leaning)

    def after_dropout(self, rate: float) -> Any:
        """The moments after dropout with rescaling, forward or backward: two tokens lose different features."""
        return _after_dropout(self, rate)

    def plus(self, other: Signal) -> Signal:
        """The sum of two independent signals, of which one at most has a mean over the features."""
        leaning = self.leaning.plus(other.leaning) if self.leaning and other.leaning else None
        offset = self.offset or other.offset
        return Signal(self.second_moment + other.second_moment, self.covariance + other.covariance, None, leaning, offset)

    def whole(self) -> Any:
        """The moments with those of the mean over the features, for all who do not take it off."""
        return self if self.offset is None else _whole(self)

    def offset_as(self, offset: Offset | None) -> Signal:
        """The same moments with this mean over the features."""
        return Signal(self.second_moment, self.covariance, self.spread, None, offset)

    def leaning_as(self, leaning: Signal | None) -> Signal:
        """The same gradient with this leaning."""
        return Signal(self.second_moment, self.covariance, None, leaning)

    def spread_as(self, spread: Spread | None) -> Signal:
        """The same moments with this spread."""
        return Signal(self.second_moment, self.covariance, spread, None, self.offset)

    @property
    def first(self) -> Signal:
        """The signal itself; see :class:`TokenSignal`."""
        return self

    def of_first_token(self, values: Number) -> Number:
        """Values of tokens as values of the first token of each pair."""
        return values

    def average_kinds(self, values: Number) -> Number:
        """Values of pairs, averaged over the kinds of pairs: one of them here."""
        return values

    def spread_over(self, other: AnySignal) -> AnySignal:
        """These moments at every position of another signal."""
        return other.of(self.second_moment + 0.0 * other.second_moment, self.covariance + 0.0 * other.covariance)

    def with_bias(self, variance: Number) -> Signal:
        """The moments after the addition of a bias, which all tokens share."""
        return Signal(self.second_moment + variance, self.covariance + variance)


class _TokenMoments(NamedTuple):
    """The fields of a :class:`TokenSignal`."""

    second_moment: Number
    """E[x_t^2] at each of n positions, shape (n,)"""
    covariance: Number
    """E[x_t x_t'] for two different tokens at each pair of positions: (n, n), or (P,) for :class:`.Distances`"""
    positions: Positions
    """The n positions, with their averages over the whole sequence"""
    spread: Spread | None = None
    """As in :class:`Signal`: shape (n,), and (n, n) for the others"""
    leaning: TokenSignal | None = None
    """As in :class:`Signal`"""
    offset: Offset | None = None
    """As in :class:`Signal`"""


class TokenSignal(_TokenMoments):
    """Uncentred moments per feature of a tensor at each position, or of its gradient."""

    # Computed once, since a block asks for some of them six times; the fields never change.

    @cached_property
    def pair_second_moment(self) -> Number:
        """Geometric mean of the second moments of two tokens; shape of the covariance."""
        one, two = self.positions.pairs(self.second_moment**0.5)
        return one * two

    @property
    def first_second_moment(self) -> Number:
        """Second moment of the first token of a pair; it broadcasts against the covariance."""
        return self.of_first_token(self.second_moment)

    @property
    def other_second_moment(self) -> Number:
        """Second moment of the second token of a pair; it broadcasts against the covariance."""
        return self.positions.pairs(self.second_moment)[1]

    @cached_property
    def correlation(self) -> Number:
        """Correlation of the two tokens of each pair; 0 for a signal that is 0."""
        return quotient(self.covariance, self.pair_second_moment)

    @cached_property
    def averages(self) -> tuple[Number, Number]:
        """Second moment of a token and covariance of two different tokens, averaged over positions."""
        return self.positions.mean(self.second_moment), self.positions.pair_mean(self.covariance)

    def deviation(self, length: int) -> Number:
        """As of :class:`Signal`, at each position of so many."""
        return math.nan if self.spread is None else self._deviation  # most signals have no spread, and nothing to keep

    @property
    def text_variance(self) -> Number:
        """Variance between texts of the mean covariance, as their shares of equal tokens differ; 0 if pairs are of one kind."""
        if self.positions.match is None:
            return 0.0
        different, equal = self.covariance
        return (equal - different) ** 2 * self.positions.match_variances

    @cached_property
    def _deviation(self) -> Number:
        own, pairs, *_ = self.spread  # type: ignore[misc]
        mean, positions = self.positions.mean, self.positions
        return _deviation(mean(own), positions.pair_mean(pairs), mean(self.second_moment), positions.length)

    def of(self, second_moment: Number, covariance: Number, spread: Spread | None = None) -> TokenSignal:
        """A signal at the same positions with these moments."""
        return TokenSignal(second_moment, covariance, self.positions, spread)

    def times(self, factor: Number, pair_factor: Number | None = None) -> TokenSignal:
        """The signal with its second moments times `factor` and its covariances times `pair_factor`, the same by default."""
        leaning = self.leaning and self.leaning.times(factor, pair_factor)
        pair = self.covariance * (factor if pair_factor is None else pair_factor)
        return TokenSignal(self.second_moment * factor, pair, self.positions, None, leaning)

    def after_dropout(self, rate: float) -> Any:
        """The moments after dropout with rescaling, forward or backward: two tokens lose different features."""
        return _after_dropout(self, rate)

    def plus(self, other: TokenSignal) -> TokenSignal:
        """The sum of two independent signals, of which one at most has a mean over the features."""
        y = self.of(self.second_moment + other.second_moment, self.covariance + other.covariance)
        y = y.offset_as(self.offset or other.offset)
        return y.leaning_as(self.leaning.plus(other.leaning)) if self.leaning and other.leaning else y

    def whole(self) -> Any:
        """The moments with those of the mean over the features, for all who do not take it off."""
        return self if self.offset is None else _whole(self)

    def offset_as(self, offset: Offset | None) -> TokenSignal:
        """The same moments with this mean over the features."""
        return TokenSignal(self.second_moment, self.covariance, self.positions, self.spread, None, offset)

    def leaning_as(self, leaning: TokenSignal | None) -> TokenSignal:
        """The same gradient with this leaning."""
        return TokenSignal(self.second_moment, self.covariance, self.positions, None, leaning)

    def spread_as(self, spread: Spread | None) -> TokenSignal:
        """The same moments with this spread."""
        return TokenSignal(self.second_moment, self.covariance, self.positions, spread, None, self.offset)

    def beside(self, other: TokenSignal) -> TokenSignal:
        """Two gradients, along the first axis of the moments, for pullbacks that take both at once."""
        import numpy as np

        return self.of(np.array((self.second_moment, other.second_moment)), np.array((self.covariance, other.covariance)))

    def apart(self) -> list[TokenSignal]:
        """The gradients that are side by side."""
        return [TokenSignal(q, c, self.positions) for q, c in zip(self.second_moment, self.covariance, strict=True)]

    @property
    def first(self) -> TokenSignal:
        """The first of gradients that are side by side; the signal itself if it is alone."""
        if self.second_moment.ndim == 1:
            return self
        return TokenSignal(self.second_moment[0], self.covariance[0], self.positions)

    def of_first_token(self, values: Number) -> Number:
        """Values of tokens as values of the first token of each pair; they broadcast against the covariance."""
        return self.positions.pairs(values)[0]

    def average_kinds(self, values: Number) -> Number:
        """Values of pairs, averaged over different and equal tokens if they are told apart; broadcasts against covariances."""
        return self.positions.average_kinds(values)

    def with_bias(self, variance: Number) -> TokenSignal:
        """The moments after the addition of a bias, which all tokens share."""
        return self.of(self.second_moment + variance, self.covariance + variance)


def _deviation(own: Number, pairs: Number, size: Number, length: int) -> Number:
    """Relative standard deviation of a mean over tokens, each of this variance, two of this covariance and all of this size."""
    variance = (own + (length - 1) * pairs) / length
    found: Number = _not_negative(variance) ** 0.5 / size
    return found


AnySignal = Any
"""A :class:`Signal` or a :class:`TokenSignal`. A component's output has the grain of its input."""

Pullback = Callable[[AnySignal], AnySignal]
"""The map from the gradient at a component's output to that at its input: its vector-Jacobian product, in moments."""


class Spread(NamedTuple):
    """Variances over draws of weights and texts, with q_t = x_t.x_t/d and c = x_t.x_t'/d of one; all tokens named differ."""

    second_moment: Number
    """Var(q_t)"""
    second_moments: Number
    """Cov(q_t, q_t')"""
    covariance: Number
    """Cov(c, q_t), t the first of the pair"""
    third_token: Number
    """Cov(c, q_s), s in no pair with t and t': how the mean covariance moves with the mean second moment"""
    covariances: Number
    """Cov(x_t.x_t'/d, x_s.x_s'/d) of four tokens: the variance of the mean covariance"""

    @classmethod
    def of_gaussian(cls, signal: AnySignal, width: int) -> Spread:
        """The spread of `width` independent Gaussian features. What is fixed in them has none, alone."""
        q, c, first = signal.second_moment, signal.covariance, signal.first_second_moment
        spread, others = gaussian_spread.body, signal.average_kinds(c)
        pairs, apart = spread(c, c, width), spread(others, others, width) + 0.0 * c
        drawn = cls(spread(q, q, width), pairs, spread(first, c, width), apart, apart)
        if signal.offset is None:
            return drawn
        alone = cls.of_gaussian(signal.of(signal.offset.rest, signal.offset.rest_covariance), width)
        return cls(*(part - fixed for part, fixed in zip(drawn, alone, strict=True)))

    @classmethod
    def of_tokens(cls, signal: AnySignal, width: int) -> Spread:
        """That of Gaussian features of a text's tokens: the mean covariance also follows the share of equal ones, (W15)."""
        drawn = cls.of_gaussian(signal, width)
        return drawn._replace(covariances=drawn.covariances + signal.text_variance)

    @classmethod
    def of_branch(cls, signal: AnySignal, draw: DrawSpread, width: int) -> Spread:
        """The spread of a branch's output alone."""
        q, c, first = signal.second_moment, signal.covariance, signal.first_second_moment
        share, others = draw.omega / width, signal.average_kinds(c)
        apart = share * others * others + 0.0 * c
        return cls(share * q * q, share * c * c, draw.pair_omega / width * first * c, apart, apart)

    def after_norm(self, before: AnySignal, after: AnySignal) -> Spread:
        """The spread at a norm's output `after`, given this one at its input: draws differ in correlation alone."""
        return self.normed(before, after, before.average_kinds(self.second_moments))

    def normed(self, before: AnySignal, after: AnySignal, others: Number) -> Spread:
        """:meth:`after_norm`, given Cov(q_t, q_s) of any two tokens."""
        r, size = before.correlation, before.pair_second_moment
        ratio = (self.covariances - r * self.third_token) - r * (self.third_token - r * others)
        zero, pairs = 0.0 * after.second_moment, 0.0 * after.covariance
        return Spread(zero, pairs, pairs, pairs, ratio * (after.pair_second_moment / size) ** 2)


def _not_negative(variance: Number) -> Number:
    return max(0.0, variance) if isinstance(variance, float) else variance.clip(0.0)


def _after_dropout(x: AnySignal, rate: float) -> Any:
    factor = dropout_second_moment.body(1.0, rate)
    y = x.times(factor, 1.0)
    if x.offset is None:
        return y
    # The mask keeps the mean over the features. It adds variation, which is part of the rest.
    return y.of(y.second_moment + (factor - 1) * x.offset.second_moment, y.covariance).offset_as(x.offset)


def _whole(x: AnySignal) -> Any:
    """A signal with its mean over the features, which it has, in its moments, and in its spread: (W10)."""
    m, pair, rest, rest_pair, width = x.offset
    y = x.of(x.second_moment + m, x.covariance + pair, x.spread)
    if x.spread is None:
        return y
    drawn, drawn_pair = x.second_moment - rest, x.covariance - rest_pair
    shared = 4 * pair * drawn_pair / width
    mixed = 2 * (x.of_first_token(m) * drawn_pair + x.of_first_token(drawn) * pair) / width
    v, w, u, third, covariances = x.spread
    apart = x.average_kinds(shared)
    return y.spread_as(Spread(v + 4 * m * drawn / width, w + shared, u + mixed, third + apart, covariances + apart))


class DrawSpread(NamedTuple):
    """Variation of a branch over draws of its weights, in units of one over the width."""

    omega: Number
    """Forward: relative variance of |f(x)|^2, times the width; 4 for two square matrices"""
    backward: Number
    """Backward, mu_2: tr (J J')^2 over (tr J J')^2, J the branch's Jacobian, times the width; 3 for two square matrices"""
    whole: Number = None
    """Second moment of the output of a branch that mixes tokens, if all were equal; None if each token has its own output"""
    pairs: Number = None
    """As omega, for the covariance of a token's squared norm with a product of two tokens; None for the same number"""
    common: Number = 0.0
    """Relative covariance of |f|^2 with the squared size of the Jacobian, times the width"""
    along: Number = 3.0
    """pi: |J'f|^2 / |f|^2 over its mean in all directions, tr J J' / d; 3 for two square matrices (W11)"""
    radial: Number = 1.0
    """Of `along`, the part by which the output follows the size of the input; 0 if it does not"""
    growth: Number = 0.0
    """d ln |f|^2 / d ln |x|^2 of a branch whose input no norm has seen; 0 of one that reads or adds a normalised signal"""
    with_stream: Number = 0.0
    """Relative covariance of the size that a norm of the output divides by with the size of a token of the stream"""
    matches: Callable[[], tuple[Number, Number]] | None = None
    """Of a branch that mixes tokens, slopes of its second moment and of its covariances, relative to `whole`, by the part of
    the mean covariance that varies between texts with the share of equal tokens"""

    @classmethod
    def of_matrices(
        cls,
        ratio: float,
        kurtosis: Number,
        slope_kurtosis: Number,
        whole: Number = None,
        pair_kurtosis: Number = None,
        common_kurtosis: Number = 1.0,
        radial: Number = 1.0,
        growth: Number = 1.0,
        even: Number = 1.0,
    ) -> DrawSpread:
        """The variation of two Gaussian matrices with an activation between them.

        Parameters
        ----------
        ratio : hidden features over the width of the stream.
        kurtosis : E f^4 / (E f^2)^2 of the hidden features; 3 for a linear map.
        slope_kurtosis : the same of the activation's derivative; 1 for a linear map.
        whole : second moment of the output for equal tokens, of a branch that mixes them.
        pair_kurtosis : E h^3 h' / (E h^2 E h h') of two tokens; by default the kurtosis.
        common_kurtosis : E h^2 j / (E h^2 E j), with j the square of a hidden feature's derivative; 1 for a linear map.
        radial, growth : as the fields; 1 for all maps that are proportional to the size of their input.
        even : sum of the squared shares of the first matrices in the squared derivative; 1 for a single one.
        """
        pairs = None if pair_kurtosis is None else feed_forward_matrix_spread.body(ratio, pair_kurtosis)
        return cls(
            feed_forward_matrix_spread.body(ratio, kurtosis),
            feed_forward_matrix_moment.body(ratio, slope_kurtosis, even),
            whole,
            pairs,
            (common_kurtosis - 1) / ratio,
            aligned_share.body(ratio, radial, common_kurtosis),
            radial,
            growth,
        )

    @classmethod
    def of_sum(cls, parts: Sequence[tuple[Number, DrawSpread]]) -> DrawSpread:
        """The variation of a sum of parts with independent weights, each given with its share of the sum's second moment.

        A product of two parts varies as a single Gaussian matrix does, by 2 forward and backward, and so does a sum of many.
        """
        squares = [share * share for share, _ in parts]
        crossed = 2 * (1 - sum(squares))

        def averaged(name: str) -> Number:
            return sum(square * getattr(draw, name) for square, (_, draw) in zip(squares, parts, strict=True))

        omega, backward, pairs = (averaged(name) + crossed for name in ("omega", "backward", "pair_omega"))
        radial, growth = (sum(share * getattr(draw, name) for share, draw in parts) for name in ("radial", "growth"))
        along = (
            1 + radial + sum(square * (draw.along - 1 - draw.radial) for square, (_, draw) in zip(squares, parts, strict=True))
        )
        return cls(omega, backward, None, pairs, averaged("common"), along, radial, growth)

    @property
    def pair_omega(self) -> Number:
        """Omega for the covariance of a token's squared norm with a product of two tokens."""
        return self.omega if self.pairs is None else self.pairs

    def constant(self) -> DrawSpread:
        """The same in plain numbers, of parts that do not follow the correlation, and without :attr:`matches`."""
        import numpy as np

        *parts, _ = self
        return DrawSpread._make([*(None if part is None else float(np.max(part)) for part in parts), None])

    def normed(self, size: Number) -> DrawSpread:
        """That of the branch and a norm of its output to second moment `size`, which all draws have."""
        return DrawSpread(0.0 * self.omega, self.backward, None if self.whole is None else size)

    def of_normed_input(self, size: Number) -> DrawSpread:
        """That of the branch and a norm of what it reads, with outputs of second moment `size`: the norm takes a direction off.

        That is the direction of the output's growth, of a branch that acts on each token alone. One that mixes tokens has the
        direction of a mixture, of which each token has the share `size` / `whole`.
        """
        share = 1.0 if self.whole is None else quotient(size, self.whole)
        return self._replace(along=self.along - share * self.radial, radial=(1 - share) * self.radial, growth=0.0 * self.growth)

    def normed_inside(self) -> DrawSpread:
        """That of the branch with a norm before its last matrix: the draw of that matrix alone changes its size."""
        omega = 0.0 * self.omega + feed_forward_matrix_spread.body(1.0, 1.0)
        return self._replace(omega=omega, pairs=None, common=0.0, along=1.0, radial=0.0, growth=0.0)

    def scaled(self, factor: Number) -> DrawSpread:
        """That of the branch with its output's second moment multiplied by `factor`."""
        return self if self.whole is None else self._replace(whole=self.whole * factor)


class NormedOutput(NamedTuple):
    """Factors on the gradient through a branch and a norm of its output, over the product of both at infinite width."""

    gain: Number
    """On the second moment; the norm's own 1 + 1/n, as of independent Gaussian outputs, comes in addition (W12)"""
    pair: Number
    """On the covariance, without what the norm takes off and the spread of its input (W13)"""
    taken: Number
    """n times the share of the covariance that the norm takes off"""


def quotient(a: Number, b: Number) -> Number:
    """`a` over `b`, and 0 if `b` is 0."""
    if isinstance(b, float | int):
        return a / b if b else 0.0 * a
    import numpy as np

    if np.count_nonzero(b) == b.size:  # nearly all calls; three times as quick
        return a / b
    return np.divide(a, b, out=np.zeros(np.broadcast_shapes(np.shape(a), b.shape)), where=b != 0)


def finite(signal: AnySignal, role: str) -> Any:
    """The signal itself, if it is finite.

    Raises
    ------
    InputError
        if a second moment, or its variance over draws, is infinite or NaN.
    """
    for value in (signal.second_moment, signal.spread.second_moment) if signal.spread else (signal.second_moment,):
        if not math.isfinite(value if isinstance(value, float) else value.sum()):
            raise InputError(f"{role}: the moments overflow with this initialisation")
    return signal


LEAST_SIZE = 1e-60
"""Least second moment of an input or a gradient; the inverse is the largest. Products of a few of them stay numbers."""


def check_signal(what: str, second_moment: float, correlation: float, tokens: int = 2) -> Signal:
    """A signal of `tokens` tokens with this second moment and correlation.

    Raises
    ------
    InputError
        if the second moment is not positive and finite, or no such tokens have that correlation.
    """
    if not LEAST_SIZE <= second_moment <= 1 / LEAST_SIZE:
        raise InputError(f"{what}: variance={second_moment} is not a positive number from {LEAST_SIZE:g} to {1 / LEAST_SIZE:g}")
    if not -1 <= correlation <= 1:
        raise InputError(f"{what}: correlation={correlation} is outside [-1, 1]")
    least = least_correlation.body(max(tokens, 2))
    if correlation < least * (1 + _ROUNDING):
        raise InputError(
            f"{what}: correlation={correlation} is impossible between all pairs of {tokens} tokens; least is {least:.4g}"
        )
    return Signal(second_moment, second_moment * max(correlation, least))


_ROUNDING = 1e-9
