"""Interpolation at Chebyshev points of the first kind on [-1, 1]: nodes, coefficients, values."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

Array = Any


@functools.lru_cache(maxsize=32)
def chebyshev_nodes(count: int) -> Array:
    """The points at which the polynomial of degree `count` is 0, descending from 1 to -1; shape (count,)."""
    return np.cos(np.pi * (np.arange(count) + 0.5) / count)


@functools.lru_cache(maxsize=32)
def chebyshev_coefficients(count: int) -> Array:
    """The matrix, shape (count, count), that takes values at the nodes to the coefficients of the polynomial through them."""
    return np.linalg.inv(np.polynomial.chebyshev.chebvander(chebyshev_nodes(count), count - 1))


def chebyshev_basis(x: Array, count: int) -> Array:
    """The first `count` Chebyshev polynomials at `x`, which counts as -1 or 1 if it is beyond; shape (count, *x.shape)."""
    angle = np.arccos(np.minimum(np.maximum(x, -1.0), 1.0))
    return np.cos(np.arange(count).reshape(-1, *(1,) * angle.ndim) * angle)


def chebyshev_weights(x: Array, count: int) -> Array:
    """Weights of the values at the nodes in the polynomial through them, evaluated at each `x`; shape (count, points).

    By the discrete orthogonality of the polynomials over the nodes, without a matrix inverse.
    """
    basis = chebyshev_basis(x, count)
    basis[0] /= 2
    order = np.arange(count)
    return 2 / count * np.cos(order * np.pi * (order[:, None] + 0.5) / count) @ basis
