"""Smooth functions of one variable or two, tabulated once and read many times, in plain floats or arrays."""

from __future__ import annotations

import math
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

    def of_array(self, x: Any) -> Any:
        """The values at an array of any shape: an array for each function, along the first axis."""
        values = self._spline(x)
        return values.transpose(values.ndim - 1, *range(values.ndim - 1))


class TableFamily:
    """Tables at different values of a positive parameter, interpolated over its logarithm.

    A table is made when it is first needed: at the parameter itself while only one value has been asked for, and on a grid of
    the logarithm, of which three neighbours serve each value, from the second value on. The error falls with the third power
    of the `step`.
    """

    def __init__(self, make: Callable[[float], Table], step: float) -> None:
        self._make, self._step = make, step
        self._only: tuple[float, Table] | None = None
        self._grid: dict[int, Table] = {}

    def __call__(self, parameter: Any, x: Any) -> Any:
        """The functions' values at this parameter and `x`, both floats, or arrays that broadcast."""
        if isinstance(parameter, float) and isinstance(x, float):
            alone = self._alone(parameter)
            if alone is not None:
                return alone(x)
            near = self._near(math.log(parameter))
            columns = [[weight * value for value in self._at(k)(x)] for k, weight in near]
            return [sum(each) for each in zip(*columns, strict=True)]
        import numpy as np

        low, high = float(np.min(parameter)), float(np.max(parameter))
        alone = self._alone(high) if high - low <= 1e-9 * high else None
        if alone is not None:
            return alone.of_array(np.broadcast_arrays(parameter, x)[1])
        logs, x = np.broadcast_arrays(np.log(parameter), x)
        middle = np.rint(logs / self._step).astype(int)
        offset = logs / self._step - middle
        total: Any = 0.0
        for shift in (-1, 0, 1):
            weights = _weight(offset, shift)
            for k in np.unique(middle):
                total = total + np.where(middle == k, weights, 0.0) * self._at(int(k) + shift).of_array(x)
        return total

    def _alone(self, parameter: float) -> Table | None:
        if self._only is None:
            self._only = (parameter, self._make(parameter))
        known, table = self._only
        return table if abs(known - parameter) <= 1e-9 * abs(parameter) else None

    def _near(self, log: float) -> list[tuple[int, float]]:
        middle = round(log / self._step)
        return [(middle + shift, _weight(log / self._step - middle, shift)) for shift in (-1, 0, 1)]

    def _at(self, k: int) -> Table:
        if k not in self._grid:
            self._grid[k] = self._make(math.exp(k * self._step))
        return self._grid[k]


def _weight(t: Any, shift: int) -> Any:
    """Lagrange's weight of the node at `shift` of -1, 0, 1, at t from the middle one."""
    return (t * (t - 1) / 2, 1 - t * t, t * (t + 1) / 2)[shift + 1]
