"""Roots found without SciPy agree with SciPy's, and say where there are none."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq

from depthwidth.numerics.roots import bisect, bisect_sign_changes, false_position

RISING = [
    (lambda x: math.exp(x) - 20.0, 0.0, 10.0),
    (lambda x: x**3 - 2.0, 0.0, 5.0),
    (lambda x: math.tanh(x - 1.25), -50.0, 60.0),
    (lambda x: math.log(x) + x, 1e-9, 10.0),
]


@pytest.mark.parametrize("case", range(len(RISING)))
def test_both_ways_find_the_root_that_scipy_finds(case):
    function, low, high = RISING[case]
    expected = brentq(function, low, high, xtol=1e-15, rtol=1e-14)
    assert bisect(function, low, high) == pytest.approx(expected, rel=1e-13)
    assert false_position(function, low, high) == pytest.approx(expected, rel=1e-12)


def test_an_end_is_the_answer_of_a_bisection_without_a_root():
    assert bisect(lambda x: x + 9, 1.0, 2.0) == 1.0
    assert bisect(lambda x: x - 9, 1.0, 2.0) == 2.0
    assert false_position(lambda x: x + 9, 1.0, 2.0) is None
    assert false_position(lambda x: x - 9, 1.0, 2.0) is None


def test_a_function_may_be_infinite_away_from_its_root():
    def walled(x):
        return -math.inf if x < 1 else math.inf if x > 3 else x - 2.5

    assert false_position(walled, 0.0, 100.0) == pytest.approx(2.5, rel=1e-13)


def test_a_jump_past_zero_to_infinity_is_no_root():
    assert false_position(lambda x: -math.inf if x < 1 else x, 0.0, 4.0) is None
    assert false_position(lambda x: math.inf if x > 1 else x - 4, 0.0, 4.0) is None


def test_sign_changes_of_an_array_function():
    grid = np.linspace(-4.0, 4.0, 81) + 0.013
    assert bisect_sign_changes(np.sin, grid) == pytest.approx([-math.pi, 0.0, math.pi], abs=1e-15)
    assert bisect_sign_changes(np.cosh, grid).size == 0
