"""A user's components do all that the library's own do: count, start, propagate, build, train, save, load, describe."""

import math
from dataclasses import replace

import pytest
from helpers import one_quick_in

from depthwidth import Transformer, describe, propagate, recipe
from depthwidth.errors import InputError
from depthwidth.initialization import schemes
from depthwidth.layers import (
    ACTIVATIONS,
    POSITION_ENTRIES,
    Block,
    FeedForward,
    LayerNorm,
    Repeat,
    Residual,
    Stack,
    register_activation,
    register_position,
)

torch = pytest.importorskip("torch")

import third_party  # noqa: E402
from drawn_models import drawn_models  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from verify import build  # noqa: E402

WIDTH, TOKENS, VOCAB = 64, 16, 200


@pytest.fixture(autouse=True)
def registries():
    """The registries as they were, after each test."""
    before, positions = dict(ACTIVATIONS), dict(POSITION_ENTRIES)
    register_activation(third_party.sharp)
    register_position(third_party.parity)
    yield
    for registry, entries in ((ACTIVATIONS, before), (POSITION_ENTRIES, positions)):
        registry.clear()
        registry.update(entries)


def gated_mean(width=WIDTH, depth=2, **choices):
    """An encoder whose blocks have a gated mean in place of attention."""
    plain = Transformer(depth, width, 4, kind="encoder", vocab=VOCAB, context=TOKENS, positions="none", **choices)
    norm = LayerNorm(width)
    block = Block(Residual(third_party.GatedMean(width, 2 * width), norm), Residual(FeedForward(width, 4 * width), norm))
    return plain.replace(encoder=Stack((Repeat(block, depth),), norm))


def plain_tree(width, depth, kind, **choices):
    """A transformer of the library's components alone."""
    return Transformer(depth, width, 4, kind=kind, vocab=VOCAB, context=TOKENS, **choices)


def alternating(width=WIDTH, depth=2, kind="encoder", **choices):
    """A transformer that keeps two copies of the stream and works on them in turn."""
    plain = plain_tree(width, depth, kind, **choices)
    block = plain.first_block
    repeats = tuple(Repeat(third_party.Alternating(block, active=i % 2), 1) for i in range(depth))
    return plain.replace(**{kind: replace(plain.stack, repeats=repeats)})


def scale_norm(width=WIDTH, depth=2, kind="encoder", **choices):
    """A transformer with one gain per norm."""
    plain = plain_tree(width, depth, kind, **choices)
    norm = third_party.ScaleNorm(width)
    block = plain.first_block.replace_branches(lambda part: replace(part, norm_in=norm))
    return plain.replace(**{kind: Stack((Repeat(block, depth),), norm)})


def sharp(width=WIDTH, depth=2, kind="encoder", **choices):
    """A transformer with an activation of the user's."""
    return plain_tree(width, depth, kind, activation="sharp", **choices)


def parity(width=WIDTH, depth=2, kind="encoder", **choices):
    """A transformer with positions of the user's."""
    return plain_tree(width, depth, kind, positions="parity", **choices)


TREES = [gated_mean, alternating, scale_norm, sharp, parity]


def tokens(batch=2, seed=0):
    return torch.randint(VOCAB, (batch, TOKENS), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("made", TREES)
def test_parameters_and_operations_are_those_of_the_torch_module(made):
    tree = made()
    model = build(tree, seed=0)
    assert sum(p.numel() for p in model.parameters()) == tree.parameters
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(tokens())
    assert counter.get_total_flops() == tree.forward_flops(batch=2)
    assert sum(row["parameters"] for row in tree.breakdown()) == tree.parameters


REFUSED = {
    ("gated_mean", "deepscale"): "deepscale: the scheme is for attention and feed-forward parts, but attention is a GatedMean"
}


@one_quick_in(3, "scheme", [name for name in schemes() if name != "thirds"])
@pytest.mark.parametrize("made", TREES)
def test_every_scheme_starts_it_or_refuses_it_in_one_sentence(made, scheme):
    tree = made()
    sentence = REFUSED.get((made.__name__, scheme))
    if sentence is not None:
        with pytest.raises(InputError, match=sentence) as refused:
            recipe(tree, scheme)
        assert "\n" not in str(refused.value)
        return
    found = recipe(tree, scheme)
    model = build(tree, found, seed=0)
    named = dict(model.named_parameters())
    rows = found.rows(tree)
    assert {row["parameter"] for row in rows} == {name for name in named if not name.endswith(".alpha")}
    for row in rows:
        weight = named[row["parameter"]]
        assert list(weight.shape) == row["shape"]
        if row["mean"] == "identity":
            assert torch.equal(weight, torch.eye(len(weight)))
        elif row["std"] == 0:
            assert bool((weight == row["mean"]).all())
        elif weight.numel() > 1000:
            assert weight.std().item() == pytest.approx(row["std"], rel=0.15)
    assert torch.isfinite(model(tokens())).all()


def test_a_components_own_start_is_every_schemes():
    for scheme in schemes():
        found = recipe(alternating(), scheme)
        predict, correct = (found.tensor(f"encoder.block.{name}") for name in ("predict", "correct"))
        assert (predict.mean, predict.std, correct.mean, correct.std) == ("identity", 0.0, 1.0, 0.0)


def test_a_scheme_of_the_users_own():
    from depthwidth.initialization import register_scheme
    from depthwidth.initialization.registry import _SCHEMES

    register_scheme(third_party.thirds)
    try:
        found = recipe(gated_mean(), "thirds", share=0.5)
        assert found.tensor("encoder.block.attention.read.weight").std == pytest.approx(0.5 / math.sqrt(WIDTH))
        assert "thirds" in schemes()
    finally:
        del _SCHEMES["thirds"]


def test_a_scheme_of_the_users_own_trains_the_scales_of_branches():
    from depthwidth.initialization import register_scheme
    from depthwidth.initialization.registry import _SCHEMES

    tree = gated_mean()
    register_scheme(third_party.thirds)
    register_scheme(third_party.gentle)
    try:
        model, plain = build(tree, "gentle", seed=0), recipe(tree, "thirds")
    finally:
        del _SCHEMES["thirds"], _SCHEMES["gentle"]

    def trained():
        return {name: one for name, one in model.named_parameters() if name.endswith(".alpha")}

    branches = [f"encoder.block.{i}.{branch}.alpha" for i in range(2) for branch in ("attention", "feed_forward")]
    assert {name: one.item() for name, one in trained().items()} == dict.fromkeys(branches, 0.25)
    model(tokens(), tokens())[1].backward()
    assert all(one.grad.abs() > 0 for one in trained().values())
    model.apply_multipliers(plain)
    assert not trained()


def simulated(tree, scheme, draws, batch=4):
    """Means over draws of the weights, and their standard errors, of :func:`one_draw`."""
    found = recipe(tree, scheme)
    rows = [one_draw(model, tree.stack_name, seed, batch) for seed, model in drawn_models(tree, found, draws)]
    table = torch.tensor(rows, dtype=torch.float64)
    return table.mean(0), table.std(0) / draws**0.5


def one_draw(model, stack_name, seed, batch):
    """Second moment and covariance after each block, and those of the gradient at the first block's input."""
    start, stack = model.stem(tokens(batch, seed)), model.get_submodule(stack_name)
    kept = []
    for block in stack.block:
        block.register_forward_hook(lambda module, given, out: kept.append(out))
    top = stack(start)
    noise = torch.randn(top.shape, generator=torch.Generator().manual_seed(seed))
    (gradient,) = torch.autograd.grad(top, start, noise)
    streams = [out if out.dim() == 3 else out.mean(1) for out in kept]  # of several copies, their mean
    return [moments(part.double()) for part in (*streams, gradient)]


def moments(x):
    """Second moment per feature, and covariance of two different tokens of a sequence: x is (batch, tokens, features)."""
    second = x.square().sum(1)
    pair = (x.sum(1).square() - second) / (TOKENS * (TOKENS - 1))
    return [second.mean().item() / TOKENS, pair.mean().item()]


def predicted(tree, scheme):
    """The same moments from :func:`propagate`."""
    frame = propagate(tree, scheme, gradient=(1.0, 0.0), token_match=1 / VOCAB)
    rows = {(row.site, row.direction): [row.second_moment, row.covariance] for row in frame.itertuples()}
    name = tree.stack_name
    return torch.tensor([*(rows[f"{name}.block.{i}", "forward"] for i in range(tree.depth)), rows[f"{name}.input", "gradient"]])


def excess(measured, error, expected):
    """The distance of prediction and simulation in units of the bound: 2 % of the second moment plus two standard errors."""
    return (expected - measured).abs() / (0.02 * measured[:, :1] + 2 * error)


CAUSAL = [alternating, scale_norm]
"""Trees whose components mix tokens by attention alone, which may be causal; an activation knows no mask."""


@pytest.mark.slow
@pytest.mark.parametrize(("made", "kind"), [*((made, "encoder") for made in TREES), *((made, "decoder") for made in CAUSAL)])
def test_moments_are_within_two_per_cent_of_a_simulation(made, kind):
    tree = made(width=256, depth=3) if kind == "encoder" else made(width=256, depth=3, kind=kind)
    measured, error = simulated(tree, "xavier", draws=100)
    assert (error < torch.tensor([[0.01]] * 3 + [[0.016]]) * measured[:, :1]).all()
    expected = predicted(tree, "xavier")
    assert (excess(measured, error, expected) < 1).all()
    off = expected + torch.tensor([0.0, 0.05]) * expected[:, :1]
    assert (excess(measured, error, off)[:, 1] > 1).all()  # a correlation that is wrong by 0.05 is noticed


def test_moments_that_a_component_does_not_know_are_refused_in_one_sentence():
    tree = alternating()
    found = recipe(tree, "normal")
    lines = tuple(line._replace(std=0.1) if line.role.endswith("predict") else line for line in found.tensors)
    with pytest.raises(InputError, match="the moments of Alternating are not known"):
        propagate(tree, replace(found, tensors=lines))


@pytest.mark.parametrize("made", TREES)
def test_it_trains_saves_and_loads(made, tmp_path):
    tree = made()
    model = build(tree, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        _, loss = model(tokens(), tokens())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.5
    torch.save(model.state_dict(), tmp_path / "model.pt")
    again = build(tree, seed=1)
    again.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert torch.equal(again(tokens()), model(tokens()))


@pytest.mark.parametrize("made", TREES)
def test_it_is_described(made):
    tree = made()
    found = describe(tree, diagnosed=True)
    data = found.to_dict()
    names = {row["component"] for row in data["components"]}
    assert data["parameters"] == tree.parameters
    expected = {"gated_mean": "Linear", "alternating": "Alternating", "scale_norm": "ScaleNorm", "sharp": "Linear"}
    assert expected.get(made.__name__, "Parity") in names
    assert data["undiagnosed"] == ""
    assert data["diagnosis"]


def test_what_a_tree_does_not_have_is_said_in_one_sentence():
    tree = gated_mean()
    with pytest.raises(InputError, match="no block has softmax attention; the first Block holds GatedMean, FeedForward"):
        tree.heads  # noqa: B018
    with pytest.raises(InputError, match="a configuration needs softmax attention, or a mixer, in every block"):
        tree.to_config("bert")
    with pytest.raises(InputError, match="bert cannot express"):
        scale_norm().to_config("bert")


def test_what_cannot_stand_in_its_place_is_refused():
    with pytest.raises(InputError, match="Residual: LayerNorm is not a Branch"):
        Residual(LayerNorm(8))
    with pytest.raises(InputError, match="Repeat: LayerNorm is not a BlockLike"):
        Repeat(LayerNorm(8), 2)
