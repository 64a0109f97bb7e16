"""Two depths at equal parameters: where they cross, and the advantage beside it."""

import math

import pytest
from helpers import agrees, check, golden, table

from depthwidth.formulas import depth_pairs, rules, shape_penalty

CROSSINGS = table("""
2, 4 | 1.10636e6 | 215 | 152 | -1.34 | 1.05 | 1.80
3, 6 | 1.94161e6 | 232 | 164 | -1.23 | 0.92 | 1.57
6, 12 | 6.21891e6 | 294 | 208 | -0.97 | 0.69 | 1.19
12, 24 | 3.19001e7 | 471 | 333 | -0.65 | 0.48 | 0.84
24, 48 | 4.19678e8 | 1207 | 854 | -0.38 | 0.30 | 0.54""")


@pytest.mark.parametrize(("pair", "size", "shallow_width", "deep_width", "quarter", "fourfold", "sixteenfold"), CROSSINGS)
def test_depth_pairs(pair, size, shallow_width, deep_width, quarter, fourfold, sixteenfold):
    shallow, deep = map(int, pair.split(","))
    crossing = depth_pairs.depth_pair_crossing(shallow, deep)
    check(crossing, size)
    check(math.sqrt(crossing / (12 * shallow)), shallow_width)
    check(math.sqrt(crossing / (12 * deep)), deep_width)
    for times, printed in ((0.25, quarter), (4, fourfold), (16, sixteenfold)):
        check(100 * depth_pairs.depth_pair_advantage(times * crossing, shallow, deep), printed)
    assert abs(depth_pairs.depth_pair_advantage(crossing, shallow, deep)) < 1e-15
    assert not agrees(depth_pairs.depth_pair_crossing(shallow, deep + 0.001), size)


@pytest.mark.parametrize("row", golden("depth_pair_crossings"), ids=lambda row: f"{row['shallow']}-{row['deep']}")
def test_depth_pairs_in_full(row):
    shallow, deep = int(row["shallow"]), int(row["deep"])
    crossing = depth_pairs.depth_pair_crossing(shallow, deep)
    check(crossing, row["parameters"], digits=6)
    check(math.sqrt(shallow * deep), row["mean_depth"], digits=6)
    check(math.sqrt(crossing / (12 * shallow)), row["shallow_width"], digits=4)
    check(math.sqrt(crossing / (12 * deep)), row["deep_width"], digits=4)
    for times, column in ((0.25, "advantage_quarter"), (4, "advantage_4x"), (16, "advantage_16x")):
        check(100 * depth_pairs.depth_pair_advantage(times * crossing, shallow, deep), row[column], digits=3)


def test_the_advantage_is_the_difference_of_two_penalties():
    for parameters in (1e6, 1e7, 1e9):
        best = rules.levine_optimal_width(parameters)
        shallow, deep = (shape_penalty.shape_penalty(math.sqrt(parameters / (12 * depth)), best) for depth in (6, 12))
        assert depth_pairs.depth_pair_advantage(parameters, 6, 12) == pytest.approx(shallow - deep, rel=1e-9)
