r"""Expectations of the product of a function's values at two correlated Gaussian variables.

With the Hermite coefficients :math:`\alpha_n(a) = E[f(\sqrt a\, z)\, he_n(z)]`, Mehler's formula gives
:math:`E f(x) f(y) = \sum_n \rho^n \alpha_n(a)\, \alpha_n(b)`. The error after N terms is at most :math:`|\rho|^N` times the
square root of the product of the remainders :math:`E f^2 - \sum \alpha_n^2`, so every result has a known error bound. (The last
coefficients bound a remainder that is smaller than the rounding error.) N is 64, then 192, then 768. If the bound still exceeds
2e-11 of the scale, the double integral is computed. For a smooth function it is a sum over a lattice in x and in the part of y
that is independent of x; the error falls so fast with the step that the difference between two interleaved lattices bounds the
error of their mean. For other functions it is an integral over panels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .gaussian import ACCURACY, EXTENT, FINEST, ORDER, GaussianMoments, fill_panels, graded_panels, panel_steps
from .hermite import gauss_hermite

TERMS = (64, 192, 768)
_LAST = 16
_STEPS = (0.8, 0.55, 0.38, 0.26, 0.18)
"""Steps of the lattice in units of x, tried in this order. A third of the distance to the nearest singularity is sufficient."""
_NARROW = 0.15
"""Fraction of a step. If the independent part of y is narrower, a Gauss-Hermite rule with eight nodes averages over it."""
_LATTICE_ACCURACY = 4e-6
_LATTICE_WIDEST = 40.0
_LATTICE_REACH = 8.6
_AT_ONCE = 60_000  # values that stay in the processor's cache

Array = Any


class GaussianFunction(GaussianMoments):
    """A function of one variable: its moments for Gaussian input, and E f(x) f(y) for two correlated inputs.

    Parameters
    ----------
    function, kinks, name : as for :class:`~.gaussian.GaussianMoments`.
    """

    def __init__(self, function: Callable[[Array], Array], kinks: tuple[float, ...] = (), name: str = "the function") -> None:
        super().__init__(function, kinks, name)
        self._first_step = 0

    def pair(self, variance: Array, other_variance: Array, correlation: Array, mean: Array) -> Array:
        """E f(x) f(y) for one-dimensional arrays of one length; x and y have the same mean.

        The error is below 2e-11 of sqrt(E f(x)^2 E f(y)^2).
        """
        total, left = np.empty(variance.size), np.arange(variance.size)
        if np.any(mean) and not self.kinks:  # without a table the lattice is faster than the series
            total, certain = self._lattice_sums(variance, other_variance, correlation, mean)
            left = left[~certain]
        for terms in TERMS:
            if not left.size:
                return total
            arguments = (variance[left], other_variance[left], correlation[left], mean[left])
            if terms == TERMS[-1] and not self.kinks:
                total[left], certain = self._lattice_sums(*arguments)
                left, arguments = left[~certain], tuple(argument[~certain] for argument in arguments)
                if not left.size:
                    return total
            total[left], certain = self._mehler_sums(*arguments, terms)
            left = left[~certain]
        for i in left:
            total[i] = self._integrate_pair(variance[i], other_variance[i], correlation[i], mean[i])
        return total

    def _mehler_sums(
        self, variance: Array, other_variance: Array, correlation: Array, mean: Array, terms: int
    ) -> tuple[Array, Array]:
        """The first terms of Mehler's sum, and a mask that is true if the remaining terms are negligible."""
        if np.ptp(variance) == np.ptp(other_variance) == np.ptp(mean) == 0 and variance[0] == other_variance[0]:
            distinct, first, second = slice(1), np.zeros(1, int), np.zeros(1, int)
        else:
            distinct, first, second = slice(None), np.arange(variance.size), np.arange(variance.size, 2 * variance.size)
        variances, means = (np.concatenate(pair)[distinct] for pair in ((variance, other_variance), (mean, mean)))
        _, squares, coefficients = self._integrate(variances, means, terms)
        # The difference cannot resolve a remainder below the rounding error. The last coefficients bound it, because the
        # coefficients decrease.
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

    def _lattice_sums(self, variance: Array, other_variance: Array, correlation: Array, mean: Array) -> tuple[Array, Array]:
        """E f(x) f(y) by trapezoidal sums over two interleaved lattices, and a mask that is true if their difference is small.

        y is decomposed into a multiple of x and an independent part v: y = mean + rho (b/a) (x - mean) + b sqrt(1 - rho^2) v.
        """
        a, b = np.sqrt(np.maximum(variance, other_variance)), np.sqrt(np.minimum(variance, other_variance))
        own = b * np.sqrt((1 - correlation) * (1 + correlation))
        total, certain = np.zeros(a.size), np.zeros(a.size, dtype=bool)
        possible = np.flatnonzero(a <= _LATTICE_WIDEST)
        if not possible.size:
            return total, certain
        scale = np.ones(a.size)
        first, second = (self._second_moment_scale(root[possible], mean[possible]) for root in (a, b))
        scale[possible] = np.sqrt(first) * np.sqrt(second)
        for step in _STEPS[self._first_step :]:
            sums = self._two_lattices(a[possible], (correlation * b)[possible], own[possible], mean[possible], step)
            good = np.abs(sums[0] - sums[1]) <= _LATTICE_ACCURACY * scale[possible]
            total[possible[good]] = sums.mean(0)[good]
            certain[possible[good]] = True
            if step == _STEPS[self._first_step] and step != _STEPS[-1] and np.count_nonzero(good) < good.size / 2:
                self._first_step += 1  # later calls skip this step
            possible = possible[~good]
            if not possible.size:
                break
        return total, certain

    def _second_moment_scale(self, root: Array, mean: Array) -> Array:
        """E f^2 as the scale of a tolerance, hence with low accuracy if the mean is not 0; checks the growth of f."""
        if not np.any(mean):
            return self._integrate(root**2, mean, 0)[1]
        z = np.linspace(-_LATTICE_REACH, _LATTICE_REACH, 345)
        squares = self._evaluate(mean[:, None] + root[:, None] * z) ** 2 @ (
            np.exp(-z * z / 2) * (z[1] - z[0]) / math.sqrt(2 * math.pi)
        )
        self._check_growth(root, mean, squares)
        return squares

    def _two_lattices(self, a: Array, share: Array, own: Array, mean: Array, step: float) -> Array:
        """Two sums per problem: over a lattice through the centre, and over one shifted by half a step in x.

        The difference of the two shows the error of the outer sum, and the relative error of their mean is its square. The
        inner sum has half the step, so its error is of that size already.
        """
        outer = np.minimum(step / a, 0.8)  # 0.8 resolves the density
        points = np.ceil(_LATTICE_REACH / outer).astype(int)
        inner = np.minimum(step / 2 / np.maximum(own, 1e-300), 0.8)
        inner_points = np.where(own <= _NARROW * step, 0, np.ceil(_LATTICE_REACH / inner).astype(int))
        sums = np.empty((2, a.size))
        order = np.lexsort((points, inner_points))  # problems of similar cost are summed together
        start = 0
        while start < order.size:
            stop, most = start + 1, points[order[start]]
            while stop < order.size:
                most = max(most, points[order[stop]])
                columns = max(2 * inner_points[order[stop]], 7) + 1
                if (stop - start + 1) * (2 * most + 1) * columns > _AT_ONCE or (
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
                around = self._evaluate((mean[part, None] + share[part, None] * z)[:, :, None] + v[:, None, :])
                averaged = np.matmul(around, wv[:, :, None])[:, :, 0]
                sums[i, part] = (self._evaluate(mean[part, None] + a[part, None] * z) * wz * averaged).sum(-1)
            start = stop
        return sums

    def _integrate_pair(self, variance: float, other_variance: float, correlation: float, mean: float) -> float:
        coarse = self._double_integral(variance, other_variance, correlation, mean, 0)
        scale = math.sqrt(math.prod(self._integrate(np.array([v]), np.array([mean]), 0)[1].item()
                                    for v in (variance, other_variance)))  # fmt: skip
        for level in range(1, FINEST):
            fine = self._double_integral(variance, other_variance, correlation, mean, level)
            if abs(fine - coarse) <= ACCURACY * scale:
                return fine
            coarse = fine
        raise self._roughness_error()

    def _double_integral(self, variance: float, other_variance: float, correlation: float, mean: float, level: int) -> float:
        """The double integral over panels.

        The outer variable is x. In units of the standard deviations, y given x is Gaussian with mean rho x and standard
        deviation sqrt(1 - rho^2).
        """
        a, b = math.sqrt(variance), math.sqrt(other_variance)
        spread = math.sqrt((1 - correlation) * (1 + correlation))
        features = self._features - mean
        outer = features / a
        if correlation:
            outer = np.concatenate([outer, features / (b * correlation)])
        finest = 1 / max(a, b)
        if self.kinks and spread and correlation:
            finest = min(finest, spread / abs(correlation))  # the inner integral smooths a jump over this width
        z, weights = fill_panels(graded_panels(outer, np.float64(finest), panel_steps(finest)), level)
        weights = weights * np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        keep = weights > 1e-30
        z, weights = z[keep], weights[keep]
        values = self._evaluate(mean + a * z) * weights
        if spread == 0:
            return float(values @ self._evaluate(mean + correlation * b * z))
        centre, width = mean + b * correlation * z, b * spread
        inner_finest = min(1 / width, EXTENT)
        steps = panel_steps(inner_finest)
        total, rows = 0.0, max(1, _AT_ONCE // ((2 * EXTENT + 2 + self._features.size * (2 * steps + 3)) * ORDER * 2**level))
        for start in range(0, z.size, int(rows)):
            part = slice(start, start + int(rows))
            centres = (self._features - centre[part, None]) / width
            edges = graded_panels(centres, np.full(centres.shape[0], inner_finest), steps)
            w, inner = fill_panels(edges, level)
            inner = inner * np.exp(-w * w / 2) / math.sqrt(2 * math.pi)
            total += float(values[part] @ (self._evaluate(centre[part, None] + width * w) * inner).sum(-1))
        return total
