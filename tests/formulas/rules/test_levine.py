"""The curve of 2020: printed values, errors by the delta method and by simulation, and networks that were built."""

import math

import numpy as np
import pytest
from helpers import agrees, check, golden, table
from hypothesis import given
from hypothesis import strategies as st

from depthwidth.coefficients import coefficient, covariance, reference
from depthwidth.errors import InputError
from depthwidth.formulas import rules, shape_penalty
from depthwidth.formulas.separation import depth_efficiency_threshold

BUDGETS = st.floats(4, 15).map(lambda exponent: 10.0**exponent)
F1 = table("6 | 215.293\n12 | 300.365\n24 | 584.642\n48 | 2214.98\n80 | 13082.1\n95 | 30076.5")
F2 = table("256 | 9.12031\n768 | 28.9151\n1024 | 34.0986\n2560 | 50.6083\n3584 | 56.6709\n12288 | 78.8717")
F3 = table("""
6 | 3.33728e6
12 | 1.29916e7
24 | 9.84403e7
48 | 2.82594e9
70 | 4.73770e10
80 | 1.64296e11
95 | 1.03124e12""")


@pytest.mark.parametrize(("depth", "printed"), F1)
def test_levine_width(depth, printed):
    check(rules.levine_width(float(depth)), printed)


@pytest.mark.parametrize(("width", "printed"), F2)
def test_levine_depth(width, printed):
    check(rules.levine_depth(float(width)), printed)


@pytest.mark.parametrize(("depth", "printed"), F3)
def test_levine_transition_size(depth, printed):
    check(rules.levine_transition_parameters(float(depth)), printed)


def test_levine_derived_constants():
    b = coefficient("levine2020", "b").value
    check(math.log(2) / b, "12.4891")
    check(rules.levine_width(7) / rules.levine_width(6), "1.05707")
    check(rules.levine_width(0), "154.316")
    check(rules.levine_width(6) * rules.levine_width(6) * 6 * 12, "3.33728e6")
    check(math.log(3), "1.09861")
    check(math.log(3) / b, "19.7948")


def test_seventy_layers_print_as_47_billion():
    assert f"{rules.levine_transition_parameters(70) / 1e9:.0f}B" == "47B"


@pytest.mark.parametrize(("width", "chosen"), [(768, 28), (2560, 48), (3584, 56)])
def test_networks_chosen_by_the_rule_lie_near_it(width, chosen):
    """NeoBERT and both GatorTron shapes were chosen from the 2020 curve."""
    assert abs(rules.levine_depth(width) - chosen) < 2.7


@pytest.mark.parametrize("wrong", [{"a": 5.0391}, {"b": 0.05551}, {"a": 5.0389}, {"b": 0.05549}])
def test_a_wrong_coefficient_is_caught(wrong):
    assert not all(agrees(rules.levine_width(float(depth), **wrong), printed) for depth, printed in F1)
    assert not all(agrees(rules.levine_depth(float(width), **wrong), printed) for width, printed in F2)
    assert not all(agrees(rules.levine_transition_parameters(float(depth), **wrong), printed) for depth, printed in F3)


def test_a_width_below_the_curve_has_no_depth():
    with pytest.raises(InputError, match="must exceed exp"):
        rules.levine_depth(154)
    with pytest.raises(InputError, match="must exceed exp"):
        rules.levine_depth(np.array([768.0, 128.0]))
    # (ln 155 - 5.039) / 0.0555, just above exp(5.039) = 154.3.
    check(rules.levine_depth(155), "0.0797318")


F4 = table("""
1e8 | 24.1030 | 587.995
1e9 | 40.2316 | 1439.22
1e10 | 57.7233 | 3799.57
1.73946e11 | 80.4623 | 13422.1
1e12 | 94.7469 | 29657.0""")
F4_GATED = table("1e9 | 38.5953 | 1314.28\n1e10 | 55.9880 | 3450.70")


@pytest.mark.parametrize(("parameters", "depth", "width"), F4)
def test_levine_shape_for_a_budget(parameters, depth, width):
    check(rules.levine_optimal_depth(float(parameters)), depth)
    check(rules.levine_optimal_width(float(parameters)), width)


@pytest.mark.parametrize(("parameters", "depth", "width"), F4_GATED)
def test_levine_shape_for_blocks_of_fifteen(parameters, depth, width):
    check(rules.levine_optimal_depth(float(parameters), c=15), depth)
    check(rules.levine_optimal_width(float(parameters), c=15), width)
    assert not agrees(rules.levine_optimal_depth(float(parameters), c=14.99), depth)


def test_one_layer_marks_where_the_rule_ends():
    check(rules.levine_transition_parameters(1), "319306")
    assert rules.levine_optimal_depth(319306) < 1 + 1e-6
    assert rules.levine_optimal_depth(319307) > 1


F5_DEPTHS = table("""
12 | 0.0169470 | 0.0338940 | 5.09029
24 | 0.0111355 | 0.0222711 | 6.51030
48 | 0.0355865 | 0.0711730 | 78.8235
80 | 0.0763937 | 0.152787 | 999.390
95 | 0.0957940 | 0.191588 | 2881.15""")
F5_BUDGETS = table("""
1e8 | 0.146473 | 1.78661
1e9 | 0.384527 | 6.87790
1e10 | 0.745286 | 24.5288
1.73946e11 | 1.24753 | 104.052
1e12 | 1.57076 | 245.833""")


@pytest.mark.parametrize(("depth", "width_error", "size_error", "absolute"), F5_DEPTHS)
def test_levine_errors_at_a_depth(depth, width_error, size_error, absolute):
    depth = float(depth)
    check(rules.levine_relative_width_error(depth), width_error)
    check(rules.levine_relative_transition_error(depth), size_error)
    check(rules.levine_width(depth) * rules.levine_relative_width_error(depth), absolute)
    assert not agrees(rules.levine_relative_width_error(depth, cov_ab=-3.75e-5), width_error)


@pytest.mark.parametrize(("parameters", "depth_error", "width_error"), F5_BUDGETS)
def test_levine_errors_for_a_budget(parameters, depth_error, width_error):
    check(rules.levine_optimal_depth_error(float(parameters)), depth_error)
    check(rules.levine_optimal_width_error(float(parameters)), width_error)
    assert not agrees(rules.levine_optimal_depth_error(float(parameters), var_a=9.5e-4), depth_error)


@pytest.mark.parametrize(("depth", "printed"), [(24, "0.0432833"), (48, "0.0692370"), (80, "0.108240"), (95, "0.127092")])
def test_leaving_out_the_covariance_inflates_the_error(depth, printed):
    """Printed for the standard errors 0.030 and 0.0013, of which the variances are not the exact squares."""
    check(rules.levine_relative_width_error(depth, 0.030**2, 0.0013**2, 0), printed)


def test_a_covariance_that_is_none_is_refused():
    with pytest.raises(InputError, match="no covariance matrix"):
        rules.levine_relative_width_error(12, cov_ab=-4.1e-5)


def propagated(formula, names, **values):
    """J Sigma J^T, with the Jacobian from the formula's own symbolic form."""
    symbols = {name: parameter.symbol() for name, parameter in formula.parameters.items()}
    at = {symbols[name]: value for name, value in values.items()}
    jacobian = [float(formula.expr.diff(symbols[name]).subs(at)) for name in names]
    moments = covariance("levine2020")
    return math.sqrt(sum(jacobian[i] * jacobian[j] * moments[p, q] for i, p in enumerate(names) for j, q in enumerate(names)))


AB = {"a": 5.039, "b": 0.0555}


@pytest.mark.parametrize("depth", [3, 12, 24, 48, 95])
def test_closed_form_errors_are_the_delta_method(depth):
    width = propagated(rules.levine_width, "ab", depth=depth, **AB)
    assert width == pytest.approx(rules.levine_width(depth) * rules.levine_relative_width_error(depth), rel=1e-12)
    size = propagated(rules.levine_transition_parameters, "ab", depth=depth, c=12, **AB)
    relative = rules.levine_relative_transition_error(depth)
    assert size == pytest.approx(rules.levine_transition_parameters(depth) * relative, rel=1e-12)


@pytest.mark.parametrize("parameters", [1e6, 1e8, 1e10, 1e12])
def test_closed_form_budget_errors_are_the_delta_method(parameters):
    depth = propagated(rules.levine_optimal_depth, "ab", parameters=parameters, c=12, **AB)
    assert depth == pytest.approx(rules.levine_optimal_depth_error(parameters), rel=1e-10)
    width = propagated(rules.levine_optimal_width, "ab", parameters=parameters, c=12, **AB)
    assert width == pytest.approx(rules.levine_optimal_width_error(parameters), rel=1e-10)


def test_errors_match_a_simulation(rng):
    """Draws of (a, b) from their covariance scatter the shape as the formulas say; the nonlinearity is below 1 %."""
    moments = covariance("levine2020")
    sigma = [[moments[p, q] for q in "ab"] for p in "ab"]
    a, b = rng.multivariate_normal([AB["a"], AB["b"]], sigma, 200_000).T
    for depth in (12.0, 24.0, 48.0):
        spread = np.log(rules.levine_width(depth, a, b)).std()
        assert spread == pytest.approx(rules.levine_relative_width_error(depth), rel=5 / math.sqrt(2 * len(a)))
    for parameters in (1e8, 1e10, 1e12):
        spread = rules.levine_optimal_depth(parameters, a, b).std()
        assert spread == pytest.approx(rules.levine_optimal_depth_error(parameters), rel=0.01)
        spread = rules.levine_optimal_width(parameters, a, b).std()
        assert spread == pytest.approx(rules.levine_optimal_width_error(parameters), rel=0.01)
        assert spread != pytest.approx(rules.levine_optimal_width_error(parameters, cov_ab=0), rel=0.1)


F6 = table("""
1e7 | 0.271293 | 0.457414 | 26.1309
1e8 | 0.363962 | 0.272077 | 24.3951
1e9 | 0.408521 | 0.182959 | 35.7733
1e10 | 0.432499 | 0.135002 | 65.8238
1e12 | 0.456586 | 0.0868289 | 313.013""")


@pytest.mark.parametrize(("parameters", "width_exponent", "depth_exponent", "ratio"), F6)
def test_levine_local_exponents(parameters, width_exponent, depth_exponent, ratio):
    depth, width = rules.levine_optimal_depth(float(parameters)), rules.levine_optimal_width(float(parameters))
    check(rules.levine_width_exponent(depth), width_exponent)
    check(rules.levine_depth_exponent(depth), depth_exponent)
    check(width / depth, ratio)
    assert not agrees(rules.levine_width_exponent(1.001 * depth), width_exponent)


def test_local_exponents_are_the_derivatives():
    n = rules.levine_optimal_depth.parameters["parameters"].symbol()
    for formula, exponent in (
        (rules.levine_optimal_depth, rules.levine_depth_exponent),
        (rules.levine_optimal_width, rules.levine_width_exponent),
    ):
        values = {p.symbol(): v for p, v in zip(formula.parameters.values(), (1e9, 5.039, 0.0555, 12), strict=True)}
        slope = (formula.expr.diff(n) * n / formula.expr).subs(values)
        assert float(slope) == pytest.approx(exponent(rules.levine_optimal_depth(1e9)), rel=1e-10)


def test_the_ratio_of_width_to_depth_is_least_at_one_over_b():
    depth = 1 / coefficient("levine2020", "b").value
    check(depth, "18.0180")
    check(rules.levine_width(depth) / depth, "23.2808")
    # 12 L (23.2808 L)^2 at L = 18.0180; a second printed value of it, 3.80575e7, is 0.03 % too large.
    check(rules.levine_transition_parameters(depth), "3.80449e7")
    assert rules.levine_transition_parameters(depth) == pytest.approx(12 * depth * (23.2808 * depth) ** 2, rel=1e-5)
    assert all(rules.levine_width(d) / d > 23.2808 for d in (depth * 0.9, depth * 1.1))


@pytest.mark.parametrize("row", golden("levine_curve"), ids=lambda row: row["depth"])
def test_levine_curve(row):
    depth = float(row["depth"])
    width = rules.levine_width(depth)
    check(width, row["width"], digits=6)
    check(rules.levine_transition_parameters(depth), row["parameters"], digits=6)
    check(width / depth, row["ratio"], digits=6)
    check(rules.levine_relative_width_error(depth), row["relative_width_error"], digits=6)
    check(rules.levine_relative_transition_error(depth), row["relative_size_error"], digits=6)
    check(math.log(width, 3), row["log3_width"], digits=6)


@pytest.mark.parametrize("row", golden("levine_by_budget"), ids=lambda row: row["parameters"])
def test_levine_by_budget(row):
    parameters = float(row["parameters"])
    depth, width = rules.levine_optimal_depth(parameters), rules.levine_optimal_width(parameters)
    check(depth, row["depth"], digits=6)
    check(width, row["width"], digits=6)
    check(width / depth, row["ratio"], digits=6)
    check(rules.levine_optimal_depth_error(parameters), row["depth_error"], digits=3)
    check(rules.levine_optimal_width_error(parameters), row["width_error"], digits=3)
    check(rules.levine_width_exponent(depth), row["width_exponent"], digits=6)
    check(rules.levine_depth_exponent(depth), row["depth_exponent"], digits=6)


PROJECTIONS = table("""
GPT3-Small | 23.0388 | 0.14 | 554.738 | 554.271
GPT3-Medium | 31.6157 | 0.23 | 886.810 | 892.183
GPT3-Large | 37.4062 | 0.33 | 1220.69 | 1230.34
GPT3-XL | 41.6266 | 0.41 | 1548.14 | 1555.07
GPT3-2.7B | 47.1218 | 0.52 | 2112.35 | 2109.62
GPT3-6.7B | 54.3112 | 0.67 | 3153.10 | 3144.06
GPT3-13B | 59.5784 | 0.79 | 4196.79 | 4211.62
GPT3-175B | 80.4623 | 1.25 | 13460.8 | 13422.1
Optimal-1T | 94.7469 | 1.57 | 29617.4 | 29657.0""")


def projection(name):
    row = next(row for row in reference("levine2020_projections") if row["model"] == name)
    if row["trained_depth"]:
        return row, 12 * int(row["trained_depth"]) * int(row["trained_width"]) ** 2
    return row, int(row["nominal_params"])


@pytest.mark.parametrize(("name", "depth", "error", "at_paper_depth", "width"), PROJECTIONS)
def test_published_projections(name, depth, error, at_paper_depth, width):
    row, parameters = projection(name)
    paper_depth = int(row["paper_optimal_depth"])
    check(rules.levine_optimal_depth(parameters), depth)
    check(rules.levine_optimal_depth_error(parameters), error)
    check(rules.levine_optimal_width(parameters), width)
    check(math.sqrt(parameters / (12 * paper_depth)), at_paper_depth)
    if name != "GPT3-Large":
        assert round(rules.levine_optimal_depth(parameters)) == paper_depth
    if name != "Optimal-1T":
        assert float(row["paper_optimal_width"]) == pytest.approx(math.sqrt(parameters / (12 * paper_depth)), rel=0.003)


@pytest.mark.parametrize("row", golden("levine_projections"), ids=lambda row: row["model"])
def test_published_projections_in_full(row):
    published, parameters = projection(row["model"])
    paper_depth, nominal = int(published["paper_optimal_depth"]), int(published["nominal_params"])
    check(parameters, row["parameters"], digits=6)
    check(rules.levine_optimal_depth(parameters), row["depth"], digits=6)
    check(rules.levine_optimal_width(parameters), row["width"], digits=6)
    check(math.sqrt(parameters / (12 * paper_depth)), row["width_at_paper_depth"], digits=6)
    check(rules.levine_width(paper_depth), row["curve_at_paper_depth"], digits=6)
    check(rules.levine_optimal_depth(nominal), row["depth_from_nominal"], digits=6)
    check(rules.levine_optimal_width(nominal), row["width_from_nominal"], digits=6)
    check(rules.levine_optimal_depth_error(parameters), row["depth_error"], digits=3)
    check(rules.levine_optimal_width_error(parameters), row["width_error"], digits=3)
    error_at_depth = rules.levine_width(paper_depth) * rules.levine_relative_width_error(paper_depth)
    check(error_at_depth, row["width_error_at_depth"], digits=3)


def test_the_published_exceptions():
    check(rules.levine_optimal_depth(760e6), "38.2")
    check(rules.levine_width(95), "30076.5")
    assert math.floor(886.81) == 886
    check(rules.levine_width(80) * rules.levine_relative_width_error(80), "999")
    check(rules.levine_width(95) * rules.levine_relative_width_error(95), "2881")


def test_smaller_gpt3_models_are_too_shallow_and_the_largest_too_deep():
    for row in reference("gpt3_family"):
        depth, width = int(row["depth"]), int(row["width"])
        best = rules.levine_optimal_depth(12 * depth * width**2)
        assert (best > depth) == (row["model"] != "GPT-3 175B")


def test_gpt3_against_the_curve():
    parameters = 12 * 96 * 12288**2
    check(rules.levine_optimal_depth(parameters), "80.5")
    check(rules.levine_optimal_depth_error(parameters), "1.25")
    gap = 1 - 12288 / rules.levine_optimal_width(parameters)
    assert 0.08 < gap < 0.09
    check(100 * shape_penalty.shape_penalty(12288, rules.levine_optimal_width(parameters)), "0.03")
    check(parameters / rules.levine_transition_parameters(48), "62")
    small = 12 * 12 * 768**2
    check(100 * shape_penalty.shape_penalty(768, rules.levine_optimal_width(small)), "0.35")


@pytest.mark.parametrize(
    ("row", "printed"),
    list(zip(reference("levine2020_experiments"), ["0.891808", "0.852295", "0.916349", "0.875749", "0.941567"], strict=True)),
)
def test_the_trained_shapes_lie_just_under_the_curve(row, printed):
    assert int(row["heads"]) * int(row["head_dim"]) == int(row["width"])
    check(int(row["width"]) / rules.levine_width(int(row["depth"])), printed)


@pytest.mark.parametrize("row", golden("real_models"), ids=lambda row: row["model"])
def test_real_models(row):
    model = next(m for m in reference("real_models") if m["model"] == row["model"])
    depth, width, parameters = (int(model[name]) for name in ("depth", "width", "params_12Ld2"))
    assert parameters == 12 * depth * width**2
    best = rules.levine_optimal_width(parameters)
    check(rules.levine_optimal_depth(parameters), row["levine_depth"], digits=5)
    check(best, row["levine_width"], digits=5)
    check(rules.levine_depth(width), row["levine_depth_at_width"], digits=5)
    check(math.log(width / best), row["offset"], digits=4)
    check(100 * shape_penalty.shape_penalty(width, best), row["penalty_percent"], digits=3)


def test_mobilellm_is_within_14_percent_of_the_curve():
    for row in reference("real_models"):
        if row["model"].startswith("MobileLLM"):
            ratio = int(row["width"]) / rules.levine_optimal_width(int(row["params_12Ld2"]))
            assert 0.86 < ratio < 1.14


@pytest.mark.parametrize("row", golden("gemstones_models"), ids=lambda row: f"{row['width']}x{row['depth']}")
def test_gemstones_models_against_the_curve(row):
    model = next(r for r in reference("gemstones_models_loss") if (r["width"], r["depth"]) == (row["width"], row["depth"]))
    parameters = int(model["nonembedding_params"])
    check(rules.levine_optimal_width(parameters), row["levine_width"], digits=5)
    check(rules.levine_optimal_depth(parameters), row["levine_depth"], digits=4)
    check(math.log(int(row["width"]) / rules.levine_optimal_width(parameters)), row["offset"], digits=4)


@given(BUDGETS)
def test_transition_size_and_depth_undo_each_other(parameters):
    depth = rules.levine_optimal_depth(parameters)
    assert rules.levine_transition_parameters(depth) == pytest.approx(parameters, rel=1e-11)


def test_the_threshold_is_not_an_optimal_depth():
    check(depth_efficiency_threshold(768), "6.04744")
    assert rules.levine_depth(768) > 4 * depth_efficiency_threshold(768)
