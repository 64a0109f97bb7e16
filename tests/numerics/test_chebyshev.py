"""Chebyshev interpolation agrees with NumPy's, and both of our ways with each other."""

import numpy as np
import pytest

from depthwidth.numerics.chebyshev import chebyshev_basis, chebyshev_coefficients, chebyshev_nodes, chebyshev_weights


@pytest.mark.parametrize("count", [1, 4, 9, 24])
def test_interpolation_is_numpys(count):
    x, nodes = np.linspace(-1, 1, 13), chebyshev_nodes(count)
    values = np.exp(nodes) * np.cos(3 * nodes)
    fit = np.polynomial.Chebyshev.interpolate(lambda t: np.exp(t) * np.cos(3 * t), count - 1)
    assert chebyshev_coefficients(count) @ values == pytest.approx(fit.coef, abs=1e-14)
    assert values @ chebyshev_weights(x, count) == pytest.approx(fit(x), abs=1e-13)
    assert chebyshev_basis(x, count).T @ fit.coef == pytest.approx(fit(x), abs=1e-13)
    assert values @ chebyshev_weights(x, count) != pytest.approx(fit(x) + 1e-9, abs=1e-13)


def test_a_place_beyond_the_ends_counts_as_the_end():
    assert (chebyshev_basis(np.array([-1.5, 1.5]), 5) == chebyshev_basis(np.array([-1.0, 1.0]), 5)).all()
