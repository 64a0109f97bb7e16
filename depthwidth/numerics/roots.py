"""Roots of functions of one variable. SciPy is not used, because its import takes longer than a whole ``depthwidth plan``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """The point at which an increasing function changes sign, by bisection to the last bit.

    If it does not change sign between `low` and `high`, the result is the end at which it is closer to zero.

    Examples
    --------
    >>> bisect(lambda x: x * x - 2, 0.0, 2.0)
    1.414213562373095
    >>> bisect(lambda x: x + 5, 0.0, 2.0)
    0.0
    """
    if function(low) >= 0:
        return low
    if function(high) <= 0:
        return high
    while True:
        middle = (low + high) / 2
        if not low < middle < high:
            return middle
        low, high = (middle, high) if function(middle) < 0 else (low, middle)


_STEPS = 200
"""Largest number of steps. False position needs about ten; a function that is infinite at both ends is bisected first, which
takes 53 steps per factor of 1e16."""
_CLOSE = 1e-14
"""Tolerance on the relative width of the bracket and on the value: a few rounding errors."""


def false_position(function: Callable[[float], float], low: float, high: float, close: float = _CLOSE) -> float | None:
    """The root of an increasing function in a bracket, by the Illinois variant of false position; None if there is none.

    Parameters
    ----------
    function : increasing, and finite near its root. It may be infinite elsewhere; the bracket is then halved.
    low, high : ends of the bracket.
    close : tolerance on the relative width of the bracket, and on the value.

    Notes
    -----
    The root always stays in the bracket. If the function is nearly linear, a few steps suffice. A jump across zero from a
    finite value to infinity is not a root.

    Examples
    --------
    >>> false_position(lambda x: math.exp(x) - 2, 0.0, 1.0)
    0.6931471805599453
    """
    below, above = function(low), function(high)
    if below > 0 or above < 0:
        return None
    kept = 0  # the end that the last step kept: -1 for high, 1 for low; its value is halved if the next step keeps it again
    for _ in range(_STEPS):
        if high - low < close * max(1.0, abs(high)):
            break
        finite = math.isfinite(below) and math.isfinite(above)
        middle = (low * above - high * below) / (above - below) if finite else (low + high) / 2
        value = function(middle)
        if abs(value) < close:
            return middle
        if value < 0:
            low, below = middle, value
            above = above / 2 if kept < 0 else above
            kept = -1
        else:
            high, above = middle, value
            below = below / 2 if kept > 0 else below
            kept = 1
    return high if math.isfinite(below) and math.isfinite(above) else None


def bisect_sign_changes(function: Callable[[Any], Any], grid: Any) -> Any:
    """Points, to the last bit, at which a function of arrays changes sign between neighbours of an ascending grid.

    A zero at a grid point counts as a change of sign. Shape (changes,).
    """
    import numpy as np

    with np.errstate(all="ignore"):
        signs = np.sign(function(grid))
        (changes,) = np.nonzero(signs[1:] != signs[:-1])
        low, high, left = grid[changes], grid[changes + 1], signs[changes]
        for _ in range(100):  # more steps than a float has bits
            middle = (low + high) / 2
            same = np.sign(function(middle)) == left
            low, high = np.where(same, middle, low), np.where(same, high, middle)
    return high
