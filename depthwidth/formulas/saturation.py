r"""How concentrated softmax attention is: exact averages over Gaussian logits, closed forms with their ranges, lengths.

Logits l_j are independent, N(0, sigma^2), over the n entries a query attends to; weights are p_j = exp(l_j)/Z. A calculator
should use the integrals, whose names are plain (:func:`entropy`, :func:`squared_sum`, ...): each costs a fraction of a
millisecond and holds at every n and sigma. The closed forms say why, and refuse arguments outside the range in which they were
checked.

==========================  ==================================================================================
band                        where, with the condensation point sigma_c = sqrt(2 ln n)
==========================  ==================================================================================
diffuse                     sigma < 0.3 sigma_c: the weights are spread, n_eff = n exp(-sigma^2)
transitional                0.3 to 1 sigma_c: no closed form is better than a factor of two
condensed                   sigma > sigma_c: a few entries hold all the weight, however long the row
==========================  ==================================================================================

The saturation theorem of Yu et al. 2025 (arXiv 2510.03784) could not be read; that bounded logits make every weight of order
1/n is confirmed to be its content, and :func:`~depthwidth.formulas.heads.bounded_logit_error` is our statement of it.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from ..formula import Domain, formula
from ..mathematics import Constant, exp, library_of, log, maximum, pi, sqrt
from ..numerics.bounds import LARGEST_VARIANCE, LONGEST
from ._quadrature import in_doubles
from ._regime import require

DIFFUSE = 0.3
"""Logit scale over condensation point below which attention is diffuse: the closed forms of that band are within 5 % there."""
_LONGEST_LOGARITHM = 700.0  # nats: exp of more leaves the range of floating-point numbers
_NATS, _NATS2 = "nats", "nats^2"

Length = Annotated[Any, Domain(2, LONGEST, True, True, integer=True, symbol="n", unit="tokens", typical=(1024, 65536))]
Variance = Annotated[Any, Domain(0, LARGEST_VARIANCE, True, True, symbol="sigma^2", unit=_NATS2, typical=(0.1, 1.0))]
Spread = Annotated[Any, Domain(0, LARGEST_VARIANCE, symbol="sigma^2", unit=_NATS2, typical=(4.0, 100.0))]
HeadDim = Annotated[Any, Domain(1, 1e6, True, True, integer=True, symbol="d_h", unit="dimensions", typical=(16, 256))]
Gap = Annotated[Any, Domain(-1e4, 1e4, True, True, symbol="Delta", unit=_NATS, typical=(2.0, 12.0))]
Range = Annotated[Any, Domain(0, 700, True, True, symbol="Delta", unit=_NATS, typical=(0.5, 6.0))]
Miss = Annotated[Any, Domain(0, 1, symbol="epsilon", typical=(0.01, 0.5))]
Cosine = Annotated[Any, Domain(-1, 1, True, False, symbol="rho", typical=(0.0, 0.9))]
Tokens = Annotated[Any, Domain(1, LONGEST, False, True, symbol="k", unit="tokens", typical=(2.0, 512.0))]

_EXACT = "derived for this package: Laplace transform of Z, random-energy model at finite n"
_REM = "random-energy model, Derrida 1981; range measured for this package against the integrals"
_GIORLANDINO = "Giorlandino and Goldt 2025, arXiv 2505.24333"
_THOUSAND = "checked for n from 64 to 131072"


# ---- exact, at every n and variance ----


def _overlap(field: str, *values: Any) -> Any:
    def average(variance: Any, length: Any, head_dim: Any = None) -> Any:
        from ..numerics.softmax import overlap

        return getattr(overlap(variance, length, None if head_dim is None else int(head_dim)), field)

    return in_doubles(field, average, *values, one_by_one=len(values) == 3)


@formula(kind="exact", source=_EXACT, status="derived", symbol="ln Z")
def log_partition(variance: Variance, length: Length) -> Any:
    r"""Average log partition function of n Gaussian logits.

    .. math:: E \ln Z = \int \left[\exp(-e^u) - \psi_0(u)^n\right] du, \qquad \psi_0(u) = E \exp(-e^{u + \sigma g})

    Parameters
    ----------
    variance : sigma^2 of a logit, nats^2. 0 to 1e4.
    length : n, entries of the row. A whole number from 2.

    Returns
    -------
    nats.

    Examples
    --------
    >>> round(log_partition(1.0, 1024), 5)
    7.43064
    """
    return _overlap("log_partition", variance, length)


@formula(kind="exact", source=_EXACT, status="derived", symbol="H")
def entropy(variance: Variance, length: Length) -> Any:
    r"""Average entropy of softmax attention over n Gaussian logits.

    .. math:: E H = E \ln Z - \sigma^2 \left(1 - E \textstyle\sum_j p_j^2\right)

    Parameters
    ----------
    variance : sigma^2 of a logit, nats^2. 0 to 1e4.
    length : n, entries of the row. A whole number from 2.

    Returns
    -------
    nats, 0 to ln n.

    Examples
    --------
    >>> round(entropy(4.0, 1024), 5)
    5.02658
    """
    return _overlap("entropy", variance, length)


@formula(kind="exact", source=_EXACT, status="derived", symbol="S_2")
def squared_sum(variance: Variance, length: Length) -> Any:
    r"""Average of the sum of squared attention weights, the inverse participation ratio.

    .. math:: E \sum_j p_j^2 = n \int \psi_2(u)\, \psi_0(u)^{n-1}\, du

    Parameters
    ----------
    variance : sigma^2 of a logit, nats^2. 0 to 1e4.
    length : n, entries of the row. A whole number from 2.

    Returns
    -------
    1/n (uniform) to 1 (one-hot).

    Examples
    --------
    >>> round(squared_sum(4.0, 1024), 7)
    0.0285382
    """
    return _overlap("P", variance, length)


@formula(kind="exact", source=_EXACT, status="derived", symbol="n_eff")
def effective_tokens(variance: Variance, length: Length) -> Any:
    r"""Effective number of attended tokens: the inverse of the average squared sum.

    .. math:: n_{eff} = 1 / E \textstyle\sum_j p_j^2

    Parameters
    ----------
    variance : sigma^2 of a logit, nats^2. 0 to 1e4.
    length : n, entries of the row. A whole number from 2.

    Returns
    -------
    Tokens, 1 to n.

    Notes
    -----
    Not the average of 1/S_2, which is larger: at n = 1024, sigma = 2 its mean is 54.5, its median 53.1, and this is 35.0.

    Examples
    --------
    >>> round(effective_tokens(4.0, 1024), 1)
    35.0
    """
    return 1 / _overlap("P", variance, length)


@formula(kind="exact", source=_EXACT, status="derived", symbol="p_max")
def largest_weight(variance: Variance, length: Length) -> Any:
    r"""Average of the largest attention weight.

    .. math:: E\, p_{max} = n \int du\; E_g\!\left[e^{u+\sigma g} e^{-e^{u+\sigma g}} \Phi(u, g)^{n-1}\right],
        \qquad \Phi(u, g) = E_{g'}\!\left[1_{g' < g} \exp(-e^{u+\sigma g'})\right]

    Parameters
    ----------
    variance : sigma^2 of a logit, nats^2. 0 to 1e4.
    length : n, entries of the row. A whole number from 2.

    Returns
    -------
    1/n to 1.

    Examples
    --------
    >>> round(largest_weight(1.0, 1024), 5)
    0.01624
    """
    from ..numerics.softmax import max_probability

    return in_doubles("largest_weight", max_probability, variance, length)


@formula(kind="exact", source=_EXACT, status="derived", symbol="tr J")
def jacobian_trace(variance: Variance, length: Length) -> Any:
    r"""Average trace of the softmax's Jacobian: how much gradient still reaches the logits.

    .. math:: E\, \mathrm{tr}(\mathrm{diag}\,p - p p^\top) = 1 - E \textstyle\sum_j p_j^2

    Parameters
    ----------
    variance : sigma^2 of a logit, nats^2. 0 to 1e4.
    length : n, entries of the row. A whole number from 2.

    Returns
    -------
    0 (saturated: one-hot) to 1 - 1/n (uniform).

    Examples
    --------
    >>> round(jacobian_trace(16.0, 1024), 3)
    0.727
    """
    return 1 - _overlap("P", variance, length)


@formula(kind="exact", source=_EXACT, status="derived", symbol="V_out")
def output_variance(
    variance: Variance, length: Length, value_variance: Annotated[Any, Domain(0, closed_low=True, symbol="v^2")] = 1
) -> Any:
    r"""Variance per channel of the attention output, for values independent of the logits and of each other.

    .. math:: \mathrm{Var}\, o = v^2\, E \textstyle\sum_j p_j^2

    Parameters
    ----------
    variance : sigma^2 of a logit, nats^2. 0 to 1e4.
    length : n, entries of the row. A whole number from 2.
    value_variance : v^2 of a value's channel, mean 0.

    Returns
    -------
    Units of value_variance.

    Examples
    --------
    >>> round(output_variance(1.0, 256, 2.0), 6)
    0.020669
    """
    return value_variance * _overlap("P", variance, length)


# ---- the inverse ----


def _variance_at(reached: Any, wanted: float, length: float) -> float:
    """The variance at which a falling function of (variance, length) passes `wanted`."""
    from scipy.optimize import brentq

    high = 1.0
    while reached(high, length) > wanted:
        high *= 4
        if high > LARGEST_VARIANCE:
            return math.nan
    return float(brentq(lambda s2: reached(s2, length) - wanted, 0.0, high, xtol=1e-12, rtol=1e-12))


@formula(kind="exact", source=_EXACT, status="derived", symbol="sigma")
def logit_std_for_tokens(tokens: Tokens, length: Length) -> Any:
    r"""Logit scale at which attention covers a wanted number of tokens.

    .. math:: \sigma:\quad 1 / E \textstyle\sum_j p_j^2(\sigma, n) = k

    Parameters
    ----------
    tokens : k, effective tokens, 1 < k <= n.
    length : n, entries of the row. A whole number from 2.

    Returns
    -------
    Standard deviation of a logit over the row, nats; 0 for k = n.

    Raises
    ------
    InputError
        where k exceeds n, or would take a variance above 1e4.

    Examples
    --------
    >>> round(logit_std_for_tokens(16, 1024), 4)
    2.408
    """
    require(tokens <= length, "saturation.logit_std_for_tokens: there are fewer tokens in the row than it should attend to")

    def root(k: float, n: float) -> float:
        from ..numerics.softmax import overlap

        return 0.0 if k == n else math.sqrt(_variance_at(lambda s2, row: 1 / float(overlap(s2, row).P), k, n))

    found = in_doubles("logit_std_for_tokens", root, tokens, length, one_by_one=True)
    require(found == found, f"saturation.logit_std_for_tokens: so few tokens take a variance above {LARGEST_VARIANCE:g}")
    return found


# ---- closed forms, each with its range ----


@formula(kind="asymptotic", source=_REM, status="rederived", symbol="sigma_c")
def condensation_point(length: Length) -> Any:
    r"""Logit scale above which a few tokens hold all the weight: the freezing point of the random-energy model.

    .. math:: \sigma_c = \sqrt{2 \ln n}

    Parameters
    ----------
    length : n, entries of the row. A whole number from 2.

    Returns
    -------
    nats.

    Examples
    --------
    >>> round(condensation_point(1024), 4)
    3.7233
    """
    return sqrt(2 * log(length))


@formula(kind="asymptotic", source=_REM, status="rederived", symbol="n_c")
def condensed_length(
    variance: Annotated[Any, Domain(0, 2 * _LONGEST_LOGARITHM, True, True, symbol="sigma^2", unit=_NATS2, typical=(0.5, 16.0))],
) -> Any:
    r"""Length below which a row of logits of this scale is condensed: :func:`condensation_point` the other way round.

    .. math:: n_c = e^{\sigma^2 / 2}

    Parameters
    ----------
    variance : sigma^2 of a logit, nats^2, at every length the same. 0 to 1400, whose exponential a float still holds.

    Returns
    -------
    Tokens, from 1; not rounded. Longer rows are transitional or diffuse.

    Examples
    --------
    >>> round(condensed_length(12.0), 1)
    403.4
    """
    return exp(variance / 2)


@formula(kind="asymptotic", source=_REM, status="derived", symbol="n_c")
def length_scaled_condensed_length(
    variance: Annotated[Any, Domain(0, LARGEST_VARIANCE, symbol="sigma^2", unit=_NATS2, typical=(4.0, 16.0))], length: Length
) -> Any:
    r"""Length above which a row is condensed where logits grow with the logarithm of the length, as in scalable softmax.

    .. math:: n_c = e^{2 (\ln n)^2 / \sigma^2}, \qquad \sigma(n') = \sigma \frac{\ln n'}{\ln n}

    Parameters
    ----------
    variance : sigma^2 of a logit at the length n, nats^2.
    length : n, the length at which it is sigma^2.

    Returns
    -------
    Tokens, from 1; not rounded. Shorter rows are transitional or diffuse: the other side than with :func:`condensed_length`.

    Raises
    ------
    InputError
        where it exceeds e^700.

    Examples
    --------
    >>> round(length_scaled_condensed_length(16.0, 1024), 1)
    405.7
    """
    logarithm = 2 * log(length) ** 2 / variance
    require(logarithm <= _LONGEST_LOGARITHM, "saturation.length_scaled_condensed_length: no floating-point number is so large")
    return exp(logarithm)


@formula(
    kind="asymptotic", source="extreme-value theory: location of the largest of n normals", status="rederived", symbol="b_n"
)
def largest_normal(length: Length) -> Any:
    r"""Typical size of the largest of n standard normals, the condensation point at finite n.

    .. math:: b_n = \sqrt{2 \ln n} - \frac{\ln \ln n + \ln 4\pi}{2 \sqrt{2 \ln n}}

    Parameters
    ----------
    length : n. A whole number from 2.

    Returns
    -------
    Standard deviations; negative below n = 3, where it means nothing.

    Examples
    --------
    >>> round(largest_normal(1024), 4)
    3.1234
    """
    root = sqrt(2 * log(length))
    return root - (log(log(length)) + log(4 * pi)) / (2 * root)


def _ratio_between(name: str, variance: Any, length: Any, low: float, high: float, words: str) -> None:
    ratio = sqrt(variance) / condensation_point.body(length)
    require((ratio >= low) & (ratio <= high), f"saturation.{name}: {words}; saturation's integrals hold everywhere")


_DIFFUSE = f"sigma < {DIFFUSE} sqrt(2 ln n); within 1.4 % there for n from 1024, 5 % from 64"
_DIFFUSE_ERROR = f"holds for a logit scale up to {DIFFUSE} sqrt(2 ln n) only"


@formula(kind="approximation", source=_REM, status="rederived", symbol="ln Z", domain=_DIFFUSE)
def diffuse_log_partition(variance: Variance, length: Length) -> Any:
    r"""Average log partition function of diffuse attention.

    .. math:: E \ln Z \approx \ln n + \frac{\sigma^2}{2} - \frac{e^{\sigma^2} - 1}{2n}

    Parameters
    ----------
    variance : sigma^2 of a logit, nats^2.
    length : n, entries of the row.

    Returns
    -------
    nats. Outside sigma <= 0.3 sqrt(2 ln n) it refuses.

    Examples
    --------
    >>> round(diffuse_log_partition(1.0, 1024), 5)
    7.43063
    """
    _ratio_between("diffuse_log_partition", variance, length, 0, DIFFUSE, _DIFFUSE_ERROR)
    return log(length) + variance / 2 - (exp(variance) - 1) / (2 * length)


@formula(kind="approximation", source=_REM, status="derived", symbol="H", domain=_DIFFUSE)
def diffuse_entropy_next(variance: Variance, length: Length) -> Any:
    r"""Average entropy of diffuse attention, with its 1/n correction.

    .. math:: E H \approx \ln n - \frac{\sigma^2}{2} - \frac{e^{\sigma^2} - 1}{2n} + \frac{\sigma^2 e^{\sigma^2}}{n}

    Parameters
    ----------
    variance : sigma^2 of a logit, nats^2.
    length : n, entries of the row.

    Returns
    -------
    nats. Outside sigma <= 0.3 sqrt(2 ln n) it refuses; the leading term alone is
    :func:`~depthwidth.formulas.attention.diffuse_entropy`.

    Examples
    --------
    >>> round(diffuse_entropy_next(1.0, 1024), 4)
    6.4333
    """
    _ratio_between("diffuse_entropy_next", variance, length, 0, DIFFUSE, _DIFFUSE_ERROR)
    grown = exp(variance)
    return log(length) - variance / 2 - (grown - 1) / (2 * length) + variance * grown / length


@formula(kind="approximation", source=_REM, status="rederived", symbol="S_2", domain=_DIFFUSE)
def diffuse_squared_sum(variance: Variance, length: Length) -> Any:
    r"""Sum of squared weights of diffuse attention: n exp(-sigma^2) tokens are attended to.

    .. math:: E \sum_j p_j^2 \approx e^{\sigma^2} / n

    Parameters
    ----------
    variance : sigma^2 of a logit, nats^2.
    length : n, entries of the row.

    Returns
    -------
    1/n to 1. Outside sigma <= 0.3 sqrt(2 ln n) it refuses: at n = 1024, sigma = 2 it would be 1.9 times too large.

    Examples
    --------
    >>> round(diffuse_squared_sum(1.0, 1024), 6)
    0.002655
    """
    _ratio_between("diffuse_squared_sum", variance, length, 0, DIFFUSE, _DIFFUSE_ERROR)
    return exp(variance) / length


@formula(kind="approximation", source="derived for this package: one logit against the annealed rest", status="derived",
         symbol="S_2", domain="sigma < 0.6 sqrt(2 ln n); within 12 % there for n from 1024, 24 % from 64")  # fmt: skip
def one_body_squared_sum(variance: Variance, length: Length) -> Any:
    r"""Sum of squared weights where one logit competes with the average of all others.

    .. math:: E \sum_j p_j^2 \approx n\, E_g\!\left[\left(\frac{a}{1 + a}\right)^2\right],
        \qquad a = \exp\!\left(\sigma g - \ln(n - 1) - \tfrac{\sigma^2}{2}\right)

    Parameters
    ----------
    variance : sigma^2 of a logit, nats^2.
    length : n, entries of the row.

    Returns
    -------
    1/n to 1. Outside sigma <= 0.6 sqrt(2 ln n) it refuses.

    Examples
    --------
    >>> round(one_body_squared_sum(4.0, 1024), 5)
    0.0265
    """
    _ratio_between("one_body_squared_sum", variance, length, 0, 0.6, "holds for a logit scale up to 0.6 sqrt(2 ln n) only")

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


_LEADING = "leading order in n: off by a factor of 2 to 8 at any realistic n"


@formula(kind="asymptotic", source=_REM, status="rederived", symbol="S_2", domain=_LEADING)
def typical_squared_sum(variance: Spread, length: Length) -> Any:
    r"""Typical sum of squared weights between half the condensation point and the point itself, to leading order.

    .. math:: \textstyle\sum_j p_j^2 \sim \exp\!\left(-(\sigma_c - \sigma)^2\right)

    Parameters
    ----------
    variance : sigma^2 of a logit, nats^2; sigma_c/2 <= sigma <= sigma_c.
    length : n, entries of the row.

    Returns
    -------
    1/n to 1, in a typical row rather than on average.

    Examples
    --------
    >>> round(typical_squared_sum(9.0, 1024), 3)
    0.593
    """
    _ratio_between("typical_squared_sum", variance, length, 0.5, 1, "holds from 0.5 to 1 times sqrt(2 ln n) only")
    return exp(-((condensation_point.body(length) - sqrt(variance)) ** 2))


@formula(kind="asymptotic", source=_REM, status="rederived", symbol="S_2", domain=_LEADING)
def rare_squared_sum(variance: Spread, length: Length) -> Any:
    r"""Average sum of squared weights below the condensation point, carried by rare rows, to leading order.

    .. math:: E \sum_j p_j^2 \sim n \exp\!\left(-\frac{(\ln n + \sigma^2/2)^2}{2 \sigma^2}\right)

    Parameters
    ----------
    variance : sigma^2 of a logit, nats^2; sigma_c/sqrt(3) <= sigma <= sigma_c.
    length : n, entries of the row.

    Returns
    -------
    1/n to 1.

    Examples
    --------
    >>> round(rare_squared_sum(9.0, 1024), 3)
    0.72
    """
    _ratio_between("rare_squared_sum", variance, length, 1 / math.sqrt(3), 1, "holds from 0.577 to 1 times sqrt(2 ln n) only")
    return length * exp(-((log(length) + variance / 2) ** 2) / (2 * variance))


_CONDENSED = "sigma > 1.4 b_n"


def _condensed(name: str, variance: Any, length: Any) -> Any:
    share = largest_normal.body(length) / sqrt(variance)
    require(
        (share <= 1 / 1.4) & (length >= 16),
        f"saturation.{name}: holds for n from 16 and a logit scale above 1.4 b_n only; saturation's integrals hold everywhere",
    )
    return share


@formula(kind="approximation", source=_REM, status="rederived", symbol="S_2",
         domain=f"{_CONDENSED}: within 4 % above 1.6 b_n, 11 % low at 1.4 b_n, for n from 1024")  # fmt: skip
def condensed_squared_sum(variance: Spread, length: Length) -> Any:
    r"""Sum of squared weights of condensed attention.

    .. math:: E \sum_j p_j^2 \approx 1 - b_n/\sigma

    Parameters
    ----------
    variance : sigma^2 of a logit, nats^2; sigma > 1.4 b_n.
    length : n, entries of the row, from 16.

    Returns
    -------
    0 to 1.

    Examples
    --------
    >>> round(condensed_squared_sum(36.0, 1024), 4)
    0.4794
    """
    return 1 - _condensed("condensed_squared_sum", variance, length)


@formula(kind="approximation", source=f"{_REM}; Poisson-Dirichlet weights", status="rederived", symbol="H",
         domain=f"{_CONDENSED}: within 4 % above 2.5 b_n, 13 % high at 1.9 b_n, 50 % at 1.4 b_n, for n from 1024")  # fmt: skip
def condensed_entropy(variance: Spread, length: Length) -> Any:
    r"""Entropy of condensed attention, which no longer depends on the length but through b_n.

    .. math:: E H \approx \psi(1) - \psi(1 - b_n/\sigma)

    Parameters
    ----------
    variance : sigma^2 of a logit, nats^2; sigma > 1.4 b_n.
    length : n, entries of the row, from 16.

    Returns
    -------
    nats.

    Examples
    --------
    >>> round(condensed_entropy(100.0, 1024), 4)
    0.6783
    """
    share = _condensed("condensed_entropy", variance, length)
    return _digamma(Constant.of(1)) - _digamma(1 - share)


def _digamma(x: Any) -> Any:
    import sys

    library = library_of(x)
    if library in ("sympy", "torch", "mpmath"):
        return sys.modules[library].digamma(x)
    from scipy.special import digamma

    return digamma(x) if library == "numpy" else float(digamma(float(x)))


# ---- finite head dimension, at a fixed logit scale ----


@formula(kind="exact", source="derived for this package: logits are Gaussian given the query's norm", status="derived",
         symbol="S_2")  # fmt: skip
def finite_head_squared_sum(variance: Variance, length: Length, head_dim: HeadDim) -> Any:
    r"""Sum of squared weights when logits are products of Gaussian queries and keys in few dimensions.

    .. math:: X(n, s; d_h) = E_u\, X\!\left(n, s\sqrt{u}\right), \qquad u \sim \chi^2_{d_h} / d_h

    Parameters
    ----------
    variance : s^2 of the logits over queries and keys, nats^2.
    length : n, entries of the row.
    head_dim : d_h, dimensions of a query and a key.

    Returns
    -------
    1/n to 1.

    Examples
    --------
    >>> round(finite_head_squared_sum(1.0, 1024, 8), 7)
    0.0029797
    """
    return _overlap("P", variance, length, head_dim)


@formula(kind="exact", source="derived for this package: logits are Gaussian given the query's norm", status="derived",
         symbol="H")  # fmt: skip
def finite_head_entropy(variance: Variance, length: Length, head_dim: HeadDim) -> Any:
    r"""Entropy when logits are products of Gaussian queries and keys in few dimensions.

    .. math:: H(n, s; d_h) = E_u\, H\!\left(n, s\sqrt{u}\right), \qquad u \sim \chi^2_{d_h} / d_h

    Parameters
    ----------
    variance : s^2 of the logits over queries and keys, nats^2.
    length : n, entries of the row.
    head_dim : d_h, dimensions of a query and a key.

    Returns
    -------
    nats.

    Examples
    --------
    >>> round(finite_head_entropy(4.0, 1024, 8), 5)
    5.10365
    """
    return _overlap("entropy", variance, length, head_dim)


def _curvature(field: str, *values: Any) -> Any:
    """s^4 times the second derivative by the variance, of a Chebyshev fit around it."""

    def coefficient(variance: Any, length: Any) -> float:
        import numpy as np

        from ..numerics.softmax import overlap

        if not variance:
            return 0.0
        nodes = np.cos(np.pi * (np.arange(13) + 0.5) / 13)
        sampled = getattr(overlap(variance * (1 + 0.3 * nodes), length), field)
        fit = np.polynomial.chebyshev.Chebyshev(np.linalg.solve(np.polynomial.chebyshev.chebvander(nodes, 12), sampled))
        return float(fit.deriv(2)(0.0)) / 0.09

    return in_doubles(field, coefficient, *values, one_by_one=True)


@formula(kind="exact", source="derived for this package: second moment of chi^2/d_h", status="derived", symbol="c")
def head_dim_correction(variance: Variance, length: Length) -> Any:
    r"""Coefficient c of the first correction c/d_h to the sum of squared weights, at a fixed logit scale.

    .. math:: c = s^4 \frac{\partial^2}{\partial (\sigma^2)^2} E \textstyle\sum_j p_j^2

    Parameters
    ----------
    variance : s^2 of the logits, nats^2.
    length : n, entries of the row.

    Returns
    -------
    Dimensionless: S_2(d_h) = S_2 + c/d_h + O(1/d_h^2).

    Notes
    -----
    Small: beyond a few dozen dimensions random-weight attention no longer depends on the head dimension.

    Examples
    --------
    >>> round(head_dim_correction(1.0, 1024), 6)
    0.002418
    """
    return _curvature("P", variance, length)


@formula(kind="exact", source="derived for this package: second moment of chi^2/d_h", status="derived", symbol="c_H")
def head_dim_entropy_correction(variance: Variance, length: Length) -> Any:
    r"""Coefficient of the first correction to the entropy for a finite head dimension, at a fixed logit scale.

    .. math:: c_H = s^4 \frac{\partial^2}{\partial (\sigma^2)^2} E H

    Parameters
    ----------
    variance : s^2 of the logits, nats^2.
    length : n, entries of the row.

    Returns
    -------
    nats: H(d_h) = H + c_H/d_h + O(1/d_h^2).

    Examples
    --------
    >>> round(head_dim_entropy_correction(4.0, 1024), 3)
    0.655
    """
    return _curvature("entropy", variance, length)


@formula(kind="approximation", source="derived for this package: Gaussian query's norm in the diffuse form", status="derived",
         symbol="S_2", domain="d_h > 2 s^2 and diffuse attention")  # fmt: skip
def diffuse_finite_head_squared_sum(variance: Variance, length: Length, head_dim: HeadDim) -> Any:
    r"""Sum of squared weights of diffuse attention with few head dimensions.

    .. math:: E \sum_j p_j^2 \approx \frac{1}{n} \left(1 - \frac{2 s^2}{d_h}\right)^{-d_h/2}

    Parameters
    ----------
    variance : s^2 of the logits, nats^2.
    length : n, entries of the row.
    head_dim : d_h > 2 s^2.

    Returns
    -------
    1/n to 1.

    Examples
    --------
    >>> round(diffuse_finite_head_squared_sum(1.0, 1024, 128), 6)
    0.002676
    """
    require(head_dim > 2 * variance, "saturation.diffuse_finite_head_squared_sum: needs more dimensions than 2 s^2")
    _ratio_between("diffuse_finite_head_squared_sum", variance, length, 0, DIFFUSE, _DIFFUSE_ERROR)
    return (1 - 2 * variance / head_dim) ** (-(head_dim / Constant.of(2))) / length


# ---- a planted target ----


def _planted(field: str, *values: Any) -> Any:
    def average(gap: float, variance: float, length: float) -> float:
        from ..numerics.retrieval import planted

        return float(getattr(planted(gap, variance, length), field))

    return in_doubles(field, average, *values, one_by_one=True)


@formula(kind="exact", source=_EXACT, status="derived", symbol="p_t")
def target_weight(gap: Gap, variance: Variance, length: Length) -> Any:
    r"""Average attention weight on one target among Gaussian distractors.

    .. math:: E\, p_t = \int e^{u + \Delta} \exp(-e^{u + \Delta})\, \psi_0(u)^{n-1}\, du

    Parameters
    ----------
    gap : Delta, the target's logit above the distractors' mean, nats.
    variance : sigma^2 of a distractor's logit, nats^2.
    length : n, entries with the target.

    Returns
    -------
    0 to 1.

    Examples
    --------
    >>> round(target_weight(8.0, 4.0, 1024), 5)
    0.28824
    """
    return _planted("probability", gap, variance, length)


@formula(kind="exact", source=_EXACT, status="derived", symbol="E p_t^2")
def target_weight_squared(gap: Gap, variance: Variance, length: Length) -> Any:
    r"""Average squared attention weight on one target among Gaussian distractors.

    .. math:: E\, p_t^2 = \int e^{2(u + \Delta)} \exp(-e^{u + \Delta})\, \psi_0(u)^{n-1}\, du

    Parameters
    ----------
    gap : Delta, the target's logit above the distractors' mean, nats.
    variance : sigma^2 of a distractor's logit, nats^2.
    length : n, entries with the target.

    Returns
    -------
    0 to 1.

    Examples
    --------
    >>> round(target_weight_squared(8.0, 4.0, 1024), 5)
    0.0844
    """
    return _planted("squared", gap, variance, length)


@formula(kind="exact", source=_EXACT, status="derived", symbol="S_2'")
def distractor_squared_sum(gap: Gap, variance: Variance, length: Length) -> Any:
    r"""Average of the distractors' squared attention weights beside one target.

    .. math:: E \sum_{j \ne t} p_j^2 = (n - 1) \int \psi_2(u) \exp(-e^{u + \Delta})\, \psi_0(u)^{n-2}\, du

    Parameters
    ----------
    gap : Delta, the target's logit above the distractors' mean, nats.
    variance : sigma^2 of a distractor's logit, nats^2.
    length : n, entries with the target.

    Returns
    -------
    0 to 1.

    Examples
    --------
    >>> round(distractor_squared_sum(8.0, 4.0, 1024), 6)
    0.015739
    """
    return _planted("others", gap, variance, length)


@formula(kind="approximation", source="annealed average of Z", status="derived", symbol="p_t",
         domain="sigma < 0.6 sqrt(2 ln n)")  # fmt: skip
def annealed_target_weight(gap: Gap, variance: Variance, length: Length) -> Any:
    r"""Attention weight on one target, with the distractors' partition function replaced by its average.

    .. math:: p_t \approx \frac{1}{1 + (n - 1) \exp(\sigma^2/2 - \Delta)}

    Parameters
    ----------
    gap : Delta, the target's logit above the distractors' mean, nats.
    variance : sigma^2 of a distractor's logit, nats^2.
    length : n, entries with the target.

    Returns
    -------
    0 to 1. Outside sigma <= 0.6 sqrt(2 ln n) it refuses.

    Examples
    --------
    >>> round(annealed_target_weight(8.0, 4.0, 1024), 5)
    0.28282
    """
    _ratio_between("annealed_target_weight", variance, length, 0, 0.6, "holds for a logit scale up to 0.6 sqrt(2 ln n) only")
    return 1 / (1 + (length - 1) * exp(variance / 2 - gap))


@formula(kind="exact", source="algebra", status="derived", symbol="Delta")
def gap_for_weight(length: Length, miss: Miss) -> Any:
    r"""Gap that gives a target all but a given share of the weight, against n - 1 equal distractors.

    .. math:: \Delta = \ln \frac{(n - 1)(1 - \epsilon)}{\epsilon}

    Parameters
    ----------
    length : n, entries with the target.
    miss : epsilon, the weight that the distractors keep.

    Returns
    -------
    nats.

    Examples
    --------
    >>> round(gap_for_weight(1024, 0.01), 4)
    11.5256
    """
    return log((length - 1) * (1 - miss) / miss)


# ---- sequence length ----

_VELICKOVIC = "Velickovic et al. 2024, arXiv 2410.01104, Lemma 2.1 and Theorem 2.2"


@formula(kind="exact", source=_VELICKOVIC, status="secondary", symbol="p_low")
def dispersion_lower(range_nats: Range, length: Length) -> Any:
    r"""Least weight a token can have when logits lie in a bounded range.

    .. math:: p_j \ge e^{-\Delta} / n

    Parameters
    ----------
    range_nats : Delta, largest minus smallest logit, over the temperature.
    length : n, entries of the row.

    Returns
    -------
    0 to 1/n.

    Examples
    --------
    >>> f"{dispersion_lower(4.0, 1024):.3e}"
    '1.789e-05'
    """
    return exp(-range_nats) / length


@formula(kind="exact", source=_VELICKOVIC, status="secondary", symbol="p_high")
def dispersion_upper(range_nats: Range, length: Length) -> Any:
    r"""Largest weight a token can have when logits lie in a bounded range: attention disperses as 1/n.

    .. math:: p_j \le e^{\Delta} / n

    Parameters
    ----------
    range_nats : Delta, largest minus smallest logit, over the temperature.
    length : n, entries of the row.

    Returns
    -------
    1/n or more; above 1 it says nothing.

    Examples
    --------
    >>> round(dispersion_upper(4.0, 1024), 5)
    0.05332
    """
    return exp(range_nats) / length


_CHEN = "Chen, Lin, Polyanskiy, Rigollet 2025, arXiv 2510.05554"


@formula(kind="exact", source=f"{_CHEN}; formula derived for this package", status="derived", symbol="p_self")
def self_weight(gamma: Annotated[Any, Domain(0, 50, True, True, symbol="gamma", typical=(0.5, 3.0))], cosine: Cosine,
                length: Length) -> Any:  # fmt: skip
    r"""Weight of a token on itself when logits grow with the logarithm of the length.

    .. math:: p = \frac{n^{\gamma(1 - \rho)}}{n^{\gamma(1 - \rho)} + n - 1}

    Parameters
    ----------
    gamma : logits are gamma ln n times the cosine of two tokens.
    cosine : rho, between different tokens.
    length : n, tokens.

    Returns
    -------
    1/n to 1; one half near gamma = 1/(1 - rho).

    Examples
    --------
    >>> round(self_weight(3.0, 0.5, 4096), 5)
    0.98462
    """
    return 1 / (1 + (length - 1) * exp(-gamma * (1 - cosine) * log(length)))


@formula(kind="asymptotic", source=_CHEN, status="secondary", symbol="gamma_c")
def critical_length_scaling(cosine: Cosine) -> Any:
    r"""Growth of the logits with ln n at which attention passes from collapsing tokens to copying them.

    .. math:: \gamma_c = \frac{1}{1 - \rho}

    Parameters
    ----------
    cosine : rho, between different tokens.

    Returns
    -------
    Logits per ln n and cosine.

    Examples
    --------
    >>> critical_length_scaling(0.5)
    2.0
    """
    return 1 / (1 - cosine)


@formula(kind="exact", source="Nakanishi 2025, arXiv 2501.19399, Eq. 11; the bound derived for this package", status="derived",
         symbol="p_max")  # fmt: skip
def ssmax_weight(
    scale: Annotated[Any, Domain(0, 50, True, True, symbol="s", typical=(0.1, 1.0))],
    gap: Annotated[Any, Domain(0, 1e3, True, True, symbol="Delta", typical=(1.0, 5.0))],
    length: Length,
) -> Any:
    r"""Largest weight of scalable softmax, whose logits are multiplied by s ln n, when all others are equal.

    .. math:: p_{max} = \frac{1}{1 + (n - 1)\, n^{-s \Delta}}

    Parameters
    ----------
    scale : s, learned per head; 0.168 initially. For plain softmax, 1/ln n.
    gap : Delta, of the largest to the others before scaling. With the gap to the second largest it is a lower bound, with
        the gap to the smallest an upper one.
    length : n, entries of the row.

    Returns
    -------
    1/n to 1; the switch is at a gap of 1/s at every length.

    Examples
    --------
    >>> round(ssmax_weight(0.43, 3.0, 256), 5)
    0.83369
    """
    return 1 / (1 + (length - 1) * exp(-scale * gap * log(length)))


@formula(kind="exact", source="Zhai et al. 2023, arXiv 2303.06296, Theorem 3.1", status="primary", symbol="H_low")
def entropy_lower_bound(spectral_bound: Annotated[Any, Domain(0, 300, True, True, symbol="S", typical=(0.5, 12.0))],
                        length: Length) -> Any:  # fmt: skip
    r"""Least attention entropy that a spectral bound on the logits allows. It is attained.

    .. math:: H \ge \ln(1 + (T - 1)\beta) + \frac{S \sqrt{T (T - 1)}\, \beta}{1 + (T - 1) \beta},
        \qquad \beta = \exp\!\left(-S \sqrt{T/(T - 1)}\right)

    Parameters
    ----------
    spectral_bound : S, the product of the spectral norms of W_K W_Q' and X X'.
    length : T, tokens.

    Returns
    -------
    nats; falls as T S exp(-S).

    Examples
    --------
    >>> round(entropy_lower_bound(4, 128), 5)
    3.9859
    """
    beta = exp(-spectral_bound * sqrt(length / (length - Constant.of(1))))
    held = 1 + (length - 1) * beta
    return log(held) + spectral_bound * sqrt(length * (length - Constant.of(1))) * beta / held


# ---- rank collapse and entropy collapse ----

Beta = Annotated[Any, Domain(0, 1e3, symbol="beta", typical=(0.5, 4.0))]
TokenCorrelation = Annotated[Any, Domain(0, 1, True, False, symbol="p", typical=(0.0, 0.9))]
ValueVariance = Annotated[Any, Domain(0, symbol="sigma_v^2", typical=(0.5, 2.0))]


@formula(kind="asymptotic", source=f"{_GIORLANDINO}, authors' code", status="primary", symbol="beta_c", domain="n to infinity")
def entropy_collapse_gain(correlation: TokenCorrelation) -> Any:
    r"""Query-key gain at the boundary between rank collapse (below) and entropy collapse (above).

    .. math:: \beta_c = \sqrt{\frac{2}{1 - p}}

    Parameters
    ----------
    correlation : p, of two tokens in front of the attention layer.

    Returns
    -------
    beta, where a raw score has variance beta^2 ln n. The same as :func:`condensation_point` for the part of the score that
    differs between tokens.

    Examples
    --------
    >>> entropy_collapse_gain(0.5)
    2.0
    """
    return sqrt(2 / (1 - correlation))


@formula(kind="asymptotic", source=f"{_GIORLANDINO}, authors' code", status="primary", symbol="q_att", domain="n to infinity")
def collapsed_output_second_moment(beta: Beta, correlation: TokenCorrelation) -> Any:
    r"""Second moment of the attention output in the limit of long rows, in front of the value weights.

    .. math:: q = p + (1 - p)\, \max\!\left(0,\, 1 - \beta_c/\beta\right)

    Parameters
    ----------
    beta : query-key gain; a raw score has variance beta^2 ln n.
    correlation : p, of two tokens of unit variance.

    Returns
    -------
    p (uniform attention: rank collapse) to 1 (one-hot: entropy collapse). The covariance is p in both phases.

    Examples
    --------
    >>> collapsed_output_second_moment(4.0, 0.5)
    0.75
    """
    return correlation + (1 - correlation) * maximum(0, 1 - entropy_collapse_gain.body(correlation) / beta)


@formula(kind="exact", source=f"finite-n form of {_GIORLANDINO}, derived for this package", status="derived", symbol="q_att")
def finite_output_second_moment(beta: Beta, correlation: TokenCorrelation, length: Length) -> Any:
    r"""Second moment of the attention output at a finite number of tokens, in front of the value weights.

    .. math:: q = p + (1 - p)\, E \textstyle\sum_j p_j^2\big|_{\sigma^2 = (1 - p) \beta^2 \ln n}

    Parameters
    ----------
    beta : query-key gain; a raw score has variance beta^2 ln n.
    correlation : p, of two tokens of unit variance.
    length : n, tokens.

    Returns
    -------
    p to 1, smooth across the boundary.

    Examples
    --------
    >>> round(finite_output_second_moment(4.0, 0.5, 1024), 4)
    0.7868
    """
    spread = (1 - correlation) * beta**2 * log(length)
    require(
        spread <= LARGEST_VARIANCE,
        f"saturation.finite_output_second_moment: the scores' variance exceeds {LARGEST_VARIANCE:g}",
    )
    return correlation + (1 - correlation) * _overlap("P", spread, length)


@formula(kind="exact", source=f"{_GIORLANDINO}, residual block of the authors' code without biases", status="primary",
         symbol="p'")  # fmt: skip
def residual_attention_correlation(
    output_moment: Annotated[Any, Domain(0, 1, True, True, symbol="q_att", typical=(0.5, 1.0))],
    correlation: TokenCorrelation,
    value_variance: ValueVariance,
    residual_gain: Annotated[Any, Domain(0, closed_low=True, symbol="alpha", typical=(0.1, 3.0))],
) -> Any:
    r"""Correlation of two tokens behind an attention layer, its residual connection and a norm.

    .. math:: p' = \frac{(\sigma_v^2 + \alpha^2)\, p}{\sigma_v^2 q_{att} + \alpha^2}

    Parameters
    ----------
    output_moment : q_att, second moment of the attention output in front of the value weights.
    correlation : p, of two tokens of unit variance in front of the layer.
    value_variance : sigma_v^2, width times the variance of a value-output weight.
    residual_gain : alpha, what the skip connection is multiplied by.

    Returns
    -------
    0 to 1.

    Examples
    --------
    >>> residual_attention_correlation(0.5, 0.5, 1.0, 1.0)
    0.6666666666666666
    """
    kept = residual_gain**2
    return (value_variance + kept) * correlation / (value_variance * output_moment + kept)


@formula(kind="asymptotic", source=f"{_GIORLANDINO}: stability of p = 1, derived again for this package", status="rederived",
         symbol="alpha_c", domain="query-key gain below the boundary; the MLP without a residual of its own")  # fmt: skip
def critical_residual_gain(
    value_variance: ValueVariance, slope: Annotated[Any, Domain(1, symbol="chi", typical=(1.1, 3.0))]
) -> Any:
    r"""Residual gain above which tokens do not collapse onto one another, below the entropy-collapse boundary.

    .. math:: \alpha_c = \frac{\sigma_v}{\sqrt{\chi - 1}}

    Parameters
    ----------
    value_variance : sigma_v^2, width times the variance of a value-output weight.
    slope : chi, by how much the rest of the block multiplies 1 - p of two almost equal tokens. At 1 or below (a ReLU network
        at its critical point has exactly 1) every finite residual gain ends in rank collapse.

    Returns
    -------
    alpha.

    Notes
    -----
    One attention layer with uniform weights multiplies 1 - p by alpha^2/(alpha^2 + sigma_v^2).

    Examples
    --------
    >>> critical_residual_gain(1.0, 2.0)
    1.0
    """
    return sqrt(value_variance / (slope - 1))
