"""Interpolation at Chebyshev points of the first kind on [-1, 1]: nodes, coefficients, values."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

Array = Any


@functools.lru_cache(maxsize=32)
def chebyshev_nodes(count: int) -> Array:
    """The zeros of the Chebyshev polynomial of degree `count`, in descending order; shape (count,)."""
    return np.cos(np.pi * (np.arange(count) + 0.5) / count)


@functools.lru_cache(maxsize=32)
def chebyshev_coefficients(count: int) -> Array:
    """Matrix, shape (count, count), that maps values at the nodes to the Chebyshev coefficients of their interpolant."""
    return np.linalg.inv(chebyshev_basis(chebyshev_nodes(count), count).T)


def chebyshev_basis(x: Array, count: int) -> Array:
    """The first `count` Chebyshev polynomials at `x`, clipped to [-1, 1]; shape (count, *x.shape)."""
    x = np.minimum(np.maximum(x, -1.0), 1.0)
    if x.size <= _FEW:
        few = np.array([_polynomials(value, count) for value in x.ravel().tolist()])
        return np.ascontiguousarray(few.reshape(-1, count).T).reshape(count, *x.shape)
    basis = np.empty((count, *x.shape))
    basis[0] = 1.0
    if count > 1:
        basis[1] = x
    twice = 2 * x
    for k in range(2, count):  # the recurrence costs a fifth of the cosines
        np.multiply(twice, basis[k - 1], out=basis[k, ...])
        basis[k] -= basis[k - 2]
    return basis


_FEW = 4
"""Points up to which the recurrence is quicker in plain floats."""


def _polynomials(x: float, count: int) -> list[float]:
    """The first `count` polynomials at a point."""
    values = [1.0, x][:count]
    for _ in range(count - 2):
        values.append(2 * x * values[-1] - values[-2])
    return values


def chebyshev_derivative(coefficients: Array, order: int = 1) -> Array:
    """Coefficients of the derivative of a series of Chebyshev polynomials, along the first axis: as many, the last zero."""
    for _ in range(order):
        found = np.zeros_like(coefficients)
        for k in range(len(coefficients) - 1, 0, -1):
            found[k - 1] = 2 * k * coefficients[k] + (found[k + 1] if k + 1 < len(coefficients) else 0)
        found[0] /= 2
        coefficients = found
    return coefficients


def chebyshev_weights(x: Array, count: int) -> Array:
    """Weights of the values at the nodes in their interpolant, evaluated at each `x`; shape (count, points).

    Computed by the discrete orthogonality of the polynomials over the nodes, without a matrix inverse.
    """
    basis = chebyshev_basis(x, count)
    basis[0] /= 2
    order = np.arange(count)
    return 2 / count * np.cos(order * np.pi * (order[:, None] + 0.5) / count) @ basis
