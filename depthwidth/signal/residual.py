r"""The recursion along depth: a residual branch is added to the stream, and a norm sets the size of the sum.

:func:`advance` is the one definition of the step

.. math:: q' = \lambda^2 q + a, \qquad c' = \lambda^2 c + a_2

and of its variances over draws (W3). :func:`norm_factors` is the one definition of the corrections to a norm from these
variances (W4 to W6). Both compute with plain numbers, so the same lines serve floats, arrays over settings or blocks, and
arrays over positions; the functions on signals only select the numbers.

Derivation: docs/derivations/finite-width.md, (W3) to (W9).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..formulas.depth import post_norm_log_drift, post_norm_log_variance
from ..formulas.finite_width import (
    correlation_slope,
    norm_covariance_factor,
    norm_gradient_covariance_factor,
    norm_gradient_factor,
    norm_projection,
    residual_pair_spread,
    residual_spread,
)
from ..formulas.moments import residual_second_moment
from ..values import once
from .matches import Matches, Others
from .signal import AnySignal, DrawSpread, NormedOutput, Number, Pullback, Spread, TokenSignal, quotient

if TYPE_CHECKING:
    from .trace import Trace

# The bodies, without checks of the arguments: signals are checked, and a thousand layers call these ten thousand times.
_sum, _spread, _pair_spread = residual_second_moment.body, residual_spread.body, residual_pair_spread.body
_slope, _projection = correlation_slope.body, norm_projection.body
_forward, _gradient, _gradient_pair = (
    f.body for f in (norm_covariance_factor, norm_gradient_factor, norm_gradient_covariance_factor)
)


class Pair(NamedTuple):
    """A pair of tokens that differ, in the shape of a covariance; the defaults stand for exchangeable tokens."""

    first: Number
    """Second moment of the first token of the stream"""
    first_branch: Number
    """The same of the branch's output"""
    stream: Number
    """Geometric mean of both tokens' second moments"""
    branch: Number
    variance: Number
    """Mean of both tokens' Var(q_t)"""
    near: Callable[[Number], Number]
    """Values at each token, from values at pairs: those of two tokens near it"""


def advance(
    q: Number,
    c: Number,
    spread: tuple[Number, ...] | None,
    a: Number,
    a_pair: Number,
    omega: Number,
    width: int,
    skip: Number = None,
    draw: DrawSpread | None = None,
    pair_omega: Number = None,
    pair: Pair | None = None,
    others: Others | None = None,
) -> tuple[Number, Number, tuple[Number, ...] | None]:
    r"""The moments of the stream after the addition of a branch with independent weights.

    .. math::

        q' &= \lambda^2 q + a, \qquad c' = \lambda^2 c + a_2 \\
        v' &= \lambda^4 v + a (4 \lambda^2 q + \omega a) / d \\
        w' &= \lambda^4 w + a_2 (4 \lambda^2 c + \omega a_2) / d \\
        u' &= \lambda^4 u + [2 \lambda^2 (q a_2 + c a) + \omega a a_2] / d

    x and z (:class:`Spread`) grow as w. The branch's moments also follow the correlation of the tokens that it reads, (W7).

    Parameters
    ----------
    q, c : second moment and covariance of the stream.
    spread : v, w, u, x and z, see :class:`Spread`; None for infinite width.
    a, a_pair : second moment and covariance of the branch's output, its residual scale included.
    omega : d times the relative variance over draws of the branch's squared norm.
    width : d, features of the stream.
    skip : lambda, the factor on the stream; None for 1.
    draw : of a branch that reads the stream, and follows the correlation of the tokens there; None for one that does not.
    pair_omega : as `omega`, for the covariance of a token's squared norm with a product of two tokens; `omega` by default.
    pair : numbers of both tokens of each pair, if tokens differ, the factor on the stream included.
    others : moments of any two tokens, without that factor, if there are several kinds of pairs; those of the pair by default.

    Returns
    -------
    q', c' and v', w', u', x', z'.
    """
    if skip is not None:
        square = skip * skip
        q, c = square * q, square * c
        if spread is not None:
            fourth = square * square
            spread = tuple(fourth * part for part in spread)
            if others is not None:
                others = others.scaled(square)
    if spread is None:
        return q + a, c + a_pair, None  # residual_second_moment, its scales applied above
    first = size = q
    first_branch = branch = a
    variance = spread[0]
    near: Callable[[Number], Number] = _itself
    if pair is not None:
        first, first_branch, size, branch, variance, near = pair
    any_pair = Others(c, a_pair, spread[1], *spread[3:]) if others is None else others
    if draw is not None:
        spread = _respond(c, spread, a, a_pair, q, draw, size, branch, variance, near, any_pair)
    v, w, u, x, z = spread
    shared = _spread(c, a_pair, width, omega)
    apart = shared if others is None else _spread(others.covariance, others.branch, width, omega)
    return (
        q + a,
        c + a_pair,
        (
            v + _spread(q, a, width, omega),
            w + shared,
            u + _pair_spread(first, c, first_branch, a_pair, width, omega if pair_omega is None else pair_omega),
            x + apart,
            z + apart,
        ),
    )


def _respond(
    c: Number,
    spread: tuple[Number, ...],
    a: Number,
    a_pair: Number,
    q: Number,
    draw: DrawSpread,
    size: Number,
    branch: Number,
    variance: Number,
    near: Callable[[Number], Number],
    others: Others,
) -> tuple[Number, ...]:
    """The spread with the responses of a branch to the correlation and the size of the tokens that it reads, (W7).

    `size` to `near` are those of :class:`Pair`, `q` and `a` second moments of the stream and of the branch.
    """
    v, w, u, x, z = spread
    c_any, _, w_any, x_any, z_any, matched = others
    inverse, whole, growth = quotient(1.0, size), draw.whole, draw.growth
    if whole is None:
        # One token's second moment follows itself, by `grown`; the covariance follows itself and both second moments.
        r = c * inverse
        slope = _bounded(_slope(branch, a_pair, _below_one(r)), _STEEPEST * branch) * inverse
        kept, sizes = 1 + slope, _by_size(growth, a_pair, inverse, slope * r)
        mixed, third = kept * u + sizes * (variance + w) / 2, kept * x + sizes * w_any
        covariances = kept * kept * z + sizes * (2 * kept * x + sizes * w_any)
        if _is_zero(growth):
            return v, w, mixed, third, covariances
        grown, own = 1 + growth * branch * inverse, 1 + growth * quotient(a, q)
        return own * own * v, grown * grown * w, grown * mixed, grown * third, covariances
    # All outputs follow two means of what the branch reads: the slopes of its second moment and of its covariance.
    r = c_any * inverse
    own_size, own, pair_size, slope = _slopes_by_means(r, _below_one(r), a_pair, draw, branch, inverse, matched, z_any)
    # Cov of the second moment's change with either mean
    followed = own_size * w_any + own * x_any, own_size * x_any + own * z_any
    pairs = pair_size * w_any + slope * x_any, pair_size * x_any + slope * z_any
    shared = 2 * followed[0] + own_size * followed[0] + own * followed[1]
    mixed = followed[1] + pairs[0] + own_size * pairs[0] + own * pairs[1]
    covariances = z + 2 * pairs[1] + pair_size * pairs[0] + slope * pairs[1]
    return v + near(shared), w + shared, u + mixed, x + mixed, covariances


def _slopes_by_means(
    r: Number,
    low: Number,
    a_pair: Number,
    draw: DrawSpread,
    branch: Number,
    inverse: Number,
    matches: Matches | None = None,
    covariances: Number = 1.0,
) -> tuple[Number, Number, Number, Number]:
    """Slopes of the moments of a branch that mixes tokens, by their mean second moment and their mean covariance, (W7).

    Those of the second moment, then those of the covariance; `inverse` is that of the stream's second moment. A part of
    `covariances`, the variance of the mean covariance, is that of the share of equal tokens, with slopes of its own, (W15).
    """
    whole, growth = draw.whole, draw.growth
    own, slope = _bounded(_slope(whole, branch, low), whole), _bounded(_slope(whole, a_pair, low), whole)
    if matches is not None:
        own, slope = matches.mixed((own, slope), draw, covariances)
    own, slope = own * inverse, slope * inverse
    return _by_size(growth, branch, inverse, own * r), own, _by_size(growth, a_pair, inverse, slope * r), slope


def _is_zero(growth: Number) -> bool:
    """True of a branch that does not follow the size of what it reads, since a norm is before it."""
    return isinstance(growth, float) and growth == 0


def _by_size(growth: Number, moment: Number, inverse: Number, turned: Number) -> Number:
    """Slope of a branch's moment by the size of the stream: its own growth, less the change of the correlation."""
    return -turned if _is_zero(growth) else growth * moment * inverse - turned


def _itself(value: Number) -> Number:
    return value


def _below_one(r: Number) -> Number:
    """The correlation, less than 1 by at least 1e-9, so that one can divide by what is left."""
    if isinstance(r, float):
        return r if r < _NEARLY_ONE else _NEARLY_ONE
    import numpy as np

    return np.minimum(r, _NEARLY_ONE)  # a third of the time of clip


_NEARLY_ONE = 1 - 1e-9
_STEEPEST = 3.0
"""Largest slope of a feed-forward part's pair moment, relative to its second moment: near 1 that of a gated unit is a cubic."""


def _bounded(slope: Number, most: Number) -> Number:
    """A slope between 0 and `most`; near correlation 1 it is a quotient of two small numbers."""
    if isinstance(slope, float):  # comparisons: three times as quick as min and max
        return most if slope > most else slope if slope > 0.0 else 0.0
    import numpy as np

    return np.minimum(np.maximum(slope, 0.0), most)


class NormFactors(NamedTuple):
    """Corrections of a norm at finite width, as factors on the limit of infinite width."""

    covariance: Number
    """On the correlation of two tokens at the norm's output (W4)"""
    gradient: Number
    """On the second moment of the gradient at its input (W5)"""
    gradient_covariance: Number
    """On the covariance of that gradient (W6)"""


def covariance_factor(q: float, c: float, spread: tuple[float, ...]) -> Any:
    """The first of :class:`NormFactors` for exchangeable tokens, in plain floats for loops over a thousand layers.

    The spread is relative to the features that the norm divides by.
    """
    v, w, u, _, _ = spread
    square, product = q * q, c * q
    return _of_one_sign(_forward(v / square, w / square, u / product if product else 0.0))


def _of_one_sign(factor: Number) -> Number:
    """A factor of first order; below a half, 1/(4(1 - f)), which goes on smoothly and has no other sign.

    A covariance that varies more than its mean, as in a text of few equal tokens, would else change its sign.
    """
    if isinstance(factor, float):
        return factor if factor >= 0.5 else 0.25 / (1 - factor)
    import numpy as np

    return np.where(factor >= 0.5, factor, 0.25 / (1 - np.minimum(factor, 0.5)))


class NormSpread(NamedTuple):
    """The spread of a norm's input, relative to its moments and to the features that the norm divides by."""

    second_moment: Number
    both: Number
    """Mean of both tokens' :attr:`second_moment`, in the shape of a covariance"""
    second_moments: Number
    covariance: Number
    correlation: Number
    """Of two tokens of the input"""
    features: float

    def of_covariance(self) -> Number:
        """:attr:`NormFactors.covariance`."""
        return _of_one_sign(_forward(self.both, self.second_moments, self.covariance))

    def of_gradient(self) -> tuple[Number, Number]:
        """:attr:`NormFactors.gradient` and :attr:`NormFactors.gradient_covariance`."""
        pair = _gradient_pair(self.both, self.second_moments, self.correlation, self.features)
        return _gradient(self.second_moment, self.features), pair


def norm_spread(x: AnySignal, width: int, centred: bool = False) -> NormSpread | None:
    """The spread of the input of a norm over `width` features; None for a signal without one.

    A norm that subtracts the mean over the features has one dimension less.
    """
    spread, features = x.spread, _features(width, centred)
    if spread is None:
        return None
    q, pair = x.second_moment, x.pair_second_moment
    share = width / features
    v, w = share * spread.second_moment / q**2, share * spread.second_moments / pair**2
    u = share * quotient(spread.covariance, x.covariance * x.first_second_moment)
    both = v
    if isinstance(x, TokenSignal):  # the two tokens of a pair differ
        one, two = x.positions.pairs(v)
        u, both = (u + x.positions.swap(u)) / 2, (one + two) / 2
    return NormSpread(v, both, w, u, x.correlation, features)


def norm_factors(x: AnySignal, width: int, centred: bool = False) -> NormFactors:
    """All three factors of a norm over `width` features for a signal with a spread; 1 for a signal without one."""
    spread = norm_spread(x, width, centred)
    return NormFactors(1.0, 1.0, 1.0) if spread is None else NormFactors(spread.of_covariance(), *spread.of_gradient())


def _features(width: int, centred: bool) -> float:
    """The dimensions that a norm divides by, at least 2: in one dimension it leaves a sign and no gradient."""
    return max(width - centred, 2.0)


def add_branch(
    x: AnySignal, branch: AnySignal, omega: Number, width: int, skip: Number = None, draw: DrawSpread | None = None
) -> Any:
    """:func:`advance` on signals: the stream `x` times `skip`, plus `branch`, which is already scaled."""
    pair = others = None
    if isinstance(skip, float) and skip == 1:  # in most networks
        skip = None
    if x.spread is not None and isinstance(x, TokenSignal):
        kept = x if skip is None else x.times(skip * skip)
        one, two = x.positions.pairs(x.spread.second_moment)
        pair = Pair(
            kept.first_second_moment,
            branch.first_second_moment,
            kept.pair_second_moment,
            branch.pair_second_moment,
            (one + two) * (0.5 if skip is None else skip**4 / 2),
            x.positions.near,
        )
        if x.positions.match is not None:
            others = Others.of(x.average_kinds, x.covariance, branch.covariance, x.spread, Matches.of(x, draw))
    q, c, spread = advance(
        x.second_moment,
        x.covariance,
        x.spread,
        branch.second_moment,
        branch.covariance,
        omega,
        width,
        skip,
        draw,
        draw and draw.pair_omega,
        pair,
        others,
    )
    y = x.of(q, c, spread and Spread(*spread))
    if x.offset is None:
        return y
    return y.offset_as(x.offset if skip is None else x.offset.times(skip * skip))


class PostNormDrift(NamedTuple):
    """Corrections of order 1/width to the way of a gradient back through a post-norm block, on top of its norm's."""

    own: Number = 0.0
    """Relative change of all that comes back, of a branch that acts on each token alone"""
    through: Number = 0.0
    """Relative change of what comes back through a branch that mixes tokens"""
    beside: Number = 0.0
    """Of such a branch, the product of both ways: a change by this part of the covariance"""
    pair: Number = 1.0
    """Factor on these of the covariance of two tokens, 2 - r^2"""

    def at_norm(self, g: AnySignal) -> Any:
        """The gradient `g` at the norm's input."""
        return g.times(1 + self.own, 1 + self.pair * self.own)

    def path(self, g: AnySignal, pull: Pullback) -> Any:
        """The gradient that comes back through the branch alone, without the skip path."""
        y = pull(g.times(1 + self.through, 1 + self.pair * self.through))
        return y.of(y.second_moment + self.beside * g.averages[1], y.covariance + self.pair * self.beside * g.covariance)


def post_norm_drift(kept: AnySignal, branch: AnySignal, draw: DrawSpread, width: int) -> PostNormDrift:
    """The consequences of a gradient at a norm's output without a component along that, as all post-norm blocks have it.

    Of a branch that acts on each token alone the drift is that of one token
    (:func:`~depthwidth.formulas.depth.post_norm_log_drift`). Of one that mixes tokens it is that of the gradient that tokens
    share; the rest passes the branch from one token to others, whose direction it does not know.

    Parameters
    ----------
    kept : the stream at the block's input, its residual scale included.
    branch : the branch's output, its residual scale included.
    draw : the variation between draws of the branch's weights.
    width : features that the norm divides by.

    Notes
    -----
    Derivation: docs/derivations/post-norm.md, (N1), (N2) and (N6).
    """
    (q, c), (a, a_pair) = kept.averages, branch.averages
    correlation, strength = quotient(c + a_pair, q + a), quotient(a, q) + _NO_STRENGTH
    variance = post_norm_log_variance.body(strength, width, draw.omega, draw.common)
    # The norm's 1 + v is half the variance as if size and gradient of the branch varied on their own.
    shared = (variance - post_norm_log_variance.body(strength, width, draw.omega)) / 2
    gain = quotient(draw.growth * draw.growth, draw.radial)
    total = post_norm_log_drift.body(strength, width, draw.along, draw.growth, gain)
    pair = 2 - correlation * correlation
    if draw.whole is None:
        return PostNormDrift(total + shared, pair=pair)
    # The gradient's second moment is multiplied by q + a, of which a comes back through the branch.
    crossed = post_norm_log_drift.body(strength, width, 1.0, draw.growth, gain)
    through = quotient((total - crossed) * (1 + strength), strength)
    return PostNormDrift(0.0, through, crossed * (q + a), pair)


def add_gradient(g: AnySignal, through_branch: AnySignal, skip: Number) -> Any:
    """The gradient at a residual's input: the part through the skip path of factor `skip`, plus the part through the branch."""
    if isinstance(skip, float) and skip == 1:  # in most networks
        return g.of(g.second_moment + through_branch.second_moment, g.covariance + through_branch.covariance)
    return g.of(_sum(g.second_moment, through_branch.second_moment, skip), _sum(g.covariance, through_branch.covariance, skip))


_NO_STRENGTH = 1e-12
"""Replaces the strength of a branch if it, or its skip path, is 0; the drift is then 0."""


def pull_post_norm(g: AnySignal, x: AnySignal, width: int, centred: bool, last: Number = 0.0) -> Any:
    """The gradient `g` at the input `x` of a norm after the sum, which :func:`norm_factors` has corrected as that of any norm.

    The gradient that comes from the next block of a post-norm stack has no component along the norm's output, so that the
    projections are taken out again.

    Parameters
    ----------
    last : 1 for the last norm of a stack, whose gradient comes from outside, and 0 for every other; a number, or one for each
        block.
    """
    if x.spread is None:
        return g
    features = _features(width, centred)
    own, pair = (last + (1 - last) / _projection(r, features) for r in (1.0, x.correlation))
    return g.times(own, pair)


def pull_branch_norm(
    draw: DrawSpread, x: AnySignal, width: int, centred: bool, through: NormedOutput | None = None
) -> Pullback:
    """The correction of a gradient at the input of a norm whose input is a branch's output `x`.

    :func:`norm_factors` takes the norm's input for any vector.

    The norm takes off the component along the output, in which the branch's Jacobian is larger than in others (W11). And a draw
    with a large output has a large Jacobian as well; the norm divides by the former alone. A branch that knows both by an
    integral states them, `through` (W12).
    """
    features, size = _features(width, centred), 1 + draw.common / width
    r = x.correlation
    if through is None:
        along = features / draw.along
        own, pair = (_projection(one, along) / _projection(one, features) / size for one in (1.0, r))
    else:
        own = through.gain * (features - 1) / (features - 2) / _gradient(draw.omega / features, features)
        pair = through.pair * (1 - through.taken / features) / _projection(r, features)
    return lambda g: g.times(own, pair)


class MixedTokens(NamedTuple):
    """The mean correlation of the tokens that a branch mixes, after a norm, between draws."""

    variance: Number
    with_size: Number
    """Relative covariance with the second moment of one token before the norm"""

    @classmethod
    def of(cls, stream: AnySignal, length: float) -> MixedTokens:
        """That of `length` tokens of the input of a norm; infinite for a long sequence.

        Two products that share one token, and one product, have the covariances (u + z)/2 and (v + z)/2 in Gaussian features.

        Notes
        -----
        Derivation: docs/derivations/finite-width.md, (W14).
        """
        (q, c), (v, *pairs) = stream.averages, stream.spread
        if isinstance(stream, TokenSignal):
            v, pairs = stream.positions.mean(v), [stream.positions.pair_mean(part) for part in pairs]
        w, u, x, z = pairs
        r, few = quotient(c, q), 1 / max(length, 2)
        same = (v + z) / 2 - 2 * r * u + r * r * (v + w) / 2
        one = (u + z) / 2 - r * (u + x) + r * r * (v + 3 * w) / 4
        none = z - 2 * r * x + r * r * w
        two = 2 * few * few / (1 - few)
        ones = 2 * two / few * (1 - 2 * few) if few else 0.0
        variance = two * same + ones * one + (1 - two - ones) * none
        with_size = 2 * few * (u - r * (v + w) / 2) + (1 - 2 * few) * (x - r * w)
        return cls(quotient(variance, q * q), quotient(with_size, q * q))


def normed_input(stream: AnySignal, y: AnySignal, draw: DrawSpread, length: float) -> tuple[Any, MixedTokens | None]:
    """The output `y` of a norm with its spread, as a branch reads it, and the :class:`MixedTokens` if the branch mixes tokens.

    `length` is that of a sequence, infinite if rows differ.
    """
    if stream.spread is None:
        return y, None
    spread, mixed = stream.spread.after_norm(stream, y), None
    if draw.whole is not None:
        mixed = MixedTokens.of(stream, length)
        if length < float("inf"):  # rows that differ keep what each has
            spread = spread._replace(covariances=mixed.variance * y.averages[0] ** 2 + 0.0 * spread.covariances)
    return y.spread_as(spread), mixed


def pull_mixed_norms(
    draw: DrawSpread, mixed: MixedTokens | None, output: AnySignal, read: AnySignal, width: int
) -> tuple[Number, Pullback]:
    """The joint effect of the norms of a branch's input and output, if the branch mixes tokens.

    If tokens are alike, the output is large, and so are the tokens themselves: both norms divide by large sizes together. The
    norm of the output removes the part of a gradient along the mean token, so that the norm of the input removes less.

    Returns
    -------
    Relative covariance of the sizes that both norms divide by, and the correction of the gradient.
    """
    if mixed is None:
        return 0.0, _itself
    (a, _), (size, pair) = output.averages, read.averages
    r, share = quotient(pair, size), quotient(a, draw.whole)
    slope = _bounded(_slope(draw.whole, a, _below_one(r)), draw.whole)
    both = quotient(slope * mixed.with_size, a)
    return both, lambda g: g.times(1 + both, 1 + both + share * (1 - r) / width)


def pull_past_norms(pull: Pullback, y: AnySignal, branch: AnySignal, width: int) -> Pullback:
    """The way back through a normed branch, for a gradient from which the next norms took what is along the stream `y`.

    The branch's own norm takes what is along its output. The squared cosine of both directions is the branch's share of the
    stream, and that part is not there twice.
    """
    share, pair = quotient(branch.second_moment, y.second_moment), quotient(branch.pair_second_moment, y.pair_second_moment)
    own, both = 1 + share / width, 1 + (2 - y.correlation**2) * pair / width
    return lambda g: pull(g.times(own, both))


def branch_spread(output: AnySignal, draw: DrawSpread, width: int, read: AnySignal) -> Spread:
    """The spread of a branch's output for a norm of it: its own, and what follows from the stream `read`.

    Take a branch that acts on each token alone and reads the stream without a norm. The gain of its gradient over its size is a
    power of its input's second moment, whatever the activation, as after a norm of `read`. In a branch that mixes tokens the
    size of the output follows means over tokens, and the gradient does not.
    """
    own = Spread.of_branch(output, draw, width)
    if read.spread is None:
        return own
    q, pair, first = read.second_moment, read.pair_second_moment, read.first_second_moment
    v, w, u, *_ = read.spread
    if draw.whole is not None:
        inverse = quotient(1.0, pair)
        r, w, x, z = (read.average_kinds(part) for part in (read.covariance, read.spread[1], read.spread[3], read.spread[4]))
        r = r * inverse
        own_size, slope, pair_size, pair_slope = _slopes_by_means(
            r, _below_one(r), output.covariance, draw, output.pair_second_moment, inverse, Matches.of(read, draw), z
        )
        followed = own_size * w + slope * x, own_size * x + slope * z
        sizes, mixed = own_size * followed[0] + slope * followed[1], pair_size * followed[0] + pair_slope * followed[1]
        each = read.positions.near(sizes) if isinstance(read, TokenSignal) else sizes
        return own._replace(
            second_moment=own.second_moment + each,
            second_moments=own.second_moments + sizes,
            covariance=own.covariance + mixed,
        )
    both = output.pair_second_moment**2
    return own._replace(
        second_moment=own.second_moment + v / q**2 * output.second_moment**2,
        second_moments=own.second_moments + w / pair**2 * both,
        covariance=own.covariance + quotient(u, read.covariance * first) * output.covariance * output.first_second_moment,
    )


def lean_on_norm(g: AnySignal, x: AnySignal) -> Any:
    """The gradient `g` at the input `x` of a norm, with its leaning: it falls as one over the stream's second moment."""
    return g if x.spread is None else g.leaning_as(g.times(1 / x.second_moment, 1 / x.pair_second_moment))


def residual_pullback(
    x: AnySignal,
    paths: Sequence[tuple[Pullback, bool]],
    skip: Number,
    trace: Trace,
    *,
    normed: bool,
    several: bool = False,
    with_stream: Number = 0.0,
) -> Pullback:
    """The map of a gradient from the output of a residual without a norm after the sum to its input `x`.

    In a draw with a larger stream each norm of a branch divides the gradient by more, and so have the norms above. What comes
    back through them therefore exceeds the product of means, by the leaning of the gradient times the stream's variance.

    Parameters
    ----------
    paths : of each branch, the map of the gradient to x, and True if it mixes tokens.
    skip : the factor on the stream.
    normed : whether branches are normalised.
    several : whether the paths take two gradients side by side, position by position.
    with_stream : that of :class:`.DrawSpread`, of branches that mix tokens.

    Notes
    -----
    Derivation: docs/derivations/finite-width.md, (W8).
    """
    if x.spread is None or not normed:

        def pull_bare(g: AnySignal) -> Any:
            bare = g.of(g.second_moment, g.covariance)
            return add_gradient(bare, _total([pull(bare) for pull, _ in paths]), skip)

        return pull_bare
    square = skip * skip
    # Cross-attention adds each gradient to that of the encoder's output.
    several = several and isinstance(x, TokenSignal) and x.positions.takes_several and trace.memory is None

    @once  # a residual passes several gradients, and many residuals none
    def sizes() -> tuple[tuple[Number, Number], dict[bool, tuple[Number, Number]]]:
        excess = {mixes: leaning_excess(x, mixes, with_stream) for _, mixes in paths}
        return (1 / x.second_moment, 1 / x.pair_second_moment), excess

    def pull_leaning(g: AnySignal) -> Any:
        bare = g.of(g.second_moment, g.covariance)
        slid = None if g.leaning is None else scaled(g.leaning, square)
        inverse, excess = sizes()
        if several and slid is not None:
            both = bare.beside(slid)
            found = [_leaned(pull(both), inverse, excess[mixes]) for pull, mixes in paths]
            back, more = found[0] if len(found) == 1 else (_total([*parts]) for parts in zip(*found, strict=True))
            return add_gradient(bare, back, skip).leaning_as(add_gradient(slid, more, skip))
        through, leaning = list[Any](), list[Any]()
        for pull, mixes in paths:
            back, more = pull(bare), None
            if slid is not None:
                with trace.silence():
                    more = pull(slid)
            leaning.append(back.times(*inverse))
            if more is not None:
                leaning.append(more)
                back = back.plus(more.times(*excess[mixes]))
            through.append(back)
        y = add_gradient(bare, _total(through), skip)
        found = _total(leaning)
        return y.leaning_as(found if slid is None else add_gradient(slid, found, skip))

    return pull_leaning


def _leaned(both: TokenSignal, inverse: tuple[Number, Number], excess: tuple[Number, Number]) -> tuple[Any, Any]:
    """The gradient that comes back through a branch, and its leaning, from both side by side."""
    (q, more_q), (c, more_c) = both.second_moment, both.covariance
    back = both.of(q + excess[0] * more_q, c + excess[1] * more_c)
    return back, both.of(more_q + inverse[0] * q, more_c + inverse[1] * c)


def scaled(g: AnySignal, factor: Number) -> Any:
    """`g` times a factor that is 1 in most networks."""
    return g if isinstance(factor, float) and factor == 1 else g.times(factor)


def _total(parts: list[Any]) -> Any:
    total = parts[0]
    for part in parts[1:]:
        total = total.plus(part)
    return total


def leaning_excess(x: AnySignal, mixes: bool, with_stream: Number = 0.0) -> tuple[Number, Number]:
    """Factors on both moments of a gradient's leaning. A branch that reads the stream `x` adds the products to the gradient.

    They are Var(q_t)/q_t of each token, and Cov(q_t, q_t')/q of two tokens on average. Each token of a pair has half the
    exponent, so that the covariance has the mean of the two; a branch that mixes tokens follows the latter alone.

    Parameters
    ----------
    mixes, with_stream : as in :func:`residual_pullback`.
    """
    v, w = x.spread.second_moment / x.second_moment, x.spread.second_moments
    tokens = isinstance(x, TokenSignal)
    w = (x.positions.pair_mean(w) if tokens else w) / x.averages[0] + with_stream * x.averages[0]
    if mixes:
        return w, w
    one, two = x.positions.pairs(v) if tokens else (v, v)
    return v, ((one + two) / 2 + w) / 2
