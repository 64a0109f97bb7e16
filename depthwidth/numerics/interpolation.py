"""Tables of smooth functions of one or two variables, for floats or arrays."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from .distinct import distinct

ALL = slice(None)
"""All functions of a table."""


class Table:
    """Cubic splines of several functions on one interval, with evenly spaced nodes.

    A recursion over a thousand layers needs the same integrals at slowly changing arguments; a look-up takes a microsecond. The
    error falls with the fourth power of the number of nodes.

    Parameters
    ----------
    functions : maps an array of n points to the values of m functions, shape (n, m).
    low, high : ends of the interval.
    nodes : number of nodes.
    """

    def __init__(self, functions: Callable[[Any], Any], low: float, high: float, nodes: int = 129) -> None:
        import numpy as np

        x = np.linspace(low, high, nodes)
        coefficients = spline(x, np.asarray(functions(x)))  # one column per function
        # Intervals last: a look-up of many points then copies runs of numbers.
        self._coefficients = np.ascontiguousarray(coefficients.transpose(0, 2, 1))
        # The coefficients of each interval and function, from the highest power to the lowest.
        self._pieces: list[list[list[float]]] = coefficients.transpose(1, 2, 0).tolist()
        self._low, self._step, self._last = low, (high - low) / (nodes - 1), nodes - 2

    @property
    def pieces(self) -> tuple[list[list[list[float]]], float, float, int]:
        """Coefficients of every interval and function, the lower end, the length of an interval, the index of the last one."""
        return self._pieces, self._low, self._step, self._last

    def __call__(self, x: float, functions: slice = ALL) -> list[float]:
        """The value of each function at `x`, or of some."""
        place = (x - self._low) / self._step
        i = min(max(int(place), 0), self._last)
        t = x - self._low - i * self._step
        return [((a * t + b) * t + c) * t + d for a, b, c, d in self._pieces[i][functions]]

    def of_array(self, x: Any, functions: slice = ALL) -> Any:
        """The values at an array `x` of any shape, of some functions if not of all; shape (functions, *x.shape)."""
        return self.at_places(self.places(x), functions)

    def places(self, x: Any) -> tuple[Any, Any]:
        """The interval of each element of an array, and the distance from its lower end; alike for tables of one interval."""
        import numpy as np

        offset = x - self._low
        i = np.minimum(np.maximum((offset / self._step).astype(np.intp), 0), self._last)
        return i, offset - i * self._step

    def at_places(self, places: tuple[Any, Any], functions: slice = ALL) -> Any:
        """:meth:`of_array` at the result of :meth:`places`."""
        i, t = places
        values, *others = self._coefficients[..., functions, :].take(i, axis=-1)
        for coefficient in others:
            values *= t
            values += coefficient
        return values


class _Row(Table):
    """Several tables of the same nodes: values have an axis over the tables before that of the functions."""

    def __init__(self, tables: Sequence[Table]) -> None:
        import numpy as np

        self._coefficients = np.stack([table._coefficients for table in tables], axis=1)
        self._low, self._step, self._last = tables[0]._low, tables[0]._step, tables[0]._last


class PlaneTable:
    """Several functions of two variables: cubic splines over the first, Chebyshev polynomials over the second, in [0, 1].

    Parameters
    ----------
    functions : maps two arrays of n points to the values of m functions, shape (n, m).
    low, high : ends of the interval of the first variable.
    nodes, orders : number of nodes of the two variables.
    """

    def __init__(self, functions: Callable[[Any, Any], Any], low: float, high: float, nodes: int = 65, orders: int = 9) -> None:
        import numpy as np

        from .chebyshev import chebyshev_coefficients

        x, *points = _plane(low, high, nodes, orders)
        values = np.asarray(functions(*points)).reshape(nodes, orders, -1)
        along = chebyshev_coefficients(orders) @ values
        # For each interval, rows of one order and columns of one function and one power of the distance.
        pieces = spline(x, along.reshape(nodes, -1)).reshape(4, nodes - 1, orders, -1).transpose(1, 2, 3, 0)
        self._pieces = list(np.ascontiguousarray(pieces).reshape(nodes - 1, orders, -1))
        self._low, self._step, self._orders = low, (high - low) / (nodes - 1), orders

    def __call__(self, x: float, y: float) -> list[float]:
        """The value of each function at `x` and `y`."""
        import numpy as np

        i = min(max(int((x - self._low) / self._step), 0), len(self._pieces) - 1)
        t = x - self._low - i * self._step
        s = 2 * y - 1
        twice, before, last = 2 * s, 1.0, s
        basis = [1.0, s]
        for _ in range(self._orders - 2):
            before, last = last, twice * last - before
            basis.append(last)
        parts = (np.array(basis) @ self._pieces[i]).tolist()
        return [
            ((parts[k] * t + parts[k + 1]) * t + parts[k + 2]) * t + parts[k + 3] for k in range(0, len(parts), 4)
        ]  # fmt: skip


@functools.lru_cache(maxsize=16)
def _plane(low: float, high: float, nodes: int, orders: int) -> tuple[Any, Any, Any]:
    """The nodes of the first variable of a :class:`PlaneTable`, and both at each of its points; not to be changed."""
    import numpy as np

    from .chebyshev import chebyshev_nodes

    x, y = np.linspace(low, high, nodes), (chebyshev_nodes(orders) + 1) / 2
    return x, np.repeat(x, orders), np.tile(y, nodes)


def spline(x: Any, values: Any) -> Any:
    """Coefficients of the cubic spline with "not a knot" ends through `values` at ascending `x`.

    Parameters
    ----------
    x : n nodes, at least 3; with 3 nodes the spline is a parabola.
    values : shape (n, m), one column per function.

    Returns
    -------
    Array of shape (4, n - 1, m): for each interval the coefficients of powers 3 to 0 of the distance to its lower end.

    Notes
    -----
    Equal to scipy.interpolate.CubicSpline (checked by a test), whose import would take half the time of a command.
    """
    import numpy as np

    steps = np.diff(x)
    h = steps[:, None]
    slope = np.diff(values, axis=0) / h
    m = _second_derivatives(steps.tobytes()) @ np.diff(slope, axis=0)
    return np.stack([np.diff(m, axis=0) / (6 * h), m[:-1] / 2, slope - h * (2 * m[:-1] + m[1:]) / 6, values[:-1]])


@functools.lru_cache(maxsize=16)
def _second_derivatives(steps: bytes) -> Any:
    """The matrix from the changes of slope at inner nodes to the second derivatives at all nodes; shape (n, n - 2).

    The slope is continuous at inner nodes, the third derivative at the second node and at the last but one. Tables of one kind
    share their nodes, and an equation solved again would take most of the time of a table.
    """
    import numpy as np

    h = np.frombuffer(steps)
    n = len(h) + 1
    if n == 3:
        return np.full((3, 1), 2 / h.sum())
    matrix = np.zeros((n, n))
    inner = np.arange(1, n - 1)
    matrix[inner, inner - 1], matrix[inner, inner], matrix[inner, inner + 1] = h[:-1], 2 * (h[:-1] + h[1:]), h[1:]
    matrix[0, :3] = -h[1], h[0] + h[1], -h[0]
    matrix[-1, -3:] = -h[-1], h[-2] + h[-1], -h[-2]
    return np.linalg.solve(matrix, 6 * np.eye(n)[:, 1:-1])


def spline_values(x: Any, values: Any, at: Any) -> Any:
    """The :func:`spline` through `values` at `x`, evaluated at each of `at`: shape (len(at), m)."""
    import numpy as np

    coefficients = spline(x, values)
    interval = np.clip(np.searchsorted(x, at, side="right") - 1, 0, len(x) - 2)
    found = np.empty((len(at), values.shape[1]))
    for i in distinct(interval):  # one small matrix product per interval
        inside = interval == i
        found[inside] = np.vander(at[inside] - x[i], 4) @ coefficients[:, i]
    return found


_EXACT_TABLES = 3


class TableFamily:
    """Tables for different values of a positive parameter, interpolated over its logarithm.

    Tables are made when first needed. The first few distinct values of the parameter get a table of their own; after a norm
    there are no others. Further values are interpolated from the three nearest points of a grid of the logarithm.

    Parameters
    ----------
    make : makes the table for a parameter.
    step : spacing of the grid of the logarithm; the error falls with its third power.
    same : relative difference below which two parameters share a table.
    """

    def __init__(self, make: Callable[[float], Table], step: float, same: float = 1e-6) -> None:
        self._make, self._step, self._same = make, step, same
        self._exact: list[tuple[float, Table]] = []
        self._grid: dict[int, Table] = {}
        self._rows: dict[int, Table] = {}

    def __call__(self, parameter: Any, x: Any, functions: slice = ALL) -> Any:
        """The values of some or all functions at `parameter` and `x`, floats or arrays that broadcast; an array comes first."""
        if isinstance(parameter, float) and isinstance(x, float):
            exact = self._exact_table(parameter)
            if exact is not None:
                return exact(x, functions)
            neighbours = self._neighbours(math.log(parameter))
            columns = [[weight * value for value in self._grid_table(k)(x, functions)] for k, weight in neighbours]
            return [sum(each) for each in zip(*columns, strict=True)]
        import numpy as np

        parameter = np.asarray(parameter, dtype=float)
        values_of = _look_up(x, functions, parameter.ndim)
        found = self._from_exact_tables(parameter, values_of)
        if found is None:
            return self._from_grid(parameter, x, functions)
        shape = np.broadcast_shapes(parameter.shape, np.shape(x))
        return found if found.shape[1:] == shape else np.broadcast_to(found, (len(found), *shape))

    def _from_exact_tables(self, parameters: Any, values_of: Callable[[Table], Any]) -> Any:
        """The values from tables for exactly these parameters; None without room for one for each."""
        import numpy as np

        first = float(parameters.flat[0])
        if parameters.size == 1:  # of one block
            exact = self._exact_table(first)
            return None if exact is None else values_of(exact)
        if len(self._exact) == _EXACT_TABLES and self._exact_table(first) is None:
            return None
        total: Any = None
        for value, where in _groups(parameters, self._same):
            exact = self._exact_table(value)
            if exact is None:
                return None
            found = values_of(exact)
            total = found if total is None else np.where(where, found, total)
        return total

    def _from_grid(self, parameters: Any, x: Any, functions: slice) -> Any:
        """The values by interpolation between the tables of the grid."""
        import numpy as np

        position = np.log(parameters) / self._step
        middle = np.rint(position).astype(int)
        weights = np.array(_weights(position - middle))
        first = int(middle.min())
        if first == middle.max():  # which holds for nearly all signals
            if isinstance(x, float):
                columns = np.array([self._grid_table(first + shift)(x, functions) for shift in (-1, 0, 1)])
                return (columns.T @ weights.reshape(3, -1)).reshape(-1, *parameters.shape)
            axes = max(parameters.ndim, x.ndim)
            found = self._three_tables(first).of_array(x, functions).reshape(3, -1, *(1,) * (axes - x.ndim), *x.shape)
            return (weights.reshape(3, 1, *(1,) * (axes - parameters.ndim), *parameters.shape) * found).sum(0)
        values_of, total = _look_up(x, functions, parameters.ndim), 0.0
        for shift, weight in zip((-1, 0, 1), weights, strict=True):
            for k in distinct(middle).tolist():
                total = total + np.where(middle == k, weight, 0.0) * values_of(self._grid_table(k + shift))
        return total

    def _three_tables(self, middle: int) -> Table:
        """The tables of the grid around a point of it, as one table."""
        if middle not in self._rows:
            self._rows[middle] = _Row([self._grid_table(middle + shift) for shift in (-1, 0, 1)])
        return self._rows[middle]

    def _exact_table(self, parameter: float) -> Table | None:
        """The table for exactly this parameter, made if there is room for one more; otherwise None."""
        for known, table in self._exact:
            if abs(known - parameter) <= self._same * parameter:
                return table
        if len(self._exact) == _EXACT_TABLES:
            return None
        self._exact.append((parameter, self._make(parameter)))
        return self._exact[-1][1]

    def _neighbours(self, log: float) -> list[tuple[int, float]]:
        """The three nearest grid points and their interpolation weights."""
        middle = round(log / self._step)
        below, at, above = _weights(log / self._step - middle)
        return [(middle - 1, below), (middle, at), (middle + 1, above)]

    def _grid_table(self, k: int) -> Table:
        if k not in self._grid:
            self._grid[k] = self._make(math.exp(k * self._step))
        return self._grid[k]


def _look_up(x: Any, functions: slice, axes: int) -> Callable[[Table], Any]:
    """The map from a table to its values at `x`, for a parameter of so many axes.

    A number gives numbers. An array has the same places in all tables of one interval, which are looked up once.
    """
    import numpy as np

    if isinstance(x, float):
        return lambda table: np.reshape(table(x, functions), (-1, *(1,) * axes))
    places: list[Any] = []

    def values_of(table: Table) -> Any:
        if not places:
            places.append(table.places(x))
        return table.at_places(places[0], functions)

    return values_of


def lagrange_weights(nodes: Sequence[Any], at: Any) -> list[Any]:
    """Lagrange weights: the weight of the value at each node in the interpolating polynomial, evaluated at `at`.

    `nodes` and `at` are numbers, or arrays that broadcast against each other; each element is a separate problem.

    Examples
    --------
    >>> lagrange_weights([0.0, 1.0, 3.0], 1.0)
    [-0.0, 1.0, 0.0]
    """
    return [math.prod((at - other) / (node - other) for j, other in enumerate(nodes) if j != i) for i, node in enumerate(nodes)]


def _weights(t: Any) -> tuple[Any, Any, Any]:
    """Lagrange weights of the nodes -1, 0 and 1, in closed form because recursions over layers use them often."""
    square = t * t
    below = (square - t) / 2
    return below, 1 - square, below + t


def _groups(values: Any, same: float) -> list[tuple[float, Any]]:
    """The distinct values of an array, up to the relative difference `same`, each with a mask of its places.

    The list is empty if there are more than :data:`_EXACT_TABLES`.
    """
    import numpy as np

    groups: list[tuple[float, Any]] = []
    left = np.ones(values.shape, dtype=bool)
    while left.any():
        if len(groups) == _EXACT_TABLES:
            return []
        value = float(values[left][0])
        where = np.abs(values - value) <= same * value
        groups.append((value, where))
        if where.all():
            break
        left &= ~where
    return groups
