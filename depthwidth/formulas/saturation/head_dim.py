"""Finite head dimension at a fixed logit scale."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, formula
from ...mathematics import Constant
from .._quadrature import in_doubles
from .._regime import require
from ._domains import Length, Variance
from .averages import softmax_average
from .bands import DIFFUSE, DIFFUSE_ERROR, require_ratio

HeadDim = Annotated[
    Any,
    Domain(1, 1e6, True, True, integer=True, symbol="d_h", unit="dimensions", typical=(16, 256)),
    "dimensions of a query and a key",
]
QueryKeyVariance = Annotated[Variance, "variance of the logits over queries and keys"]


@formula(
    kind="exact", source="derived for this package: logits are Gaussian given the query's norm", status="derived", symbol="S_2"
)
def finite_head_squared_sum(variance: QueryKeyVariance, length: Length, head_dim: HeadDim) -> Any:
    r"""Sum of squared weights when logits are products of Gaussian queries and keys in few dimensions.

    .. math:: X(n, s; d_h) = E_u\, X\!\left(n, s\sqrt{u}\right), \qquad u \sim \chi^2_{d_h} / d_h

    Returns
    -------
    1/n to 1.

    Examples
    --------
    >>> round(finite_head_squared_sum(1.0, 1024, 8), 7)
    0.0029797
    """
    return softmax_average("P", variance, length, head_dim)


@formula(
    kind="exact", source="derived for this package: logits are Gaussian given the query's norm", status="derived", symbol="H"
)
def finite_head_entropy(variance: QueryKeyVariance, length: Length, head_dim: HeadDim) -> Any:
    r"""Entropy when logits are products of Gaussian queries and keys in few dimensions.

    .. math:: H(n, s; d_h) = E_u\, H\!\left(n, s\sqrt{u}\right), \qquad u \sim \chi^2_{d_h} / d_h

    Returns
    -------
    nats.

    Examples
    --------
    >>> round(finite_head_entropy(4.0, 1024, 8), 5)
    5.10365
    """
    return softmax_average("entropy", variance, length, head_dim)


def _curvature(field: str, *values: Any) -> Any:
    """s^4 times the second derivative by the variance, of a Chebyshev fit around it, for small variances from 0 on."""

    def coefficient(variance: Any, length: Any) -> float:
        import numpy as np

        from ...numerics.softmax import overlap

        if not variance:
            return 0.0
        nodes = np.cos(np.pi * (np.arange(13) + 0.5) / 13)
        # The averages change over variances of order 1: a narrower fit would show their rounding.
        width = max(0.3 * variance, 0.05)
        middle = max(variance, width)
        sampled = getattr(overlap(middle + width * nodes, length), field)
        fit = np.polynomial.chebyshev.Chebyshev(np.linalg.solve(np.polynomial.chebyshev.chebvander(nodes, 12), sampled))
        return float(fit.deriv(2)((variance - middle) / width) * (variance / width) ** 2)

    return in_doubles(field, coefficient, *values, one_by_one=True)


@formula(kind="exact", source="derived for this package: second moment of chi^2/d_h", status="derived", symbol="c")
def head_dim_correction(variance: Variance, length: Length) -> Any:
    r"""Coefficient c of the first correction c/d_h to the sum of squared weights, at a fixed logit scale.

    .. math:: c = s^4 \frac{\partial^2}{\partial (\sigma^2)^2} E \textstyle\sum_j p_j^2

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

    Returns
    -------
    nats: H(d_h) = H + c_H/d_h + O(1/d_h^2).

    Examples
    --------
    >>> round(head_dim_entropy_correction(4.0, 1024), 3)
    0.655
    """
    return _curvature("entropy", variance, length)


@formula(
    kind="approximation",
    source="derived for this package: Gaussian query's norm in the diffuse form",
    status="derived",
    symbol="S_2",
    domain="d_h from 8 s^2, sigma < 0.3 sqrt(2 ln n), n from 64; within 2 % at n from 65536",
    accuracy=0.13,
)
def diffuse_finite_head_squared_sum(
    variance: Variance, length: Length, head_dim: Annotated[HeadDim, "dimensions of a query and a key, at least 8 s^2"]
) -> Any:
    r"""Sum of squared weights of diffuse attention with few head dimensions.

    .. math:: E \sum_j p_j^2 \approx \frac{1}{n} \left(1 - \frac{2 s^2}{d_h}\right)^{-d_h/2}

    Returns
    -------
    1/n to 1.

    Examples
    --------
    >>> round(diffuse_finite_head_squared_sum(1.0, 1024, 128), 6)
    0.002676
    """
    require(
        (head_dim >= 8 * variance) & (length >= 64),
        "saturation.diffuse_finite_head_squared_sum: needs 8 s^2 dimensions, which is more dimensions than 2 s^2, where the "
        "average ceases to exist, and a row of 64; saturation's integrals hold everywhere",
    )
    require_ratio("diffuse_finite_head_squared_sum", variance, length, 0, DIFFUSE, DIFFUSE_ERROR)
    return (1 - 2 * variance / head_dim) ** (-(head_dim / Constant.of(2))) / length
