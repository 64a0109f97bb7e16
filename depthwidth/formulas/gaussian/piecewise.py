"""Linear units, ReLU, leaky ReLU and squared ReLU."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Correlation, Domain, formula
from ...mathematics import acos, asin, pi, sqrt
from .. import _stable
from ._domains import KEDIA, QUARTER, Mean, OtherVariance, Variance
from ._normal import density, distribution

Slope = Annotated[Any, Domain(symbol="s", typical=(0.01, 0.5)), "slope below zero"]
_CHO_SAUL = "Cho & Saul 2009, arc-cosine kernel"


# ---- identity ----


@formula(kind="exact", source="Gaussian integral", status="derived", symbol=r"E[f]")
def identity_mean(variance: Variance, mean: Mean = 0) -> Any:
    r"""Mean of a linear unit.

    .. math:: E[x] = \mu

    Returns
    -------
    Units of the activation; shape of the arguments, broadcast.

    Examples
    --------
    >>> identity_mean(2.0, 0.5)
    0.5
    """
    return mean + 0 * variance


@formula(kind="exact", source="Gaussian integral", status="derived", symbol=r"E[f^2]")
def identity_second_moment(variance: Variance, mean: Mean = 0) -> Any:
    r"""Second moment of a linear unit.

    .. math:: E[x^2] = a + \mu^2

    Returns
    -------
    Squared units of the activation; shape of the arguments, broadcast.

    Examples
    --------
    >>> identity_second_moment(2.0, 0.5)
    2.25
    """
    return variance + mean**2


@formula(kind="exact", source="Gaussian integral", status="derived", symbol=r"E[f f]")
def identity_pair_moment(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    r"""Product of a linear unit over two tokens.

    .. math:: E[x y] = \rho \sqrt{ab}

    Returns
    -------
    Squared units of the activation; shape of the arguments, broadcast.

    Examples
    --------
    >>> round(identity_pair_moment(2.0, 0.5, 0.3), 5)
    0.3
    """
    return correlation * sqrt(variance) * sqrt(other_variance)


@formula(kind="exact", source="Gaussian integral", status="derived", symbol=r"E[f'^2]")
def identity_derivative_second_moment(variance: Variance) -> Any:
    r"""Second moment of a linear unit's slope.

    .. math:: E[1] = 1

    Returns
    -------
    A gain, dimensionless; shape of the arguments, broadcast.

    Examples
    --------
    >>> identity_derivative_second_moment(2.0)
    1.0
    """
    return 1 + 0 * variance


@formula(kind="exact", source="Gaussian integral", status="derived", symbol=r"E[f' f']")
def identity_derivative_pair_moment(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    r"""Product of a linear unit's slopes over two tokens.

    .. math:: E[1] = 1

    Returns
    -------
    A gain, dimensionless; shape of the arguments, broadcast.

    Examples
    --------
    >>> identity_derivative_pair_moment(2.0, 0.5, 0.3)
    1.0
    """
    return 1 + 0 * variance * other_variance * correlation


# ---- ReLU, max(x, 0) ----


@formula(kind="exact", source=f"{KEDIA}, authors' code", status="primary", symbol=r"E[f]")
def relu_mean(variance: Variance, mean: Mean = 0) -> Any:
    r"""Mean of a ReLU.

    .. math:: E[f] = \mu\,\Phi(\alpha) + \sqrt a\,\varphi(\alpha), \qquad \alpha = \mu/\sqrt a

    Returns
    -------
    Units of the activation; shape of the arguments, broadcast.

    Notes
    -----
    Phi and phi are the standard normal distribution and density. With zero mean this is the square root of a/(2 pi).

    Examples
    --------
    >>> round(relu_mean(1.0), 5), round(relu_mean(4.0, -1), 5)
    (0.39894, 0.39559)
    """
    alpha = mean / sqrt(variance)
    return mean * distribution(alpha) + sqrt(variance) * density(alpha)


@relu_mean.stable
def _(variance: Variance, mean: Mean) -> Any:
    root = sqrt(variance)
    return root * _stable.partial_moments(-mean / root)[0]


@formula(kind="exact", source=f"{KEDIA}, authors' code", status="primary", symbol=r"E[f^2]")
def relu_second_moment(variance: Variance, mean: Mean = 0) -> Any:
    r"""Second moment of a ReLU.

    .. math:: E[f^2] = (a + \mu^2)\,\Phi(\alpha) + \mu\sqrt a\,\varphi(\alpha), \qquad \alpha = \mu/\sqrt a

    Returns
    -------
    Squared units of the activation; shape of the arguments, broadcast.

    Notes
    -----
    Half the variance at zero mean, which the factor 2 of He initialisation compensates.

    Examples
    --------
    >>> relu_second_moment(1.0)
    0.5
    >>> round(relu_second_moment(1.0, 0.5) - relu_mean(1.0, 0.5) ** 2, 5)
    0.55344
    """
    alpha = mean / sqrt(variance)
    return (variance + mean**2) * distribution(alpha) + mean * sqrt(variance) * density(alpha)


@relu_second_moment.stable
def _(variance: Variance, mean: Mean) -> Any:
    return variance * _stable.partial_moments(-mean / sqrt(variance))[1]


@formula(kind="exact", source=f"{_CHO_SAUL} of order 1", status="rederived", symbol=r"E[f f]")
def relu_pair_moment(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    r"""Product of a ReLU over two tokens.

    .. math:: E[f f] = \frac{\sqrt{ab}}{2\pi}\left(\sqrt{1-\rho^2} + (\pi - \arccos\rho)\,\rho\right)

    Returns
    -------
    Squared units of the activation; shape of the arguments, broadcast.

    Notes
    -----
    Not centred: at zero correlation it is the product of the means. Divided by half the root of ab it is the map of
    correlations k(rho); near rho = 1, k = rho + (2 sqrt(2) / 3 pi)(1 - rho)^(3/2).

    Examples
    --------
    >>> round(2 * relu_pair_moment(1.0, 1.0, 0.5), 5)
    0.609
    """
    arc = sqrt(1 - correlation**2) + (pi - acos(correlation)) * correlation
    return sqrt(variance) * sqrt(other_variance) * arc / (2 * pi)


@relu_pair_moment.stable
def _(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    return sqrt(variance) * sqrt(other_variance) * _stable.arc_cosine_1(correlation) / (2 * pi)


@formula(kind="exact", source=f"{KEDIA}, authors' code", status="primary", symbol=r"E[f'^2]")
def relu_derivative_second_moment(variance: Variance, mean: Mean = 0) -> Any:
    r"""Second moment of a ReLU's slope: the share of units that are on.

    .. math:: E[f'^2] = \Phi(\mu/\sqrt a)

    Returns
    -------
    A gain, dimensionless; shape of the arguments, broadcast.

    Examples
    --------
    >>> relu_derivative_second_moment(3.0)
    0.5
    """
    return distribution(mean / sqrt(variance))


@relu_derivative_second_moment.stable
def _(variance: Variance, mean: Mean) -> Any:
    return _stable.upper_tail(-mean / sqrt(variance))


@formula(kind="exact", source=f"{_CHO_SAUL} of order 0", status="rederived", symbol=r"E[f' f']")
def relu_derivative_pair_moment(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    r"""Product of a ReLU's slopes over two tokens: the share of units that are on for both.

    .. math:: E[f' f'] = \frac14 + \frac{\arcsin\rho}{2\pi}

    Returns
    -------
    A gain, dimensionless; shape of the arguments, broadcast.

    Notes
    -----
    The variances do not matter; they are arguments so that every activation is called alike.

    Examples
    --------
    >>> round(relu_derivative_pair_moment(1.0, 1.0, 0.5), 5)
    0.33333
    """
    return QUARTER + asin(correlation) / (2 * pi) + 0 * variance * other_variance


@relu_derivative_pair_moment.stable
def _(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    return _stable.angle_from_opposite(correlation) / (2 * pi) + 0 * variance * other_variance


# ---- leaky ReLU, max(x, 0) + s min(x, 0) ----


@formula(kind="exact", source="Gaussian integral", status="derived", symbol=r"E[f]")
def leaky_relu_mean(variance: Variance, slope: Slope = 0.01, mean: Mean = 0) -> Any:
    r"""Mean of a leaky ReLU.

    .. math:: E[f] = s\mu + (1-s)\,E[\mathrm{relu}]

    Returns
    -------
    Units of the activation; shape of the arguments, broadcast.

    Notes
    -----
    f(x) = s x + (1 - s) relu(x); the ReLU's mean is :func:`relu_mean`.

    Examples
    --------
    >>> round(leaky_relu_mean(1.0, 0.1), 5)
    0.35905
    """
    return slope * mean + (1 - slope) * relu_mean(variance, mean)


@formula(kind="exact", source="Gaussian integral", status="derived", symbol=r"E[f^2]")
def leaky_relu_second_moment(variance: Variance, slope: Slope = 0.01, mean: Mean = 0) -> Any:
    r"""Second moment of a leaky ReLU.

    .. math:: E[f^2] = s^2(a+\mu^2) + (1-s^2)\,E[\mathrm{relu}^2]

    Returns
    -------
    Squared units of the activation; shape of the arguments, broadcast.

    Notes
    -----
    (1 + s^2) a/2 at zero mean.

    Examples
    --------
    >>> round(leaky_relu_second_moment(1.0, 0.1), 5)
    0.505
    """
    return slope**2 * (variance + mean**2) + (1 - slope**2) * relu_second_moment(variance, mean)


@formula(kind="exact", source="Gaussian integral", status="derived", symbol=r"E[f f]")
def leaky_relu_pair_moment(
    variance: Variance, other_variance: OtherVariance, correlation: Correlation, slope: Slope = 0.01
) -> Any:
    r"""Product of a leaky ReLU over two tokens.

    .. math:: E[f f] = s\rho\sqrt{ab} + (1-s)^2\,E[\mathrm{relu}\,\mathrm{relu}]

    Returns
    -------
    Squared units of the activation; shape of the arguments, broadcast.

    Notes
    -----
    The ReLU's product is :func:`relu_pair_moment`.

    Examples
    --------
    >>> round(leaky_relu_pair_moment(1.0, 1.0, 0.5, 0.1), 5)
    0.29664
    """
    covariance = correlation * sqrt(variance) * sqrt(other_variance)
    return slope * covariance + (1 - slope) ** 2 * relu_pair_moment(variance, other_variance, correlation)


@formula(kind="exact", source="Gaussian integral", status="derived", symbol=r"E[f'^2]")
def leaky_relu_derivative_second_moment(variance: Variance, slope: Slope = 0.01, mean: Mean = 0) -> Any:
    r"""Second moment of a leaky ReLU's slope.

    .. math:: E[f'^2] = s^2 + (1-s^2)\,\Phi(\mu/\sqrt a)

    Returns
    -------
    A gain, dimensionless; shape of the arguments, broadcast.

    Examples
    --------
    >>> round(leaky_relu_derivative_second_moment(1.0, 0.1), 5)
    0.505
    """
    return slope**2 + (1 - slope**2) * relu_derivative_second_moment(variance, mean)


@formula(kind="exact", source="Gaussian integral", status="derived", symbol=r"E[f' f']")
def leaky_relu_derivative_pair_moment(
    variance: Variance, other_variance: OtherVariance, correlation: Correlation, slope: Slope = 0.01
) -> Any:
    r"""Product of a leaky ReLU's slopes over two tokens.

    .. math:: E[f' f'] = s + (1-s)^2\left(\frac14 + \frac{\arcsin\rho}{2\pi}\right)

    Returns
    -------
    A gain, dimensionless; shape of the arguments, broadcast.

    Examples
    --------
    >>> round(leaky_relu_derivative_pair_moment(1.0, 1.0, 0.5, 0.1), 5)
    0.37
    """
    return slope + (1 - slope) ** 2 * relu_derivative_pair_moment(variance, other_variance, correlation)


# ---- squared ReLU, max(x, 0)^2 ----


@formula(kind="exact", source="Gaussian integral", status="derived", symbol=r"E[f]")
def relu2_mean(variance: Variance, mean: Mean = 0) -> Any:
    r"""Mean of a squared ReLU.

    .. math:: E[f] = (a + \mu^2)\,\Phi(\alpha) + \mu\sqrt a\,\varphi(\alpha), \qquad \alpha = \mu/\sqrt a

    Returns
    -------
    Units of the activation; shape of the arguments, broadcast.

    Examples
    --------
    >>> relu2_mean(3.0)
    1.5
    """
    return relu_second_moment(variance, mean)


@formula(kind="exact", source="Gaussian integral", status="derived", symbol=r"E[f^2]")
def relu2_second_moment(variance: Variance, mean: Mean = 0) -> Any:
    r"""Second moment of a squared ReLU.

    .. math:: E[f^2] = (\mu^4 + 6\mu^2 a + 3a^2)\,\Phi(\alpha) + \mu\sqrt a\,(\mu^2 + 5a)\,\varphi(\alpha),
              \qquad \alpha = \mu/\sqrt a

    Returns
    -------
    Squared units of the activation; shape of the arguments, broadcast.

    Notes
    -----
    3 a^2/2 at zero mean.

    Examples
    --------
    >>> relu2_second_moment(2.0)
    6.0
    """
    alpha = mean / sqrt(variance)
    even = mean**4 + 6 * mean**2 * variance + 3 * variance**2
    return even * distribution(alpha) + mean * sqrt(variance) * (mean**2 + 5 * variance) * density(alpha)


@relu2_second_moment.stable
def _(variance: Variance, mean: Mean) -> Any:
    return variance**2 * _stable.partial_moments(-mean / sqrt(variance))[2]


@formula(kind="exact", source=f"{_CHO_SAUL} of order 2", status="rederived", symbol=r"E[f f]")
def relu2_pair_moment(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    r"""Product of a squared ReLU over two tokens.

    .. math:: E[f f] = \frac{ab}{2\pi}\left(3\rho\sqrt{1-\rho^2} + (\pi - \arccos\rho)(1 + 2\rho^2)\right)

    Returns
    -------
    Squared units of the activation; shape of the arguments, broadcast.

    Examples
    --------
    >>> round(relu2_pair_moment(1.0, 1.0, 0.5), 5)
    0.70675
    """
    arc = 3 * correlation * sqrt(1 - correlation**2) + (pi - acos(correlation)) * (1 + 2 * correlation**2)
    return variance * other_variance * arc / (2 * pi)


@relu2_pair_moment.stable
def _(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    return variance * other_variance * _stable.arc_cosine_2(correlation) / (2 * pi)


@formula(kind="exact", source="Gaussian integral", status="derived", symbol=r"E[f'^2]")
def relu2_derivative_second_moment(variance: Variance, mean: Mean = 0) -> Any:
    r"""Second moment of a squared ReLU's slope, 2 relu(x).

    .. math:: E[f'^2] = 4 E[\mathrm{relu}^2]

    Returns
    -------
    Squared units of the input; shape of the arguments, broadcast.

    Notes
    -----
    2 a at zero mean.

    Examples
    --------
    >>> relu2_derivative_second_moment(3.0)
    6.0
    """
    return 4 * relu_second_moment(variance, mean)


@formula(kind="exact", source=f"{_CHO_SAUL} of order 1", status="rederived", symbol=r"E[f' f']")
def relu2_derivative_pair_moment(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    r"""Product of a squared ReLU's slopes over two tokens.

    .. math:: E[f' f'] = \frac{2\sqrt{ab}}{\pi}\left(\sqrt{1-\rho^2} + (\pi - \arccos\rho)\,\rho\right)

    Returns
    -------
    Squared units of the input; shape of the arguments, broadcast.

    Examples
    --------
    >>> round(relu2_derivative_pair_moment(1.0, 1.0, 0.5), 5)
    1.218
    """
    return 4 * relu_pair_moment(variance, other_variance, correlation)
