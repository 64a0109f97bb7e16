"""Softmax over tokens that repeat, against rows that are drawn, and the limits without repetitions."""

import numpy as np
import pytest

from depthwidth.formulas.moments import zipf_match_probability
from depthwidth.numerics import repeated_softmax
from depthwidth.numerics.repeated_softmax import repetition, repetition_slopes, repetitions, zipf_classes
from depthwidth.numerics.softmax import overlap


def drawn(rng, vocab, length, shared, own, texts, rows):
    """Products of probabilities in rows of Zipf's law, over those of two tokens at random: same row, other row, itself."""
    p = 1 / np.arange(1, vocab + 1)
    p /= p.sum()
    pair, found = (p**2).sum(), []
    for _ in range(texts):
        _, text = np.unique(rng.choice(vocab, length, p=p), return_inverse=True)
        kinds = text.max() + 1
        scores = (np.sqrt(shared) * rng.standard_normal((rows, kinds)))[:, text]
        scores += np.sqrt(own) * rng.standard_normal((rows, length))
        a = np.exp(scores - scores.max(1, keepdims=True))
        a /= a.sum(1, keepdims=True)
        equal = text[:, None] == text
        np.fill_diagonal(equal, False)
        half = rows // 2
        one, other = a[:half].mean(0), a[half:].mean(0)
        same = np.einsum("rj,jl,rl->r", a, equal, a, optimize=True).mean()
        found.append([same, one @ equal @ other, (a**2).sum(1).mean()])
    found = np.array(found) * [length / (length - 1) / pair, length / (length - 1) / pair, length]
    return found.mean(0), found.std(0) / np.sqrt(texts)  # of which a text's own match is most


@pytest.mark.parametrize(
    ("vocab", "length", "shared", "own"),
    [
        (100, 24, 1.0, 0.0),
        pytest.param(100, 48, 2.5, 0.0, marks=pytest.mark.slow),
        pytest.param(1000, 48, 0.5, 0.5, marks=pytest.mark.slow),
        pytest.param(5000, 400, 1.0, 0.0, marks=pytest.mark.slow),
    ],
)
def test_repetitions_against_rows_that_are_drawn(rng, vocab, length, shared, own):
    mean, error = drawn(rng, vocab, length, shared, own, 100 if length < 48 else 250 if length == 48 else 100, 40)
    found = repetition(float(zipf_match_probability(vocab)), length, shared, own)
    assert (np.abs(np.array(found) - mean) < 4 * error + [0.01, 0.04, 0.02]).all()
    # Frequent tokens saturate: two positions of a token that was infinitely rare would have exp(shared), and all 1 in two rows.
    assert mean[0] + 4 * error[0] < np.exp(shared)
    assert mean[1] < 1


@pytest.mark.parametrize(("n", "variance", "rel"), [(8, 1.0, 1e-5), (100, 3.0, 1e-3), (4096, 2.0, 5e-4)])
def test_without_repetitions_the_parts_of_a_score_are_alike(n, variance, rel):
    """Positions of rare tokens: the variance may be that of the token or of the position, integrated by rules of their own."""
    shared, own = repetition(1e-9, n, variance, 0.0), repetition(1e-9, n, 0.0, variance)
    assert own.itself == pytest.approx(shared.itself, rel=rel)
    assert own.itself > 1.5  # or nothing was compared


@pytest.mark.parametrize(("n", "variance"), [(2, 1.0), (30, 1.0), (300, 4.0)])
def test_without_repetitions_a_position_has_the_overlap_of_independent_scores(n, variance):
    assert repetition(1e-9, n, variance, 0.0).itself == pytest.approx(n * overlap(variance, n).P, rel=3e-3)


def test_equal_scores_leave_every_row_uniform():
    assert repetition(0.05, 20, 0.0, 0.0) == pytest.approx((1.0, 1.0, 1.0), rel=1e-6)


@pytest.mark.parametrize(("pair", "n", "own"), [(0.01, 4, 3.0), (0.01, 16, 6.0), (0.1, 48, 3.0), (0.01, 8192, 0.3)])
def test_positions_that_share_no_score_are_like_those_of_different_tokens(pair, n, own):
    """Two of one row have what the squares of its weights leave, and two of two rows have 1."""
    found = repetition(pair, n, 0.0, own)
    assert found.other_row == pytest.approx(1.0, rel=1e-6)
    assert found.same_row == pytest.approx((1 - found.itself / n) / (1 - 1 / n), rel=1e-6)


@pytest.mark.parametrize("vocab", [2, 10, 1000, 128_256])
def test_the_classes_of_tokens_have_the_match_probability(vocab):
    pair = float(zipf_match_probability(vocab))
    p, count = zipf_classes(pair)
    assert count @ p == pytest.approx(1.0)
    assert count @ p**2 == pytest.approx(pair, rel=1e-9)
    triple = (1 / np.arange(1, vocab + 1) ** 3).sum() / (1 / np.arange(1, vocab + 1)).sum() ** 3
    assert count @ p**3 == pytest.approx(triple, rel=0.03)


def test_long_rows_and_large_scores_stay_numbers():
    for pair, n, shared, own in [(0.0108, 131072.0, 64.0, 0.0), (0.0108, 500.0, 40.0, 24.0), (0.9999, 10.0, 1.0, 0.0)]:
        assert np.isfinite(repetition(pair, n, shared, own)).all()


@pytest.mark.parametrize(
    ("head_dim", "low", "high", "error"), [(None, 0.0, 3.0, 1e-5), (64, 0.0, 2.0, 1e-5), (None, 3.0, 6.0, 1e-4)]
)
@pytest.mark.slow
def test_tables_read_as_the_integrals(head_dim, low, high, error, rng):
    variance, share = rng.uniform(low, high, 12), rng.uniform(0, 1, 12)
    found = np.array(repetitions(0.02, 200.0, variance, share, head_dim))
    points = zip(variance.tolist(), share.tolist(), strict=True)
    exact = np.array([repetition(0.02, 200.0, v * s, v * (1 - s), head_dim) for v, s in points]).T
    assert found == pytest.approx(exact, rel=error)
    assert found != pytest.approx(exact, rel=1e-10)  # the tables were asked


def test_the_match_of_a_vocabulary_is_that_of_its_classes():
    for log_vocabulary in (0.0, 1.0, 2.45, 2.5, 5.0, 10.8, 200.0):
        p, count = repeated_softmax._classes_of(log_vocabulary)
        assert repeated_softmax._match_of(log_vocabulary) == pytest.approx(float(count @ p**2), rel=1e-14)
    p, count = repeated_softmax.zipf_classes(0.0126)
    assert count @ p**2 == pytest.approx(0.0126, rel=1e-13)
    assert count @ p == pytest.approx(1, rel=1e-13)


def test_equal_scores_follow_the_share_of_equal_pairs_in_proportion():
    found = repetition_slopes(0.05, 20, np.array([1e-9]), np.array([0.5]))
    assert np.ravel(found) == pytest.approx([1.0, 1.0, 0.0], abs=0.02)  # as the tables claim


def test_slopes_are_sums_over_the_tokens_of_which_a_text_has_more():
    """One position more of token v, for each v in proportion to its part in the share of equal pairs."""
    pair, n, variance = 0.0608, 48.0, 1.2
    p, count = zipf_classes(pair)
    change = p - count @ p**2

    def weights(p):
        found = np.ravel(repeated_softmax._repetition_of_sizes((p, count), n, np.array([variance]), np.array([0.0])))
        return found * [count @ p**2, count @ p**2, 1.0]

    total, step = np.zeros(3), 1e-4
    for token in range(p.size):
        moved = step * (np.arange(p.size) == token)
        total += change[token] * (weights(p * (1 + moved)) - weights(p * (1 - moved))) / (2 * step)
    slopes = total / (2 * count @ (p**2 * change))
    found = np.ravel(repetition_slopes(pair, n, np.array([variance]), np.array([1.0])))
    assert found[:2] == pytest.approx(slopes[:2], rel=0.01)  # as the tables claim
    assert found[2] / n == pytest.approx(slopes[2] / n, abs=0.005)
    assert abs(slopes[0] - slopes[1]) > 0.3  # one row and two rows differ


@pytest.mark.slow
@pytest.mark.parametrize(("vocab", "length", "shared", "own"), [(1000, 48, 1.0, 0.0), (100, 24, 0.6, 0.4)])
def test_texts_with_more_equal_pairs_weigh_them_by_the_slopes(rng, vocab, length, shared, own):
    """A regression over texts, whose own noise is that of 40 drawn rows."""
    p = 1 / np.arange(1, vocab + 1)
    p /= p.sum()
    found = []
    for _ in range(600):
        _, text = np.unique(rng.choice(vocab, length, p=p), return_inverse=True)
        scores = (np.sqrt(shared) * rng.standard_normal((40, text.max() + 1)))[:, text]
        a = np.exp(scores + np.sqrt(own) * rng.standard_normal((40, length)))
        a /= a.sum(1, keepdims=True)
        equal = text[:, None] == text
        np.fill_diagonal(equal, False)
        one, other = a[:20].mean(0), a[20:].mean(0)
        found.append([equal.mean(), ((a @ equal) * a).sum(1).mean(), one @ equal @ other, length * (a**2).sum(1).mean()])
    share, *values = np.array(found).T
    share = share * length / (length - 1)
    pair = float(zipf_match_probability(vocab))
    slopes = np.ravel(repetition_slopes(pair, length, np.array([shared + own]), np.array([shared / (shared + own)])))
    for value, slope, factor in zip(values, slopes, [length / (length - 1), length / (length - 1), 1.0], strict=True):
        value = value * factor - value.mean() * factor
        about = share - share.mean()
        measured = (value @ about) / (about @ about)
        error = np.sqrt(((value - measured * about) ** 2).mean() / (about @ about))
        assert abs(measured - slope) < 4 * error + 0.02 * abs(slope)
    flat = repetitions(pair, length, np.array([shared + own]), np.array([shared / (shared + own)]))
    assert abs(slopes[0] - float(flat.same_row[0])) > 0.1  # frequent tokens saturate
