"""One target among distractors: worked values and limits."""

import math

import pytest
from helpers import check, table

from depthwidth.errors import InputError
from depthwidth.formulas import saturation as s
from depthwidth.numerics.retrieval import planted

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


def test_no_noise_is_a_softmax_of_two_levels():
    found = planted(3.0, 0.0, 32)
    p = math.exp(3) / (math.exp(3) + 31)
    assert (found.probability, found.squared) == (pytest.approx(p, rel=1e-12), pytest.approx(p * p, rel=1e-12))
    assert found.others == pytest.approx((1 - p) ** 2 / 31, rel=1e-12)


def test_gaps():
    for where, value in table("64, .5 | 4.1431\n1024, .5 | 6.9305\n1024, .01 | 11.5256\n131072, .01 | 16.3786"):
        n, miss = map(float, where.split(","))
        check(s.gap_for_weight(int(n), miss), value)
