"""The inverse-depth rule: printed shapes and constants."""

from functools import partial

import pytest
from helpers import agrees, check, table

from depthwidth.coefficients import coefficient
from depthwidth.formulas import rules

G2_CURVE = table("512 | 10.3740\n1024 | 18.2276\n2048 | 32.0268\n4096 | 56.2726\n12288 | 137.489")
G2_BUDGETS = table("""
1e8 | 762.338 | 14.3391
1e9 | 1728.31 | 27.8983
1e10 | 3918.27 | 54.2789
1e11 | 8883.15 | 105.605
1e12 | 20139.1 | 205.465""")


@pytest.mark.parametrize(("width", "depth"), G2_CURVE)
def test_liu_curve(width, depth):
    check(rules.liu_depth(float(width)), depth)
    assert not agrees(rules.liu_depth(float(width), alpha_l=1.2015), depth)


@pytest.mark.parametrize(("parameters", "width", "depth"), G2_BUDGETS)
def test_liu_shape_for_a_budget(parameters, width, depth):
    check(rules.liu_optimal_width(float(parameters)), width)
    check(rules.liu_optimal_depth(float(parameters)), depth)
    assert not agrees(rules.liu_optimal_width(float(parameters), c_l=5.0806), width)


def test_liu_constants():
    check(coefficient("liu2026", "c_l").value, "5.08053")
    alpha_m, alpha_l = (coefficient("liu2026", name) for name in ("alpha_m", "alpha_l"))
    check(alpha_m.value / alpha_l.value, "0.813153")
    check(alpha_m.value, "0.98")
    check(alpha_m.stderr, "0.08")
    check(alpha_l.value, "1.2")
    check(alpha_l.stderr, "0.3")
    unit = partial(rules.liu_depth, alpha_m=1, alpha_l=1)
    assert unit(512) / 512 == pytest.approx(unit(8192) / 8192, rel=1e-14)
