"""Alternating updates as a purchase: exact costs, dense models of equal cost, and both sides of the evidence."""

import pytest

from depthwidth import InputError, Transformer, plan
from depthwidth.planning.altup_buy import QUANTITIES, altup_buy
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
