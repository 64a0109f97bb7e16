"""Gated units: ReGLU, relu(u) v, and GEGLU, gelu(u) v."""

from __future__ import annotations

from typing import Annotated, Any

from ...formula import Correlation, Domain, formula
from ...mathematics import atan, pi, sqrt
from ._domains import INPUT, QUARTER, Variance
from .piecewise import relu2_pair_moment, relu_derivative_pair_moment, relu_pair_moment
from .smooth import gelu_derivative_pair_moment, gelu_derivative_second_moment, gelu_pair_moment, gelu_second_moment

LinearVariance = Annotated[Any, Domain(0, symbol="b", unit=INPUT, typical=(0.1, 5.0)), "variance of v, the linear part"]
GateCorrelation = Annotated[
    Any,
    Domain(-1, 1, closed_low=True, closed_high=True, symbol="s", typical=(-0.95, 0.95)),
    "correlation of u and v of one token; 0 for separate weights",
]
GateVariance = Annotated[Variance, "variance of u, the gate's input"]
PairCorrelation = Annotated[Correlation, "correlation between two tokens, the same for u and for v"]


# ---- ReGLU, relu(u) v, and GEGLU, gelu(u) v ----


@formula(kind="exact", source="Stein's lemma", status="derived", symbol=r"E[f v]")
def reglu_mean(variance: GateVariance, linear_variance: LinearVariance, gate_correlation: GateCorrelation = 0) -> Any:
    r"""Mean of a ReGLU unit, relu(u) v.

    .. math:: E[f(u)\,v] = \frac{s\sqrt{ab}}{2}

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
def reglu_second_moment(variance: GateVariance, linear_variance: LinearVariance, gate_correlation: GateCorrelation = 0) -> Any:
    r"""Second moment of a ReGLU unit, relu(u) v.

    .. math:: E[f(u)^2 v^2] = ab\left(\frac12 + s^2\right)

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
    return variance * linear_variance * (2 * QUARTER + gate_correlation**2)


@formula(kind="exact", source="Gaussian conditioning", status="derived", symbol=r"E[f v f v]")
def reglu_pair_moment(
    variance: GateVariance, linear_variance: LinearVariance, correlation: PairCorrelation, gate_correlation: GateCorrelation = 0
) -> Any:
    r"""Product of a ReGLU unit over two tokens.

    .. math:: E[f v f v] = s^2 \frac ba E[\mathrm{relu}^2\,\mathrm{relu}^2] + (1-s^2)\, b\rho\, E[\mathrm{relu}\,\mathrm{relu}]

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
    variance: GateVariance, linear_variance: LinearVariance, gate_correlation: GateCorrelation = 0
) -> Any:
    r"""Second moment of a ReGLU's derivative by its gate input, relu'(u) v.

    .. math:: E[f'(u)^2 v^2] = \frac b2

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
    variance: GateVariance, linear_variance: LinearVariance, correlation: PairCorrelation, gate_correlation: GateCorrelation = 0
) -> Any:
    r"""Product over two tokens of a ReGLU's derivatives by its gate input.

    .. math:: E[f' v f' v] = s^2\frac ba E[\mathrm{relu}\,\mathrm{relu}]
              + (1-s^2)\, b\rho\left(\frac14 + \frac{\arcsin\rho}{2\pi}\right)

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
def geglu_mean(variance: GateVariance, linear_variance: LinearVariance, gate_correlation: GateCorrelation = 0) -> Any:
    r"""Mean of a GEGLU unit, gelu(u) v.

    .. math:: E[f(u)\,v] = \frac{s\sqrt{ab}}{2}

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
def geglu_second_moment(variance: GateVariance, linear_variance: LinearVariance, gate_correlation: GateCorrelation = 0) -> Any:
    r"""Second moment of a GEGLU unit, gelu(u) v.

    .. math:: E[f(u)^2 v^2] = b\left(M + 2 s^2 a \frac{dM}{da}\right), \qquad M(a) = E[f(u)^2]

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
    half_angle = QUARTER + atan(a / root) / (2 * pi)
    rise = half_angle + a / (pi * (1 + a) * root) * (10 * QUARTER - a / (1 + a) - a / (1 + 2 * a))
    return linear_variance * (gelu_second_moment(a) + 2 * gate_correlation**2 * a * rise)


@formula(kind="exact", source="Gaussian conditioning", status="derived", symbol=r"E[f v f v]")
def geglu_pair_moment(variance: GateVariance, linear_variance: LinearVariance, correlation: PairCorrelation) -> Any:
    r"""Product of a GEGLU unit over two tokens, gate and linear part independent.

    .. math:: E[f v f v] = b\rho\, E[\mathrm{gelu}\,\mathrm{gelu}]

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
    variance: GateVariance, linear_variance: LinearVariance, gate_correlation: GateCorrelation = 0
) -> Any:
    r"""Second moment of a GEGLU's derivative by its gate input, gelu'(u) v.

    .. math:: E[f'(u)^2 v^2] = b\left(M' + 2 s^2 a \frac{dM'}{da}\right), \qquad M'(a) = E[f'(u)^2]

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
def geglu_gate_gradient_pair_moment(
    variance: GateVariance, linear_variance: LinearVariance, correlation: PairCorrelation
) -> Any:
    r"""Product over two tokens of a GEGLU's derivatives by its gate input, gate and linear part independent.

    .. math:: E[f' v f' v] = b\rho\, E[\mathrm{gelu}'\,\mathrm{gelu}']

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
