"""Measured and predicted moments of norms inside branches, trained activations and activated factors of a gate."""

import math

import numpy as np
import pytest

from depthwidth import Transformer
from depthwidth.analysis.propagation import moments_of
from depthwidth.errors import InputError
from depthwidth.initialization import recipe
from depthwidth.layers import ACTIVATIONS, FeedForward, MixtureOfExperts, TrainedActivation, activations

torch = pytest.importorskip("torch")

from drawn_models import drawn_models  # noqa: E402
from test_simulated_parts import by_site, misses, of_tokens, three  # noqa: E402

from verify import build  # noqa: E402
from verify.models.activations import Activation  # noqa: E402
from verify.models.base import Pass  # noqa: E402

CLAMPED = {"activation": "min(x, 1)*sigmoid(1.7*min(x, 1))", "up_activation": "1 + max(-1, min(x, 1))", "gated": True}
PARTS = {
    "norm of hidden features": ("feed_forward", {"activation": "relu2", "gated": True, "inner_norm": True}),
    "norm of joined heads": ("attention", {"inner_norm": True}),
    "activated factor": ("feed_forward", CLAMPED),
    "xIELU": ("feed_forward", {"activation": "xielu"}),
    "sparse mixer": ("feed_forward", {"experts": 8, "top_k": 2, "mixer_jitter": 0.3}),
    "sinks": ("attention", {"sinks": True, "context": 4}),
    "sinks under a mask": ("attention", {"sinks": True, "context": 6, "kind": "decoder"}),
}
"""The branch, and the choices that its prediction needs to be right."""


def predicted(name, **changed):
    branch, choices = PARTS[name]
    usual = {"kind": "encoder", "context": 32, "positions": "none", "head": "none", "norm_affine": False, "bias": False}
    tree = Transformer(1, 64, 4, vocab=50, ffn=128, **usual | choices | changed)
    made = recipe(tree, "normal", std=0.15)
    return tree, made, by_site(moments_of(tree, made, variance=1.0, correlation=0.3)), f"{tree.stack_name}.block.0.{branch}"


def last_of(name, tree):
    """The part of the branch whose output is added to the stream."""
    return dict(tree.first_block.branches)[PARTS[name][0]].last


def drawn(name, draws=48):
    tree, made, rows, part = predicted(name)
    last = last_of(name, tree)
    correlation = rows[f"{part}.norm_in", "forward"]["correlation"]
    gamma = rows[f"{part}.{last}", "gradient"]["second_moment"]
    found = []
    for seed, model in drawn_models(tree, made, draws):
        branch = model.get_submodule(part)
        generator = torch.Generator().manual_seed(seed)
        shared, own = (torch.randn(1, count, 64, generator=generator) for count in (1, tree.context))
        x = math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own
        x = torch.nn.functional.layer_norm(x, (64,)).requires_grad_()
        y = branch.branch(x, Pass())
        (back,) = torch.autograd.grad(y, x, math.sqrt(gamma) * torch.randn(y.shape, generator=generator))
        found.append((*of_tokens(y[0]), of_tokens(back[0])[0]))
    return np.array(found), three(rows, f"{part}.{last}", f"{part}.norm_in")


WITHOUT = {
    "norm of hidden features": {"inner_norm": False},
    "norm of joined heads": {"inner_norm": False},
    "activated factor": {"up_activation": "identity"},
    "xIELU": {"activation": "silu"},
    "sparse mixer": {"mixer_jitter": None},
    "sinks": {"sinks": False},
    "sinks under a mask": {"sinks": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PARTS)
def test_a_part_as_it_is_run(name):
    """And the prediction without it is told apart."""
    found, right = drawn(name)
    assert misses(right, found) == [0, 0, 0]
    tree, _, rows, part = predicted(name, **WITHOUT[name])
    last = last_of(name, tree)
    assert max(misses(three(rows, f"{part}.{last}", f"{part}.norm_in"), found)) > 0.05  # beyond the criterion and the noise


def test_the_trained_numbers_of_xielu_are_weights():
    tree = Transformer(2, 16, 2, vocab=20, context=8, activation="xielu")
    plain = Transformer(2, 16, 2, vocab=20, context=8, activation="relu2")
    assert tree.parameters == plain.parameters + 2 * 2
    model = build(tree, "shipped", seed=0)
    stored = model.get_parameter("decoder.block.1.feed_forward.activation.alpha_n")
    assert stored.item() == pytest.approx(math.log(math.expm1(0.3)))
    x = torch.linspace(-4, 4, 101)
    part = model.get_submodule("decoder.block.0.feed_forward.activation")
    assert part(x).detach().numpy() == pytest.approx(activations.activation("xielu")(x.double().numpy()), abs=2e-6)
    with torch.no_grad():
        stored.add_(1.0)
    assert not torch.allclose(model.get_submodule("decoder.block.1.feed_forward.activation")(x), part(x))


def test_a_part_without_a_place_for_trained_numbers_refuses_them():
    with pytest.raises(InputError, match="only a dense FeedForward holds"):
        MixtureOfExperts(FeedForward(8, 16, "xielu"), 2, 1)
    with pytest.raises(InputError, match="only a dense FeedForward holds"):
        Transformer(2, 16, 2, vocab=20, context=8, kind="encoder", head="masked-lm", activation="xielu")
    with pytest.raises(InputError, match="up_activation needs gated=True"):
        FeedForward(8, 16, up_activation="tanh")


def test_an_activation_without_trained_numbers_has_no_weights():
    assert list(Activation("relu").parameters()) == []
    assert TrainedActivation("relu").parameters == 0
    assert [name for name, entry in ACTIVATIONS.items() if entry.trained] == ["xielu"]
