"""The components' moment maps: worked values, exact references, and simulations with their own error bars."""

import math

import numpy as np
import pytest
from helpers import agrees, check, exact_norm_correlation, one_quick_in, table

from depthwidth.formulas import moments
from depthwidth.numerics.softmax import overlap, pair_overlap, pair_squares


def zipf_sum(vocab):
    frequencies = 1 / np.arange(1, vocab + 1)
    frequencies /= frequencies.sum()
    return float((frequencies**2).sum())


@pytest.mark.parametrize(
    ("vocab", "match"), [(1, "1"), (2, "0.55556"), (3, "0.40496"), (1000, "0.029339"), (50257, "0.012652")]
)
def test_zipf_matches(vocab, match):
    check(moments.zipf_match_probability(vocab), match)


@pytest.mark.parametrize("vocab", [1, 2, 3, 5, 10, 100, 1000, 32000, 50257])
def test_zipf_matches_are_the_sum_itself(vocab):
    truth = zipf_sum(vocab)
    for form in (vocab, float(vocab), np.array([vocab])):
        assert moments.zipf_match_probability(form) == pytest.approx(truth, rel=1e-13)
    # The control: the published form and its leading correction, which are of long vocabularies.
    if vocab in (2, 10, 1000):
        assert math.pi**2 / 6 / math.log(vocab) ** 2 > 1.1 * truth
    if vocab in (2, 10):
        assert math.pi**2 / 6 / (math.log(vocab) + 0.5772) ** 2 > 1.09 * truth


@pytest.mark.parametrize(
    ("vocab", "d", "s2", "r", "match"), [(6, 4, 2.0, 0.6, 0.3), (6, 4, 4.0, -0.5, 0.1), (50, 16, 1.0, 0.9, 0.05)]
)
def test_the_cross_entropys_gradient_by_simulation(vocab, d, s2, r, match, rng):
    """At few features and few tokens, where every term of order 1/d and 1/V shows."""
    draws, weight = 6000, s2 / d
    x = math.sqrt(d) * np.eye(2, d)
    x[1] = r * x[0] + math.sqrt(1 - r * r) * x[1]
    w = math.sqrt(weight) * rng.standard_normal((draws, vocab, d))
    p = np.exp(np.einsum("nvd,td->ntv", w, x))
    p /= p.sum(-1, keepdims=True)
    first = rng.integers(vocab, size=draws)
    second = np.where(rng.random(draws) < match, first, (first + rng.integers(1, vocab, size=draws)) % vocab)
    for position, target in enumerate((first, second)):
        p[np.arange(draws), position, target] -= 1
    g = p @ w
    one, two, squares = overlap(s2, vocab), pair_overlap(s2, r, vocab), pair_squares(s2, r, vocab)

    def predicted(width):
        pair = (two.P2, two.M21, two.T2, squares.S2D, squares.S22)
        return (
            moments.loss_gradient_second_moment(weight, one.P, one.M3, one.M4 + one.A22, vocab, s2, width),
            moments.loss_gradient_covariance(weight, one.P, *pair, vocab, match, s2, r, width),
        )

    drawn = (g[:, 0] ** 2).mean(-1), (g[:, 0] * g[:, 1]).mean(-1)
    for values, exact, leading in zip(drawn, predicted(d), predicted(math.inf), strict=True):
        error = values.std() / math.sqrt(draws)
        assert abs(values.mean() - exact) < 4 * error
        assert abs(values.mean() - leading) > 6 * error  # the control: without the weights' part in the probabilities


NORMS = table("""
0.3 | 16 | 0.29095
0.8 | 64 | 0.79767
0.3 | 64 | 0.29784
0.5 | 128 | 0.49852
0.2 | 768 | 0.19987""")


@pytest.mark.parametrize(("r", "d", "image"), NORMS)
def test_norm_correlation(r, d, image):
    r, d = float(r), int(d)
    check(exact_norm_correlation(r, d), image)
    # The remainder is of order 1/d^2, its coefficient below 1/4 for every r.
    assert moments.norm_correlation(r, d) == pytest.approx(exact_norm_correlation(r, d), abs=0.25 / d**2)
    assert not agrees(r * (1 - 1 / d), image)  # the published form


def z_score(draws, expected):
    """Standard errors between the mean of independent draws and what it should be."""
    return (draws.mean() - expected) / (draws.std(ddof=1) / math.sqrt(len(draws)))


def pairs(rng, draws, width, r):
    """Gaussian token pairs of unit variance and correlation r: two arrays (draws, width)."""
    shared, x, y = rng.standard_normal((3, draws, width))
    return math.sqrt(r) * shared + math.sqrt(1 - r) * x, math.sqrt(r) * shared + math.sqrt(1 - r) * y


def normalise(x):
    """LayerNorm without affine weights."""
    x = x - x.mean(axis=-1, keepdims=True)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True))


@one_quick_in(2, ("r", "d"), [(0.3, 32), (0.8, 64)])
def test_norm_correlation_by_simulation(rng, r, d):
    x, y = pairs(rng, 40_000, d, r)
    products = (normalise(x) * normalise(y)).mean(axis=-1)
    assert abs(z_score(products, moments.norm_correlation(r, d))) < 5
    assert abs(z_score(products, r * (1 - 1 / d))) > 5  # the published form is told apart


@pytest.mark.parametrize(("d", "q"), [(16, 1.0), (64, 4.0)])
def test_norm_gradient_by_simulation(rng, d, q):
    x = rng.standard_normal((40_000, d)) * math.sqrt(q)
    g = rng.standard_normal((40_000, d))
    y, scale = normalise(x), x.std(axis=-1, keepdims=True)
    front = (g - g.mean(axis=-1, keepdims=True) - y * (g * y).mean(axis=-1, keepdims=True)) / scale
    squares = (front**2).mean(axis=-1)
    assert abs(z_score(squares, moments.norm_gradient(1.0, q, d))) < 5
    assert abs(z_score(squares, 1.0 / q)) > 5  # the published form is told apart


def test_linear_and_dropout_by_simulation(rng):
    """Worked by hand: d_in = 100, s_w^2 = 0.01, variance 1 and mean 0.5, correlation 0.3: 1.25 and 0.55."""
    draws, d = 20_000, 100
    x, y = (0.5 + z for z in pairs(rng, draws, d, 0.3))
    w = rng.standard_normal((draws, d)) * 0.1
    out_x, out_y = (w * x).sum(-1), (w * y).sum(-1)
    assert moments.linear_second_moment(1.25, d, 0.01) == pytest.approx(1.25)
    assert abs(z_score(out_x**2, 1.25)) < 5
    assert abs(z_score(out_x * out_y, moments.linear_second_moment(0.55, d, 0.01))) < 5
    kept = rng.random(draws * 20) > 0.1
    dropped = kept * (2 + rng.standard_normal(draws * 20)) / 0.9
    assert abs(z_score(dropped**2, moments.dropout_second_moment(5.0, 0.1))) < 5
    assert abs(z_score(dropped**2, 5.0)) > 5


def test_dropout_variances():
    check(moments.dropout_second_moment(5.0, 0.1) - 4, "1.5556")
    check(moments.dropout_second_moment(1.25, 0.5) - 1, "1.5")
