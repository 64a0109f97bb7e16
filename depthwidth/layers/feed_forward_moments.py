"""Gaussian moments of the hidden features of a feed-forward part, from tables of its activation."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..formulas.finite_width import (
    correlation_spread,
    gated_common_kurtosis,
    gated_kurtosis,
    gated_slope_kurtosis,
    pair_kurtosis,
    radial_share,
    two_sided_mean,
)
from ..numerics.interpolation import Table, TableFamily
from ..signal import AnySignal, DrawSpread, Number, TokenSignal, Trace, quotient

if TYPE_CHECKING:
    from .activations import Activation


class Unit(NamedTuple):
    """One factor of a hidden feature, a function f of a Gaussian input u."""

    third: Number
    """E f^3 / (E f^2 E f)"""
    common: Number
    """E f^2 f'^2 / (E f^2 E f'^2)"""
    kurtosis: Number
    slope_kurtosis: Number
    growth: Number
    """E u f f' / E f^2"""
    slopes: Number
    """Var(u) E f'^2 / E f^2"""

    @classmethod
    def of(cls, tables: TableFamily, variance: Number) -> Unit:
        """That of an activation whose input has this variance."""
        second, slope, *_, third, common, kurtosis, slope_kurtosis, growth = tables(variance, 0.0)
        return cls(third, common, kurtosis, slope_kurtosis, growth, quotient(variance * slope, second))


LINEAR = Unit(3.0, 1.0, 3.0, 1.0, 1.0, 1.0)
"""A factor that is the Gaussian itself."""


def hidden_spread(x: AnySignal, ratio: float, unit: Unit, other: Unit | None) -> DrawSpread:
    """The spread of the output's size that follows from the kurtoses of the hidden features and of their derivative.

    Parameters
    ----------
    x : moments of the input.
    ratio : hidden features for each feature of the stream.
    unit, other : the factors of a hidden feature; `other` is None without a gate.
    """
    if other is None:
        third, kurtosis, common, even = unit.third, unit.kurtosis, unit.common, 1.0
        slope_kurtosis, growth, slopes = unit.slope_kurtosis, unit.growth, unit.slopes
    else:
        share = unit.slopes / other.slopes
        third, kurtosis = gated_kurtosis.body(unit.third, other.third), gated_kurtosis.body(unit.kurtosis, other.kurtosis)
        common = gated_common_kurtosis.body(unit.common, unit.kurtosis, share, other.kurtosis, other.common)
        slope_kurtosis = gated_slope_kurtosis.body(
            unit.slope_kurtosis, unit.common, unit.kurtosis, share, other.kurtosis, other.common, other.slope_kurtosis
        )
        growth, slopes, even = unit.growth + other.growth, unit.slopes + other.slopes, (share**2 + 1) / (share + 1) ** 2
    size, covariance = x.averages
    pairs = pair_kurtosis.body(third, kurtosis, quotient(covariance, size))
    radial = radial_share.body(growth, slopes)
    return DrawSpread.of_matrices(ratio, kurtosis, slope_kurtosis, None, pairs, common, radial, growth, even)


class HiddenMoments(NamedTuple):
    """Moments of the hidden features after an activation or a gated product, and its factors on the moments of a gradient.

    Names with `pair` refer to two different tokens, the others to one.
    """

    second_moment: Number
    pair: Number
    gate_gradient: Number
    gate_gradient_pair: Number
    mean: Number
    linear_gradient: Number = 0.0
    linear_gradient_pair: Number = 0.0


def hidden_moments(
    name: str,
    gate: AnySignal,
    linear: AnySignal | None,
    width: float,
    tables: TableFamily,
    other: tuple[str, TableFamily] | None = None,
) -> HiddenMoments:
    """Moments of f(gate), or of f(gate) times an independent `linear` signal for a gated unit, or times an activation of it.

    In a single network the correlation of two tokens deviates from its mean, by as much as that of `width` Gaussian features
    (:func:`~depthwidth.formulas.finite_width.correlation_spread`). Pair moments are curved functions of it, those of gated
    units most: they are averaged over one standard deviation to either side
    (:func:`~depthwidth.formulas.finite_width.two_sided_mean`).

    Parameters
    ----------
    name : the name of the activation f.
    gate, linear : moments of the activation's input and of the other factor; `linear` is None without a gate.
    width : number of features that a correlation averages over; infinite without corrections for finite width.
    tables : the tables of the activation, from :func:`activation_tables`.
    other : the name and the tables of an activation of `linear`; None for none.
    """
    second, slope, mean, pairs, step = _activation_moments(name, gate, width, tables)
    pair, slope_pair = (_average(values) for values in zip(*pairs, strict=True))
    if linear is None:
        return HiddenMoments(second, pair, slope, slope_pair, mean)
    if other is not None:
        v, v_slope, v_mean, v_pairs, _ = _activation_moments(other[0], linear, width, other[1])
        values = [
            _average([one[k] * two[m] for one, two in zip(pairs, v_pairs, strict=True)]) for k, m in ((0, 0), (1, 0), (0, 1))
        ]
        return HiddenMoments(second * v, values[0], slope * v, values[1], mean * v_mean, second * v_slope, values[2])
    v, c = linear.second_moment, linear.covariance
    shift = linear.pair_second_moment * step
    products = [c + shift, c - shift] if len(pairs) == 2 else [c]
    both, slopes = (_average([product * values[k] for product, values in zip(products, pairs, strict=True)]) for k in (0, 1))
    return HiddenMoments(second * v, both, slope * v, slopes, 0.0, second, pair)


def _activation_moments(name: str, x: AnySignal, width: float, tables: TableFamily) -> tuple[Any, Any, Any, list[Any], Number]:
    """E f^2, E f'^2 and E f; the two pair moments at each side of the correlation; and half the distance of the sides."""
    variances, rho = x.second_moment, x.correlation
    step = correlation_spread.body(rho, width)
    sides: Any = [rho + step, rho - step] if math.isfinite(width) else [rho]
    pairs: list[Any]
    if isinstance(x, TokenSignal) and not (x.positions.alike or _share_tables(name, variances)):
        from .activations import activation

        f, first, other = activation(name), x.first_second_moment, x.other_second_moment
        second, slope, mean = f.second_moment(variances), f.derivative_second_moment(variances), f.mean(variances)
        pairs = [
            (f.pair_moment(first, side, other_variance=other), f.derivative_pair_moment(first, side, other_variance=other))
            for side in (side.clip(-1.0, 1.0) for side in sides)
        ]
    else:
        second, slope, mean = tables(variances, 0.0, slice(3))
        # If two variances are nearly equal, moments at their geometric mean are right to second order in the difference; for a
        # power of x they are exact.
        if isinstance(x, TokenSignal) and len(sides) == 2:  # both at once
            import numpy as np

            positions, sides = x.positions, x.positions.once(np.array(sides))
            both = positions.twice(tables(positions.once(x.pair_second_moment), angle_of(sides), slice(3, 5)))
            pairs = [both[:, 0], both[:, 1]]
        else:
            pairs = [tables(x.pair_second_moment, angle_of(side), slice(3, 5)) for side in sides]
    return second, slope, mean, pairs, step


def _share_tables(name: str, variances: Any) -> bool:
    """True if the pair moments of two tokens of these variances are those at the geometric mean of theirs."""
    if variances.max() <= _ALIKE * variances.min():
        return True
    return bool(variances.min() > _WIDEST) and _growth_power(name) is not None


def _average(sides: Sequence[Number]) -> Number:
    """The mean over networks of a moment, given at both sides of the mean correlation or at the mean alone."""
    return two_sided_mean.body(*sides) if len(sides) == 2 else sides[0]


def angle_of(correlation: Number) -> Number:
    """The angle whose cosine is a correlation, which may exceed 1 by rounding."""
    if isinstance(correlation, float):
        return math.acos(min(1.0, max(-1.0, correlation)))
    import numpy as np

    return np.arccos(np.minimum(np.maximum(correlation, -1.0), 1.0))


def activation_tables(name: str, trace: Trace) -> TableFamily:
    """Gaussian moments of an activation over its input's variance and the angle whose cosine is the correlation of two inputs.

    Columns: E f^2, E f'^2, E f, E f(x) f(y), E f'(x) f'(y), the ratios E f^3 / (E f^2 E f) and E f^2 f'^2 / (E f^2 E f'^2), the
    kurtoses E f^4 / (E f^2)^2 and E f'^4 / (E f'^2)^2, and E x f f' / E f^2. As functions of the angle the moments are smooth,
    even if they have a square-root branch in the correlation.
    """
    return trace.family(("activation", name), functools.partial(_activation_table, name), _VARIANCE_STEP)


@functools.lru_cache(maxsize=16)
def _function(name: str) -> Activation:
    """The activation of tables, which keeps what it finds out about its integrals from one variance to the next."""
    from .activations import activation

    return activation(name)


@functools.lru_cache(maxsize=512)
def _activation_table(name: str, variance: float) -> Table:
    f = _function(name)

    def columns(angles: Any) -> Any:
        import numpy as np

        rho = np.cos(angles)
        both = _pair_columns(name, variance, rho)  # first: its integrals hold those of one token
        single = f.second_moment(variance), f.derivative_second_moment(variance), f.mean(variance)
        x = np.arange(-9.0, 9.0, 0.0625) + 0.03125  # no node at 0, where the slopes of some activations jump
        weights, inputs = np.exp(-x * x / 2), x * math.sqrt(variance)
        total = weights.sum()
        value, slope = f(inputs), f.derivative(inputs)
        largest = np.abs(value).max()
        growth = (weights @ (inputs * slope * value / largest)) / (weights @ (value * value / largest))
        value, slope = value / largest, slope / np.abs(slope).max()
        squares = value**2, slope**2
        kurtoses = [(weights @ s**2) * total / (weights @ s) ** 2 for s in squares]
        common = (weights @ (squares[0] * squares[1])) * total / (weights @ squares[0]) / (weights @ squares[1])
        # Of an odd activation, whose mean is 0, products of two tokens begin with the part that is linear in each.
        odd = abs(weights @ value) < _NO_MEAN * (weights @ np.abs(value))
        lowest = x * weights if odd else weights
        third = (lowest @ value**3) * total / (weights @ squares[0]) / (lowest @ value)
        columns = (*single, *both, third, common, *kurtoses, growth)
        return np.stack([np.broadcast_to(column, rho.shape) for column in columns], axis=-1)

    return Table(columns, 0.0, math.pi)


def _pair_columns(name: str, variance: float, rho: Any) -> tuple[Any, Any]:
    """E f(x) f(y) and E f'(x) f'(y) at the correlations of a table, the cosines of evenly spaced angles from 0 to pi."""
    f = _function(name)
    if variance <= _WIDE or {"pair_moment", "derivative_pair_moment"} <= set(f.closed_forms):
        return f.pair_moment(variance, rho), f.derivative_pair_moment(variance, rho)
    power = _growth_power(name) if variance > _WIDEST else None
    if power is None:
        return _circular_columns(name, variance, len(rho))
    value, slope = _circular_columns(name, _WIDEST, len(rho))
    grown = variance / _WIDEST
    value, slope = value * grown**power, slope * grown ** (power - 1)
    value[0], slope[0] = f.second_moment(variance), f.derivative_second_moment(variance)  # of a token with itself
    return value, slope


@functools.lru_cache(maxsize=64)
def _circular_columns(name: str, variance: float, count: int) -> tuple[Any, Any]:
    """The same by integrals on circles, which cost little for large variances; functions with kinks have none."""
    import numpy as np

    from ..numerics.circular_pairs import circular_pair_moments

    f = _function(name)
    rho = np.cos(np.linspace(0.0, math.pi, count))
    found = []
    for function, moment in ((f, f.pair_moment), (f.derivative, f.derivative_pair_moment)):
        pairs = None if f.expression.kinks else circular_pair_moments(function, variance, count)
        found.append(moment(variance, rho) if pairs is None else pairs)
    return found[0], found[1]


@functools.lru_cache(maxsize=64)
def _growth_power(name: str) -> float | None:
    """p, of at least 1, if f grows as the power p of x far from 0, on one side or on both; otherwise None."""
    f, powers = _function(name), []
    for side in (-1.0, 1.0):
        near, middle, far = (abs(float(f(side * x))) for x in (_FAR, 2 * _FAR, 4 * _FAR))
        if far:
            powers.append(math.log2(far / middle) if middle else math.inf)
            if not near or abs(far / middle / (middle / near) - 1) > _SAME_POWER:
                return None
    if not powers or max(powers) - min(powers) > _SAME_POWER or powers[0] < 1 - _SAME_POWER:
        return None
    return powers[0]


_WIDE, _WIDEST = 100.0, 1e5
"""Variances beyond which pair moments are integrated on a circle, and beyond which they are those of a power of x; at the
second SiLU differs from its limit by 1e-5, and the slopes of two nearly equal or opposite inputs by 1e-4."""
_FAR, _SAME_POWER = 1e4, 1e-6
_NO_MEAN = 1e-9
_ALIKE = 1.05
"""Largest ratio of two tokens' variances at which they share a table, with errors below 1e-4."""
_VARIANCE_STEP = 0.05
"""Step of the logarithm of a variance between tables; the error of interpolation between them is 1e-5."""
