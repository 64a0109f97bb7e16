"""Positions in attention scores: ranks, parameters, operations, bytes, and the variance that a score bias adds.

One head has the scores A = Q K' / scale + B of n tokens. The scheme decides B: a product of two tables of d_p features
(DIET-ABS), one number for each difference of positions (DIET-REL) or bucket of them (T5), or a product with the query (Shaw).
"""

from __future__ import annotations

from typing import Annotated, Any

from ..formula import Domain, formula
from ..mathematics import Constant, minimum
from .attention._domains import NATS2, OURS

_WHOLE: dict[str, Any] = {"closed_low": True, "integer": True}
DIET = "Chen et al. 2021, arXiv 2104.08698"
SHAW = "Shaw et al. 2018, arXiv 1803.02155"
T5 = "Raffel et al. 2020, arXiv 1910.10683"
TUPE = "Ke et al. 2021, arXiv 2006.15595"
Tokens = Annotated[Any, Domain(1, symbol="n", unit="tokens", typical=(128, 4096), **_WHOLE), "largest number of positions"]
Width = Annotated[Any, Domain(1, symbol="d", unit="dimensions", typical=(256, 4096), **_WHOLE), "features of the stream"]
HeadDim = Annotated[Any, Domain(1, symbol="d_h", unit="dimensions", typical=(32, 256), **_WHOLE), "head dimension"]
Rank = Annotated[Any, Domain(1, symbol="d_p", unit="dimensions", typical=(64, 512), **_WHOLE), "features of a position"]
Heads = Annotated[Any, Domain(1, symbol="H", typical=(4, 64), **_WHOLE), "heads per layer"]
Tables = Annotated[
    Any,
    Domain(1, symbol="T", typical=(1, 144), **_WHOLE),
    "distinct tables: layers times heads, the heads alone if layers share theirs, the layers alone if heads do",
]
Batch = Annotated[Any, Domain(1, symbol="B", unit="sequences", typical=(1, 256), **_WHOLE), "sequences"]
Variance = Annotated[
    Any,
    Domain(0, closed_low=True, symbol="sigma^2", unit=NATS2, typical=(0.1, 2.0)),
    "variance of the content's scores",
]
BiasVariance = Annotated[
    Any, Domain(0, closed_low=True, symbol="beta^2", unit=NATS2, typical=(0.01, 1.0)), "variance of a score bias over its draw"
]


@formula(kind="exact", source=f"{DIET}, Theorem 1: the rank of a product", status="primary", symbol="R")
def input_position_rank(tokens: Tokens, head_dim: HeadDim) -> Any:
    r"""Largest rank of a head's scores, with positions added at the input or none.

    .. math:: R = \min(n, d_h)

    Returns
    -------
    Rank of the matrix of scores before the softmax, which raises it to n in general.

    Examples
    --------
    >>> input_position_rank(128, 16)
    16
    """
    return minimum(tokens, head_dim)


@formula(
    kind="exact",
    source=f"{DIET}, Theorem 1; the bound for any d_p is ours",
    status="primary",
    symbol="R",
    domain="attained by almost every draw of the tables; the theorem itself asks for d_h < d_p and n >= d_h + d_p",
)
def decoupled_rank(tokens: Tokens, head_dim: HeadDim, rank: Rank) -> Any:
    r"""Largest rank of a head's scores with a bias that is a product of two tables of positions.

    .. math:: R = \min(n, d_h + d_p)

    Returns
    -------
    Rank of the matrix of scores before the softmax. A bias with one number for each difference of positions has rank n.

    Notes
    -----
    The appendix of the paper proves it for d_p = n, which contradicts its condition n >= d_h + d_p. An example that fits: X =
    [I; 0], W_Q = W_K = [I; 0] and a table that is the identity in its last d_p rows have diagonal scores of rank d_h + d_p.

    Examples
    --------
    >>> decoupled_rank(128, 16, 32), decoupled_rank(128, 16, 128)
    (48, 128)
    """
    return minimum(tokens, head_dim + rank)


@formula(kind="exact", source=f"{DIET}, section 2.2.1", status="primary", symbol="N")
def input_position_parameters(tokens: Tokens, width: Width) -> Any:
    r"""Parameters of a table of positions that is added to the embedding.

    .. math:: N = n d

    Returns
    -------
    A count, which decoupled positions save.

    Examples
    --------
    >>> input_position_parameters(512, 768)
    393216
    """
    return tokens * width


@formula(kind="exact", source=f"{DIET}, eq. 3 and Table 6", status="primary", symbol="N")
def relative_bias_parameters(tokens: Tokens, tables: Tables) -> Any:
    r"""Parameters of DIET-REL: one number for each difference of positions.

    .. math:: N = T (2n - 1)

    Returns
    -------
    A count.

    Examples
    --------
    >>> relative_bias_parameters(512, 144), relative_bias_parameters(512, 12)  # of 12 layers of 12 heads, and shared by layers
    (147312, 12276)
    """
    return tables * (2 * tokens - 1)


@formula(kind="exact", source=f"{DIET}, eq. 1 and Table 6", status="primary", symbol="N")
def absolute_bias_parameters(tokens: Tokens, rank: Rank, tables: Tables) -> Any:
    r"""Parameters of DIET-ABS: two tables of d_p features for each position.

    .. math:: N = 2 T n d_p

    Returns
    -------
    A count.

    Examples
    --------
    >>> absolute_bias_parameters(512, 128, 144), absolute_bias_parameters(512, 128, 12)
    (18874368, 1572864)
    """
    return 2 * tables * tokens * rank


@formula(kind="exact", source=f"{DIET}, eq. 2", status="primary", symbol="N")
def segment_bias_parameters(
    segments: Annotated[Any, Domain(1, symbol="s", unit="segments", typical=(2, 4), **_WHOLE), "segments"], tables: Tables
) -> Any:
    r"""Parameters of score biases for each pair of segments, the query's and the key's.

    .. math:: N = T s^2

    Returns
    -------
    A count.

    Examples
    --------
    >>> segment_bias_parameters(2, 144)
    576
    """
    return tables * segments**2


@formula(kind="exact", source=f"{T5}, section 2.1", status="recalled", symbol="N")
def bucketed_bias_parameters(
    buckets: Annotated[Any, Domain(1, symbol="K", typical=(16, 64), **_WHOLE), "buckets of differences"], tables: Tables
) -> Any:
    r"""Parameters of T5's score bias: one number for each bucket of differences.

    .. math:: N = T K

    Returns
    -------
    A count.

    Examples
    --------
    >>> bucketed_bias_parameters(32, 12)
    384
    """
    return tables * buckets


@formula(kind="exact", source=SHAW, status="recalled", symbol="N", domain="one table for the heads of a layer")
def relative_vector_parameters(
    reach: Annotated[Any, Domain(0, symbol="c", unit="tokens", typical=(16, 128), **_WHOLE), "largest difference told apart"],
    head_dim: HeadDim,
    tables: Annotated[
        Any,
        Domain(1, symbol="T", typical=(12, 48), **_WHOLE),
        "distinct tables: one for the keys of each layer, two with those of its values",
    ],
) -> Any:
    r"""Parameters of Shaw's relative vectors: d_h features for each difference.

    .. math:: N = T (2c + 1) d_h

    Returns
    -------
    A count. DIET's Table 6 has 4 (2n - 1) d_h for each layer, and does not explain the 4.

    Examples
    --------
    >>> relative_vector_parameters(511, 64, 4 * 12)
    3142656
    """
    return tables * (2 * reach + 1) * head_dim


@formula(kind="exact", source=TUPE, status="recalled", symbol="N", domain="shared by layers; d = H d_h")
def untied_position_parameters(tokens: Tokens, width: Width) -> Any:
    r"""Parameters of TUPE's absolute term: a table of positions with a query and a key map of its own.

    .. math:: N = n d + 2 d^2

    Returns
    -------
    A count.

    Examples
    --------
    >>> untied_position_parameters(512, 768)
    1572864
    """
    return tokens * width + 2 * width**2


@formula(kind="exact", source=f"{DIET}, eq. 1: a product of two tables", status="derived", symbol="F")
def absolute_bias_flops(tokens: Tokens, rank: Rank, tables: Tables) -> Any:
    r"""Operations of DIET-ABS in a forward pass of any batch; none once the bias is kept.

    .. math:: F = 2 T n^2 d_p

    Returns
    -------
    Floating-point operations, two for each multiply-add. Biases that are looked up (DIET-REL, T5) have none.

    Examples
    --------
    >>> absolute_bias_flops(32, 24, 4)
    196608
    """
    return 2 * tables * tokens**2 * rank


@formula(kind="exact", source=f"{DIET}, eq. 4", status="derived", symbol="F")
def projected_bias_flops(
    tokens: Tokens,
    keys: Annotated[Any, Domain(1, symbol="k", typical=(32, 256), **_WHOLE), "keys that Linformer projects the tokens to"],
    rank: Rank,
    tables: Tables,
) -> Any:
    r"""Operations of DIET-ABS over the projected keys of Linformer.

    .. math:: F = 2 T n k d_p

    Returns
    -------
    Floating-point operations.

    Examples
    --------
    >>> projected_bias_flops(32, 8, 24, 4)
    49152
    """
    return 2 * tables * tokens * keys * rank


@formula(kind="exact", source=f"{SHAW}: a product of each query with the vector of each key", status="derived", symbol="F")
def relative_vector_flops(
    batch: Batch,
    tokens: Tokens,
    width: Annotated[Any, Domain(1, symbol="d", unit="dimensions", typical=(256, 4096), **_WHOLE), "all heads' dimensions"],
    sides: Annotated[
        Any, Domain(1, 2, closed_high=True, symbol="m", typical=(1, 2), **_WHOLE), "1 for keys, 2 for keys and values"
    ] = 1,
) -> Any:
    r"""Operations of Shaw's relative vectors in one layer.

    .. math:: F = 2 m B n^2 d

    Returns
    -------
    Floating-point operations, which grow with the batch.

    Examples
    --------
    >>> relative_vector_flops(3, 32, 64), relative_vector_flops(3, 32, 64, 2)
    (393216, 786432)
    """
    return 2 * sides * batch * tokens**2 * width


@formula(kind="exact", source=f"{TUPE}: two maps of the table and one product", status="derived", symbol="F")
def untied_position_flops(tokens: Tokens, width: Width) -> Any:
    r"""Operations of TUPE's absolute term in a forward pass of any batch; none once the bias is kept.

    .. math:: F = 4 n d^2 + 2 n^2 d

    Returns
    -------
    Floating-point operations.

    Examples
    --------
    >>> untied_position_flops(32, 64)
    655360
    """
    return 4 * tokens * width**2 + 2 * tokens**2 * width


@formula(kind="exact", source="a matrix of one number for each query and key", status="derived", symbol="M")
def bias_bytes(
    tokens: Tokens,
    tables: Tables,
    value_bytes: Annotated[
        Any, Domain(0, symbol="b", unit="bytes", typical=(2, 4)), "size of a number: 2 in bf16, 4 in float32"
    ] = 2,
) -> Any:
    r"""Memory of score biases as a kernel reads them, for any batch; kept from call to call at inference.

    .. math:: M = T n^2 b

    Returns
    -------
    Bytes.

    Examples
    --------
    >>> bias_bytes(512, 12), bias_bytes(4096, 12)
    (6291456, 402653184)
    """
    return tables * tokens**2 * value_bytes


@formula(
    kind="exact",
    source=f"{OURS}; the bias is independent of the content",
    status="derived",
    symbol="sigma_b^2",
    domain="exchangeable tokens, Gaussian biases of mean 0",
)
def biased_score_variance(
    variance: Variance,
    bias_variance: BiasVariance,
    own: Annotated[
        Any,
        Domain(0, 1, True, True, symbol="o", typical=(0.5, 1.0)),
        "share of it that differs between the keys of a row: 1 if each has a bias of its own",
    ] = 1,
) -> Any:
    r"""Variance of the scores in a row with a score bias, without their common part.

    .. math:: \sigma_b^2 = \sigma^2 + o\, \beta^2

    Derivation: docs/derivations/attention.md, (A21).

    Returns
    -------
    nats^2.

    Examples
    --------
    >>> biased_score_variance(1.0, 0.5)
    1.5
    """
    return variance + own * bias_variance


@formula(
    kind="exact",
    source=f"{OURS}; the bias is independent of the content",
    status="derived",
    symbol="rho_b",
    domain="exchangeable tokens, Gaussian biases of mean 0, a variance above 0",
)
def biased_row_correlation(
    correlation: Annotated[
        Any,
        Domain(-1, 1, True, True, symbol="rho", typical=(0.02, 0.9)),
        "correlation of the content's scores of two rows for one key",
    ],
    variance: Annotated[Any, Domain(0, symbol="sigma^2", unit=NATS2, typical=(0.1, 2.0)), "variance of the content's scores"],
    bias_variance: BiasVariance,
    own: Annotated[Any, Domain(0, 1, True, True, symbol="o", typical=(0.5, 1.0)), "as in the variance of a row"] = 1,
    pair: Annotated[
        Any,
        Domain(-1, 1, True, True, symbol="c", typical=(0.0, 0.5)),
        "share of it that two rows have in common for a key",
    ] = 0,
) -> Any:
    r"""Correlation, for one key, of the scores of two rows with a score bias.

    .. math:: \rho_b = \frac{\rho\, \sigma^2 + c\, \beta^2}{\sigma^2 + o\, \beta^2}

    Derivation: docs/derivations/attention.md, (A22).

    Returns
    -------
    Dimensionless. Positions make the rows of two tokens differ even if the tokens are nearly equal.

    Examples
    --------
    >>> biased_row_correlation(0.5, 1.0, 1.0)
    0.25
    """
    return (correlation * variance + pair * bias_variance) / (variance + own * bias_variance)


@formula(
    kind="exact",
    source=f"{OURS}: second moment of a product of two tables",
    status="derived",
    symbol="beta^2",
)
def absolute_bias_variance(
    rank: Rank,
    query_variance: Annotated[Any, Domain(0, closed_low=True, symbol="v_q", typical=(0.0004, 0.1)), "of a query table's entry"],
    key_variance: Annotated[Any, Domain(0, closed_low=True, symbol="v_k", typical=(0.0004, 0.1)), "of a key table's entry"],
) -> Any:
    r"""Variance of an entry of the product of DIET-ABS's two tables.

    .. math:: \beta^2 = d_p v_q v_k

    Returns
    -------
    nats^2; 0 if one of the tables starts at zero.

    Examples
    --------
    >>> absolute_bias_variance(64, 0.125, 0.125)
    1.0
    """
    return rank * query_variance * key_variance


@formula(
    kind="exact",
    source=f"{OURS}: the variances of independent summands add",
    status="derived",
    symbol="d_eff",
    domain="content and bias independent; d_p infinite for a bias that is drawn entry by entry",
)
def effective_head_dim(
    variance: Annotated[Any, Domain(0, symbol="sigma^2", unit=NATS2, typical=(0.1, 2.0)), "variance of the content's scores"],
    bias_variance: BiasVariance,
    head_dim: HeadDim,
    rank: Annotated[
        Any, Domain(0, closed_high=True, symbol="d_p", unit="dimensions", typical=(64, 512)), "features of a position"
    ] = float("inf"),
) -> Any:
    r"""Head dimension at which the variance of a row's scores fluctuates as much as that of content and bias together.

    .. math:: \frac{1}{d_{eff}} = \left(\frac{\sigma^2}{\sigma^2 + \beta^2}\right)^2 \frac{1}{d_h}
        + \left(\frac{\beta^2}{\sigma^2 + \beta^2}\right)^2 \frac{1}{d_p}

    Derivation: docs/derivations/attention.md, (A23).

    Returns
    -------
    Dimensions: the relative variance of a row's score variance is 2/d_eff.

    Examples
    --------
    >>> effective_head_dim(1.0, 1.0, 16, 16)
    32.0
    """
    share = variance / (variance + bias_variance)
    return 1 / (share**2 / (head_dim * Constant.of(1)) + (1 - share) ** 2 / rank)
