"""Corrections of order 1/width to the attention output: norms of tokens, and short rows."""

from __future__ import annotations

import math
from typing import Annotated, Any

from ...formula import formula
from ..saturation._domains import SumP2
from ._domains import OURS, Correlation, PairP2, Raw, RowCorrelation, SumP3, SumP4, Value, Width


def gaussian_norm_response(P: Any, M3: Any, M4: Any) -> Any:
    """Response of sum p^2 to the norms of the tokens: half of the sum of its second derivatives, (A17)."""
    return 2 * P - 5 * M3 + 3 * M4


def equal_norm_response(P: Any, M3: Any, M4: Any) -> Any:
    """Response of sum p (1 - p) to the tokens' shares of the common part, (A10)."""
    return 1 - 7 * P + 12 * M3 - 6 * M4


def product_noise(left: Any, attraction: Any, P2: Any, row_correlation: Any) -> Any:
    """Response of two rows to noise in the products of tokens, (A6) and (A8).

    `left` is the product of 1 - P of both rows, `attraction` 1 - 3 P + 2 M3.
    """
    return row_correlation * left * (1 - P2) - 2 * P2 * attraction


def share_noise(left: Any, attraction: Any, P2: Any, row_correlation: Any) -> Any:
    """The same to the tokens' shares of the common part."""
    return attraction * (1 - 2 * P2) - 2 * row_correlation * P2 * left


@formula(
    kind="approximation",
    source=OURS,
    status="derived",
    symbol="q_norm",
    domain="first order in 1/d",
    accuracy=0.006,
    measure="value_moment",
    within={"correlation": (0, 1), "raw_score_variance": (0, 2), "width": (64, math.inf)},
    given="averages of the softmax over rows of 8 to 256 entries",
)
def norm_fluctuation(
    value_moment: Value,
    correlation: Correlation,
    P: SumP2,
    M3: SumP3,
    M4: SumP4,
    raw_score_variance: Raw,
    width: Annotated[Width, "width of the tokens; their norms are those of Gaussian vectors of this many dimensions"],
) -> Any:
    r"""Increase of the attention output's second moment by unequal norms of the tokens.

    .. math:: \frac{2 V s (1-r)^2}{d}\,(2P - 5M_3 + 3M_4)

    Derivation: docs/derivations/attention.md, (A17).

    Returns
    -------
    Per feature, units of V; add it to :func:`output_second_moment`.

    Examples
    --------
    >>> norm_fluctuation(1.0, 0.5, 0.0, 0.0, 0.0, 1.0, 64)
    0.0
    """
    response = gaussian_norm_response(P, M3, M4)
    return 2 * value_moment * raw_score_variance * (1 - correlation) ** 2 / width * response


@formula(
    kind="approximation",
    source=OURS,
    status="derived",
    symbol="v_common",
    domain="first order in 1/d",
    accuracy=0.02,
    within={"correlation": (0.1, 1), "width": (64, math.inf)},
    given="Gaussian tokens brought to one norm",
)
def common_share_variance(
    correlation: Annotated[Correlation, "correlation of the tokens: the mean of that share if it is not negative"], width: Width
) -> Any:
    r"""Variance over tokens of equal norm of the fraction of their squared norm along the tokens' common component.

    .. math:: \frac{2\, r (1-r)^2 (2 - r)}{d}

    Derivation: docs/derivations/attention.md, (A9).

    Returns
    -------
    Dimensionless.

    Notes
    -----
    With x = sqrt(r) c + sqrt(1-r) z, the share (x.c)^2 / (x^2 c^2) moves with the component of z along c by
    2 sqrt(r (1-r)^3/d), and with the length of z by r (1-r) sqrt(2/d); the squares add up.

    Examples
    --------
    >>> common_share_variance(0.5, 256)
    0.00146484375
    """
    return 2 * correlation * (1 - correlation) ** 2 * (2 - correlation) / width


@formula(
    kind="approximation",
    source=OURS,
    status="derived",
    symbol="q_equal",
    domain="first order in 1/d, leading order in s: at r = 0.3, L = 64 too large by 7 % for s = 1, 42 % for s = 4",
    accuracy=0.005,
    measure="value_moment",
    within={"correlation": (0, 1), "raw_score_variance": (0, 4), "width": (64, math.inf)},
    given="averages of the softmax over rows of 8 to 256 entries",
)
def equal_norm_shift(
    value_moment: Value, correlation: Correlation, P: SumP2, M3: SumP3, M4: SumP4, raw_score_variance: Raw, width: Width
) -> Any:
    r"""Change of the attention output's second moment by exactly equal norms of the tokens, as after a layer norm.

    .. math:: -\frac{V s\, r (1-r)^2 (2 - r)}{d}\,(1 - 7P + 12M_3 - 6M_4)

    Derivation: docs/derivations/attention.md, (A10).

    Returns
    -------
    Per feature, units of V, not positive for long rows; add it to :func:`output_second_moment`.

    Notes
    -----
    To be of one norm, a token with a larger share of the common part has a smaller one of its own: the variance of its score is
    lower by s times what the share is larger, so that it is attended to less. How far shares differ is
    :func:`common_share_variance`, half of which stands here, and the last factor is the response of sum p_j (1 - p_j). At
    r = 0.3, s = 4, d = 256 it takes 1.4 % off. The response of sum p^2 itself to unequal variances, of order s^2/d, is left
    out.

    Examples
    --------
    >>> round(equal_norm_shift(1.0, 0.5, 0.0, 0.0, 0.0, 4.0, 256), 5)
    -0.00293
    """
    spread = common_share_variance.body(correlation, width) / 2
    return -value_moment * raw_score_variance * spread * equal_norm_response(P, M3, M4)


@formula(
    kind="approximation",
    source=OURS,
    status="derived",
    symbol="c_equal",
    domain="first order in 1/d",
    accuracy=0.004,
    measure="value_moment",
    within={"correlation": (0, 1), "raw_score_variance": (0, 4), "width": (64, math.inf)},
    given="averages of the softmax over rows of 8 to 256 entries, r' = r",
)
def equal_norm_covariance_shift(
    value_moment: Value,
    correlation: Correlation,
    P: SumP2,
    M3: SumP3,
    P2: PairP2,
    row_correlation: RowCorrelation,
    raw_score_variance: Raw,
    width: Width,
) -> Any:
    r"""Change of the attention output's covariance between two tokens by exactly equal norms of the tokens.

    .. math:: -\frac{V s\, r (1-r)^2 (2 - r)}{d}\,\bigl[(1 - 3P + 2M_3)(1 - 2 P_2) - 2\rho P_2 (1 - P)^2\bigr]

    Returns
    -------
    Per feature, units of V; add it to :func:`output_covariance`. Exact to first order for uniform attention, and for rows
    without correlation.

    Examples
    --------
    >>> round(equal_norm_covariance_shift(1.0, 0.5, 0.0, 0.0, 0.0, 0.5, 4.0, 256), 5)
    -0.00293
    """
    spread = common_share_variance.body(correlation, width) / 2
    response = share_noise((1 - P) ** 2, 1 - 3 * P + 2 * M3, P2, row_correlation)
    return -value_moment * raw_score_variance * spread * response


@formula(
    kind="approximation",
    source=OURS,
    status="derived",
    symbol="c_rows",
    domain="first order in 1/d",
    accuracy=0.0015,
    measure="value_moment",
    within={"correlation": (0, 1), "raw_score_variance": (0, 4), "width": (64, math.inf)},
    given="averages of the softmax over rows of 8 to 256 entries, r' = r",
)
def short_row_covariance_shift(
    value_moment: Value,
    correlation: Correlation,
    P: SumP2,
    M3: SumP3,
    P2: PairP2,
    row_correlation: RowCorrelation,
    raw_score_variance: Raw,
    width: Width,
) -> Any:
    r"""Correction for finite row length to the 1/d term of the attention output's covariance between two tokens.

    .. math:: -\frac{V s (1-r)^2}{d}\left[\rho\,\bigl(1 - (1-P)^2(1-P_2)\bigr) + 2 P_2 (1 - 3P + 2M_3)\right]

    Derivation: docs/derivations/attention.md, (A8).

    Returns
    -------
    Per feature, units of V; add it to :func:`output_covariance`.

    Notes
    -----
    Noise of a token product x_j.x_l/d moves the covariance of scores j and l within either row and across both. To it responds
    the sum over j != l of p_j p'_l, for uniform attention by rho (1-P)^2 (1-P2), and for rows without correlation by
    -2 P2 (1 - 3P + 2 M3).

    Examples
    --------
    >>> round(short_row_covariance_shift(1.0, 0.5, 0.1, 0.02, 0.05, 0.5, 4.0, 256), 5)
    -0.00074
    """
    short = row_correlation - product_noise((1 - P) ** 2, 1 - 3 * P + 2 * M3, P2, row_correlation)
    return -value_moment * raw_score_variance * (1 - correlation) ** 2 / width * short
