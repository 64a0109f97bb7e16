"""Gemma 3n's AltUp: a worked example, counts, copies that agree at zero weights, and parts that do not fit."""

import copy
import warnings

import pytest

from depthwidth import Transformer, layers
from depthwidth.architecture.hf import read_config
from depthwidth.errors import InputError
from depthwidth.layers import AltUpRouting, LayerInputs, RMSNorm, RoutedAltUp, Run

torch = pytest.importorskip("torch")

from stream_strategies import SMALL_STREAMS  # noqa: E402

from verify import build  # noqa: E402
from verify.models.base import Pass, module  # noqa: E402

SMALL = {"model_type": "gemma3n_text", "hidden_size": 24, "num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": 40,
         "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 16, "sliding_window": 8,
         **SMALL_STREAMS["gemma3n_text"]}  # fmt: skip
DEFAULT = read_config({"model_type": "gemma3n_text"})


def altup(width, streams, block=None, **routing):
    """A block of one feed-forward part, or the one given, in several copies of the stream."""
    inner = layers.Block(feed_forward=layers.Residual(layers.FeedForward(width, 4))) if block is None else block
    return RoutedAltUp(inner, RMSNorm(width), AltUpRouting(streams, **routing))


def worked():
    """The module of the worked example, whose block outputs (5, 1) whatever it reads."""
    made = module(altup(2, 2))
    made.inner.forward = lambda x, run: torch.tensor([5.0, 1.0]).expand_as(x)
    weights = {
        "router": [[1.0, 0.0], [0.0, -1.0]],
        "predict": [[0.1, 0.0], [0.2, 0.0], [0.0, 0.3], [0.4, 0.5]],
        "correct": [[0.5, 0.0], [-0.5, 1.0]],
    }
    with torch.no_grad():
        made.router_norm.weight.fill_(1.0)
        for name, values in weights.items():
            getattr(made, name).weight.copy_(torch.tensor(values))
    return made, torch.tensor([[3.0, 4.0], [1.0, -2.0]])[None, :, None]


def test_the_worked_example():
    """Of the library's module, run for two copies of two features."""
    made, x = worked()
    with torch.no_grad():
        modes, predicted, y = made.modes(x[:, 0]), made.predicted(x), made(x, Pass())
        after = made.modes(torch.tensor([5.0, 1.0]))
    assert modes.flatten().tolist() == pytest.approx([0.400517, -0.512184], abs=1e-6)
    assert predicted.flatten().tolist() == pytest.approx([3.200258, 4.0, 0.443150, -2.422850], abs=1e-6)
    assert after.flatten().tolist() == pytest.approx([0.600146, -0.137793], abs=1e-6)
    assert y.flatten().tolist() == pytest.approx([5.540054, 0.099781, 1.454846, -4.109252], abs=1e-6)


def test_another_active_copy_or_coefficients_in_another_order_are_seen():
    made, x = worked()
    right = [5.540054, 0.099781, 1.454846, -4.109252]
    with torch.no_grad():
        made.active = 1
        assert made(x, Pass()).flatten().tolist() != pytest.approx(right, abs=0.1)
        made.active = 0
        made.predict.weight.copy_(made.predict.weight[[0, 2, 1, 3]])
        assert made(x, Pass()).flatten().tolist() != pytest.approx(right, abs=0.01)


def test_with_weights_of_zero_every_copy_receives_what_the_block_adds():
    made, x = worked()
    with torch.no_grad():
        made.predict.weight.zero_()
        made.correct.weight.zero_()
        assert torch.equal(made(x, Pass()), x + torch.tensor([2.0, -3.0]))


def test_weights_are_clipped_in_training_alone():
    made, x = worked()
    made.clip = 0.25
    with torch.no_grad():
        one, two = made.eval()(x, Pass()), made.train()(x, Pass())
        for part in (made.predict, made.correct):
            part.weight.clamp_(-0.25, 0.25)
        assert torch.equal(made.eval()(x, Pass()), two)
    assert (one - two).abs().max() > 0.1


@pytest.mark.parametrize(("width", "streams", "count"), [(2048, 4, 12368), (64, 2, 268), (64, 4, 464)])
def test_weights_beside_the_block(width, streams, count):
    """Those of the router and its norm, of both maps, and the factors of the gate."""
    layer = altup(width, streams)
    assert layer.parameters - layer.block.parameters + width == count == streams**3 + streams**2 + width * streams + 2 * width


def test_counts_of_the_default_model():
    block = DEFAULT.decoder.repeats[0].block
    own = block.parameters - block.block.parameters - block.gate.parameters + block.width
    assert (own, 35 * own) == (12368, 432880)
    assert DEFAULT.decoder.copies.parameters == 25165824
    run = Run(1)
    update = block.flops(run) - block.block.flops(run) - block.gate.flops(run)
    assert update == 82048 + 16416  # prediction, and the matrix products of the correction
    assert DEFAULT.stem.layer_tokens.parameters == 262144 * 35 * 256


def test_blocks_that_borrow_keys_keep_no_cache():
    """Of 35 blocks 20 keep keys and values: four all of them, the others those in the window."""
    each = 2 * 2 * 256 * 2
    assert DEFAULT.kv_cache_bytes(5000) == (4 * 5000 + 16 * 512) * each
    alone = read_config({"model_type": "gemma3n_text", "num_kv_shared_layers": 0})
    assert alone.kv_cache_bytes(5000) == (7 * 5000 + 28 * 512) * each
    kept = alone.decoder.parameters - DEFAULT.decoder.parameters
    assert kept == 15 * (2 * 2048 * 512 + 256)


@pytest.mark.slow
@pytest.mark.hf
def test_the_cache_is_as_large_as_transformers_keeps():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
        config = transformers.AutoConfig.for_model(**copy.deepcopy(SMALL), pad_token_id=0)
        theirs = transformers.Gemma3nForCausalLM(config).eval()
    with torch.no_grad():
        cache = theirs(torch.randint(1, 40, (2, 6))).past_key_values
    kept = sum(part.numel() for layer in cache.layers for part in (layer.keys, layer.values) if part is not None)
    assert kept == read_config(SMALL).cache_values(Run(6, batch=2))


def test_a_model_with_every_part_trains():
    tree = read_config({**SMALL, "activation_sparsity_pattern": [0.5] * 6, "altup_active_idx": 1})
    model, tokens = build(tree, "xavier", seed=0).train(), torch.randint(0, 40, (2, 9))
    _, loss = model(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    idle = [name for name, one in model.named_parameters() if one.grad is None]
    assert idle == []


CHOICES = {"depth": 2, "width": 24, "heads": 4, "vocab": 31, "context": 12}


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        (
            {"layer_inputs": LayerInputs(31, 4)},
            "layer_inputs needs routed_altup, which makes the copies of the stream that they are added to",
        ),
        ({"altup": 2, "routed_altup": AltUpRouting()}, "altup and routed_altup are two forms of one method"),
        ({"laurel": 3, "parallel": True}, "laurel needs attention and a feed-forward part in sequence"),
        ({"laurel": 3, "ffn": 0}, "laurel needs attention and a feed-forward part in every block"),
        ({"laurel": 0}, "Laurel: rank=0 is not a whole number from 1"),
        ({"sparsity": 1.0}, r"SparseFeedForward: sparsity=1.0 is not in \(0, 1\)"),
        ({"borrowed_keys": True}, "no earlier block has keys and values for attention that borrows them, with no window"),
        ({"window": (4, None), "blocks": ({}, {"borrowed_keys": True})}, "that borrows them, with no window"),
    ],
)
def test_parts_that_do_not_fit_are_refused(choices, sentence):
    with pytest.raises(InputError, match=sentence):
        Transformer(**CHOICES, **choices)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: AltUpRouting(1), "streams=1 is not a whole number from 2"),
        (lambda: AltUpRouting(10**9), "streams=1000000000 is not a whole number from 2 to 1,024"),
        (lambda: AltUpRouting(3, active=3), "active=3 is not a whole number from 0 to 2"),
        (lambda: AltUpRouting(clip=0.0), "clip=0.0 is not a positive number"),
        (lambda: altup(4, 2, block=altup(4, 2)), "the block inside keeps 2 copies of the stream, not one"),
        (lambda: altup(4, 2).replace(router_norm=RMSNorm(5)), "its parts differ in width from its block, width=4"),
        (lambda: LayerInputs(0, 4), "vocab=0 is not a whole number"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()
