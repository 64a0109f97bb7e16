"""The condensation point, and closed forms for the diffuse, the transitional and the condensed band, each with its range."""

from __future__ import annotations

import math
from typing import Annotated, Any

from ...formula import Domain, formula
from ...mathematics import euler_gamma, exp, harmonic, library_of, log, pi, sqrt
from ...numerics.bounds import LARGEST_VARIANCE
from .._quadrature import in_doubles
from .._regime import require
from ._domains import NATS2, Length, RowLength, RowVariance, Variance

Spread = Annotated[Any, Domain(0, LARGEST_VARIANCE, symbol="sigma^2", unit=NATS2, typical=(4.0, 100.0)), "variance of a logit"]
CondensedVariance = Annotated[Spread, "variance of a logit; sigma > 1.4 b_n"]
CondensedLength = Annotated[Length, "entries of the row, at least 16"]


@formula(
    kind="asymptotic",
    source="random-energy model",
    status="derived",
    symbol="H",
    order=1,
    domain="L to infinity; at L = 64, 0.7 % low for sigma^2 = 1, 18 % for 4; refused where negative",
    accuracy=0.008,
    within={"variance": (0, 1), "length": (64, math.inf)},
)
def diffuse_entropy(variance: RowVariance, length: RowLength) -> Any:
    r"""Entropy of a softmax whose weight is spread over many entries.

    .. math:: H \approx \ln L - \sigma^2/2

    Returns
    -------
    nats. It refuses variances beyond 2 ln L, at which it would be negative.

    Examples
    --------
    >>> round(diffuse_entropy(1.0, 64), 4)
    3.6589
    """
    require(
        variance <= 2 * log(length),
        "saturation.diffuse_entropy: negative from a variance of 2 ln L on; saturation's integrals hold everywhere",
    )
    return log(length) - variance / 2


@formula(
    kind="approximation",
    source="ratio of the leading log-normal moments",
    status="derived",
    symbol="P",
    domain="variance P/L - 1/L^2 is 3 % high at L = 64, sigma^2 = 0.5; 30 % at 16, 1",
    accuracy=0.07,
    within={"variance": (0, 1), "length": (64, math.inf)},
)
def overlap_ratio(variance: RowVariance, length: RowLength) -> Any:
    r"""Cheap substitute for P; with rho sigma^2 in place of the variance, for P2.

    .. math:: P \approx \frac{e^{\sigma^2}}{e^{\sigma^2} + L - 1}

    Returns
    -------
    E sum p^2, from 1/L to 1.

    Examples
    --------
    >>> overlap_ratio(0.0, 4)
    0.25
    """
    return exp(variance) / (exp(variance) + length - 1)


@formula(
    kind="asymptotic",
    source="delta method, second order",
    status="derived",
    symbol="v",
    order=2,
    domain="-0.5 % at L = 64, sigma^2 = 0.5; -6 % at 64, 1; useless beyond",
    accuracy=0.065,
    within={"variance": (0, 1), "length": (64, math.inf)},
)
def softmax_variance_series(variance: RowVariance, length: RowLength) -> Any:
    r"""Variance of one softmax probability, to second order in 1/L.

    .. math:: v = \frac{1}{L^2}\left[e - 1 - \frac{2(e^3 - e) - 3e(e - 1)}{L}\right], \quad e = e^{\sigma^2}

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


@formula(
    kind="exact",
    source="sum of 1/n over rows",
    status="derived",
    symbol="P",
    domain="uniform attention, sigma^2 = 0",
)
def causal_uniform_overlap(length: Annotated[RowLength, "tokens"]) -> Any:
    r"""Average of P over the rows of a causal mask, for uniform attention.

    .. math:: \bar P = \frac{1}{L} \sum_{n=1}^L \frac{1}{n} \approx \frac{\ln L + \gamma_E}{L}

    Returns
    -------
    Mean of 1/n over n = 1 to L: several times the 1/L of a full mask.

    Examples
    --------
    >>> round(causal_uniform_overlap(64), 4)
    0.0741
    """
    return harmonic(length) / length


LONG_ENOUGH = 64
"""Entries of a row below which averages of the whole partition function are refused: they are a third off."""
DIFFUSE = 0.3
"""Logit scale over condensation point below which attention is diffuse: the closed forms of that band are within 5 % there."""
_LONGEST_LOGARITHM = 700.0  # nats: exp of more leaves the range of floating-point numbers
_REM = "random-energy model, Derrida 1981; range measured for this package against the integrals"


@formula(
    kind="asymptotic",
    source=_REM,
    status="rederived",
    symbol="sigma_c",
    accuracy=0.21,
    within={"length": (1024, math.inf)},
    given="compared with the size that one of n normals exceeds on average",
)
def condensation_point(length: Length) -> Any:
    r"""Logit scale above which a few tokens hold all the weight: the freezing point of the random-energy model.

    .. math:: \sigma_c = \sqrt{2 \ln n}

    Returns
    -------
    nats.

    Examples
    --------
    >>> round(condensation_point(1024), 4)
    3.7233
    """
    return sqrt(2 * log(length))


@formula(
    kind="asymptotic",
    source=_REM,
    status="rederived",
    symbol="n_c",
    accuracy=16,
    measure="factor",
    within={"variance": (4, 36)},
    given="compared with the length at which one normal exceeds sigma on average",
)
def condensed_length(
    variance: Annotated[
        Any,
        Domain(0, 2 * _LONGEST_LOGARITHM, True, True, symbol="sigma^2", unit=NATS2, typical=(0.5, 16.0)),
        "variance of a logit, the same at every length; up to 1400, so that a float holds its exponential",
    ],
) -> Any:
    r"""Length below which a row of logits of this scale is condensed: the inverse of :func:`condensation_point`.

    .. math:: n_c = e^{\sigma^2 / 2}

    Returns
    -------
    Tokens, from 1; not rounded. Longer rows are transitional or diffuse.

    Examples
    --------
    >>> round(condensed_length(12.0), 1)
    403.4
    """
    return exp(variance / 2)


@formula(
    kind="asymptotic",
    source=_REM,
    status="derived",
    symbol="n_c",
    accuracy=40,
    measure="factor",
    given="results up to e^30, compared with the length, if any, at which one normal exceeds the logit scale on average",
)
def length_scaled_condensed_length(
    variance: Annotated[
        Any,
        Domain(0, LARGEST_VARIANCE, symbol="sigma^2", unit=NATS2, typical=(4.0, 16.0)),
        "variance of a logit at the length n",
    ],
    length: Annotated[Length, "length at which the variance is sigma^2"],
) -> Any:
    r"""Length above which a row is condensed if logits grow with the logarithm of the length, as in scalable softmax.

    .. math:: n_c = e^{2 (\ln n)^2 / \sigma^2}, \qquad \sigma(n') = \sigma \frac{\ln n'}{\ln n}

    Returns
    -------
    Tokens, from 1; not rounded. Shorter rows are transitional or diffuse: the other side than with :func:`condensed_length`.

    Raises
    ------
    InputError
        if it exceeds e^700.

    Examples
    --------
    >>> round(length_scaled_condensed_length(16.0, 1024), 1)
    405.7
    """
    logarithm = 2 * log(length) ** 2 / variance
    require(logarithm <= _LONGEST_LOGARITHM, "saturation.length_scaled_condensed_length: no floating-point number is so large")
    return exp(logarithm)


@formula(
    kind="asymptotic",
    source="extreme-value theory: location of the largest of n normals",
    status="rederived",
    symbol="b_n",
    accuracy=0.05,
    within={"length": (16, math.inf)},
)
def largest_normal(length: Annotated[Length, "number of normal variables"]) -> Any:
    r"""Typical size of the largest of n standard normals, the condensation point at finite n.

    .. math:: b_n = \sqrt{2 \ln n} - \frac{\ln \ln n + \ln 4\pi}{2 \sqrt{2 \ln n}}

    Returns
    -------
    Standard deviations; negative and meaningless below n = 3.

    Examples
    --------
    >>> round(largest_normal(1024), 4)
    3.1234
    """
    root = sqrt(2 * log(length))
    return root - (log(log(length)) + log(4 * pi)) / (2 * root)


def require_ratio(name: str, variance: Any, length: Any, low: float, high: float, words: str) -> None:
    """Refuse with `words` if the logit scale divided by the condensation point is not between `low` and `high`."""
    ratio = sqrt(variance) / condensation_point.body(length)
    require((ratio >= low) & (ratio <= high), f"saturation.{name}: {words}; saturation's integrals hold everywhere")


_DIFFUSE = f"sigma < {DIFFUSE} sqrt(2 ln n); within 1.4 % there for n from 1024, 5 % from 64"
DIFFUSE_ERROR = f"holds for a logit scale up to {DIFFUSE} sqrt(2 ln n) only"


@formula(kind="approximation", source=_REM, status="rederived", symbol="ln Z", domain=_DIFFUSE, accuracy=0.002)
def diffuse_log_partition(variance: Variance, length: Length) -> Any:
    r"""Average log partition function of diffuse attention.

    .. math:: E \ln Z \approx \ln n + \frac{\sigma^2}{2} - \frac{e^{\sigma^2} - 1}{2n}

    Returns
    -------
    nats. Outside sigma <= 0.3 sqrt(2 ln n) it refuses.

    Examples
    --------
    >>> round(diffuse_log_partition(1.0, 1024), 5)
    7.43063
    """
    require_ratio("diffuse_log_partition", variance, length, 0, DIFFUSE, DIFFUSE_ERROR)
    return log(length) + variance / 2 - (exp(variance) - 1) / (2 * length)


@formula(kind="approximation", source=_REM, status="derived", symbol="H", domain=_DIFFUSE, accuracy=0.006)
def diffuse_entropy_next(variance: Variance, length: Length) -> Any:
    r"""Average entropy of diffuse attention, with its 1/n correction.

    .. math:: E H \approx \ln n - \frac{\sigma^2}{2} - \frac{e^{\sigma^2} - 1}{2n} + \frac{\sigma^2 e^{\sigma^2}}{n}

    Returns
    -------
    nats. Outside sigma <= 0.3 sqrt(2 ln n) it refuses; the leading term alone is
    :func:`~depthwidth.formulas.saturation.diffuse_entropy`.

    Examples
    --------
    >>> round(diffuse_entropy_next(1.0, 1024), 4)
    6.4333
    """
    require_ratio("diffuse_entropy_next", variance, length, 0, DIFFUSE, DIFFUSE_ERROR)
    grown = exp(variance)
    return log(length) - variance / 2 - (grown - 1) / (2 * length) + variance * grown / length


@formula(kind="approximation", source=_REM, status="rederived", symbol="S_2", domain=_DIFFUSE, accuracy=0.095)
def diffuse_squared_sum(variance: Variance, length: Length) -> Any:
    r"""Sum of squared weights of diffuse attention: n exp(-sigma^2) tokens are attended to.

    .. math:: E \sum_j p_j^2 \approx e^{\sigma^2} / n

    Returns
    -------
    1/n to 1. Outside sigma <= 0.3 sqrt(2 ln n) it refuses: at n = 1024, sigma = 2 it would be 1.9 times too large.

    Examples
    --------
    >>> round(diffuse_squared_sum(1.0, 1024), 6)
    0.002655
    """
    require_ratio("diffuse_squared_sum", variance, length, 0, DIFFUSE, DIFFUSE_ERROR)
    return exp(variance) / length


@formula(
    kind="approximation",
    source="derived for this package: one logit against the annealed rest",
    status="derived",
    symbol="S_2",
    domain="sigma < 0.6 sqrt(2 ln n); within 12 % there for n from 1024, 24 % from 64",
    accuracy=0.24,
)
def one_body_squared_sum(variance: Variance, length: Length) -> Any:
    r"""Sum of squared weights in the approximation of one logit against the average of all others.

    .. math:: E \sum_j p_j^2 \approx n\, E_g\!\left[\left(\frac{a}{1 + a}\right)^2\right],
        \qquad a = \exp\!\left(\sigma g - \ln(n - 1) - \tfrac{\sigma^2}{2}\right)

    Returns
    -------
    1/n to 1. Outside sigma <= 0.6 sqrt(2 ln n) it refuses.

    Examples
    --------
    >>> round(one_body_squared_sum(4.0, 1024), 5)
    0.0265
    """
    require(
        length >= LONG_ENOUGH,
        "saturation.one_body_squared_sum: holds for rows of 64 and more; saturation's integrals everywhere",
    )
    require_ratio("one_body_squared_sum", variance, length, 0, 0.6, "holds for a logit scale up to 0.6 sqrt(2 ln n) only")

    def average(s2: Any, n: Any) -> Any:
        import numpy as np

        s2, n = (np.asarray(v, dtype=float)[..., None] for v in (s2, n))
        # Where (a/(1+a))^2 weighs, the density is shifted by up to 2 sigma.
        g = np.linspace(-9.0, 9.0 + 2 * math.sqrt(float(s2.max())), 401)
        logit = np.sqrt(s2) * g - np.log(n - 1) - s2 / 2
        with np.errstate(under="ignore"):
            weight = 1 / (1 + np.exp(-np.clip(logit, -300, 300)))
            values = (weight**2 * np.exp(-g * g / 2)).sum(-1)
        result = n[..., 0] * values * (g[1] - g[0]) / math.sqrt(2 * math.pi)
        return result if result.ndim else float(result)

    return in_doubles("one_body_squared_sum", average, variance, length)


_LEADING = "leading order in n: off by a factor of 2 to 15 at any realistic n"


@formula(
    kind="asymptotic",
    source=_REM,
    status="rederived",
    symbol="S_2",
    domain=_LEADING,
    accuracy=15,
    measure="factor",
    within={"length": (64, 131072)},
)
def typical_squared_sum(
    variance: Annotated[Spread, "variance of a logit; sigma_c/2 <= sigma <= sigma_c"], length: Length
) -> Any:
    r"""Typical sum of squared weights between half the condensation point and the point itself, to leading order.

    .. math:: \textstyle\sum_j p_j^2 \sim \exp\!\left(-(\sigma_c - \sigma)^2\right)

    Returns
    -------
    1/n to 1, in a typical row rather than on average.

    Examples
    --------
    >>> round(typical_squared_sum(9.0, 1024), 3)
    0.593
    """
    require_ratio("typical_squared_sum", variance, length, 0.5, 1, "holds from 0.5 to 1 times sqrt(2 ln n) only")
    return exp(-((condensation_point.body(length) - sqrt(variance)) ** 2))


@formula(
    kind="asymptotic",
    source=_REM,
    status="rederived",
    symbol="S_2",
    domain=_LEADING,
    accuracy=8,
    measure="factor",
    within={"length": (64, 131072)},
)
def rare_squared_sum(
    variance: Annotated[Spread, "variance of a logit; sigma_c/sqrt(3) <= sigma <= sigma_c"], length: Length
) -> Any:
    r"""Average sum of squared weights below the condensation point, carried by rare rows, to leading order.

    .. math:: E \sum_j p_j^2 \sim n \exp\!\left(-\frac{(\ln n + \sigma^2/2)^2}{2 \sigma^2}\right)

    Returns
    -------
    1/n to 1.

    Examples
    --------
    >>> round(rare_squared_sum(9.0, 1024), 3)
    0.72
    """
    require_ratio("rare_squared_sum", variance, length, 1 / math.sqrt(3), 1, "holds from 0.577 to 1 times sqrt(2 ln n) only")
    return length * exp(-((log(length) + variance / 2) ** 2) / (2 * variance))


_CONDENSED = "sigma > 1.4 b_n"


def _condensed(name: str, variance: Any, length: Any) -> Any:
    share = largest_normal.body(length) / sqrt(variance)
    require(
        (share <= 1 / 1.4) & (length >= 16),
        f"saturation.{name}: holds for n from 16 and a logit scale above 1.4 b_n only; saturation's integrals hold everywhere",
    )
    return share


@formula(
    kind="approximation",
    source=_REM,
    status="rederived",
    symbol="S_2",
    domain=f"{_CONDENSED}: within 4 % above 1.6 b_n, 11 % low at 1.4 b_n, for n from 1024",
    accuracy=0.21,
)
def condensed_squared_sum(variance: CondensedVariance, length: CondensedLength) -> Any:
    r"""Sum of squared weights of condensed attention.

    .. math:: E \sum_j p_j^2 \approx 1 - b_n/\sigma

    Returns
    -------
    0 to 1.

    Examples
    --------
    >>> round(condensed_squared_sum(36.0, 1024), 4)
    0.4794
    """
    return 1 - _condensed("condensed_squared_sum", variance, length)


@formula(
    kind="approximation",
    source=f"{_REM}; Poisson-Dirichlet weights",
    status="rederived",
    symbol="H",
    domain=f"{_CONDENSED}: within 4 % above 2.5 b_n, 13 % high at 1.9 b_n, 50 % at 1.4 b_n, for n from 1024",
    accuracy=0.51,
)
def condensed_entropy(variance: CondensedVariance, length: CondensedLength) -> Any:
    r"""Entropy of condensed attention, which depends on the length only through b_n.

    .. math:: E H \approx \psi(1) - \psi(1 - b_n/\sigma)

    Returns
    -------
    nats.

    Examples
    --------
    >>> round(condensed_entropy(100.0, 1024), 4)
    0.6783
    """
    share = _condensed("condensed_entropy", variance, length)
    require(length >= 1024, "saturation.condensed_entropy: holds for rows of 1024 and more; saturation's integrals everywhere")
    return -euler_gamma - _digamma(1 - share)


def _digamma(x: Any) -> Any:
    import sys

    library = library_of(x)
    if library in ("sympy", "torch", "mpmath"):
        return sys.modules[library].digamma(x)
    from scipy.special import digamma

    return digamma(x) if library == "numpy" else float(digamma(float(x)))
