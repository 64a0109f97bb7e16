"""Laws of depth: what a stack of equal residual blocks does to the moments of a signal and of its gradient.

Symbols as in :mod:`.moments`: q and c are second moment and covariance of the stream, r = c/q its correlation between tokens,
gamma the gradient's second moment, p dropout, lambda and beta the factors on skip and branch. A layer is an attention block and
a feed-forward block, which add a_A and a_F to the stream and whose gradients gain J_A and J_F, all at a norm's unit input.
``depthwidth.analysis.propagation`` walks real trees, whose a and J move with the correlation; these say in one line what the
walk comes to once they no longer do.

A gradient has two parts that go their own ways: gamma - kappa, in which the tokens' gradients differ, and kappa, which they
share. Where tokens have aligned without dropout, attention passes on the second alone: J_A is 0 for the first and a_A for the
second, while a ReLU part has J_F = a_F for both.
"""

from __future__ import annotations

from typing import Annotated, Any

from ..formula import Domain, formula
from ..mathematics import acos, exp, lgamma, pi, sqrt
from ._regime import require
from .moments import (
    KEDIA,
    BranchScale,
    Correlation,
    Dropout,
    Scale,
    SecondMoment,
    post_norm_log_drift,
    post_norm_log_variance,
    pre_norm_growth,
)

Attention = Annotated[Any, Domain(0, symbol="a_A", unit="per feature", typical=(0.3, 2))]
FeedForward = Annotated[Any, Domain(0, symbol="a_F", unit="per feature", typical=(0.1, 1))]
AttentionGain = Annotated[Any, Domain(0, closed_low=True, symbol="J_A", typical=(0.05, 1))]
FeedForwardGain = Annotated[Any, Domain(0, closed_low=True, symbol="J_F", typical=(0.05, 1))]
Strength = Annotated[Any, Domain(0, symbol="a", unit="per feature", typical=(0.1, 2))]
Gain = Annotated[Any, Domain(0, closed_low=True, symbol="J", typical=(0.05, 1.5))]
Slope = Annotated[Any, Domain(0, symbol="s", unit="per feature and layer", typical=(0.3, 3))]
Layers = Annotated[Any, Domain(0, closed_low=True, symbol="N", unit="layers", typical=(1, 200))]
Branches = Annotated[Any, Domain(1, closed_low=True, symbol="N_b", unit="blocks", typical=(2, 400))]
Gap = Annotated[Any, Domain(0, 1, closed_high=True, symbol="g_0", typical=(0.001, 0.1))]
Shrink = Annotated[Any, Domain(0, 1, symbol="lambda", typical=(0.5, 0.99))]
Start = Annotated[Any, Domain(-1, 1, closed_low=True, closed_high=True, symbol="r_0", typical=(0.05, 0.6))]
HiddenRatio = Annotated[Any, Domain(0, symbol="m", typical=(1, 8))]


# One block, at a norm's unit input.


@formula(kind="exact", source=f"{KEDIA}, feed-forward block (authors' code)", symbol="a_F", domain="infinite width")
def relu_block_second_moment(
    up_gain: Annotated[Any, Domain(0, symbol="A_1", typical=(0.3, 2))],
    down_gain: Annotated[Any, Domain(0, symbol="A_2", typical=(0.3, 2))],
    ratio: HiddenRatio = 4,
    dropout: Dropout = 0,
) -> Any:
    r"""What a ReLU feed-forward block adds to the stream's second moment; its gradient gains the same factor.

    .. math:: a_F = \frac{m A_1 A_2}{2 (1-p)}

    Parameters
    ----------
    up_gain, down_gain : width times the variance of one weight, of either matrix.
    ratio : m, hidden features over width.
    dropout : p of the block's output.

    Returns
    -------
    a_F per feature, at an input of second moment 1. J_F is the same number.

    Examples
    --------
    >>> round(relu_block_second_moment(0.4, 0.4), 6)
    0.32
    """
    return ratio * up_gain * down_gain / (2 * (1 - dropout))


@formula(kind="exact", source="Xavier's variances 2/(fan-in + fan-out) in the block above", status="derived", symbol="a_F")
def xavier_relu_block_second_moment(ratio: HiddenRatio) -> Any:
    r"""What a ReLU feed-forward block with Xavier's initialisation adds to the stream's second moment.

    .. math:: a_F = \frac{2 m}{(1+m)^2}

    Parameters
    ----------
    ratio : m, hidden features over width.

    Returns
    -------
    a_F per feature; largest, 1/2, at m = 1.

    Examples
    --------
    >>> xavier_relu_block_second_moment(4)
    0.32
    """
    return 2 * ratio / (1 + ratio) ** 2


@formula(
    kind="asymptotic",
    source=f"{KEDIA}, attention block (authors' code)",
    symbol="a_A",
    order=1,
    domain="sequences much longer than 1/r; score variance of order 1",
)
def attention_block_second_moment(
    value_gain: Annotated[Any, Domain(0, symbol="A_v", typical=(0.3, 2))],
    out_gain: Annotated[Any, Domain(0, symbol="A_o", typical=(0.3, 2))],
    correlation: Annotated[Any, Domain(0, 1, closed_high=True, symbol="r", typical=(0.2, 1))] = 1,
    dropout: Dropout = 0,
) -> Any:
    r"""What an attention block adds to the stream's second moment: averaging leaves of the values what tokens share.

    .. math:: a_A = \frac{A_v A_o r}{1-p}

    Parameters
    ----------
    value_gain, out_gain : width times the variance of one weight, of either matrix.
    correlation : r of the tokens at the norm.
    dropout : p of the block's output.

    Returns
    -------
    a_A per feature, at an input of second moment 1. What it leaves out falls as one over the length:
    :func:`~depthwidth.formulas.attention.output_second_moment` has it.

    Examples
    --------
    >>> attention_block_second_moment(1.0, 1.0)
    1.0
    """
    return value_gain * out_gain * correlation / (1 - dropout)


@formula(kind="exact", source=f"{KEDIA}, residual (authors' code)", symbol="r'", domain="branch and stream independent")
def residual_correlation(
    correlation: Correlation,
    branch_correlation: Annotated[Any, Domain(-1, 1, closed_low=True, closed_high=True, symbol="r_f", typical=(0.05, 0.95))],
    second_moment: SecondMoment,
    branch_moment: Strength,
    skip: Scale = 1,
    branch: BranchScale = 1,
) -> Any:
    r"""Correlation between tokens behind a residual sum: the mean of both, weighted by what each contributes.

    .. math:: r' = \frac{\lambda^2 q r + \beta^2 a r_f}{\lambda^2 q + \beta^2 a}

    Parameters
    ----------
    correlation : r of the stream.
    branch_correlation : r_f of the branch's output: 1 - p of attention over a long sequence, (1-p) k(r) of a ReLU part, with k
        the arc-cosine kernel E f f / E f^2.
    second_moment : q of the stream.
    branch_moment : a of the branch's output.
    skip, branch : lambda and beta, the factors on either.

    Returns
    -------
    r'.

    Examples
    --------
    >>> residual_correlation(0.2, 1.0, 1.0, 1.0)
    0.6
    """
    kept, added = skip**2 * second_moment, branch**2 * branch_moment
    return (kept * correlation + added * branch_correlation) / (kept + added)


# Pre-norm.


@formula(kind="exact", source="sum of the residual recursion", status="derived", symbol="q_N", domain="constant a_A and a_F")
def pre_norm_second_moment(
    second_moment: SecondMoment, attention: Attention, feed_forward: FeedForward, layers: Layers, branch: BranchScale = 1
) -> Any:
    r"""Second moment of a pre-norm stream after N layers whose skip is the plain sum: linear in depth.

    .. math:: q_N = q_0 + N \beta^2 (a_A + a_F)

    Parameters
    ----------
    second_moment : q_0 of the input.
    attention, feed_forward : a_A and a_F, what the two blocks of a layer add.
    layers : N.
    branch : beta, the factor on branches.

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
    second_moment: SecondMoment,
    attention: Attention,
    feed_forward: FeedForward,
    layers: Layers,
    skip: Shrink,
    branch: BranchScale,
) -> Any:
    r"""Second moment of a pre-norm stream whose skip is scaled down: it settles instead of growing.

    .. math:: q_N = \lambda^{4N} q_0 + \beta^2 (\lambda^2 a_A + a_F) \frac{1 - \lambda^{4N}}{1 - \lambda^4}

    Parameters
    ----------
    second_moment : q_0 of the input.
    attention, feed_forward : a_A and a_F, what the two blocks of a layer add.
    layers : N.
    skip : lambda < 1, the factor on the skip of either block; for 1 see :func:`pre_norm_second_moment`.
    branch : beta, the factor on branches.

    Returns
    -------
    q_N per feature; 1 at every depth where q_0 = a_A = a_F = 1 and lambda^2 + beta^2 = 1 (DeepScaleLM).

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
def pre_norm_gradient_growth(second_moment: SecondMoment, gain: Gain, slope: Slope, layers: Layers) -> Any:
    r"""How much a gradient gains on its way through N pre-norm layers in front of which the stream grows linearly.

    .. math:: \prod_{l=0}^{N-1} \left(1 + \frac{J}{q_0 + s l}\right)
              = \frac{\Gamma(N + (q_0+J)/s)\, \Gamma(q_0/s)}{\Gamma((q_0+J)/s)\, \Gamma(N + q_0/s)}

    Parameters
    ----------
    second_moment : q_0 in front of the first of these blocks; behind the first attention for feed-forward blocks.
    gain : J of the block at a norm's unit input.
    slope : s, what a layer adds to the stream.
    layers : N.

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


@formula(
    kind="asymptotic",
    source="Stirling's series of the ratio of Gamma functions",
    status="derived",
    symbol="G",
    order=1,
    domain="many layers",
)
def pre_norm_gradient_power_law(
    second_moment: SecondMoment,
    gain: Gain,
    slope: Slope,
    layers: Annotated[Any, Domain(0, symbol="N", unit="layers", typical=(10, 200))],
) -> Any:
    r"""The gradient of a deep pre-norm stack as a power of its depth.

    .. math:: \frac{\Gamma(q_0/s)}{\Gamma((q_0+J)/s)}\, N^{J/s}

    Parameters
    ----------
    second_moment : q_0 in front of the first of these blocks.
    gain : J of the block at a norm's unit input.
    slope : s, what a layer adds to the stream; J/s is the exponent.
    layers : N.

    Returns
    -------
    The leading term of :func:`pre_norm_gradient_growth`.

    Examples
    --------
    >>> round(pre_norm_gradient_power_law(1.32, 1.32, 1.32, 100), 6)
    100.0
    """
    return exp(lgamma(second_moment / slope) - lgamma((second_moment + gain) / slope)) * layers ** (gain / slope)


@formula(
    kind="exact",
    source="ratio of the two growth laws of a collapsing pre-norm stack",
    status="derived",
    symbol="x",
    domain="the exponent in the limit of many layers, p = 0, ReLU",
)
def pre_norm_collapse_exponent(attention: Attention, feed_forward: FeedForward) -> Any:
    r"""With which power of depth the tokens of a pre-norm stack become alike: 1 - r falls as N to this power.

    .. math:: x = -\frac{a_A}{a_A + a_F}

    Parameters
    ----------
    attention, feed_forward : a_A and a_F, what the two blocks of a layer add once tokens have aligned.

    Returns
    -------
    A number from -1 to 0. Attention adds to what tokens share alone; a ReLU part adds to their differences in proportion.

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
    domain="long sequences, p = 0, ReLU; within 2 % from g_0 = 0.1, within 1 % from 0.01",
)
def pre_norm_collapse(
    gap: Gap, second_moment: SecondMoment, attention: Attention, feed_forward: FeedForward, layers: Layers
) -> Any:
    r"""How far from alike the tokens of a pre-norm stack still are after N layers: rank collapse by a power of depth.

    .. math:: 1 - r_N = g_0 \frac{q_0}{q_0 + s N} \prod_{l=0}^{N-1} \left(1 + \frac{a_F}{q_0 + a_A + s l}\right),
              \quad s = a_A + a_F

    Parameters
    ----------
    gap : g_0 = 1 - r_0 of the input.
    second_moment : q_0 of the input.
    attention, feed_forward : a_A and a_F, what the two blocks of a layer add.
    layers : N.

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


@formula(
    kind="approximation",
    source="fixed point of a pre-norm layer's correlation, with k(r) = 1/pi + r/2 + (1/2 - 1/pi) r^2",
    status="derived",
    symbol="r*",
    domain="many layers, long sequences, ReLU, a_F at most V; within 0.007",
)
def pre_norm_correlation_limit(
    attention: Annotated[Any, Domain(0, symbol="V", unit="per feature", typical=(0.5, 2))],
    feed_forward: FeedForward,
    dropout: Dropout,
) -> Any:
    r"""Where dropout stops rank collapse in a deep pre-norm stack: the correlation of what a layer adds.

    .. math:: r^* (V r^* + a_F) = (1-p) \left(V r^* + a_F \left(\tfrac{1}{\pi} + \tfrac{r^*}{2}
              + (\tfrac12 - \tfrac1\pi) {r^*}^2\right)\right)

    Parameters
    ----------
    attention : V, width times value variance times width times output variance; attention adds V r.
    feed_forward : a_F, what a ReLU part adds before dropout.
    dropout : p of both blocks' outputs.

    Returns
    -------
    r*, the positive root; 1 without dropout.

    Examples
    --------
    >>> round(pre_norm_correlation_limit(1.0, 0.32, 0.0), 12), round(pre_norm_correlation_limit(1.0, 0.32, 0.1), 4)
    (1.0, 0.8746)
    """
    keep = 1 - dropout
    square = attention - keep * feed_forward * (pi - 2) / (2 * pi)
    line = feed_forward - keep * (attention + feed_forward / 2)
    require(square > 0, "depth.pre_norm_correlation_limit: attention is too small beside feed_forward for the approximation")
    return (-line + sqrt(line**2 + 4 * square * keep * feed_forward / pi)) / (2 * square)


# Post-norm.


@formula(
    kind="exact",
    source="residual sum and the norm behind it",
    status="derived",
    symbol="f",
    domain="infinite width; constant a and J",
)
def post_norm_gradient_factor(gain: Gain, strength: Strength, skip: Scale = 1, branch: BranchScale = 1) -> Any:
    r"""By what one post-norm block multiplies a gradient on its way back.

    .. math:: f = \frac{\lambda^2 + \beta^2 J}{\lambda^2 + \beta^2 a}

    Parameters
    ----------
    gain : J of the branch.
    strength : a, what the branch adds, dropout included. A gradient that tokens share passes dropout as it is, so that f is
        below 1 for it even where J without dropout is a.
    skip, branch : lambda and beta, the factors on skip and branch.

    Returns
    -------
    f; 1 where J = a, and 1/(1+a) where the branch gives nothing back.

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
    r"""How much a gradient gains, or loses, on its way through N post-norm layers: exponential in depth.

    .. math:: \left(\frac{(1 + J_A)(1 + J_F)}{(1 + a_A)(1 + a_F)}\right)^N

    Parameters
    ----------
    attention_gain, feed_forward_gain : J_A and J_F.
    attention, feed_forward : a_A and a_F, what the two blocks of a layer add.
    layers : N.

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
    domain="long sequences, p = 0, ReLU; within 6 % from g_0 = 0.1, within 1 % from 0.01",
)
def post_norm_collapse(gap: Gap, attention: Attention, layers: Layers) -> Any:
    r"""How far from alike the tokens of a post-norm stack still are after N layers: rank collapse at an exponential rate.

    .. math:: 1 - r_N = g_0 (1 + a_A)^{-N}

    Parameters
    ----------
    gap : g_0 = 1 - r_0 of the input.
    attention : a_A, what an attention block adds once tokens have aligned.
    layers : N.

    Returns
    -------
    1 - r_N. The feed-forward parts leave it as it is, to first order in 1 - r.

    Examples
    --------
    >>> post_norm_collapse(0.5, 1.0, 4)
    0.03125
    """
    return gap * (1 + attention) ** (-layers)


# Sandwich norm.


@formula(kind="exact", source="sum of branches of unit size", status="derived", symbol="q_N", domain="unit gains of the norms")
def sandwich_norm_second_moment(second_moment: SecondMoment, blocks: Branches, branch: BranchScale = 1) -> Any:
    r"""Second moment of a stream to which every branch is added behind a norm of its own: linear, whatever the weights.

    .. math:: q = q_0 + N_b \beta^2

    Parameters
    ----------
    second_moment : q_0 of the input.
    blocks : N_b, residual blocks; two a layer.
    branch : beta, the factor on branches, or the gain of the norms behind them.

    Returns
    -------
    q per feature. Gradients grow as :func:`pre_norm_gradient_growth` says with s = 2 beta^2 and beta^2 J/a in place of J.

    Examples
    --------
    >>> sandwich_norm_second_moment(1.0, 24)
    25.0
    """
    return second_moment + blocks * branch**2


# DeepScaleLM: lambda^2 + beta^2 = 1 and beta^2 = k/N_b^alpha.


@formula(kind="exact", source="product of lambda^2 + beta^2 J", status="derived", symbol="G", domain="constant J")
def deepscale_gradient_gain(
    gain: Gain,
    blocks: Branches,
    k: Annotated[Any, Domain(0, symbol="k", typical=(0.5, 1.4))] = 2,
    alpha: Annotated[Any, Domain(0, symbol="alpha", typical=(0.5, 1.5))] = 1,
) -> Any:
    r"""How much a gradient gains through a DeepScaleLM stack whose blocks have one gain J.

    .. math:: \left(1 + \frac{k (J - 1)}{N_b^\alpha}\right)^{N_b}

    Parameters
    ----------
    gain : J of a block at unit input.
    blocks : N_b, residual blocks; two a layer.
    k, alpha : beta^2 = k / N_b^alpha, which is at most 1.

    Returns
    -------
    The ratio of gamma at the input to gamma at the output, below :func:`deepscale_gradient_bound`.

    Examples
    --------
    >>> round(deepscale_gradient_gain(0.0, 384), 4), round(deepscale_gradient_gain(1.0, 384), 4)
    (0.1346, 1.0)
    """
    share = k / blocks**alpha
    require(share <= 1, "depth.deepscale_gradient_gain: k is more than blocks to the power alpha, so that beta exceeds 1")
    return (1 + share * (gain - 1)) ** blocks


@formula(
    kind="exact",
    source=f"1 + x <= e^x on every block; settings of {KEDIA}",
    status="derived",
    symbol="G",
    domain="a bound, with J the largest gain of a block; the paper's own proof was not available",
)
def deepscale_gradient_bound(
    gain: Gain,
    blocks: Branches,
    k: Annotated[Any, Domain(0, symbol="k", typical=(0.5, 2))] = 2,
    alpha: Annotated[Any, Domain(0, symbol="alpha", typical=(0.5, 1.5))] = 1,
) -> Any:
    r"""The most that a gradient can gain through a DeepScaleLM stack; free of depth for alpha = 1.

    .. math:: e^{k (J - 1) N_b^{1-\alpha}}

    Parameters
    ----------
    gain : J, the largest of any block.
    blocks : N_b, residual blocks; two a layer.
    k, alpha : beta^2 = k / N_b^alpha.

    Returns
    -------
    A bound on the ratio of gamma at the input to gamma at the output; for alpha < 1 it is exponential in a power of depth.

    Examples
    --------
    >>> round(deepscale_gradient_bound(2.0, 384), 4), round(deepscale_gradient_bound(2.0, 2000), 4)
    (7.3891, 7.3891)
    """
    return exp(k * (gain - 1) * blocks ** (1 - alpha))


@formula(
    kind="asymptotic",
    source=f"limit of many layers of the correlation recursion of {KEDIA}",
    status="derived",
    symbol="dr/dtau",
    order=1,
    domain="unit blocks, lambda^2 + beta^2 = 1, ReLU, long sequences",
)
def deepscale_correlation_rate(correlation: Correlation, dropout: Dropout) -> Any:
    r"""How fast the correlation of tokens moves along a DeepScaleLM stack of unit blocks.

    .. math:: \frac{dr}{d\tau} = (1-p)(1 + k(r)) - 2 r, \quad
              k(r) = \frac{\sqrt{1-r^2} + (\pi - \arccos r)\, r}{\pi}

    Parameters
    ----------
    correlation : r.
    dropout : p.

    Returns
    -------
    Per unit of tau, the sum of beta^2 over layers: 1 for the whole stack at k = 2, alpha = 1, whatever its depth.

    Examples
    --------
    >>> round(deepscale_correlation_rate(0.0, 0.0), 5), deepscale_correlation_rate(1.0, 0.0)
    (1.31831, 0.0)
    """
    kernel = (sqrt(1 - correlation**2) + (pi - acos(correlation)) * correlation) / pi
    return (1 - dropout) * (1 + kernel) - 2 * correlation


@formula(
    kind="approximation",
    source="the rate above with k(r) = 1/pi + r/2 + (1/2 - 1/pi) r^2, a Riccati equation",
    status="derived",
    symbol="r",
    domain="as the rate's, r_0 >= 0; within 0.006",
)
def deepscale_correlation(start: Start, time: Annotated[Any, Domain(0, closed_low=True, symbol="tau", typical=(0.1, 3))],
                          dropout: Dropout) -> Any:  # fmt: skip
    r"""Correlation of tokens along a DeepScaleLM stack.

    .. math:: r(\tau) = \frac{r_- - w r_+}{1 - w}, \quad w = \frac{r_0 - r_-}{r_0 - r_+} e^{-\tau\sqrt{B^2 - 4AC}}

    Parameters
    ----------
    start : r_0 of the input.
    time : tau, the sum of beta^2 over layers; 1 behind the last one at k = 2, alpha = 1.
    dropout : p.

    Returns
    -------
    r. The roots of A r^2 + B r + C are r_- and r_+, with A = (1-p)(1/2 - 1/pi), B = (1-p)/2 - 2 and C = (1-p)(1 + 1/pi).

    Examples
    --------
    >>> round(deepscale_correlation(0.2, 1.0, 0.0), 3), round(deepscale_correlation(0.2, 1.0, 0.1), 3)
    (0.764, 0.671)
    """
    low, high, root = _riccati(1 - dropout)
    w = (start - low) / (start - high) * exp(-root * time)
    return (low - w * high) / (1 - w)


@formula(
    kind="approximation",
    source="fixed point of the rate above with k(r) = 1/pi + r/2 + (1/2 - 1/pi) r^2",
    status="derived",
    symbol="r*",
    domain="as the rate's; within 0.006",
)
def deepscale_correlation_limit(dropout: Dropout) -> Any:
    r"""The correlation towards which tokens move in a stack of unit ReLU blocks; dropout keeps it below 1.

    .. math:: r^* = \frac{-B - \sqrt{B^2 - 4AC}}{2A}

    Parameters
    ----------
    dropout : p.

    Returns
    -------
    r*, with A, B and C as in :func:`deepscale_correlation`.

    Examples
    --------
    >>> round(deepscale_correlation_limit(0.0), 12), round(deepscale_correlation_limit(0.1), 4)
    (1.0, 0.8399)
    """
    return _riccati(1 - dropout)[0]


def _riccati(keep: Any) -> tuple[Any, Any, Any]:
    """Roots of A r^2 + B r + C, and the root of its discriminant."""
    a, b, c = keep * (pi - 2) / (2 * pi), keep / 2 - 2, keep * (pi + 1) / pi
    root = sqrt(b**2 - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a), root


# Finite width.


@formula(
    kind="asymptotic",
    source="second moment of the squared singular values of a product of Gaussian matrices around a diagonal",
    status="derived",
    symbol="mu_2",
    order=1,
    domain="width to infinity",
)
def feed_forward_matrix_moment(
    ratio: HiddenRatio,
    slope_kurtosis: Annotated[Any, Domain(1, closed_low=True, symbol="kappa_s", typical=(1, 3))] = 2,
) -> Any:
    r"""How unevenly a plain feed-forward part stretches directions: tr (J J')^2 / d over (tr J J' / d)^2.

    .. math:: \mu_2 = 2 + \frac{\kappa_s}{m}

    Derivation: docs/derivations/post-norm.md, (N3).

    Parameters
    ----------
    ratio : m, hidden features over width.
    slope_kurtosis : E f'^4 / (E f'^2)^2; 2 for ReLU, whose slope is 0 or 1, and 1 for a linear map.

    Returns
    -------
    mu_2; 3 for two square matrices in a row, as in attention, where m = 1 and the slope is 1.

    Examples
    --------
    >>> feed_forward_matrix_moment(4), feed_forward_matrix_moment(1, 1)
    (2.5, 3.0)
    """
    return 2 + slope_kurtosis / ratio


@formula(
    kind="asymptotic",
    source="variance of the squared length of a random feed-forward part's output",
    status="derived",
    symbol="omega",
    order=1,
    domain="width to infinity",
)
def feed_forward_matrix_spread(
    ratio: HiddenRatio,
    kurtosis: Annotated[Any, Domain(1, closed_low=True, symbol="kappa_4", typical=(2, 8))] = 6,
) -> Any:
    r"""How much the size of a feed-forward part's output varies between draws of its weights: d times the relative variance.

    .. math:: \omega = 2 + \frac{\kappa_4 - 1}{m}

    Derivation: docs/derivations/post-norm.md, (N4).

    Parameters
    ----------
    ratio : m, hidden features over width.
    kurtosis : E f^4 / (E f^2)^2 of the hidden features; 6 for ReLU, 3 for a linear map.

    Returns
    -------
    omega; 4 for two square matrices in a row, as in attention, where m = 1 and the kurtosis is 3.

    Examples
    --------
    >>> feed_forward_matrix_spread(4), feed_forward_matrix_spread(1, 3)
    (3.25, 4.0)
    """
    return 2 + (kurtosis - 1) / ratio


@formula(
    kind="asymptotic",
    source="sum of the two blocks of a layer",
    status="derived",
    symbol="E ln",
    order=1,
    domain="all tokens alike (r near 1), no dropout, ReLU",
)
def post_norm_layer_log_drift(
    attention: Attention,
    feed_forward: FeedForward,
    width: Annotated[Any, Domain(0, symbol="d", unit="dimensions", typical=(64, 4096))],
    ratio: HiddenRatio = 4,
) -> Any:
    r"""Expected logarithm of the factor by which one deep post-norm layer multiplies the gradient's second moment.

    .. math:: E \ln f = -\frac{2 a_A + 2 a_A^2}{(1+a_A)^2 d} - \frac{2 a_F + (1 + 2/m) a_F^2}{(1+a_F)^2 d}

    Parameters
    ----------
    attention, feed_forward : a_A and a_F, what the two blocks of a layer add.
    width : d.
    ratio : m, hidden features over width.

    Returns
    -------
    A number below zero; times the layers, the logarithm of the typical gradient over that of infinite width.

    Examples
    --------
    >>> round(post_norm_layer_log_drift(1.0, xavier_relu_block_second_moment(4), 1), 3)
    -1.455
    """
    return post_norm_log_drift(attention, width, 3) + post_norm_log_drift(
        feed_forward, width, feed_forward_matrix_moment(ratio)
    )


@formula(
    kind="asymptotic",
    source="sum of the two blocks of a layer",
    status="derived",
    symbol="Var ln",
    order=1,
    domain="all tokens alike (r near 1), no dropout, ReLU",
)
def post_norm_layer_log_variance(
    attention: Attention,
    feed_forward: FeedForward,
    width: Annotated[Any, Domain(0, symbol="d", unit="dimensions", typical=(64, 4096))],
    ratio: HiddenRatio = 4,
) -> Any:
    r"""Variance over draws of the logarithm of one deep post-norm layer's gradient factor.

    .. math:: \mathrm{Var} \ln f = \frac{2 (4 a_A + 4 a_A^2)}{(1+a_A)^2 d} + \frac{2 (4 a_F + (2 + 5/m) a_F^2)}{(1+a_F)^2 d}

    Parameters
    ----------
    attention, feed_forward : a_A and a_F, what the two blocks of a layer add.
    width : d.
    ratio : m, hidden features over width.

    Returns
    -------
    A variance; times the layers, that of the logarithm of the gradient's second moment.

    Examples
    --------
    >>> round(post_norm_layer_log_variance(1.0, xavier_relu_block_second_moment(4), 1), 2)
    5.85
    """
    return post_norm_log_variance(attention, width, 4) + post_norm_log_variance(
        feed_forward, width, feed_forward_matrix_spread(ratio)
    )
