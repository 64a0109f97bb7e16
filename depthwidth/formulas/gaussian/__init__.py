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

from .gated import (
    geglu_gate_gradient_pair_moment,
    geglu_gate_gradient_second_moment,
    geglu_mean,
    geglu_pair_moment,
    geglu_second_moment,
    reglu_gate_gradient_pair_moment,
    reglu_gate_gradient_second_moment,
    reglu_mean,
    reglu_pair_moment,
    reglu_second_moment,
)
from .piecewise import (
    identity_derivative_pair_moment,
    identity_derivative_second_moment,
    identity_mean,
    identity_pair_moment,
    identity_second_moment,
    leaky_relu_derivative_pair_moment,
    leaky_relu_derivative_second_moment,
    leaky_relu_mean,
    leaky_relu_pair_moment,
    leaky_relu_second_moment,
    relu2_derivative_pair_moment,
    relu2_derivative_second_moment,
    relu2_mean,
    relu2_pair_moment,
    relu2_second_moment,
    relu_derivative_pair_moment,
    relu_derivative_second_moment,
    relu_mean,
    relu_pair_moment,
    relu_second_moment,
)
from .smooth import (
    erf_derivative_pair_moment,
    erf_derivative_second_moment,
    erf_mean,
    erf_pair_moment,
    erf_second_moment,
    gelu_derivative_pair_moment,
    gelu_derivative_second_moment,
    gelu_mean,
    gelu_pair_moment,
    gelu_second_moment,
)
