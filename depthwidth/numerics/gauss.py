"""Gauss quadrature: nodes and weights from the recurrence of the orthogonal polynomials of a symmetric density.

Rules of NumPy are in `numpy.polynomial`, whose import takes a fiftieth of the time of a command.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

Array = Any


@functools.lru_cache(maxsize=16)
def gauss_legendre(nodes: int) -> tuple[Array, Array]:
    """Nodes, ascending in [-1, 1], and weights of sum 2; shape (nodes,) both. Exact for polynomials of degree below 2 `nodes`.

    >>> x, weights = gauss_legendre(3)
    >>> float((weights * x**4).sum().round(12))
    0.4
    """
    k = np.arange(1, nodes + 1)
    x, weights = gauss_rule(k / np.sqrt(4.0 * k * k - 1))
    return x, 2 * weights


def gauss_rule(off_diagonal: Array) -> tuple[Array, Array]:
    """Nodes, ascending, and weights of sum 1 of the rule for a symmetric density.

    Parameters
    ----------
    off_diagonal : b_1 ... b_n of b_k p_k = x p_(k-1) - b_(k-1) p_(k-2) of the orthonormal polynomials; shape (n,).

    Notes
    -----
    Golub & Welsch 1969, https://doi.org/10.1090/S0025-5718-69-99647-1: nodes are the eigenvalues of the Jacobi matrix, here
    improved by a step of Newton's iteration; weights are inverse sums of squares of the polynomials.
    """
    inner = off_diagonal[:-1]
    x = np.linalg.eigvalsh(np.diag(inner, 1) + np.diag(inner, -1))
    values, slopes = _polynomials(x, off_diagonal)
    x = x - values[-1] / slopes[-1]
    x = (x - x[::-1]) / 2
    values, _ = _polynomials(x, off_diagonal)
    weights = 1 / (values[:-1] ** 2).sum(0)
    return x, weights / weights.sum()


def _polynomials(x: Array, off_diagonal: Array) -> tuple[Array, Array]:
    """The orthonormal polynomials p_0 ... p_n at `x`, and their derivatives; shape (n + 1, *x.shape) both."""
    values, slopes = np.zeros((2, off_diagonal.size + 1, *x.shape))
    values[0] = 1
    for k, b in enumerate(off_diagonal, start=1):
        values[k], slopes[k] = x * values[k - 1] / b, (values[k - 1] + x * slopes[k - 1]) / b
        if k > 1:
            values[k] -= off_diagonal[k - 2] / b * values[k - 2]
            slopes[k] -= off_diagonal[k - 2] / b * slopes[k - 2]
    return values, slopes
