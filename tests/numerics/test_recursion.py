"""Recursions of a thousand steps: equal to the plain loop, or refused."""

import math

import numpy as np
import pytest

from depthwidth.numerics import recursion
from depthwidth.numerics.recursion import linear_states, sampled_ends, sampled_states


def one_by_one(advance, start, times):
    states = [start]
    while len(states) < times:
        states.append(advance(states[-1]))
    return np.array(states)


def growing(state):
    """A stream whose branch falls with the correlation, and a variance that is the sum of squares: as those of a stack."""
    q, c, v = state
    return q + 0.7 + 0.2 * c / q, c + 0.7 * (c / q) ** 1.5 + 0.05, v + 4 * (q * 0.7 + 0.49) / 128


@pytest.mark.parametrize("times", [1, 2, 20, 34, 35, 36, 100, 1000, 5000])
def test_a_few_steps_stand_for_all(times):
    calls = []

    def counted(state, _):
        calls.append(state)
        return growing(state)

    found = sampled_states(counted, (1.0, 0.2, 0.0), times)
    assert found == pytest.approx(one_by_one(growing, (1.0, 0.2, 0.0), times), rel=2e-9)
    assert len(calls) <= times
    assert len(calls) <= 35 + 23 * math.log(max(times, 33) / 33)


def test_many_settings_each_after_its_own_number_of_steps():
    times = np.array([1, 1, 2, 30, 33, 34, 36, 36, 40, 100, 101, 999, 1000])
    start = np.array([np.ones(13), np.linspace(0, 0.9, 13), np.zeros(13)])
    ends, good = sampled_ends(lambda state, _: np.array(growing(state)), start, times)
    assert good.all()
    for column, steps in enumerate(times):
        assert ends[:, column] == pytest.approx(one_by_one(growing, tuple(start[:, column]), steps + 1)[-1], rel=2e-9)


def test_only_settings_that_change_too_fast_are_refused():
    """The second decays by a factor; the first does not, and the third ends before its increments are interpolated."""
    factor, times = np.array([1.0, 0.9, 0.9]), np.array([20, 1000, 1000])[[1, 1, 0]]
    order = np.argsort(times, kind="stable")
    _, good = sampled_ends(lambda state, _: factor[order] * state + 1.0, np.ones((1, 3)), times[order])
    assert good[np.argsort(order)].tolist() == [True, False, True]


def test_fewer_known_increments_err_more(monkeypatch):
    """A polynomial of degree 3 does not reach the stated error."""
    monkeypatch.setattr(recursion, "_KNOWN", 4)
    monkeypatch.setattr(recursion, "_TOLERANCE", 1e-3)
    recursion._gaps.cache_clear()
    found = sampled_states(lambda state, _: growing(state), (1.0, 0.2, 0.0), 1000)
    recursion._gaps.cache_clear()
    assert found != pytest.approx(one_by_one(growing, (1.0, 0.2, 0.0), 1000), rel=1e-7)


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_stream_that_decays_or_grows_by_a_factor_is_refused(factor):
    assert sampled_states(lambda s, _: (factor * s[0] + 1.0,), (1.0,), 1000) is None


def test_increments_that_wave_are_refused():
    """The waves are 1e-3 of an increment."""
    assert sampled_states(lambda s, _: (s[0] + 1 + 1e-3 * math.sin(s[1] / 8), s[1] + 1), (1.0, 0.0), 1000) is None


def test_a_state_that_overflows_is_refused():
    with np.errstate(all="ignore"):
        assert sampled_states(lambda s, _: (s[0] + s[0],), (1e300,), 1000) is None


@pytest.mark.parametrize("n", [0, 1, 2, 3, 8, 9, 10, 100])
def test_linear_states_are_those_of_the_loop(rng, n):
    maps, start = rng.standard_normal((n, 4, 4)) / 2, rng.standard_normal(4)
    states = [start]
    for each in maps:
        states.append(each @ states[-1])
    assert linear_states(maps, start) == pytest.approx(np.array(states), rel=1e-9, abs=1e-12)
