"""The Marin isoflop sweep: a ratio of width to depth that grows with the logarithm of the width."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, fitted, formula
from ...mathematics import log
from .._regime import require


@formula(kind="heuristic", source="Marin isoflop sweep, public code", status="primary", symbol="L", domain="widths from 512")
def marin_depth(
    width: Annotated[Any, Domain(0, symbol="d", unit="dimensions", typical=(512, 8192)), "width"],
    base_ratio: Annotated[
        Any,
        Domain(0, symbol="rho_0", unit="width per layer", typical=(50, 80)),
        "ratio of width to depth before the next two terms",
    ] = fitted("heuristics", "base_ratio", "marin"),
    log_slope: Annotated[
        Any,
        Domain(0, closed_low=True, symbol="rho_1", unit="width per layer", typical=(2, 6)),
        "ratio added per doubling of the width",
    ] = fitted("heuristics", "log_slope", "marin"),
    min_hidden_pow: Annotated[
        Any,
        Domain(symbol="p", typical=(8, 10)),
        "log2 of the sweep's narrowest width; the code subtracts it from the ratio, not from the logarithm",
    ] = fitted("heuristics", "min_hidden_pow", "marin"),
) -> Any:
    r"""Depth that the Marin isoflop sweep gives a model of this width, before rounding to whole layers.

    .. math:: L = \frac{d}{64 + 4 \log_2 d - 9}

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
