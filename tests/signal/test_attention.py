"""Attention between tokens that are not exchangeable: against the scalar formulas, against simulation, and against itself."""

import math

import numpy as np
import pytest
from helpers import one_quick_in
from simulations import exchangeable, simulate, summary

from depthwidth import Transformer, propagate
from depthwidth.errors import InputError
from depthwidth.formulas.attention import attention_moments
from depthwidth.layers.rotary import Rotary
from depthwidth.numerics.softmax import attention_overlap, overlap, pair_overlap
from depthwidth.numerics.softmax_responses import Responses
from depthwidth.signal.attention import TokenAttention
from depthwidth.signal.positions import Positions

LENGTHS = (1, 2, 3, 4, 6, 10, 16, 26, 41, 64)


# ---- the softmax's tables ----


@one_quick_in(2, ("largest", "worst"), [(1.0, 5e-5), (4.0, 3e-3)])
def test_tables_give_the_overlaps_of_two_rows(largest, worst):
    table = Responses(largest, LENGTHS)
    n = np.array(LENGTHS[1:], dtype=float)
    shorter, longer = np.minimum(n[:, None], n), np.maximum(n[:, None], n)
    size = (len(LENGTHS),) * 2
    for s2 in (0.07 * largest, 0.6 * largest, largest):
        for rho in (-0.05, 0.3, 0.97):
            got = table.pair(np.full(size, s2), np.full(size, rho))
            grown = np.exp(got.exponent * s2)[1:, 1:]
            known = pair_overlap(s2, rho, shorter, longer)
            assert (1 + (1 - 1 / shorter) * (grown - 1)) / longer == pytest.approx(known.P2, rel=worst)
            assert (1 - 1 / shorter) / longer * grown * got.slope[1:, 1:] == pytest.approx(known.T2, rel=worst)


def test_tables_give_the_overlaps_of_one_row():
    table, n = Responses(4.0, LENGTHS, head_dim=32), np.array(LENGTHS, dtype=float)
    for s2 in (0.2, 1.7, 4.0):
        row, known = table.row(np.full(n.size, s2)), overlap(s2, n, 32)
        assert (1 + (1 - 1 / n) * np.expm1(row.ratio * s2)) / n == pytest.approx(known.P, rel=1e-5)
        assert pytest.approx(known.T, rel=1e-5, abs=1e-12) == row.T
        assert pytest.approx(known.P, rel=1e-5) == row.P


def test_finite_heads_average_over_the_product_of_two_queries():
    # The average over products and sizes bends near correlation 1, where the table's polynomial of it is good to this.
    table, n = Responses(2.0, LENGTHS[1:], head_dim=32), np.array(LENGTHS[1:], dtype=float)
    size = (n.size,) * 2
    for s2, rho in ((0.3, 0.0), (1.0, 0.4), (2.0, 0.9)):
        got, known = table.pair(np.full(size, s2), np.full(size, rho)), attention_overlap(s2, rho, n, head_dim=32)
        grown = np.diagonal(np.exp(got.exponent * s2))
        t2 = (1 - 1 / n) / n * grown * np.diagonal(got.slope)
        assert (1 + (1 - 1 / n) * (grown - 1)) / n == pytest.approx(known.P2, rel=2e-3)
        assert t2 == pytest.approx(known.T2, rel=5e-3)
        assert t2 * np.diagonal(got.product) == pytest.approx(known.R2, rel=0.01, abs=2e-4)


@pytest.mark.slow
def test_exponents_stay_finite_for_any_score_variance():
    for largest in (2.0**-10, 64.0):
        table = Responses(largest, (1, 2, 10, 64))
        for rho in (0.0, 0.5, 1.0):
            theta = table.pair(np.full((4, 4), largest), np.full((4, 4), rho)).exponent * largest
            assert np.all(np.abs(theta) < math.log(65) + 0.1)


# ---- exchangeable tokens ----


@pytest.mark.parametrize("kind", [Positions.one, Positions.every])
@pytest.mark.parametrize(
    ("length", "r", "r_g", "ss", "rate", "width"),
    [(64, 0.2, 0.5, 1.0, 0.1, None), (16, 0.0, 0.3, 4.0, 0.0, None), (16, 0.9, 0.0, 1.0, 0.1, 256)],
)
def test_exchangeable_tokens_give_the_scalar_formulas(kind, length, r, r_g, ss, rate, width):
    positions = kind(length)
    attention = TokenAttention(positions, causal=False, dropout=rate, width=width)
    got = summary(positions, attention(*positions.uniform(1.0, r), ss), positions.uniform(1.0, r_g))
    known = attention_moments(
        1.0, r, length=length, width=width or math.inf, score_gain=ss, dropout=rate, gradient_correlation=r_g
    )
    expected = [
        known.second_moment, known.covariance, known.query_gradient, known.query_gradient_covariance,
        known.value_gradient + known.key_gradient, known.value_gradient_covariance + known.key_gradient_covariance,
    ]  # fmt: skip
    # The tables interpolate, to a few 1e-4 of T2 at ss = 4; the rest is exact.
    assert got == pytest.approx(np.array(expected, dtype=float), rel=3e-4, abs=1e-12)


def test_causal_output_has_the_averaged_overlaps_of_the_scalar_formulas():
    positions = Positions.every(48)
    out = TokenAttention(positions, causal=True)(*positions.uniform(1.0, 0.3), 1.0)
    known = attention_moments(1.0, 0.3, length=48, width=math.inf, causal=True)
    assert positions.mean(out.second_moment) == pytest.approx(known.second_moment, rel=1e-5)
    assert positions.pair_mean(out.covariance) == pytest.approx(known.covariance, rel=1e-5)


@pytest.mark.parametrize(("r", "r_g", "measured", "errors"), [
    (0.2, 0.3, (0.2962, 0.2274, 0.939, 0.3146), (0.0053, 0.0052, 0.015, 0.0047)),
    (0.6, 0.0, (0.6417, 0.6175, 0.1281, 0.0137), (0.0141, 0.0140, 0.0015, 0.0002)),
])  # fmt: skip
@pytest.mark.parametrize("kind", [Positions.smooth, Positions.every])
def test_causal_attention_agrees_with_measured_values(kind, r, r_g, measured, errors):
    positions = kind(64)
    attention = TokenAttention(positions, causal=True, head_dim=64, width=256)
    out, asked, source = np.split(
        summary(positions, attention(*positions.uniform(1.0, r), 1.0), positions.uniform(1.0, r_g)), 3
    )
    z = (np.concatenate([out, asked + source]) - measured) / errors
    assert np.abs(z).max() < 3, z


# ---- few positions for many ----


@one_quick_in(2, "length", [64, 200])
@one_quick_in(2, "ss", [1.0, 4.0])
def test_few_positions_stand_for_all(length, ss):
    values = []
    for kind in (Positions.smooth, Positions.every):
        positions = kind(length)
        attention = TokenAttention(positions, causal=True, head_dim=64, width=128, dropout=0.1)
        first = attention(*positions.uniform(1.0, 0.2), ss)
        q, c = 1 + first.second_moment, 0.2 + first.covariance  # a residual stream that is no longer alike everywhere
        second = attention(np.ones_like(q), c / np.sqrt(np.outer(q, q)), ss)
        values.append(summary(positions, second, positions.uniform(1.0, 0.1)))
    few, every = values
    assert few == pytest.approx(every, rel=3e-3)
    assert few[:2] == pytest.approx(every[:2], rel=1e-3)


def test_positions_interpolate_and_average():
    positions = Positions.smooth(500)
    assert positions.count <= 16
    t = np.arange(1, 501)
    assert positions.weights @ (1 / positions.nodes) == pytest.approx(1 / t, rel=0.02)
    assert positions.mean(1 / positions.nodes) == pytest.approx((1 / t).mean(), rel=1e-3)
    later = 1 / np.maximum(positions.nodes[:, None], positions.nodes)  # bends where the two positions meet
    exact = 1 / np.maximum(t[:, None], t)
    assert positions.pair_mean(later) == pytest.approx((exact.sum() - np.trace(exact)) / (500 * 499), rel=1e-3)
    q, c = Positions.every(5).uniform(2.0, 0.5)
    assert Positions.every(5).mean(q) == 2.0
    assert Positions.every(5).pair_mean(c) == pytest.approx(0.5)
    assert positions.at_all_positions(np.ones(positions.count), later)[1].shape == (500, 500)


# ---- identities ----


@pytest.mark.parametrize("kind", [Positions.smooth, Positions.every])
def test_gradients_through_keys_cancel_over_the_sequence(kind):
    """A softmax does not see a shift of all keys, and its rows sum to 1: values pass on all that arrives, keys nothing."""
    positions = kind(40)
    out = TokenAttention(positions, causal=True, dropout=0.0)(*positions.uniform(1.0, 0.3), 2.0)
    _, (q, c) = out.pull(*positions.uniform(1.0, 0.4))
    total = 40 * positions.mean(q) + 40 * 39 * positions.pair_mean(c)
    assert total == pytest.approx(40 + 40 * 39 * 0.4, rel=1e-10 if kind is Positions.every else 2e-3)


def test_query_gradient_is_the_derivative_of_the_output_by_the_correlation_of_queries():
    """Price's theorem, by a difference: the covariance of rows of other queries, keys and values the same."""
    memory, positions = Positions.one(20), Positions.one(8)
    attention = TokenAttention(positions, memory, causal=False)
    step = 1e-4
    source = memory.uniform(1.0, 0.2)
    low, mid, high = (attention(*positions.uniform(1.0, 0.5 + d), 1.5, memory=source) for d in (-step, 0, step))
    slope = (high.covariance - low.covariance) / (2 * step)
    (_, asked), _ = mid.pull(*positions.uniform(0.0, 1.0))
    assert asked == pytest.approx(slope, rel=1e-3)


def test_normed_scores_do_not_see_the_size_of_tokens():
    positions = Positions.every(12)
    attention = TokenAttention(positions, causal=True, dropout=0.1)
    one = attention(*positions.uniform(1.0, 0.3), 1.0)
    large = attention(*positions.uniform(4.0, 1.2), 1.0, normed=True)
    assert large.second_moment == pytest.approx(4 * one.second_moment)
    for a, b in zip(large.pull(*positions.uniform(1.0, 0.2)), one.pull(*positions.uniform(1.0, 0.2)), strict=True):
        assert a[0] == pytest.approx(b[0])
        assert a[1] == pytest.approx(b[1])


@pytest.mark.parametrize("kind", [Positions.one, Positions.smooth, Positions.every])
def test_limits_that_need_no_theory(kind):
    positions = kind(24)
    attention = TokenAttention(positions, causal=kind is not Positions.one, head_dim=32, width=256)
    lengths = attention.windows.lengths
    same = attention(*positions.uniform(1.0, 1.0), 1.0)  # all tokens alike: whatever is attended to, it is the same
    assert same.second_moment == pytest.approx(1)
    assert positions.pair_mean(same.covariance) == pytest.approx(1)
    (asked, _), _ = same.pull(*positions.uniform(1.0, 0.0))
    assert asked == pytest.approx(0, abs=1e-9)
    even = attention(*positions.uniform(1.0, 0.0), 0.0)  # no scores
    assert even.second_moment == pytest.approx(1 / lengths)
    assert pytest.approx(1 / lengths, rel=2e-3) == even.rows.P  # interpolated between rows if every position is a node
    nothing = attention(*positions.uniform(0.0, 0.0), 1.0)
    assert nothing.second_moment == pytest.approx(0)
    assert np.isfinite(np.concatenate([np.ravel(v) for pair in nothing.pull(*positions.uniform(1.0, 0.1)) for v in pair])).all()


def test_where_every_position_is_a_node_the_diagonal_of_a_covariance_means_nothing():
    positions = Positions.every(9)
    attention = TokenAttention(positions, causal=True, width=64, dropout=0.1)
    q, c = positions.uniform(1.0, 0.3)
    other = c + 5 * np.eye(9)
    g, k = positions.uniform(1.0, 0.1)
    first, second = attention(q, c), attention(q, other)
    assert first.second_moment == pytest.approx(second.second_moment)
    for a, b in zip(first.pull(g, k), second.pull(g, k - 3 * np.eye(9)), strict=True):
        assert a[0] == pytest.approx(b[0])
        assert a[1] == pytest.approx(b[1])


@pytest.mark.parametrize("match", [None, 0.05])
def test_gradients_side_by_side_come_back_as_each_alone(match):
    positions = Positions.smooth(40, match)
    attend = TokenAttention(positions, causal=True, head_dim=16, width=64, dropout=0.1)
    q, c = positions.uniform(1.0, 0.3)
    layer = attend(q, c, 2.0, bias=(0.5, 0.4, 16))
    each = [(1 + k * q / positions.nodes, 0.1 * (k + 1) + 0 * c) for k in range(3)]
    together = layer.pull(*(np.stack(parts) for parts in zip(*each, strict=True)))
    for k, (g, gc) in enumerate(each):
        for (one, pair), (found, found_pair) in zip(layer.pull(g, gc), together, strict=True):
            assert found[k] == pytest.approx(one, rel=1e-12, abs=1e-15)
            assert found_pair[k] == pytest.approx(pair, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("choices", [{}, {"experts": 4, "top_k": 2, "shared_ffn": 8}, {"parallel": True}])
def test_a_gradient_and_its_leaning_come_back_together_as_one_after_the_other(monkeypatch, choices):
    """All branches of a block take two gradients at once; branches that do not take them one by one."""
    tree = Transformer(2, 16, 2, vocab=20, context=8, kind="decoder", **choices)
    together = propagate(tree, "xavier", gradient="loss")
    for component in {type(part.branch) for _, part in tree.decoder.repeats[0].block.branches}:
        monkeypatch.setattr(component, "pulls_several", False)
    alone = propagate(tree, "xavier", gradient="loss")
    for name in ("second_moment", "covariance", "spread"):
        np.testing.assert_allclose(together[name], alone[name], rtol=1e-12, atol=1e-18)


def test_pullback_is_linear():
    positions = Positions.smooth(40)
    out = TokenAttention(positions, causal=True, head_dim=16, width=64, dropout=0.1)(*positions.uniform(1.0, 0.3))
    rng = np.random.default_rng(1)
    a, b = ((rng.random(positions.count), exchangeable(positions.count, 0.2) * rng.random()) for _ in range(2))
    together = out.pull(2 * a[0] - b[0], 2 * a[1] - b[1])
    for whole, one, two in zip(together, out.pull(*a), out.pull(*b), strict=True):
        for x, y, z in zip(whole, one, two, strict=True):
            assert x == pytest.approx(2 * y - z, rel=1e-9, abs=1e-12)


# ---- simulation ----


def evolved(length):
    """Gram matrix at the output of an attention block with a norm: early tokens attend to fewer others."""
    mixing = np.tril(np.ones((length, length))) / np.arange(1, length + 1)[:, None]
    k = 0.5 * exchangeable(length, 0.1) + mixing @ exchangeable(length, 0.1) @ mixing.T
    return k / np.sqrt(np.outer(np.diagonal(k), np.diagonal(k)))


def text(length, rng):
    """Tokens of a vocabulary of 40, a fifth of a shared mean, positions of their own."""
    share = 1 / np.arange(1, 41)
    tokens = rng.choice(40, length, p=share / share.sum())
    return 0.2 + 0.8 * (0.5 * (tokens[:, None] == tokens) + 0.5 * np.eye(length))


def predicted(k, g, ss, **kwargs):
    positions = Positions.every(len(k))
    out = TokenAttention(positions, **kwargs)(np.diagonal(k).copy(), k, ss)
    return summary(positions, out, (np.diagonal(g).copy(), g))


CASES = {
    # What is not exact for tokens that are not exchangeable is given the slack of its measured error, at most twice that.
    "exchangeable, full": (lambda rng: exchangeable(16, 0.2), 1.0, False, None, 0.0, 0.0),
    "exchangeable, causal": (lambda rng: exchangeable(16, 0.2), 4.0, True, None, 0.0, 0.01),
    "dropout": (lambda rng: exchangeable(16, 0.5), 1.0, True, None, 0.1, 0.01),
    "evolved": (lambda rng: evolved(16), 1.0, True, None, 0.0, 0.02),
    "window": (lambda rng: exchangeable(16, 0.3), 1.0, True, 5, 0.0, 0.02),
    "text": (lambda rng: text(24, rng), 1.0, True, None, 0.0, 0.06),
}


@one_quick_in(3, "name", CASES)
def test_attention_agrees_with_its_simulation(name):
    rng = np.random.default_rng(17)
    tokens, ss, causal, window, rate, slack = CASES[name]
    k = tokens(rng)
    length = len(k)
    g = exchangeable(length, 0.3)
    mask = np.tril(np.ones((length, length), dtype=bool)) if causal else np.ones((length, length), dtype=bool)
    if window:
        mask &= ~np.tril(mask, -window)
    means, errors = simulate(rng, k, g, ss, mask, 400, dropout=rate)
    got = predicted(k, g, ss, causal=causal, window=window, dropout=rate)
    z = (got - means[:6]) / (errors[:6] + slack / 4 * np.abs(means[:6]))
    assert np.abs(z).max() < 4, {"z": z, "got": got, "means": means[:6]}
    # What a slightly wrong theory would say is told apart: values alone, and rows that all attend to everything.
    values_alone = (means[6] - means[4]) / (errors[4] + slack / 4 * means[4])
    assert abs(values_alone) > 6
    if causal:
        full = predicted(k, g, ss, causal=False, dropout=rate)
        assert abs((full[0] - means[0]) / (errors[0] + slack / 4 * means[0])) > 8


@pytest.mark.slow
@pytest.mark.parametrize(("length", "r", "r_g", "ss", "causal"), [
    (3, -0.4, -0.3, 1.0, False), (3, -0.5, 0.2, 4.0, False), (2, -0.9, -0.9, 2.0, False), (8, -0.14, -0.1, 2.0, True),
    (3, -0.5, 0.3, 6.0, True),
])  # fmt: skip
def test_tokens_that_repel_agree_with_their_simulation(length, r, r_g, ss, causal):
    """Down to the least correlation that tokens can have, in both grains, at score covariances with no exponent."""
    rng = np.random.default_rng(17)
    mask = np.tril(np.ones((length, length), dtype=bool)) if causal else np.ones((length, length), dtype=bool)
    k, g = exchangeable(length, r), exchangeable(length, r_g)
    means, errors = simulate(rng, k, g, ss, mask, 2000)
    singly = predicted(k, g, ss, causal=causal)
    assert np.abs((singly - means[:6]) / errors[:6]).max() < 4
    together = attention_moments(
        1.0, r, length=length, width=math.inf, score_gain=ss, gradient_correlation=r_g, causal=causal
    )  # fmt: skip
    sent = (
        together.value_gradient + together.key_gradient,
        together.value_gradient_covariance + together.key_gradient_covariance,
    )
    asked = together.query_gradient, together.query_gradient_covariance
    assert singly == pytest.approx([together.second_moment, together.covariance, *asked, *sent], rel=5e-3, abs=5e-4)
    # The control: a correlation clipped to 0.
    clipped = predicted(exchangeable(length, 0.0), g, ss, causal=causal)
    assert np.abs((clipped - means[:6]) / errors[:6]).max() > 10


def test_cross_attention_agrees_with_its_simulation():
    rng = np.random.default_rng(3)
    asking, source, g = exchangeable(10, 0.6), exchangeable(20, 0.2), exchangeable(10, 0.3)
    means, errors = simulate(rng, source, g, 2.0, np.ones((10, 20), dtype=bool), 600, queries=asking)
    queries, keys = Positions.one(10), Positions.one(20)
    out = TokenAttention(queries, keys, causal=False)(*queries.uniform(1.0, 0.6), 2.0, memory=keys.uniform(1.0, 0.2))
    (aq, ac), (sq, sc) = out.pull(*queries.uniform(1.0, 0.3))
    got = np.array([*out.second_moment, *out.covariance[0], *aq, *ac[0], *sq, *sc[0]])
    assert np.abs((got - means[:6]) / errors[:6]).max() < 4


def test_the_norm_of_a_query_adds_to_the_key_path():
    """Keys feel queries whose norm sharpens their own softmax: 3 % at d_h = 16, which the mean square of a query misses."""
    rng = np.random.default_rng(5)
    n, d, draws = 16, 16, 4000
    q = rng.standard_normal((draws, n, d))
    k = rng.standard_normal((draws, n, d))
    p = np.exp(q[:, :4] @ k.transpose(0, 2, 1) / math.sqrt(d))
    p /= p.sum(-1, keepdims=True)
    square = (p * p).sum(-1)
    jacobian = square - 2 * (p**3).sum(-1) + square**2  # ||diag p - pp'||^2
    norm = (q[:, :4] ** 2).mean(-1)
    each = (norm * jacobian).mean(1)
    positions = Positions.one(n)
    row = TokenAttention(positions, causal=False, head_dim=d)(*positions.uniform(1.0, 0.0), 1.0).rows
    error = each.std() / math.sqrt(draws)
    assert abs(each.mean() - (row.T * row.norm).item()) < 4 * error
    assert abs(each.mean() - row.T.item()) > 8 * error


# ---- bad input ----


def test_bad_input_is_refused_with_a_reason():
    with pytest.raises(InputError, match="whole number"):
        Positions.smooth(0)
    with pytest.raises(InputError, match="dropout"):
        TokenAttention(Positions.every(4), causal=True, dropout=1.0)
    with pytest.raises(InputError, match="negative"):
        TokenAttention(Positions.every(4), causal=True)(*Positions.every(4).uniform(-1.0, 0.0))
    with pytest.raises(InputError, match="nodes"):
        TokenAttention(Positions.every(4), causal=True)(np.ones(3), np.eye(3))


@pytest.fixture(scope="module")
def rotated_draws():
    """Second moment, covariance and input gradient of one causal rotary layer, on tokens that share most of what they are."""
    rng = np.random.default_rng(77)
    length, width, heads, r, gain, draws = 16, 256, 4, 0.8, 3.0, 60
    dims = width // heads
    angles = np.multiply.outer(np.arange(length), 10000.0 ** (-np.arange(dims // 2) / (dims // 2)))
    turn = np.exp(1j * angles)[:, None]
    found = []
    for _ in range(draws):
        x = math.sqrt(r) * rng.standard_normal((1, width)) + math.sqrt(1 - r) * rng.standard_normal((length, width))
        x /= np.sqrt((x**2).mean(1, keepdims=True))
        wq, wk, wv = rng.standard_normal((3, width, width)) / math.sqrt(width)
        q, k = (math.sqrt(math.sqrt(gain)) * (x @ w).reshape(length, heads, dims) for w in (wq, wk))
        q, k = ((part[..., : dims // 2] + 1j * part[..., dims // 2 :]) * turn for part in (q, k))
        scores = np.einsum("ihd,jhd->hij", q, k.conj()).real / math.sqrt(dims)
        scores[:, np.triu(np.ones((length, length), dtype=bool), 1)] = -np.inf
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        v = (x @ wv).reshape(length, heads, dims)
        y = np.einsum("hij,jhd->ihd", p, v).reshape(length, width)
        gram = y @ y.T / width
        found.append([np.trace(gram) / length, (gram.sum() - np.trace(gram)) / (length * (length - 1)), (p**2).sum(-1).mean()])
    return np.array(found), (length, width, dims, r, gain)


@pytest.mark.slow
@pytest.mark.parametrize("every", [True, False])
def test_rotations_keep_scores_apart(rotated_draws, every):
    """Tokens that are nearly alike are still told apart by where they stand; without rotations the prediction is rejected."""
    draws, (length, width, dims, r, gain) = rotated_draws
    mean, error = draws.mean(0), draws.std(0, ddof=1) / math.sqrt(len(draws))

    def predicted(rotation):
        positions = Positions.every(length) if every else Positions.smooth(length)
        layer = TokenAttention(positions, causal=True, head_dim=dims, width=width, rotation=rotation)
        out = layer(*positions.uniform(1.0, r), gain)
        return np.array([
            positions.mean(out.second_moment), positions.pair_mean(out.covariance), positions.mean(out.rows.P)
        ])  # fmt: skip

    # Output to 2 % as TokenAttention says; how sharp a row is, to 4 % at few positions. At every position tokens count less
    # where their covariances differ, as for text; here that overshoots to 8 %.
    right, wrong = (np.abs(predicted(rotation) - mean) for rotation in (Rotary().rotation(dims, length), None))
    assert (right < 5 * error + np.array([0.02, 0.02, 0.09 if every else 0.04]) * mean).all()
    assert wrong[2] > 5 * error[2] + 0.04 * mean[2]


@pytest.mark.slow
@pytest.mark.parametrize(("make", "causal"), [(Positions.smooth, True), (Positions.one, False)])
def test_equal_tokens_of_the_same_covariance_are_like_others(make, causal):
    """Both kinds of pairs alike: the numbers of one kind, forward and back; unlike, a token's repetitions draw attention."""
    plain, apart = make(40), make(40, 0.05)
    options = {"causal": causal, "head_dim": 16, "width": 64, "dropout": 0.1}
    one, both = TokenAttention(plain, **options), TokenAttention(apart, **options)
    t = plain.nodes.astype(float)
    q, c = 1 + 0.1 / t, 0.3 + 0.2 / np.maximum.outer(t, t)
    g, gc = np.ones_like(q), 0.3 + 0 * c
    x, y = one(q, c, 2.0), both(q, np.stack([c, c]), 2.0)
    assert y.second_moment == pytest.approx(x.second_moment, rel=1e-12)
    assert y.covariance == pytest.approx(np.stack([x.covariance] * 2), rel=1e-12)
    for (qx, cx), (qy, cy) in zip(x.pull(g, gc), y.pull(g, np.stack([gc, gc])), strict=True):
        assert qy == pytest.approx(qx, rel=1e-11)
        assert cy == pytest.approx(np.stack([cx, cx]), rel=1e-11, abs=1e-14)
    mean, kinds = one(q, 0.05 + 0 * c, 2.0), both(q, np.stack([0 * c, 1 + 0 * c]), 2.0)
    assert plain.mean(kinds.second_moment) > 1.02 * plain.mean(mean.second_moment)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [True, False])
def test_texts_of_zipfs_law_against_drawn_scores(rng, causal):
    """One layer over 60 texts of 100 tokens; with the mean correlation in every pair the query path is far off."""
    length, vocab, texts = 48, 100, 60
    p = 1 / np.arange(1, vocab + 1)
    p /= p.sum()
    mask = np.tril(np.ones((length, length), dtype=bool)) if causal else np.ones((length, length), dtype=bool)
    found, matches = [], []
    for _ in range(texts):
        text = rng.choice(vocab, length, p=p)
        equal = (text[:, None] == text).astype(float)
        matches.append((equal.sum() - length) / (length * (length - 1)))
        found.append(simulate(rng, equal, np.eye(length), 1.0, mask, 12)[0][:6])
    found, match = np.array(found), float(np.mean(matches))
    mean, error = found.mean(0), found.std(0) / math.sqrt(texts)
    make = Positions.smooth if causal else Positions.one

    def predicted(positions, c):
        out = TokenAttention(positions, causal=causal)(np.ones(positions.count), c, 1.0)
        return summary(positions, out, (np.ones(positions.count), np.zeros_like(c)))

    square = np.zeros((make(length).count,) * 2)
    now, before = predicted(make(length, match), np.stack([square, square + 1])), predicted(make(length), square + match)
    order = [0, 1, 2, 4]  # second moment and covariance of the output, second moments of the gradients
    assert (abs(now - mean)[order] < 3 * error[order] + [0.02, 0.02, 0.05, 0.02] * mean[order]).all()
    assert abs(before - mean)[2] > 0.2 * mean[2]
    assert abs(before - mean)[0] > 0.05 * mean[0]


def test_both_grains_are_one_at_infinite_width():
    """Exchangeable tokens, whose layer is a table, and the same position by position: no term of order 1/width is left."""
    from depthwidth import Transformer, propagate

    length, r = 12, 0.3
    tree = Transformer(
        1, 64, 2, vocab=100, context=length, kind="encoder", norm="rmsnorm", activation="relu", bias=False, positions="none"
    )
    gram = np.full((length, length), r) + (1 - r) * np.eye(length)
    numbers = ["second_moment", "covariance"]
    both = [
        propagate(tree, "xavier", finite_width=False, **given).set_index(["site", "direction"])[numbers]
        for given in ({"variance": 1.0, "correlation": r}, {"gram": gram})
    ]
    for site, direction in (("attention.mix", "forward"), ("attention.norm_in", "gradient")):
        one, other = (frame.loc[f"encoder.block.0.{site}", direction].to_numpy(dtype=float) for frame in both)
        assert one == pytest.approx(other, rel=1e-5)
    # The same comparison tells corrections for the width apart.
    narrow = propagate(tree, "xavier", variance=1.0, correlation=r).set_index(["site", "direction"])[numbers]
    assert narrow.loc["encoder.block.0.attention.mix", "forward"].to_numpy(dtype=float) != pytest.approx(
        both[0].loc["encoder.block.0.attention.mix", "forward"].to_numpy(dtype=float), rel=1e-3
    )


@pytest.mark.parametrize("finite_width", [False, True])
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_a_window_of_one_token_is_a_linear_map_of_that_token(placement, finite_width):
    """Its weight is 1: no second moment depends on other tokens, and attention passes on the correlation of two."""

    def moments(context, correlation, window=1):
        tree = Transformer(2, 32, 4, vocab=97, context=context, window=window, placement=placement, activation="relu")
        return propagate(tree, "xavier", correlation=correlation, finite_width=finite_width).set_index(["site", "direction"])

    found, other = moments(5, 0.3), moments(6, 0.8)  # every position is followed
    names = [name for name in found.index if not name[0].startswith("head")]
    assert found.second_moment[names].to_numpy() == pytest.approx(other.second_moment[names].to_numpy(), rel=1e-9)
    mixed = found.loc["decoder.block.0.attention.mix", "forward"]
    normed = finite_width and placement == "pre"  # a norm of finite width changes the correlation
    read = found.loc["decoder.block.0.attention.norm_in", "forward"] if normed else None
    passed = 0.3 if read is None else read.covariance / read.second_moment
    assert mixed.covariance / mixed.second_moment == pytest.approx(passed, rel=1e-9)
    long = moments(24, 0.3)  # a few positions are followed
    forward = [name for name in names if name[1] == "forward"]
    assert found.second_moment[forward].to_numpy() == pytest.approx(long.second_moment[forward].to_numpy(), rel=1e-9)
    # Negative control: of two tokens an output has less.
    mix = "decoder.block.0.attention.mix", "forward"
    assert moments(24, 0.3, window=2).second_moment[mix] < 0.9 * long.second_moment[mix]
