"""Exact averages of a softmax over Gaussian logits, at every length and variance."""

from __future__ import annotations

import math
from typing import Annotated, Any

from ...formula import Domain, formula
from ...numerics.bounds import LARGEST_VARIANCE, LONGEST
from .._quadrature import in_doubles
from .._regime import require
from ._domains import EXACT, HeadDim, Length, RowVariance, SumP2, Variance


@formula(kind="exact", source="Gaussian integration by parts", status="derived", symbol="H")
def softmax_entropy(
    log_partition: Annotated[
        Any, Domain(symbol="ln Z", unit="nats", typical=(4.0, 6.0)), "average log partition function, E ln Z"
    ],
    variance: RowVariance,
    P: SumP2,
) -> Any:
    r"""Average entropy of a softmax over independent Gaussian logits.

    .. math:: H = E \ln Z - \sigma^2 (1 - P)

    Derivation: docs/derivations/softmax.md, (S4).

    Returns
    -------
    nats.

    Examples
    --------
    >>> round(softmax_entropy(4.645942, 1.0, 0.03880424), 4)
    3.6847
    """
    return log_partition - variance * (1 - P)


Tokens = Annotated[
    Any, Domain(1, LONGEST, False, True, symbol="k", unit="tokens", typical=(2.0, 512.0)), "effective tokens, at most n"
]


def softmax_average(field: str, *values: Any) -> Any:
    """A field of :class:`~depthwidth.numerics.softmax.Overlap` at a variance, a length and perhaps a head dimension."""

    def average(variance: Any, length: Any, head_dim: Any = math.inf) -> Any:
        from ...numerics.softmax import overlap

        return getattr(overlap(variance, length, None if head_dim == math.inf else int(head_dim)), field)

    values = _without_infinite_head(values)
    return in_doubles(field, average, *values, one_by_one=len(values) == 3)


def _without_infinite_head(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values without a last one that is a plain infinity: then arrays are averaged at once."""
    return values[:2] if isinstance(values[-1], float) and values[-1] == math.inf else values


@formula(kind="exact", source=EXACT, status="derived", symbol="ln Z")
def log_partition(variance: Variance, length: Length, head_dim: HeadDim = math.inf) -> Any:
    r"""Average log partition function of n Gaussian logits.

    .. math:: E \ln Z = \int \left[\exp(-e^u) - \psi_0(u)^n\right] du, \qquad \psi_0(u) = E \exp(-e^{u + \sigma g})

    Returns
    -------
    nats.

    Examples
    --------
    >>> round(log_partition(1.0, 1024), 5)
    7.43064
    """
    return softmax_average("log_partition", variance, length, head_dim)


@formula(kind="exact", source=EXACT, status="derived", symbol="H")
def entropy(variance: Variance, length: Length, head_dim: HeadDim = math.inf) -> Any:
    r"""Average entropy of softmax attention over n Gaussian logits.

    .. math:: E H = E \ln Z - \sigma^2 \left(1 - E \textstyle\sum_j p_j^2\right)

    Returns
    -------
    nats, 0 to ln n.

    Examples
    --------
    >>> round(entropy(4.0, 1024), 5)
    5.02658
    """
    return softmax_average("entropy", variance, length, head_dim)


@formula(kind="exact", source=EXACT, status="derived", symbol="S_2")
def squared_sum(variance: Variance, length: Length, head_dim: HeadDim = math.inf) -> Any:
    r"""Average of the sum of squared attention weights, the inverse participation ratio.

    .. math:: E \sum_j p_j^2 = n \int \psi_2(u)\, \psi_0(u)^{n-1}\, du

    Returns
    -------
    1/n (uniform) to 1 (one-hot).

    Examples
    --------
    >>> round(squared_sum(4.0, 1024), 7)
    0.0285382
    """
    return softmax_average("P", variance, length, head_dim)


@formula(kind="exact", source=EXACT, status="derived", symbol="n_eff")
def effective_tokens(variance: Variance, length: Length, head_dim: HeadDim = math.inf) -> Any:
    r"""Effective number of attended tokens: the inverse of the average squared sum.

    .. math:: n_{eff} = 1 / E \textstyle\sum_j p_j^2

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
    return 1 / softmax_average("P", variance, length, head_dim)


@formula(kind="exact", source=EXACT, status="derived", symbol="p_max")
def largest_weight(variance: Variance, length: Length, head_dim: HeadDim = math.inf) -> Any:
    r"""Average of the largest attention weight.

    .. math:: E\, p_{max} = n \int du\; E_g\!\left[e^{u+\sigma g} e^{-e^{u+\sigma g}} \Phi(u, g)^{n-1}\right],
        \qquad \Phi(u, g) = E_{g'}\!\left[1_{g' < g} \exp(-e^{u+\sigma g'})\right]

    Returns
    -------
    1/n to 1.

    Examples
    --------
    >>> round(largest_weight(1.0, 1024), 5)
    0.01624
    """
    from ...numerics.softmax import max_probability

    def average(variance: Any, length: Any, head_dim: Any = math.inf) -> Any:
        return max_probability(variance, length, None if head_dim == math.inf else int(head_dim))

    values = _without_infinite_head((variance, length, head_dim))
    return in_doubles("largest_weight", average, *values, one_by_one=len(values) == 3)


@formula(kind="exact", source=EXACT, status="derived", symbol="tr J")
def jacobian_trace(variance: Variance, length: Length, head_dim: HeadDim = math.inf) -> Any:
    r"""Average trace of the softmax's Jacobian, the part of the gradient that reaches the logits.

    .. math:: E\, \mathrm{tr}(\mathrm{diag}\,p - p p^\top) = 1 - E \textstyle\sum_j p_j^2

    Returns
    -------
    0 (saturated: one-hot) to 1 - 1/n (uniform).

    Examples
    --------
    >>> round(jacobian_trace(16.0, 1024), 3)
    0.727
    """
    return 1 - softmax_average("P", variance, length, head_dim)


@formula(kind="exact", source=EXACT, status="derived", symbol="T")
def jacobian_squared_norm(variance: Variance, length: Length, head_dim: HeadDim = math.inf) -> Any:
    r"""Average squared Frobenius norm of the softmax's Jacobian, for random directions the gain of a gradient's square.

    .. math:: T = E\,\lVert \mathrm{diag}\,p - p p^\top \rVert_F^2
        = E\left[\textstyle\sum_j p_j^2 - 2 \sum_j p_j^3 + \left(\sum_j p_j^2\right)^2\right]

    Derivation: docs/derivations/attention.md, (A3).

    Returns
    -------
    0 (saturated: one-hot) to 1/2; (1 - 1/n)/n for uniform attention. A gradient of second moment g at the probabilities has
    second moment g T/n at the logits.

    Examples
    --------
    >>> round(jacobian_squared_norm(1.0, 64), 5)
    0.03408
    """
    return softmax_average("T", variance, length, head_dim)


@formula(kind="exact", source=EXACT, status="derived", symbol="V_out")
def output_variance(
    variance: Variance,
    length: Length,
    value_variance: Annotated[Any, Domain(0, closed_low=True, symbol="v^2"), "variance of a value's channel, of mean 0"] = 1,
    head_dim: HeadDim = math.inf,
) -> Any:
    r"""Variance per channel of the attention output, for values independent of the logits and of each other.

    .. math:: \mathrm{Var}\, o = v^2\, E \textstyle\sum_j p_j^2

    Returns
    -------
    Units of value_variance.

    Examples
    --------
    >>> round(output_variance(1.0, 256, 2.0), 6)
    0.020669
    """
    return value_variance * softmax_average("P", variance, length, head_dim)


def _variance_at(reached: Any, wanted: float, length: float) -> float:
    """The variance at which a falling function of (variance, length) passes `wanted`."""
    from scipy.optimize import brentq

    high = 1.0
    while reached(high, length) > wanted:
        high *= 4
        if high > LARGEST_VARIANCE:
            return math.nan
    return float(brentq(lambda s2: reached(s2, length) - wanted, 0.0, high, xtol=1e-12, rtol=1e-12))


@formula(kind="exact", source=EXACT, status="derived", symbol="sigma")
def logit_std_for_tokens(tokens: Tokens, length: Length) -> Any:
    r"""Logit scale at which attention covers a given number of tokens.

    .. math:: \sigma:\quad 1 / E \textstyle\sum_j p_j^2(\sigma, n) = k

    Returns
    -------
    Standard deviation of a logit over the row, nats; 0 for k = n.

    Raises
    ------
    InputError
        if k exceeds n, or needs a variance above 1e4.

    Examples
    --------
    >>> round(logit_std_for_tokens(16, 1024), 4)
    2.408
    """
    require(tokens <= length, "saturation.logit_std_for_tokens: there are fewer tokens in the row than it should attend to")

    def root(k: float, n: float) -> float:
        from ...numerics.softmax import overlap

        return 0.0 if k == n else math.sqrt(_variance_at(lambda s2, row: 1 / float(overlap(s2, row).P), k, n))

    found = in_doubles("logit_std_for_tokens", root, tokens, length, one_by_one=True)
    require(found == found, f"saturation.logit_std_for_tokens: so few tokens take a variance above {LARGEST_VARIANCE:g}")
    return found
