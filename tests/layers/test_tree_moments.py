"""The moments of tree attention: a layer against a simulation with the modules of `verify`, and 48 blocks."""

import math

import numpy as np
import pytest
from passes import Given, start

from depthwidth import Transformer, propagate, recipe
from depthwidth.errors import InputError
from depthwidth.initialization import at_block, schemes
from depthwidth.layers import ALiBi, Rotary, Tree, TreeAttention
from depthwidth.signal import Signal, TokenSignal
from depthwidth.signal.positions import Positions

WIDTH, HEADS, HEAD, LENGTH = 192, 3, 64, 40


def layer(**tree):
    sizes = {"width": WIDTH, "heads": HEADS, "kv_heads": HEADS, "head_dim": HEAD, "value_dim": HEAD, "causal": False}
    return TreeAttention(**sizes, bias=False, out_bias=False, tree=Tree(**tree))


def weights(scores):
    """Scores of this variance for tokens of second moment 1, scores of nodes of a query's size, an output of the values'."""
    maps = dict.fromkeys(("query_weight", "key_weight"), math.sqrt(scores) / WIDTH)
    return Given(**maps, value_weight=1 / WIDTH, out_weight=1 / WIDTH, planes=1 / HEAD)


def simulated(tree, r, scores, gradient, draws):
    """Means over draws, with errors: the tokens' covariance, both moments of the output, both of the gradient."""
    torch = pytest.importorskip("torch")
    from verify.models import tree_attention as trees

    generator, found = torch.Generator().manual_seed(3), []

    def drawn(*shape):
        return torch.randn(*shape, generator=generator)

    def moments(x):
        square, total = x.square().sum(), x.sum(0).square().sum()
        return square / x.numel(), (total - square) / (x.numel() * (LENGTH - 1))

    for _ in range(draws):
        x = math.sqrt(r) * drawn(1, WIDTH) + math.sqrt(1 - r) * drawn(LENGTH, WIDTH)
        x = (x / x.square().mean(-1, keepdim=True).sqrt()).requires_grad_()
        q, k, v = (
            (size * x @ drawn(WIDTH, WIDTH) / math.sqrt(WIDTH)).unflatten(-1, (HEADS, HEAD)).transpose(0, 1)[None]
            for size in (scores**0.25, scores**0.25, 1.0)
        )
        planes = drawn(HEADS, tree.leaves - 1, HEAD) / math.sqrt(HEAD)
        given = (q, k, v, planes, torch.zeros(planes.shape[:2]))
        if tree.softmax:
            y = trees.leaf_attention(*given, scale=HEAD**-0.5)
        else:
            y = trees.path_attention(*given, torch.full((HEADS, tree.height + 1), 1 / (tree.height + 1)))
        y = y[0].transpose(0, 1).flatten(1) @ drawn(WIDTH, WIDTH) / math.sqrt(WIDTH)
        g = math.sqrt(gradient) * drawn(1, WIDTH) + math.sqrt(1 - gradient) * drawn(LENGTH, WIDTH)
        (pulled,) = torch.autograd.grad(y, x, g)
        with torch.no_grad():
            found.append([float(one) for one in (moments(x)[1], *moments(y), *moments(pulled))])
    return np.mean(found, axis=0), np.std(found, axis=0) / math.sqrt(draws)


def predicted(tree, pair, scores, gradient):
    y, pull = layer(**tree).moments(Signal(1.0, pair), start(weights(scores), length=LENGTH))
    g = pull(Signal(1.0, gradient))
    return np.array([*y[:2], *g[:2]], dtype=float)


def off(mean, error, expected):
    """Relative differences beyond two standard errors."""
    return (np.abs(expected - mean) - 2 * error).clip(0) / mean


CASES = [
    ({"height": 2}, 0.1, 1.0, 0.1),
    ({"height": 2}, 0.7, 1.0, 0.1),
    ({"height": 3, "reads": "path"}, 0.1, 1.0, 0.1),
    ({"height": 2, "reads": "path"}, 0.7, 1.0, 0.0),
]


@pytest.mark.slow
@pytest.mark.parametrize(("tree", "r", "scores", "gradient"), CASES)
def test_moments_are_those_of_a_simulation(tree, r, scores, gradient):
    """Within 2 % beyond the noise; those of a tree of another height, or with decisions twice as steep, are not."""
    mean, error = simulated(Tree(**tree), r, scores, gradient, 120)
    assert off(mean[1:], error[1:], predicted(tree, mean[0], scores, gradient)).max() < 0.02
    other = predicted(tree | {"height": tree["height"] + 1}, mean[0], scores, gradient)
    assert off(mean[1:], error[1:], other).max() > 0.05
    if (tree, r) == CASES[0][:2]:
        steep = predicted(tree | {"sharpness": 2.0}, mean[0], scores, gradient)
        assert off(mean[1:], error[1:], steep)[2] > 0.05


@pytest.mark.slow
def test_equal_tokens_are_mixed_to_themselves():
    """By TF-attention; a query of TC-attention may be alone on its side of the root."""
    second, pair, *_ = predicted({"height": 2}, 1.0, 1.0, 0.0)
    assert second == pytest.approx(1.0, rel=1e-3)
    assert pair == pytest.approx(1.0, rel=1e-3)
    assert predicted({"height": 2, "reads": "path"}, 1.0, 1.0, 0.0)[0] < 0.7


def test_means_of_the_root_alone():
    """TC-attention without levels: the mean of all values."""
    r = 0.3
    found = predicted({"height": 0, "reads": "path"}, r, 1.0, 0.0)
    assert found[:2] == pytest.approx(r + (1 - r) / LENGTH, rel=1e-6)


def test_what_is_not_derived_is_refused():
    site = start(weights(1.0), length=LENGTH)
    tokens = TokenSignal(np.ones(LENGTH), np.full((LENGTH, LENGTH), 0.3), Positions.every(LENGTH))
    with pytest.raises(InputError, match="position by position"):
        layer(height=2).moments(tokens, site)
    with pytest.raises(InputError, match="may see no key"):
        layer(height=2, own_key=False).moments(Signal(1.0, 0.3), site)
    with pytest.raises(InputError, match="makes 64 leaves for a context of 40 tokens"):
        layer(height=6).moments(Signal(1.0, 0.3), site)
    with pytest.raises(InputError, match="positions turn the queries and keys"):
        layer(height=2).replace(position=Rotary()).moments(Signal(1.0, 0.3), site)
    with pytest.raises(InputError, match="score biases that do not start at zero"):
        layer(height=2).replace(position=ALiBi()).moments(Signal(1.0, 0.3), site)


@pytest.mark.slow
def test_biases_that_start_at_zero_change_nothing():
    sizes = {"depth": 2, "width": 32, "heads": 2, "vocab": 20, "context": 16, "kind": "encoder", "tree": Tree(2)}
    plain, *biased = (propagate(Transformer(**sizes, positions=one), "xavier") for one in ("none", "diet-rel", "t5"))
    for frame in biased:
        merged = plain.merge(frame, on=["site", "direction"])
        assert len(merged) > 10
        assert np.allclose(merged.second_moment_x, merged.second_moment_y, rtol=1e-12)
        assert np.allclose(merged.covariance_x, merged.covariance_y, rtol=1e-12)


@pytest.mark.parametrize("scheme", schemes())
def test_every_recipe_says_how_planes_start(scheme):
    """Forward passes do not depend on their size, gradients do; thresholds start at zero, levels with equal weights."""
    tree = Transformer(
        depth=2,
        width=32,
        heads=2,
        vocab=20,
        context=16,
        kind="encoder",
        head="masked-lm",
        positions="none",
        tree=Tree(2, "path"),
    )
    made = recipe(tree, scheme)
    line = made.tensor("encoder.block.attention.planes")
    assert 0 < at_block(line.std, 0) <= 1
    assert line.reason
    assert made.tensor("encoder.block.attention.thresholds").std == 0
    assert made.tensor("encoder.block.attention.level_weights").mean == pytest.approx(1 / 3)


@pytest.mark.slow
@pytest.mark.parametrize("reads", ["leaf", "path"])
def test_forty_eight_blocks(reads):
    """Second moments after the last block and of the gradient after the first, within 5 % beyond the noise.

    With as many tokens in the vocabulary as features, the gradient at the head's input has the variance of that of the logits.
    """
    torch = pytest.importorskip("torch")
    from drawn_models import drawn_models

    tree = Transformer(
        depth=48, width=128, heads=2, vocab=128, context=24, kind="encoder", positions="none", norm="rmsnorm", head="lm",
        tied=False, ffn=128, tree=Tree(2, reads),
    )  # fmt: skip
    made, found = recipe(tree, "xavier"), []
    for seed, model in drawn_models(tree, made, 8):
        outputs = []
        for block in model.encoder.block:
            block.register_forward_hook(lambda module, given, output, outputs=outputs: outputs.append(output))
        generator = torch.Generator().manual_seed(seed)
        logits = model(torch.randperm(128, generator=generator)[None, :24])
        (g,) = torch.autograd.grad(logits, outputs[:1], torch.randn(logits.shape, generator=generator))
        found.append([outputs[-1].square().mean().item(), g.square().mean().item()])
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / math.sqrt(len(found))
    rows = propagate(tree, made, token_match=0.0)
    (forward,) = rows[(rows.direction == "forward") & (rows.site == "encoder.block.47")].second_moment
    (back,) = rows[(rows.direction == "gradient") & (rows.site == "encoder.block.0")].second_moment
    assert off(mean, error, np.array([forward, back])).max() < 0.05
    assert off(mean, error, 1.5 * np.array([forward, back])).max() > 0.05
