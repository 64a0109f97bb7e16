r"""Integrals common to all exact averages of a softmax over Gaussian logits: averages of K_j, and the grid for their sums.

Let t = e^u and K_j(y) = e^{jy} exp(-e^y). Averages over a softmax of independent logits are integrals over u of products of
:math:`\psi_j(u) = E\, K_j(u + x)`, x a Gaussian logit.

Logits of equal distribution are in :mod:`depthwidth.numerics.softmax`, one logit with a different mean in
:mod:`depthwidth.numerics.retrieval`, and logits with ALiBi biases in :mod:`depthwidth.numerics.alibi_softmax`.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from .hermite import gauss_hermite, hermite_polynomials

Array = Any

HEAD_NODES = 32
"""Number of nodes of the average over the norm of a query."""

# Both the outer integral and the average over x are trapezoidal sums. Their integrands are analytic for |Im y| < pi/2, so the
# error with step h is about exp(-pi^2/h); the error from a Gaussian factor is about exp(-2 (pi sigma/h)^2).
STEP = 0.25
COARSEST = 0.75  # a step of this many standard deviations integrates a Gaussian to 1e-15
DEVIATIONS = 9.5
ABOVE = 3.75  # exp(-e^3.75) is 3e-19
BELOW = 36.0  # and e^-36 is 2e-16
LEAST = -700.0  # lower limit of exponents, to avoid underflow
_FEW = 4  # below this number of standard deviations, separate convolutions are faster
_LARGE = 500_000  # above this number of elements, separate convolutions are used to save memory
_NARROW_NODES = 24
_MOST_PARTS = 4  # a step divided into more parts costs more than a Gauss-Hermite rule


def average_kernels(u: Array, step: float, sigma: Array, orders: tuple[int, ...], longest: float = 0.0) -> list[Array]:
    """1 - psi_0, psi_0 and the psi_j of `orders`, each of shape (sigma, u).

    Parameters
    ----------
    u : evenly spaced points.
    step : their spacing.
    sigma : standard deviations of x, ascending, within one octave.
    orders : the j of the psi_j.
    longest : ln n of the longest row; for large n the average depends on the far upper tail of x.
    """
    narrowest, widest = sigma[0], sigma[-1]
    parts = math.ceil(step / (COARSEST * narrowest)) if narrowest else 0
    if 1 <= parts <= _MOST_PARTS:
        fine, below, weights = _fine_window(step, sigma, parts, longest)
        size = weights.shape[1]
        values = np.stack(kernels(u[0] + fine * (np.arange(parts * (u.size - 1) + size) - below), orders))
        if sigma.size < _FEW or size * u.size > _LARGE:
            return [np.stack([np.convolve(k, w[::-1], "valid")[::parts] for w in weights]) for k in values]
        windows = np.lib.stride_tricks.sliding_window_view(values, size, axis=1)[:, ::parts]
        return list(weights @ np.ascontiguousarray(windows).swapaxes(1, 2))
    # Narrow Gaussians: Gauss-Hermite nodes shared by all sigma, with weights for each sigma that are exact for polynomials.
    x, weights = _hermite_weights(widest, sigma)
    return [weights @ k for k in kernels(u + x[:, None], orders)]


def _fine_window(step: float, sigma: Array, parts: int, longest: float) -> tuple[float, int, Array]:
    """A step in so many parts, how many of them lie below the middle of a window, and weights over it; (sigma, window)."""
    widest, fine = sigma[-1], step / parts
    above = DEVIATIONS * widest + min(4 * widest**2, longest + widest**2 / 2)
    below = math.ceil(DEVIATIONS * widest / fine)
    x = fine * np.arange(-below, math.ceil(above / fine) + 1)
    weights = np.exp(np.maximum(-((x / sigma[:, None]) ** 2) / 2, LEAST))
    weights *= (fine / math.sqrt(2 * math.pi)) / sigma[:, None]
    return fine, below, weights


def average_kernels_around(
    u: Array, shifts: Array, step: float, sigma: Array, orders: tuple[int, ...], longest: float = 0.0
) -> list[Array]:
    """:func:`average_kernels` for one standard deviation at the points `u` moved by each shift, each of shape (shifts, u)."""
    parts = math.ceil(step / (COARSEST * sigma[0])) if sigma[0] else 0
    if 1 <= parts <= _MOST_PARTS:
        fine, below, weights = _fine_window(step, sigma, parts, longest)
        x = fine * (np.arange(parts * (u.size - 1) + weights.shape[1]) - below)
        values = np.stack(kernels(u[0] + shifts[:, None] + x, orders))
        windows = np.lib.stride_tricks.sliding_window_view(values, weights.shape[1], axis=-1)[..., ::parts, :]
        return list(np.ascontiguousarray(windows) @ weights[0])
    # Half of the nodes are right for polynomials of the same degree, for one deviation.
    z, weights = gauss_hermite(_NARROW_NODES // 2) if sigma[0] else (np.zeros(1), np.ones(1))
    x = sigma[0] * z
    around = kernels((u + shifts[:, None])[:, None] + x[:, None], orders)
    return [weights @ value for value in around]


def kernels(y: Array, orders: tuple[int, ...]) -> list[Array]:
    """1 - K_0, K_0 and the K_j of `orders` at `y`."""
    t = np.exp(np.minimum(y, 6.0))
    k0 = np.exp(-t)
    powers = {1: t * k0}
    for j in range(2, max(orders) + 1):
        powers[j] = powers[j - 1] * t
    return [-np.expm1(-t), k0, *(powers[j] for j in orders)]


def log_psi(less: Array, psi0: Array) -> Array:
    """The logarithm of psi_0, computed from `less` = 1 - psi_0 if that is below one half."""
    return np.where(less < 0.5, np.log1p(-np.minimum(less, 0.5)), np.log(np.maximum(psi0, 1e-300)))


def _hermite_weights(widest: float, sigma: Array) -> tuple[Array, Array]:
    """Nodes for N(0, widest^2), and weights for each sigma <= widest that are exact for polynomials of degree below 24."""
    z, weights, basis = _narrow_rule()
    if not widest:
        return z[:1] * 0, np.ones((sigma.size, 1))
    ratio = (sigma / widest) ** 2 - 1
    expected = np.zeros((sigma.size, _NARROW_NODES))  # expected orthonormal Hermite polynomials of z ~ N(0, ratio + 1)
    expected[:, 0] = 1
    for k in range(2, _NARROW_NODES, 2):
        expected[:, k] = expected[:, k - 2] * ratio * math.sqrt((k - 1) / k)
    return widest * z, expected @ basis * weights


@functools.lru_cache(maxsize=1)
def _narrow_rule() -> tuple[Array, Array, Array]:
    """Gauss-Hermite nodes and weights, and the orthonormal polynomials at the nodes."""
    z, weights = gauss_hermite(_NARROW_NODES)
    return z, weights, hermite_polynomials(z, _NARROW_NODES)


_FEW_DIMENSIONS = 4
_LOG_STEP = 0.2
"""At twice the step the averages move by less than 1e-7 of themselves."""


def _norms_by_logarithm(head_dim: int) -> tuple[Array, Array]:
    half = head_dim / 2
    y = np.arange(-80 / head_dim - 3, 6, _LOG_STEP)  # below, the density of y has fallen by e^-40
    logarithm = half * (y - np.exp(y) + math.log(half)) - math.lgamma(half)
    weights = np.exp(logarithm) / np.exp(logarithm).sum()
    seen = weights > 1e-18
    return np.exp(y[seen]), weights[seen]


@functools.lru_cache(maxsize=64)
def head_norms(head_dim: int, nodes: int = HEAD_NODES) -> tuple[Array, Array]:
    """Generalised Gauss-Laguerre nodes and weights of the average over chi^2/d_h with d_h degrees of freedom.

    Computed from the Jacobi matrix, because the Gamma functions in the textbook formula of the weights overflow. In up to four
    dimensions the norm is small so often that no polynomial follows the averages; there a trapezoidal sum over its logarithm,
    right to 1e-12, takes the place of the rule of 32 nodes, right to 1.5 % (d_h = 1, variance 100).
    """
    if head_dim <= _FEW_DIMENSIONS and nodes >= HEAD_NODES:
        return _norms_by_logarithm(head_dim)
    alpha = head_dim / 2 - 1
    index = np.arange(nodes)
    matrix = np.diag(2 * index + 1 + alpha)
    beside = np.sqrt(index[1:] * (index[1:] + alpha))
    values, vectors = np.linalg.eigh(matrix + np.diag(beside, 1) + np.diag(beside, -1))
    scales, weights = 2 * values / head_dim, vectors[0] ** 2
    seen = weights > 1e-18  # the weights of the outermost nodes are negligible
    return scales[seen], weights[seen]


def enough_nodes(head_dim: int) -> int:
    """The number of nodes with which averages over the norm of a query are as accurate as with :data:`HEAD_NODES`.

    Norms of many dimensions differ less: averages of :class:`~depthwidth.numerics.softmax.Overlap` move by less than 1e-12.
    """
    return HEAD_NODES if head_dim < _MANY_DIMENSIONS else HEAD_NODES // 2


_MANY_DIMENSIONS = 96


_PANEL_NODES = 10


@functools.lru_cache(maxsize=1)
def panel() -> tuple[Array, Array, Array]:
    """Gauss-Legendre nodes and weights on [0, 1], and the matrix that integrates from 0 to each node."""
    nodes, weights = np.polynomial.legendre.leggauss(_PANEL_NODES)
    legendre = np.polynomial.legendre
    to_coefficients = np.linalg.inv(legendre.legvander(nodes, _PANEL_NODES - 1))
    antiderivatives = [legendre.legint(row, lbnd=-1) for row in np.eye(_PANEL_NODES)]
    integrals = np.stack([legendre.legval(nodes, c) for c in antiderivatives], axis=1)
    return (nodes + 1) / 2, weights / 2, integrals @ to_coefficients / 2
