"""Models without norms, which three schemes ask for: counts, moments, diagnosis and modules."""

import json

import pytest

from depthwidth import Transformer, diagnose, propagate
from depthwidth.architecture.hf import FAMILIES, read_config
from depthwidth.errors import InputError
from depthwidth.initialization import recipe, weights

KINDS = {
    "decoder": {},
    "encoder": {"kind": "encoder"},
    "parallel": {"parallel": True},
    "encoder-decoder": {"kind": "encoder-decoder", "positions": "sinusoidal"},
    "gated": {"norm": "rmsnorm", "gated": True, "positions": "rotary", "tied": False},
    "mixture": {"experts": 4, "top_k": 2, "kind": "encoder"},
}
SCHEMES = ("rezero", "skipinit", "t-fixup")
SHAPE = {"depth": 3, "width": 32, "heads": 4, "vocab": 50, "context": 12}


@pytest.mark.parametrize("kind", KINDS)
def test_no_norm_is_left(kind):
    normed = Transformer(**SHAPE, **KINDS[kind])
    tree = Transformer(**SHAPE, **KINDS[kind], placement="none")
    assert tree == normed.without_norms() == tree.without_norms() != normed
    assert not [weight.role for weight in weights(tree) if weight.kind == "gain"]
    gains = sum(weight.tensor.shape[0] * len(weight.blocks) for weight in weights(normed) if ".norm" in f".{weight.role}")
    assert normed.parameters - tree.parameters == gains > 0


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "scheme"), list(zip(KINDS, 2 * SCHEMES, strict=True)))
def test_schemes_for_models_without_norms_are_content(kind, scheme):
    tree = Transformer(**SHAPE, **KINDS[kind], placement="none")
    made = recipe(tree, scheme)
    assert not [note for note in made.notes if "without norms" in note]
    normed = recipe(Transformer(**SHAPE, **KINDS[kind]), scheme)
    assert [note for note in normed.notes if "remove them" in note]
    found = propagate(tree, made)
    assert found.second_moment.notna().all()
    assert (found.second_moment >= 0).all()
    assert list(diagnose(tree, made, remedies=()))


@pytest.mark.slow
def test_a_model_without_norms_is_built_and_trains():
    torch = pytest.importorskip("torch")
    from verify import build

    model = build(Transformer(**SHAPE, placement="none"), "t-fixup", seed=0)
    assert not [part for part in model.modules() if "Norm" in type(part).__name__]
    tokens = torch.arange(12)[None]
    _, loss = model(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    assert all(one.grad is not None for one in model.parameters())


@pytest.mark.parametrize("family", ["gptj", "gemma2", "bert", "olmo2", "gpt_neox"])
def test_norms_of_a_family_can_be_left_out(family):
    """Shared norms of parallel branches, two norms a branch, norms after the sum."""
    tree = read_config({"model_type": family, FAMILIES[family].names["depth"]: 2}).without_norms()
    assert not [weight.role for weight in weights(tree) if weight.stack and ".norm" in weight.role]
    assert tree.stack.norm is None


def test_a_shared_norm_is_no_placement_without_norms():
    with pytest.raises(InputError, match="shared_norm=True is a norm"):
        Transformer(**SHAPE, parallel=True, shared_norm=True, placement="none")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["describe", "moments", "init"])
def test_commands_without_norms(command, invoke, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 50}))
    page = invoke(command, path, "--scheme", "rezero", "--no-norms")
    assert page.status == 0, page.error
    assert "norm_in" not in page.output
    assert "for models without norms" not in page.output
    assert "norm" in invoke(command, path, "--scheme", "rezero", *(["--json"] if command == "moments" else [])).output
