"""A template's polynomial equals the count of the tree, exactly, for every architecture it can hold."""

from dataclasses import replace
from fractions import Fraction

import pytest
from helpers import agrees, check, one_quick_in, table
from hypothesis import given, settings
from hypothesis import strategies as st

from depthwidth.architecture import Transformer
from depthwidth.architecture.hf import families, read_design
from depthwidth.errors import InputError
from depthwidth.planning.rules import find_rule, meet
from depthwidth.planning.template import PRESETS, Template

READINGS = {
    "parameters": lambda tree: tree.parameters,
    "non-embedding": lambda tree: tree.non_embedding_parameters,
    "active": lambda tree: tree.active_parameters,
    "FLOPs per token": lambda tree: tree.flops_per_token(masked=True, training=True),
    "training memory": lambda tree: tree.training_memory().total,
    "training memory, recomputed": lambda tree: tree.training_memory(recompute="full").total,
    "key-value cache": lambda tree: tree.kv_cache_bytes(),
}


@pytest.mark.parametrize("reading", READINGS)
@one_quick_in(3, "preset", PRESETS)
@given(depth=st.integers(1, 500), count=st.integers(1, 40))
@settings(max_examples=8, deadline=None)
def test_the_polynomial_is_the_count(preset, reading, depth, count):
    template = Template.of(preset, head_dim=64)
    width = count * 64 * 8 * 3  # heads of 64, eight of them to a key head, thirds for the gated ratio
    tree = template._tree(depth, width, 64, int(template.ffn_ratio * width))
    assert template.polynomial(READINGS[reading]).exact(depth, width) == READINGS[reading](tree)


def test_a_wrong_polynomial_is_caught():
    template = Template.of("gpt3", head_dim=64)
    polynomial = template.polynomial(READINGS["parameters"])
    wrong = replace(polynomial, per_block=(polynomial.per_block[0], polynomial.per_block[1] - 1, polynomial.per_block[2]))
    assert wrong.exact(12, 768) != template.at(12, 768).parameters


# Optimal shapes for a total budget, derived: 12 L d^2 + k V d = P on the 2020 curve.
TOTALS = table("""
1.25e8 | 50257 | 1 | 23.8286 | 579.108 | 9.58958e7
1.20e8 | 32000 | 1 | 24.1754 | 590.360 | 1.01108e8
1e9 | 50304 | 2 | 39.1549 | 1355.73 | 8.63603e8
1e9 | 128256 | 1 | 38.8555 | 1333.39 | 8.28985e8
7e9 | 32000 | 2 | 54.7221 | 3216.59 | 6.79414e9""")


@pytest.mark.parametrize(("total", "vocab", "embeddings", "depth", "width", "nonembedding"), TOTALS)
def test_total_budgets_of_the_bare_architecture(total, vocab, embeddings, depth, width, nonembedding):
    def bare(tied):
        template = Template.of("gpt3", bias=False, norm_affine=False, positions="none", vocab=int(vocab), tied=tied)
        return template.polynomial(READINGS["parameters"])

    count = bare(tied=embeddings == "1")
    assert count.per_block == (0, 0, 12)
    found = meet(find_rule("levine2020").curve(), count.continuous(), float(total))
    check(found[0], depth)
    check(found[1], width)
    check(12 * found[0] * found[1] ** 2, nonembedding)
    other = meet(find_rule("levine2020").curve(), bare(tied=embeddings != "1").continuous(), float(total))
    assert not agrees(other[0], depth)


@given(
    width=st.integers(8, 40_000),
    preset=st.sampled_from(sorted(PRESETS)),
    tensor_parallel=st.sampled_from([1, 2, 4, 8, 16]),
    multiple=st.sampled_from([None, 64, 96, 256]),
)
@settings(max_examples=100, deadline=None)
def test_a_multiple_of_the_step_always_makes_a_model(width, preset, tensor_parallel, multiple):
    template = Template.of(preset, tensor_parallel=tensor_parallel, multiple=multiple)
    step = template.step_at(width)
    width = step * max(1, round(width / step))
    if width % template.step_at(width) == 0:
        tree = template.at(3, width)
        assert (tree.depth, tree.width) == (3, width)
        assert tree.heads % tensor_parallel == 0
        assert tree.heads % tree.kv_heads == 0
        if multiple:
            assert width % multiple == 0


def test_llama3_8b_is_the_template_at_its_shape():
    assert Template.of("llama3").at(32, 4096).parameters == 8_030_261_248


def test_a_narrow_embedding_is_counted_between_the_sampled_widths():
    """One of the widths that determine the polynomial would be that of the embedding, without a projection."""
    template = Template.like(replace(read_design({"model_type": "opt"}), embedding_width=128))
    assert template.polynomial(READINGS["parameters"]).exact(7, 704) == template.at(7, 704).parameters


def test_blocks_that_share_weights_are_refused():
    with pytest.raises(
        InputError, match="plan: blocks of this model share weights, so its budget does not determine its depth"
    ):
        Template.like(read_design({"model_type": "albert"}))
    own = read_design({"model_type": "albert", "num_hidden_groups": 12})
    assert Template.like(own).at(3, 1024).encoder.sharing is None


@one_quick_in(4, "family", [name for name in families() if name != "albert"])
def test_like_a_family_at_its_own_shape_is_that_model(family):
    """Forgetting the shape and giving it again changes nothing, and the polynomial agrees."""
    design = read_design({"model_type": family})
    tree = Transformer.of_design(design)
    template = Template.like(design)
    head_dim = tree.head_dim if tree.stack.first("as_attention") else template.head_dim  # which nothing reads without attention
    again = template._tree(tree.depth, tree.width, head_dim, int(template.ffn_ratio * tree.width))
    assert again == tree
    assert template.polynomial(READINGS["parameters"]).exact(tree.depth, tree.width) == tree.parameters


def test_like_keeps_the_depth_of_an_encoder_relative_to_its_decoder():
    design = read_design({"model_type": "bart", "encoder_layers": 12, "decoder_layers": 6, "encoder_attention_heads": 8})
    template = Template.like(design)
    tree = template.at(4, 512)
    assert (tree.encoder.depth, tree.decoder.depth) == (8, 4)
    assert {stack.repeats[0].block.as_attention.heads for stack in tree.stacks.values()} == {8}
    for depth in (3, 6):
        exact = template.polynomial(READINGS["parameters"]).exact(depth, 512)
        assert exact == template.at(depth, 512).parameters
    mixed = Template.like(read_design({"model_type": "switch_transformers", "num_layers": 12, "num_decoder_layers": 6}))
    assert mixed.at(8, 768).encoder.depth == 16


def test_like_keeps_the_first_dense_blocks_and_scales_them():
    template = Template.like(read_design({"model_type": "ernie4_5_moe"}))
    assert (len(template.first_blocks), len(template.blocks)) == (1, 1)
    for depth, width in ((5, 2560), (7, 5120)):
        tree = template.at(depth, width)
        mixtures = [block.feed_forward.branch.as_mixture is not None for block in tree.decoder.blocks()]
        assert mixtures == [False] + [True] * (depth - 1)
        assert tree.ffn == 12288 * width // 2560  # the first block's, which grows with the width
        assert template.polynomial(READINGS["parameters"]).exact(depth, width) == tree.parameters


def test_like_repeats_a_pattern_of_blocks():
    tree = Template.like(read_design({"model_type": "smollm3"})).at(10, 2048)
    assert [block.attention.branch.position is None for block in tree.decoder.blocks()] == [i % 4 == 3 for i in range(10)]


def test_choices_go_before_those_of_the_model_it_is_like():
    """Llama's own values for the biases of each part would override a bias asked of all linear maps."""
    llama = {"model_type": "llama", "hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8, "vocab_size": 1000}
    design = read_design(llama)
    assert not any(tree.attention.bias or tree.feed_forward.bias for tree in [Template.like(design).at(4, 256)])
    biased = Template.like(design, {"bias": True}).at(4, 256)
    assert biased.attention.bias
    assert biased.attention.out_bias
    assert biased.feed_forward.bias
    partly = Template.like(design, {"bias": True, "attention_bias": False}).at(4, 256)
    assert (partly.attention.bias, partly.feed_forward.bias) == (False, True)
    with pytest.raises(InputError, match="top_k has no meaning without experts"):
        Template.like(design, {"top_k": 2})
    experts = read_design({"model_type": "deepseek_v3", "first_k_dense_replace": 1, "num_hidden_layers": 3})
    assert Template.like(experts, {"top_k": 2})


def test_like_keeps_unusual_ratios():
    t5_11b = read_design({"model_type": "t5", "d_model": 1024, "d_kv": 128, "num_heads": 128, "d_ff": 65536, "num_layers": 24})
    template = Template.like(t5_11b)
    assert (template.attention_ratio, template.ffn_ratio) == (16, 64)
    assert template.at(24, 1024).parameters == Transformer.of_design(t5_11b).parameters
    gemma2 = Template.like(read_design({"model_type": "gemma2"}))
    windows = [block.attention.branch.window for block in gemma2.at(4, 2304).decoder.blocks()]
    assert windows == [4096, None, 4096, None]
    assert gemma2.at(4, 2304 * 2).stem.scale == pytest.approx((2304 * 2) ** 0.5)


def test_like_scales_the_heads_input_of_t5_with_the_width():
    template = Template.like(read_design({"model_type": "t5"}))
    for width in (512, 1024):
        assert template.at(2, width).language_head.scale == pytest.approx(width**-0.5, rel=1e-15)
    granite = Template.like(read_design({"model_type": "granite", "logits_scaling": 4.0}))
    assert granite.at(2, 1024).language_head.scale == granite.at(2, 2048).language_head.scale == 0.25


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"preset": "gpt5"}, "there is no preset 'gpt5'"),
        ({"vocabulary": 5}, "there is no option 'vocabulary'.*did you mean 'vocab'"),
        ({"tensor_parallel": 0}, "tensor_parallel=0 is not a whole number"),
        ({"head_dim": -64}, "head_dim=-64 is not a whole number"),
        ({"ffn_ratio": Fraction(-1)}, "ffn_ratio=.* is not in"),
        ({"norm": "batchnorm"}, "norm='batchnorm' is not one of"),
    ],
)
def test_a_bad_template_gets_one_sentence(arguments, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        Template.of(**arguments)
    assert "\n" not in str(error.value)
