"""Leaves of trees of random hyperplanes: shares, counts and sides, against binomials and simulations."""

import math

import numpy as np
import pytest

from depthwidth.formulas.treeformer import same_side_probability
from depthwidth.numerics.tree_routing import (
    count_weights,
    decision_slope,
    filled_levels,
    leaf_shares,
    nested_means,
    side_moments,
)


@pytest.mark.parametrize("correlation", [0.0, 0.2, 0.6, 0.95])
def test_the_shares_of_leaves(correlation):
    """Their mean is 2^-h, and two queries that are sent as keys are share a leaf as often as the orthants say."""
    for height in (1, 2, 5):
        shares, weights = leaf_shares(correlation, height, 64)
        assert weights.sum() == pytest.approx(1)
        assert weights @ shares == pytest.approx(2.0**-height, rel=2e-3)
        together = 2**height * weights @ shares**2
        assert together == pytest.approx(float(same_side_probability(correlation)) ** height, rel=5e-3)


def test_counts_of_independent_keys_are_binomial():
    weights = count_weights(0.0, 2, 10, 10)
    assert weights == pytest.approx([math.comb(10, k) * 0.25**k * 0.75 ** (10 - k) for k in range(11)])
    assert count_weights(0.3, 0, 5, 5).tolist() == [0, 0, 0, 0, 0, 1]


def simulated(rng, correlation, height, length, draws):
    """Counts of keys along the path of a query: (draws, height + 1)."""
    slope, counts = math.sqrt(correlation / (1 - correlation)), np.full((draws, height + 1), length)
    inside = np.ones((draws, length), dtype=bool)
    for level in range(height):
        inside &= slope * rng.standard_normal((draws, 1)) + rng.standard_normal((draws, length)) > 0
        counts[:, level + 1] = inside.sum(1)
    return counts


@pytest.mark.parametrize("correlation", [0.1, 0.8])
def test_means_of_nested_nodes_by_simulation(rng, correlation):
    height, length, draws = 2, 12, 20_000
    counts = simulated(rng, correlation, height, length, draws)
    table, other = nested_means(correlation, height, length), nested_means(0.45, height, length)
    off = 0
    for coarse in range(height + 1):
        for fine in range(coarse, height + 1):
            found = (counts[:, fine] > 0) / np.maximum(counts[:, coarse], 1)
            error = found.std() / math.sqrt(draws) + 1e-4
            assert abs(found.mean() - table[coarse, fine]) < 5 * error
            off += abs(found.mean() - other[coarse, fine]) > 5 * error
    assert off > 2
    filled = (counts > 0).mean(0)
    assert filled == pytest.approx(filled_levels(correlation, height, length), abs=5 * 0.5 / math.sqrt(draws))


def test_the_sides_of_a_hyperplane(rng):
    independent = side_moments(0.0)
    assert independent.shift == pytest.approx(2 / math.pi)
    assert independent.narrowed == pytest.approx(2 / math.pi)
    assert independent.across == pytest.approx(-2 / math.pi)
    assert independent.common == 0
    r, draws = 0.4, 400
    z = rng.standard_normal((draws, 1))
    score = math.sqrt(r) * z + math.sqrt(1 - r) * rng.standard_normal((draws, 4000))
    right = score > 0
    mean, other = ((score * side).sum(1) / np.maximum(side.sum(1), 1) for side in (right, ~right))
    found = (mean**2 - r * z[:, 0] ** 2, mean * other - r * z[:, 0] ** 2)
    sides = side_moments(r)
    for values, predicted in zip(found, (sides.shift + 2 * sides.common, sides.across), strict=True):
        error = values.std() / math.sqrt(draws)
        assert abs(values.mean() - predicted) < 5 * error
        assert abs(values.mean() - predicted - 0.2) > 5 * error


def test_the_derivative_of_a_decision(rng):
    z = 0.8 * rng.standard_normal(100_000)
    soft = 1 / (1 + np.exp(-1.5 * z))
    squares = (1.5 * soft * (1 - soft)) ** 2
    assert abs(squares.mean() - decision_slope(0.64, 1.5)) < 5 * squares.std() / math.sqrt(z.size)
    assert decision_slope(0.0, 1.0) == pytest.approx(1 / 16)
