"""Sums over positions that are followed at a few nodes."""

import numpy as np
import pytest

from depthwidth.signal.positions import Positions


@pytest.mark.parametrize("length", [9, 50, 3000])
def test_sums_of_bent_weights_are_those_over_every_position(length):
    """By the powers between nodes, against the weights of all positions."""
    positions = Positions.smooth(length)
    until, since = positions.bent_sums
    place, rows = np.arange(1, length + 1), positions.nodes - 1
    for node in range(positions.count):
        bent = positions.bent_weights(node)
        assert until[node] == pytest.approx(np.cumsum(bent, axis=0)[rows], rel=1e-11, abs=1e-11)
        after = np.cumsum((bent / place[:, None])[::-1], axis=0)[::-1][rows]
        assert since[node] == pytest.approx(after, rel=1e-11, abs=1e-11)
    assert until[0][-1].sum() == pytest.approx(length, rel=1e-12)
