"""Alternating updates in trees of the paper's sizes: every cell of its table, and the operations of a training example."""

import pytest

from depthwidth import InputError, Transformer, propagate, recipe
from depthwidth.coefficients import reference
from depthwidth.formulas import altup
from depthwidth.layers import AltUp, Block, RecycledAltUp, SequenceAltUp, Stack

ROWS = {row["model"]: row for row in reference("altup2023_params_speed")}


def t5(model, **more):
    row = ROWS[model]
    shape = {name: int(row[name]) for name in ("depth", "encoder_depth", "width", "heads", "head_dim", "ffn")}
    return Transformer(
        **shape, gated=True, bias=False, norm="rmsnorm", positions="relative", tied=False, vocab=32128,
        kind="encoder-decoder", context=512, **more,
    )  # fmt: skip


def operations(tree):
    """FLOPs of a forward pass of a training example: 114 tokens from 512."""
    return tree.flops(tree.run(114, 512))


@pytest.mark.parametrize("model", ROWS)
def test_every_cell_of_the_papers_table_of_sizes(model):
    row = ROWS[model]
    tree = t5(model, **({"altup": 2} if row["streams"] == "2" else {}))
    assert f"{tree.embedding_parameters:.2E}" == row["embedding_params"]
    assert f"{tree.non_embedding_parameters:.2E}" == row["nonembedding_params"]
    size = [int(row[name]) for name in ("width", "ffn", "heads", "head_dim", "encoder_depth", "depth")]
    streams, layers = tree.decoder.streams, size[4] + size[5]
    updates = altup.update_parameters(layers, streams) if streams > 1 else 0
    assert tree.non_embedding_parameters == altup.t5_parameters(*size, streams) + updates
    assert tree.embedding_parameters == altup.table_parameters(32128, size[0], streams, 2)


@pytest.mark.parametrize(
    ("model", "gflop", "two", "four", "recycled"),
    [
        ("T5-Small", 30.11, 19.6, 58.9, 0.06),
        ("T5-Base", 141.98, 14.2, 42.7, 0.06),
        ("T5-Large", 489.27, 12.1, 36.3, 0.05),
        ("T5-XL", 1781.98, 12.4, 37.3, 0.03),
    ],
)
def test_the_operations_of_a_training_example(model, gflop, two, four, recycled):
    base = operations(t5(model))
    assert base / 1e9 == pytest.approx(gflop, abs=0.006)
    for streams, added in ((2, two), (4, four)):
        found = 100 * (operations(t5(model, altup=streams)) / base - 1)
        assert found == pytest.approx(added, abs=0.06)
    # Printed with all operations, counted as (2 K^2 + 3 K + 1) d = 15 d; matrix products are 8 d of them.
    found = 100 * (operations(t5(model, altup=2, altup_form="recycled")) / base - 1)
    assert found * 15 / 8 == pytest.approx(recycled, abs=0.006)


def test_the_added_operations_are_the_three_formulas():
    tree, base = t5("T5-Base", altup=2), t5("T5-Base")
    blocks = 12 * (512 + 114) * altup.predict_flops(768, 2)
    memory = 12 * 512 * altup.wider_memory_flops(768, 768, 2)
    logits = 114 * 2 * 768 * 32128
    assert operations(tree) - operations(base) == blocks + memory + logits


@pytest.mark.parametrize(("model", "encoder"), [("T5-Small", 1.63), ("T5-Base", 2.78), ("T5-Large", 3.34), ("T5-XL", 3.28)])
def test_the_operations_that_a_strided_encoder_saves(model, encoder):
    plain, strided = t5(model), t5(model, sequence_stride=4)
    run = plain.run_of("encoder", plain.run(114, 512))
    assert plain.encoder.flops(run) / strided.encoder.flops(run) == pytest.approx(encoder, abs=0.006)
    assert strided.parameters - plain.parameters == 3 * (plain.encoder.depth - 2)


def test_a_stack_takes_the_streams_of_its_blocks():
    block = t5("T5-Small").encoder.repeats[0].block
    wide, same = (Stack.of([kind(block, 3)] * 2) for kind in (AltUp, RecycledAltUp))
    assert (wide.streams, wide.width, wide.outer_width) == (3, 512, 1536)
    assert (same.streams, same.width, same.outer_width) == (3, 512, 512)
    assert wide.parameters == same.parameters
    with pytest.raises(InputError, match="different numbers of streams"):
        Stack.of([AltUp(block, 2), AltUp(block, 3)])


def test_parts_that_do_not_fit_get_one_sentence():
    block = t5("T5-Small").encoder.repeats[0].block
    for made, sentence in (
        (lambda: AltUp(block, 1), "AltUp: k=1 is not a whole number from 2"),
        (lambda: RecycledAltUp(block, 2, "first"), "RecycledAltUp: select='first' is not one of alternating, same"),
        (lambda: AltUp(AltUp(block, 2), 2), "AltUp: its layer already keeps 2 streams"),
        (lambda: SequenceAltUp(AltUp(block, 2), 4), "SequenceAltUp: its layer keeps 2 streams; it works on one"),
        (lambda: SequenceAltUp(block, 0), "SequenceAltUp: stride=0 is not a whole number from 2"),
        (lambda: AltUp(block.feed_forward.branch, 2), "AltUp: FeedForward is not a BlockLike"),
    ):
        with pytest.raises(InputError, match=sentence):
            made()


def test_moments_along_the_sequence_are_refused_under_a_causal_mask():
    plain = Transformer(depth=2, width=32, heads=2, vocab=50, context=16)
    strided = plain.replace(decoder=Stack.of([SequenceAltUp(plain.first_block, 4)] * 2, norm=plain.decoder.norm))
    with pytest.raises(InputError, match="SequenceAltUp are known without a causal mask, for exchangeable tokens"):
        propagate(strided, recipe(strided, "xavier"))


def test_a_key_value_cache_is_that_of_the_layer():
    """Streams are not cached; a strided block caches its bases."""
    shape = {"depth": 2, "width": 64, "heads": 4, "vocab": 50, "context": 64}
    plain, wide = Transformer(**shape), Transformer(**shape, altup=4)
    assert wide.cache_values(wide.run(64)) == plain.cache_values(plain.run(64)) > 0
    block: Block = plain.first_block
    assert SequenceAltUp(block, 4).cache_values(plain.run(64)) == block.cache_values(plain.run(16))
