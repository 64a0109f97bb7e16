"""Shapes in closed form are those that a search by false position finds, and kept counts are those of a fresh template."""

from dataclasses import replace

import pytest

from depthwidth.planning.budget import Budget
from depthwidth.planning.continuous import Continuous, depth_on_line, meet_at_depth
from depthwidth.planning.costs import costs
from depthwidth.planning.counting import readings_of
from depthwidth.planning.known_models import known_models
from depthwidth.planning.plan import plan
from depthwidth.planning.rules import at_depth, meet
from depthwidth.planning.search import Search
from depthwidth.planning.template import Template

PLAIN = Continuous((3.0, 5e4, 0.0), (1.0, 9.0, 12.0))


@pytest.mark.parametrize("depth", [1.0, 3.7, 200.0])
@pytest.mark.parametrize("amount", [1e6, 7e9, 1e15])
def test_the_width_in_closed_form_is_the_root(depth, amount):
    searched = meet(at_depth(depth), PLAIN.__call__, amount)  # a plain function has no closed form
    assert meet_at_depth(depth, PLAIN, amount) == pytest.approx(searched, rel=1e-13)
    assert PLAIN(depth, searched[1]) == pytest.approx(amount, rel=1e-12)


@pytest.mark.parametrize("quantity", [
    Continuous((0.0, -50.0, 0.0), (0.0, 0.0, 12.0)),  # falls at first
    Continuous((0.0, 2.0, 0.0), (0.0, 0.0, 0.0)),  # is a straight line
    Continuous((2e6, 2.0, 0.0), (0.0, 0.0, 12.0)),  # begins above the amount
])  # fmt: skip
def test_a_quantity_without_the_closed_form_is_searched(quantity):
    assert quantity.width_at(2.0, 1e6) is None
    assert meet_at_depth(2.0, quantity, 1e6) == meet(at_depth(2.0), quantity, 1e6)


def test_the_depth_on_a_line():
    assert depth_on_line(PLAIN.line(1000.0), PLAIN(40.0, 1000.0)) == pytest.approx(40.0, rel=1e-13)
    assert depth_on_line(PLAIN.line(1000.0), PLAIN.line(1000.0)[0]) is None  # nothing is left for a block
    assert depth_on_line((1.0, 0.0), 5.0) is None


@pytest.mark.parametrize("preset", ["gpt3", "llama3"])  # of the second, key-value heads change with the width
@pytest.mark.parametrize("width", [1024, 2560, 3072])
def test_the_depth_of_a_width_is_the_root_with_its_own_heads(preset, width):
    found = plan("1B", preset=preset)
    search = Search(found.budget, found.rule, found.template)
    searched = meet(lambda depth: (depth, width), search.rounded_quantity, search.amount)
    assert search.depth_of(width) == pytest.approx(searched, rel=1e-12)


@pytest.mark.parametrize("kind", ["parameters", "active", "flops", "memory"])
def test_kept_counts_serve_every_amount_of_one_kind(kind):
    template = Template.of("mixtral")
    small, large = (Budget(kind, amount, data_parallel=2) for amount in (10**12, 10**13))
    kept = readings_of(template, small)
    assert readings_of(template, large) is kept
    fresh = large.quantity(template)
    assert kept.quantity(40.0, 4096.0) == fresh(40.0, 4096.0)
    assert kept.size(40.0, 4096.0) == template.polynomial(lambda tree: tree.trained_size).continuous()(40.0, 4096.0)
    other = replace(large, zero=3)  # it changes the memory alone
    assert (readings_of(template, other) is kept) == (kind in ("parameters", "active"))


def test_a_template_keeps_its_recent_trees():
    template = Template.of("llama3")
    assert template.at(4, 512) is template.at(4, 512)
    assert template.at(4, 512) is not template.at(5, 512)
    assert replace(template, head_dim=64).at(4, 512).stack.first("as_attention").head_dim == 64
    for depth in range(1, 200):
        template.at(depth, 256)
    assert len(template._trees) <= 64


def test_costs_are_kept_for_a_model_and_its_conventions():
    found = plan("1B")
    budget, tree = found.budget, found.tree
    assert costs(tree, budget) is costs(tree, replace(budget, amount=10**12))  # the amount has no part in them
    assert costs(tree, replace(budget, batch=4)).training_memory_per_device > costs(tree, budget).training_memory_per_device
    other = replace(found.template, head_dim=128).at(tree.depth, tree.width)
    assert costs(other, budget) is not costs(tree, budget)


def test_a_known_model_is_built_once_for_each_context():
    one = known_models()[-1]
    assert one.tree(2048) is one.tree(2048)
    assert one.tree(4096) is not one.tree(2048)
