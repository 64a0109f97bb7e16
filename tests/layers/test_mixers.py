"""Mixers: counts of each component by hand, widths, what a block holds, and what is refused."""

import json
import math

import numpy as np
import pytest

from depthwidth import Transformer, describe, propagate, recipe
from depthwidth.errors import InputError
from depthwidth.initialization import NoRecipeError
from depthwidth.initialization.tensors import branch_counts
from depthwidth.layers import (
    Block,
    ChannelMix,
    Convolution,
    FeedForward,
    GatedDeltaNet,
    Mamba,
    Mamba2,
    Residual,
    RMSNorm,
    Run,
    ShortConvolution,
    TimeMix,
)
from depthwidth.signal.positions import Positions

SIZE = {"depth": 3, "vocab": 50, "context": 16, "norm": "rmsnorm", "bias": False, "positions": "none"}
MIXERS = {
    "short convolution": ShortConvolution(32, 3),
    "mamba": Mamba(32, 64, 4, 2),
    "mamba with norms": Mamba(32, 64, 4, 2, norm=RMSNorm(1)),
    "mamba 2": Mamba2(32, 8, 8, 16, groups=2),
    "mamba 2 without a norm": Mamba2(32, 8, 8, 16, normed=False, bias=True, out_bias=True),
    "delta net": GatedDeltaNet(32, 2, 4, 8, 4),
    "time mix": TimeMix(32, 48),
}
PARAMETERS = {
    "short convolution": 4 * 32 * 32 + 32 * 3,
    "mamba": 2 * 32 * 64 + 64 * 5 + 64 * (2 + 8) + 2 * 64 + 64 + 64 * 4 + 64 + 64 * 32,
    "mamba with norms": 2 * 32 * 64 + 64 * 5 + 64 * (2 + 8) + 2 * 64 + 64 + 64 * 4 + 64 + 64 * 32 + 2 + 4 + 4,
    "mamba 2": 32 * (64 + 64 + 64 + 8) + (64 + 64) * 5 + 3 * 8 + 64 + 64 * 32,
    "mamba 2 without a norm": 33 * (64 + 64 + 32 + 8) + (64 + 32) * 5 + 3 * 8 + 65 * 32,
    "delta net": 32 * (16 + 16 + 16 + 16 + 4 + 4) + 48 * 4 + 8 + 4 + 16 * 32,
    "time mix": 4 * 32 * 48 + 2 * 48 + 3 * 32,
}
CACHE = {
    "short convolution": 32 * 3,
    "mamba": 64 * 4 + 64 * 4,
    "mamba with norms": 64 * 4 + 64 * 4,
    "mamba 2": 64 * 16 + 128 * 4,
    "mamba 2 without a norm": 64 * 16 + 96 * 4,
    "delta net": 4 * 8 * 4 + 48 * 4,
    "time mix": 32 + 3 * 48,
}


@pytest.mark.parametrize("name", MIXERS)
def test_counts_by_hand(name):
    """Weights, and a state that does not grow with the sequence."""
    mixer = MIXERS[name]
    assert mixer.parameters == PARAMETERS[name]
    assert mixer.cache_values(Run(7, batch=2)) == mixer.cache_values(Run(700, batch=2)) == 2 * CACHE[name]
    assert mixer.flops(Run(14)) == 2 * mixer.flops(Run(7))
    assert mixer.flops(Run(7)) >= 2 * 7 * sum(
        c.layer.parameters for c in mixer.children() if c.name in ("read", "write", "out")
    )
    fused, whole = (mixer.saved_bytes(Run(7, fused=fused)) for fused in (True, False))
    assert 0 < fused <= whole


@pytest.mark.parametrize("name", MIXERS)
def test_mixers_of_another_width(name):
    """Twice the width has twice the proportional sizes, so that matrices to and from the stream are four times as large."""
    mixer = MIXERS[name]
    assert mixer.at_width(mixer.width) == mixer
    wide = mixer.at_width(2 * mixer.width)
    assert wide.width == 64
    assert [getattr(wide, one) for one in mixer.proportional] == [2 * getattr(mixer, one) for one in mixer.proportional]
    assert mixer.at_width(1).width == 1
    assert mixer.width % mixer.width_step == 0


@pytest.mark.parametrize("name", MIXERS)
def test_a_tree_of_mixers_alone(name):
    """A block with one branch: counts and description, without heads."""
    mixer = MIXERS[name]
    tree = Transformer(width=32, mixer=mixer, ffn=0, **SIZE)
    assert [list(dict(block.branches)) for block in tree.stack.blocks()] == [["mixer"]] * 3
    assert tree.non_embedding_parameters == 3 * (mixer.parameters + 32) + 32
    assert branch_counts(tree) == {"decoder": 3}
    found = describe(tree, diagnosed=False).to_dict()
    assert (found["heads"], found["ffn"]) == (None, None)
    with pytest.raises(InputError, match="no block has softmax attention; the first Block holds"):
        tree.heads  # noqa: B018


def test_only_mixers_with_starting_values_of_their_own_have_no_recipe():
    tree = Transformer(width=32, mixer=MIXERS["mamba"], ffn=0, **SIZE)
    with pytest.raises(
        NoRecipeError, match=r"xavier: no rule of this scheme states the initialisation of Mamba, whose .*\.log_decay starts at"
    ):
        recipe(tree, "xavier")
    assert "no rule of this scheme states" in describe(tree).undiagnosed
    plain = Transformer(width=32, mixer=MIXERS["short convolution"], ffn=0, **SIZE)
    assert recipe(plain, "xavier").tensor("decoder.block.mixer.convolution.weight").std == pytest.approx((2 / 6) ** 0.5)


@pytest.mark.slow
def test_blocks_with_a_single_branch_are_followed():
    """Attention and feed-forward in blocks of their own, in turn: the stream of blocks that hold both."""
    both = Transformer(depth=2, width=32, heads=4, vocab=50, context=16)
    apart = Transformer(
        depth=4, width=32, heads=4, vocab=50, context=16, blocks=({"ffn": 0}, {"mixer": "none"}, {"ffn": 0}, {"mixer": "none"})
    )
    assert apart.parameters == both.parameters
    assert branch_counts(apart) == branch_counts(both) == {"decoder": 4}
    for scheme in ("xavier", "gpt2", "admin", "deepscale", "rezero"):  # DeepNorm and u-muP count blocks
        streams = []
        for tree, last in ((both, 1), (apart, 3)):
            frame = propagate(tree, scheme).query(f"site in ('decoder.block.{last}', 'decoder.input')")
            streams.append(frame[["second_moment", "covariance"]].to_numpy().ravel())
        assert len(streams[0]) == 8
        assert streams[1] == pytest.approx(streams[0], rel=1e-12), scheme
    for scheme in ("deepnorm", "unit-scaling", "t-fixup", "completep"):
        assert propagate(apart, scheme).second_moment.notna().all()


def test_a_block_needs_a_branch_of_the_stream_s_width():
    with pytest.raises(InputError, match="Block: it has no branch"):
        Block()
    with pytest.raises(InputError, match="the Mamba has width=32, and the model width=64"):
        Transformer(width=64, mixer=MIXERS["mamba"], **SIZE)
    with pytest.raises(InputError, match="mixer='mamba' is not one of attention, none"):
        Transformer(width=64, mixer="mamba", **SIZE)
    alone = Block(feed_forward=Residual(FeedForward(8, 16)))
    assert (alone.width, alone.as_attention, alone.causal) == (8, None, False)


def test_sizes_that_do_not_fit():
    with pytest.raises(InputError, match="groups=3 does not divide heads=8"):
        Mamba2(32, 8, 8, 16, groups=3)
    with pytest.raises(InputError, match="key_heads=3 does not divide value_heads=4"):
        GatedDeltaNet(32, 3, 4, 8, 4)
    with pytest.raises(InputError, match="kernel=0"):
        Convolution(8, 0)


def test_a_feed_forward_part_that_reads_two_tokens():
    part = ChannelMix(32, 64)
    assert part.parameters == 2 * 32 + 2 * 32 * 64 + 32 * 32
    tree = Transformer(width=32, mixer=TimeMix(32, 32), channel_mixer=part, **SIZE)
    assert tree.feed_forward == part
    assert tree.stack.causal
    assert part.at_width(64) == ChannelMix(64, 128)


@pytest.mark.slow
def test_plans_like_a_tree_of_mixers(invoke, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "lfm2", "full_attn_idxs": [1, 3], "num_hidden_layers": 4}))
    result = invoke("plan", "1e9", "--like", path, "--json")
    assert result.status == 0, result.error
    assert abs(json.loads(result.output)["budget_miss"]) < 0.05


CONVOLUTIONAL = {"norm": "rmsnorm", "activation": "relu", "bias": False, "positions": "none", "context": 16, "vocab": 50}


def convolutional(width, **choices):
    tree = Transformer(depth=1, width=width, heads=2, mixer=ShortConvolution(width, 3), **CONVOLUTIONAL | choices)
    return tree, recipe(tree, "xavier")


def test_moments_of_a_short_convolution_by_hand():
    """Tokens of one second moment and of correlation 0.4 at infinite width; the first tokens have fewer taps."""
    tree, made = convolutional(64, final_norm=False, ffn=0)
    frame = propagate(tree, made, variance=1.0, correlation=0.4, finite_width=False).set_index(["site", "direction"])
    role, length, taps, r = "decoder.block.mixer", 16, 3, 0.4
    size = {name: 64 * made.tensor(f"{role}.{name}.weight").std ** 2 for name in ("input_gate", "output_gate", "read", "write")}
    whole = math.prod(size.values()) * made.tensor(f"{role}.convolution.weight").std ** 2
    seen = np.minimum(np.arange(1, length + 1), taps)
    pairs = np.minimum.outer(seen, seen)
    both = (pairs.sum() - seen.sum()) / (length * (length - 1))
    found = frame.loc["decoder.block.0.mixer.write", "forward"]
    assert found.second_moment == pytest.approx(whole * seen.mean(), rel=1e-3)  # between nodes
    # Pairs near the beginning are interpolated between nodes.
    assert found.covariance == pytest.approx(whole * r**3 * both, rel=0.01)
    # Three paths, each with the whole gain, to the tokens that the taps reach.
    into = frame.loc["decoder.block.0.mixer.write", "gradient"].second_moment
    out = frame.loc["decoder.block.0.mixer.norm_in", "gradient"].second_moment
    assert out == pytest.approx(3 * into * whole * seen.mean(), rel=1e-3)


def test_moved_tokens():
    """Every position a node: an exact move. Few: the mean over positions is kept, and nothing stands before the start."""
    second, pairs = np.arange(1.0, 6.0), np.add.outer(np.arange(1.0, 6.0), np.arange(1.0, 6.0))
    every = Positions.every(5)
    q, c = every.moved(second, pairs, 2)
    assert q.tolist() == [0, 0, 1, 2, 3]
    assert c[2:, 2:].tolist() == pairs[:3, :3].tolist()
    assert not c[:2].any()
    q, _ = every.moved(second, pairs, -2)
    assert q.tolist() == [3, 4, 5, 0, 0]
    few = Positions.smooth(64)
    ones = few.uniform(1.0, 0.5)
    for steps in (1, -2):
        q, c = few.moved(*ones, steps)
        left = 64 - abs(steps)
        assert few.mean(q) == pytest.approx(left / 64, rel=1e-3)
        assert few.pair_mean(c) == pytest.approx(0.5 * left * (left - 1) / (64 * 63), rel=2e-3)
    assert few.moved(*ones, 0)[0] is ones[0]


@pytest.mark.slow
def test_a_stack_of_short_convolutions_against_draws(monkeypatch):
    torch = pytest.importorskip("torch")
    from torch.nn import functional

    tree, made = convolutional(64, ffn=0)
    role, length, width, draws, r = "decoder.block.mixer", 16, 64, 3000, 0.4
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(*shape, generator=generator)

    def weight(name, *shape):
        return drawn(draws // 10, *shape) * made.tensor(f"{role}.{name}.weight").std

    def moments(y):
        square = y.square().sum((1, 2))
        pairs = (y.sum(1).square().sum(1) - square) / (length * (length - 1) * width)
        return torch.stack([square / (length * width), pairs])

    parts = []
    for _ in range(10):
        x = math.sqrt(r) * drawn(draws // 10, 1, width) + math.sqrt(1 - r) * drawn(draws // 10, length, width)
        normed = x / (x.square().mean(-1, keepdim=True)).sqrt()
        gate, late, read = (normed @ weight(name, width, width) for name in ("input_gate", "output_gate", "read"))
        taps = weight("convolution", 3, 1, width)
        mixed = sum(taps[:, j] * functional.pad(gate * read, (0, 0, j, 0))[:, :length] for j in range(3))
        parts.append(moments(x + (late * mixed) @ weight("write", width, width)))
    found = torch.cat(parts, 1).double()
    mean, errors = found.mean(1), found.std(1) / math.sqrt(draws)

    def predicted():
        frame = propagate(tree, made, variance=1.0, correlation=r).set_index(["site", "direction"])
        row = frame.loc["decoder.block.0", "forward"]
        return torch.tensor([row.second_moment, row.covariance], dtype=torch.float64)

    assert (abs(predicted() - mean) < 4 * errors + 0.003 * mean).all()
    with monkeypatch.context() as patch:  # taps that reach before the first token
        patch.setattr(Positions, "moved", lambda self, second, pairs, steps: (second, pairs))
        assert predicted()[0] > mean[0] + 4 * errors[0]
