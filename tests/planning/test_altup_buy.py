"""Alternating updates as a purchase: exact costs, dense models of equal cost, and both sides of the evidence."""

import math
from dataclasses import replace

import pytest

from depthwidth import InputError, Transformer, plan
from depthwidth.coefficients import coefficient
from depthwidth.formulas.shape_penalty import loss_exponent
from depthwidth.planning.altup_buy import QUANTITIES, altup_buy
from depthwidth.planning.caveats import loss_change_error
from depthwidth.planning.template import Template

PLAN = plan("350M")
BUY = altup_buy(PLAN, 2)


def test_the_costs_are_those_of_the_trees():
    shape = {"depth": PLAN.shape.depth, "width": PLAN.shape.width, "heads": PLAN.shape.heads}
    for cost, more in zip(BUY.costs, ({}, {"altup": 2}, {"altup": 2, "altup_form": "recycled"}), strict=True):
        tree = Transformer(**shape, **more)
        assert cost.parameters == tree.parameters
        assert cost.flops_per_token == tree.flops_per_token(training=True)
        assert cost.memory == tree.training_memory().total
    dense, full, recycled = BUY.costs
    assert recycled.parameters - dense.parameters == 6 * PLAN.shape.depth
    assert 0.99 < BUY.table_share < 1
    assert full.stream_bytes == 2 * dense.stream_bytes == 4 * PLAN.shape.width


def test_a_dense_model_of_equal_cost_costs_as_much():
    """Rebuilt at whole numbers on either side of it, its count brackets the asked one; a shape 2 % off does not."""
    full = BUY.costs[1]
    for rival in BUY.rivals:
        if (rival.form, rival.equal_in, rival.direction) == ("full", "parameters", "deeper"):
            fewer, more = (PLAN.template.at(int(rival.depth) + step, PLAN.shape.width).parameters for step in (0, 1))
            assert fewer <= full.parameters <= more
            assert not fewer <= 1.05 * full.parameters <= more
    assert len(BUY.rivals) == 2 * 3 * 2


def test_the_needed_gain_is_that_of_the_better_dense_model():
    for name in QUANTITIES:
        changes = [one.loss_change for one in BUY.rivals if (one.form, one.equal_in) == ("full", name)]
        assert BUY.needed_gain("full", name) == -min(changes) > 0.001
        assert BUY.needed_gain("recycled", name) < BUY.needed_gain("full", name)
    assert BUY.needed_gain("recycled", "parameters") < 1e-4
    four = altup_buy(PLAN, 4)
    assert four.needed_gain("full", "parameters") > 2 * BUY.needed_gain("full", "parameters")


@pytest.mark.parametrize(("grown", "ratio"), [(1.2, 1.1), (1.0, 2.0), (1.0, 0.5)])
def test_the_error_of_a_loss_change_is_that_of_the_coefficients_moved_one_by_one(grown, ratio):
    """Each coefficient moved by its standard error moves the change itself; the root of the sum of squares is the error."""
    names = ("k", "x0", "s", "exponent_1e8", "exponent_1e9", "exponent_1e10")
    known = {name: coefficient("shape_penalty", name) for name in (*names, "N_0")}
    sizes = {"before": 3e8, "after": 3e8 * grown}
    places = {"before": (896.0, 1.2), "after": (1400.0, ratio)}  # width, and its factor over the best width

    def change(**moved):
        at = {name: known[name].value + moved.get(name, 0.0) for name in names}
        losses = {}
        for name, (_, factor) in places.items():
            drift = math.log(sizes[name] / known["N_0"].value)
            shift = moved.get("x0", 0.0) + moved.get("s", 0.0) * drift
            losses[name] = 1 + at["k"] * (math.log(factor) - shift) ** 2
        slopes = (at[f"exponent_{size}"] for size in ("1e8", "1e9", "1e10"))
        return losses["after"] / losses["before"] * grown ** loss_exponent(3e8 * grown, *slopes)

    one_by_one = [change(**{name: known[name].stderr}) - change() for name in ("k", "x0", "s")]
    together = change(**{name: known[name].stderr for name in names[3:]}) - change()  # one fit's exponents move as one
    given = ((width, width / places[name][1], sizes[name]) for name, (width, _) in places.items())
    assert loss_change_error(*given) == pytest.approx(math.hypot(*one_by_one, together), rel=0.05)
    assert loss_change_error((896, 896, 3e8), (896, 896, 3e8)) == 0
    assert loss_change_error((896, None, 3e8), (900, None, 3e8)) == 0


def test_every_change_has_an_error_and_the_needed_gain_that_of_its_dense_model():
    for one in BUY.rivals:
        assert 0 < one.loss_change_stderr < abs(one.loss_change)
    for name in QUANTITIES:
        best = min((o for o in BUY.rivals if (o.form, o.equal_in) == ("full", name)), key=lambda one: one.loss_change)
        assert BUY.needed_gain_stderr("full", name) == best.loss_change_stderr
        assert BUY.to_dict()["needed_gain_stderr"]["full"][name] == best.loss_change_stderr


def test_both_sides_of_the_evidence_are_there():
    gains = {(one.setting, one.metric): one.gain for one in BUY.evidence}
    assert gains["T5-Base, K = 2", "SuperGLUE"] == pytest.approx(2.24)
    assert gains["OLMo-1B, 500B tokens, AltUp x2", "V2 eval loss"] == pytest.approx(-0.016)
    assert any(gain > 0 for (setting, _), gain in gains.items() if setting.startswith("25B"))
    for one in BUY.evidence:
        if one.baseline is not None and one.altup is not None:
            assert abs(abs(one.altup - one.baseline) - abs(one.gain)) < 1e-9
        assert one.status in ("recalled", "secondary")


def test_numbers_of_streams_that_make_no_sense():
    for streams in (0, 1, -2, 2000):
        with pytest.raises(InputError, match=r"altup=.* is not a whole number from 2"):
            altup_buy(PLAN, streams)
    with pytest.raises(InputError, match="has alternating updates already"):
        altup_buy(plan("350M", template=Template.of("gpt3", altup=2)), 2)


def test_a_plan_may_be_made_of_models_with_alternating_updates():
    found = plan("350M", template=Template.of("gpt3", altup=2))
    assert found.tree.stack.streams == 2
    assert found.tree.parameters == pytest.approx(350e6, rel=0.05)


def test_the_verdict_has_one_unit():
    gains = BUY.loss_gains()
    assert gains["OLMo-1B, 500B tokens, AltUp x2: V2 eval loss"] == pytest.approx(-0.016 / 2.811)
    (perplexity,) = (gain for name, gain in gains.items() if name.endswith("val ppl"))
    assert perplexity == pytest.approx(1 - math.log(4.37) / math.log(4.27))
    assert not any("T5" in name or "mHC" in name for name in gains)
    assert f"{min(gains.values()):+.2%} to {max(gains.values()):+.2%}" in BUY.verdict()
    assert "none of them gained as much" in BUY.verdict()
    gain = BUY.evidence[-1]._replace(setting="AltUp", metric="loss", baseline=2.0, altup=1.9, gain=0.1)
    lucky = replace(BUY, evidence=(gain,))
    assert "1 of 1 gained as much" in lucky.verdict()
