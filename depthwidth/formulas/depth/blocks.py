"""One residual block at a norm's unit input: the second moment it adds, and the spread of its matrices."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, formula
from ..moments import KEDIA, BranchScale, Correlation, Dropout, Scale, SecondMoment
from ._domains import HiddenRatio, Strength

OutputDropout = Annotated[Dropout, "dropout rate of the block's output"]


# One block, at a norm's unit input.
@formula(kind="exact", source=f"{KEDIA}, feed-forward block (authors' code)", symbol="a_F", domain="infinite width")
def relu_block_second_moment(
    up_gain: Annotated[
        Any, Domain(0, symbol="A_1", typical=(0.3, 2)), "width times the variance of a weight of the first matrix"
    ],
    down_gain: Annotated[
        Any, Domain(0, symbol="A_2", typical=(0.3, 2)), "width times the variance of a weight of the second matrix"
    ],
    ratio: HiddenRatio = 4,
    dropout: OutputDropout = 0,
) -> Any:
    r"""Second moment that a ReLU feed-forward block adds to the stream; its gradient gains the same factor.

    .. math:: a_F = \frac{m A_1 A_2}{2 (1-p)}

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
    r"""Second moment that a ReLU feed-forward block with Xavier's initialisation adds to the stream.

    .. math:: a_F = \frac{2 m}{(1+m)^2}

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
    accuracy=0.025,
    within={"correlation": (0.1, 1)},
    given="rows of 1024 entries and more, a score variance of at most 1, infinite width",
)
def attention_block_second_moment(
    value_gain: Annotated[Any, Domain(0, symbol="A_v", typical=(0.3, 2)), "width times the variance of a value weight"],
    out_gain: Annotated[Any, Domain(0, symbol="A_o", typical=(0.3, 2)), "width times the variance of an output weight"],
    correlation: Annotated[
        Any, Domain(0, 1, closed_high=True, symbol="r", typical=(0.2, 1)), "correlation of the tokens at the norm"
    ] = 1,
    dropout: OutputDropout = 0,
) -> Any:
    r"""Second moment that an attention block adds to the stream: averaging keeps only the common part of the tokens' values.

    .. math:: a_A = \frac{A_v A_o r}{1-p}

    Returns
    -------
    a_A per feature, at an input of second moment 1. The part it leaves out falls as one over the length:
    :func:`~depthwidth.formulas.attention.output_second_moment` has it.

    Examples
    --------
    >>> attention_block_second_moment(1.0, 1.0)
    1.0
    """
    return value_gain * out_gain * correlation / (1 - dropout)


@formula(kind="exact", source=f"{KEDIA}, residual (authors' code)", symbol="r'", domain="branch and stream independent")
def residual_correlation(
    correlation: Annotated[Correlation, "correlation of the stream"],
    branch_correlation: Annotated[
        Any,
        Domain(-1, 1, closed_low=True, closed_high=True, symbol="r_f", typical=(0.05, 0.95)),
        "correlation of the branch's output: 1 - p for attention over a long sequence, (1-p) k(r) for a ReLU part",
    ],
    second_moment: Annotated[SecondMoment, "second moment of the stream"],
    branch_moment: Annotated[Strength, "second moment of the branch's output"],
    skip: Scale = 1,
    branch: BranchScale = 1,
) -> Any:
    r"""Correlation between tokens after a residual sum: the mean of both correlations, weighted by second moment.

    .. math:: r' = \frac{\lambda^2 q r + \beta^2 a r_f}{\lambda^2 q + \beta^2 a}

    Returns
    -------
    r'.

    Notes
    -----
    k is the arc-cosine kernel E f f / E f^2.

    Examples
    --------
    >>> residual_correlation(0.2, 1.0, 1.0, 1.0)
    0.6
    """
    kept, added = skip**2 * second_moment, branch**2 * branch_moment
    return (kept * correlation + added * branch_correlation) / (kept + added)


@formula(
    kind="asymptotic",
    source="second moment of the squared singular values of a product of Gaussian matrices around a diagonal",
    status="derived",
    symbol="mu_2",
    order=1,
    domain="width to infinity",
    accuracy=0.055,
    within={"ratio": (0.25, 16), "slope_kurtosis": (1, 8), "even": (1, 1)},
    given="widths of 64 and more",
)
def feed_forward_matrix_moment(
    ratio: HiddenRatio,
    slope_kurtosis: Annotated[
        Any,
        Domain(1, closed_low=True, symbol="kappa_s", typical=(1, 3)),
        "E j^2 / (E j)^2 of a hidden feature's squared derivative j; 2 for ReLU, whose slope is 0 or 1, and 1 for a linear map",
    ] = 2,
    even: Annotated[
        Any,
        Domain(0, 1, closed_high=True, symbol="e", typical=(0.5, 1)),
        "sum of the squared shares of the first matrices in E j; 1 for a single one, 1/2 for two of equal shares",
    ] = 1,
) -> Any:
    r"""Unevenness of the singular values of a feed-forward part: tr (J J')^2 / d over (tr J J' / d)^2.

    .. math:: \mu_2 = 1 + e + \frac{\kappa_s}{m}

    Derivation: docs/derivations/post-norm.md, (N3).

    Returns
    -------
    mu_2; 3 for two square matrices in a row, as in attention, where m = 1 and the slope is 1.

    Examples
    --------
    >>> feed_forward_matrix_moment(4), feed_forward_matrix_moment(1, 1)
    (2.5, 3.0)
    """
    return 1 + even + slope_kurtosis / ratio


@formula(
    kind="asymptotic",
    source="variance of the squared length of a random feed-forward part's output",
    status="derived",
    symbol="omega",
    order=1,
    domain="width to infinity",
    accuracy=0.032,
    within={"ratio": (0.25, 16), "kurtosis": (1, 30)},
    given="widths of 64 and more",
)
def feed_forward_matrix_spread(
    ratio: HiddenRatio,
    kurtosis: Annotated[
        Any,
        Domain(1, closed_low=True, symbol="kappa_4", typical=(2, 8)),
        "E f^4 / (E f^2)^2 of the hidden features; 6 for ReLU, 3 for a linear map",
    ] = 6,
) -> Any:
    r"""Width times the relative variance, over draws of the weights, of the squared norm of a feed-forward part's output.

    .. math:: \omega = 2 + \frac{\kappa_4 - 1}{m}

    Derivation: docs/derivations/post-norm.md, (N4).

    Returns
    -------
    omega; 4 for two square matrices in a row, as in attention, where m = 1 and the kurtosis is 3.

    Examples
    --------
    >>> feed_forward_matrix_spread(4), feed_forward_matrix_spread(1, 3)
    (3.25, 4.0)
    """
    return 2 + (kurtosis - 1) / ratio
