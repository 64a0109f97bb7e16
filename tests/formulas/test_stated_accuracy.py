"""The accuracy that an approximation or an asymptotic formula states, over the whole range it states it for."""

import functools
import math
import warnings

import numpy as np
import pytest
import sympy

import depthwidth
from depthwidth.errors import AccuracyWarning, InputError
from depthwidth.formula import find_formula, formulas
from depthwidth.formulas import saturation
from depthwidth.numerics.softmax import overlap

from . import claims_attention, claims_depth, claims_heads, claims_scale, claims_shapes, claims_width
from .claims import Case, error

EXACT = (
    claims_attention.EXACT
    | claims_depth.EXACT
    | claims_heads.EXACT
    | claims_scale.EXACT
    | claims_shapes.EXACT
    | claims_width.EXACT
)
SEED = 20061246
SLOW = {name for name in EXACT if name.startswith("attention.") and "softmax" not in name} | {
    "depth.deepscale_correlation", "depth.post_norm_layer_log_drift", "depth.post_norm_layer_log_variance",
    "depth.post_norm_log_drift", "depth.post_norm_log_variance", "depth.pre_norm_growth", "finite_width.aligned_share",
    "finite_width.norm_covariance_factor",
    "finite_width.norm_gradient_covariance_factor", "heads.critical_head_dim", "heads.fixed_query_error",
    "heads.gaussian_hardmax_fraction", "heads.head_dim_for_hardmax_rank", "heads.relative_truncation_error",
    "saturation.condensed_entropy", "saturation.diffuse_finite_head_squared_sum", "saturation.typical_squared_sum",
}  # fmt: skip
"""Those whose exact values are simulations or long integrals."""


@functools.cache
def cases(name):
    return EXACT[name].cases(find_formula(name), np.random.default_rng(SEED))


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in EXACT])
def test_the_stated_accuracy_holds_over_the_stated_range(name):
    """And is no more than four times the worst error, so that a statement which says nothing is seen."""
    f = find_formula(name)
    found = [(*error(f, case), case) for case in cases(name)]
    assert not [case for *_, case in found if f.outside_claim(case.arguments)]
    for off, noise, case in found:
        assert off <= f.accuracy + 4 * noise, f"{name}: {off:.4g} at {case}, stated is {f.accuracy}"
        assert noise <= f.accuracy / 2, f"{name}: the exact value of {case} is not known well enough"
    assert max(off for off, *_ in found) > f.accuracy / 4, f"{name}: {f.accuracy} is stated"


def test_every_approximation_and_asymptotic_formula_states_an_accuracy_that_is_tested():
    claims = {f.name for f in formulas() if f.kind in ("approximation", "asymptotic")}
    assert claims == {f.name for f in formulas() if f.accuracy is not None} == set(EXACT)
    assert len(claims) > 70
    for f in formulas():
        assert set(f.within) <= set(f.parameters)
        assert f.measure in ("relative", "absolute", "factor", *f.parameters)


@pytest.mark.parametrize(
    ("name", "moved"),
    [
        ("finite_width.norm_gradient_factor", lambda f, case: case.exact * (1 + 3 * f.accuracy)),
        ("depth.deepscale_correlation_limit", lambda f, case: case.exact + 3 * f.accuracy),
        ("saturation.rare_squared_sum", lambda f, case: case.exact * f.accuracy**3),
        ("attention.norm_fluctuation", lambda f, case: case.exact + 3 * f.accuracy * case.arguments["value_moment"]),
    ],
)
def test_an_error_of_three_times_the_statement_is_seen(name, moved):
    """The control, in each of the units that an accuracy is stated in."""
    f = find_formula(name)
    few = (
        EXACT[name].cases(f, np.random.default_rng(SEED))
        if name not in SLOW
        else [Case(dict.fromkeys(f.parameters, 0.5), 0.01)]
    )
    for case in few:
        off, noise = error(f, case._replace(exact=moved(f, case), noise=0.0))
        assert off > f.accuracy + noise


def test_a_claim_in_words():
    claims = {
        "finite_width.norm_gradient_factor": "within 0.11 % for variance from 0 to 0.1",
        "depth.deepscale_correlation_limit": "within 0.006",
        "saturation.rare_squared_sum": "within a factor of 8 for length from 64 to 131072",
        "moments.centred_moment": "within 1.6 %; 64 and more independent features of one mean",
    }
    for name, words in claims.items():
        assert find_formula(name).claim == words
    assert find_formula("attention.norm_fluctuation").claim.startswith(
        "within 0.6 % of value_moment for correlation from 0 to 1,"
    )


@pytest.fixture
def law():
    """A formula that has warned of nothing yet."""
    f = find_formula("moments.norm_correlation")
    f._warned = False
    yield f
    f._warned = False


def test_a_call_outside_the_range_warns_once(law):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        law(0.5, 64)
        law(0.5, sympy.Symbol("d", positive=True))
        assert not caught
        assert law(0.5, 4) == law.body(0.5, 4)
        law(0.5, np.array([5.0, 64.0]))
    assert len(caught) == 1
    assert caught[0].category is depthwidth.AccuracyWarning is AccuracyWarning
    assert caught[0].filename == __file__
    assert str(caught[0].message) == "moments.norm_correlation: width=4 outside the range it is claimed for: " + law.claim


def test_a_filter_that_makes_it_an_error_meets_every_call(law):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with pytest.raises(AccuracyWarning, match="width=4 outside"):
                law(0.5, 4)


@pytest.mark.slow
def test_the_package_itself_is_not_warned(law, invoke):
    """Its own calls are on its own account; the command line prints the range."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        printed = invoke("formulas", "eval", "norm_correlation", "correlation=0.5", "width=4")
        depthwidth.propagate(depthwidth.Transformer(depth=2, width=32, heads=2, vocab=50, context=8, placement="post"))
        depthwidth.plan("1T")
    assert printed.status == 0
    assert "outside that range: width" in printed.output


def test_the_faults_that_were_found():
    """Values outside the range of a formula, each of which was returned without a word."""
    for name, arguments in {
        "diffuse_finite_head_squared_sum": (1.983, 65536, 4),
        "diffuse_entropy": (100, 1000),
        "one_body_squared_sum": (1.0, 8),
        "condensed_entropy": (36.0, 16),
        "annealed_target_weight": (1.0, 0.4, 2),
        "norm_correlation": (0.3, 1.0001),
    }.items():
        with pytest.raises(InputError):
            find_formula(name)(*arguments)
    assert find_formula("pre_norm_gradient_growth")(1e15, 1, 1, 10) == pytest.approx(1, rel=1e-12)
    assert find_formula("pre_norm_gradient_growth")(1, 1e9, 1, 3) == pytest.approx((1 + 1e9) * (1 + 1e9 / 2) * (1 + 1e9 / 3))
    assert find_formula("head_dim_correction")(1e-6, 2) == pytest.approx(-0.5e-12, rel=1e-5)


def test_the_average_over_one_dimension_by_quadrature():
    """u = g^2 with a normal g, by Gauss's rule over the half line; 32 nodes of Laguerre's rule were 0.05 % off here."""
    g, weights = np.polynomial.legendre.leggauss(60)
    g = 4 * (g + 1)
    density = weights * 4 * 2 * np.exp(-g * g / 2) / math.sqrt(2 * math.pi)
    exact = float(overlap(9 * g * g, 64).P @ density)
    assert saturation.finite_head_squared_sum(9, 64, 1) == pytest.approx(exact, rel=1e-8)
