"""Pre-norm and sandwich-norm stacks: growth of the stream and of its gradient, and rank collapse by a power of the depth."""

from __future__ import annotations

import math
from typing import Annotated, Any

from ...formula import Domain, formula
from ...mathematics import exp, lgamma, log, pi, sqrt
from .. import _stable
from .._regime import require
from ..moments import BranchScale, Dropout, SecondMoment
from ._domains import Attention, Branches, FeedForward, Gain, Gap, Layers

Slope = Annotated[
    Any, Domain(0, symbol="s", unit="per feature and layer", typical=(0.3, 3)), "second moment that a layer adds to the stream"
]
Shrink = Annotated[
    Any,
    Domain(0, 1, symbol="lambda", typical=(0.5, 0.99)),
    "factor on the skip path of either block; for 1 see :func:`pre_norm_second_moment`",
]
StartMoment = Annotated[SecondMoment, "second moment of the input, q_0"]


@formula(kind="exact", source="sum of the residual recursion", status="derived", symbol="q_N", domain="constant a_A and a_F")
def pre_norm_second_moment(
    second_moment: StartMoment, attention: Attention, feed_forward: FeedForward, layers: Layers, branch: BranchScale = 1
) -> Any:
    r"""Second moment of a pre-norm stream after N layers whose skip is the plain sum: linear in depth.

    .. math:: q_N = q_0 + N \beta^2 (a_A + a_F)

    Returns
    -------
    q_N per feature.

    Examples
    --------
    >>> round(pre_norm_second_moment(1.0, 1.0, 0.32, 192), 2)
    254.44
    """
    return pre_norm_growth(second_moment, branch**2 * (attention + feed_forward), layers)


@formula(
    kind="exact", source="solution of the residual recursion", status="derived", symbol="q_N", domain="constant a_A and a_F"
)
def scaled_pre_norm_second_moment(
    second_moment: StartMoment,
    attention: Attention,
    feed_forward: FeedForward,
    layers: Layers,
    skip: Shrink,
    branch: BranchScale,
) -> Any:
    r"""Second moment of a pre-norm stream whose skip is scaled down: it converges instead of growing.

    .. math:: q_N = \lambda^{4N} q_0 + \beta^2 (\lambda^2 a_A + a_F) \frac{1 - \lambda^{4N}}{1 - \lambda^4}

    Returns
    -------
    q_N per feature; 1 at every depth if q_0 = a_A = a_F = 1 and lambda^2 + beta^2 = 1 (DeepScaleLM).

    Examples
    --------
    >>> round(scaled_pre_norm_second_moment(1.0, 1.0, 1.0, 192, 0.8, 0.6), 12)
    1.0
    """
    left = skip ** (4 * layers)
    return left * second_moment + branch**2 * (skip**2 * attention + feed_forward) * (1 - left) / (1 - skip**4)


@formula(
    kind="exact",
    source="product of 1 + J/q_l over layers as a ratio of Gamma functions",
    status="derived",
    symbol="G",
    domain="constant J and s; finite-width corrections aside",
)
def pre_norm_gradient_growth(
    second_moment: Annotated[
        SecondMoment,
        "second moment at the input of the first of these blocks, q_0; for feed-forward blocks, after the first attention",
    ],
    gain: Gain,
    slope: Slope,
    layers: Layers,
) -> Any:
    r"""Growth of the gradient through N pre-norm layers if the stream grows linearly.

    .. math:: \prod_{l=0}^{N-1} \left(1 + \frac{J}{q_0 + s l}\right)
              = \frac{\Gamma(N + (q_0+J)/s)\, \Gamma(q_0/s)}{\Gamma((q_0+J)/s)\, \Gamma(N + q_0/s)}

    Returns
    -------
    The ratio of gamma at the input to gamma at the output. J = s gives q_N/q_0, which is how the part of the gradient that
    aligned tokens share grows; J = a_F and s = a_A + a_F that of their differences.

    Examples
    --------
    >>> round(pre_norm_gradient_growth(1.0, 1.32, 1.32, 192), 2)
    254.44
    >>> round(pre_norm_gradient_growth(2.0, 0.32, 1.32, 192), 3)
    3.45
    """
    start, moved = second_moment / slope, (second_moment + gain) / slope
    return exp(lgamma(layers + moved) - lgamma(layers + start) + lgamma(start) - lgamma(moved))


@pre_norm_gradient_growth.stable
def _(second_moment: SecondMoment, gain: Gain, slope: Slope, layers: Layers) -> Any:
    return _stable.gamma_ratio(second_moment / slope, gain / slope, layers)


@formula(
    kind="asymptotic",
    source="Stirling's series of the ratio of Gamma functions",
    status="derived",
    symbol="G",
    order=1,
    domain="many layers",
    accuracy=0.1,
    within={"second_moment": (0.1, 2), "gain": (0, 2), "slope": (1, 3), "layers": (50, math.inf)},
)
def pre_norm_gradient_power_law(
    second_moment: Annotated[SecondMoment, "second moment at the input of the first of these blocks, q_0"],
    gain: Gain,
    slope: Annotated[Slope, "second moment that a layer adds to the stream; J/s is the exponent"],
    layers: Annotated[Any, Domain(0, symbol="N", unit="layers", typical=(10, 200)), "layers"],
) -> Any:
    r"""Growth of the gradient through a deep pre-norm stack: a power of the depth.

    .. math:: \frac{\Gamma(q_0/s)}{\Gamma((q_0+J)/s)}\, N^{J/s}

    Returns
    -------
    The leading term of :func:`pre_norm_gradient_growth`.

    Examples
    --------
    >>> round(pre_norm_gradient_power_law(1.32, 1.32, 1.32, 100), 6)
    100.0
    """
    return exp(lgamma(second_moment / slope) - lgamma((second_moment + gain) / slope)) * layers ** (gain / slope)


@pre_norm_gradient_power_law.stable
def _(second_moment: SecondMoment, gain: Gain, slope: Slope, layers: Layers) -> Any:
    start, power = second_moment / slope, gain / slope
    return exp(power * log(layers / start) - _stable.log_rise(start, power))


@formula(
    kind="exact",
    source="ratio of the two growth laws of a collapsing pre-norm stack",
    status="derived",
    symbol="x",
    domain="the exponent in the limit of many layers, p = 0, ReLU",
)
def pre_norm_collapse_exponent(
    attention: Annotated[Attention, "second moment that an attention block adds once tokens have aligned"],
    feed_forward: Annotated[FeedForward, "second moment that a feed-forward block adds once tokens have aligned"],
) -> Any:
    r"""Exponent of rank collapse in a pre-norm stack: 1 - r falls as N to this power.

    .. math:: x = -\frac{a_A}{a_A + a_F}

    Returns
    -------
    A number from -1 to 0. Attention adds to the tokens' common part only; a ReLU part adds to their differences in proportion.

    Examples
    --------
    >>> round(pre_norm_collapse_exponent(1.0, 0.32), 4)
    -0.7576
    """
    return -attention / (attention + feed_forward)


@formula(
    kind="approximation",
    source="linearised correlation recursion of a pre-norm stack, as a ratio of Gamma functions",
    status="derived",
    symbol="1 - r_N",
    domain="long sequences, p = 0, ReLU; small gaps",
    accuracy=0.025,
    within={"gap": (0, 0.01), "second_moment": (0.3, 10), "attention": (0.5, 10), "feed_forward": (0, 0.5), "layers": (0, 100)},
)
def pre_norm_collapse(
    gap: Gap, second_moment: StartMoment, attention: Attention, feed_forward: FeedForward, layers: Layers
) -> Any:
    r"""One minus the correlation of tokens after N pre-norm layers: rank collapse by a power of depth.

    .. math:: 1 - r_N = g_0 \frac{q_0}{q_0 + s N} \prod_{l=0}^{N-1} \left(1 + \frac{a_F}{q_0 + a_A + s l}\right),
              \quad s = a_A + a_F

    Returns
    -------
    1 - r_N.

    Examples
    --------
    >>> round(pre_norm_collapse(0.01, 1.0, 1.0, 0.32, 192) / 0.01, 5)
    0.01356
    """
    slope = attention + feed_forward
    start, moved = (second_moment + attention) / slope, second_moment / slope + 1
    grown = exp(lgamma(layers + moved) - lgamma(layers + start) + lgamma(start) - lgamma(moved))
    return gap * second_moment / (second_moment + slope * layers) * grown


@pre_norm_collapse.stable
def _(gap: Gap, second_moment: StartMoment, attention: Attention, feed_forward: FeedForward, layers: Layers) -> Any:
    slope = attention + feed_forward
    grown = _stable.gamma_ratio((second_moment + attention) / slope, feed_forward / slope, layers)
    return gap * second_moment / (second_moment + slope * layers) * grown


@formula(
    kind="approximation",
    source="fixed point of a pre-norm layer's correlation, with k(r) = 1/pi + r/2 + (1/2 - 1/pi) r^2",
    status="derived",
    symbol="r*",
    domain="many layers, long sequences, ReLU, a_F at most V",
    accuracy=0.007,
    measure="absolute",
)
def pre_norm_correlation_limit(
    attention: Annotated[
        Any,
        Domain(0, symbol="V", unit="per feature", typical=(0.5, 2)),
        "width times value variance times width times output variance, at least a_F; attention adds V r",
    ],
    feed_forward: Annotated[FeedForward, "second moment that a ReLU part adds, before dropout"],
    dropout: Annotated[Dropout, "dropout rate of both blocks' outputs"],
) -> Any:
    r"""Correlation at which dropout stops rank collapse in a deep pre-norm stack.

    .. math:: r^* (V r^* + a_F) = (1-p) \left(V r^* + a_F \left(\tfrac{1}{\pi} + \tfrac{r^*}{2}
              + (\tfrac12 - \tfrac1\pi) {r^*}^2\right)\right)

    Returns
    -------
    r*, the positive root; 1 without dropout. Where a_F exceeds V, up to 0.02 off at five times V, it refuses.

    Examples
    --------
    >>> round(pre_norm_correlation_limit(1.0, 0.32, 0.0), 12), round(pre_norm_correlation_limit(1.0, 0.32, 0.1), 4)
    (1.0, 0.8746)
    """
    keep = 1 - dropout
    square = attention - keep * feed_forward * (pi - 2) / (2 * pi)
    line = feed_forward - keep * (attention + feed_forward / 2)
    require(attention >= feed_forward, "depth.pre_norm_correlation_limit: attention must be at least feed_forward")
    return (-line + sqrt(line**2 + 4 * square * keep * feed_forward / pi)) / (2 * square)


@formula(kind="exact", source="sum of branches of unit size", status="derived", symbol="q_N", domain="unit gains of the norms")
def sandwich_norm_second_moment(
    second_moment: StartMoment,
    blocks: Branches,
    branch: Annotated[BranchScale, "factor on the branches, or the gain of the norms at their outputs"] = 1,
) -> Any:
    r"""Second moment of a sandwich-norm stream, whose branches end in a norm: linear in depth for any weights.

    .. math:: q = q_0 + N_b \beta^2

    Returns
    -------
    q per feature. Gradients grow as :func:`pre_norm_gradient_growth` says with s = 2 beta^2 and beta^2 J/a in place of J.

    Examples
    --------
    >>> sandwich_norm_second_moment(1.0, 24)
    25.0
    """
    return second_moment + blocks * branch**2


@formula(
    kind="asymptotic",
    source="sum of the residual recursion of a pre-norm stack",
    status="derived",
    symbol="q_N",
    accuracy=0.13,
    within={"blocks": (50, math.inf)},
    given="a correlation of the input from 0.2, attention that adds at least half of a, q_0 at most a",
)
def pre_norm_growth(
    second_moment: StartMoment,
    block_moment: Annotated[
        Any,
        Domain(0, symbol="a", unit="per feature", typical=(0.1, 3)),
        "second moment that one block adds (attention and feed-forward together) once the correlation no longer changes",
    ],
    blocks: Annotated[Any, Domain(0, closed_low=True, symbol="N", unit="blocks", typical=(1, 200)), "blocks"],
) -> Any:
    r"""Second moment of a pre-norm stream after N blocks that each add a: it grows linearly.

    .. math:: q_N = q_0 + N a

    Returns
    -------
    q_N per feature. Blocks add less or more while the correlation settles, and that takes a power of the depth: with attention
    that adds a_A r and a ReLU feed-forward part that adds a_F, 1 - r falls as N^(-h), h = a_A/(a_A + a_F), and so does the
    remainder relative to q_N. For Xavier h is 0.76: at r = 0.2 this is 11 % too large after 50 blocks, 2 % after 400.

    Examples
    --------
    >>> round(pre_norm_growth(1.0, 1.32, 192), 2)
    254.44
    """
    return second_moment + blocks * block_moment
