"""All rules: side by side, their inverses, and growth with the budget."""

from functools import partial

import pytest
from helpers import check, golden, table
from hypothesis import given
from hypothesis import strategies as st

from depthwidth.formulas import rules

BUDGETS = st.floats(4, 15).map(lambda exponent: 10.0**exponent)
RULES = {
    "levine": (rules.levine_optimal_width, rules.levine_optimal_depth),
    "gemstones": (rules.gemstones_optimal_width, rules.gemstones_optimal_depth),
    "liu": (rules.liu_optimal_width, rules.liu_optimal_depth),
    "ratio64": (partial(rules.constant_aspect_width, aspect=64), partial(rules.constant_aspect_depth, aspect=64)),
    "ratio100": (partial(rules.constant_aspect_width, aspect=100), partial(rules.constant_aspect_depth, aspect=100)),
}
SIDE_BY_SIDE = table("""
1e7 | 279 x 10.7 | 221 x 17.1 | 336 x 7.4 | 376 x 5.9 | 437 x 4.4
1e8 | 588 x 24.1 | 563 x 26.3 | 762 x 14.3 | 811 x 12.7 | 941 x 9.4
1e9 | 1439 x 40.2 | 1434 x 40.5 | 1728 x 27.9 | 1747 x 27.3 | 2027 x 20.3
1e10 | 3800 x 57.7 | 3654 x 62.4 | 3918 x 54.3 | 3764 x 58.8 | 4368 x 43.7
1e11 | 10472 x 76.0 | 9312 x 96.1 | 8883 x 106 | 8110 x 127 | 9410 x 94.1
1e12 | 29657 x 94.7 | 23731 x 148 | 20139 x 205 | 17472 x 273 | 20274 x 203""")


@pytest.mark.parametrize("row", SIDE_BY_SIDE, ids=lambda row: row[0])
def test_rules_side_by_side(row):
    for (width, depth), cell in zip(RULES.values(), row[1:], strict=True):
        printed_width, printed_depth = cell.split(" x ")
        check(width(float(row[0])), printed_width)
        check(depth(float(row[0])), printed_depth)


@pytest.mark.parametrize("row", golden("rules_by_budget"), ids=lambda row: row["parameters"])
def test_rules_by_budget(row):
    for rule, (width, depth) in RULES.items():
        check(width(float(row["parameters"])), row[f"{rule}_width"], digits=6)
        check(depth(float(row["parameters"])), row[f"{rule}_depth"], digits=6)


PAIRS = [
    (rules.levine_width, rules.levine_depth),
    (rules.gemstones_width, rules.gemstones_depth),
    (rules.liu_width, rules.liu_depth),
    (rules.nanochat_width, rules.nanochat_depth),
    (rules.sovit_width, rules.sovit_depth),
]


@pytest.mark.parametrize(("width", "depth"), PAIRS, ids=lambda f: f.__name__)
@given(st.floats(0.5, 150))
def test_width_and_depth_undo_each_other(width, depth, layers):
    assert depth(width(layers)) == pytest.approx(layers, rel=1e-11)


@given(BUDGETS, st.floats(1, 50))
def test_a_budget_comes_back_from_its_shape(parameters, c):
    """Each rule's best shape has the budget's size and lies on the rule's own curve."""
    for width, depth, curve in (
        (rules.levine_optimal_width, rules.levine_optimal_depth, rules.levine_width),
        (rules.gemstones_optimal_width, rules.gemstones_optimal_depth, rules.gemstones_width),
        (rules.liu_optimal_width, rules.liu_optimal_depth, rules.liu_width),
    ):
        w, d = width(parameters, c=c), depth(parameters, c=c)
        assert c * d * w**2 == pytest.approx(parameters, rel=1e-11)
        assert curve(d) == pytest.approx(w, rel=1e-11)
    w, d = rules.constant_aspect_width(parameters, 64, c), rules.constant_aspect_depth(parameters, 64, c)
    assert c * d * w**2 == pytest.approx(parameters, rel=1e-11)
    assert w / d == pytest.approx(64, rel=1e-11)


@given(BUDGETS)
def test_more_parameters_never_ask_for_less(parameters):
    for formula in (f for pair in list(RULES.values())[:3] for f in pair):
        assert formula(1.01 * parameters) > formula(parameters)
