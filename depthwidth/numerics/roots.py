"""Roots of functions of one variable, without SciPy, whose import takes longer than a whole ``depthwidth plan``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def bisect(function: Callable[[float], float], low: float, high: float) -> float:
    """The point at which an increasing function changes sign, by bisection to the last bit; the nearer end if it does not.

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
"""False position takes about ten; a function that is infinite at both ends is bisected at first, 53 steps a factor of 1e16."""
_CLOSE = 1e-14
"""Relative width of a bracket, and size of a value, at which a root counts as found: a few roundings."""


def false_position(function: Callable[[float], float], low: float, high: float) -> float | None:
    """The root of an increasing function, None if it has none between the ends, by the Illinois form of false position.

    Parameters
    ----------
    function : finite near its root; it may be infinite elsewhere, and the bracket is then halved.
    low, high : the ends of the bracket.

    Notes
    -----
    The root stays bracketed. On a nearly straight line a few steps suffice. A jump from a finite value to infinity that crosses
    zero is not a root.

    Examples
    --------
    >>> false_position(lambda x: math.exp(x) - 2, 0.0, 1.0)
    0.6931471805599453
    """
    below, above = function(low), function(high)
    if below > 0 or above < 0:
        return None
    kept = 0  # the end that stayed at the last step: its weight is halved if it stays again
    for _ in range(_STEPS):
        if high - low < _CLOSE * max(1.0, abs(high)):
            break
        finite = math.isfinite(below) and math.isfinite(above)
        middle = (low * above - high * below) / (above - below) if finite else (low + high) / 2
        value = function(middle)
        if abs(value) < _CLOSE:
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
    """The points between neighbours of an ascending grid at which a function of arrays changes sign, to the last bit.

    A zero at a grid point itself counts as a change. Shape (changes,).
    """
    import numpy as np

    with np.errstate(all="ignore"):
        signs = np.sign(function(grid))
        (changes,) = np.nonzero(signs[1:] != signs[:-1])
        low, high, left = grid[changes], grid[changes + 1], signs[changes]
        for _ in range(100):  # more than the bits of a float
            middle = (low + high) / 2
            same = np.sign(function(middle)) == left
            low, high = np.where(same, middle, low), np.where(same, high, middle)
    return high
