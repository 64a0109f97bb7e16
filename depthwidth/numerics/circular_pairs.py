r"""Expectations of f(x) f(y) over two Gaussian variables of one variance, at many correlations together.

In polar coordinates :math:`x = s r \cos\varphi`, :math:`y = s r \cos(\varphi - \theta)` with :math:`\rho = \cos\theta`, and for
each radius the average over :math:`\varphi` is an autocorrelation on the circle, which a Fourier transform gives at all angles.
Unlike a series or a double integral (:mod:`.gaussian_pairs`), it costs little more for large variances.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .gauss import gauss_legendre

Array = Any

_RADII, _WIDEST = 160, 9.0
"""Gauss-Legendre nodes for the radius, and its largest value: exp(-9^2/2) is 3e-18."""
_LEAST, _MOST = 2**11, 2**18
"""Points on the circle: a power of two that is raised until the highest frequency is negligible."""
_NEGLIGIBLE = 1e-11


def circular_pair_moments(function: Callable[[Array], Array], variance: float, count: int) -> Array | None:
    """E f(x) f(y) at `count` angles from 0 to pi, evenly spaced, whose cosines are the correlations.

    Parameters
    ----------
    function : f, smooth: without a kink or a jump.
    variance : of x and y.
    count : a power of two and one more.

    Returns
    -------
    Shape (count,); None if f varies too quickly for the most points on the circle.

    Examples
    --------
    >>> [round(float(moment), 12) for moment in circular_pair_moments(lambda x: x**2, 1.0, 3)]
    [3.0, 1.0, 3.0]
    """
    nodes, weights = gauss_legendre(_RADII)
    share = (nodes + 1) / 2
    radius = _WIDEST * share**2  # closer together near 0, where the curvature of f counts
    weights = weights * _WIDEST * share * radius * np.exp(-(radius**2) / 2)
    size = radius * math.sqrt(variance)
    points = _LEAST
    while points < 32 * math.sqrt(variance) and points < _MOST:
        points *= 2
    while points <= _MOST:
        cosines = np.cos(2 * np.pi * np.arange(points) / points)
        power = np.zeros(points // 2 + 1)
        for one, weight in zip(size, weights, strict=True):
            power += weight * np.abs(np.fft.rfft(function(one * cosines)) / points) ** 2
        if power[-points // 8 :].max() <= _NEGLIGIBLE**2 * points * power.max():
            averages = np.fft.irfft(power, points) * points
            return averages[: points // 2 + 1 : points // (2 * (count - 1))]
        points *= 2
    return None
