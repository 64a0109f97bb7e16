"""The share of equal tokens: rows of one token see more of them, and texts differ by it."""

import numpy as np
import pytest

from depthwidth.numerics.matches import match_variance
from depthwidth.signal import DrawSpread, Spread, TokenSignal
from depthwidth.signal.matches import Matches
from depthwidth.signal.positions import Alike, Distances, Positions
from depthwidth.signal.row_matches import OwnMatches, match_response
from depthwidth.signal.window_pairs import WindowPairs

MATCH = 0.06


def test_equal_rows_that_see_all_tokens_stay_equal():
    own = OwnMatches.of(MATCH, 48, 48, 2, 2)
    covariance, response = np.array([[0.1], [0.3]]), np.array([[0.4], [0.5]])
    of_row = np.array([0.5 / 0.3])  # the row's own, over its second moment
    changed = own.change(covariance, response, of_row, of_row, np.array([0.3]))
    assert changed[1] == pytest.approx(0, abs=1e-15)
    assert changed[0] < 0  # different rows lose more of their covariance than of their second moment
    assert abs(changed[0, 0]) < MATCH * 0.4 * 4 / 48


def test_what_equal_rows_gain_different_ones_lose():
    own = OwnMatches.of(MATCH, 6, 48, 1, 2)
    same = np.full((2, 1), 0.2)
    different, equal = own.change(same, 2 * same, np.array([0.5]), np.array([0.6]), np.array([1.0]))
    assert equal > 0.001
    assert (1 - MATCH) * different + MATCH * equal == pytest.approx(0, abs=1e-15)


def test_no_covariance_is_changed_to_exceed_the_second_moments():
    """A row of one key and a row of two, if their own tokens are equal, see the same token."""
    own = OwnMatches.of(MATCH, 1, 2, 1, 2)
    covariance, response = np.array([[0.1], [0.3]]), np.array([[0.4], [0.5]])
    free, bound = (own.change(covariance, response, np.zeros(1), np.zeros(1), np.array([whole])) for whole in (9.0, 0.3))
    assert free[1] > 0.1
    assert bound[1] == 0
    assert bound[0] == free[0]


def test_outputs_follow_the_covariance_of_keys_at_the_same_entropy():
    """With a share P of the weight on single keys an output is P q + (1 - P) times the mean covariance of two keys."""
    whole, gap, one = 1.0, 0.4, 0.15

    def output(share):
        return one * whole + (1 - one) * share * gap

    even = 0.07 * gap
    assert match_response(output(0.07), even, whole, gap) == pytest.approx((output(0.08) - output(0.07)) / 0.01)
    assert match_response(whole, whole, whole, gap) == 0


@pytest.mark.parametrize("positions", [Alike.of(48, MATCH), Positions.smooth(48, MATCH), WindowPairs.of(48, (8,), MATCH)])
def test_embeddings_of_texts_vary_by_the_share_of_equal_tokens(positions):
    q, c = positions.uniform(1.0, 0.1)
    c[1] = 0.8
    signal = TokenSignal(q, c, positions)
    texts, drawn = Spread.of_tokens(signal, 10**9), Spread.of_gaussian(signal, 10**9)
    expected = 0.7**2 * match_variance(MATCH, 48)
    added = texts.covariances - drawn.covariances
    assert added.min() == pytest.approx(expected, rel=1e-12)  # of the longest stretch
    assert positions.of_kinds == (added.max() < 1.01 * expected)  # a stretch of two tokens varies most
    assert all((one == other).all() for one, other in zip(texts[:4], drawn[:4], strict=True))


def test_tokens_of_one_kind_have_no_share_of_equal_ones():
    positions = Positions.smooth(48)
    signal = TokenSignal(*positions.uniform(1.0, 0.1), positions)
    assert (Spread.of_tokens(signal, 64).covariances == Spread.of_gaussian(signal, 64).covariances).all()


def test_slopes_of_the_share_count_with_its_part_of_the_variance():
    positions = Alike.of(48, MATCH)
    signal = TokenSignal(np.array([1.0]), np.array([[0.1], [0.8]]), positions)
    lines = np.array([0.5]), np.array([[0.6], [0.4]])
    draw = DrawSpread(4.0, 3.0, 2.0, matches=lambda: (np.array([0.3]), np.array([[0.2], [0.1]])))
    matches = Matches.of(signal, draw)
    for part in (1.0, 0.25):
        own, pairs = matches.mixed(lines, draw, matches.variance / part)
        assert own == pytest.approx(0.5 + part * (2.0 * 0.3 - 0.5), rel=1e-6)
        assert pairs.ravel() == pytest.approx([0.6 + part * (0.4 - 0.6), 0.4 + part * (0.2 - 0.4)], rel=1e-6)
    assert Matches.of(signal, draw._replace(matches=None)) is None


@pytest.mark.parametrize("positions", [Positions.smooth(48), Distances.back(48), WindowPairs.of(48, (8,)), Positions.every(5)])
def test_values_near_each_node_are_those_of_two_neighbours(positions):
    """Of a function of both positions that is nearly linear between neighbours."""
    one, two = positions.pairs(1 / (10.0 + positions.nodes))
    near = positions.near(one + two)
    if positions.dense:
        inverse = 1 / (10.0 + positions.nodes)
        assert near == pytest.approx(inverse + (inverse.sum() - inverse) / 4)
    else:
        assert near == pytest.approx(2 / (10 + positions.nodes), rel=0.05)
        assert near[0] > 2 * near[-1]
