r"""Separation rank of simplified self-attention: why depth helps up to log_3 of the width and hardly beyond it.

The theory is about networks without softmax, feed-forward layer and normalisation: each layer is a cubic polynomial of the one
below, so that L layers are a homogeneous polynomial of degree 3^L. The separation rank, with respect to a split of the
positions into two halves, is the least number of products f(A) g(B) that add up to the output. All bounds are on its base-3
logarithm, and hold for all weights outside a set of measure zero.
"""

from __future__ import annotations

from typing import Annotated, Any

from ..formula import Domain, formula
from ..mathematics import Constant, lgamma, log, minimum, sqrt
from ..mathematics import e as euler
from ._regime import require

# Beyond 600 layers 3^L leaves the range of a double.
Shallow = Annotated[
    Any, Domain(2, 600, True, True, integer=True, symbol="L", unit="layers", typical=(2, 4)), "layers, below log_3 d_x"
]
Layers = Annotated[Any, Domain(1, 600, True, True, integer=True, symbol="L", unit="layers", typical=(2, 6)), "layers"]
Deep = Annotated[
    Any, Domain(1, 600, True, True, integer=True, symbol="L", unit="layers", typical=(12, 96)), "layers, above log_3 d_x"
]
Width = Annotated[
    Any,
    Domain(1, closed_low=True, integer=True, symbol="d_x", unit="dimensions", typical=(256, 12288)),
    "dimension of the residual stream",
]
Heads = Annotated[Any, Domain(1, closed_low=True, integer=True, symbol="H", typical=(1, 64)), "heads, fewer than d_x"]

_SOURCE = "Levine et al. 2020, arXiv 2006.12467"
_EFFICIENT = "integer L below log_3 d_x; simplified self-attention, balanced split of the positions"
_INEFFICIENT = "integer L above log_3 d_x; simplified self-attention, balanced split of the positions"
_THREE = Constant.of(3)


def _require_efficient(name: str, depth: Any, width: Any, heads: Any) -> None:
    require(heads < width, f"{name}: there must be fewer heads than dimensions")
    require(_THREE**depth < width, f"{name}: holds below log_3 of the width only, and this depth is not below it")


def _require_inefficient(name: str, depth: Any, width: Any, heads: Any) -> None:
    require(heads < width, f"{name}: there must be fewer heads than dimensions")
    require(_THREE**depth > width, f"{name}: holds above log_3 of the width only, and this depth is not above it")


@formula(kind="exact", source=f"{_SOURCE}, section 1", status="derived", symbol="C")
def position_sums(depth: Layers) -> Any:
    r"""Number of sums over positions in the polynomial that L simplified layers compute.

    .. math:: C(L) = \frac{3^L - 1}{2}

    Returns
    -------
    A count. Each sum is one place where the two halves of the input can meet.

    Examples
    --------
    >>> position_sums(2)
    4.0
    """
    return (_THREE**depth - 1) / 2


@formula(kind="exact", source=f"{_SOURCE}, boundary of the two theorems", status="primary", symbol="L_th")
def depth_efficiency_threshold(width: Width) -> Any:
    r"""Depth at which the theory's two regimes meet; not an optimal depth.

    .. math:: L_{th} = \log_3 d_x

    Returns
    -------
    Layers.

    Notes
    -----
    Below it every layer multiplies the rank's logarithm by three; above it depth and width contribute equally. Only the form,
    ln(width) linear in depth, carries over to practice: the measured slope is 0.0555 per layer, 20 times below ln 3. Read as
    advice this would give 6 layers at width 768, where :func:`~depthwidth.formulas.rules.levine_depth` gives 29.

    Examples
    --------
    >>> round(depth_efficiency_threshold(768), 5)
    6.04744
    """
    return log(width, 3)


@formula(kind="exact", source=f"{_SOURCE}, Theorem 1", status="rederived", symbol="R_low", domain=_EFFICIENT)
def log3_rank_lower_efficient(depth: Shallow, width: Width, heads: Heads) -> Any:
    r"""Lower bound on log_3 of the separation rank in the depth-efficient regime, L < log_3 d_x.

    .. math:: 3^{L-2}\left(\log_3(d_x - H) + a\right), \qquad a = -L + 2 - \log_3 2

    Returns
    -------
    log_3 of the bound: doubly exponential in the depth, polynomial in the width.

    Notes
    -----
    Follows from :func:`log3_rank_multiset` by (n/k)^k. It can be negative, and then says nothing, if H is most of d_x.

    Examples
    --------
    >>> round(log3_rank_lower_efficient(4, 768, 12), 4)
    30.6196
    """
    _require_efficient("log3_rank_lower_efficient", depth, width, heads)
    return _THREE ** (depth - 2) * (log(width - heads, 3) - depth + 2 - log(Constant.of(2), 3))


@formula(kind="exact", source=f"{_SOURCE}, Theorem 1", status="rederived", symbol="R_up")
def log3_rank_upper_efficient(depth: Layers, width: Width, heads: Annotated[Heads, "heads"]) -> Any:
    r"""Upper bound on log_3 of the separation rank; meant for L < log_3 d_x but true at every depth.

    .. math:: \frac{3^L - 1}{2} \log_3(d_x + H)

    Returns
    -------
    log_3 of the bound.

    Notes
    -----
    Each of the C(L) position sums contributes a factor H when it stays on its side and d_x when it crosses.

    Examples
    --------
    >>> round(log3_rank_upper_efficient(4, 768, 12), 3)
    242.462
    """
    return position_sums(depth) * log(width + heads, 3)


@formula(kind="exact", source=f"{_SOURCE}, proof of Theorem 1", status="rederived", symbol="R_low", domain=_EFFICIENT)
def log3_rank_multiset(depth: Shallow, width: Width, heads: Heads) -> Any:
    r"""Lower bound on log_3 of the separation rank in the depth-efficient regime, before simplification.

    .. math:: \log_3 \left(\!\!\binom{n}{k}\!\!\right) = \log_3 \frac{\Gamma(n + k)}{\Gamma(k + 1)\,\Gamma(n)},
        \qquad n = \frac{d_x - H}{2},\; k = 3^{L-2}

    Returns
    -------
    log_3 of the bound, at least :func:`log3_rank_lower_efficient`.

    Notes
    -----
    The multiset coefficient counts monomials of degree k in n variables. The difference of
    gamma functions loses digits: 11 are right up to width 30000.

    Examples
    --------
    >>> round(log3_rank_multiset(4, 768, 12), 4)
    37.0529
    """
    _require_efficient("log3_rank_multiset", depth, width, heads)
    n, k = (width - heads) / Constant.of(2), _THREE ** (depth - 2)
    return (lgamma(n + k) - lgamma(k + 1) - lgamma(n)) / log(_THREE)


@formula(kind="exact", source=f"{_SOURCE}, Theorem 2", status="rederived", symbol="R_low", domain=_INEFFICIENT)
def log3_rank_lower_inefficient(depth: Deep, width: Width, heads: Heads) -> Any:
    r"""Lower bound on log_3 of the separation rank in the depth-inefficient regime, L > log_3 d_x.

    .. math:: \tfrac12 d_x L + b_1 + b_2, \qquad b_1 = -L\left(\tfrac{H}{2} + 1\right),\;
        b_2 = -d_x\left(1 + \tfrac12 \log_3 \tfrac{d_x - H}{2}\right)

    Returns
    -------
    log_3 of the bound: linear in depth and in width alike.

    Notes
    -----
    Negative, and so without content, just above the threshold; the first useful depth is 8 at width 768 and 11 at 12288.

    Examples
    --------
    >>> round(log3_rank_lower_inefficient(24, 1024, 16), 2)
    8148.02
    """
    _require_inefficient("log3_rank_lower_inefficient", depth, width, heads)
    b1 = -depth * (heads / Constant.of(2) + 1)
    b2 = -width * (1 + log((width - heads) / Constant.of(2), 3) / 2)
    return width * depth / Constant.of(2) + b1 + b2


@formula(kind="exact", source=f"{_SOURCE}, Theorem 2", status="rederived", symbol="R_up", domain=_INEFFICIENT)
def log3_rank_upper_inefficient(
    depth: Deep, width: Width, heads: Annotated[Heads, "heads, fewer than d_x; the bound does not depend on them"]
) -> Any:
    r"""Upper bound on log_3 of the separation rank in the depth-inefficient regime, L > log_3 d_x.

    .. math:: 2 d_x L + c_1 + c_2, \qquad c_1 = L,\;
        c_2 = -2 d_x \log_3 \frac{d_x}{2\sqrt{2e}} + \log_3 d_x

    Returns
    -------
    log_3 of the bound.

    Examples
    --------
    >>> round(log3_rank_upper_inefficient(24, 1024, 16), 1)
    39131.2
    """
    _require_inefficient("log3_rank_upper_inefficient", depth, width, heads)
    c2 = -2 * width * log(width / (2 * sqrt(2 * euler)), 3) + log(width, 3)
    return 2 * width * depth + depth + c2


@formula(kind="exact", source=f"{_SOURCE}; corollary of Theorem 1", status="derived", symbol="C_1", domain=_EFFICIENT)
def log3_shallow_size_needed(
    deep_depth: Annotated[
        Any,
        Domain(2, 600, True, True, integer=True, symbol="L_d", unit="layers", typical=(3, 4)),
        "layers of the deep network, below log_3 d_d",
    ],
    deep_width: Annotated[
        Any,
        Domain(1, closed_low=True, integer=True, symbol="d_d", unit="dimensions", typical=(256, 12288)),
        "width of the deep network",
    ],
    deep_heads: Annotated[
        Any, Domain(1, closed_low=True, integer=True, symbol="H_d", typical=(1, 64)), "heads of the deep network"
    ],
    shallow_depth: Annotated[
        Any,
        Domain(1, 600, True, True, integer=True, symbol="L_s", unit="layers", typical=(1, 2)),
        "layers of the shallow network",
    ],
) -> Any:
    r"""log_3 of the least width plus heads of a shallower network that can match a deep one (depth-efficient regime).

    .. math:: \log_3(d_s + H_s) \ge \frac{2 \cdot 3^{L_d - 2} \left(\log_3(d_d - H_d) + a_d\right)}{3^{L_s} - 1}

    Returns
    -------
    log_3(d_s + H_s); a result below the deep width's own logarithm restricts nothing.

    Notes
    -----
    The shallow network's upper bound must reach the deep one's lower bound; both are sufficient, neither is tight.

    Examples
    --------
    >>> round(log3_shallow_size_needed(6, 1024, 16, 3), 4)
    10.3682
    """
    return log3_rank_lower_efficient(deep_depth, deep_width, deep_heads) / position_sums(shallow_depth)


@formula(
    kind="asymptotic",
    source=f"{_SOURCE}; corollary of Theorem 2",
    status="derived",
    symbol="d_s",
    domain=_INEFFICIENT,
    accuracy=0.2,
    within={"deep_depth": (96, 600), "deep_width": (256, 16384), "shallow_depth": (48, 600)},
    given="heads of 64 dimensions",
)
def shallow_width_needed(
    deep_depth: Annotated[
        Any, Domain(0, symbol="L_d", unit="layers", typical=(24, 96)), "layers of the deep network, well above log_3 d_d"
    ],
    deep_width: Annotated[Any, Domain(0, symbol="d_d", unit="dimensions", typical=(256, 12288)), "width of the deep network"],
    shallow_depth: Annotated[
        Any, Domain(0, symbol="L_s", unit="layers", typical=(12, 24)), "layers of the shallow network, also above the threshold"
    ],
) -> Any:
    r"""Least width of a shallower network that can match a deep one (depth-inefficient regime): the leading term.

    .. math:: d_s \ge \frac{d_d L_d}{4 L_s}

    Returns
    -------
    Dimensions. Widening in proportion is enough: that is the sense in which depth is inefficient.

    Notes
    -----
    Drops terms of relative order log_3(d_x) / L on both sides.

    Examples
    --------
    >>> shallow_width_needed(48, 1600, 12)
    1600.0
    """
    return deep_width * deep_depth / (4 * shallow_depth)


@formula(
    kind="heuristic",
    source="Wies et al. 2021, arXiv 2105.03928",
    status="recalled",
    symbol="R_bottleneck",
    domain="L above log_3 d_x; a growth up to constants and logarithms, which no value can be held against",
)
def log_rank_bottleneck(
    depth: Annotated[Any, Domain(0, symbol="L", unit="layers", typical=(12, 96)), "layers"],
    width: Annotated[Any, Domain(0, symbol="d_x", unit="dimensions", typical=(256, 12288)), "dimension of the residual stream"],
    rank: Annotated[Any, Domain(0, symbol="r", unit="dimensions", typical=(64, 1024)), "rank of the input embedding"],
) -> Any:
    r"""Growth of the log separation rank under an embedding of rank r, without its constant.

    .. math:: \log \mathrm{sep} = \tilde O\left(L \min(r, d_x)\right)

    Returns
    -------
    L min(r, d_x): to be compared between networks, not read as a value.

    Notes
    -----
    The theorem's form is recalled. That width counts only up to r is confirmed here by exact ranks of one and two layers.

    Examples
    --------
    >>> log_rank_bottleneck(24, 1024, 256)
    6144
    """
    return depth * minimum(width, rank)
