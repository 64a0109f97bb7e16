"""Smooth functions of one variable or two, tabulated once and read many times, in plain floats or arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any


class Table:
    """Several functions on one interval as cubic splines over evenly spaced nodes.

    A recursion over a thousand layers asks for the same integrals at slowly moving arguments; reading them here costs a
    microsecond. The error falls with the fourth power of the number of nodes.
    """

    def __init__(self, functions: Callable[[Any], Any], low: float, high: float, nodes: int = 129) -> None:
        import numpy as np

        x = np.linspace(low, high, nodes)
        self._coefficients = spline(x, np.asarray(functions(x)))  # one column for each function
        # From the highest power to the lowest, one tuple of coefficients for each interval and function.
        self._pieces = [[tuple(column) for column in piece.T.tolist()] for piece in self._coefficients.transpose(1, 0, 2)]
        self._low, self._step, self._last = low, (high - low) / (nodes - 1), nodes - 2

    @property
    def pieces(self) -> tuple[list[list[tuple[float, ...]]], float, float, int]:
        """Coefficients of every interval and function, the lower end, an interval's length, and the last interval's number."""
        return self._pieces, self._low, self._step, self._last

    def __call__(self, x: float) -> list[float]:
        """The value of each function at `x`."""
        place = (x - self._low) / self._step
        i = min(max(int(place), 0), self._last)
        t = x - self._low - i * self._step
        return [((a * t + b) * t + c) * t + d for a, b, c, d in self._pieces[i]]

    def of_array(self, x: Any) -> Any:
        """The values at an array of any shape: an array for each function, along the first axis."""
        import numpy as np

        i = np.clip(((x - self._low) / self._step).astype(int), 0, self._last)
        t = (x - self._low - i * self._step)[..., None]
        a, b, c, d = self._coefficients[:, i]
        values = ((a * t + b) * t + c) * t + d
        return np.moveaxis(values, -1, 0)


def spline(x: Any, values: Any) -> Any:
    """Coefficients of the cubic spline with "not a knot" ends through `values` at ascending `x`.

    Parameters
    ----------
    x : n nodes, 3 or more; through 3 it is a parabola.
    values : shape (n, m), a column for each of m functions.

    Returns
    -------
    Array of shape (4, n - 1, m): in each interval, from the third power of the distance to its lower end down to the constant.

    Notes
    -----
    The same as scipy.interpolate.CubicSpline (a test compares), whose import would be half the time of a command.
    """
    import numpy as np

    h, n = np.diff(x), len(x)
    slope = np.diff(values, axis=0) / h[:, None]
    # Second derivatives m at the nodes: continuous slopes inside, one third derivative across the second and last but one.
    if n == 3:
        m = np.repeat(2 * np.diff(slope, axis=0) / (h[0] + h[1]), 3, axis=0)
        return _cubic(h[:, None], slope, m, values)
    matrix, right = np.zeros((n, n)), np.zeros_like(values)
    inner = np.arange(1, n - 1)
    matrix[inner, inner - 1], matrix[inner, inner], matrix[inner, inner + 1] = h[:-1], 2 * (h[:-1] + h[1:]), h[1:]
    right[1:-1] = 6 * np.diff(slope, axis=0)
    matrix[0, :3] = -h[1], h[0] + h[1], -h[0]
    matrix[-1, -3:] = -h[-1], h[-2] + h[-1], -h[-2]
    return _cubic(h[:, None], slope, np.linalg.solve(matrix, right), values)


def _cubic(h: Any, slope: Any, m: Any, values: Any) -> Any:
    import numpy as np

    return np.stack([np.diff(m, axis=0) / (6 * h), m[:-1] / 2, slope - h * (2 * m[:-1] + m[1:]) / 6, values[:-1]])


def spline_values(x: Any, values: Any, at: Any) -> Any:
    """The :func:`spline` through `values` at `x`, evaluated at each of `at`: shape (len(at), m)."""
    import numpy as np

    coefficients = spline(x, values)
    interval = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    found = np.empty((len(at), values.shape[1]))
    for i in np.unique(interval):  # one small matrix product each
        inside = interval == i
        found[inside] = np.vander(at[inside] - x[i], 4) @ coefficients[:, i]
    return found


_EXACT_TABLES = 3


class TableFamily:
    """Tables at different values of a positive parameter, interpolated over its logarithm.

    A table is made when it is first needed: at the parameter itself for the first few values asked for, which is all there are
    where a norm stands in front, and from then on at a grid of the logarithm, of which three neighbours serve each value. The
    error falls with the third power of the `step`. Parameters that differ by less than `same`, relatively, share a table.
    """

    def __init__(self, make: Callable[[float], Table], step: float, same: float = 1e-6) -> None:
        self._make, self._step, self._same = make, step, same
        self._exact: list[tuple[float, Table]] = []
        self._grid: dict[int, Table] = {}

    def __call__(self, parameter: Any, x: Any) -> Any:
        """The functions' values at this parameter and `x`, both floats, or arrays that broadcast."""
        if isinstance(parameter, float) and isinstance(x, float):
            exact = self._exactly(parameter)
            if exact is not None:
                return exact(x)
            near = self._near(math.log(parameter))
            columns = [[weight * value for value in self._at(k)(x)] for k, weight in near]
            return [sum(each) for each in zip(*columns, strict=True)]
        import numpy as np

        parameter, x = np.broadcast_arrays(parameter, x)
        total: Any = None
        for value, where in _groups(parameter, self._same):
            exact = self._exactly(value)
            if exact is None:
                break
            found = exact.of_array(x)
            total = found if total is None else np.where(where, found, total)
        else:
            if total is not None:
                return total
        position = np.log(parameter) / self._step
        middle = np.rint(position).astype(int)
        total = 0.0
        for shift in (-1, 0, 1):
            weights = _weight(position - middle, shift)
            for k in np.unique(middle):
                total = total + np.where(middle == k, weights, 0.0) * self._at(int(k) + shift).of_array(x)
        return total

    def _exactly(self, parameter: float) -> Table | None:
        """The table at this parameter itself, where there is one or may still be."""
        for known, table in self._exact:
            if abs(known - parameter) <= self._same * parameter:
                return table
        if len(self._exact) == _EXACT_TABLES:
            return None
        self._exact.append((parameter, self._make(parameter)))
        return self._exact[-1][1]

    def _near(self, log: float) -> list[tuple[int, float]]:
        middle = round(log / self._step)
        return [(middle + shift, _weight(log / self._step - middle, shift)) for shift in (-1, 0, 1)]

    def _at(self, k: int) -> Table:
        if k not in self._grid:
            self._grid[k] = self._make(math.exp(k * self._step))
        return self._grid[k]


def lagrange_weights(nodes: Sequence[Any], at: Any) -> list[Any]:
    """Weight of the value at each node in the polynomial through them all, evaluated at `at`.

    `nodes` and `at` are numbers, or arrays that broadcast against each other: one problem for each element.

    Examples
    --------
    >>> lagrange_weights([0.0, 1.0, 3.0], 1.0)
    [-0.0, 1.0, 0.0]
    """
    return [math.prod((at - other) / (node - other) for j, other in enumerate(nodes) if j != i) for i, node in enumerate(nodes)]


def _weight(t: Any, shift: int) -> Any:
    """The :func:`lagrange_weights` of nodes -1, 0, 1 in closed form, which recursions over layers ask for: that of `shift`."""
    return (t * (t - 1) / 2, 1 - t * t, t * (t + 1) / 2)[shift + 1]


def _groups(values: Any, same: float) -> list[tuple[float, Any]]:
    """The distinct values of an array to rounding, each with where it stands; none where they are more than a few."""
    import numpy as np

    groups: list[tuple[float, Any]] = []
    left = np.ones(values.shape, dtype=bool)
    while left.any():
        if len(groups) == _EXACT_TABLES:
            return []
        value = float(values[left][0])
        where = np.abs(values - value) <= same * value
        groups.append((value, where))
        left &= ~where
    return groups
