"""The accuracy that an approximation or an asymptotic formula states, over the whole range it states it for."""

import math

import numpy as np
import pytest
from scipy.special import gammaln, hyp2f1
from scipy.stats import norm

from depthwidth.errors import InputError
from depthwidth.formula import find_formula, formulas
from depthwidth.formulas import depth, gaussian, saturation
from depthwidth.layers.activations import activation
from depthwidth.numerics.softmax import overlap

from .test_orders import normed_gradient

DRAWS = 40
FAR = 1e6
"""An open range is sampled this many times beyond its lower end."""


def of_softmax(field):
    return lambda variance, length: float(getattr(overlap(variance, length), field))


def element_variance(variance, length):
    return float(overlap(variance, length).element_variance(length))


def score_gradient(variance, length, gamma):
    """The gradient of the probabilities times the Jacobian's mean square, T/n."""
    return gamma * float(overlap(variance, length).T) / length


def normed_correlation(correlation, width):
    """The expected sample correlation of so many independent pairs."""
    r, d = correlation, width
    return r * math.exp(2 * gammaln(d / 2) - gammaln((d - 1) / 2) - gammaln((d + 1) / 2)) * hyp2f1(0.5, 0.5, (d + 1) / 2, r * r)


def kernel(correlation):
    return 2 * gaussian.relu_pair_moment(1.0, 1.0, min(correlation, 1.0))


def pre_norm_gap(gap, second_moment, attention, feed_forward, layers):
    """1 - r after the recursion, layer by layer: attention adds a_A r, the feed-forward part a_F times the ReLU's kernel."""
    q, r = second_moment, 1 - gap
    for _ in range(round(layers)):
        c = q * r + attention * r
        q += attention * r
        c += feed_forward * kernel(c / q)
        q += feed_forward
        r = c / q
    return 1 - r


def post_norm_gap(gap, attention, layers, feed_forward=0.5):
    """1 - r after the recursion; the formula does not depend on the feed-forward part, here the largest it is stated for."""
    r = 1 - gap
    for _ in range(round(layers)):
        r = (r + attention * r) / (1 + attention * r)
        r = (r + feed_forward * kernel(r)) / (1 + feed_forward)
    return 1 - r


# formula | exact value | how arguments are drawn that span more than their own ranges
EXACT = {
    "attention.softmax_variance_published": element_variance,
    "attention.softmax_variance_full_published": element_variance,
    "attention.softmax_gradient_published": score_gradient,
    "attention.softmax_gradient_full_published": score_gradient,
    "depth.pre_norm_collapse": pre_norm_gap,
    "depth.post_norm_collapse": post_norm_gap,
    "depth.pre_norm_gradient_power_law": depth.pre_norm_gradient_growth,
    "experts.sigmoid_gate_second_moment": lambda score_variance: float(
        activation("sigmoid").second_moment(max(score_variance, 1e-9))
    ),
    # Of d Gaussian features, v = 2/d and E 1/q is d/(d - 2).
    "finite_width.norm_gradient_factor": lambda variance, features: (1 - 1 / features) / (1 - variance),
    "moments.norm_correlation": normed_correlation,
    "moments.norm_gradient_covariance": lambda gradient_covariance, second_moment, correlation, width: (
        gradient_covariance / second_moment * normed_gradient(correlation, round(width))
    ),
    "saturation.annealed_target_weight": saturation.target_weight,
    "saturation.condensed_entropy": of_softmax("entropy"),
    "saturation.condensed_squared_sum": of_softmax("P"),
    "saturation.diffuse_entropy": of_softmax("entropy"),
    "saturation.diffuse_entropy_next": of_softmax("entropy"),
    "saturation.diffuse_finite_head_squared_sum": saturation.finite_head_squared_sum,
    "saturation.diffuse_log_partition": of_softmax("log_partition"),
    "saturation.diffuse_squared_sum": of_softmax("P"),
    "saturation.largest_normal": lambda length: float(norm.isf(1 / length)),
    "saturation.one_body_squared_sum": of_softmax("P"),
    "saturation.overlap_ratio": of_softmax("P"),
    "saturation.softmax_variance_series": element_variance,
}

NOT_STATED = 65
"""Approximations and asymptotic formulas that state no accuracy yet: nothing exact was at hand. The number may only fall."""


def ends(f, name):
    parameter = f.parameters[name]
    low, high = f.within.get(name, (parameter.domain.low, parameter.domain.high))
    if math.isinf(low):
        low = parameter.domain.typical[0]
    return low, min(high, FAR * max(low, 1.0)), parameter.domain.integer


def drawn(f, rng):
    """Arguments over the whole range, evenly in the logarithm if positive, and at its ends, without what is refused."""
    for _ in range(10_000):
        values = {}
        for name in f.parameters:
            low, high, whole = ends(f, name)
            if rng.random() < 0.15:
                value = rng.choice([low, high])
            else:
                value = (
                    math.exp(rng.uniform(math.log(max(low, 1e-3)), math.log(high)))
                    if low >= 0 < high
                    else rng.uniform(low, high)
                )
            values[name] = round(value) if whole or name == "layers" else float(value)
        if "length" in values and "variance" in values and "variance" not in f.within:
            scale = rng.choice([rng.uniform(0, 0.7), rng.uniform(0.7, 6)])
            values["variance"] = min(2 * math.log(max(values["length"], 2)) * scale**2, 9000.0)
        if "gap" in values and "length" in values:
            values["gap"] = math.log(values["length"]) + values["variance"] / 2 + rng.uniform(-6, 6)
        if "head_dim" in values:
            values["head_dim"] = max(1, math.ceil(values["variance"] * rng.uniform(8, 40)))
        try:
            f(**values)
        except InputError:
            continue
        if not f.outside_claim(values):
            return values
    raise AssertionError(f"{f.name}: no draw lies in its range")


def worst(f, exact, rng, draws=DRAWS):
    found = []
    for _ in range(draws):
        values = drawn(f, rng)
        true = exact(**values)
        if abs(true) > 1e-9:  # below, the recursions' own rounding shows
            found.append((abs(f(**values) / true - 1), values))
    return max(found, key=lambda pair: pair[0])


@pytest.mark.parametrize("name", EXACT)
def test_the_stated_accuracy_holds_over_the_stated_range(name, rng):
    f = find_formula(name)
    error, values = worst(f, EXACT[name], rng)
    assert error <= f.accuracy, f"{name}: {100 * error:.2f} % at {values}"


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_an_accuracy_is_no_more_than_four_times_the_worst_error(name, rng):
    """The control: a statement so wide that it says nothing, and a formula that is off by twice of it, are seen."""
    f = find_formula(name)
    error, _ = worst(f, EXACT[name], rng, 3 * DRAWS)
    assert error > f.accuracy / 4, f"{name}: {f.accuracy} is stated, {error:.4f} found"


def test_every_stated_accuracy_is_tested_and_the_others_are_counted():
    claims = [f for f in formulas() if f.kind in ("approximation", "asymptotic")]
    assert {f.name for f in formulas() if f.accuracy is not None} == set(EXACT)
    assert len([f for f in claims if f.accuracy is None]) <= NOT_STATED
    for f in formulas():
        assert set(f.within) <= set(f.parameters)


def test_the_faults_that_were_found():
    """Values outside the range of a formula, each of which was returned without a word."""
    for name, arguments in {
        "diffuse_finite_head_squared_sum": (1.983, 65536, 4),
        "diffuse_entropy": (100, 1000),
        "one_body_squared_sum": (1.0, 8),
        "condensed_entropy": (36.0, 16),
        "annealed_target_weight": (1.0, 0.4, 2),
        "norm_correlation": (0.3, 1.0001),
    }.items():
        with pytest.raises(InputError):
            find_formula(name)(*arguments)
    assert find_formula("pre_norm_gradient_growth")(1e15, 1, 1, 10) == pytest.approx(1, rel=1e-12)
    assert find_formula("pre_norm_gradient_growth")(1, 1e9, 1, 3) == pytest.approx((1 + 1e9) * (1 + 1e9 / 2) * (1 + 1e9 / 3))
    assert find_formula("head_dim_correction")(1e-6, 2) == pytest.approx(-0.5e-12, rel=1e-5)


def test_the_average_over_one_dimension_by_quadrature():
    """u = g^2 with a normal g, by Gauss's rule over the half line; 32 nodes of Laguerre's rule were 0.05 % off here."""
    g, weights = np.polynomial.legendre.leggauss(60)
    g = 4 * (g + 1)
    density = weights * 4 * 2 * np.exp(-g * g / 2) / math.sqrt(2 * math.pi)
    exact = float(overlap(9 * g * g, 64).P @ density)
    assert saturation.finite_head_squared_sum(9, 64, 1) == pytest.approx(exact, rel=1e-8)
