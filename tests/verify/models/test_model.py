"""Any tree as a torch module: its weights counted, its function checked piece by piece against the definitions."""

import math

import pytest
from hypothesis import HealthCheck, given, settings
from strategies import PUBLISHED, designs

from depthwidth import Transformer, layers, schemes
from depthwidth.architecture.hf import read_config
from depthwidth.errors import InputError
from depthwidth.initialization import parameters, recipe
from depthwidth.layers.base import component

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402, N812

import verify  # noqa: E402
from verify import apply_init, build, parameter_groups  # noqa: E402
from verify.models.activations import ACTIVATIONS  # noqa: E402
from verify.models.base import builds, module  # noqa: E402
from verify.models.positions import RelativeBias  # noqa: E402

SOME = settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
SMALL = {"depth": 2, "width": 24, "heads": 4, "vocab": 31, "context": 12}


def some_inputs(tree, batch=2, length=None):
    generator = torch.Generator().manual_seed(3)
    if isinstance(tree.stem, layers.PatchStem):
        return {"tokens": torch.randn(batch, tree.stem.channels, tree.stem.height, tree.stem.width_pixels, generator=generator)}
    length = min(tree.context, 9) if length is None else length
    given = {"tokens": torch.randint(tree.vocab, (batch, length), generator=generator)}
    if tree.kind == "encoder-decoder":
        given["source"] = torch.randint(tree.vocab, (batch, max(1, min(tree.context, length - 2))), generator=generator)
    return given


def tokens_of(tree, **more):
    return some_inputs(tree, **more)["tokens"]


# Counts.


@SOME
@given(choices=designs(deepest=4))
def test_every_design_has_its_trees_parameters_and_uses_them(choices):
    tree = Transformer(**choices)
    model = build(tree, seed=0).eval()
    assert sum(p.numel() for p in model.parameters()) == tree.parameters
    shapes = {name: math.prod(shape) for name, _, _, shape in parameters(tree)}
    assert {name: p.numel() for name, p in model.named_parameters()} == shapes
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, 0.5, 0.5)
    given = some_inputs(tree)
    out = model(**given)
    assert out.isfinite().all()
    out.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", PUBLISHED)
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


@pytest.mark.parametrize(
    "more",
    [{}, {"positions": "rotary", "norm": "rmsnorm", "gated": True, "kv_heads": 2}, {"positions": "alibi", "window": 3}],
    ids=["gpt2", "llama", "alibi"],
)
def test_compiles_without_a_break(more):
    """With the eager backend: the graph is whole, whatever a compiler then makes of it."""
    tree = Transformer(**SMALL, **more)
    model = build(tree, seed=0)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    tokens = tokens_of(tree)
    one, two = model(tokens, tokens), compiled(tokens, tokens)
    torch.testing.assert_close(two, one)
    apply_init(compiled, recipe(tree, "deepscale", embedding_correlation=0.2), seed=4)
    torch.testing.assert_close(compiled(tokens, tokens), model(tokens, tokens))
    assert not torch.equal(model(tokens), one[0])


# What each part does.


def test_loss_is_the_cross_entropy_over_positions_that_count():
    tree = Transformer(**SMALL)
    model, tokens = build(tree, "xavier", seed=0), tokens_of(tree)
    targets = tokens.roll(1, 0).clone()
    targets[0, :4] = -100
    logits, loss = model(tokens, targets)
    chances = logits.log_softmax(-1)
    counted = [-chances[b, t, targets[b, t]] for b in range(2) for t in range(9) if targets[b, t] >= 0]
    torch.testing.assert_close(loss, torch.stack(counted).mean())


def later_tokens_matter(tree, place=5):
    """Which positions' logits change when the token at `place` does."""
    model = build(tree, "xavier", seed=0).eval()
    tokens = tokens_of(tree, batch=1)
    other = tokens.clone()
    other[0, place] = (other[0, place] + 1) % tree.vocab
    return (model(tokens) - model(other)).abs().amax(-1)[0] > 1e-6


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "rotary", "alibi", "relative", "none"])
@pytest.mark.parametrize("more", [{}, {"score_softcap": 2.0}, {"kv_heads": 1, "value_dim": 3}], ids=["plain", "softcap", "mqa"])
def test_who_sees_whom(positions, more):
    shape = {**SMALL, "depth": 1, "positions": positions, **more}
    assert later_tokens_matter(Transformer(**shape)).tolist() == [t >= 5 for t in range(9)]
    assert later_tokens_matter(Transformer(**shape, window=2)).tolist() == [t in (5, 6) for t in range(9)]
    assert later_tokens_matter(Transformer(**shape, kind="encoder")).all()


def naive(q, k, v, scale, bias, softcap=None):
    """Attention written as loops."""
    out = torch.zeros(*q.shape[:3], v.shape[-1])
    heads, kv = q.shape[1], k.shape[1]
    for b in range(q.shape[0]):
        for h in range(heads):
            for i in range(q.shape[2]):
                scores = torch.stack([scale * q[b, h, i] @ k[b, h // (heads // kv), j] for j in range(k.shape[2])])
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                weights = (scores + bias[h, i]).softmax(0)
                out[b, h, i] = weights @ v[b, h // (heads // kv)]
    return out


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("positions", ["alibi", "relative"])
def test_attention_is_its_definition(positions, softcap):
    tree = Transformer(
        **{**SMALL, "heads": 6, "depth": 1}, positions=positions, kv_heads=3, head_dim=5, value_dim=2, logit_scale=0.9,
        window=4, score_softcap=softcap, bias=False,
    )  # fmt: skip
    model = build(tree, "xavier", seed=0)
    part = model.decoder.block[0].attention
    x = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(1))
    place = torch.arange(9)
    distance = place[:, None] - place
    if positions == "alibi":
        slopes = torch.tensor([1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8])  # four heads' and two between
        bias = -slopes[:, None, None] * distance.abs()
    else:
        torch.nn.init.normal_(model.decoder.position.weight)
        bias = torch.stack([torch.stack([model.decoder.position.weight[max(0, i - j)] for j in range(9)]) for i in range(9)])
        bias = bias.permute(2, 0, 1)  # the first 16 buckets are one distance each
    bias = bias.masked_fill((distance < 0) | (distance > 3), -torch.inf)
    y = part.norm_in(x)
    q, k, v = (p(y).unflatten(-1, (-1, d)).transpose(1, 2) for p, d in ((part.query, 5), (part.key, 5), (part.value, 2)))
    mixed = naive(q, k, v, 0.9, bias, softcap)
    expected = x + part.out(mixed.transpose(1, 2).flatten(2))
    run = verify.models.model.Pass(bias=None if model.decoder.position is None else model.decoder.position(9))
    torch.testing.assert_close(part(x, run), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(part(x[:1], verify.models.model.Pass(bias=run.bias)), expected[:1], rtol=1e-4, atol=1e-5)


def test_rotary_scores_depend_on_the_distance_only():
    for position in (layers.Rotary(base=50.0), layers.Rotary(fraction=0.5, interleaved=True), layers.Rotary(fraction=0.25)):
        rotary = module(position)
        generator = torch.Generator().manual_seed(0)
        q, k = torch.randn(2, 8, generator=generator)
        cos, sin = rotary.angles(20, 8, q.device)
        turned = [rotary.rotate(x.expand(20, 8), cos, sin) for x in (q, k)]
        scores = turned[0] @ turned[1].T
        for shift in (1, 5):
            torch.testing.assert_close(scores[shift:, shift:], scores[:-shift, :-shift])
        assert scores.diagonal(1).std() < 1e-5 < (scores[0].std())
        torch.testing.assert_close(turned[0].norm(dim=1), q.norm().expand(20))


def test_buckets_of_t5():
    """Exact below half of the buckets, then logarithmic to the largest distance; each direction has a half."""
    one = RelativeBias(layers.RelativeBias(heads=1, buckets=32, max_distance=128))
    distances = [0, 1, 15, 16, 17, 20, 31, 64, 127, 128, 1000]
    # 16 + floor(16 ln(d / 16) / ln 8), at most 31
    expected = [d if d < 16 else min(31, 16 + int(16 * math.log(d / 16) / math.log(8) + 1e-9)) for d in distances]
    assert one.bucket(-torch.tensor(distances)).tolist() == expected
    assert one.bucket(torch.tensor([1, 100])).tolist() == [0, 0]
    one.causal = False
    both = [d if d < 8 else min(15, 8 + int(8 * math.log(d / 8) / math.log(16) + 1e-9)) for d in distances]
    assert one.bucket(-torch.tensor(distances)).tolist() == both
    assert one.bucket(torch.tensor(distances[1:])).tolist() == [16 + b for b in both[1:]]


def test_sinusoidal_positions():
    table = module(layers.SinusoidalPositions()).at(5, 7, torch.device("cpu"))
    for place in range(5):
        for i in range(7):
            angle = place / 10000 ** (2 * (i // 2) / 8)
            assert abs(table[place, i].item() - (math.cos(angle) if i % 2 else math.sin(angle))) < 1e-6


def test_norms():
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)) + 1
    layer = module(layers.LayerNorm(8, affine=False, eps=1e-3))
    centred = x - x.mean(1, keepdim=True)
    torch.testing.assert_close(layer(x), centred / (centred.square().mean(1, keepdim=True) + 1e-3).sqrt())
    rms = module(layers.RMSNorm(8, eps=1e-3, unit_offset=True))
    torch.nn.init.constant_(rms.weight, 0.5)
    torch.testing.assert_close(rms(x), 1.5 * x / (x.square().mean(1, keepdim=True) + 1e-3).sqrt())


def test_activations_are_those_of_the_calculator():
    from depthwidth import activation

    x = torch.linspace(-4, 4, 81, dtype=torch.float64)
    assert tuple(ACTIVATIONS) == layers.ACTIVATIONS
    for name, f in ACTIVATIONS.items():
        torch.testing.assert_close(f(x), torch.as_tensor(activation(name)(x.numpy())))


def test_every_expert_of_a_mixture_is_a_feed_forward_part():
    tree = Transformer(**SMALL, experts=4, top_k=2, gated=True, shared_ffn=6, shared_gate=True)
    model = build(tree, "xavier", seed=0)
    part = model.decoder.block[0].feed_forward
    x = torch.randn(7, 24, generator=torch.Generator().manual_seed(0))
    chances = (x @ part.router.weight.T).softmax(-1)

    def through(gate, up, down):
        """A gated part with zero biases, as the recipe leaves them."""
        return (F.gelu(x @ gate.T) * (x @ up.T)) @ down.T

    parts = [through(*(getattr(part.expert, n).weight[e] for n in ("gate", "up", "down"))) for e in range(4)]
    best = chances.topk(2, dim=-1).values[:, 1:]
    weights = torch.where(chances >= best, chances, 0.0)
    weights = weights / weights.sum(-1, keepdim=True)
    expected = sum(weights[:, e, None] * parts[e] for e in range(4))
    shared = through(*(getattr(part.shared, n).weight for n in ("gate", "up", "down")))
    expected = expected + torch.sigmoid(x @ part.shared_gate.weight.T) * shared
    torch.testing.assert_close(part.branch(x[None])[0], expected, rtol=1e-4, atol=1e-5)


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


# Recipes whose scales stand in the code.


@pytest.mark.parametrize("scheme", [name for name in schemes() if name not in ("admin",)])
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
    run = verify.models.model.Pass()
    expected = line.skip * x + line.branch * part.branch(part.norm_in(x), run)
    torch.testing.assert_close(part(x, verify.models.model.Pass()), expected)


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


# One component more, and what is refused.


def test_a_new_component_is_one_registration():
    @component
    class Nothing(layers.Layer):
        """Does nothing."""

    with pytest.raises(InputError, match="Nothing has no torch module"):
        module(Nothing())
    builds(Nothing)(lambda layer: torch.nn.Identity())
    assert isinstance(module(Nothing()), torch.nn.Identity)


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
