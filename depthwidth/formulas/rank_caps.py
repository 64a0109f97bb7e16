"""Wies et al. 2021: the rank of the embedding caps the useful width."""

from __future__ import annotations

from typing import Annotated, Any

from ..formula import Domain, formula
from ..mathematics import minimum
from .rules._domains import BlockCoefficient, Parameters, Width

WIES = "Wies et al. 2021, arXiv 2105.03928"
Rank = Annotated[
    Any,
    Domain(0, symbol="r", unit="dimensions", typical=(64, 1024)),
    "rank of the input embedding: at most the vocabulary, or the inner dimension of a factorised embedding",
]


@formula(kind="heuristic", source=WIES, status="derived", symbol="d_useful", domain="embedding rank below the width")
def rank_capped_width(width: Width, rank: Rank) -> Any:
    r"""Useful width of a network, capped by the rank of its embedding.

    .. math:: d_{useful} = \min(d_x, r)

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

    Returns
    -------
    Depth in layers.

    Examples
    --------
    >>> round(rank_capped_depth(1e8, 256), 3)
    127.157
    """
    return parameters / (c * rank**2)
