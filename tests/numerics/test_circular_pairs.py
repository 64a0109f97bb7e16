"""Pair moments on circles, against closed forms and the other integrator."""

import math

import numpy as np
import pytest

from depthwidth import activation
from depthwidth.layers.feed_forward_moments import _growth_power, _pair_columns
from depthwidth.numerics.circular_pairs import circular_pair_moments


@pytest.mark.parametrize("variance", [0.01, 1.0, 300.0, 1e4])
def test_closed_forms_of_gelu(variance):
    f, rho = activation("gelu"), np.cos(np.arange(33) * math.pi / 32)
    for function, moment in ((f, f.pair_moment), (f.derivative, f.derivative_pair_moment)):
        found, expected = circular_pair_moments(function, variance, 33), moment(variance, rho)
        assert np.abs(found - expected).max() < 1e-12 * expected[0]
        assert np.abs(found[1:] - expected[:-1]).max() > 1e-3 * expected[0]  # each at its own angle


def test_the_other_integrator_agrees_where_there_is_no_closed_form():
    f = activation("silu")
    found = circular_pair_moments(f, 40.0, 9)
    assert found == pytest.approx(f.pair_moment(40.0, np.cos(np.arange(9) * math.pi / 8)), rel=1e-10)


@pytest.mark.slow
def test_what_varies_too_quickly_is_left_to_others():
    assert circular_pair_moments(lambda x: np.sin(1e5 * x), 1.0, 9) is None


@pytest.mark.parametrize(("name", "power"), [
    ("silu", 1.0), ("relu", 1.0), ("relu2", 2.0), ("x**3", 3.0), ("tanh", None), ("sin(x)", None), ("exp(-x*x)", None),
    ("x + relu(x)**2", None),
])  # fmt: skip
def test_growth_far_from_zero(name, power):
    found = _growth_power(name)
    assert found == (None if power is None else pytest.approx(power, abs=1e-6))


@pytest.mark.slow
def test_large_variances_are_those_of_a_power():
    """At twice the variance from which the power stands, against the integral there; a variance of 100 would err by 1 %."""
    rho = np.cos(np.linspace(0, math.pi, 129))
    value, slope = _pair_columns("silu", 2e5, rho)
    f = activation("silu")
    assert np.abs(value - circular_pair_moments(f, 2e5, 129)).max() < 1e-5 * value[0]
    assert np.abs(slope - circular_pair_moments(f.derivative, 2e5, 129))[1:].max() < 2e-4  # near correlations of 1 and -1
    near = circular_pair_moments(f, 100.0, 129) * 2e3
    assert np.abs(near - value).max() > 1e-3 * value[0]
