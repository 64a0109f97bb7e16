"""Smooth functions of one variable, tabulated once and read many times in plain floats."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Table:
    """Several functions on one interval as cubic splines over evenly spaced nodes.

    A recursion over a thousand layers asks for the same integrals at slowly moving arguments; reading them here costs a
    microsecond. The error falls with the fourth power of the number of nodes.
    """

    def __init__(self, functions: Callable[[Any], Any], low: float, high: float, nodes: int = 129) -> None:
        import numpy as np
        from scipy.interpolate import CubicSpline

        x = np.linspace(low, high, nodes)
        values = np.asarray(functions(x))  # one column for each function
        self._spline = CubicSpline(x, values)
        # From the highest power to the lowest, one tuple of coefficients for each interval and function.
        self._pieces = [[tuple(column) for column in piece.T.tolist()] for piece in self._spline.c.transpose(1, 0, 2)]
        self._low, self._step, self._last = low, (high - low) / (nodes - 1), nodes - 2

    def __call__(self, x: float) -> list[float]:
        """The value of each function at `x`."""
        place = (x - self._low) / self._step
        i = min(max(int(place), 0), self._last)
        t = x - self._low - i * self._step
        return [((a * t + b) * t + c) * t + d for a, b, c, d in self._pieces[i]]
