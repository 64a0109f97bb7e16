"""Every threshold of a diagnosis judges on both sides: networks made to lie just below it and just above it."""

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import one_quick_in
from scipy.optimize import brentq

from depthwidth.analysis.diagnosis import diagnose, headroom
from depthwidth.analysis.diagnosis.checks.gradient_spread import _matrix_moments
from depthwidth.analysis.propagation import moments_of
from depthwidth.architecture import Transformer
from depthwidth.architecture.number_formats import number_format
from depthwidth.initialization import recipe
from depthwidth.initialization.recipes import ResidualScale
from depthwidth.layers import Attention, FeedForward
from depthwidth.layers.activations import activation as find_activation
from depthwidth.numerics.softmax import overlap
from depthwidth.signal import Signal, Site, Trace


def encoder(depth, placement="pre", width=128, **choices):
    given = {"heads": 2, "kind": "encoder", "activation": "relu", "vocab": 100, "context": 64, "positions": "none"} | choices
    return Transformer(depth, width, placement=placement, **given)


def with_residuals(made, skip=1.0, branch=1.0):
    roles = [f"encoder.block.{name}" for name in ("attention", "feed_forward")]
    return replace(made, residuals=tuple(ResidualScale(role, skip, branch, "") for role in roles))


def silent(depth, skip=1.0):
    """A stack whose branches add nothing, and its recipe with this factor on each skip path."""
    tree = encoder(depth)
    return tree, with_residuals(recipe(tree, "xavier"), skip, branch=0.0)


def with_scores(tree, factor):
    """A recipe whose score variance is `factor` times that of Xavier's."""
    made = recipe(tree, "xavier")
    lines = (t._replace(std=t.std * math.sqrt(factor)) if t.role.endswith(".query.weight") else t for t in made.tensors)
    return replace(made, tensors=tuple(lines))


def judged(name, tree, made, dtype="fp16", **given):
    """Value and severity of one finding, of inputs of variance 1 and correlation 0.2 unless said otherwise."""
    found = diagnose(tree, made, dtype, remedies=(), **{"variance": 1.0, "correlation": 0.2} | given)
    (finding,) = (one for one in found if one.name == name)
    return finding.value, finding.severity


JUST_BELOW, JUST_ABOVE = 0.99, 1.01


@pytest.mark.parametrize(("r", "severity"), [(0.969, "fine"), (0.971, "watch"), (1 - 1.7e-6, "watch"), (1 - 1.5e-6, "problem")])
def test_correlation_at_the_top(r, severity):
    """Silent branches leave tokens as they came."""
    assert judged("correlation_at_top", *silent(1), correlation=r) == (pytest.approx(r), severity)


@one_quick_in(2, ("name", "watched", "limit"), [("gradient_ratio", 3e3, 8e4), ("forward_growth", 150, 2e4)])
@pytest.mark.parametrize("side", [1, -1])
@one_quick_in(4, ("beyond", "severity"), [
    ((JUST_BELOW, 0), "fine"), ((JUST_ABOVE, 0), "watch"), ((JUST_BELOW, 1), "watch"), ((JUST_ABOVE, 1), "problem"),
], first=1)  # fmt: skip
def test_the_ratio_of_the_two_ends_of_a_stack(name, watched, limit, side, beyond, severity):
    """Silent branches and a factor s on the skip path of each: one block of two branches multiplies moments by s^4."""
    ratio = beyond[0] * (watched, limit)[beyond[1]]
    assert judged(name, *silent(2, skip=ratio ** (side / 4))) == (pytest.approx(ratio**side), severity)


@pytest.mark.parametrize(("steps", "severity"), [
    (4 * JUST_ABOVE, "fine"), (4 * JUST_BELOW, "watch"), (JUST_ABOVE, "watch"), (JUST_BELOW, "problem"),
])  # fmt: skip
@pytest.mark.parametrize(("dtype", "half_step"), [("fp16", 2.0**-11), ("bf16", 2.0**-8)])
def test_the_share_of_the_weakest_branch(dtype, half_step, steps, severity):
    """Half a step of fp16 is 2^-11 (10 bits after the leading one), of bf16 2^-8 (7 bits)."""
    tree, name = encoder(1), "branch_share"
    plain = recipe(tree, "xavier")
    share, _ = judged(name, tree, with_residuals(plain, branch=1e-3), dtype)
    made = with_residuals(plain, branch=1e-3 * steps * half_step / share)
    assert judged(name, tree, made, dtype) == (pytest.approx(steps * half_step, rel=1e-3), severity)


@one_quick_in(4, ("variance", "severity"), [
    (JUST_BELOW * math.log(64) / 2, "fine"), (JUST_ABOVE * math.log(64) / 2, "watch"),
    (JUST_BELOW * 2 * math.log(64), "watch"), (JUST_ABOVE * 2 * math.log(64), "problem"),
])  # fmt: skip
def test_the_variance_of_scores(variance, severity):
    tree, name = encoder(1), "score_variance"
    now, _ = judged(name, tree, "xavier")
    assert judged(name, tree, with_scores(tree, variance / now)) == (pytest.approx(variance), severity)


@one_quick_in(4, ("tokens", "severity"), [
    (8 * JUST_ABOVE, "fine"), (8 * JUST_BELOW, "watch"), (2 * JUST_ABOVE, "watch"), (2 * JUST_BELOW, "problem"),
])  # fmt: skip
def test_effective_tokens(tokens, severity):
    """Of 64: below their root the region ends in which n exp(-s2) holds, below two one token decides."""
    tree, n = encoder(1), 64
    variance = brentq(lambda s2: 1 / float(overlap(s2, n).P) - tokens, 0.1, 60)
    now, _ = judged("score_variance", tree, "xavier")
    value = judged("effective_tokens", tree, with_scores(tree, variance / now))
    assert value == (pytest.approx(tokens, rel=1e-3), severity)


@pytest.mark.slow
def test_scores_are_mended_to_half_of_the_first_threshold():
    """Halfway, since scores grow in training: the remedied variance is (ln n)/4."""
    tree = encoder(1)
    (finding,) = (f for f in diagnose(tree, with_scores(tree, 20.0)) if f.name == "score_variance")
    assert finding.after == pytest.approx(math.log(64) / 4, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "severity"), [
    (2 ** JUST_BELOW, "fine"), (2 ** JUST_ABOVE, "watch"), (10 ** JUST_BELOW, "watch"), (10 ** JUST_ABOVE, "problem"),
])  # fmt: skip
def test_the_spread_of_the_gradient_between_draws(factor, severity):
    """One standard deviation of the logarithm is a factor of 2, or of 10; the scale of branches sets it."""
    tree = encoder(60, "post", width=32)
    plain = recipe(tree, "xavier")

    def excess(scale):
        return judged("gradient_spread", tree, with_residuals(plain, branch=scale))[0] - math.log(factor)

    scale = brentq(excess, 0.05, 1.5, rtol=1e-4)
    expected = (pytest.approx(math.log(factor), rel=2e-3), severity)
    assert judged("gradient_spread", tree, with_residuals(plain, branch=scale)) == expected


@pytest.mark.parametrize(("activation", "gated", "slope_kurtosis", "even"), [
    ("relu", False, 2.0, 1.0), ("identity", False, 1.0, 1.0), ("gelu", False, None, 1.0), ("relu", True, 4.0, 0.5),
    ("silu", True, None, None),
])  # fmt: skip
def test_the_slope_of_a_feed_forward_part_is_that_of_its_own_activation(activation, gated, slope_kurtosis, even):
    """mu_2 = 1 + e + kappa_s / m; by draws where it is no rational number."""
    m = 4
    moment, _, _ = _matrix_moments(FeedForward(64, 64 * m, activation=activation, gated=gated))
    if slope_kurtosis is None or even is None:
        f = find_activation(activation)
        u, v = np.random.default_rng(3).standard_normal((2, 2_000_000))
        gate, linear = ((f.derivative(u) * v) ** 2, f(u) ** 2) if gated else (f.derivative(u) ** 2, np.zeros(1))
        j = gate + linear
        slope_kurtosis = float((j**2).mean() / j.mean() ** 2)
        even = float((gate.mean() ** 2 + linear.mean() ** 2) / j.mean() ** 2)
    assert moment == pytest.approx(1 + even + slope_kurtosis / m, rel=0.003)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "width", "severity"), [(300, 200, "fine"), (301, 200, "watch"), (240, 16, "watch"), (241, 16, "problem")]
)
def test_depth_over_width(depth, width, severity):
    """Simulations went to 192 layers of width 128, 1.5; ten times that is beyond what first order can say."""
    assert judged("depth_to_width", encoder(depth, width=width), "xavier") == (depth / width, severity)


@one_quick_in(4, ("bits", "severity"), [(4.02, "fine"), (3.98, "watch"), (0.02, "watch"), (-0.02, "problem")], first=3)
def test_bits_above_the_largest_value(bits, severity):
    """A stream so large that branches with norms do not count: bits fall by half the binary logarithm of its variance."""
    tree, name = encoder(1), "overflow_activations"
    now, _ = judged(name, tree, "xavier", variance=1e6)
    variance = 1e6 * 4 ** (now - bits)
    assert judged(name, tree, "xavier", variance=variance) == (pytest.approx(bits, abs=0.01), severity)


def test_the_peak_is_that_of_as_many_gaussian_values(rng):
    """Against the largest of as many draws: the bound of the mean is above it, and by less than a tenth."""
    tree = encoder(1)
    given = {"variance": 1e4, "correlation": 0.2}
    (row,) = (row for row in headroom(tree, "xavier", ["fp16"], **given) if row["kind"] == "activations")
    rows = {(r["site"], r["direction"]): r["second_moment"] for r in moments_of(tree, "xavier", **given)}
    deviation = math.sqrt(rows[row["overflow_site"], "forward"])
    largest = np.array([np.abs(rng.standard_normal(64 * tree.ffn)).max() for _ in range(200)])
    bound = 65504 / 2 ** row["overflow_bits"] / deviation
    assert largest.mean() < bound < 1.1 * largest.mean()


@pytest.mark.parametrize("branch", [
    FeedForward(64, 256, "relu"), FeedForward(64, 64, "identity"), FeedForward(64, 160, "silu", gated=True),
    FeedForward(64, 96, "gelu"), Attention(64, 4, 4, 16, 16),
], ids=str)  # fmt: skip
def test_draws_differ_as_the_layers_say(branch):
    """The diagnosis and the recursion take the spread of a branch from different functions, which must agree."""
    tree = encoder(1, width=64)
    made = _unit_variance(recipe(tree, "xavier"), branch.width)
    name = "attention" if isinstance(branch, Attention) else "feed_forward"
    site = Site(Trace(made, 64, 64), f"encoder.block.{name}")
    spread = branch.draw_spread(Signal(1.0, 0.2), site)
    moment, omega, common = _matrix_moments(branch)
    assert spread.omega == pytest.approx(omega, rel=0.01)
    assert spread.common == pytest.approx(common, rel=1e-3)
    if isinstance(branch, Attention) or branch.activation == "relu":  # the diagnosis takes every slope's kurtosis for ReLU's
        assert spread.backward == pytest.approx(moment, rel=0.01)


def _unit_variance(made, width):
    """A recipe whose maps into the hidden features give variance 1, at which the diagnosis takes the kurtosis."""
    lines = []
    for line in made.tensors:
        if line.role.endswith("feed_forward.up.weight"):
            line = line._replace(std=width**-0.5)
            lines.append(line._replace(role=line.role.replace(".up.", ".gate.")))
        if line.role.endswith("feed_forward.up.bias"):
            lines.append(line._replace(role=line.role.replace(".up.", ".gate.")))
        lines.append(line)
    return replace(made, tensors=tuple(lines))


def test_half_a_step_of_the_formats():
    assert (number_format("fp16").roundoff, number_format("bf16").roundoff) == (2.0**-11, 2.0**-8)
