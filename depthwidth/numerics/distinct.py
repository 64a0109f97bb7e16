"""Distinct values of an array."""

from __future__ import annotations

from typing import Any


def distinct(values: Any) -> Any:
    """The distinct values of an array of numbers, ascending, shape (n,).

    As `numpy.unique`, which imports `numpy.ma`: a twentieth of the time of a command.

    Examples
    --------
    >>> distinct([3, 1, 3]).tolist()
    [1, 3]
    """
    import numpy as np

    ordered = np.sort(values, axis=None)
    found: Any = ordered[np.append(True, ordered[1:] != ordered[:-1])[: ordered.size]]
    return found
