"""Rank collapse and entropy collapse: limits and simulation."""

import math

import pytest

from depthwidth.formulas import saturation as s


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
            collapsed = s.residual_attention_correlation(s.collapsed_output_second_moment(0.5, p), p, value_variance, gain)
            assert (slope * (1 - collapsed) > 1 - p) is grows
