"""Rank collapse and entropy collapse of attention."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, formula
from ...mathematics import log, maximum, sqrt
from ...numerics.bounds import LARGEST_VARIANCE
from .._regime import require
from ._domains import Length
from .averages import softmax_average

_GIORLANDINO = "Giorlandino and Goldt 2025, arXiv 2505.24333"
Beta = Annotated[Any, Domain(0, 1e3, symbol="beta", typical=(0.5, 4.0)), "query-key gain; a raw score has variance beta^2 ln n"]
TokenCorrelation = Annotated[
    Any, Domain(0, 1, True, False, symbol="p", typical=(0.0, 0.9)), "correlation of two tokens of unit variance"
]
ValueVariance = Annotated[
    Any, Domain(0, symbol="sigma_v^2", typical=(0.5, 2.0)), "width times the variance of a value-output weight"
]


@formula(
    kind="asymptotic",
    source=f"{_GIORLANDINO}, authors' code",
    status="primary",
    symbol="beta_c",
    domain="n to infinity",
    accuracy=0.21,
    given="1024 tokens and more",
)
def entropy_collapse_gain(
    correlation: Annotated[TokenCorrelation, "correlation of two tokens at the input of the attention layer"],
) -> Any:
    r"""Query-key gain at the boundary between rank collapse (below) and entropy collapse (above).

    .. math:: \beta_c = \sqrt{\frac{2}{1 - p}}

    Returns
    -------
    beta: a raw score has variance beta^2 ln n. The same as :func:`condensation_point` for the part of the score that
    differs between tokens.

    Examples
    --------
    >>> entropy_collapse_gain(0.5)
    2.0
    """
    return sqrt(2 / (1 - correlation))


@formula(
    kind="asymptotic",
    source=f"{_GIORLANDINO}, authors' code",
    status="primary",
    symbol="q_att",
    domain="n to infinity",
    accuracy=0.24,
    measure="absolute",
    given="1024 tokens and more",
)
def collapsed_output_second_moment(beta: Beta, correlation: TokenCorrelation) -> Any:
    r"""Second moment of the attention output in the limit of long rows, before the value weights.

    .. math:: q = p + (1 - p)\, \max\!\left(0,\, 1 - \beta_c/\beta\right)

    Returns
    -------
    p (uniform attention: rank collapse) to 1 (one-hot: entropy collapse). The covariance is p in both phases.

    Examples
    --------
    >>> collapsed_output_second_moment(4.0, 0.5)
    0.75
    """
    return correlation + (1 - correlation) * maximum(0, 1 - entropy_collapse_gain.body(correlation) / beta)


@formula(kind="exact", source=f"finite-n form of {_GIORLANDINO}, derived for this package", status="derived", symbol="q_att")
def finite_output_second_moment(beta: Beta, correlation: TokenCorrelation, length: Annotated[Length, "tokens"]) -> Any:
    r"""Second moment of the attention output at a finite number of tokens, before the value weights.

    .. math:: q = p + (1 - p)\, E \textstyle\sum_j p_j^2\big|_{\sigma^2 = (1 - p) \beta^2 \ln n}

    Returns
    -------
    p to 1, smooth across the boundary.

    Examples
    --------
    >>> round(finite_output_second_moment(4.0, 0.5, 1024), 4)
    0.7868
    """
    spread = (1 - correlation) * beta**2 * log(length)
    require(
        spread <= LARGEST_VARIANCE,
        f"saturation.finite_output_second_moment: the scores' variance exceeds {LARGEST_VARIANCE:g}",
    )
    return correlation + (1 - correlation) * softmax_average("P", spread, length)


@formula(
    kind="exact", source=f"{_GIORLANDINO}, residual block of the authors' code without biases", status="primary", symbol="p'"
)
def residual_attention_correlation(
    output_moment: Annotated[
        Any,
        Domain(0, 1, True, True, symbol="q_att", typical=(0.5, 1.0)),
        "second moment of the attention output before the value weights",
    ],
    correlation: Annotated[TokenCorrelation, "correlation of two tokens of unit variance at the layer's input"],
    value_variance: ValueVariance,
    residual_gain: Annotated[Any, Domain(0, closed_low=True, symbol="alpha", typical=(0.1, 3.0)), "factor on the skip path"],
) -> Any:
    r"""Correlation of two tokens after an attention layer, its residual connection and a norm.

    .. math:: p' = \frac{(\sigma_v^2 + \alpha^2)\, p}{\sigma_v^2 q_{att} + \alpha^2}

    Returns
    -------
    0 to 1.

    Examples
    --------
    >>> residual_attention_correlation(0.5, 0.5, 1.0, 1.0)
    0.6666666666666666
    """
    kept = residual_gain**2
    return (value_variance + kept) * correlation / (value_variance * output_moment + kept)


@formula(
    kind="asymptotic",
    source=f"{_GIORLANDINO}: stability of p = 1, derived again for this package",
    status="rederived",
    symbol="alpha_c",
    domain="query-key gain below the boundary; the MLP without a residual of its own",
    accuracy=0.025,
    within={"slope": (1, 3)},
    given="64 tokens and more",
)
def critical_residual_gain(
    value_variance: ValueVariance,
    slope: Annotated[
        Any,
        Domain(1, symbol="chi", typical=(1.1, 3.0)),
        "factor by which the rest of the block multiplies 1 - p of two almost equal tokens",
    ],
) -> Any:
    r"""Residual gain above which tokens do not collapse onto one another, below the entropy-collapse boundary.

    .. math:: \alpha_c = \frac{\sigma_v}{\sqrt{\chi - 1}}

    Returns
    -------
    alpha.

    Notes
    -----
    One attention layer with uniform weights multiplies 1 - p by alpha^2/(alpha^2 + sigma_v^2).

    At chi of 1 or below (a ReLU network at its critical point has exactly 1) every finite residual gain ends in rank
    collapse.

    Examples
    --------
    >>> critical_residual_gain(1.0, 2.0)
    1.0
    """
    return sqrt(value_variance / (slope - 1))
