"""Head dimension and head count: worked values, theorems on drawn inputs, certificates, and splits of a budget."""

import math
from itertools import pairwise

import numpy as np
import pytest
from helpers import agrees, check, golden, table
from hypothesis import given
from hypothesis import strategies as st

from depthwidth.coefficients import reference
from depthwidth.errors import InputError
from depthwidth.formula import formulas
from depthwidth.formulas import heads as h
from depthwidth.formulas.saturation import gap_for_weight
from depthwidth.numerics.retrieval import best_retrieval, retrieval_error_at

# ---- sharp heads ----

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


# ---- low rank ----


def test_bhojanapalli_parameter_counts():
    """Their printed counts within 1 % by the formula; the rows of the table that have a head size of their own."""
    printed = table("""
        512 | 8 128 166.4, 12 128 191.5, 16 128 216.7, 32 128 317.3, 8 32 128.6, 8 64 141.2, 8 256 216.7
        768 | 8 128 211.8, 12 128 249.5, 16 128 287.3, 20 128 325.0
    """)
    for width, cells in printed:
        for cell in cells.split(","):
            heads, size, millions = cell.split()
            ffn = {512: 4096, 768: 3072}[int(width)]
            check(h.fixed_head_parameters(24, int(heads), int(size), int(width), ffn, 30000, 0) / 1e6, millions)
    for row in reference("bhojanapalli2020_head_size"):
        if row["table"] != "T1_bert_large_standard":
            width = int(row["embedding_size"])
            count = h.fixed_head_parameters(
                24, int(row["n_heads"]), int(row["head_size"]), width, {512: 4096, 768: 3072}[width]
            )
            assert count / 1e6 == pytest.approx(float(row["params_millions"]), rel=0.01)


def test_bottleneck():
    assert h.bottleneck_heads(1024, 128) == 8
    assert h.dense_pattern_head_dim(128) == 128


def test_bhojanapalli_construction_represents_any_pattern(rng):
    """Theorem 1 for d_p = n: the weights that its proof gives reproduce a drawn positive column-stochastic matrix."""
    n, d = 6, 9
    x = rng.standard_normal((d, n))
    pattern = rng.random((n, n)) + 0.01
    pattern /= pattern.sum(0)
    left = np.linalg.pinv(x)
    w_k, w_q = np.eye(n) @ left, math.sqrt(n) * np.log(pattern) @ left
    logits = (w_k @ x).T @ (w_q @ x) / math.sqrt(n)
    assert np.exp(logits) / np.exp(logits).sum(0) == pytest.approx(pattern, rel=1e-8)


def test_hardmax_ranks(rng):
    for n, value in table("16 | 10.303\n64 | 40.641\n256 | 162.007"):
        check(h.hardmax_rank(int(n)), value)
    assert h.causal_hardmax_rank(256) == 128.5
    picks = np.array([len({int(rng.integers(t + 1)) for t in range(64)}) for _ in range(2000)])
    assert abs(picks.mean() - h.causal_hardmax_rank(64)) < 4 * picks.std() / math.sqrt(2000)


def test_gaussian_hardmax_fraction():
    for row in golden("hardmax_distinct_columns"):
        if int(row["d_h"]) >= 8:
            law = h.gaussian_hardmax_fraction(int(row["n"]), int(row["d_h"]))
            check(law, row["lognormal_poisson_law"])
            assert law == pytest.approx(float(row["distinct_fraction_gaussian_keys_mc"]), abs=0.015)


def test_the_dimension_that_reaches_the_rank():
    for n, value in ((64, 74), (256, 166), (1024, 301)):
        d = h.head_dim_for_hardmax_rank(n)
        assert d == pytest.approx(value, rel=0.02)
        assert h.gaussian_hardmax_fraction(n, round(d)) / (1 - 1 / math.e) == pytest.approx(0.95, abs=0.008)


# ---- certificates ----


def test_certificates():
    for eta, value in table(".1 | .049958\n.5 | .244919\n1 | .462117\n2 | .761594"):
        check(h.total_variation_bound(float(eta)), value)
        assert h.output_certificate(float(eta), 2.0) == pytest.approx(4 * h.total_variation_bound(float(eta)))
    for where, value in table("64, 2, .2 | .02301\n256, 1, .1 | .001061\n1024, 2, .2 | .001438"):
        n, span, eta = map(float, where.split(","))
        check(h.bounded_logit_error(int(n), span, eta), value)


LOGITS = st.lists(st.floats(-4, 4), min_size=2, max_size=12)


@given(LOGITS, st.floats(0.01, 3), st.integers(0, 2**32 - 1))
def test_the_certificates_are_never_exceeded(logits, eta, seed):
    rng = np.random.default_rng(seed)
    before = np.array(logits)
    moved = before + eta * np.sign(rng.uniform(-1, 1, before.size)) + 7.0
    p, q = (np.exp(v - v.max()) / np.exp(v - v.max()).sum() for v in (before, moved))
    assert np.abs(p - q).sum() / 2 <= h.total_variation_bound(eta) + 1e-12
    span = max(np.ptp(before), np.ptp(moved))
    assert ((p - q) ** 2).sum() <= h.bounded_logit_error(before.size, float(span), eta) + 1e-12
    values = rng.standard_normal((before.size, 3))
    radius = np.linalg.norm(values, axis=1).max()
    assert np.linalg.norm((p - q) @ values) <= h.output_certificate(eta, float(radius)) + 1e-12


def test_the_certificate_is_attained():
    eta = 0.7
    low = 1 / (1 + math.exp(eta))
    before, after = np.array([low, 1 - low]), np.array([1 - low, low])
    assert np.log(after / before).tolist() == pytest.approx([eta, -eta])
    assert np.abs(before - after).sum() / 2 == pytest.approx(h.total_variation_bound(eta), rel=1e-12)


# ---- smaller heads ----


def test_fixed_query_errors():
    for variance, kept, value in table("1 | .5 | 1.0696\n1 | .9 | .2587\n2 | 1 | 4.6708"):
        check(4096 * h.fixed_query_error(float(variance), float(kept), 4096), value)
    for tau2, value in table(".5 | .3935\n.1 | .0952\n1 | .6321"):
        check(h.relative_truncation_error(float(tau2)), value)
    with pytest.raises(InputError, match="cannot keep more variance"):
        h.fixed_query_error(1.0, 1.1, 64)


def test_fixed_query_error_by_simulation(rng):
    """n = 4096, sigma^2 = 1: the squared change of the weights, which is the error per independent unit-variance value."""
    n, kept = 4096, 0.5
    full = rng.standard_normal((2000, n)) * math.sqrt(kept)
    small = np.exp(full + kept * 0)
    whole = np.exp(full + math.sqrt(1 - kept) * rng.standard_normal((2000, n)))
    change = ((whole / whole.sum(1, keepdims=True) - small / small.sum(1, keepdims=True)) ** 2).sum(1)
    se = change.std() / math.sqrt(change.size)
    predicted = h.fixed_query_error(1.0, kept, n)
    assert change.mean() == pytest.approx(predicted, abs=4 * se + 0.02 * predicted)  # O(1/n) left out: 2 %
    assert change.mean() < 0.9 * h.fixed_query_error(1.0, 0.3, n)


# n, sigma^2, sigma_r^2 | n times the error and the relative error, by Monte Carlo with (se)
FINITE = table("""
    64, 1, .5 | .891 .010 | .360
    256, 1, .5 | 1.008 .008 | .382
    1024, 1, .9 | .2533 .0013 | .0940
""")


@pytest.mark.parametrize(("where", "error", "relative"), FINITE)
def test_the_limit_of_long_rows_over_estimates_short_ones(where, error, relative, rng):
    """Drawn twice, here and for the printed values; the law is above both, the more the shorter the row."""
    n, variance, kept = map(float, where.split(","))
    rows = int(1_500_000 // n)
    small = math.sqrt(kept) * rng.standard_normal((rows, int(n)))
    whole = np.exp(small + math.sqrt(variance - kept) * rng.standard_normal(small.shape))
    whole /= whole.sum(1, keepdims=True)
    small = np.exp(small) / np.exp(small).sum(1, keepdims=True)
    lost, own = ((whole - small) ** 2).sum(1), (whole**2).sum(1)
    value, se = map(float, error.split())
    spread = math.hypot(n * lost.std() / math.sqrt(rows), se)
    assert n * lost.mean() == pytest.approx(value, abs=4 * spread)
    assert lost.mean() / own.mean() == pytest.approx(float(relative), abs=0.02)
    assert n * lost.mean() + 4 * spread < n * h.fixed_query_error(variance, kept, int(n)) * (1 if n < 1024 else 1.05)


HARMONIC = h.power_spectrum(16, 1.0, 1.0)


@pytest.mark.parametrize(("rank", "n", "drawn"), [(1, 64, 0.966), (1, 256, 0.784), (4, 256, 0.434), (8, 256, 0.226)])
def test_what_a_read_out_head_loses_has_a_floor(rank, n, drawn, rng):
    """Values are the whitened keys. The drawn error is the printed one to 5 %, and above the floor, which it nears with n."""
    root = np.sqrt(HARMONIC)
    errors = []
    for _ in range(6):
        query, keys = rng.standard_normal((200, 16)), rng.standard_normal((200, n, 16))
        parts = query[:, None] * keys * root
        outputs = []
        for kept in (16, rank):
            p = np.exp(parts[..., :kept].sum(-1))
            outputs.append(np.einsum("bn,bnd->bd", p / p.sum(1, keepdims=True), keys))
        errors.append(((outputs[0] - outputs[1]) ** 2).sum(1))
    error = np.concatenate(errors)
    assert error.mean() == pytest.approx(drawn, abs=0.05 * drawn + 3 * error.std() / math.sqrt(error.size))
    assert error.mean() > h.readout_errors(HARMONIC)[rank]


def test_growth_of_a_harmonic_spectrum():
    printed = (
        "1 1.5648 1.8647 2.0811 2.2545 2.4010 2.5289 2.6431 2.7466 2.8416 2.9295 3.0116 3.0887 3.1615 3.2305 3.2961 3.3588"
    )
    for value, text in zip(h.weight_growth(HARMONIC), printed.split(), strict=True):
        check(value, text)


def test_trained_students_lie_below_the_large_length_form_and_near_the_simulation():
    for row in golden("softmax_truncation_theory_vs_trained"):
        n, rank = int(row["n_tokens"]), int(row["d_h"])
        predicted = h.diffuse_errors(HARMONIC, n)[rank]
        if rank < 16:
            check(predicted, row["mse_large_n_formula"], slack=2)
            over = predicted / float(row["mse_truncated_teacher_mc"]) - 1
            assert 0.05 < over < {64: 0.55, 256: 0.29, 1024: 0.17}[n]
            assert float(row["mse_trained_seed0"]) == pytest.approx(float(row["mse_truncated_teacher_mc"]), rel=0.06)
        else:
            assert predicted == 0 == float(row["mse_trained_seed0"])


def test_readout_floors():
    for rank, value in ((1, 0.7042), (4, 0.3838), (8, 0.1961)):
        assert h.readout_errors(HARMONIC)[rank] == pytest.approx(value, abs=5e-5)
    assert h.readout_errors(HARMONIC)[0] == pytest.approx(1)
    assert h.readout_errors([3.0, 1.0], [0.5, 2.0]) == [3.5, 2.0, 0.0]


def test_saturation_dimensions():
    cases = {
        64: ((1e-2, 8), (1e-3, 15)),
        256: ((1e-2, 0), (1e-3, 13)),
        1024: ((1e-2, 0), (1e-3, 5), (1e-4, 15)),
        4096: ((1e-2, 0), (1e-3, 0), (1e-4, 11)),
    }
    for n, wanted in cases.items():
        for tolerance, rank in wanted:
            assert h.saturation_dim(h.diffuse_errors(HARMONIC, n), tolerance) == rank


# Relative tolerances .10, .05, .01 on F, then on the read-out, then absolute 1e-3 and 1e-4 at n = 256 and 4096.
VECTORS = [
    (1.0, 1.0, (21, 26, 31), (22, 27, 31), ((23, 31), (0, 18))),
    (2.0, 0.5, (3, 5, 16), (5, 9, 21), ((2, 14), (0, 1))),
    (0.0, 1.0, (29, 31, 32), (29, 31, 32), ((30, 32), (0, 28))),
]


@pytest.mark.parametrize(("exponent", "total", "diffuse", "readout", "absolute"), VECTORS)
def test_ranks_of_the_test_vector(exponent, total, diffuse, readout, absolute):
    spectrum = h.power_spectrum(32, exponent, total)
    for delta, rank in zip((0.10, 0.05, 0.01), diffuse, strict=True):
        assert h.saturation_dim(h.diffuse_errors(spectrum, 1), delta * h.weight_growth(spectrum)[-1]) == rank
    for delta, rank in zip((0.10, 0.05, 0.01), readout, strict=True):
        assert h.saturation_dim(h.readout_errors(spectrum), delta * total * (1 + 1e-12)) == rank
    for n, ranks in zip((256, 4096), absolute, strict=True):
        assert tuple(h.saturation_dim(h.diffuse_errors(spectrum, n), eps) for eps in (1e-3, 1e-4)) == ranks


def test_retrieval_ranks():
    for n, least, good in ((256, 12, 25), (1024, 14, 31), (4096, 17, 37), (32768, 21, 46)):
        assert math.ceil(h.comfortable_head_dim(n, 1)) == least
        assert math.ceil(h.comfortable_head_dim(n, 2.2)) == good
    assert [8 * math.ceil(h.comfortable_head_dim(n) / 8) for n in (1024, 4096, 32768)] == [32, 40, 48]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: h.weight_growth([0.5]), "diffuse laws hold below 0.5"),
        (lambda: h.weight_growth([]), "at least one"),
        (lambda: h.readout_errors([0.1, 0.2]), "largest first"),
        (lambda: h.readout_errors([-0.1]), "none of them negative"),
        (lambda: h.readout_errors([0.2, 0.1], [1.0]), "as many as singular values"),
        (lambda: h.saturation_dim([1.0, 0.0], -1), "is negative"),
        (lambda: h.power_spectrum(0, 1, 1), "rank from 1"),
        (lambda: h.lag_error([1.0], 3), "from 0 to below 1"),
        (lambda: h.lag_error([0.5], -1), "lag=-1"),
        (lambda: h.best_lag_error(0, 3), "heads=0"),
        (lambda: h.group_budgets([], 1, 1), "are positive"),
        (lambda: h.qk_norm_cap(64, 0), "head_dim=0 is outside"),
        (lambda: h.too_few_heads_exponent(64, 2, 4, 4), "fewer heads than D"),
        (lambda: h.low_rank_heads_high_dim(8, 16, 0.5), "at most the width"),
    ],
)
def test_wrong_input_gets_one_sentence(call, sentence):
    with pytest.raises(InputError) as caught:
        call()
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- head counts ----


def test_memorisation():
    for heads, n, d, count in ((8, 32, 64, 249), (8, 128, 64, 505), (16, 32, 16, 241)):
        assert h.memorised_examples(heads, n, d) == count
    assert h.memorised_examples(8, 32, 64) == h.memorised_examples(8, 32, 32)  # no gain beyond n


def test_relations():
    check(h.relation_key_dim(1e5, 1024), "1.1e3")


def test_too_few_heads():
    for where, value in table("1024, 2, 1, 2 | 62.5\n1024, 8, 3, 4 | 7.93\n4096, 8, 3, 4 | 35.36\n128, 2, 1, 2 | 6.5"):
        check(h.too_few_heads_exponent(*map(int, where.split(","))), value)


def test_the_published_tables_fall_off_at_the_intrinsic_dimension():
    """The synthetic target of dimension 4: from three heads to four the error falls 5 times or more, at long T 100 times."""
    rows = {
        (int(r["n_heads"]), int(r["sequence_length"])): float(r["mean"])
        for r in reference("yu2026_head_count")
        if r["table"] == "T2_synthetic_D4_headdim8"
    }
    for length in (8, 16, 32, 64, 128):
        assert rows[3, length] / rows[4, length] > 5
    assert rows[3, 128] / rows[4, 128] > 100
    assert len(reference("model_head_counts")) == 25
    best = min(reference("head_split_qknorm"), key=lambda r: float(r["val_bpc_qknorm"]))
    assert best["head_dim"] == "32"


# ---- linear-bias heads ----

LAGS = table("""
    1  | .7500 0 0 0 0 0 0
    2  | .8519 .6538 0 0 0 0 0
    4  | .9181 .8239 .7237 .5862 0 0 0
    8  | .9567 .9090 .8645 .8206 .7742 .7214 .5458
    16 | .9777 .9534 .9315 .9111 .8916 .8724 .8287
""")


@pytest.mark.parametrize(("lag", "errors"), LAGS)
def test_linear_bias_heads(lag, errors):
    for heads, value in zip((1, 2, 3, 4, 5, 6, 8), errors.split(), strict=True):
        assert h.best_lag_error(heads, int(lag)) == pytest.approx(float(value), abs=6e-5)
    assert h.one_head_lag_error(h.best_lag_decay(int(lag)), int(lag)) == pytest.approx(h.best_lag_error(1, int(lag)), abs=1e-12)


def test_lag_errors_against_least_squares(rng):
    assert h.lag_error([0.3, 0.6, 0.8], 4) == pytest.approx(0.8309823910, abs=1e-10)
    assert h.lag_error([0.5], 3) == 0.98828125 == h.one_head_lag_error(0.5, 3)
    assert h.lag_error([0.5, 0.5], 2) == 0.66015625
    for lag in (1, 3, 6):
        decays = rng.uniform(0.1, 0.9, 4)
        kernels = (1 - decays) * decays ** np.arange(600)[:, None]
        target = np.zeros(600)
        target[lag] = 1
        left = np.linalg.lstsq(kernels, target, rcond=1e-15)[1]
        assert h.lag_error(decays.tolist(), lag) == pytest.approx(float(left[0]) if left.size else 0.0, abs=1e-8)


def test_equal_decays_are_best_among_drawn_ones(rng):
    for heads, lag in ((2, 4), (3, 8)):
        drawn = [h.lag_error(rng.uniform(0, 0.999, heads).tolist(), lag) for _ in range(2000)]
        assert min(drawn) >= h.best_lag_error(heads, lag) - 1e-9


# ---- heads that read several lags ----

# Numerical optimum of the exact population loss, 16 dimensions, lags 1 to 4, 32 dimensions of values.
SHARED = {1: 0.7087, 2: 0.4504, 4: 0.0285, 8: 0.0057, 16: 0.0020, 32: 0.0009}


def test_dedicated_heads_bound_shared_ones():
    check(h.dedicated_lag_loss(8, 16, 1), ".0359")
    assert not agrees(h.dedicated_lag_loss(8, 16, 1.01), ".0359")
    bound = h.dedicated_lag_loss(8, 16, 1)
    for heads, loss in SHARED.items():
        floor = h.fewer_heads_than_lags_loss(heads, 4)
        # Maps drawn in 16 dimensions are correlated by chance, which leaves up to 0.05 less than uncorrelated ones.
        assert floor - 0.05 < loss
        assert (loss < bound) == (heads >= 4)
    assert h.dedicated_lag_loss(16, 16, 1, 0.25) == 0.25
    assert h.dedicated_lag_loss(8, 16, 1, h.best_lag_error(2, 2)) == pytest.approx(bound + (1 - bound) * h.best_lag_error(2, 2))
    with pytest.raises(InputError, match="the rank is at most the map's size"):
        h.dedicated_lag_loss(17, 16, 1)


def test_the_dedicated_bound_is_the_loss_of_dedicated_heads(rng):
    """Truncated maps behind patterns that miss by epsilon^2, added up: uncorrelated maps, each with its own."""
    size, rank, lags = 8, 3, 2
    maps = [
        u * (1 / np.arange(1, size + 1)) @ v
        for u, v in (np.linalg.qr(rng.standard_normal((2, size, size)))[0] for _ in range(lags))
    ]
    losses = []
    for a in maps:
        u, s, v = np.linalg.svd(a)
        cut = u[:, :rank] * s[:rank] @ v[:rank]
        z, lag = 0.6, 2
        kernel = (1 - z) * z ** np.arange(400)
        gain = kernel[lag] / (kernel @ kernel)
        wanted = np.zeros(400)
        wanted[lag] = 1
        error = np.einsum("s,ij->sij", gain * kernel, cut) - np.einsum("s,ij->sij", wanted, a)
        losses.append((error**2).sum() / (a**2).sum())
        assert losses[-1] == pytest.approx(h.dedicated_lag_loss(rank, size, 1, h.one_head_lag_error(z, lag)), rel=1e-9)


def test_no_heads_pass_the_floor(rng):
    """Best patterns of any sign, by a singular value decomposition over lags; equal uncorrelated maps are the formula's."""
    maps = rng.standard_normal((4, 5, 5))
    gram = np.einsum("mij,nij->mn", maps, maps)
    s2 = np.linalg.svd(maps.reshape(4, 25), compute_uv=False) ** 2
    for heads in (1, 2, 3, 4, 9):
        assert h.lag_floor(gram.tolist(), heads) == pytest.approx(s2[heads:].sum() / s2.sum(), abs=1e-12)
        assert h.lag_floor(np.eye(4).tolist(), heads) == pytest.approx(h.fewer_heads_than_lags_loss(heads, 4), abs=1e-12)
        assert h.lag_floor(gram.tolist(), heads) <= h.fewer_heads_than_lags_loss(heads, 4) + 1e-12
    for gram, heads in (([[1.0, 0.5]], 1), ([[1.0, 2.0], [0.0, 1.0]], 1), ([[0.0]], 1), ([[1.0]], 0), ([[1.0]], 1.5)):
        with pytest.raises(InputError):
            h.lag_floor(gram, heads)


def test_freedoms_of_shared_heads():
    assert h.shared_lag_heads(4, 16) == pytest.approx(1024 / 34)
    # At one dimension a head, 32 heads have the freedoms that 4 maps take, and 16 have not.
    assert 16 < h.shared_lag_heads(4, 16) < 32


# ---- splits ----


def test_splits():
    one = (1, 2, 1, 1, 64)
    check(h.split_heads(*one), "5.0397")
    check(64 / h.split_heads(*one), "12.6992")
    check(h.split_error(*one), "0.118118")
    check(h.split_prefactor(*one[:4]), "1.88988")
    budgets = h.group_budgets([h.split_prefactor(a, 2, 1, 1) for a in (1, 4)], 2 / 3, 24)
    heads = [h.split_heads(a, 2, 1, 1, d) for a, d in zip((1, 4), budgets, strict=True)]
    for value, text in zip(
        (*budgets, *heads, *(d / n for d, n in zip(budgets, heads, strict=True))),
        ("10.347", "13.653", "2.745", "4.780", "3.769", "2.856"),
        strict=True,
    ):
        check(value, text)
    total = sum(h.split_error(a, 2, 1, 1, d) for a, d in zip((1, 4), budgets, strict=True))
    check(total, ".92318")


@given(st.floats(0.2, 5), st.floats(0.3, 3), st.floats(0.2, 5), st.floats(0.3, 3), st.floats(4, 1000))
def test_the_split_is_a_minimum(a, p, b, q, budget):
    heads = h.split_heads(a, p, b, q, budget)

    def error(n):
        return a * n**-p + b * (budget / n) ** -q

    assert error(heads) == pytest.approx(h.split_error(a, p, b, q, budget), rel=1e-9)
    assert min(error(1.1 * heads), error(heads / 1.1)) > error(heads)


def test_what_is_ours_is_not_called_a_theorem_of_the_target_paper():
    """Every formula that names arXiv 2510.03784 says that it is our reconstruction, or what of it is confirmed."""
    named = [f for topic in ("heads", "saturation") for f in formulas(topic=topic) if "2510.03784" in f.source]
    assert len(named) >= 5
    for f in named:
        assert "our reconstruction" in f.source or "confirmed content" in f.source
        assert f.status == "derived"


def test_more_dimensions_never_hurt():
    errors = [h.best_retrieval_error(256, d) for d in (2, 4, 8, 16, 32)]
    assert all(a > b for a, b in pairwise(errors))


def test_a_slightly_wrong_value_is_told_apart():
    assert not agrees(h.smallest_gap(33, 1024), "7.909")
    assert not agrees(h.split_heads(1, 2, 1.01, 1, 64), "5.0397")
