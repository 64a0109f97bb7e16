"""Moments of the input's gradient by its three paths: through the values, the queries and the keys."""

from __future__ import annotations

import math
from typing import Annotated, Any

from ...formula import Domain, formula
from ..saturation._domains import SumP2
from ._domains import (
    GRADIENT,
    OURS,
    TESTED,
    UNIT,
    Correlation,
    CrossP2,
    Dropout,
    Gamma,
    PairP2,
    Raw,
    RowCorrelation,
    SumP3,
    ValueGain,
    Width,
)
from .output import dropout_noise

KeyRowCorrelation = Annotated[
    Any, Domain(symbol=r"\rho'", typical=(0.02, 0.95)), "correlation of two queries, from :func:`key_row_correlation`"
]
HeadDim = Annotated[Any, Domain(0, symbol="d_h", unit="dimensions", typical=(16, 256)), "dimensions of a query"]
Kappa = Annotated[
    Any, Domain(symbol="kappa", unit=GRADIENT, typical=(0.05, 0.4)), "covariance between tokens of the output's gradient"
]
Queries = Annotated[
    Any,
    Domain(1, closed_low=True, integer=True, symbol="L_q", unit="tokens", typical=(8, 512)),
    "tokens that attend; in self-attention as many as there are keys",
]
Keys = Annotated[
    Any,
    Domain(1, closed_low=True, integer=True, symbol="L_k", unit="tokens", typical=(8, 512)),
    "tokens attended to; in self-attention as many as there are queries",
]
TwoKeys = Annotated[
    Any, Domain(2, closed_low=True, integer=True, symbol="L_k", unit="tokens", typical=(8, 512)), "tokens attended to"
]
JacobianNorm = Annotated[
    Any, Domain(**UNIT, symbol="T", typical=(0.01, 0.2)), "squared norm of the softmax's Jacobian, on average"
]
PairJacobian = Annotated[
    Any,
    Domain(-1, 1, closed_low=True, closed_high=True, symbol="T_2", typical=(0.005, 0.15)),
    "overlap of the softmax's Jacobians of two rows",
]
Noise = Annotated[Any, Domain(symbol="C_Q", typical=(0.3, 1.0)), "from :func:`query_noise`; 1 for long rows"]


@formula(kind="exact", source="Wigner average of trace(J E J E)", status="derived", symbol="C_Q")
def query_noise(P: SumP2, M3: SumP3, A22: CrossP2) -> Any:
    r"""Response of the query path to noise in the token products: factor of its 1/d term.

    .. math:: C_Q = 1 - 3P + 2 M_3 + 2 A_{22}

    Derivation: docs/derivations/attention.md, (A5).

    Returns
    -------
    Dimensionless; 1 for a long row, 0 for one entry.

    Notes
    -----
    J = diag p - pp' and E symmetric, its entries off the diagonal independent with unit variance. With 1 in its place the
    gradient of 8 tokens at width 32 is 5 % too high; with it, 2 %.

    Examples
    --------
    >>> query_noise(1.0, 1.0, 0.0)
    0.0
    """
    return 1 - 3 * P + 2 * M3 + 2 * A22


@formula(kind="exact", source=OURS, status="derived", symbol="gamma_V", domain="infinite width")
def value_gradient_second_moment(
    value_gain: ValueGain, gamma: Gamma, kappa: Kappa, P: SumP2, P2: PairP2, queries: Queries, keys: Keys, dropout: Dropout = 0
) -> Any:
    r"""Second moment of the input's gradient along the value path.

    .. math:: \gamma_V = g_V \frac{L_q}{L_k}\left[\gamma\frac{P}{1-p} + (L_q - 1)\,\kappa P_2\right]

    Derivation: docs/derivations/attention.md, (A11).

    Returns
    -------
    Per feature, units of gamma.

    Examples
    --------
    >>> round(value_gradient_second_moment(1.0, 1.0, 0.0, 0.0388, 0.0156, 64, 64), 4)
    0.0388
    """
    return value_gain * queries / keys * (gamma * P / (1 - dropout) + (queries - 1) * kappa * P2)


@formula(kind="exact", source=OURS, status="derived", symbol="kappa_V", domain="infinite width")
def value_gradient_covariance(
    value_gain: ValueGain, gamma: Gamma, kappa: Kappa, P: SumP2, P2: PairP2, queries: Queries, keys: TwoKeys
) -> Any:
    r"""Covariance between two tokens of the input's gradient along the value path.

    .. math:: \kappa_V = g_V \frac{L_q}{L_k}\,\frac{\gamma(1 - P) + (L_q - 1)\,\kappa(1 - P_2)}{L_k - 1}

    Derivation: docs/derivations/attention.md, (A12).

    Returns
    -------
    Per feature, units of kappa. Dropout does not change it.

    Examples
    --------
    >>> round(value_gradient_covariance(1.0, 1.0, 0.0, 0.0388, 0.0156, 64, 64), 4)
    0.0153
    """
    return value_gain * queries / keys * (gamma * (1 - P) + (queries - 1) * kappa * (1 - P2)) / (keys - 1)


@formula(
    kind="approximation",
    source=OURS,
    status="derived",
    symbol="gamma_Q",
    domain=TESTED,
    accuracy=0.09,
    within={"correlation": (0, 0.9), "raw_score_variance": (0, 4), "width": (128, math.inf)},
    given="heads of 16 dimensions and more, rows of 16 to 64 entries",
)
def query_gradient_second_moment(
    value_gain: ValueGain,
    gamma: Gamma,
    correlation: Correlation,
    T: JacobianNorm,
    raw_score_variance: Raw,
    width: Width,
    dropout: Dropout = 0,
    noise: Noise = 1,
) -> Any:
    r"""Second moment of the input's gradient along the query path.

    .. math:: \gamma_Q = g_V\, \gamma\, s\left[(1-r)\left(1 - r + \frac{p}{1-p}\right) T + \frac{(1-r)^2}{d}\, C_Q\right]

    Derivation: docs/derivations/attention.md, (A13).

    Returns
    -------
    Per feature, units of gamma.

    Examples
    --------
    >>> round(query_gradient_second_moment(1.0, 1.0, 0.0, 0.0340803, 1.0, 256), 4)
    0.038
    """
    apart = 1 - correlation
    return (
        value_gain * gamma * raw_score_variance * (apart * (apart + dropout_noise.body(dropout)) * T + apart**2 / width * noise)
    )


@formula(
    kind="approximation",
    source=OURS,
    status="derived",
    symbol="kappa_Q",
    domain=TESTED,
    accuracy=0.16,
    within={"correlation": (0, 0.9), "raw_score_variance": (0, 4), "width": (128, math.inf)},
    given="heads of 16 dimensions and more, rows of 16 to 64 entries",
)
def query_gradient_covariance(
    value_gain: ValueGain,
    kappa: Kappa,
    correlation: Correlation,
    T2: PairJacobian,
    raw_score_variance: Raw,
    width: Width,
    noise: Annotated[Noise, "as :func:`query_noise`, for two rows: about (1 - P)^2 - T2; 1 for long rows"] = 1,
) -> Any:
    r"""Covariance between two tokens of the input's gradient along the query path.

    .. math:: \kappa_Q = g_V\, \kappa\, s (1-r)^2 \left[T_2 + \frac{C_Q}{d}\right]

    Derivation: docs/derivations/attention.md, (A13).

    Returns
    -------
    Per feature, units of kappa.

    Notes
    -----
    Without the term in 1/d, 16 tokens at width 96 have about a tenth too little.

    Examples
    --------
    >>> round(query_gradient_covariance(1.0, 0.5, 0.5, 0.02, 1.0, 1000), 6)
    0.002625
    """
    return value_gain * kappa * raw_score_variance * (1 - correlation) ** 2 * (T2 + noise / width)


@formula(
    kind="approximation",
    source=OURS,
    status="derived",
    symbol=r"\rho'",
    domain="first order in 1/d_h",
    accuracy=0.06,
    measure="absolute",
    within={"row_correlation": (0, 1), "correlation": (0, 1), "raw_score_variance": (0, 2), "head_dim": (64, math.inf)},
    given="rows of 16 entries and more",
)
def key_row_correlation(
    row_correlation: RowCorrelation, correlation: Correlation, raw_score_variance: Raw, head_dim: HeadDim
) -> Any:
    r"""Effective correlation of two queries in the key path, including the fluctuation of their product at finite head size.

    .. math:: \rho' = \rho + (1-r)\, s\, \frac{1 + \rho^2}{d_h}

    Derivation: docs/derivations/attention.md, (A14).

    Returns
    -------
    Dimensionless.

    Notes
    -----
    The product q.q'/d_h fluctuates with variance (1 + rho^2)/d_h, and T2 grows with it at the relative rate (1 - r) s.

    Examples
    --------
    >>> key_row_correlation(0.0, 0.0, 1.0, 64)
    0.015625
    """
    return row_correlation + (1 - correlation) * raw_score_variance * (1 + row_correlation**2) / head_dim


@formula(
    kind="approximation",
    source=OURS,
    status="derived",
    symbol="gamma_K",
    domain=TESTED,
    accuracy=0.07,
    within={"correlation": (0, 0.9), "raw_score_variance": (0, 4), "queries": (16, 64), "keys": (16, 64)},
    given="widths of 128 and more, heads of 16 dimensions and more",
)
def key_gradient_second_moment(
    value_gain: ValueGain,
    gamma: Gamma,
    kappa: Kappa,
    correlation: Correlation,
    key_row_correlation: KeyRowCorrelation,
    T: JacobianNorm,
    T2: PairJacobian,
    raw_score_variance: Raw,
    queries: Queries,
    keys: Keys,
    dropout: Dropout = 0,
) -> Any:
    r"""Second moment of the input's gradient along the key path.

    .. math::
        \gamma_K = g_V \frac{L_q}{L_k}\, s
        \left[\gamma\left(1 - r + \frac{p}{1-p}\right) T + (L_q - 1)\,\kappa (1-r) \rho' T_2\right]

    Derivation: docs/derivations/attention.md, (A15).

    Returns
    -------
    Per feature, units of gamma. The part with kappa grows with the length: where gradients of tokens correlate, it is as large
    as the value path's.

    Examples
    --------
    >>> round(key_gradient_second_moment(1.0, 1.0, 0.0, 0.0, 0.0, 0.0340803, 0.0, 1.0, 64, 64), 4)
    0.0341
    """
    apart = 1 - correlation
    own = gamma * (apart + dropout_noise.body(dropout)) * T
    return value_gain * queries / keys * raw_score_variance * (own + (queries - 1) * kappa * apart * key_row_correlation * T2)


@formula(kind="exact", source="shift invariance of the softmax", status="derived", symbol="kappa_K")
def key_gradient_covariance(
    key_gradient_moment: Annotated[
        Any,
        Domain(0, closed_low=True, symbol="gamma_K", unit=GRADIENT, typical=(0.01, 1.0)),
        "from :func:`key_gradient_second_moment`",
    ],
    keys: TwoKeys,
) -> Any:
    r"""Covariance between two tokens of the input's gradient along the key path.

    .. math:: \kappa_K = -\frac{\gamma_K}{L_k - 1}

    Derivation: docs/derivations/attention.md, (A16).

    Returns
    -------
    Per feature. Shifting all scores of a row changes nothing, so that the keys' gradients add up to zero over tokens.

    Examples
    --------
    >>> key_gradient_covariance(0.63, 64)
    -0.01
    """
    return -key_gradient_moment / (keys - 1)


@formula(kind="exact", source=OURS, status="derived", symbol="G gamma")
def grouped_feature_gradient(
    moment: Annotated[
        Any,
        Domain(symbol="m", unit=GRADIENT, typical=(0.01, 1.0)),
        "second moment or covariance between tokens at a feature of a key or value of its own head",
    ],
    group: Annotated[
        Any,
        Domain(1, closed_low=True, integer=True, symbol="G", unit="query heads per key", typical=(1, 16)),
        "query heads that share one key and value head",
    ],
) -> Any:
    r"""Moment of the gradient at one feature of a key or value that several query heads share.

    .. math:: m_G = G\, m

    Derivation: docs/derivations/attention.md, (A18).

    Returns
    -------
    Units of the moment.

    Notes
    -----
    The heads of a group have independent gradients and independent queries, so that their shares add. There are G times fewer
    such features: at the input, the moments through values and keys are those without grouping if the weights keep their
    variance. (Weights scaled by their fan-out do not: then A_k and A_v change.)

    Examples
    --------
    >>> grouped_feature_gradient(0.25, 4)
    1.0
    """
    return group * moment
