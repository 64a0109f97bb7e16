"""Alternating updates as torch modules: the paper's steps, the dense model at the start, and moments against simulations."""

from dataclasses import replace

import pytest

from depthwidth import InputError, Transformer, propagate, recipe
from depthwidth.formulas import altup
from depthwidth.initialization import schemes
from depthwidth.layers import AltUp, BlockLike, SequenceAltUp, component

torch = pytest.importorskip("torch")

from drawn_models import drawn_models  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from verify import build  # noqa: E402
from verify.models.base import Pass, builds, module  # noqa: E402

VOCAB, TOKENS = 50, 16
DENSE = {"heads": 4, "vocab": VOCAB, "context": TOKENS, "positions": "none", "kind": "encoder", "norm": "rmsnorm"}
FORMS = {"full": {"altup": 2}, "same": {"altup": 2, "altup_select": "same"}, "recycled": {"altup": 2, "altup_form": "recycled"}}


@component
class Affine(BlockLike):
    """``a x + b``, or the square of x."""

    a: float
    b: float
    power: int = 1
    width: int = 1


@builds(Affine)
class AffineModule(torch.nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.affine = layer

    def forward(self, x, run):
        return self.affine.a * x**self.affine.power + self.affine.b


def with_values(layer, **values):
    made = module(layer).to_empty(device="cpu").double()
    for name, value in values.items():
        getattr(made, name).data = torch.tensor(value, dtype=torch.float64)
    return made


@pytest.mark.parametrize(
    ("blocks", "select", "expected"),
    [((0,), "alternating", [7.0, 6.75]), ((1,), "alternating", [13.9, 10.2]), ((0, 1), "alternating", [21.425, 14.025]),
     ((0, 1), "same", [22.0, 14.3125])],
)  # fmt: skip
def test_the_worked_steps(blocks, select, expected):
    made = with_values(AltUp(Affine(3.0, 1.0), 2, select), predict=[[0.9, 0.1], [0.2, 0.8]], correct=[1.0, 0.5])
    x = torch.tensor([2.0, 5.0], dtype=torch.float64).view(1, 2, 1, 1)
    for block in blocks:
        x = made(x, Pass(block=block))
    assert x.flatten().tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("layer", "stride", "values", "expected"),
    [(Affine(2.0, 1.0), 4, (0.5, 0.5, 1.0), [3, 3.5, 4, 4.5, 11, 11.5]),
     (Affine(1.0, 0.0, 2), 2, (1.0, 0.0, 0.25), [1, 2, 4.5, 5.5, 10, 11])],
)  # fmt: skip
def test_the_worked_sequences(layer, stride, values, expected):
    own, base, correct = ([value] for value in values)
    made = with_values(SequenceAltUp(layer, stride), own=own, base=base, correct=correct)
    y = made(torch.arange(1.0, 7.0, dtype=torch.float64).view(1, 6, 1), Pass())
    assert y.flatten().tolist() == pytest.approx(expected, rel=1e-12)


def test_the_recycled_form_starts_as_the_dense_model():
    """Equal copies, P = I, g = 1 and a sum that an RMSNorm divides out: not a bit of the logits differs, but for rounding."""
    sizes = {"depth": 3, "width": 64, "norm_eps": 1e-12, **DENSE, "kind": "decoder"}
    dense, wide = Transformer(**sizes), Transformer(**sizes, altup=2, altup_form="recycled")
    one, two = build(dense, "normal", seed=3), build(wide, "normal", seed=4)
    own = {name.replace(".layer.", "."): weight for name, weight in two.named_parameters()}
    for name, weight in one.named_parameters():
        own[name].data = weight.data
    given = tokens()
    assert torch.allclose(one(given), two(given), atol=1e-5)
    two.decoder.block[0].correct.data[1] = 0.5
    assert (one(given) - two(given)).abs().max() > 1e-2


@pytest.mark.parametrize("streams", [2, 4])
def test_operations_are_those_of_a_counter(streams):
    forms = {"dense": {}, "full": {"altup": streams}, "recycled": {"altup": streams, "altup_form": "recycled"}}
    made = {name: Transformer(depth=2, width=64, **DENSE, **more) for name, more in forms.items()}
    counted = {name: counted_flops(tree) for name, tree in made.items()}
    for name, tree in made.items():
        assert counted[name] == tree.flops(tree.run(TOKENS, batch=3))
    per_token = 2 * altup.predict_flops(64, streams)
    assert counted["recycled"] - counted["dense"] == 3 * TOKENS * per_token
    assert counted["full"] - counted["recycled"] == 3 * TOKENS * 2 * (streams - 1) * 64 * VOCAB


def counted_flops(tree):
    model = build(tree, "normal", seed=0).eval()
    given = tokens(3)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.nn.attention.sdpa_kernel(
        torch.nn.attention.SDPBackend.MATH
    ):  # fmt: skip
        model(given)
    return counter.get_total_flops()


def test_a_strided_encoder_counts_its_bases():
    sizes = {"depth": 4, "encoder_depth": 4, "width": 64, **DENSE, "kind": "encoder-decoder", "context": 15}
    plain, strided = (Transformer(**sizes, sequence_stride=stride) for stride in (None, 4))
    run = plain.run(15, 15)
    block = plain.encoder.repeats[0].block
    saved = 2 * (block.flops(run) - block.flops(replace(run, tokens=4)))
    assert plain.flops(run) - strided.flops(run) == saved
    assert strided.parameters == plain.parameters + 2 * 3


def tokens(batch=4, seed=0):
    return torch.randint(VOCAB, (batch, TOKENS), generator=torch.Generator().manual_seed(seed))


# ---- moments ----


def simulated(tree, found, draws):
    """Means over draws and their errors: moments after each block, at the top, and of the gradient at the stem's output."""
    rows = torch.tensor([one_draw(model, tree.stack_name, seed) for seed, model in drawn_models(tree, found, draws)])
    return rows.double().mean(0), rows.double().std(0) / draws**0.5


def one_draw(model, name, seed):
    start, stack, kept = model.stem(tokens(seed=seed)), model.get_submodule(name), []
    hooks = [block.register_forward_hook(lambda module, given, out: kept.append(out)) for block in stack.block]
    top = stack(start)
    for hook in hooks:
        hook.remove()
    noise = torch.randn(top.shape, generator=torch.Generator().manual_seed(seed))
    *inner, gradient = torch.autograd.grad(top, [*kept, start], noise)
    return [moments(features(part.double())) for part in (*kept, top, *inner, gradient)]


def features(x):
    return x if x.dim() == 3 else x.transpose(1, 2).flatten(2)


def moments(x):
    second = x.square().sum(1)
    pair = (x.sum(1).square() - second) / (x.shape[1] * (x.shape[1] - 1))
    return [second.mean().item() / x.shape[1], pair.mean().item()]


def predicted(tree, found):
    frame = propagate(tree, found, gradient=(1.0, 0.0), token_match=1 / VOCAB)
    rows = {(row.site, row.direction): [row.second_moment, row.covariance] for row in frame.itertuples()}
    name, blocks = tree.stack_name, range(tree.depth)
    sites = [*((f"{name}.block.{i}", "forward") for i in blocks), (name, "forward"),
             *((f"{name}.block.{i}", "gradient") for i in blocks), (f"{name}.input", "gradient")]  # fmt: skip
    return torch.tensor([rows[site] for site in sites], dtype=torch.float64)


def excess(measured, error, expected, bound=0.02):
    return (expected - measured).abs() / (bound * measured[:, :1] + 2.5 * error)


def scaled(tree, **factors):
    """A recipe whose P and g have these factors on them."""
    found = recipe(tree, "xavier")
    lines = tuple(
        line._replace(multiplier=factors[name]) if (name := line.role.rpartition(".")[2]) in factors else line
        for line in found.tensors
    )
    return replace(found, tensors=lines)


CASES = {
    **{form: (more, {}) for form, more in FORMS.items()},
    "full, four streams": ({"altup": 4}, {}),
    "other values": ({"altup": 2}, {"predict": 0.9, "correct": 0.6}),
    "recycled, other values": ({"altup": 3, "altup_form": "recycled"}, {"predict": 1.05, "correct": 0.7}),
    "causal": ({"altup": 2, "kind": "decoder"}, {}),
    "parallel": ({"altup": 2, "parallel": True}, {}),
    "sequence": ({"sequence_stride": 4}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_moments_are_within_two_per_cent_of_a_simulation(case):
    more, factors = CASES[case]
    tree = Transformer(depth=5, width=128, **{**DENSE, **more})
    found = scaled(tree, **factors) if factors else recipe(tree, "xavier")
    measured, error = simulated(tree, found, draws=24)
    expected = predicted(tree, found)
    assert (excess(measured, error, expected) < 1).all(), excess(measured, error, expected)
    off = expected + torch.tensor([0.0, 0.12]) * expected[:, :1]
    assert (excess(measured, error, off)[: tree.depth + 1, 1] > 1).all()  # forward correlations that are wrong are noticed


@pytest.mark.slow
def test_forty_eight_blocks_are_within_five_per_cent_of_a_simulation():
    """End to end: forward at every eighth block, and the gradient at the first block's input."""
    tree = Transformer(depth=48, width=192, **DENSE, altup=2)
    found = recipe(tree, "xavier")
    measured, error = simulated(tree, found, draws=6)
    expected = predicted(tree, found)
    rows = [*range(7, 49, 8), 48, 97]
    assert (excess(measured, error, expected, 0.05)[rows] < 1).all()
    assert (excess(measured, error, 1.2 * expected, 0.05)[rows[:-2], 0] > 1).all()


# ---- together with sparse experts, cross-attention, positions ----

PARTIAL = {"experts": 8, "top_k": 1, "ffn": 16, "shared_ffn": 96}


def test_sparse_experts_inside_add_what_they_add_to_a_dense_model():
    """The paper's partial experts: a shared feed-forward part, and many small ones beside it."""
    trees = [Transformer(depth=2, width=64, **DENSE, **more) for more in ({}, {"altup": 2}, PARTIAL, {**PARTIAL, "altup": 2})]
    plain, wide, mixed, both = (tree.parameters for tree in trees)
    assert both - mixed == wide - plain
    model = build(trees[3], "xavier", seed=0)
    assert sum(p.numel() for p in model.parameters()) == both
    assert counted_flops(trees[3]) == trees[3].flops(trees[3].run(TOKENS, batch=3))
    outputs = propagate(trees[3], "xavier").query("direction == 'forward'")
    assert (outputs.second_moment > 0).all()


@pytest.mark.slow
def test_cross_attention_reads_all_streams_of_the_encoder():
    tree = Transformer(depth=2, encoder_depth=2, width=64, altup=3, **{**DENSE, "kind": "encoder-decoder"})
    assert tree.decoder.repeats[0].block.layer.cross_attention.branch.memory_width == 3 * 64
    model = build(tree, "xavier", seed=0)
    assert model(tokens(), source=tokens(seed=1)).shape == (4, TOKENS, VOCAB)
    frame = propagate(tree, "xavier")
    assert {"encoder.block.1", "decoder.block.1"} <= set(frame.site)


@pytest.mark.parametrize("positions", ["rotary", "learned", "alibi", "relative"])
@pytest.mark.parametrize("more", [{"altup": 2}, {"sequence_stride": 4, "depth": 3}])
def test_every_kind_of_position_goes_with_it(positions, more):
    tree = Transformer(**{"depth": 2, "width": 64, **DENSE, "positions": positions, **more})
    assert torch.isfinite(build(tree, "xavier", seed=0)(tokens())).all()


def test_a_strided_encoder_computes_on_its_bases_alone():
    """The content of a token that is no base reaches only that token through a strided block."""
    block = Transformer(**{"depth": 3, "width": 64, **DENSE, "sequence_stride": 4}).encoder.repeats[1].block
    made = module(block).to_empty(device="cpu")
    for weight in made.parameters():
        weight.data = torch.ones_like(weight) if weight.dim() == 1 else torch.randn_like(weight) / 8
    x = torch.randn(1, TOKENS, 64)
    changed = x.clone()
    changed[:, 5] += 1
    moved = (made(changed, Pass()) - made(x, Pass())).abs().amax(-1)[0]
    assert moved[5] > 0.5
    assert moved[torch.arange(TOKENS) != 5].max() == 0
    changed = x.clone()
    changed[:, 4] += torch.randn(64)
    assert ((made(changed, Pass()) - made(x, Pass())).abs().amax(-1)[0] > 0).all()


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"altup": 0}, "altup=0 is not a whole number from 2"),
        ({"altup": 2, "altup_form": "half"}, "altup_form='half' is not one of"),
        ({"altup": 2, "altup_select": "random"}, "altup_select='random' is not one of alternating, same"),
        ({"sequence_stride": 17}, "sequence_stride=17 is larger than the context of 16 tokens"),
        ({"sequence_stride": 1}, "sequence_stride=1 is not a whole number from 2"),
        ({"sequence_stride": 4, "kind": "decoder"}, "sequence_stride applies to the blocks of an encoder, not of a decoder"),
        ({"sequence_stride": 4, "altup": 2}, "altup and sequence_stride are not combined"),
    ],
)
def test_settings_that_make_no_sense_get_one_sentence(more, sentence):
    with pytest.raises(InputError, match=sentence) as refused:
        Transformer(**{"depth": 3, "width": 64, **DENSE, **more})
    assert "\n" not in str(refused.value)


def test_moments_that_are_not_known_are_refused():
    with pytest.raises(InputError, match="around blocks with norms after the sum are not known"):
        propagate(Transformer(depth=2, width=64, altup=2, placement="post", **DENSE), "xavier")
    tree = Transformer(depth=2, width=64, altup=2, **DENSE)
    found = recipe(tree, "xavier")
    drawn = tuple(line._replace(std=0.1) if line.role.endswith("predict") else line for line in found.tensors)
    with pytest.raises(InputError, match="known for fixed values, not for drawn ones"):
        propagate(tree, replace(found, tensors=drawn))


@pytest.mark.parametrize("scheme", schemes())
def test_every_scheme_starts_with_unmixed_streams(scheme):
    found = recipe(Transformer(depth=2, width=64, altup=2, **DENSE), scheme)
    predict, correct = (found.tensor(f"encoder.block.{name}") for name in ("predict", "correct"))
    assert (predict.mean, predict.std, correct.mean, correct.std) == ("identity", 0.0, 1.0, 0.0)
    strided = recipe(Transformer(depth=3, width=64, sequence_stride=4, **DENSE), scheme)
    means = [strided.tensor(f"encoder.block.{name}").mean for name in ("own", "base", "correct")]
    assert means == [1.0, 0.0, 1.0]
    assert all(line.reason for made in (found, strided) for line in made.tensors)


def test_traffic_is_that_of_the_operators():
    """Values that the operators of prediction, innovation and correction read and write, for 64 tokens of 3 streams."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Traffic(TorchDispatchMode):
        values = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if function.__name__.split(".")[0] in ("bmm", "sub", "addcmul"):
                self.values += sum(one.numel() for one in (*args, out) if isinstance(one, torch.Tensor))
            return out

    streams, width = 3, 64
    made = with_values(AltUp(Affine(1.0, 0.0, 1, width), streams), predict=torch.eye(streams).tolist(), correct=[1.0] * streams)
    with Traffic() as traffic, torch.no_grad():
        made(torch.randn(4, streams, TOKENS, width, dtype=torch.float64), Pass())
    weights = 4 * streams**2 + streams  # P for each sequence, and g
    assert traffic.values - weights == 4 * TOKENS * altup.unfused_traffic(width, streams)


def test_a_design_is_read_back_from_its_tree():
    from depthwidth.architecture.hf.writing import design_of

    sizes = {"depth": 4, "width": 64, "heads": 4, "vocab": VOCAB, "context": TOKENS}
    for more in (*FORMS.values(), {"altup": 4, "kind": "encoder-decoder"}, {"sequence_stride": 4, "kind": "encoder"},
                 {"sequence_stride": 4, "kind": "encoder-decoder"}):  # fmt: skip
        tree = Transformer(**sizes, **more)
        assert Transformer.of_design(design_of(tree)) == tree
        with pytest.raises(InputError, match="cannot express"):
            tree.to_config("llama")
