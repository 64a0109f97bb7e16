"""Decoders without their encoders: what cross-attention has, and what it leaves as it is."""

import pytest
from helpers import one_quick_in

from depthwidth import Transformer, layers, propagate, recipe
from depthwidth.architecture.hf import notes_on, read_config
from depthwidth.errors import InputError
from depthwidth.initialization import schemes

torch = pytest.importorskip("torch")

from verify import build  # noqa: E402

SMALL = {"model_type": "marian", "architectures": ["MarianForCausalLM"], "d_model": 24, "decoder_layers": 2, "vocab_size": 37,
         "decoder_attention_heads": 4, "decoder_ffn_dim": 20, "encoder_attention_heads": 4,
         "max_position_embeddings": 16}  # fmt: skip
TREE = read_config(SMALL)


def without_cross(tree):
    """The same decoder of plain blocks."""
    runs = [run.replace(block=layers.Block(run.block.attention, run.block.feed_forward)) for run in tree.decoder.repeats]
    return tree.replace(decoder=tree.decoder.replace(repeats=tuple(runs)))


PLAIN = without_cross(TREE)
FAMILY = {"shipped": {"family": "marian"}}


def test_weights_are_all_that_cross_attention_has():
    cross = 4 * (24 * 24 + 24) + 2 * 24
    assert TREE.parameters - PLAIN.parameters == 2 * cross
    assert TREE.active_parameters == PLAIN.active_parameters
    for reading in ("forward_flops", "kv_cache_bytes", "activation_bytes"):
        assert getattr(TREE, reading)() == getattr(PLAIN, reading)()
    block = TREE.decoder.repeats[0].block
    assert [name for name, _ in block.branches] == ["attention", "feed_forward"]
    assert not block.reads_memory


@one_quick_in(4, "scheme", sorted(schemes()))
def test_moments_are_those_of_plain_blocks(scheme):
    found = [propagate(tree, recipe(tree, scheme, **FAMILY.get(scheme, {}))) for tree in (TREE, PLAIN)]
    assert len(found[0])
    assert found[0].equals(found[1])


def test_the_module_passes_over_it():
    model, tokens = build(TREE, "xavier", seed=0).eval(), torch.arange(16)[None]
    expected = model(tokens)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "cross_attention" in name:
                parameter.add_(1.0)
        assert torch.equal(model(tokens), expected)
        model.get_parameter("decoder.block.0.feed_forward.down.bias").add_(torch.randn(24))
        assert not torch.allclose(model(tokens), expected)


def test_a_note_says_that_it_is_counted():
    (note,) = notes_on(SMALL)
    assert (
        note
        == "MarianForCausalLM is a decoder alone: the weights of its cross-attention are counted, and it has nothing to read"
    )
    assert not notes_on({**SMALL, "architectures": ["MarianMTModel"]})
    assert notes_on(ROBERTA) == [note.replace("Marian", "Roberta")]
    assert not notes_on({**ROBERTA, "add_cross_attention": False})


ROBERTA = {"model_type": "roberta", "architectures": ["RobertaForCausalLM"], "is_decoder": True, "add_cross_attention": True}


def test_an_encoder_as_a_decoder():
    """RoBERTa with a causal mask, and with the weights of cross-attention."""
    encoder, decoder, lone = (
        read_config({**ROBERTA, "is_decoder": decodes, "add_cross_attention": crosses})
        for decodes, crosses in ((False, False), (True, False), (True, True))
    )
    assert (encoder.kind, decoder.kind, lone.kind) == ("encoder", "decoder", "decoder")
    assert encoder.parameters == decoder.parameters == lone.active_parameters
    assert lone.parameters - decoder.parameters == 12 * (4 * (768 * 768 + 768) + 2 * 768)


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"kind": "encoder"}, "needs kind='decoder' and branches in sequence"),
        ({"kind": "encoder-decoder"}, "needs kind='decoder' and branches in sequence"),
        ({"parallel": True}, "needs kind='decoder' and branches in sequence"),
        ({"altup": 2}, "lone_decoder and altup are not combined"),
        ({"laurel": 2}, "lone_decoder and laurel are not combined"),
    ],
)
def test_choices_that_do_not_fit_are_refused(choices, sentence):
    with pytest.raises(InputError, match=sentence):
        Transformer(2, 24, 4, vocab=37, context=16, lone_decoder=True, **choices)


def test_blocks_that_do_not_fit_are_refused():
    block = TREE.decoder.repeats[0].block
    with pytest.raises(InputError, match="no unused cross-attention"):
        block.replace(cross_attention=None)
    with pytest.raises(InputError, match="its branches are in sequence"):
        block.replace(parallel=True)
