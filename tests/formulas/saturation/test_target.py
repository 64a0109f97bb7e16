"""One target among distractors: worked values and limits."""

import math

import numpy as np
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


PLACES = [
    (8.0, 4.0, 1024), (6.0, 1.0, 64), (-3.0, 2.0, 16), (2.0, 9.0, 8), (0.0, 1.0, 2), (3.0, 25.0, 32), (1.0, 0.0, 5),
    (-1.0, 0.0, 5),
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_entropy_and_largest_weight_beside_a_target(place, rng):
    """Against drawn rows, within five standard errors; at a variance of zero the rows are all alike."""
    gap, variance, n = place
    logits = rng.normal(0.0, math.sqrt(variance), (2_000_000 // n if n < 100 else 4000, n))
    logits[:, 0] = gap
    logits -= logits.max(axis=1, keepdims=True)
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    drawn = {"entropy": -(p * np.log(np.maximum(p, 1e-300))).sum(axis=1), "largest": p.max(axis=1)}
    exact = {"entropy": s.target_entropy(*place), "largest": s.target_largest_weight(*place)}
    for name, values in drawn.items():
        noise = values.std() / len(values) ** 0.5
        assert abs(exact[name] - values.mean()) < 5 * noise + 1e-12, name
    # The control: one entry more is seen, if the target does not hold all the weight.
    moved = s.target_entropy(gap, variance, n + max(1, n // 8))
    assert abs(moved - drawn["entropy"].mean()) > 5 * drawn["entropy"].std() / len(p) ** 0.5


@pytest.mark.parametrize(("variance", "n"), [(1.0, 64), (9.0, 1024), (0.3, 3)])
def test_a_target_far_below_is_no_entry(variance, n):
    assert s.target_entropy(-800.0, variance, n) == pytest.approx(s.entropy(variance, n - 1), abs=1e-9)
    assert s.target_largest_weight(-800.0, variance, n) == pytest.approx(s.largest_weight(variance, n - 1), rel=1e-9)


def test_a_target_far_above_holds_all_the_weight():
    assert s.target_entropy(300.0, 4.0, 1024) == pytest.approx(0.0, abs=1e-9)
    assert s.target_largest_weight(300.0, 4.0, 1024) == pytest.approx(1.0, rel=1e-12)
    gap, n = 2.0, 16  # equal distractors
    weight = math.exp(gap) / (math.exp(gap) + n - 1)
    rest = (1 - weight) / (n - 1)
    assert s.target_largest_weight(gap, 0.0, n) == pytest.approx(weight, rel=1e-12)
    entropy = -weight * math.log(weight) - (1 - weight) * math.log(rest)
    assert s.target_entropy(gap, 0.0, n) == pytest.approx(entropy, rel=1e-9)
    assert s.target_weight(3.0, 4.0, 64) < s.target_largest_weight(3.0, 4.0, 64) < 1
