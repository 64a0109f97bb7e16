"""GELU by the normal distribution function, and erf."""

from __future__ import annotations

from typing import Any

from ...formula import Correlation, formula
from ...mathematics import asin, atan, erf, exp, pi, sqrt
from .. import _stable
from ._domains import KEDIA, QUARTER, Mean, OtherVariance, Variance
from ._normal import density, distribution

_WILLIAMS = "Williams 1997, computing with infinite networks"


# ---- GELU, x Phi(x) with the normal distribution function (the erf form) ----


@formula(kind="exact", source=f"{KEDIA}, authors' code at zero mean; derived otherwise", status="derived", symbol=r"E[f]")
def gelu_mean(variance: Variance, mean: Mean = 0) -> Any:
    r"""Mean of a GELU.

    .. math:: E[f] = \mu\,\Phi(\beta) + \frac{a}{\sqrt{1+a}}\,\varphi(\beta), \qquad \beta = \frac{\mu}{\sqrt{1+a}}

    Returns
    -------
    Units of the activation; shape of the arguments, broadcast.

    Notes
    -----
    a over the square root of 2 pi (1 + a) at zero mean.

    Examples
    --------
    >>> round(gelu_mean(1.0), 5)
    0.28209
    """
    beta = mean / sqrt(1 + variance)
    return mean * distribution(beta) + variance / sqrt(1 + variance) * density(beta)


@gelu_mean.stable
def _(variance: Variance, mean: Mean) -> Any:
    root = sqrt(1 + variance)
    beta = mean / root
    near = mean * _stable.upper_tail(-beta) + variance / root * _stable.density(beta)
    far = root * _stable.partial_moments(-beta)[0] - _stable.density(beta) / root
    return _stable.choose(beta > -2, near, far)


@formula(kind="exact", source=f"{KEDIA}, authors' code", status="primary", symbol=r"E[f^2]")
def gelu_second_moment(variance: Variance) -> Any:
    r"""Second moment of a GELU.

    .. math:: E[f^2] = \frac a4 + \frac{a}{2\pi}\arctan\frac{a}{\sqrt{1+2a}} + \frac{a^2}{\pi(1+a)\sqrt{1+2a}}

    Returns
    -------
    Squared units of the activation; shape of the arguments, broadcast.

    Notes
    -----
    The authors write arcsin(a/(1+a)), which is the same angle. GELU is not homogeneous: the result is not proportional to a.

    Examples
    --------
    >>> round(gelu_second_moment(1.0), 5)
    0.42522
    """
    root = sqrt(1 + 2 * variance)
    return variance / 4 + variance * atan(variance / root) / (2 * pi) + variance**2 / (pi * (1 + variance) * root)


@formula(
    kind="exact", source=f"{KEDIA}, authors' code at equal variances; derived otherwise", status="derived", symbol=r"E[f f]"
)
def gelu_pair_moment(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    r"""Product of a GELU over two tokens.

    .. math:: E[f f] = \frac c4 + \frac{c}{2\pi}\arcsin\frac{c}{\sqrt{(1+a)(1+b)}} + \frac{ab + k c^2}{2\pi\sqrt D},
              \quad c = \rho\sqrt{ab},\; k = \tfrac1{1+a} + \tfrac1{1+b} - 1,\; D = (1+a)(1+b) - c^2

    Returns
    -------
    Squared units of the activation; shape of the arguments, broadcast.

    Notes
    -----
    Stein's lemma, twice, on x Phi(x) y Phi(y).

    Examples
    --------
    >>> round(gelu_pair_moment(1.0, 1.0, 0.5), 5)
    0.22729
    """
    a, b = variance, other_variance
    c = correlation * sqrt(a) * sqrt(b)
    D, k = (1 + a) * (1 + b) - c**2, 1 / (1 + a) + 1 / (1 + b) - 1
    angle = asin(c / sqrt((1 + a) * (1 + b)))
    return c / 4 + c * angle / (2 * pi) + (a * b + k * c**2) / (2 * pi * sqrt(D))


@gelu_pair_moment.stable
def _(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    return _stable.gelu_pair(variance, other_variance, correlation)


@formula(kind="exact", source=f"{KEDIA}, authors' code", status="primary", symbol=r"E[f'^2]")
def gelu_derivative_second_moment(variance: Variance) -> Any:
    r"""Second moment of a GELU's slope.

    .. math:: E[f'^2] = \frac14 + \frac{1}{2\pi}\arctan\frac{a}{\sqrt{1+2a}}
              + \frac{a}{2\pi\sqrt{1+2a}}\left(\frac{2}{1+a} + \frac{1}{1+2a}\right)

    Returns
    -------
    A gain, dimensionless; shape of the arguments, broadcast.

    Notes
    -----
    Exceeds 1/2 for wide inputs, as the slope itself exceeds 1.

    Examples
    --------
    >>> round(gelu_derivative_second_moment(1.0), 5)
    0.45585
    """
    a, root = variance, sqrt(1 + 2 * variance)
    return QUARTER + atan(a / root) / (2 * pi) + a / (2 * pi * root) * (2 / (1 + a) + 1 / (1 + 2 * a))


@formula(
    kind="exact", source=f"{KEDIA}, authors' code at equal variances; derived otherwise", status="derived", symbol=r"E[f' f']"
)
def gelu_derivative_pair_moment(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    r"""Product of a GELU's slopes over two tokens.

    .. math:: E[f' f'] = \frac14 + \frac{1}{2\pi}\arctan\frac{c}{\sqrt D}
              + \frac{c}{2\pi\sqrt D}\left(\frac1{1+a} + \frac1{1+b} + \frac1D\right),
              \quad c = \rho\sqrt{ab},\; D = (1+a)(1+b) - c^2

    Returns
    -------
    A gain, dimensionless; shape of the arguments, broadcast.

    Notes
    -----
    Price's theorem: the derivative of :func:`gelu_pair_moment` by c.

    Examples
    --------
    >>> round(gelu_derivative_pair_moment(1.0, 1.0, 0.5), 5)
    0.34227
    """
    a, b = variance, other_variance
    c = correlation * sqrt(a) * sqrt(b)
    D = (1 + a) * (1 + b) - c**2
    return QUARTER + atan(c / sqrt(D)) / (2 * pi) + c / (2 * pi * sqrt(D)) * (1 / (1 + a) + 1 / (1 + b) + 1 / D)


@gelu_derivative_pair_moment.stable
def _(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    return _stable.gelu_derivative_pair(variance, other_variance, correlation)


# ---- erf ----


@formula(kind="exact", source="Gaussian integral", status="derived", symbol=r"E[f]")
def erf_mean(variance: Variance, mean: Mean = 0) -> Any:
    r"""Mean of an error function.

    .. math:: E[f] = \mathrm{erf}\frac{\mu}{\sqrt{1+2a}}

    Returns
    -------
    Units of the activation; shape of the arguments, broadcast.

    Examples
    --------
    >>> round(erf_mean(1.0, 0.5), 5)
    0.31691
    """
    return erf(mean / sqrt(1 + 2 * variance))


@formula(kind="exact", source=f"{_WILLIAMS}", status="rederived", symbol=r"E[f^2]")
def erf_second_moment(variance: Variance) -> Any:
    r"""Second moment of an error function.

    .. math:: E[f^2] = \frac2\pi \arctan\frac{2a}{\sqrt{1+4a}}

    Returns
    -------
    Squared units of the activation; shape of the arguments, broadcast.

    Notes
    -----
    Usually written as arcsin(2a/(1+2a)), the same angle.

    Examples
    --------
    >>> round(erf_second_moment(1.0), 5)
    0.46456
    """
    return 2 * atan(2 * variance / sqrt(1 + 4 * variance)) / pi


@formula(kind="exact", source=f"{_WILLIAMS}", status="rederived", symbol=r"E[f f]")
def erf_pair_moment(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    r"""Product of an error function over two tokens.

    .. math:: E[f f] = \frac2\pi \arctan\frac{2c}{\sqrt{1 + 2a + 2b + 4ab(1-\rho^2)}}, \qquad c = \rho\sqrt{ab}

    Returns
    -------
    Squared units of the activation; shape of the arguments, broadcast.

    Notes
    -----
    Usually written as arcsin(2c / sqrt((1+2a)(1+2b))), the same angle.

    Examples
    --------
    >>> round(erf_pair_moment(1.0, 1.0, 0.5), 5)
    0.21635
    """
    a, b = variance, other_variance
    c = correlation * sqrt(a) * sqrt(b)
    D = 1 + 2 * a + 2 * b + 4 * a * b * (1 - correlation) * (1 + correlation)
    return 2 * atan(2 * c / sqrt(D)) / pi


@formula(kind="exact", source="Gaussian integral", status="derived", symbol=r"E[f'^2]")
def erf_derivative_second_moment(variance: Variance, mean: Mean = 0) -> Any:
    r"""Second moment of an error function's slope.

    .. math:: E[f'^2] = \frac{4}{\pi\sqrt{1+4a}}\; e^{-2\mu^2/(1+4a)}

    Returns
    -------
    A gain, dimensionless; shape of the arguments, broadcast.

    Examples
    --------
    >>> round(erf_derivative_second_moment(1.0), 5)
    0.56941
    """
    return 4 * exp(-2 * mean**2 / (1 + 4 * variance)) / (pi * sqrt(1 + 4 * variance))


@formula(kind="exact", source="Gaussian integral", status="derived", symbol=r"E[f' f']")
def erf_derivative_pair_moment(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    r"""Product of an error function's slopes over two tokens.

    .. math:: E[f' f'] = \frac{4}{\pi\sqrt{1 + 2a + 2b + 4ab(1-\rho^2)}}

    Returns
    -------
    A gain, dimensionless; shape of the arguments, broadcast.

    Examples
    --------
    >>> round(erf_derivative_pair_moment(1.0, 1.0, 0.5), 5)
    0.45016
    """
    a, b = variance, other_variance
    return 4 / (pi * sqrt(1 + 2 * a + 2 * b + 4 * a * b * (1 - correlation) * (1 + correlation)))
