"""Sharp heads: the dimensions needed to look up one token."""

from __future__ import annotations

import math
from typing import Annotated, Any

from ...formula import Domain, formula
from ...mathematics import Constant, exp, log, maximum, sqrt
from .._quadrature import in_doubles
from .._regime import require
from ..saturation._domains import Length
from ..saturation.target import Miss, gap_for_weight
from ._domains import OURS, HeadDim, ShortLength

SmallHead = Annotated[
    Any, Domain(1, 4096, True, True, integer=True, symbol="d_h", unit="dimensions", typical=(4, 32)), "dimensions of the keys"
]
SphereDim = Annotated[
    Any, Domain(2, 1e6, True, True, integer=True, symbol="d_h", unit="dimensions", typical=(4, 128)), "head dimension"
]
_MEMORY = f"{OURS}; mechanism of Lucibello and Mezard 2023, arXiv 2304.14964"
RetrievalDim = Annotated[HeadDim, "head dimension, at least 2 ln n"]
Choices = Annotated[ShortLength, "number of keys"]


@formula(
    kind="asymptotic",
    source=_MEMORY,
    status="derived",
    symbol="d_crit",
    domain="Gaussian keys, annealed average",
    accuracy=0.2,
    within={"length": (64, math.inf)},
    given="compared with the dimension of least retrieval error one half",
)
def critical_head_dim(length: Annotated[Length, "tokens to choose from"]) -> Any:
    r"""Head dimension below which a head cannot look up one token at any logit scale.

    .. math:: d_{crit} = 2 \ln n

    Derivation: docs/derivations/heads.md, (H2).

    Returns
    -------
    Dimensions. At finite n the error of the best head is near one half there (:func:`best_retrieval_error`); 4 ln n is
    comfortable and 6 ln n is as good as any.

    Examples
    --------
    >>> round(critical_head_dim(1024), 3)
    13.863
    """
    return 2 * log(length)


def _require_retrieval(name: str, head_dim: Any, length: Any) -> Any:
    slack = head_dim - 2 * log(length)
    require(slack >= 0, f"heads.{name}: no logit scale retrieves with fewer than 2 ln n dimensions")
    return slack


@formula(
    kind="asymptotic",
    source=_MEMORY,
    status="derived",
    symbol="sigma_min",
    domain="Gaussian keys, annealed average",
    accuracy=0.021,
    within={"length": (64, math.inf)},
    given="at least 3 ln n dimensions, compared with the value that gives the target a mean weight of one half",
)
def smallest_noise(head_dim: RetrievalDim, length: Choices) -> Any:
    r"""Smallest standard deviation of the distractors' logits at which a head can look up one token.

    .. math:: \sigma_{min} = \sqrt{d_h} - \sqrt{d_h - 2 \ln n}

    Derivation: docs/derivations/heads.md, (H3).

    Returns
    -------
    nats.

    Examples
    --------
    >>> round(smallest_noise(64, 1024), 4)
    0.9192
    """
    return sqrt(head_dim) - sqrt(_require_retrieval("smallest_noise", head_dim, length))


@formula(
    kind="asymptotic",
    source=_MEMORY,
    status="derived",
    symbol="Delta_min",
    domain="Gaussian keys, annealed average",
    accuracy=0.021,
    within={"length": (64, math.inf)},
    given="at least 3 ln n dimensions, compared with the value that gives the target a mean weight of one half",
)
def smallest_gap(head_dim: RetrievalDim, length: Choices) -> Any:
    r"""Smallest logit of a target, above the distractors' mean, at which a head can look it up.

    .. math:: \Delta_{min} = d_h \left(1 - \sqrt{1 - 2 \ln n / d_h}\right)

    Derivation: docs/derivations/heads.md, (H4).

    Returns
    -------
    nats; falls to ln n with the relative excess ln n / (2 d_h), so that more dimensions soon buy nothing.

    Examples
    --------
    >>> round(smallest_gap(64, 1024), 3)
    7.354
    """
    return head_dim * (1 - sqrt(_require_retrieval("smallest_gap", head_dim, length) / (head_dim * Constant.of(1))))


@formula(
    kind="exact",
    source=f"{OURS}: planted target averaged over the target's norm",
    status="derived",
    symbol="NMSE*",
    domain="independent Gaussian keys, the best logit scale and output gain",
)
def best_retrieval_error(length: Choices, head_dim: SmallHead) -> Any:
    r"""Least normalised squared error of a head that copies the value of one token out of n.

    .. math:: \mathrm{NMSE}^* = \min_c \left[1 - \frac{(E\,p_t)^2}{E \sum_j p_j^2}\right]

    Derivation: docs/derivations/heads.md, (H5).

    Returns
    -------
    0 to 1. Trained heads reach it without any fitted number (n = 16 to 1024), to 0.01 above it if it is below 0.05.

    Examples
    --------
    >>> round(best_retrieval_error(64, 12), 3)
    0.144
    """

    def least(n: float, d: float) -> float:
        from ...numerics.retrieval import best_retrieval

        return best_retrieval(int(n), int(d)).error

    return in_doubles("best_retrieval_error", least, length, head_dim, one_by_one=True)


@formula(
    kind="exact",
    source=f"{OURS}: median of the largest of n cosines",
    status="derived",
    symbol="x_n",
    domain="keys uniform on the sphere",
)
def largest_cosine(length: Choices, head_dim: SphereDim) -> Any:
    r"""Median of the largest cosine between a query and n random unit keys.

    .. math:: x_n = 2\, B^{-1}\!\left(2^{-1/n};\ \tfrac{d_h - 1}{2}, \tfrac{d_h - 1}{2}\right) - 1

    Derivation: docs/derivations/heads.md, (H6).

    Returns
    -------
    -1 to 1.

    Examples
    --------
    >>> round(largest_cosine(1024, 32), 4)
    0.5345
    """

    def quantile(n: Any, d: Any) -> Any:
        from scipy.special import betainccinv

        half = (d - 1) / 2
        # From the upper tail, which keeps its digits at large n.
        found = 2 * betainccinv(half, half, -_expm1(-math.log(2) / n)) - 1
        return found if getattr(found, "ndim", 0) else float(found)

    return in_doubles("largest_cosine", quantile, length, head_dim)


def _expm1(x: Any) -> Any:
    import numpy as np

    return np.expm1(x)


@formula(
    kind="exact",
    source=f"{OURS}: every distractor placed at the largest cosine",
    status="derived",
    symbol="beta",
    domain="a bound: sufficient in every draw of keys whose largest cosine is at most its median, half of all; not necessary",
)
def unit_key_temperature(
    length: Choices, head_dim: SphereDim, miss: Annotated[Miss, "weight that the distractors may keep"]
) -> Any:
    r"""Inverse temperature that suffices for one target among n unit-norm keys.

    .. math:: \beta \ge \frac{\ln \frac{(n-1)(1-\epsilon)}{\epsilon}}{1 - x_n}

    Derivation: docs/derivations/heads.md, (H7).

    Returns
    -------
    The factor on the cosine; :func:`~depthwidth.formulas.saturation.gap_for_weight` is its floor at large d_h.

    Examples
    --------
    >>> round(unit_key_temperature(1024, 32, 0.01), 2)
    24.76
    """
    return gap_for_weight.body(length, miss) / (1 - largest_cosine.body(length, head_dim))


@formula(kind="exact", source=f"{OURS}: extremes of a cosine", status="derived", symbol="p_cap")
def qk_norm_cap(
    length: ShortLength,
    head_dim: Annotated[HeadDim, "head dimension; logits are g sqrt(d_h) times a cosine"],
    gain: Annotated[
        Any, Domain(0, 100, True, True, symbol="g", typical=(0.1, 1.0)), "product of the gains of the two norms"
    ] = 1,
) -> Any:
    r"""Largest weight that a head with normalised queries and keys can give to one token.

    .. math:: p_{max} \le \frac{1}{1 + (n - 1) \exp(-2 g \sqrt{d_h})}

    Derivation: docs/derivations/heads.md, (H8).

    Returns
    -------
    1/n to 1.

    Examples
    --------
    >>> round(qk_norm_cap(1024, 16), 4)
    0.7445
    """
    return 1 / (1 + (length - 1) * exp(-2 * gain * sqrt(head_dim)))


@formula(kind="heuristic", source=f"{OURS}: working rule from the least retrieval error", status="derived", symbol="d_h")
def comfortable_head_dim(
    length: Annotated[Length, "tokens"],
    share: Annotated[
        Any,
        Domain(0, closed_low=True, symbol="kappa", typical=(1, 3)),
        "1 leaves half of the error, 2.2 about 1 %, 3 next to none",
    ] = 2,
) -> Any:
    r"""Head dimension for a layer that may have to look tokens up, before rounding to the hardware's multiple.

    .. math:: d_h = 2 \kappa \ln n

    Returns
    -------
    Dimensions; never below 1.

    Examples
    --------
    >>> round(comfortable_head_dim(8192), 2)
    36.04
    """
    return maximum(1, 2 * share * log(length))
