"""The search's policy numbers, each on both sides: what the answer is just below it and just above it."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest

from depthwidth.errors import InputError
from depthwidth.formulas.shape_penalty import loss_exponent
from depthwidth.planning.budget import Budget
from depthwidth.planning.plan import plan
from depthwidth.planning.rules import find_rule
from depthwidth.planning.search import Search
from depthwidth.planning.template import Template


def search(amount=10**9, kind="parameters", template=None, rule="levine2020"):
    return Search(Budget(kind, Fraction(amount)), find_rule(rule), template or Template.of("gpt3", head_dim=64))


def cost(one, miss, penalty=0.0):
    """Of a shape whose amount is off by `miss` on a logarithmic scale."""
    return one.cost(one.amount * math.exp(miss), penalty)


# The cost of missing a budget.


@pytest.mark.parametrize("side", [1, -1])
def test_a_miss_below_one_per_cent_is_free_and_its_excess_costs_the_loss_it_makes(side):
    one = search()
    assert cost(one, side * 0.0099, 0.003) == 0.003
    assert cost(one, side * 0.0101, 0.003) == pytest.approx(0.003 + one.loss_per_amount * 1e-4, rel=1e-6)
    # The loss of that slope: a budget 1 % smaller has a best shape whose loss is higher by about as much.
    assert 0.04 < one.loss_per_amount < 0.1


@pytest.mark.parametrize("side", [1, -1])
def test_a_miss_beyond_five_per_cent_costs_itself(side):
    """Up to 5 % only the loss is counted, a few hundredths of the miss; from there on the miss as a whole besides."""
    one = search()
    assert cost(one, side * 0.0499) - cost(one, side * 0.0498) == pytest.approx(one.loss_per_amount * 1e-4, rel=1e-5)
    assert cost(one, side * 0.0502) - cost(one, side * 0.0501) == pytest.approx((one.loss_per_amount + 1) * 1e-4, rel=1e-5)
    assert cost(one, side * 0.0501) - cost(one, side * 0.05) == pytest.approx((one.loss_per_amount + 1) * 1e-4, rel=1e-5)


def test_a_limit_may_be_passed_only_by_what_rounding_brings_back():
    """Two per cent where feed-forward widths are rounded, since the screening polynomial does not round; else nothing."""
    rounded = search(80 * 10**9, "memory", Template.of("llama2", head_dim=128))
    whole = search(80 * 10**9, "memory", Template.of("gpt3", head_dim=128))
    assert whole.template.exact
    assert not rounded.template.exact
    assert math.isfinite(cost(rounded, 0.0199))
    assert cost(rounded, 0.0201) == math.inf
    assert cost(whole, 1e-6) == math.inf
    assert math.isfinite(cost(whole, -1e-6))
    assert math.isfinite(cost(search(), 1.0))  # a size to come close to is no limit


def test_a_shape_half_as_large_again_as_its_budget_is_no_answer():
    template = Template.of("gpt3", head_dim=128, vocab=100, context=64)
    smallest = template.at(1, 128).non_embedding_parameters
    found = plan(round(smallest / 1.49), kind="non_embedding", template=template).shape
    assert (found.depth, found.width) == (1, 128)
    with pytest.raises(InputError, match="too small"):
        plan(round(smallest / 1.51), kind="non_embedding", template=template)


# When the search goes on, and what it prefers.


class Stubbed(Search):
    """A search that finds what it is told to, and remembers how often it looked."""

    def __init__(self, costs, template=None):
        super().__init__(Budget("parameters", Fraction(10**9)), find_rule("levine2020"), template or Template.of("gpt3"))
        self.costs, self.looked = list(costs), 0

    def cheapest(self, shapes):
        self.looked += 1
        return self.costs.pop(0), self.template.at(12, 64 * math.lcm(self.template.head_dim, 12))


@pytest.mark.parametrize(("first", "looked"), [(0.0019, 1), (0.0021, 2)])
def test_it_looks_further_away_until_a_shape_costs_less_than_two_thousandths(first, looked):
    """A loss of 0.2 % is that of a budget smaller by a few per cent: nobody would notice."""
    one = Stubbed([first, 0.001])
    assert one.nearest()[0] == min(first, 0.001 if looked == 2 else first)
    assert one.looked == looked


def test_the_ranges_in_which_it_looks(monkeypatch):
    one, factors = Stubbed([1.0] * 4), []
    monkeypatch.setattr(one, "shapes_around", lambda width, factor: factors.append(factor))
    one.nearest()
    assert factors == [1.25, 2.0, 8.0, 64.0]


class Heads(Search):
    """A search whose best cost depends on the head dimension as told."""

    def __init__(self, by_head_dim):
        super().__init__(Budget("parameters", Fraction(10**9)), find_rule("levine2020"), Template.of("gpt3"))
        self.by_head_dim = by_head_dim

    def nearest(self):
        dim = self.template.head_dim
        return self.by_head_dim.get(dim, 1.0), self.template.at(12, dim * 12)


@pytest.mark.parametrize("rank", [1, 2])
def test_an_unusual_head_dimension_must_win_two_ten_thousandths_for_each_step_from_the_usual_one(rank):
    usual = Heads({}).template.head_dim_at(1024)
    others = sorted({128, 96, 80, 64, 48, 32, 16, 8} - {usual}, key=lambda dim: abs(math.log(dim / usual)))
    other = others[rank - 1]
    for gain, chosen in ((1.9e-4, usual), (2.1e-4, other)):
        assert Heads({usual: 5e-3, other: 5e-3 - rank * gain}).recommend().head_dim == chosen


def test_a_good_shape_with_usual_heads_ends_the_search():
    usual = Heads({}).template.head_dim_at(1024)
    other = 96 if usual != 96 else 64
    assert Heads({usual: 1.9e-3, other: 0.0}).recommend().head_dim == usual
    assert Heads({usual: 2.1e-3, other: 0.0}).recommend().head_dim == other


# How many shapes it looks at.


def test_four_shapes_are_counted_exactly():
    """Rounded feed-forward widths change the order of what the polynomial has screened: here the best comes fourth.

    One that comes fifth is missed, for less than a hundredth of a thousandth of the loss.
    """

    def both(amount):
        one = search(amount, template=Template.of("llama2"))
        shapes = list(one.shapes_around(one.centre[1], 1.25))
        trees = [one.template.at(*shape) for shape in set(shapes)]
        everything = min((one.cost_of(tree), (tree.depth, tree.width)) for tree in trees)
        found, tree = one.cheapest(shapes)
        return (found, (tree.depth, tree.width)), everything

    found, best = both(2_992_322_690)
    assert found == best
    assert found[1] == (56, 2048)
    found, best = both(4_039_740_736)
    assert best[0] < found[0] < best[0] + 1e-5


def test_every_width_nearby_is_tried_up_to_twenty_nine_thousand():
    """65 targets a factor of 1.007 apart, and both multiples beside each: none is left out while that is below two steps."""
    one = search(10**10, template=Template.of("gpt3", head_dim=128))

    def left_out(width):
        step = one.template.step_at(width)
        fitting = {k * step for k in range(math.ceil(width / 1.25 / step), int(width * 1.25 / step) + 1)}
        return fitting - {found for _, found in one.shapes_around(width, 1.25)}

    one.budget, one.amount = replace(one.budget, amount=Fraction(10**14)), 1e14
    assert left_out(28_000) == set()
    assert left_out(33_000) != set()


# What a plan says beside its shape.


@pytest.mark.parametrize("penalties", [(0.0, 0.0), (0.01, 0.0), (0.0, 0.01), (0.02, 0.01)])
def test_the_change_of_loss_is_that_of_both_penalties_and_both_sizes(penalties):
    """Loss = (1 + penalty) x what the size allows, a power of the parameters."""
    one = search(rule="levine2020")
    trees = one.template.at(30, 1344), one.template.at(20, 1664)
    ours, other = (one.measure(tree) for tree in trees)
    ours, changed = ours._replace(loss_penalty=penalties[0]), None
    one.penalty_of = lambda width, best: penalties[1]
    changed = one.measure(trees[1], against=ours)

    ratio = other.trained_size / ours.trained_size
    expected = (1 + penalties[1]) / (1 + penalties[0]) * ratio ** float(loss_exponent(other.trained_size)) - 1
    assert changed.loss_change == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert (changed.loss_change > 0) == (expected > 0)


def test_depths_beside_one_lie_within_a_fifth_of_it():
    """Widths in steps of 1024 are far from any depth asked for; what closes the budget beyond a factor of 1.2 is dropped."""
    one = search(10**10, template=Template.of("gpt3", head_dim=128, multiple=1024))
    near = far = 0
    for depth in range(4, 200):
        width = one.meet_budget(lambda width, depth=depth: (depth, width))[1]
        closing = {shape for found in one.template.nearest_widths(width) for shape in one.shapes_of_width(found)}
        kept = set(one.shapes_of_depth(depth)) - {(depth, found) for found in one.template.nearest_widths(width)}
        factors = {shape: max(shape[0] / depth, depth / shape[0]) for shape in closing if shape[0] != depth}
        assert kept == {shape for shape, factor in factors.items() if factor <= 1.2}
        near += sum(1.15 < factor <= 1.2 for factor in factors.values())
        far += sum(1.2 < factor < 1.25 for factor in factors.values())
    assert near > 3
    assert far > 3


# Heads, stages and limits.


@pytest.mark.parametrize(("heads", "lacking"), [(24, 0), (20, 1), (18, 2), (25, 3)])
def test_heads_that_divide_among_few_devices_must_win_three_hundred_thousandths_a_factor(heads, lacking):
    one = search(template=Template.of("gpt3", head_dim=64))
    assert one.uneven(64 * heads) == pytest.approx(lacking * 3e-5)
    assert search(template=Template.of("gpt3", heads=25)).uneven(64 * 25) == 0.0


@pytest.mark.parametrize(
    ("options", "holds"),
    [
        ({"depth": 24}, lambda tree: tree.depth == 24),
        ({"width": 4096}, lambda tree: tree.width == 4096),
        ({"layers_at_most": 32}, lambda tree: tree.depth <= 32),
        ({"heads": 40}, lambda tree: tree.heads == 40),
        ({"heads": 40, "head_dim": 128}, lambda tree: (tree.heads, tree.width) == (40, 5120)),
        ({"pipeline": 8}, lambda tree: tree.depth % 8 == 0),
        ({"tensor_parallel": 16}, lambda tree: tree.heads % 16 == 0),
        ({"vocab_multiple": 1024}, lambda tree: tree.vocab == 50 * 1024),
    ],
    ids=lambda one: None if callable(one) else str(one),
)
def test_limits_are_kept_and_the_budget_is_met(options, holds):
    found = plan("7B", **options)
    assert holds(found.tree)
    assert not holds(plan("7B", layers_at_most=51, heads=26).tree) or "layers_at_most" in options
    assert abs(found.shape.budget_miss) < 0.05
    free = found.without_limits
    if free is not None:
        assert free.loss_at_budget < 0 < free.loss_at_budget_stderr


@pytest.mark.parametrize("devices", [3, 7, 16])
def test_grouped_heads_divide_among_any_number_of_devices(devices):
    found = plan("7B", preset="llama3", tensor_parallel=devices)
    assert found.shape.heads % devices == 0
    assert abs(found.shape.budget_miss) < 0.05


@pytest.mark.parametrize("devices", [1, 4])
def test_screened_counts_have_the_key_value_heads_of_each_width(devices):
    """28 heads have four of them, 24 have eight; the hidden widths are not rounded here."""
    template = Template.of("llama3", head_dim=128, tensor_parallel=devices)
    one = Search(Budget("parameters", Fraction(7 * 10**9)), find_rule("levine2020"), template)
    for width, kv_heads in ((3072, 8), (3584, 4)):
        tree = template.at(40, width)
        assert tree.kv_heads == kv_heads
        assert one.rounded_quantity(40, width) == pytest.approx(tree.parameters, rel=1e-12)
    assert one.quantity(40, 3584) != pytest.approx(template.at(40, 3584).parameters, rel=0.01)


def test_a_depth_and_a_width_are_a_shape_with_its_own_count():
    found = plan(depth=24, width=1024)
    assert (found.shape.depth, found.shape.width, found.shape.budget_miss) == (24, 1024, 0)
    assert found.budget.amount == found.tree.parameters
    assert found.without_limits.loss_at_budget < 0
