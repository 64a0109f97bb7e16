r"""Expectations of functions of one Gaussian variable.

Gauss-Legendre quadrature on panels that become narrower towards kinks of the function and towards zero, near which activations
are curved: the accuracy does not depend on the variance. (A Gauss-Hermite rule needs more nodes for larger variances, and
converges slowly for functions with kinks.)

The Hermite coefficients :math:`\alpha_n(a) = E[f(\sqrt a\, z)\, he_n(z)]` are smooth functions of ln a: within one octave they
are polynomials of degree 23 up to rounding. If a call has many variances, they are interpolated from 24 nodes per octave; the
interpolation is checked once per octave.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import InputError
from .chebyshev import chebyshev_nodes, chebyshev_weights
from .gauss import gauss_legendre
from .hermite import hermite_polynomials

_NODES = 24  # in an octave of standard deviations
_TABLE_ACCURACY = 2e-13
EXTENT = 12.5
"""Range of integration in standard deviations. Beyond it, Hermite polynomials times sqrt(density) are below 1e-17."""
ACCURACY = 2e-11
_DEEPEST = 24
ORDER = 16
FINEST = 3
BLOCK = 2_000_000
_ROWS = 60_000  # of a block that stays in the processor's cache

Array = Any


@functools.lru_cache(maxsize=8)
def _legendre(order: int) -> tuple[Array, Array]:
    nodes, weights = gauss_legendre(order)
    return (nodes + 1) / 2, weights / 2


def fill_panels(edges: Array, level: int) -> tuple[Array, Array]:
    """Nodes and weights on the panels between sorted edges (last axis); each panel is halved `level` times."""
    nodes, weights = _legendre(ORDER)
    parts = 2**level
    nodes = ((np.arange(parts)[:, None] + nodes) / parts).ravel()
    weights = np.tile(weights / parts, parts)
    low, width = edges[..., :-1, None], np.diff(edges)[..., None]
    shape = (*edges.shape[:-1], -1)
    return (low + width * nodes).reshape(shape), (width * weights).reshape(shape)


@functools.lru_cache(maxsize=12)
def _half_grid(level: int, depth: int, terms: int) -> tuple[Array, Array, Array, Array]:
    """Quadrature on z > 0 for a function without kinks except at 0.

    Returns the nodes, the weights times the density, and the even and the odd Hermite polynomials times these weights.
    """
    edges = np.concatenate([[0.0], 2.0 ** np.arange(-depth, 1), np.arange(1.75, EXTENT, 0.75), [EXTENT]])
    z, weights = fill_panels(edges, level)
    weights = weights * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    basis = hermite_polynomials(z, terms) * weights
    return z, weights, np.ascontiguousarray(basis[0::2].T), np.ascontiguousarray(basis[1::2].T)


@functools.lru_cache(maxsize=1)
def _octave_nodes() -> Array:
    """Chebyshev points of the first kind on [-1, 0]."""
    return (chebyshev_nodes(_NODES) - 1) / 2


def _interpolation(place: Array) -> Array:
    """Weights, shape (nodes, places), of the values at the nodes in their interpolating polynomial, at places in [-1, 0]."""
    return chebyshev_weights(2 * place + 1, _NODES)


def graded_panels(centres: Array, scale: Array, steps: int) -> Array:
    """Panel edges in units of the standard deviation: evenly spaced, and halved repeatedly towards each centre.

    `centres` are the points near which panels are narrow, along the last axis; `scale` is the width of the narrowest panel, one
    per problem.
    """
    even = np.arange(-EXTENT, EXTENT + 0.5)
    offsets = 2.0 ** np.arange(-1, steps)
    offsets = np.concatenate([-offsets[::-1], [0.0], offsets]) * np.asarray(scale)[..., None]
    around = (centres[..., :, None] + offsets[..., None, :]).reshape((*centres.shape[:-1], -1))
    edges = np.concatenate([np.broadcast_to(even, (*around.shape[:-1], even.size)), around], axis=-1)
    return np.sort(np.clip(edges, -EXTENT, EXTENT), axis=-1)


def _second_moment(values: Array, weights: Array) -> Array:
    with np.errstate(all="ignore"):
        return values * values @ weights if weights.ndim == 1 else (values * values * weights).sum(-1)


def panel_steps(scale: float) -> int:
    """Number of halvings from the whole range down to panels of this width."""
    return max(1, math.ceil(math.log2(2 * EXTENT / scale)))


class GaussianMoments:
    """A function of one variable and its moments under one Gaussian input.

    :class:`~.gaussian_pairs.GaussianFunction` adds products over two inputs.

    Parameters
    ----------
    function : takes and returns an array; its interesting points lie near 0 or at `kinks`.
    kinks : where it or its derivative jumps.
    name : its name in error sentences.
    """

    def __init__(self, function: Callable[[Array], Array], kinks: tuple[float, ...] = (), name: str = "the function") -> None:
        self.function = function
        self.kinks = kinks
        self.name = name
        self._features = np.array(sorted({0.0, *kinks}))
        self._levels: dict[int, int] = {}
        self._tables: dict[tuple[int, int], Array | None] = {}
        self._last: tuple[float, tuple[Array, Array, Array]] | None = None

    def moments(self, variance: Array, mean: Array = 0.0) -> tuple[Array, Array]:
        """E f(x) and E f(x)^2 for one-dimensional arrays of variances and means.

        Raises
        ------
        InputError
            if f is not finite, grows so fast that a moment is infinite, or is too rough for an accuracy of 2e-11.
        """
        values, squares, _ = self._integrate(variance, mean, 0)
        return values, squares

    def _integrate(self, variance: Array, mean: Array, terms: int) -> tuple[Array, Array, Array]:
        """E f, E f^2 and the first Hermite coefficients; panels are halved until the result no longer changes."""
        root = np.sqrt(variance)
        if not np.any(mean) and self.kinks in ((), (0.0,)):
            return self._integrate_by_octave(root, terms) if root.size != 1 else self._integrate_alone(root, terms)
        coarse = self._integrate_general(root, mean, 0, 0)
        for level in range(1, FINEST + 1):
            fine = self._integrate_general(root, mean, level, terms)
            if self._agree(coarse, fine):
                return fine
            coarse = fine
        raise self._roughness_error()

    def _integrate_alone(self, root: Array, terms: int) -> tuple[Array, Array, Array]:
        """The same for one variance and mean 0; that of the last variance is kept, as its moments are asked for one by one."""
        if self._last is None or self._last[0] != root[0] or len(self._last[1][2]) < terms:
            self._last = float(root[0]), self._integrate_by_octave(root, terms)
        values, squares, coefficients = self._last[1]
        return values.copy(), squares.copy(), coefficients[:terms]

    def _integrate_by_octave(self, root: Array, terms: int) -> tuple[Array, Array, Array]:
        """The same for mean 0 and no kinks except at 0: from a table if there are many variances, else by integration."""
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
            values, squares, coefficients = self._integrate_symmetric(root[direct], level, terms)
            found[:, direct] = np.concatenate([values[None], squares[None], coefficients])
        return found[0], found[1], found[2:]

    def _table(self, octave: int, terms: int) -> Array | None:
        """E f, E f^2 and the coefficients at the nodes of an octave, or None if interpolation between them is inaccurate."""
        key = (octave, terms)
        if key not in self._tables:
            nodes, between = 2.0 ** (octave + _octave_nodes()), 2.0 ** (octave - np.array([0.013, 0.41, 0.987]))
            level = self._level(octave)
            rows = [
                np.concatenate([found[0][None], found[1][None], found[2]])
                for found in (self._integrate_symmetric(root, level, terms) for root in (nodes, between))
            ]
            error = np.abs(rows[0] @ _interpolation(np.log2(between) - octave) - rows[1])
            scale = np.sqrt(rows[1][1])
            good = np.all(error[1] <= _TABLE_ACCURACY * scale**2) and np.all(np.delete(error, 1, 0) <= _TABLE_ACCURACY * scale)
            self._tables[key] = rows[0] if good else None
        return self._tables[key]

    def _level(self, octave: int) -> int:
        """Number of times that panels must be halved for standard deviations up to 2^octave; cached."""
        if octave not in self._levels:
            root = 2.0 ** (octave - np.array([0.0, 0.37]))
            coarse = self._integrate_symmetric(root, 0, 0)
            for level in range(FINEST + 1):
                fine = self._integrate_symmetric(root, level + 1, 0)
                if self._agree(coarse, fine):
                    self._levels[octave] = level
                    break
                coarse = fine
            else:
                raise self._roughness_error()
        return self._levels[octave]

    @staticmethod
    def _agree(coarse: tuple[Array, Array, Any], fine: tuple[Array, Array, Any]) -> bool:
        scale = fine[1]
        return bool(
            np.all(np.abs(coarse[1] - fine[1]) <= ACCURACY * scale)
            and np.all(np.abs(coarse[0] - fine[0]) <= ACCURACY * np.sqrt(scale))
        )

    def _roughness_error(self) -> InputError:
        return InputError(f"{self.name} is too rough, or its moment does not exist: finer quadrature does not converge")

    def _evaluate(self, x: Array) -> Array:
        with np.errstate(all="ignore"):
            values = np.asarray(self.function(x), dtype=float)
        if not np.isfinite(values).all():
            where = float(np.broadcast_to(x, values.shape)[~np.isfinite(values)].flat[0])
            raise InputError(f"{self.name} has no finite value at x = {where:.6g}, which Gaussian input reaches")
        return np.broadcast_to(values, x.shape)

    def _integrate_symmetric(self, root: Array, level: int, terms: int) -> tuple[Array, Array, Array]:
        depth = int(np.clip(np.ceil(np.log2(root.max())) + 2, 1, _DEEPEST)) if root.size else 1
        z, weights, even, odd = _half_grid(level, depth, terms)
        means, squares, coefficients = np.empty(root.size), np.empty(root.size), np.empty((terms, root.size))
        rows = max(1, _ROWS // z.size)
        for start in range(0, root.size, rows):
            part = slice(start, start + rows)
            x = root[part, None] * z
            above, below = self._evaluate(x), self._evaluate(-x)
            means[part] = (above + below) @ weights
            squares[part] = _second_moment(above, weights) + _second_moment(below, weights)
            if terms:
                coefficients[0::2, part] = ((above + below) @ even).T
                coefficients[1::2, part] = ((above - below) @ odd).T
            self._check_growth(root[part], 0 * root[part], squares[part])
        return means, squares, coefficients

    def _integrate_general(self, root: Array, mean: Array, level: int, terms: int) -> tuple[Array, Array, Array]:
        means, squares, coefficients = np.empty(root.size), np.empty(root.size), np.empty((terms, root.size))
        steps = panel_steps(1 / float(root.max())) if root.size else 1
        edges = graded_panels((self._features - mean[:, None]) / root[:, None], 1 / root, steps)
        rows = max(1, BLOCK // (edges.shape[-1] * ORDER * 2**level * max(1, terms)))
        for start in range(0, root.size, rows):
            part = slice(start, start + rows)
            z, weights = fill_panels(edges[part], level)
            weights = weights * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
            values = self._evaluate(mean[part, None] + root[part, None] * z)
            means[part] = (values * weights).sum(-1)
            squares[part] = _second_moment(values, weights)
            if terms:
                coefficients[:, part] = (hermite_polynomials(z, terms) * (values * weights)).sum(-1)
            self._check_growth(root[part], mean[part], squares[part])
        return means, squares, coefficients

    def _check_growth(self, root: Array, mean: Array, squares: Array) -> None:
        """Refuse a function whose square times the density is not negligible at the ends of the range."""
        ends = self._evaluate(np.stack([mean + EXTENT * root, mean - EXTENT * root]))
        with np.errstate(all="ignore"):
            heights = (ends**2).max(axis=0) * math.exp(-(EXTENT**2) / 2) * EXTENT
            negligible = np.isfinite(squares) & (heights <= 1e-12 * squares)
        if not np.all(negligible | (heights == 0)):
            raise InputError(f"{self.name} grows too fast: its second moment for this input is infinite or cannot be computed")
