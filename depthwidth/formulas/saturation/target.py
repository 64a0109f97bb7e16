"""One target among Gaussian distractors."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, formula
from ...mathematics import exp, log
from .. import _stable
from .._quadrature import in_doubles
from .._regime import require
from ._domains import EXACT, NATS, Length, Variance
from .bands import LONG_ENOUGH, require_ratio

Gap = Annotated[
    Any,
    Domain(-1e4, 1e4, True, True, symbol="Delta", unit=NATS, typical=(2.0, 12.0)),
    "the target's logit above the distractors' mean",
]
Miss = Annotated[Any, Domain(0, 1, symbol="epsilon", typical=(0.01, 0.5)), "weight that the distractors keep"]
DistractorVariance = Annotated[Variance, "variance of a distractor's logit"]
RowWithTarget = Annotated[Length, "entries of the row, the target included"]


def _planted(field: str, *values: Any) -> Any:
    def average(gap: float, variance: float, length: float) -> float:
        from ...numerics.retrieval import planted

        return float(getattr(planted(gap, variance, length), field))

    return in_doubles(field, average, *values, one_by_one=True)


@formula(kind="exact", source=EXACT, status="derived", symbol="p_t")
def target_weight(gap: Gap, variance: DistractorVariance, length: RowWithTarget) -> Any:
    r"""Average attention weight on one target among Gaussian distractors.

    .. math:: E\, p_t = \int e^{u + \Delta} \exp(-e^{u + \Delta})\, \psi_0(u)^{n-1}\, du

    Returns
    -------
    0 to 1.

    Examples
    --------
    >>> round(target_weight(8.0, 4.0, 1024), 5)
    0.28824
    """
    return _planted("probability", gap, variance, length)


@formula(kind="exact", source=EXACT, status="derived", symbol="E p_t^2")
def target_weight_squared(gap: Gap, variance: DistractorVariance, length: RowWithTarget) -> Any:
    r"""Average squared attention weight on one target among Gaussian distractors.

    .. math:: E\, p_t^2 = \int e^{2(u + \Delta)} \exp(-e^{u + \Delta})\, \psi_0(u)^{n-1}\, du

    Returns
    -------
    0 to 1.

    Examples
    --------
    >>> round(target_weight_squared(8.0, 4.0, 1024), 5)
    0.0844
    """
    return _planted("squared", gap, variance, length)


@formula(kind="exact", source=EXACT, status="derived", symbol="S_2'")
def distractor_squared_sum(gap: Gap, variance: DistractorVariance, length: RowWithTarget) -> Any:
    r"""Average of the distractors' squared attention weights in the presence of one target.

    .. math:: E \sum_{j \ne t} p_j^2 = (n - 1) \int \psi_2(u) \exp(-e^{u + \Delta})\, \psi_0(u)^{n-2}\, du

    Returns
    -------
    0 to 1.

    Examples
    --------
    >>> round(distractor_squared_sum(8.0, 4.0, 1024), 6)
    0.015739
    """
    return _planted("others", gap, variance, length)


@formula(kind="exact", source=EXACT, status="derived", symbol="H_t")
def target_entropy(gap: Gap, variance: DistractorVariance, length: RowWithTarget) -> Any:
    r"""Average entropy of softmax attention with one target among Gaussian distractors.

    .. math:: E H = E \ln Z - \Delta\, E p_t - \sigma^2 \left(1 - E p_t - E \textstyle\sum_{j \ne t} p_j^2\right),
        \qquad E \ln Z = \int \left[\exp(-e^u) - \exp(-e^{u + \Delta})\, \psi_0(u)^{n-1}\right] du

    Returns
    -------
    nats, 0 to ln n.

    Examples
    --------
    >>> round(target_entropy(8.0, 4.0, 1024), 5)
    4.16273
    """

    def average(gap: float, variance: float, length: float) -> float:
        from ...numerics.retrieval import planted_entropy

        return planted_entropy(gap, variance, length)

    return in_doubles("target_entropy", average, gap, variance, length, one_by_one=True)


@formula(kind="exact", source=EXACT, status="derived", symbol="p_max")
def target_largest_weight(gap: Gap, variance: DistractorVariance, length: RowWithTarget) -> Any:
    r"""Average of the largest attention weight in a row with one target among Gaussian distractors.

    .. math:: E\, p_{max} = \int du \left\{ K_1(u + \Delta)\, \Phi(u, \Delta)^{n-1}
        + (n - 1)\, K_0(u + \Delta)\, E_x\!\left[1_{x > \Delta}\, K_1(u + x)\, \Phi(u, x)^{n-2}\right] \right\}

    with K_j(y) = exp(j y - e^y), and Phi(u, x) the average of K_0(u + x') over the distractors' logits x' below x.

    Returns
    -------
    1/n to 1, at least the average weight of the target.

    Examples
    --------
    >>> round(target_largest_weight(8.0, 4.0, 1024), 5)
    0.29209
    """

    def average(gap: float, variance: float, length: float) -> float:
        from ...numerics.retrieval import planted_largest

        return planted_largest(gap, variance, length)

    return in_doubles("target_largest_weight", average, gap, variance, length, one_by_one=True)


@formula(
    kind="approximation",
    source="annealed average of Z",
    status="derived",
    symbol="p_t",
    domain="sigma < 0.6 sqrt(2 ln n)",
    accuracy=0.16,
)
def annealed_target_weight(gap: Gap, variance: DistractorVariance, length: RowWithTarget) -> Any:
    r"""Attention weight on one target, with the distractors' partition function replaced by its average.

    .. math:: p_t \approx \frac{1}{1 + (n - 1) \exp(\sigma^2/2 - \Delta)}

    Returns
    -------
    0 to 1. Outside sigma <= 0.6 sqrt(2 ln n) it refuses.

    Examples
    --------
    >>> round(annealed_target_weight(8.0, 4.0, 1024), 5)
    0.28282
    """
    require(length >= LONG_ENOUGH, "saturation.annealed_target_weight: holds for rows of 64 and more; target_weight everywhere")
    require_ratio("annealed_target_weight", variance, length, 0, 0.6, "holds for a logit scale up to 0.6 sqrt(2 ln n) only")
    return 1 / (1 + (length - 1) * exp(variance / 2 - gap))


@annealed_target_weight.stable
def _(gap: Gap, variance: DistractorVariance, length: RowWithTarget) -> Any:
    require(length >= LONG_ENOUGH, "saturation.annealed_target_weight: holds for rows of 64 and more; target_weight everywhere")
    require_ratio("annealed_target_weight", variance, length, 0, 0.6, "holds for a logit scale up to 0.6 sqrt(2 ln n) only")
    against = log(length - 1) + variance / 2 - gap
    small = exp(-abs(against))  # never overflows
    return _stable.choose(against > 0, small, 1 + 0 * small) / (1 + small)


@formula(kind="exact", source="algebra", status="derived", symbol="Delta")
def gap_for_weight(length: RowWithTarget, miss: Miss) -> Any:
    r"""Gap that gives a target all but a given share of the weight, against n - 1 equal distractors.

    .. math:: \Delta = \ln \frac{(n - 1)(1 - \epsilon)}{\epsilon}

    Returns
    -------
    nats.

    Examples
    --------
    >>> round(gap_for_weight(1024, 0.01), 4)
    11.5256
    """
    return log((length - 1) * (1 - miss) / miss)
