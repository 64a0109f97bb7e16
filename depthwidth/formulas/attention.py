r"""Moments of activations and gradients through softmax attention with random weights: queries, keys, values, weighted sum.

Tokens are exchangeable: x has second moment q per feature and correlation r between two tokens. The output before its
projection has second moment and covariance *per feature*; so has its gradient, gamma and kappa. Heads drop out of all of them.

What the softmax does enters as a few averages, from :mod:`depthwidth.numerics.softmax`: over one row of probabilities,
P = E sum p^2, M3, M4, A22 = E sum_{i != j} p_i^2 p_j^2 and T = E ||diag p - pp'||^2; over two rows, P2 and T2. They are taken
at score variance s2 = (1 - r) ss and row correlation rho = r, ss being the variance of a raw score. Under a causal mask the
same formulas hold with the averages over row lengths.

=====================  ==========================================================================
symbol                 meaning
=====================  ==========================================================================
V                      second moment of a value, A_v q; A_v is width times variance of a weight
g_V                    V/q: gain of a gradient through the value weights
r, rho                 correlation of two keys' tokens, and of two queries'; equal in self-attention
gamma, kappa           E g_t^2 and E g_t g_t' of the output's gradient
e_p                    p/(1 - p) for dropout p on the probabilities
=====================  ==========================================================================

The gradient reaches the input by three paths: values, queries and keys. The published theory keeps the first; its forms are
here under names that end in ``_published``.

Derivation: docs/derivations/attention.md, whose numbers (A1) to (A16) stand at the functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from ..formula import Domain, formula
from ..mathematics import euler_gamma, exp, log

if TYPE_CHECKING:
    from ..numerics.softmax import AttentionOverlap

_PER_FEATURE = "per feature, squared units of the activation"
_GRADIENT = "per feature, squared units of the gradient"
_NATS2 = "nats^2"
_UNIT = {"low": 0, "high": 1, "closed_low": True, "closed_high": True}


Signal = Annotated[Any, Domain(0, symbol="q", unit=_PER_FEATURE, typical=(0.5, 2.0))]
QueryGain = Annotated[Any, Domain(0, closed_low=True, symbol="A_q", typical=(0.5, 2.0))]
KeyGain = Annotated[Any, Domain(0, closed_low=True, symbol="A_k", typical=(0.5, 2.0))]
Value = Annotated[Any, Domain(0, symbol="V", unit=_PER_FEATURE, typical=(0.5, 2.0))]
ValueGain = Annotated[Any, Domain(0, symbol="g_V", typical=(0.5, 2.0))]
Correlation = Annotated[Any, Domain(-1, 1, closed_low=True, closed_high=True, symbol="r", typical=(0.02, 0.9))]
RowCorrelation = Annotated[Any, Domain(-1, 1, closed_low=True, closed_high=True, symbol="rho", typical=(0.02, 0.9))]
KeyRowCorrelation = Annotated[Any, Domain(symbol=r"\rho'", typical=(0.02, 0.95))]
Raw = Annotated[Any, Domain(0, closed_low=True, symbol="s", unit=_NATS2, typical=(0.2, 4.0))]
RowVariance = Annotated[Any, Domain(0, closed_low=True, symbol="sigma^2", unit=_NATS2, typical=(0.1, 1.0))]
Width = Annotated[Any, Domain(0, closed_high=True, symbol="d", unit="dimensions", typical=(64, 4096))]
HeadDim = Annotated[Any, Domain(0, symbol="d_h", unit="dimensions", typical=(16, 256))]
Dropout = Annotated[Any, Domain(0, 1, closed_low=True, symbol="p", typical=(0.01, 0.3))]
Gamma = Annotated[Any, Domain(0, closed_low=True, symbol="gamma", unit=_GRADIENT, typical=(0.5, 2.0))]
Kappa = Annotated[Any, Domain(symbol="kappa", unit=_GRADIENT, typical=(0.05, 0.4))]
GradientCorrelation = Annotated[Any, Domain(-1, 1, closed_low=True, closed_high=True, symbol="r_g", typical=(0.02, 0.9))]
Queries = Annotated[Any, Domain(1, closed_low=True, integer=True, symbol="L_q", unit="tokens", typical=(8, 512))]
Keys = Annotated[Any, Domain(1, closed_low=True, integer=True, symbol="L_k", unit="tokens", typical=(8, 512))]
TwoKeys = Annotated[Any, Domain(2, closed_low=True, integer=True, symbol="L_k", unit="tokens", typical=(8, 512))]
Length = Annotated[Any, Domain(1, closed_low=True, integer=True, symbol="L", unit="tokens", typical=(64, 2048))]
TwoTokens = Annotated[Any, Domain(2, closed_low=True, integer=True, symbol="L", unit="tokens", typical=(64, 2048))]
SumP2 = Annotated[Any, Domain(**_UNIT, symbol="P", typical=(0.01, 0.3))]
SumP3 = Annotated[Any, Domain(**_UNIT, symbol="M_3", typical=(0.001, 0.05))]
SumP4 = Annotated[Any, Domain(**_UNIT, symbol="M_4", typical=(0.0001, 0.01))]
CrossP2 = Annotated[Any, Domain(**_UNIT, symbol="A_22", typical=(0.0001, 0.05))]
JacobianNorm = Annotated[Any, Domain(**_UNIT, symbol="T", typical=(0.01, 0.2))]
PairP2 = Annotated[Any, Domain(**_UNIT, symbol="P_2", typical=(0.005, 0.2))]
PairJacobian = Annotated[Any, Domain(-1, 1, closed_low=True, closed_high=True, symbol="T_2", typical=(0.005, 0.15))]
Noise = Annotated[Any, Domain(symbol="C_Q", typical=(0.3, 1.0))]

_KEDIA = "Kedia et al. 2024, authors' code"
_OURS = "derived for this package: Gaussian scores given the tokens, averages over the softmax"
_TESTED = "tokens exchangeable, weights iid; within 1 to 4 % of simulation for 16 to 128 tokens, widths 128 to 512"


# ---- scores and softmax ----


@formula(kind="exact", source="product of independent projections", status="derived", symbol="s")
def raw_score_variance(query_gain: QueryGain, key_gain: KeyGain, signal: Signal) -> Any:
    r"""Variance of an attention score between two uncorrelated tokens.

    .. math:: s = A_q A_k q^2

    Derivation: docs/derivations/attention.md, (A1).

    Parameters
    ----------
    query_gain, key_gain : A_q and A_k, width times the variance of a weight.
    signal : q, second moment of the input per feature.

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
    r"""Variance of the scores of one row after their common part, which the softmax ignores, is removed.

    .. math:: \sigma^2 = (1 - r)\, s

    Derivation: docs/derivations/attention.md, (A2).

    Parameters
    ----------
    raw_score_variance : s, of a score q.k / sqrt(d_h).
    correlation : r, of the tokens attended to.

    Returns
    -------
    nats^2. Attention collapses onto one token where this exceeds about 2 ln L.

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

    Parameters
    ----------
    P, M3, M4 : E sum p^2, E sum p^3, E sum p^4.
    A22 : E sum over i != j of p_i^2 p_j^2.

    Returns
    -------
    Dimensionless, 0 to 1/2; (1 - 1/n)/n for uniform attention.

    Examples
    --------
    >>> jacobian_norm(0.5, 0.25, 0.125, 0.125)
    0.25
    """
    return P - 2 * M3 + M4 + A22


@formula(kind="exact", source="Gaussian integration by parts", status="derived", symbol="H")
def softmax_entropy(log_partition: Annotated[Any, Domain(symbol="ln Z", unit="nats", typical=(4.0, 6.0))],
                    variance: RowVariance, P: SumP2) -> Any:  # fmt: skip
    r"""Average entropy of a softmax over independent Gaussian logits.

    .. math:: H = E \ln Z - \sigma^2 (1 - P)

    Derivation: docs/derivations/softmax.md, (S4).

    Parameters
    ----------
    log_partition : E ln Z, nats.
    variance : sigma^2 of a logit, nats^2.
    P : E sum p^2.

    Returns
    -------
    nats.

    Examples
    --------
    >>> round(softmax_entropy(4.645942, 1.0, 0.03880424), 4)
    3.6847
    """
    return log_partition - variance * (1 - P)


@formula(kind="asymptotic", source="random-energy model", status="derived", symbol="H", order=1,
         domain="L to infinity; at L = 64, 0.7 % low for sigma^2 = 1, 18 % for 4, negative for 9")  # fmt: skip
def diffuse_entropy(variance: RowVariance, length: Length) -> Any:
    r"""Entropy of a softmax whose weight is spread over many entries.

    .. math:: H \approx \ln L - \sigma^2/2

    Parameters
    ----------
    variance : sigma^2 of a logit, nats^2.
    length : L, entries of the row.

    Returns
    -------
    nats.

    Examples
    --------
    >>> round(diffuse_entropy(1.0, 64), 4)
    3.6589
    """
    return log(length) - variance / 2


@formula(kind="approximation", source="ratio of the leading log-normal moments", status="derived", symbol="P",
         domain="variance P/L - 1/L^2 is 3 % high at L = 64, sigma^2 = 0.5; 30 % at 16, 1")  # fmt: skip
def overlap_ratio(variance: RowVariance, length: Length) -> Any:
    r"""Cheap substitute for P; with rho sigma^2 in place of the variance, for P2.

    .. math:: P \approx \frac{e^{\sigma^2}}{e^{\sigma^2} + L - 1}

    Parameters
    ----------
    variance : sigma^2 of a logit, nats^2.
    length : L, entries of the row.

    Returns
    -------
    E sum p^2, from 1/L to 1.

    Examples
    --------
    >>> overlap_ratio(0.0, 4)
    0.25
    """
    return exp(variance) / (exp(variance) + length - 1)


@formula(kind="asymptotic", source="delta method, second order", status="derived", symbol="v", order=2,
         domain="-0.5 % at L = 64, sigma^2 = 0.5; -6 % at 64, 1; useless beyond")  # fmt: skip
def softmax_variance_series(variance: RowVariance, length: Length) -> Any:
    r"""Variance of one softmax probability, to second order in 1/L.

    .. math:: v = \frac{1}{L^2}\left[e - 1 - \frac{2(e^3 - e) - 3e(e - 1)}{L}\right], \quad e = e^{\sigma^2}

    Parameters
    ----------
    variance : sigma^2 of a logit, nats^2.
    length : L, entries of the row.

    Returns
    -------
    Variance of p_j over the logits.

    Examples
    --------
    >>> round(softmax_variance_series(0.5, 64) * 64**2, 4)
    0.6103
    """
    e = exp(variance)
    return (e - 1 - (2 * (e**3 - e) - 3 * e * (e - 1)) / length) / length**2


@formula(kind="asymptotic", source="sum of 1/n over rows", status="derived", symbol="P", order=1,
         domain="uniform attention, sigma^2 = 0")  # fmt: skip
def causal_uniform_overlap(length: Length) -> Any:
    r"""Average over the rows of a causal mask of P, for uniform attention.

    .. math:: \bar P \approx \frac{\ln L + \gamma_E}{L}

    Parameters
    ----------
    length : L, tokens.

    Returns
    -------
    Mean of 1/n over n = 1 to L: several times the 1/L of a full mask.

    Examples
    --------
    >>> round(causal_uniform_overlap(64), 4)
    0.074
    """
    return (log(length) + euler_gamma) / length


# ---- forward ----


@formula(kind="exact", source="variance of a Bernoulli mask", status="primary", symbol="e_p")
def dropout_noise(dropout: Dropout) -> Any:
    r"""Variance that dropout adds to an entry of unit second moment.

    .. math:: e_p = \frac{p}{1 - p}

    Derivation: docs/derivations/attention.md, (A7).

    Parameters
    ----------
    dropout : p, the fraction set to zero. 0 <= p < 1.

    Returns
    -------
    Dimensionless.

    Examples
    --------
    >>> dropout_noise(0.5)
    1.0
    """
    return dropout / (1 - dropout)


@formula(kind="exact", source="Price's theorem on E p_i p_j", status="derived", symbol="C")
def output_noise(P: SumP2, M3: SumP3, A22: CrossP2) -> Any:
    r"""Response of the attended second moment to noise in the token products: factor of the 1/d term of the output.

    .. math:: C = 1 - P - 4(P - M_3) + 6 A_{22}

    Derivation: docs/derivations/attention.md, (A4).

    Parameters
    ----------
    P, M3 : E sum p^2 and E sum p^3.
    A22 : E sum over i != j of p_i^2 p_j^2.

    Returns
    -------
    Dimensionless; 1 for a long row, 0 for one entry.

    Notes
    -----
    The sum over i != j of the second derivative of p_i p_j by its two logits, averaged.

    Examples
    --------
    >>> output_noise(1.0, 1.0, 0.0)
    0.0
    """
    return 1 - P - 4 * (P - M3) + 6 * A22


@formula(kind="exact", source="Wigner average of trace(J E J E)", status="derived", symbol="C_Q")
def query_noise(P: SumP2, M3: SumP3, A22: CrossP2) -> Any:
    r"""Response of the query path to noise in the token products: factor of its 1/d term.

    .. math:: C_Q = 1 - 3P + 2 M_3 + 2 A_{22}

    Derivation: docs/derivations/attention.md, (A5).

    Parameters
    ----------
    P, M3 : E sum p^2 and E sum p^3.
    A22 : E sum over i != j of p_i^2 p_j^2.

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


@formula(kind="approximation", source=_OURS, status="derived", symbol="q_out", domain=_TESTED)
def output_second_moment(
    value_moment: Value,
    correlation: Correlation,
    P: SumP2,
    M3: SumP3,
    A22: CrossP2,
    raw_score_variance: Raw,
    width: Width,
    dropout: Dropout = 0,
) -> Any:
    r"""Second moment of the attention output, before its projection.

    .. math:: V\left[r + (1-r)P + \frac{p}{1-p} P + \frac{s(1-r)^2}{d}\,\bigl(1 - P - 4(P - M_3) + 6A_{22}\bigr)\right]

    Derivation: docs/derivations/attention.md, (A6).

    Parameters
    ----------
    value_moment : V, second moment of a value per feature.
    correlation : r, of the tokens attended to.
    P, M3, A22 : averages of a row of probabilities at score variance (1 - r) s.
    raw_score_variance : s, of a score q.k / sqrt(d_h).
    width : d, of the tokens; infinite for the leading order.
    dropout : p, of the probabilities.

    Returns
    -------
    Per feature, units of V.

    Notes
    -----
    Tokens of one norm, as after a layer norm; :func:`norm_fluctuation` is what raw Gaussian tokens add. Infinite width: exact.
    Measured error over 48 settings: median 0.5 %, largest 2.3 %.

    Examples
    --------
    >>> round(output_second_moment(1.0, 0.0, 0.0388042, 0.0024157, 0.0013567, 1.0, 256), 4)
    0.042
    """
    fluctuation = raw_score_variance * (1 - correlation) ** 2 / width * output_noise.body(P, M3, A22)
    return value_moment * (correlation + (1 - correlation) * P + dropout_noise.body(dropout) * P + fluctuation)


@formula(kind="approximation", source=_OURS, status="derived", symbol="c_out", domain=_TESTED)
def output_covariance(
    value_moment: Value,
    correlation: Correlation,
    P2: PairP2,
    row_correlation: RowCorrelation,
    raw_score_variance: Raw,
    width: Width,
) -> Any:
    r"""Covariance between two tokens of the attention output.

    .. math:: V\left[r + (1-r) P_2 + \frac{\rho\, s (1-r)^2}{d}\right]

    Derivation: docs/derivations/attention.md, (A6).

    Parameters
    ----------
    value_moment : V, second moment of a value per feature.
    correlation : r, of the tokens attended to.
    P2 : E sum p_j p'_j of two rows, at score variance (1 - r) s and row correlation rho.
    row_correlation : rho, of the tokens that ask; r in self-attention.
    raw_score_variance : s, of a score.
    width : d, of the tokens.

    Returns
    -------
    Per feature, units of V. Dropout does not change it.

    Examples
    --------
    >>> round(output_covariance(1.0, 0.0, 1 / 64, 0.0, 1.0, 256), 4)
    0.0156
    """
    fluctuation = row_correlation * raw_score_variance * (1 - correlation) ** 2 / width
    return value_moment * (correlation + (1 - correlation) * P2 + fluctuation)


@formula(kind="approximation", source=_OURS, status="derived", symbol="q_norm", domain="first order in 1/d")
def norm_fluctuation(
    value_moment: Value, correlation: Correlation, P: SumP2, M3: SumP3, M4: SumP4, raw_score_variance: Raw, width: Width
) -> Any:
    r"""What tokens of unequal norm add to the second moment of the attention output.

    .. math:: \frac{2 V s (1-r)^3}{d}\,(2P - 5M_3 + 3M_4)

    Parameters
    ----------
    value_moment : V, second moment of a value per feature.
    correlation : r, of the tokens.
    P, M3, M4 : averages of a row of probabilities.
    raw_score_variance : s, of a score.
    width : d. The norms are those of Gaussian vectors of this many dimensions.

    Returns
    -------
    Per feature, units of V; add it to :func:`output_second_moment`.

    Examples
    --------
    >>> norm_fluctuation(1.0, 0.5, 0.0, 0.0, 0.0, 1.0, 64)
    0.0
    """
    return 2 * value_moment * raw_score_variance * (1 - correlation) ** 3 / width * (2 * P - 5 * M3 + 3 * M4)


@formula(kind="approximation", source=_OURS, status="derived", symbol="v_common", domain="first order in 1/d")
def common_share_variance(correlation: Correlation, width: Width) -> Any:
    r"""Variance, over tokens of one norm, of the share of a token's squared norm along what all tokens have in common.

    .. math:: \frac{2\, r (1-r)^2 (2 - r)}{d}

    Derivation: docs/derivations/attention.md, (A9).

    Parameters
    ----------
    correlation : r, of the tokens: the mean of that share where it is not negative.
    width : d, of the tokens.

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


@formula(kind="approximation", source=_OURS, status="derived", symbol="q_equal", domain="first order in 1/d")
def equal_norm_shift(
    value_moment: Value, correlation: Correlation, P: SumP2, M3: SumP3, M4: SumP4, raw_score_variance: Raw, width: Width
) -> Any:
    r"""What tokens of exactly one norm, as behind a layer norm, take from the second moment of the attention output.

    .. math:: -\frac{V s\, r (1-r)^2 (2 - r)}{d}\,(1 - 7P + 12M_3 - 6M_4)

    Derivation: docs/derivations/attention.md, (A10).

    Parameters
    ----------
    value_moment : V, second moment of a value per feature.
    correlation : r, of the tokens.
    P, M3, M4 : averages of a row of probabilities.
    raw_score_variance : s, of a score.
    width : d, of the tokens.

    Returns
    -------
    Per feature, units of V, not positive for long rows; add it to :func:`output_second_moment`.

    Notes
    -----
    To be of one norm, a token with a larger share of the common part has a smaller one of its own: the variance of its score is
    lower by s times what the share is larger, so that it is attended to less. How far shares differ is
    :func:`common_share_variance`, half of which stands here, and the last factor is the response of sum p_j (1 - p_j). At
    r = 0.3, s = 4, d = 256 it takes 1.4 % off.

    Examples
    --------
    >>> round(equal_norm_shift(1.0, 0.5, 0.0, 0.0, 0.0, 4.0, 256), 5)
    -0.00293
    """
    spread = common_share_variance.body(correlation, width) / 2
    return -value_moment * raw_score_variance * spread * (1 - 7 * P + 12 * M3 - 6 * M4)


@formula(kind="approximation", source=_OURS, status="derived", symbol="c_equal", domain="first order in 1/d")
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
    r"""What tokens of exactly one norm take from the covariance between two tokens of the attention output.

    .. math:: -\frac{V s\, r (1-r)^2 (2 - r)}{d}\,\bigl[(1 - 3P + 2M_3)(1 - 2 P_2) - 2\rho P_2 (1 - P)^2\bigr]

    Parameters
    ----------
    value_moment : V, second moment of a value per feature.
    correlation : r, of the tokens.
    P, M3 : averages of a row of probabilities.
    P2 : of two rows.
    row_correlation : rho, of the tokens that ask.
    raw_score_variance : s, of a score.
    width : d, of the tokens.

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
    return -value_moment * raw_score_variance * spread * (
        (1 - 3 * P + 2 * M3) * (1 - 2 * P2) - 2 * row_correlation * P2 * (1 - P) ** 2
    )  # fmt: skip


@formula(kind="approximation", source=_OURS, status="derived", symbol="c_rows", domain="first order in 1/d")
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
    r"""What rows of finite length take from the term in 1/d of the covariance between two tokens of the attention output.

    .. math:: -\frac{V s (1-r)^2}{d}\left[\rho\,\bigl(1 - (1-P)^2(1-P_2)\bigr) + 2 P_2 (1 - 3P + 2M_3)\right]

    Derivation: docs/derivations/attention.md, (A8).

    Parameters
    ----------
    value_moment : V, second moment of a value per feature.
    correlation : r, of the tokens attended to.
    P, M3 : averages of a row of probabilities.
    P2 : of two rows.
    row_correlation : rho, of the tokens that ask.
    raw_score_variance : s, of a score.
    width : d, of the tokens.

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
    short = row_correlation * (1 - (1 - P) ** 2 * (1 - P2)) + 2 * P2 * (1 - 3 * P + 2 * M3)
    return -value_moment * raw_score_variance * (1 - correlation) ** 2 / width * short


@formula(kind="asymptotic", source=_KEDIA, status="primary", symbol="q_out", order=1, domain="L to infinity")
def long_output_second_moment(value_moment: Value, correlation: Correlation) -> Any:
    r"""Second moment of the attention output over a long sequence: the average of all values.

    .. math:: q_{\text{out}} \to r V

    Parameters
    ----------
    value_moment : V, second moment of a value per feature.
    correlation : r, of the tokens.

    Returns
    -------
    Per feature, units of V; also the covariance between two tokens. The remainder is O(1/L) at infinite width.

    Examples
    --------
    >>> long_output_second_moment(2.0, 0.25)
    0.5
    """
    return correlation * value_moment


# ---- backward ----


@formula(kind="exact", source=_OURS, status="derived", symbol="gamma_V", domain="infinite width")
def value_gradient_second_moment(
    value_gain: ValueGain, gamma: Gamma, kappa: Kappa, P: SumP2, P2: PairP2, queries: Queries, keys: Keys, dropout: Dropout = 0
) -> Any:
    r"""Second moment of the input's gradient that comes through the values.

    .. math:: \gamma_V = g_V \frac{L_q}{L_k}\left[\gamma\frac{P}{1-p} + (L_q - 1)\,\kappa P_2\right]

    Derivation: docs/derivations/attention.md, (A11).

    Parameters
    ----------
    value_gain : g_V = V/q, width times the variance of a value weight.
    gamma, kappa : second moment and covariance between tokens of the output's gradient.
    P, P2 : overlap of one row with itself and with another, dropout left out.
    queries, keys : L_q and L_k, tokens that ask and tokens attended to; both L in self-attention.
    dropout : p, of the probabilities.

    Returns
    -------
    Per feature, units of gamma.

    Examples
    --------
    >>> round(value_gradient_second_moment(1.0, 1.0, 0.0, 0.0388, 0.0156, 64, 64), 4)
    0.0388
    """
    return value_gain * queries / keys * (gamma * P / (1 - dropout) + (queries - 1) * kappa * P2)


@formula(kind="exact", source=_OURS, status="derived", symbol="kappa_V", domain="infinite width")
def value_gradient_covariance(
    value_gain: ValueGain, gamma: Gamma, kappa: Kappa, P: SumP2, P2: PairP2, queries: Queries, keys: TwoKeys
) -> Any:
    r"""Covariance between two tokens of the input's gradient that comes through the values.

    .. math:: \kappa_V = g_V \frac{L_q}{L_k}\,\frac{\gamma(1 - P) + (L_q - 1)\,\kappa(1 - P_2)}{L_k - 1}

    Derivation: docs/derivations/attention.md, (A12).

    Parameters
    ----------
    value_gain : g_V = V/q.
    gamma, kappa : second moment and covariance of the output's gradient.
    P, P2 : overlap of one row with itself and with another.
    queries, keys : L_q and L_k, tokens that ask and tokens attended to. L_k >= 2.

    Returns
    -------
    Per feature, units of kappa. Dropout does not change it.

    Examples
    --------
    >>> round(value_gradient_covariance(1.0, 1.0, 0.0, 0.0388, 0.0156, 64, 64), 4)
    0.0153
    """
    return value_gain * queries / keys * (gamma * (1 - P) + (queries - 1) * kappa * (1 - P2)) / (keys - 1)


@formula(kind="approximation", source=_OURS, status="derived", symbol="gamma_Q", domain=_TESTED)
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
    r"""Second moment of the input's gradient that comes through the queries.

    .. math:: \gamma_Q = g_V\, \gamma\, s\left[(1-r)\left(1 - r + \frac{p}{1-p}\right) T + \frac{(1-r)^2}{d}\, C_Q\right]

    Derivation: docs/derivations/attention.md, (A13).

    Parameters
    ----------
    value_gain : g_V = V/q.
    gamma : second moment of the output's gradient.
    correlation : r, of the tokens attended to.
    T : squared norm of the softmax's Jacobian.
    raw_score_variance : s, of a score.
    width : d, of the tokens.
    dropout : p, of the probabilities.
    noise : C_Q of :func:`query_noise`; 1 for long rows.

    Returns
    -------
    Per feature, units of gamma.

    Examples
    --------
    >>> round(query_gradient_second_moment(1.0, 1.0, 0.0, 0.0340803, 1.0, 256), 4)
    0.038
    """
    apart = 1 - correlation
    return value_gain * gamma * raw_score_variance * (
        apart * (apart + dropout_noise.body(dropout)) * T + apart**2 / width * noise
    )  # fmt: skip


@formula(kind="approximation", source=_OURS, status="derived", symbol="kappa_Q", domain=_TESTED)
def query_gradient_covariance(
    value_gain: ValueGain,
    kappa: Kappa,
    correlation: Correlation,
    T2: PairJacobian,
    raw_score_variance: Raw,
    width: Width,
    noise: Noise = 1,
) -> Any:
    r"""Covariance between two tokens of the input's gradient that comes through the queries.

    .. math:: \kappa_Q = g_V\, \kappa\, s (1-r)^2 \left[T_2 + \frac{C_Q}{d}\right]

    Derivation: docs/derivations/attention.md, (A13).

    Parameters
    ----------
    value_gain : g_V = V/q.
    kappa : covariance between tokens of the output's gradient.
    correlation : r, of the tokens attended to.
    T2 : overlap of the softmax's Jacobians of two rows.
    raw_score_variance : s, of a score.
    width : d, of the tokens.
    noise : C_Q for two rows, about (1 - P)^2 - T2; 1 for long rows.

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


@formula(kind="approximation", source=_OURS, status="derived", symbol=r"\rho'", domain="first order in 1/d_h")
def key_row_correlation(
    row_correlation: RowCorrelation, correlation: Correlation, raw_score_variance: Raw, head_dim: HeadDim
) -> Any:
    r"""Correlation of two queries as the key path weighs it, with the fluctuation of their product at finite head size.

    .. math:: \rho' = \rho + (1-r)\, s\, \frac{1 + \rho^2}{d_h}

    Derivation: docs/derivations/attention.md, (A14).

    Parameters
    ----------
    row_correlation : rho, of the tokens that ask.
    correlation : r, of the tokens attended to.
    raw_score_variance : s, of a score.
    head_dim : d_h, dimensions of a query.

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


@formula(kind="approximation", source=_OURS, status="derived", symbol="gamma_K", domain=_TESTED)
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
    r"""Second moment of the input's gradient that comes through the keys.

    .. math::
        \gamma_K = g_V \frac{L_q}{L_k}\, s
        \left[\gamma\left(1 - r + \frac{p}{1-p}\right) T + (L_q - 1)\,\kappa (1-r) \rho' T_2\right]

    Derivation: docs/derivations/attention.md, (A15).

    Parameters
    ----------
    value_gain : g_V = V/q.
    gamma, kappa : second moment and covariance of the output's gradient.
    correlation : r, of the tokens attended to.
    key_row_correlation : rho', of two queries, :func:`key_row_correlation`.
    T, T2 : squared norm of the softmax's Jacobian, and the overlap of those of two rows.
    raw_score_variance : s, of a score.
    queries, keys : L_q and L_k, tokens that ask and tokens attended to.
    dropout : p, of the probabilities.

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
    return value_gain * queries / keys * raw_score_variance * (
        own + (queries - 1) * kappa * apart * key_row_correlation * T2
    )  # fmt: skip


@formula(kind="exact", source="shift invariance of the softmax", status="derived", symbol="kappa_K")
def key_gradient_covariance(
    key_gradient_moment: Annotated[Any, Domain(0, closed_low=True, symbol="gamma_K", unit=_GRADIENT, typical=(0.01, 1.0))],
    keys: TwoKeys,
) -> Any:
    r"""Covariance between two tokens of the input's gradient that comes through the keys.

    .. math:: \kappa_K = -\frac{\gamma_K}{L_k - 1}

    Derivation: docs/derivations/attention.md, (A16).

    Parameters
    ----------
    key_gradient_moment : gamma_K, :func:`key_gradient_second_moment`.
    keys : L_k, tokens attended to. L_k >= 2.

    Returns
    -------
    Per feature. Shifting all scores of a row changes nothing, so that the keys' gradients add up to zero over tokens.

    Examples
    --------
    >>> key_gradient_covariance(0.63, 64)
    -0.01
    """
    return -key_gradient_moment / (keys - 1)


@formula(kind="exact", source=_OURS, status="derived", symbol="G gamma")
def grouped_feature_gradient(
    moment: Annotated[Any, Domain(symbol="m", unit=_GRADIENT, typical=(0.01, 1.0))],
    group: Annotated[Any, Domain(1, closed_low=True, integer=True, symbol="G", unit="query heads per key", typical=(1, 16))],
) -> Any:
    r"""Moment of the gradient at one feature of a key or value that several query heads share.

    .. math:: m_G = G\, m

    Parameters
    ----------
    moment : m, second moment or covariance between tokens at a feature of a key or value of its own head.
    group : G, query heads that share one key and value head.

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


@formula(kind="exact", source=_OURS, status="derived", symbol="r_G", domain="infinite width and head size")
def grouped_head_correlation(correlation: Correlation, P: SumP2, P2: PairP2) -> Any:
    r"""Correlation of one output feature between two heads that share their keys and values.

    .. math:: r_G = \frac{r + (1-r) P_2(\rho = 0)}{r + (1-r) P}

    Parameters
    ----------
    correlation : r, of the tokens. r > 0 or P > 0.
    P : E sum p^2.
    P2 : E sum p_j p'_j at row correlation 0: the heads' queries are independent.

    Returns
    -------
    Dimensionless. It leaves the moments after a random output projection as they are; heads of their own have 0.

    Examples
    --------
    >>> grouped_head_correlation(0.0, 0.04, 0.02)
    0.5
    """
    return (correlation + (1 - correlation) * P2) / (correlation + (1 - correlation) * P)


# ---- the published forms, for comparison ----

_PUBLISHED = "row of 300 and more, score variance well below 1"


@formula(kind="approximation", source=f"{_KEDIA}, softmax", status="primary", symbol="v", domain=_PUBLISHED)
def softmax_variance_published(variance: RowVariance, length: Length) -> Any:
    r"""Variance of one softmax probability, log-normal form.

    .. math:: v = \frac{e^{\sigma^2} - 1}{L^2}

    Parameters
    ----------
    variance : sigma^2 of a logit after its common part is removed, nats^2.
    length : L, entries of the row.

    Returns
    -------
    Variance of p_j. Too high by 16 % at L = 64, sigma^2 = 1, by 54 % at 16, 1, by 477 % at 64, 4.

    Examples
    --------
    >>> round(softmax_variance_published(1.0, 64) * 64**2, 4)
    1.7183
    """
    return (exp(variance) - 1) / length**2


@formula(kind="approximation", source=f"{_KEDIA}, softmax", status="primary", symbol="v", domain=_PUBLISHED)
def softmax_variance_full_published(variance: RowVariance, length: TwoTokens) -> Any:
    r"""Variance of one softmax probability, the longer log-normal form.

    .. math:: v = \frac{(E - 1) E^2}{((L-1) e^{\sigma^2} + 1)^2}, \quad E = e^{\sigma^2 L/(L-1)}

    Parameters
    ----------
    variance : sigma^2 of a logit after its common part is removed, nats^2.
    length : L, entries of the row. L >= 2.

    Returns
    -------
    Variance of p_j. Further off than the short form: 25 % too high at L = 64, sigma^2 = 1.

    Examples
    --------
    >>> round(softmax_variance_full_published(1.0, 64) * 64**2, 2)
    1.86
    """
    e = exp(variance * length / (length - 1))
    return (e - 1) * e**2 / ((length - 1) * exp(variance) + 1) ** 2


@formula(kind="approximation", source=f"{_KEDIA}, softmax", status="primary", symbol="gamma_in", domain=_PUBLISHED)
def softmax_gradient_published(variance: RowVariance, length: Length, gamma: Gamma = 1) -> Any:
    r"""Second moment of a logit's gradient for an uncorrelated gradient of the probabilities, log-normal form.

    .. math:: \gamma_{\text{in}} = \frac{e^{\sigma^2} \gamma}{L^2}

    Parameters
    ----------
    variance : sigma^2 of a logit after its common part is removed, nats^2.
    length : L, entries of the row.
    gamma : second moment of a probability's gradient.

    Returns
    -------
    Units of gamma. The exact value is gamma T/L: this is 25 % too high at L = 64, sigma^2 = 1.

    Examples
    --------
    >>> round(softmax_gradient_published(0.0, 10), 4)
    0.01
    """
    return exp(variance) * gamma / length**2


@formula(kind="approximation", source=f"{_KEDIA}, softmax", status="primary", symbol="gamma_in", domain=_PUBLISHED)
def softmax_gradient_full_published(variance: RowVariance, length: TwoTokens, gamma: Gamma = 1) -> Any:
    r"""Second moment of a logit's gradient, the longer log-normal form.

    .. math:: \gamma_{\text{in}} = \gamma\left(v + \frac{1}{L^2}\right)

    Parameters
    ----------
    variance : sigma^2 of a logit after its common part is removed, nats^2.
    length : L, entries of the row. L >= 2.
    gamma : second moment of a probability's gradient.

    Returns
    -------
    Units of gamma; v is :func:`softmax_variance_full_published`.

    Examples
    --------
    >>> round(softmax_gradient_full_published(0.0, 10), 4)
    0.01
    """
    return gamma * (softmax_variance_full_published.body(variance, length) + 1 / length**2)


@formula(kind="approximation", source=f"{_KEDIA}, single-head attention", status="primary", symbol="q_out", domain=_PUBLISHED)
def output_second_moment_published(
    value_moment: Value, correlation: Correlation, raw_score_variance: Raw, width: Width, length: Length, dropout: Dropout = 0
) -> Any:
    r"""Second moment of the attention output, published form.

    .. math:: V\left[r + \frac{(1-r)^2 (L-1) w + e^{(1-r)s} [4(1-r)^2 w + 1 - r]/(1-p)}{L}\right], \quad w = s/d

    Parameters
    ----------
    value_moment : V, second moment of a value per feature.
    correlation : r, of the tokens.
    raw_score_variance : s, of a score; the code writes it as d^2 times the product of two weight variances.
    width : d, of the tokens.
    length : L, tokens.
    dropout : p, of the probabilities. Its share r p/(1-p) P of the common part is missing.

    Returns
    -------
    Per feature, units of V. Measured error over 32 settings at s = 1: median 1.1 %, largest 15 %; at s = 4: 38 and 447 %.

    Examples
    --------
    >>> round(output_second_moment_published(1.0, 0.0, 1.0, 256, 64), 4)
    0.047
    """
    apart, w = 1 - correlation, raw_score_variance / width
    own = exp(apart * raw_score_variance) / (1 - dropout) * (4 * apart**2 * w + apart)
    return value_moment * (correlation + (apart**2 * (length - 1) * w + own) / length)


@formula(kind="approximation", source=f"{_KEDIA}, single-head attention", status="primary", symbol="c_out", domain=_PUBLISHED)
def output_covariance_published(
    value_moment: Value, correlation: Correlation, raw_score_variance: Raw, width: Width, length: Length
) -> Any:
    r"""Covariance between two tokens of the attention output, published form.

    .. math:: V\left[r + \frac{2(1-r)^2 s/d + 1 - r}{L}\right]

    Parameters
    ----------
    value_moment : V, second moment of a value per feature.
    correlation : r, of the tokens.
    raw_score_variance : s, of a score.
    width : d, of the tokens.
    length : L, tokens.

    Returns
    -------
    Per feature, units of V. P2 is taken as 1/L, its value for uncorrelated queries.

    Examples
    --------
    >>> round(output_covariance_published(1.0, 0.0, 0.0, 256, 64), 4)
    0.0156
    """
    apart = 1 - correlation
    return value_moment * (correlation + (2 * apart**2 * raw_score_variance / width + apart) / length)


@formula(
    kind="approximation", source=f"{_KEDIA}, single-head attention", status="primary", symbol="gamma_in", domain=_PUBLISHED
)
def gradient_second_moment_published(
    value_gain: ValueGain, gamma: Gamma, gradient_correlation: GradientCorrelation, length: Length, dropout: Dropout = 0
) -> Any:
    r"""Second moment of the input's gradient, published form: the value path with uniform attention.

    .. math:: g_V\, \gamma\, \frac{1 + (L-1) r_g (1-p)}{L(1-p)}

    Parameters
    ----------
    value_gain : g_V = V/q.
    gamma : second moment of the output's gradient.
    gradient_correlation : r_g = kappa/gamma.
    length : L, tokens.
    dropout : p, of the probabilities.

    Returns
    -------
    Per feature, units of gamma. It leaves out what comes through queries and keys: too low by up to 86 % at s = 1 and 98 % at
    s = 4 (median over settings 40 and 76 %).

    Examples
    --------
    >>> gradient_second_moment_published(1.0, 1.0, 0.0, 64)
    0.015625
    """
    return value_gain * gamma * (1 + (length - 1) * gradient_correlation * (1 - dropout)) / (length * (1 - dropout))


@formula(
    kind="approximation", source=f"{_KEDIA}, single-head attention", status="primary", symbol="kappa_in", domain=_PUBLISHED
)
def gradient_covariance_published(
    value_gain: ValueGain, gamma: Gamma, gradient_correlation: GradientCorrelation, length: Length
) -> Any:
    r"""Covariance between two tokens of the input's gradient, published form.

    .. math:: g_V\, \gamma\, \frac{1 + (L-1) r_g}{L}

    Parameters
    ----------
    value_gain : g_V = V/q.
    gamma : second moment of the output's gradient.
    gradient_correlation : r_g = kappa/gamma.
    length : L, tokens.

    Returns
    -------
    Per feature, units of gamma.

    Examples
    --------
    >>> gradient_covariance_published(1.0, 1.0, 0.0, 64)
    0.015625
    """
    return value_gain * gamma * (1 + (length - 1) * gradient_correlation) / length


# ---- all of it together ----


class AttentionMoments(NamedTuple):
    """What an attention layer passes on, forward and backward. Numbers, or arrays of one shape."""

    second_moment: Any
    """of the output before its projection, per feature"""
    covariance: Any
    """between two tokens of the output"""
    value_gradient: Any
    """second moment of the input's gradient through the values"""
    query_gradient: Any
    """through the queries"""
    key_gradient: Any
    """through the keys"""
    value_gradient_covariance: Any
    """between two tokens, of the input's gradient through the values"""
    query_gradient_covariance: Any
    """through the queries"""
    key_gradient_covariance: Any
    """through the keys"""
    overlap: AttentionOverlap
    """the averages of the softmax, with its entropy"""

    @property
    def gradient(self) -> Any:
        """Second moment of the input's gradient in self-attention: the three paths are independent."""
        return self.value_gradient + self.query_gradient + self.key_gradient

    @property
    def gradient_covariance(self) -> Any:
        """Covariance between two tokens of the input's gradient in self-attention."""
        return self.value_gradient_covariance + self.query_gradient_covariance + self.key_gradient_covariance


def attention_moments(
    signal: Any,
    correlation: Any,
    *,
    length: Any,
    width: Any,
    head_dim: int | None = None,
    value_gain: Any = 1.0,
    score_gain: Any = 1.0,
    dropout: Any = 0.0,
    gradient: Any = 1.0,
    gradient_correlation: Any = 0.0,
    causal: bool = False,
    queries: Any = None,
    row_correlation: Any = None,
    overlap: AttentionOverlap | None = None,
    equal_norms: bool | None = None,
) -> AttentionMoments:
    """Moments of an attention layer, forward and backward, from those of its input and of its output's gradient.

    Parameters
    ----------
    signal : q, second moment of the input per feature; 1 after a layer norm. A number or an array.
    correlation : r, of two tokens; of two keys' tokens in cross-attention.
    length : L, tokens; keys in cross-attention. 2 or more.
    width : d, of the tokens; ``math.inf`` for the limit of infinite width.
    head_dim : d_h. Given, the norm and product of queries fluctuate as they do in so many dimensions; otherwise they do not.
    value_gain : A_v, width times the variance of a value weight.
    score_gain : A_q A_k, the same for queries and keys, multiplied.
    dropout : p, of the probabilities.
    gradient : gamma, second moment of the output's gradient per feature.
    gradient_correlation : r_g = kappa/gamma, between two tokens. A loss on every token has about 0, which makes the gradient
        small: the result is linear in it.
    causal : a token attends to itself and those before it. The results are then averages over tokens, and over pairs of tokens.
    queries : L_q, where it differs from `length`: cross-attention, not with `causal`.
    row_correlation : rho, of two queries' tokens, where it differs from `correlation`.
    overlap : the averages of the softmax where they are known already, as from
        :class:`depthwidth.numerics.softmax.OverlapTable`.
    equal_norms : whether all tokens have one norm, as behind a layer norm (True), or those of Gaussian vectors (False): the
        output's terms of :func:`equal_norm_shift` or :func:`norm_fluctuation`, of order s/d, and that of
        :func:`short_row_covariance_shift`. Left out by default.

    Returns
    -------
    :class:`AttentionMoments`. In cross-attention the query path belongs to the tokens that ask and the two others to those
    attended to, so that the sums `gradient` and `gradient_covariance` do not apply.

    Raises
    ------
    InputError
        where an argument is outside its range.

    Examples
    --------
    >>> layer = attention_moments(1.0, 0.2, length=64, width=256, head_dim=64, gradient_correlation=0.5)
    >>> print(f"{layer.second_moment:.4f} {layer.covariance:.4f} {layer.gradient:.3f}")
    0.2286 0.2151 0.746
    """
    from ..errors import InputError
    from ..numerics.softmax import attention_overlap

    asking = length if queries is None else queries
    rho = correlation if row_correlation is None else row_correlation
    if causal and (queries is not None or row_correlation is not None):
        raise InputError("attention_moments: under a causal mask queries and keys are the same tokens")
    signal, correlation, rho, length, width, value_gain, score_gain, dropout, gradient, gradient_correlation, asking = (
        _number_or_array(v)
        for v in (
            signal, correlation, rho, length, width, value_gain, score_gain, dropout, gradient, gradient_correlation, asking,
        )
    )  # fmt: skip
    s = raw_score_variance(score_gain, 1.0, signal)
    s2 = score_variance(s, correlation)
    o = attention_overlap(s2, rho, length, causal, head_dim) if overlap is None else overlap
    if equal_norms is not None and head_dim is not None:
        o = _with_token_products(o, s2, rho, width, head_dim, equal_norms)
    kappa = gradient * gradient_correlation
    # The correlation that the key path weighs; any number where the Jacobians do not overlap at all.
    rho_k = o.R2 / (o.T2 + _TINY)
    noise = query_noise(o.P, o.M3, o.A22)
    keys = key_gradient_second_moment(
        value_gain, gradient, kappa, correlation, rho_k, o.R, o.T2, s, asking, length, dropout
    )  # fmt: skip
    value = value_gain * signal
    second_moment = output_second_moment(value, correlation, o.P, o.M3, o.A22, s, width, dropout)
    covariance = output_covariance(value, correlation, o.P2, rho, s, width)
    if equal_norms is not None:
        M4 = o.T - o.P + 2 * o.M3 - o.A22
        norms = equal_norm_shift if equal_norms else norm_fluctuation
        second_moment = second_moment + norms.body(value, correlation, o.P, o.M3, M4, s, width)
        covariance = covariance + short_row_covariance_shift.body(value, correlation, o.P, o.M3, o.P2, rho, s, width)
    if equal_norms:
        covariance = covariance + equal_norm_covariance_shift.body(value, correlation, o.P, o.M3, o.P2, rho, s, width)
    return AttentionMoments(
        second_moment,
        covariance,
        value_gradient_second_moment(value_gain, gradient, kappa, o.P, o.P2, asking, length, dropout),
        query_gradient_second_moment(value_gain, gradient, correlation, o.T, s, width, dropout, noise),
        keys,
        value_gradient_covariance(value_gain, gradient, kappa, o.P, o.P2, asking, length),
        query_gradient_covariance(value_gain, kappa, correlation, o.T2, s, width, (1 - o.P) ** 2 - o.T2),
        key_gradient_covariance(keys, length),
        o,
    )


def position_second_moments(
    signal: Any,
    correlation: Any,
    *,
    length: int,
    width: float,
    head_dim: int | None = None,
    value_gain: Any = 1.0,
    score_gain: Any = 1.0,
    dropout: Any = 0.0,
) -> Any:
    """Second moment of the causal attention output at each of the positions 1 to L.

    Parameters
    ----------
    signal, correlation, width, head_dim, value_gain, score_gain, dropout : numbers, as in :func:`attention_moments`.
    length : L, tokens.

    Returns
    -------
    Array of shape (L,), per feature. The first token attends to itself alone and keeps all of its value.

    Raises
    ------
    InputError
        where an argument is outside its range.

    Examples
    --------
    >>> position_second_moments(1.0, 0.2, length=3, width=256).round(3).tolist()
    [1.0, 0.696, 0.568]
    """
    import numpy

    from ..numerics.softmax import overlap

    s = raw_score_variance(score_gain, 1.0, signal)
    row = overlap(score_variance(s, correlation), numpy.arange(1, length + 1), head_dim)
    return output_second_moment(value_gain * signal, correlation, row.P, row.M3, row.A22, s, width, dropout)


_TINY = 1e-300


def _with_token_products(o: Any, s2: Any, rho: Any, width: Any, head_dim: int, equal_norms: bool) -> Any:
    """P2 and R2 with the spread of the product of the two asking tokens, x.x'/d, beside that of their queries, q.q'/d_h.

    dP2/drho = s2 T2 by Price's theorem, and dT2/drho is what R2 - rho T2 is of the queries' variance, (1 + rho^2)/d_h.
    """
    spread = ((1 - rho**2) ** 2 if equal_norms else 1 + rho**2) / width
    growth = (o.R2 - rho * o.T2) * head_dim / (1 + rho**2) * spread
    return o._replace(P2=o.P2 + s2 / 2 * growth, R2=o.R2 + growth)


def _number_or_array(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        import numpy

        return numpy.asarray(value)
    return value
