"""Shares of equal tokens in texts, against all texts of a small vocabulary."""

import itertools

import numpy as np
import pytest

from depthwidth.formulas.moments import zipf_match_probability
from depthwidth.numerics.matches import match_covariance, match_variance, row_match_covariance

VOCAB, LENGTH = 3, 5


@pytest.fixture(scope="module")
def texts():
    """Every text of five positions, its matches (texts, 5, 5), and its probability."""
    p = 1 / np.arange(1, VOCAB + 1)
    every = np.array(list(itertools.product(range(VOCAB), repeat=LENGTH)))
    return (every[:, :, None] == every[:, None]).astype(float), (p / p.sum())[every].prod(1)


def share(matches, rows, columns):
    """Share of equal tokens among the pairs of one position of each range; a position with itself counts as a constant."""
    return matches[:, :rows, :columns].mean((1, 2))


def covariance(a, b, probability):
    return probability @ (a * b) - (probability @ a) * (probability @ b)


MATCH = float(zipf_match_probability(VOCAB))


@pytest.mark.parametrize("n", [2, 3, 5])
def test_the_variance_of_the_share_of_equal_pairs(texts, n):
    matches, probability = texts
    found = share(matches, n, n) * n / (n - 1)
    assert match_variance(MATCH, n) == pytest.approx(covariance(found, found, probability), rel=1e-12)


def test_shares_up_to_two_positions_have_the_variance_of_the_longer_stretch(texts):
    matches, probability = texts
    short, long = (share(matches, n, n) * n / (n - 1) for n in (3, 5))
    assert match_variance(MATCH, 5) == pytest.approx(covariance(short, long, probability), rel=1e-12)
    assert match_variance(MATCH, 3) != pytest.approx(covariance(short, long, probability), rel=0.1)


@pytest.mark.parametrize(("n", "other"), [(2, 4), (1, 3), (4, 5)])
def test_rows_of_a_causal_mask_by_the_match_of_their_own_tokens(texts, n, other):
    matches, probability = texts
    own = matches[:, n - 1, other - 1]
    both = covariance(own, share(matches, n, other), probability)
    assert match_covariance(MATCH, n, other, 1, 2) == pytest.approx(both, rel=1e-12)
    for row, seen in ((n, 1), (other, 2)):
        alone = covariance(own, share(matches, row, row), probability)
        assert row_match_covariance(MATCH, row, seen) == pytest.approx(alone, rel=1e-12, abs=1e-15)


def test_rows_without_a_mask_by_the_match_of_their_own_tokens(texts):
    matches, probability = texts
    found = covariance(matches[:, 1, 3], share(matches, 5, 5), probability)
    assert match_covariance(MATCH, 5, 5, 2, 2) == pytest.approx(found, rel=1e-12)
    assert row_match_covariance(MATCH, 5, 2) == pytest.approx(found, rel=1e-12)


def test_rows_of_a_window_that_see_their_own_tokens_alone(texts):
    """Two windows of two positions without a common one."""
    matches, probability = texts
    found = covariance(matches[:, 1, 3], matches[:, :2, 2:4].mean((1, 2)), probability)
    assert match_covariance(MATCH, 2, 2, 1, 1) == pytest.approx(found, rel=1e-12)
