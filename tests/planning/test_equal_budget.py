"""Loss at equal budget: its minimum and its ranges against brute force, and the policy numbers on both sides."""

import math

import pytest

from depthwidth.formulas.shape_penalty import loss_exponent, shape_penalty
from depthwidth.planning.plan import plan
from depthwidth.planning.rules import at_depth, meet
from depthwidth.planning.search import Search
from depthwidth.planning.template import Template


def search(amount="350M", kind="parameters", preset="gpt3"):
    found = plan(amount, kind=kind, template=Template.of(preset))
    return found, Search(found.budget, found.rule, found.template)


def log_loss(one, depth, reference):
    """By a second route: the penalty at the width that uses the budget, and the size that is left, relative to a size."""
    shape = meet(at_depth(depth), one.quantity, one.amount)
    size = one.size(*shape)
    best = meet(one.rule.curve(one.density), one.size, size)[1]
    return math.log1p(float(shape_penalty(shape[1], best))) + float(loss_exponent(reference)) * math.log(size / reference)


@pytest.mark.parametrize(("amount", "kind", "preset"), [("350M", "parameters", "gpt3"), ("7B", "parameters", "llama3"),
                                                        ("80GB", "memory", "llama2")])  # fmt: skip
def test_the_least_loss_and_its_ranges_are_those_of_a_scan(amount, kind, preset):
    found, one = search(amount, kind, preset)
    reference = one.size(*one.optimum())
    depths = [found.best_depth * math.exp(0.004 * step) for step in range(-400, 401)]
    losses = [log_loss(one, depth, reference) for depth in depths]
    assert depths[losses.index(min(losses))] == pytest.approx(found.best_depth, rel=0.01)
    for stated in found.ranges:
        inside = [depth for depth, loss in zip(depths, losses, strict=True) if loss - min(losses) <= math.log1p(stated.loss)]
        assert (inside[0], inside[-1]) == (pytest.approx(stated.depth[0], rel=0.01), pytest.approx(stated.depth[1], rel=0.01))
        assert all(0 < error < 2 * stated.loss for error in stated.stderr)
    assert [one.loss for one in found.ranges] == [4e-3, 3e-4]
    # The rule's own depth is another one: the control.
    assert found.rules["levine2020"].depth != pytest.approx(found.best_depth, rel=0.01)


def test_a_shape_that_misses_the_budget_is_judged_by_the_size_that_its_depth_would_have():
    """Exactly so for total parameters, which are affine in the depth."""
    _, one = search()
    tree = one.template.at(40, 768)
    depth = one.meet_budget(lambda depth: (depth, 768))[0]
    asked = one.level.at_budget((40, 768), tree.trained_size, tree.parameters)
    assert asked == pytest.approx(one.size(depth, 768), rel=1e-9)
    assert asked != pytest.approx(tree.trained_size, rel=0.02)


def test_equal_shapes_lose_nothing_at_equal_budget():
    found, one = search()
    again = one.measure(found.tree, against=found.shape)
    assert (again.loss_at_budget, again.loss_at_budget_stderr) == (0.0, 0.0)
    deeper = one.measure(found.template.at(found.shape.depth + 1, found.shape.width), against=found.shape)
    assert abs(deeper.loss_at_budget) < 2e-5 < abs(deeper.loss_change)


def test_the_least_loss_is_sought_within_a_factor_of_four_of_the_rules_depth():
    """An embedding of two thirds of 130M parameters would push the depth further."""
    found, one = search("130M", preset="llama3")
    assert found.best_depth == pytest.approx(4 * one.optimum()[0], rel=1e-6)
