"""Depth against width: the published rules, their inverses for a parameter budget, and what a wrong shape costs.

Three kinds of function share a rule's name. ``*_width`` and ``*_depth`` are the curve on which the rule calls a shape
balanced; ``*_optimal_width`` and ``*_optimal_depth`` give the point of that curve with a parameter budget N = c L d_x^2;
``*_error`` give one standard error. Every value is continuous: rounding to whole layers and head multiples comes last.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

from ..formula import Domain, fitted, formula
from ..mathematics import Constant, exp, lambertw, log, maximum, minimum, sqrt
from ._regime import require

Depth = Annotated[Any, Domain(0, symbol="L", unit="layers", typical=(6, 48))]
Width = Annotated[Any, Domain(0, symbol="d_x", unit="dimensions", typical=(512, 8192))]
Parameters = Annotated[Any, Domain(0, symbol="N", unit="parameters without embeddings", typical=(1e7, 1e12))]
BlockCoefficient = Annotated[Any, Domain(0, symbol="c", unit="parameters per layer and squared width", typical=(8, 16))]
Intercept = Annotated[Any, Domain(symbol="a", unit="ln dimensions", typical=(4.5, 5.5))]
Slope = Annotated[Any, Domain(0, symbol="b", unit="per layer", typical=(0.04, 0.07))]
VarianceA = Annotated[Any, Domain(0, closed_low=True, symbol="sigma_a^2", typical=(8e-4, 1e-3))]
VarianceB = Annotated[Any, Domain(0, closed_low=True, symbol="sigma_b^2", unit="per squared layer", typical=(1.5e-6, 2e-6))]
CovarianceAB = Annotated[Any, Domain(symbol="sigma_ab", unit="per layer", typical=(-3.4e-5, 3.4e-5))]

LEVINE = "Levine et al. 2020, arXiv 2006.12467"
_LEVINE_RANGE = "depths 6 to 48; other depths extrapolate the fit"
_LEVINE_BUDGETS = "3.3e6 to 2.8e9 parameters, where the depth is 6 to 48; other budgets extrapolate the fit"
_SIGMA = "the fit's statistical error only; its covariance is recalled and unconfirmed"


@formula(kind="fitted", source=f"{LEVINE}, fit of the transition width", status="secondary", symbol="d_x", domain=_LEVINE_RANGE)
def levine_width(
    depth: Annotated[Any, Domain(0, closed_low=True, symbol="L", unit="layers", typical=(6, 48))],
    a: Intercept = fitted("levine2020", "a"),
    b: Slope = fitted("levine2020", "b"),
) -> Any:
    r"""Width at which a network of this depth is balanced: the 2020 curve.

    .. math:: d_x(L) = e^{a + b L}

    Parameters
    ----------
    depth : L, the number of blocks (attention and feed-forward). L >= 0.
    a : intercept, natural log of a width.
    b : slope, per layer.

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
def levine_depth(width: Width, a: Intercept = fitted("levine2020", "a"), b: Slope = fitted("levine2020", "b")) -> Any:
    r"""Depth that balances a network of this width: the inverse of :func:`levine_width`.

    .. math:: L(d_x) = \frac{\ln d_x - a}{b}

    Parameters
    ----------
    width : d_x, the residual stream's dimension. Above exp(a), 154 with the published fit: the curve has no depth below.
    a : intercept, natural log of a width.
    b : slope, per layer.

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

    Parameters
    ----------
    depth : L, layers. L > 0.
    a, b : intercept and slope of :func:`levine_width`.
    c : parameters per layer and squared width, 12 for a feed-forward layer four times the width.

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

    Parameters
    ----------
    parameters : N, without embeddings. N > 0.
    a, b : intercept and slope of :func:`levine_width`.
    c : parameters per layer and squared width.

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

    Parameters
    ----------
    parameters : N, without embeddings. N > 0.
    a, b : intercept and slope of :func:`levine_width`.
    c : parameters per layer and squared width.

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
    cov_ab: CovarianceAB = fitted("levine2020", "cov_ab"),
) -> Any:
    r"""Relative standard error of :func:`levine_width` at a given depth.

    .. math:: s(L) = \frac{\sigma_d}{d} = \sqrt{\sigma_a^2 + L^2 \sigma_b^2 + 2 L \sigma_{ab}}

    Parameters
    ----------
    depth : L, layers. L > 0.
    var_a, var_b, cov_ab : the fit's covariance matrix; it must be positive semi-definite.

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

    Parameters
    ----------
    depth : L, layers. L > 0.
    var_a, var_b, cov_ab : the fit's covariance matrix.

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

    Parameters
    ----------
    parameters : N, without embeddings. N > 0.
    a, b, c : as in :func:`levine_optimal_depth`.
    var_a, var_b, cov_ab : the fit's covariance matrix.

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

    Parameters
    ----------
    parameters : N, without embeddings. N > 0.
    a, b, c : as in :func:`levine_optimal_width`.
    var_a, var_b, cov_ab : the fit's covariance matrix.

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

    Parameters
    ----------
    depth : L, the depth on the curve. L > 0.
    b : slope of :func:`levine_width`.

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

    Parameters
    ----------
    depth : L, the depth on the curve. L > 0.
    b : slope of :func:`levine_width`.

    Returns
    -------
    Between 0 and 1; it and twice :func:`levine_width_exponent` add up to 1.

    Examples
    --------
    >>> round(levine_depth_exponent(levine_optimal_depth(1e9)), 6)
    0.182959
    """
    return 1 / (1 + 2 * b * depth)


# Loss laws that add a power of the width to a power of the depth, A w^-alpha + B d^-beta. At fixed N = c d w^2 the loss is
# stationary where alpha A w^-alpha = 2 beta B d^-beta: a power law between width and depth that contains neither N nor c.


def _balanced_depth(w: Any, alpha: Any, beta: Any, A: Any, B: Any) -> Any:
    return (2 * beta * B / (alpha * A) * w**alpha) ** (1 / beta)


def _balanced_width(d: Any, alpha: Any, beta: Any, A: Any, B: Any) -> Any:
    return (alpha * A / (2 * beta * B) * d**beta) ** (1 / alpha)


def _optimal_width(n: Any, alpha: Any, beta: Any, A: Any, B: Any) -> Any:
    return (alpha * A / (2 * beta * B) * n**beta) ** (1 / (alpha + 2 * beta))


def _optimal_depth(n: Any, alpha: Any, beta: Any, A: Any, B: Any) -> Any:
    return (2 * beta * B / (alpha * A) * n ** (alpha / 2)) ** (2 / (alpha + 2 * beta))


GEMSTONES = "McLeish et al. 2025, arXiv 2502.06857, width-depth law"
_GEMSTONES_RANGE = "widths 256 to 3072, depths 3 to 80, 48M to 2B parameters; embeddings ignored"
WidthExponent = Annotated[Any, Domain(0, symbol="alpha", typical=(0.2, 0.4))]
DepthExponent = Annotated[Any, Domain(0, symbol="beta", typical=(0.3, 0.6))]
WidthTerm = Annotated[Any, Domain(0, symbol="A", unit="nats", typical=(2, 6))]
DepthTerm = Annotated[Any, Domain(0, symbol="B", unit="nats", typical=(0.5, 1.5))]
GemstonesWidth = Annotated[Any, Domain(0, symbol="w", unit="dimensions", typical=(256, 3072))]
GemstonesDepth = Annotated[Any, Domain(0, symbol="d", unit="layers", typical=(6, 80))]


@formula(kind="fitted", source=GEMSTONES, status="derived", symbol="d", domain=_GEMSTONES_RANGE)
def gemstones_depth(
    width: GemstonesWidth,
    alpha: WidthExponent = fitted("gemstones2025", "alpha"),
    beta: DepthExponent = fitted("gemstones2025", "beta"),
    A: WidthTerm = fitted("gemstones2025", "A"),
    B: DepthTerm = fitted("gemstones2025", "B"),
) -> Any:
    r"""Depth that goes with this width where the Gemstones law is stationary at a fixed number of parameters.

    .. math:: d(w) = \left(\frac{2\beta B}{\alpha A}\, w^{\alpha}\right)^{1/\beta}

    Parameters
    ----------
    width : w, the residual stream's dimension. w > 0.
    alpha, beta : exponents of the width and the depth term.
    A, B : factors of the width and the depth term, nats.

    Returns
    -------
    Depth in layers. The curve depends on neither the size nor the block: both drop out of the condition.

    Notes
    -----
    From minimising the law at fixed w^2 d, so embeddings are ignored. The authors' other fits move the depth by a factor of
    up to 2 at 1e12 parameters.

    Examples
    --------
    >>> round(gemstones_depth(1024), 3)
    34.7...
    """
    return _balanced_depth(width, alpha, beta, A, B)


@formula(kind="fitted", source=GEMSTONES, status="derived", symbol="w", domain=_GEMSTONES_RANGE)
def gemstones_width(
    depth: GemstonesDepth,
    alpha: WidthExponent = fitted("gemstones2025", "alpha"),
    beta: DepthExponent = fitted("gemstones2025", "beta"),
    A: WidthTerm = fitted("gemstones2025", "A"),
    B: DepthTerm = fitted("gemstones2025", "B"),
) -> Any:
    r"""Width that goes with this depth where the Gemstones law is stationary: the inverse of :func:`gemstones_depth`.

    .. math:: w(d) = \left(\frac{\alpha A}{2\beta B}\, d^{\beta}\right)^{1/\alpha}

    Parameters
    ----------
    depth : d, layers. d > 0.
    alpha, beta : exponents of the width and the depth term.
    A, B : factors of the width and the depth term, nats.

    Returns
    -------
    Width in dimensions.

    Examples
    --------
    >>> round(gemstones_width(gemstones_depth(1024)), 6)
    1024.0
    """
    return _balanced_width(depth, alpha, beta, A, B)


@formula(kind="fitted", source=GEMSTONES, status="derived", symbol="w^*", domain=_GEMSTONES_RANGE)
def gemstones_optimal_width(
    parameters: Parameters,
    c: BlockCoefficient = 12,
    alpha: WidthExponent = fitted("gemstones2025", "alpha"),
    beta: DepthExponent = fitted("gemstones2025", "beta"),
    A: WidthTerm = fitted("gemstones2025", "A"),
    B: DepthTerm = fitted("gemstones2025", "B"),
) -> Any:
    r"""Width with the lowest Gemstones loss at this many parameters.

    .. math:: w^*(N) = \left[\frac{\alpha A}{2\beta B} \left(\frac{N}{c}\right)^{\beta}\right]^{1/(\alpha + 2\beta)}

    Parameters
    ----------
    parameters : N, without embeddings. N > 0.
    c : parameters per layer and squared width: 12, or 15 for the authors' own block.
    alpha, beta, A, B : the width and the depth term.

    Returns
    -------
    Width in dimensions; it grows like N^0.406.

    Notes
    -----
    The authors' five data variants spread it from 14413 to 24049 at 1e12 parameters, and from 1249 to 1361 at 1e9 (c = 15).

    Examples
    --------
    >>> round(gemstones_optimal_width(1e9), 2)
    1433.85
    """
    return _optimal_width(parameters / c, alpha, beta, A, B)


@formula(kind="fitted", source=GEMSTONES, status="derived", symbol="d^*", domain=_GEMSTONES_RANGE)
def gemstones_optimal_depth(
    parameters: Parameters,
    c: BlockCoefficient = 12,
    alpha: WidthExponent = fitted("gemstones2025", "alpha"),
    beta: DepthExponent = fitted("gemstones2025", "beta"),
    A: WidthTerm = fitted("gemstones2025", "A"),
    B: DepthTerm = fitted("gemstones2025", "B"),
) -> Any:
    r"""Depth with the lowest Gemstones loss at this many parameters.

    .. math:: d^*(N) = \frac{N}{c\, w^*(N)^2}

    Parameters
    ----------
    parameters : N, without embeddings. N > 0.
    c : parameters per layer and squared width: 12, or 15 for the authors' own block.
    alpha, beta, A, B : the width and the depth term.

    Returns
    -------
    Depth in layers; it grows like N^0.187.

    Examples
    --------
    >>> round(gemstones_optimal_depth(1e9), 4)
    40.5332
    """
    return _optimal_depth(parameters / c, alpha, beta, A, B)


LIU = "Liu, Kangaslahti, Liu, Gore 2026, arXiv 2602.05970, Eq. 3"
_LIU_RANGE = "about 200 reconstructed Chinchilla runs"
LiuWidth = Annotated[Any, Domain(0, symbol="m", unit="dimensions", typical=(512, 8192))]
LiuDepth = Annotated[Any, Domain(0, symbol="l", unit="layers", typical=(6, 64))]
LiuWidthExponent = Annotated[Any, Domain(0, symbol="alpha_m", typical=(0.9, 1.1))]
LiuDepthExponent = Annotated[Any, Domain(0, symbol="alpha_l", typical=(0.9, 1.5))]
LiuWidthTerm = Annotated[Any, Domain(0, symbol="c_m", unit="nats", typical=(200, 500))]
LiuDepthTerm = Annotated[Any, Domain(0, symbol="c_l", unit="nats", typical=(3, 8))]


GemstonesVariance = Annotated[Any, Domain(0, closed_low=True, typical=(0.01, 0.1))]
GemstonesCovariance = Annotated[Any, Domain(typical=(-0.001, 0.001))]


@formula(
    kind="approximation",
    source="first-order error propagation of the Gemstones fit",
    status="derived",
    symbol="s",
    domain="small coefficient errors; the measured ones are not small, see data/README.md",
)
def gemstones_relative_width_error(
    depth: GemstonesDepth,
    var_ln_A: GemstonesVariance,
    cov_ln_A_alpha: GemstonesCovariance,
    cov_ln_A_ln_B: GemstonesCovariance,
    cov_ln_A_beta: GemstonesCovariance,
    var_alpha: GemstonesVariance,
    cov_alpha_ln_B: GemstonesCovariance,
    cov_alpha_beta: GemstonesCovariance,
    var_ln_B: GemstonesVariance,
    cov_ln_B_beta: GemstonesCovariance,
    var_beta: GemstonesVariance,
    alpha: WidthExponent = fitted("gemstones2025", "alpha"),
    beta: DepthExponent = fitted("gemstones2025", "beta"),
    A: WidthTerm = fitted("gemstones2025", "A"),
    B: DepthTerm = fitted("gemstones2025", "B"),
) -> Any:
    r"""Standard error of ln(width) on the Gemstones curve at a fixed depth, from the covariance of its coefficients.

    .. math:: s = \sqrt{g^T \Sigma\, g}, \qquad \ln w = \frac{1}{\alpha}\left(\ln\frac{\alpha A}{2\beta B} + \beta \ln d\right)

    Parameters
    ----------
    depth : d, layers.
    var_ln_A, var_alpha, var_ln_B, var_beta : the diagonal of Sigma, for ln A, alpha, ln B and beta.
    cov_ln_A_alpha, cov_ln_A_ln_B, cov_ln_A_beta, cov_alpha_ln_B, cov_alpha_beta, cov_ln_B_beta : what stands beside it.
    alpha, beta, A, B : the law's coefficients, at which the gradient g is taken.

    Returns
    -------
    Relative standard error of the width at this depth. At a fixed budget the error is smaller, as depth and width trade off.

    Examples
    --------
    >>> none = dict.fromkeys(list(gemstones_relative_width_error.parameters)[2:11], 0.0)
    >>> round(gemstones_relative_width_error(40, 0.01, **none), 4)
    0.4554
    """
    log_width = (log(alpha * A / (2 * beta * B)) + beta * log(depth)) / alpha
    by_ln_A = 1 / alpha
    by_alpha = (1 / alpha - log_width) / alpha
    by_ln_B = -1 / alpha
    by_beta = (log(depth) - 1 / beta) / alpha
    return sqrt(
        by_ln_A**2 * var_ln_A
        + by_alpha**2 * var_alpha
        + by_ln_B**2 * var_ln_B
        + by_beta**2 * var_beta
        + 2 * by_ln_A * (by_alpha * cov_ln_A_alpha + by_ln_B * cov_ln_A_ln_B + by_beta * cov_ln_A_beta)
        + 2 * by_alpha * (by_ln_B * cov_alpha_ln_B + by_beta * cov_alpha_beta)
        + 2 * by_ln_B * by_beta * cov_ln_B_beta
    )


@formula(kind="fitted", source=LIU, status="derived", symbol="l", domain=_LIU_RANGE)
def liu_depth(
    width: LiuWidth,
    alpha_m: LiuWidthExponent = fitted("liu2026", "alpha_m"),
    alpha_l: LiuDepthExponent = fitted("liu2026", "alpha_l"),
    c_m: LiuWidthTerm = fitted("liu2026", "c_m"),
    c_l: LiuDepthTerm = fitted("liu2026", "c_l"),
) -> Any:
    r"""Depth that goes with this width where the inverse-depth law is stationary at a fixed number of parameters.

    .. math:: l(m) = \left(\frac{2\alpha_l c_l}{\alpha_m c_m}\, m^{\alpha_m}\right)^{1/\alpha_l}

    Parameters
    ----------
    width : m, the residual stream's dimension. m > 0.
    alpha_m, alpha_l : exponents of the width and the depth term.
    c_m, c_l : factors of the width and the depth term, nats.

    Returns
    -------
    Depth in layers; it grows like m^0.813.

    Notes
    -----
    The fit's exponents carry errors of 8 % (width) and 22 % (depth). With both equal to 1, as the theory has it, the ratio of
    width to depth is constant.

    Examples
    --------
    >>> round(liu_depth(1024), 4)
    18.2276
    """
    return _balanced_depth(width, alpha_m, alpha_l, c_m, c_l)


@formula(kind="fitted", source=LIU, status="derived", symbol="m", domain=_LIU_RANGE)
def liu_width(
    depth: LiuDepth,
    alpha_m: LiuWidthExponent = fitted("liu2026", "alpha_m"),
    alpha_l: LiuDepthExponent = fitted("liu2026", "alpha_l"),
    c_m: LiuWidthTerm = fitted("liu2026", "c_m"),
    c_l: LiuDepthTerm = fitted("liu2026", "c_l"),
) -> Any:
    r"""Width that goes with this depth where the inverse-depth law is stationary: the inverse of :func:`liu_depth`.

    .. math:: m(l) = \left(\frac{\alpha_m c_m}{2\alpha_l c_l}\, l^{\alpha_l}\right)^{1/\alpha_m}

    Parameters
    ----------
    depth : l, layers. l > 0.
    alpha_m, alpha_l : exponents of the width and the depth term.
    c_m, c_l : factors of the width and the depth term, nats.

    Returns
    -------
    Width in dimensions.

    Examples
    --------
    >>> round(liu_width(liu_depth(1024)), 6)
    1024.0
    """
    return _balanced_width(depth, alpha_m, alpha_l, c_m, c_l)


@formula(kind="fitted", source=LIU, status="derived", symbol="m^*", domain=_LIU_RANGE)
def liu_optimal_width(
    parameters: Parameters,
    c: BlockCoefficient = 12,
    alpha_m: LiuWidthExponent = fitted("liu2026", "alpha_m"),
    alpha_l: LiuDepthExponent = fitted("liu2026", "alpha_l"),
    c_m: LiuWidthTerm = fitted("liu2026", "c_m"),
    c_l: LiuDepthTerm = fitted("liu2026", "c_l"),
) -> Any:
    r"""Width with the lowest loss under the inverse-depth law at this many parameters.

    .. math:: m^*(N) = \left[\frac{\alpha_m c_m}{2\alpha_l c_l}
        \left(\frac{N}{c}\right)^{\alpha_l}\right]^{1/(\alpha_m + 2\alpha_l)}

    Parameters
    ----------
    parameters : N, without embeddings. N > 0.
    c : parameters per layer and squared width.
    alpha_m, alpha_l, c_m, c_l : the width and the depth term.

    Returns
    -------
    Width in dimensions.

    Examples
    --------
    >>> round(liu_optimal_width(1e9), 2)
    1728.31
    """
    return _optimal_width(parameters / c, alpha_m, alpha_l, c_m, c_l)


@formula(kind="fitted", source=LIU, status="derived", symbol="l^*", domain=_LIU_RANGE)
def liu_optimal_depth(
    parameters: Parameters,
    c: BlockCoefficient = 12,
    alpha_m: LiuWidthExponent = fitted("liu2026", "alpha_m"),
    alpha_l: LiuDepthExponent = fitted("liu2026", "alpha_l"),
    c_m: LiuWidthTerm = fitted("liu2026", "c_m"),
    c_l: LiuDepthTerm = fitted("liu2026", "c_l"),
) -> Any:
    r"""Depth with the lowest loss under the inverse-depth law at this many parameters.

    .. math:: l^*(N) = \frac{N}{c\, m^*(N)^2}

    Parameters
    ----------
    parameters : N, without embeddings. N > 0.
    c : parameters per layer and squared width.
    alpha_m, alpha_l, c_m, c_l : the width and the depth term.

    Returns
    -------
    Depth in layers.

    Examples
    --------
    >>> round(liu_optimal_depth(1e9), 4)
    27.8983
    """
    return _optimal_depth(parameters / c, alpha_m, alpha_l, c_m, c_l)


SOVIT = "Alabdulmohsin et al. 2023, arXiv 2305.13035"
_SOVIT_RANGE = "vision transformers up to 400M parameters"
ComputeExponent = Annotated[Any, Domain(0, symbol="s_k", typical=(0.2, 0.6))]


@formula(kind="exact", source=f"{SOVIT}, Eqs. 2-5", status="primary", symbol="s_k", domain=_SOVIT_RANGE)
def sovit_shape_exponent(
    c: Annotated[Any, Domain(0, symbol="c", typical=(0.5, 0.8))],
    a: Annotated[Any, Domain(0, symbol="a_k", typical=(0.3, 1.5))],
    b: Annotated[Any, Domain(0, symbol="b_k", typical=(0.3, 1.5))],
) -> Any:
    r"""Exponent of compute with which one dimension of the best shape grows.

    .. math:: x_k^* = \left(\frac{\alpha_k a_k t^c}{\beta_k b_k}\right)^{1/(a_k + b_k)} \sim t^{s_k},
        \qquad s_k = \frac{c}{a_k + b_k}

    Parameters
    ----------
    c : exponent of compute in the shape law, 0.65 +- 0.06 for images.
    a : exponent with which a larger x_k lowers the loss.
    b : exponent with which a larger x_k costs compute.

    Returns
    -------
    s_k, dimensionless. Exact for the shape law as it is written; the law itself is fitted.

    Examples
    --------
    >>> sovit_shape_exponent(0.65, 0.5, 0.8)
    0.5
    """
    return c / (a + b)


@formula(kind="fitted", source=f"{SOVIT}, section 4", status="primary", symbol="x_k", domain=_SOVIT_RANGE)
def sovit_scaled(
    size: Annotated[Any, Domain(0, symbol="x_k0", typical=(10, 1000))],
    exponent: ComputeExponent,
    compute_factor: Annotated[Any, Domain(0, symbol="tau", typical=(1, 1000))],
) -> Any:
    r"""One dimension of a vision transformer when all of them are scaled to a larger compute together.

    .. math:: x_k(\tau) = x_k\, \tau^{s_k / 3}

    Parameters
    ----------
    size : the dimension at the start: 608 wide, 10 deep, feed-forward 928 in the paper.
    exponent : s_k: 0.22 for width, 0.45 for depth, 0.60 for the feed-forward width in image classification.
    compute_factor : tau, compute over the compute of the start.

    Returns
    -------
    The dimension in the unit of `size`.

    Notes
    -----
    The compute at which the start is best is not restated in the paper's text, so that only ratios can be used.

    Examples
    --------
    >>> round(sovit_scaled(608, 0.22, 1000), 2)
    1009.03
    """
    return size * compute_factor ** (exponent / 3)


@formula(kind="fitted", source=f"{SOVIT}, section 4; compute eliminated", status="derived", symbol="x_w", domain=_SOVIT_RANGE)
def sovit_width(
    depth: Annotated[Any, Domain(0, symbol="x_d", unit="layers", typical=(10, 40))],
    width0: Annotated[Any, Domain(0, symbol="x_w0", unit="dimensions", typical=(500, 700))] = fitted("sovit2023", "width"),
    depth0: Annotated[Any, Domain(0, symbol="x_d0", unit="layers", typical=(8, 12))] = fitted("sovit2023", "depth"),
    s_width: Annotated[Any, Domain(0, symbol="s_w", typical=(0.2, 0.25))] = fitted("sovit2023", "s_width"),
    s_depth: Annotated[Any, Domain(0, symbol="s_d", typical=(0.4, 0.5))] = fitted("sovit2023", "s_depth"),
) -> Any:
    r"""Width that goes with this depth when a vision transformer is scaled as in SoViT.

    .. math:: x_w(x_d) = x_{w0} \left(\frac{x_d}{x_{d0}}\right)^{s_w / s_d}

    Parameters
    ----------
    depth : layers. > 0.
    width0, depth0 : the small model that is scaled up.
    s_width, s_depth : exponents of compute.

    Returns
    -------
    Width in dimensions.

    Notes
    -----
    Vision only: language models widen faster than they deepen. The released SoViT-400m/14 has 27 layers of 1152, where this
    curve gives 988.

    Examples
    --------
    >>> round(sovit_width(10))
    608
    """
    return width0 * (depth / depth0) ** (s_width / s_depth)


@formula(kind="fitted", source=f"{SOVIT}, section 4; compute eliminated", status="derived", symbol="x_d", domain=_SOVIT_RANGE)
def sovit_depth(
    width: Annotated[Any, Domain(0, symbol="x_w", unit="dimensions", typical=(600, 1200))],
    width0: Annotated[Any, Domain(0, symbol="x_w0", unit="dimensions", typical=(500, 700))] = fitted("sovit2023", "width"),
    depth0: Annotated[Any, Domain(0, symbol="x_d0", unit="layers", typical=(8, 12))] = fitted("sovit2023", "depth"),
    s_width: Annotated[Any, Domain(0, symbol="s_w", typical=(0.2, 0.25))] = fitted("sovit2023", "s_width"),
    s_depth: Annotated[Any, Domain(0, symbol="s_d", typical=(0.4, 0.5))] = fitted("sovit2023", "s_depth"),
) -> Any:
    r"""Depth that goes with this width when a vision transformer is scaled as in SoViT.

    .. math:: x_d(x_w) = x_{d0} \left(\frac{x_w}{x_{w0}}\right)^{s_d / s_w}

    Parameters
    ----------
    width : dimensions. > 0.
    width0, depth0 : the small model that is scaled up.
    s_width, s_depth : exponents of compute.

    Returns
    -------
    Depth in layers.

    Examples
    --------
    >>> round(sovit_depth(608), 6)
    10.0
    """
    return depth0 * (width / width0) ** (s_depth / s_width)


Ratio = Annotated[Any, Domain(0, symbol="rho", unit="width per layer", typical=(20, 200))]


@formula(kind="heuristic", source="nanochat, public code", status="primary", symbol="d_x", domain="small language models")
def nanochat_width(depth: Depth, ratio: Ratio = fitted("heuristics", "ratio", "nanochat")) -> Any:
    r"""Width that nanochat gives a model of this depth.

    .. math:: d_x = \rho L

    Parameters
    ----------
    depth : L, layers. L > 0.
    ratio : width per layer, 64.

    Returns
    -------
    Width in dimensions.

    Notes
    -----
    No derivation. The project's log finds a ratio of 128 worse than 64 at 1e18 training FLOPs.

    Examples
    --------
    >>> nanochat_width(12)
    768.0
    """
    return ratio * depth


@formula(kind="heuristic", source="nanochat, public code", status="primary", symbol="L", domain="small language models")
def nanochat_depth(width: Width, ratio: Ratio = fitted("heuristics", "ratio", "nanochat")) -> Any:
    r"""Depth whose nanochat width this is: the inverse of :func:`nanochat_width`.

    .. math:: L = d_x / \rho

    Parameters
    ----------
    width : d_x, dimensions. d_x > 0.
    ratio : width per layer, 64.

    Returns
    -------
    Depth in layers, not rounded.

    Examples
    --------
    >>> nanochat_depth(1536)
    24.0
    """
    return width / ratio


@formula(kind="heuristic", source="Marin isoflop sweep, public code", status="primary", symbol="L", domain="widths from 512")
def marin_depth(
    width: Annotated[Any, Domain(0, symbol="d", unit="dimensions", typical=(512, 8192))],
    base_ratio: Annotated[Any, Domain(0, symbol="rho_0", unit="width per layer", typical=(50, 80))] = fitted(
        "heuristics", "base_ratio", "marin"
    ),
    log_slope: Annotated[Any, Domain(0, closed_low=True, symbol="rho_1", unit="width per layer", typical=(2, 6))] = fitted(
        "heuristics", "log_slope", "marin"
    ),
    min_hidden_pow: Annotated[Any, Domain(symbol="p", typical=(8, 10))] = fitted("heuristics", "min_hidden_pow", "marin"),
) -> Any:
    r"""Depth that the Marin isoflop sweep gives a model of this width, before rounding to whole layers.

    .. math:: L = \frac{d}{64 + 4 \log_2 d - 9}

    Parameters
    ----------
    width : d, dimensions. d > 0.
    base_ratio : 64, width per layer.
    log_slope : 4, the ratio added per doubling of the width.
    min_hidden_pow : 9, log2 of the sweep's narrowest width; the code subtracts it from the ratio, not from the logarithm.

    Returns
    -------
    Depth in layers.

    Examples
    --------
    >>> round(marin_depth(2048), 4)
    20.6869
    """
    ratio = base_ratio + log_slope * log(width, 2) - min_hidden_pow
    require(ratio > 0, "marin_depth: the ratio of width to depth is not positive at so small a width")
    return width / ratio


@formula(kind="exact", source="definition of the ratio and N = c L d^2", status="derived", symbol="d_x")
def constant_aspect_width(parameters: Parameters, aspect: Ratio, c: BlockCoefficient = 12) -> Any:
    r"""Width of the network with this many parameters and this ratio of width to depth.

    .. math:: d_x = \left(\frac{\rho N}{c}\right)^{1/3}

    Parameters
    ----------
    parameters : N, without embeddings. N > 0.
    aspect : rho, width per layer.
    c : parameters per layer and squared width.

    Returns
    -------
    Width in dimensions. Exact as algebra; that a constant ratio is a good rule is a heuristic.

    Examples
    --------
    >>> round(constant_aspect_width(1e9, 64), 2)
    1747.16
    """
    return (parameters * aspect / c) ** (1 / Constant.of(3))


@formula(kind="exact", source="definition of the ratio and N = c L d^2", status="derived", symbol="L")
def constant_aspect_depth(parameters: Parameters, aspect: Ratio, c: BlockCoefficient = 12) -> Any:
    r"""Depth of the network with this many parameters and this ratio of width to depth.

    .. math:: L = \left(\frac{N}{c \rho^2}\right)^{1/3}

    Parameters
    ----------
    parameters : N, without embeddings. N > 0.
    aspect : rho, width per layer.
    c : parameters per layer and squared width.

    Returns
    -------
    Depth in layers.

    Examples
    --------
    >>> round(constant_aspect_depth(1e9, 64), 4)
    27.2994
    """
    return (parameters / (c * aspect**2)) ** (1 / Constant.of(3))


def _interpolated(x: Any, knots: list[tuple[float, Any]]) -> Any:
    """The broken line through `knots`, held constant beyond its ends."""
    value = knots[0][1]
    for (x0, y0), (x1, y1) in pairwise(knots):
        inside = minimum(maximum(x, x0), x1)
        value = value + (y1 - y0) * (inside - x0) / (x1 - x0)
    return value


COMPLETEP = "Dey et al. 2025, arXiv 2505.01618"
_COMPLETEP_RANGE = "5e7 to 1.5e9 parameters without embeddings, 20 tokens per parameter; held constant outside"


def _completep_line(parameters: Any, *ratios: Any) -> Any:
    sizes = (50_000_000, 300_000_000, 1_500_000_000)
    return _interpolated(log(parameters), [(log(float(n)), ratio) for n, ratio in zip(sizes, ratios, strict=True)])


@formula(kind="approximation", source=f"{COMPLETEP}, three sizes", status="secondary", symbol="rho^*", domain=_COMPLETEP_RANGE)
def completep_aspect(
    parameters: Parameters,
    ratio_50M: Annotated[Any, Domain(0, symbol="rho_1", typical=(30, 50))] = fitted("completep2025", "ratio_50M"),
    ratio_300M: Annotated[Any, Domain(0, symbol="rho_2", typical=(40, 60))] = fitted("completep2025", "ratio_300M"),
    ratio_1500M: Annotated[Any, Domain(0, symbol="rho_3", typical=(50, 80))] = fitted("completep2025", "ratio_1500M"),
) -> Any:
    r"""Best ratio of width to depth measured at three sizes with CompleteP, linear in ln N between them.

    .. math:: \rho^*(N) = \rho_i + (\rho_{i+1} - \rho_i)\, \frac{\ln N - \ln N_i}{\ln N_{i+1} - \ln N_i}

    Parameters
    ----------
    parameters : N, without embeddings. N > 0.
    ratio_50M, ratio_300M, ratio_1500M : the measured ratios at 5e7, 3e8 and 1.5e9 parameters.

    Returns
    -------
    Width per layer. A broken line through a table, not a law: outside 5e7 to 1.5e9 the nearest ratio is kept.

    Notes
    -----
    The three ratios are read from notes and are approximate. The same ratios were best with muP.

    Examples
    --------
    >>> round(completep_aspect(3e8), 6)
    50.0
    """
    return _completep_line(parameters, ratio_50M, ratio_300M, ratio_1500M)


@formula(
    kind="approximation", source=f"{COMPLETEP}, three sizes", status="secondary", symbol="rho_min", domain=_COMPLETEP_RANGE
)
def completep_lowest_aspect(
    parameters: Parameters,
    ratio_50M: Annotated[Any, Domain(0, symbol="rho_1", typical=(10, 14))] = fitted("completep2025", "lowest_ratio_50M"),
    ratio_300M: Annotated[Any, Domain(0, symbol="rho_2", typical=(12, 18))] = fitted("completep2025", "lowest_ratio_300M"),
    ratio_1500M: Annotated[Any, Domain(0, symbol="rho_3", typical=(10, 14))] = fitted("completep2025", "lowest_ratio_1500M"),
) -> Any:
    r"""Lowest ratio of width to depth within 1 % of the best loss under CompleteP, linear in ln N between three sizes.

    .. math:: \rho_{min}(N) = \rho_i + (\rho_{i+1} - \rho_i)\, \frac{\ln N - \ln N_i}{\ln N_{i+1} - \ln N_i}

    Parameters
    ----------
    parameters : N, without embeddings. N > 0.
    ratio_50M, ratio_300M, ratio_1500M : the measured ratios at 5e7, 3e8 and 1.5e9 parameters.

    Returns
    -------
    Width per layer. An upper bound: deeper shapes were not all trained. muP needs 38.7 at 1.5e9.

    Examples
    --------
    >>> round(completep_lowest_aspect(1.5e9), 6)
    11.8
    """
    return _completep_line(parameters, ratio_50M, ratio_300M, ratio_1500M)


DELUSION = "Fahim and Karim 2026, arXiv 2601.20994"
_DELUSION_RANGE = "30 models of 17M to 7B; a warning only: Gemstones models of width 256 improve up to 80 layers"
DelusionWidth = Annotated[Any, Domain(0, symbol="W", unit="dimensions", typical=(256, 4096))]


@formula(kind="heuristic", source=DELUSION, status="secondary", symbol="D_crit", domain=_DELUSION_RANGE)
def depth_delusion_critical_depth(
    width: Annotated[Any, Domain(1, symbol="W", unit="dimensions", typical=(256, 4096))],
    log_coefficient: Annotated[Any, Domain(0, symbol="kappa", unit="layers", typical=(2, 3))] = fitted(
        "depth_delusion2026", "log_coefficient"
    ),
) -> Any:
    r"""Depth beyond which added layers are said to raise the loss at this width: the logarithmic form.

    .. math:: D_{crit} \approx 2.43 \ln W

    Parameters
    ----------
    width : W, dimensions. W > 1.
    log_coefficient : 2.43 layers.

    Returns
    -------
    Depth in layers. To be used as a warning only: other published runs contradict it.

    Notes
    -----
    It differs twofold from :func:`depth_delusion_critical_depth_power` at width 4096, and both claim the same range.

    Examples
    --------
    >>> round(depth_delusion_critical_depth(1024), 4)
    16.8435
    """
    return log_coefficient * log(width)


@formula(kind="heuristic", source=f"{DELUSION}, abstract", status="derived", symbol="D_crit", domain=_DELUSION_RANGE)
def depth_delusion_critical_depth_power(
    width: DelusionWidth,
    exponent: Annotated[Any, Domain(0, symbol="q", typical=(0.3, 0.6))] = fitted(
        "depth_delusion2026", "critical_depth_exponent"
    ),
    anchor_width: Annotated[Any, Domain(0, symbol="W_0", unit="dimensions", typical=(256, 1024))] = fitted(
        "depth_delusion2026", "anchor_width"
    ),
    anchor_depth: Annotated[Any, Domain(0, symbol="D_0", unit="layers", typical=(10, 20))] = fitted(
        "depth_delusion2026", "anchor_depth"
    ),
) -> Any:
    r"""Depth beyond which added layers are said to raise the loss at this width: the power form of the abstract.

    .. math:: D_{crit} = D_0 \left(\frac{W}{W_0}\right)^{0.44}

    Parameters
    ----------
    width : W, dimensions. W > 0.
    exponent : 0.44.
    anchor_width, anchor_depth : a point through which the power law is drawn; the source states no prefactor.

    Returns
    -------
    Depth in layers. To be used as a warning only.

    Examples
    --------
    >>> round(depth_delusion_critical_depth_power(4096))
    40
    """
    return anchor_depth * (width / anchor_width) ** exponent


@formula(
    kind="approximation",
    source="Kaplan et al. 2020, arXiv 2001.08361, Fig. 5",
    status="derived",
    symbol="Delta_C",
    domain="loss increases of a few per cent",
)
def kaplan_compute_overhead(
    loss_increase: Annotated[Any, Domain(0, closed_low=True, symbol="delta", unit="relative", typical=(0.001, 0.05))],
    reference_overhead: Annotated[Any, Domain(0, symbol="u", unit="relative", typical=(0.1, 0.3))] = fitted(
        "kaplan2020", "compute_overhead"
    ),
    reference_increase: Annotated[Any, Domain(0, symbol="delta_0", unit="relative", typical=(0.005, 0.02))] = fitted(
        "kaplan2020", "loss_increase"
    ),
) -> Any:
    r"""Share of extra compute that makes up for a relative loss increase.

    .. math:: \Delta_C = (1 + \delta)^{\ln(1 + u) / \ln(1 + \delta_0)} - 1

    Parameters
    ----------
    loss_increase : delta, relative increase of the loss. delta >= 0.
    reference_overhead, reference_increase : the published pair, 22 % more compute for 1 % of loss.

    Returns
    -------
    Extra compute as a fraction of the compute spent.

    Notes
    -----
    The pair is published; carrying it to other increases by a power law is ours. The implied exponent of the loss in compute,
    ln 1.01 / ln 1.22 = 0.050, is the one the same paper fits.

    Examples
    --------
    >>> round(kaplan_compute_overhead(0.01), 6)
    0.22
    """
    return (1 + loss_increase) ** (log(1 + reference_overhead) / log(1 + reference_increase)) - 1


PENALTY = "our analysis of the 22 Gemstones models (arXiv 2502.06857)"
_PENALTY_RANGE = (
    "2.3e7 to 1.8e9 parameters, widths off by less than a factor of 2.2, 50B to 300B tokens, one learning-rate rule"
)
Curvature = Annotated[Any, Domain(0, symbol="k", typical=(0.02, 0.05))]


@formula(kind="fitted", source=PENALTY, status="measured", symbol="p", domain=_PENALTY_RANGE)
def shape_penalty(
    width: Annotated[Any, Domain(0, symbol="w", unit="dimensions", typical=(700, 1500))],
    best_width: Annotated[Any, Domain(0, symbol="w^*", unit="dimensions", typical=(700, 1500))],
    k: Curvature = fitted("shape_penalty", "k"),
) -> Any:
    r"""Relative loss increase of a width away from the best one, at equal parameters and tokens.

    .. math:: p = k \left(\ln\frac{w}{w^*}\right)^2

    Parameters
    ----------
    width : w, dimensions. w > 0.
    best_width : w*, the best width at the same number of parameters (:func:`penalised_best_width`).
    k : curvature, 0.033 +- 0.003.

    Returns
    -------
    Loss over the best loss, minus 1.

    Notes
    -----
    Residual of the fit 0.15 to 0.21 % of loss. Factors above 2.2 extrapolate the parabola.

    Examples
    --------
    >>> round(100 * shape_penalty(2048, 1024), 2)
    1.59
    """
    return k * log(width / best_width) ** 2


@formula(kind="fitted", source=PENALTY, status="measured", symbol="w^*", domain=_PENALTY_RANGE)
def penalised_best_width(
    parameters: Parameters,
    x0: Annotated[Any, Domain(symbol="x_0", typical=(0.05, 0.15))] = fitted("shape_penalty", "x0"),
    s: Annotated[Any, Domain(symbol="s", typical=(-0.1, -0.05))] = fitted("shape_penalty", "s"),
    N_0: Annotated[Any, Domain(0, symbol="N_0", unit="parameters", typical=(1e8, 3e8))] = fitted("shape_penalty", "N_0"),
    a: Intercept = fitted("levine2020", "a"),
    b: Slope = fitted("levine2020", "b"),
    c: BlockCoefficient = 12,
) -> Any:
    r"""Best width measured on the Gemstones models: the 2020 curve times a slowly drifting factor.

    .. math:: w^*(N) = d_x^*(N)\, e^{x_0} \left(\frac{N}{N_0}\right)^{s}

    Parameters
    ----------
    parameters : N, the real count without embeddings. N > 0.
    x0 : ln of the factor at N_0, 0.10 +- 0.02.
    s : drift of the factor per ln N, -0.08 +- 0.02.
    N_0 : 2e8.
    a, b, c : the 2020 curve, with its own c = 12 also for blocks of another kind.

    Returns
    -------
    Width in dimensions.

    Examples
    --------
    >>> round(penalised_best_width(2e8) / levine_optimal_width(2e8), 4)
    1.1052
    """
    return levine_optimal_width(parameters, a, b, c) * exp(x0 + s * log(parameters / N_0))


@formula(
    kind="approximation", source=PENALTY, status="measured", symbol="g", domain="1e8 to 1e10 parameters; held constant outside"
)
def loss_exponent(
    parameters: Parameters,
    exponent_1e8: Annotated[Any, Domain(symbol="g_8", typical=(-0.07, -0.06))] = fitted("shape_penalty", "exponent_1e8"),
    exponent_1e9: Annotated[Any, Domain(symbol="g_9", typical=(-0.06, -0.05))] = fitted("shape_penalty", "exponent_1e9"),
    exponent_1e10: Annotated[Any, Domain(symbol="g_10", typical=(-0.04, -0.03))] = fitted("shape_penalty", "exponent_1e10"),
) -> Any:
    r"""Local exponent of the loss in the number of parameters, linear in ln N between three measured points.

    .. math:: g(N) = \frac{d\ln \mathrm{loss}}{d\ln N} = g_i + (g_{i+1} - g_i)\, \frac{\ln N - \ln N_i}{\ln N_{i+1} - \ln N_i}

    Parameters
    ----------
    parameters : N, without embeddings. N > 0.
    exponent_1e8, exponent_1e9, exponent_1e10 : the exponents at 1e8, 1e9 and 1e10 parameters.

    Returns
    -------
    A negative number. An interpolation of three points, not a law; outside them the nearest one is kept.

    Examples
    --------
    >>> round(loss_exponent(1e9), 6)
    -0.052
    """
    exponents = {1e8: exponent_1e8, 1e9: exponent_1e9, 1e10: exponent_1e10}
    return _interpolated(log(parameters), [(log(size), value) for size, value in exponents.items()])


@formula(kind="approximation", source=PENALTY, status="derived", symbol="q", domain="penalties of a few per cent")
def parameter_equivalent(
    penalty: Annotated[Any, Domain(0, closed_low=True, symbol="p", unit="relative loss", typical=(1e-3, 5e-2))],
    exponent: Annotated[Any, Domain(high=0, symbol="g", typical=(-0.07, -0.03))],
) -> Any:
    r"""Share of the parameters that a shape penalty wastes: a network this much smaller, of the best shape, does as well.

    .. math:: q = 1 - (1 + p)^{1/g}

    Parameters
    ----------
    penalty : p, relative loss increase of the shape. p >= 0.
    exponent : g, dln(loss)/dln(N) at this size. g < 0.

    Returns
    -------
    A fraction between 0 and 1.

    Notes
    -----
    Takes the exponent as constant over the gap. To first order it is -p/g.

    Examples
    --------
    >>> round(parameter_equivalent(0.0159, -0.052), 3)
    0.262
    """
    return 1 - (1 + penalty) ** (1 / exponent)


WIES = "Wies et al. 2021, arXiv 2105.03928"
Rank = Annotated[Any, Domain(0, symbol="r", unit="dimensions", typical=(64, 1024))]


@formula(kind="heuristic", source=WIES, status="derived", symbol="d_useful", domain="embedding rank below the width")
def rank_capped_width(width: Width, rank: Rank) -> Any:
    r"""Width that the embedding lets a network use.

    .. math:: d_{useful} = \min(d_x, r)

    Parameters
    ----------
    width : d_x, dimensions. d_x > 0.
    rank : r, rank of the input embedding: at most the vocabulary, or the inner dimension of a factorised embedding.

    Returns
    -------
    Width in dimensions.

    Notes
    -----
    The rule carries a theorem on simplified networks over to practice. Exact separation ranks of small networks depend on
    min(d_x, r) alone.

    Examples
    --------
    >>> rank_capped_width(588, 256)
    256
    """
    return minimum(width, rank)


@formula(kind="heuristic", source=WIES, status="derived", symbol="L", domain="embedding rank below the width")
def rank_capped_depth(parameters: Parameters, rank: Rank, c: BlockCoefficient = 12) -> Any:
    r"""Depth that spends a parameter budget at a width equal to the embedding's rank.

    .. math:: L = \frac{N}{c r^2}

    Parameters
    ----------
    parameters : N, without embeddings. N > 0.
    rank : r, rank of the input embedding.
    c : parameters per layer and squared width.

    Returns
    -------
    Depth in layers.

    Examples
    --------
    >>> round(rank_capped_depth(1e8, 256), 3)
    127.157
    """
    return parameters / (c * rank**2)


ShallowDepth = Annotated[Any, Domain(0, symbol="L_1", unit="layers", typical=(6, 12))]
DeepDepth = Annotated[Any, Domain(0, symbol="L_2", unit="layers", typical=(18, 48))]
_CROSSING = "a prediction: equal penalties on both sides of the best shape; depths 6 to 48"


@formula(kind="fitted", source=f"{LEVINE}; symmetric shape penalty", status="derived", symbol="N_cross", domain=_CROSSING)
def depth_pair_crossing(
    shallow: ShallowDepth,
    deep: DeepDepth,
    a: Intercept = fitted("levine2020", "a"),
    b: Slope = fitted("levine2020", "b"),
    c: BlockCoefficient = 12,
) -> Any:
    r"""Size at which a shallow and a deep network with as many parameters reach the same loss.

    .. math:: N = c\, \bar L\, e^{2a + 2b\bar L}, \qquad \bar L = \sqrt{L_1 L_2}

    Parameters
    ----------
    shallow, deep : L_1 and L_2, layers. Both > 0.
    a, b, c : the 2020 curve.

    Returns
    -------
    Parameters without embeddings. Below it the shallow network has the lower loss, above it the deep one.

    Notes
    -----
    Follows from a penalty symmetric in ln w. The original paper's own criterion may differ.

    Examples
    --------
    >>> round(depth_pair_crossing(6, 12))
    6218915
    """
    return levine_transition_parameters(sqrt(shallow * deep), a, b, c)


@formula(kind="fitted", source=f"{LEVINE}; symmetric shape penalty", status="derived", symbol="Delta", domain=_CROSSING)
def depth_pair_advantage(
    parameters: Parameters,
    shallow: ShallowDepth,
    deep: DeepDepth,
    k: Curvature = fitted("shape_penalty", "k"),
    a: Intercept = fitted("levine2020", "a"),
    b: Slope = fitted("levine2020", "b"),
    c: BlockCoefficient = 12,
) -> Any:
    r"""How much lower the deep network's loss is than the shallow one's, both with this many parameters.

    .. math:: \Delta = \frac{k}{2} \ln\frac{L_2}{L_1}\, \ln\frac{L^*(N)}{\sqrt{L_1 L_2}}

    Parameters
    ----------
    parameters : N, without embeddings. N > 0.
    shallow, deep : L_1 and L_2, layers. Both > 0.
    k : curvature of :func:`shape_penalty`.
    a, b, c : the 2020 curve.

    Returns
    -------
    Fraction of the loss; negative where the shallow network wins.

    Examples
    --------
    >>> round(100 * depth_pair_advantage(4 * depth_pair_crossing(12, 24), 12, 24), 2)
    0.48
    """
    best = levine_optimal_depth(parameters, a, b, c)
    return k / 2 * log(deep / shallow) * log(best / sqrt(shallow * deep))
