"""Residual branches: scales of a recipe, trainable scales."""

import math

import pytest
from helpers import one_quick_in

from depthwidth import Transformer, schemes
from depthwidth.errors import InputError
from depthwidth.initialization import parameters, recipe

torch = pytest.importorskip("torch")

from small_models import SMALL, tokens_of  # noqa: E402

from verify import apply_init, build, parameter_groups  # noqa: E402
from verify.models.base import Pass  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*the last norm reads a stream")


@one_quick_in(3, "scheme", [name for name in schemes() if name not in ("admin",)])
@pytest.mark.parametrize("placement", ["pre", "post"])
def test_expressed_scales_are_the_folded_ones(scheme, placement):
    """Multipliers and residual scales in the modules, or carried by the weights: one function, where weights can say it."""
    tree = Transformer(**{**SMALL, "width": 32}, placement=placement, bias=False, tied=False, norm_eps=1e-12)
    options = {"deepscale": {"embedding_correlation": 0.2}}.get(scheme, {})
    try:
        found = recipe(tree, scheme, **options)
    except InputError:
        pytest.skip("the scheme is not for such a tree")
    ours, tokens = build(tree, found, seed=3).double(), tokens_of(tree)
    folded = build(tree, device="meta").to_empty(device="cpu").double()
    report = apply_init(folded, found, seed=3, fold=True)
    if [need for need in report.needs_code if need not in found.notes] or scheme in ("rezero", "skipinit"):
        pytest.skip("weights alone cannot say it")
    # equal seeds draw the same numbers in equal precision only, so the weights are taken over, and their factors put back
    factors = {line["tensor"]: line["factor"] for line in report.folded}
    with torch.no_grad():
        for name, parameter in folded.named_parameters():
            parameter.copy_(ours.get_parameter(name) * factors.get(name, 1.0))
    torch.testing.assert_close(folded(tokens), ours(tokens), rtol=1e-7, atol=1e-9)
    if factors:
        ours.apply_multipliers(None)
        assert not torch.allclose(folded(tokens), ours(tokens), rtol=1e-3)


def test_a_scale_stands_where_the_recipe_says():
    tree = Transformer(**SMALL, placement="pre")
    found = recipe(tree, "deepscale", embedding_correlation=0.2)
    model = build(tree, found, seed=0)
    line = found.residual("decoder.block.attention")
    part = model.decoder.block[1].attention
    x = torch.randn(1, 4, 24)
    run = Pass()
    expected = line.skip * x + line.branch * part.branch(part.norm_in(x), run)
    torch.testing.assert_close(part(x, Pass()), expected)


def test_rezero_trains_a_scalar_for_each_branch():
    tree = Transformer(**SMALL)
    found = recipe(tree, "rezero")
    model, tokens = build(tree, found, seed=0), tokens_of(tree)
    scalars = {name: p for name, p in model.named_parameters() if name.endswith(".alpha")}
    assert len(scalars) == 2 * tree.depth
    groups = parameter_groups(model, found, lr=0.1, weight_decay=0.1)
    assert all(not group["weight_decay"] for group in groups for name in group["names"] if name in scalars)
    torch.optim.SGD(groups, lr=0.1).zero_grad()
    model(tokens, tokens)[1].backward()
    assert all(p.grad is not None for p in scalars.values())
    apply_init(model, recipe(tree, "xavier"), seed=0)
    assert not any(name.endswith(".alpha") for name, _ in model.named_parameters())


def test_groups_of_expressed_scales_have_the_recipes_own_rates():
    tree = Transformer(**SMALL)
    found = recipe(tree, "unit-scaling")
    model = build(tree, found, seed=0)
    rates = {name: group["lr"] for group in parameter_groups(model, found, lr=1.0) for name in group["names"]}
    for name, role, block, _ in parameters(tree):
        rate = found.tensor(role).learning_rate
        assert math.isclose(rates[name], rate[block] if isinstance(rate, tuple) else rate, rel_tol=1e-8)
