"""Sharp heads: worked values, simulations of random keys, and the limits."""

import math
from itertools import pairwise

import numpy as np
import pytest
from helpers import agrees, check, golden, table

from depthwidth.errors import InputError
from depthwidth.formulas import heads as h
from depthwidth.formulas.saturation import gap_for_weight
from depthwidth.numerics.retrieval import best_retrieval, retrieval_error_at

GAPS = table("""
    64     | 8.318  | 16 4.913, 32 4.471, 64 4.304, 128 4.229 | 4.159
    1024   | 13.863 | 16 10.153, 32 7.909, 64 7.354, 128 7.130 | 6.931
    131072 | 23.567 | 32 15.573, 64 13.130, 128 12.382 | 11.784
""")


@pytest.mark.parametrize(("n", "critical", "gaps", "limit"), GAPS)
def test_critical_dimension_and_gaps(n, critical, gaps, limit):
    n = int(n)
    check(h.critical_head_dim(n), critical)
    for pair in gaps.split(","):
        d, value = pair.split()
        check(h.smallest_gap(int(d), n), value)
        # The same minimum in the other letters: Delta = sigma sqrt(d_h).
        assert h.smallest_noise(int(d), n) * math.sqrt(int(d)) == pytest.approx(h.smallest_gap(int(d), n))
    check(h.smallest_gap(1_000_000, n), limit, slack=2)


def test_retrieval_below_the_critical_dimension_is_refused():
    with pytest.raises(InputError, match="fewer than 2 ln n dimensions"):
        h.smallest_gap(16, 131072)


# Least retrieval error by Monte Carlo, +-0.003 to 0.005 (the spread of two runs), +-0.01 for n from 1024.
NMSE = table("""
    16   | .533 | .178 | .047 | .012 | .001 | .000
    64   | .7915 | .411 | .143 | .041 | .0026 | .0002
    256  | .9185 | .652 | .317 | .114 | .010 | .001
    1024 | .971 | .831 | .534 | .263 | .030 | .003
    4096 | .993 | .928 | .727 | .448 | .090 | .004
""")


@pytest.mark.slow
@pytest.mark.parametrize("row", NMSE, ids=lambda r: r[0])
def test_best_retrieval_error(row):
    n = int(row[0])
    for d, value in zip((4, 8, 12, 16, 24, 32), row[1:], strict=True):
        assert h.best_retrieval_error(n, d) == pytest.approx(float(value), abs=0.007 if n < 1024 else 0.011)


def test_the_best_scale():
    for n, d, scale, weight in ((64, 8, 1.29, 0.580), (16, 4, 1.18, 0.449), (256, 8, 1.035, 0.326)):
        best = best_retrieval(n, d)
        assert best.logit_scale == pytest.approx(scale, rel=0.01)
        assert best.probability == pytest.approx(weight, abs=0.003)
        around = [retrieval_error_at(best.logit_scale * f, n, d)[0] for f in (0.97, 1.03)]
        assert min(around) > best.error - 1e-9


@pytest.mark.slow
def test_retrieval_error_against_drawn_keys(rng):
    """20,000 drawn rows at the best scale; the slope of the ratio gives the standard error."""
    n, d = 64, 8
    scale = best_retrieval(n, d).logit_scale
    keys = rng.standard_normal((20_000, n, d))
    logits = scale * np.einsum("bd,bnd->bn", keys[:, 0], keys)
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    hit, spread = p[:, 0], (p**2).sum(1)
    drawn = 1 - hit.mean() ** 2 / spread.mean()
    slope = (-2 * hit.mean() / spread.mean()) * hit + (hit.mean() / spread.mean()) ** 2 * spread
    se = slope.std() / math.sqrt(slope.size)
    assert abs(drawn - h.best_retrieval_error(n, d)) < 4 * se
    assert abs(drawn - h.best_retrieval_error(n, d + 1)) > 4 * se  # one dimension more is told apart


@pytest.mark.slow
def test_trained_heads_reach_the_prediction():
    """Eighteen trained settings, two seeds each: within 0.02, and below 0.05 at most 0.01 above the least error."""
    rows = golden("softmax_retrieval_nmse_theory_vs_trained")
    assert len(rows) > 15
    for row in rows:
        predicted = h.best_retrieval_error(int(row["n_tokens"]), int(row["d_h"]))
        for seed in ("nmse_trained_seed0", "nmse_trained_seed1"):
            gap = float(row[seed]) - predicted
            assert abs(gap) < 0.02
            if predicted < 0.05:
                assert -0.002 < gap < 0.01


COSINES = table("""
    64   | 4 .9310 126.6, 8 .7439 34.13, 16 .5522 19.51, 32 .3987 14.53, 64 .2847 12.22, 128 .2022 10.95 | 8.738
    1024 | 4 .9892 1063, 8 .8888 103.6, 16 .7117 39.98, 32 .5345 24.76, 64 .3892 18.87, 128 .2792 15.99 | 11.526
""")


@pytest.mark.parametrize(("n", "cells", "floor"), COSINES)
def test_unit_norm_keys(n, cells, floor):
    n = int(n)
    for cell in cells.split(","):
        d, cosine, beta = cell.split()
        check(h.largest_cosine(n, int(d)), cosine)
        check(h.unit_key_temperature(n, int(d), 0.01), beta)
    check(gap_for_weight(n, 0.01), floor)


def test_the_temperature_of_unit_keys_suffices_in_half_of_the_draws(rng):
    """A bound: in every draw whose largest cosine is at most the median. The floor at large heads suffices in none here."""
    n, d, miss, draws = 64, 8, 0.01, 2000
    keys = rng.standard_normal((draws, n - 1, d))
    cosines = keys[..., 0] / np.linalg.norm(keys, axis=-1)
    few = cosines.max(1) <= h.largest_cosine(n, d)

    def kept(temperature):
        others = np.exp(temperature * (cosines - 1)).sum(1)
        return others / (1 + others)

    assert np.all(kept(h.unit_key_temperature(n, d, miss))[few] <= miss)
    assert 0.45 < few.mean() < 0.56
    assert np.mean(kept(gap_for_weight(n, miss)) <= miss) < 0.01


def test_largest_cosine_is_the_median(rng):
    keys = rng.standard_normal((4000, 64, 8))
    cosines = (keys[..., 0] / np.linalg.norm(keys, axis=-1)).max(1)
    below = (cosines < h.largest_cosine(64, 8)).mean()
    assert abs(below - 0.5) < 4 * 0.5 / math.sqrt(4000)
    assert h.largest_cosine(2**40, 16) < 1  # the upper tail keeps its digits


def test_qk_norm_cap():
    for where, value in table(
        "96, 4, 1 | .36497\n96, 16, 1 | .96912\n1024, 16, 1 | .74450\n1024, 64, 1 | .99988\n1024, 64, .5 | .74450"
    ):
        n, d, gain = map(float, where.split(","))
        check(h.qk_norm_cap(int(n), int(d), gain), value)


def test_retrieval_ranks():
    for n, least, good in ((256, 12, 25), (1024, 14, 31), (4096, 17, 37), (32768, 21, 46)):
        assert math.ceil(h.comfortable_head_dim(n, 1)) == least
        assert math.ceil(h.comfortable_head_dim(n, 2.2)) == good
    assert [8 * math.ceil(h.comfortable_head_dim(n) / 8) for n in (1024, 4096, 32768)] == [32, 40, 48]


@pytest.mark.slow
def test_more_dimensions_never_hurt():
    errors = [h.best_retrieval_error(256, d) for d in (2, 4, 8, 16, 32)]
    assert all(a > b for a, b in pairwise(errors))


def test_a_slightly_wrong_value_is_told_apart():
    assert not agrees(h.smallest_gap(33, 1024), "7.909")
    assert not agrees(h.split_heads(1, 2, 1.01, 1, 64), "5.0397")
