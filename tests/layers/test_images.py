"""Parts of models of images: the tokens of a stem, trained factors on branches, heads that pool."""

import pytest

from depthwidth import Transformer, layers, propagate
from depthwidth.errors import InputError
from depthwidth.initialization import recipe

IMAGES = {"kind": "encoder", "positions": "none", "patch": 4, "image": 12, "head": "none"}


def stream(tree, scheme="normal"):
    """Second moments, covariances and gradients of the blocks."""
    found = propagate(tree, recipe(tree, scheme))
    found = found[found.site.str.match(r"encoder[.]block[.]\d+$|decoder[.]block[.]\d+$")]
    return found[["second_moment", "covariance"]].to_numpy()


@pytest.mark.parametrize("more", [{"kind": "encoder"}, {"placement": "post"}, {"parallel": True}, {"placement": "sandwich"}])
def test_trained_factors_start_as_a_fixed_one(more):
    """Equal factors on all features are one factor on the branch."""
    plain = {"depth": 3, "width": 32, "heads": 4, "vocab": 50, "context": 12, **more}
    trained = Transformer(**plain, layer_scale=0.3)
    fixed = Transformer(**plain, residual_scale=0.3)
    assert trained.parameters - fixed.parameters == 2 * 3 * 32
    assert stream(trained) == pytest.approx(stream(fixed), rel=1e-12)
    # and the factor matters
    assert stream(trained) != pytest.approx(stream(Transformer(**plain, layer_scale=0.4)), rel=1e-3)


def test_a_scheme_that_sets_the_scales_of_branches_starts_trained_factors_at_one():
    tree = Transformer(depth=2, width=32, heads=4, vocab=50, context=12, layer_scale=1e-5)
    means = {scheme: recipe(tree, scheme).tensor("decoder.block.attention.layer_scale").mean for scheme in ("normal", "rezero")}
    assert means == {"normal": 1e-5, "rezero": 1.0}
    plain = Transformer(depth=2, width=32, heads=4, vocab=50, context=12)
    assert stream(tree, "deepscale") == pytest.approx(stream(plain, "deepscale"), rel=1e-12)


def test_the_tokens_of_an_image():
    counts = {name: Transformer(1, 8, 2, **IMAGES, **{name: True}).context for name in ("distillation_token", "mask_token")}
    assert counts == {"distillation_token": 11, "mask_token": 10}
    alone = Transformer(1, 8, 2, **IMAGES, class_token=False, patch_positions="none", patch_bias=False)
    assert (alone.context, alone.stem.parameters) == (9, 8 * 3 * 16)
    with pytest.raises(InputError, match="PatchStem: positions='lerned' is not one of"):
        Transformer(1, 8, 2, **IMAGES, patch_positions="lerned")


def test_a_norm_after_the_patches_gives_the_stream_unit_size():
    normed = Transformer(1, 32, 2, **IMAGES, embedding_norm=True)
    plain = Transformer(1, 32, 2, **IMAGES)
    first = [propagate(one, "normal").query("site == 'encoder.input' and direction == 'forward'") for one in (normed, plain)]
    assert float(first[0].second_moment.iloc[0]) == pytest.approx(1, rel=1e-3)
    # patches of 48 pixels and positions, of standard deviation 0.02
    assert float(first[1].second_moment.iloc[0]) == pytest.approx(49 * 0.02**2, rel=1e-9)


def test_heads_of_one_token_cost_one_token():
    width, run = 8, layers.Run(tokens=10, batch=2)
    assert layers.Projection(width, 5).flops(run) == 2 * 2 * width * 5
    assert layers.Projection(width).parameters == layers.Projection(width).flops(run) == 0
    assert layers.ClassifierHead(width, 3, reads="first and mean").flops(run) == 2 * 2 * (2 * width) * 3
    assert layers.ClassifierHead(width, 3, reads="first two").flops(run) == 2 * 2 * 2 * width * 3


def test_attention_pooling_reads_all_tokens_with_one_query():
    run = layers.Run(tokens=10, batch=2)
    attention = layers.Attention(8, 2, 2, 4, 4, causal=False, memory_width=8)
    head = layers.AttentionPooling(attention, layers.LayerNorm(8), layers.FeedForward(8, 16))
    maps = 2 * 2 * (2 * 8 * 8 + 10 * 2 * 8 * 8 + 2 * 8 * 16)  # query and output of one token, key and value of ten, hidden
    assert head.flops(run) == maps + 2 * 2 * 10 * 2 * (4 + 4)
    assert head.cache_values(run) == 0
    with pytest.raises(InputError, match="needs memory_width"):
        layers.AttentionPooling(attention.replace(memory_width=None), layers.LayerNorm(8), layers.FeedForward(8, 16))


def test_a_table_of_biases_has_a_row_for_each_difference():
    assert layers.ImageBias(14, 14, 12).parameters == (27 * 27 + 3) * 12
    own, shared = layers.ImageBias(2, 3, 4), layers.ImageBias(2, 3, 4, shared=True)
    assert (own.home, shared.home, own.longest) == ("attention", "stack", 7)
