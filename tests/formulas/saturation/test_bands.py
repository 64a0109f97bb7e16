"""Closed forms by band: their errors on the stated range, and refusal beyond it."""

import math

import numpy as np
import pytest
from helpers import check, table

from depthwidth.analysis.concentration import concentration
from depthwidth.errors import InputError
from depthwidth.formulas import saturation as s

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


def test_leading_orders_are_wrong_by_factors():
    """Between half the condensation point and the point the leading orders miss by more than a factor of two somewhere."""
    ratios = []
    for n in LENGTHS[1:]:
        for ratio in (0.6, 0.8, 0.99):
            variance = (ratio * s.condensation_point(n)) ** 2
            ratios.append(s.rare_squared_sum(variance, n) / s.squared_sum(variance, n))
    assert 2 < max(max(ratios), 1 / min(ratios)) < 8
