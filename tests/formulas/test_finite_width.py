"""Fluctuations between networks: worked values, Isserlis' theorem by simulation, the two-point rule and its remainder."""

import math

import numpy as np
import pytest
from scipy.integrate import quad

from depthwidth.formulas import finite_width as fw


def test_worked_values():
    assert fw.gaussian_spread(2.0, 0.5, 100) == pytest.approx(0.02)
    assert fw.residual_spread(2.0, 0.5, 100, 4) == pytest.approx(0.5 * (8 + 2) / 100)
    assert fw.residual_pair_spread(2.0, 0.4, 0.5, 0.1, 100, 4) == pytest.approx((2 * (0.2 + 0.2) + 4 * 0.05) / 100)
    assert fw.norm_covariance_factor(0.04, 0.02, 0.03) == pytest.approx(1 - 0.03 + 0.03 + 0.005)
    assert fw.norm_projection(0.5, 50) == pytest.approx(1 - 1.75 / 50)
    assert fw.norm_gradient_factor(0.04, 50) == pytest.approx(1.0416 * 0.98)
    assert fw.norm_gradient_covariance_factor(0.04, 0.02, 0.5, 50) == pytest.approx(1.035 * (1 - 1.75 / 50))
    assert fw.correlation_slope(2.0, 0.8, 0.4) == pytest.approx(2.0)
    assert fw.pair_kurtosis(4.0, 6.0, 0.25) == pytest.approx(4.5)
    assert fw.gated_common_kurtosis(2.0, 10.0, 3.0) == pytest.approx((18 + 10) / 4)
    assert fw.correlation_spread(0.6, 64) == pytest.approx(0.08)
    assert fw.correlation_spread.body(0.6, math.inf) == 0  # as layers call it without finite width
    assert fw.collapsed_share(0.3, -0.2) == pytest.approx(-0.06)


def deviations(draws, expected):
    """Standard errors between a sample covariance and its prediction; near-Gaussian samples."""
    a, b = draws
    found = np.cov(a, b)[0, 1]
    error = math.sqrt((a.var() * b.var() + found**2) / len(a))
    return (found - expected) / error


@pytest.mark.parametrize("r", [0.3, -0.7])
def test_gaussian_and_residual_spreads_by_simulation(rng, r):
    """Means over d features of products, before and after a branch of one Gaussian matrix joins; omega is 2."""
    d, draws = 24, 60_000
    x, z = rng.standard_normal((2, draws, d))
    y = r * x + math.sqrt(1 - r * r) * z
    f, h = rng.standard_normal((2, draws, d)) * math.sqrt(0.8)
    k = 0.5 * f + math.sqrt(0.75) * h  # covariance 0.4 with f
    samples = {"v": ((x * x).mean(1),) * 2, "w": ((x * x).mean(1), (y * y).mean(1)), "u": ((x * y).mean(1), (x * x).mean(1))}
    expected = {"v": fw.gaussian_spread(1.0, 1.0, d), "w": fw.gaussian_spread(r, r, d), "u": fw.gaussian_spread(1.0, r, d)}
    for name, sample in samples.items():
        assert abs(deviations(sample, expected[name])) < 5
        assert abs(deviations(sample, 1.5 * expected[name])) > 5
    x, y = x + f, y + k
    samples = {"v": ((x * x).mean(1),) * 2, "w": ((x * x).mean(1), (y * y).mean(1)), "u": ((x * y).mean(1), (x * x).mean(1))}
    increase = {
        "v": fw.residual_spread(1.0, 0.8, d, 2),
        "w": fw.residual_spread(r, 0.4, d, 2),
        "u": fw.residual_pair_spread(1.0, r, 0.8, 0.4, d, 2),
    }
    for name, sample in samples.items():
        assert abs(deviations(sample, expected[name] + increase[name])) < 5
        assert abs(deviations(sample, expected[name] + 1.3 * increase[name])) > 5 or r < 0 or name == "w"


@pytest.mark.slow
@pytest.mark.parametrize("r", [0.0, 0.5, 0.9])
def test_the_spread_of_a_sample_correlation(rng, r):
    """Its variance times d, extrapolated from two widths; the spread without its square root or square is told apart."""
    found = []
    for d in (32, 128):
        x, z = rng.standard_normal((2, 40_000, d))
        y = r * x + math.sqrt(1 - r * r) * z
        sample = (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))
        found.append(sample.std() / fw.correlation_spread(r, d))
    limit = found[1] + (found[1] - found[0]) / 3
    assert limit == pytest.approx(1, abs=5 * math.sqrt(1 / 2 / 40_000) * 5 / 3 + 0.01)
    assert found[0] == pytest.approx(1, abs=4 / 32)


def test_the_mean_of_two_sides_is_that_of_a_gaussian_to_third_order():
    """Against the integral: cubic polynomials exactly; of a fourth power the remainder is f'''' s^4 / 12."""
    s, r = 0.05, 0.4

    def mean(f):
        return quad(lambda z: f(r + s * z) * math.exp(-z * z / 2) / math.sqrt(2 * math.pi), -10, 10)[0]

    for f, remainder in ((lambda t: 1 + t - 2 * t**2 + 3 * t**3, 0.0), (lambda t: t**4, 2 * s**4)):
        assert fw.two_sided_mean(f(r + s), f(r - s)) == pytest.approx(mean(f) - remainder, abs=1e-12)
    assert fw.two_sided_mean(math.asin(r + s), math.asin(r - s)) == pytest.approx(mean(math.asin), abs=5e-6)
    assert math.asin(r) != pytest.approx(mean(math.asin), abs=1e-4)  # what is taken without it


@pytest.mark.slow
def test_the_kurtosis_of_a_product_with_a_gaussian(rng):
    z = rng.standard_normal((2, 4_000_000))
    gate = np.maximum(z[0], 0)
    products = gate * z[1]
    kurtosis = (products**4).mean() / (products**2).mean() ** 2
    assert kurtosis == pytest.approx(fw.gated_kurtosis(6.0), rel=0.03)
    assert kurtosis != pytest.approx(2.5 * 6, rel=0.03)
