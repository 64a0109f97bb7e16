"""The routing of a sparse mixer, against its limits and numerical derivatives."""

import numpy as np
import pytest

from depthwidth.errors import InputError
from depthwidth.numerics.routing import _picks, routing, sparse_mixer_routing


def test_far_scores_give_two_experts_of_full_weight():
    apart = sparse_mixer_routing(1.0, 0.0, 8, 0.0)
    assert apart.overlap == pytest.approx(2)
    assert apart.pair_overlap == pytest.approx(4 / 8, abs=0.02)  # any two of each token's two experts
    assert apart.jacobian == pytest.approx(0, abs=1e-12)
    same = sparse_mixer_routing(1.0, 1.0, 8, 0.1)
    assert same.pair_overlap == same.overlap < 2


def test_a_wide_margin_is_a_softmax_over_all_that_are_left():
    """With every score near, the first weight is that of a top-1 router with a softmax over all experts."""
    scores = np.abs(np.random.default_rng(0).standard_normal((500, 6)))
    (expert, weight, _), (second, other, _) = _picks(scores, 0.5)
    shares = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    assert weight[:, 0] == pytest.approx(shares.max(1))
    rest = np.where(np.arange(6) == expert[:, None], 0, np.exp(scores))
    assert other[:, 0] == pytest.approx(rest.max(1) / rest.sum(1))
    assert (second != expert).all()
    assert sparse_mixer_routing(1.0, 0.3, 6, 0.5).overlap > routing(1.0, 0.3, 6, 1, renormalized=False).overlap


def test_the_derivative_is_that_of_the_weights(rng):
    scores, step = rng.standard_normal((40, 5)), 1e-6
    picks = _picks(scores, 0.2)
    for j in range(5):
        moved = _picks(scores + step * np.eye(5)[j], 0.2)
        for (expert, weight, slope), (there, after, _) in zip(picks, moved, strict=True):
            same = expert == there
            numerical = (after - weight)[:, 0] / step
            close = np.abs(numerical - slope[:, j]) < 1e-4
            assert close[same].mean() > 0.95  # where a score crosses the margin the weight jumps
    assert max(np.abs(slope).max() for *_, slope in picks) > 0.1


def test_arguments_outside_their_range():
    with pytest.raises(InputError, match="experts=1 is out of range"):
        sparse_mixer_routing(1.0, 0.0, 1, 0.01)
