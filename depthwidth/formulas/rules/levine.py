"""Levine et al. 2020: the width at which depth is balanced grows exponentially with the depth."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, fitted, formula
from ...mathematics import exp, lambertw, log, sqrt
from .._regime import require
from ._domains import BlockCoefficient, Depth, Parameters, Width

Intercept = Annotated[
    Any,
    Domain(symbol="a", unit="ln dimensions", typical=(4.5, 5.5)),
    "intercept of the curve, the natural logarithm of a width",
]
Slope = Annotated[Any, Domain(0, symbol="b", unit="per layer", typical=(0.04, 0.07)), "slope of the curve"]
VarianceA = Annotated[Any, Domain(0, closed_low=True, symbol="sigma_a^2", typical=(8e-4, 1e-3)), "variance of a in the fit"]
VarianceB = Annotated[
    Any,
    Domain(0, closed_low=True, symbol="sigma_b^2", unit="per squared layer", typical=(1.5e-6, 2e-6)),
    "variance of b in the fit",
]
CovarianceAB = Annotated[
    Any, Domain(symbol="sigma_ab", unit="per layer", typical=(-3.4e-5, 3.4e-5)), "covariance of a and b in the fit"
]
LEVINE = "Levine et al. 2020, arXiv 2006.12467"
_LEVINE_RANGE = "depths 6 to 48; other depths extrapolate the fit"
_LEVINE_BUDGETS = "3.3e6 to 2.8e9 parameters, where the depth is 6 to 48; other budgets extrapolate the fit"
_SIGMA = "the fit's statistical error only; its covariance is recalled and unconfirmed"


@formula(
    kind="fitted",
    source=f"{LEVINE}, fit of the transition width",
    status="secondary",
    symbol="d_x",
    domain=_LEVINE_RANGE,
    within={"depth": (6, 48)},
)
def levine_width(
    depth: Annotated[
        Any,
        Domain(0, closed_low=True, symbol="L", unit="layers", typical=(6, 48)),
        "number of blocks (attention and feed-forward)",
    ],
    a: Intercept = fitted("levine2020", "a"),
    b: Slope = fitted("levine2020", "b"),
) -> Any:
    r"""Width at which a network of this depth is balanced: the 2020 curve.

    .. math:: d_x(L) = e^{a + b L}

    Returns
    -------
    Width in dimensions. A wider network than this gains from depth, a narrower one from width.

    Notes
    -----
    Fitted on language models of depth 6 to 48. The statistical error is 1 to 4 % inside that range
    (:func:`levine_relative_width_error`); beyond it the exponential form itself is in dispute.

    Examples
    --------
    >>> round(levine_width(24), 3)
    584.642
    """
    return exp(a + b * depth)


@formula(kind="fitted", source=f"{LEVINE}, inverse of the transition width", status="derived", symbol="L", domain=_LEVINE_RANGE)
def levine_depth(
    width: Annotated[
        Width, "dimension of the residual stream, above exp(a): 154 with the published fit. The curve has no depth below"
    ],
    a: Intercept = fitted("levine2020", "a"),
    b: Slope = fitted("levine2020", "b"),
) -> Any:
    r"""Depth that balances a network of this width: the inverse of :func:`levine_width`.

    .. math:: L(d_x) = \frac{\ln d_x - a}{b}

    Returns
    -------
    Depth in layers, not rounded.

    Notes
    -----
    One standard error of the depth is s(L)/b: 0.2 layers at 24, 1.4 at 80.

    Examples
    --------
    >>> round(levine_depth(768), 4)
    28.9151
    """
    require(
        log(width) > a, "levine_depth: the width must exceed exp(a), 154 for the published fit; the curve has no depth below"
    )
    return (log(width) - a) / b


@formula(kind="fitted", source=f"{LEVINE}, transition size", status="secondary", symbol="N", domain=_LEVINE_RANGE)
def levine_transition_parameters(
    depth: Depth, a: Intercept = fitted("levine2020", "a"), b: Slope = fitted("levine2020", "b"), c: BlockCoefficient = 12
) -> Any:
    r"""Size at which a network of this depth is balanced.

    .. math:: N(L) = c L\, e^{2a + 2bL}

    Returns
    -------
    Parameters without embeddings. A larger network of this depth is too shallow, a smaller one too deep.

    Examples
    --------
    >>> f"{levine_transition_parameters(70):.4g}"
    '4.738e+10'
    """
    return c * depth * exp(2 * a + 2 * b * depth)


@formula(kind="fitted", source=f"{LEVINE}; closed form derived", status="derived", symbol="L^*", domain=_LEVINE_BUDGETS)
def levine_optimal_depth(
    parameters: Parameters,
    a: Intercept = fitted("levine2020", "a"),
    b: Slope = fitted("levine2020", "b"),
    c: BlockCoefficient = 12,
) -> Any:
    r"""Depth of the balanced network with this many parameters: the inverse of :func:`levine_transition_parameters`.

    .. math:: L^*(N) = \frac{1}{2b}\, W_0\!\left(\frac{2 b N}{c\, e^{2a}}\right)

    Returns
    -------
    Depth in layers, not rounded; W0 is the principal branch of the Lambert W function.

    Notes
    -----
    Exact inverse of the fit. Below 319,306 parameters (c = 12) it is less than one layer.

    Examples
    --------
    >>> round(levine_optimal_depth(1e9), 4)
    40.2316
    """
    return lambertw(2 * b * parameters / (c * exp(2 * a))) / (2 * b)


@formula(kind="fitted", source=f"{LEVINE}; closed form derived", status="derived", symbol="d_x^*", domain=_LEVINE_BUDGETS)
def levine_optimal_width(
    parameters: Parameters,
    a: Intercept = fitted("levine2020", "a"),
    b: Slope = fitted("levine2020", "b"),
    c: BlockCoefficient = 12,
) -> Any:
    r"""Width of the balanced network with this many parameters.

    .. math:: d_x^*(N) = \sqrt{\frac{N}{c\, L^*(N)}}

    Returns
    -------
    Width in dimensions, not rounded to a multiple of the head dimension.

    Examples
    --------
    >>> round(levine_optimal_width(1e12))
    29657
    """
    return sqrt(parameters / (c * levine_optimal_depth(parameters, a, b, c)))


@formula(kind="fitted", source=f"{LEVINE}; first-order error propagation", status="rederived", symbol="s", domain=_SIGMA)
def levine_relative_width_error(
    depth: Depth,
    var_a: VarianceA = fitted("levine2020", "var_a"),
    var_b: VarianceB = fitted("levine2020", "var_b"),
    cov_ab: Annotated[CovarianceAB, "covariance of a and b in the fit; the matrix must be positive semi-definite"] = fitted(
        "levine2020", "cov_ab"
    ),
) -> Any:
    r"""Relative standard error of :func:`levine_width` at a given depth.

    .. math:: s(L) = \frac{\sigma_d}{d} = \sqrt{\sigma_a^2 + L^2 \sigma_b^2 + 2 L \sigma_{ab}}

    Returns
    -------
    A fraction of the width.

    Notes
    -----
    The covariance of the fit is recalled, not confirmed in the paper's text. Leaving out `cov_ab` would inflate the error up
    to fourfold. Outside depths 6 to 48 the choice of the form matters more than this error.

    Examples
    --------
    >>> round(levine_relative_width_error(48), 7)
    0.0355865
    """
    require(
        cov_ab**2 <= var_a * var_b, "levine_relative_width_error: cov_ab^2 exceeds var_a var_b, which no covariance matrix does"
    )
    return sqrt(var_a + depth**2 * var_b + 2 * depth * cov_ab)


@formula(kind="fitted", source=f"{LEVINE}; first-order error propagation", status="rederived", symbol="s_N", domain=_SIGMA)
def levine_relative_transition_error(
    depth: Depth,
    var_a: VarianceA = fitted("levine2020", "var_a"),
    var_b: VarianceB = fitted("levine2020", "var_b"),
    cov_ab: CovarianceAB = fitted("levine2020", "cov_ab"),
) -> Any:
    r"""Relative standard error of :func:`levine_transition_parameters` at a given depth.

    .. math:: \frac{\Delta N}{N} = 2\, s(L)

    Returns
    -------
    A fraction of the size.

    Examples
    --------
    >>> round(levine_relative_transition_error(12), 6)
    0.033894
    """
    return 2 * levine_relative_width_error(depth, var_a, var_b, cov_ab)


@formula(kind="fitted", source=f"{LEVINE}; first-order error propagation", status="derived", symbol="sigma_L", domain=_SIGMA)
def levine_optimal_depth_error(
    parameters: Parameters,
    a: Intercept = fitted("levine2020", "a"),
    b: Slope = fitted("levine2020", "b"),
    c: BlockCoefficient = 12,
    var_a: VarianceA = fitted("levine2020", "var_a"),
    var_b: VarianceB = fitted("levine2020", "var_b"),
    cov_ab: CovarianceAB = fitted("levine2020", "cov_ab"),
) -> Any:
    r"""Standard error of :func:`levine_optimal_depth` at a given number of parameters.

    .. math:: \sigma_L = \frac{2\, s(L^*)}{1/L^* + 2b}

    Returns
    -------
    Layers.

    Examples
    --------
    >>> round(levine_optimal_depth_error(1e12), 5)
    1.57076
    """
    depth = levine_optimal_depth(parameters, a, b, c)
    return 2 * levine_relative_width_error(depth, var_a, var_b, cov_ab) / (1 / depth + 2 * b)


@formula(kind="fitted", source=f"{LEVINE}; first-order error propagation", status="derived", symbol="sigma_d", domain=_SIGMA)
def levine_optimal_width_error(
    parameters: Parameters,
    a: Intercept = fitted("levine2020", "a"),
    b: Slope = fitted("levine2020", "b"),
    c: BlockCoefficient = 12,
    var_a: VarianceA = fitted("levine2020", "var_a"),
    var_b: VarianceB = fitted("levine2020", "var_b"),
    cov_ab: CovarianceAB = fitted("levine2020", "cov_ab"),
) -> Any:
    r"""Standard error of :func:`levine_optimal_width` at a given number of parameters.

    .. math:: \sigma_d = d_x^*\, \frac{\sigma_L}{2 L^*}

    Returns
    -------
    Dimensions. Far smaller than the error at a given depth, because the budget ties the width to the depth.

    Examples
    --------
    >>> round(levine_optimal_width_error(1e12), 3)
    245.833
    """
    depth = levine_optimal_depth(parameters, a, b, c)
    relative = levine_optimal_depth_error(parameters, a, b, c, var_a, var_b, cov_ab) / (2 * depth)
    return sqrt(parameters / (c * depth)) * relative


@formula(kind="exact", source=f"{LEVINE}; derivative of the closed form", status="derived", symbol="e_d", domain=_LEVINE_RANGE)
def levine_width_exponent(depth: Depth, b: Slope = fitted("levine2020", "b")) -> Any:
    r"""Local exponent with which the balanced width grows with the parameters.

    .. math:: \frac{d\ln d_x^*}{d\ln N} = \frac{b L}{1 + 2 b L}

    Returns
    -------
    Between 0 and 1/2.

    Examples
    --------
    >>> round(levine_width_exponent(levine_optimal_depth(1e9)), 6)
    0.408521
    """
    return b * depth / (1 + 2 * b * depth)


@formula(kind="exact", source=f"{LEVINE}; derivative of the closed form", status="derived", symbol="e_L", domain=_LEVINE_RANGE)
def levine_depth_exponent(depth: Depth, b: Slope = fitted("levine2020", "b")) -> Any:
    r"""Local exponent with which the balanced depth grows with the parameters.

    .. math:: \frac{d\ln L^*}{d\ln N} = \frac{1}{1 + 2 b L}

    Returns
    -------
    Between 0 and 1; it and twice :func:`levine_width_exponent` add up to 1.

    Examples
    --------
    >>> round(levine_depth_exponent(levine_optimal_depth(1e9)), 6)
    0.182959
    """
    return 1 / (1 + 2 * b * depth)
