"""A user's components do all that the library's own do: count, start, propagate, build, train, save, load, describe."""

import math
from dataclasses import replace

import pytest
from helpers import one_quick_in

from depthwidth import Transformer, describe, propagate, recipe
from depthwidth.errors import InputError
from depthwidth.initialization import schemes
from depthwidth.layers import ACTIVATIONS, Block, FeedForward, LayerNorm, Repeat, Residual, Stack, register_activation

torch = pytest.importorskip("torch")

import third_party  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from verify import build  # noqa: E402

WIDTH, TOKENS, VOCAB = 64, 16, 200


@pytest.fixture(autouse=True)
def activations():
    """The registry as it was, after each test."""
    before = dict(ACTIVATIONS)
    register_activation(third_party.sharp)
    yield
    ACTIVATIONS.clear()
    ACTIVATIONS.update(before)


def gated_mean(width=WIDTH, depth=2, **choices):
    """An encoder whose blocks have a gated mean in place of attention."""
    plain = Transformer(depth, width, 4, kind="encoder", vocab=VOCAB, context=TOKENS, positions="none", **choices)
    norm = LayerNorm(width)
    block = Block(Residual(third_party.GatedMean(width, 2 * width), norm), Residual(FeedForward(width, 4 * width), norm))
    return plain.replace(encoder=Stack((Repeat(block, depth),), norm))


def alternating(width=WIDTH, depth=2, **choices):
    """An encoder that keeps two copies of the stream and works on them in turn."""
    plain = Transformer(depth, width, 4, kind="encoder", vocab=VOCAB, context=TOKENS, **choices)
    block = plain.encoder.repeats[0].block
    repeats = tuple(Repeat(third_party.Alternating(block, active=i % 2), 1) for i in range(depth))
    return plain.replace(encoder=replace(plain.encoder, repeats=repeats))


def scale_norm(width=WIDTH, depth=2, **choices):
    """An encoder with one gain a norm."""
    plain = Transformer(depth, width, 4, kind="encoder", vocab=VOCAB, context=TOKENS, **choices)
    norm = third_party.ScaleNorm(width)
    block = plain.encoder.repeats[0].block.replace_branches(lambda part: replace(part, norm_in=norm))
    return plain.replace(encoder=Stack((Repeat(block, depth),), norm))


def sharp(width=WIDTH, depth=2, **choices):
    """An encoder with an activation of the user's."""
    return Transformer(depth, width, 4, kind="encoder", vocab=VOCAB, context=TOKENS, activation="sharp", **choices)


TREES = [gated_mean, alternating, scale_norm, sharp]


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


REFUSED = {("gated_mean", "deepscale"): "deepscale: it follows attention and feed-forward parts along the depth"}


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
    """Second moment after each block, and of the gradient at the first block's input, averaged over draws of the weights."""
    found = recipe(tree, scheme)
    rows = [one_draw(build(tree, found, seed=seed), seed, batch) for seed in range(draws)]
    return torch.tensor(rows, dtype=torch.float64).mean(0).tolist()


def one_draw(model, seed, batch):
    start = model.stem(tokens(batch, seed))
    kept = []
    for block in model.encoder.block:
        block.register_forward_hook(lambda module, given, out: kept.append(out))
    top = model.encoder(start)
    noise = torch.randn(top.shape, generator=torch.Generator().manual_seed(seed))
    (gradient,) = torch.autograd.grad(top, start, noise)
    streams = [out if out.dim() == 3 else out.mean(1) for out in kept]  # of several copies, their mean
    return [part.double().square().mean().item() for part in (*streams, gradient)]


@pytest.mark.slow
@pytest.mark.parametrize("made", TREES)
def test_moments_are_within_two_per_cent_of_a_simulation(made):
    tree = made(width=256, depth=3)
    # The standard error of the simulated means is below 0.7 %.
    measured = simulated(tree, "xavier", draws=40)
    frame = propagate(tree, "xavier", gradient=(1.0, 0.0), token_match=1 / VOCAB)
    rows = {(row.site, row.direction): row.second_moment for row in frame.itertuples()}
    predicted = [rows[f"encoder.block.{i}", "forward"] for i in range(3)] + [rows["encoder.input", "gradient"]]
    assert measured == pytest.approx(predicted, rel=0.02)


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
    assert expected[made.__name__] in names
    assert data["undiagnosed"] == ""
    assert data["diagnosis"]


def test_what_a_tree_does_not_have_is_said_in_one_sentence():
    tree = gated_mean()
    with pytest.raises(InputError, match="the first block has no softmax attention; its Block holds GatedMean, FeedForward"):
        tree.heads  # noqa: B018
    with pytest.raises(InputError, match="a configuration needs softmax attention in every block"):
        tree.to_config("bert")
    with pytest.raises(InputError, match="bert cannot express"):
        scale_norm().to_config("bert")


def test_what_cannot_stand_in_its_place_is_refused():
    with pytest.raises(InputError, match="Residual: LayerNorm is not a Branch"):
        Residual(LayerNorm(8))
    with pytest.raises(InputError, match="Repeat: LayerNorm is not a BlockLike"):
        Repeat(LayerNorm(8), 2)
