"""Low rank: constructions, occupancy by simulation, and counts of published models."""

import math

import numpy as np
import pytest
from helpers import check, golden, table

from depthwidth.coefficients import reference
from depthwidth.formulas import heads as h


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
