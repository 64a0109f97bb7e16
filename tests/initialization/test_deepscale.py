"""DeepScaleLM: each standard deviation and correlation from the unit variance that it is for, by hand."""

import math

import numpy as np
import pytest

from depthwidth.architecture import Transformer
from depthwidth.formulas.gaussian import relu_pair_moment
from depthwidth.initialization import activation_second_moment, embedding_correlation, recipe
from depthwidth.layers import RouterRule
from depthwidth.numerics.softmax import overlap

SMALL = {"depth": 2, "width": 64, "heads": 4, "vocab": 100, "context": 16}


def std(found, role, block=0):
    value = found.tensor(role).std
    return value[block] if isinstance(value, tuple) else value


@pytest.mark.parametrize("rate", [0.0, 0.2])
@pytest.mark.parametrize("parallel", [False, True])
def test_it_follows_the_correlation_along_the_depth(parallel, rate):
    """lambda^2 r + beta^2 out for each branch, or for both together, over the variance, which stays 1.

    Dropout multiplies the correlation of the embedding and that of each branch's output by 1 - p.
    """
    tree = Transformer(3, 64, 2, kind="encoder", vocab=100, context=16, activation="relu", parallel=parallel)
    made = recipe(tree, "deepscale", embedding_correlation=0.2, dropout=rate)
    skip2, branch2 = made.extras["lambda"]["encoder"] ** 2, made.extras["beta"]["encoder"] ** 2
    assert skip2 + (2 if parallel else 1) * branch2 == pytest.approx(1)
    r = 0.2 * (1 - rate)
    for found in made.extras["correlation"]["encoder"]:
        assert found == pytest.approx(r, rel=1e-12)
        # The output of attention has correlation 1, to leading order in the length.
        attended = branch2 * (1 - rate)
        if parallel:
            r = skip2 * r + attended + branch2 * (1 - rate) * 2 * float(relu_pair_moment(1.0, 1.0, r))
        else:
            r = skip2 * r + attended
            r = skip2 * r + branch2 * (1 - rate) * 2 * float(relu_pair_moment(1.0, 1.0, r))


def test_exact_moments_of_attention():
    """D = r + (1 - r) P + p/(1 - p) P and the covariance r + (1 - r) P2, at a correlation of the table, without a mask."""
    n, rate, r = 16, 0.2, 1 - 0.75**2
    tree = Transformer(1, 64, 4, kind="encoder", vocab=100, context=n, activation="relu")
    made = recipe(tree, "deepscale", embedding_correlation=r / (1 - rate), dropout=rate, exact=True)
    share = float(overlap(1 - r, n).P)
    variance = r + (1 - r) * share + rate / (1 - rate) * share
    value, out = (std(made, f"encoder.block.attention.{name}.weight") for name in ("value", "out"))
    assert 64 * value**2 * 64 * out**2 * variance == pytest.approx(1 - rate)
    common = math.exp(r * (1 - r))
    covariance = r + (1 - r) * common / (common + n - 1)
    skip2, branch2 = made.extras["lambda"]["encoder"] ** 2, made.extras["beta"]["encoder"] ** 2
    attended = skip2 * r + branch2 * (1 - rate) * covariance / variance
    expected = skip2 * attended + branch2 * (1 - rate) * 2 * float(relu_pair_moment(1.0, 1.0, attended))
    assert made.extras["correlation"]["encoder"] == pytest.approx((r, expected), rel=1e-9)


@pytest.mark.parametrize("scale", [None, 1.0, 0.3])
def test_scores_have_unit_variance(scale):
    """For any factor on the scores in the model: scale^2 head_dim (width std^2)^2 = 1."""
    made = recipe(Transformer(**SMALL, logit_scale=scale), "deepscale")
    query, key = (std(made, f"decoder.block.attention.{name}.weight") for name in ("query", "key"))
    assert query == key
    assert (16**-0.5 if scale is None else scale) ** 2 * 16 * (64 * query**2) ** 2 == pytest.approx(1)


def test_image_patches_are_taken_as_alike():
    """A correlation of 0.2, which a remark names; one that is given takes its place."""
    tree = Transformer(2, 64, 4, kind="encoder", patch=8, image=32, head="classifier")
    assert embedding_correlation(tree) == 0.2
    made = recipe(tree, "deepscale")
    assert made.extras["embedding_correlation"] == 0.2
    assert any("assumed to be 0.2" in remark for remark in made.extras["remarks"])
    assert recipe(tree, "deepscale", embedding_correlation=0.3).extras["embedding_correlation"] == 0.3


@pytest.mark.parametrize(("positions", "fixed", "tables"), [("sinusoidal", 0.5, 1), ("learned", 0.0, 2)])
@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_the_sum_of_the_tables_has_unit_variance_after_dropout(positions, fixed, tables, rate):
    """Sines and cosines have a variance of 1/2 already."""
    made = recipe(Transformer(**SMALL, positions=positions), "deepscale", dropout=rate)
    assert (tables * std(made, "stem.tokens.weight") ** 2 + fixed) / (1 - rate) == pytest.approx(1)


@pytest.mark.parametrize("offset", [False, True])
def test_the_gain_of_an_embedding_norm_makes_up_for_dropout(offset):
    """A gain that is stored as its difference from one, too."""
    tree = Transformer(**SMALL, norm="rmsnorm", embedding_norm=True, norm_unit_offset=offset)
    made = recipe(tree, "deepscale", dropout=0.19)
    assert made.tensor("stem.norm.weight").mean + offset == pytest.approx(0.9)


def test_the_experts_of_a_mixture():
    """Scores of the router with a standard deviation of 0.1; the routed and the shared part are half of the variance each."""
    rng = np.random.default_rng(5)
    second = activation_second_moment("gelu")
    for shared, gate, part in ((None, False, 1.0), (48, False, 0.5), (48, True, 0.5)):
        tree = Transformer(**SMALL, ffn=96, experts=8, top_k=2, shared_ffn=shared, shared_gate=gate)
        made = recipe(tree, "deepscale", dropout=0.0)
        router = std(made, "decoder.block.feed_forward.router.weight")
        assert router * math.sqrt(64) == pytest.approx(0.1)
        down = std(made, "decoder.block.feed_forward.expert.down.weight")
        # Two experts with nearly equal weights: the sum of the squares of their weights is a half.
        assert 96 * down**2 * second / 2 == pytest.approx(part)
        if shared:
            down = std(made, "decoder.block.feed_forward.shared.down.weight")
            assert 48 * down**2 * second * (0.25 if gate else 1.0) == pytest.approx(part)
    best = np.sort(np.exp(0.1 * rng.standard_normal((10_000, 8))), axis=1)[:, -2:]
    assert ((best / best.sum(1, keepdims=True)) ** 2).sum(1).mean() == pytest.approx(0.5, abs=0.001)


@pytest.mark.parametrize(
    "rule", [RouterRule(), RouterRule(scores="sigmoid", factor=2.5), RouterRule("sigmoid", scales_input=True)]
)
def test_weights_of_experts_that_do_not_sum_to_one(rule):
    """Qwen's norm_topk_prob=false, and the sigmoids of DeepSeek and of Llama 4, which multiply the experts' inputs."""
    tree = Transformer(**SMALL, ffn=96, experts=24, top_k=2, renormalized=False, router=rule)
    made = recipe(tree, "deepscale", dropout=0.0)
    up, down = (std(made, f"decoder.block.feed_forward.expert.{name}.weight") for name in ("up", "down"))
    scores = 0.1 * np.random.default_rng(6).standard_normal((20_000, 24))
    weights = np.exp(scores) / np.exp(scores).sum(1, keepdims=True) if rule.scores == "softmax" else 1 / (1 + np.exp(-scores))
    squares = rule.factor**2 * (np.sort(weights, axis=1)[:, -2:] ** 2).sum(1).mean()
    if rule.scales_input:
        assert 64 * up**2 * squares / 2 == pytest.approx(1, rel=0.02)
        squares = 2.0
    else:
        assert 64 * up**2 == pytest.approx(1)
    assert 96 * down**2 * activation_second_moment("gelu") * squares == pytest.approx(1, rel=0.02)
    even = recipe(Transformer(**SMALL, ffn=96, experts=24, top_k=2), "deepscale", dropout=0.0)
    assert std(even, "decoder.block.feed_forward.expert.down.weight") != pytest.approx(down, rel=0.1)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("ffn", [64, 192])
def test_the_feed_forward_part_keeps_the_variance(dropout, ffn):
    """ReLU halves the second moment; each of two dropouts divides it by the share that it keeps."""
    tree = Transformer(2, 64, heads=1, ffn=ffn, vocab=50, context=16, kind="encoder", activation="relu", dropout=dropout)
    made = recipe(tree, "deepscale")
    up, down = (made.tensor(f"encoder.block.feed_forward.{name}.weight").std for name in ("up", "down"))
    kept = (1 - dropout) * (1 - tree.first_block.feed_forward.branch.dropout)
    assert tree.width * up**2 / 2 * ffn * down**2 / kept == pytest.approx(1)
