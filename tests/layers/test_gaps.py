"""The gradient through blocks that are not evaluated, compared with a loop over all of them."""

import math

import numpy as np
import pytest

from depthwidth.layers.gaps import Blocks, Sample, _gradient_vector, _Gradients, _PowerSeries, pull_near, share_gap
from depthwidth.signal import BlockRecords, TokenSignal, Trace
from depthwidth.signal.positions import Positions

N = 5
LOW, HIGH = 20, 30
LOW_END = (LOW + 0.5) ** -0.5
SIZES = np.array([1.0 + 0.1 * layer for layer in range(HIGH + 1)])


def trace():
    return Trace(None, N, N)


def sampled(layer, matrix, made, skip=1.0):
    """A block that maps the second moments of a gradient by a matrix, and records the gradient at its output."""

    def pull(g):
        made.record("block", layer, "gradient", 0.0, g)
        return g.of(skip * (g.second_moment + matrix @ g.second_moment), skip * g.covariance)

    return Sample(layer, SIZES[layer], pull, BlockRecords())


def gradient(rng):
    return TokenSignal(rng.uniform(1, 2, N), np.zeros((N, N)), Positions.every(N))


def crossed(matrix, g, skip=1.0):
    """The gradient at the input of the lower of two evaluated blocks, given that at the output of the upper one; records."""
    made = trace()
    upper, lower = sampled(HIGH, matrix, made, skip), sampled(LOW, matrix, made, skip)
    below, above = share_gap(upper, lower, SIZES)
    g, first = pull_near(g, upper, None, below, skip, made)
    g, second = pull_near(g, lower, above, None, skip, made)
    return g, [*first.numbers[0], *second.numbers[0]]


def loop(matrix, g):
    """The same with the map of every block, and the second moments at the output of the lower one."""
    exact = g.second_moment + matrix @ g.second_moment
    for layer in range(HIGH - 1, LOW, -1):
        share = (LOW_END - (layer + 0.5) ** -0.5) / (LOW_END - (HIGH + 0.5) ** -0.5)
        strength = (share * SIZES[HIGH] + (1 - share) * SIZES[LOW]) / SIZES[layer]
        exact = exact + strength * matrix @ exact
    return exact + matrix @ exact, exact


@pytest.mark.parametrize("skip", [1.0, 0.5])
@pytest.mark.parametrize("size", [0.02, 0.25])
def test_the_gradient_across_a_gap_is_a_product(size, skip, rng):
    """Every block adds a mixture of the increments at both ends, over the size of its stream."""
    matrix = size * rng.uniform(0.5, 1.0, (N, N)) / N
    g = gradient(rng)
    found, records = crossed(matrix, g, skip)
    exact, output = loop(matrix, g)
    # Powers of maps, a series that ends, and its extrapolated rest.
    assert found.second_moment == pytest.approx(skip**2 * exact, rel=size / 100)
    assert records == pytest.approx([g.second_moment.mean(), skip * output.mean()], rel=size / 100)
    assert found.second_moment != pytest.approx(skip**2 * exact, rel=1e-9)
    assert np.abs(exact / g.second_moment - 1).max() > 10 * size / 2  # the gap matters, or nothing was compared


def pulls_through(matrix, count, rng):
    """The gradient through a block and `count` more like it, over the exact one, and the pulls that this takes."""
    made, calls = trace(), []
    one = sampled(LOW, matrix, made)
    one = one._replace(pull=lambda g, pull=one.pull: calls.append(1) or pull(g))
    g = gradient(rng)
    found, _ = pull_near(g, one, Blocks(np.ones(count), np.ones(count)), None, 1.0, made)
    exact = np.linalg.matrix_power(np.eye(N) + matrix, count + 1) @ g.second_moment
    return found.second_moment / exact - 1, len(calls)


@pytest.mark.parametrize("size", [0.003, 0.02, 0.1, 0.5])
def test_the_rest_of_a_geometric_series_is_exact(size, rng):
    """A map that is a number: two terms tell all others."""
    error, calls = pulls_through(size * np.eye(N), 5, rng)
    assert np.abs(error).max() < 1e-6  # the least extrapolated term is 1e-7
    assert calls == 2
    missing = 1 - sum(math.comb(6, m) * size**m for m in range(3)) / (1 + size) ** 6
    assert missing > 1e-6 or size == 0.003  # what follows the last pull counts


@pytest.mark.parametrize("size", [0.1, 0.2, 0.4, 0.7, 1.0])
def test_a_series_ends_where_its_terms_follow_from_those_before(size, rng):
    """Positions that mix: the last term is the first, from the second on, whose extrapolation is right to 3e-4 of the sum."""
    matrix = size * rng.uniform(0, 1, (N, N)) / N
    state = rng.bit_generator.state
    error, calls = pulls_through(matrix, 5, rng)
    rng.bit_generator.state = state
    powers = [gradient(rng).second_moment]
    total, wrong = powers[0].mean(), [1.0]
    for m in range(1, 7):
        powers.append(matrix @ powers[-1])
        total += math.comb(6, m) * powers[m].mean()
        known = powers[m - 1] ** 2 / powers[m - 2] if m > 1 else 0
        wrong.append(math.comb(6, m) * abs((powers[m] - known).mean()) / total)
    assert calls == next(m for m in range(2, 7) if wrong[m] <= 3e-4)
    assert np.abs(error).max() < 1e-3  # the next terms are wrong by less, at each position by more than on average


def test_a_series_that_does_not_end_is_replaced_by_pulls(rng):
    """Blocks that all but erase a gradient: the gap has as many maps as blocks."""
    matrix = -0.9 * np.eye(N)
    g = gradient(rng)
    calls = []
    made = trace()
    upper = sampled(HIGH, matrix, made)
    upper = upper._replace(pull=lambda g, pull=upper.pull: calls.append(1) or pull(g))
    ones = Blocks(np.ones(9), np.ones(9))
    found, records = pull_near(g, upper, ones, None, 1.0, made)
    assert found.second_moment == pytest.approx(0.1**10 * g.second_moment, rel=1e-3)
    assert records.numbers[0, 0] == pytest.approx(0.1**9 * g.second_moment.mean(), rel=1e-3)
    assert len(calls) < 40


@pytest.mark.parametrize(("size", "share", "rel"), [(0.03, 0.3, 1e-7), (0.2, 0.5, 1e-6), (-0.9, 0.5, 5e-2)])
def test_a_fraction_of_a_block_is_a_binomial_series(size, share, rel, rng):
    """A power of a map below 1, in as many pulls as there are terms above 1e-6: 1 + s B alone is s (1 - s) / 2 B^2 off."""
    g, made, calls = gradient(rng), trace(), []
    one = sampled(LOW, size * np.eye(N), made)
    one = one._replace(pull=lambda g, pull=one.pull: calls.append(1) or pull(g))
    found = _Gradients(g, one, 1.0, made).through(_gradient_vector(g), [Blocks(np.ones(2), np.full(2, 1 + share / 2))])
    exact = (1 + size) ** (2 + share)
    assert found[:N] == pytest.approx(exact * g.second_moment, rel=rel)
    assert exact != pytest.approx((1 + size) ** 2 * (1 + share * size), rel=10 * rel if size > 0 else rel)
    assert len(calls) < 2 + 24


def test_a_fraction_of_a_block_that_adds_more_than_there_was_is_linear(rng):
    """B = 3: the series has no sum."""
    g, made = gradient(rng), trace()
    found = _Gradients(g, sampled(LOW, 3 * np.eye(N), made), 1.0, made)._fraction(_gradient_vector(g), 0.5)
    assert found[:N] == pytest.approx(2.5 * g.second_moment)


def test_a_block_next_to_its_neighbours_is_pulled_once(rng):
    made = trace()
    calls = []
    one = sampled(LOW, 0.1 * np.eye(N), made)
    one = one._replace(pull=lambda g, pull=one.pull: calls.append(1) or pull(g))
    found, records = pull_near(gradient(rng), one, None, None, 1.0, made)
    assert len(calls) == len(records.sites) == 1
    assert found.second_moment.shape == (N,)


def test_the_shares_of_each_block_of_a_gap_sum_to_one():
    made = trace()
    below, above = share_gap(sampled(HIGH, 0, made), sampled(LOW, 0, made), SIZES)
    assert below.exponents + above.exponents == pytest.approx(np.ones(HIGH - LOW - 1))
    assert (np.diff(below.exponents) > 0).all()
    assert below.strengths == pytest.approx(SIZES[HIGH] / SIZES[LOW + 1 : HIGH])
    assert below.total + above.total == pytest.approx(9, rel=0.1)


@pytest.mark.parametrize("x", [-0.3, 0.2])
def test_the_power_series_of_a_product_of_powers(x):
    parts = [Blocks(np.array([1.2, 0.7]), np.array([0.25, 0.5])), Blocks(np.ones(1), np.ones(1))]
    series = _PowerSeries(sum(part.slopes for part in parts))
    exact = (1 + 1.2 * x) ** 0.25 * (1 + 0.7 * x) ** 0.5 * (1 + x)
    assert sum(series[m] * x**m for m in range(25)) == pytest.approx(exact, rel=1e-12)
    assert sum(series[m] * x**m for m in range(3)) != pytest.approx(exact, rel=1e-4)
    cubic = _PowerSeries(Blocks(np.array([2.0, 3.0, 5.0]), np.ones(3)).slopes)
    assert [cubic[m] for m in range(5)] == pytest.approx([1, 10, 31, 30, 0], abs=1e-12)
