"""Gauss quadrature against the rules of NumPy and against moments that need none."""

import numpy as np
import pytest

from depthwidth.numerics.gauss import gauss_legendre
from depthwidth.numerics.hermite import gauss_hermite


@pytest.mark.parametrize("nodes", [1, 2, 8, 24, 32, 64])
def test_rules_are_those_of_numpy(nodes):
    known, weights = np.polynomial.legendre.leggauss(nodes)
    x, found = gauss_legendre(nodes)
    assert x == pytest.approx(known, abs=2e-15)
    assert found == pytest.approx(weights, rel=2e-13)
    known, weights = np.polynomial.hermite_e.hermegauss(nodes)
    z, found = gauss_hermite(nodes)
    assert z == pytest.approx(known, rel=1e-14, abs=1e-15)
    assert found == pytest.approx(weights / weights.sum(), rel=1e-11)


def test_a_rule_is_exact_below_twice_its_nodes_and_no_further():
    x, weights = gauss_legendre(4)
    assert [float(weights @ x**k) for k in (0, 2, 4, 6)] == pytest.approx([2 / (k + 1) for k in (0, 2, 4, 6)], rel=1e-14)
    assert float(weights @ x**8) != pytest.approx(2 / 9, rel=1e-3)
    z, weights = gauss_hermite(4)
    assert [float(weights @ z**k) for k in (0, 2, 4, 6)] == pytest.approx([1, 1, 3, 15], rel=1e-13)
    assert float(weights @ z**8) != pytest.approx(105, rel=1e-3)
