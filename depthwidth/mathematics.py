"""Elementary functions that take floats, NumPy arrays, torch tensors, SymPy expressions and mpmath numbers alike.

A formula body written with these reads like the paper and runs on whatever it is given. The library is chosen by the type
of the arguments, so that no library is imported which the caller does not use already: plain numbers need only ``math``.
"""

from __future__ import annotations

import importlib
import math
import operator
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

# In order of precedence: a symbol among arrays makes the result symbolic, a tensor among arrays a tensor.
_LIBRARIES = ("sympy", "torch", "mpmath", "numpy")

# The library's name of each function, if it differs from ours.
_NAMES = {
    "numpy": {"asin": "arcsin", "acos": "arccos", "atan": "arctan"},
    "sympy": {"minimum": "Min", "maximum": "Max", "lgamma": "loggamma"},
    "mpmath": {"lgamma": "loggamma"},
}

# What NumPy lacks, under SciPy's name.
_SCIPY = {"erf": "erf", "lgamma": "gammaln", "digamma": "digamma"}


def library_of(*values: Any) -> str:
    """The library whose functions apply to `values`: ``sympy``, ``torch``, ``mpmath``, ``numpy`` or ``math``."""
    found = {type(value).__module__.partition(".")[0] for value in values}
    return next((name for name in _LIBRARIES if name in found), "math")


def _function(name: str) -> Callable[..., Any]:
    plain = getattr(math, name, None)

    def function(*values: Any) -> Any:
        if len(values) == 1 and type(values[0]) in (float, int) and plain is not None:
            return plain(values[0])  # by far the most calls
        library = library_of(*values)
        if library == "math" and any(isinstance(v, Constant) for v in values):
            return Constant(getattr(math, name)(*values), lambda: _lookup("sympy", name)(*map(_symbolic, values)))
        return _lookup(library, name)(*values)

    function.__name__ = name
    function.__doc__ = f"``{name}`` of a number, an array, a tensor or an expression."
    return function


def _lookup(library: str, name: str) -> Callable[..., Any]:
    if library == "numpy" and name in _SCIPY:
        import scipy.special

        return getattr(scipy.special, _SCIPY[name])  # type: ignore[no-any-return]
    module = math if library == "math" else _loaded(library)
    return getattr(module, _NAMES.get(library, {}).get(name, name))  # type: ignore[no-any-return]


def _loaded(library: str) -> Any:
    """The module of a library; only SymPy may not be imported yet, as constants take their digits from it."""
    return sys.modules.get(library) or importlib.import_module(library)


sqrt = _function("sqrt")
exp = _function("exp")
log1p = _function("log1p")
asin = _function("asin")
acos = _function("acos")
atan = _function("atan")
erf = _function("erf")
tanh = _function("tanh")
lgamma = _function("lgamma")
_ln = _function("log")


def log(x: Any, base: Any = None) -> Any:
    """Logarithm of `x` to `base`, natural by default."""
    return _ln(x) if base is None else _ln(x) / _ln(Constant.of(base))


def minimum(x: Any, y: Any) -> Any:
    """The smaller of `x` and `y`, element by element."""
    return _extreme("minimum", min, x, y)


def maximum(x: Any, y: Any) -> Any:
    """The larger of `x` and `y`, element by element."""
    return _extreme("maximum", max, x, y)


def _extreme(name: str, of_two: Callable[[Any, Any], Any], x: Any, y: Any) -> Any:
    library = library_of(x, y)
    if library in ("math", "mpmath"):
        return of_two(x, y)
    if library == "torch":
        torch = sys.modules["torch"]
        device = (x if isinstance(x, torch.Tensor) else y).device
        dtype = torch.result_type(x, y)  # a Python number takes the tensor's precision, not the default one
        x, y = (torch.as_tensor(v, dtype=dtype, device=device) for v in (x, y))
    if library == "sympy":
        x, y = _symbolic(x), _symbolic(y)
    return _lookup(library, name)(x, y)


def digamma(x: Any) -> Any:
    """Derivative of ln Gamma for x > 0; :func:`harmonic` is it plus Euler's constant.

    A plain number goes through the recurrence to x + 10 and eight terms of the asymptotic series there, right to a few units in
    the last place (a test compares with mpmath); other values through their own library.
    """
    library = library_of(x)
    if library != "math":
        return _lookup(library, "digamma")(x)
    y = 1 / (x + _AHEAD)
    series = sum(b / (2 * k) * y ** (2 * k) for k, b in enumerate(_BERNOULLI, 1))
    return math.log(x + _AHEAD) - y / 2 - series - sum(1 / (x + k) for k in range(_AHEAD))


def trigamma(x: Any) -> Any:
    """Derivative of :func:`digamma` for x > 0: the sum of 1/(x + k)^2 over k = 0, 1, ..."""
    library = library_of(x)
    if library == "sympy":
        return sys.modules["sympy"].trigamma(x)
    if library == "mpmath":
        return sys.modules["mpmath"].polygamma(1, x)
    if library == "numpy":
        import scipy.special

        return scipy.special.polygamma(1, x)
    y = 1 / (x + _AHEAD)  # torch's own is right to 1e-9 only
    series = sum(b * y ** (2 * k + 1) for k, b in enumerate(_BERNOULLI, 1))
    return y + y * y / 2 + series + sum((1 / (x + k)) ** 2 for k in range(_AHEAD))


_AHEAD = 10
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510)
"""B_2, B_4, ... B_16: at 10 the first term left out is below 1e-17."""


def harmonic(n: Any) -> Any:
    """Sum of 1/k over k = 1 to n, for any n > -1 by its continuation."""
    return digamma(n + 1) + euler_gamma


def harmonic_of_squares(n: Any) -> Any:
    """Sum of 1/k^2 over k = 1 to n."""
    return pi**2 / 6 - trigamma(n + 1)


def lambertw(z: Any) -> Any:
    """Principal branch W0 of the Lambert W function for z >= 0: the w >= 0 with ``w exp(w) = z``.

    SymPy and mpmath use their own. Numbers, arrays and tensors solve ``w + ln w = ln z`` by two steps of Halley's method, whose
    error falls with the third power, from a start within 0.6 %: a few units in the last place for every double (a test
    compares with mpmath).
    """
    library = library_of(z)
    if library == "sympy":
        return sys.modules["sympy"].LambertW(z)
    if library == "mpmath":
        return sys.modules["mpmath"].lambertw(z).real
    if library == "numpy" and getattr(z, "size", 1) > _BLOCK:
        # A block at a time, so that intermediate arrays stay in the processor's cache: three times quicker.
        numpy = sys.modules["numpy"]
        flat = numpy.ascontiguousarray(z, dtype=float).reshape(-1)
        result = numpy.empty_like(flat)
        for start in range(0, flat.size, _BLOCK):
            result[start : start + _BLOCK] = _lambertw(flat[start : start + _BLOCK])
        return result.reshape(z.shape)
    return _lambertw(z)


_BLOCK = 16384
_TINY = sys.float_info.min  # keeps W(0) = 0 without a division by zero


def _lambertw(z: Any) -> Any:
    # ln(1 + z) bounds W from above; this fraction of it, fitted to the least worst error, is within 0.6 % of W everywhere.
    u = log1p(z)
    w = u - u * u / (1.99391876 + u * (2.34507858 + u * 0.22117018))
    z = z + _TINY
    for _ in range(2):
        residual = log(z / (w + _TINY)) - w
        slope = 1 + w
        twice = slope + slope
        w = w + w * residual * twice / (twice * slope - residual)
    return w


def _symbolic(value: Any) -> Any:
    import sympy

    return value.symbolic() if isinstance(value, Constant) else sympy.sympify(value)


class Constant(float):
    """A float that remembers its exact symbolic form, so that ``2 * pi * x`` stays ``2*pi*x`` when x is a symbol.

    A formula body is written once and runs on numbers and symbols. With ``math.pi`` in it, ``Formula.expr`` and ``latex()``
    would show 6.28318530717959; with the dispatched library's own, every body would have to look that library up first. So
    ``pi`` is a float, which all numeric libraries take as it is, at no cost. Its arithmetic with SymPy objects, integers,
    fractions and other constants is carried along in SymPy, and with mpmath numbers in their working precision. `form` is a
    function, so that SymPy is loaded by symbols and by mpmath numbers only.
    ``Constant.of(3)`` is the integer 3 of a body that divides by it: ``1 / Constant.of(3)`` is 1/3 exactly.

    How it works: each arithmetic operator, in both orders, is replaced by :func:`_lifted`, which looks at the other operand:
    a SymPy object gets the exact form, an mpmath number the form's value in the working precision, an exact number makes a new
    constant, and anything else sees the plain float. ``_op_priority`` is SymPy's own protocol, by which ``Symbol * pi`` asks
    this class first; ``_mpf_`` is mpmath's, by which ``mpf(2) * pi`` reads the digits that it needs.

    >>> 2 * pi
    6.283185307179586
    >>> from sympy import Symbol
    >>> Symbol("q") / (2 * pi)
    q/(2*pi)
    """

    _form: Callable[[], Any]
    _op_priority = 11.0  # SymPy then leaves the operation to us instead of rounding to a Float

    def __new__(cls, value: float, form: Callable[[], Any]) -> Constant:
        """A constant of this value, whose exact expression `form` makes on demand."""
        self = super().__new__(cls, value)
        self._form = form
        return self

    @classmethod
    def of(cls, value: Any) -> Any:
        """`value` as a constant if it is a plain integer or fraction, otherwise `value` itself."""
        if type(value) in (int, Fraction):
            return cls(float(value), lambda: _symbolic(value))
        return value

    def symbolic(self) -> Any:
        """The exact SymPy expression."""
        return self._form()

    def __neg__(self) -> Constant:
        return Constant(-float(self), lambda: -_symbolic(self))

    @property
    def _mpf_(self) -> Any:
        import mpmath

        return mpmath.mp.convert(self._form()._to_mpmath(mpmath.mp.prec + _GUARD))._mpf_


_GUARD = 10
"""Bits beyond the working precision that a constant is given, so that its own rounding does not show."""


def _in_working_precision(value: Any) -> Any:
    return sys.modules["mpmath"].mp.make_mpf(value._mpf_) if isinstance(value, Constant) else value


def _lifted(operation: Callable[[Any, Any], Any], name: str, *, reflected: bool) -> Callable[[Constant, Any], Any]:
    plain: Callable[[float, Any], Any] = getattr(float, name)

    def method(self: Constant, other: Any) -> Any:
        a, b = (other, self) if reflected else (self, other)
        if library_of(other) == "sympy":
            return operation(_symbolic(a), _symbolic(b))
        if library_of(other) == "mpmath":
            return operation(_in_working_precision(a), _in_working_precision(b))
        if type(other) not in (int, Fraction, Constant):
            return plain(self, other)
        return Constant(operation(float(a), float(b)), lambda: operation(_symbolic(a), _symbolic(b)))

    return method


for _name in ("add", "sub", "mul", "truediv", "pow"):
    _operation: Callable[[Any, Any], Any] = getattr(operator, _name)
    setattr(Constant, f"__{_name}__", _lifted(_operation, f"__{_name}__", reflected=False))
    setattr(Constant, f"__r{_name}__", _lifted(_operation, f"__r{_name}__", reflected=True))


pi = Constant(math.pi, lambda: _loaded("sympy").pi)
e = Constant(math.e, lambda: _loaded("sympy").E)
euler_gamma = Constant(0.57721566490153286, lambda: _loaded("sympy").EulerGamma)
