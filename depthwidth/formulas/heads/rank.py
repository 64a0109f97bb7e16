"""Low-rank heads: the attention matrices they can represent, and the rank of hard-max attention."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Any

from ...formula import Domain, formula
from ...mathematics import Constant
from ...numerics.bounds import LONGEST
from .._quadrature import in_doubles
from ..saturation._domains import Length
from ..saturation.bands import largest_normal
from ._domains import OURS, WHOLE, Heads, ShortLength, Width

Depth = Annotated[Any, Domain(1, symbol="L", unit="layers", typical=(2, 96), **WHOLE), "layers"]
_BHOJANAPALLI = "Bhojanapalli et al. 2020, arXiv 2002.07028"


@formula(kind="exact", source=f"{_BHOJANAPALLI}, Theorem 1", status="primary", symbol="d_p")
def dense_pattern_head_dim(length: Annotated[ShortLength, "tokens; the width must be at least as large"]) -> Any:
    r"""Head dimension from which every positive attention matrix can be represented, for every input of full rank.

    .. math:: d_p \ge n

    Returns
    -------
    Dimensions. Below it some input and matrix cannot be matched; sparse patterns need only order ln n.

    Examples
    --------
    >>> dense_pattern_head_dim(128)
    128
    """
    return length


@formula(kind="exact", source=f"{_BHOJANAPALLI}, section 3", status="primary", symbol="H")
def bottleneck_heads(width: Width, length: ShortLength) -> Any:
    r"""Number of heads of size d/H beyond which a head has fewer dimensions than there are tokens.

    .. math:: H = d / n

    Returns
    -------
    Heads; BERT-large on 128 tokens has 8.

    Examples
    --------
    >>> bottleneck_heads(1024, 128)
    8.0
    """
    return width / (length * Constant.of(1))


@formula(
    kind="exact",
    source=f"{_BHOJANAPALLI}; counts matched to its tables",
    status="rederived",
    symbol="N",
    domain="given N_rest; with 1.6M in its place, within 1 % of the printed counts of ten models",
)
def fixed_head_parameters(
    depth: Depth,
    heads: Heads,
    head_dim: Annotated[Any, Domain(1, symbol="d_p", unit="dimensions", typical=(32, 256), **WHOLE), "dimensions of a head"],
    width: Width,
    ffn: Annotated[
        Any,
        Domain(1, symbol="d_ff", unit="dimensions", typical=(1024, 4096), **WHOLE),
        "hidden features of the feed-forward part",
    ],
    vocab: Annotated[Any, Domain(1, symbol="V", unit="tokens", typical=(1e4, 1e5), **WHOLE), "vocabulary size"] = 30000,
    rest: Annotated[
        Any, Domain(0, closed_low=True, symbol="N_rest", typical=(1e5, 1e6)), "parameters of positions, biases and norms"
    ] = 1.6e6,
) -> Any:
    r"""Parameters of an encoder whose head size does not depend on the number of heads.

    .. math:: N = L (4 H d_p d + 2 d\, d_{ff}) + V d + N_{rest}

    Returns
    -------
    A count.

    Examples
    --------
    >>> round(fixed_head_parameters(24, 8, 128, 512, 4096) / 1e6, 1)
    168.0
    """
    return depth * (4 * heads * head_dim * width + 2 * width * ffn) + vocab * width + rest


@formula(
    kind="exact", source="occupancy of n boxes by n balls", status="derived", symbol="R", domain="independent uniform arg-max"
)
def hardmax_rank(length: ShortLength) -> Any:
    r"""Average rank of a hard-max attention matrix whose rows pick independently: 0.632 n.

    .. math:: E R = n \left(1 - (1 - 1/n)^n\right)

    Derivation: docs/derivations/heads.md, (H9).

    Returns
    -------
    The number of distinct columns picked.

    Notes
    -----
    The limit (1 - 1/e) n is that of "Limitation and Redundancy of Transformers: A Rank Perspective" (OpenReview GoK1PfVgXU).

    Examples
    --------
    >>> round(hardmax_rank(64), 3)
    40.641
    """
    return length * (1 - (1 - Constant.of(1) / length) ** length)


@formula(
    kind="exact",
    source="every row's own column, and those below",
    status="derived",
    symbol="R",
    domain="independent uniform arg-max",
)
def causal_hardmax_rank(length: ShortLength) -> Any:
    r"""Average rank of a causal hard-max attention matrix whose rows pick independently.

    .. math:: E R = (n + 1)/2

    Derivation: docs/derivations/heads.md, (H10).

    Returns
    -------
    The number of distinct columns picked.

    Examples
    --------
    >>> causal_hardmax_rank(64)
    32.5
    """
    return (length + 1) / Constant.of(2)


@formula(
    kind="approximation",
    source=f"{OURS}: Poisson picks with log-normal rates of the keys' norms",
    status="derived",
    symbol="R/n",
    domain="Gaussian keys, d_h >= 8",
    accuracy=0.02,
    measure="absolute",
    within={"length": (64, 1024), "head_dim": (8, 1024)},
)
def gaussian_hardmax_fraction(
    length: Annotated[
        Any, Domain(16, LONGEST, True, True, integer=True, symbol="n", unit="tokens", typical=(64, 1024)), "tokens"
    ],
    head_dim: Annotated[Any, Domain(8, 1e6, True, True, integer=True, symbol="d_h", typical=(8, 256)), "head dimension"],
) -> Any:
    r"""Rank divided by length of a hard-max attention matrix with Gaussian queries and keys.

    .. math:: \frac{E R}{n} \approx E_g\!\left[1 - \exp\!\left(-e^{\tau g - \tau^2/2}\right)\right],
        \qquad \tau = \frac{b_n^2}{\sqrt{2 d_h}}

    Derivation: docs/derivations/heads.md, (H11).

    Returns
    -------
    0 to 1 - 1/e. With unit-norm keys the limit is reached at 4 to 8 dimensions: all of the dependence is on the keys' norms.

    Examples
    --------
    >>> round(gaussian_hardmax_fraction(256, 32), 3)
    0.509
    """

    def average(n: Any, d: Any) -> Any:
        import numpy as np

        tau = np.asarray(largest_normal.body(n) ** 2 / np.sqrt(2 * np.asarray(d)))[..., None]
        g = np.linspace(-9.0, 9.0, 721)
        with np.errstate(under="ignore"):
            picked = -np.expm1(-np.exp(np.minimum(tau * g - tau**2 / 2, 50.0)))
            found = (picked * np.exp(-g * g / 2)).sum(-1) * (g[1] - g[0]) / math.sqrt(2 * math.pi)
        return found if found.ndim else float(found)

    return in_doubles("gaussian_hardmax_fraction", average, length, head_dim)


@formula(
    kind="approximation",
    source=f"{OURS}: inverse of the rank law",
    status="derived",
    symbol="d_h",
    domain="95 % of the limit, Gaussian keys",
    accuracy=0.4,
    within={"length": (64, 1024)},
)
def head_dim_for_hardmax_rank(length: Annotated[Length, "tokens"]) -> Any:
    r"""Head dimension at which a hard-max matrix with Gaussian keys reaches 95 % of its largest rank.

    .. math:: d_h \approx 3.2\, b_n^4

    Returns
    -------
    Dimensions.

    Examples
    --------
    >>> round(head_dim_for_hardmax_rank(256))
    168
    """
    return Constant.of(Fraction(16, 5)) * largest_normal.body(length) ** 4
