"""Bounds of covering numbers for linear maps and attention heads, and the resulting bounds of the test loss."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, formula
from ...mathematics import Constant, exp, lgamma, log, pi, sqrt
from .._regime import require
from ._domains import DRAWN, EDELMAN, HALF, MAUREY, MEASURE, PROXY, THIRD, VC, WHOLE, Failure, InputNorm, Samples, Weights

ValueNorm = Annotated[Any, Domain(0, closed_low=True, symbol="V", typical=(0.1, 5.0)), "spectral norm of the value matrix"]
ValueChange = Annotated[
    Any, Domain(0, closed_low=True, symbol="V'", typical=(0.01, 1.0)), "spectral norm of the change of the value matrix"
]
ScoreChange = Annotated[
    Any, Domain(0, closed_low=True, symbol="eta", unit="nats", typical=(0.01, 1.0)), "largest change of a score"
]


@formula(
    kind="exact",
    source=f"derivative of softmax; {EDELMAN}, Cor. A.7, has a factor 2",
    status="derived",
    symbol="D",
    domain="all networks: a bound",
)
def head_perturbation(norm: InputNorm, value_norm: ValueNorm, value_change: ValueChange, score_change: ScoreChange) -> Any:
    r"""Largest change of an attention head's output if values and scores change, at any length.

    .. math:: D = B \lVert W_V' - W_V\rVert_2 + B \lVert W_V\rVert_2\, \eta

    Returns
    -------
    Norm of the change.

    Notes
    -----
    The l1 norm of a softmax's change is at most the largest change of its scores: E |u - E u| <= 1 if all |u| <= 1. The paper
    has twice that.

    Examples
    --------
    >>> head_perturbation(1.0, 2.0, 0.5, 0.25)
    1.0
    """
    return norm * (value_change + value_norm * score_change)


WeightNorm = Annotated[Any, Domain(0, symbol="B_W", typical=(1.0, 100.0)), "sum of the weights' absolute values"]
Resolution = Annotated[Any, Domain(0, symbol="epsilon", typical=(0.1, 1.0)), "largest distance from the cover"]
InputSize = Annotated[Any, Domain(1, symbol="d_in", unit="dimensions", typical=(8, 1024), **WHOLE), "features of the input"]
Outputs = Annotated[Any, Domain(1, symbol="d_out", unit="dimensions", typical=(8, 1024), **WHOLE), "features of the output"]


@formula(kind="exact", source=MAUREY, status="derived", symbol="ln_N", domain="all networks: a bound")
def sparse_covering(
    norm: InputNorm, weight_norm: WeightNorm, resolution: Resolution, inputs: InputSize, outputs: Outputs
) -> Any:
    r"""Logarithm of the number of linear maps that cover all maps of a bounded l1 norm, at every input and any length.

    .. math:: \ln N = \Bigl\lceil \frac{B^2 B_W^2}{\epsilon^2} \Bigr\rceil \ln(2 d_{in} d_{out} + 1)

    Returns
    -------
    Nats.

    Examples
    --------
    >>> round(sparse_covering(1, 10, 0.5, 64, 64), 2)
    3604.41
    """
    draws = (norm * weight_norm / resolution) ** 2
    return (draws + -draws % 1) * log(2 * inputs * outputs + 1)


@formula(kind="exact", source=MAUREY, status="derived", symbol="C", domain="resolutions below l B B_W: a bound")
def map_covering_scale(
    norm: InputNorm, weight_norm: WeightNorm, inputs: InputSize, outputs: Outputs, lipschitz: Lipschitz = 1
) -> Any:
    r"""C of linear maps of a bounded l1 norm, seen through a function with a Lipschitz constant.

    .. math:: C = l B B_W \sqrt{2 \ln(2 d_{in} d_{out} + 1)}

    Returns
    -------
    C of ln N <= C^2/epsilon^2.

    Notes
    -----
    The factor 2 stands for the rounding up in :func:`sparse_covering`. At l B B_W and above the zero map covers all by itself.

    Examples
    --------
    >>> round(map_covering_scale(1, 10, 64, 64) ** 2, 1)
    1802.2
    """
    return lipschitz * norm * weight_norm * sqrt(2 * log(2 * inputs * outputs + 1))


PartSum = Annotated[Any, Domain(0, symbol="t", typical=(1.0, 100.0)), "sum over parts of C^(2/3)"]


@formula(
    kind="exact", source="the best division of the resolution", status="derived", symbol="C", domain="sums of parts: a bound"
)
def joint_covering_scale(part_sum: PartSum) -> Any:
    r"""C of a sum of parts, each covered by itself at its best share of the resolution.

    .. math:: C = \Bigl(\sum_i C_i^{2/3}\Bigr)^{3/2}

    Returns
    -------
    C of ln N <= C^2/epsilon^2.

    Examples
    --------
    >>> joint_covering_scale(4)
    8.0
    """
    return part_sum ** (3 * HALF)


CoveringScale = Annotated[Any, Domain(0, symbol="C", typical=(0.1, 3.0)), "C of a class with ln N <= C^2/epsilon^2"]
Lipschitz = Annotated[Any, Domain(0, symbol="l", typical=(0.5, 2.0)), "Lipschitz constant of the loss"]
LossRange = Annotated[Any, Domain(0, symbol="c", typical=(0.5, 2.0)), "largest loss"]


@formula(
    kind="exact",
    source="Dudley's entropy integral at its least",
    status="rederived",
    symbol="R",
    domain="3 l C up to c sqrt(m): a bound",
)
def covered_rademacher(scale: CoveringScale, samples: Samples, lipschitz: Lipschitz = 1, largest: LossRange = 1) -> Any:
    r"""Rademacher complexity of a class with covering numbers of exp(C^2/epsilon^2).

    .. math:: R = \frac{12\, l\, C}{\sqrt m} \Bigl(1 + \ln\frac{c \sqrt m}{3\, l\, C}\Bigr)

    Returns
    -------
    Loss.

    Examples
    --------
    >>> round(covered_rademacher(1, 1000), 5)
    1.27323
    """
    unit = lipschitz * scale / sqrt(samples)
    require(
        3 * unit <= largest, "covered_rademacher: 3 l C/sqrt(m) exceeds the largest loss, which bounds the complexity by itself"
    )
    return 12 * unit * (1 + log(largest / (3 * unit)))


Complexity = Annotated[Any, Domain(0, closed_low=True, symbol="R", typical=(0.01, 1.0)), "Rademacher complexity of the losses"]


@formula(
    kind="exact", source="symmetrisation, the complexity of the sample itself", status="rederived", symbol="G", domain=DRAWN
)
def rademacher_gap(complexity: Complexity, samples: Samples, failure: Failure, largest: LossRange = 1) -> Any:
    r"""Test loss minus training loss of every function of a class.

    .. math:: G = 2 R + 3 c \sqrt{\frac{\ln(2/\delta)}{2 m}}

    Returns
    -------
    Loss.

    Examples
    --------
    >>> round(rademacher_gap(0.1, 1000, 0.05), 4)
    0.3288
    """
    return 2 * complexity + 3 * largest * sqrt(log(2 / failure) / (2 * samples))


Blocks = Annotated[Any, Domain(1, symbol="L", unit="layers", typical=(2, 48), **WHOLE), "transformer blocks"]
Length = Annotated[Any, Domain(1, symbol="T", unit="tokens", typical=(64, 8192), **WHOLE), "tokens of a sequence"]


PositiveValueNorm = Annotated[Any, Domain(0, symbol="V", typical=(0.1, 5.0)), "spectral norm of the value matrix"]
ValueGroupNorm = Annotated[Any, Domain(0, symbol="V_21", typical=(1.0, 50.0)), "sum of the value matrix's column norms"]
ScoreGroupNorm = Annotated[
    Any, Domain(0, symbol="Q_21", typical=(1.0, 50.0)), "sum of the column norms of the query-key product"
]


@formula(kind="heuristic", source=EDELMAN, status="recalled", symbol="ln_N", domain=PROXY)
def head_covering_order(
    norm: InputNorm,
    value_norm: PositiveValueNorm,
    value_group_norm: ValueGroupNorm,
    score_group_norm: ScoreGroupNorm,
    samples: Samples,
    length: Length,
    resolution: Resolution = 1,
    lipschitz: Lipschitz = 1,
) -> Any:
    r"""Logarithm of a cover of one attention head, up to a constant.

    .. math:: \ln N = \frac{(l B)^2}{\epsilon^2} \bigl(V_{21}^{2/3} + (Q_{21} V B)^{2/3}\bigr)^3 \ln(m T)

    Returns
    -------
    Nats, up to a constant.

    Examples
    --------
    >>> round(head_covering_order(1, 1, 8, 8, 10000, 128), 2)
    7199.93
    """
    groups = value_group_norm ** (2 * THIRD) + (score_group_norm * value_norm * norm) ** (2 * THIRD)
    return (lipschitz * norm / resolution) ** 2 * groups**3 * log(samples * length)


Thoughts = Annotated[Any, Domain(0, symbol="T'", unit="tokens", typical=(0, 1000), **WHOLE), "tokens of a chain of thought"]


@formula(kind="heuristic", source=f"{VC}, from the abstract", status="primary", symbol="VC", domain=PROXY)
def vc_order(blocks: Blocks, weights: Weights, length: Length, thoughts: Thoughts = 0) -> Any:
    r"""VC dimension of a transformer from above, up to a constant.

    .. math:: VC = L\, \omega \ln((T + T')\, \omega)

    Returns
    -------
    Points, up to a constant.

    Examples
    --------
    >>> print(f"{vc_order(12, 85_000_000, 1024):.4e}")
    2.5693e+10
    """
    return blocks * weights * log((length + thoughts) * weights)


@formula(kind="heuristic", source=f"{VC}, from the abstract", status="primary", symbol="VC", domain=PROXY)
def vc_lower_order(blocks: Blocks, weights: Weights, length: Length) -> Any:
    r"""VC dimension of a transformer from below, up to a constant.

    .. math:: VC = L\, \omega \ln\frac{T \omega}{L}

    Returns
    -------
    Points, up to a constant.

    Examples
    --------
    >>> print(f"{vc_lower_order(12, 85_000_000, 1024):.4e}")
    2.3159e+10
    """
    return blocks * weights * log(length * weights / blocks)


HeadDim = Annotated[Any, Domain(1, symbol="d_h", unit="dimensions", typical=(8, 256), **WHOLE), "head dimension"]
Stream = Annotated[Any, Domain(1, symbol="d", unit="dimensions", typical=(64, 4096), **WHOLE), "width of the stream"]
_START = "query and key weights of variance 1/d, drawn"


def _mean_chi(freedom: Any) -> Any:
    """Mean length of a standard normal vector."""
    return sqrt(Constant.of(2)) * exp(lgamma((freedom + 1) * HALF) - lgamma(freedom * HALF))


@formula(kind="exact", source=_START, status="derived", symbol="Q_21", domain=MEASURE)
def initial_score_group_norm(width: Stream, head_dim: HeadDim) -> Any:
    r"""Expected sum of the column norms of the query-key product at initialisation.

    .. math:: Q_{21} = \frac{2\, \Gamma((d + 1)/2)\, \Gamma((d_h + 1)/2)}{\Gamma(d/2)\, \Gamma(d_h/2)} \approx \sqrt{d\, d_h}

    Returns
    -------
    Norm. It grows with the head dimension.

    Examples
    --------
    >>> round(initial_score_group_norm(256, 64), 2)
    127.38
    """
    return _mean_chi(width) * _mean_chi(head_dim)


@formula(kind="exact", source=_START, status="derived", symbol="Q_11", domain=MEASURE)
def initial_score_entry_norm(width: Stream, head_dim: HeadDim) -> Any:
    r"""Expected sum of the absolute entries of the query-key product at initialisation.

    .. math:: Q_{11} = \frac{2 d}{\sqrt\pi} \frac{\Gamma((d_h + 1)/2)}{\Gamma(d_h/2)} \approx d \sqrt{2 d_h/\pi}

    Returns
    -------
    Norm. It grows with the head dimension.

    Examples
    --------
    >>> round(initial_score_entry_norm(256, 64), 1)
    1627.7
    """
    return width * sqrt(2 / pi) * _mean_chi(head_dim)
