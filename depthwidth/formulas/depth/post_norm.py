"""Post-norm stacks: growth of the gradient, its spread over draws at finite width, and rank collapse at an exponential rate."""

from __future__ import annotations

import math
from typing import Annotated, Any

from ...formula import Domain, formula
from ...mathematics import Constant
from ..moments import BranchScale, Features, Scale
from ._domains import Attention, FeedForward, Gain, Gap, HiddenRatio, Layers, Strength
from .blocks import feed_forward_matrix_moment, feed_forward_matrix_spread

AttentionGain = Annotated[
    Any, Domain(0, closed_low=True, symbol="J_A", typical=(0.05, 1)), "gain of the gradient through the attention block"
]
FeedForwardGain = Annotated[
    Any, Domain(0, closed_low=True, symbol="J_F", typical=(0.05, 1)), "gain of the gradient through the feed-forward block"
]
LayerWidth = Annotated[Any, Domain(0, symbol="d", unit="dimensions", typical=(64, 4096)), "width"]
Width = Annotated[Features, "width"]


@formula(
    kind="exact",
    source="residual sum and the norm after it",
    status="derived",
    symbol="f",
    domain="infinite width; constant a and J",
)
def post_norm_gradient_factor(
    gain: Gain,
    strength: Annotated[Strength, "second moment that the branch adds, dropout included"],
    skip: Scale = 1,
    branch: BranchScale = 1,
) -> Any:
    r"""Factor by which one post-norm block multiplies the gradient's second moment in the backward pass.

    .. math:: f = \frac{\lambda^2 + \beta^2 J}{\lambda^2 + \beta^2 a}

    Returns
    -------
    f; 1 if J = a, and 1/(1+a) if no gradient passes through the branch.

    Notes
    -----
    A gradient that tokens share passes dropout as it is, so that f is below 1 for it even if J without dropout is a.

    Examples
    --------
    >>> post_norm_gradient_factor(0.0, 1.0)
    0.5
    """
    return (skip**2 + branch**2 * gain) / (skip**2 + branch**2 * strength)


@formula(
    kind="exact",
    source="product of the blocks' factors",
    status="derived",
    symbol="G",
    domain="infinite width; constant a and J. At depth over width of order 1 it is a mean that no draw is near",
)
def post_norm_gradient_growth(
    attention_gain: AttentionGain,
    feed_forward_gain: FeedForwardGain,
    attention: Attention,
    feed_forward: FeedForward,
    layers: Layers,
) -> Any:
    r"""Growth or decay of the gradient through N post-norm layers: exponential in depth.

    .. math:: \left(\frac{(1 + J_A)(1 + J_F)}{(1 + a_A)(1 + a_F)}\right)^N

    Returns
    -------
    The ratio of gamma at the input to gamma at the output.

    Examples
    --------
    >>> post_norm_gradient_growth(0.0, 0.5, 1.0, 0.5, 10) == 2.0**-10
    True
    """
    return ((1 + attention_gain) * (1 + feed_forward_gain) / ((1 + attention) * (1 + feed_forward))) ** layers


@formula(
    kind="approximation",
    source="linearised correlation recursion of a post-norm stack",
    status="derived",
    symbol="1 - r_N",
    domain="long sequences, p = 0, ReLU; a_F up to 0.5",
    accuracy=0.037,
    within={"gap": (0, 0.01), "attention": (0.5, 10), "layers": (0, 20)},
)
def post_norm_collapse(
    gap: Gap,
    attention: Annotated[Attention, "second moment that an attention block adds once tokens have aligned"],
    layers: Layers,
) -> Any:
    r"""One minus the correlation of tokens after N post-norm layers: rank collapse at an exponential rate.

    .. math:: 1 - r_N = g_0 (1 + a_A)^{-N}

    Returns
    -------
    1 - r_N. The feed-forward parts leave it as it is, to first order in 1 - r.

    Examples
    --------
    >>> post_norm_collapse(0.5, 1.0, 4)
    0.03125
    """
    return gap * (1 + attention) ** (-layers)


@formula(
    kind="asymptotic",
    source="sum of the two blocks of a layer",
    status="derived",
    symbol="E ln",
    order=1,
    domain="all tokens alike (r near 1), no dropout, ReLU",
    accuracy=0.04,
    within={"attention": (0.1, 2), "feed_forward": (0.1, 2), "width": (64, math.inf), "ratio": (1, 8)},
)
def post_norm_layer_log_drift(
    attention: Attention,
    feed_forward: FeedForward,
    width: LayerWidth,
    ratio: HiddenRatio = 4,
) -> Any:
    r"""Expected logarithm of the factor by which one deep post-norm layer multiplies the gradient's second moment.

    .. math:: E \ln f = -\frac{2 a_A + 2 a_A^2}{(1+a_A)^2 d} - \frac{2 a_F + (1 + 2/m) a_F^2}{(1+a_F)^2 d}

    Returns
    -------
    A number below zero; times the layers, the logarithm of the typical gradient over that of infinite width.

    Examples
    --------
    >>> round(post_norm_layer_log_drift(1.0, 0.32, 1), 3)
    -1.455
    """
    moment = feed_forward_matrix_moment.body(ratio)
    return post_norm_log_drift.body(attention, width) + post_norm_log_drift.body(feed_forward, width, moment)


@formula(
    kind="asymptotic",
    source="sum of the two blocks of a layer",
    status="derived",
    symbol="Var ln",
    order=1,
    domain="all tokens alike (r near 1), no dropout, ReLU",
    accuracy=0.016,
    within={"attention": (0.1, 2), "feed_forward": (0.1, 2), "width": (64, math.inf), "ratio": (1, 8)},
)
def post_norm_layer_log_variance(
    attention: Attention,
    feed_forward: FeedForward,
    width: LayerWidth,
    ratio: HiddenRatio = 4,
) -> Any:
    r"""Variance over draws of the logarithm of one deep post-norm layer's gradient factor.

    .. math:: \mathrm{Var} \ln f = \frac{2 (4 a_A + 4 a_A^2)}{(1+a_A)^2 d} + \frac{2 (4 a_F + (2 + 4/m) a_F^2)}{(1+a_F)^2 d}

    Returns
    -------
    A variance; times the layers, that of the logarithm of the gradient's second moment.

    Examples
    --------
    >>> round(post_norm_layer_log_variance(1.0, 0.32, 1), 2)
    5.82
    """
    spread, shared = feed_forward_matrix_spread.body(ratio), 1 / (ratio * Constant.of(1))  # kappa_c of ReLU is 2
    return post_norm_log_variance.body(attention, width) + post_norm_log_variance.body(feed_forward, width, spread, shared)


SpreadStrength = Annotated[
    Any, Domain(0, symbol="a", typical=(0.1, 1.5)), "second moment of the branch divided by that of the skip path"
]


@formula(
    kind="asymptotic",
    source="moments of a product of random matrices, one block of a collapsed post-norm stack",
    status="derived",
    symbol="E ln",
    order=1,
    domain="all tokens alike (r near 1), no dropout",
    accuracy=0.06,
    within={"strength": (0.1, 2), "width": (64, math.inf), "matrix_moment": (2.1, 4), "growth": (1, 1), "gain": (1, 1)},
    given="two Gaussian matrices, linear or around a ReLU",
)
def post_norm_log_drift(
    strength: SpreadStrength,
    width: Width,
    matrix_moment: Annotated[
        Any,
        Domain(1, closed_low=True, symbol="mu_2", typical=(2, 3)),
        "3 for attention, 2.5 for a ReLU feed-forward part four times the width, as :func:`feed_forward_matrix_moment` has it;"
        " otherwise pi of :func:`~depthwidth.formulas.finite_width.aligned_share`",
    ] = 3,
    growth: Annotated[
        Any,
        Domain(0, closed_low=True, symbol="k", typical=(1, 2)),
        "d ln |f|^2 / d ln |x|^2 of the branch f: 1 for a branch that is proportional to the size of its input",
    ] = 1,
    gain: Annotated[
        Any,
        Domain(0, closed_low=True, symbol="g", typical=(1, 2)),
        "gain of the gradient's second moment through the branch over that of the signal's; 1 for linear maps and ReLU",
    ] = 1,
) -> Any:
    r"""Expected logarithm of the factor by which one deep post-norm block multiplies the gradient's second moment.

    .. math:: E \ln f = -\frac{2ka + (\mu_2 - 1) ga^2}{(1+a)(1+ga) d}

    Derivation: docs/derivations/post-norm.md, (N1).

    Returns
    -------
    A number below zero: the typical gradient shrinks, although its mean over draws does not.

    Examples
    --------
    >>> attention, ffn = post_norm_log_drift(1.0, 1), post_norm_log_drift(0.32, 1, 2.5)
    >>> round(attention + ffn, 3)
    -1.455
    """
    through = gain * strength
    return -(2 * growth * strength + (matrix_moment - 1) * strength * through) / ((1 + strength) * (1 + through) * width)


@formula(
    kind="asymptotic",
    source="moments of a product of random matrices, one block of a collapsed post-norm stack",
    status="derived",
    symbol="Var ln",
    order=1,
    domain="all tokens alike (r near 1), no dropout",
    accuracy=0.025,
    within={"strength": (0.1, 2), "width": (64, math.inf), "matrix_spread": (2.2, 7)},
    given="two Gaussian matrices, linear or around a ReLU",
)
def post_norm_log_variance(
    strength: SpreadStrength,
    width: Width,
    matrix_spread: Annotated[
        Any,
        Domain(0, symbol="omega", typical=(3, 4)),
        "from :func:`feed_forward_matrix_spread`: 4 for attention, 3.25 for a ReLU feed-forward part four times the width",
    ] = 4,
    shared: Annotated[
        Any,
        Domain(0, closed_low=True, symbol="c", typical=(0, 0.5)),
        "width times the relative covariance of the branch's squared size and that of its matrix, (kappa_c - 1)/m: 0 for"
        " attention, 0.25 for that ReLU part",
    ] = 0,
) -> Any:
    r"""Variance over draws of the logarithm of one deep post-norm block's gradient factor.

    .. math:: \mathrm{Var} \ln f = \frac{2 (4a + (\omega - c) a^2)}{(1+a)^2 d}

    Derivation: docs/derivations/post-norm.md, (N2).

    Returns
    -------
    A variance; over N blocks they add, so that deep narrow stacks are log-normal with a wide spread.

    Notes
    -----
    kappa_c is E h^2 j / (E h^2 E j), with j the squared slope of a hidden feature h: 2 for ReLU. A draw with more active hidden
    features has both the larger output and the larger gradient, so their ratio varies less.

    Examples
    --------
    >>> attention, ffn = post_norm_log_variance(1.0, 1), post_norm_log_variance(0.32, 1, 3.25, 0.25)
    >>> round(attention + ffn, 2)
    5.82
    """
    return 2 * (4 * strength + (matrix_spread - shared) * strength**2) / ((1 + strength) ** 2 * width)
