"""The published forms of Kedia et al. 2024, for comparison."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any

from ...formula import Domain, Formula, formula
from ...mathematics import exp
from ..saturation._domains import RowLength, RowVariance
from ._domains import KEDIA, Correlation, Dropout, Gamma, Raw, Value, ValueGain, Width

GradientCorrelation = Annotated[
    Any,
    Domain(-1, 1, closed_low=True, closed_high=True, symbol="r_g", typical=(0.02, 0.9)),
    "correlation between tokens of the output's gradient, kappa/gamma",
]
TwoTokens = Annotated[
    Any, Domain(2, closed_low=True, integer=True, symbol="L", unit="tokens", typical=(64, 2048)), "entries of the row"
]
_PUBLISHED = "row of 300 and more, score variance well below 1"
_UNIFORM = "uniform attention, scores of variance 0; the authors use it at any score variance"


def _softmax_published(symbol: str, accuracy: float) -> Callable[[Callable[..., Any]], Formula]:
    """The decorator of the forms for a softmax of independent logits, which have one source and one range."""
    return formula(
        kind="approximation",
        source=f"{KEDIA}, softmax",
        status="primary",
        symbol=symbol,
        domain=_PUBLISHED,
        accuracy=accuracy,
        within={"variance": (0, 0.25), "length": (300, math.inf)},
    )


ProbabilityGradient = Annotated[Gamma, "second moment of a probability's gradient"]


@_softmax_published("v", accuracy=0.008)
def softmax_variance_published(variance: RowVariance, length: RowLength) -> Any:
    r"""Variance of one softmax probability, log-normal form.

    .. math:: v = \frac{e^{\sigma^2} - 1}{L^2}

    Returns
    -------
    Variance of p_j. Too high by 16 % at L = 64, sigma^2 = 1, by 54 % at 16, 1, by 477 % at 64, 4.

    Examples
    --------
    >>> round(softmax_variance_published(1.0, 64) * 64**2, 4)
    1.7183
    """
    return (exp(variance) - 1) / length**2


@_softmax_published("v", accuracy=0.016)
def softmax_variance_full_published(variance: RowVariance, length: TwoTokens) -> Any:
    r"""Variance of one softmax probability, the longer log-normal form.

    .. math:: v = \frac{(E - 1) E^2}{((L-1) e^{\sigma^2} + 1)^2}, \quad E = e^{\sigma^2 L/(L-1)}

    Returns
    -------
    Variance of p_j. Further off than the short form: 25 % too high at L = 64, sigma^2 = 1.

    Examples
    --------
    >>> round(softmax_variance_full_published(1.0, 64) * 64**2, 2)
    1.86
    """
    e = exp(variance * length / (length - 1))
    return (e - 1) * e**2 / ((length - 1) * exp(variance) + 1) ** 2


@_softmax_published("gamma_in", accuracy=0.009)
def softmax_gradient_published(variance: RowVariance, length: RowLength, gamma: ProbabilityGradient = 1) -> Any:
    r"""Second moment of a logit's gradient for an uncorrelated gradient of the probabilities, log-normal form.

    .. math:: \gamma_{\text{in}} = \frac{e^{\sigma^2} \gamma}{L^2}

    Returns
    -------
    Units of gamma. The exact value is gamma T/L: this is 25 % too high at L = 64, sigma^2 = 1.

    Examples
    --------
    >>> round(softmax_gradient_published(0.0, 10), 4)
    0.01
    """
    return exp(variance) * gamma / length**2


@_softmax_published("gamma_in", accuracy=0.01)
def softmax_gradient_full_published(variance: RowVariance, length: TwoTokens, gamma: ProbabilityGradient = 1) -> Any:
    r"""Second moment of a logit's gradient, the longer log-normal form.

    .. math:: \gamma_{\text{in}} = \gamma\left(v + \frac{1}{L^2}\right)

    Returns
    -------
    Units of gamma; v is :func:`softmax_variance_full_published`.

    Examples
    --------
    >>> round(softmax_gradient_full_published(0.0, 10), 4)
    0.01
    """
    return gamma * (softmax_variance_full_published.body(variance, length) + 1 / length**2)


@formula(
    kind="approximation",
    source=f"{KEDIA}, single-head attention",
    status="primary",
    symbol="q_out",
    domain=_PUBLISHED,
    accuracy=0.013,
    within={
        "correlation": (0.02, 1),
        "raw_score_variance": (0, 0.25),
        "width": (64, math.inf),
        "length": (300, math.inf),
        "dropout": (0, 0.5),
    },
)
def output_second_moment_published(
    value_moment: Value,
    correlation: Correlation,
    raw_score_variance: Annotated[
        Raw, "variance of a score; the code writes it as d^2 times the product of two weight variances"
    ],
    width: Width,
    length: RowLength,
    dropout: Annotated[Dropout, "dropout rate of the probabilities; the term r p/(1-p) P of the common part is missing"] = 0,
) -> Any:
    r"""Second moment of the attention output, published form.

    .. math:: V\left[r + \frac{(1-r)^2 (L-1) w + e^{(1-r)s} [4(1-r)^2 w + 1 - r]/(1-p)}{L}\right], \quad w = s/d

    Returns
    -------
    Per feature, units of V. Measured error over 32 settings at s = 1: median 1.1 %, largest 15 %; at s = 4: 38 and 447 %.

    Examples
    --------
    >>> round(output_second_moment_published(1.0, 0.0, 1.0, 256, 64), 4)
    0.047
    """
    apart, w = 1 - correlation, raw_score_variance / width
    own = exp(apart * raw_score_variance) / (1 - dropout) * (4 * apart**2 * w + apart)
    return value_moment * (correlation + (apart**2 * (length - 1) * w + own) / length)


@formula(
    kind="approximation",
    source=f"{KEDIA}, single-head attention",
    status="primary",
    symbol="c_out",
    domain=_PUBLISHED,
    accuracy=0.006,
    within={"correlation": (0.02, 1), "raw_score_variance": (0, 0.25), "width": (64, math.inf), "length": (300, math.inf)},
    given="self-attention",
)
def output_covariance_published(
    value_moment: Value, correlation: Correlation, raw_score_variance: Raw, width: Width, length: RowLength
) -> Any:
    r"""Covariance between two tokens of the attention output, published form.

    .. math:: V\left[r + \frac{2(1-r)^2 s/d + 1 - r}{L}\right]

    Returns
    -------
    Per feature, units of V. P2 is taken as 1/L, its value for uncorrelated queries.

    Examples
    --------
    >>> round(output_covariance_published(1.0, 0.0, 0.0, 256, 64), 4)
    0.0156
    """
    apart = 1 - correlation
    return value_moment * (correlation + (2 * apart**2 * raw_score_variance / width + apart) / length)


@formula(kind="exact", source=f"{KEDIA}, single-head attention", status="primary", symbol="gamma_in", domain=_UNIFORM)
def gradient_second_moment_published(
    value_gain: ValueGain, gamma: Gamma, gradient_correlation: GradientCorrelation, length: RowLength, dropout: Dropout = 0
) -> Any:
    r"""Second moment of the input's gradient, published form: the value path with uniform attention.

    .. math:: g_V\, \gamma\, \frac{1 + (L-1) r_g (1-p)}{L(1-p)}

    Returns
    -------
    Per feature, units of gamma. It is :func:`value_gradient_second_moment` at P = P2 = 1/L, and leaves out what comes through
    queries and keys: too low by up to 86 % at s = 1 and 98 % at s = 4 (median over settings 40 and 76 %).

    Examples
    --------
    >>> gradient_second_moment_published(1.0, 1.0, 0.0, 64)
    0.015625
    """
    return value_gain * gamma * (1 + (length - 1) * gradient_correlation * (1 - dropout)) / (length * (1 - dropout))


@formula(kind="exact", source=f"{KEDIA}, single-head attention", status="primary", symbol="kappa_in", domain=_UNIFORM)
def gradient_covariance_published(
    value_gain: ValueGain, gamma: Gamma, gradient_correlation: GradientCorrelation, length: RowLength
) -> Any:
    r"""Covariance between two tokens of the input's gradient, published form.

    .. math:: g_V\, \gamma\, \frac{1 + (L-1) r_g}{L}

    Returns
    -------
    Per feature, units of gamma; :func:`value_gradient_covariance` at P = P2 = 1/L.

    Examples
    --------
    >>> gradient_covariance_published(1.0, 1.0, 0.0, 64)
    0.015625
    """
    return value_gain * gamma * (1 + (length - 1) * gradient_correlation) / length
