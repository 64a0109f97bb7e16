"""Relative clipping, alone and in training, and the laws of the norm of scale-invariant weights that it trains."""

import math

import pytest

from depthwidth import SCALE_INVARIANT, InputError, Transformer
from depthwidth.formulas import scale_invariance as laws
from depthwidth.numerics.scale_invariance import clipped_mean, clipped_share

torch = pytest.importorskip("torch")

from verify import build  # noqa: E402
from verify.training import optim  # noqa: E402
from verify.training.corpus import zipf_markov  # noqa: E402
from verify.training.scale_invariant import (  # noqa: E402
    RelativeClipSGD,
    clip_relative_to_weights,
    scale_invariant_groups,
)
from verify.training.train import Training, train  # noqa: E402

INSIDE = ("stem.", "encoder.")
RECIPE = Training(
    steps=10, batch=4, context=16, optimizer="scale-invariant", learning_rate=0.05, weight_decay=0.02, relative_clip=4.0,
    clip=None, schedule="constant", evaluate_batches=1,
)  # fmt: skip


def small_model(seed=0):
    tree = Transformer(2, 16, 2, **SCALE_INVARIANT, vocab=32, context=16, head="masked-lm")
    return build(tree, "normal", seed=seed)


def drawn(*shapes, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in shapes]


def turned(start, noises, **options):
    """Weights after SGD on a scale-invariant linear loss of each noise, and norm, angle and unit gradient norm of each step."""
    x = torch.nn.Parameter(start.clone())
    optimizer = RelativeClipSGD([x], **options)
    rows = []
    for noise in noises:
        optimizer.zero_grad()
        (noise @ x / x.norm()).backward()
        before, size = x.detach().clone(), float(x.grad.norm())
        optimizer.step()
        after = x.detach()
        cosine = float(before @ after / before.norm() / after.norm())
        rows.append((float(after.norm()), math.acos(min(1.0, cosine)), size * float(before.norm())))
    return x.detach(), rows, optimizer


def gaussian(steps, size, seed=0):
    """Noises whose part orthogonal to any direction has a mean square of 1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(steps, size, generator=generator, dtype=torch.float64) / math.sqrt(size - 1)


def test_a_step_is_that_of_the_algorithm():
    weights = drawn((3, 4), (5,))
    gradients = [10 * torch.ones_like(weight) for weight in weights]
    eta, decay = 0.3, 0.05
    whole = torch.cat([weight.detach().flatten() for weight in weights])
    steep = torch.cat([one.flatten() for one in gradients])
    limit = laws.clip_threshold(eta, decay, float(whole.norm()), 4)
    assert float(steep.norm()) > limit
    expected = (1 - eta * decay) * whole - eta * steep * limit / steep.norm()
    optimizer = RelativeClipSGD(weights, lr=eta, weight_decay=decay)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    optimizer.step()
    found = torch.cat([weight.detach().flatten() for weight in weights])
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=0)
    assert int(optimizer.clipped) == 1
    for weight in weights:
        weight.grad = 1e-3 * torch.ones_like(weight)
    optimizer.step()
    assert int(optimizer.clipped) == 1
    expected = (1 - eta * decay) * found - eta * 1e-3
    torch.testing.assert_close(torch.cat([weight.detach().flatten() for weight in weights]), expected, rtol=1e-13, atol=0)


def test_it_is_the_clipping_of_the_training_loop():
    training = Training(optimizer="sgd", clip=None, relative_clip=4.0)
    ours, theirs = drawn((4, 4), (3, 4)), drawn((4, 4), (3, 4))
    rates = [(0.5, 0.1), (0.2, 0.01)]
    groups = [
        [{"params": [w], "lr": lr, "weight_decay": d} for w, (lr, d) in zip(ws, rates, strict=True)] for ws in (ours, theirs)
    ]
    alone = RelativeClipSGD(groups[0], lr=0.5, weight_decay=0.1)
    loop = optim.make_optimizer(training, groups[1], torch.device("cpu"))
    for one, other in zip(ours, theirs, strict=True):
        one.grad, other.grad = 7 * torch.ones_like(one), 7 * torch.ones_like(other)
    alone.step()
    optim.clip(training, loop)
    loop.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.detach(), other.detach(), rtol=1e-12, atol=0)


def test_any_optimizer_can_be_clipped_and_freed():
    weights = drawn((4, 4))
    optimizer = torch.optim.AdamW(weights, lr=0.1, weight_decay=0.1)
    handle = clip_relative_to_weights(optimizer, 2.0)
    limit = laws.clip_threshold(0.1, 0.1, float(weights[0].detach().norm()), 2)
    weights[0].grad = 100 * torch.ones_like(weights[0])
    optimizer.step()
    assert float(weights[0].grad.norm()) == pytest.approx(limit, rel=1e-12)
    handle.remove()
    weights[0].grad = 100 * torch.ones_like(weights[0])
    optimizer.step()
    assert float(weights[0].grad.norm()) == pytest.approx(400)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"ratio": 1.0}, "is not a number above 1"),
        ({"weight_decay": 0.0}, "weight_decay=0.0 is not a number above 0"),
        ({"lr": -1.0}, "lr=-1.0"),
        ({"momentum": 1.0}, "momentum=1.0"),
    ],
)
def test_numbers_out_of_range_are_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        RelativeClipSGD(drawn((2,)), **{"lr": 0.1, "weight_decay": 0.1, **options})


def test_clipping_that_cannot_be_is_refused():
    with pytest.raises(InputError, match="all zero"):
        RelativeClipSGD([torch.nn.Parameter(torch.zeros(3))], lr=0.1, weight_decay=0.1)
    with pytest.raises(InputError, match="needs weight decay"):
        clip_relative_to_weights(torch.optim.SGD(drawn((2,)), lr=0.1))
    optimizer = RelativeClipSGD(drawn((2,)), lr=0.1, weight_decay=0.1)
    with pytest.raises(InputError, match="closure"):
        optimizer.step(lambda: 0.0)
    with pytest.raises(InputError, match=r"relative_clip=0\.5 is not above 1"):
        Training(relative_clip=0.5)


def spread_of_mean(values, correlated):
    """Standard error of a mean of values that are correlated over so many steps."""
    count = max(2.0, len(values) / (2 * correlated))
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values) / count)


@pytest.mark.slow
@pytest.mark.parametrize(("eta", "decay", "momentum"), [(0.1, 0.02, 0.0), (0.02, 0.1, 0.0), (0.1, 0.02, 0.9)])
def test_norm_and_angle_at_equilibrium(eta, decay, momentum):
    """Both within their sampling error; the paper's printed (lambda/eta)^(1/4) is not."""
    size, steps = 100, 1600
    start = torch.ones(size, dtype=torch.float64) / 10
    _, rows, _ = turned(start, gaussian(steps, size), lr=eta, weight_decay=decay, ratio=None, momentum=momentum)
    late = rows[steps // 2 :]
    constant = 1 / (4 * eta * decay)
    fourth = [norm**4 for norm, *_ in late]
    expected = laws.equilibrium_norm(eta, decay, 1.0, momentum) ** 4
    # Fluctuations of the norm, left out by the law, are of order 1/size.
    margin = 4 * spread_of_mean(fourth, constant) + 2 / size * expected
    assert abs(sum(fourth) / len(fourth) - expected) < margin
    printed = expected * (decay / eta) ** 2
    assert abs(sum(fourth) / len(fourth) - printed) > margin
    turn = math.sqrt(sum(angle**2 for _, angle, _ in late) / len(late))
    assert turn == pytest.approx(laws.angle_per_step(eta, decay, momentum), rel=0.05 if momentum else 0.02)


@pytest.mark.slow
@pytest.mark.parametrize("start", [0.3, 10.0])
def test_the_norm_relaxes_as_predicted(start):
    eta, decay, size, steps = 0.1, 0.02, 400, 600
    first = torch.full((size,), start / math.sqrt(size), dtype=torch.float64)
    _, rows, _ = turned(first, gaussian(steps, size), lr=eta, weight_decay=decay, ratio=None)
    for step in (1, 50, 200, 600):
        expected = laws.relaxed_norm(eta, decay, 1.0, start, step)
        assert rows[step - 1][0] == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
def test_clipping_holds_the_norm_where_gradients_have_heavy_tails():
    """The clipped mean predicts the norm and the share of clipped steps; the plain mean, at equilibrium, is far above."""
    eta, decay, size, steps, ratio = 0.1, 0.02, 100, 3000, 4.0
    generator = torch.Generator().manual_seed(0)
    lengths = torch.rand(steps, generator=generator, dtype=torch.float64) ** -0.45  # a Pareto tail of the length
    noises = gaussian(steps, size, 1) * lengths[:, None]
    start = torch.full((size,), 0.1, dtype=torch.float64)
    _, rows, optimizer = turned(start, noises, lr=eta, weight_decay=decay, ratio=ratio)
    squares = [size_**2 for *_, size_ in rows]
    mean = clipped_mean(squares, ratio)
    late = [2 * decay / eta * norm**4 for norm, *_ in rows[steps // 4 :]]
    assert sum(late) / len(late) == pytest.approx(mean, rel=0.1)
    assert int(optimizer.clipped) / steps == pytest.approx(clipped_share(squares, ratio), rel=0.2)
    assert sum(squares) / len(squares) > 1.5 * mean


@pytest.mark.slow
@pytest.mark.parametrize(("ratio", "factor"), [(4.0, 7.0), (None, 7.0), (4.0, 0.03), (None, 0.03)])
def test_a_factor_on_start_and_rates_leaves_every_direction(ratio, factor):
    """Lemma 2.4: (eta, lambda, x0) -> (c^2 eta, lambda/c^2, c x0), and (L, eta, lambda) -> (c L, eta/c, c lambda)."""
    start, noises = torch.linspace(1, 2, 30, dtype=torch.float64), gaussian(200, 30)
    noises[50] *= 1000  # a step that is clipped
    one, *_ = turned(start, noises, lr=0.1, weight_decay=0.05, ratio=ratio)
    of_start, *_ = turned(factor * start, noises, lr=0.1 * factor**2, weight_decay=0.05 / factor**2, ratio=ratio)
    torch.testing.assert_close(of_start / factor, one, rtol=1e-9, atol=1e-12)
    of_loss, *_ = turned(start, factor * noises, lr=0.1 / factor, weight_decay=0.05 * factor, ratio=ratio)
    torch.testing.assert_close(of_loss, one, rtol=1e-9, atol=1e-12)
    moved, *_ = turned(factor * start, noises, lr=0.1, weight_decay=0.05, ratio=ratio)
    assert not torch.allclose(moved / moved.norm(), one / one.norm(), rtol=1e-3)


def test_the_recipe_in_the_training_loop():
    """Weights of the body by SGD, those of the head by AdamW; a run that is stopped resumes to the same losses."""
    corpus = zipf_markov(4000, vocab=32)
    model = small_model()
    groups = scale_invariant_groups(model, RECIPE, INSIDE, rate=1e-3, decay=0.0)
    optimizer = optim.make_optimizer(RECIPE, groups, torch.device("cpu"))
    names = {id(weight): name for name, weight in model.named_parameters()}
    marked = {names[id(w)] for group in optimizer.param_groups if group.get("scale_invariant") for w in group["params"]}
    assert marked == {name for name in names.values() if name.startswith(INSIDE)}
    head = model.head.transform.weight.detach().clone()
    outcome = train(model, corpus, RECIPE, groups=groups, device="cpu")
    assert outcome.status == "finished"
    moved = (model.head.transform.weight.detach() - head).abs()
    assert float(moved.max()) < 1.01e-3 * RECIPE.steps  # an update of AdamW is at most its learning rate, nearly
    assert float(moved.max()) > 2e-3


@pytest.mark.slow
def test_the_recipe_resumes(tmp_path):
    corpus = zipf_markov(4000, vocab=32)

    def run(folder, **options):
        model = small_model()
        groups = scale_invariant_groups(model, RECIPE, INSIDE, rate=1e-3)
        return train(model, corpus, RECIPE, groups=groups, device="cpu", folder=folder, checkpoint_every=3, **options)

    whole = run(tmp_path / "whole")
    stopped = run(tmp_path / "parts", time_limit=0.0)
    assert stopped.status == "stopped"
    resumed = run(tmp_path / "parts")
    assert resumed.status == "finished"
    assert resumed.losses == whole.losses
    assert resumed.evaluations == whole.evaluations


def test_relative_clipping_leaves_the_other_weights():
    model = small_model()
    groups = scale_invariant_groups(model, RECIPE, INSIDE)
    optimizer = optim.make_optimizer(RECIPE, groups, torch.device("cpu"))
    for weight in model.parameters():
        weight.grad = 100 * torch.ones_like(weight)
    norm = optim.clip(RECIPE, optimizer)
    assert float(norm) == pytest.approx(100 * math.sqrt(sum(w.numel() for w in model.parameters())), rel=1e-5)
    inside = [weight for name, weight in model.named_parameters() if name.startswith(INSIDE)]
    limit = laws.clip_threshold(0.05, 0.02, math.sqrt(sum(float(w.detach().square().sum()) for w in inside)), 4)
    assert math.sqrt(sum(float(w.grad.square().sum()) for w in inside)) == pytest.approx(limit, rel=1e-5)
    assert float(model.head.transform.weight.grad[0, 0]) == 100


def test_groups_that_cannot_be_are_refused():
    model = small_model()
    with pytest.raises(InputError, match="no trainable weight"):
        scale_invariant_groups(model, RECIPE, ("decoder.",))
    with pytest.raises(InputError, match="needs groups of scale-invariant weights"):
        train(model, zipf_markov(4000, vocab=32), RECIPE, device="cpu")
