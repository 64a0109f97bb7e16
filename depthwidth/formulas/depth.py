"""Laws of depth: what a stack of equal residual blocks does to the moments of a signal and of its gradient.

Symbols as in :mod:`.moments`: q and c are second moment and covariance of the stream, r = c/q its correlation between tokens,
gamma the gradient's second moment, p dropout, lambda and beta the factors on skip and branch, N a number of layers or blocks.
``depthwidth.propagation`` walks real trees; these say in one line what the walk comes to.
"""

from __future__ import annotations

from typing import Annotated, Any

from ..formula import Domain, formula

HiddenRatio = Annotated[Any, Domain(0, symbol="m", typical=(1, 8))]


@formula(
    kind="asymptotic",
    source="second moment of the squared singular values of a product of Gaussian matrices around a diagonal",
    status="derived",
    symbol="mu_2",
    order=1,
    domain="width to infinity",
)
def feed_forward_matrix_moment(
    ratio: HiddenRatio,
    slope_kurtosis: Annotated[Any, Domain(1, closed_low=True, symbol="kappa_s", typical=(1, 3))] = 2,
) -> Any:
    r"""How unevenly a plain feed-forward part stretches directions: tr (J J')^2 / d over (tr J J' / d)^2.

    .. math:: \mu_2 = 2 + \frac{\kappa_s}{m}

    Parameters
    ----------
    ratio : m, hidden features over width.
    slope_kurtosis : E f'^4 / (E f'^2)^2; 2 for ReLU, whose slope is 0 or 1, and 1 for a linear map.

    Returns
    -------
    mu_2; 3 for two square matrices in a row, as in attention, where m = 1 and the slope is 1.

    Examples
    --------
    >>> feed_forward_matrix_moment(4), feed_forward_matrix_moment(1, 1)
    (2.5, 3.0)
    """
    return 2 + slope_kurtosis / ratio


@formula(
    kind="asymptotic",
    source="variance of the squared length of a random feed-forward part's output",
    status="derived",
    symbol="omega",
    order=1,
    domain="width to infinity",
)
def feed_forward_matrix_spread(
    ratio: HiddenRatio,
    kurtosis: Annotated[Any, Domain(1, closed_low=True, symbol="kappa_4", typical=(2, 8))] = 6,
) -> Any:
    r"""How much the size of a feed-forward part's output varies between draws of its weights: d times the relative variance.

    .. math:: \omega = 2 + \frac{\kappa_4 - 1}{m}

    Parameters
    ----------
    ratio : m, hidden features over width.
    kurtosis : E f^4 / (E f^2)^2 of the hidden features; 6 for ReLU, 3 for a linear map.

    Returns
    -------
    omega; 4 for two square matrices in a row, as in attention, where m = 1 and the kurtosis is 3.

    Examples
    --------
    >>> feed_forward_matrix_spread(4), feed_forward_matrix_spread(1, 3)
    (3.25, 4.0)
    """
    return 2 + (kurtosis - 1) / ratio
