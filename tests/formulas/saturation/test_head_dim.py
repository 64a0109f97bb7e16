"""Finite head dimension: worked values and the first correction."""

import math

import numpy as np
import pytest
from helpers import table

from depthwidth.errors import InputError
from depthwidth.formulas import saturation as s
from depthwidth.numerics.softmax import overlap

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


@pytest.mark.slow
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
