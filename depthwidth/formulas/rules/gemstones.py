"""McLeish et al. 2025 (Gemstones): the shape of least loss under a law with a term for the width and one for the depth."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, fitted, formula
from ...mathematics import log, sqrt
from ._balance import balanced_depth, balanced_width, optimal_depth, optimal_width
from ._domains import BlockCoefficient, Parameters

GEMSTONES = "McLeish et al. 2025, arXiv 2502.06857, width-depth law"
_GEMSTONES_RANGE = "widths 256 to 3072, depths 3 to 80, 48M to 2B parameters; embeddings ignored"
WidthExponent = Annotated[Any, Domain(0, symbol="alpha", typical=(0.2, 0.4)), "exponent of the width term"]
DepthExponent = Annotated[Any, Domain(0, symbol="beta", typical=(0.3, 0.6)), "exponent of the depth term"]
WidthTerm = Annotated[Any, Domain(0, symbol="A", unit="nats", typical=(2, 6)), "factor of the width term"]
DepthTerm = Annotated[Any, Domain(0, symbol="B", unit="nats", typical=(0.5, 1.5)), "factor of the depth term"]
GemstonesWidth = Annotated[
    Any, Domain(0, symbol="w", unit="dimensions", typical=(256, 3072)), "dimension of the residual stream"
]
GemstonesDepth = Annotated[Any, Domain(0, symbol="d", unit="layers", typical=(6, 80)), "number of blocks"]
GemstonesBlock = Annotated[BlockCoefficient, "parameters per layer and squared width: 12, or 15 for the authors' own block"]


@formula(kind="fitted", source=GEMSTONES, status="derived", symbol="d", domain=_GEMSTONES_RANGE)
def gemstones_depth(
    width: GemstonesWidth,
    alpha: WidthExponent = fitted("gemstones2025", "alpha"),
    beta: DepthExponent = fitted("gemstones2025", "beta"),
    A: WidthTerm = fitted("gemstones2025", "A"),
    B: DepthTerm = fitted("gemstones2025", "B"),
) -> Any:
    r"""Depth of least Gemstones loss at this width, for a fixed number of parameters.

    .. math:: d(w) = \left(\frac{2\beta B}{\alpha A}\, w^{\alpha}\right)^{1/\beta}

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
    return balanced_depth(width, alpha, beta, A, B)


@formula(kind="fitted", source=GEMSTONES, status="derived", symbol="w", domain=_GEMSTONES_RANGE)
def gemstones_width(
    depth: GemstonesDepth,
    alpha: WidthExponent = fitted("gemstones2025", "alpha"),
    beta: DepthExponent = fitted("gemstones2025", "beta"),
    A: WidthTerm = fitted("gemstones2025", "A"),
    B: DepthTerm = fitted("gemstones2025", "B"),
) -> Any:
    r"""Width of least Gemstones loss at this depth: the inverse of :func:`gemstones_depth`.

    .. math:: w(d) = \left(\frac{\alpha A}{2\beta B}\, d^{\beta}\right)^{1/\alpha}

    Returns
    -------
    Width in dimensions.

    Examples
    --------
    >>> round(gemstones_width(gemstones_depth(1024)), 6)
    1024.0
    """
    return balanced_width(depth, alpha, beta, A, B)


@formula(kind="fitted", source=GEMSTONES, status="derived", symbol="w^*", domain=_GEMSTONES_RANGE)
def gemstones_optimal_width(
    parameters: Parameters,
    c: GemstonesBlock = 12,
    alpha: WidthExponent = fitted("gemstones2025", "alpha"),
    beta: DepthExponent = fitted("gemstones2025", "beta"),
    A: WidthTerm = fitted("gemstones2025", "A"),
    B: DepthTerm = fitted("gemstones2025", "B"),
) -> Any:
    r"""Width with the lowest Gemstones loss at this many parameters.

    .. math:: w^*(N) = \left[\frac{\alpha A}{2\beta B} \left(\frac{N}{c}\right)^{\beta}\right]^{1/(\alpha + 2\beta)}

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
    return optimal_width(parameters / c, alpha, beta, A, B)


@formula(kind="fitted", source=GEMSTONES, status="derived", symbol="d^*", domain=_GEMSTONES_RANGE)
def gemstones_optimal_depth(
    parameters: Parameters,
    c: GemstonesBlock = 12,
    alpha: WidthExponent = fitted("gemstones2025", "alpha"),
    beta: DepthExponent = fitted("gemstones2025", "beta"),
    A: WidthTerm = fitted("gemstones2025", "A"),
    B: DepthTerm = fitted("gemstones2025", "B"),
) -> Any:
    r"""Depth with the lowest Gemstones loss at this many parameters.

    .. math:: d^*(N) = \frac{N}{c\, w^*(N)^2}

    Returns
    -------
    Depth in layers; it grows like N^0.187.

    Examples
    --------
    >>> round(gemstones_optimal_depth(1e9), 4)
    40.5332
    """
    return optimal_depth(parameters / c, alpha, beta, A, B)


GemstonesVariance = Annotated[Any, Domain(0, closed_low=True, typical=(0.01, 0.1)), "an entry on the diagonal of Sigma"]
GemstonesCovariance = Annotated[Any, Domain(typical=(-0.001, 0.001)), "an off-diagonal entry of Sigma"]


@formula(
    kind="approximation",
    source="first-order error propagation of the Gemstones fit",
    status="derived",
    symbol="s",
    domain="small coefficient errors; the measured ones are not small, see data/README.md",
    accuracy=0.025,
    within={"var_alpha": (0, 1e-4), "var_beta": (0, 1e-3)},
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
