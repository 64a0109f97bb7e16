"""Student's distribution against SciPy's."""

import pytest
from scipy import stats

from depthwidth.numerics.student import student_quantile, student_share


@pytest.mark.parametrize("degrees", range(1, 12))
def test_shares_and_quantiles_are_those_of_scipy(degrees):
    for t in (-30.0, -3.0, -0.1, 0.0, 0.5, 2.0, 7.0):
        assert student_share(t, degrees) == pytest.approx(stats.t.cdf(t, degrees), abs=1e-14)
    for share in (0.003, 0.05, 0.25, 0.5, 0.9, 0.997):
        assert student_quantile(share, degrees) == pytest.approx(stats.t.ppf(share, degrees), rel=1e-11, abs=1e-15)
    for share in (1e-6, 1 - 1e-6):  # a double next to one of these shares has a quantile that differs in the tenth digit
        assert student_quantile(share, degrees) == pytest.approx(stats.t.ppf(share, degrees), rel=1e-8)
    assert student_share(2.0, degrees) != pytest.approx(stats.t.cdf(2.0, degrees + 1), abs=1e-4)
