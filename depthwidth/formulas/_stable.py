"""Numeric forms without the cancellation of a formula that, as the paper writes it, subtracts nearly equal numbers.

For numbers, NumPy arrays and torch tensors only: symbols and multiple-precision numbers use the formula as written.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from typing import Any

from ..mathematics import atan, exp, lgamma, library_of, log, log1p, maximum, minimum, pi, sqrt

_TERMS = 14
# sin t - t cos t, and t + (t cos t - 3 sin t)/2, as series in t^2; divided by t^3 and by t^5.
_SECTOR = [(-1.0) ** (n + 1) * 2 * n / math.factorial(2 * n + 1) for n in range(1, _TERMS)]
_WEDGE = [(-1.0) ** n * (n - 1) / math.factorial(2 * n + 1) for n in range(2, _TERMS + 2)]
# t - atan t, divided by t^3.
_ARC = [(-1.0) ** n / (2 * n + 3) for n in range(_TERMS)]
_TAIL_BEGINS = 2.0
_TAIL_TERMS = 90  # at t = 2 the continued fraction has then converged to the last place


def choose(condition: Any, then: Any, otherwise: Any) -> Any:
    """`then` if the condition holds, else `otherwise`; element by element for arrays and tensors."""
    library = library_of(condition, then, otherwise)
    if library == "math":
        return then if condition else otherwise
    return sys.modules[library].where(condition, then, otherwise)


def atan2(y: Any, x: Any) -> Any:
    """The angle of the point (x, y)."""
    library = library_of(y, x)
    return getattr(sys.modules["math" if library == "math" else library], "arctan2" if library == "numpy" else "atan2")(y, x)


def upper_tail(t: Any) -> Any:
    """P(Z > t) of a standard normal variable, to a few units in the last place at both ends."""
    library = library_of(t)
    if library == "numpy":
        import scipy.special

        return scipy.special.ndtr(-t)
    function = math.erfc if library == "math" else sys.modules[library].erfc
    return function(t / math.sqrt(2)) / 2


def density(t: Any) -> Any:
    """The standard normal density; zero, without a warning, outside the range of a double."""
    return exp(-minimum(t * t, 1400.0) / 2) / math.sqrt(2 * math.pi)


def _series(coefficients: list[float], t2: Any) -> Any:
    value = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        value = value * t2 + coefficient
    return value


def _with_slope(function: Callable[[Any], Any], slope: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`function`, whose derivative for tensors is `slope`.

    At both ends of the correlations the derivative of a square root is infinite, and torch multiplies it by zero.
    """

    @functools.cache
    def of_tensors() -> Callable[[Any], Any]:
        def remember(context: Any, inputs: Any, output: Any) -> None:
            context.save_for_backward(*inputs)

        def backward(context: Any, gradient: Any) -> Any:
            return gradient * slope(*context.saved_tensors)

        members: dict[str, Any] = {
            "forward": staticmethod(function),
            "setup_context": staticmethod(remember),
            "backward": staticmethod(backward),
            "generate_vmap_rule": True,
        }
        made: Any = type(function.__name__, (sys.modules["torch"].autograd.Function,), members)
        return made.apply  # type: ignore[no-any-return]

    @functools.wraps(function)
    def called(correlation: Any) -> Any:
        return of_tensors()(correlation) if library_of(correlation) == "torch" else function(correlation)

    return called


def angle_from_opposite(correlation: Any) -> Any:
    """``pi - acos(correlation)``, with all its digits at both ends."""
    return _angle(correlation)


def arc_cosine_1(correlation: Any) -> Any:
    """``sqrt(1 - rho^2) + (pi - acos rho) rho``, which vanishes like (1 + rho)^(3/2) at rho = -1."""
    return _first(correlation)


def arc_cosine_2(correlation: Any) -> Any:
    """``3 rho sqrt(1 - rho^2) + (pi - acos rho)(1 + 2 rho^2)``, which vanishes like (1 + rho)^(5/2) at rho = -1."""
    return _second(correlation)


def _angle_from_opposite(correlation: Any) -> Any:
    return 2 * atan2(sqrt(1 + correlation), sqrt(1 - correlation))


def _arc_cosine_1(correlation: Any) -> Any:
    angle = angle_from_opposite(correlation)
    small = minimum(angle, 1.0)
    near = small**3 * _series(_SECTOR, small * small)
    return choose(angle < 1, near, sqrt((1 - correlation) * (1 + correlation)) + angle * correlation)


def _arc_cosine_2(correlation: Any) -> Any:
    angle = angle_from_opposite(correlation)
    double = minimum(2 * angle, 2.0)
    near = double**5 * _series(_WEDGE, double * double)
    far = 3 * correlation * sqrt((1 - correlation) * (1 + correlation)) + angle * (1 + 2 * correlation * correlation)
    return choose(2 * angle < 2, near, far)


_angle = _with_slope(_angle_from_opposite, lambda rho: 1 / sqrt((1 - rho) * (1 + rho)))
_first = _with_slope(_arc_cosine_1, angle_from_opposite)
_second = _with_slope(_arc_cosine_2, lambda rho: 4 * arc_cosine_1(rho))


_SERIES_BEGINS = 20.0
# Stirling's series beyond its leading terms: at 20 the first term left out is below 2e-15.
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680)


def log_rise(z: Any, n: Any) -> Any:
    """``lgamma(z + n) - lgamma(z) - n log z``, without the cancellation of large z."""
    near, far = minimum(z, _SERIES_BEGINS), maximum(z, _SERIES_BEGINS)
    series = sum(c * ((far + n) ** (1 - 2 * k) - far ** (1 - 2 * k)) for k, c in enumerate(_STIRLING, 1))
    large = (far + n - 0.5) * log1p(n / far) - n + series
    return choose(z < _SERIES_BEGINS, lgamma(near + n) - lgamma(near) - n * log(near), large)


def gamma_ratio(start: Any, extra: Any, count: Any) -> Any:
    """``G(count + start + extra) G(start) / (G(start + extra) G(count + start))``, G the Gamma function."""
    return exp(count * log1p(extra / start) + log_rise(start + extra, count) - log_rise(start, count))


def partial_moments(t: Any) -> tuple[Any, Any, Any]:
    r"""``E max(Z - t, 0)^n`` of a standard normal variable for n = 1, 2 and 4.

    Below t = 2 the textbook forms lose at most two digits. Beyond, h_n = E max(Z - t, 0)^n / n! obeys
    n h_n = h_{n-2} - t h_{n-1}, and the ratios h_n / h_{n-1} follow from above, where every term is positive.
    """
    height, tail = density(t), upper_tail(t)
    t2 = t * t
    first = height - t * tail
    second = (1 + t2) * tail - t * height
    fourth = (3 + 6 * t2 + t2 * t2) * tail - (5 * t + t * t2) * height
    far = -minimum(-t, -_TAIL_BEGINS)  # max(t, 2), so that the branch that is not taken stays finite
    ratio = 0.0 * far
    product = [ratio] * 5
    for n in range(_TAIL_TERMS, -1, -1):
        ratio = 1 / (far + (n + 1) * ratio)
        if n < 5:
            product[n] = ratio
    height_far = density(far)
    r0, r1, r2, r3, r4 = product
    return (
        choose(t < _TAIL_BEGINS, first, height_far * r0 * r1),
        choose(t < _TAIL_BEGINS, second, 2 * height_far * r0 * r1 * r2),
        choose(t < _TAIL_BEGINS, fourth, 24 * height_far * r0 * r1 * r2 * r3 * r4),
    )


def gelu_pair(a: Any, b: Any, r: Any) -> Any:
    """``E gelu(x) gelu(y)`` for variances a, b and correlation r.

    At positive correlation all terms are positive. At negative correlation and large variance the angle and the square root
    cancel; there their difference x - atan x is taken from its series.
    """
    scale, share, rest, inverses = _of_gelu(a, b, r)
    c, root = r * scale, sqrt(1 + a) * sqrt(1 + b) * rest
    near = c * atan2(root, -c) + scale * share / rest * ((1 - r) * (1 + r) + r * r * inverses)
    size = -minimum(-abs(c), -root)  # max(|c|, root)
    x = root / size
    small = minimum(x, 0.25)
    gap = choose(x < 0.25, small**3 * _series(_ARC, small * small), x - atan(x))
    far = size * gap + 1 / root - inverses * root
    return choose((c < 0) & (root < size), far, near) / (2 * pi)


def gelu_derivative_pair(a: Any, b: Any, r: Any) -> Any:
    """``E gelu'(x) gelu'(y)`` for variances a, b and correlation r."""
    scale, share, rest, inverses = _of_gelu(a, b, r)
    c, root = r * scale, sqrt(1 + a) * sqrt(1 + b) * rest
    return (atan2(root, -c) + r * share / rest * (inverses + 1 / (1 + a) / (1 + b) / rest**2)) / (2 * pi)


def _of_gelu(a: Any, b: Any, r: Any) -> tuple[Any, Any, Any, Any]:
    """sqrt(a b), that over sqrt((1 + a)(1 + b)), sqrt(1 - c^2 / ((1 + a)(1 + b))) and 1/(1 + a) + 1/(1 + b).

    No product of the variances themselves, which overflows from 1e154, and no difference.
    """
    over_a, over_b, of_a, of_b = 1 / (1 + a), 1 / (1 + b), a / (1 + a), b / (1 + b)
    rest = sqrt(over_a * over_b + of_a * over_b + over_a * of_b + of_a * of_b * (1 - r) * (1 + r))
    return sqrt(a) * sqrt(b), sqrt(of_a) * sqrt(of_b), rest, over_a + over_b
