"""Any tree as a torch module: counts, names, seeds, precision, loss, errors."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from strategies import PUBLISHED, designs

from depthwidth import Transformer
from depthwidth.architecture.hf import read_config
from depthwidth.errors import InputError
from depthwidth.initialization import parameters, recipe

torch = pytest.importorskip("torch")

from small_models import SMALL, counted_flops, some_inputs, tokens_of  # noqa: E402

import verify  # noqa: E402
from verify import apply_init, build  # noqa: E402

SOME = settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))

# Counts.


@pytest.mark.slow
@SOME
@given(choices=designs(deepest=4))
def test_every_design_has_its_trees_parameters_and_uses_them(choices):
    tree = Transformer(**choices)
    model = build(tree, seed=0).eval()
    assert sum(p.numel() for p in model.parameters()) == tree.parameters
    shapes = {name: math.prod(shape) for name, _, _, shape in parameters(tree)}
    assert {name: p.numel() for name, p in model.named_parameters()} == shapes
    size = 0.1 if choices["placement"] == "none" else 0.5  # squares of squares in a stack without norms overflow
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, size, size)
    given = some_inputs(tree)
    out = model(**given)
    assert out.isfinite().all()
    out.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.slow
@settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(choices=designs(deepest=3))
def test_operations_of_every_design_are_those_torch_counts(choices):
    tree = Transformer(**{**choices, "window": None})  # the count leaves out what a window hides, our module does not
    model, given = build(tree, seed=0).eval(), some_inputs(tree)
    source = given["source"].shape[1] if "source" in given else None
    tokens = given["tokens"].shape[1] if tree.vocab else None
    assert counted_flops(lambda: model(**given)) == tree.forward_flops(tokens, source=source, batch=2)


FIRST = {config["model_type"]: name for name, (config, _) in reversed(PUBLISHED.items())}
"""A published model of each family; the others differ in sizes, by which tests of counts draw all kinds of designs."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FIRST.values()))
def test_published_models_have_their_parameters(name):
    config, _ = PUBLISHED[name]
    tree = read_config(config)
    model = build(tree, device="meta")
    assert sum(p.numel() for p in model.parameters()) == tree.parameters


def test_the_count_can_fail():
    model = build(Transformer(**SMALL), device="meta")
    model.head.unembedding.bias = torch.nn.Parameter(torch.empty(31, device="meta"))
    assert sum(p.numel() for p in model.parameters()) != model.tree.parameters


# Names, seeds, precision.


def test_parameters_are_called_by_their_place():
    model = build(Transformer(**SMALL, bias=True, qk_norm="head"), device="meta")
    names = set(dict(model.named_parameters()))
    assert {"decoder.block.1.attention.query.weight", "decoder.block.0.feed_forward.norm_in.bias", "stem.tokens.weight",
            "decoder.block.1.attention.key_norm.weight", "decoder.norm.weight"} <= names  # fmt: skip
    assert not any("head." in name for name in names)  # tied


def test_equal_seeds_give_equal_weights():
    tree = Transformer(**SMALL)
    one, two, other = (build(tree, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["stem.tokens.weight"], other["stem.tokens.weight"])
    torch.manual_seed(7)
    three = build(tree).state_dict()
    torch.manual_seed(7)
    assert torch.equal(three["stem.tokens.weight"], build(tree).state_dict()["stem.tokens.weight"])


def test_shipped_is_the_default_recipe():
    tree = Transformer(depth=4, width=64, heads=4, vocab=200, context=32)
    model = build(tree, seed=0)
    for name, role, block, _ in parameters(tree):
        line, weight = recipe(tree, "shipped").tensor(role), model.get_parameter(name)
        std = line.std[block] if isinstance(line.std, tuple) else line.std
        measured = (weight - line.mean).square().mean().sqrt().item()
        assert abs(measured - std) <= 5 * std / math.sqrt(2 * weight.numel())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_precisions(dtype):
    for more in ({}, {"positions": "alibi", "norm": "rmsnorm"}, {"positions": "rotary", "score_softcap": 3.0, "window": 4}):
        tree = Transformer(**SMALL, **more)
        model = build(tree, seed=0, dtype=dtype)
        logits, loss = model(tokens_of(tree), tokens_of(tree))
        assert logits.dtype == dtype
        assert loss.isfinite()
        loss.backward()


def test_autocast_keeps_the_function():
    for more in ({"norm": "rmsnorm", "qk_norm": "head", "positions": "rotary", "gated": True, "activation": "silu"},
                 {"positions": "alibi", "experts": 3}, {"positions": "relative", "score_softcap": 2.0}):  # fmt: skip
        tree = Transformer(**SMALL, **more)
        model = build(tree, "xavier", seed=0)
        plain, loss = model(tokens_of(tree), tokens_of(tree))
        with torch.autocast("cpu", torch.bfloat16):
            logits, low = model(tokens_of(tree), tokens_of(tree))
        assert low.dtype == torch.float32
        # bf16 has 8 bits; a dozen roundings in a row, of logits of order 1
        assert (logits - plain).abs().max() < 0.1 * plain.abs().max()
        assert abs(low - loss) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [{}, {"positions": "rotary", "norm": "rmsnorm", "gated": True, "kv_heads": 2}, {"positions": "alibi", "window": 3}],
    ids=["gpt2", "llama", "alibi"],
)
def test_compiles_without_a_break(more):
    """With the eager backend: the graph is whole, and independent of a compiler."""
    tree = Transformer(**SMALL, **more)
    model = build(tree, seed=0)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    tokens = tokens_of(tree)
    one, two = model(tokens, tokens), compiled(tokens, tokens)
    torch.testing.assert_close(two, one)
    apply_init(compiled, recipe(tree, "deepscale", embedding_correlation=0.2), seed=4)
    torch.testing.assert_close(compiled(tokens, tokens), model(tokens, tokens))
    assert not torch.equal(model(tokens), one[0])


def test_loss_is_the_cross_entropy_over_positions_that_count():
    tree = Transformer(**SMALL)
    model, tokens = build(tree, "xavier", seed=0), tokens_of(tree)
    targets = tokens.roll(1, 0).clone()
    targets[0, :4] = -100
    logits, loss = model(tokens, targets)
    chances = logits.log_softmax(-1)
    counted = [-chances[b, t, targets[b, t]] for b in range(2) for t in range(9) if targets[b, t] >= 0]
    torch.testing.assert_close(loss, torch.stack(counted).mean())


def test_dropout_only_while_training():
    rates = {"dropout": 0.3, "attention_dropout": 0.2, "ffn_dropout": 0.1}
    tree = Transformer(**SMALL, **rates)
    model, tokens = build(tree, "xavier", seed=0), tokens_of(tree)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))
    for site in (*rates, "embedding_dropout"):  # each of them at its own place
        alone = build(Transformer(**SMALL, **{"embedding_dropout": 0.0, site: 0.5}), seed=0)
        assert not torch.equal(alone(tokens), alone(tokens)), site


# Bad input.


def test_bad_input_gets_one_sentence():
    from sympy import Symbol

    tree = Transformer(**SMALL)
    model = build(tree, seed=0)
    both = build(Transformer(**SMALL, kind="encoder-decoder"), seed=0)
    tokens = tokens_of(tree)
    with pytest.raises(InputError, match="'gpt2' is not a Transformer"):
        build("gpt2")
    with pytest.raises(InputError, match="seed='a' is not a whole number"):
        build(tree, seed="a")
    with pytest.raises(InputError, match="is a symbol"):
        build(Transformer(depth=2, width=Symbol("d"), heads=Symbol("h"), head_dim=8))
    with pytest.raises(InputError, match="there is no scheme"):
        build(tree, "xaver")
    with pytest.raises(InputError, match="the recipe is for a model of"):
        build(tree, recipe(Transformer(**{**SMALL, "depth": 3}), "xavier"))
    with pytest.raises(InputError, match="12 learned positions; a sequence of 13"):
        model(tokens_of(tree, length=13))
    with pytest.raises(InputError, match="source has no meaning"):
        model(tokens, source=tokens)
    with pytest.raises(InputError, match="takes source tokens"):
        both(tokens)
    with pytest.raises(InputError, match="targets need"):
        build(Transformer(**SMALL, head="none"), seed=0)(tokens, tokens)
    images = Transformer(depth=1, width=8, heads=2, kind="encoder", positions="none", patch=4, image=8, head="classifier")
    with pytest.raises(InputError, match=r"takes images of shape \[3, 8, 8\], and these are of shape \[3, 8, 9\]"):
        build(images, seed=0)(torch.zeros(1, 3, 8, 9))


def test_importing_verify_is_quick(in_fresh_python):
    """Torch is loaded when a name is used, not before."""
    loaded = in_fresh_python(
        "import verify, sys; print('torch' in sys.modules, sorted(set(verify.__all__) - set(dir(verify))))"
    )
    assert loaded.split() == ["False", "[]"]
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        verify.nothing  # noqa: B018
