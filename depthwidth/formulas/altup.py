r"""Alternating updates (AltUp): K streams of width d; each block reads one and updates all.

.. math:: \hat x = P x, \qquad y = B(x_j), \qquad x_i' = \hat x_i + g_i (y - \hat x_j)

with the K x K matrix P, the K numbers g, and the active stream j of block B. Source of the method: Baykal, Cutler, Dikkala,
Ghosh, Panigrahy, Wang 2023, arXiv 2301.13310. Its matrices are in :mod:`depthwidth.numerics.altup`, its moments are derived in
docs/derivations/altup.md.
"""

from __future__ import annotations

from typing import Annotated, Any

from ..formula import Domain, formula

PAPER = "Baykal et al. 2023, arXiv 2301.13310"
_COUNT: dict[str, Any] = {"closed_low": True, "integer": True}
Streams = Annotated[Any, Domain(1, symbol="K", unit="streams", typical=(2, 4), **_COUNT), "streams, each of the blocks' width"]
Width = Annotated[Any, Domain(1, symbol="d", unit="dimensions", typical=(512, 4096), **_COUNT), "width of the blocks"]
Layers = Annotated[Any, Domain(0, symbol="L", unit="layers", typical=(8, 48), **_COUNT), "number of blocks"]


@formula(kind="exact", source=f"{PAPER}, Algorithm 1", status="derived", symbol="N_P")
def update_parameters(layers: Layers, streams: Streams) -> Any:
    r"""Parameters of all predictions and corrections: one matrix P and one vector g for each block.

    .. math:: N_P = L (K^2 + K)

    Returns
    -------
    A count. They are all that Recycled-AltUp adds to a model.

    Examples
    --------
    >>> update_parameters(24, 2), update_parameters(48, 4)
    (144, 960)
    """
    return layers * (streams**2 + streams)


@formula(
    kind="exact", source=f"{PAPER}, section 3; form recalled, reproduces its table of sizes", status="rederived", symbol="N_E"
)
def table_parameters(
    vocab: Annotated[Any, Domain(1, symbol="V", unit="tokens", typical=(3e4, 2e5), **_COUNT), "vocabulary size"],
    width: Width,
    streams: Streams,
    tables: Annotated[Any, Domain(1, symbol="n_E", typical=(1, 2), **_COUNT), "2 if the output matrix is not the embedding"],
) -> Any:
    r"""Parameters of the embedding and the output matrix, which hold all K streams of a token.

    .. math:: N_E = n_E V K d

    Returns
    -------
    A count.

    Examples
    --------
    >>> table_parameters(32128, 768, 2, 2)
    98697216
    """
    return tables * vocab * streams * width


@formula(kind="exact", source=f"{PAPER}, table of sizes; form recalled, reproduces every cell", status="rederived", symbol="N")
def t5_parameters(
    width: Width,
    ffn: Annotated[Any, Domain(1, symbol="d_ff", unit="dimensions", typical=(1024, 10240), **_COUNT), "hidden features"],
    heads: Annotated[Any, Domain(1, symbol="H", typical=(6, 64), **_COUNT), "heads"],
    head_dim: Annotated[Any, Domain(1, symbol="d_h", unit="dimensions", typical=(64, 128), **_COUNT), "dimensions of a head"],
    encoder_layers: Annotated[Any, Domain(1, symbol="L_e", unit="layers", typical=(4, 24), **_COUNT), "blocks of the encoder"],
    decoder_layers: Annotated[Any, Domain(1, symbol="L_d", unit="layers", typical=(4, 24), **_COUNT), "blocks of the decoder"],
    streams: Streams,
) -> Any:
    r"""Parameters of a T5 of version 1.1 without its tables of tokens, with AltUp in both stacks, P and g left out.

    .. math::

        N = (L_e + 2 L_d)\, 4 d A + (L_e + L_d)\, 3 d d_{ff} + d (2 L_e + 3 L_d) + 2 K d + 64 H
            + 2 L_d (K - 1) d A, \qquad A = H d_h

    The last term is the wider input of keys and values of cross-attention. Both last norms are over K d features. K = 1 is a T5
    without AltUp. The numbers P and g are counted apart, by :func:`update_parameters` for all blocks.

    Returns
    -------
    A count.

    Examples
    --------
    >>> t5_parameters(768, 2048, 12, 64, 12, 12, 1), t5_parameters(768, 2048, 12, 64, 12, 12, 2) + update_parameters(24, 2)
    (198229248, 212386704)
    """
    blocks, inner = encoder_layers + decoder_layers, heads * head_dim
    matrices = (encoder_layers + 2 * decoder_layers) * 4 * width * inner + blocks * 3 * width * ffn
    norms = width * (2 * encoder_layers + 3 * decoder_layers) + 2 * streams * width
    wider = 2 * decoder_layers * (streams - 1) * width * inner
    return matrices + norms + 64 * heads + wider


@formula(kind="exact", source="count of multiply-adds", status="derived", symbol="F_P")
def predict_flops(width: Width, streams: Streams) -> Any:
    r"""Operations of the matrix product P x, for one token in one block.

    .. math:: F_P = 2 K^2 d

    Returns
    -------
    FLOPs; the part of AltUp that a counter of matrix products sees.

    Examples
    --------
    >>> 16 * predict_flops(64, 2), 16 * predict_flops(64, 4)
    (8192, 32768)
    """
    return 2 * streams**2 * width


@formula(kind="exact", source="count of additions and multiplications", status="derived", symbol="F_A")
def update_operations(width: Width, streams: Streams) -> Any:
    r"""All operations of prediction and correction, element-wise ones included, for one token in one block.

    .. math:: F_A = (2 K^2 + 2 K + 1) d

    P x is 2 K^2 d, the innovation d, its multiples and their addition 2 K d.

    Returns
    -------
    Operations.

    Examples
    --------
    >>> update_operations(768, 2)
    9984
    """
    return (2 * streams**2 + 2 * streams + 1) * width


@formula(kind="exact", source="count of multiply-adds", status="derived", symbol="F_X")
def wider_memory_flops(
    width: Width,
    inner: Annotated[Any, Domain(1, symbol="A", unit="dimensions", typical=(512, 4096), **_COUNT), "features of all heads"],
    streams: Streams,
) -> Any:
    r"""Operations added to the keys and values of cross-attention, for one encoder token in one decoder block.

    .. math:: F_X = 4 (K - 1) d A

    Cross-attention reads all streams of the encoder's output.

    Returns
    -------
    FLOPs.

    Examples
    --------
    >>> wider_memory_flops(768, 768, 2)
    2359296
    """
    return 4 * (streams - 1) * width * inner


@formula(kind="exact", source="count of reads and writes", status="derived", symbol="n_f")
def fused_traffic(width: Width, streams: Streams) -> Any:
    r"""Values read and written by prediction and correction in one kernel, for one token in one block.

    .. math:: n_f = 2 K d

    Returns
    -------
    Values; times their size, bytes.

    Examples
    --------
    >>> fused_traffic(768, 2)
    3072
    """
    return 2 * streams * width


@formula(kind="exact", source="count of reads and writes", status="derived", symbol="n_u")
def unfused_traffic(width: Width, streams: Streams) -> Any:
    r"""Values read and written by prediction, innovation and correction as three kernels, for one token in one block.

    .. math:: n_u = (4 K + 4) d

    The prediction reads and writes K d values. The innovation reads 2 d and writes d. The correction reads K d and d and writes
    K d.

    Returns
    -------
    Values; times their size, bytes.

    Examples
    --------
    >>> unfused_traffic(768, 2)
    9216
    """
    return (4 * streams + 4) * width


@formula(
    kind="exact",
    source="covariance of squares of jointly Gaussian features",
    status="derived",
    symbol="phi",
    domain="streams of equal size, each of d independent Gaussian features",
)
def joined_spread(
    streams: Streams,
    correlation: Annotated[
        Any, Domain(-1, 1, closed_low=True, closed_high=True, symbol="rho", typical=(0, 1)), "of two streams"
    ],
) -> Any:
    r"""Variance over draws of the second moment of all streams together, over that of one stream.

    .. math:: \varphi = \frac{1 + (K - 1) \rho^2}{K}

    Returns
    -------
    A factor from 1/K, for independent streams, to 1, for equal ones.

    Examples
    --------
    >>> joined_spread(4, 0.0), joined_spread(4, 1.0)
    (0.25, 1.0)
    """
    return (1 + (streams - 1) * correlation**2) / streams


@formula(kind="exact", source=f"{PAPER}, headline; definition recalled", status="recalled", symbol="s")
def equal_accuracy_speedup(
    accuracy: Annotated[Any, Domain(0, 100, symbol="a", unit="%", typical=(60, 95)), "accuracy of the model with AltUp"],
    time: Annotated[Any, Domain(0, symbol="t", unit="seconds", typical=(0.01, 1)), "its time for one example"],
    low: Annotated[Any, Domain(0, 100, symbol="a_0", unit="%", typical=(60, 95)), "accuracy of the smaller dense model"],
    low_time: Annotated[Any, Domain(0, symbol="t_0", unit="seconds", typical=(0.01, 1)), "time of the smaller dense model"],
    high: Annotated[Any, Domain(0, 100, symbol="a_1", unit="%", typical=(60, 95)), "accuracy of the larger dense model"],
    high_time: Annotated[Any, Domain(0, symbol="t_1", unit="seconds", typical=(0.01, 1)), "time of the larger dense model"],
) -> Any:
    r"""Speed-up over a dense model of the same accuracy, whose time is interpolated between two dense sizes.

    .. math:: s = \frac{1}{t} \left(t_0 + \frac{a - a_0}{a_1 - a_0} (t_1 - t_0)\right) - 1

    Returns
    -------
    A share: 0.5 if the dense model takes 1.5 times as long.

    Examples
    --------
    >>> round(equal_accuracy_speedup(92.36, 1 / 42.3, 91.19, 1 / 52.4, 93.56, 1 / 17.1), 2)
    0.63
    """
    return (low_time + (accuracy - low) / (high - low) * (high_time - low_time)) / time - 1


@formula(
    kind="heuristic",
    source="operations and bytes at constant rates",
    status="derived",
    symbol="tau",
    domain="kernels at the same rate with and without AltUp; without traffic the lower end of a band",
)
def time_ratio(
    flops: Annotated[Any, Domain(0, symbol="F", unit="FLOPs", typical=(1e6, 1e12)), "operations of the dense model"],
    added_flops: Annotated[Any, Domain(0, closed_low=True, symbol="F_+", unit="FLOPs", typical=(0, 1e11)), "operations added"],
    added_bytes: Annotated[Any, Domain(0, closed_low=True, symbol="b_+", unit="bytes", typical=(0, 1e9)), "traffic added"],
    flop_rate: Annotated[Any, Domain(0, symbol="r_F", unit="FLOPs/s", typical=(1e10, 1e15)), "rate of the dense model"],
    byte_rate: Annotated[
        Any,
        Domain(0, symbol="r_b", unit="bytes/s", typical=(1e10, 3e12)),
        "rate of memory",
    ],
) -> Any:
    r"""Time of a model with AltUp over that of the dense model.

    .. math:: \tau = 1 + \frac{F_+}{F} + \frac{b_+ r_F}{F r_b}

    Returns
    -------
    A ratio.

    Examples
    --------
    >>> time_ratio(1e9, 1e8, 0.0, 1e10, 1e9), time_ratio(1e9, 1e8, 1e6, 1e10, 1e9)
    (1.1, 1.11)
    """
    return 1 + added_flops / flops + added_bytes * flop_rate / (flops * byte_rate)
