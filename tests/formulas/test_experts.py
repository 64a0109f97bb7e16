"""Mixtures of experts: the gate's second moment against the exact average, and the router's gradient by simulation."""

import math

import numpy as np
import pytest

from depthwidth.formulas import experts
from depthwidth.layers.activations import activation
from depthwidth.numerics.routing import routing


@pytest.mark.parametrize("variance", [1e-3, 0.05, 0.5])
def test_the_gate_is_a_quarter_to_the_stated_error(variance):
    exact = float(activation("sigmoid").second_moment(variance))
    error = float(experts.sigmoid_gate_second_moment(variance)) / exact - 1
    assert error == pytest.approx(-variance / 4, rel=0.35)
    assert abs(error) < 0.25 * variance


def test_the_gate_is_too_small_where_its_scores_are_large():
    """The stated range is meant: at scores of variance 2 the approximation is a fifth too small."""
    assert 0.25 / float(activation("sigmoid").second_moment(2.0)) - 1 == pytest.approx(-0.215, abs=0.002)


def test_the_gradient_of_a_router_by_simulation(rng):
    """Eight experts of independent outputs, two of them chosen: the gradient at a score by the softmax's derivative."""
    d, experts_, top, variance, moment, draws = 16, 8, 2, 1.3, 0.6, 40_000
    scores = math.sqrt(variance) * rng.standard_normal((draws, experts_))
    outputs = math.sqrt(moment) * rng.standard_normal((draws, experts_, d))
    g = rng.standard_normal((draws, d))
    chosen = scores >= np.sort(scores, axis=1)[:, [-top]]
    p = np.where(chosen, np.exp(scores), 0.0)
    p /= p.sum(1, keepdims=True)
    by_weight = np.einsum("nd,ned->ne", g, outputs)
    by_score = p * (by_weight - (by_weight * p).sum(1, keepdims=True))
    squares = (by_score**2).mean(1)
    jacobian = routing(variance, 0.0, experts_, top).jacobian
    predicted = experts.router_gradient_gain(moment, jacobian, d, experts_)
    error = squares.std() / math.sqrt(draws) + 0.01 * predicted  # the sample's own error, of the table
    assert abs(squares.mean() - predicted) < 5 * error
    assert abs(squares.mean() - predicted * experts_ / 7) > 5 * error or abs(squares.mean() - 2 * predicted) > 5 * error
