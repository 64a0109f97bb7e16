"""Concentration layer by layer, the phase diagram, and the two ways in which stacks fail."""

import json
import math

import numpy as np
import pytest
from helpers import one_quick_in

from depthwidth import Transformer, recipe
from depthwidth.analysis.concentration import attention_profile, concentration, phase_diagram, trainability
from depthwidth.analysis.propagation import moments_of
from depthwidth.errors import InputError
from depthwidth.formulas import saturation as laws
from depthwidth.layers.activations import activation
from depthwidth.numerics.softmax import overlap


def test_full_attention_is_the_formulas():
    (layer,) = concentration(4.0, 0.25, 1024)
    assert layer.logit_variance == 3
    assert layer.entropy == pytest.approx(laws.entropy(3.0, 1024))
    assert layer.effective_tokens == pytest.approx(laws.effective_tokens(3.0, 1024))
    assert layer.jacobian_trace == pytest.approx(laws.jacobian_trace(3.0, 1024))
    assert layer.gradient_saturation == pytest.approx((layer.squared_sum - 1 / 1024) / (1 - 1 / 1024))


def test_phases_and_contexts():
    sigma_c = laws.condensation_point(256)
    layers = concentration([(ratio * sigma_c) ** 2 for ratio in (0.29, 0.31, 0.99, 1.01)], 0.0, 256)
    assert [layer.phase for layer in layers] == ["diffuse", "transitional", "transitional", "condensed"]
    for layer in layers:
        # Rows of exactly the condensed context sit on the boundary.
        at = layer.condensed_context
        assert math.sqrt(layer.logit_variance) == pytest.approx(math.sqrt(2 * math.log(at)))
        assert layer.headroom == pytest.approx(1 / layer.ratio)
    assert layers[2].condensed_context < 256 < layers[3].condensed_context


def test_a_longer_context_spreads_attention_of_fixed_scale_and_condenses_length_scaled_one():
    fixed = concentration(12.0, 0.0, 256)[0]
    assert fixed.phase == "condensed"
    assert concentration(12.0, 0.0, math.ceil(fixed.condensed_context) + 1)[0].phase == "transitional"
    scaled = concentration(9.0, 0.0, 256, length_scaled=True)[0]
    assert scaled.phase == "transitional"
    longer = math.ceil(scaled.condensed_context * 1.01)
    grown = 9.0 * (math.log(longer) / math.log(256)) ** 2
    assert concentration(grown, 0.0, longer, length_scaled=True)[0].phase == "condensed"
    shorter = math.floor(scaled.condensed_context * 0.99)
    assert concentration(9.0 * (math.log(shorter) / math.log(256)) ** 2, 0.0, shorter)[0].phase == "transitional"


def test_each_remedy_puts_the_layer_on_the_edge_of_the_diffuse_band():
    r, ss, n = 0.3, 30.0, 512
    (layer,) = concentration(ss, r, n)
    edge = (laws.DIFFUSE * laws.condensation_point(n)) ** 2
    assert layer.phase == "condensed"
    assert (1 - r) * ss * layer.scale**2 == pytest.approx(edge)
    assert (1 - r) * layer.qk_norm_gain**2 == pytest.approx(edge)
    assert layer.logit_variance * (layer.length_temperature * math.log(n)) ** 2 == pytest.approx(edge)
    assert concentration(ss * (0.999 * layer.scale) ** 2, r, n)[0].phase == "diffuse"
    assert concentration(ss * (1.001 * layer.scale) ** 2, r, n)[0].phase == "transitional"  # the negative control
    assert concentration(0.5, 0.0, n)[0].scale == 1


def test_causal_rows_are_the_average_over_rows(rng):
    (layer,) = concentration(2.0, 0.0, 200, causal=True)
    every = overlap(np.full(200, 2.0), np.arange(1, 201))
    assert layer.entropy == pytest.approx(every.entropy.mean(), rel=1e-3)
    assert layer.squared_sum == pytest.approx(every.P.mean(), rel=1e-3)
    n = np.arange(2, 201)
    assert layer.condensed_rows == pytest.approx((2 * np.log(n) < layer.logit_variance).mean(), abs=0.002)
    assert layer.gradient_saturation == pytest.approx(((every.P[1:] - 1 / n) / (1 - 1 / n)).mean(), rel=2e-3)
    logits = np.where(np.tri(200, dtype=bool), math.sqrt(2) * rng.standard_normal((60, 200, 200)), -np.inf)
    p = np.exp(logits)
    p /= p.sum(-1, keepdims=True)
    own = -(p * np.log(np.where(p > 0, p, 1))).sum(-1).mean(-1)
    assert abs(own.mean() - layer.entropy) < 4 * own.std() / math.sqrt(60) + 1e-3 * layer.entropy


def test_a_window_bounds_the_rows():
    (layer,) = concentration(2.0, 0.0, 400, causal=True, window=50)
    every = overlap(np.full(400, 2.0), np.minimum(np.arange(1, 401), 50))
    assert layer.entropy == pytest.approx(every.entropy.mean(), rel=1e-6)
    assert concentration(2.0, 0.0, 400, window=50)[0].entropy == pytest.approx(laws.entropy(2.0, 50))


def test_few_head_dimensions_count_when_asked():
    plain, few = concentration(1.0, 0.0, 256)[0], concentration(1.0, 0.0, 256, head_dim=8)[0]
    assert few.squared_sum == pytest.approx(laws.finite_head_squared_sum(1.0, 256, 8))
    assert few.squared_sum > 1.05 * plain.squared_sum


def test_no_spread_at_all():
    for layer in (concentration(0.0, 0.0, 16)[0], concentration(3.0, 1.0, 16, length_scaled=True)[0]):
        assert layer.effective_tokens == pytest.approx(16)
        assert layer.phase == "diffuse"
        assert layer.scale == 1
        json.dumps(layer.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: concentration(-1.0, 0.0, 64), "score_variance is outside"),
        (lambda: concentration(1.0, 1.5, 64), "correlation is outside"),
        (lambda: concentration(1.0, 0.0, 1), "length=1 is not a whole number from 2"),
        (lambda: concentration(1.0, 0.0, 64, window=1), "window=1"),
        (lambda: phase_diagram([-1.0], [64]), "logit_std is outside"),
        (lambda: phase_diagram([1.0], [1]), "length is outside"),
        (lambda: phase_diagram([[1.0]], [64]), "sequences of numbers"),
        (lambda: trainability([-1.0], [1.0], depth=2), "gains are outside"),
        (lambda: trainability([1.0], [1.0], depth=0), "depth=0"),
        (lambda: trainability([1.0], [1.0], depth=2, length=1), "length=1"),
        (lambda: trainability([100.0], [1.0], depth=2, length=64), "exceeds 10000"),
        (lambda: trainability([1.0], [1.0], depth=2, correlation=2), "correlation is in"),
    ],
)
def test_wrong_input_gets_one_sentence(call, sentence):
    with pytest.raises(InputError) as caught:
        call()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_phase_diagram_is_the_formulas():
    found = phase_diagram(np.linspace(0, 8, 5), [2, 64, 131072])
    for i, sigma in enumerate(found.logit_std):
        for j, n in enumerate(found.length):
            assert found.entropy[i, j] == pytest.approx(laws.entropy(float(sigma) ** 2, int(n)), abs=1e-9)
            assert found.effective_tokens[i, j] == pytest.approx(laws.effective_tokens(float(sigma) ** 2, int(n)), rel=1e-9)


def test_many_lengths_are_interpolated_without_loss(rng):
    lengths = np.unique(np.round(np.geomspace(2, 2**30, 150)))
    scales = np.array([0.05, 1.0, 3.0, 9.0])
    found = phase_diagram(scales, lengths)
    for i, sigma in enumerate(scales):
        exact = overlap(np.full(lengths.size, sigma**2), lengths)
        assert found.entropy[i] == pytest.approx(exact.entropy, abs=1e-8)
        assert found.effective_tokens[i] == pytest.approx(1 / exact.P, rel=1e-8)
    few = phase_diagram(scales, [100, 2**20])
    assert few.entropy[2, 1] == pytest.approx(laws.entropy(9.0, 2**20), abs=1e-12)


# ---- rank and entropy collapse ----


def test_one_block_by_hand():
    """A block of the published recursion, for tanh: attention, residual, norm, then tanh layer and norm."""
    f, p, beta, alpha = activation("tanh"), 0.5, 3.0, 0.7
    moment = laws.collapsed_output_second_moment(beta, p)
    correlation = laws.residual_attention_correlation(moment, p, 1.0, alpha)
    expected = f.pair_moment(1.0, correlation) / f.second_moment(1.0)
    found = trainability([beta], [alpha], depth=1)
    assert found.correlation[0, 0] == pytest.approx(expected, rel=1e-9)
    assert found.squared_sum[0, 0] == pytest.approx(1 - 2.0 / beta)


@pytest.mark.slow
def test_the_critical_residual_gain_divides_the_stacks():
    """Below it 1 - p dies out over depth, above it p settles; so the formula's gain, from the slope of tanh at p = 1."""
    found = trainability([0.2], [0.0], depth=1)
    gain = found.critical_gain
    assert gain is not None
    deep = trainability([0.2], [0.9 * gain, 1.1 * gain], depth=3000)
    assert 1 - deep.correlation[0, 0] < 1e-12
    assert 1 - deep.correlation[1, 0] > 0.01


def test_relu_has_no_critical_gain():
    assert trainability([0.2], [1.0], depth=1, activation="relu").critical_gain is None


@pytest.mark.slow
def test_the_limit_of_long_rows_is_reached():
    limit = trainability([0.3, 6.0], [1.0, 3.0], depth=6)
    finite = trainability([0.3, 6.0], [1.0, 3.0], depth=6, length=2**36)
    assert finite.correlation == pytest.approx(limit.correlation, abs=0.03)
    assert np.abs(trainability([0.3, 6.0], [1.0, 3.0], depth=6, length=8).correlation - limit.correlation).max() > 0.05


def test_the_boundary_lies_where_scores_condense():
    found = trainability(np.linspace(0.1, 6, 60), [0.5, 2.5], depth=8)
    for row in range(2):
        assert found.squared_sum[row][found.beta < found.boundary[row]].max() == 0
        assert found.squared_sum[row][found.beta > found.boundary[row]].min() > 0


@one_quick_in(4, "choices", [{"kind": "decoder"}, {"kind": "encoder"}, {"kind": "encoder-decoder"}, {"window": 8}], first=3)
def test_the_profile_is_the_concentration_of_every_softmax_of_the_walk(choices):
    tree = Transformer(**{"depth": 3, "width": 64, "heads": 2, "vocab": 100, "context": 32} | choices)
    rows = attention_profile(tree, "xavier")
    scores = [r for r in moments_of(tree, "xavier") if r["site"].endswith("scores") and r["direction"] == "forward"]
    assert [row["site"] for row in rows] == [r["site"] for r in scores]
    window = choices.get("window")
    for row, r in zip(rows, scores, strict=True):
        causal = r["site"].startswith("decoder") and "cross" not in r["site"]
        (one,) = concentration(r["second_moment"], r["correlation"], 32, causal=causal, window=window)
        assert row == {"site": r["site"], "layer": r["layer"]} | one.to_dict()
    assert any(row["phase"] != "condensed" for row in rows)


@pytest.mark.slow
def test_larger_weights_condense_attention_and_the_command_says_so(invoke, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 2, "vocab_size": 100,
                                  "n_positions": 32}))  # fmt: skip
    rows = json.loads(invoke("moments", config, "--attention", "--json").output)
    assert [row["layer"] for row in rows] == [0, 1]
    assert all(row["phase"] == "diffuse" for row in rows)
    assert "condense" in invoke("moments", config, "--attention").output
    tree = Transformer.from_config(config)
    assert {row["phase"] for row in attention_profile(tree, recipe(tree, "normal", std=0.5))} == {"condensed"}


@pytest.mark.slow
def test_length_scaled_scores_of_a_causal_row_grow_with_the_logarithm_of_its_length():
    """The average over rows of 1 to 48 tokens, each with standard deviation sigma ln m / ln 48, summed one by one."""
    n, variance = 48, 9.0
    (found,) = concentration(variance, 0.0, n, causal=True, length_scaled=True)
    (plain,) = concentration(variance, 0.0, n, causal=True)
    for name, alone in (("entropy", 0.0), ("squared_sum", 1.0)):  # of a row of one token
        law = getattr(laws, name)
        rows = [law(variance * (math.log(m) / math.log(n)) ** 2, m) for m in range(2, n + 1)]
        assert getattr(found, name) == pytest.approx((alone + sum(rows)) / n, rel=1e-9)
        assert getattr(plain, name) == pytest.approx((alone + sum(law(variance, m) for m in range(2, n + 1))) / n, rel=1e-9)


@pytest.mark.parametrize(("weight_variance", "mlp_residual"), [(1.0, 0.0), (1.7, 0.0), (1.7, 0.4)])
def test_the_critical_gain_takes_the_slope_of_the_feed_forward_map(weight_variance, mlp_residual):
    """d/dr of (w E f f + alpha^2 r) over the same at r = 1, by a finite difference near r = 1."""
    found = trainability([1.0], [1.0], depth=1, weight_variance=weight_variance, mlp_residual=mlp_residual)
    f, h = activation("tanh"), 1e-4
    ends = weight_variance * f.pair_moment(weight_variance, np.array([1.0, 1 - h])) + mlp_residual**2 * np.array([1.0, 1 - h])
    slope = (ends[0] - ends[1]) / (h * ends[0])
    assert found.critical_gain == pytest.approx(laws.critical_residual_gain(1.0, float(slope)), rel=2e-3)
    assert found.critical_gain != pytest.approx(laws.critical_residual_gain(1.0, 1.03 * float(slope)), rel=2e-3)


@pytest.mark.slow
def test_a_block_of_other_variances_and_finite_length_by_hand():
    """Attention adds its output to alpha times the stream, and the norm divides by the sum; then the feed-forward map."""
    n, beta, alpha, p, value, weight, mlp = 64, 1.5, 0.7, 0.4, 2.5, 1.3, 0.3
    found = trainability(
        [beta], [alpha], depth=1, length=n, value_variance=value, weight_variance=weight, mlp_residual=mlp, correlation=p
    )
    shared = float(overlap((1 - p) * beta**2 * math.log(n), n).P)
    assert found.squared_sum.item() == pytest.approx(shared, rel=1e-5)
    attended = (value * p + alpha**2 * p) / (value * (p + (1 - p) * shared) + alpha**2)
    f = activation("tanh")
    pair = weight * float(f.pair_moment(weight, attended)) + mlp**2 * attended
    after = pair / (weight * f.second_moment(weight) + mlp**2)
    assert found.correlation.item() == pytest.approx(after, rel=1e-5)


@pytest.mark.slow
def test_squared_sums_of_all_gains_come_from_one_table():
    """Interpolated up to the largest gain, at which rows are condensed; right to 1e-5 where they change most."""
    beta, n, p = np.array([0.7, 1.1, 1.9, 3.3, 12.0]), 1024, 0.3
    found = trainability(beta, [1.0], depth=1, length=n, correlation=p).squared_sum[0]
    exact = overlap((1 - p) * beta**2 * math.log(n), np.full(beta.size, n)).P
    assert found == pytest.approx(exact, rel=1e-5)
