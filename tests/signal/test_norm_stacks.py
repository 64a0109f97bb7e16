"""Finite width in stacks of norms, against simulations of many draws; without each part of the theory the test would fail."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from simulated_draws import simulate  # noqa: E402

from depthwidth import Transformer, propagate, recipe  # noqa: E402
from depthwidth.formulas.depth import post_norm_layer_log_variance  # noqa: E402
from depthwidth.signal import DrawSpread, gradient_spread, residual  # noqa: E402

pytestmark = pytest.mark.slow

DRAWS, CORRELATION = 4000, 0.3


def ends(placement, depth=4, tensors=None, **choices):
    """The stack, and what is predicted at its input and top: gradient at the input, spread of the stream at the top."""
    tree = Transformer(
        depth, 36, 3, vocab=100, context=16, kind="encoder", norm="rmsnorm", activation="relu", bias=False, positions="none",
        placement=placement, **choices,
    )  # fmt: skip
    return tree, recipe(tree, "xavier", tensors=tensors)


UNIFORM = {"*.query.weight": 1e-4}
"""Attention weights that do not depend on the tokens"""


def gradients(tree, made, correlation=CORRELATION):
    """Second moment and covariance of the gradient at the input, as predicted."""
    frame = propagate(tree, made, variance=1.0, correlation=correlation).set_index(["site", "direction"])
    return frame.loc[f"{tree.stack_name}.input", "gradient"][["second_moment", "covariance"]].to_numpy(dtype=float)


def simulated_gradients(tree, made, correlation=CORRELATION, draws=8000):
    """The same of many draws, with standard errors."""
    parts = [simulate(tree, made, correlation, 400, seed)[1][0] for seed in range(draws // 400)]
    found = np.concatenate(parts, axis=-1)
    return found.mean(-1), found.std(-1) / math.sqrt(draws)


def test_the_gradient_of_a_post_norm_block(monkeypatch):
    """The last norm takes off what the given gradient has along its output; branches follow the size of a raw input."""
    tree, made = ends("post", depth=1, tensors=UNIFORM)
    found, errors = simulated_gradients(tree, made)
    assert (abs(gradients(tree, made) - found) < 4 * errors + 0.01 * found).all()
    with monkeypatch.context() as patch:
        patch.setattr("depthwidth.signal.Trace.ends_at", lambda self, role: 0.0)
        assert (gradients(tree, made) > found + 4 * errors).all()
    attention, alike = ends("post", depth=1, tensors=UNIFORM | {"*.down.weight": 1e-5})
    found, errors = simulated_gradients(attention, alike, 0.9)
    assert abs(gradients(attention, alike, 0.9)[0] - found[0]) < 4 * errors[0] + 0.01 * found[0]
    with monkeypatch.context() as patch:
        patch.setattr(DrawSpread, "growth", 0.0)  # as of a branch whose input a norm has seen
        assert gradients(attention, alike, 0.9)[0] < found[0] - 4 * errors[0] - 0.01 * found[0]


def test_the_gradient_of_a_post_norm_stack():
    tree, made = ends("post", depth=4, tensors=UNIFORM)
    found, errors = simulated_gradients(tree, made)
    assert (abs(gradients(tree, made) - found) < 4 * errors + 0.01 * found).all()


@pytest.mark.parametrize("placement", ["output", "sandwich"])
def test_a_norm_of_a_branch_takes_off_the_direction_in_which_its_jacobian_is_large(placement, monkeypatch):
    tree, made = ends(placement, depth=1, tensors=UNIFORM)
    found, errors = simulated_gradients(tree, made)
    assert abs(gradients(tree, made)[0] - found[0]) < 4 * errors[0] + 0.01 * found[0]
    with monkeypatch.context() as patch:
        patch.setattr("depthwidth.signal.pull_branch_norm", lambda *given: lambda g: g)
        assert gradients(tree, made)[0] > found[0] + 4 * errors[0]


def test_two_norms_of_attention_divide_by_sizes_that_vary_together(monkeypatch):
    """If tokens are alike, both they and their mean are large; and both norms take some of the same direction."""
    tree = Transformer(
        1, 18, 3, vocab=100, context=16, kind="encoder", norm="rmsnorm", activation="relu", bias=False, positions="none",
        placement="sandwich",
    )  # fmt: skip
    made = recipe(tree, "xavier", tensors=UNIFORM)
    found, errors = simulated_gradients(tree, made, draws=24_000)
    allowed = 3 * errors + [0.01, 0.03] * found  # the second order: the square of 3/18 of the covariance, a third in the whole
    assert (abs(gradients(tree, made) - found) < allowed).all()
    with monkeypatch.context() as patch:
        patch.setattr("depthwidth.signal.pull_mixed_norms", lambda *given: (0.0, lambda g: g))
        assert gradients(tree, made)[1] < (found - allowed)[1]
    with monkeypatch.context() as patch:  # as of a long sequence
        patch.setattr(residual.MixedTokens, "of", _of_long(residual.MixedTokens.of))
        assert gradients(tree, made)[1] < found[1] - 3 * errors[1] - 0.02 * found[1]


def _of_long(right):
    return lambda stream, length: right(stream, math.inf)


def predicted(tree, made):
    frame = propagate(tree, made, variance=1.0, correlation=CORRELATION).set_index(["site", "direction"])
    name = tree.stack_name
    top = frame.loc[f"{name}.block.{tree.depth - 1}", "forward"]
    return float(frame.loc[f"{name}.input", "gradient"].second_moment), float(top.spread), float(top.covariance)


def measured(tree, made):
    parts = [simulate(tree, made, CORRELATION, 200, seed) for seed in range(DRAWS // 200)]
    forward, gradient = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    first, (top, covariance) = gradient[0, 0], forward[-1]
    errors = first.std() / math.sqrt(DRAWS), covariance.std() / math.sqrt(DRAWS)
    return (first.mean(), top.std() / top.mean(), covariance.mean()), errors


@pytest.mark.parametrize("choices", [{"kind": "encoder"}, {"kind": "encoder", "placement": "post"}, {"kind": "decoder"}])
def test_sinusoidal_positions_before_layer_norms(choices, monkeypatch):
    tree = Transformer(
        2, 48, 4, vocab=1000, context=24, activation="relu", bias=False, positions="sinusoidal", **choices
    )  # fmt: skip
    made, name, draws = recipe(tree, "xavier"), tree.stack_name, 1200
    angles = np.outer(np.arange(24), 10000.0 ** (-np.arange(0, 48, 2) / 48))
    waves = torch.tensor(np.concatenate([np.sin(angles), np.cos(angles)], 1), dtype=torch.float32)
    size = float(made.tensor("stem.tokens.weight").std) ** 2
    parts = [simulate(tree, made, 0.0, 200, seed, size, waves) for seed in range(draws // 200)]
    forward, gradient = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    covariance, front = forward[1, 1], gradient[0, 0]

    def predicted():
        frame = propagate(tree, made, token_match=0.0).set_index(["site", "direction"])
        top = frame.loc[f"{name}.block.0", "forward"]
        return float(top.covariance), float(frame.loc[f"{name}.input", "gradient"].second_moment)

    now, errors = predicted(), [part.std() / math.sqrt(draws) for part in (covariance, front)]
    assert abs(now[0] - covariance.mean()) < 4 * errors[0] + 0.005 * covariance.mean()
    assert abs(now[1] - front.mean()) < 4 * errors[1] + 0.01 * front.mean()  # means that differ between positions besides
    with monkeypatch.context() as patch:  # a mean that norms do not take off
        patch.setattr(type(tree.stack), "_takes_off_means", False)
        before = predicted()
    assert before[0] > covariance.mean() + 4 * errors[0]
    assert before[1] < front.mean() - 4 * errors[1]


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
def test_the_logarithm_of_a_post_norm_gradient(kind, monkeypatch):
    """Below the top tokens share little of their gradients; the more they do further down, the more draws differ."""
    draws = 2000
    tree = Transformer(
        4, 32, 2, vocab=100, context=16, kind=kind, norm="rmsnorm", activation="relu", bias=False, positions="none",
        placement="post",
    )  # fmt: skip
    made, name = recipe(tree, "xavier"), tree.stack_name
    sites = [f"{name}.input", *(f"{name}.block.{layer}" for layer in range(3))]
    parts = [simulate(tree, made, 0.9, 200, seed)[1][:4, 0] for seed in range(draws // 200)]
    found = np.log(np.concatenate(parts, axis=-1)).var(-1, ddof=1)

    def now():
        rows = propagate(tree, made, variance=1.0, correlation=0.9).query("direction == 'gradient'").set_index("site")
        return rows.loc[sites, "log_variance"].to_numpy(dtype=float)

    allowed = 3 * math.sqrt(2 / draws) + 0.1  # of a Gaussian's variance, and the second order in 0.2 for each block
    assert (abs(now() / found - 1) < allowed).all()
    with monkeypatch.context() as patch:  # as of tokens that are all alike
        patch.setattr(gradient_spread, "_over_tokens", lambda own, pair, length: own)
        assert now()[-1] > (1 + allowed) * found[-1]
    with monkeypatch.context() as patch:  # blocks whose gradients vary independently
        patch.setattr(gradient_spread.GradientStep, "advance", lambda step, spread: (spread[0] + step.noise, 0.0, 0.0))
        assert now()[0] < (1 - allowed) * found[0]


@pytest.mark.parametrize("tokens", [16, 64])
def test_the_logarithm_of_a_deep_causal_gradient(tokens, monkeypatch):
    """Deep down all tokens are alike and the first one has the gradient, so that each layer adds what (N2) says."""
    tree = Transformer(
        400, 64, 2, vocab=100, context=tokens, norm="rmsnorm", activation="relu", bias=False, positions="none", placement="post"
    )
    made = recipe(tree, "xavier")

    def now():
        rows = propagate(tree, made, variance=1.0, correlation=0.9).query("direction == 'gradient'").set_index("site")
        return rows.loc["decoder.input", "log_variance"] / (400 * post_norm_layer_log_variance(1.0, 0.32, 64))

    # Of 400 layers, some 30 at the top have tokens that differ, and add up to twice as much or nothing.
    assert now() == pytest.approx(1.0, abs=0.08)
    with monkeypatch.context() as patch:  # noise as of gradients that all tokens have
        patch.setattr(gradient_spread, "_evenness", lambda g: 1.0)
        assert now() > 1.08
    if tokens == 64:
        with monkeypatch.context() as patch:  # covariances of either sign, over what is left of their mean
            patch.setattr(gradient_spread, "_OF_ONE_SIGN", 0.5)
            assert now() > 1.08


def test_a_pre_norm_stack(monkeypatch):
    tree, made = ends("pre")
    (gradient, spread, covariance), (error, covariance_error) = measured(tree, made)
    now = predicted(tree, made)
    assert abs(now[0] - gradient) < 4 * error
    assert now[1] == pytest.approx(spread, rel=0.05)
    assert abs(now[2] - covariance) < 4 * covariance_error + 0.01 * covariance  # second order in 1/36 besides
    with monkeypatch.context() as patch:  # gradients that do not fall with the stream
        patch.setattr(residual, "leaning_excess", lambda *_: (0.0, 0.0))
        assert predicted(tree, made)[0] < gradient - 4 * error
    with monkeypatch.context() as patch:  # branches that do not follow the correlation
        patch.setattr(residual, "_respond", lambda c, spread, *others: spread)
        assert predicted(tree, made)[1] < 0.92 * spread


def test_one_key_head(monkeypatch):
    """Heads that share their keys and values spread the stream more, and the gradient is larger for it."""
    draws = 2500
    tree = Transformer(
        4, 60, 4, kv_heads=1, vocab=100, context=16, kind="decoder", norm="rmsnorm", activation="silu", gated=True, bias=False,
        positions="none",
    )  # fmt: skip
    made = recipe(tree, "xavier")
    parts = [simulate(tree, made, CORRELATION, 250, seed) for seed in range(draws // 250)]
    forward, gradient = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    top, front = forward[-1, 0], gradient[0, 0]
    error = front.std() / math.sqrt(draws)
    now = predicted(tree, made)
    assert abs(now[0] - front.mean()) < 3 * error
    assert now[1] == pytest.approx(top.std() / top.mean(), rel=0.05)
    right = type(tree.attention).draw_spread
    with monkeypatch.context() as patch:  # values of as many features as there are in the stream

        def square(self, x, site):
            return DrawSpread.of_matrices(1.0, 3.0, 1.0, right(self, x, site).whole)

        patch.setattr(type(tree.attention), "draw_spread", square)
        before = predicted(tree, made)
    assert before[0] < front.mean() - 4 * error
    assert before[1] < 0.85 * top.std() / top.mean()


def test_norms_on_the_output_of_branches(monkeypatch):
    tree, made = ends("sandwich")
    (gradient, spread, covariance), (error, covariance_error) = measured(tree, made)
    now = predicted(tree, made)
    assert abs(now[0] - gradient) < 4 * error
    assert now[1] == pytest.approx(spread, rel=0.05)
    assert abs(now[2] - covariance) < 4 * covariance_error + 0.01 * covariance
    with monkeypatch.context() as patch:  # norms whose input has the same size in every draw
        patch.setattr("depthwidth.signal.branch_spread", lambda *given: None)
        assert predicted(tree, made)[0] < gradient - 4 * error
    with monkeypatch.context() as patch:  # branches that differ between draws in spite of the norm
        patch.setattr(DrawSpread, "normed", lambda self, size: self)
        assert predicted(tree, made)[1] > 1.05 * spread
