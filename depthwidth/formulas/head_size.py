"""Cost of a head dimension away from the best one, at a fixed shape and number of parameters."""

from __future__ import annotations

from typing import Annotated, Any

from ..formula import Domain, fitted, formula
from ..mathematics import log


@formula(
    kind="fitted",
    source="our analysis of the 435 runs of Gadre et al. 2024, arXiv 2403.08540",
    status="measured",
    symbol="p_h",
    domain="one data set and recipe: widths 512 to 1024, 4 to 16 heads, 20 tokens a parameter, queries and keys normalised",
)
def head_size_penalty(
    head_dim: Annotated[Any, Domain(0, symbol="d_h", unit="dimensions", typical=(32, 256)), "head dimension"],
    best: Annotated[
        Any, Domain(0, symbol="d_h^*", unit="dimensions", typical=(100, 130)), "head dimension of least loss"
    ] = fitted("gadre2024_head_size", "h"),
    q: Annotated[
        Any, Domain(0, symbol="q", typical=(0.005, 0.02)), "curvature of the penalty in the logarithm of the head dimension"
    ] = fitted("gadre2024_head_size", "q"),
) -> Any:
    r"""Relative loss increase of a head dimension away from the best one.

    .. math:: p_h = q \ln^2\frac{d_h}{d_h^*}

    Returns
    -------
    Loss over the least loss, minus 1.

    Examples
    --------
    >>> [round(100 * head_size_penalty(d), 2) for d in (32, 64, 128)]
    [1.64, 0.37, 0.01]
    """
    return q * log(head_dim / best) ** 2
