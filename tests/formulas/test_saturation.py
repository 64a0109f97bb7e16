"""Softmax concentration: worked values, identities, ranges, simulations, and the phases of attention."""

import math

import numpy as np
import pytest
from helpers import agrees, check, golden, table
from hypothesis import given
from hypothesis import strategies as st

from depthwidth.analysis.concentration import concentration
from depthwidth.errors import InputError
from depthwidth.formulas import saturation as s
from depthwidth.formulas.saturation import softmax_entropy
from depthwidth.numerics.retrieval import planted
from depthwidth.numerics.softmax import overlap

EXACT = golden("softmax_iid_logits_exact")

# ---- the integrals ----


@pytest.mark.parametrize("row", EXACT, ids=lambda r: f"{r['n']}-{r['sigma']}")
def test_the_grid_of_exact_values(row):
    """n to 131072, sigma to 8; printed to six digits, the entropy computed there from two rounded numbers."""
    n, variance = int(row["n"]), float(row["sigma"]) ** 2
    assert s.log_partition(variance, n) == pytest.approx(float(row["E_lnZ"]), abs=2e-6)
    assert s.squared_sum(variance, n) == pytest.approx(float(row["E_sum_p2"]), rel=2e-5)
    assert s.entropy(variance, n) == pytest.approx(float(row["E_entropy_nats"]), abs=3e-5)
    assert s.effective_tokens(variance, n) == pytest.approx(float(row["one_over_E_sum_p2"]), rel=2e-5)


LARGEST = table("64, 1 | .10727\n256, 2 | .18607\n1024, 1 | .01624\n1024, 3 | .27453\n4096, 2 | .05645")


@pytest.mark.parametrize(("where", "value"), LARGEST)
def test_largest_weight(where, value):
    n, sigma = map(float, where.split(","))
    # The printed values come from a grid in g that is good to 1e-5: at (256, 2) 800,000 draws give 0.18607 +- 0.00013, and two
    # finer grids .186075.
    assert s.largest_weight(sigma**2, int(n)) == pytest.approx(float(value), abs=1e-5)


INVERSE = table("""
    1024 | 4 | 3.8301
    1024 | 16 | 2.4080
    1024 | 64 | 1.7442
    256 | 4 | 3.2284
    256 | 16 | 1.9077
    256 | 64 | 1.2089
    16384 | 4 | 4.8493
    16384 | 16 | 3.2386
    16384 | 64 | 2.5539
    4096 | 16 | 2.8448
""")


@pytest.mark.parametrize(("n", "tokens", "sigma"), INVERSE)
def test_the_inverse(n, tokens, sigma):
    found = s.logit_std_for_tokens(float(tokens), int(n))
    check(found, sigma)
    assert s.effective_tokens(found**2, int(n)) == pytest.approx(float(tokens), rel=1e-9)


def test_the_inverse_ends():
    assert s.logit_std_for_tokens(64, 64) == 0
    assert s.logit_std_for_tokens([2.0, 4.0], 64).shape == (2,)
    with pytest.raises(InputError, match="fewer tokens in the row"):
        s.logit_std_for_tokens(65, 64)
    with pytest.raises(InputError, match=f"variance above {s.LARGEST_VARIANCE:g}"):
        s.logit_std_for_tokens(1.0001, 64)


PROPERTY = given(st.floats(0, 100), st.integers(2, 131072))


@PROPERTY
def test_the_identity_between_entropy_and_partition_function(variance, n):
    """E H = E ln Z - sigma^2 (1 - E S2), with the derivative of E ln Z by the variance in place of the sum of squares.

    d E ln Z / d sigma^2 = (1 - E S2)/2 by Gaussian integration by parts, so that the two sides come from different integrals.
    """
    assert s.entropy(variance, n) == pytest.approx(
        softmax_entropy(s.log_partition(variance, n), variance, s.squared_sum(variance, n)), abs=1e-9
    )
    h = 1e-3 * (1 + variance)
    low = max(variance - h, 0.0)
    slope = (s.log_partition(variance + h, n) - s.log_partition(low, n)) / (variance + h - low)
    middle = (variance + h + low) / 2
    assert slope == pytest.approx((1 - s.squared_sum(middle, n)) / 2, abs=2e-5)


@PROPERTY
def test_bounds(variance, n):
    shared = s.squared_sum(variance, n)
    assert 1 / n - 1e-12 <= shared <= 1
    assert -1e-9 <= s.entropy(variance, n) <= math.log(n) + 1e-9
    assert s.largest_weight(variance, n) ** 2 <= shared + 1e-9  # by Jensen's inequality, from p_max^2 <= sum p^2
    assert s.jacobian_trace(variance, n) == pytest.approx(1 - shared)


@pytest.mark.parametrize(("n", "sigma"), [(16, 1.0), (64, 2.0), (256, 0.5), (1024, 3.0)])
def test_simulation(n, sigma, rng):
    """20,000 rows: each average within four standard errors, and the identity on the rows themselves."""
    logits = sigma * rng.standard_normal((20_000, n))
    top = logits.max(1, keepdims=True)
    weights = np.exp(logits - top)
    log_z = np.log(weights.sum(1)) + top[:, 0]
    p = weights / weights.sum(1, keepdims=True)
    shared = (p**2).sum(1)
    own = log_z - (p * logits).sum(1)
    drawn = {"log_partition": log_z, "entropy": own, "squared_sum": shared, "largest_weight": p.max(1)}
    for name, values in drawn.items():
        se = values.std() / math.sqrt(values.size)
        assert abs(values.mean() - getattr(s, name)(sigma**2, n)) < 4 * se, name
        # The negative control: 5 % more variance is told apart.
        assert abs(values.mean() - getattr(s, name)(1.05 * sigma**2, n)) > 4 * se, name
    identity = own - log_z + sigma**2 * (1 - shared)
    assert abs(identity.mean()) < 4 * identity.std() / math.sqrt(identity.size)


def test_output_variance_is_that_of_drawn_values(rng):
    logits, values = rng.standard_normal((2, 20_000, 256))
    p = np.exp(logits)
    out = ((p / p.sum(1, keepdims=True)) * values).sum(1)
    assert abs((out**2).mean() - s.output_variance(1.0, 256)) < 4 * (out**2).std() / math.sqrt(out.size)


# ---- closed forms ----

CLOSED = table("""
    one_body_squared_sum | 1024 | 2 | .02650
    one_body_squared_sum | 16384 | 2 | .002872
    condensed_squared_sum | 1024 | 6 | .4794
    condensed_squared_sum | 64 | 8 | .7252
    condensed_squared_sum | 16384 | 8 | .5175
""")


@pytest.mark.parametrize(("name", "n", "sigma", "value"), CLOSED)
def test_worked_closed_forms(name, n, sigma, value):
    check(getattr(s, name)(float(sigma) ** 2, int(n)), value)


def test_condensation_points():
    for n, value in table("64 | 2.1982\n256 | 2.693\n1024 | 3.1234\n16384 | 3.8603\n131072 | 4.3398"):
        check(s.largest_normal(int(n)), value)
    check(s.condensation_point(16), "2.35482")
    check(1 - s.largest_normal(131072) / 6, ".2767")  # at 1.38 b_n, just outside the range


def test_the_condensed_length_is_where_the_condensation_point_is_reached():
    """A worked value, and the inverse of the condensation point; half of the exponent is told apart."""
    check(s.condensed_length(12.0), "403.43")
    for n in (2, 16, 1024, 131072):
        assert s.condensed_length(s.condensation_point(n) ** 2) == pytest.approx(n, rel=1e-12)
        assert s.condensed_length(s.condensation_point(n) ** 2 / 2) == pytest.approx(math.sqrt(n), rel=1e-12)
    with pytest.raises(InputError, match=r"outside \[0, 1400\]"):
        s.condensed_length(1401.0)


def test_logits_that_grow_with_the_length_condense_above_it():
    n, variance = 256, 9.0
    at = s.length_scaled_condensed_length(variance, n)

    def ratio(length):
        return math.sqrt(variance) * math.log(length) / math.log(n) / math.sqrt(2 * math.log(length))

    assert ratio(at) == pytest.approx(1, rel=1e-12)
    assert ratio(0.99 * at) < 1 < ratio(1.01 * at)
    # At the length where both are the condensation point, both forms give that length.
    assert s.length_scaled_condensed_length(s.condensation_point(n) ** 2, n) == pytest.approx(n, rel=1e-12)
    with pytest.raises(InputError, match="is so large"):
        s.length_scaled_condensed_length(0.01, n)


def test_the_band_of_the_closed_forms_is_that_of_the_phases():
    """One constant: a form that refuses above the diffuse band, and a phase that ends there."""
    for n in (64, 1024):
        inside, outside = (((s.DIFFUSE + off) * s.condensation_point(n)) ** 2 for off in (-1e-6, 1e-6))
        assert (concentration(inside, 0.0, n)[0].phase, concentration(outside, 0.0, n)[0].phase) == ("diffuse", "transitional")
        s.diffuse_squared_sum(inside, n)
        with pytest.raises(InputError, match=f"up to {s.DIFFUSE} sqrt"):
            s.diffuse_squared_sum(outside, n)


LENGTHS = (64, 1024, 16384, 131072)

# form | the integral it stands for | lowest and highest sigma / sigma_c | worst relative error there, for n from `least`
RANGES = [
    ("diffuse_log_partition", "log_partition", 0.02, 0.3, 5e-5, 64),
    ("diffuse_entropy_next", "entropy", 0.02, 0.3, 3e-4, 64),
    ("diffuse_squared_sum", "squared_sum", 0.02, 0.3, 0.05, 64),
    ("diffuse_squared_sum", "squared_sum", 0.02, 0.3, 0.014, 1024),
    ("one_body_squared_sum", "squared_sum", 0.02, 0.6, 0.12, 1024),
    ("condensed_squared_sum", "squared_sum", 1.4, 4.0, 0.11, 1024),
    ("condensed_entropy", "entropy", 2.5, 4.0, 0.04, 1024),
    ("condensed_entropy", "entropy", 1.4, 4.0, 0.51, 1024),
]


@pytest.mark.parametrize(("form", "exact", "low", "high", "worst", "least"), RANGES)
def test_each_closed_form_is_as_close_as_it_says_where_it_says(form, exact, low, high, worst, least):
    errors = []
    for n in (n for n in LENGTHS if n >= least):
        unit = s.largest_normal(n) if form.startswith("condensed") else s.condensation_point(n)
        for ratio in np.linspace(low * 1.0001, high * 0.9999, 9):
            variance = float((ratio * unit) ** 2)
            errors.append(abs(getattr(s, form)(variance, n) / getattr(s, exact)(variance, n) - 1))
    assert max(errors) < worst
    assert max(errors) > worst / 4  # the stated error is not idle


@pytest.mark.parametrize(
    ("form", "variance", "n"),
    [
        ("diffuse_log_partition", 4.0, 1024),
        ("diffuse_entropy_next", 4.0, 1024),
        ("diffuse_squared_sum", 4.0, 1024),
        ("one_body_squared_sum", 9.0, 1024),
        ("typical_squared_sum", 1.0, 1024),
        ("typical_squared_sum", 16.0, 1024),
        ("rare_squared_sum", 4.0, 1024),
        ("condensed_squared_sum", 9.0, 1024),
        ("condensed_entropy", 9.0, 1024),
        ("condensed_entropy", 9.0, 8),
    ],
)
def test_closed_forms_refuse_outside_their_range(form, variance, n):
    with pytest.raises(InputError, match=f"saturation.{form}: holds .* only"):
        getattr(s, form)(variance, n)
    with pytest.raises(InputError, match="only"):
        getattr(s, form)(np.array([variance, variance]), n)


def test_the_diffuse_form_is_as_wrong_outside_as_the_text_says():
    assert s.effective_tokens(4.0, 1024) / (1024 * math.exp(-4.0)) == pytest.approx(1.87, abs=0.02)


def test_leading_orders_are_wrong_by_factors():
    """Between half the condensation point and the point the leading orders miss by more than a factor of two somewhere."""
    ratios = []
    for n in LENGTHS[1:]:
        for ratio in (0.6, 0.8, 0.99):
            variance = (ratio * s.condensation_point(n)) ** 2
            ratios.append(s.rare_squared_sum(variance, n) / s.squared_sum(variance, n))
    assert 2 < max(max(ratios), 1 / min(ratios)) < 8


# ---- head dimension ----

HEAD_DIM = table("""
    1024 | 1 | 8 .0029797, 32 .00271362, 128 .00265443 | .002418 | .0063
    1024 | 2 | 8 .0352406, 32 .0305498, 128 .0290685  | .06937 | .655
    256  | 1 | 8 .0112931, 32 .0105730, 128 .0103938 | .007607 | .0220
""")


@pytest.mark.parametrize(("n", "scale", "values", "coefficient", "entropy_coefficient"), HEAD_DIM)
def test_head_dimension_at_fixed_scale(n, scale, values, coefficient, entropy_coefficient):
    n, variance = int(n), float(scale) ** 2
    for pair in values.split(","):
        head_dim, value = pair.split()
        assert s.finite_head_squared_sum(variance, n, int(head_dim)) == pytest.approx(float(value), rel=2e-4)
    assert s.head_dim_correction(variance, n) == pytest.approx(float(coefficient), rel=2e-3)
    assert s.head_dim_entropy_correction(variance, n) == pytest.approx(float(entropy_coefficient), rel=5e-3)
    gap = [d * (s.finite_head_squared_sum(variance, n, d) - s.squared_sum(variance, n)) for d in (128, 4096)]
    assert gap[0] == pytest.approx(float(coefficient), rel=0.03)
    assert gap[1] == pytest.approx(s.head_dim_correction(variance, n), rel=2e-3)


def test_finite_heads_against_a_dense_integral_over_the_norm():
    """The printed values for few dimensions are 0.06 % low at d_h = 8, 0.13 % at 4; three rules agree here to 1e-9."""
    from scipy.stats import chi2

    for n, variance, d in ((1024, 1.0, 8), (1024, 4.0, 8), (256, 1.0, 4)):
        r = np.exp(np.linspace(math.log(1e-6), math.log(chi2.isf(1e-18, d) / d), 2001))
        weights = chi2.pdf(r * d, d) * d * r * math.log(r[1] / r[0])
        assert s.finite_head_squared_sum(variance, n, d) == pytest.approx(overlap(variance * r, n).P @ weights, rel=1e-8)


def test_heads_in_few_dimensions_by_simulation(rng):
    q, k = rng.standard_normal((4000, 1, 8)), rng.standard_normal((4000, 256, 8))
    weights = np.exp((q * k).sum(-1) / math.sqrt(8))
    shared = (weights**2).sum(1) / weights.sum(1) ** 2
    se = shared.std() / math.sqrt(shared.size)
    assert abs(shared.mean() - s.finite_head_squared_sum(1.0, 256, 8)) < 4 * se
    assert abs(shared.mean() - s.squared_sum(1.0, 256)) > 4 * se  # the limit of many dimensions is told apart


def test_diffuse_head_form():
    assert s.diffuse_finite_head_squared_sum(1.0, 131072, 32) == pytest.approx(
        s.finite_head_squared_sum(1.0, 131072, 32), rel=2e-3
    )
    with pytest.raises(InputError, match="more dimensions than 2 s"):
        s.diffuse_finite_head_squared_sum(1.0, 131072, 2)


# ---- a planted target ----

PLANTED = table("""
    64, 1, 6    | .79614 | .79525 | .63453 | .001746
    256, 1, 6   | .49054 | .48969 | .24104 | .002723
    1024, 2, 8  | .28824 | .28282 | .08440 | .015739
    1024, 2, 12 | .95571 | .95562 | .91346 | .000093
    4096, 3, 16 | .96103 |        | .92414 | .000594
""")


@pytest.mark.parametrize(("where", "weight", "annealed", "squared", "others"), PLANTED)
def test_planted_target(where, weight, annealed, squared, others):
    n, sigma, gap = map(float, where.split(","))
    place = (gap, sigma**2, int(n))
    check(s.target_weight(*place), weight)
    check(s.target_weight_squared(*place), squared)
    check(s.distractor_squared_sum(*place), others)
    if annealed:
        check(s.annealed_target_weight(*place), annealed)
    else:  # sigma is 0.74 of the condensation point, for which .96017 was printed all the same
        with pytest.raises(InputError, match=r"0\.6 sqrt"):
            s.annealed_target_weight(*place)
        check(1 / (1 + (n - 1) * math.exp(sigma**2 / 2 - gap)), ".96017")


@given(st.floats(-20, 60), st.floats(0, 60), st.integers(2, 100_000))
def test_a_planted_target_is_bounded(gap, variance, n):
    found = planted(gap, variance, n)
    assert -1e-12 <= found.squared <= found.probability + 1e-12 <= 1 + 1e-9
    assert found.squared_sum <= 1 + 1e-9
    assert found.squared >= found.probability**2 - 1e-9


def test_a_target_like_the_others_is_one_of_n():
    """Averaged over a Gaussian gap the target is an entry like any other."""
    z, w = np.polynomial.hermite_e.hermegauss(80)
    w = w / w.sum()
    found = [planted(2.0 * g, 4.0, 64) for g in z]
    assert np.dot(w, [f.probability for f in found]) == pytest.approx(1 / 64, rel=1e-9)
    assert np.dot(w, [f.squared_sum for f in found]) == pytest.approx(s.squared_sum(4.0, 64), rel=1e-9)


def test_no_noise_is_a_softmax_of_two_levels():
    found = planted(3.0, 0.0, 32)
    p = math.exp(3) / (math.exp(3) + 31)
    assert (found.probability, found.squared) == (pytest.approx(p, rel=1e-12), pytest.approx(p * p, rel=1e-12))
    assert found.others == pytest.approx((1 - p) ** 2 / 31, rel=1e-12)


def test_gaps():
    for where, value in table("64, .5 | 4.1431\n1024, .5 | 6.9305\n1024, .01 | 11.5256\n131072, .01 | 16.3786"):
        n, miss = map(float, where.split(","))
        check(s.gap_for_weight(int(n), miss), value)


# ---- lengths ----


def test_dispersion():
    check(s.dispersion_lower(4.0, 1024), "1.789e-5")
    check(s.dispersion_upper(4.0, 1024), ".05332")
    check(s.dispersion_lower(4.0, 128), "1.431e-4")
    check(s.dispersion_upper(4.0, 128), ".42655")
    check(s.dispersion_lower(8.0, 1024), "3.276e-7")
    assert s.dispersion_upper(8.0, 1024) > 1


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=40))
def test_dispersion_bounds_hold(logits):
    p = np.exp(logits) / np.exp(logits).sum()
    spread = max(logits) - min(logits)
    assert s.dispersion_lower(spread, len(p)) <= p.min() * (1 + 1e-12)
    assert p.max() <= s.dispersion_upper(spread, len(p)) * (1 + 1e-12)


def test_critical_scale():
    for where, value in table(".5, 0 | .01539\n1, 0 | .50006\n2, 0 | .99976\n3, .5 | .98462"):
        gamma, rho = map(float, where.split(","))
        check(s.self_weight(gamma, rho, 4096), value)
    assert s.critical_length_scaling(0.75) == 4
    assert s.self_weight(4.0, 0.75, 2**30) == pytest.approx(0.5, abs=1e-6)


def test_scalable_softmax():
    for where, value in table("256, 2 | .31596\n1048576, 2 | .12556\n256, 3 | .83369\n1048576, 3 | .98237"):
        n, gap = map(float, where.split(","))
        check(s.ssmax_weight(0.43, gap, int(n)), value)
    for n, value in table("256 | .36789\n1048576 | .000142"):
        check(s.ssmax_weight(1 / math.log(int(n)), 5.0, int(n)), value)


def test_entropy_lower_bound(rng):
    for where, value in table("128, 1 | 4.84433\n128, 4 | 3.98590\n128, 8 | .35889\n1024, 8 | 2.33307\n1024, 12 | .08079"):
        n, spectral = map(float, where.split(","))
        check(s.entropy_lower_bound(spectral, int(n)), value)
    # Attained by one logit against equal others, of Euclidean length S after centring; below it for no vector of that length.
    n, length = 32, 5.0
    for draw in (np.eye(n)[0], *rng.standard_normal((50, n))):
        logits = draw - draw.mean()
        logits *= length / np.linalg.norm(logits)
        p = np.exp(logits) / np.exp(logits).sum()
        gap = -(p * np.log(p)).sum() - s.entropy_lower_bound(length, n)
        assert gap > -1e-12
    assert s.entropy_lower_bound(length, n) == pytest.approx(_entropy_of_one(length, n), rel=1e-9)


def _entropy_of_one(length, n):
    logits = np.eye(n)[0] - 1 / n
    logits *= length / np.linalg.norm(logits)
    p = np.exp(logits) / np.exp(logits).sum()
    return -(p * np.log(p)).sum()


# ---- rank and entropy collapse ----


def test_the_boundary_is_where_the_finite_form_bends():
    """In units of sigma_c the boundary does not move with p; the finite form is close to the limit on both sides of it."""
    for p in (0.0, 0.3, 0.8):
        beta_c = s.entropy_collapse_gain(p)
        assert s.collapsed_output_second_moment(beta_c, p) == pytest.approx(p)
        assert (1 - p) * beta_c**2 * math.log(1024) == pytest.approx(s.condensation_point(1024) ** 2)
        for ratio in (0.3, 4.0):
            limit = s.collapsed_output_second_moment(ratio * beta_c, p)
            finite = s.finite_output_second_moment(ratio * beta_c, p, 2**20)
            assert finite == pytest.approx(limit, abs=0.06 * (1 - p))


def test_critical_residual_gain_is_the_stability_of_collapse():
    """Just above it two almost equal tokens drift apart over a block, just below they approach."""
    for value_variance, slope in ((1.0, 2.0), (0.5, 1.3)):
        alpha = s.critical_residual_gain(value_variance, slope)
        for gain, grows in ((1.05 * alpha, True), (0.95 * alpha, False)):
            p = 1 - 1e-6
            behind = s.residual_attention_correlation(s.collapsed_output_second_moment(0.5, p), p, value_variance, gain)
            assert (slope * (1 - behind) > 1 - p) is grows


def test_wrong_input_gets_one_sentence():
    for call, sentence in (
        (lambda: s.entropy(-1.0, 64), "saturation.entropy: variance=-1.0 is outside [0, 10000]"),
        (lambda: s.entropy(1.0, 1), "saturation.entropy: length=1 is outside the whole numbers of [2, 1.09951e+12]"),
        (lambda: s.finite_head_entropy(1.0, 64, 0), "head_dim=0 is outside"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert sentence in str(caught.value)


def test_symbols_are_refused_in_a_sentence():
    import sympy

    with pytest.raises(InputError, match="without a closed form"):
        s.entropy(sympy.Symbol("v"), 64)


def test_a_slightly_wrong_value_is_told_apart():
    assert not agrees(s.squared_sum(4.04, 1024), "0.0285382")
