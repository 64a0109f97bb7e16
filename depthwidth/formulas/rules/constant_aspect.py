"""A constant ratio of width to depth at a parameter budget."""

from __future__ import annotations

from typing import Any

from ...formula import formula
from ...mathematics import Constant
from ._domains import BlockCoefficient, Parameters, Ratio


@formula(kind="exact", source="definition of the ratio and N = c L d^2", status="derived", symbol="d_x")
def constant_aspect_width(parameters: Parameters, aspect: Ratio, c: BlockCoefficient = 12) -> Any:
    r"""Width of the network with this many parameters and this ratio of width to depth.

    .. math:: d_x = \left(\frac{\rho N}{c}\right)^{1/3}

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

    Returns
    -------
    Depth in layers.

    Examples
    --------
    >>> round(constant_aspect_depth(1e9, 64), 4)
    27.2994
    """
    return (parameters / (c * aspect**2)) ** (1 / Constant.of(3))
