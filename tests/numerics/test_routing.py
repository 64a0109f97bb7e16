"""Shares of tokens that a router gives to experts: exact limits; the derivative by the scores against finite differences."""

import math

import numpy as np
import pytest

from depthwidth.errors import InputError
from depthwidth.numerics.routing import DRAWS, MOST_EXPERTS, routing, sparse_mixer_routing
from depthwidth.numerics.softmax import overlap, pair_overlap


def softmaxes(scores):
    shares = np.exp(scores)
    return shares / shares.sum(1, keepdims=True)


def test_with_all_experts_chosen_it_is_the_softmax(rng):
    """For k = n the averages equal those of the exact softmax integrals to four standard errors of the sample.

    The scatter of one pair of tokens is taken from other draws, and of the Jacobians diag(w) - w w' written out.
    """
    variance, correlation, experts = 1.5, 0.4, 16
    one, other = rng.standard_normal((2, 20_000, experts))
    w = softmaxes(math.sqrt(variance) * one)
    v = softmaxes(math.sqrt(variance) * (correlation * one + math.sqrt(1 - correlation**2) * other))
    scatter = {
        "overlap": (w * w).sum(1),
        "pair_overlap": (w * v).sum(1),
        "jacobian": (w**2).sum(1) - 2 * (w**3).sum(1) + (w**2).sum(1) ** 2,
        "pair_jacobian": (w * v).sum(1) - (w * v**2).sum(1) - (w**2 * v).sum(1) + (w * v).sum(1) ** 2,
    }
    error = {name: values.std() / math.sqrt(DRAWS / (2 * experts)) for name, values in scatter.items()}
    found, alone, pair = routing(variance, correlation, experts, experts), overlap(1.5, 16), pair_overlap(1.5, 0.4, 16)
    exact = {"overlap": alone.P, "pair_overlap": pair.P2, "jacobian": alone.T, "pair_jacobian": pair.T2}
    off = {name: (getattr(found, name) - exact[name]) / error[name] for name in exact}
    assert all(abs(z) < 4 for z in off.values()), off
    # Three per cent more variance is told apart, and so is a correlation of 0.45 for 0.4.
    assert abs(found.overlap - overlap(1.03 * variance, 16).P) > 4 * error["overlap"]
    assert abs(found.pair_overlap - pair_overlap(1.5, 0.45, 16).P2) > 4 * error["pair_overlap"]


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
    from depthwidth.numerics.routing import _weights

    scores, step = rng.standard_normal((6, 1)), 1e-6
    shares, weights = _weights(scores, 1.0, 3, renormalized)
    columns = [(_weights(scores + step * np.eye(6)[:, [j]], 1.0, 3, renormalized)[1] - weights)[:, 0] / step for j in range(6)]
    chosen = weights > 0
    rows = (shares**2 * (chosen * (1 - 2 * weights) + (weights**2).sum())).sum()
    assert math.isclose(rows, (np.array(columns) ** 2).sum(), rel_tol=1e-4)


@pytest.mark.parametrize("renormalized", [True, False])
def test_the_derivative_of_sigmoids_is_that_of_the_weights(rng, renormalized):
    """Of one draw, over three groups of two of which two are open; the averages take the same products."""
    from depthwidth.numerics.routing import _weights

    scores, step, rule = rng.standard_normal((6, 1)), 1e-6, (3, renormalized, True, (3, 2, 1))
    slopes, weights = _weights(scores, 1.0, *rule)
    columns = [(_weights(scores + step * np.eye(6)[:, [j]], 1.0, *rule)[1] - weights)[:, 0] / step for j in range(6)]
    chosen = weights > 0
    rows = chosen * (1 - 2 * weights) + (weights**2).sum() if renormalized else chosen
    assert chosen.sum() == 3
    assert math.isclose((slopes**2 * rows).sum(), (np.array(columns) ** 2).sum(), rel_tol=1e-4)


def test_sigmoids_of_no_variance_are_halves():
    """Each weight is one half, and its derivative by its own score a quarter; divided by their sum, 1/k and 1/(2k).

    Of k equal weights 1/k the Jacobian 1/(2k) (delta - 1/k) has the squared norm (k - 1)/(4 k^2).
    """
    divided, plain = routing(0.0, 0.0, 8, 2, True, True), routing(0.0, 0.0, 8, 2, False, True)
    assert (divided.overlap, plain.overlap) == pytest.approx((1 / 2, 2 / 4))
    assert (divided.jacobian, plain.jacobian) == pytest.approx(((2 - 1) / (4 * 4), 2 / 16))


def test_experts_of_few_groups_meet_more_often_or_less():
    """Experts of one open group of four: two unlike tokens share the group, and then its experts, by chance.

    With one expert and groups by their largest score the limit has no effect.
    """
    whole, limited = routing(0.0, 0.0, 16, 2), routing(0.0, 0.0, 16, 2, True, False, (4, 1, 1))
    assert limited.overlap == pytest.approx(whole.overlap)
    assert limited.pair_overlap == pytest.approx(1 / 16, rel=0.05)
    one, free = routing(1.0, 0.7, 16, 1, True, False, (4, 1, 1)), routing(1.0, 0.7, 16, 1)
    assert one == free
    two = routing(1.0, 0.7, 16, 1, True, False, (4, 1, 2))
    assert two.pair_overlap != free.pair_overlap


@pytest.mark.parametrize("given", [(-1.0, 0.0, 8, 2), (1.0, 1.5, 8, 2), (1.0, 0.0, 8, 9), (1.0, 0.0, 8, 0)])
def test_nonsense_gets_one_sentence(given):
    with pytest.raises(InputError, match="is out of range"):
        routing(*given)


@pytest.mark.parametrize("average", [lambda n: routing(1.0, 0.5, n, 2), lambda n: sparse_mixer_routing(1.0, 0.5, n, 0.01)])
def test_more_experts_than_memory_holds_are_refused(average):
    with pytest.raises(InputError, match="among 4,097 experts is not computed; at most 4,096 are supported"):
        average(MOST_EXPERTS + 1)
