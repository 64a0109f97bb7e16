"""Activations by name or as expressions in x, and their moments under Gaussian input.

>>> silu = activation("silu")
>>> round(silu.second_moment(1.0), 5)
0.35578
>>> activation("x*erf(x)/2").moments(1.0, 0.5).closed_form
False
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..errors import InputError, nearest, shown
from ..formula import Correlation, Domain, Formula, Positive, Real
from ..formulas import gaussian
from ..numerics.expressions import Expression, parse
from ..numerics.homogeneity import Place, Powers, raise_powers
from ..values import frozen
from .activation_entries import ACTIVATIONS, ActivationEntry, activation_entry, register_activation, trained_numbers

__all__ = ["ACTIVATIONS", "GATED", "Activation", "ActivationEntry", "activation", "gated", "register_activation"]

if TYPE_CHECKING:
    from ..numerics.gaussian_pairs import GaussianFunction

GATED = {"reglu": "relu", "geglu": "gelu", "swiglu": "silu", "glu": "sigmoid", "bilinear": "identity"}
"""The gated units f(u) v by name, each with the activation f of its gate."""

_QUANTITIES = ("mean", "second_moment", "pair_moment", "derivative_second_moment", "derivative_pair_moment")


@frozen
class Moments:
    """The moments of an activation f and of its derivative. Numbers, or arrays of one shape."""

    mean: Any
    """E f(x)"""
    second_moment: Any
    """E f(x)^2, not centred"""
    pair_moment: Any
    """E f(x) f(y), not centred"""
    derivative_second_moment: Any
    """E f'(x)^2"""
    derivative_pair_moment: Any
    """E f'(x) f'(y)"""
    closed_form: bool
    """True if all five come from formulas; otherwise some are integrals, accurate to 1e-10 of their scale."""

    @property
    def variance(self) -> Any:
        """E f^2 - (E f)^2."""
        return self.second_moment - self.mean**2

    @property
    def covariance(self) -> Any:
        """E f f - (E f)^2."""
        return self.pair_moment - self.mean**2

    @property
    def correlation(self) -> Any:
        """Covariance over variance: the correlation of two outputs."""
        return self.covariance / self.variance

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in asdict(self).items()}


@frozen
class GatedMoments:
    """The moments of a gated unit f(u) v and of its derivatives. Numbers, or arrays of one shape."""

    mean: Any
    """E f(u) v"""
    second_moment: Any
    """E (f(u) v)^2"""
    pair_moment: Any
    """E f(u) v f(u') v' over two tokens"""
    gate_gradient_second_moment: Any
    """E (f'(u) v)^2, of the derivative with respect to u"""
    gate_gradient_pair_moment: Any
    """E f'(u) v f'(u') v'"""
    linear_gradient_second_moment: Any
    """E f(u)^2, of the derivative with respect to v"""
    linear_gradient_pair_moment: Any
    """E f(u) f(u')"""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {key: value.tolist() if hasattr(value, "tolist") else value for key, value in asdict(self).items()}


class Activation:
    """An activation f: its value, exact derivative, SymPy form, and moments under Gaussian input. Made by :func:`activation`.

    All moments take numbers or NumPy arrays that broadcast, and return floats or arrays. Variances are positive, correlations
    are in [-1, 1], and `mean` (0 by default) is the mean of every input. A moment without a formula is integrated to 1e-10 of
    its scale: E f^2 for second moments, the square root of E f(x)^2 E f(y)^2 for products. An :class:`InputError` names the
    argument that is out of range, or says that the function has no finite moment.
    """

    def __init__(self, name: str, expression: Expression, closed: dict[str, Callable[..., Any]] | None = None) -> None:
        from ..numerics.gaussian_pairs import GaussianFunction

        self.name = name
        self.expression = expression
        self._closed = closed or {}
        kinks = expression.kinks
        self._value = GaussianFunction(expression, kinks, name)
        self._slope = GaussianFunction(expression.derivative, kinks, f"the derivative of {name}")

    def __repr__(self) -> str:
        return f"<activation {self.name}: {self.expression}>"

    def __call__(self, x: Any) -> Any:
        """The value f(x), a NumPy number or array."""
        return self.expression(x)

    def derivative(self, x: Any) -> Any:
        """The exact derivative f'(x); at a kink, one of its slopes or their mean."""
        return self.expression.derivative(x)

    @property
    def symbolic(self) -> Any:
        """The function as a SymPy expression in a real symbol x."""
        return self.expression.symbolic

    @property
    def closed_forms(self) -> tuple[str, ...]:
        """The names of the moments that have a formula at zero mean."""
        return tuple(self._closed)

    def mean(self, variance: Any, mean: Any = 0.0) -> Any:
        """E f(x) for x of this variance and mean."""
        return self._one_point("mean", self._value, 0, variance, mean)

    def second_moment(self, variance: Any, mean: Any = 0.0) -> Any:
        """E f(x)^2."""
        return self._one_point("second_moment", self._value, 1, variance, mean)

    def derivative_second_moment(self, variance: Any, mean: Any = 0.0) -> Any:
        """E f'(x)^2: the factor on the variance of a gradient in the backward pass."""
        return self._one_point("derivative_second_moment", self._slope, 1, variance, mean)

    def pair_moment(self, variance: Any, correlation: Any, mean: Any = 0.0, other_variance: Any = None) -> Any:
        """E f(x) f(y) for x and y of this correlation, and of equal variance unless `other_variance` is given."""
        return self._two_point("pair_moment", self._value, variance, correlation, mean, other_variance)

    def derivative_pair_moment(self, variance: Any, correlation: Any, mean: Any = 0.0, other_variance: Any = None) -> Any:
        """E f'(x) f'(y): the factor on the covariance of a gradient between two tokens in the backward pass."""
        return self._two_point("derivative_pair_moment", self._slope, variance, correlation, mean, other_variance)

    def moments(self, variance: Any, correlation: Any, mean: Any = 0.0) -> Moments:
        """All five moments, for two inputs of equal variance.

        Parameters
        ----------
        variance : of each input; positive.
        correlation : of the two inputs, in [-1, 1]; broadcasts against the variance.
        mean : of each input.

        Examples
        --------
        >>> m = activation("gelu").moments(1.0, 0.5)
        >>> [round(v, 5) for v in (m.mean, m.second_moment, m.pair_moment, m.variance)]
        [0.28209, 0.42522, 0.22729, 0.34564]
        """
        return Moments(
            self.mean(variance, mean),
            self.second_moment(variance, mean),
            self.pair_moment(variance, correlation, mean),
            self.derivative_second_moment(variance, mean),
            self.derivative_pair_moment(variance, correlation, mean),
            closed_form=all(self._has_formula(quantity, mean) for quantity in _QUANTITIES),
        )

    def _has_formula(self, quantity: str, mean: Any) -> bool:
        import numpy as np

        if quantity not in self._closed:
            return False
        return "mean" in _parameter_names(self._closed[quantity]) or not np.any(mean)

    def _one_point(self, quantity: str, function: GaussianFunction, order: int, variance: Any, mean: Any) -> Any:
        (a, mu), shape = _check_arguments(self.name, variance=(variance, Positive), mean=(mean, Real))
        if self._has_formula(quantity, mu):
            formula = self._closed[quantity]
            result = formula(a, mean=mu) if "mean" in _parameter_names(formula) else formula(a)
        else:
            result = function.moments(a, mu)[order]
        return _reshape(result, shape)

    def _two_point(
        self, quantity: str, function: GaussianFunction, variance: Any, correlation: Any, mean: Any, other_variance: Any
    ) -> Any:
        (a, b, rho, mu), shape = _check_arguments(
            self.name,
            variance=(variance, Positive),
            other_variance=(variance if other_variance is None else other_variance, Positive),
            correlation=(correlation, Correlation),
            mean=(mean, Real),
        )
        result = self._closed[quantity](a, b, rho) if self._has_formula(quantity, mu) else function.pair(a, b, rho, mu)
        return _reshape(result, shape)


class GatedActivation:
    """A gated unit f(u) v: the activation f of its gate, times a linear part. Made by :func:`gated`."""

    def __init__(self, name: str, gate: Activation) -> None:
        from ..numerics.gaussian_pairs import GaussianFunction

        self.name = name
        self.gate = gate
        kinks = gate.expression.kinks
        self._value = GaussianFunction(lambda x: x * gate(x), kinks, f"x times {gate.name}")
        self._slope = GaussianFunction(lambda x: x * gate.derivative(x), kinks, f"x times the derivative of {gate.name}")

    def __repr__(self) -> str:
        return f"<gated unit {self.name}: f(u) v with f(x) = {self.gate.expression}>"

    def moments(self, variance: Any, linear_variance: Any, correlation: Any, gate_correlation: Any = 0.0) -> GatedMoments:
        """The moments of f(u) v and of its gradients, for two tokens of equal variance and zero mean.

        Parameters
        ----------
        variance : of u, the gate's input; positive.
        linear_variance : of v; positive.
        correlation : between two tokens, the same for u and for v, in [-1, 1].
        gate_correlation : between u and v of one token; 0 by default, for separate weights.

        Notes
        -----
        With s the gate correlation, v = s sqrt(b/a) u + sqrt(1 - s^2) v0, and v0 is independent of the gate. Every moment is
        therefore a sum of a moment of f(u) and one of u f(u).

        Examples
        --------
        >>> m = gated("swiglu").moments(1.0, 1.0, 0.5)
        >>> round(m.second_moment, 5), round(m.gate_gradient_second_moment, 5)
        (0.35578, 0.37948)
        """
        (a, b, rho, s), shape = _check_arguments(
            self.name,
            variance=(variance, Positive),
            linear_variance=(linear_variance, Positive),
            correlation=(correlation, Correlation),
            gate_correlation=(gate_correlation, Correlation),
        )
        gate, zero = self.gate, 0.0 * a
        value, slope = gate.second_moment(a), gate.derivative_second_moment(a)
        value_pair, slope_pair = gate.pair_moment(a, rho), gate.derivative_pair_moment(a, rho)
        correlated = bool(s.any())
        # The contribution of the part of v along u: E (u f)^2 and the like, over a.
        along = {
            "value": self._value.moments(a, zero)[1] / a if correlated else zero,
            "slope": self._slope.moments(a, zero)[1] / a if correlated else zero,
            "value_pair": self._value.pair(a, a, rho, zero) / a if correlated else zero,
            "slope_pair": self._slope.pair(a, a, rho, zero) / a if correlated else zero,
        }
        share = s * s
        mean = s * (b / a) ** 0.5 * self._value.moments(a, zero)[0] if correlated else zero
        return GatedMoments(
            *(
                _reshape(result, shape)
                for result in (
                    mean,
                    b * (share * along["value"] + (1 - share) * value),
                    b * (share * along["value_pair"] + (1 - share) * rho * value_pair),
                    b * (share * along["slope"] + (1 - share) * slope),
                    b * (share * along["slope_pair"] + (1 - share) * rho * slope_pair),
                    value,
                    value_pair,
                )
            )
        )


def _parameter_names(formula: Callable[..., Any]) -> tuple[str, ...]:
    inner = formula.func if isinstance(formula, functools.partial) else formula
    return tuple(inner.parameters) if isinstance(inner, Formula) else ()


def _check_arguments(name: str, **arguments: tuple[Any, Any]) -> tuple[list[Any], tuple[int, ...]]:
    """The arguments as flat float arrays of one length, and the shape to which they broadcast."""
    import numpy as np

    arrays = []
    for key, (value, kind) in arguments.items():
        domain: Domain = kind.__metadata__[0]
        try:
            array = np.asarray(value)
            if array.dtype.kind not in "iuf":
                raise TypeError
            array = array.astype(float)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"{name}: {key}={shown(value)} is not a number or an array of numbers") from error
        inside = domain.contains(array) & np.isfinite(array)
        if not inside.all():
            raise InputError(f"{name}: {key}={array[~inside].flat[0]} is outside {domain}")
        arrays.append(array)
    try:
        joint = np.broadcast_arrays(*arrays)
    except ValueError as error:
        shapes = ", ".join(f"{key} {array.shape}" for key, array in zip(arguments, arrays, strict=True))
        raise InputError(f"{name}: the shapes of its arguments do not fit together ({shapes})") from error
    return [array.reshape(-1) for array in joint], joint[0].shape


def _reshape(result: Any, shape: tuple[int, ...]) -> Any:
    import numpy as np

    array = np.broadcast_to(np.asarray(result, dtype=float), (math.prod(shape),)).reshape(shape)
    return float(array) if array.ndim == 0 else array


def _closed_forms(name: str, **fixed: float) -> dict[str, Callable[..., Any]]:
    """The closed forms that :mod:`depthwidth.formulas.gaussian` has for an activation."""
    forms: dict[str, Callable[..., Any]] = {}
    for quantity in _QUANTITIES:
        formula = getattr(gaussian, f"{name}_{quantity}", None)
        if formula is not None:
            forms[quantity] = functools.partial(formula, **fixed) if fixed else formula
    return forms


def activation(name: str, slope: float | None = None) -> Activation:
    """The activation with this name, or the one that an expression in x defines.

    Parameters
    ----------
    name : a name of :data:`ACTIVATIONS` or its spelling in configurations, such as gelu_new and swish, or an expression in x
        that :func:`depthwidth.numerics.expressions.parse` reads, such as ``x*erf(x)/2``.
    slope : the slope of leaky_relu below zero, 0.01 by default. No other activation takes one.

    Raises
    ------
    InputError
        if it is neither. The text is never executed.

    Examples
    --------
    >>> activation("gelu").closed_forms
    ('mean', 'second_moment', 'pair_moment', 'derivative_second_moment', 'derivative_pair_moment')
    >>> round(activation("max(x, 0.1*x)").pair_moment(1.0, 0.5), 5)
    0.29664
    """
    entry = activation_entry(name) if isinstance(name, str) and name.isidentifier() and name != "x" else None
    key = "" if entry is None else entry.name
    if slope is not None and key != "leaky_relu":
        raise InputError(f"only leaky_relu takes a slope, not {shown(name)}")
    if key == "leaky_relu":
        return _leaky_relu(0.01 if slope is None else slope)
    if entry is not None:
        return Activation(key, parse(entry.expression), _closed_forms(key))
    if isinstance(name, str) and name in GATED:
        raise InputError(f"{name} is a gated unit of two inputs: use gated({name!r}), or its gate {GATED[name]!r}")
    if isinstance(name, str) and name.isidentifier() and name != "x":
        aliases = [alias for one in ACTIVATIONS.values() for alias in one.aliases]
        known = [*ACTIVATIONS, *aliases, *GATED]
        names = ", ".join(ACTIVATIONS)
        raise InputError(f"there is no activation {shown(name)}{nearest(name, known)}; known are {names} and expressions in x")
    expression = parse(name)
    return Activation(expression.text, expression)


@functools.lru_cache(maxsize=64)
def homogeneous_degree(name: str) -> float | None:
    """The k with f(c x) = c^k f(x) for every c > 0, of an activation by name or as an expression; None if there is none.

    It is determined from values at seven sizes on both sides of 0.

    >>> [homogeneous_degree(name) for name in ("relu", "relu2", "identity", "gelu", "max(x, 0.1*x)")]
    [1.0, 2.0, 1.0, None, 1.0]
    """
    import numpy as np

    f, size = activation(name), 2.0 ** np.arange(-6, 7, 2)
    powers = []
    for sign in (1.0, -1.0):
        values = np.asarray(f(sign * size), dtype=float)
        if not values.any():
            continue
        if not (values.all() and (np.sign(values) == np.sign(values[0])).all()):
            return None
        slopes = np.diff(np.log2(np.abs(values))) / 2
        if np.ptp(slopes) > 1e-9:
            return None
        powers.append(round(float(slopes.mean()), 9))
    return powers[0] if powers and len(set(powers)) == 1 else None


def activated_degree(name: str, x: Powers, at: Place) -> Powers:
    """The powers after an activation: multiplied by its degree, or zero for one that is not homogeneous, on that condition."""
    reason = f"{name} is not homogeneous"
    if names := trained_numbers(name):
        at.require({**x, **{f"{at.path}.activation.{one}": 1 for one, _ in names}}, reason)
        return {}
    degree = homogeneous_degree(name)
    return at.apply("gelu", x, reason=reason) if degree is None else raise_powers(x, degree)


def _leaky_relu(slope: float) -> Activation:
    if isinstance(slope, bool) or not isinstance(slope, (int, float)) or not -1e100 < slope < 1e100:
        raise InputError(f"leaky_relu: slope={shown(slope)} is not a number")
    sign, size = ("-", slope) if slope >= 0 else ("+", -slope)
    expression = parse(f"relu(x) {sign} {float(size)!r}*relu(-x)")
    return Activation("leaky_relu", expression, _closed_forms("leaky_relu", slope=float(slope)))


def gated(name: str) -> GatedActivation:
    """The gated unit f(u) v with this name (reglu, geglu, swiglu, glu, bilinear), or the one whose gate has this name.

    Raises
    ------
    InputError
        if it is neither.

    Examples
    --------
    >>> gated("geglu")
    <gated unit geglu: f(u) v with f(x) = x*Phi(x)>
    """
    gate = GATED.get(name, name) if isinstance(name, str) else name
    return GatedActivation(name if isinstance(name, str) else "gated", activation(gate))
