"""Sums over positions that are followed at a few nodes."""

import numpy as np
import pytest

from depthwidth.signal.positions import Positions, Windows


def by_every_position(queries, source, causal, window):
    """The sums of :class:`Windows` from the mask of all positions: (sums, common, askers, both, sums_beside, askers_beside)."""
    place, keys = np.arange(1, queries.length + 1)[:, None], np.arange(1, source.length + 1)
    seen = (keys <= place) & (keys > place - (window or source.length)) if causal else np.ones((place.size, keys.size), bool)
    rows, columns, size = seen[queries.nodes - 1] * 1.0, seen[:, source.nodes - 1] * 1.0, seen.sum(1)[:, None]
    both = np.einsum("tb,tc,tn->bcn", columns, columns, queries.weights / size**2)
    beside = [rows @ source.bent_weights(node) for node in range(source.count)]
    askers_beside = [columns.T @ (queries.bent_weights(node) / size) for node in range(queries.count)]
    common = (rows[:, None] * rows) @ source.weights
    return rows @ source.weights, common, columns.T @ (queries.weights / size), both, np.array(beside), np.array(askers_beside)


@pytest.mark.parametrize(
    ("length", "causal", "window"),
    [(50, True, None), (400, True, None), (50, True, 1), (50, True, 7), (400, True, 300), (50, False, None)],
)
def test_sums_over_windows_are_those_over_every_position(length, causal, window):
    """By the powers between nodes, against the weights of all positions."""
    positions = Positions.smooth(length)
    found = Windows(positions, positions, causal, window)
    expected = by_every_position(positions, positions, causal, window)
    got = found.sums, found.common, found.askers, found.both, found.sums_beside, found.askers_beside
    for one, other in zip(got, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-11, abs=1e-11)
    # Negative control: a window that is longer or shorter by one has other sums.
    wrong = by_every_position(positions, positions, True, (window or length) - 1 or 2)
    assert np.abs(found.sums - wrong[0]).max() > 0.1


@pytest.mark.parametrize(
    ("queries", "source"), [(Positions.smooth(60), Positions.smooth(30)), (Positions.one(40), Positions.one(9))]
)
def test_every_query_attends_to_every_key_of_another_sequence(queries, source):
    found = Windows(queries, source, False)
    expected = by_every_position(queries, source, False, None)
    got = found.sums, found.common, found.askers, found.both, found.sums_beside, found.askers_beside
    for one, other in zip(got, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-11, abs=1e-11)
