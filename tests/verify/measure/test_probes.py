"""Probes against direct computation, on our modules and on others', and what they cost when they are off."""

import contextlib
import dataclasses
import math
import warnings

import pytest
from helpers import one_quick_in, quiet_transformers

from depthwidth import Transformer, propagate
from depthwidth.errors import InputError
from depthwidth.initialization import recipe

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402, N812

from verify import build, probe  # noqa: E402
from verify.measure import probes  # noqa: E402
from verify.measure.probes import ATTENTION, COLUMNS, GRADIENTS, MOMENTS, QUANTITIES, RANKS, UPDATES, WEIGHTS  # noqa: E402

SHAPE = {"depth": 2, "width": 24, "heads": 4, "vocab": 31, "context": 12}


@pytest.fixture
def model():
    return build(Transformer(**SHAPE, kv_heads=2, positions="rotary", norm="rmsnorm", gated=True), "xavier", seed=0)


@pytest.fixture
def tokens():
    return torch.randint(31, (5, 9), generator=torch.Generator().manual_seed(0))


def moments_of(x):
    """By loops over pairs of tokens; an output (sequences, tokens, features)."""
    x = x.double()
    mean, second = x.mean().item(), x.square().mean().item()
    pairs = [(x[:, s] * x[:, t]).mean().item() for s in range(x.shape[1]) for t in range(x.shape[1]) if s != t]
    covariance = sum(pairs) / len(pairs) - mean**2
    variance = second - mean**2
    return dict(zip(MOMENTS, (mean, second, variance, covariance, covariance / variance), strict=True))


def attention_of(weights, scores=None):
    """From attention weights (batch, heads, queries, keys), hidden keys exactly zero."""
    seen = weights > 0
    entropy = -(weights * weights.clamp(min=1e-30).log()).sum(-1)
    scores = weights.log() if scores is None else scores
    spread = torch.stack([scores[i][seen[i]].var(correction=0) for i in map(tuple, (seen.sum(-1) > 1).nonzero().tolist())])
    return {
        "entropy": entropy.mean().item(),
        "entropy_tokens": entropy.exp().mean().item(),
        "mean_effective_tokens": (1 / weights.square().sum(-1)).mean().item(),
        "score_variance": spread.mean().item(),  # over queries that see two keys or more
        "visible_tokens": seen.sum(-1).float().mean().item(),
    }


def agree(rows, site, expected, rtol=1e-4, prefix=""):
    """To `rtol`, of the value or of what it is a small difference of: gradients are of order 1e-3, their moments tiny."""
    second = expected.get("second_moment", 1.0)
    scales = {"mean": second**0.5, "covariance": second, "correlation": 1.0, "score_variance": 1e-3}
    for name, value in expected.items():
        measured = rows.value(site, prefix + name)
        close = math.isclose(measured, value, rel_tol=rtol, abs_tol=rtol * scales.get(name, 0.0))
        assert close, (site, prefix + name, measured, value)


# Moments.


def test_moments_and_gradients_are_those_of_a_direct_computation(model, tokens):
    kept = {}

    def keep(name):
        def hook(part, given, out):
            kept[name] = out
            out.retain_grad()

        return hook

    names = ["decoder.block.0.attention", "decoder.block.1.feed_forward.activation", "stem", "decoder.norm"]
    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    with probe(model, sites=names) as rows:
        model(tokens, tokens)[1].backward()
    for handle in handles:
        handle.remove()
    for name in names:
        agree(rows, name, moments_of(kept[name].detach()))
        agree(rows, name, moments_of(kept[name].grad), prefix="gradient_")
    # and the comparison can fail: another site's, of outputs and of gradients
    for name, prefix, x in ((names[0], "", kept["stem"]), (names[0], "gradient_", kept[names[1]].grad)):
        with pytest.raises(AssertionError):
            agree(rows, name, moments_of(x.detach()), prefix=prefix)


def test_the_mixed_values_have_their_heads_side_by_side(model, tokens):
    kept = []
    handle = model.get_submodule("decoder.block.0.attention.out").register_forward_pre_hook(
        lambda part, given: kept.append(given)
    )
    with probe(model, MOMENTS, "*.0.attention.mix") as rows:
        model(tokens)
    handle.remove()
    agree(rows, "decoder.block.0.attention.mix", moments_of(kept[0][0].detach()))


@pytest.mark.slow
def test_errors_are_those_of_many_batches(model):
    """The standard error of a correlation over 16 sequences, against the scatter of many such batches."""
    generator = torch.Generator().manual_seed(2)
    values, errors = {"variance": [], "correlation": []}, {"variance": [], "correlation": []}
    for _ in range(150):
        with probe(model, list(values), ["decoder"]) as rows, torch.no_grad():
            model(torch.randint(31, (16, 9), generator=generator))
        for row in rows:
            values[row["quantity"]].append(row["value"])
            errors[row["quantity"]].append(row["stderr"])
    # The norm after the last block leaves the second moment 1; the scatter of the correlation is the test.
    scatter, claimed = torch.tensor(values["correlation"]).std(), torch.tensor(errors["correlation"]).mean()
    assert abs(claimed / scatter - 1) < 5 / math.sqrt(2 * 150)  # five standard errors of a standard deviation
    assert abs(claimed / (scatter * 16**0.5) - 1) > 0.5  # not that of a single sequence


def test_measured_is_what_propagate_predicts():
    """Rows carry the quantities of ``propagate``, and agree with it where both are exact: a stack of linear maps."""
    tree = Transformer(depth=3, width=256, heads=4, vocab=4096, context=32, activation="relu", bias=False, positions="none",
                       norm_affine=False)  # fmt: skip
    found = recipe(tree, "xavier")
    predicted = propagate(tree, found).set_index(["site", "direction"])
    model = build(tree, found, seed=1)
    tokens = torch.randint(4096, (16, 32), generator=torch.Generator().manual_seed(1))
    with probe(model, MOMENTS) as rows, torch.no_grad():
        model(tokens)
    for site in ("decoder.block.0.feed_forward.up", "decoder.block.0.feed_forward.activation"):
        expected = predicted.loc[site, "forward"]["second_moment"]
        assert abs(rows.value(site, "second_moment") / expected - 1) < 0.03  # of one draw of 256 x 1024 weights


# Attention.


def test_attention_is_that_of_the_scores(model, tokens):
    part = model.get_submodule("decoder.block.1.attention")
    kept = []
    handle = part.mix.register_forward_pre_hook(lambda part, given: kept.append(given))
    with probe(model, ATTENTION, per_head=True) as rows:
        model(tokens)
    handle.remove()
    q, k, _, mask, causal, *_ = kept[0]
    with torch.no_grad():
        scores = part.mix.scores(q, k.repeat_interleave(2, dim=1), mask, causal)
    weights = scores.softmax(-1)
    site = "decoder.block.1.attention.mix"
    agree(rows, site, attention_of(weights, scores))
    for head in range(4):
        agree(rows, f"{site}.head.{head}", attention_of(weights[:, [head]], scores[:, [head]]))
    assert {row["site"] for row in rows if "head" not in row["site"]} == {f"decoder.block.{n}.attention.mix" for n in (0, 1)}
    with pytest.raises(AssertionError):  # another block's
        agree(rows, "decoder.block.0.attention.mix", attention_of(weights, scores))


@pytest.mark.parametrize(
    "more",
    [
        {"positions": "alibi", "window": 4}, {"positions": "relative"}, {"score_softcap": 0.5, "window": 3},
        {"kind": "encoder"}, {"value_dim": 3}, {"logit_scale": 1.3},
    ],
    ids=["alibi", "relative", "softcap", "encoder", "values", "scale"],
)  # fmt: skip
def test_attention_with_every_kind_of_mask(more, tokens):
    model = build(Transformer(**SHAPE, **more), "xavier", seed=0)
    stack = "encoder" if model.decoder is None else "decoder"
    mix = model.get_submodule(f"{stack}.block.0.attention.mix")
    kept = []
    handle = mix.register_forward_pre_hook(lambda part, given: kept.append(given))
    with probe(model, ATTENTION) as rows:
        model(tokens)
    handle.remove()
    q, k, _, mask, causal, *_ = kept[0]
    scores = mix.scores(q, k, mask, causal)
    agree(rows, f"{stack}.block.0.attention.mix", attention_of(scores.softmax(-1), scores))


def test_known_values_of_attention():
    """Equal scores: entropy ln n, all keys attended. A causal query i sees i of them."""
    model = build(Transformer(**SHAPE), seed=0)
    with torch.no_grad():
        model.decoder.block[0].attention.query.weight.zero_()
    with probe(model, ATTENTION) as rows:
        model(torch.zeros(2, 9, dtype=torch.long))
    site = "decoder.block.0.attention.mix"
    agree(rows, site, {
        "entropy": sum(math.log(i) for i in range(1, 10)) / 9, "entropy_tokens": 5.0, "mean_effective_tokens": 5.0,
        "score_variance": 0.0, "visible_tokens": 5.0,
    })  # fmt: skip


def test_cross_attention_and_chunks(tokens, monkeypatch):
    model = build(Transformer(**SHAPE, kind="encoder-decoder"), "xavier", seed=0)
    with probe(model, ATTENTION) as whole:
        model(tokens, source=tokens[:, :6])
    monkeypatch.setattr(probes, "_CHUNK", 100)  # a sequence at a time
    with probe(model, ATTENTION) as pieces:
        model(tokens, source=tokens[:, :6])
    assert whole.value("decoder.block.0.cross_attention.mix", "visible_tokens") == 6
    for one, other in zip(whole, pieces, strict=True):
        assert math.isclose(one["value"], other["value"], rel_tol=1e-6)
        assert one["stderr"] == pytest.approx(other["stderr"], rel=1e-4, abs=1e-12)


# Other people's modules.


@pytest.fixture(scope="module")
def transformers():
    return quiet_transformers()


def theirs(library, name, attention):
    torch.manual_seed(3)
    sizes = {"vocab_size": 31, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 20,
             "max_position_embeddings": 16, "initializer_range": 0.4, "attn_implementation": attention}  # fmt: skip
    if name == "gpt2":
        config = library.GPT2Config(vocab_size=31, n_embd=24, n_layer=2, n_head=4, n_positions=16, initializer_range=0.4,
                                    attn_implementation=attention)  # fmt: skip
        return library.GPT2LMHeadModel(config).eval(), "transformer.h.{}.attn", "transformer.h.{}"
    if name == "llama":
        config = library.LlamaConfig(**sizes, num_key_value_heads=2)
        return library.LlamaForCausalLM(config).eval(), "model.layers.{}.self_attn", "model.layers.{}"
    return (
        library.BertForMaskedLM(library.BertConfig(**sizes)).eval(),
        "bert.encoder.layer.{}.attention.self",
        "bert.encoder.layer.{}",
    )


@pytest.mark.hf
@one_quick_in(2, "attention", ["eager", "sdpa"])
@one_quick_in(3, "name", ["gpt2", "llama", "bert"], first=2)
def test_transformers_models(transformers, name, attention, tokens):
    """Entropies against the attentions that the library itself gives out, moments against its hidden states."""
    model, site, block = theirs(transformers, name, attention)
    padding = torch.ones_like(tokens)
    padding[0, 6:] = 0  # the first sequence ends early
    with probe(model) as rows:
        model(input_ids=tokens, labels=tokens).loss.backward()
    with probe(model, ATTENTION) as padded, torch.no_grad():
        model(input_ids=tokens, attention_mask=padding)
    eager, _, _ = theirs(transformers, name, "eager")
    hidden = {}
    handle = eager.get_submodule(block.format(0)).register_forward_hook(
        lambda part, given, out: hidden.update(x=out[0] if isinstance(out, tuple) else out)
    )
    out = eager(input_ids=tokens, labels=tokens, output_attentions=True)
    hidden["x"].retain_grad()
    out.loss.backward()
    handle.remove()
    agree(rows, block.format(0), moments_of(hidden["x"].detach()))
    agree(rows, block.format(0), moments_of(hidden["x"].grad), prefix="gradient_", rtol=1e-3)
    for layer in (0, 1):
        agree(rows, site.format(layer), attention_of(out.attentions[layer].detach()))
    with pytest.raises(AssertionError):
        agree(rows, site.format(0), attention_of(out.attentions[1].detach()))
    with torch.no_grad():
        masked = eager(input_ids=tokens, attention_mask=padding, output_attentions=True).attentions
    agree(padded, site.format(0), attention_of(masked[0]))


@pytest.mark.hf
@pytest.mark.parametrize("family", ["gpt_neo", "gptj", "codegen", "bloom", "falcon", "opt", "t5", "mixtral", "gemma2", "vit"])
def test_every_way_to_write_attention_is_seen(transformers, family):
    """Families whose attention is written in other ways: one row for each attention of each layer."""
    import test_convert

    config = test_convert.small(family)
    model = test_convert.built(config)
    tree = test_convert.read_config(config)
    with probe(model, ["entropy", "visible_tokens"]) as rows, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(**test_convert.inputs(config, tree)[0])
    expected = tree.depth if tree.kind != "encoder-decoder" else tree.encoder.depth + 2 * tree.decoder.depth
    assert len({row["site"] for row in rows}) == expected
    visible = [row["value"] for row in rows if row["quantity"] == "visible_tokens"]
    tokens = tree.context if family == "vit" else 11
    if tree.kind == "decoder":
        windows = [block.attention.branch.window or tokens for block in tree.decoder.blocks()]
        assert visible == pytest.approx([sum(min(i, window) for i in range(1, 12)) / 11 for window in windows])
    if family == "vit":
        assert visible == pytest.approx([tokens] * tree.depth)


@pytest.mark.parametrize("training", [True, False])
def test_torchs_own_encoder(training):
    """In evaluation it would take a fused path; while it is watched it does not."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(24, 4, 20, dropout=0.0, batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(training)
    x = torch.randn(3, 7, 24)
    before = model(x).detach()
    with probe(model, ATTENTION) as rows, torch.no_grad():
        torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
    _, weights = model.layers[0].self_attn(x, x, x, average_attn_weights=False)
    agree(rows, "layers.0.self_attn", attention_of(weights.detach()))
    assert {row["site"] for row in rows} == {"layers.0.self_attn", "layers.1.self_attn"}


def test_a_router_is_no_attention(tokens):
    model = build(Transformer(**SHAPE, experts=4), "xavier", seed=0)
    with probe(model, ATTENTION) as rows:
        model(tokens)
    assert {row["site"] for row in rows} == {f"decoder.block.{n}.attention.mix" for n in (0, 1)}


# Ranks, updates.


def test_ranks(model, tokens):
    kept = []
    handle = model.get_submodule("decoder").register_forward_hook(lambda part, given, out: kept.append(out.detach().double()))
    with probe(model, [*RANKS, *WEIGHTS], ["decoder", "decoder.block.0.attention.query"]) as rows:
        model(tokens)
    handle.remove()
    sizes = torch.linalg.svdvals(kept[0])
    shares = sizes / sizes.sum(-1, keepdim=True)
    agree(rows, "decoder", {
        "stable_rank": (sizes.square().sum(-1) / sizes[:, 0].square()).mean().item(),
        "effective_rank": (-(shares * shares.log()).sum(-1)).exp().mean().item(),
    })  # fmt: skip
    weight = torch.linalg.svdvals(model.get_parameter("decoder.block.0.attention.query.weight").detach().double())
    shares = weight / weight.sum()
    agree(rows, "decoder.block.0.attention.query.weight", {
        "weight_stable_rank": (weight.square().sum() / weight[0] ** 2).item(),
        "weight_effective_rank": (-(shares * shares.log()).sum()).exp().item(),
    })  # fmt: skip
    assert rows.value("decoder.block.0.attention.query.weight", "weight_effective_rank") < 24


def test_ranks_of_known_matrices():
    model = torch.nn.Sequential(torch.nn.Identity())
    one = torch.outer(torch.arange(1.0, 6.0), torch.arange(1.0, 9.0))[None]
    for x, rank in ((one, 1.0), (torch.eye(6)[None], 6.0), (torch.eye(6)[None, :4], 4.0)):
        with probe(model, RANKS, "0") as rows:
            model(x)
        agree(rows, "0", {"stable_rank": rank, "effective_rank": rank}, rtol=1e-5)


def test_update_ratio_at_chosen_steps(model, tokens):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    name = "decoder.block.0.feed_forward.up.weight"
    ratios = []
    with probe(model, [*UPDATES, "variance"], optimizer=optimizer, steps={1, 3}, run="a run") as rows:
        for _ in range(5):
            optimizer.zero_grad()
            model(tokens, tokens)[1].backward()
            weight = model.get_parameter(name)
            ratios.append((0.1 * weight.grad.norm() / weight.norm()).item())
            optimizer.step()
    assert {row["step"] for row in rows} == {1, 3}
    assert {row["run"] for row in rows} == {"a run"}
    for step in (1, 3):
        assert math.isclose(rows.value(name, "update_ratio", step), ratios[step], rel_tol=1e-4)
    assert not math.isclose(rows.value(name, "update_ratio", 1), ratios[2], rel_tol=1e-4)
    assert {row["step"] for row in rows if row["quantity"] == "variance"} == {1, 3}


def test_passes_of_a_step_are_pooled(model, tokens):
    with probe(model, MOMENTS, "decoder") as whole:
        model(tokens)
    with probe(model, MOMENTS, "decoder") as parts:
        model(tokens[:2])
        model(tokens[2:])
    for one, other in zip(whole, parts, strict=True):
        assert math.isclose(one["value"], other["value"], rel_tol=1e-5, abs_tol=1e-7)
        assert math.isclose(one["stderr"], other["stderr"], rel_tol=1e-3, abs_tol=1e-8)


def test_steps_by_hand(model, tokens):
    with probe(model, "variance", "decoder", start=7) as rows:
        model(tokens)
        rows.next_step()
        assert [row["step"] for row in rows] == [7]
        model(tokens)
    assert [row["step"] for row in rows] == [7, 8]
    with pytest.raises(InputError, match="the probe has ended"):
        rows.next_step()
    frame = rows.frame()
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == 2


# Nothing is left, nothing is changed.


def hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(part, kind)) for part in model.modules() for kind in kinds)


def test_nothing_is_attached_when_off(model, tokens):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert hooks(model) == 0
    with probe(model, QUANTITIES, optimizer=optimizer, steps=lambda step: step == 1) as rows:
        assert hooks(model) == 0
        optimizer.step()
        assert hooks(model) > 0
        optimizer.step()
        assert hooks(model) == 0
    assert hooks(model) == 0
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    with pytest.raises(RuntimeError, match="stop"), probe(model):
        raise RuntimeError("stop")
    assert hooks(model) == 0
    with pytest.raises(IndexError), probe(model):
        model(torch.full((1, 3), 99))  # beyond the vocabulary: in the middle of a pass
    assert torch.overrides._len_torch_function_stack() == 0
    assert hooks(model) == 0
    assert len(rows) == 0 or {row["step"] for row in rows} == {1}


def test_a_probe_changes_nothing(model, tokens):
    model(tokens, tokens)[1].backward()
    plain = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    with probe(model, QUANTITIES[:-1]):
        model(tokens, tokens)[1].backward()
    assert all(torch.equal(plain[name], p.grad) for name, p in model.named_parameters())


@pytest.mark.slow
def test_compiled_models_are_measured_uncompiled(model, tokens):
    compiled = torch.compile(model, backend="eager")
    expected = compiled(tokens)
    with probe(model) as plain:
        model(tokens)
    with probe(compiled) as rows:
        torch.testing.assert_close(compiled(tokens), expected)
    assert [row["site"] for row in rows] == [row["site"] for row in plain]
    assert rows.value("decoder.block.0.attention.mix", "entropy") == plain.value("decoder.block.0.attention.mix", "entropy")
    torch.testing.assert_close(compiled(tokens), expected)


@pytest.mark.slow
def test_parts_compiled_in_place_are_measured_too(model, tokens):
    with probe(model) as plain:
        model(tokens)
    model.decoder.block[0].compile(backend="eager")
    with torch.no_grad():
        model(tokens)
        with probe(model) as rows:
            model(tokens)
    assert [row["site"] for row in rows] == [row["site"] for row in plain]


def test_a_site_around_an_attention_has_its_rows(model, tokens):
    with probe(model, "entropy", ["decoder.block.*.attention"]) as around, probe(model, "entropy", "*.mix") as inside:
        model(tokens)
    assert [row["site"] for row in around] == [f"decoder.block.{n}.attention" for n in (0, 1)]
    assert [row["value"] for row in around] == [row["value"] for row in inside]


def test_half_precision_is_measured_in_single(tokens):
    model = build(Transformer(**SHAPE), "xavier", seed=0)
    with probe(model, [*MOMENTS, *ATTENTION]) as plain, torch.no_grad():
        model(tokens)
    with probe(model, [*MOMENTS, *ATTENTION]) as low, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(tokens)
    for site, name in (("decoder.block.1", "variance"), ("decoder.block.1.attention.mix", "entropy")):
        assert math.isclose(plain.value(site, name), low.value(site, name), rel_tol=0.02)


def test_tied_weights_are_one_site(tokens):
    torch.manual_seed(0)
    table, head = torch.nn.Embedding(31, 8), torch.nn.Linear(8, 31, bias=False)
    head.weight = table.weight
    with probe(torch.nn.Sequential(table, head), WEIGHTS) as rows:
        pass
    assert [row["site"] for row in rows] == ["0.weight", "0.weight"]


def test_outputs_of_two_dimensions_have_no_pairs():
    model = torch.nn.Sequential(torch.nn.Linear(8, 4))
    with probe(model, [*MOMENTS, *GRADIENTS], "0") as rows:
        F.mse_loss(model(torch.randn(3, 8, generator=torch.Generator().manual_seed(0))), torch.zeros(3, 4)).backward()
    names = {row["quantity"] for row in rows}
    assert names == {p + n for p in ("", "gradient_") for n in ("mean", "second_moment", "variance")}


# Outputs that are written into later.


def residual(model, x, in_place):
    h = model[0](x)
    branch = model[1](h.clone())
    if in_place:
        h += branch
        return h
    return h + branch


def activation(model, x, in_place):
    return model[1](F.relu(model[0](x), inplace=in_place))


def dropped_tokens(model, x, in_place):
    """Written into through a view of the view, twice, and read before, between and after."""
    h = model[0](x)
    before = h.clone().sin()  # autograd keeps what the sine reads
    if in_place:
        h[:, 0] = 2 * before[:, 1]
        between = h.clone().cos()
        h[..., 3].mul_(before[..., 2])
        return model[1](h) + before + between
    kept = torch.cat((2 * before[:, 1:2], h[:, 1:]), dim=1)
    between = kept.cos()
    kept = torch.cat((kept[..., :3], kept[..., 3:4] * before[..., 2:3], kept[..., 4:]), dim=-1)
    return model[1](kept) + before + between


def turned(model, x, in_place):
    """The output of a site is a transposed half of a tensor whose other half, and whole, go elsewhere."""
    whole = 1.5 * model[0](x)
    half = model[2](whole)
    rest = whole.clone().sin().sum() + model[1](whole.clone())
    square = half.clone().square()
    return (half.add_(square) if in_place else half + square).cos().sum() + rest


class Half(torch.nn.Module):
    def forward(self, whole):
        return whole[:, 1:, 2:].transpose(1, 2)


def gradients_at(forward, in_place, dims=3):
    """Moments of the gradient of every output by a probe, of a model made anew."""
    torch.manual_seed(0)
    linear = [torch.nn.Linear(8, 8) for _ in range(2)]
    model = torch.nn.Module()
    model.parts = torch.nn.ModuleList([*linear, Half()])
    model.forward = lambda x: forward(model.parts, x, in_place)
    x = torch.randn(*(4, 5, 8)[-dims:], generator=torch.Generator().manual_seed(1))
    with probe(model, GRADIENTS, "parts.[02]") as rows:
        model(x).square().sum().backward()
    return {(row["site"], row["quantity"]): row["value"] for row in rows}


@pytest.mark.parametrize("forward", [residual, activation, dropped_tokens, turned])
def test_what_is_written_into_an_output_later_leaves_its_gradient(forward, monkeypatch):
    """In place as out of place: linear maps of three dimensions return views, whose hooks see a part of the gradient."""
    expected = gradients_at(forward, in_place=False)
    assert expected["parts.0", "gradient_second_moment"] > 0
    assert gradients_at(forward, in_place=True) == pytest.approx(expected, rel=1e-5, abs=1e-8)
    # Negative control: with hooks on the outputs alone it is not.
    monkeypatch.setattr(probes._ViewGradient, "find_writes", lambda *_: None)
    monkeypatch.setattr(probes._ViewGradient, "is_known", lambda _: True)
    assert gradients_at(forward, in_place=True) != pytest.approx(expected, rel=1e-2, abs=1e-8)


@pytest.mark.parametrize("forward", [residual, activation])
def test_outputs_that_are_no_views_too(forward):
    expected = gradients_at(forward, in_place=False, dims=2)
    assert gradients_at(forward, in_place=True, dims=2) == pytest.approx(expected, rel=1e-5)


def outside(model, x):
    """Not within a module, whose hooks could find the way around."""
    h = model[0](x)
    branch = model[1](h.clone())
    h += branch
    return h


class Unfollowed(torch.nn.Sequential):
    def forward(self, x):
        h = self[0](x)
        with torch.no_grad():
            h.mul_(2.0)
        return self[1](h)


def base_as_well(model, x):
    """Written into as a whole, of which the output is a view."""
    h = model[0](x)
    branch = model[1](h.clone())
    h._base.add_(branch.flatten(0, 1))
    return h


@pytest.mark.parametrize("forward", [outside, lambda model, x: model(x), base_as_well], ids=["outside", "no_grad", "base"])
def test_where_a_write_cannot_be_followed_that_is_said(forward):
    torch.manual_seed(0)
    model, x = Unfollowed(torch.nn.Linear(8, 8), torch.nn.Tanh()), torch.randn(4, 5, 8)
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.warns(UserWarning, match="the gradient is nan at 0: its output was changed in place"))
        rows = stack.enter_context(probe(model, GRADIENTS))
        forward(model, x).sum().backward()
    assert math.isnan(rows.value("0", "gradient_second_moment"))
    assert rows.value("1", "gradient_second_moment") == 1  # that of the sum


# What modules return.


@dataclasses.dataclass
class Named:
    count: int
    hidden: torch.Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda h: {"hidden": h},
        lambda h: (None, h),
        lambda h: [h.argmax(-1), {"lengths": torch.ones(3, dtype=torch.long), "states": (h,)}],
        lambda h: (h.square().mean(), h),  # a loss and what it is of
        lambda h: Named(3, h),
    ],
    ids=["dictionary", "None first", "nested, integers first", "number first", "data class"],
)
def test_the_first_floating_tensor_of_an_output_is_measured(wrap):
    class Wraps(torch.nn.Linear):
        def forward(self, x):
            h = super().forward(x)
            self.seen = h
            h.retain_grad()
            return wrap(h)

    torch.manual_seed(0)
    model = torch.nn.Sequential(Wraps(8, 6))
    with probe(model, [*MOMENTS, *GRADIENTS], "0") as rows:
        model(torch.randn(3, 5, 8))
        model[0].seen.square().sum().backward()
    agree(rows, "0", moments_of(model[0].seen.detach()))
    agree(rows, "0", moments_of(model[0].seen.grad), prefix="gradient_")


def test_a_diverged_model_has_rows_that_say_so(model, tokens):
    with torch.no_grad():
        model.decoder.block[1].feed_forward.down.weight[0, 0] = torch.nan
    with probe(model, [*MOMENTS, *GRADIENTS, *ATTENTION, *RANKS, *WEIGHTS]) as rows:
        model(tokens, tokens)[1].backward()
    assert math.isfinite(rows.value("decoder.block.0", "effective_rank"))
    for name in ("mean", "variance", "correlation", "gradient_variance", "stable_rank"):
        assert math.isnan(rows.value("decoder.block.1", name)), name
    assert math.isnan(rows.value("decoder.block.1.feed_forward.down.weight", "weight_stable_rank"))


def test_one_sequence_has_no_error(model, tokens):
    with probe(model, "variance", "decoder") as rows:
        model(tokens[:1])
    assert math.isnan(rows[0]["stderr"])


def test_sites_by_name_pattern_and_filter(model, tokens):
    with probe(model, "mean", "*.out") as named, probe(model, "mean", lambda name, part: name.endswith(".out")) as filtered:
        model(tokens)
    expected = [f"decoder.block.{n}.attention.out" for n in (0, 1)]
    assert [row["site"] for row in named] == [row["site"] for row in filtered] == expected


def test_bad_input_gets_one_sentence(model):
    for wrong, sentence in (
        ({"quantities": "entrpy"}, "there is no quantity 'entrpy'.*entropy"),
        ({"quantities": "update_ratio"}, "pass optimizer="),
        ({"sites": "decoder.blok.0"}, "no module has the name 'decoder.blok.0'"),
        ({"sites": lambda name, part: False}, "selects no module"),
        ({"sites": []}, "sites is empty"),
        ({"sites": ["decoder", "*.nowhere"]}, r"no module has the name '\*.nowhere'"),
        ({"quantities": []}, "quantities is empty"),
    ):
        with pytest.raises(InputError, match=sentence), probe(model, **wrong):
            pass
    with probe(model, "mean") as rows:
        pass
    with pytest.raises(InputError, match="no row has site='decoder'"):
        rows.value("decoder", "mean")
