r"""Expectations of any function of one variable under Gaussian input, and of its products over two correlated inputs.

One point: Gauss-Legendre panels that shrink towards the points where the function is not smooth and towards zero, where
activations bend, so that inputs a thousand times wider than the bend cost no digits. (A Gauss-Hermite rule needs a number of
nodes that grows with the variance, and converges slowly at any kink.)

Two points: with the Hermite coefficients :math:`\alpha_n(a) = E[f(\sqrt a\, z)\, he_n(z)]`, Mehler's formula gives
:math:`E f(x) f(y) = \sum_n \rho^n \alpha_n(a)\, \alpha_n(b)`. What the first N terms leave out is at most
:math:`|\rho|^N` times the root of the product of the remainders :math:`E f^2 - \sum \alpha_n^2` (of which the last coefficients
tell where rounding hides them), so each result carries its own bound. N is 64, then 192 and 768; where that leaves the bound
above 2e-11 of the scale, the double integral is taken: for a smooth function as a sum over a lattice in x and in what y has of
its own, whose error falls so fast with the step that the difference to the lattice between certifies the mean of both; else
over panels.

The coefficients are smooth functions of ln a, on an octave polynomials of degree 23 to rounding: where a call asks for many
variances, they are interpolated from 24 of them, which is checked once for each octave.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InputError
from .chebyshev import chebyshev_nodes, chebyshev_weights
from .hermite import gauss_hermite, hermite_polynomials

TERMS = (64, 192, 768)
_LAST = 16
_NODES = 24  # in an octave of standard deviations
_TABLE_ACCURACY = 2e-13
_STEPS = (0.8, 0.55, 0.38, 0.26, 0.18)
"""Steps of the lattice, in units of x, tried in turn: a third of the distance to the nearest singularity is enough."""
_NARROW = 0.15
"""Of a step: so narrow a rest of y is averaged over by a Gauss-Hermite rule of eight nodes."""
_LATTICE_ACCURACY = 4e-6
_LATTICE_WIDEST = 40.0
_LATTICE_REACH = 8.6
_LATTICE_AT_ONCE = 60_000  # values that stay in the processor's cache
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
    basis = hermite_polynomials(z, terms) * weights
    return z, weights, np.ascontiguousarray(basis[0::2].T), np.ascontiguousarray(basis[1::2].T)


@functools.lru_cache(maxsize=1)
def _octave_nodes() -> Array:
    """Chebyshev points of the first kind on [-1, 0]."""
    return (chebyshev_nodes(_NODES) - 1) / 2


def _interpolation(place: Array) -> Array:
    """Weights, shape (nodes, places), of the values at the nodes in the polynomial through them, at places of [-1, 0]."""
    return chebyshev_weights(2 * place + 1, _NODES)


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
        self._first_step = 0
        self._tables: dict[tuple[int, int], Array | None] = {}

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
            return self._by_octaves(root, terms)
        coarse = self._general(root, mean, 0, 0)
        for level in range(1, _FINEST + 1):
            fine = self._general(root, mean, level, terms)
            if self._agree(coarse, fine):
                return fine
            coarse = fine
        raise self._rough()

    def _by_octaves(self, root: Array, terms: int) -> tuple[Array, Array, Array]:
        """The same for a function that bends only near 0: from a table where many are asked for, else by integration."""
        octaves = np.ceil(np.log2(root)).astype(int)
        found = np.empty((terms + 2, root.size))
        direct = np.ones(root.size, dtype=bool)
        for octave in sorted(set(octaves.tolist())):
            here = octaves == octave
            if (octave, terms) in self._tables or np.count_nonzero(here) > _NODES:
                table = self._table(octave, terms)
                if table is not None:
                    found[:, here] = table @ _interpolation(np.log2(root[here]) - octave)
                    direct[here] = False
        if direct.any():
            level = max(map(self._level, set(octaves[direct].tolist())), default=0)
            values, squares, coefficients = self._symmetric(root[direct], level, terms)
            found[:, direct] = np.concatenate([values[None], squares[None], coefficients])
        return found[0], found[1], found[2:]

    def _table(self, octave: int, terms: int) -> Array | None:
        """E f, E f^2 and the coefficients at the nodes of an octave, or None where interpolation between them is not exact."""
        key = (octave, terms)
        if key not in self._tables:
            nodes, between = 2.0 ** (octave + _octave_nodes()), 2.0 ** (octave - np.array([0.013, 0.41, 0.987]))
            level = self._level(octave)
            rows = [
                np.concatenate([found[0][None], found[1][None], found[2]])
                for found in (self._symmetric(root, level, terms) for root in (nodes, between))
            ]
            error = np.abs(rows[0] @ _interpolation(np.log2(between) - octave) - rows[1])
            scale = np.sqrt(rows[1][1])
            good = np.all(error[1] <= _TABLE_ACCURACY * scale**2) and np.all(np.delete(error, 1, 0) <= _TABLE_ACCURACY * scale)
            self._tables[key] = rows[0] if good else None
        return self._tables[key]

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
                coefficients[:, part] = (hermite_polynomials(z, terms) * (values * weights)).sum(-1)
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
        if np.any(mean) and not self.kinks:  # there is no table for it, and a lattice is quicker than its series
            total, certain = self._on_lattice(variance, other_variance, correlation, mean)
            left = left[~certain]
        for terms in TERMS:
            if not left.size:
                return total
            arguments = (variance[left], other_variance[left], correlation[left], mean[left])
            if terms == TERMS[-1] and not self.kinks:
                total[left], certain = self._on_lattice(*arguments)
                left, arguments = left[~certain], tuple(argument[~certain] for argument in arguments)
                if not left.size:
                    return total
            total[left], certain = self._mehler(*arguments, terms)
            left = left[~certain]
        for i in left:
            total[i] = self._direct(variance[i], other_variance[i], correlation[i], mean[i])
        return total

    def _mehler(
        self, variance: Array, other_variance: Array, correlation: Array, mean: Array, terms: int
    ) -> tuple[Array, Array]:
        """The first terms of Mehler's sum, and where what they leave out is negligible."""
        if np.ptp(variance) == np.ptp(other_variance) == np.ptp(mean) == 0 and variance[0] == other_variance[0]:
            distinct, first, second = slice(1), np.zeros(1, int), np.zeros(1, int)
        else:
            distinct, first, second = slice(None), np.arange(variance.size), np.arange(variance.size, 2 * variance.size)
        variances, means = (np.concatenate(pair)[distinct] for pair in ((variance, other_variance), (mean, mean)))
        _, squares, coefficients = self._resolved(variances, means, terms)
        # A remainder below rounding does not show in the difference; the last coefficients bound it, as they fall steadily.
        last = coefficients[-_LAST:]
        remainders = np.maximum(
            squares - np.einsum("nv,nv->v", coefficients, coefficients), 4 * np.einsum("nv,nv->v", last, last)
        )
        scale = np.sqrt(squares[first]) * np.sqrt(squares[second])
        with np.errstate(under="ignore"):
            left_out = np.abs(correlation) ** terms * np.sqrt(remainders[first]) * np.sqrt(remainders[second])
            products = coefficients[:, first] * coefficients[:, second]
            total = np.zeros(correlation.size)
            for product in products[::-1]:
                total *= correlation
                total += product
        same = (correlation == 1) & (variance == other_variance)
        return np.where(same, squares[first], total), same | (left_out <= ACCURACY * scale)

    def _on_lattice(self, variance: Array, other_variance: Array, correlation: Array, mean: Array) -> tuple[Array, Array]:
        """E f(x) f(y) by trapezoid sums, and where the sums over two lattices, one between the other, certify their mean.

        y is x's share of it, and a rest v of its own: y = mean + rho (b/a) (x - mean) + b sqrt(1 - rho^2) v.
        """
        a, b = np.sqrt(np.maximum(variance, other_variance)), np.sqrt(np.minimum(variance, other_variance))
        own = b * np.sqrt((1 - correlation) * (1 + correlation))
        total, certain = np.zeros(a.size), np.zeros(a.size, dtype=bool)
        possible = np.flatnonzero(a <= _LATTICE_WIDEST)
        if not possible.size:
            return total, certain
        scale = np.ones(a.size)
        first, second = (self._size(root[possible], mean[possible]) for root in (a, b))
        scale[possible] = np.sqrt(first) * np.sqrt(second)
        for step in _STEPS[self._first_step :]:
            sums = self._two_lattices(a[possible], (correlation * b)[possible], own[possible], mean[possible], step)
            good = np.abs(sums[0] - sums[1]) <= _LATTICE_ACCURACY * scale[possible]
            total[possible[good]] = sums.mean(0)[good]
            certain[possible[good]] = True
            if step == _STEPS[self._first_step] and step != _STEPS[-1] and np.count_nonzero(good) < good.size / 2:
                self._first_step += 1  # the next call need not try it
            possible = possible[~good]
            if not possible.size:
                break
        return total, certain

    def _size(self, root: Array, mean: Array) -> Array:
        """E f^2 for settings of which a series says nothing: to the precision of a tolerance, after the check of its growth."""
        if not np.any(mean):
            return self._resolved(root**2, mean, 0)[1]
        z = np.linspace(-_LATTICE_REACH, _LATTICE_REACH, 345)
        squares = self._at(mean[:, None] + root[:, None] * z) ** 2 @ (
            np.exp(-z * z / 2) * (z[1] - z[0]) / math.sqrt(2 * math.pi)
        )
        self._check_growth(root, mean, squares)
        return squares

    def _two_lattices(self, a: Array, share: Array, own: Array, mean: Array, step: float) -> Array:
        """Two sums for each setting: over a lattice through the centre, and over one half a step off in x.

        Moving the outer sum by half a step shows its error, and leaves the mean of both with its square. The inner sum, at half
        the step, has such an error to begin with.
        """
        outer = np.minimum(step / a, 0.8)  # 0.8 resolves the density
        points = np.ceil(_LATTICE_REACH / outer).astype(int)
        inner = np.minimum(step / 2 / np.maximum(own, 1e-300), 0.8)
        inner_points = np.where(own <= _NARROW * step, 0, np.ceil(_LATTICE_REACH / inner).astype(int))
        sums = np.empty((2, a.size))
        order = np.lexsort((points, inner_points))  # settings of like cost are summed together
        start = 0
        while start < order.size:
            stop, most = start + 1, points[order[start]]
            while stop < order.size:
                most = max(most, points[order[stop]])
                columns = max(2 * inner_points[order[stop]], 7) + 1
                if (stop - start + 1) * (2 * most + 1) * columns > _LATTICE_AT_ONCE or (
                    not inner_points[order[start]] and inner_points[order[stop]]
                ):
                    break
                stop += 1
            part = order[start:stop]
            wide = inner_points[part[-1]]
            if wide:
                v = np.arange(-wide, wide + 1) * inner[part, None]
                wv = np.exp(-v * v / 2) * inner[part, None] / math.sqrt(2 * math.pi)
            else:
                v, wv = (np.broadcast_to(row, (part.size, row.size)) for row in gauss_hermite(8))
            v = v * own[part, None]
            for i, offset in enumerate((0.0, 0.5)):
                z = (np.arange(-points[part].max(), points[part].max() + 1) + offset) * outer[part, None]
                wz = np.exp(-z * z / 2) * outer[part, None] / math.sqrt(2 * math.pi)
                around = self._at((mean[part, None] + share[part, None] * z)[:, :, None] + v[:, None, :])
                averaged = np.matmul(around, wv[:, :, None])[:, :, 0]
                sums[i, part] = (self._at(mean[part, None] + a[part, None] * z) * wz * averaged).sum(-1)
            start = stop
        return sums

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
