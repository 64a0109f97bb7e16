"""Scores, and the squared norm of the softmax's Jacobian."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, formula
from ..saturation._domains import SumP2
from ._domains import PER_FEATURE, Correlation, CrossP2, Raw, SumP3, SumP4

Signal = Annotated[Any, Domain(0, symbol="q", unit=PER_FEATURE, typical=(0.5, 2.0)), "second moment of the input"]
QueryGain = Annotated[
    Any, Domain(0, closed_low=True, symbol="A_q", typical=(0.5, 2.0)), "width times the variance of a query weight"
]
KeyGain = Annotated[
    Any, Domain(0, closed_low=True, symbol="A_k", typical=(0.5, 2.0)), "width times the variance of a key weight"
]


@formula(kind="exact", source="product of independent projections", status="derived", symbol="s")
def raw_score_variance(query_gain: QueryGain, key_gain: KeyGain, signal: Signal) -> Any:
    r"""Variance of an attention score between two uncorrelated tokens.

    .. math:: s = A_q A_k q^2

    Derivation: docs/derivations/attention.md, (A1).

    Returns
    -------
    Variance of q.k / sqrt(d_h) over the weights, nats^2.

    Examples
    --------
    >>> raw_score_variance(1.0, 2.0, 1.0)
    2.0
    """
    return query_gain * key_gain * signal**2


@formula(kind="exact", source="shift invariance of the softmax", status="derived", symbol="sigma^2")
def score_variance(raw_score_variance: Raw, correlation: Correlation) -> Any:
    r"""Variance of the scores within a row, without their common part, which the softmax ignores.

    .. math:: \sigma^2 = (1 - r)\, s

    Derivation: docs/derivations/attention.md, (A2).

    Returns
    -------
    nats^2. Attention collapses onto one token if this exceeds about 2 ln L.

    Examples
    --------
    >>> score_variance(4.0, 0.75)
    1.0
    """
    return (1 - correlation) * raw_score_variance


@formula(kind="exact", source="algebra", status="derived", symbol="T")
def jacobian_norm(P: SumP2, M3: SumP3, M4: SumP4, A22: CrossP2) -> Any:
    r"""Squared Frobenius norm of the softmax's Jacobian, on average.

    .. math:: E\,\lVert \mathrm{diag}\,p - p p^\top \rVert_F^2 = P - 2 M_3 + M_4 + A_{22}

    Derivation: docs/derivations/attention.md, (A3).

    Returns
    -------
    Dimensionless, 0 to 1/2; (1 - 1/n)/n for uniform attention.

    Examples
    --------
    >>> jacobian_norm(0.5, 0.25, 0.125, 0.125)
    0.25
    """
    return P - 2 * M3 + M4 + A22
