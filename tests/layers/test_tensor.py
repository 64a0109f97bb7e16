"""A component says the shape, job, fans and start of each weight."""

import math

import pytest

from depthwidth import Transformer
from depthwidth.errors import InputError
from depthwidth.initialization import weights
from depthwidth.layers import (
    ACTIVATIONS,
    KINDS,
    ActivationEntry,
    Constant,
    Draw,
    FeedForward,
    LayerNorm,
    Linear,
    RMSNorm,
    Tensor,
    register_activation,
)

TREES = {
    "gpt2": Transformer(2, 64, 4, vocab=100, context=16),
    "bert": Transformer(2, 64, 4, vocab=100, context=16, kind="encoder", placement="post", segments=2, head="masked-lm"),
    "vit": Transformer(2, 64, 4, patch=8, image=32, kind="encoder", head="classifier", classes=10, pooler=True),
    "t5": Transformer(2, 64, 4, vocab=100, kind="encoder-decoder", positions="relative", norm="rmsnorm", bias=False),
    "moe": Transformer(2, 64, 4, vocab=100, experts=4, shared_ffn=32, shared_gate=True, gated=True, tied=False),
    "opt": Transformer(2, 64, 4, vocab=100, embedding_width=32),
}


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_every_weight_of_ours_has_a_job_of_its_own(tree):
    found = list(weights(tree))
    assert sum(len(w.blocks) * math.prod(w.shape) for w in found) == tree.parameters
    for weight in found:
        assert not weight.job.generic, f"{weight.role} has no job"
        assert isinstance(weight.start, Draw) == (weight.job.group != "vector")


def test_what_writes_into_the_stream_is_the_last_matrix_of_a_branch():
    writing = {w.role for tree in TREES.values() for w in weights(tree) if w.job.writes}
    assert {role.rpartition(".")[0].rpartition(".")[2] for role in writing} == {"out", "down"}


@pytest.mark.parametrize(("norm", "value"), [(LayerNorm(8), 1.0), (RMSNorm(8), 1.0), (RMSNorm(8, unit_offset=True), 0.0)])
def test_a_gain_starts_at_one_however_it_is_stored(norm, value):
    gain = norm.tensors()["weight"]
    assert gain.start == Constant(value)
    assert gain.start.value + gain.offset == 1


def test_fans_of_a_linear_map():
    weight = Linear(3, 5).tensors()["weight"]
    assert (weight.shape, weight.fan_in, weight.fan_out) == ((5, 3), 3, 5)


def test_an_unknown_kind_is_refused_with_the_nearest_one():
    with pytest.raises(InputError, match=r"there is no kind of tensor 'quer' \(did you mean 'query'\?\)"):
        Tensor((3,), "quer")
    assert all(kind.job and kind.name == name for name, kind in KINDS.items())


def test_an_activation_may_be_an_expression():
    assert FeedForward(8, 16, "x*sigmoid(3*x)").parameters == FeedForward(8, 16).parameters
    with pytest.raises(InputError, match="sigmod"):
        FeedForward(8, 16, "x*sigmod(3*x)")


def test_the_name_of_an_activation_is_given_once():
    with pytest.raises(InputError, match="the name silu already belongs to"):
        register_activation(ActivationEntry("silu", "x"))
    with pytest.raises(InputError, match="is not a name"):
        register_activation(ActivationEntry("two words", "x"))
    assert register_activation(ACTIVATIONS["silu"]) is ACTIVATIONS["silu"]
