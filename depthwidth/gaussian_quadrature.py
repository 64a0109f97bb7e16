r"""Expectations of any function of one variable under Gaussian input, and of its products over two correlated inputs.

One point: Gauss-Legendre panels that shrink towards the points where the function is not smooth and towards zero, where
activations bend, so that inputs a thousand times wider than the bend cost no digits. (A Gauss-Hermite rule needs a number of
nodes that grows with the variance, and converges slowly at any kink.)

Two points: with the Hermite coefficients :math:`\alpha_n(a) = E[f(\sqrt a\, z)\, he_n(z)]`, Mehler's formula gives
:math:`E f(x) f(y) = \sum_n \rho^n \alpha_n(a)\, \alpha_n(b)`. What the first N terms leave out is at most
:math:`|\rho|^N` times the root of the product of the remainders :math:`E f^2 - \sum \alpha_n^2`, so each result carries its
own proof. N is 64, then 192 and 768; where that leaves the bound above 2e-11 of the scale, the double integral is taken.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .errors import InputError

TERMS = (64, 192, 768)
EXTENT = 12.5
"""Standard deviations on either side; beyond, a Hermite function times the root of the density is below 1e-17."""
ACCURACY = 2e-11
_DEEPEST = 24
_ORDER = 16
_FINEST = 3
_BLOCK = 2_000_000
_ROWS = 60_000  # of a block that stays in the processor's cache

Array = Any


@functools.lru_cache(maxsize=8)
def _legendre(order: int) -> tuple[Array, Array]:
    nodes, weights = np.polynomial.legendre.leggauss(order)
    return (nodes + 1) / 2, weights / 2


def _fill(edges: Array, level: int) -> tuple[Array, Array]:
    """Nodes and weights on the panels between sorted edges (last axis), each halved `level` times."""
    nodes, weights = _legendre(_ORDER)
    parts = 2**level
    nodes = ((np.arange(parts)[:, None] + nodes) / parts).ravel()
    weights = np.tile(weights / parts, parts)
    low, width = edges[..., :-1, None], np.diff(edges)[..., None]
    shape = (*edges.shape[:-1], -1)
    return (low + width * nodes).reshape(shape), (width * weights).reshape(shape)


@functools.lru_cache(maxsize=12)
def _half_grid(level: int, depth: int, terms: int) -> tuple[Array, Array, Array, Array]:
    """Nodes of z > 0 for a function that bends only near 0, weights with the density, even and odd weighted polynomials."""
    edges = np.concatenate([[0.0], 2.0 ** np.arange(-depth, 1), np.arange(1.75, EXTENT, 0.75), [EXTENT]])
    z, weights = _fill(edges, level)
    weights = weights * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    basis = hermite(z, terms) * weights
    return z, weights, np.ascontiguousarray(basis[0::2].T), np.ascontiguousarray(basis[1::2].T)


def hermite(z: Array, terms: int) -> Array:
    """The first Hermite polynomials orthonormal under the standard normal density; shape (terms, *z.shape)."""
    values = np.empty((terms, *z.shape))
    for n in range(terms):
        values[n] = 1.0 if n == 0 else z if n == 1 else (z * values[n - 1] - math.sqrt(n - 1) * values[n - 2]) / math.sqrt(n)
    return values


def _graded(centres: Array, scale: Array, steps: int) -> Array:
    """Panel edges in units of the standard deviation: evenly spaced, and finer by halves towards each centre.

    `centres` has the features along its last axis; `scale` is the finest width, one for each problem.
    """
    even = np.arange(-EXTENT, EXTENT + 0.5)
    offsets = 2.0 ** np.arange(-1, steps)
    offsets = np.concatenate([-offsets[::-1], [0.0], offsets]) * np.asarray(scale)[..., None]
    around = (centres[..., :, None] + offsets[..., None, :]).reshape((*centres.shape[:-1], -1))
    edges = np.concatenate([np.broadcast_to(even, (*around.shape[:-1], even.size)), around], axis=-1)
    return np.sort(np.clip(edges, -EXTENT, EXTENT), axis=-1)


def _squared(values: Array, weights: Array) -> Array:
    with np.errstate(all="ignore"):
        return values * values @ weights if weights.ndim == 1 else (values * values * weights).sum(-1)


def _steps(scale: float) -> int:
    return max(1, math.ceil(math.log2(2 * EXTENT / scale)))


class GaussianFunction:
    """A function of one variable and its expectations under Gaussian input.

    Parameters
    ----------
    function : takes and returns an array; its interesting points lie near 0 or at `kinks`.
    kinks : where it or its derivative jumps.
    name : what error sentences call it.
    """

    def __init__(self, function: Callable[[Array], Array], kinks: tuple[float, ...] = (), name: str = "the function") -> None:
        self.function = function
        self.kinks = kinks
        self.name = name
        self._features = np.array(sorted({0.0, *kinks}))
        self._levels: dict[int, int] = {}

    # ---- one point ----

    def moments(self, variance: Array, mean: Array = 0.0) -> tuple[Array, Array]:
        """E f(x) and E f(x)^2 for arrays of variances and means of one shape.

        Raises
        ------
        InputError
            where f is not finite, grows so fast that the moment is not, or is too rough for 2e-11.
        """
        values, squares, _ = self._resolved(variance, mean, 0)
        return values, squares

    def _resolved(self, variance: Array, mean: Array, terms: int) -> tuple[Array, Array, Array]:
        """E f, E f^2 and the first Hermite coefficients, by a rule fine enough that halving its panels changes nothing."""
        root = np.sqrt(variance)
        if not np.any(mean) and self.kinks in ((), (0.0,)):
            octaves = np.unique(np.ceil(np.log2(root))).astype(int).tolist()
            return self._symmetric(root, max(map(self._level, octaves), default=0), terms)
        coarse = self._general(root, mean, 0, 0)
        for level in range(1, _FINEST + 1):
            fine = self._general(root, mean, level, terms)
            if self._agree(coarse, fine):
                return fine
            coarse = fine
        raise self._rough()

    def _level(self, octave: int) -> int:
        """How often panels must be halved for standard deviations up to 2^octave; found once and kept."""
        if octave not in self._levels:
            root = 2.0 ** (octave - np.array([0.0, 0.37]))
            coarse = self._symmetric(root, 0, 0)
            for level in range(_FINEST + 1):
                fine = self._symmetric(root, level + 1, 0)
                if self._agree(coarse, fine):
                    self._levels[octave] = level
                    break
                coarse = fine
            else:
                raise self._rough()
        return self._levels[octave]

    @staticmethod
    def _agree(coarse: tuple[Array, Array, Any], fine: tuple[Array, Array, Any]) -> bool:
        scale = fine[1]
        return bool(
            np.all(np.abs(coarse[1] - fine[1]) <= ACCURACY * scale)
            and np.all(np.abs(coarse[0] - fine[0]) <= ACCURACY * np.sqrt(scale))
        )

    def _rough(self) -> InputError:
        return InputError(f"{self.name} is too rough, or its moment does not exist: refining its integral does not settle it")

    def _at(self, x: Array) -> Array:
        with np.errstate(all="ignore"):
            values = np.asarray(self.function(x), dtype=float)
        if not np.isfinite(values).all():
            where = float(np.broadcast_to(x, values.shape)[~np.isfinite(values)].flat[0])
            raise InputError(f"{self.name} has no finite value at x = {where:.6g}, which Gaussian input reaches")
        return np.broadcast_to(values, x.shape)

    def _symmetric(self, root: Array, level: int, terms: int) -> tuple[Array, Array, Array]:
        depth = int(np.clip(np.ceil(np.log2(root.max())) + 2, 1, _DEEPEST)) if root.size else 1
        z, weights, even, odd = _half_grid(level, depth, terms)
        means, squares, coefficients = np.empty(root.size), np.empty(root.size), np.empty((terms, root.size))
        rows = max(1, _ROWS // z.size)
        for start in range(0, root.size, rows):
            part = slice(start, start + rows)
            x = root[part, None] * z
            above, below = self._at(x), self._at(-x)
            means[part] = (above + below) @ weights
            squares[part] = _squared(above, weights) + _squared(below, weights)
            if terms:
                coefficients[0::2, part] = ((above + below) @ even).T
                coefficients[1::2, part] = ((above - below) @ odd).T
            self._check_growth(root[part], 0 * root[part], squares[part])
        return means, squares, coefficients

    def _general(self, root: Array, mean: Array, level: int, terms: int) -> tuple[Array, Array, Array]:
        means, squares, coefficients = np.empty(root.size), np.empty(root.size), np.empty((terms, root.size))
        steps = _steps(1 / float(root.max())) if root.size else 1
        edges = _graded((self._features - mean[:, None]) / root[:, None], 1 / root, steps)
        rows = max(1, _BLOCK // (edges.shape[-1] * _ORDER * 2**level * max(1, terms)))
        for start in range(0, root.size, rows):
            part = slice(start, start + rows)
            z, weights = _fill(edges[part], level)
            weights = weights * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
            values = self._at(mean[part, None] + root[part, None] * z)
            means[part] = (values * weights).sum(-1)
            squares[part] = _squared(values, weights)
            if terms:
                coefficients[:, part] = (hermite(z, terms) * (values * weights)).sum(-1)
            self._check_growth(root[part], mean[part], squares[part])
        return means, squares, coefficients

    def _check_growth(self, root: Array, mean: Array, squares: Array) -> None:
        """Refuse a function whose square, under the density, is not spent at the ends of the range."""
        ends = self._at(np.stack([mean + EXTENT * root, mean - EXTENT * root]))
        with np.errstate(all="ignore"):
            heights = (ends**2).max(axis=0) * math.exp(-(EXTENT**2) / 2) * EXTENT
            spent = np.isfinite(squares) & (heights <= 1e-12 * squares)
        if not np.all(spent | (heights == 0)):
            raise InputError(f"{self.name} grows too fast: its second moment under this input is infinite or out of reach")

    # ---- two points ----

    def pair(self, variance: Array, other_variance: Array, correlation: Array, mean: Array) -> Array:
        """E f(x) f(y) for arrays of one shape (one axis); x and y have the same mean.

        Accurate to 2e-11 of the root of E f(x)^2 E f(y)^2.
        """
        total, left = np.empty(variance.size), np.arange(variance.size)
        for terms in TERMS:
            total[left], certain = self._mehler(variance[left], other_variance[left], correlation[left], mean[left], terms)
            left = left[~certain]
            if not left.size:
                break
        for i in left:
            total[i] = self._direct(variance[i], other_variance[i], correlation[i], mean[i])
        return total

    def _mehler(
        self, variance: Array, other_variance: Array, correlation: Array, mean: Array, terms: int
    ) -> tuple[Array, Array]:
        """The first terms of Mehler's sum, and where what they leave out is negligible."""
        points = np.stack([np.concatenate([variance, other_variance]), np.concatenate([mean, mean])])
        distinct, index = np.unique(points, axis=1, return_inverse=True)
        _, squares, coefficients = self._resolved(distinct[0], distinct[1], terms)
        remainders = np.maximum(squares - (coefficients**2).sum(0), 0.0)
        first, second = index.reshape(2, -1)
        scale = np.sqrt(squares[first]) * np.sqrt(squares[second])
        polyval = np.polynomial.polynomial.polyval
        with np.errstate(under="ignore"):
            left_out = np.abs(correlation) ** terms * np.sqrt(remainders[first]) * np.sqrt(remainders[second])
            if distinct.shape[1] == 1:  # one variance: a polynomial in the correlation
                total = polyval(correlation, coefficients[:, 0] ** 2)
            else:
                total = polyval(correlation, coefficients[:, first] * coefficients[:, second], tensor=False)
        same = (correlation == 1) & (first == second)
        return np.where(same, squares[first], total), same | (left_out <= ACCURACY * scale)

    def _direct(self, variance: float, other_variance: float, correlation: float, mean: float) -> float:
        coarse = self._double_integral(variance, other_variance, correlation, mean, 0)
        scale = math.sqrt(math.prod(self._resolved(np.array([v]), np.array([mean]), 0)[1].item()
                                    for v in (variance, other_variance)))  # fmt: skip
        for level in range(1, _FINEST):
            fine = self._double_integral(variance, other_variance, correlation, mean, level)
            if abs(fine - coarse) <= ACCURACY * scale:
                return fine
            coarse = fine
        raise self._rough()

    def _double_integral(self, variance: float, other_variance: float, correlation: float, mean: float, level: int) -> float:
        """The outer variable is x; given x, y is Gaussian about rho x with the spread sqrt(1 - rho^2)."""
        a, b = math.sqrt(variance), math.sqrt(other_variance)
        spread = math.sqrt((1 - correlation) * (1 + correlation))
        features = self._features - mean
        outer = features / a
        if correlation:
            outer = np.concatenate([outer, features / (b * correlation)])
        finest = 1 / max(a, b)
        if self.kinks and spread and correlation:
            finest = min(finest, spread / abs(correlation))  # the inner integral turns a jump into a step of this width
        z, weights = _fill(_graded(outer, np.float64(finest), _steps(finest)), level)
        weights = weights * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        keep = weights > 1e-30
        z, weights = z[keep], weights[keep]
        values = self._at(mean + a * z) * weights
        if spread == 0:
            return float(values @ self._at(mean + correlation * b * z))
        centre, width = mean + b * correlation * z, b * spread
        inner_finest = min(1 / width, EXTENT)
        steps = _steps(inner_finest)
        total, rows = 0.0, max(1, _BLOCK // ((2 * EXTENT + 2 + self._features.size * (2 * steps + 3)) * _ORDER * 2**level))
        for start in range(0, z.size, int(rows)):
            part = slice(start, start + int(rows))
            centres = (self._features - centre[part, None]) / width
            edges = _graded(centres, np.full(centres.shape[0], inner_finest), steps)
            w, inner = _fill(edges, level)
            inner = inner * np.exp(-w * w / 2) / math.sqrt(2 * math.pi)
            total += float(values[part] @ (self._at(centre[part, None] + width * w) * inner).sum(-1))
        return total
