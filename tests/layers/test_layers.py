"""Components: what each counts, against counts written out by hand or made one by one."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthwidth.architecture import Transformer
from depthwidth.errors import InputError
from depthwidth.layers import (
    ALiBi,
    Attention,
    Block,
    ClassifierHead,
    Embedding,
    FeedForward,
    LanguageHead,
    LayerNorm,
    LearnedPositions,
    Linear,
    MixtureOfExperts,
    PatchStem,
    Pooler,
    RelativeBias,
    Repeat,
    Residual,
    RMSNorm,
    Rotary,
    Run,
    SinusoidalPositions,
    Stack,
    TokenStem,
    Unembedding,
)
from depthwidth.layers.rotary import rotation_overlap

MANY = settings(max_examples=150, deadline=None, derandomize=True, database=None)
RUN = Run(tokens=5, batch=2)


def attention(**changes):
    sizes = {"width": 12, "heads": 4, "kv_heads": 2, "head_dim": 5, "value_dim": 7}
    return Attention(**{**sizes, **changes})


# Weights.


@pytest.mark.parametrize(("layer", "weights"), [
    (Linear(3, 5), 20),
    (Linear(3, 5, bias=False), 15),
    (LayerNorm(6), 12),
    (LayerNorm(6, bias=False), 6),
    (LayerNorm(6, affine=False), 0),
    (RMSNorm(6), 6),
    (RMSNorm(6, groups=4), 6),
    (RMSNorm(6, affine=False), 0),
    (Rotary(), 0),
    (ALiBi(), 0),
    (SinusoidalPositions(), 0),
    (RelativeBias(heads=4, buckets=32), 128),
    (LearnedPositions(10, 6, offset=2), 72),
    (Embedding(10, 6), 60),
    (TokenStem(Embedding(10, 4), LearnedPositions(8, 6), Embedding(2, 6), LayerNorm(6), Linear(4, 6)), 40 + 48 + 12 + 12 + 30),
    (PatchStem(8, 12, 4, 3, 6), 6 * 3 * 16 + 6 + 6 + 7 * 6),
    (PatchStem(9, 13, 4, 3, 6, class_token=False, bias=False), 6 * 3 * 16 + 6 * 6),
    (Unembedding(6, 10, tied=True), 0),
    (Unembedding(6, 10, tied=True, bias=True), 10),
    (Unembedding(6, 10, tied=False), 60),
    (LanguageHead(Unembedding(6, 10), Linear(6, 6), LayerNorm(6)), 42 + 12),
    (Pooler(6, 4), 28),
    (ClassifierHead(4, 3, Pooler(6, 4)), 28 + 15),
    (Pooler(6, 4, "gelu", LayerNorm(4, bias=False), bias=False), 24 + 4),
    (FeedForward(6, 10), 6 * 10 + 10 + 10 * 6 + 6),
    (FeedForward(6, 10, gated=True, bias=False), 180),
    (MixtureOfExperts(FeedForward(6, 10, bias=False), 4, 2), 24 + 4 * 120),
    (MixtureOfExperts(FeedForward(6, 10), 4, 2, FeedForward(6, 3), shared_gate=True), 24 + 4 * 136 + 6 + 45),
    # query 12x20, key 12x10, value 12x14, out 28x12, each with its bias
    (attention(), 12 * 20 + 20 + 12 * 10 + 10 + 12 * 14 + 14 + 28 * 12 + 12),
    (attention(bias=False, out_bias=False, query_norm=RMSNorm(5), key_norm=RMSNorm(5)), 240 + 120 + 168 + 336 + 10),
    (attention(memory_width=9, bias=False, out_bias=False), 240 + 90 + 126 + 336),
])  # fmt: skip
def test_weights_counted_by_hand(layer, weights):
    assert layer.parameters == weights
    assert layer.parameters == sum(node.copies * node.layer.own_parameters for node in layer.walk())


def test_embedding_is_told_from_the_rest():
    head = LanguageHead(Unembedding(6, 10, tied=False), Linear(6, 6))
    assert (head.embedding_parameters, head.non_embedding_parameters) == (60, 42)
    stem = TokenStem(Embedding(10, 4), LearnedPositions(8, 6), norm=LayerNorm(6), projection=Linear(4, 6))
    assert (stem.embedding_parameters, stem.non_embedding_parameters) == (40 + 48, 12 + 30)


class Forgetful(Attention):
    """Attention whose output map was forgotten."""

    def children(self):
        return tuple(child for child in super().children() if child.name != "out")


def test_a_forgotten_map_is_seen():
    forgetful = Forgetful(12, 4, 2, 5, 7)
    whole = attention()
    assert whole.parameters - forgetful.parameters == whole.out.parameters == 28 * 12 + 12
    assert whole.flops(RUN) - forgetful.flops(RUN) == whole.out.flops(RUN) == 2 * 10 * 28 * 12


# Operations.


def test_a_linear_map_is_two_operations_for_each_weight_and_position():
    assert Linear(3, 5).flops(Run(tokens=7, batch=2)) == 2 * 14 * 15


def allowed(queries, keys, causal, window):
    """Pairs that a mask leaves, one by one."""
    pairs = ((query, key) for query in range(queries) for key in range(keys))
    reach = max(queries, keys) if window is None else window
    return sum(1 for query, key in pairs if abs(query - key) < reach and (query >= key or not causal))


@MANY
@given(st.integers(1, 40), st.none() | st.integers(1, 50), st.booleans())
def test_masked_pairs_are_those_a_mask_leaves(tokens, window, causal):
    layer = attention(causal=causal, window=window)
    seen = layer.keys_seen(Run(tokens=tokens, masked=True))
    assert seen == allowed(tokens, tokens, causal, window)
    assert seen <= layer.keys_seen(Run(tokens=tokens)) <= tokens**2


@MANY
@given(st.integers(1, 30), st.integers(1, 30), st.booleans())
def test_cross_attention_sees_every_pair(tokens, memory, masked):
    layer = attention(memory_width=9, causal=False)
    assert layer.keys_seen(Run(tokens=tokens, memory=memory, masked=masked)) == allowed(tokens, memory, False, None)


def test_a_mask_that_is_off_by_one_is_seen():
    class Late(Attention):
        def keys_seen(self, run):
            return run.tokens * (run.tokens - 1) // 2

    run = Run(tokens=9, masked=True)
    assert Late(12, 4, 2, 5, 7).keys_seen(run) != allowed(9, 9, True, None) == attention().keys_seen(run)


def test_operations_of_attention_by_hand():
    run = Run(tokens=5, batch=2)
    maps = 2 * 10 * (12 * 20 + 12 * 10 + 12 * 14 + 28 * 12)
    scores = 2 * 2 * 25 * 4 * (5 + 7)
    assert attention().flops(run) == maps + scores
    cross = attention(memory_width=9, causal=False)
    maps = 2 * 10 * (12 * 20 + 28 * 12) + 2 * 6 * 9 * (10 + 14)
    assert cross.flops(replace(run, memory=3)) == maps + 2 * 2 * 15 * 4 * 12


def test_operations_of_a_mixture_are_those_of_the_experts_a_token_meets():
    expert = FeedForward(6, 10, bias=False)
    mixture = MixtureOfExperts(expert, 8, 3, shared=FeedForward(6, 4, bias=False))
    assert mixture.flops(RUN) == 2 * 10 * (6 * 8 + 3 * 120 + 48)
    assert mixture.active_parameters == 48 + 3 * 120 + 48
    assert replace(mixture, experts=9).flops(RUN) - mixture.flops(RUN) == 2 * 10 * 6


def test_heads_that_read_one_token():
    assert Pooler(6, 4).flops(RUN) == 2 * 2 * 24
    assert ClassifierHead(4, 3, Pooler(6, 4)).flops(RUN) == 2 * 2 * (24 + 12)
    assert PatchStem(9, 13, 4, 3, 6).flops(RUN) == 2 * 2 * 6 * 3 * 16 * 6


def test_a_map_of_all_attention_weights_is_outside_of_the_forward_pass():
    plain, esm = (Transformer(3, 12, 2, vocab=9, context=8, kind="encoder", contacts=contacts) for contacts in (False, True))
    assert esm.parameters - plain.parameters == 3 * 2 + 1
    assert esm.forward_flops(8) == plain.forward_flops(8)
    for recompute in ("none", "full"):
        assert esm.activation_bytes(8, recompute=recompute) == plain.activation_bytes(8, recompute=recompute)
    by_block = Transformer(2, 12, [2, 3], vocab=9, context=8, head_dim=4, kind="encoder", contacts=True)
    assert by_block.encoder.contacts.inputs == 5


def test_heads_that_read_every_token():
    assert ClassifierHead(4, 3, reads="mean").flops(RUN) == 2 * 2 * 12
    for reads in ("every", "late"):
        assert ClassifierHead(4, 3, Pooler(6, 4, every=True), reads=reads).flops(RUN) == 2 * RUN.positions * (24 + 12)
    with pytest.raises(InputError, match="the pooler needs every=True, as reads='late'"):
        ClassifierHead(4, 3, Pooler(6, 4), reads="late")


# Memory.


@MANY
@given(st.integers(1, 30), st.none() | st.integers(1, 40), st.integers(1, 3))
def test_the_cache_holds_what_the_last_query_may_see(tokens, window, batch):
    seen = sum(1 for key in range(tokens) if window is None or tokens - 1 - key < window)
    cache = attention(window=window).cache_values(Run(tokens=tokens, batch=batch))
    assert cache == batch * seen * (2 * 5 + 2 * 7)


def test_only_what_is_read_again_is_cached():
    assert attention(causal=False).cache_values(RUN) == 0
    cross = attention(causal=False, memory_width=9)
    assert cross.cache_values(Run(tokens=5, memory=11)) == 11 * 2 * 12
    assert cross.cache_values(Run(tokens=50, memory=11)) == 11 * 2 * 12


def gpt_block(width, heads, dropout=0.1):
    def residual(branch):
        return Residual(branch, norm_in=LayerNorm(width), dropout=dropout)

    dims = width // heads
    return Block(residual(Attention(width, heads, heads, dims, dims, dropout=dropout)), residual(FeedForward(width, 4 * width)))


@MANY
@given(st.integers(1, 64), st.integers(1, 4), st.integers(1, 8), st.integers(1, 8))
def test_activations_of_a_gpt_block_are_those_of_korthikanti(tokens, batch, heads, head_dim):
    """s b h (34 + 5 a s / h), equation 1 of arXiv 2205.05198: 16-bit activations, dropout, every score kept."""
    width = heads * head_dim
    run = Run(tokens=tokens, batch=batch, fused=False)
    expected = 34 * tokens * batch * width + 5 * heads * tokens**2 * batch
    assert gpt_block(width, heads).saved_bytes(run) == expected


def test_activations_without_dropout_are_fewer():
    run = Run(tokens=8, batch=2, fused=False)
    with_masks, without = gpt_block(12, 3).saved_bytes(run), gpt_block(12, 3, dropout=0.0).saved_bytes(run)
    assert with_masks - without == 2 * 16 * 12 + 3 * 3 * 8 * 16  # two masks of outputs; a copy and a mask of the scores
    assert without != 34 * 8 * 2 * 12 + 5 * 3 * 64 * 2


def test_a_fused_kernel_keeps_no_scores():
    """Memory grows linearly with the length where the scores are not kept, quadratically where they are."""
    block = gpt_block(12, 3)
    fused = [block.saved_bytes(Run(tokens=tokens)) for tokens in (10, 20, 30)]
    assert fused[2] - fused[1] == fused[1] - fused[0]
    kept = [block.saved_bytes(Run(tokens=tokens, fused=False)) for tokens in (10, 20, 30)]
    assert kept[2] - kept[1] - (kept[1] - kept[0]) == 5 * 3 * 2 * 10**2


# Structure.


def test_equal_blocks_are_counted_once_and_multiplied():
    block = gpt_block(12, 3)
    stack = Stack.of([block] * 3 + [gpt_block(12, 4)] + [block] * 2, LayerNorm(12))
    assert [repeat.times for repeat in stack.repeats] == [3, 1, 2]
    assert stack.depth == len(list(stack.blocks())) == 6
    assert [child.name for child in stack.children()] == ["block.0-2,4-5", "block.3", "norm"]
    assert stack.parameters == 6 * block.parameters + 24
    assert sum(node.copies for node in stack.walk() if isinstance(node.layer, Block)) == 6


def test_recomputed_stacks_keep_inputs_and_one_block():
    block = gpt_block(12, 3)
    stack = Stack((Repeat(block, 10),), LayerNorm(12))
    assert stack.recomputed_bytes(RUN) == 10 * 10 * 12 * 2 + block.saved_bytes(RUN) + 10 * 12 * 2


@pytest.mark.parametrize(("make", "start"), [
    (lambda: Linear(0, 1), "Linear: inputs=0 is not a whole number from 1 to"),
    (lambda: Linear(1, 2.0), "Linear: outputs=2.0 is not a whole number"),
    (lambda: Linear(True, 1), "Linear: inputs=True"),
    (lambda: Linear(1, 10**13), "Linear: outputs=10000000000000 is not"),
    (lambda: Embedding(-1, 1), "Embedding: rows=-1"),
    (lambda: LayerNorm("6"), "LayerNorm: width='6'"),
    (lambda: RMSNorm(6, groups=0), "RMSNorm: groups=0"),
    (lambda: LearnedPositions(4, 4, offset=-1), "LearnedPositions: offset=-1"),
    (lambda: Rotary(fraction=0.0), "Rotary: fraction=0.0 is not in (0, 1]"),
    (lambda: Rotary(base=-1.0), "Rotary: base=-1.0 is not positive"),
    (lambda: RelativeBias(heads=0), "RelativeBias: heads=0"),
    (lambda: attention(kv_heads=3), "Attention: kv_heads=3 does not divide heads=4"),
    (lambda: attention(window=0), "Attention: window=0"),
    (lambda: attention(dropout=1.0), "Attention: dropout=1.0 is not in [0, 1)"),
    (lambda: attention(memory_width=0), "Attention: memory_width=0"),
    (lambda: FeedForward(6, 0), "FeedForward: hidden=0"),
    (lambda: FeedForward(6, 6, activation="gulu"), "FeedForward: activation='gulu' is not one of"),
    (lambda: MixtureOfExperts(FeedForward(6, 6), 2, 3), "MixtureOfExperts: top_k=3 is more than experts=2"),
    (lambda: MixtureOfExperts(FeedForward(6, 6), 2, 1, shared_gate=True), "MixtureOfExperts: shared_gate needs a shared part"),
    (lambda: PatchStem(4, 4, 5, 3, 6), "PatchStem: patch=5 is larger than the image"),
    (lambda: Repeat(gpt_block(12, 3), 0), "Repeat: times=0"),
    (lambda: Stack(()), "Stack: it has no blocks"),
    (lambda: Residual(FeedForward(6, 6), dropout=-0.1), "Residual: dropout=-0.1"),
    (lambda: replace(gpt_block(12, 3), norm=LayerNorm(12)), "Block: a norm shared by all branches needs parallel=True"),
    (lambda: TokenStem(Embedding(2, 2), dropout=2), "TokenStem: dropout=2"),
])  # fmt: skip
def test_parts_that_make_no_sense_get_one_sentence(make, start):
    with pytest.raises(InputError) as caught:
        make()
    assert str(caught.value).startswith(start)
    assert "\n" not in str(caught.value)


def test_components_are_values():
    """Equal parts are equal, may be keys, and cannot be changed in place."""
    assert gpt_block(12, 3) == gpt_block(12, 3) != gpt_block(12, 4)
    assert len({gpt_block(12, 3), gpt_block(12, 3), gpt_block(12, 4)}) == 2
    with pytest.raises(AttributeError):
        Linear(1, 1).inputs = 2
    assert Linear(1, 1).replace(outputs=3) == Linear(1, 3)
    assert math.isclose(Rotary().base, 10000.0)


@pytest.mark.parametrize("causal", [False, True])
def test_rotations_leave_the_mean_cosine_of_the_pairs_in_a_row(causal):
    """Against all pairs of keys, rotated one by one; a quarter of the dimensions turned leaves more."""
    length, head_dim = 24, 16
    angles = np.multiply.outer(np.arange(length), 10000.0 ** (-np.arange(head_dim // 2) / (head_dim // 2)))
    kernel = np.cos(angles[:, None] - angles[None]).mean(-1)
    rows = range(2, length + 1) if causal else [length]
    expected = np.mean([(kernel[:n, :n].sum() - n) / (n * (n - 1)) for n in rows])
    assert rotation_overlap(Rotary(), head_dim, length, causal) == pytest.approx(expected, rel=1e-9)
    assert rotation_overlap(Rotary(fraction=0.25), head_dim, length, causal) > expected + 0.05
    assert rotation_overlap(Rotary(), head_dim, 1, causal) == 1.0


@pytest.mark.parametrize("angles", [
    lambda features: SinusoidalPositions().frequencies(features), lambda features: Rotary().frequencies(features, 8),
])  # fmt: skip
def test_angles_beyond_memory_are_refused(angles):
    """A width of 10^12, as in a broken configuration."""
    with pytest.raises(InputError, match=r"the angles of 1,000,000,000,000 features are not computed; at most 65,536"):
        angles(10**12)
    assert angles(2**16).size == 2**15
