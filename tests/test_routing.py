"""How a router shares tokens among experts: exact limits, and the derivative by the scores against finite differences."""

import math

import numpy as np
import pytest

from depthwidth.errors import InputError
from depthwidth.routing import routing
from depthwidth.softmax_integrals import overlap, pair_overlap


def test_with_all_experts_chosen_it_is_the_softmax():
    """Where k is n the averages are those of the softmax integrals, which are exact; the sample's error is about a per cent."""
    found = routing(1.5, 0.4, 16, 16)
    assert found.overlap == pytest.approx(overlap(1.5, 16).P, rel=0.02)
    assert found.jacobian == pytest.approx(overlap(1.5, 16).T, rel=0.02)
    pair = pair_overlap(1.5, 0.4, 16)
    assert found.pair_overlap == pytest.approx(pair.P2, rel=0.02)
    assert found.pair_jacobian == pytest.approx(pair.T2, rel=0.02)
    assert found.overlap != pytest.approx(overlap(1.0, 16).P, rel=0.02)  # another variance is told apart


@pytest.mark.parametrize(("experts", "top_k"), [(8, 2), (64, 8)])
def test_equal_scores_share_equally_and_unlike_tokens_meet_by_chance(experts, top_k):
    """Without score variance each chosen expert has weight 1/k; two unlike tokens share k^2/n experts on average."""
    found = routing(0.0, 0.0, experts, top_k)
    assert found.overlap == pytest.approx(1 / top_k)
    assert found.pair_overlap == pytest.approx(1 / experts, rel=0.05)


def test_one_expert_of_many_leaves_no_gradient_to_its_score():
    assert routing(1.0, 0.5, 8, 1).jacobian == pytest.approx(0, abs=1e-12)
    assert routing(1.0, 0.5, 8, 1).overlap == pytest.approx(1)


@pytest.mark.parametrize("renormalized", [True, False])
def test_the_derivative_is_that_of_the_weights(rng, renormalized):
    """Of one draw: the squared norm of the weights' derivative by the scores, by finite differences."""
    from depthwidth.routing import _weights

    scores, step = rng.standard_normal((1, 6)), 1e-6
    shares, weights = _weights(scores, 1.0, 3, renormalized)
    columns = [(_weights(scores + step * np.eye(6)[j], 1.0, 3, renormalized)[1] - weights)[0] / step for j in range(6)]
    chosen = weights > 0
    rows = (shares**2 * (chosen * (1 - 2 * weights) + (weights**2).sum())).sum()
    assert math.isclose(rows, (np.array(columns) ** 2).sum(), rel_tol=1e-4)


@pytest.mark.parametrize("given", [(-1.0, 0.0, 8, 2), (1.0, 1.5, 8, 2), (1.0, 0.0, 8, 9), (1.0, 0.0, 8, 0)])
def test_nonsense_gets_one_sentence(given):
    with pytest.raises(InputError, match="is out of range"):
        routing(*given)
