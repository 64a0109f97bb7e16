"""The gradient through a feed-forward part and a norm of its output: by an integral for one token, to first order for two.

Derivation: docs/derivations/finite-width.md, (W12) and (W13).
"""

from __future__ import annotations

import functools
import math

from ..numerics.interpolation import Table
from ..signal import AnySignal, NormedOutput, Number, Trace, quotient
from .feed_forward_moments import activation_tables, angle_of

LEAST_HIDDEN, LEAST_WIDTH = 16, 8
"""Fewer hidden features, or features of the stream, have averages of an inverse that hang on rare draws."""
_STEP = 0.05
"""Step of the logarithm of a variance between tables"""
_LEAST_PAIR = 0.01
"""Least covariance of two tokens' derivatives, of the derivatives' second moment, that corrections are divided by"""


def normed_output(
    x: AnySignal, name: str, variance: Number, hidden: int, width: int, trace: Trace, *, gated: bool, normed: bool
) -> NormedOutput | None:
    """Factors on the gradient of a feed-forward part whose output a norm divides; None if it is too small for them.

    Parameters
    ----------
    x : moments of the activation's input; with a gate the other factor has the same correlation.
    name : the activation f. Hidden features are f(u), or f(u) times an independent Gaussian.
    variance : of the activation's input, averaged over tokens.
    hidden, width : hidden features, and features of the stream.
    normed : the part reads a norm's output, whose gradient has no component along the token.
    """
    if hidden < LEAST_HIDDEN or width < LEAST_WIDTH:
        return None
    settings = name, hidden, width, gated, normed
    family = trace.family(("normed", *settings), functools.partial(_table, *settings), _STEP)
    gain, growth, slopes, common, start, crossed, stretch = family(variance, 0.0)
    tables, r = activation_tables(name, trace), x.correlation
    at = variance + 0.0 * r
    pair, slope_pair = tables(at, angle_of(r), slice(3, 5))
    second = tables(variance, 0.0, slice(1))[0]
    pair, slope_pair = quotient(pair, second), quotient(slope_pair * variance, second)
    both = slope_pair * r + pair if gated else slope_pair
    both = _at_least(both, _LEAST_PAIR * slopes)
    shared = start + (common - start) * r
    product = (crossed + (common * slopes - crossed) * r * r) / both
    alike = pair * r if gated else pair
    ratio = hidden / width
    taken = 2 * (1 + shared / ratio) - alike * alike - product / ratio
    own = 1.0
    if not normed:
        taken = taken + 2 * (growth + (growth / slopes - 1) * growth * r) - r * growth * growth / both
        own = 1 + (stretch - 1) / width
    return NormedOutput(gain, own / (1 + (shared - 1) / hidden), taken)


def _at_least(value: Number, least: Number) -> Number:
    if isinstance(value, float):
        return max(value, least)
    return value.clip(least)


@functools.lru_cache(maxsize=512)
def _table(name: str, hidden: int, width: int, gated: bool, normed: bool, variance: float) -> Table:
    """The averages of :func:`_averages`, the same at every point: a family interpolates over the variance."""
    found = _averages(name, hidden, width, gated, normed, variance)
    return Table(lambda points: [found] * len(points), 0.0, 1.0, nodes=5)


def _averages(name: str, hidden: int, width: int, gated: bool, normed: bool, variance: float) -> list[float]:
    """The gain of one token, (W12), and averages over one hidden feature h with the derivative b by a token of size 1.

    These are the growth E h k / E h^2, with k the derivative along the token; E b^2 / E h^2; E h^2 b^2 / (E h^2 E b^2); the
    same of two independent tokens' derivatives; (E h b)^2 of two such tokens over E h^2; and E k^2 / E b^2.
    """
    import numpy as np

    from .activations import activation

    f = activation(name)
    u = np.arange(-9.0, 9.0, 0.125) + 0.0625  # no node at 0, where the slopes of some activations jump
    weights = np.exp(-u * u / 2)
    weights /= weights.sum()
    value, slope = f(u * math.sqrt(variance)), f.derivative(u * math.sqrt(variance)) * math.sqrt(variance)
    size = math.sqrt(float(weights @ value**2))
    value, slope = value / size, slope / size
    along = u * slope + value if gated else u * slope  # over the other factor
    squares, slopes, turned = value * value, slope * slope, along * along

    # Averages weighed by exp(-t h^2), for 1/|h|^2 = int exp(-t |h|^2) dt and 1/|h|^4 = int t exp(-t |h|^2) dt.
    logs, step = np.linspace(-17.0, 7.0, 241, retstep=True)
    t = np.exp(logs) / hidden
    damped = 2 * t[:, None] * squares if gated else np.exp(-t[:, None] * squares)
    none, two, four = ((1 + damped) ** -0.5, (1 + damped) ** -1.5, 3 * (1 + damped) ** -2.5) if gated else (damped,) * 3
    rest = none @ weights
    across = (1 - 1 / width) * (two @ (weights * slopes) + (none @ (weights * squares) if gated else 0.0))
    crossed = (1 - 1 / width) * (four @ (weights * squares * slopes) + (two @ (weights * squares**2) if gated else 0.0))
    others = rest ** (hidden - 1)
    inverse, square = across * others, crossed * others
    if not normed:
        inverse += two @ (weights * turned) / width * others
        mean = two @ (weights * value * along)
        square += (four @ (weights * squares * turned) * others + (hidden - 1) * mean**2 * rest ** (hidden - 2)) / width
    total = hidden * step * float((inverse - t * square) @ t)

    own, growth = float(weights @ slopes) + gated, float(weights @ (value * along))
    joint = float(weights @ (squares * slopes)) * (3 if gated else 1) + (float(weights @ squares**2) if gated else 0.0)
    lowest, half = (value, squares * value) if gated else (slope, squares * slope)
    mean, common = float(weights @ lowest), joint / own
    start = float(weights @ half) / mean if abs(mean) > _NO_MEAN else common
    gain = total / own / (1 - 1 / width if normed else 1.0)
    found = [gain, growth, own, common, start, float(weights @ (value * slope)) ** 2, float(weights @ turned) / own]
    return [float(number) for number in found]


_NO_MEAN = 1e-6
