"""Number of heads, or of dimensions over all heads, that a task needs."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, fitted, formula
from ...mathematics import Constant, exp, log, minimum
from ...numerics.bounds import LONGEST
from .._regime import require
from ._domains import WHOLE, HeadDim, Heads, ShortLength, Width


@formula(
    kind="exact",
    source="Mahdavi, Liao, Thrampoulidis 2024, arXiv 2306.02010; explicit form recalled",
    status="recalled",
    symbol="N",
    domain="queries of Kruskal rank n, contexts of rank n, n < d",
)
def memorised_examples(heads: Heads, length: Annotated[ShortLength, "tokens of an example"], head_dim: HeadDim) -> Any:
    r"""Examples that one attention layer can memorise: linear in the heads, in their dimension only up to n.

    .. math:: N = H (\min(n, d_h) - 1) + 1

    Returns
    -------
    A count.

    Examples
    --------
    >>> memorised_examples(8, 32, 64)
    249
    """
    return heads * (minimum(length, head_dim) - 1) + 1


@formula(
    kind="heuristic",
    source="Adler 2025, arXiv 2509.22840 v1: order of growth, constant taken as 1",
    status="secondary",
    symbol="D_K",
)
def relation_key_dim(
    relations: Annotated[Any, Domain(2, closed_low=True, symbol="m", typical=(1e3, 1e6)), "directed pairs"],
    width: Annotated[Width, "width of the items' embeddings"],
) -> Any:
    r"""Total key dimension over all heads needed to recover so many relations between items, to an order of magnitude.

    .. math:: D_K = H d_h \sim \frac{m \ln m}{d}

    Returns
    -------
    Dimensions.

    Examples
    --------
    >>> round(relation_key_dim(1e5, 1024))
    1124
    """
    return relations * log(relations) / width


_AMSEL = "Amsel, Yehudai, Bruna 2025, arXiv 2407.16153, Theorem 2"
FullDim = Annotated[Any, Domain(2, symbol="d", unit="dimensions", typical=(128, 512), **WHOLE), "dimensions of the points"]
Rank = Annotated[Any, Domain(1, symbol="r", unit="dimensions", typical=(1, 16), **WHOLE), "rank of a head, at most d"]


@formula(kind="heuristic", source=f"{_AMSEL}: order, constant taken as 1", status="secondary", symbol="H")
def low_rank_heads_high_dim(
    width: FullDim, rank: Rank, error: Annotated[Any, Domain(0, 1, symbol="epsilon", typical=(0.2, 0.9)), "squared error"]
) -> Any:
    r"""Number of low-rank heads needed to find the nearest of two points in high dimension. One full-rank head is enough.

    .. math:: H = \Omega\!\left((d/r)^{1/\epsilon}\right)

    Returns
    -------
    Heads, to the order.

    Examples
    --------
    >>> low_rank_heads_high_dim(64, 32, 0.5)
    4.0
    """
    require(rank <= width, "heads.low_rank_heads_high_dim: a head's rank is at most the width")
    return (width / (rank * Constant.of(1))) ** (1 / error)


@formula(kind="heuristic", source=f"{_AMSEL}: order, constant taken as 1", status="secondary", symbol="ln H")
def log_low_rank_heads_high_accuracy(width: FullDim, rank: Rank) -> Any:
    r"""Logarithm of the number of low-rank heads needed to find the nearest of two points at high accuracy.

    .. math:: \ln H = \Omega\!\left(d - r \ln(d/r)\right)

    Returns
    -------
    To the order.

    Examples
    --------
    >>> round(log_low_rank_heads_high_accuracy(64, 8), 2)
    47.36
    """
    require(rank <= width, "heads.log_low_rank_heads_high_accuracy: a head's rank is at most the width")
    return width - rank * log(width / (rank * Constant.of(1)))


@formula(
    kind="heuristic",
    source="Sanford, Hsu, Telgarsky 2023, arXiv 2306.02896: order, constant taken as 1",
    status="recalled",
    symbol="m",
)
def sparse_average_dim(
    chosen: Annotated[Any, Domain(1, closed_low=True, integer=True, symbol="q", typical=(1, 64)), "tokens averaged"],
    length: ShortLength,
) -> Any:
    r"""Embedding dimension that one attention unit needs to average q chosen tokens out of n.

    .. math:: m \sim q \ln n

    Returns
    -------
    Dimensions, to the order; at least of order q.

    Examples
    --------
    >>> round(sparse_average_dim(4, 1024), 1)
    27.7
    """
    return chosen * log(length)


_COUNT = "Yu et al. 2026, arXiv 2510.06662"


@formula(
    kind="exact",
    source=f"{_COUNT}, Theorem 2(2)",
    status="primary",
    symbol="k",
    domain="bounded weights, H < D; parameters grow at least as eps^-k",
)
def too_few_heads_exponent(
    length: Annotated[
        Any, Domain(4, LONGEST, True, True, integer=True, symbol="T", unit="tokens", typical=(128, 4096)), "tokens"
    ],
    head_width: Annotated[Any, Domain(1, symbol="w", typical=(1, 32), **WHOLE), "dimensions of a head"],
    heads: Annotated[Any, Domain(1, symbol="s", typical=(1, 3), **WHOLE), "heads, fewer than D"],
    intrinsic_dim: Annotated[
        Any, Domain(2, symbol="D", typical=(4, 12), **WHOLE), "minima over parts of the sequence on which the target depends"
    ],
) -> Any:
    r"""Exponent by which parameters grow with accuracy for a layer with fewer heads than the target's intrinsic dimension.

    .. math:: M = \Omega(\epsilon^{-k}), \qquad k = \frac{T/4 - s - D + 1}{(w + 1) s + 1} - 1

    Returns
    -------
    k; 0 or less says nothing. With D heads the exponent does not depend on T.

    Examples
    --------
    >>> round(too_few_heads_exponent(1024, 8, 3, 4), 2)
    7.93
    """
    require(heads < intrinsic_dim, "heads.too_few_heads_exponent: says something for fewer heads than D only")
    return (length / Constant.of(4) - heads - intrinsic_dim + 1) / ((head_width + 1) * heads + 1) - 1


@formula(kind="fitted", source=f"{_COUNT}, fit on MS MARCO", status="primary", symbol="E/E_0", domain="H < 12, T from 8 to 64")
def head_count_decay(
    heads: Annotated[Any, Domain(0, symbol="H", typical=(1, 11), **WHOLE), "heads"],
    length: Annotated[Any, Domain(1, symbol="T", unit="tokens", typical=(8, 64), **WHOLE), "tokens"],
    alpha: Annotated[Any, Domain(symbol="alpha", typical=(-1.5, -1.0)), "factor in the exponent"] = fitted(
        "yu2026_heads", "alpha"
    ),
    delta: Annotated[Any, Domain(symbol="delta", typical=(0.2, 0.3)), "power of the length"] = fitted("yu2026_heads", "delta"),
) -> Any:
    r"""Factor by which training error falls with the number of heads at a given length.

    .. math:: E \propto \exp\!\left(\alpha H / T^\delta\right)

    Returns
    -------
    Relative to no heads at the same length.

    Examples
    --------
    >>> round(head_count_decay(4, 16), 4)
    0.0608
    """
    return exp(alpha * heads / length**delta)
