"""Capacity of live models: worked values, independent ways to the same number, what does not apply, and what is refused."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from depthwidth import InputError, Transformer  # noqa: E402
from depthwidth.analysis import capacity as states  # noqa: E402
from depthwidth.analysis import head_capacity  # noqa: E402
from depthwidth.formula import find_formula  # noqa: E402
from depthwidth.formulas import capacity as laws  # noqa: E402
from depthwidth.numerics.network_norms import network_norms, training_margin, with_biases  # noqa: E402
from verify import build, capacity  # noqa: E402
from verify.measure.capacity import noise  # noqa: E402
from verify.measure.capacity.chain import NoChain, find_chain, run_chain  # noqa: E402
from verify.measure.capacity.points import Points  # noqa: E402

FIRST, SECOND = [[1, -2], [3, 0.5]], [[1.0, -1], [2, 1]]


def mlp(*sizes, bias=True, seed=0, gain=1.0):
    torch.manual_seed(seed)
    parts = []
    for before, after in itertools.pairwise(sizes):
        parts += [nn.Linear(before, after, bias=bias), nn.ReLU()]
    net = nn.Sequential(*parts[:-1])
    with torch.no_grad():
        for one in net.parameters():
            one.mul_(gain)
    return net


def worked():
    net = mlp(2, 2, 2, bias=False)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(FIRST))
        net[2].weight.copy_(torch.tensor(SECOND))
    return net


def points(n=40, features=6, classes=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, features, generator=generator), torch.randint(classes, (n,), generator=generator)


def fitted(net, data, steps=150):
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(data[0]), data[1]).backward()
        optimiser.step()
    return net


def values(report):
    return {one.name: one.value for one in report.results if not one.site}


# ---- chains ----


def test_the_worked_network():
    """Values of the sheet, at the margin of the points themselves instead of one half."""
    x = torch.tensor([[1.0, 0.0], [0.5, 0.2]])
    found = capacity(worked(), (x, torch.tensor([1, 1])), noisy=False)
    margin = found.facts["margin"]
    assert margin == pytest.approx(3.3 + 0.05 * (7 - 3.3))
    scale = (0.5 / margin) ** 2
    expected = {"l2": 6384, "l1-path": 16384, "l2-path": 11136, "spectral": 852.106}
    for name, value in expected.items():
        assert found.value(name) == pytest.approx(value * scale, rel=1e-5)
    assert found.value("spectral complexity") == pytest.approx(33.5430, rel=1e-5)
    assert found.value("path-norm") == pytest.approx(math.sqrt(43.5 / 2))
    assert found.facts["input_norm"] == pytest.approx(1.0)


def test_paths_by_enumeration_and_spectra_by_svd():
    data = points()
    net = mlp(6, 5, 4, 3, bias=False, seed=2)
    found = capacity(net, data, noisy=False)
    weights = [one.detach().double().numpy() for one in net.parameters()]
    sizes = [6, 5, 4, 3]
    paths = sum(
        math.prod(abs(w[j, i]) ** 2 for w, (i, j) in zip(weights, itertools.pairwise(path), strict=True))
        for path in itertools.product(*map(range, sizes))
    )
    assert found.value("path-norm") == pytest.approx(math.sqrt(paths / 40), rel=1e-9)
    for one, w in zip(found.matrices, weights, strict=True):
        exact = np.linalg.norm(w, 2)
        assert exact * (1 - found.facts["tolerance"]) <= one.spectral <= exact * (1 + 1e-12)
    spectra = math.prod(np.linalg.norm(w, 2) ** 2 for w in weights)
    assert found.value("log-prod-of-spec") == pytest.approx((math.log(spectra) - math.log(40)) / 2, rel=1e-9)


@pytest.mark.slow
def test_a_unit_that_is_rescaled_changes_norms_and_not_paths():
    data = points()
    net = fitted(mlp(6, 8, 3, bias=False), data)
    before = values(capacity(net, data, noisy=False))
    with torch.no_grad():
        net[0].weight[1] *= 5
        net[2].weight[:, 1] /= 5
    after = values(capacity(net, data, noisy=False))
    for name in ("l1-path", "l2-path", "path-norm"):
        assert after[name] == pytest.approx(before[name], rel=1e-4)
    for name in ("l2", "spectral", "spectral margin gap", "fro-over-spec"):
        assert abs(after[name] / before[name] - 1) > 0.01


class Written(nn.Module):
    """A chain whose ReLUs are calls, with a batch norm and a dropout."""

    def __init__(self, last=nn.functional.relu):
        super().__init__()
        self.a, self.norm, self.b, self.last = nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3), last
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.b(self.drop(self.last(self.norm(self.a(x)))))


def test_a_chain_is_known_by_its_output_and_batch_norms_are_folded():
    torch.manual_seed(0)
    data, net = points(), Written()
    with torch.no_grad():
        net.norm.running_mean.normal_()
        net.norm.running_var.uniform_(0.5, 2)
        net.norm.weight.normal_()
    net.eval()
    chain = find_chain(net, data[0])
    state = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    assert np.abs(run_chain(*chain.matrices(state), data[0].double().numpy()) - net(data[0]).detach().numpy()).max() < 1e-5
    folded = capacity(net, data, noisy=False).value("path-norm")
    with torch.no_grad():
        net.norm.weight *= 2
    assert capacity(net, data, noisy=False).value("path-norm") == pytest.approx(2 * folded, rel=1e-6)
    for other in (nn.functional.gelu, nn.functional.leaky_relu, nn.Identity()):
        with pytest.raises(NoChain, match="its output is not that of a chain"):
            find_chain(Written(other).eval(), data[0])


def test_biases_are_weights_of_one_more_input():
    """The network without biases on (x, 1) is the same function, so that the bound is one for it."""
    data = points()
    net = mlp(6, 5, 4, 3, seed=3)
    weights = [net[i].weight.detach().double().numpy() for i in (0, 2, 4)]
    whole = with_biases(weights, [net[i].bias.detach().double().numpy() for i in (0, 2, 4)])
    x = np.hstack([data[0].double().numpy(), np.ones((40, 1))])
    assert np.abs(run_chain(whole, [None] * 3, x) - net(data[0]).detach().numpy()).max() < 1e-5
    with pytest.raises(InputError, match="bias 1 is not 4 finite numbers"):
        with_biases(weights, [None, np.ones(3), None])
    found, sizes = capacity(net, data, noisy=False), network_norms(whole)
    gap = find_formula("capacity.spectral_margin_gap")(
        3, 7, math.hypot(found.facts["input_norm"], 1), sizes.spectral_product**2, sizes.stable_ranks, 2.0**20, 40, 0.05 / 31
    )
    bound = next(one for one in found.results if one.name == "spectral margin bound")
    assert bound.value == pytest.approx(1 + gap, rel=1e-6)
    assert bound.vacuous
    assert "margin loss 1 plus" in bound.sentence


def test_every_result_has_a_nature_and_a_formula_or_a_reason():
    found = capacity(mlp(6, 5, 3), points(), draws=2, steps=2)
    for one in found.results:
        assert one.nature in states.NATURES
        find_formula(one.formula)
        assert one.value is None or math.isfinite(one.value)
        assert one.sentence or one.value is not None
        assert (one.vacuous is None) == (one.nature != "bound" or one.value is None)
    assert {one.nature for one in found.results} == set(states.NATURES)
    assert len({(one.name, one.site) for one in found.results}) == len(found.results)


def test_a_network_that_does_not_fit_has_no_capacity_over_its_margin():
    found = capacity(mlp(6, 5, 3), points(), noisy=False)
    assert found.facts["margin"] < 0
    with pytest.raises(InputError, match="the network does not fit its data"):
        found.value("l2")
    assert found.value("path-norm") > 0


def test_distances_from_the_start():
    data, start = points(), mlp(6, 8, 3, bias=False)
    net = fitted(mlp(6, 8, 3, bias=False), data)
    found = capacity(net, data, initial=start, noisy=False)
    moves = [(now - then).detach().double().numpy() for now, then in zip(net.parameters(), start.parameters(), strict=True)]
    assert found.value("fro-dist") == pytest.approx(math.sqrt(sum((one**2).sum() for one in moves) / 40))
    assert found.value("dist-spec-init") == pytest.approx(math.sqrt(sum(np.linalg.norm(one, 2) ** 2 for one in moves) / 40))
    spectra = [np.linalg.norm(one.detach().double().numpy(), 2) for one in net.parameters()]
    sums = sum(len(one) * (one**2).sum() / s**2 for one, s in zip(moves, spectra, strict=True))
    index = 2 * math.prod(spectra) * math.sqrt(sums / 40) / found.facts["margin"]
    assert found.value("spectral distance index") == pytest.approx(index, rel=1e-6)
    still = capacity(net, data, initial=net, noisy=False)
    for name in ("fro-dist", "log-spec-init-main"):
        with pytest.raises(InputError, match="still those of the start"):
            still.value(name)
    with pytest.raises(InputError, match=r"initial weights have no 0\.weight of shape"):
        capacity(net, data, initial=mlp(6, 7, 3, bias=False), noisy=False)


# ---- noise ----


@pytest.mark.slow
def test_expected_sharpness_is_that_of_the_hessian_for_small_noise():
    """E L(w + nu) - L(w) is half the sum of the Hessian's diagonal times the variances, to leading order."""
    data = points(12, 3, 2)
    net = fitted(mlp(3, 2, bias=False), data, 20).double()
    made = Points(net, (data[0].double(), data[1]))
    near, loss = noise.Near(draws=1000), made.fit().loss
    [w] = made.parameters.values()

    def of(flat):
        return nn.functional.cross_entropy(data[0].double() @ flat.reshape(w.shape).T, data[1])

    diagonal = torch.autograd.functional.hessian(of, w.flatten()).diagonal()
    scale = 0.02
    expected = float((diagonal * (scale * (10 * w.flatten().abs() + 1)) ** 2).sum()) / 2
    assert noise.expected_rise(made, loss, scale, near) == pytest.approx(expected, rel=0.15)
    assert noise.expected_rise(made, loss, 2 * scale, near) > 2.5 * expected


def test_the_worst_loss_of_a_linear_map_is_at_a_corner():
    """One point and a map of one layer: the loss is monotone in every weight, so that the corner is known."""
    net = mlp(2, 2, bias=False, seed=4)
    x, y = torch.tensor([[1.0, -2.0], [1.0, -2.0]]), torch.tensor([0, 0])
    made = Points(net, (x, y))
    found = noise.worst_loss(made, made.fit().loss, noise.Near(steps=30), box=0.01)
    [w] = made.parameters.values()
    corner = w + 0.01 * (w.abs() + 1) * torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
    assert found == pytest.approx(float(nn.functional.cross_entropy(x @ corner.T, y)), rel=1e-6)
    assert found > made.fit().loss + 0.02


def test_divergence_at_fixed_sharpness_is_the_formula_weight_by_weight():
    net = worked()
    exact = sum(float(laws.gaussian_divergence(float(w) ** 2, laws.magnitude_noise(abs(float(w)), 0.01)))
                for one in net.parameters() for w in one.detach().flatten())  # fmt: skip
    assert noise.magnitude_divergence(dict(net.named_parameters()), 0.01) == pytest.approx(exact)
    assert exact == pytest.approx(337.541, rel=1e-5)


@pytest.mark.slow
def test_the_largest_box_reaches_the_first_of_ten_points():
    """Logits differ by 1 at x = 1 to 10; a box alpha lowers that by 2 alpha (x + 1), so that x = 10 turns first, then x = 9."""
    net = nn.Linear(1, 2).double()
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[-1e-9], [1e-9]]))
        net.bias.copy_(torch.tensor([-0.5, 0.5]))
    made = Points(net, (torch.arange(1.0, 11.0, dtype=torch.float64)[:, None], torch.ones(10, dtype=torch.long)))
    near = noise.Near(steps=12)
    assert 1 / 22 <= noise.largest_box(made, 0.0, near, magnitude=False) <= 1 / 20
    of_weights = noise.largest_box(made, 0.0, near, magnitude=True)  # 2 (alpha/2 + eps (x + 1)) = 1
    assert 1 - 22 * noise.FLOOR <= of_weights <= 1 - 20 * noise.FLOOR
    found = capacity(net, (made.inputs, made.targets), worst_case=True, draws=1, steps=12)
    assert found.value("sharpness-mag-flatness") == pytest.approx(of_weights**-1 / math.sqrt(10))
    assert "sharpness-flatness" not in {
        one.name for one in capacity(net, (made.inputs, made.targets), draws=1, steps=1).results
    }
    wrong = capacity(net, (made.inputs, 0 * made.targets), worst_case=True, draws=1, steps=1)
    assert "cannot fall" in next(one.sentence for one in wrong.results if one.name == "sharpness-flatness")


def test_the_largest_noise_is_a_standard_deviation():
    """Noise of that deviation lowers the accuracy by a tenth; its square, which the published code passes, does not."""
    data = points(200, 6, 3)
    net = fitted(mlp(6, 32, 3), (data[0], (data[0][:, 0] > 0).long()), 200)
    made = Points(net, (data[0], (data[0][:, 0] > 0).long()))
    near, error = noise.Near(draws=60), made.errors(made.parameters)
    sigma = noise.largest_noise(made, error, near, magnitude=False)

    def drop(spread):
        torch.manual_seed(5)
        draws = [{n: w + spread * torch.randn_like(w) for n, w in made.parameters.items()} for _ in range(200)]
        return sum(map(made.errors, draws)) / 200 - error

    assert drop(sigma) == pytest.approx(0.1, abs=0.03)
    assert drop(sigma**2) < 0.05


def test_the_noisy_bound_of_weights_that_never_moved_is_the_price_of_grid_and_draws():
    """No divergence, and an error of 0 under the smallest noise; from a prior about zero it costs more."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 2, generator=generator)
    net = mlp(2, 2, bias=False)
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[8.0, 0.0], [-8.0, 0.0]]))
    made = Points(net, (x, (x[:, 0] < 0).long()), 5000)
    near = noise.Near(draws=60)
    still = noise.noisy_bound(made, made.parameters, 0.05, near)
    price = math.sqrt(math.log(2 * 16 / 0.05) / 120) + laws.pac_bayes_penalty(0.0, 5000, 0.05 / 32)
    assert price <= still.value < price + 0.05 < 1
    assert noise.noisy_bound(made, None, 0.05, near).value > still.value + 0.05


# ---- attention ----


def head_matrices(rng, width=6, dim=2):
    return [rng.standard_normal(shape) for shape in ((dim, width), (dim, width), (dim, width), (width, dim))]


def test_norms_of_a_head_are_those_of_its_products(rng):
    q, k, v, o = head_matrices(rng)
    found = head_capacity.head_norms("a", 0, q, k, v, o, 0.5)
    scores, mixed = 0.5 * k.T @ q, o @ v
    assert found.score_spectral == pytest.approx(np.linalg.norm(scores, 2))
    assert found.score_nuclear == pytest.approx(np.linalg.norm(scores, "nuc"))
    assert (found.score_rank, found.value_spectral) == (2, pytest.approx(np.linalg.norm(mixed, 2)))
    assert found.value_group == pytest.approx(np.linalg.norm(mixed, axis=1).sum())
    with pytest.raises(InputError, match="do not fit"):
        head_capacity.head_norms("a", 0, q, k[:1], v, o, 0.5)


def test_a_cover_of_both_maps_covers_the_head(rng):
    """Any change of scores and values within the parts' resolutions moves the head's output by at most their sum."""
    worst = 0.0
    for _ in range(200):
        q, k, v, o = head_matrices(rng)
        x, scores, mixed = rng.standard_normal((5, 6)), k.T @ q, o @ v
        norm = np.linalg.norm(x, axis=1).max()
        change, other = 0.1 * rng.standard_normal((6, 6)), 0.1 * rng.standard_normal((6, 6))

        def head(w, s, x=x):
            scores = x @ s @ x[0]
            p = np.exp(scores - scores.max())
            return w @ (x.T @ (p / p.sum()))

        moved = np.linalg.norm(head(mixed + change, scores + other) - head(mixed, scores))
        limit = norm * np.linalg.norm(change, 2) + norm * np.linalg.norm(mixed, 2) * norm**2 * np.linalg.norm(other, 2)
        worst = max(worst, moved / limit)
    assert 0.05 < worst < 1


def test_covering_results_of_a_layer(rng):
    heads = [head_capacity.head_norms("a", i, *(0.01 * m for m in head_matrices(rng)), 1.0) for i in range(2)]
    given = {"width": 6, "input_norm": 2.0, "samples": 10_000, "length": 32}
    proxy, scale, gap = head_capacity.attention_results(heads, **given)
    order = sum(laws.head_covering_order(2.0, h.value_spectral, h.value_group, h.score_group, 10_000, 32) for h in heads)
    assert (proxy.nature, proxy.value) == ("proxy", pytest.approx(order))
    parts = [laws.map_covering_scale(2.0, h.value_entries, 6, 6) for h in heads]
    parts += [laws.map_covering_scale(2.0, h.score_entries, 6, 6, 4 * h.value_spectral) for h in heads]
    c = sum(p ** (2 / 3) for p in parts) ** 1.5
    assert scale.value == pytest.approx(c)
    assert gap.value == pytest.approx(laws.rademacher_gap(laws.covered_rademacher(c, 10_000), 10_000, 0.05))
    assert (gap.nature, gap.vacuous) == ("bound", False)
    few = head_capacity.attention_results(heads, **given | {"samples": 2, "input_norm": 30.0})[2]
    assert (few.value, few.vacuous) == (None, True)
    none = head_capacity.attention_results(
        [head_capacity.head_norms("a", 0, *(0 * m for m in head_matrices(rng)), 1.0)], **given
    )
    assert all(one.value is None and "zero" in one.sentence for one in none)


def tree(**choices):
    return Transformer(depth=2, width=16, heads=2, vocab=20, context=8, **choices)


def tokens(sequences=6):
    return torch.randint(20, (sequences, 8), generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
def test_a_transformer_says_what_does_not_apply_and_what_does():
    model = build(tree(), seed=1)
    found = capacity(model, tokens(), draws=2, steps=1)
    sentence = next(one.sentence for one in found.results if one.name == "spectral margin bound")
    assert "LayerNorm" in sentence
    assert "the PAC-Bayes bound of noisy weights holds" in sentence
    assert next(one for one in found.results if one.name.startswith("PAC-Bayes")).vacuous
    assert (found.facts["samples"], found.facts["targets"]) == (6, 42)
    loss = float(model(tokens()[:, :-1], tokens()[:, 1:])[1].detach())
    assert found.facts["loss"] == pytest.approx(loss, rel=1e-5)
    assert len(found.heads) == 4
    layer = model.decoder.block[0].attention
    q, k = (part.weight.detach().double().numpy()[8:] for part in (layer.query, layer.key))
    assert found.heads[1].score_spectral == pytest.approx(np.linalg.norm(k.T @ q, 2) / math.sqrt(8), rel=1e-6)
    names = [one.name for one in found.matrices if one.spectral is None]
    assert names == ["stem.positions.weight"] or all("positions" in name for name in names)
    assert model.training


def test_attention_of_another_kind_is_told():
    found = capacity(build(tree(qk_norm="head"), seed=1), tokens(), noisy=False)
    assert "without norms inside" in next(one.sentence for one in found.results if one.name == "attention layer gap")
    assert found.heads == ()


@pytest.mark.slow
@pytest.mark.hf
def test_a_model_of_the_library_has_the_results_of_ours():
    transformers = pytest.importorskip("transformers")
    from verify import from_hf

    config = transformers.LlamaConfig(
        vocab_size=20, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=8,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config)
    one, two = (capacity(model, tokens(), noisy=False) for model in (theirs, from_hf(theirs)))
    for name, value in values(one).items():
        assert values(two)[name] == (None if value is None else pytest.approx(value, rel=1e-4)), name
    assert [h.to_dict() for h in one.heads] == [h.to_dict() for h in two.heads]
    assert one.facts["loss"] == pytest.approx(two.facts["loss"], rel=1e-5)


# ---- states ----


def test_measures_of_a_state_are_the_formulas():
    net = mlp(6, 5, 4, 3, bias=False)
    state = [(name, one.detach().numpy()) for name, one in net.named_parameters()]
    found = {one.name: one.value for one in states.state_capacity(state, samples=100, margin=0.5).results}
    sizes = network_norms([one for _, one in state])
    spectra, ranks = sizes.spectral_product**2, sizes.stable_ranks
    expected = {
        "log-spec-orig-main": laws.spectral_margin_measure(spectra, ranks, 0.5),
        "log-sum-of-spec-over-margin": laws.geometric_norm_sum(spectra, 3, 0.5),
        "log-sum-of-fro": laws.geometric_norm_sum(sizes.frobenius_product**2, 3, 1.0),
        "log-prod-of-fro-over-margin": sizes.frobenius_product**2 / 0.25,
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(math.log(laws.reported_measure(value, 100)), rel=1e-6), name
    assert found["params"] == pytest.approx(math.sqrt(62 / 100))
    weights_alone = {one.name: one.value for one in states.state_capacity(state).results}
    assert "log-prod-of-spec-over-margin" not in weights_alone
    assert weights_alone["log-prod-of-spec"] == pytest.approx(found["log-prod-of-spec"] + math.log(100) / 2)


def test_a_deep_state_does_not_overflow():
    found = states.state_capacity((f"w{i}", 1e3 * np.eye(2)) for i in range(200))
    value = next(one.value for one in found.results if one.name == "log-prod-of-spec")
    assert value == pytest.approx(200 * math.log(1e3))


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ([("a", np.full((2, 2), np.nan))], "a holds NaN"),
        ([("a", np.zeros((2, 2)))], "a is zero"),
        ([("a", np.ones(3))], "no matrix"),
        ([("a", np.ones((0, 3)))], "a is empty"),
        ([], "no matrix"),
    ],
    ids=str,
)
def test_states_that_are_refused(tensors, sentence):
    with pytest.raises(InputError, match=sentence):
        states.state_capacity(tensors)


def test_stacks_and_kernels_are_matrices(rng):
    stack, kernel = rng.standard_normal((3, 4, 2)), rng.standard_normal((4, 2, 3, 3))
    found = states.state_capacity([("experts", stack), ("conv", kernel)]).matrices
    assert [one.name for one in found] == ["experts[0]", "experts[1]", "experts[2]", "conv"]
    assert found[1].spectral == pytest.approx(np.linalg.norm(stack[1], 2), rel=1e-5)
    assert (found[3].outputs, found[3].inputs) == (4, 18)


# ---- refusals ----


def damaged(value):
    net = mlp(6, 5, 3)
    with torch.no_grad():
        net[0].weight[0, 0] = value
    return net


X, Y = points()


@pytest.mark.parametrize(
    ("model", "data", "sentence"),
    [
        (damaged(math.nan), (X, Y), "0.weight holds NaN"),
        (damaged(math.inf), (X, Y), "0.weight holds NaN"),
        (nn.ReLU(), (X, Y), "has no weights"),
        (nn.Linear(6, 3, device="meta"), (X, Y), "has no values yet"),
        (mlp(6, 5, 3), (X[:0], Y[:0]), "have 0 samples"),
        (mlp(6, 5, 3), (X, torch.full((40,), -100)), "expected 2 at least with a target"),
        (mlp(6, 5, 3), (X, Y[:-1]), "40 inputs and 39 targets"),
        (mlp(6, 5, 3), (X[:, :4], Y), "does not take these inputs"),
        (mlp(6, 5, 3), (X, Y + 1), "targets run from 1 to 3, expected 0 to 2"),
        (mlp(6, 5, 3), (X, Y.float()), "expected whole numbers"),
        (mlp(6, 5, 3), (X * math.nan, Y), "inputs hold NaN"),
        (mlp(6, 5, 3), (X, Y[:, None].expand(-1, 2)), "one vector of logits for each target"),
        (mlp(6, 5, 3), X, "not known to predict the next token"),
        (mlp(6, 5, 3), "text", "neither a pair"),
        (mlp(6, 5, 1), (X, 0 * Y), "two classes"),
        (SimpleNamespace(), (X, Y), "is no torch module"),
    ],
    ids=str,
)
def test_one_sentence_for_what_cannot_be_measured(model, data, sentence):
    with pytest.raises(InputError, match=sentence):
        capacity(model, data, noisy=False)


@pytest.mark.parametrize(
    "wrong",
    [{"failure": 0}, {"failure": 1.0}, {"draws": 0}, {"steps": -1}, {"seed": True}, {"batch": 0}, {"tolerance": 0.0}],
    ids=str,
)
def test_settings_outside_their_domains(wrong):
    with pytest.raises(InputError):
        capacity(mlp(6, 5, 3), (X, Y), noisy=False, **wrong)


def test_the_margin_is_that_of_the_logits():
    data = points()
    net = mlp(6, 5, 3)
    logits = net(data[0]).detach().double().numpy()
    own = [row[y] - max(np.delete(row, y)) for row, y in zip(logits, data[1].numpy(), strict=True)]
    assert capacity(net, data, noisy=False, batch=7).facts["margin"] == pytest.approx(training_margin(own), rel=1e-5)
