"""Positions in attention scores: the theorems of Chen et al. 2021, their worked matrices, and their counts."""

from fractions import Fraction

import numpy as np
import pytest
from helpers import agrees, check

from depthwidth import table
from depthwidth.errors import InputError
from depthwidth.formulas import positions

N, LAYERS, HEADS, WIDTH = 512, 12, 12, 768


def exact_rank(matrix):
    """Rank over the rational numbers, by elimination."""
    rows, rank = [[Fraction(int(value)) for value in row] for row in matrix], 0
    for column in range(len(rows[0])):
        pivot = next((i for i in range(rank, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        for i in range(rank + 1, len(rows)):
            factor = rows[i][column] / rows[rank][column]
            if factor:
                rows[i] = [a - factor * b for a, b in zip(rows[i], rows[rank], strict=True)]
        rank += 1
    return rank


def example(n, d, d_h, d_p):
    """The example of Theorem 1 that fits its conditions: matrices of the input, of both projections, and of positions."""
    x, w, p = np.zeros((n, d), int), np.zeros((d, d_h), int), np.zeros((n, d_p), int)
    x[:d], w[:d_h], p[n - d_p :] = np.eye(d), np.eye(d_h), np.eye(d_p)
    return x, w, p


@pytest.mark.parametrize(("n", "d", "d_h", "d_p"), [(12, 6, 3, 5), (10, 5, 2, 4), (9, 8, 1, 8)])
def test_rank_theorem_on_the_corrected_example(n, d, d_h, d_p):
    x, w, p = example(n, d, d_h, d_p)
    scores = x @ w @ (x @ w).T + p @ p.T
    assert exact_rank(scores) == positions.decoupled_rank(n, d_h, d_p) == d_h + d_p
    assert np.diag(scores).tolist() == [1] * d_h + [0] * (n - d_h - d_p) + [1] * d_p


def test_the_papers_own_choice_contradicts_its_condition():
    """Erratum: the appendix takes d_p = n, so that n >= d_h + d_p does not hold, and the rank is n, not d_h + d_p."""
    x, w, p = example(8, 6, 3, 8)
    assert exact_rank(x @ w @ (x @ w).T + p @ p.T) == positions.decoupled_rank(8, 3, 8) == 8 < 3 + 8


@pytest.mark.parametrize(("n", "d", "d_h", "d_p"), [(12, 8, 3, 5), (12, 8, 3, 12), (10, 9, 4, 5)])
def test_ranks_of_random_whole_numbers(n, d, d_h, d_p):
    draw = np.random.default_rng(n + d_p).integers
    x, p = draw(-4, 5, (2, n, d))
    w_q, w_k = draw(-4, 5, (2, d, d_h))
    p_q, p_k = draw(-4, 5, (2, n, d_p))
    shift = draw(-9, 10, 2 * n - 1)
    content = x @ w_q @ (x @ w_k).T
    assert exact_rank((x + p) @ w_q @ ((x + p) @ w_k).T) == positions.input_position_rank(n, d_h)
    assert exact_rank(content + p_q @ p_k.T) == positions.decoupled_rank(n, d_h, d_p)
    difference = np.subtract.outer(np.arange(n), np.arange(n))
    assert exact_rank(content + shift[difference + n - 1]) == n
    # A table of low rank adds no more than its rank at the input, and no more in the head.
    low = draw(-4, 5, (n, 2)) @ draw(-4, 5, (2, d))
    assert exact_rank(low @ w_q @ (low @ w_k).T) == 2
    # Equal positions add rank 1 at most: the control.
    assert exact_rank(content + np.ones((n, d_p), int) @ p_k.T) == min(n, d_h + 1)


@pytest.mark.slow
def test_gradients_of_input_and_position_table_are_equal():
    """Theorem 2, symbolically: a loss that sees only X + P has equal gradients; one that sees P twice has not."""
    import sympy

    x, p, w = (sympy.Matrix(2, 1, sympy.symbols(f"{name}:2")) for name in "xpw")

    def gradients(seen):
        loss = sum(sympy.exp(entry) for entry in w[0] * w[1] * seen * seen.T)
        return [[sympy.diff(loss, v) for v in part] for part in (x, p)]

    of_input, of_positions = gradients(x + p)
    assert all((a - b).expand() == 0 for a, b in zip(of_input, of_positions, strict=True))
    of_input, of_positions = gradients(x + 2 * p)
    assert all((2 * a - b).expand() == 0 and (a - b).expand() != 0 for a, b in zip(of_input, of_positions, strict=True))


def added(model):
    """Parameters of a scheme of Table 6, less those of the input's table."""
    every, shared = LAYERS * HEADS, HEADS
    return {
        "Shaw2018": positions.relative_vector_parameters(N - 1, 64, 4 * LAYERS),
        "DIET-REL": positions.relative_bias_parameters(N, every),
        "DIET-REL (share)": positions.relative_bias_parameters(N, shared),
        "DIET-ABS (dp=128)": positions.absolute_bias_parameters(N, 128, every),
        "DIET-ABS (dp=128, share)": positions.absolute_bias_parameters(N, 128, shared),
    }[model] - positions.input_position_parameters(N, WIDTH)


def test_table_6():
    """The paper's counts in millions; the base is BERT-Base as printed, for English and for 104 languages.

    The base and the sum are both rounded, so that the last digit may differ by one.
    """
    printed = {
        "Shaw2018": (112.9, 181.7),
        "DIET-REL": (109.9, 178.7),
        "DIET-REL (share)": (109.7, 178.5),
        "DIET-ABS (dp=128)": (128.6, 197.4),
        "DIET-ABS (dp=128, share)": (111.3, 180.1),
    }
    for model, found in printed.items():
        for base, value in zip((110.1, 178.9), found, strict=True):
            assert abs(base + added(model) / 1e6 - value) <= 0.1 + 1e-9, model
    assert {model: round(110.1 + added(model) / 1e6, 2) for model in printed} == {
        "Shaw2018": 112.85,
        "DIET-REL": 109.85,
        "DIET-REL (share)": 109.72,
        "DIET-ABS (dp=128)": 128.58,
        "DIET-ABS (dp=128, share)": 111.28,
    }
    assert positions.segment_bias_parameters(2, LAYERS * HEADS) == 576
    # The control: a table for each layer alone (12 in all) is not the printed count of DIET-ABS.
    assert abs(110.1 + (positions.absolute_bias_parameters(N, 128, LAYERS) - N * WIDTH) / 1e6 - 128.6) > 1


def test_the_table_prints_the_same_counts():
    rows = {row["model"]: row for row in table("diet2021-parameters")}
    assert len(rows) == 6
    for model, row in rows.items():
        for name in ("english", "multilingual"):
            assert abs(row[f"{name}_computed"] - row[f"{name}_params_m"]) <= 0.1 + 1e-9
        if model != "Devlin2018":
            assert row["english_computed"] == pytest.approx(110.1 + added(model) / 1e6)


def test_operations_and_bytes_of_the_sheet():
    assert positions.absolute_bias_flops(32, 24, 4) == 196_608
    assert positions.projected_bias_flops(32, 8, 24, 4) == 49_152
    assert positions.relative_vector_flops(3, 32, 64) == 393_216
    assert positions.relative_vector_flops(3, 32, 64, 2) == 786_432
    assert positions.untied_position_flops(32, 64) == 655_360
    check(positions.bias_bytes(512, 12) / 1e6, "6.3")
    check(positions.bias_bytes(4096, 12) / 1e6, "403")
    assert not agrees(positions.bias_bytes(4096, 12, 4) / 1e6, "403")
    # Shaw's share of a layer's operations, 2.7 % in the sheet.
    layer = 24 * 128 * 768**2 + 4 * 128**2 * 768
    check(100 * positions.relative_vector_flops(1, 128, 768, 2) / layer, "2.7")


@pytest.mark.slow
def test_variance_of_biased_rows_against_draws():
    """Rows of Gaussian scores and biases: variance, correlation of two rows, and the spread of a row's variance."""
    rng, n, d_h, d_p, draws = np.random.default_rng(3), 64, 8, 12, 4000
    rho, s2, v = 0.4, 1.0, 0.3
    query = rng.standard_normal((2, draws, d_h))
    query[1] = rho * query[0] + (1 - rho**2) ** 0.5 * query[1]
    content = np.einsum("adk,djk->adj", query, rng.standard_normal((draws, n, d_h))) * (s2 / d_h) ** 0.5
    tables = rng.standard_normal((2, draws, n, d_p)) * v**0.5
    bias = np.einsum("daf,djf->adj", tables[0][:, :2], tables[1])
    scores = content + bias
    scores -= scores.mean(-1, keepdims=True)
    beta2 = positions.absolute_bias_variance(d_p, v, v)
    total = positions.biased_score_variance(s2, beta2)
    of_rows = (scores**2).sum(-1) / (n - 1)
    assert abs(of_rows.mean() - total) < 4 * of_rows.std() / (2 * draws) ** 0.5
    products = (scores[0] * scores[1]).sum(-1) / (n - 1)
    expected = positions.biased_row_correlation(rho, s2, beta2) * total
    assert abs(products.mean() - expected) < 4 * products.std() / draws**0.5
    assert abs(products.mean() - rho * total) > 10 * products.std() / draws**0.5  # the control: rows as alike as their tokens
    # Each row's own variance has the sample's spread, 2/(n - 1), beside that of the norms.
    spread = of_rows.var() / total**2
    d_eff = positions.effective_head_dim(s2, beta2, d_h, d_p)
    expected = 2 / d_eff + 2 / (n - 1) * (1 + 2 / d_eff)
    assert abs(spread / expected - 1) < 0.1
    assert abs(spread / (2 / d_h + 2 / (n - 1)) - 1) > 0.25


def test_nonsense_is_refused():
    for wrong in (0, -1):
        with pytest.raises(InputError, match="rank"):
            positions.decoupled_rank(16, 4, wrong)
    with pytest.raises(InputError, match="tokens"):
        positions.relative_bias_parameters(0, 12)
