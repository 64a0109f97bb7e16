"""CompleteP's ratios of width to depth: the table and the line between its points."""

import math

import pytest
from helpers import check, table

from depthwidth.coefficients import reference
from depthwidth.formulas import rules, shape_penalty

C1 = table("50000000 | 40 | 12 | 23.37\n300000000 | 50 | 15 | 28.19\n1500000000 | 62 | 11.8 | 39.33")


@pytest.mark.parametrize(("parameters", "best", "lowest", "levine"), C1)
def test_completep_table(parameters, best, lowest, levine):
    row = next(r for r in reference("completep_optimal_aspect") if r["nonembedding_params"] == parameters)
    assert (row["completep_best_ratio"], row["completep_lowest_ratio_within_1pct"]) == (best, lowest)
    n = float(parameters)
    assert rules.completep_aspect(n) == pytest.approx(float(best), rel=1e-13)
    assert rules.completep_lowest_aspect(n) == pytest.approx(float(lowest), rel=1e-13)
    check(rules.levine_optimal_width(n) / rules.levine_optimal_depth(n), levine)


def test_completep_line_is_straight_in_ln_n_and_flat_outside():
    middle = math.sqrt(5e7 * 3e8)
    assert rules.completep_aspect(middle) == pytest.approx(45, rel=1e-13)
    assert rules.completep_aspect(1e6) == rules.completep_aspect(5e7) == 40
    assert rules.completep_aspect(1e12) == pytest.approx(62, rel=1e-14)
    assert rules.completep_aspect(1e9) == pytest.approx(50 + 12 * math.log(1e9 / 3e8) / math.log(5), rel=1e-13)


def test_the_gap_between_both_ratios_is_cheap():
    """Ratio 39 against 62 at 1.5e9 costs under 0.1 % of loss."""
    wide, narrow = (rules.constant_aspect_width(1.5e9, ratio) for ratio in (62, 39.33))
    assert shape_penalty.shape_penalty(wide, narrow) < 0.001
