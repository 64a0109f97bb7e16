r"""Exact averages of a softmax over Gaussian logits to which a penalty linear in distance is added (ALiBi), by quadrature.

The logits are x_d - m d for distances d = 0 ... n - 1 with x_d ~ N(0, s2) independent. As in :mod:`.softmax` they
factorise under the integral of exp(-tZ). With t = e^u a penalty is a shift of u, so only sums of one function along a line are
needed:

.. math:: E \sum_d p_d^2 = \int \Big[\sum_d \frac{\psi_2}{\psi_0}(u - m d)\Big] \prod_d \psi_0(u - m d)\, du

The Euler-Maclaurin formula gives these sums for all n from an antiderivative, without assumptions about n or s2. The common
approximation is a plain softmax over 1 / sum a^2 entries, a the softmax of the penalties alone. It has errors of up to 27 % in
E sum p^2 and 51 % in the Jacobian (slope 0.84), and of less than 3 % for m < 1/64 and s2 <= 1.

Derivation: docs/derivations/alibi.md, (L1) to (L5) and (L9).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import softmax_grid as quad
from .chebyshev import chebyshev_basis, chebyshev_coefficients, chebyshev_nodes
from .distinct import distinct
from .interpolation import lagrange_weights
from .softmax import overlap
from .softmax_grid import head_norms

Array = Any

_DIRECT = 8  # number of distances summed directly; the formula gives the rest
_FORGOTTEN = 60.0  # penalty in nats beyond which probabilities are negligible
_FLATTEST = 1e-7  # slopes below it are treated as zero
_VARIANCES = 14  # Chebyshev nodes, as in softmax_responses
_NORM_NODES = 6
_NEIGHBORS = range(-2, 4)
"""Grid points used to interpolate at a point, relative to the grid point below it."""


class BiasedRow(NamedTuple):
    """Averages over the softmax of one row with a penalty linear in distance; each of shape (variances, lengths)."""

    P: Array
    """E sum p^2"""
    M3: Array
    """E sum p^3"""
    A22: Array
    """E sum over i != j of p_i^2 p_j^2"""
    T: Array
    """E ||diag p - p p'||^2"""
    entropy: Array
    """E of -sum p ln p, nats"""
    log_partition: Array
    """E ln Z, nats"""


def biased_overlap(variance: Any, slope: float, lengths: Sequence[int], entropy: bool = True) -> BiasedRow:
    r"""Averages of a softmax over x_d - m d, d from 0 to n - 1.

    Parameters
    ----------
    variance : s2 of the Gaussian part of each logit, nats^2; a number or a sequence. 0 <= s2 <= 1e4.
    slope : m, nats per position, 0 <= m <= 1, which includes all slopes of ALiBi.
    lengths : n, ascending whole numbers.
    entropy : compute the entropy; otherwise it is NaN.

    Returns
    -------
    :class:`BiasedRow`, each field of shape (variances, lengths).

    Notes
    -----
    The difference from a direct sum over all distances on a fine grid is below 1e-3, and mostly below 1e-5; see
    ``tests/signal/test_alibi_attention.py``.

    Examples
    --------
    >>> row = biased_overlap(1.0, 0.25, [256])
    >>> print(f"{row.P[0, 0]:.3f} {row.T[0, 0]:.3f}")
    0.204 0.112
    """
    variances = np.atleast_1d(np.asarray(variance, dtype=float))
    n = np.asarray(lengths, dtype=int)
    if slope < _FLATTEST:
        plain = overlap(variances[:, None], n[None, :], entropy=entropy)
        return BiasedRow(plain.P, plain.M3, plain.A22, plain.T, plain.entropy, plain.log_partition)
    return BiasedRow(*np.stack([_rows(float(s2), float(slope), n, entropy) for s2 in variances], axis=1))


def marginals(variance: float, slope: float, length: int) -> Array:
    """E p_d for distances d = 0 ... length - 1; shape (length,), sum 1.

    Random logits sometimes favour distant keys, so E p_d is flatter than the softmax of the penalties alone.
    """
    distance = np.arange(length)
    if slope < _FLATTEST:
        return np.full(length, 1 / length)
    if variance < 1e-9:
        plain = np.exp(-np.minimum(slope * distance, -quad.LEAST))
        return plain / plain.sum()
    grid = _Grid(variance, slope, length)
    # At large distances E p_d falls like exp(-m d), so its logarithm is interpolated.
    reach = min(length, math.ceil(_FORGOTTEN / slope))
    at = distinct(np.concatenate([np.arange(min(16, reach)), np.geomspace(1, reach, 80).astype(int) - 1, [reach - 1]]))
    product = grid.product(reach)
    tails = np.array([float(product @ grid.shifted(1, -slope * d)) for d in at])
    logs = np.log(np.maximum(tails, 1e-300)) + slope * at
    values = np.exp(np.maximum(np.interp(distance, at, logs) - slope * distance, quad.LEAST))
    return values / values.sum()


class _Grid:
    """The functions of u at one variance, and their sums over u, u - m, u - 2m, ..."""

    def __init__(self, variance: float, slope: float, longest: int) -> None:
        sigma, logarithm = math.sqrt(variance), math.log(longest)
        low = quad.BELOW + quad.DEVIATIONS * sigma + logarithm
        self.u = quad.STEP * np.arange(
            -math.ceil(low / quad.STEP), math.ceil((quad.ABOVE + quad.DEVIATIONS * sigma) / quad.STEP)
        )
        if variance > 1e-12:
            values = [v[0] for v in quad.average_kernels(self.u, quad.STEP, np.array([sigma]), (1, 2, 3, 4), logarithm)]
        else:
            t = np.exp(np.minimum(self.u, 6.0))
            values = [-np.expm1(-t), np.exp(-t), *(t**j * np.exp(-t) for j in (1, 2, 3, 4))]
        less, psi0, *psi = values
        logs = quad.log_psi(less, psi0)
        alive = logs > -300.0  # elsewhere the factor of a single key makes the product zero
        ratios = [np.where(alive, p / np.maximum(psi0, 1e-300), 0.0) for p in psi]
        self.f = np.stack([logs, *ratios, ratios[1] ** 2])
        self.slope = slope
        f, h = self.f, quad.STEP
        inner = (11 * (f[:, :-5] + f[:, 5:]) - 93 * (f[:, 1:-4] + f[:, 4:-1]) + 802 * (f[:, 2:-3] + f[:, 3:-2])) * (h / 1440)
        self.integral = np.zeros_like(f)
        self.integral[:, 3:-2] = np.cumsum(inner, axis=1)
        self.integral[:, -2:] = self.integral[:, -3:-2]
        self.first = np.zeros_like(f)
        self.first[:, 3:-3] = (f[:, 6:] - f[:, :-6] - 9 * (f[:, 5:-1] - f[:, 1:-5]) + 45 * (f[:, 4:-2] - f[:, 2:-4])) / (60 * h)
        self.third = np.gradient(np.gradient(self.first, h, axis=1), h, axis=1)
        self._ends = np.stack([self.integral, f, self.first, self.third])
        self._total_sums = sum(self._interpolate(f, d) for d in range(_DIRECT)) + self._tail_sums(_DIRECT)

    def _interpolate(self, values: Array, distance: float) -> Array:
        """`values` at u - m * `distance`, interpolated from six neighbours; zero below the grid."""
        place = self.slope * distance / quad.STEP
        whole = math.ceil(place)
        weights = lagrange_weights(_NEIGHBORS, whole - place)
        result = np.zeros_like(values)
        size = values.shape[-1]
        low, high = whole + 2, size - max(0, 3 - whole)  # the range in which all six neighbours are on the grid
        if low < high:
            for k, weight in zip(_NEIGHBORS, weights, strict=True):
                result[..., low:high] += weight * values[..., low - whole + k : high - whole + k]
        return result

    def shifted(self, which: int, by: float) -> Array:
        """Function number `which` at u + `by`."""
        return self._interpolate(self.f[which], -by / self.slope)

    def sums(self, n: int) -> Array:
        """Sums of each function over the distances 0 to n - 1; shape (functions, u)."""
        if n <= _DIRECT:
            return sum(self._interpolate(self.f, d) for d in range(n))
        return self._total_sums - self._tail_sums(n)

    def _tail_sums(self, n: int) -> Array:
        """The sums over distances from n on, by the Euler-Maclaurin formula."""
        m = self.slope
        area, f, first, third = self._interpolate(self._ends, n)
        return area / m + f / 2 + (m / 12) * first - (m**3 / 720) * third

    def weights(self, sums: Array) -> Array:
        """The product of all psi_0 times the step; zero at the last points of the grid, which are inaccurate."""
        product = np.exp(np.clip(sums[0], quad.LEAST, 0.0)) * quad.STEP
        product[-4:] = 0
        return product

    def product(self, n: int) -> Array:
        return self.weights(self.sums(n))


def _rows(variance: float, slope: float, lengths: Array, with_entropy: bool) -> Array:
    """The fields of :class:`BiasedRow`; (fields, lengths)."""
    grid = _Grid(variance, slope, int(lengths[-1]))
    plain = -np.expm1(-np.exp(np.minimum(grid.u, 5.0)))
    distant = np.full(int(lengths[-1]), math.nan)
    if with_entropy:
        keys = marginals(variance, slope, int(lengths[-1]))
        distant = slope * np.cumsum(keys * np.arange(keys.size)) / np.cumsum(keys)
    found = np.empty((len(BiasedRow._fields), lengths.size))
    for i, n in enumerate(lengths):
        if n == 1:
            found[:, i] = (1, 1, 0, 0, 0, 0)
            continue
        sums = grid.sums(int(n))
        weights = grid.weights(sums)
        one = float(weights @ sums[1])  # 1, up to the error of the quadrature
        p, m3, m4 = (float(weights @ sums[k]) / (one * factor) for k, factor in ((2, 1), (3, 2), (4, 6)))
        a22 = float(weights @ (sums[2] ** 2 - sums[5])) / (6 * one)
        log_z = float((quad.STEP * (-np.expm1(np.maximum(sums[0][:-4], quad.LEAST)) - plain[:-4])).sum())
        entropy = log_z - variance * (1 - p) + distant[n - 1]
        found[:, i] = p, m3, a22, p - 2 * m3 + m4 + a22, entropy, log_z
    return found


class BiasedRows:
    """Tables of :func:`biased_overlap`, without entropy and ln Z, for variances up to `largest` and given row lengths.

    Parameters
    ----------
    largest : largest variance s2, nats^2.
    slope : m, nats per position.
    lengths : lengths of the rows, ascending.
    head_dim : d_h, for the average over the norm of a query in :meth:`average_over_norms`; None for infinite d_h.
    """

    def __init__(self, largest: float, slope: float, lengths: tuple[int, ...], head_dim: int | None) -> None:
        norms: tuple[Array, Array] = (np.ones(1), np.ones(1)) if head_dim is None else head_norms(head_dim, _NORM_NODES)
        self.scales, self.weights = norms
        self._top = math.log1p(largest * float(self.scales.max()))
        variances = np.expm1((chebyshev_nodes(_VARIANCES) + 1) / 2 * self._top)
        rows = np.stack(biased_overlap(variances, slope, lengths, entropy=False))[:4]
        logs = np.log(np.maximum(rows, 1e-300))  # the values span many orders of magnitude
        self._coefficients = np.einsum("kx,fxn->fkn", chebyshev_coefficients(_VARIANCES), logs)

    def row(self, variance: Array) -> BiasedRow:
        """Averages of the rows, each at its own variance, for queries of fixed norm; shape (lengths,)."""
        basis = chebyshev_basis(2 * np.log1p(variance) / self._top - 1, _VARIANCES)
        values = np.exp((self._coefficients * basis).sum(1))
        nothing = np.full(values.shape[1:], math.nan)
        return BiasedRow._make([*values, nothing, nothing])

    def average_over_norms(self, variance: Array) -> tuple[BiasedRow, Array]:
        """The same averaged over the norm of the query, and E[|q|^2/d_h T] / E[T]."""
        rows = [np.stack(self.row(variance * scale)) for scale in self.scales]
        mean: Array = sum(weight * row for weight, row in zip(self.weights, rows, strict=True))
        t = BiasedRow._fields.index("T")
        heavy = sum(w * s * row[t] for w, s, row in zip(self.weights, self.scales, rows, strict=True))
        return BiasedRow._make(mean), np.where(mean[t] > 0, heavy / np.where(mean[t] > 0, mean[t], 1.0), 1.0)


@functools.lru_cache(maxsize=64)
def biased_rows(largest: float, slope: float, lengths: tuple[int, ...], head_dim: int | None) -> BiasedRows:
    """The :class:`BiasedRows` for these arguments, cached."""
    return BiasedRows(largest, slope, lengths, head_dim)


SLOPE_NODES = 4
"""Number of slopes that represent those of any number of heads; the error of averages over heads is then below 3e-3."""


@functools.lru_cache(maxsize=64)
def slope_groups(slopes: tuple[float, ...], nodes: int = SLOPE_NODES) -> tuple[tuple[float, float], ...]:
    """Gauss quadrature of an average over heads: a few slopes and their weights, for smooth functions of ln m.

    Examples
    --------
    >>> slope_groups((0.25, 0.0625))
    ((0.25, 0.5), (0.0625, 0.5))
    >>> many = slope_groups(tuple(2 ** (-8 * (h + 1) / 64) for h in range(64)))
    >>> len(many), round(sum(share for _, share in many), 12)
    (4, 1.0)
    """
    slope, counts = np.unique(np.asarray(slopes, dtype=float), return_counts=True)
    shares = counts / counts.sum()
    if slope.size <= nodes:
        return tuple(zip(slope[::-1].tolist(), shares[::-1].tolist(), strict=True))
    x = np.log(slope)
    # The Lanczos iteration on the diagonal matrix of the logarithms gives a tridiagonal matrix with the nodes and weights.
    basis, alpha, beta = [np.sqrt(shares)], [], []
    for _ in range(nodes):
        v = x * basis[-1]
        alpha.append(float(v @ basis[-1]))
        for other in basis:
            v = v - (v @ other) * other
        for other in basis:  # orthogonalise twice, because of rounding errors
            v = v - (v @ other) * other
        beta.append(float(np.linalg.norm(v)))
        basis.append(v / beta[-1])
    values, vectors = np.linalg.eigh(np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1))
    return tuple(zip(np.exp(values)[::-1].tolist(), (vectors[0] ** 2)[::-1].tolist(), strict=True))


def concentration_of_heads(variance: Array, lengths: tuple[int, ...], slopes: tuple[float, ...]) -> tuple[Array, Array]:
    """E sum p^2 and entropy (nats), averaged over heads with given slopes.

    Parameters
    ----------
    variance : s2 of the Gaussian part of the logits, nats^2, shape (..., lengths). 0 <= s2 <= 1e4.
    lengths : lengths of the rows, ascending whole numbers.
    slopes : slopes of the heads, nats per position.

    Notes
    -----
    Interpolated over the variance with an error below 1e-4.

    Examples
    --------
    >>> squares, entropy = concentration_of_heads([1.0], (256,), (0.25,))
    >>> print(f"{squares[0]:.3f} {entropy[0]:.2f}")
    0.204 2.08
    """
    s2 = np.asarray(variance, dtype=float)
    octave = np.ceil(np.log2(np.maximum(s2, _NO_SCORES)))
    squares, entropy = np.empty(s2.shape), np.empty(s2.shape)
    for value in distinct(octave):
        coefficients = _heads_table(float(value), lengths, slopes)
        basis = chebyshev_basis(2 * (np.log2(np.maximum(s2, _NO_SCORES)) - value) + 1, _OCTAVE_NODES)
        basis = np.moveaxis(basis, 0, -1)
        here = octave == value
        for into, which in ((squares, coefficients[0]), (entropy, coefficients[1])):
            into[here] = (basis * which).sum(-1)[here]
    return squares, entropy


_OCTAVE_NODES = 4
_NO_SCORES = 2.0**-20


@functools.lru_cache(maxsize=32)
def _heads_table(octave: float, lengths: tuple[int, ...], slopes: tuple[float, ...]) -> Array:
    """Chebyshev coefficients of both averages over ln s2 in one octave; shape (2, lengths, nodes)."""
    variances = 2.0 ** (octave + (chebyshev_nodes(_OCTAVE_NODES) - 1) / 2)
    total = np.zeros((2, _OCTAVE_NODES, len(lengths)))
    for slope, share in slope_groups(slopes):
        rows = biased_overlap(variances, slope, lengths)
        total += share * np.stack([rows.P, rows.entropy])
    return np.einsum("kx,fxn->fnk", chebyshev_coefficients(_OCTAVE_NODES), total)
