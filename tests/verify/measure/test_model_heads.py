"""Heads of live models: measured against transformers' own weights, classes of made-up heads, cuts that lose least."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import quiet_transformers

from depthwidth.architecture import Transformer
from depthwidth.architecture.hf import FAMILIES
from depthwidth.errors import InputError
from depthwidth.layers.rotary import Rotary

torch = pytest.importorskip("torch")
transformers = quiet_transformers()

from verify.measure.head_cuts import (  # noqa: E402
    ValueCut,
    cut_losses,
    query_key_cuts,
    query_key_loss,
    query_key_spectrum,
    value_cuts,
    value_loss,
    value_losses,
)
from verify.measure.head_forms import LayerForms, ValueForms  # noqa: E402
from verify.measure.head_models import calibration_tokens, load_model  # noqa: E402
from verify.measure.head_shrinking import shrink_heads  # noqa: E402
from verify.measure.heads import Places, _Collector, measure_heads, measure_model, record_outputs  # noqa: E402

pytestmark = [pytest.mark.hf, pytest.mark.slow]

CONFIGS = {
    "gpt2": {"model_type": "gpt2", "n_layer": 2, "n_embd": 48, "n_head": 4, "n_positions": 64, "vocab_size": 256,
             "architectures": ["GPT2LMHeadModel"], "bos_token_id": 0, "eos_token_id": 0},
    "llama": {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 4,
              "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64, "vocab_size": 256,
              "architectures": ["LlamaForCausalLM"]},
    "bert": {"model_type": "bert", "num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 4, "vocab_size": 256,
             "intermediate_size": 64, "max_position_embeddings": 64, "architectures": ["BertForMaskedLM"]},
    "gpt_neox": {"model_type": "gpt_neox", "num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 4,
                 "intermediate_size": 64, "max_position_embeddings": 64, "vocab_size": 256, "rotary_pct": 0.5,
                 "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0},
    "opt": {"model_type": "opt", "num_hidden_layers": 2, "hidden_size": 48, "num_attention_heads": 4, "ffn_dim": 64,
            "max_position_embeddings": 64, "vocab_size": 256, "word_embed_proj_dim": 48, "architectures": ["OPTForCausalLM"]},
}  # fmt: skip


def written(folder, name, **more):
    path = folder / f"{name}.json"
    path.write_text(json.dumps(CONFIGS[name] | more))
    return path


@pytest.fixture
def model_of(tmp_path):
    """A model with random weights, larger than initialised so that attention does something, and biases that count."""

    def made(name, scale=4.0, **more):
        model, tree, _ = load_model(written(tmp_path, name, **more))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name_, parameter in model.named_parameters():
                if parameter.dim() == 2:
                    parameter.mul_(scale)
                elif "bias" in name_:
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        return model, tree, calibration_tokens(tree)[0]

    return made


# ---- measurement ----


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
def test_what_is_measured_is_what_transformers_computes(model_of, name):
    """Entropy, effective tokens and largest weight from the library's own attention weights; the model is left as it was."""
    model, tree, batches = model_of(name)
    before = model.config._attn_implementation
    with torch.no_grad():
        plain = model(batches).logits
    report = measure_model(model, batches, tree=tree)
    assert model.config._attn_implementation == before
    with torch.no_grad():
        assert torch.equal(model(batches).logits, plain)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        every = model(batches, output_attentions=True).attentions
    first = 32 if tree.attention.causal else 0
    for head in report.heads:
        p = every[head.layer][:, head.head, first:].double()
        assert head.entropy == pytest.approx(-(p * p.clamp(min=1e-300).log()).sum(-1).mean().item(), rel=1e-4)
        assert head.largest_weight == pytest.approx(p.amax(-1).mean().item(), rel=1e-4)
        assert head.mean_effective_tokens == pytest.approx((1 / (p * p).sum(-1)).mean().item(), rel=1e-4)


def test_the_spectrum_adds_up_to_the_logits_variance():
    """Exactly, where every row sees every key."""
    torch.manual_seed(0)
    query, key = (torch.randn(3, 40, 6) for _ in range(2))
    sums = attended(query, key + 5.0, causal=False)
    for head in range(3):
        form = [sums[name][head] / sums[count] for name, count in (("queries", "rows"), ("keys", "places"))]
        spectrum, _ = query_key_spectrum(*form, torch.zeros(6, 6, dtype=torch.float64), 0.0, 1.0)
        assert sum(spectrum) == pytest.approx(float(sums["variance"][head]) / sums["rows"], rel=1e-5)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "opt"])
def test_of_real_models_it_does_so_roughly(model_of, name):
    """To 20 %: rows see keys of their own sequence and past, the covariance is that of all keys."""
    model, tree, batches = model_of(name)
    for head in measure_model(model, batches, tree=tree).heads:
        assert sum(head.spectrum) == pytest.approx(head.logit_std**2, rel=0.20)
        assert len(head.spectrum) == tree.head_dim
        assert 0 < head.rank_99 <= tree.head_dim
        assert all(0 <= gain <= 1 + 1e-6 for gain in head.gains)


def attended(query, key, causal=True):
    """A collector that saw one layer with these queries and keys, (heads, n, d)."""
    n = query.shape[1]
    mask = torch.full((n, n), torch.finfo(torch.float32).min).triu(1) if causal else torch.zeros(n, n)
    collector = _Collector(causal)
    collector.start()
    collector.attend(torch.nn.Identity(), query[None], key[None], torch.randn_like(key)[None], mask[None, None], 1.0)
    return collector.layers[0]


def positional_share(sums, head=0):
    explained = (sums["distance_sum"] ** 2 / sums["distance_count"].clamp(min=1)).sum(1)
    return float(explained[head] / sums["variation"][head])


def test_a_head_that_looks_back_by_a_fixed_distance_is_positional_and_one_that_looks_things_up_is_not():
    torch.manual_seed(0)
    n = 64
    keys = torch.eye(n)
    query = 30 * torch.stack([torch.roll(keys, 3, dims=0), keys[torch.randint(0, n // 2, (n,))]])
    sums = attended(query, keys.expand(2, n, n))
    assert positional_share(sums, 0) > 0.95
    assert positional_share(sums, 1) < 0.3
    assert (sums["largest"] / sums["rows"] > 0.99).all()


def test_a_uniform_head_varies_not_at_all():
    sums = attended(torch.zeros(1, 16, 4), torch.randn(1, 16, 4))
    assert float(sums["variation"][0]) < 1e-10
    assert float(sums["entropy"][0] / sums["rows"]) == pytest.approx(np.log(np.arange(9, 17)).mean(), rel=1e-5)


def test_classes_decide_what_a_layer_needs(model_of):
    model, tree, batches = model_of("gpt2")
    report = measure_model(model, batches, tree=tree)
    assert {head.kind for head in report.heads} == {"diffuse"}
    sharp = report.__class__(
        tuple(SimpleNamespace(**{**vars(h), "rank_99": h.rank_99, "kind": "retrieval"}) for h in report.heads),
        report.forms, report.tree, 64, 64, "made up",
    )  # fmt: skip
    needs = sharp.needs()
    assert {need.kind for need in needs} == {"retrieval"}
    # 4 ln 64 is 17, more than the 12 there are: the floor of 9 holds, the layer keeps what it has.
    assert [(need.rank, need.floor) for need in needs] == [(12, 9)] * 2


# ---- cuts ----


@pytest.mark.parametrize("name", CONFIGS)
def test_an_allocation_of_everything_changes_nothing(model_of, name):
    model, tree, batches = model_of(name)
    report = measure_model(model, batches, tree=tree)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = shrink_heads(model, report.allocate(multiple=12, tolerance=1e-6))
    assert {(row["head_dim_after"], row["value_dim_after"]) for row in found.layers} == {(12, 12)}
    assert found.zeroed == 0
    assert found.output_change == 0
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", CONFIGS)
def test_all_heads_cut_together(model_of, name):
    """Weights become zero as counted, the prediction is the logits' own loss, and what is left is better than a worse cut."""
    model, tree, batches = model_of(name)
    report = measure_model(model, batches, tree=tree)
    made = report.allocate(multiple=2, tolerance=0.3, values=False)
    smaller = [layer.head_dim for layer in made.layers]
    assert max(smaller) < tree.head_dim
    assert {layer.value_dim for layer in made.layers} == {12}
    found = shrink_heads(model, made)
    bias = 1 if tree.attention.bias else 0
    removed = sum((tree.head_dim - d) * (tree.heads + tree.kv_heads) * (tree.width + bias) for d in smaller)
    assert found.zeroed == removed == sum(layer.parameters_saved for layer in made.layers)
    losses = [cut_losses(tree.attention.position, form) for form in report.forms]
    for row, d, lost in zip(found.layers, smaller, losses, strict=True):
        assert row["head_dim_after"] == d
        assert 0 < row["logit_variance_lost"] <= max(own[d] for own in lost) + 1e-9
        assert 0 < row["output_change"] < 0.3
    again = measure_model(model, batches, tree=tree)
    # In the first layer, whose input is as before, the logits lost what was predicted.
    first = [sum(sum(h.spectrum) for h in r.heads if h.layer == 0) for r in (report, again)]
    if not isinstance(tree.attention.position, Rotary):  # a truncation's two parts are orthogonal, dropped pairs are not
        assert 1 - first[1] / first[0] == pytest.approx(found.layers[0]["logit_variance_lost"], abs=1e-3)
    ranks = {sum(v > 1e-9 * h.spectrum[0] for v in h.spectrum) for h in again.heads if h.layer == 0}
    assert ranks == {smaller[0]}
    if tree.attention.causal:
        assert found.loss_after == pytest.approx(found.loss_before, abs=0.2)


def test_a_head_of_low_rank_loses_nothing(model_of):
    """Queries that live in 5 of 12 dimensions, in a basis of no special kind."""
    model, tree, batches = model_of("gpt2")
    torch.manual_seed(3)
    with torch.no_grad():
        for block in model.transformer.h:
            weight = block.attn.c_attn.weight.view(48, 3, 4, 12)
            bias = block.attn.c_attn.bias.view(3, 4, 12)
            for head in range(4):
                basis = torch.linalg.qr(torch.randn(12, 5))[0]
                weight[:, 0, head] = weight[:, 0, head] @ basis @ basis.T
                bias[0, head] = bias[0, head] @ basis @ basis.T
    report = measure_model(model, batches, tree=tree)
    made = report.allocate(multiple=1, tolerance=1e-9)
    assert {(layer.head_dim, layer.value_dim) for layer in made.layers} == {(5, 12)}
    assert {head.weight_rank for head in report.heads} == {5}
    assert all(4 < head.weight_effective_rank <= 5 for head in report.heads)
    assert {head.value_rank for head in report.heads} == {12}
    found = shrink_heads(model, made)
    assert found.output_change < 1e-9
    assert max(row["logit_variance_lost"] for row in found.layers) < 1e-9


def test_unused_weights_cap_what_a_layer_needs(model_of):
    """Retrieval asks for dimensions that the product of the maps does not have: nothing is lost without them."""
    model, tree, batches = model_of("gpt2")
    report = measure_model(model, batches, tree=tree)
    assert {head.weight_rank for head in report.heads} == {12}
    sharp = tuple(replace(head, kind="retrieval") for head in report.heads)
    plain = replace(report, heads=sharp).needs(share=1.0)
    few = replace(report, heads=tuple(replace(head, weight_rank=3, value_rank=2) for head in sharp)).needs(share=1.0)
    for before, after in zip(plain, few, strict=True):
        assert (after.rank, after.value_rank) == (3, 2)
        assert before.rank > 3
        assert "W_Q W_K^T has 3 singular values" in after.criterion
        assert "W_V W_O has 2 singular values" in after.value_criterion
    unknown = replace(report, heads=tuple(replace(head, weight_rank=None, value_rank=None) for head in sharp))
    assert [need.rank for need in unknown.needs(share=1.0)] == [need.rank for need in plain]
    zero = replace(report, heads=tuple(replace(head, weight_rank=0) for head in sharp)).needs(share=1.0)
    assert {need.rank for need in zero} == {1}


def forms(seed=0, heads=2, kv_heads=1, d=8, rows=300):
    rng = np.random.default_rng(seed)
    q = rng.standard_normal((heads, rows, d)) @ rng.standard_normal((d, d))
    k = rng.standard_normal((kv_heads, rows, d)) @ rng.standard_normal((d, d))
    k -= k.mean(1, keepdims=True)
    second = [torch.tensor(np.einsum("hti,htj->hij", x, x) / rows) for x in (q, k)]
    return LayerForms(*second, scale=d**-0.5), torch.tensor(q), torch.tensor(k)


def test_the_whitened_cut_is_the_best_of_its_rank():
    """Against the plain singular value decomposition of the product, and against drawn maps; predicted is what is drawn."""
    form, q, k = forms()
    scores = [q[h] @ k[0].T for h in range(2)]
    whole = sum(float((s**2).mean()) for s in scores)

    def loss(to_q, to_k):
        return sum(float(((s - (q[h] @ to_q) @ (k[0] @ to_k).T) ** 2).mean()) for h, s in enumerate(scores)) / whole

    for rank in (1, 3, 6):
        ((to_q, to_k),) = query_key_cuts(None, form, rank)
        best = loss(to_q, to_k)
        assert query_key_loss(form, [(to_q, to_k)]) == pytest.approx(best, rel=1e-9)
        assert cut_losses(None, form)[0][rank] == pytest.approx(best, rel=1e-9)
        generator = torch.Generator().manual_seed(rank)
        for _ in range(20):
            one = torch.linalg.qr(torch.randn(8, rank, generator=generator, dtype=torch.float64))[0]
            assert loss(one, one) > best
        plain = torch.zeros(8, 8, dtype=torch.float64)
        plain[:rank, :rank] = torch.eye(rank, dtype=torch.float64)
        assert loss(plain, plain) > best


def test_rotary_cuts_keep_whole_pairs():
    form, q, k = forms(d=8)
    for position, pairs in (
        (Rotary(), [(0, 4), (1, 5), (2, 6), (3, 7)]),
        (Rotary(interleaved=True), [(0, 1), (2, 3), (4, 5), (6, 7)]),
    ):
        for rank in (2, 4, 6):
            ((to_q, to_k),) = query_key_cuts(position, form, rank)
            kept = to_q.diag()
            assert torch.equal(to_q, to_k)
            assert int(kept.sum()) == rank
            assert all(kept[a] == kept[b] for a, b in pairs)
            scores = [q[h] @ k[0].T for h in range(2)]
            gone = sum(float(((s - (q[h] * kept) @ (k[0] * kept).T) ** 2).mean()) for h, s in enumerate(scores))
            assert cut_losses(position, form)[0][rank] == pytest.approx(
                gone / sum(float((s**2).mean()) for s in scores), rel=1e-9
            )
    assert [len(c) for c in cut_losses(Rotary(fraction=0.5), form)] == [9]


def test_rotation_is_left_as_it_was(model_of):
    """A cut llama: rows of the query weights come and go in pairs."""
    model, tree, batches = model_of("llama")
    made = measure_model(model, batches, tree=tree).allocate(tolerance=0.3, multiple=2)
    shrink_heads(model, made)
    for layer, block in zip(made.layers, model.model.layers, strict=True):
        for projection, heads in ((block.self_attn.q_proj, 4), (block.self_attn.k_proj, 2)):
            alive = (projection.weight.view(heads, 12, 48).abs().sum(-1) > 0).view(heads, 2, 6)
            assert torch.equal(alive[:, 0], alive[:, 1])
            assert alive.sum((1, 2)).tolist() == [layer.head_dim] * heads


# ---- values ----


def only_values(allocation, tree):
    """The same allocation with queries and keys as they were."""
    return replace(allocation, layers=tuple(replace(got, head_dim=tree.head_dim) for got in allocation.layers))


def put_out(model, tree, batches):
    """Output of the first layer's attention, without a decoder's first token, (rows, width)."""
    with record_outputs([Places(model, tree).out(0).module]) as seen, torch.no_grad():
        model(batches)
    first = 1 if tree.attention.causal else 0
    return torch.cat(seen[0]).view(*batches.shape, -1)[:, first:].flatten(0, 1).double()


@pytest.mark.parametrize("name", CONFIGS)
def test_cut_values_lose_exactly_what_is_predicted(model_of, name):
    """In the first layer, whose input and weights of attention stay: of the layer's own output, all heads together."""
    model, tree, batches = model_of(name)
    report = measure_model(model, batches, tree=tree)
    made = only_values(report.allocate(multiple=2, tolerance=0.3), tree)
    sizes = [layer.value_dim for layer in made.layers]
    assert max(sizes) < tree.attention.value_dim
    before = put_out(model, tree, batches)
    found = shrink_heads(model, made)
    after = put_out(model, tree, batches)
    layer = tree.attention
    whole = before - before.mean(0) if layer.out_bias else before
    lost = float(((after - before) ** 2).sum() / (whole**2).sum())
    predicted = value_losses(report.values[0], tree.kv_heads)
    assert found.layers[0]["value_error"] == pytest.approx(predicted[sizes[0]], rel=1e-9)
    assert lost == pytest.approx(predicted[sizes[0]], rel=2e-4)  # the model computes in single precision
    assert abs(lost - predicted[sizes[0] - 1]) > 0.01 * lost  # one dimension fewer would be told apart
    assert made.layers[0].value_error == pytest.approx(predicted[sizes[0]], rel=1e-9)
    if layer.out_bias:
        assert torch.allclose(after.mean(0), before.mean(0), atol=1e-5)
    per_value = tree.kv_heads * (tree.width + layer.bias) + tree.heads * tree.width
    assert found.zeroed == sum((layer.value_dim - size) * per_value for size in sizes)
    again = measure_model(model, batches, tree=tree).values[0].mixed
    ranks = torch.linalg.matrix_rank(torch.stack([again[h, h] for h in range(tree.heads)]), rtol=1e-9)
    assert ranks.tolist() == [sizes[0]] * tree.heads


def drawn_values(heads=1, kv_heads=1, width=7, d=6, rows=400, seed=0):
    """Mixes of tokens, value maps and output maps, and what is measured of them: about no mean."""
    rng = np.random.default_rng(seed)
    m = rng.standard_normal((heads, rows, width)) @ rng.standard_normal((width, width)) * np.geomspace(3, 0.1, width)
    wv = np.repeat(rng.standard_normal((kv_heads, width, d)), heads // kv_heads, axis=0)
    wo = rng.standard_normal((heads, d, width))
    o = np.einsum("htw,hwd->htd", m, wv)
    mixed = np.einsum("hti,gtj->hgij", o, o) / rows
    form = ValueForms(torch.tensor(mixed), torch.zeros(heads, d), torch.tensor(np.einsum("hiw,gjw->hgij", wo, wo)))
    return form, m, wv, wo


def test_a_value_loses_the_tail_of_its_whitened_map():
    """The singular values of W_o W_v C_m^(1/2) themselves, in the tokens' space."""
    form, m, wv, wo = drawn_values()
    values, vectors = np.linalg.eigh(np.einsum("ti,tj->ij", m[0], m[0]) / m.shape[1])
    s2 = np.linalg.svd((wv[0] @ wo[0]).T @ (vectors * values.clip(0) ** 0.5), compute_uv=False) ** 2
    tail = [s2[r:].sum() / s2.sum() for r in range(7)]
    assert value_losses(form, 1) == pytest.approx(tail, abs=1e-9)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (4, 2), (4, 1)])
def test_other_weightings_of_the_values_lose_more(heads, kv_heads):
    """Without the covariance of the mixes, without the output map, and dropped dimensions: each cut worse at every rank."""
    form, *_ = drawn_values(heads, kv_heads)
    flat = torch.eye(6, dtype=torch.float64).expand(heads, heads, 6, 6)
    for rank in (1, 3, 5):
        best = value_loss(form, value_cuts(form, kv_heads, rank))
        assert value_losses(form, kv_heads)[rank] == pytest.approx(best, rel=1e-9)
        for wrong in (replace(form, mixed=flat), replace(form, gram=flat)):
            worse = value_loss(form, value_cuts(wrong, kv_heads, rank)) / best
            assert worse > (1.01 if rank == 3 else 1 + 1e-6)
        dropped = torch.diag((torch.arange(6) < rank).double())
        group = heads // kv_heads
        assert value_loss(form, [ValueCut(dropped, (dropped,) * group)] * kv_heads) > 1.01 * best


def test_heads_that_share_a_value_each_read_it_best():
    """The output map that fits each head's own covariance beats the one that fits their mean."""
    form, *_ = drawn_values(4, 1, seed=3)
    cuts = value_cuts(form, 1, 3)
    mean = form.mixed[range(4), range(4)].mean(0)
    shared = mean @ cuts[0].to @ torch.linalg.pinv(cuts[0].to.T @ mean @ cuts[0].to)
    alone = sum(float(((g := torch.eye(6) - back @ cuts[0].to.T) @ form.mixed[h, h] @ g.T * form.gram[h, h]).sum())
                for h, back in enumerate(cuts[0].back))  # fmt: skip
    together = sum(float(((g := torch.eye(6) - shared @ cuts[0].to.T) @ form.mixed[h, h] @ g.T * form.gram[h, h]).sum())
                   for h in range(4))  # fmt: skip
    assert alone < 0.999 * together


def test_a_budget_is_shared_by_queries_keys_and_values(model_of):
    """Of all pairs of dimensions in two layers that fit, none has a smaller sum of errors."""
    model, tree, batches = model_of("llama")
    report = measure_model(model, batches, tree=tree)
    free = report.allocate(multiple=2, tolerance=0.01)
    budget = free.parameters * 2 // 3
    made = report.allocate(multiple=2, budget=budget)
    assert made.parameters <= budget
    needs, sizes = report.needs(), range(2, 13, 2)
    table = [{(d, v): need.error_of(d, v) for d in sizes for v in sizes} for need in needs]
    cost = {(d, v): tree.attention.replace(head_dim=d, value_dim=v).parameters for d in sizes for v in sizes}
    best = min(table[0][a] + table[1][b] for a in cost for b in cost if cost[a] + cost[b] <= budget)
    assert sum(layer.error for layer in made.layers) == pytest.approx(best, abs=1e-11)
    assert any(layer.value_criterion.startswith("budget; without it") for layer in made.layers)
    kept = report.allocate(multiple=2, budget=budget, values=False)
    assert sum(layer.error for layer in kept.layers) > best


def test_a_cut_is_measured_on_another_text(model_of):
    """Sequences that follow the calibration set: all heads, queries, keys and values, cut together."""
    model, tree, batches = model_of("gpt2")
    held_out = calibration_tokens(tree, skip=8)[0]
    assert held_out.shape == batches.shape
    assert not torch.equal(held_out, batches)
    with torch.no_grad():
        logits = model(held_out).logits
    before = float(torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), held_out[:, 1:].flatten()))
    made = measure_model(model, batches, tree=tree).allocate(multiple=2, tolerance=0.2)
    found = shrink_heads(model, made, held_out=held_out)
    assert found.loss_before == pytest.approx(before, abs=1e-5)
    assert found.loss_after != found.loss_before
    assert found.zeroed == sum(layer.parameters_saved for layer in made.layers)
    assert all(row["value_dim_after"] < 12 and row["head_dim_after"] < 12 for row in found.layers)
    assert all(0 < row["output_change"] < 0.5 for row in found.layers)


# ---- files ----


def test_a_folder_with_safetensors_is_read(model_of, tmp_path):
    model, _, _ = model_of("gpt2")
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    report = measure_heads(folder)
    assert "the folder's weights" in report.notes[0]
    direct = measure_heads(model)
    assert [h.entropy for h in report.heads] == pytest.approx([h.entropy for h in direct.heads], rel=1e-5)
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question " * 60)
    other = measure_heads(folder, text=text, context=32)
    assert (other.context, other.tokens) == (32, 256)
    assert "bytes as tokens" in other.source


def without(tensors):
    del tensors["transformer.h.0.attn.c_attn.weight"]


def with_more(tensors):
    tensors["transformer.h.7.ln_1.weight"] = torch.ones(3)


def of_another_shape(tensors):
    tensors["transformer.h.0.ln_1.weight"] = torch.ones(3)


def not_numbers(tensors):
    tensors["transformer.h.1.mlp.c_fc.weight"][0, 0] = float("nan")


HARMS = {
    without: "tensors are missing from the folder's weights: transformer.h.0.attn.c_attn.weight",
    with_more: "tensors that the model does not have are in the folder's weights: transformer.h.7.ln_1.weight",
    of_another_shape: "tensors of another shape are in the folder's weights: transformer.h.0.ln_1.weight",
    not_numbers: "tensors hold numbers that are not finite in the folder's weights: transformer.h.1.mlp.c_fc.weight",
}


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_weights_that_are_not_those_of_the_model_are_refused(model_of, tmp_path, harm, capfd):
    """The library would draw what is missing at random, unseeded."""
    from safetensors.torch import load_file, save_file

    model_of("gpt2")[0].save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    harm(tensors)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    capfd.readouterr()
    assert HARMS[harm] in refused(lambda: load_model(tmp_path))
    assert "ignore_mismatched_sizes" not in "".join(capfd.readouterr())


def test_eigenvalues_that_do_not_converge_are_one_sentence(invoke, tmp_path, monkeypatch):
    def diverge(*_, **__):
        raise torch.linalg.LinAlgError(
            "linalg.eigh: the algorithm failed to converge because the input matrix is ill-conditioned"
        )

    monkeypatch.setattr("verify.measure.heads.measure_heads", diverge)
    result = invoke("heads", tmp_path, "--measure")
    assert (result.status, result.error.count("\n")) == (2, 1)
    assert "too ill-conditioned to be measured" in result.error


def test_a_vocabulary_without_an_unknown_token_may_lack_a_word(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["gpt2"]))
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"to": 0, "be": 1}))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("to be or not " * 40)
    assert "lacks a word" in refused(lambda: measure_heads(tmp_path, text=tmp_path / "text.txt"))


def test_a_folders_own_tokenizer_is_used(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIGS["gpt2"] | {"vocab_size": 3}))
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"to": 0, "be": 1, "?": 2}, unk_token="?"))  # noqa: S106
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(folder / "tokenizer.json"))
    text = tmp_path / "text.txt"
    text.write_text("to be or not " * 40)
    report = measure_heads(folder, text=text)
    assert "the model's tokenizer" in report.source
    assert report.batches[0, :5].tolist() == [0, 1, 2, 2, 0]
    (folder / "config.json").write_text(json.dumps(CONFIGS["gpt2"] | {"vocab_size": 2}))
    assert "tokens outside the model's vocabulary of 2" in refused(lambda: measure_heads(folder, text=text))
    (folder / "tokenizer.json").write_text("{}")
    assert "tokenizer.json' cannot be read" in refused(lambda: measure_heads(folder, text=text))


UNMEASURED = {"gpt_neo", "gptj", "codegen", "bloom", "falcon", "mpnet", "mpt", "xglm", "deberta", "deberta-v2"}
TWO_STACKS = {
    "t5", "mt5", "umt5", "t5gemma", "switch_transformers", "bart", "mbart", "blenderbot", "m2m_100", "marian", "pegasus",
    "whisper",
}  # fmt: skip
IMAGES = {"vit", "vit_mae", "beit", "deit", "dinov2", "clip_vision_model", "siglip_vision_model"}
# Their new queries and keys are not small, so that scores of heads that are cut do count, up to what was allowed.
SCORED = {"clip_text_model", "siglip_text_model"}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_measured_and_cut_or_refused_in_a_sentence(family, tmp_path):
    from test_initialize import config_of

    path = tmp_path / "config.json"
    path.write_text(json.dumps(config_of(family)))
    if family in UNMEASURED | IMAGES | TWO_STACKS:
        assert "interface" in (sentence := refused(lambda: measure_heads(path))) or "one stack" in sentence
        return
    if "mixer" in Transformer.from_config(path).stack.branches:
        assert "softmax attention" in refused(lambda: measure_heads(path))
        return
    if any(repeat.block.reads_memory for repeat in Transformer.from_config(path).stack.repeats):
        assert "attend to images" in refused(lambda: measure_heads(path))
        return
    if Transformer.from_config(path).stack.streams > 1:
        assert "copies of the stream" in refused(lambda: measure_heads(path))
        return
    if Transformer.from_config(path).attention.factorised:
        assert "one set of latent features" in refused(lambda: measure_heads(path))
        return
    model, tree, _ = load_model(path)
    # What follows is exact for any sequences, but for the changes of scores beside sinks.
    sequences = calibration_tokens(tree)[0][: 8 if family == "gpt_oss" else 2]
    report = measure_model(model, sequences, tree=tree)
    assert len(report.heads) == tree.depth * tree.heads
    made = report.allocate(multiple=1, tolerance=0.3)
    if len(tree.stack.weight_sets) < tree.depth:
        assert "share their weights" in refused(lambda: shrink_heads(model, made))
        return
    if tree.attention.query_norm is not None:
        assert "normed" in refused(lambda: shrink_heads(model, made))
        made = only_values(made, tree)
    values = only_values(made, tree)
    one = shrink_heads(copy.deepcopy(model), values)
    # Values lose what was allowed, in the first layer as predicted, if no bias is part of the output and no norm rescales it.
    assert all(0 < row["value_error"] <= 0.3 for row in one.layers)
    if not (tree.attention.out_bias or tree.attention.normed_inside):
        assert one.layers[0]["output_change"] == pytest.approx(one.layers[0]["value_error"], rel=1e-3)
    per_value = tree.kv_heads * (tree.width + tree.attention.bias) + tree.heads * tree.width
    assert one.zeroed == sum((tree.head_dim - layer.value_dim) * per_value for layer in made.layers) > 0
    if made != values:
        queries = replace(made, layers=tuple(replace(got, value_dim=tree.attention.value_dim) for got in made.layers))
        found = shrink_heads(model, queries)
        assert one.zeroed + found.zeroed == sum(layer.parameters_saved for layer in made.layers)
        assert found.zeroed > 0
        assert found.output_change < (0.3 if family in SCORED else 1e-3)


def test_random_weights_are_repeatable_and_leave_the_generator_alone(tmp_path):
    path = written(tmp_path, "llama")
    state = torch.random.get_rng_state()
    one, two = (measure_heads(path, seed=s) for s in (0, 0))
    assert torch.equal(state, torch.random.get_rng_state())
    assert one.heads == two.heads
    assert measure_heads(path, seed=1).heads != one.heads


def test_code_in_a_folder_is_never_run(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    marker = tmp_path / "ran"
    (folder / "modeling_evil.py").write_text(f"open({str(marker)!r}, 'w').write('x')\nclass Evil: pass\n")
    config = CONFIGS["gpt2"] | {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Evil"}}
    (folder / "config.json").write_text(json.dumps(config))
    measure_heads(folder)
    assert not marker.exists()


def refused(call):
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_text_stack_of_another_model_is_not_measured(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "llava", "text_config": {"model_type": "llama", "num_hidden_layers": 2}}))
    assert "inside a model of type 'llava' is counted but not measured" in refused(lambda: measure_heads(path))


def test_wrong_input_gets_one_sentence(tmp_path, model_of):
    path = written(tmp_path, "gpt2")
    short = tmp_path / "short.txt"
    short.write_text("too short")
    assert "9 tokens, fewer than the context of 64" in refused(lambda: measure_heads(path, text=short))
    assert "context=100 is not a whole number from 8 to the model's 64" in refused(lambda: measure_heads(path, context=100))
    assert "there is no text file" in refused(lambda: measure_heads(path, text=tmp_path / "nothing"))
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe\xff" * 100)
    assert "not UTF-8" in refused(lambda: measure_heads(path, text=tmp_path / "bad.txt"))
    assert "there is no config file" in refused(lambda: measure_heads(tmp_path / "none.json"))
    folder = tmp_path / "pickled"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIGS["gpt2"]))
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert "is not a safetensors file" in refused(lambda: measure_heads(folder))
    (folder / "model.safetensors").write_bytes(b"not a header")
    assert "cannot be loaded" in refused(lambda: measure_heads(folder))
    (tmp_path / "vit.json").write_text('{"model_type": "vit", "image_size": 16, "patch_size": 4}')
    assert "only text models" in refused(lambda: measure_heads(tmp_path / "vit.json", context=8))
    model, tree, batches = model_of("gpt2")
    assert "needs the measurement" in refused(lambda: shrink_heads(model, _design(tree)))
    report = measure_model(model, batches, tree=tree)
    assert "changes head dimensions only" in refused(lambda: shrink_heads(model, report.allocate(features=8)))
    assert "tolerance=1.5 is not between 0 and 1" in refused(lambda: report.allocate(tolerance=1.5))
    cut = report.allocate(multiple=2, tolerance=0.3)
    assert "values that were not measured" in refused(lambda: shrink_heads(model, cut, replace(report, values=())))
    assert "held_out needs the shape" in refused(lambda: shrink_heads(model, cut, held_out=batches[0]))
    assert "skip=-1 is not a whole number" in refused(lambda: calibration_tokens(tree, skip=-1))
    (tmp_path / "long.txt").write_text("x" * 500)
    assert "500 tokens, fewer than 9 times the context of 64" in refused(
        lambda: calibration_tokens(tree, text=tmp_path / "long.txt", skip=8)
    )
    assert "with a context of at least 8" in refused(lambda: measure_model(model, batches[:, :4], tree=tree))


def _design(tree):
    from depthwidth.planning.head_allocation import allocate_heads, design_needs

    return allocate_heads(tree.width, 64, design_needs(tree.depth, 64), heads=tree.heads)


def test_heads_with_norms_are_measured_but_not_cut(tmp_path):
    path = tmp_path / "qwen3.json"
    path.write_text(json.dumps({
        "model_type": "qwen3", "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "intermediate_size": 32, "max_position_embeddings": 32, "vocab_size": 256,
        "architectures": ["Qwen3ForCausalLM"],
    }))  # fmt: skip
    model, tree, _ = load_model(path)
    report = measure_model(model, calibration_tokens(tree)[0], tree=tree)
    assert len(report.heads) == 4
    assert "normed after their projection" in refused(lambda: shrink_heads(model, report.allocate(multiple=2, tolerance=0.5)))


# ---- the command ----


def test_the_command_measures(invoke, tmp_path):
    path = written(tmp_path, "gpt2")
    done = invoke("heads", path, "--measure", "--multiple", "2", "--json")
    assert done.status == 0, done.error
    found = json.loads(done.output)
    assert len(found["layers"]) == 2
    assert len(found["measured"]) == 8
    assert {"layer", "heads", "head_dim", "criterion"} <= set(found["layers"][0])
    assert found["measured"][0]["kind"] == "diffuse"
    assert {row["weight_rank"] for row in found["measured"]} == {12}
    for layer in found["layers"]:
        assert layer["value_dim"] < 12
        assert layer["value_criterion"] == "layer output within 5 %"
        assert 0 < layer["value_error"] <= 0.05
        assert layer["value_error"] < layer["error"]
    table = invoke("heads", path, "--measure", "--multiple", "2")
    assert "Measured on 512 tokens" in table.output
    assert "layer output within 5 %" in " ".join(table.output.split())
    kept = json.loads(invoke("heads", path, "--measure", "--multiple", "2", "--keep-values", "--json").output)
    assert {(layer["value_dim"], layer["value_criterion"], layer["value_error"]) for layer in kept["layers"]} == {
        (12, "unchanged", 0.0)
    }
    assert kept["parameters_saved"] < found["parameters_saved"]
    short = tmp_path / "short.txt"
    short.write_text("too short")
    wrong = invoke("heads", path, "--measure", "--text", short)
    assert (wrong.status, len(wrong.error.strip().splitlines())) == (2, 1)
    assert "fewer than the context" in wrong.error
    assert "no meaning with --measure" in invoke("heads", path, "--measure", "--width", "64").error


def test_entropy_at_initialisation_is_what_the_theory_says(tmp_path):
    """GPT-2 with larger weights: the exact integral at the measured variance, to a tenth of what attention is off uniform."""
    from depthwidth.formulas import saturation

    report = measure_heads(written(tmp_path, "gpt2", n_embd=192, n_head=4, n_layer=1, initializer_range=0.08))
    rows = np.arange(33, 65)
    for head in report.heads:
        predicted = np.mean([saturation.entropy(head.logit_std**2, int(n)) for n in rows])
        below_uniform = np.log(rows).mean() - head.entropy
        assert below_uniform > 0.3
        assert abs(head.entropy - predicted) < 0.1 * below_uniform
