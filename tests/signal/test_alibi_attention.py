"""Attention whose scores carry a penalty linear in distance: its softmax, its two kinds of sums, and simulation."""

import math

import numpy as np
import pytest
from helpers import one_quick_in
from simulations import exchangeable, simulate, summary

from depthwidth import Transformer, propagate
from depthwidth.analysis.concentration import attention_profile, concentration
from depthwidth.errors import InputError
from depthwidth.layers import ALiBi
from depthwidth.numerics.alibi_softmax import biased_overlap, marginals, slope_groups
from depthwidth.numerics.softmax import overlap
from depthwidth.signal.alibi_attention import BiasedAttention
from depthwidth.signal.attention import TokenAttention
from depthwidth.signal.positions import Distances, Positions

# ---- the softmax of one row ----


def drawn(rng, s2, slope, n, draws):
    """E sum p^2, E sum p^3, E ||diag p - p p'||^2 and entropy, with standard errors; and the marginals."""
    logits = math.sqrt(s2) * rng.standard_normal((draws, n)) - slope * np.arange(n)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    square, cube = (p**2).sum(1), (p**3).sum(1)
    logarithm = np.log(np.maximum(p, 1e-300))
    each = np.stack([square, cube, square - 2 * cube + square**2, -(p * logarithm).sum(1)])
    return each.mean(1), each.std(1) / math.sqrt(draws), p.mean(0)


@one_quick_in(4, ("s2", "slope", "n"), [(0.25, 0.84, 16), (1.0, 0.25, 64), (4.0, 1 / 64, 200), (9.0, 0.95, 5)])
def test_a_row_with_a_penalty_has_the_averages_of_its_draws(s2, slope, n):
    means, errors, p = drawn(np.random.default_rng(5), s2, slope, n, 20_000)
    row = biased_overlap(s2, slope, [n])
    got = np.array([row.P[0, 0], row.M3[0, 0], row.T[0, 0], row.entropy[0, 0]])
    assert np.abs((got - means) / errors).max() < 4.5
    assert marginals(s2, slope, n)[0] == pytest.approx(p[0], rel=0.05)
    # A plain softmax over as many entries as the penalties alone leave is told apart.
    base = np.exp(-slope * np.arange(n)) / np.exp(-slope * np.arange(n)).sum()
    few = overlap(s2, max(1, round(1 / (base**2).sum())))
    assert abs(few.T - means[2]) > 8 * errors[2]


def test_without_a_penalty_or_without_noise_the_averages_are_known():
    plain, steep = overlap(1.0, 64), biased_overlap(1.0, 1e-5, [64])
    assert steep.P[0, 0] == pytest.approx(plain.P, rel=1e-3)
    assert steep.T[0, 0] == pytest.approx(plain.T, rel=1e-3)
    assert biased_overlap(1.0, 0.0, [64]).P[0, 0] == plain.P
    base = np.exp(-0.3 * np.arange(40))
    base /= base.sum()
    quiet = biased_overlap(1e-6, 0.3, [40])
    assert quiet.P[0, 0] == pytest.approx((base**2).sum(), rel=1e-4)
    assert quiet.entropy[0, 0] == pytest.approx(-(base * np.log(base)).sum(), rel=1e-4)


@pytest.mark.slow
def test_a_few_slopes_stand_for_those_of_all_heads():
    for heads in (12, 112):
        slopes = ALiBi().slopes(heads)
        lengths = [4, 64, 2048]
        for s2 in (0.2, 4.0):
            every = np.mean([np.stack(biased_overlap(s2, m, lengths, False)[:4]) for m in slopes], axis=0)
            few = sum(share * np.stack(biased_overlap(s2, m, lengths, False)[:4]) for m, share in slope_groups(slopes))
            assert few[[0, 3]] == pytest.approx(every[[0, 3]], rel=3e-3)
    assert slope_groups((0.5, 0.5, 0.25)) == ((0.5, pytest.approx(2 / 3)), (0.25, pytest.approx(1 / 3)))


def test_slopes_are_those_of_the_paper():
    assert ALiBi().slopes(8) == tuple(2.0**-k for k in range(1, 9))
    assert len(set(ALiBi().slopes(12))) == 12
    assert ALiBi(scaled=True).slopes(1, 0.125) == (2.0**-11,)


# ---- positions and the distances back from them ----


@pytest.mark.slow
def test_distances_interpolate_and_average():
    def smooth(a, b):
        return 0.5 * np.exp(-0.1 * np.abs(a - b)) + 0.5 * np.exp(-0.8 * np.abs(a - b)) + 1 / np.maximum(a, b)

    for length in (2, 12, 300):
        positions = Distances.back(length)
        t = np.arange(1, length + 1)
        one, other = np.meshgrid(t, t)
        apart = one != other
        values = smooth(positions.nodes[positions.late], positions.early)
        exact = smooth(one, other)[apart]
        assert positions.at_pairs(one[apart], other[apart]) @ values == pytest.approx(exact, abs=0.01)
        assert positions.pair_mean(values) == pytest.approx(exact.mean(), rel=6e-3)


@one_quick_in(2, "slopes", [(0.0,), (0.84, 0.25, 1 / 16, 1 / 64)])
@pytest.mark.parametrize(("ss", "equal_norms"), [(0.25, None), (4.0, None), (4.0, True)])
def test_few_distances_stand_for_every_pair_of_positions(slopes, ss, equal_norms):
    found = []
    for positions in (Positions.every(64), Distances.back(64)):
        layer = BiasedAttention(positions, slopes, head_dim=64, width=256, dropout=0.1, equal_norms=equal_norms)
        first = layer(*positions.uniform(1.0, 0.2), ss)
        q, c = 1 + first.second_moment, 0.2 + first.covariance
        one, two = positions.pairs(np.sqrt(q))
        found.append(summary(positions, layer(np.ones_like(q), c / (one * two), ss), positions.uniform(1.0, 0.1)))
    every, few = found
    assert few[:2] == pytest.approx(every[:2], rel=3e-3)
    assert few == pytest.approx(every, rel=0.015)


def test_without_penalties_it_is_the_attention_that_has_none():
    """Two theories of two rows: there a table of their exact overlaps, here a cubic between exact ends."""
    positions = Positions.every(48)
    options = {"head_dim": 64, "width": 256, "dropout": 0.1}
    plain = TokenAttention(positions, causal=True, **options)(*positions.uniform(1.0, 0.3), 1.0)
    none = BiasedAttention(positions, (0.0,), **options)(*positions.uniform(1.0, 0.3), 1.0)
    gradient = positions.uniform(1.0, 0.2)
    known = summary(positions, plain, gradient)
    assert summary(positions, none, gradient) == pytest.approx(known, rel=5e-3, abs=1e-4)
    penalised = BiasedAttention(positions, (0.25,), **options)(*positions.uniform(1.0, 0.3), 1.0)
    assert summary(positions, penalised, gradient)[0] > 1.1 * known[0]


def test_gradients_through_keys_cancel_over_the_sequence():
    positions = Positions.every(30)
    out = BiasedAttention(positions, (0.5, 0.05), head_dim=16, width=64, equal_norms=True)(*positions.uniform(1.0, 0.3), 2.0)
    _, (q, c) = out.pull(*positions.uniform(1.0, 0.4))
    assert 30 * positions.mean(q) + 30 * 29 * positions.pair_mean(c) == pytest.approx(30 + 30 * 29 * 0.4, rel=1e-9)


def test_bad_arguments_are_named():
    with pytest.raises(InputError, match="numbers from 0 to 1"):
        BiasedAttention(Distances.back(8), (2.0,))
    with pytest.raises(InputError, match="distances back"):
        BiasedAttention(Positions.smooth(64), (0.5,))
    with pytest.raises(InputError, match="outside"):
        BiasedAttention(Distances.back(8), (0.5,), dropout=1.0)


# ---- simulation ----


@one_quick_in(4, ("r", "ss", "slopes", "window", "rate"), [
    (0.2, 1.0, (0.5,), None, 0.0), (0.0, 0.25, (0.84, 1 / 16), None, 0.1), (0.5, 4.0, (0.25,), None, 0.0),
    (0.3, 1.0, (0.4,), 6, 0.0),
])  # fmt: skip
def test_attention_agrees_with_its_simulation(r, ss, slopes, window, rate):
    """Infinite heads and width; what it lets pass is the greater of four standard errors and 3 %, which is what is claimed."""
    length, rng = 20, np.random.default_rng(3)
    k, g = exchangeable(length, r), exchangeable(length, 0.3)
    mask = np.tril(np.ones((length, length), dtype=bool))
    if window:
        mask &= ~np.tril(mask, -window)
    distance = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    parts = [simulate(rng, k, g, ss, mask, 250, dropout=rate, penalty=slope * distance) for slope in slopes]
    means = np.mean([part[0] for part in parts], axis=0)
    errors = np.sqrt(np.mean([part[1] ** 2 for part in parts], axis=0) / len(parts))
    positions = Positions.every(length) if window else Distances.back(length)

    def predicted(slopes):
        layer = BiasedAttention(positions, slopes, window=window, dropout=rate)
        out, asked, source = np.split(summary(positions, layer(*positions.uniform(1.0, r), ss), positions.uniform(1.0, 0.3)), 3)
        return np.concatenate([out, asked + source])

    measured = np.concatenate([means[:2], means[2:4] + means[4:6]])
    error = np.concatenate([errors[:2], np.hypot(errors[2:4], errors[4:6])])
    allowed = np.maximum(4 * error, 0.03 * np.abs(measured))
    assert (np.abs(predicted(slopes) - measured) < allowed).all(), predicted(slopes) / measured - 1
    assert np.abs((predicted((0.0,)) - measured) / allowed).max() > 2


# ---- in a whole model ----


@pytest.mark.slow
def test_a_model_with_penalties_is_not_one_without():
    options = {"bias": False, "vocab": 100, "context": 64, "activation": "gelu_tanh"}
    frames = {
        name: propagate(Transformer(2, 64, 4, positions=name, **options), "xavier", variance=1.0, correlation=0.05)
        for name in ("alibi", "none")
    }
    one, other = (
        frame[frame.site.str.endswith("attention.mix") & (frame.direction == "forward")].second_moment.iloc[0]
        for frame in frames.values()
    )
    assert one > 1.15 * other
    rows = {
        name: attention_profile(Transformer(2, 64, 4, positions=name, **options), "xavier", variance=1.0, correlation=0.05)
        for name in ("alibi", "none")
    }
    assert rows["alibi"][0]["effective_tokens"] < 0.6 * rows["none"][0]["effective_tokens"]
    assert rows["alibi"][0]["logit_variance"] == pytest.approx(rows["none"][0]["logit_variance"])


def test_concentration_of_a_causal_layer_is_that_of_its_rows():
    slopes, length, rng = (0.5, 0.0625), 40, np.random.default_rng(2)
    (found,) = concentration(1.5, 0.0, length, causal=True, slopes=slopes)
    rows = [np.mean([drawn(rng, 1.5, m, n, 2000)[0] for m in slopes], axis=0) for n in range(1, length + 1)]
    assert found.squared_sum == pytest.approx(np.mean([row[0] for row in rows]), rel=5e-3)
    assert found.entropy == pytest.approx(np.mean([row[3] for row in rows]), rel=5e-3)
    assert found.effective_tokens == pytest.approx(1 / rows[-1][0], rel=0.05)  # four standard errors of the one row
    (plain,) = concentration(1.5, 0.0, length, causal=True)
    assert plain.entropy > found.entropy + 0.4
    with pytest.raises(InputError, match="causal"):
        concentration(1.0, 0.0, 8, slopes=slopes)


def test_sequences_of_any_length_share_a_batch():
    tree = Transformer(1, 32, 2, positions="alibi", vocab=100, context=12)
    padded = propagate(tree, "xavier", lengths=[12, 12, 3, 1])
    alone = propagate(tree, "xavier", lengths=[12])
    assert len(padded) == len(alone)
    # Short sequences have a token or two that see little else.
    mixed = [
        frame[frame.site.str.endswith("attention.mix") & (frame.direction == "forward")].second_moment.iloc[0]
        for frame in (padded, alone)
    ]
    assert mixed[0] > mixed[1]
