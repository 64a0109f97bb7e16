"""DeepScaleLM stacks: lambda^2 + beta^2 = 1 and beta^2 = k/N_b^alpha."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Domain, formula
from ...mathematics import acos, exp, pi, sqrt
from .. import _stable
from .._regime import require
from ..moments import KEDIA, Correlation, Dropout
from ._domains import Branches, Gain

Start = Annotated[
    Any, Domain(-1, 1, closed_low=True, closed_high=True, symbol="r_0", typical=(0.05, 0.6)), "correlation of the input"
]
ShareExponent = Annotated[Any, Domain(0, symbol="alpha", typical=(0.5, 1.5)), "exponent in beta^2 = k / N_b^alpha"]


# DeepScaleLM: lambda^2 + beta^2 = 1 and beta^2 = k/N_b^alpha.
@formula(kind="exact", source="product of lambda^2 + beta^2 J", status="derived", symbol="G", domain="constant J")
def deepscale_gradient_gain(
    gain: Gain,
    blocks: Branches,
    k: Annotated[Any, Domain(0, symbol="k", typical=(0.5, 1.4)), "factor in beta^2 = k / N_b^alpha, which is at most 1"] = 2,
    alpha: ShareExponent = 1,
) -> Any:
    r"""Growth of the gradient through a DeepScaleLM stack whose blocks all have the gain J.

    .. math:: \left(1 + \frac{k (J - 1)}{N_b^\alpha}\right)^{N_b}

    Returns
    -------
    The ratio of gamma at the input to gamma at the output, below :func:`deepscale_gradient_bound`.

    Examples
    --------
    >>> round(deepscale_gradient_gain(0.0, 384), 4), round(deepscale_gradient_gain(1.0, 384), 4)
    (0.1346, 1.0)
    """
    share = k / blocks**alpha
    require(share <= 1, "depth.deepscale_gradient_gain: k is more than blocks to the power alpha, so beta exceeds 1")
    return (1 + share * (gain - 1)) ** blocks


@formula(
    kind="exact",
    source=f"1 + x <= e^x on every block; settings of {KEDIA}",
    status="derived",
    symbol="G",
    domain="a bound, with J the largest gain of a block; the paper's own proof was not available",
)
def deepscale_gradient_bound(
    gain: Annotated[Gain, "largest gain of any block"],
    blocks: Branches,
    k: Annotated[Any, Domain(0, symbol="k", typical=(0.5, 2)), "factor in beta^2 = k / N_b^alpha"] = 2,
    alpha: ShareExponent = 1,
) -> Any:
    r"""Upper bound on the growth of the gradient through a DeepScaleLM stack; independent of depth for alpha = 1.

    .. math:: e^{k (J - 1) N_b^{1-\alpha}}

    Returns
    -------
    A bound on the ratio of gamma at the input to gamma at the output; for alpha < 1 it is exponential in a power of depth.

    Examples
    --------
    >>> round(deepscale_gradient_bound(2.0, 384), 4), round(deepscale_gradient_bound(2.0, 2000), 4)
    (7.3891, 7.3891)
    """
    return exp(k * (gain - 1) * blocks ** (1 - alpha))


@formula(
    kind="asymptotic",
    source=f"limit of many layers of the correlation recursion of {KEDIA}",
    status="derived",
    symbol="dr/dtau",
    order=1,
    domain="unit blocks, lambda^2 + beta^2 = 1, ReLU, long sequences",
    accuracy=0.04,
    measure="absolute",
    given="48 layers and more",
)
def deepscale_correlation_rate(correlation: Correlation, dropout: Dropout) -> Any:
    r"""Rate of change of the correlation of tokens along a DeepScaleLM stack of unit blocks.

    .. math:: \frac{dr}{d\tau} = (1-p)(1 + k(r)) - 2 r, \quad
              k(r) = \frac{\sqrt{1-r^2} + (\pi - \arccos r)\, r}{\pi}

    Returns
    -------
    Per unit of tau, the sum of beta^2 over layers: 1 for the whole stack at k = 2, alpha = 1, whatever its depth.

    Examples
    --------
    >>> round(deepscale_correlation_rate(0.0, 0.0), 5), deepscale_correlation_rate(1.0, 0.0)
    (1.31831, 0.0)
    """
    kernel = (sqrt(1 - correlation**2) + (pi - acos(correlation)) * correlation) / pi
    return (1 - dropout) * (1 + kernel) - 2 * correlation


@deepscale_correlation_rate.stable
def _(correlation: Correlation, dropout: Dropout) -> Any:
    return (1 - dropout) * (1 + _stable.arc_cosine_1(correlation) / pi) - 2 * correlation


@formula(
    kind="approximation",
    source="the rate above with k(r) = 1/pi + r/2 + (1/2 - 1/pi) r^2, a Riccati equation",
    status="derived",
    symbol="r",
    domain="as the rate's",
    accuracy=0.006,
    measure="absolute",
)
def deepscale_correlation(
    start: Start,
    time: Annotated[
        Any,
        Domain(0, closed_low=True, symbol="tau", typical=(0.1, 3)),
        "sum of beta^2 over layers; 1 after the last one at k = 2, alpha = 1",
    ],
    dropout: Dropout,
) -> Any:
    r"""Correlation of tokens along a DeepScaleLM stack.

    .. math:: r(\tau) = \frac{r_- - w r_+}{1 - w}, \quad w = \frac{r_0 - r_-}{r_0 - r_+} e^{-\tau\sqrt{B^2 - 4AC}}

    Returns
    -------
    r. The roots of A r^2 + B r + C are r_- and r_+, with A = (1-p)(1/2 - 1/pi), B = (1-p)/2 - 2 and C = (1-p)(1 + 1/pi).

    Examples
    --------
    >>> round(deepscale_correlation(0.2, 1.0, 0.0), 3), round(deepscale_correlation(0.2, 1.0, 0.1), 3)
    (0.764, 0.671)
    """
    low, high, root = _riccati(1 - dropout)
    w = (start - low) / (start - high) * exp(-root * time)
    return (low - w * high) / (1 - w)


@formula(
    kind="approximation",
    source="fixed point of the rate above with k(r) = 1/pi + r/2 + (1/2 - 1/pi) r^2",
    status="derived",
    symbol="r*",
    domain="as the rate's",
    accuracy=0.006,
    measure="absolute",
)
def deepscale_correlation_limit(dropout: Dropout) -> Any:
    r"""Limit of the correlation of tokens in a deep stack of unit ReLU blocks; dropout keeps it below 1.

    .. math:: r^* = \frac{-B - \sqrt{B^2 - 4AC}}{2A}

    Returns
    -------
    r*, with A, B and C as in :func:`deepscale_correlation`.

    Examples
    --------
    >>> round(deepscale_correlation_limit(0.0), 12), round(deepscale_correlation_limit(0.1), 4)
    (1.0, 0.8399)
    """
    return _riccati(1 - dropout)[0]


def _riccati(keep: Any) -> tuple[Any, Any, Any]:
    """Roots of A r^2 + B r + C, and the root of its discriminant."""
    a, b, c = keep * (pi - 2) / (2 * pi), keep / 2 - 2, keep * (pi + 1) / pi
    root = sqrt(b**2 - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a), root
