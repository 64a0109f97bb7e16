"""Moments of activations under Gaussian input: means, second moments, products over two tokens, and those of the slope.

Pre-activations of a wide network are jointly Gaussian. Here x and y are such inputs with variances a and b and correlation
rho; f is the activation and f' its derivative. For each f with a closed form:

=============================  ======================================================  ==========
``*_mean``                     E f(x)                                                  ``mean`` may be given
``*_second_moment``            E f(x)^2, not centred                                   ``mean`` may be given for some
``*_pair_moment``              E f(x) f(y), not centred                                zero mean
``*_derivative_second_moment`` E f'(x)^2: gain of the gradient's variance              ``mean`` may be given for some
``*_derivative_pair_moment``   E f'(x) f'(y): gain of the gradient's covariance        zero mean
=============================  ======================================================  ==========

Gated units f(u) v have moments of the product and of its gradients with respect to u (the gate) and v (the linear part).
Activations without a closed form (SiLU, tanh, GELU by tanh, your own) are in :mod:`depthwidth.layers.activations`.
"""

from __future__ import annotations

from typing import Annotated, Any

from ..formula import Correlation, Domain, formula
from ..mathematics import Constant, acos, asin, atan, erf, exp, pi, sqrt
from . import _stable

_INPUT = "squared units of the input"
Variance = Annotated[Any, Domain(0, symbol="a", unit=_INPUT, typical=(0.1, 5.0))]
OtherVariance = Annotated[Any, Domain(0, symbol="b", unit=_INPUT, typical=(0.1, 5.0))]
Mean = Annotated[Any, Domain(symbol="mu", unit="units of the input", typical=(-2.0, 2.0))]
Slope = Annotated[Any, Domain(symbol="s", typical=(0.01, 0.5))]
LinearVariance = Annotated[Any, Domain(0, symbol="b", unit=_INPUT, typical=(0.1, 5.0))]
GateCorrelation = Annotated[Any, Domain(-1, 1, closed_low=True, closed_high=True, symbol="s", typical=(-0.95, 0.95))]

_CHO_SAUL = "Cho & Saul 2009, arc-cosine kernel"
_WILLIAMS = "Williams 1997, computing with infinite networks"
_KEDIA = "Kedia et al. 2024, arXiv 2403.09635"
_TWO = Constant.of(2)
_QUARTER = Constant.of(1) / 4


def _distribution(z: Any) -> Any:
    return (1 + erf(z / sqrt(_TWO))) / 2


def _density(z: Any) -> Any:
    return exp(-(z**2) / 2) / sqrt(2 * pi)


# ---- identity ----


@formula(kind="exact", source="Gaussian integral", status="derived", symbol=r"E[f]")
def identity_mean(variance: Variance, mean: Mean = 0) -> Any:
    r"""Mean of a linear unit.

    .. math:: E[x] = \mu

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    mean : mu, the mean of x; 0 by default.

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

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    mean : mu, the mean of x; 0 by default.

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

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    other_variance : b, the variance of y. b > 0.
    correlation : rho, between x and y. -1 <= rho <= 1.

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

    Parameters
    ----------
    variance : a, the variance of x. a > 0.

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

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    other_variance : b, the variance of y. b > 0.
    correlation : rho, between x and y. -1 <= rho <= 1.

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


@formula(kind="exact", source=f"{_KEDIA}, authors' code", status="primary", symbol=r"E[f]")
def relu_mean(variance: Variance, mean: Mean = 0) -> Any:
    r"""Mean of a ReLU.

    .. math:: E[f] = \mu\,\Phi(\alpha) + \sqrt a\,\varphi(\alpha), \qquad \alpha = \mu/\sqrt a

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    mean : mu, the mean of x; 0 by default.

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
    return mean * _distribution(alpha) + sqrt(variance) * _density(alpha)


@relu_mean.stable
def _(variance: Variance, mean: Mean) -> Any:
    root = sqrt(variance)
    return root * _stable.partial_moments(-mean / root)[0]


@formula(kind="exact", source=f"{_KEDIA}, authors' code", status="primary", symbol=r"E[f^2]")
def relu_second_moment(variance: Variance, mean: Mean = 0) -> Any:
    r"""Second moment of a ReLU.

    .. math:: E[f^2] = (a + \mu^2)\,\Phi(\alpha) + \mu\sqrt a\,\varphi(\alpha), \qquad \alpha = \mu/\sqrt a

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    mean : mu, the mean of x; 0 by default.

    Returns
    -------
    Squared units of the activation; shape of the arguments, broadcast.

    Notes
    -----
    Half the variance at zero mean, which is what the factor 2 of He initialization makes good.

    Examples
    --------
    >>> relu_second_moment(1.0)
    0.5
    >>> round(relu_second_moment(1.0, 0.5) - relu_mean(1.0, 0.5) ** 2, 5)
    0.55344
    """
    alpha = mean / sqrt(variance)
    return (variance + mean**2) * _distribution(alpha) + mean * sqrt(variance) * _density(alpha)


@relu_second_moment.stable
def _(variance: Variance, mean: Mean) -> Any:
    return variance * _stable.partial_moments(-mean / sqrt(variance))[1]


@formula(kind="exact", source=f"{_CHO_SAUL} of order 1", status="rederived", symbol=r"E[f f]")
def relu_pair_moment(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    r"""Product of a ReLU over two tokens.

    .. math:: E[f f] = \frac{\sqrt{ab}}{2\pi}\left(\sqrt{1-\rho^2} + (\pi - \arccos\rho)\,\rho\right)

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    other_variance : b, the variance of y. b > 0.
    correlation : rho, between x and y. -1 <= rho <= 1.

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


@formula(kind="exact", source=f"{_KEDIA}, authors' code", status="primary", symbol=r"E[f'^2]")
def relu_derivative_second_moment(variance: Variance, mean: Mean = 0) -> Any:
    r"""Second moment of a ReLU's slope: the share of units that are on.

    .. math:: E[f'^2] = \Phi(\mu/\sqrt a)

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    mean : mu, the mean of x; 0 by default.

    Returns
    -------
    A gain, dimensionless; shape of the arguments, broadcast.

    Examples
    --------
    >>> relu_derivative_second_moment(3.0)
    0.5
    """
    return _distribution(mean / sqrt(variance))


@relu_derivative_second_moment.stable
def _(variance: Variance, mean: Mean) -> Any:
    return _stable.upper_tail(-mean / sqrt(variance))


@formula(kind="exact", source=f"{_CHO_SAUL} of order 0", status="rederived", symbol=r"E[f' f']")
def relu_derivative_pair_moment(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    r"""Product of a ReLU's slopes over two tokens: the share of units that are on for both.

    .. math:: E[f' f'] = \frac14 + \frac{\arcsin\rho}{2\pi}

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    other_variance : b, the variance of y. b > 0.
    correlation : rho, between x and y. -1 <= rho <= 1.

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
    return _QUARTER + asin(correlation) / (2 * pi) + 0 * variance * other_variance


@relu_derivative_pair_moment.stable
def _(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    return _stable.angle_from_opposite(correlation) / (2 * pi) + 0 * variance * other_variance


# ---- leaky ReLU, max(x, 0) + s min(x, 0) ----


@formula(kind="exact", source="Gaussian integral", status="derived", symbol=r"E[f]")
def leaky_relu_mean(variance: Variance, slope: Slope = 0.01, mean: Mean = 0) -> Any:
    r"""Mean of a leaky ReLU.

    .. math:: E[f] = s\mu + (1-s)\,E[\mathrm{relu}]

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    slope : s, the slope below zero; 0.01 by default.
    mean : mu, the mean of x; 0 by default.

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

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    slope : s, the slope below zero; 0.01 by default.
    mean : mu, the mean of x; 0 by default.

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

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    other_variance : b, the variance of y. b > 0.
    correlation : rho, between x and y. -1 <= rho <= 1.
    slope : s, the slope below zero; 0.01 by default.

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

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    slope : s, the slope below zero; 0.01 by default.
    mean : mu, the mean of x; 0 by default.

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

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    other_variance : b, the variance of y. b > 0.
    correlation : rho, between x and y. -1 <= rho <= 1.
    slope : s, the slope below zero; 0.01 by default.

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

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    mean : mu, the mean of x; 0 by default.

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

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    mean : mu, the mean of x; 0 by default.

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
    return even * _distribution(alpha) + mean * sqrt(variance) * (mean**2 + 5 * variance) * _density(alpha)


@relu2_second_moment.stable
def _(variance: Variance, mean: Mean) -> Any:
    return variance**2 * _stable.partial_moments(-mean / sqrt(variance))[2]


@formula(kind="exact", source=f"{_CHO_SAUL} of order 2", status="rederived", symbol=r"E[f f]")
def relu2_pair_moment(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    r"""Product of a squared ReLU over two tokens.

    .. math:: E[f f] = \frac{ab}{2\pi}\left(3\rho\sqrt{1-\rho^2} + (\pi - \arccos\rho)(1 + 2\rho^2)\right)

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    other_variance : b, the variance of y. b > 0.
    correlation : rho, between x and y. -1 <= rho <= 1.

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

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    mean : mu, the mean of x; 0 by default.

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

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    other_variance : b, the variance of y. b > 0.
    correlation : rho, between x and y. -1 <= rho <= 1.

    Returns
    -------
    Squared units of the input; shape of the arguments, broadcast.

    Examples
    --------
    >>> round(relu2_derivative_pair_moment(1.0, 1.0, 0.5), 5)
    1.218
    """
    return 4 * relu_pair_moment(variance, other_variance, correlation)


# ---- GELU, x Phi(x) with the normal distribution function (the erf form) ----


@formula(kind="exact", source=f"{_KEDIA}, authors' code at zero mean; derived otherwise", status="derived", symbol=r"E[f]")
def gelu_mean(variance: Variance, mean: Mean = 0) -> Any:
    r"""Mean of a GELU.

    .. math:: E[f] = \mu\,\Phi(\beta) + \frac{a}{\sqrt{1+a}}\,\varphi(\beta), \qquad \beta = \frac{\mu}{\sqrt{1+a}}

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    mean : mu, the mean of x; 0 by default.

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
    return mean * _distribution(beta) + variance / sqrt(1 + variance) * _density(beta)


@gelu_mean.stable
def _(variance: Variance, mean: Mean) -> Any:
    root = sqrt(1 + variance)
    beta = mean / root
    near = mean * _stable.upper_tail(-beta) + variance / root * _stable.density(beta)
    far = root * _stable.partial_moments(-beta)[0] - _stable.density(beta) / root
    return _stable.choose(beta > -2, near, far)


@formula(kind="exact", source=f"{_KEDIA}, authors' code", status="primary", symbol=r"E[f^2]")
def gelu_second_moment(variance: Variance) -> Any:
    r"""Second moment of a GELU.

    .. math:: E[f^2] = \frac a4 + \frac{a}{2\pi}\arctan\frac{a}{\sqrt{1+2a}} + \frac{a^2}{\pi(1+a)\sqrt{1+2a}}

    Parameters
    ----------
    variance : a, the variance of x. a > 0.

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
    kind="exact", source=f"{_KEDIA}, authors' code at equal variances; derived otherwise", status="derived", symbol=r"E[f f]"
)
def gelu_pair_moment(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    r"""Product of a GELU over two tokens.

    .. math:: E[f f] = \frac c4 + \frac{c}{2\pi}\arcsin\frac{c}{\sqrt{(1+a)(1+b)}} + \frac{ab + k c^2}{2\pi\sqrt D},
              \quad c = \rho\sqrt{ab},\; k = \tfrac1{1+a} + \tfrac1{1+b} - 1,\; D = (1+a)(1+b) - c^2

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    other_variance : b, the variance of y. b > 0.
    correlation : rho, between x and y. -1 <= rho <= 1.

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


@formula(kind="exact", source=f"{_KEDIA}, authors' code", status="primary", symbol=r"E[f'^2]")
def gelu_derivative_second_moment(variance: Variance) -> Any:
    r"""Second moment of a GELU's slope.

    .. math:: E[f'^2] = \frac14 + \frac{1}{2\pi}\arctan\frac{a}{\sqrt{1+2a}}
              + \frac{a}{2\pi\sqrt{1+2a}}\left(\frac{2}{1+a} + \frac{1}{1+2a}\right)

    Parameters
    ----------
    variance : a, the variance of x. a > 0.

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
    return _QUARTER + atan(a / root) / (2 * pi) + a / (2 * pi * root) * (2 / (1 + a) + 1 / (1 + 2 * a))


@formula(
    kind="exact", source=f"{_KEDIA}, authors' code at equal variances; derived otherwise", status="derived", symbol=r"E[f' f']"
)
def gelu_derivative_pair_moment(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    r"""Product of a GELU's slopes over two tokens.

    .. math:: E[f' f'] = \frac14 + \frac{1}{2\pi}\arctan\frac{c}{\sqrt D}
              + \frac{c}{2\pi\sqrt D}\left(\frac1{1+a} + \frac1{1+b} + \frac1D\right),
              \quad c = \rho\sqrt{ab},\; D = (1+a)(1+b) - c^2

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    other_variance : b, the variance of y. b > 0.
    correlation : rho, between x and y. -1 <= rho <= 1.

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
    return _QUARTER + atan(c / sqrt(D)) / (2 * pi) + c / (2 * pi * sqrt(D)) * (1 / (1 + a) + 1 / (1 + b) + 1 / D)


@gelu_derivative_pair_moment.stable
def _(variance: Variance, other_variance: OtherVariance, correlation: Correlation) -> Any:
    return _stable.gelu_derivative_pair(variance, other_variance, correlation)


# ---- erf ----


@formula(kind="exact", source="Gaussian integral", status="derived", symbol=r"E[f]")
def erf_mean(variance: Variance, mean: Mean = 0) -> Any:
    r"""Mean of an error function.

    .. math:: E[f] = \mathrm{erf}\frac{\mu}{\sqrt{1+2a}}

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    mean : mu, the mean of x; 0 by default.

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

    Parameters
    ----------
    variance : a, the variance of x. a > 0.

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

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    other_variance : b, the variance of y. b > 0.
    correlation : rho, between x and y. -1 <= rho <= 1.

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

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    mean : mu, the mean of x; 0 by default.

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

    Parameters
    ----------
    variance : a, the variance of x. a > 0.
    other_variance : b, the variance of y. b > 0.
    correlation : rho, between x and y. -1 <= rho <= 1.

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


# ---- ReGLU, relu(u) v, and GEGLU, gelu(u) v ----


@formula(kind="exact", source="Stein's lemma", status="derived", symbol=r"E[f v]")
def reglu_mean(variance: Variance, linear_variance: LinearVariance, gate_correlation: GateCorrelation = 0) -> Any:
    r"""Mean of a ReGLU unit, relu(u) v.

    .. math:: E[f(u)\,v] = \frac{s\sqrt{ab}}{2}

    Parameters
    ----------
    variance : a, the variance of u, the gate's input. a > 0.
    linear_variance : b, the variance of v. b > 0.
    gate_correlation : s, between u and v of one token; 0, separate weights, by default.

    Returns
    -------
    Squared units of the activation; shape of the arguments, broadcast.

    Notes
    -----
    v is s sqrt(b/a) u plus an independent part.

    Examples
    --------
    >>> reglu_mean(1.0, 4.0, 0.5)
    0.5
    """
    return gate_correlation * sqrt(variance) * sqrt(linear_variance) / 2


@formula(kind="exact", source="Stein's lemma", status="derived", symbol=r"E[f^2 v^2]")
def reglu_second_moment(variance: Variance, linear_variance: LinearVariance, gate_correlation: GateCorrelation = 0) -> Any:
    r"""Second moment of a ReGLU unit, relu(u) v.

    .. math:: E[f(u)^2 v^2] = ab\left(\frac12 + s^2\right)

    Parameters
    ----------
    variance : a, the variance of u, the gate's input. a > 0.
    linear_variance : b, the variance of v. b > 0.
    gate_correlation : s, between u and v of one token; 0, separate weights, by default.

    Returns
    -------
    Fourth power of the input's units; shape of the arguments, broadcast.

    Notes
    -----
    v is s sqrt(b/a) u plus an independent part.

    Examples
    --------
    >>> reglu_second_moment(1.0, 4.0)
    2.0
    """
    return variance * linear_variance * (2 * _QUARTER + gate_correlation**2)


@formula(kind="exact", source="Gaussian conditioning", status="derived", symbol=r"E[f v f v]")
def reglu_pair_moment(
    variance: Variance, linear_variance: LinearVariance, correlation: Correlation, gate_correlation: GateCorrelation = 0
) -> Any:
    r"""Product of a ReGLU unit over two tokens.

    .. math:: E[f v f v] = s^2 \frac ba E[\mathrm{relu}^2\,\mathrm{relu}^2] + (1-s^2)\, b\rho\, E[\mathrm{relu}\,\mathrm{relu}]

    Parameters
    ----------
    variance : a, the variance of u, the gate's input. a > 0.
    linear_variance : b, the variance of v. b > 0.
    correlation : rho, between two tokens, the same for u and for v. -1 <= rho <= 1.
    gate_correlation : s, between u and v of one token; 0, separate weights, by default.

    Returns
    -------
    Fourth power of the input's units; shape of the arguments, broadcast.

    Notes
    -----
    v is s sqrt(b/a) u plus an independent part. Both parts have the same correlation rho between
    two tokens, as linear maps of the same vectors do; the cross-covariance of u and v over two tokens is then s rho sqrt(ab).

    Examples
    --------
    >>> round(reglu_pair_moment(1.0, 1.0, 0.5), 5)
    0.15225
    """
    squares = relu2_pair_moment(variance, variance, correlation) * linear_variance / variance
    products = relu_pair_moment(variance, variance, correlation) * linear_variance * correlation
    return gate_correlation**2 * squares + (1 - gate_correlation**2) * products


@formula(kind="exact", source="Gaussian symmetry", status="derived", symbol=r"E[f'^2 v^2]")
def reglu_gate_gradient_second_moment(
    variance: Variance, linear_variance: LinearVariance, gate_correlation: GateCorrelation = 0
) -> Any:
    r"""Second moment of a ReGLU's derivative by its gate input, relu'(u) v.

    .. math:: E[f'(u)^2 v^2] = \frac b2

    Parameters
    ----------
    variance : a, the variance of u, the gate's input. a > 0.
    linear_variance : b, the variance of v. b > 0.
    gate_correlation : s, between u and v of one token; 0, separate weights, by default.

    Returns
    -------
    Squared units of the input; shape of the arguments, broadcast.

    Notes
    -----
    The derivative by v is the gate's own value: use :func:`relu_second_moment` and :func:`relu_pair_moment` for it.

    Examples
    --------
    >>> reglu_gate_gradient_second_moment(1.0, 4.0)
    2.0
    """
    return linear_variance / 2 + 0 * variance * gate_correlation


@formula(kind="exact", source="Gaussian conditioning", status="derived", symbol=r"E[f' v f' v]")
def reglu_gate_gradient_pair_moment(
    variance: Variance, linear_variance: LinearVariance, correlation: Correlation, gate_correlation: GateCorrelation = 0
) -> Any:
    r"""Product over two tokens of a ReGLU's derivatives by its gate input.

    .. math:: E[f' v f' v] = s^2\frac ba E[\mathrm{relu}\,\mathrm{relu}]
              + (1-s^2)\, b\rho\left(\frac14 + \frac{\arcsin\rho}{2\pi}\right)

    Parameters
    ----------
    variance : a, the variance of u, the gate's input. a > 0.
    linear_variance : b, the variance of v. b > 0.
    correlation : rho, between two tokens, the same for u and for v. -1 <= rho <= 1.
    gate_correlation : s, between u and v of one token; 0, separate weights, by default.

    Returns
    -------
    Squared units of the input; shape of the arguments, broadcast.

    Notes
    -----
    v is s sqrt(b/a) u plus an independent part.

    Examples
    --------
    >>> round(reglu_gate_gradient_pair_moment(1.0, 1.0, 0.5), 5)
    0.16667
    """
    values = relu_pair_moment(variance, variance, correlation) * linear_variance / variance
    slopes = relu_derivative_pair_moment(variance, variance, correlation) * linear_variance * correlation
    return gate_correlation**2 * values + (1 - gate_correlation**2) * slopes


@formula(kind="exact", source="Stein's lemma", status="derived", symbol=r"E[f v]")
def geglu_mean(variance: Variance, linear_variance: LinearVariance, gate_correlation: GateCorrelation = 0) -> Any:
    r"""Mean of a GEGLU unit, gelu(u) v.

    .. math:: E[f(u)\,v] = \frac{s\sqrt{ab}}{2}

    Parameters
    ----------
    variance : a, the variance of u, the gate's input. a > 0.
    linear_variance : b, the variance of v. b > 0.
    gate_correlation : s, between u and v of one token; 0, separate weights, by default.

    Returns
    -------
    Squared units of the activation; shape of the arguments, broadcast.

    Notes
    -----
    v is s sqrt(b/a) u plus an independent part. As for ReGLU: both slopes average 1/2.

    Examples
    --------
    >>> geglu_mean(1.0, 4.0, 0.5)
    0.5
    """
    return gate_correlation * sqrt(variance) * sqrt(linear_variance) / 2


@formula(kind="exact", source="Stein's lemma", status="derived", symbol=r"E[f^2 v^2]")
def geglu_second_moment(variance: Variance, linear_variance: LinearVariance, gate_correlation: GateCorrelation = 0) -> Any:
    r"""Second moment of a GEGLU unit, gelu(u) v.

    .. math:: E[f(u)^2 v^2] = b\left(M + 2 s^2 a \frac{dM}{da}\right), \qquad M(a) = E[f(u)^2]

    Parameters
    ----------
    variance : a, the variance of u, the gate's input. a > 0.
    linear_variance : b, the variance of v. b > 0.
    gate_correlation : s, between u and v of one token; 0, separate weights, by default.

    Returns
    -------
    Fourth power of the input's units; shape of the arguments, broadcast.

    Notes
    -----
    v is s sqrt(b/a) u plus an independent part. M is :func:`gelu_second_moment`; E u^2 h(u) = a E h + 2 a^2 dE h/da for any h.

    Examples
    --------
    >>> round(geglu_second_moment(1.0, 2.0), 5)
    0.85044
    """
    a, root = variance, sqrt(1 + 2 * variance)
    # dM/da, with d/da arctan(a / sqrt(1 + 2a)) = 1 / ((1 + a) sqrt(1 + 2a))
    half_angle = _QUARTER + atan(a / root) / (2 * pi)
    rise = half_angle + a / (pi * (1 + a) * root) * (10 * _QUARTER - a / (1 + a) - a / (1 + 2 * a))
    return linear_variance * (gelu_second_moment(a) + 2 * gate_correlation**2 * a * rise)


@formula(kind="exact", source="Gaussian conditioning", status="derived", symbol=r"E[f v f v]")
def geglu_pair_moment(variance: Variance, linear_variance: LinearVariance, correlation: Correlation) -> Any:
    r"""Product of a GEGLU unit over two tokens, gate and linear part independent.

    .. math:: E[f v f v] = b\rho\, E[\mathrm{gelu}\,\mathrm{gelu}]

    Parameters
    ----------
    variance : a, the variance of u, the gate's input. a > 0.
    linear_variance : b, the variance of v. b > 0.
    correlation : rho, between two tokens, the same for u and for v. -1 <= rho <= 1.

    Returns
    -------
    Fourth power of the input's units; shape of the arguments, broadcast.

    Notes
    -----
    A correlated linear part: :func:`depthwidth.layers.activations.gated`.

    Examples
    --------
    >>> round(geglu_pair_moment(1.0, 2.0, 0.5), 5)
    0.22729
    """
    return linear_variance * correlation * gelu_pair_moment(variance, variance, correlation)


@formula(kind="exact", source="Stein's lemma", status="derived", symbol=r"E[f'^2 v^2]")
def geglu_gate_gradient_second_moment(
    variance: Variance, linear_variance: LinearVariance, gate_correlation: GateCorrelation = 0
) -> Any:
    r"""Second moment of a GEGLU's derivative by its gate input, gelu'(u) v.

    .. math:: E[f'(u)^2 v^2] = b\left(M' + 2 s^2 a \frac{dM'}{da}\right), \qquad M'(a) = E[f'(u)^2]

    Parameters
    ----------
    variance : a, the variance of u, the gate's input. a > 0.
    linear_variance : b, the variance of v. b > 0.
    gate_correlation : s, between u and v of one token; 0, separate weights, by default.

    Returns
    -------
    Squared units of the input; shape of the arguments, broadcast.

    Notes
    -----
    The derivative by v is the gate's own value: use :func:`gelu_second_moment` and :func:`gelu_pair_moment` for it.

    Examples
    --------
    >>> round(geglu_gate_gradient_second_moment(1.0, 2.0), 5)
    0.9117
    """
    a, root = variance, sqrt(1 + 2 * variance)
    rise = (1 / (1 + a) + 2 / (1 + a) ** 2 - 2 * a / ((1 + a) * root**2) + (1 - a) / root**4) / (2 * pi * root)
    return linear_variance * (gelu_derivative_second_moment(a) + 2 * gate_correlation**2 * a * rise)


@formula(kind="exact", source="Gaussian conditioning", status="derived", symbol=r"E[f' v f' v]")
def geglu_gate_gradient_pair_moment(variance: Variance, linear_variance: LinearVariance, correlation: Correlation) -> Any:
    r"""Product over two tokens of a GEGLU's derivatives by its gate input, gate and linear part independent.

    .. math:: E[f' v f' v] = b\rho\, E[\mathrm{gelu}'\,\mathrm{gelu}']

    Parameters
    ----------
    variance : a, the variance of u, the gate's input. a > 0.
    linear_variance : b, the variance of v. b > 0.
    correlation : rho, between two tokens, the same for u and for v. -1 <= rho <= 1.

    Returns
    -------
    Squared units of the input; shape of the arguments, broadcast.

    Notes
    -----
    A correlated linear part: :func:`depthwidth.layers.activations.gated`.

    Examples
    --------
    >>> round(geglu_gate_gradient_pair_moment(1.0, 2.0, 0.5), 5)
    0.34227
    """
    return linear_variance * correlation * gelu_derivative_pair_moment(variance, variance, correlation)
