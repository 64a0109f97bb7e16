r"""The recursion along depth: a residual branch is added to the stream, and a norm sets the size of the sum.

:func:`advance` is the one definition of the step

.. math:: q' = \lambda^2 q + a, \qquad c' = \lambda^2 c + a_2

and of its variances over draws (W3). :func:`norm_factors` is the one definition of the corrections to a norm from these
variances (W4 to W6). Both compute with plain numbers, so the same lines serve floats, arrays over settings or blocks, and
arrays over positions; the functions on signals only select the numbers.

Derivation: docs/derivations/finite-width.md, (W3) to (W6).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..formulas.depth import post_norm_log_drift, post_norm_log_variance
from ..formulas.finite_width import (
    collapsed_share,
    norm_covariance_factor,
    norm_gradient_covariance_factor,
    norm_gradient_factor,
    residual_pair_spread,
    residual_spread,
)
from ..formulas.moments import residual_second_moment
from .signal import AnySignal, DrawSpread, Number, Spread, TokenSignal, quotient

# The bodies, without checks of the arguments: signals are checked, and a thousand layers call these ten thousand times.
_sum, _spread, _pair_spread = residual_second_moment.body, residual_spread.body, residual_pair_spread.body
_forward, _gradient, _gradient_pair = (
    f.body for f in (norm_covariance_factor, norm_gradient_factor, norm_gradient_covariance_factor)
)


def advance(
    q: Number,
    c: Number,
    v: Number,
    w: Number,
    u: Number,
    a: Number,
    a_pair: Number,
    omega: Number,
    width: int,
    skip: Number = None,
    first: Number = None,
    a_first: Number = None,
) -> tuple[Number, Number, Number, Number, Number]:
    r"""The moments of the stream after the addition of a branch with independent weights.

    .. math::

        q' &= \lambda^2 q + a, \qquad c' = \lambda^2 c + a_2 \\
        v' &= \lambda^4 v + a (4 \lambda^2 q + \omega a) / d \\
        w' &= \lambda^4 w + a_2 (4 \lambda^2 c + \omega a_2) / d \\
        u' &= \lambda^4 u + [2 \lambda^2 (q a_2 + c a) + \omega a a_2] / d

    Parameters
    ----------
    q, c : second moment and covariance of the stream.
    v, w, u : Var(q_t), Cov(q_t, q_t') and Cov(c, q_t) over draws, see :class:`Spread`; None for infinite width.
    a, a_pair : second moment and covariance of the branch's output, its residual scale included.
    omega : d times the relative variance over draws of the branch's squared norm.
    width : d, features of the stream.
    skip : lambda, the factor on the stream; None for 1.
    first, a_first : q and a of the first token of each pair, if tokens differ; their shapes differ from those of q and a.

    Returns
    -------
    q', c', v', w', u'.
    """
    if skip is not None:
        square = skip * skip
        q, c = square * q, square * c
        if first is not None:
            first = square * first
        if v is not None:
            fourth = square * square
            v, w, u = fourth * v, fourth * w, fourth * u
    if v is not None:
        v = v + _spread(q, a, width, omega)
        w = w + _spread(c, a_pair, width, omega)
        u = u + _pair_spread(q if first is None else first, c, a if first is None else a_first, a_pair, width, omega)
    return q + a, c + a_pair, v, w, u  # residual_second_moment, its scales applied above


class NormFactors(NamedTuple):
    """Corrections of a norm for fluctuations of its input over draws, as factors on the limit of infinite width."""

    covariance: Number
    """On the correlation of two tokens at the norm's output (W4)"""
    gradient: Number
    """On the second moment of the gradient at its input (W5)"""
    gradient_covariance: Number
    """On the covariance of that gradient (W6)"""


def covariance_factor(q: float, c: float, v: float, w: float, u: float) -> Any:
    """The first of :class:`NormFactors` for exchangeable tokens, in plain floats for loops over a thousand layers."""
    square, product = q * q, c * q
    return _forward(v / square, w / square, u / product if product else 0.0)


def norm_factors(x: AnySignal) -> NormFactors:
    """All three factors for a signal with a spread; 1 for a signal without one."""
    spread = x.spread
    if spread is None:
        return NormFactors(1.0, 1.0, 1.0)
    q, pair = x.second_moment, x.pair_second_moment
    v, w = spread.second_moment / q**2, spread.second_moments / pair**2
    u = quotient(spread.covariance, x.covariance * x.first_second_moment)
    both = v
    if isinstance(x, TokenSignal):  # the two tokens of a pair differ
        one, two = x.positions.pairs(v)
        u, both = (u + x.positions.swap(u)) / 2, (one + two) / 2
    return NormFactors(_forward(both, w, u), _gradient(v), _gradient_pair(both, w))


def add_branch(x: AnySignal, branch: AnySignal, omega: Number, width: int, skip: Number = None) -> Any:
    """:func:`advance` on signals: the stream `x` times `skip`, plus `branch`, which is already scaled."""
    v, w, u = x.spread or (None, None, None)
    first, a_first = (x.first_second_moment, branch.first_second_moment) if isinstance(x, TokenSignal) else (None, None)
    q, c, v, w, u = advance(
        x.second_moment, x.covariance, v, w, u, branch.second_moment, branch.covariance, omega, width, skip, first, a_first
    )
    return x.of(q, c, x.spread and Spread(v, w, u))


def post_norm_drift(kept: AnySignal, branch: AnySignal, draw: DrawSpread, width: int) -> tuple[Number, Number]:
    """Corrections to the first-order factors of a post-norm block: mean and variance over draws of its log gradient.

    At a norm's output the gradient has no component along the stream, so the norm's factor on the mean gradient, 1 + v, is too
    large. The excess is known if all tokens are equal (:func:`~depthwidth.formulas.depth.post_norm_log_drift`); otherwise it is
    taken in proportion to the correlation (:func:`~depthwidth.formulas.finite_width.collapsed_share`).

    Parameters
    ----------
    kept : the stream at the block's input, its residual scale included.
    branch : the branch's output, its residual scale included.
    draw : the variation between draws of the branch's weights.
    width : features of the stream.
    """
    (q, c), (a, a_pair) = kept.averages, branch.averages
    correlation, strength = quotient(c + a_pair, q + a), quotient(a, q) + _NO_STRENGTH
    drift = post_norm_log_drift.body(strength, width, draw.backward)
    variance = post_norm_log_variance.body(strength, width, draw.omega)
    return collapsed_share.body(correlation, drift), collapsed_share.body(correlation, variance)


def add_gradient(g: AnySignal, through_branch: AnySignal, skip: Number) -> Any:
    """The gradient at a residual's input: the part through the skip path of factor `skip`, plus the part through the branch."""
    return g.of(_sum(g.second_moment, through_branch.second_moment, skip), _sum(g.covariance, through_branch.covariance, skip))


_NO_STRENGTH = 1e-12
"""Replaces the strength of a branch if it, or its skip path, is 0; the drift is then 0."""
