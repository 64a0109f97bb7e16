"""The combined rule: its numbers are those of its script, its bands hold what they must, and no other number moves."""

import math
from dataclasses import replace

import numpy as np
import pytest
from combined_rule import Line, as_text, calibration, combined, page_table, source, table
from hypothesis import given
from hypothesis import strategies as st

from depthwidth import InputError, optimal_width, plan
from depthwidth.coefficients import coefficient, coefficients
from depthwidth.formulas import rules as laws
from depthwidth.planning.combined import LossBand, best_width_band, curvatures, penalty_band, shifts
from depthwidth.planning.rules import find_rule, meet, rules

LAW = "combined2026"
SIZES = (1e4, 1e6, 1e8, 1e9, 1e10, 1e11, 1e13)


def made_sources(rng, spread, count=7, points=4, noise=0.02):
    """Lines of slope 0.35 whose heights scatter by `spread`."""
    found = []
    for number in range(count):
        sizes, height = np.geomspace(1e7, 1e10, points), rng.normal(0, spread)
        widths = [math.log(1000) + height + 0.35 * math.log(size / 1e9) + rng.normal(0, noise) for size in sizes]
        found.append(source(str(number), "measured", "", [(n, w, noise) for n, w in zip(sizes, widths, strict=True)]))
    return found


@pytest.mark.slow
def test_a_spread_that_is_known_is_found(rng):
    lines = [combined(made_sources(rng, 0.15)) for _ in range(6)]
    assert all(isinstance(line, Line) and line.degrees == 5 for line in lines)
    assert np.mean([line.spread[0] for line in lines]) == pytest.approx(0.15, rel=0.4)
    assert np.mean([line.slope for line in lines]) == pytest.approx(0.35, abs=0.01)
    assert combined(made_sources(rng, 0.0)).spread[0] < 0.05
    for line in lines:
        error = line.at(1e9)[1]
        assert error > line.spread[0]
        assert abs(line.at(1e9)[0] - math.log(1000)) < line.half_width(0.99, error)


@pytest.mark.slow
def test_a_source_off_all_others_is_outside(rng):
    """The calibration can fail: a set whose widths are five times those of the others is in no band."""
    found = made_sources(rng, 0.05)
    found[3] = replace(found[3], log_width=found[3].log_width + math.log(5))
    inside = {left.name: held for left, _, _, _, held in calibration(found)}
    assert inside["3"] == [False, False]
    assert inside["0"][1]


@pytest.mark.slow
def test_the_committed_numbers_are_those_of_the_script():
    made = list(table())
    assert [row["name"] for row in made] == [row.name for row in coefficients(LAW)]
    for row, stored in zip(made, coefficients(LAW), strict=True):
        # The spreads are where a search ends, whose last digits other releases of the library move.
        assert float(row["value"]) == pytest.approx(stored.value, rel=0.01)
        assert (row["stderr"] == "") == (stored.stderr is None)
        assert (row["status"], row["source"], row["note"]) == (stored.status, stored.source, stored.note)
    assert as_text(None) == ""


@pytest.mark.slow
def test_the_page_shows_the_calibration(pytestconfig):
    assert page_table() in (pytestconfig.rootpath / "docs" / "evidence.md").read_text(encoding="utf-8")


def test_the_rule_is_the_formula():
    for size in SIZES:
        depth, width = meet(find_rule(LAW).curve(), lambda depth, width: 12 * depth * width**2, size)
        assert width == pytest.approx(laws.combined_optimal_width(size), rel=1e-10)
        assert 12 * depth * width**2 == pytest.approx(size, rel=1e-10)
    error = laws.combined_relative_width_error(1e9)
    moved = [curve(1e9)[1] / laws.combined_optimal_width(1e9) for curve in find_rule(LAW).variants().values()]
    assert moved == pytest.approx([math.exp(-error), math.exp(error)])
    (_, low, high) = find_rule(LAW).fitted_on[0]
    assert (low, high) == tuple(coefficient(LAW, f"non_embedding_{end}").value for end in ("min", "max"))


@pytest.mark.slow
@given(st.floats(4, 14).map(lambda power: 10.0**power))
def test_bands_are_nested_and_hold_the_rules_beyond_the_data(size):
    half, most = best_width_band(size, 0.5), best_width_band(size, 0.9)
    assert most.low <= half.low < half.width < half.high <= most.high
    assert half.width == most.width == laws.combined_optimal_width(size)
    if half.extrapolated:
        for rule in rules().values():
            shape = meet(rule.curve(), lambda depth, width: 12 * depth * width**2, size)
            assert rule.pooled or shape is None or half.low <= shape[1] <= half.high


def test_inside_the_data_the_band_is_that_of_the_sources_alone():
    """Held to all rules everywhere, the band of half of the sources would hold nearly all of them."""
    band = best_width_band(1e8, 0.5)
    assert not band.extrapolated
    assert band.high / band.width == pytest.approx(band.width / band.low)
    assert not band.low < meet(find_rule("levine2020").curve(), lambda depth, width: 12 * depth * width**2, 1e8)[1] < band.high
    ratio = math.log(best_width_band(1e8, 0.9).high / band.width) / math.log(band.high / band.width)
    assert ratio == pytest.approx(1.943180 / 0.717558, rel=1e-5)  # Student's quantiles at six degrees of freedom


def test_the_penalty_is_a_band():
    low, high = penalty_band(1470, 1e9)
    assert 0 <= low < 1e-5 < high < 0.01
    assert 0 < penalty_band(4000, 1e9)[0] < penalty_band(4000, 1e9)[1]
    assert penalty_band(4000, 1e9, 0.9)[1] > penalty_band(4000, 1e9, 0.5)[1]


@pytest.mark.parametrize(("slope", "farthest"), [(0.03, math.inf), (-0.02, math.inf), (0.03, 0.05)])
def test_a_loss_is_held_against_the_least_of_its_curve(slope, farthest):
    """By a search along the curve, no farther than the size may move the best width; and quantiles by many draws of it."""
    band = LossBand(0.9, 1e9, 0.2, slope, farthest=farthest)
    places = np.linspace(-1, 1, 4001) * min(farthest, 2.0)
    for k, shift in ((0.1, 0.0), (0.3, -0.4), (0.05, 0.5)):
        x = 0.2 - shift
        least = (k * places**2 + slope * places).min()
        assert band.lost(shift, k) == pytest.approx(max(0.0, k * x**2 + slope * x - least), abs=1e-6)
    drawn = [(band.lost(shift, k), weight * part) for weight, k in curvatures(15) for part, shift in shifts(401, band.error)]
    lost, weights = np.array(sorted(drawn)).T
    for share in (0.5, 0.95):
        assert band.quantile(share) == pytest.approx(lost[np.searchsorted(weights.cumsum(), share)], rel=0.01)


def test_no_other_number_moves():
    """The rule is listed, and is in no range across rules; the default is as it was."""
    found = plan("7B")
    assert found.rule.name == "levine2020"
    shape = found.rules[LAW]
    assert shape.comparison
    estimate = optimal_width(1e12)
    assert estimate.over_rules[0] > optimal_width(1e12, rule=LAW).value
    own = plan("7B", rule=LAW)
    assert own.rule.name == LAW
    assert own.rules[LAW].width == pytest.approx(shape.width, rel=1e-9)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: best_width_band(1e9, 0.7), "level"),
        (lambda: best_width_band("many"), "parameters"),
        (lambda: penalty_band(-3, 1e9), "width"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(call, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        call()
    assert "\n" not in str(caught.value)
