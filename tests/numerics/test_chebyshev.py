"""Chebyshev interpolation agrees with NumPy's, and both of our ways with each other."""

import numpy as np
import pytest

from depthwidth.numerics.chebyshev import (
    chebyshev_basis,
    chebyshev_coefficients,
    chebyshev_derivative,
    chebyshev_nodes,
    chebyshev_weights,
)


@pytest.mark.parametrize("count", [1, 4, 9, 24])
def test_interpolation_is_numpys(count):
    x, nodes = np.linspace(-1, 1, 13), chebyshev_nodes(count)
    values = np.exp(nodes) * np.cos(3 * nodes)
    fit = np.polynomial.Chebyshev.interpolate(lambda t: np.exp(t) * np.cos(3 * t), count - 1)
    assert chebyshev_coefficients(count) @ values == pytest.approx(fit.coef, abs=1e-14)
    assert values @ chebyshev_weights(x, count) == pytest.approx(fit(x), abs=1e-13)
    assert chebyshev_basis(x, count).T @ fit.coef == pytest.approx(fit(x), abs=1e-13)
    assert values @ chebyshev_weights(x, count) != pytest.approx(fit(x) + 1e-9, abs=1e-13)


@pytest.mark.parametrize("count", [1, 2, 5, 14])
def test_derivatives_are_numpys(count):
    coefficients, x = np.random.default_rng(count).normal(size=(count, 3)), np.linspace(-1, 1, 7)
    for order in range(3):
        series = chebyshev_derivative(coefficients, order)
        assert series.shape == coefficients.shape
        expected = np.polynomial.chebyshev.chebval(x, np.polynomial.chebyshev.chebder(coefficients, order))
        assert chebyshev_basis(x, count).T @ series == pytest.approx(expected.T, rel=1e-12, abs=1e-11)
    assert count < 3 or chebyshev_derivative(coefficients)[0] != pytest.approx(coefficients[1])


def test_a_place_beyond_the_ends_counts_as_the_end():
    assert (chebyshev_basis(np.array([-1.5, 1.5]), 5) == chebyshev_basis(np.array([-1.0, 1.0]), 5)).all()
