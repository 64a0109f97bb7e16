r"""Treeformer (Madaan et al. 2023): attention within the leaves of a learned tree. Costs, ranks, imbalance and empty leaves.

A tree of height h sends each query and each key to one of 2^h leaves. In TF-attention a query sees the keys of its leaf; in
TC-attention it gets a weighted sum of the mean values of the nodes on its path. Operations are two per multiply-add, forward,
for all heads together: d is the heads times the dimensions of one. Softmax and sorting are left out, as everywhere.

The paper's body was not available: its statements on cost are recalled, and the lines here are derived and counted again.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from ..formula import Domain, formula
from ..mathematics import Constant, asin, exp, log, minimum, pi, sqrt

WHOLE: dict[str, Any] = {"closed_low": True, "integer": True}
TREEFORMER = "Madaan et al. 2023, arXiv 2208.09015"
_TWO = Constant.of(2)
_LN_2 = Constant(log(2), lambda: log(_TWO.symbolic()))
_DERIVED = f"operations of the layers of {TREEFORMER}, counted"

Tokens = Annotated[Any, Domain(1, symbol="n", unit="tokens", typical=(64, 16384), **WHOLE), "queries, and keys, of a sequence"]
Width = Annotated[
    Any, Domain(1, symbol="d", unit="dimensions", typical=(64, 4096), **WHOLE), "dimensions of all heads' queries together"
]
Height = Annotated[
    Any, Domain(0, 60, True, True, integer=True, symbol="h", unit="levels", typical=(1, 10)), "levels of decisions of the tree"
]
Imbalance = Annotated[
    Any,
    Domain(0, symbol="I", closed_low=True, typical=(1.0, 4.0)),
    "query-key pairs that share a leaf, over those of a balanced tree, n^2/2^h; 1 if balanced, 2^h if all share one leaf",
]
Branching = Annotated[Any, Domain(2, symbol="k", unit="children", typical=(2, 8), **WHOLE), "children of a node"]
"""Wider trees are in the formula of their cost alone."""


@formula(kind="exact", source="Vaswani et al. 2017, arXiv 1706.03762, counted", status="derived", symbol="F_full")
def full_attention_flops(tokens: Tokens, width: Width) -> Any:
    r"""Operations of the scores and of the weighted sum of values in full attention.

    .. math:: F_{full} = 4 n^2 d

    Returns
    -------
    Floating-point operations of one layer and sequence, forward.

    Examples
    --------
    >>> full_attention_flops(256, 32)
    8388608
    """
    return 4 * tokens**2 * width


@formula(kind="exact", source=_DERIVED, status="derived", symbol="F_r", domain="binary tree, one node a level")
def routing_flops(tokens: Tokens, height: Height, width: Width) -> Any:
    r"""Operations that send queries and keys down the tree, with the hyperplane of one node at each level.

    .. math:: F_r = 4 n h d

    Returns
    -------
    Floating-point operations of one layer and sequence, forward.

    Examples
    --------
    >>> routing_flops(256, 4, 32)
    131072
    """
    return 4 * tokens * height * width


@formula(kind="exact", source=_DERIVED, status="derived", symbol="F_a")
def all_nodes_flops(tokens: Tokens, height: Height, width: Width) -> Any:
    r"""Operations of the routing if every node's hyperplane is evaluated for every query and key, as one matrix product.

    .. math:: F_a = 4 n\, (2^h - 1)\, d

    Returns
    -------
    Floating-point operations of one layer and sequence, forward.

    Examples
    --------
    >>> all_nodes_flops(256, 4, 32)
    491520.0
    """
    return 4 * tokens * (_TWO**height - 1) * width


@formula(kind="exact", source=f"{TREEFORMER}, trees with k children", status="recalled", symbol="F_k")
def wide_routing_flops(tokens: Tokens, height: Height, width: Width, branching: Branching) -> Any:
    r"""Operations of the routing through a tree whose nodes have k children and one score for each.

    .. math:: F_k = 4 n h k d

    Returns
    -------
    Floating-point operations of one layer and sequence, forward. The tree has k^h leaves.

    Notes
    -----
    A tree of two children with two scores does twice the operations of one with a single hyperplane.

    Examples
    --------
    >>> wide_routing_flops(256, 2, 32, 4)
    262144
    """
    return 4 * tokens * height * branching * width


@formula(kind="exact", source=_DERIVED, status="derived", symbol="F_TF")
def leaf_attention_flops(tokens: Tokens, height: Height, width: Width, imbalance: Imbalance = 1) -> Any:
    r"""Operations of TF-attention: routing, and softmax attention within the leaves.

    .. math:: F_{TF} = 4 n h d + 4 n^2 d\, \frac{I}{2^h}

    Returns
    -------
    Floating-point operations of one layer and sequence, forward.

    Notes
    -----
    The paper's statement for balanced leaves, O(n h d + n^2 d/2^h), is recalled. The own key, which a query may see in addition
    to its leaf, is in I, at most 2^h/n more.

    Examples
    --------
    >>> leaf_attention_flops(4096, 5, 768)
    1673527296.0
    """
    return routing_flops.body(tokens, height, width) + full_attention_flops.body(tokens, width) * imbalance / _TWO**height


@formula(kind="exact", source=_DERIVED, status="derived", symbol="F_TC")
def path_attention_flops(tokens: Tokens, height: Height, width: Width) -> Any:
    r"""Operations of TC-attention: routing, sums over the nodes of each level, and their weighted sum along each path.

    .. math:: F_{TC} = 4 n h d + (h + 1)\, n d + 2 (h + 1)\, n d

    Returns
    -------
    Floating-point operations of one layer and sequence, forward. They do not depend on the imbalance.

    Examples
    --------
    >>> path_attention_flops(4096, 5, 768)
    119537664
    """
    return routing_flops.body(tokens, height, width) + 3 * (height + 1) * tokens * width


@formula(kind="exact", source=_DERIVED, status="derived", symbol="R_TF")
def leaf_attention_reduction(tokens: Tokens, height: Height, imbalance: Imbalance = 1) -> Any:
    r"""Operations of full attention over those of TF-attention, projections left out.

    .. math:: R_{TF} = \frac{n}{h + n I/2^h}

    Returns
    -------
    A factor; it does not depend on the width.

    Examples
    --------
    >>> round(leaf_attention_reduction(4096, 5), 1), round(leaf_attention_reduction(4096, 6, 2.0), 1)
    (30.8, 30.6)
    """
    return tokens / (height + tokens * imbalance / _TWO**height)


@formula(kind="exact", source=_DERIVED, status="derived", symbol="R_TC")
def path_attention_reduction(tokens: Tokens, height: Height) -> Any:
    r"""Operations of full attention over those of TC-attention, projections left out.

    .. math:: R_{TC} = \frac{4 n}{7 h + 3}

    Returns
    -------
    A factor; it does not depend on the width.

    Examples
    --------
    >>> round(path_attention_reduction(232, 4), 1), round(path_attention_reduction(548, 10), 1)
    (29.9, 30.0)
    """
    return 4 * tokens / (7 * height + 3)


@formula(kind="exact", source=_DERIVED, status="derived", symbol="R_p")
def projected_reduction(
    tokens: Tokens,
    width: Width,
    reduction: Annotated[
        Any,
        Domain(0, math.inf, closed_high=True, symbol="R", typical=(2, 300)),
        "the factor without the four maps; infinite for its ceiling",
    ],
) -> Any:
    r"""Operations of an attention layer with its query, key, value and output maps, over those with cheaper mixing.

    .. math:: R_p = \frac{n + 2 d}{n/R + 2 d}

    Returns
    -------
    A factor, at most 1 + n/(2 d).

    Examples
    --------
    >>> round(projected_reduction(4096, 768, 30.8), 2), round(projected_reduction(4096, 768, 1e12), 2)
    (3.37, 3.67)
    """
    return (tokens + 2 * width) / (tokens / reduction + 2 * width)


@formula(
    kind="exact", source=_DERIVED, status="derived", symbol="h^*", domain="a height that may be any real number, n I > 1/ln 2"
)
def best_height(tokens: Annotated[Tokens, "tokens, 2 or more"], imbalance: Imbalance = 1) -> Any:
    r"""Height at which TF-attention has the fewest operations, if nodes are evaluated along paths.

    .. math:: h^* = \log_2(n I \ln 2)

    Returns
    -------
    Levels, to be rounded.

    Notes
    -----
    The minimum of h + n I/2^h with I held fixed; the imbalance of learned trees grows with their height.

    Examples
    --------
    >>> [round(best_height(n)) for n in (512, 1024, 2048, 4096, 8192)]
    [8, 9, 10, 11, 12]
    """
    return log(tokens * imbalance * _LN_2) / _LN_2


@formula(kind="exact", source="a mean over the nodes of a path", status="derived", symbol="r_max")
def rank_ceiling(tokens: Tokens, height: Height) -> Any:
    r"""Largest rank of the matrix of attention weights of TC-attention: its queries of one leaf have one row.

    .. math:: r_{max} = \min(2^h, n)

    Returns
    -------
    A rank. TF-attention has no such ceiling.

    Examples
    --------
    >>> rank_ceiling(256, 4)
    16.0
    """
    return minimum(_TWO**height, tokens)


@formula(kind="exact", source="independent keys", status="derived", symbol="P_0", domain="keys that fall into leaves uniformly")
def empty_leaf_probability(tokens: Tokens, height: Height) -> Any:
    r"""Probability that a leaf holds no key, if each of n keys falls into each leaf with the probability 1/2^h.

    .. math:: P_0 = (1 - 2^{-h})^n

    Returns
    -------
    A probability. Unbalanced trees have more empty leaves.

    Examples
    --------
    >>> round(empty_leaf_probability(256, 6), 4)
    0.0177
    """
    return (1 - _TWO**-height) ** tokens


@formula(
    kind="approximation",
    source="Poisson limit of independent keys",
    status="derived",
    symbol="P_0",
    accuracy=0.055,
    measure="absolute",
    within={"height": (2, 60)},
)
def poisson_empty_leaf_probability(tokens: Tokens, height: Height) -> Any:
    r"""Probability that a leaf holds no key, if their number is taken as Poisson.

    .. math:: P_0 \approx e^{-n/2^h}

    Returns
    -------
    A probability, at most 0.055 above the exact one from two levels on.

    Examples
    --------
    >>> round(poisson_empty_leaf_probability(256, 6), 4)
    0.0183
    """
    return exp(-tokens / _TWO**height)


@formula(kind="exact", source=_DERIVED, status="derived", symbol="N_t")
def tree_parameters(
    height: Height,
    head_dim: Annotated[Any, Domain(1, symbol="d_h", unit="dimensions", typical=(16, 256), **WHOLE), "head dimension"],
) -> Any:
    r"""Weights of one tree: a hyperplane and a threshold for each node that is no leaf.

    .. math:: N_t = (2^h - 1)(d_h + 1)

    Returns
    -------
    Parameters; TC-attention has h + 1 more, the weights of the levels.

    Examples
    --------
    >>> tree_parameters(4, 32)
    495.0
    """
    return (_TWO**height - 1) * (head_dim + 1)


@formula(kind="exact", source=_DERIVED, status="derived", symbol="S")
def leaf_scores(tokens: Tokens, height: Height, imbalance: Imbalance = 1) -> Any:
    r"""Attention scores of one head of TF-attention, all leaves together.

    .. math:: S = \frac{n^2 I}{2^h}

    Returns
    -------
    Numbers; n^2 in full attention. TC-attention keeps 2^{h+1} - 1 means of d_h values instead.

    Examples
    --------
    >>> leaf_scores(4096, 6, 2.0)
    524288.0
    """
    return tokens**2 * imbalance / _TWO**height


@formula(
    kind="exact", source="orthant probability of two Gaussians", status="derived", symbol="p_s", domain="Gaussian hyperplanes"
)
def same_side_probability(
    correlation: Annotated[Any, Domain(-1, 1, True, True, symbol="rho", typical=(-0.9, 0.9)), "cosine of the two vectors"],
) -> Any:
    r"""Probability that a random hyperplane through the origin has two vectors on one side.

    .. math:: p_s = \frac12 + \frac{\arcsin\rho}{\pi}

    Returns
    -------
    A probability.

    Examples
    --------
    >>> same_side_probability(0.0), round(same_side_probability(0.5), 4)
    (0.5, 0.6667)
    """
    return 0.5 + asin(correlation) / pi


@formula(
    kind="exact", source="orthant probability of two Gaussians", status="derived", symbol="I_0", domain="Gaussian hyperplanes"
)
def random_imbalance(
    height: Height,
    correlation: Annotated[
        Any,
        Domain(-1, 1, symbol="rho", typical=(-0.5, 0.9)),
        "cosine of a query and a key; that of their means over tokens, 0 if they are centred",
    ],
) -> Any:
    r"""Expected imbalance of a tree of random hyperplanes through the origin, thresholds at zero.

    .. math:: I_0 = \left(1 + \tfrac{2}{\pi} \arcsin\rho\right)^h

    Returns
    -------
    A factor.

    Notes
    -----
    Exact for each pair of vectors; of many pairs it is averaged. Gaussian vectors in d_h dimensions have cosines of variance
    1/d_h, which adds h (h - 1) (2/\pi^2)/d_h to I even if they are centred.

    Examples
    --------
    >>> round(random_imbalance(6, 0.5), 2), random_imbalance(6, 0.0)
    (5.62, 1.0)
    """
    return (1 + 2 * asin(correlation) / pi) ** height


@formula(kind="exact", source=_DERIVED, status="derived", symbol="n^*", domain="times that are sums of these terms; A above 0")
def break_even_length(
    quadratic: Annotated[
        Any,
        Domain(0, symbol="A", unit="seconds per pair", typical=(1e-10, 1e-8)),
        "time of full attention for a query-key pair, less that of TF-attention: it is above 0",
    ],
    linear: Annotated[
        Any,
        Domain(0, closed_low=True, symbol="B", unit="seconds per token", typical=(1e-8, 1e-5)),
        "routing, sorting and gathering",
    ],
    constant: Annotated[
        Any, Domain(0, closed_low=True, symbol="C", unit="seconds", typical=(1e-5, 1e-2)), "starting the kernels of all leaves"
    ],
) -> Any:
    r"""Length from which a tree is faster than a fused kernel of full attention.

    .. math:: n^* = \frac{B + \sqrt{B^2 + 4 A C}}{2 A}

    Returns
    -------
    Tokens: the root of A n^2 = B n + C.

    Notes
    -----
    With a rate of a operations a second for full attention and b within leaves, A = 4 d (1/a - I/(2^h b)).

    Examples
    --------
    >>> round(break_even_length(2e-9, 1e-6, 1e-3))
    1000
    """
    return (linear + sqrt(linear**2 + 4 * quadratic * constant)) / (2 * quadratic)
