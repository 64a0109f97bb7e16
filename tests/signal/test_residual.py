"""The recursion over residual branches: against Isserlis' theorem, exact integrals and simulations, at every grain alike."""

import math

import numpy as np
import pytest
from helpers import exact_norm_correlation
from passes import Given, gaussian, start

from depthwidth.formulas.depth import post_norm_log_variance
from depthwidth.formulas.finite_width import norm_covariance_factor, norm_gradient_covariance_factor, norm_gradient_factor
from depthwidth.formulas.moments import norm_gradient_covariance, residual_second_moment
from depthwidth.signal import DrawSpread, Signal, Spread, TokenSignal
from depthwidth.signal.positions import Alike, Positions
from depthwidth.signal.residual import (
    add_branch,
    add_gradient,
    advance,
    covariance_factor,
    norm_factors,
    post_norm_drift,
    residual_pullback,
)

CASES = [(1.0, 0.3, 0.5, 0.2, 1.0), (2.0, -0.4, 1.5, 0.1, 0.7), (0.3, 0.3, 1.0, 0.9, 1.3)]


@pytest.mark.parametrize(("q", "c", "a", "a_pair", "skip"), CASES)
def test_a_sum_of_gaussian_features_is_gaussian(q, c, a, a_pair, skip):
    """A branch of one Gaussian matrix adds Gaussian features, omega = 2; Isserlis' theorem has v, w and u of the sum."""
    d = 48
    stream = gaussian(q, c, d)
    found = add_branch(stream, Signal(a, a_pair), 2.0, d, skip)
    expected = gaussian(skip**2 * q + a, skip**2 * c + a_pair, d)
    assert found[:2] == pytest.approx(expected[:2], rel=1e-14)
    assert tuple(found.spread) == pytest.approx(tuple(expected.spread), rel=1e-14)
    assert found[:2] == (residual_second_moment(q, a, skip), pytest.approx(skip * skip * c + a_pair))
    for wrong in (1.99, 2.01):
        other = add_branch(stream, Signal(a, a_pair), wrong, d, skip)
        assert tuple(other.spread) != pytest.approx(tuple(expected.spread), rel=1e-4)


@pytest.mark.parametrize("skip", [1.0, 0.7])
def test_a_sum_of_gaussian_features_is_gaussian_for_two_kinds_of_pairs(skip):
    """Two equal tokens move as one; what any other tokens have to do with them is that of any pair."""
    d, match = 48, 0.25
    stream, branch, total = (
        TokenSignal(np.array([q]), np.array([[c], [equal]]), Alike.of(64, match))
        for q, c, equal in ((1.0, 0.2, 0.9), (0.5, 0.1, 0.5), (skip**2 + 0.5, 0.2 * skip**2 + 0.1, 0.9 * skip**2 + 0.5))
    )
    stream = stream.spread_as(Spread.of_gaussian(stream, d))
    found, expected = add_branch(stream, branch, 2.0, d, skip).spread, Spread.of_gaussian(total, d)
    for part, exact in zip(found, expected, strict=True):
        assert part == pytest.approx(exact, rel=1e-13)
    q, pairs = total.second_moment[0], total.covariance[:, 0]
    any_pair = (1 - match) * pairs[0] + match * pairs[1]
    assert expected.second_moments[:, 0] == pytest.approx(2 * pairs**2 / d)
    assert expected.third_token[:, 0] == pytest.approx([2 * any_pair**2 / d] * 2)
    assert expected.covariances[:, 0] == pytest.approx([2 * any_pair**2 / d] * 2)
    assert expected.second_moments.max() <= 2 * q**2 / d


def test_omega_is_the_relative_variance_of_the_branch_alone():
    """With nothing before it, the sum is the branch."""
    d, omega = 32, 5.5
    _, _, (v, w, u, x, z) = advance(0.0, 0.0, (0.0,) * 5, 0.8, 0.3, omega, d)
    assert v * d / 0.8**2 == pytest.approx(omega)
    assert (w * d / 0.3**2, u * d / (0.8 * 0.3)) == pytest.approx((omega, omega))
    assert (x, z) == pytest.approx((w, w))
    _, _, spread = advance(0.0, 0.0, (0.0,) * 5, 0.8, 0.3, omega, d, draw=DrawSpread(omega, 3.0), pair_omega=3.0)
    assert spread[2] * d / (0.8 * 0.3) == pytest.approx(3.0)


@pytest.mark.slow
def test_two_square_matrices_by_simulation(rng):
    """A fixed token, two Gaussian matrices: v within its standard error, and neither omega 3 nor a cross term of 3."""
    d, draws, a = 24, 12_000, 0.7
    x = np.sqrt(np.arange(1, d + 1) / (d + 1) * 2)  # any vector; its mean square is q
    q = float((x**2).mean())
    first, second = rng.standard_normal((2, draws, d, d)) / math.sqrt(d)
    branch = math.sqrt(a / q) * np.einsum("nij,njk,k->ni", second, first, x)
    squares = ((x + branch) ** 2).mean(1)
    omega = 4 + 4 / d  # of two matrices at this width: (1 + 2/d)^2 - 1 over 1/d
    variance, error = squares.var(ddof=1), squares.var(ddof=1) * math.sqrt(2 * 1.5 / draws)
    _, _, (v, *_) = advance(q, 0.0, (0.0,) * 5, a, 0.0, omega, d)
    assert abs(variance - v) < 5 * error
    assert abs(variance - a * (4 * q + 3 * a) / d) > 5 * error
    assert abs(variance - a * (3 * q + omega * a) / d) > 5 * error


# Norms: exact expectations over Gaussian features, d of them, as an RMSNorm meets them.


EXACT = {
    "covariance": lambda d, r: exact_norm_correlation(r, d + 1) / r,
    "gradient": lambda d, r: (d - 1) / (d - 2),
    "gradient_covariance": lambda d, r: norm_gradient_covariance(1.0, 1.0, r, d + 1),
}


def order(name, r, factor):
    """Power with which a factor approaches the exact one."""
    widths = [64, 128, 256, 512]
    return np.polyfit(np.log(widths), [math.log(abs(factor(d, r) - EXACT[name](d, r))) for d in widths], 1)[0]


@pytest.mark.parametrize("r", [0.2, 0.6, 0.9])
@pytest.mark.parametrize("name", EXACT)
def test_norm_factors_of_gaussian_features_are_right_to_first_order(name, r):
    """The remainder falls as the square of the width; with another coefficient as the width."""

    def factor(d, r):
        return getattr(norm_factors(gaussian(1.7, 1.7 * r, d), d), name)

    assert order(name, r, factor) == pytest.approx(-3 if name == "gradient" else -2, abs=0.15)
    for wrong in (lambda d, r: factor(d, r) + 0.1 / d, lambda d, r: factor(d, r) - 0.1 / d):
        assert order(name, r, wrong) > -1.7


@pytest.mark.parametrize(("formula", "powers"), [
    (norm_covariance_factor, (-0.5, -0.5, 1.0)), (norm_gradient_factor, (-1.0, 0.0, 0.0)),
    (norm_gradient_covariance_factor, (-0.5, -0.5, 0.0)),
])  # fmt: skip
@pytest.mark.parametrize(("rho", "kappa"), [(0.6, 0.3), (0.0, 0.0), (0.2, 0.5)])
def test_norm_factors_of_log_normal_sizes(formula, powers, rho, kappa):
    """q_t, q_t' and c as exponentials of Gaussians: v, w and u one by one, and the expectation in closed form."""
    s, weights = 1e-3, np.array(powers)
    gram = np.array([[1, rho, kappa], [rho, 1, kappa], [kappa, kappa, 1]])
    # ln E q^a q'^b c^e for variables of mean 1: the variance of the sum of logarithms, less that of each, over 2.
    exact = s * s / 2 * (weights @ gram @ weights - weights.sum())
    v, w, u = s * s, rho * s * s, kappa * s * s
    given = {"variance": v, "shared_variance": w, "covariance": u, "correlation": 0.0, "features": 1e30}
    assert formula(**{name: given[name] for name in formula.parameters}) - 1 == pytest.approx(exact, rel=1e-5)


def test_floats_arrays_and_tokens_pass_through_the_same_lines():
    """One setting as floats, as a row of an array, and as two tokens that happen to be alike."""
    d, omega = 64, 3.25
    rows = [(q, c, a, a_pair, skip) for q, c, a, a_pair, skip in CASES]
    q, c, a, a_pair, skip = (np.array(column) for column in zip(*rows, strict=True))
    together = add_branch(gaussian(q, c, d), Signal(a, a_pair), omega, d, skip)
    array_factors = norm_factors(together, d)
    positions = Positions.every(3)
    for k, (q, c, a, a_pair, skip) in enumerate(rows):
        single = add_branch(gaussian(q, c, d), Signal(a, a_pair), omega, d, skip)
        assert [float(v[k]) for v in (*together[:2], *together.spread)] == pytest.approx([*single[:2], *single.spread])
        factors = norm_factors(single, d)
        assert [float(v[k]) for v in array_factors] == pytest.approx(tuple(factors))
        assert covariance_factor(*single[:2], tuple(single.spread)) == pytest.approx(factors.covariance, rel=1e-15)
        pairs = np.full((3, 3), 1.0)
        tokens = TokenSignal(np.full(3, q), c * pairs, positions)
        tokens = tokens.spread_as(Spread.of_gaussian(tokens, d))
        branch = TokenSignal(np.full(3, a), a_pair * pairs, positions)
        seen = add_branch(tokens, branch, omega, d, skip)
        assert (seen.second_moment[1], seen.covariance[0, 2]) == pytest.approx(single[:2])
        assert [seen.spread[0][1], seen.spread[1][0, 2], seen.spread[2][0, 2]] == pytest.approx(tuple(single.spread)[:3])
        of_tokens = norm_factors(seen, d)
        assert (of_tokens.covariance[0, 2], of_tokens.gradient[1]) == pytest.approx(factors[:2])
        assert of_tokens.gradient_covariance[0, 2] == pytest.approx(factors.gradient_covariance)


@pytest.mark.parametrize("mixes", [False, True])
def test_gradients_of_tokens_that_are_alike_lean_as_one_signal_does(mixes):
    """A leaning of its own, a branch that mixes tokens or does not, and what is left of both moments by hand."""
    q, c, d, skip = 1.5, 0.6, 64, 0.9
    positions, pairs = Positions.every(3), np.full((3, 3), 1.0)
    single, tokens = gaussian(q, c, d), TokenSignal(np.full(3, q), c * pairs, positions)
    tokens = tokens.spread_as(Spread.of_gaussian(tokens, d))
    trace = start(Given()).trace
    found = []
    for x, g, leaning in (
        (single, Signal(1.0, 0.3), Signal(0.2, 0.05)),
        (tokens, tokens.of(np.full(3, 1.0), 0.3 * pairs), tokens.of(np.full(3, 0.2), 0.05 * pairs)),
    ):
        paths = [(lambda g: g.times(0.7, 0.4), mixes)]
        found.append(residual_pullback(x, paths, skip, trace, normed=True)(g.leaning_as(leaning)))
    alone, of_tokens = found
    assert (of_tokens.second_moment[1], of_tokens.covariance[0, 2]) == pytest.approx(alone[:2])
    assert (of_tokens.leaning.second_moment[1], of_tokens.leaning.covariance[0, 2]) == pytest.approx(alone.leaning[:2])
    v, w = (part / q for part in single.spread[:2])
    own, pair = (w, w) if mixes else (v, (v + w) / 2)
    moment, covariance = skip**2 + 0.7 * (1 + skip**2 * 0.2 * own), skip**2 * 0.3 + 0.4 * (0.3 + skip**2 * 0.05 * pair)
    assert alone[:2] == pytest.approx((moment, covariance))


def test_two_tokens_that_differ_by_isserlis():
    """u is that of the first token of each pair, and norms average over both."""
    d, positions = 40, Positions.every(2)
    gram, added = np.array([[1.0, 0.3], [0.3, 2.0]]), np.array([[0.5, 0.1], [0.1, 0.2]])

    def tokens(gram):
        signal = TokenSignal(gram.diagonal().copy(), gram, positions)
        return signal.spread_as(Spread.of_gaussian(signal, d))

    found, expected = add_branch(tokens(gram), tokens(added).spread_as(None), 2.0, d, 0.9), tokens(0.81 * gram + added)
    for one, other in zip(found.spread, expected.spread, strict=True):
        assert one == pytest.approx(other, rel=1e-14)
    assert expected.spread.covariance[0, 1] != pytest.approx(expected.spread.covariance[1, 0])
    # The exact correlation of two normalised Gaussian vectors does not depend on their sizes.
    factors, r = norm_factors(expected, d), float(expected.correlation[0, 1])
    assert factors.covariance[0, 1] == pytest.approx(exact_norm_correlation(r, d + 1) / r, abs=2 / d**2)
    assert factors.covariance[0, 1] == pytest.approx(factors.covariance[1, 0])


def test_two_tokens_of_unequal_spread_count_alike():
    """Log-normal sizes of different variances: the expectation of c over the root of both, in closed form."""
    s = 1e-6
    gram = s * np.array([[1.0, 0.3, 0.5], [0.3, 4.0, 0.2], [0.5, 0.2, 2.0]])  # of ln q_t, ln q_t' and ln c
    powers = np.array([-0.5, -0.5, 1.0])
    exact = (powers @ gram @ powers - powers @ gram.diagonal()) / 2
    tokens = TokenSignal(np.array([1.0, 2.0]), np.array([[1.0, 0.4], [0.4, 2.0]]), Positions.every(2))
    q, c = tokens.second_moment, 0.4
    spread = Spread(
        gram.diagonal()[:2] * q**2,
        np.array([[0.0, gram[0, 1]], [gram[0, 1], 0.0]]) * tokens.pair_second_moment**2,
        np.array([[0.0, gram[0, 2] * q[0] * c], [gram[1, 2] * q[1] * c, 0.0]]),
        np.zeros((2, 2)),
        np.zeros((2, 2)),
    )
    factors = norm_factors(tokens.spread_as(spread), 10**18)
    assert factors.covariance[0, 1] - 1 == pytest.approx(exact, rel=1e-5)
    assert factors.covariance[1, 0] - 1 == pytest.approx(exact, rel=1e-5)
    powers = np.array([-0.5, -0.5, 0.0])
    exact = (powers @ gram @ powers - powers @ gram.diagonal()) / 2
    assert factors.gradient_covariance[0, 1] - 1 == pytest.approx(exact, rel=1e-5)
    assert factors.gradient - 1 == pytest.approx(gram.diagonal()[:2], rel=1e-5)


def test_without_a_spread_nothing_is_corrected():
    assert norm_factors(Signal(1.0, 0.3), 64) == (1.0, 1.0, 1.0)
    assert add_branch(Signal(1.0, 0.3), Signal(0.5, 0.1), 4.0, 64) == Signal(1.5, 0.4)
    assert covariance_factor(1.0, 0.0, (0.1, 0.0, 0.0, 0.0, 0.0)) == pytest.approx(1.075)  # no pair, no covariance to divide by


def test_a_gradient_comes_by_both_paths():
    assert add_gradient(Signal(2.0, 0.5), Signal(0.3, 0.1), 0.9) == pytest.approx(
        (0.81 * 2 + 0.3, 0.81 * 0.5 + 0.1, None, None, None)
    )


@pytest.mark.slow
def test_the_drift_of_a_post_norm_block_by_simulation(rng):
    """One token and a branch of two square matrices: mean and variance of the log gradient, and half of both at r = 1/2."""
    d, draws, a = 32, 12_000, 0.6
    x, g = rng.standard_normal((2, draws, d))
    x /= np.sqrt((x**2).mean(1, keepdims=True))
    first, second = rng.standard_normal((2, draws, d, d)) / math.sqrt(d)
    jacobian = np.eye(d) + math.sqrt(a) * second @ first
    y = np.einsum("nij,nj->ni", jacobian, x)
    size = np.sqrt((y**2).mean(1, keepdims=True))
    normed = y / size
    # Deep in a stack the gradient that arrives has no component along the norm's output: what follows is homogeneous in it.
    g -= normed * (g * normed).mean(1, keepdims=True)
    back = np.einsum("nij,ni->nj", jacobian, g / size)
    logs = np.log((back**2).sum(1) / (g**2).sum(1))
    draw = DrawSpread.of_matrices(1.0, 3.0, 1.0)
    drift, *_ = post_norm_drift(Signal(1.0, 1.0), Signal(a, a), draw, d)
    variance = post_norm_log_variance(a, d)
    error = logs.std() / math.sqrt(draws)
    assert abs(logs.mean() - drift) < 5 * error + 4 / d**2
    assert abs(logs.mean() - 1.8 * drift) > 5 * error + 4 / d**2
    assert logs.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / draws) + 2 / d)
    # The drift is that of each token, and 2 - r^2 times that of their covariance.
    half = post_norm_drift(Signal(1.0, 0.5), Signal(a, 0.5 * a), draw, d)
    assert half == pytest.approx((drift, 0.0, 0.0, 1.75))
    # No branch, no drift; no skip path, the same at any size of the branch.
    assert post_norm_drift(Signal(1.0, 1.0), Signal(0.0, 0.0), draw, d).own == pytest.approx(0.0, abs=1e-12)


def test_a_branch_that_mixes_equal_tokens_has_the_drift_of_one():
    """Tokens and gradients all alike: both ways together and the branch's way add to the drift of a branch of one token."""
    d, a, skip2 = 48, 0.7, 1.3
    alone = post_norm_drift(Signal(skip2, skip2), Signal(a, a), DrawSpread.of_matrices(1.0, 3.0, 1.0), d)
    mixing = post_norm_drift(Signal(skip2, skip2), Signal(a, a), DrawSpread.of_matrices(1.0, 3.0, 1.0, a), d)
    g = Signal(1.0, 1.0)
    back = mixing.path(g, lambda g: g.times(a))
    assert skip2 + back.second_moment == pytest.approx((skip2 + a) * (1 + alone.own))
    assert skip2 + back.covariance == pytest.approx((skip2 + a) * (1 + alone.own))
    assert mixing.own == 0.0 > alone.own


def test_the_drift_depends_on_the_ratio_of_branch_and_stream_alone():
    draw, d = DrawSpread.of_matrices(4.0, 6.0, 2.0, common_kurtosis=2.0), 48  # ReLU
    small, large = (post_norm_drift(Signal(k, 0.4 * k), Signal(0.3 * k, 0.2 * k), draw, d) for k in (1.0, 7.0))
    assert small == pytest.approx(large)
    r, a = 0.6 / 1.3, 0.3
    shared = a * a * 0.25 / ((1 + a) ** 2 * d)
    assert small.own == pytest.approx(-(2 * a + 1.5 * a * a) / ((1 + a) ** 2 * d) - shared)
    assert small.pair == pytest.approx(2 - r * r)


def test_a_norm_does_not_change_the_sign_of_a_covariance():
    """A covariance may vary more than its mean, so that the first order takes off more than all of it."""
    small = [covariance_factor(0.01, 1.0, Spread(0.0, 0.0, u, 0.0, 0.0)) for u in (0.0, 0.004, 0.00499, 0.00501, 0.02)]
    assert small[0] == 1
    assert small[1] == pytest.approx(0.6, rel=1e-12)  # first order
    assert small[2] > small[3] > small[4] > 0
    assert small[2] - small[3] == pytest.approx(0.002, rel=0.01)  # without a step or a kink
