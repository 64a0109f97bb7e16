"""Rules are curves; a budget closes them. Their crossings are checked against the closed forms of the formulas."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from depthwidth.coefficients import reference
from depthwidth.errors import InputError
from depthwidth.formulas import rules as laws
from depthwidth.planning.rules import find_rule, meet, rules

BUDGETS = st.floats(math.log(1e4), math.log(1e15)).map(math.exp)


def plain(depth, width):
    """The N of the papers."""
    return 12 * depth * width**2


CLOSED_FORMS = {
    "levine2020": (laws.levine_optimal_depth, laws.levine_optimal_width),
    "gemstones2025": (laws.gemstones_optimal_depth, laws.gemstones_optimal_width),
    "liu2026": (laws.liu_optimal_depth, laws.liu_optimal_width),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
@given(budget=BUDGETS)
@settings(max_examples=40)
def test_a_curve_meets_a_budget_where_the_closed_form_says(name, budget):
    depth, width = meet(find_rule(name).curve(), plain, budget)
    best_depth, best_width = (f(budget) for f in CLOSED_FORMS[name])
    # False position stops when ln(amount) is within 1e-14 or the bracket within 1e-14; the slope is never below 1/2.
    assert depth == pytest.approx(best_depth, rel=1e-11)
    assert width == pytest.approx(best_width, rel=1e-11)


def test_a_wrong_closed_form_is_caught():
    depth, _ = meet(find_rule("levine2020").curve(), plain, 1e9)
    assert depth != pytest.approx(laws.levine_optimal_depth(1e9, b=0.0556), rel=1e-4)


EVERYWHERE = sorted(set(rules()) - {"measured2025"})  # which begins and ends near its data


@given(name=st.sampled_from(EVERYWHERE), budget=BUDGETS)
@settings(max_examples=150)
def test_every_rule_meets_every_budget_exactly(name, budget):
    depth, width = meet(find_rule(name).curve(), plain, budget)
    assert plain(depth, width) == pytest.approx(budget, rel=1e-12)


@given(name=st.sampled_from(sorted(rules())), budget=BUDGETS, factor=st.floats(1.01, 100))
@settings(max_examples=100)
def test_a_larger_budget_never_makes_a_smaller_shape(name, budget, factor):
    small = meet(find_rule(name).curve(), plain, budget)
    large = meet(find_rule(name).curve(), plain, budget * factor)
    if small is None or large is None:
        assert name == "measured2025"
        return
    assert large[0] >= small[0] * (1 - 1e-9)
    assert large[1] >= small[1] * (1 - 1e-9)


def test_a_budget_below_the_beginning_of_a_curve_is_not_met():
    """With an embedding of 50257 tokens the 2020 curve begins at exp(a) = 154 dimensions: 7.8M parameters."""
    with_embedding = lambda depth, width: 50257 * width + plain(depth, width)  # noqa: E731
    curve = find_rule("levine2020").curve()
    start = 50257 * math.exp(5.039)
    assert meet(curve, with_embedding, start * 0.999) is None
    assert meet(curve, with_embedding, start * 1.001) is not None


def test_the_measured_rule_begins_and_ends_near_its_data():
    curve = find_rule("measured2025").curve()
    assert meet(curve, plain, 2.2e6) is None
    assert meet(curve, plain, 2.4e6) is not None
    assert meet(curve, plain, 1.7e10) is not None
    assert meet(curve, plain, 1.9e10) is None


def test_the_error_of_the_2020_curve_agrees_with_its_closed_form():
    """The shift of the crossing by one standard error against sigma_L at fixed N, to the first order it is (4 % at 1T)."""
    rule = find_rule("levine2020")
    depth, _ = meet(rule.curve(), plain, 1e9)
    for curve in rule.variants().values():
        moved, _ = meet(curve, plain, 1e9)
        assert abs(moved - depth) == pytest.approx(laws.levine_optimal_depth_error(1e9), rel=0.02)


def test_the_gpt3_curve_passes_through_the_family():
    curve = find_rule("gpt3").curve()
    for row in reference("gpt3_family"):
        assert curve(float(row["width"]))[0] == pytest.approx(float(row["depth"]), rel=1e-12)


def test_extrapolation_is_known():
    rule = find_rule("levine2020")
    assert not rule.extrapolates(24, 600, 1e8)
    assert rule.extrapolates(95, 30000, 1e12)


def test_an_unknown_rule_gets_one_sentence():
    with pytest.raises(InputError, match="did you mean 'levine2020'") as error:
        find_rule("levine")
    assert "\n" not in str(error.value)
