"""The tables that components share are as close to what they tabulate as is stated beside their steps; coarser ones are not."""

import math

import numpy as np
import pytest
from passes import Given, start

from depthwidth.layers import Attention, MixtureOfExperts
from depthwidth.layers.activations import activation
from depthwidth.layers.feed_forward import FeedForward
from depthwidth.layers.feed_forward_moments import activation_tables, hidden_moments
from depthwidth.layers.rotary import Rotary, rotation_overlap
from depthwidth.numerics.routing import routing
from depthwidth.signal import Signal, TokenSignal
from depthwidth.signal.positions import Positions

MAPS = ("query", "key", "value", "out")


def weights(width, score_variance=1.0):
    """Variances 1/width of all four maps; the query's bring scores of unit inputs to this variance."""
    return Given(**{f"{name}_weight": (score_variance if name == "query" else 1.0) / width for name in MAPS})


def attention(head_dim=16, **choices):
    return Attention(32, 2, 2, head_dim, 16, bias=False, out_bias=False, **{"causal": False} | choices)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "error"), [("relu", 1e-5), ("tanh", 1e-5), ("gelu", 5e-5), ("silu", 5e-5)])
def test_moments_of_activations_between_two_variances(name, error):
    """In units of the moments of one token; a step twice as long errs eight times as much."""
    f, tables = activation(name), activation_tables(name, start(Given()).trace)
    worst = 0.0
    for variance in np.geomspace(0.1, 10, 23).tolist():
        for r in (-0.5, 0.2, 0.9):
            second, slope, _, pair, slope_pair, *_ = tables(variance, math.acos(r))
            size, slope_size = f.second_moment(variance), f.derivative_second_moment(variance)
            found = (second - size) / size, (pair - f.pair_moment(variance, r)) / size
            slopes = (slope - slope_size), (slope_pair - f.derivative_pair_moment(variance, r))
            worst = max(worst, *map(abs, found), *(abs(one) / slope_size for one in slopes))
    assert worst < error


@pytest.mark.slow
def test_moments_of_attention_between_two_variances_of_the_scores():
    """One trace, with tables for other inputs, compared with a separate trace for each input."""
    layer, given = attention(), weights(32)

    def ends(site, q):
        y, pull = layer.moments(Signal(q, 0.3 * q), site)
        g = pull(Signal(1.0, 0.2))
        return np.array([*y[:2], *g[:2]])

    shared = start(given)
    for q in np.geomspace(0.3, 3, 7).tolist():
        assert ends(shared, q) == pytest.approx(ends(start(given), q), rel=1e-4)


@pytest.mark.parametrize("r", [-0.7, 0.0, 0.3, 0.83])
def test_the_router_between_two_correlations(r):
    """The overlap of two tokens' mixtures in the forward pass, to the error of its sample."""
    mixture = MixtureOfExperts(FeedForward(32, 64, "relu", bias=False), 8, 2)
    given = Given(router_weight=1 / 32, up_weight=1 / 32, down_weight=1 / 64)
    y, _ = mixture.moments(Signal(1.0, r), start(given, finite_width=False))
    one, _ = mixture.expert.moments(Signal(1.0, r), start(given, finite_width=False))
    overlap, pair, *_ = routing(1.0, r, 8, 2, True)
    assert y.second_moment == pytest.approx(overlap * one.second_moment, rel=0.004)
    assert y.covariance == pytest.approx(pair * one.covariance, rel=0.004)


@pytest.mark.parametrize(("ratio", "alike"), [(1.049, True), (1.051, False)])
def test_tokens_of_nearly_one_variance_share_a_table(ratio, alike):
    """Below 5 % the moments are those at the geometric mean, off by less than 1e-4; beyond each pair has its own."""
    f, q = activation("gelu"), np.array([1.0, ratio])
    x = TokenSignal(q, 0.4 * np.sqrt(np.outer(q, q)), Positions.every(2))
    found = hidden_moments("gelu", x, None, math.inf, activation_tables("gelu", start(Given()).trace)).pair[0, 1]
    exact = f.pair_moment(1.0, 0.4, other_variance=ratio)
    assert found == pytest.approx(exact, rel=1e-4)
    assert (abs(found / exact - 1) > 1e-8) == alike


@pytest.mark.slow  # integrals over the norms of queries
@pytest.mark.parametrize(
    ("head_dim", "variance", "infinite"), [(64, 8.1, True), (64, 7.9, False), (63, 8.1, False), (65, 8.1, True)]
)
def test_large_heads_with_large_scores_count_as_infinite(head_dim, variance, infinite):
    """Then their dimension no longer matters: right to 1 %, as those of 10^6 dimensions show, which count as infinite too."""
    q = np.ones(3)
    x = TokenSignal(q, 0.3 * np.ones((3, 3)) + 0.7 * np.eye(3), Positions.every(3))

    def mixed(dim):
        y, _ = attention(dim).moments(x, start(weights(32, variance), length=3, positions=x.positions))
        return y.second_moment[2]

    assert (mixed(head_dim) == mixed(1024)) == infinite
    assert mixed(head_dim) == pytest.approx(mixed(1024), rel=0.01)


def test_scores_share_what_rotations_leave():
    """The covariance of two scores compared with the same layer without rotations; their variance is equal."""
    rows = []
    for position in (None, Rotary(base=100.0)):
        site = start(weights(32), length=12)
        attention(position=position).moments(Signal(1.0, 0.4), site)
        rows += [row for row in site.trace.records if row.role.endswith("scores") and row.direction == "forward"]
    plain, turned = rows
    left = rotation_overlap(Rotary(base=100.0), 16, 12, False)
    assert 0.1 < left < 0.9
    assert turned.second_moment == plain.second_moment
    assert turned.covariance == pytest.approx(left * plain.covariance, rel=1e-12)
