"""Asymptotic formulas: the remainder, relative to the exact value, falls as the declared power of the size."""

import math
from pathlib import Path

import numpy as np
import pytest
from helpers import exact_norm_correlation
from scipy.special import roots_genlaguerre

from depthwidth.formula import find_formula, formulas
from depthwidth.formulas import attention, depth, finite_width, gaussian, heads, moments, saturation
from depthwidth.numerics.softmax import overlap

LONG = 2.0 ** np.arange(14, 21)
"""Lengths at which a logarithm moves a slope by 1/ln n, less than 0.11."""
MANY = 2.0 ** np.arange(8, 13)


def attended(value_moment, correlation, length, score_variance=1.0):
    """Attention's output over a row of this length, at infinite width."""
    kept = overlap((1 - correlation) * score_variance, length)
    return attention.output_second_moment(
        value_moment, correlation, float(kept.P), float(kept.M3), float(kept.A22), score_variance, math.inf
    )


def deepscale_step(correlation, dropout, layers):
    """Change of the correlation over one layer of unit blocks with beta^2 = 1/layers, over beta^2."""
    beta2 = 1 / layers
    middle = (1 - beta2) * correlation + beta2 * (1 - dropout)
    kernel = 2 * gaussian.relu_pair_moment(1.0, 1.0, middle)
    return ((1 - beta2) * middle + beta2 * (1 - dropout) * kernel - correlation) / beta2


def matrix_moment(ratio, kurtosis, width):
    """E tr (J J')^2 / d over (E tr J J' / d)^2 of J = B D A with d x n and n x d Gaussian factors, n = ratio d, by Wick's rule.

    Given M = D A A' D, E tr (B M B')^2 = d (tr M)^2 + d (d + 1) tr M^2; slopes have E s^2 = 1 and E s^4 = kurtosis.
    """
    d, n = width, ratio * width
    trace_squared = n * kurtosis * (d**2 + 2 * d) + n * (n - 1) * d**2
    squared_trace = n * kurtosis * (d**2 + 2 * d) + n * (n - 1) * d
    return (trace_squared + (d + 1) * squared_trace) / (n * d) ** 2


def matrix_spread(ratio, kurtosis, width):
    """d times the relative variance of |B h|^2, h of n independent features: E |B h|^4 = (d^2 + 2 d) E |h|^4."""
    return width * ((1 + 2 / width) * (1 + (kurtosis - 1) / (ratio * width)) - 1)


def normed_gradient(r, d):
    """E (d - 3 + c^2)/(|x| |y|) over two Gaussian vectors of d - 1 features, by Gauss's rules: |x|^2, y along x, y across."""
    n = d - 1

    def halved(freedom):  # nodes of a chi-squared variable over 2, and weights that sum to 1
        nodes, weights = roots_genlaguerre(30, freedom / 2 - 1)
        return nodes, weights / weights.sum()

    (own, w1), (across, w2) = halved(n), halved(n - 1)
    g, w3 = np.polynomial.hermite_e.hermegauss(30)
    x = np.sqrt(2 * own)[:, None, None]
    along = r * x + math.sqrt(1 - r * r) * g
    square = along**2 + (1 - r * r) * 2 * across[None, :, None]
    values = (d - 3 + along**2 / square) / (x * np.sqrt(square))
    return float(np.einsum("ijk,i,j,k", values, w1, w2, w3 / w3.sum()))


def truncation(variance, kept, length):
    """E sum (p - p')^2 of two softmaxes over n logits x + y and x alone, x of variance `kept`: the cross term by its integral.

    As 1/Z is the integral of e^(u - e^u Z) du, E sum p p' is n times that of psi_11 psi_00^(n-1) over u and v, where psi_ab is
    E e^(a (u + x + y) + b (v + x)) exp(-e^(u + x + y) - e^(v + x)).
    """
    x, wx = np.polynomial.hermite_e.hermegauss(40)
    small = (math.sqrt(kept) * x)[:, None]
    whole = small + math.sqrt(variance - kept) * x
    weight = (wx[:, None] * wx) / (2 * math.pi)
    at = np.arange(-math.log(length) - 12, 4.0 - math.log(length) + 2, 0.25)
    inner, total = np.exp(at[:, None, None] + whole), 0.0
    for v in at:
        other = np.exp(v + small)
        left = np.exp(-np.minimum(inner + other, 700.0)) * weight
        psi0, psi11 = left.sum((1, 2)), (left * inner * other).sum((1, 2))
        total += (psi11 * psi0 ** (length - 1)).sum() * 0.25**2
    return float(overlap(variance, length).P + overlap(kept, length).P - 2 * length * total)


# formula | sizes | formula at a size | exact value there
EXACT = {
    "saturation.diffuse_entropy": (
        LONG,
        lambda n: saturation.diffuse_entropy(0.5, n),
        lambda n: float(overlap(0.5, n).entropy),
    ),
    "saturation.softmax_variance_series": (
        MANY,
        lambda n: saturation.softmax_variance_series(0.5, n),
        lambda n: float(overlap(0.5, n).element_variance(n)),
    ),
    "attention.long_output_second_moment": (
        MANY,
        lambda n: attention.long_output_second_moment(2.0, 0.3),
        lambda n: attended(2.0, 0.3, n),
    ),
    "depth.attention_block_second_moment": (
        MANY,
        lambda n: depth.attention_block_second_moment(0.7, 1.3, 0.5, 0.1),
        lambda n: attended(0.7, 0.5, n) * 1.3 / 0.9,
    ),
    "depth.pre_norm_gradient_power_law": (
        MANY,
        lambda n: depth.pre_norm_gradient_power_law(2.0, 0.32, 1.32, n),
        lambda n: depth.pre_norm_gradient_growth(2.0, 0.32, 1.32, n),
    ),
    "depth.deepscale_correlation_rate": (
        MANY,
        lambda n: depth.deepscale_correlation_rate(0.4, 0.1),
        lambda n: deepscale_step(0.4, 0.1, n),
    ),
    "depth.feed_forward_matrix_moment": (
        MANY,
        lambda d: depth.feed_forward_matrix_moment(4, 2),
        lambda d: matrix_moment(4, 2, d),
    ),
    "depth.feed_forward_matrix_spread": (
        MANY,
        lambda d: depth.feed_forward_matrix_spread(4, 6),
        lambda d: matrix_spread(4, 6, d),
    ),
    # Of a linear map the output's direction is one of the Jacobian's own, taken at random.
    "finite_width.aligned_share": (
        MANY,
        lambda d: finite_width.aligned_share(4, 1, 1),
        lambda d: matrix_moment(4, 1, d),
    ),
    "heads.fixed_query_error": (MANY, lambda n: heads.fixed_query_error(0.5, 0.3, n), lambda n: truncation(0.5, 0.3, n)),
    "heads.relative_truncation_error": (
        MANY,
        lambda n: heads.relative_truncation_error(0.2),
        lambda n: truncation(0.5, 0.3, n) / float(overlap(0.5, n).P),
    ),
    "moments.norm_correlation": (MANY, lambda d: moments.norm_correlation(0.6, d), lambda d: exact_norm_correlation(0.6, d)),
    "moments.norm_gradient_covariance": (
        2.0 ** np.arange(4, 9),
        lambda d: moments.norm_gradient_covariance(1.0, 1.0, 0.5, d),
        lambda d: normed_gradient(0.5, d),
    ),
}

SIMULATED = dict.fromkeys(
    (
        "depth.post_norm_layer_log_drift",
        "depth.post_norm_layer_log_variance",
        "depth.post_norm_log_drift",
        "depth.post_norm_log_variance",
    ),
    ("test_depth.py", "test_the_log_normal_spread_by_simulation"),
)
"""Those that nothing exact is known to be beside: the test that bounds their remainder by what a simulation leaves of it."""

SLACK = 0.15
"""Of a slope: logarithms, and the next order at the smallest of the sizes. Orders are whole, so that the nearest is 1 away."""


def slope(sizes, law, exact):
    gaps = [abs(float(law(float(n))) / float(exact(int(n))) - 1) for n in sizes]
    return np.polyfit(np.log(sizes), np.log(gaps), 1)[0]


@pytest.mark.parametrize("name", EXACT)
def test_the_remainder_falls_as_the_declared_order(name):
    order = find_formula(name).order
    found = slope(*EXACT[name])
    assert abs(found + order) < SLACK, f"{name}: the remainder falls as the power {found:.3f} of the size, declared is -{order}"


@pytest.mark.parametrize("name", EXACT)
def test_a_leading_term_one_per_cent_off_is_seen(name):
    """The control: its remainder does not fall to zero, and the slope is not the declared one."""
    sizes, law, exact = EXACT[name]
    assert abs(slope(sizes[-3:], lambda n: 1.01 * law(n), exact) + find_formula(name).order) > SLACK


def test_every_declared_order_is_tested():
    declared = {f.name for f in formulas("asymptotic") if f.order is not None}
    assert declared == set(EXACT) | set(SIMULATED)
    assert not [f.name for f in formulas() if f.order is not None and f.kind != "asymptotic"]
    for file, test in SIMULATED.values():
        assert f"def {test}(" in (Path(__file__).parent / file).read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_exact_values_are_those_of_simulations(rng):
    """The references that this file derives itself agree with its own draws to five standard errors."""
    d, draws, ratio = 8, 8000, 4
    a, b = rng.standard_normal((draws, ratio * d, d)), rng.standard_normal((draws, d, ratio * d))
    on = math.sqrt(2) * (rng.random((draws, ratio * d)) < 0.5)
    product = b @ (on[:, :, None] * a)
    squares = product @ product.transpose(0, 2, 1)
    drawn = {"moment": (squares**2).sum((1, 2)) / d / (ratio * d * d) ** 2}  # tr J J' / d is n d on average
    exact = {"moment": matrix_moment(ratio, 2, d)}
    n, r = 23, 0.5
    x, z = rng.standard_normal((2, 100_000, n))
    y = r * x + math.sqrt(1 - r * r) * z
    xx, yy, xy = (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)
    drawn["norm"] = (n + 1 - 3 + xy**2 / (xx * yy)) / np.sqrt(xx * yy)
    exact["norm"] = normed_gradient(r, n + 1)
    small = math.sqrt(0.3) * rng.standard_normal((20_000, 64))
    whole = np.exp(small + math.sqrt(0.2) * rng.standard_normal(small.shape))
    other = np.exp(small)
    drawn["truncation"] = ((whole / whole.sum(1, keepdims=True) - other / other.sum(1, keepdims=True)) ** 2).sum(1)
    exact["truncation"] = truncation(0.5, 0.3, 64)
    for name, values in drawn.items():
        error = values.std() / math.sqrt(values.size)
        assert abs(values.mean() - exact[name]) < 5 * error, (name, values.mean(), exact[name], error)
        assert 5 * error < 0.05 * abs(exact[name]), name  # five per cent would be told apart
