"""The Gemstones rule: printed shapes and coefficients, and where the loss is stationary."""

import math

import pytest
import sympy
from helpers import agrees, check, golden, one_quick_in, table

from depthwidth.coefficients import coefficient, editions, reference
from depthwidth.errors import InputError
from depthwidth.formulas import rules
from depthwidth.planning.optima import gemstones_flop_optimum

G1A = table("""
12 | 1e8 | 562.641 | 26.3242
12 | 1e9 | 1433.85 | 40.5332
12 | 1e10 | 3654.06 | 62.4118
12 | 1e11 | 9312.11 | 96.0998
12 | 1e12 | 23731.2 | 147.971
15 | 1e8 | 513.878 | 25.2458
15 | 1e9 | 1309.58 | 38.8727
15 | 1e10 | 3337.37 | 59.8550
15 | 1e11 | 8505.04 | 92.1629
15 | 1e12 | 21674.5 | 141.910""")


@pytest.mark.parametrize(("c", "parameters", "width", "depth"), G1A)
def test_gemstones_shape_for_a_budget(c, parameters, width, depth):
    c, parameters = float(c), float(parameters)
    check(rules.gemstones_optimal_width(parameters, c), width)
    check(rules.gemstones_optimal_depth(parameters, c), depth)
    for wrong in ({"alpha": 0.2196}, {"beta": 0.4759}, {"A": 2.9508}, {"B": 0.8037}):
        assert not agrees(rules.gemstones_optimal_width(parameters, c, **wrong), width)


@pytest.mark.parametrize("row", golden("gemstones_law"), ids=lambda row: f"{row['variant']}/{row['delta']}")
def test_gemstones_coefficients(row):
    edition = f"{row['variant']}/{row['delta']}"
    for name in ("A", "B", "C", "D", "epsilon"):
        check(coefficient("gemstones2025", name, edition).value, row[name], digits=6)
    alpha, beta = (coefficient("gemstones2025", name, edition).value for name in ("alpha", "beta"))
    check(beta / (alpha + 2 * beta), row["width_exponent"], digits=6)
    check(alpha / (alpha + 2 * beta), row["depth_exponent"], digits=6)


def test_gemstones_main_coefficients_and_exponents():
    assert editions("gemstones2025")[0] == "hot_100b+/1e-4"
    for name, printed in (("A", "2.95070"), ("B", "0.803565"), ("C", "441.525"), ("D", "35314.3"), ("epsilon", "1.53450")):
        check(coefficient("gemstones2025", name).value, printed)
    growth = rules.gemstones_optimal_width(1e10) / rules.gemstones_optimal_width(1e9)
    check(math.log10(growth), "0.4063")
    check(math.log10(rules.gemstones_optimal_depth(1e10) / rules.gemstones_optimal_depth(1e9)), "0.1875")


def test_gemstones_spread_over_the_data_variants():
    def spread(formula, parameters):
        found = []
        for edition in editions("gemstones2025")[:5]:
            names = ("alpha", "beta", "A", "B")
            found.append(formula(parameters, 15, *(coefficient("gemstones2025", n, edition).value for n in names)))
        return min(found), max(found)

    for formula, parameters, low, high in (
        (rules.gemstones_optimal_width, 1e12, "14413", "24049"),
        (rules.gemstones_optimal_depth, 1e12, "115", "321"),
        (rules.gemstones_optimal_width, 1e9, "1249", "1361"),
        (rules.gemstones_optimal_depth, 1e9, "36", "42.7"),
    ):
        least, most = spread(formula, parameters)
        check(least, low)
        check(most, high)


def test_the_curves_are_where_the_loss_is_stationary():
    """Along w^2 d = constant the additive law's derivative vanishes on the curve, for any block coefficient."""
    w, n, alpha, beta, A, B = sympy.symbols("w n alpha beta A B", positive=True)
    loss = A * w**-alpha + B * (n / w**2) ** -beta
    slope = sympy.lambdify((w, n, alpha, beta, A, B), loss.diff(w) * w)
    for width in (128.0, 1024.0, 16384.0):
        for values, depth in (
            ((0.22, 0.48, 2.95, 0.80), rules.gemstones_depth(width, 0.22, 0.48, 2.95, 0.80)),
            ((0.98, 1.2, 333.0, 5.08), rules.liu_depth(width, 0.98, 1.2, 333.0, 5.08)),
        ):
            scale = values[0] * values[2] * width ** -values[0]
            assert abs(slope(width, width**2 * depth, *values)) < 1e-13 * scale
            assert abs(slope(width, 1.01 * width**2 * depth, *values)) > 1e-4 * scale


G1B = table("""
1e19 | 794.705 | 15.6949
1e20 | 1410.86 | 28.4068
1e21 | 2559.51 | 45.0829
1e22 | 4861.27 | 66.2508
1e23 | 9618.88 | 94.4644""")


@one_quick_in(5, ("flops", "width", "depth"), G1B)
def test_gemstones_shape_for_a_training_budget(flops, width, depth):
    best = gemstones_flop_optimum(float(flops))
    check(best.width, width)
    check(best.depth, depth)
    for other in (gemstones_flop_optimum(float(flops), context=2049), gemstones_flop_optimum(float(flops), vocab=50257)):
        assert not agrees(other.width, width)


@pytest.mark.parametrize("row", reference("gemstones_flop_optimal_shapes"), ids=lambda row: row["training_flops"])
def test_gemstones_training_budgets_in_full(row):
    best = gemstones_flop_optimum(float(row["training_flops"]))
    check(best.width, row["width"], digits=6)
    check(best.depth, row["depth"], digits=6)
    check(best.parameters, row["total_params"], digits=6)
    check(best.tokens, row["tokens"], digits=6)
    check(best.loss, row["loss_nats"], digits=6)


def test_tokens_per_parameter_fall_from_31_to_nearly_one():
    for flops, printed in ((1e19, "31"), (1e23, "0.9")):
        best = gemstones_flop_optimum(flops)
        check(best.tokens / best.parameters, printed)


@pytest.mark.parametrize("flops", [0, -1e20, math.nan, math.inf, 1e6, 1e40])
def test_a_training_budget_without_a_best_shape_is_refused(flops):
    with pytest.raises(InputError, match="gemstones_flop_optimum"):
        gemstones_flop_optimum(flops)
