"""Many settings of a stack in one call: the same ends as walking each, and what it refuses."""

import numpy as np
import pytest
from helpers import one_quick_in

from depthwidth.analysis.propagation import trace_tree
from depthwidth.analysis.sweeps import sweep
from depthwidth.architecture import Transformer
from depthwidth.errors import InputError
from depthwidth.initialization import recipe


def stack(depth=12, placement="pre", **choices):
    given = {"kind": "encoder", "activation": "relu", "bias": False, "positions": "none", "vocab": 100, "context": 64,
             "placement": placement, "head": "none", "final_norm": False, "norm_affine": False} | choices  # fmt: skip
    return Transformer(depth, 128, 2, **given)


def walked(tree, made, **given):
    rows = trace_tree(tree, made, **given).records
    (top,) = (row for row in rows if (row.role, row.direction) == ("encoder", "forward"))
    (front,) = (row for row in rows if (row.role, row.direction) == ("encoder.input", "gradient"))
    return np.array([
        top.second_moment, top.covariance / top.second_moment, front.second_moment, front.covariance / front.second_moment
    ])  # fmt: skip


ENDS = ["top_variance", "top_correlation", "gradient", "front_gradient_correlation"]


@one_quick_in(2, "finite_width", [False, True])
@pytest.mark.parametrize("gated", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["relu", "gated"])
@pytest.mark.parametrize("placement", ["pre", "post", "sandwich"])
def test_both_ends_are_those_of_the_walk(placement, gated, finite_width):
    choices = {"activation": "silu", "gated": True} if gated else {}
    depths, correlations = [1, 48, 12], [0.2, 0.9, 0.0]
    variance = 1.0 if placement == "post" else 1.7
    frame = sweep(
        stack(placement=placement, **choices), "xavier", depth=depths, variance=variance, correlation=correlations,
        gradient=(2.0, 0.3), finite_width=finite_width,
    )  # fmt: skip
    for depth, r, found in zip(depths, correlations, frame[ENDS].to_numpy(), strict=True):
        tree = stack(depth, placement, **choices)
        expected = walked(
            tree, recipe(tree, "xavier"), variance=variance, correlation=r, gradient=(2.0, 0.3), finite_width=finite_width
        )
        # A norm's epsilon leaves a stream of 1 - 1e-5, where the sweep's tables are made at 1; there are two norms in a block.
        tolerance = 1e-4 + 2e-5 * depth
        if placement == "post" and finite_width:
            tolerance += 0.7 / 128  # the walk takes its input for Gaussian, the sweep for normalised: a term of order 1/d
        assert found == pytest.approx(expected, rel=tolerance, abs=tolerance / 10)


def test_scales_of_skip_and_branch_are_those_of_a_recipe():
    tree = stack(24)
    made = recipe(tree, "xavier")
    scaled = made.__class__(**{name: getattr(made, name) for name in made.__dataclass_fields__} | {
        "residuals": tuple(
            made.residual(f"encoder.block.{name}")._replace(skip=0.9, branch=0.4) for name in ("attention", "feed_forward")
        )
    })  # fmt: skip
    expected = walked(tree, scaled, variance=1.0, correlation=0.2)
    found = sweep(tree, made, skip=0.9, branch=[0.4, 0.5], correlation=0.2)[ENDS].to_numpy()
    assert found[0] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert found[1] != pytest.approx(expected, rel=1e-2)  # another branch scale is another network


def test_the_gradient_may_be_an_array_of_correlations():
    tree = stack()
    found = sweep(tree, "xavier", correlation=0.2, gradient=(1.0, [0.0, 0.3]))
    for row, kappa in zip(found.gradient, (0.0, 0.3), strict=True):
        assert row == sweep(tree, "xavier", correlation=0.2, gradient=(1.0, kappa)).gradient[0]
    assert not np.isclose(found.gradient[0], found.gradient[1])


@pytest.mark.parametrize(
    ("choices", "given", "sentence"),
    [
        ({}, {"depth": 0}, "depth is outside"),
        ({}, {"depth": 1.5}, "depth is not a whole number"),
        ({}, {"correlation": -0.1}, "correlation is outside"),
        ({}, {"variance": [1.0, np.nan]}, "variance is outside"),
        ({}, {"depth": [1, 2], "variance": [1.0, 1.0, 1.0]}, "do not broadcast|broadcast"),
        ({"kind": "decoder"}, {}, "under a causal mask"),
        ({"placement": "post"}, {"variance": 2.0}, "its variance must be 1"),
        ({"parallel": True}, {}, "shares it with others"),
        ({}, {"gradient": "loss"}, "gradient='loss' is not a second moment and a correlation"),
        ({}, {"gradient": (0.0, 0.5)}, "gradient is outside"),
    ],
)
def test_nonsense_gets_one_sentence(choices, given, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        sweep(stack(**choices), "xavier", **given)
    assert "\n" not in str(error.value)


def test_tables_over_the_correlation_are_right_to_their_error():
    """Between nodes, against the branch itself: 2e-8 of a stream of second moment 1."""
    from depthwidth.analysis.sweeps import _Step
    from depthwidth.signal import Signal, Site, Trace

    tree = stack()
    made = recipe(tree, "xavier")
    site = Site(Trace(made, 64, 64, layer=0), "encoder.block")
    for name, part in tree.stack.repeats[0].block.branches:
        step = _Step.of(part, site.at(name))
        r = np.array([0.0313, 0.2717, 0.5003, 0.9001, 0.9871])
        found = step.table.of_array(np.arccos(r))
        f, _, _ = part.branch_moments(Signal(np.ones(5), r), site.at(name))
        for row, exact in zip(found, f[:2], strict=False):
            assert row == pytest.approx(np.broadcast_to(exact, 5), abs=2e-8)


NORMS = [("in",), ("stream",), ("in", "out"), ("in", "stream"), ("out", "stream"), ("in", "out", "stream")]


@pytest.mark.slow
@pytest.mark.parametrize("choices", [{}, {"activation": "silu", "gated": True, "dropout": 0.1}], ids=["relu", "gated"])
@pytest.mark.parametrize("ends", [False, True], ids=["inside", "end"])
@pytest.mark.parametrize("norms", NORMS, ids="+".join)
def test_a_branch_takes_a_gradient_back_as_its_component_does(norms, ends, choices):
    """All four entries, with the factors of norms at finite width, which differ between the two moments by a few per cent."""
    from depthwidth.analysis.sweeps import _Matrix, _Step, _Way
    from depthwidth.layers import LayerNorm
    from depthwidth.signal import Signal, Site, Spread, Trace

    tree = stack(placement="none", **choices)
    made = recipe(tree, "xavier")
    own = {f"norm_{name}": LayerNorm(128, affine=False) for name in norms}
    # Of a post-norm the gradient from the next block and one from elsewhere differ.
    given = float(ends)

    def stream(q, c):
        x = Signal(q, c)
        spread = Spread.of_gaussian(x, 128)
        return x.spread_as(spread.after_norm(x, x) if "stream" in norms else spread)

    for name, bare in tree.stack.repeats[0].block.branches:
        part = bare.replace(**own)
        trace = Trace(made, 64, 64, layer=0, finite_width=True)
        trace.end = ("encoder.block." + name, 0) if ends else None
        site = Site(trace, "encoder.block").at(name)
        y, pull = part.moments(stream(1.0, 0.3), site)
        units = [pull(Signal(*unit)) for unit in ((1.0, 0.0), (0.0, 1.0))]
        exact = [units[0].second_moment, units[1].second_moment, units[0].covariance, units[1].covariance]
        one = np.ones(1)
        way = _Way(_Matrix(one, 0 * one, 0 * one, one))
        step, start = _Step.of(part, site), (stream(one, 0.3 * one), way, one, one)
        after, way = step.pass_through(*start, given * one)
        assert np.ravel(way.bare) == pytest.approx(exact, rel=2e-5)
        assert np.ravel([after.second_moment, after.covariance]) == pytest.approx([y.second_moment, y.covariance], rel=2e-5)
        assert np.ravel(after.spread) == pytest.approx(list(y.spread), rel=1e-4, abs=1e-9)
        _, other_end = step.pass_through(*start, 1 - given * one)
        assert (np.ravel(other_end.bare) != pytest.approx(exact, rel=1e-3)) == ("stream" in norms)
        _, forgotten = step._replace(output_norm=None).pass_through(*start, given * one)
        # Behind "stream" tokens have one size each, and only their correlation varies, which attention follows.
        follows = "out" in norms and ("stream" not in norms or name == "attention")
        assert (np.ravel(forgotten.bare) != pytest.approx(exact, rel=1e-4)) == follows
