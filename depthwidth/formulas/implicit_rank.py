r"""Implicit regularisation of products of matrices: the ranks that a gradient flow, or weight decay, leaves them.

A head's scores depend on its weights through the product :math:`W = W_Q W_K^\top`. From a small start the flow on the factors
grows the singular values of W one after the other; weight decay on the factors is a penalty on the nuclear norm of W, the sum
of its singular values. Flows and certificates, which take matrices, are in :mod:`depthwidth.numerics.factorisation`.
"""

from __future__ import annotations

from typing import Annotated, Any

from ..formula import Domain, formula
from ..mathematics import Constant, exp, log, maximum, minimum, sqrt
from ._regime import require

GREEDY = "Li, Luo, Lyu 2021, arXiv 2012.09839"
DEEP = "Arora, Cohen, Hu, Luo 2019, arXiv 1905.13655"
NORMS = "Razin, Cohen 2020, arXiv 2005.06398"
DECAY = "Kobayashi, Akram, von Oswald 2024, arXiv 2410.23819"

_COUNT: dict[str, Any] = {"closed_low": True, "integer": True}
Size = Annotated[Any, Domain(0, symbol="s", typical=(0.01, 3.0)), "singular value of the product"]
Factors = Annotated[Any, Domain(1, symbol="N", unit="matrices", typical=(2, 6), **_COUNT), "factors of the product"]
Deep = Annotated[
    Any, Domain(3, symbol="N", unit="matrices", typical=(3, 6), **_COUNT), "factors of the product, at least three"
]
Slope = Annotated[
    Any,
    Domain(symbol="g", typical=(-3.0, 3.0)),
    "derivative of the loss with respect to the singular value, with its directions held",
]
Push = Annotated[
    Any, Domain(0, symbol="p", typical=(0.1, 3.0)), "minus the loss's derivative with respect to the singular value"
]
Start = Annotated[Any, Domain(0, symbol="s_0", typical=(1e-4, 1e-2)), "singular value of the product at the start"]
Scale = Annotated[Any, Domain(0, symbol="alpha", typical=(1e-6, 1e-2)), "scale of the factor at the start, X(0) = alpha^2 I"]
Reached = Annotated[Any, Domain(0, symbol="c", typical=(0.1, 1.0)), "size that the largest eigenvalue of X has reached"]
Top = Annotated[Any, Domain(0, symbol="mu_1", typical=(2.0, 4.0)), "largest eigenvalue of minus the gradient at X = 0"]
Second = Annotated[Any, Domain(symbol="mu_2", typical=(-1.0, 1.9)), "second eigenvalue of minus the gradient at X = 0"]
Decay = Annotated[Any, Domain(0, closed_low=True, symbol="lambda", typical=(0.01, 1.0)), "coupled weight decay of each factor"]
Time = Annotated[Any, Domain(0, closed_low=True, symbol="t", typical=(0.0, 5.0)), "time of the flow: steps times learning rate"]
Entry = Annotated[Any, Domain(1, closed_low=True, symbol="R", typical=(1.5, 10.0)), "the observed entries other than 1"]
SmallLoss = Annotated[
    Any, Domain(0, 0.5, symbol="l", typical=(1e-4, 0.1)), "half the sum of squared errors of the three observed entries"
]
Loss = Annotated[Any, Domain(0, closed_low=True, symbol="l", typical=(1e-4, 0.1)), "half the sum of squared errors"]
HeadDim = Annotated[Any, Domain(1, symbol="d_h", unit="dimensions", typical=(8, 128), **_COUNT), "dimensions of a head"]
Rank = Annotated[
    Any,
    Domain(0, symbol="r", typical=(1, 128), **_COUNT),
    "rank of the minimiser under the nuclear-norm penalty, any size allowed",
]
_BALANCED = "factors balanced at the start: the Gram matrices of neighbours agree"


@formula(kind="exact", source=f"{DEEP}, Theorem 3", status="rederived", symbol="F", domain=_BALANCED)
def growth_factor(size: Size, factors: Factors) -> Any:
    r"""Speed at which a singular value of a product of N matrices moves, over that of a free matrix.

    .. math:: F = N s^{2 - 2/N}

    Returns
    -------
    A factor; 1 for a single matrix. Below 1 the singular value stalls, the more so the more factors there are.

    Examples
    --------
    >>> [round(growth_factor(0.1, factors), 5) for factors in (1, 2, 3, 4)]
    [1.0, 0.2, 0.13925, 0.12649]
    """
    return factors * size ** (2 - 2 / factors)


@formula(kind="exact", source=f"{DEEP}, Theorem 3", status="rederived", symbol="v", domain=_BALANCED)
def singular_value_rate(size: Size, factors: Factors, slope: Slope) -> Any:
    r"""Rate of a singular value of a product of N matrices under gradient flow on the factors.

    .. math:: \dot s = -N s^{2 - 2/N} \langle \nabla L(W), u v^\top \rangle

    Returns
    -------
    Change per unit of time.

    Examples
    --------
    >>> singular_value_rate(0.01, 2, -1.0)
    0.02
    """
    return -growth_factor.body(size, factors) * slope


@formula(
    kind="exact", source=f"follows from {DEEP}, Theorem 3", status="derived", symbol="t", domain="constant push; two factors"
)
def growth_time(start: Start, size: Size, push: Push) -> Any:
    r"""Time in which a singular value of a product of two matrices grows from s_0 to s under a constant push.

    .. math:: t = \frac{\ln(s/s_0)}{2 p}

    Returns
    -------
    Time of the flow; negative if s is below s_0.

    Examples
    --------
    >>> round(growth_time(1e-4, 1.0, 1.0), 4)
    4.6052
    """
    return log(size / start) / (2 * push)


@formula(
    kind="exact",
    source=f"follows from {DEEP}, Theorem 3",
    status="derived",
    symbol="t",
    domain="constant push; three or more factors",
)
def deep_growth_time(start: Start, size: Size, factors: Deep, push: Push) -> Any:
    r"""Time in which a singular value of a product of three or more matrices grows from s_0 to s under a constant push.

    .. math:: t = \frac{s_0^{-(1 - 2/N)} - s^{-(1 - 2/N)}}{(N - 2)\, p}

    Returns
    -------
    Time of the flow; negative if s is below s_0.

    Notes
    -----
    It is a power of the start, where two factors take its logarithm: with depth the order in which singular values grow is
    sharper.

    Examples
    --------
    >>> round(deep_growth_time(1e-3, 1.0, 3, 1.0), 6), round(deep_growth_time(1e-3, 1.0, 4, 1.0), 4)
    (9.0, 15.3114)
    """
    power = 1 - 2 / factors
    return (start**-power - size**-power) / ((factors - 2) * push)


@formula(kind="exact", source=GREEDY, status="derived", symbol="t_1", domain="the flow linearised at X = 0")
def first_phase_time(scale: Scale, reached: Reached, top: Top) -> Any:
    r"""Time in which the flow on X = U U' from alpha^2 I grows its first eigenvalue to c.

    .. math:: t_1 = \frac{\ln(c/\alpha^2)}{2 \mu_1}

    Returns
    -------
    Time of the flow dU/dt = -grad f(X) U.

    Notes
    -----
    X grows as alpha^2 e^(2 mu t) in each direction while it is small. At c = 1/2 of a first eigenvalue that ends at 5 the flow
    itself takes longer by 0.02 at every alpha (test).

    Examples
    --------
    >>> round(first_phase_time(1e-2, 0.5, 2.5616), 3)
    1.662
    """
    return log(reached / scale**2) / (2 * top)


@formula(kind="exact", source=GREEDY, status="derived", symbol="q", domain="the flow linearised at X = 0")
def second_eigenvalue_ratio(scale: Scale, reached: Reached, top: Top, second: Second) -> Any:
    r"""Second eigenvalue of X over the first, when the flow from alpha^2 I has grown the first to c.

    .. math:: q = \left(\frac{\alpha^2}{c}\right)^{1 - \mu_2/\mu_1}

    Returns
    -------
    A fraction. It vanishes as alpha does: an infinitesimal start fits rank one first.

    Examples
    --------
    >>> f"{second_eigenvalue_ratio(1e-6, 1.0, 2.5616, 1.5616):.2g}"
    '2.1e-05'
    """
    require(second < top, "second_eigenvalue_ratio: the second eigenvalue must be below the first")
    return (scale**2 / reached) ** (1 - second / top)


@formula(kind="exact", source=f"{GREEDY}, 4 x 4 completion", status="rederived", symbol="nu_min")
def counterexample_least_norm(entry: Entry) -> Any:
    r"""Least nuclear norm of the 4 x 4 completion problem whose flow ends elsewhere.

    .. math:: \nu_{min} = 4 R

    Returns
    -------
    A sum of singular values; the minimiser has rank 2.

    Notes
    -----
    Observed are :math:`M_{13} = 1`, :math:`M_{14} = M_{23} = R`, and the transposes. From an infinitesimal start the flow ends
    at the completion of rank one, whose norm is :func:`counterexample_flow_norm`.

    Examples
    --------
    >>> counterexample_least_norm(2)
    8
    """
    return 4 * entry


@formula(kind="exact", source=f"{GREEDY}, 4 x 4 completion", status="rederived", symbol="nu_flow")
def counterexample_flow_norm(entry: Entry) -> Any:
    r"""Nuclear norm at which the flow from an infinitesimal start ends, in the problem of counterexample_least_norm.

    .. math:: \nu_{flow} = 2 R^2 + 2

    Returns
    -------
    A sum of singular values: that of the completion of rank one, above the least for R > 1.

    Examples
    --------
    >>> counterexample_flow_norm(2), counterexample_flow_norm(10)
    (10, 202)
    """
    return 2 * entry**2 + 2


@formula(kind="exact", source=f"{GREEDY}, 4 x 4 completion", status="rederived", symbol="mu_1")
def counterexample_top_eigenvalue(entry: Entry) -> Any:
    r"""Largest eigenvalue of minus the gradient at zero, in the problem of counterexample_least_norm.

    .. math:: \mu_1 = \frac{1 + \sqrt{1 + 4 R^2}}{2}

    Returns
    -------
    An eigenvalue; the second is smaller by 1.

    Examples
    --------
    >>> round(counterexample_top_eigenvalue(2), 4)
    2.5616
    """
    return (1 + sqrt(1 + 4 * entry**2)) / 2


@formula(
    kind="exact", source=f"{NORMS}, 2 x 2 completion", status="derived", symbol="w", domain="determinant positive at the start"
)
def diverging_entry_bound(loss: SmallLoss) -> Any:
    r"""Least size of the free entry of a 2 x 2 completion problem at loss l, if the determinant is positive at the start.

    .. math:: |W_{11}| \ge \frac{(1 - \sqrt{2 l})^2}{\sqrt{2 l}}

    Returns
    -------
    A lower bound on the entry's size, and so on the matrix's norm; it grows without end as the loss falls to zero.

    Notes
    -----
    Observed are :math:`W_{12} = W_{21} = 1` and :math:`W_{22} = 0`. The flow on a product of square factors keeps the
    determinant's sign, and every exact completion has determinant -1. The bound is on the size: W22 may approach 0 from below,
    and W11 is negative then.

    Examples
    --------
    >>> round(diverging_entry_bound(0.005), 6)
    8.1
    """
    error = sqrt(2 * loss)
    return (1 - error) ** 2 / error


@formula(kind="exact", source=NORMS, status="recalled", symbol="e", domain="the 2 x 2 completion of diverging_entry_bound")
def effective_rank_excess_bound(loss: Loss) -> Any:
    r"""Bound on the effective rank's excess over its infimum, in the problem of diverging_entry_bound.

    .. math:: e \le \frac{2 \sqrt{12}}{\ln 2} \sqrt{l}

    Returns
    -------
    An upper bound on the excess over 1.

    Examples
    --------
    >>> round(effective_rank_excess_bound(0.01), 5)
    0.99953
    """
    return 2 * sqrt(Constant.of(12)) * sqrt(loss) / log(Constant.of(2))


@formula(kind="exact", source=NORMS, status="recalled", symbol="D", domain="the 2 x 2 completion of diverging_entry_bound")
def low_rank_distance_bound(loss: Loss) -> Any:
    r"""Bound on the distance from the matrices of infimal rank, in the problem of diverging_entry_bound.

    .. math:: D \le 3 \sqrt{2 l}

    Returns
    -------
    An upper bound on the Frobenius distance.

    Examples
    --------
    >>> round(low_rank_distance_bound(0.005), 6)
    0.3
    """
    return 3 * sqrt(2 * loss)


@formula(
    kind="exact", source=f"{DECAY}; derived for every loss", status="derived", symbol="b", domain="gradient flow, coupled decay"
)
def remaining_imbalance(decay: Decay, elapsed: Time) -> Any:
    r"""Share of the imbalance A'A - B'B of a product A B' that is left after a time of gradient flow with weight decay.

    .. math:: b = e^{-2 \lambda t}

    Returns
    -------
    A fraction, for every loss that depends on the product alone; 1 without decay.

    Examples
    --------
    >>> round(remaining_imbalance(0.3, 3), 4), round(remaining_imbalance(0.3, 6), 4)
    (0.1653, 0.0273)
    """
    return exp(-2 * decay * elapsed)


@formula(
    kind="exact", source="soft-thresholding of singular values", status="derived", symbol="s_w",
    domain="loss half the squared distance to Y; the penalty (decay/2)(|A|^2 + |B|^2)",
)  # fmt: skip
def decayed_singular_value(
    size: Annotated[Any, Domain(0, closed_low=True, symbol="s", typical=(0.01, 3.0)), "singular value of the target Y"],
    decay: Decay,
) -> Any:
    r"""Singular value of the product A B' that weight decay leaves, for a loss of half the squared distance to a target.

    .. math:: s_w = \max(s - \lambda, 0)

    Returns
    -------
    A singular value; of a head only the largest head_dim are kept.

    Examples
    --------
    >>> decayed_singular_value(5.0, 0.5), decayed_singular_value(0.2, 0.5)
    (4.5, 0)
    """
    return maximum(size - decay, 0)


@formula(
    kind="exact", source=f"{DECAY}; the equivalence derived here", status="derived", symbol="d_useful",
    domain="loss convex in the product, minimised under coupled weight decay; not AdamW's decoupled decay",
)  # fmt: skip
def useful_head_dim(head_dim: HeadDim, rank: Rank) -> Any:
    r"""Dimensions of a head that its trained weights use under weight decay.

    .. math:: d_{useful} = \min(d_h, r)

    Returns
    -------
    Dimensions. From d_h = r on a larger head reaches the same product and the same loss; below, the head limits the rank.

    Notes
    -----
    :func:`depthwidth.numerics.factorisation.certificate` bounds r from one gradient. Within a deep network the statement is
    about local minima.

    Examples
    --------
    >>> useful_head_dim(24, 6), useful_head_dim(4, 6)
    (6, 4)
    """
    return minimum(head_dim, rank)
