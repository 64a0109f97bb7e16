"""Moments of single components: against simulations with their own standard errors, exact integrals, and worked values."""

import math

import numpy as np
import pytest
from passes import Given, gaussian, start, through

from depthwidth.layers import (
    Attention,
    Embedding,
    FeedForward,
    LanguageHead,
    LayerNorm,
    Linear,
    MixtureOfExperts,
    Residual,
    RMSNorm,
    Rotary,
    RouterRule,
    SinusoidalPositions,
    TokenStem,
    Unembedding,
)
from depthwidth.layers.activations import activation
from depthwidth.layers.attention_moments import LARGEST_SCORES, capped_variance
from depthwidth.layers.feed_forward_moments import activation_tables, hidden_moments
from depthwidth.layers.stem import SEGMENT_MATCH
from depthwidth.numerics.routing import routing
from depthwidth.numerics.softmax import overlap
from depthwidth.signal import DrawSpread, Offset, Signal, Spread, TokenSignal
from depthwidth.signal.positions import Positions


def pairs(rng, draws, width, r, q=1.0):
    """Two tokens of Gaussian features of second moment q and correlation r: (draws, 2, width)."""
    x, z = rng.standard_normal((2, draws, width))
    return math.sqrt(q) * np.stack([x, r * x + math.sqrt(1 - r * r) * z], axis=1)


def same(sample, expected, slack=0.0):
    """Standard errors between the mean of independent draws and a prediction, which may be off by this share of it."""
    error = sample.std(ddof=1) / math.sqrt(len(sample)) + slack * abs(expected) / 5
    return abs(sample.mean() - expected) < 5 * error


# Linear maps, norms, dropout.


def test_a_linear_map_by_hand():
    y, front = through(Linear(12, 20), Signal(0.5, 0.2), Given(weight=0.1, bias=0.03), Signal(2.0, -0.5))
    assert y == pytest.approx((0.5 * 1.2 + 0.03, 0.2 * 1.2 + 0.03, None, None, None))
    assert front == pytest.approx((2.0 * 2.0, -0.5 * 2.0, None, None, None))


@pytest.mark.parametrize("norm", [RMSNorm(48, eps=0.25), LayerNorm(48, eps=0.25)])
def test_a_norm_at_infinite_width_by_hand(norm):
    """Its epsilon is added to the second moment, of one token and of both."""
    y, front = through(norm, Signal(0.75, 0.3), Given(), Signal(2.0, 0.5))
    assert y == pytest.approx((0.75, 0.3, None, None, None))
    assert front == pytest.approx((2.0, 0.5, None, None, None))
    y, front = through(norm, Signal(1.75, 0.3), Given(), Signal(2.0, 0.5))
    assert y == pytest.approx((0.875, 0.15, None, None, None))
    assert front == pytest.approx((1.0, 0.25, None, None, None))


@pytest.mark.parametrize("norm", [RMSNorm(16, eps=0.0), LayerNorm(16, eps=0.0)])
def test_a_norm_of_gaussian_features_by_simulation(rng, norm):
    """Output correlation and both moments of the gradient, its projections written out; without them it is 1 + 2/d."""
    d, r, q = norm.width, 0.5, 1.7
    x = pairs(rng, 60_000, d, r, q)
    x = x - x.mean(-1, keepdims=True) if norm.centred else x
    size = np.sqrt((x * x).mean(-1, keepdims=True))
    y, front = through(norm, gaussian(q, q * r, d), Given(), Signal(1.0, 0.6))
    g = pairs(rng, 60_000, d, 0.6)
    along = x / size
    back = g - (along * g).mean(-1, keepdims=True) * along - (g.mean(-1, keepdims=True) if norm.centred else 0.0)
    back /= size
    assert same(along.prod(1).mean(-1), y.covariance, slack=1 / d**2)
    assert not same(along.prod(1).mean(-1), r, slack=1 / d**2)
    assert same((back[:, 0] ** 2).mean(-1), front.second_moment, slack=1 / d**2)
    assert same(back.prod(1).mean(-1), front.covariance, slack=1 / d**2)
    assert not same((back[:, 0] ** 2).mean(-1), (1 + 2 / d) / q, slack=1 / d**2)
    assert not same(back.prod(1).mean(-1), 0.6 * (1 + 1.5 / d + r * r / d / 2) / q, slack=1 / d**2)


def test_dropout_of_a_branch_adds_to_single_tokens_alone():
    layer = Residual(FeedForward(8, 16, activation="identity", bias=False), dropout=0.2)
    given = Given(up_weight=1 / 8, down_weight=1 / 16)
    y, pull, _ = layer.branch_moments(Signal(1.0, 0.4), start(given, finite_width=False))
    assert y == pytest.approx((1.25, 0.4, None, None, None))
    assert pull(Signal(1.0, 0.4)) == pytest.approx((1.25, 0.4, None, None, None))


def test_dropout_by_simulation(rng):
    x = pairs(rng, 40_000, 4, 0.5)
    kept = rng.random(x.shape) > 0.3
    dropped = x * kept / 0.7
    y = Signal(1.0, 0.5).after_dropout(0.3)
    assert same((dropped[:, 0] ** 2).mean(-1), y.second_moment)
    assert same(dropped.prod(1).mean(-1), y.covariance)
    assert not same((dropped[:, 0] ** 2).mean(-1), 1.3)


# Residual branches.


def test_a_residual_branch_scales_and_adds():
    """Squares of both factors forward and backward; a post-norm divides by the second moment of the sum."""
    branch = FeedForward(16, 64, activation="identity", bias=False)
    given = Given(skip=0.8, branch=0.5, up_weight=1 / 16, down_weight=1 / 64)
    y, front = through(Residual(branch), Signal(2.0, 0.6), given, Signal(1.0, 0.2), finite_width=False)
    assert y == pytest.approx((0.89 * 2.0, 0.89 * 0.6, None, None, None))
    assert front == pytest.approx((0.89, 0.89 * 0.2, None, None, None))
    y, front = through(
        Residual(branch, norm_stream=RMSNorm(16, eps=0.0)), Signal(2.0, 0.6), given, Signal(1.0, 0.2), finite_width=False
    )
    assert y == pytest.approx((1.0, 0.3, None, None, None))
    assert front == pytest.approx((1 / 2.0, 0.2 / 2.0, None, None, None))


# Feed-forward parts.


@pytest.mark.parametrize(("name", "kurtosis", "slope_kurtosis"), [
    ("identity", 3.0, 1.0), ("relu", 6.0, 2.0), ("relu2", 105 / 2 / 1.5**2, 6.0), ("tanh", None, None),
])  # fmt: skip
def test_kurtoses_of_hidden_features(name, kurtosis, slope_kurtosis):
    """By hand where they are rational; else by draws."""
    *_, found, slope, _ = activation_tables(name, start(Given()).trace)(1.3, 0.0)
    if kurtosis is None:
        x = math.sqrt(1.3) * np.random.default_rng(5).standard_normal(1_000_000)
        f, df = (activation(name)(x), activation(name).derivative(x))
        kurtosis, slope_kurtosis = ((v**4).mean() / (v**2).mean() ** 2 for v in (f, df))
    assert found == pytest.approx(kurtosis, rel=0.015)
    assert slope == pytest.approx(slope_kurtosis, rel=0.03)  # a jump falls on a node of the quadrature


@pytest.mark.parametrize(("name", "gated"), [("relu", False), ("relu", True), ("silu", True), ("identity", False)])
def test_draws_of_a_feed_forward_part_by_simulation(rng, name, gated):
    """The relative variance of |f|^2 over draws of both matrices, exact in the width given the kurtosis."""
    d, hidden, draws = 16, 48, 20_000
    layer = FeedForward(d, hidden, activation=name, gated=gated, bias=False)
    given = Given(gate_weight=1 / d, up_weight=1 / d, down_weight=1 / hidden)
    omega = layer.draw_spread(Signal(1.0, 0.3), start(given)).omega
    u, v = rng.standard_normal((2, draws, hidden))
    h = activation(name)(u) * (v if gated else 1.0)
    f = rng.standard_normal((draws, d)) * np.sqrt((h * h).mean(1, keepdims=True))
    squares = (f * f).mean(1)
    relative = (squares / squares.mean() - 1) ** 2
    # (1 + 2/d)(1 + (kappa - 1)/hidden) - 1, of which omega/d is the first order
    exact = (1 + 2 / d) * (1 + (omega - 2) / d) - 1
    assert same(relative, exact, slack=0.05)
    assert not same(relative, (1 + 2 / d) * (1 + (1.4 * (omega - 2) + 0.4) / d) - 1, slack=0.05)


@pytest.mark.parametrize(("name", "ratio", "moment"), [("relu", 4, 2.5), ("relu", 2, 3.0), ("identity", 1, 3.0)])
def test_the_second_number_of_a_draw(name, ratio, moment):
    """2 + kappa_s / m: 2.5 for a ReLU part four times as wide."""
    layer = FeedForward(16, 16 * ratio, activation=name, bias=False)
    assert layer.draw_spread(Signal(1.0, 0.3), start(Given(up_weight=1 / 16)))[1] == pytest.approx(moment, rel=0.01)


@pytest.mark.slow
def test_draws_of_attention_are_those_of_two_square_matrices(rng):
    layer = Attention(16, 2, 2, 8, 8, bias=False)
    omega, moment, *_ = layer.draw_spread(Signal(1.0, 0.3), start(Given()))
    assert (omega, moment) == (4.0, 3.0)
    d, draws = 16, 20_000
    x = rng.standard_normal(d)
    first, second = rng.standard_normal((2, draws, d, d))
    squares = (np.einsum("nij,njk,k->ni", second, first, x) ** 2).mean(1)
    assert same((squares / squares.mean() - 1) ** 2, (1 + 2 / d) ** 2 - 1, slack=0.03)
    assert (1 + 2 / d) ** 2 - 1 == pytest.approx(omega / d, rel=1 / d)


@pytest.mark.parametrize(("heads", "kv_heads", "value_dim"), [(4, 1, 8), (8, 2, 4)])
def test_draws_of_attention_with_shared_values_by_simulation(rng, heads, kv_heads, value_dim):
    """Key heads of few dimensions are all that a draw of the values has, however many heads mix them."""
    d, tokens, draws = 32, 12, 4000
    layer = Attention(d, heads, kv_heads, value_dim, value_dim, bias=False)
    omega, moment, *_ = layer.draw_spread(Signal(1.0, 0.6), start(Given()))
    rank = kv_heads * value_dim / d
    assert (omega, moment) == pytest.approx((2 + 2 / rank, 2 + 1 / rank))
    x = math.sqrt(0.6) * rng.standard_normal((1, d)) + math.sqrt(0.4) * rng.standard_normal((tokens, d))
    x *= math.sqrt(d) / np.linalg.norm(x, axis=1, keepdims=True)
    k, v = (x @ (rng.standard_normal((draws, d, kv_heads * value_dim)) / math.sqrt(d)) for _ in range(2))
    k, v = (np.repeat(one.reshape(draws, tokens, kv_heads, -1), heads // kv_heads, axis=2) for one in (k, v))
    q = (x[-1] @ (rng.standard_normal((draws, d, heads * value_dim)) / math.sqrt(d))).reshape(draws, heads, -1)
    p = np.exp(np.einsum("nhc,nthc->nht", q, k) / math.sqrt(value_dim))
    mixed = np.einsum("nht,nthc->nhc", p / p.sum(-1, keepdims=True), v).reshape(draws, -1)
    f = np.einsum("nc,ncd->nd", mixed, rng.standard_normal((draws, heads * value_dim, d)))
    squares = (f * f).mean(1)
    measured = d * ((squares / squares.mean() - 1) ** 2).mean()
    assert measured == pytest.approx(omega, rel=0.2)
    assert measured > 1.4 * 4  # of heads that share nothing


@pytest.mark.parametrize("gated", [False, True])
def test_hidden_moments_are_averages_over_the_sample_correlation(rng, gated):
    """The correlation of two tokens scatters between networks; the pair moment at its mean alone is told apart."""
    d, r, name = 16, 0.6, "relu"
    x = pairs(rng, 40_000, d, r)
    rho = x.prod(1).sum(-1) / np.sqrt((x * x).sum(-1).prod(-1))
    mean, linear = float(rho.mean()), (Signal(1.0, float(rho.mean())) if gated else None)
    tables = activation_tables(name, start(Given()).trace)
    found = hidden_moments(name, Signal(1.0, mean), linear, d, tables)
    pair = np.asarray(activation(name).pair_moment(1.0, rho)) * (rho if gated else 1.0)
    assert same(pair, found.pair, slack=0.003)
    plain = hidden_moments(name, Signal(1.0, mean), linear, math.inf, tables)
    assert not same(pair, plain.pair, slack=0.003)
    assert found.second_moment == pytest.approx(0.5)
    slope = np.asarray(activation(name).derivative_pair_moment(1.0, rho)) * (rho if gated else 1.0)
    assert same(slope, found.gate_gradient_pair, slack=0.01)


@pytest.mark.parametrize("gated", [False, True])
def test_a_feed_forward_part_by_simulation(rng, gated):
    """Two tokens of fixed sizes, drawn weights and output gradients: all four moments."""
    d, hidden, draws, r = 12, 20, 6000, 0.5
    layer = FeedForward(d, hidden, activation="relu", gated=gated, bias=False, dropout=0.25)
    given = Given(gate_weight=1.5 / d, up_weight=0.8 / d, down_weight=1.2 / hidden)
    y, front = through(layer, Signal(1.0, r), given, Signal(1.0, 0.3), finite_width=False)
    x = np.zeros((2, d))
    x[0, 0], x[1, 0], x[1, 1] = math.sqrt(d), r * math.sqrt(d), math.sqrt(d * (1 - r * r))
    gate, up = (math.sqrt(v / d) * rng.standard_normal((draws, hidden, d)) for v in (1.5, 0.8))
    down = math.sqrt(1.2 / hidden) * rng.standard_normal((draws, d, hidden))
    g = pairs(rng, draws, d, 0.3)
    mask = (rng.random((draws, 2, hidden)) > 0.25) / 0.75
    v = np.einsum("nhd,td->nth", up, x)
    u = np.einsum("nhd,td->nth", gate, x) if gated else v
    f, df = np.maximum(u, 0), (u > 0) * 1.0
    out = np.einsum("ndh,nth->ntd", down, f * (v if gated else 1) * mask)
    by_hidden = np.einsum("ndh,ntd->nth", down, g) * mask
    if gated:
        back = np.einsum("nhd,nth->ntd", gate, by_hidden * df * v) + np.einsum("nhd,nth->ntd", up, by_hidden * f)
    else:
        back = np.einsum("nhd,nth->ntd", up, by_hidden * df)
    assert same((out**2).mean((1, 2)), y.second_moment)
    assert same(out.prod(1).mean(-1), y.covariance)
    assert not same((out**2).mean((1, 2)), 0.9 * y.second_moment)
    # The gradient's draws share weights with the features they pass: a term of order 1/d.
    assert same((back**2).mean((1, 2)), front.second_moment, slack=0.25)
    assert same(back.prod(1).mean(-1), front.covariance, slack=0.25)
    assert not same((back**2).mean((1, 2)), 0.5 * front.second_moment, slack=0.25)


# Mixtures of experts.


def mixture(**choices):
    expert = FeedForward(32, 24, activation="identity", bias=False)
    return MixtureOfExperts(expert, 4, 2, **choices)


GIVEN = {
    "router_weight": 1 / 32, "expert.up_weight": 1 / 32, "expert.down_weight": 1 / 24,
    "shared.up_weight": 1 / 32, "shared.down_weight": 1 / 24, "shared_gate_weight": 1e-5 / 32,
}  # fmt: skip


def test_a_shared_gate_is_a_quarter_of_the_shared_part():
    """Beside the same mixture without a gate and without a shared part, forward and backward."""
    shared = FeedForward(32, 24, activation="identity", bias=False)
    parts = [mixture(), mixture(shared=shared), mixture(shared=shared, shared_gate=True)]
    found = [through(one, Signal(1.0, 0.4), Given(**GIVEN), Signal(1.0, 0.2), finite_width=False) for one in parts]
    exact = float(activation("sigmoid").second_moment(1e-5))
    for side in (0, 1):
        for moment in (0, 1):
            without, plain, gated = (pair[side][moment] for pair in found)
            assert (gated - without) / (plain - without) == pytest.approx(exact, rel=1e-4)


def routed(scores, top, layer):
    """The weights of experts, and the derivatives by their own scores of what they would be without a sum to divide by."""
    rule, chosen = layer.rule, np.ones(scores.shape, dtype=bool)
    shares = 1 / (1 + np.exp(-scores)) if rule.scores == "sigmoid" else np.exp(scores)
    if rule.limited:
        groups = np.sort(shares.reshape(*shares.shape[:2], rule.groups, -1), axis=-1)[..., -rule.counted :].sum(-1)
        best = groups >= np.sort(groups, axis=-1)[..., [-rule.top_groups]]
        chosen = np.repeat(best, scores.shape[-1] // rule.groups, axis=-1)
    open_to = np.where(chosen, scores, -np.inf)
    chosen = open_to >= np.sort(open_to, axis=-1)[..., [-top]]
    w = np.where(chosen, shares, 0.0)
    slopes = w * (1 - w) if rule.scores == "sigmoid" else w
    total = w.sum(-1, keepdims=True) if layer.renormalized else 1.0
    return w / total, slopes / total


SIGMOIDS = RouterRule("sigmoid", groups=3, top_groups=2, counted=2, factor=1.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experts", "rule", "renormalized", "wrong"),
    [(4, RouterRule(), True, 0.85), (6, SIGMOIDS, True, 0.7), (6, SIGMOIDS, False, 0.7)],
)
def test_experts_and_their_router_by_simulation(rng, experts, rule, renormalized, wrong):
    """Second moments and covariances forward and back of two tokens: each expert, the mixture, and the router's own path."""
    d, hidden, top, draws, r = 16, 12, 2, 8000, 0.5
    expert = FeedForward(d, hidden, activation="identity", bias=False)
    layer = MixtureOfExperts(expert, experts, top, renormalized=renormalized, rule=rule)
    given = Given(router_weight=1.0 / d, **{"expert.up_weight": 1 / d, "expert.down_weight": 1 / hidden})
    y, front = through(layer, Signal(1.0, r), given, Signal(1.0, 0.3), finite_width=False)
    x = np.zeros((2, d))
    x[0, 0], x[1, 0], x[1, 1] = math.sqrt(d), r * math.sqrt(d), math.sqrt(d * (1 - r * r))
    router = rng.standard_normal((draws, experts, d)) / math.sqrt(d)
    up = rng.standard_normal((draws, experts, hidden, d)) / math.sqrt(d)
    down = rng.standard_normal((draws, experts, d, hidden)) / math.sqrt(hidden)
    matrix = down @ up
    g = pairs(rng, draws, d, 0.3)
    scores = np.einsum("ned,td->nte", router, x)
    w, slopes = routed(scores, top, layer)
    outputs = rule.factor * np.einsum("nedk,tk->nted", matrix, x)
    out = np.einsum("nte,nted->ntd", w, outputs)
    by_weight = np.einsum("ntd,nted->nte", g, outputs)
    by_score = slopes * (by_weight - (by_weight * w).sum(-1, keepdims=True) * renormalized)
    back = rule.factor * np.einsum("nte,nedk,ntd->ntk", w, matrix, g) + np.einsum("nte,ned->ntd", by_score, router)
    for sample, expected in (
        ((out**2).mean((1, 2)), y.second_moment), (out.prod(1).mean(-1), y.covariance),
        ((back**2).mean((1, 2)), front.second_moment), (back.prod(1).mean(-1), front.covariance),
    ):  # fmt: skip
        assert same(sample, expected, slack=0.03)
        assert not same(sample, wrong * expected, slack=0.03)
    if not rule.limited:
        assert y.second_moment == pytest.approx(routing(1.0, r, experts, top).overlap, rel=0.03)


def test_a_sum_of_parts_varies_between_draws_as_their_shares_say(rng):
    """Two experts of 8 features and a shared part of 24, linear: the variance of the output's size, and tr (J J')^2.

    A single expert's spread, which the sum does not have, is seen.
    """
    d, draws, sizes, gains = 16, 6000, (8, 8, 24), (0.5, 0.5, 1.0)
    shares = np.array(gains) ** 2 / np.square(gains).sum()
    each = [DrawSpread.of_matrices(size / d, 3.0, 1.0) for size in sizes]
    found = DrawSpread.of_sum(list(zip(shares.tolist(), each, strict=True)))
    total = np.zeros((draws, d, d))
    for size, gain in zip(sizes, gains, strict=True):
        down, up = rng.standard_normal((draws, d, size)) / math.sqrt(size), rng.standard_normal((draws, size, d)) / math.sqrt(d)
        total += gain * down @ up
    output = (total[:, :, 0] ** 2).sum(1)  # of one token along an axis
    products = total @ total.transpose(0, 2, 1)
    omega, backward = d * output.var() / output.mean() ** 2, d * (products**2).sum((1, 2)).mean() / np.trace(
        products, axis1=1, axis2=2
    ).mean() ** 2  # fmt: skip
    assert omega == pytest.approx(found.omega, rel=0.1)
    assert backward == pytest.approx(found.backward, rel=0.1)
    assert omega < 0.7 * each[0].omega
    assert DrawSpread.of_sum([(1.0, each[0])]) == each[0]._replace(pairs=each[0].omega)


# The ends of the tree.


def test_two_segments_by_integration():
    """A cut at u, drawn uniformly: both positions before it or both after it."""
    u = (np.arange(100_000) + 0.5) / 100_000
    assert pytest.approx((u**2 + (1 - u) ** 2).mean(), rel=1e-8) == SEGMENT_MATCH


@pytest.mark.parametrize(("width", "distance"), [(16, 1), (64, 5), (64, 200)])
def test_sinusoidal_positions_by_their_vectors(width, distance):
    """Sines and cosines written out: second moment 1/2, and the correlation of two positions that far apart."""
    frequencies = 10000.0 ** (-np.arange(0, width, 2) / width)

    def vector(position):
        return np.concatenate([np.sin(position * frequencies), np.cos(position * frequencies)])

    one, other = vector(7), vector(7 + distance)
    assert (one**2).mean() == pytest.approx(0.5)
    assert (one * other).mean() / 0.5 == pytest.approx(SinusoidalPositions().correlation(width, distance))


@pytest.mark.parametrize("width", [16, 17])
def test_the_mean_over_the_features_of_sinusoids_by_their_vectors(width):
    """Exchangeable tokens have its average square and product; positions their own."""
    angles = np.outer(np.arange(5), 10000.0 ** (-np.arange(0, width, 2) / width))
    vectors = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(5, -1)[:, :width]
    m = vectors.mean(-1)
    assert SinusoidalPositions().mean(width, np.arange(5)) == pytest.approx(m)
    products = np.outer(m, m)
    site = start(Given(), length=5, finite_width=False)
    x = SinusoidalPositions().add(Signal(1.0, 0.0), Signal(1.0, 0.0), site, width)
    assert x.offset[:2] == pytest.approx((products.trace() / 5, (products.sum() - products.trace()) / 20))
    every = Positions.every(5)
    each = TokenSignal(np.ones(5), np.zeros((5, 5)), every)
    x = SinusoidalPositions().add(each, each, site, width)
    assert x.offset.second_moment == pytest.approx(m * m)
    assert x.offset.covariance == pytest.approx(products)
    assert x.whole().second_moment == pytest.approx(1.5 + np.zeros(5))


def test_the_spread_of_fixed_and_drawn_vectors_by_simulation(rng):
    """(W10): about the mean over the features, and with it; fixed vectors alone have none."""
    d, draws = 32, 40_000
    fixed = np.array([[1.5, 0.2], [0.9, 0.9]]).repeat(d // 2, axis=1)
    m, about = fixed.mean(-1), fixed - fixed.mean(-1, keepdims=True)
    x = fixed + rng.standard_normal((draws, 2, d))
    size, pair = (x**2).mean(-1), (x[:, 0] * x[:, 1]).mean(-1)
    every = Positions.every(2)
    offset = Offset(m * m, np.outer(m, m), (about**2).mean(-1), about @ about.T / d, d)
    signal = TokenSignal(1.0 + offset.rest, 0.0 + offset.rest_covariance, every).offset_as(offset)
    signal = signal.spread_as(Spread.of_gaussian(signal, d))
    whole = signal.whole()
    assert whole.spread.second_moment == pytest.approx(size.var(0), rel=0.03)
    assert whole.spread.covariance[0, 1] == pytest.approx(np.cov(pair, size[:, 0])[0, 1], rel=0.06)
    assert whole.spread.second_moments[0, 1] == pytest.approx(np.cov(size.T)[0, 1], abs=0.03 * size.var())
    centred = ((x - x.mean(-1, keepdims=True)) ** 2).mean(-1)
    assert signal.spread.second_moment == pytest.approx(centred.var(0), rel=0.06)  # and 1/d less, as n = d - 1 has it
    assert signal.spread.second_moment[0] < 0.9 * size.var(0)[0]
    assert Spread.of_gaussian(
        signal.of(offset.rest, offset.rest_covariance).offset_as(offset), d
    ).second_moment == pytest.approx(0.0)


def test_norms_and_their_means_over_the_features():
    """A LayerNorm takes off what an RMSNorm divides along; a linear map reads all."""
    x = Signal(1.0, 0.4).offset_as(Offset(0.5, 0.2, 0.3, 0.1, 16))
    site = start(Given(weight=0.1), finite_width=False)
    plain, with_mean = Signal(1.0, 0.4), Signal(1.5, 0.6)
    assert LayerNorm(16).moments(x, site)[0] == LayerNorm(16).moments(plain, site)[0]
    assert RMSNorm(16).moments(x, site)[0][:2] == pytest.approx(RMSNorm(16).moments(with_mean, site)[0][:2])
    assert Linear(16, 16, bias=False).moments(x, site)[0][:2] == pytest.approx(
        Linear(16, 16, bias=False).moments(with_mean, site)[0][:2]
    )
    assert x.after_dropout(0.5).whole()[:2] == pytest.approx(with_mean.after_dropout(0.5)[:2])
    assert x.after_dropout(0.5).offset == x.offset


def test_a_stem_adds_its_tables():
    """Tokens by their match, positions of no covariance, sinusoids of second moment 1/2, segments by theirs."""
    stem = TokenStem(Embedding(50, 8), SinusoidalPositions(), Embedding(2, 8), scale=2.0)
    given = Given(tokens_weight=0.25, segments_weight=0.5)
    site = start(given, length=3, finite_width=False)
    x, pull = stem.embed(site, Signal(1.0, 0.1), 0.6)
    waves = (
        2 * SinusoidalPositions().correlation(8, 1) + SinusoidalPositions().correlation(8, 2)
    ) / 3  # three positions: two pairs, then one
    assert x.whole() == pytest.approx((1.0 + 0.5 + 0.5, 0.1 + 0.5 * waves + 0.3, None, None, None))
    assert pull(Signal(1.0, 0.2)) == pytest.approx((1.0, 0.2, None, None, None))


def test_a_head_takes_off_the_mean_by_simulation(rng):
    """BERT's transform: GELU features have a mean that a LayerNorm removes, so that the correlation after it is lower."""
    d, draws, r = 48, 3000, 0.5
    head = LanguageHead(Unembedding(d, 20), Linear(d, d, bias=False), LayerNorm(d, eps=0.0), activation="gelu")
    given = Given(transform_weight=1.0 / d)
    site = start(given, finite_width=True)
    x, _ = head.features(gaussian(1.0, r, d).spread_as(None), site)
    token = np.zeros((2, d))
    token[0, 0], token[1, 0], token[1, 1] = math.sqrt(d), r * math.sqrt(d), math.sqrt(d * (1 - r * r))
    hidden = activation("gelu")(np.einsum("ndk,tk->ntd", rng.standard_normal((draws, d, d)) / math.sqrt(d), token))
    centred = hidden - hidden.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True))
    assert same(normed.prod(1).mean(-1), x.covariance, slack=0.03)
    rms = hidden / np.sqrt((hidden**2).mean(-1, keepdims=True))
    assert not same(rms.prod(1).mean(-1), x.covariance, slack=0.03)


# Attention's limits.


def test_the_largest_scores_are_all_but_one_hot():
    """Larger variances are set to the limit, others are unchanged. There one key has most of the attention."""
    layer = Attention(16, 2, 2, 8, 8)
    assert LARGEST_SCORES == 64.0
    assert [capped_variance(layer, value) for value in (1.0, 63.0, 64.0, 65.0, 1e6)] == [1.0, 63.0, 64.0, 64.0, 64.0]
    assert capped_variance(layer, np.array([63.0, 65.0])).tolist() == [63.0, 64.0]
    assert float(overlap(LARGEST_SCORES, 128).P) == pytest.approx(0.681, abs=1e-3)
    assert float(overlap(LARGEST_SCORES / 2, 128).P) < 0.6


def test_a_soft_cap_by_simulation(rng):
    z = math.sqrt(30.0) * rng.standard_normal(400_000)
    capped = (8 * np.tanh(z / 8)) ** 2
    assert same(capped, capped_variance(Attention(16, 2, 2, 8, 8, softcap=8.0), 30.0))
    assert not same(capped, 30.0)


@pytest.mark.parametrize(("head_dim", "scores", "infinite"), [(64, 8.5, True), (64, 7.5, False), (60, 8.5, False)])
def test_large_scores_of_large_heads_are_those_of_infinite_heads(head_dim, scores, infinite, monkeypatch):
    """From a variance of 8 and 64 dimensions on, to spare seconds."""
    asked = {}

    def attend(positions, memory, **given):
        asked.update(given)
        raise StopIteration

    monkeypatch.setattr("depthwidth.signal.attention.token_attention", attend)
    layer = Attention(16, 1, 1, head_dim, 8, bias=False, out_bias=False)
    given = Given(query_weight=1 / 16, key_weight=scores / 16, value_weight=1 / 16, out_weight=1 / 16)
    positions = Positions.smooth(6)
    x = TokenSignal(*positions.uniform(1.0, 0.2), positions)
    with pytest.raises(StopIteration):
        layer.moments(x, start(given))
    assert asked["head_dim"] == (None if infinite else head_dim)


def test_infinite_heads_are_right_to_one_per_cent_for_large_scores():
    """At the threshold itself: sums of squared probabilities over finite heads, against infinite ones."""
    for keys in (8, 64, 1024):
        finite, limit = overlap(8.0, keys, 64).P, overlap(8.0, keys).P
        assert float(limit) == pytest.approx(float(finite), rel=0.011)


def test_grouped_heads_of_one_token_by_hand():
    """A sequence of one token: value and output maps alone; each value head's gradient is that of two query heads."""
    layer = Attention(16, 4, 2, 8, 6, bias=False, out_bias=False)
    given = Given(query_weight=1 / 16, key_weight=1 / 16, value_weight=0.05, out_weight=0.03)
    positions = Positions.every(1)
    x = TokenSignal(np.array([2.0]), np.array([[2.0]]), positions)
    y, pull = layer.moments(x, start(given, length=1))
    assert y.second_moment == pytest.approx([2.0 * 16 * 0.05 * 24 * 0.03])
    front = pull(x.of(np.array([1.0]), np.array([[1.0]])))
    assert front.second_moment == pytest.approx([16 * 0.03 * 24 * 0.05])


@pytest.mark.slow
@pytest.mark.parametrize("scale", [None, 0.5])
def test_scores_of_two_tokens_by_hand(scale):
    """Second moment d_h scale^2 q_q q_k; the covariance of two scores is reduced by a rotation by one position."""
    width, head_dim, r = 16, 8, 0.4
    layer = Attention(
        width, 2, 2, head_dim, 8, causal=False, bias=False, out_bias=False, position=Rotary(base=100.0), scale=scale
    )
    given = Given(query_weight=2 / width, key_weight=3 / width, value_weight=1 / width, out_weight=1 / width)
    site = start(given, length=2, finite_width=False)
    layer.moments(Signal(1.5, 1.5 * r), site)
    (scores,) = [record for record in site.trace.records if record.role.endswith("scores")]
    expected = head_dim * (1 / head_dim if scale is None else scale**2) * 3.0 * 4.5
    assert scores.second_moment == pytest.approx(expected)
    cosine = np.cos(100.0 ** (-np.arange(4) / 4)).mean()
    assert scores.covariance == pytest.approx(expected * r * cosine)


# Gated parts, positions of unequal variance, post-norm residuals.


def test_a_bilinear_part_by_hand():
    """f = down (gate x * up x): products of covariances forward, and both paths back."""
    d, hidden = 16, 40
    layer = FeedForward(d, hidden, activation="identity", gated=True, bias=False)
    given = Given(gate_weight=2 / d, up_weight=3 / d, down_weight=0.5 / hidden)
    y, front = through(layer, Signal(1.0, 0.4), given, Signal(1.0, 0.3), finite_width=False)
    assert y[:2] == pytest.approx((6 * 0.5, 6 * 0.16 * 0.5))
    gamma, kappa = d * 0.5 / hidden, d * 0.5 / hidden * 0.3
    both = hidden * (2 / d * 3 + 3 / d * 2)
    assert front[:2] == pytest.approx((both * gamma, both * 0.4 * kappa), rel=1e-5)


@pytest.mark.parametrize("ratio", [1.04, 1.4])
def test_hidden_moments_of_tokens_of_unequal_variance(ratio):
    """Against the pair moment of both variances: nearly alike from tables, to 1e-4, and else by itself."""
    positions = Positions.every(2)
    q = np.array([1.0, ratio])
    pair = 0.5 * math.sqrt(ratio)
    x = TokenSignal(q, np.array([[1.0, pair], [pair, ratio]]), positions)
    found = hidden_moments("gelu", x, None, math.inf, activation_tables("gelu", start(Given()).trace))
    exact = activation("gelu").pair_moment(1.0, 0.5, other_variance=ratio)
    assert found.pair[0, 1] == pytest.approx(float(exact), rel=1e-4 if ratio < 1.05 else 1e-9)
    assert found.second_moment == pytest.approx([float(activation("gelu").second_moment(v)) for v in q], rel=1e-4)


@pytest.mark.parametrize("skip", [1.0, 0.8])
def test_the_drift_of_a_post_norm_residual_is_that_of_the_scaled_stream(skip):
    d, ratio = 16, 4
    branch = FeedForward(d, ratio * d, activation="identity", bias=False)
    layer = Residual(branch, norm_stream=RMSNorm(d, eps=0.0))
    given = Given(skip=skip, branch=0.5, up_weight=1 / d, down_weight=1 / (ratio * d))
    site = start(given)
    site.trace.layer, site.trace.length = 0, 1
    x = gaussian(1.0, 1.0, d)
    _, pull = layer.moments(x, site)
    a = 0.25 / skip**2
    size = skip**2 + 0.25
    v = (2 * size**2 + 0.25 * (4 * skip**2 + 2.5 * 0.25)) / d / size**2  # the branch grows with what it reads
    drift = -(2 * a + 1.25 * a * a) / ((1 + a) ** 2 * d)
    expected = (1 + v + v * v) * (1 + drift)
    assert pull(Signal(1.0, 0.0)).second_moment == pytest.approx(expected, rel=1e-9)
    ((_, _, step),) = site.trace.gradient_steps  # of a single token: the sizes of its stream and of its gradient
    assert step.noise == pytest.approx((4 * a + 2.5 * a * a) / ((1 + a) ** 2 * d) + v, rel=1e-9)


def test_the_mean_of_a_post_norm_gradient_counts_what_size_and_gradient_share():
    """Of a ReLU part, whose active features are in both: omega 3.25, mu_2 2.5 and a covariance of 1/4, over the width."""
    d, ratio, a = 16, 4, 0.25
    layer = Residual(FeedForward(d, ratio * d, activation="relu", bias=False), norm_stream=RMSNorm(d, eps=0.0))
    site = start(Given(branch=0.5, up_weight=1 / d, down_weight=2 / (ratio * d)))
    site.trace.layer, site.trace.length = 0, 1
    _, pull = layer.moments(gaussian(1.0, 1.0, d), site)
    v = (2 * (1 + a) ** 2 + a * (4 + 3.25 * a)) / d / (1 + a) ** 2  # the branch grows with what it reads
    pull(Signal(1.0, 0.0))
    ((_, _, step),) = site.trace.gradient_steps
    assert step.noise == pytest.approx((4 * a + (3.25 - 2 * 0.25) * a * a) / ((1 + a) ** 2 * d) + v, rel=1e-5)
    drift = -(2 * a + (1.5 + 0.25) * a * a) / ((1 + a) ** 2 * d)
    assert pull(Signal(1.0, 0.0)).second_moment == pytest.approx((1 + v + v * v) * (1 + drift), rel=1e-5)
    # The last norm of a stack meets a gradient that may have a component along its output, which it takes off.
    site.trace.end = (site.role, 0)
    _, pull_last = layer.moments(gaussian(1.0, 1.0, d), site)
    last = pull_last(Signal(1.0, 0.0)).second_moment
    assert last == pytest.approx((1 + v + v * v) * (1 - 1 / d) * (1 + drift), rel=1e-5)


def test_a_scaled_branch_is_one_of_smaller_weights():
    """A factor on a branch, or its square in the variance of its last weights: one stream, with one spread."""
    width = 64
    attention = Attention(width, 2, 2, 32, 32, causal=False, bias=False, out_bias=False)
    residual = Residual(attention, norm_in=RMSNorm(width))
    found = []
    for branch, out in ((0.5, 1.0), (1.0, 0.25)):
        given = Given(
            branch=branch, query_weight=1 / width, key_weight=1 / width, value_weight=1 / width, out_weight=out / width
        )
        y, _ = residual.moments(gaussian(1.0, 0.4, width), start(given))
        found.append([*y[:2], *y.spread])
    assert found[0] == pytest.approx(found[1], rel=1e-12)
