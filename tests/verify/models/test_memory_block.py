"""Blocks that read images: passed over in a text, equal to transformers' with images, and what does not fit."""

import copy
import warnings

import pytest

from depthwidth import Transformer, layers, propagate
from depthwidth.architecture.hf import read_config, write_config
from depthwidth.errors import InputError
from depthwidth.layers import Run

torch = pytest.importorskip("torch")

from verify import build, from_hf  # noqa: E402
from verify.models.base import Pass  # noqa: E402

SMALL = {"model_type": "mllama_text_model", "architectures": ["MllamaForCausalLM"], "hidden_size": 24, "num_hidden_layers": 4,
         "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 10, "vocab_size": 37, "pad_token_id": 0,
         "max_position_embeddings": 16, "cross_attention_layers": [1, 3]}  # fmt: skip
TREE = read_config(SMALL)
TEXT = read_config({**SMALL, "num_hidden_layers": 2, "cross_attention_layers": []})


def test_the_text_stack_of_the_published_model():
    tree = read_config({"model_type": "mllama_text_model"})
    assert tree.parameters == 9775192080
    reading = [index for index, block in enumerate(tree.decoder.blocks()) if block.reads_memory]
    assert reading == [3, 8, 13, 18, 23, 28, 33, 38]
    assert read_config(write_config(tree, "mllama_text_model")) == tree


def test_tokens_of_images_have_rows_and_no_logits():
    assert (TREE.vocab, TREE.stem.vocab, TREE.head.unembedding.vocab) == (37, 45, 37)
    with pytest.raises(InputError, match="spare_tokens are rows without an output"):
        Transformer(2, 24, 4, vocab=37, context=16, spare_tokens=8)


def test_blocks_are_passed_over_in_a_text():
    """The same operations, cache and moments as without them."""
    run = Run(9, batch=2)
    for reading in ("flops", "saved_bytes", "cache_values"):
        assert getattr(TREE.decoder, reading)(run) == getattr(TEXT.decoder, reading)(run)
    model, tokens = build(TREE, "xavier", seed=0), torch.arange(16)[None]
    x = model.stem(tokens)
    assert torch.equal(model.decoder.block[1](x, Pass()), x)
    frame, plain = propagate(TREE, "xavier"), propagate(TEXT, "xavier")
    for direction in ("forward", "gradient"):
        found, expected = (
            one[(one.site == site) & (one.direction == direction)].iloc[0]
            for one, site in ((frame, "decoder.block.3"), (plain, "decoder.block.1"))
        )
        assert found.second_moment == pytest.approx(expected.second_moment, rel=1e-9)


def test_a_block_that_reads_images_has_operations_and_a_cache():
    run, block = Run(9, memory=5, batch=2), TREE.decoder.repeats[1].block
    assert block.reads_memory
    assert block.cache_values(run) == 2 * 5 * 2 * 3 * 4
    assert block.flops(run) > 0 == block.flops(Run(9, batch=2))


def test_a_new_block_adds_nothing():
    model = build(TREE, "xavier", seed=0)
    x, images = torch.randn(2, 9, 24), torch.randn(2, 5, 24)
    block = model.decoder.block[1]
    assert torch.equal(block(x, Pass(images)), x)
    with torch.no_grad():
        block.feed_forward_gate.fill_(0.5)
    assert (block(x, Pass(images)) - x).abs().max() > 0.1


@pytest.mark.slow
@pytest.mark.hf
def test_with_images_the_logits_are_those_of_transformers():
    """Its eager attention: the default one hides images from the first tokens if no mask is given."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
        config = transformers.AutoConfig.for_model(**copy.deepcopy(SMALL))
        config._attn_implementation = "eager"
        theirs = transformers.MllamaForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        ours, tokens, images = from_hf(theirs), torch.randint(2, 45, (2, 9)), torch.randn(2, 5, 24, generator=generator)
        found = ours.head(ours.decoder(ours.stem(tokens), images), ours.stem.table)
        expected = theirs(tokens, cross_attention_states=images, use_cache=False).logits
        assert (found - expected).abs().max() < 1e-5
        assert (ours(tokens) - expected).abs().max() > 1e-2  # without images they differ


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"kind": "encoder", "memory_block": True}, "memory_block needs a decoder alone"),
        ({"memory_block": True, "ffn": 0}, "memory_block needs a feed-forward part"),
        ({"spare_tokens": -1}, "spare_tokens=-1 is not a whole number from 0"),
    ],
)
def test_choices_that_do_not_fit_are_refused(choices, sentence):
    with pytest.raises(InputError, match=sentence):
        Transformer(2, 24, 4, vocab=37, context=16, **choices)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"cross_attention_layers": [0, 1, 2, 3]}, "leaves no block that reads the text"),
        ({"cross_attention_layers": 3}, "cross_attention_layers=3 is not a list of block numbers"),
        ({"cross_attention_layers": [-1]}, "is not a list of block numbers"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings=True is not supported"),
    ],
)
def test_fields_that_make_no_sense_are_refused(fields, sentence):
    with pytest.raises(InputError, match=sentence):
        read_config({**SMALL, **fields})


def test_a_block_without_cross_attention_is_refused():
    block = TEXT.decoder.repeats[0].block
    with pytest.raises(InputError, match="its first branch is not cross-attention"):
        layers.MemoryBlock(block.attention, block.feed_forward)
