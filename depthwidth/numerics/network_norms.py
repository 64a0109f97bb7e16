"""Norms, paths and margins of a network of matrices and ReLUs: the arguments of :mod:`depthwidth.formulas.capacity`.

A network is a list of matrices, the first one first, each of shape (outputs, inputs); biases are left out. Fold norms with
fixed statistics into the matrices first. All values are measures, computed in doubles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..values import frozen

Array = Any

TOLERANCE = 1e-6
"""Of :func:`spectral_norm`, relative: the distance within which there is a singular value."""
BLOCK = 8
"""Vectors iterated together, so that eight close singular values at the top do not slow the iteration down."""
MOST_STEPS = 500
"""Without convergence after them, the singular values of all but very large matrices are computed by LAPACK."""
LARGEST_DECOMPOSED = 2048
"""The smaller dimension up to which they are: the decomposition takes some ten seconds there."""
_MODERATE = (1e-100, 1e100)
"""Largest entries with which a matrix is not copied to be scaled."""


@frozen
class SpectralNorm:
    """The largest singular value found, a bound from below, and how far the iteration came."""

    value: float
    residual: float
    """Of the pair found, relative to the value: a singular value lies within it. 0 if LAPACK found the value."""
    steps: int
    converged: bool
    """True if the residual is below the tolerance. If not, the value is a lower bound of unknown distance."""


def matrix(value: Any, name: str = "matrix") -> Array:
    """`value` as a matrix of doubles.

    Raises
    ------
    InputError
        if it is not two-dimensional, is empty, or holds NaN or infinity.
    """
    try:
        found = np.asarray(value, dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is not an array of real numbers") from error
    if found.ndim != 2 or not found.size:
        raise InputError(f"{name} has shape {found.shape}, expected (outputs, inputs) with one entry at least")
    if not np.isfinite(found).all():
        raise InputError(f"{name} holds NaN or infinity")
    return found


def network(weights: Sequence[Any]) -> list[Array]:
    """The matrices of a network, each applied to the output of the one before.

    Raises
    ------
    InputError
        if there is none, if one is not a matrix, or if two neighbours do not fit.
    """
    found = [matrix(w, f"matrix {i}") for i, w in enumerate(weights)]
    if not found:
        raise InputError("a network needs one matrix at least")
    for i, (w, after) in enumerate(itertools.pairwise(found)):
        if after.shape[1] != w.shape[0]:
            raise InputError(f"matrix {i + 1} takes {after.shape[1]} features, but matrix {i} returns {w.shape[0]}")
    return found


def with_biases(weights: Sequence[Any], biases: Sequence[Any]) -> list[Array]:
    """The matrices of a network without biases that equals one with them on inputs with one more feature, which is 1.

    A matrix W with bias b becomes ``[[W, b], [0, 1]]``, and the last one ``[W, b]``: ReLU leaves the 1 as it is.

    Parameters
    ----------
    weights : the matrices, each (outputs, inputs).
    biases : (outputs,) for each; None for a matrix without one.

    Examples
    --------
    >>> with_biases([[[2.0]], [[3.0]]], [[0.5], None])
    [array([[2. , 0.5], [0. , 1. ]]), array([[3., 0.]])]
    """
    matrices, found = network(weights), []
    if len(biases) != len(matrices):
        raise InputError(f"there are {len(biases)} biases, expected one, or None, for each of {len(matrices)} matrices")
    for i, (w, bias) in enumerate(zip(matrices, biases, strict=True)):
        b = np.zeros(len(w)) if bias is None else np.asarray(bias, dtype=float)
        if b.shape != (len(w),) or not np.isfinite(b).all():
            raise InputError(f"bias {i} is not {len(w)} finite numbers")
        rows = [np.hstack([w, b[:, None]])]
        if i < len(matrices) - 1:
            rows.append(np.eye(1, w.shape[1] + 1, w.shape[1]))
        found.append(np.vstack(rows))
    return found


def spectral_norm(value: Any, tolerance: float = TOLERANCE, seed: int = 0) -> SpectralNorm:
    """Largest singular value by power iteration on a block of random vectors, with the best pair in their span (Rayleigh-Ritz).

    Parameters
    ----------
    value : shape (outputs, inputs).
    tolerance : relative; the iteration ends if the residual ``|W^T u - s v|``, with ``s u = W v``, is below it times s.
    seed : of the first vectors.

    Notes
    -----
    The value never exceeds the norm but by rounding. A small residual says that a singular value is within it; that this is the
    largest one rests on the random start. Its own error is of the order of the residual's square over the gap to the next
    singular values.

    Examples
    --------
    >>> round(spectral_norm([[1, -2], [3, 0.5]]).value, 5)
    3.16909
    """
    w = matrix(value)
    if not tolerance > 0:
        raise InputError(f"tolerance={tolerance} is not above 0")
    scale = float(np.abs(w).max())
    if scale == 0:
        return SpectralNorm(0.0, 0.0, 0, True)
    if not _MODERATE[0] < scale < _MODERATE[1]:
        w = w / scale  # so that squares neither overflow nor vanish
    else:
        scale = 1.0
    if w.shape[0] < w.shape[1]:
        w = w.T
    v = np.linalg.qr(np.random.default_rng(seed).standard_normal((w.shape[1], min(BLOCK, w.shape[1]))))[0]
    steps, residual, best = 0, math.inf, 0.0
    while residual > tolerance and steps < MOST_STEPS:
        steps += 1
        left, values, turn = np.linalg.svd(w @ v, full_matrices=False)
        back = w.T @ left
        best = float(values[0])
        residual = float(np.linalg.norm(back[:, 0] - best * (v @ turn[0]))) / best if best else math.inf
        v = np.linalg.qr(back)[0]
    if residual > tolerance and w.shape[1] <= LARGEST_DECOMPOSED:
        best, residual = float(np.linalg.svd(w, compute_uv=False)[0]), 0.0
    return SpectralNorm(scale * best, residual, steps, residual <= tolerance)


def group_norm(value: Any, p: float, q: float) -> float:
    """The L_{p,q} norm of a matrix: p-norm over the incoming weights of each unit (a row), q-norm over units.

    Examples
    --------
    >>> group_norm([[1, -2], [3, 0.5]], 1, math.inf)
    3.5
    """
    for name, order in (("p", p), ("q", q)):
        if not order >= 1:
            raise InputError(f"{name}={order} is not a norm's exponent, from 1 to infinity")
    return float(np.linalg.norm(np.linalg.norm(matrix(value), ord=p, axis=1), ord=q))


def path_sum(weights: Sequence[Any], power: float = 1) -> float:
    """Sum over all paths from an input to an output of the product of absolute weights to a power, by one forward pass.

    The input of ones goes through the network of absolute weights to that power, in which no ReLU is ever off. Power 1 is the
    l1-path norm; power 2 is the square of the l2-path norm.

    Examples
    --------
    >>> path_sum([[[1, -2], [3, 0.5]], [[1, -1], [2, 1]]]), path_sum([[[1, -2], [3, 0.5]], [[1, -1], [2, 1]]], 2)
    (16.0, 43.5)
    """
    if not 0 < power < math.inf:
        raise InputError(f"power={power} is not above 0 and finite")
    matrices = network(weights)
    x = np.ones(matrices[0].shape[1])
    for w in matrices:
        x = np.abs(w) ** power @ x
    return float(x.sum())


@frozen
class NetworkNorms:
    """The norms of a network that formulas of capacity take. Products and sums run over its matrices."""

    depth: int
    width: int
    """The largest dimension of a matrix, the network's input included: the bound on Gaussian noise needs that."""
    width_product: float
    """Of the outputs of all matrices, without the network's input."""
    weights: int
    spectral_product: float
    """Of the spectral norms themselves."""
    frobenius_product: float
    """Of the Frobenius norms themselves."""
    largest_row_product: float
    """Of the L_{1,inf} norms."""
    stable_ranks: float
    """Sum of ``F^2/s^2``."""
    row_group_sum: float
    """Sum of ``(sum of the norms of rows / s)^(2/3)``."""
    column_group_sum: float
    """Sum of ``(sum of the norms of columns / s)^(2/3)``."""
    l1_paths: float
    l2_paths: float
    converged: bool
    """True if every spectral norm is within its tolerance."""


def network_norms(weights: Sequence[Any], tolerance: float = TOLERANCE) -> NetworkNorms:
    """All norms of a network.

    Raises
    ------
    InputError
        if matrices do not fit, hold NaN, or one is zero: the network is then constant, and ratios of its norms have no value.
    """
    matrices = network(weights)
    spectral = [spectral_norm(w, tolerance) for w in matrices]
    s = [one.value for one in spectral]
    if not all(s):
        raise InputError(f"matrix {s.index(0.0)} is zero: the network is constant, and ratios of its norms have no value")
    frobenius = [float(np.linalg.norm(w)) for w in matrices]
    return NetworkNorms(
        depth=len(matrices),
        width=max(max(w.shape) for w in matrices),
        width_product=float(math.prod(w.shape[0] for w in matrices)),
        weights=sum(w.size for w in matrices),
        spectral_product=math.prod(s),
        frobenius_product=math.prod(frobenius),
        largest_row_product=math.prod(group_norm(w, 1, math.inf) for w in matrices),
        stable_ranks=sum((f / one) ** 2 for f, one in zip(frobenius, s, strict=True)),
        row_group_sum=sum((group_norm(w, 2, 1) / one) ** (2 / 3) for w, one in zip(matrices, s, strict=True)),
        column_group_sum=sum((group_norm(w.T, 2, 1) / one) ** (2 / 3) for w, one in zip(matrices, s, strict=True)),
        l1_paths=path_sum(matrices, 1),
        l2_paths=path_sum(matrices, 2),
        converged=all(one.converged for one in spectral),
    )


def margins(logits: Any, labels: Any) -> Array:
    """Margin of each point: the logit of its label minus the largest other one. Shape (points,).

    Parameters
    ----------
    logits : shape (points, classes), two classes at least.
    labels : whole numbers from 0 to classes - 1, shape (points,).

    Examples
    --------
    >>> margins([[3.0, 1.0], [0.5, 2.0]], [0, 0])
    array([ 2. , -1.5])
    """
    z, y = matrix(logits, "logits"), np.asarray(labels)
    if y.shape != (len(z),) or y.dtype.kind not in "iu":
        raise InputError(f"labels have shape {y.shape} and type {y.dtype}, expected {len(z)} whole numbers")
    if z.shape[1] < 2 or y.min() < 0 or y.max() >= z.shape[1]:
        raise InputError(f"labels run from {y.min()} to {y.max()}, expected 0 to {z.shape[1] - 1} of two classes or more")
    rows = np.arange(len(z))
    others = z.copy()
    others[rows, y] = -np.inf
    return z[rows, y] - others.max(axis=1)


def margin_loss(of_points: Any, margin: float) -> float:
    """Share of points whose margin is `margin` or less."""
    return float(np.mean(_points(of_points) <= margin))


def training_margin(of_points: Any, share: float = 0.05) -> float:
    """Percentile of the margins, interpolated: all but `share` of the points have a larger one.

    Examples
    --------
    >>> round(training_margin([3, 1, 0.2, 5, 2, 0.9, 4, 1.5, 2.5, 0.1]), 3)
    0.145
    """
    if not 0 <= share <= 1:
        raise InputError(f"share={share} is outside [0, 1]")
    return float(np.quantile(_points(of_points), share))


def counted_margin(of_points: Any, share: float = 0.1) -> float:
    """Margin that the large comparisons of measures divide by: absolute value of the floor(share m)-th smallest of m.

    Raises
    ------
    InputError
        if there are too few points for that share.

    Examples
    --------
    >>> counted_margin([3, 1, 0.2, 5, 2, 0.9, 4, 1.5, 2.5, 0.1], 0.2)
    0.2
    """
    points = _points(of_points)
    if not 0 <= share <= 1:
        raise InputError(f"share={share} is outside [0, 1]")
    number = math.floor(share * len(points) + 1e-9)  # 0.29 of 100 points are 29, in doubles a little fewer
    if not number:
        raise InputError(f"a share of {share} of {len(points)} points is less than one point")
    return abs(float(np.sort(points)[number - 1]))


def _points(of_points: Any) -> Array:
    found = np.asarray(of_points, dtype=float)
    if found.ndim != 1 or not found.size or not np.isfinite(found).all():
        raise InputError("margins are not a list of one finite number or more")
    return found
