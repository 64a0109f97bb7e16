"""The registry of modules, and components from outside the package in the places of ours."""

import math

import pytest
from helpers import one_quick_in

from depthwidth import Transformer, layers, recipe, schemes
from depthwidth.errors import InputError
from depthwidth.layers.base import component
from depthwidth.layers.tensor import IDENTITY, Tensor

torch = pytest.importorskip("torch")

from small_models import SMALL, counted_flops, tokens_of  # noqa: E402

from verify import apply_init, build, parameter_groups  # noqa: E402
from verify.models.base import Branch, builds, module, optional, scale_by  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*the last norm reads a stream")


@component
class TokenAverage(layers.Branch):
    """The mean of each token and its predecessors, through one matrix and a mixing matrix of the features."""

    width: int
    causal = True

    def tensors(self):
        return {"mixing": Tensor((self.width, self.width), "mixing", self.width, self.width, start=IDENTITY)}

    @property
    def write(self):
        return layers.Linear(self.width, self.width)

    def children(self):
        return (layers.Child("write", self.write, kind="write"),)

    def own_flops(self, run):
        return 2 * run.positions * self.width**2


@builds(TokenAverage)
class TokenAverageModule(Branch):
    def __init__(self, layer):
        super().__init__()
        self.mixing = torch.nn.Parameter(torch.empty(layer.width, layer.width))
        self.multipliers = {"mixing": 1.0}
        self.write = module(layer.write)

    def branch(self, x, run):
        count = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        return self.write(scale_by((x.cumsum(1) / count) @ self.mixing.T, self.multipliers["mixing"]))


@component
class Copies(layers.BlockLike):
    """A block that acts on the first of several copies of the stream, and mixes them afterwards."""

    block: layers.Block
    streams: int = 3

    @property
    def width(self):
        return self.block.width

    def tensors(self):
        return {"mixing": Tensor((self.streams, self.streams), "mixing", self.streams, self.streams, start=IDENTITY)}

    def children(self):
        return (layers.Child("inner", self.block),)

    def own_flops(self, run):
        return 2 * run.positions * self.streams**2 * self.width


@builds(Copies)
class CopiesModule(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.mixing = torch.nn.Parameter(torch.empty(layer.streams, layer.streams))
        self.multipliers = {"mixing": 1.0}
        self.inner = module(layer.block)

    def forward(self, x, run):
        x = torch.cat((self.inner(x[:, 0], run)[:, None], x[:, 1:]), dim=1)
        return scale_by(torch.einsum("ij,bjlw->bilw", self.mixing, x), self.multipliers["mixing"])


@component
class PowerNorm(layers.Norm):
    """Divide by the mean fourth power's fourth root."""

    def moments(self, x, place):
        raise InputError("not known")


@builds(PowerNorm)
class PowerNormModule(torch.nn.Module):
    multiplier = 1.0

    def __init__(self, layer):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(layer.width))

    def forward(self, x):
        return scale_by(self.weight * x / (x**4).mean(-1, keepdim=True) ** 0.25, self.multiplier)


def normed_everywhere(width=24):
    """A tree with the norm at every place where one can stand."""
    norm = PowerNorm(width)
    attention = layers.Attention(
        width, heads=4, kv_heads=2, head_dim=6, value_dim=6, query_norm=PowerNorm(6, groups=4), key_norm=PowerNorm(6, groups=2)
    )
    parts = [layers.Residual(one, norm, norm, norm) for one in (attention, layers.FeedForward(width, 32))]
    stem = layers.TokenStem(layers.Embedding(31, width), layers.LearnedPositions(12, width), norm=norm)
    head = layers.LanguageHead(layers.Unembedding(width, 31), layers.Linear(width, width), norm)
    return Transformer.of_parts(stem, None, layers.Stack.of([layers.Block(*parts)] * 2, norm), head, context=12)


def with_blocks(change):
    tree = Transformer(**SMALL)
    return tree.replace(decoder=layers.Stack.of([change(block) for block in tree.decoder.blocks()], tree.decoder.norm))


def averaging():
    return with_blocks(lambda block: block.replace(attention=block.attention.replace(branch=TokenAverage(24))))


OUTSIDERS = {"branch": averaging, "block": lambda: with_blocks(Copies), "norm": normed_everywhere}


@pytest.mark.parametrize("name", OUTSIDERS)
def test_components_from_outside_are_counted_built_and_trained(name):
    tree = OUTSIDERS[name]()
    model, tokens = build(tree, "xavier", seed=0), tokens_of(tree)
    assert sum(p.numel() for p in model.parameters()) == tree.parameters
    assert counted_flops(lambda: model(tokens)) == tree.forward_flops(tokens.shape[1], batch=2)
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe(tree, "xavier"), lr=3e-3))
    losses = []
    for _ in range(20):
        loss = model(tokens, tokens.roll(-1, 1))[1]
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    again = build(tree, seed=1)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(tokens), model(tokens))


@pytest.mark.parametrize("name", OUTSIDERS)
@one_quick_in(3, "scheme", schemes())
def test_components_from_outside_start_under_every_scheme_or_are_refused_in_a_sentence(name, scheme):
    tree = OUTSIDERS[name]()
    try:
        found = recipe(tree, scheme)
        model = build(tree, found, seed=0)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017, a refusal is one of two good outcomes
        return
    assert model(tokens_of(tree)).isfinite().all()
    assert all(p.isfinite().all() for p in model.parameters())
    apply_init(model, found, seed=0, fold=True)


@pytest.mark.parametrize("name", ["branch", "block"])
def test_a_matrix_that_starts_as_an_identity_is_one(name):
    model = build(OUTSIDERS[name](), "xavier", seed=0)
    mixing = [p for n, p in model.named_parameters() if n.endswith("mixing")]
    assert len(mixing) == 2
    assert all(torch.equal(p, torch.eye(len(p))) for p in mixing)


def test_copies_of_the_stream_start_and_end_as_one():
    """With identity mixing the first copy is the plain model's stream, and the others stay the stem's output."""
    tree, plain = with_blocks(Copies), Transformer(**SMALL)
    model, other = build(tree, "xavier", seed=0), build(plain, "xavier", seed=0)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            place = name.replace(".block.0.", ".block.0.inner.").replace(".block.1.", ".block.1.inner.")
            parameter.copy_(model.get_parameter(place))
    tokens = tokens_of(tree)
    stem, norm = other.stem(tokens), other.decoder.norm
    other.decoder.norm = None
    expected = norm((other.decoder(stem) + 2 * stem) / 3)
    torch.testing.assert_close(model.features(tokens), expected)


def test_a_residual_scale_reaches_a_branch_inside_a_wrapper():
    tree = with_blocks(Copies)
    found = recipe(tree, "gpt2")
    model = build(tree, found, seed=0)
    model.apply_multipliers(found)
    assert [name for name, part in model.named_modules() if isinstance(part, Branch)] == [
        f"decoder.block.{index}.inner.{branch}" for index in (0, 1) for branch in ("attention", "feed_forward")
    ]
    assert math.isclose(model.get_submodule("decoder.block.0.inner.attention").scale, 1.0)


def test_the_registry():
    @component
    class Nothing(layers.Layer):
        """Does nothing."""

    with pytest.raises(
        InputError, match=r"Nothing has no torch module: decorate one with @verify.models.base.builds\(Nothing\)"
    ):
        module(Nothing())
    assert optional(None) is None
    builds(Nothing)(lambda layer: torch.nn.Identity())
    assert isinstance(module(Nothing()), torch.nn.Identity)

    @component
    class Less(Nothing):
        """Does less."""

    assert isinstance(module(Less()), torch.nn.Identity)  # by inheritance
    builds(Less)(lambda layer: torch.nn.Flatten())
    assert isinstance(module(Less()), torch.nn.Flatten)
    assert isinstance(module(Nothing()), torch.nn.Identity)


def test_a_module_that_is_no_branch_is_refused():
    @component
    class Plain(layers.Branch):
        """A branch with an ordinary module."""

        width: int

    builds(Plain)(lambda layer: torch.nn.Identity())
    with pytest.raises(InputError, match=r"Plain cannot be a branch: its module Identity is no verify.models.base.Branch"):
        module(layers.Residual(Plain(4)))


def test_a_multiplier_without_a_place_is_refused():
    tree = averaging()
    model = build(tree, "xavier", seed=0)
    found = recipe(tree, "xavier")
    lines = tuple(one._replace(multiplier=0.5) if one.role.endswith("mixing") else one for one in found.tensors)
    halved = type(found)(found.scheme, found.source, found.status, lines, found.residuals, found.extras)
    before = model(tokens_of(tree))
    model.apply_multipliers(halved)
    assert not torch.allclose(model(tokens_of(tree)), before)
    part = model.decoder.block[0].attention
    part.multipliers = {}
    with pytest.raises(
        InputError, match=r"multiplies the output of mixing by 0.5, but there is no TokenAverageModule.multipliers"
    ):
        model.apply_multipliers(halved)
