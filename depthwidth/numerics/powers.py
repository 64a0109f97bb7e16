"""Powers of the elements of an array."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = Any


def powers_of(x: Array, count: int) -> Array:
    """The first `count` powers of x, from 1 on, by products; shape (count, *x.shape).

    Examples
    --------
    >>> powers_of(np.array([2.0, 3.0]), 3).tolist()
    [[1.0, 1.0], [2.0, 3.0], [4.0, 9.0]]
    """
    found = np.empty((count, *x.shape))
    found[0] = 1
    for k in range(1, count):
        np.multiply(found[k - 1], x, out=found[k])
    return found
