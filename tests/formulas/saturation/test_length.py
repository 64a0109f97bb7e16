"""Bounds and growth with the length, against random rows."""

import math

import numpy as np
import pytest
from helpers import check, table
from hypothesis import given
from hypothesis import strategies as st

from depthwidth.formulas import saturation as s


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
