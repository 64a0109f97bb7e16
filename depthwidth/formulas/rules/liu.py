"""Liu et al. 2026: the shape of least loss under the inverse-depth law."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, fitted, formula
from ._balance import balanced_depth, balanced_width, optimal_depth, optimal_width
from ._domains import BlockCoefficient, Parameters

LIU = "Liu, Kangaslahti, Liu, Gore 2026, arXiv 2602.05970, Eq. 3"
_LIU_RANGE = "about 200 reconstructed Chinchilla runs"
LiuWidth = Annotated[Any, Domain(0, symbol="m", unit="dimensions", typical=(512, 8192)), "dimension of the residual stream"]
LiuDepth = Annotated[Any, Domain(0, symbol="l", unit="layers", typical=(6, 64)), "number of blocks"]
LiuWidthExponent = Annotated[Any, Domain(0, symbol="alpha_m", typical=(0.9, 1.1)), "exponent of the width term"]
LiuDepthExponent = Annotated[Any, Domain(0, symbol="alpha_l", typical=(0.9, 1.5)), "exponent of the depth term"]
LiuWidthTerm = Annotated[Any, Domain(0, symbol="c_m", unit="nats", typical=(200, 500)), "factor of the width term"]
LiuDepthTerm = Annotated[Any, Domain(0, symbol="c_l", unit="nats", typical=(3, 8)), "factor of the depth term"]


@formula(kind="fitted", source=LIU, status="derived", symbol="l", domain=_LIU_RANGE)
def liu_depth(
    width: LiuWidth,
    alpha_m: LiuWidthExponent = fitted("liu2026", "alpha_m"),
    alpha_l: LiuDepthExponent = fitted("liu2026", "alpha_l"),
    c_m: LiuWidthTerm = fitted("liu2026", "c_m"),
    c_l: LiuDepthTerm = fitted("liu2026", "c_l"),
) -> Any:
    r"""Depth of least loss under the inverse-depth law at this width, for a fixed number of parameters.

    .. math:: l(m) = \left(\frac{2\alpha_l c_l}{\alpha_m c_m}\, m^{\alpha_m}\right)^{1/\alpha_l}

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
    return balanced_depth(width, alpha_m, alpha_l, c_m, c_l)


@formula(kind="fitted", source=LIU, status="derived", symbol="m", domain=_LIU_RANGE)
def liu_width(
    depth: LiuDepth,
    alpha_m: LiuWidthExponent = fitted("liu2026", "alpha_m"),
    alpha_l: LiuDepthExponent = fitted("liu2026", "alpha_l"),
    c_m: LiuWidthTerm = fitted("liu2026", "c_m"),
    c_l: LiuDepthTerm = fitted("liu2026", "c_l"),
) -> Any:
    r"""Width of least loss under the inverse-depth law at this depth: the inverse of :func:`liu_depth`.

    .. math:: m(l) = \left(\frac{\alpha_m c_m}{2\alpha_l c_l}\, l^{\alpha_l}\right)^{1/\alpha_m}

    Returns
    -------
    Width in dimensions.

    Examples
    --------
    >>> round(liu_width(liu_depth(1024)), 6)
    1024.0
    """
    return balanced_width(depth, alpha_m, alpha_l, c_m, c_l)


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

    Returns
    -------
    Width in dimensions.

    Examples
    --------
    >>> round(liu_optimal_width(1e9), 2)
    1728.31
    """
    return optimal_width(parameters / c, alpha_m, alpha_l, c_m, c_l)


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

    Returns
    -------
    Depth in layers.

    Examples
    --------
    >>> round(liu_optimal_depth(1e9), 4)
    27.8983
    """
    return optimal_depth(parameters / c, alpha_m, alpha_l, c_m, c_l)
