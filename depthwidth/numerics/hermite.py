"""Averages over a standard normal variable: Gauss-Hermite rules and orthonormal Hermite polynomials."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from .gauss import gauss_rule

Array = Any


@functools.lru_cache(maxsize=16)
def gauss_hermite(nodes: int) -> tuple[Array, Array]:
    """Nodes and weights for the standard normal density, each of shape (nodes,).

    The rule is exact for polynomials of degree below 2 * `nodes`.

    >>> z, weights = gauss_hermite(3)
    >>> float((weights * z**4).sum().round(12))
    3.0
    """
    return gauss_rule(np.sqrt(np.arange(1.0, nodes + 1)))


def hermite_polynomials(z: Array, terms: int) -> Array:
    """The first `terms` Hermite polynomials, orthonormal under the standard normal density; shape (terms, *z.shape)."""
    values = np.empty((terms, *z.shape))
    for n in range(terms):
        values[n] = 1.0 if n == 0 else z if n == 1 else (z * values[n - 1] - math.sqrt(n - 1) * values[n - 2]) / math.sqrt(n)
    return values
