"""Student's distribution with whole degrees of freedom, in closed form: importing SciPy takes longer than a whole plan."""

from __future__ import annotations

import functools
import math


def student_share(t: float, degrees: int) -> float:
    """Probability that a variable of Student's distribution is at most `t` (Abramowitz and Stegun, 26.7.3 and 26.7.4).

    Examples
    --------
    >>> student_share(0.0, 6), round(student_share(1.943180, 6), 6), round(student_share(-1.0, 1), 6)
    (0.5, 0.95, 0.25)
    """
    squared_cosine = degrees / (degrees + t * t)
    sine = t / math.sqrt(degrees + t * t)
    odd = degrees % 2
    term = math.sqrt(squared_cosine) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for i in range(2 + odd, degrees - 1, 2):
        term *= squared_cosine * (i - 1) / i
        total += term
    inside = sine * total
    if odd:
        inside = 2 / math.pi * (math.atan(t / math.sqrt(degrees)) + inside)
    return (1 + inside) / 2


@functools.lru_cache(maxsize=256)
def student_quantile(share: float, degrees: int) -> float:
    """The value below which a variable of Student's distribution is with this probability.

    Examples
    --------
    >>> round(student_quantile(0.95, 6), 6), round(student_quantile(0.25, 6), 6)
    (1.94318, -0.717558)
    """
    # The distribution is convex below zero and concave above: steps of Newton's method from there keep their sign.
    log_peak = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(math.pi * degrees) / 2
    t = 0.0
    for _ in range(_STEPS):
        density = math.exp(log_peak - (degrees + 1) / 2 * math.log1p(t * t / degrees))
        step = (share - student_share(t, degrees)) / density
        if step * (share - 0.5) <= 0 or abs(step) <= _CLOSE * abs(t):
            break
        t += step
    return t


_STEPS = 400
"""Largest number of steps: six suffice for shares of 5 or 95 %, and a hundred for any other of a double's."""
_CLOSE = 1e-16
"""Relative length of a step that is left out."""
