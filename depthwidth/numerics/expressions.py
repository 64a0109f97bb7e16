"""Functions of x typed by a user: read by a small parser of its own, never executed, exact in value and derivative.

``parse("x * erf(x) / 2")`` gives an :class:`Expression`: a NumPy function, its exact derivative, its SymPy form, and the
points where it has a kink. What is not made of numbers, x, ``+ - * / ^ **``, brackets and the functions of :data:`FUNCTIONS`
is refused with one sentence.
"""

from __future__ import annotations

import functools
import math
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, nearest, shown

MAX_LENGTH = 1000
MAX_DEPTH = 40
MAX_HEIGHT = 120
"""No sum or product chains more terms than this."""
MAX_POWER = 64
"""Of nested powers, the product of their exponents stays below this."""
MAX_CONSTANT = 1e100


@dataclass(frozen=True)
class Function:
    """One function that an expression may use: its value, its derivative and its SymPy form."""

    value: Callable[[Any], Any]
    slope: Callable[[Any], Any]
    symbolic: Callable[[Any], Any]
    kink: bool = False
    """Whether it is not smooth where its argument is zero."""


def _numpy() -> Any:
    import numpy

    return numpy


def _special() -> Any:
    import scipy.special

    return scipy.special


def _sympy() -> Any:
    import sympy

    return sympy


def _density(u: Any) -> Any:
    return _numpy().exp(-u * u / 2) / math.sqrt(2 * math.pi)


def _of_numpy(name: str, slope: Callable[[Any], Any], symbolic: str = "") -> Function:
    return Function(lambda u: getattr(_numpy(), name)(u), slope, lambda u: getattr(_sympy(), symbolic or name)(u))


def _sigmoid(u: Any) -> Any:
    """1/(1 + exp(-u)) without overflow: SciPy's is no quicker, and takes a tenth of a second to load."""
    np = _numpy()
    small = np.exp(-np.abs(u))
    return np.where(np.asarray(u) >= 0, 1.0, small) / (1 + small)


def _sigmoid_slope(u: Any) -> Any:
    return _sigmoid(u) * _sigmoid(-u)


FUNCTIONS: dict[str, Function] = {
    "exp": _of_numpy("exp", lambda u: _numpy().exp(u)),
    "log": _of_numpy("log", lambda u: 1 / u),
    "sqrt": _of_numpy("sqrt", lambda u: 0.5 / _numpy().sqrt(u)),
    "sin": _of_numpy("sin", lambda u: _numpy().cos(u)),
    "cos": _of_numpy("cos", lambda u: -_numpy().sin(u)),
    "sinh": _of_numpy("sinh", lambda u: _numpy().cosh(u)),
    "cosh": _of_numpy("cosh", lambda u: _numpy().sinh(u)),
    "tanh": _of_numpy("tanh", lambda u: 1 / _numpy().cosh(_numpy().clip(u, -300, 300)) ** 2),
    "atan": _of_numpy("arctan", lambda u: 1 / (1 + u * u), "atan"),
    "asinh": _of_numpy("arcsinh", lambda u: 1 / _numpy().sqrt(1 + u * u), "asinh"),
    "erf": Function(
        lambda u: _special().erf(u), lambda u: 2 / math.sqrt(math.pi) * _numpy().exp(-u * u), lambda u: _sympy().erf(u)
    ),
    # the normal distribution function, without loss in its lower tail
    "Phi": Function(
        lambda u: _special().ndtr(u), _density, lambda u: (1 + _sympy().erf(u / _sympy().sqrt(2))) / 2
    ),
    "sigmoid": Function(_sigmoid, _sigmoid_slope, lambda u: 1 / (1 + _sympy().exp(-u))),
    "softplus": Function(
        lambda u: _numpy().logaddexp(0, u), _sigmoid, lambda u: _sympy().log(1 + _sympy().exp(u))
    ),
    "relu": Function(
        lambda u: _numpy().maximum(u, 0), lambda u: (u > 0) * 1.0, lambda u: _sympy().Max(0, u), kink=True
    ),
    "abs": Function(lambda u: _numpy().abs(u), lambda u: _numpy().sign(u), lambda u: _sympy().Abs(u), kink=True),
    "sign": Function(lambda u: _numpy().sign(u), lambda u: 0.0 * u, lambda u: _sympy().sign(u), kink=True),
    "heaviside": Function(
        lambda u: _numpy().heaviside(u, 0.5), lambda u: 0.0 * u, lambda u: _sympy().Heaviside(u, _sympy().S.Half), kink=True
    ),
}  # fmt: skip
"""What an expression may call. The slope of a step is zero: it is taken everywhere but at the jump."""

_ALIASES = {"ln": "log", "tan_h": "tanh", "Abs": "abs", "Heaviside": "heaviside", "step": "heaviside", "logistic": "sigmoid",
            "arctan": "atan", "arcsinh": "asinh", "ReLU": "relu"}  # fmt: skip
_CONSTANTS = {"pi": math.pi, "e": math.e}
_PAIRS = ("max", "min")
_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|([A-Za-z_]\w*)|(\*\*|[-+*/^(),]))", re.ASCII)


@dataclass(frozen=True)
class _Node:
    """A number, x, an operation or a call. `constant` is the value where no x occurs; `power` bounds nested exponents."""

    kind: str
    parts: tuple[_Node, ...] = ()
    text: str = ""
    constant: float | None = None
    power: float = 1.0
    height: int = 1


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = self._split(text)
        self.at = 0
        self.depth = 0

    def refuse(self, reason: str) -> InputError:
        return InputError(f"the expression {shown(self.text)} {reason}")

    def _split(self, text: str) -> list[tuple[str, str]]:
        tokens, at, end = [], 0, len(text.rstrip())
        while at < end:
            match = _TOKEN.match(text, at)
            if match is None:
                wrong = text[at:].strip()[:1]
                raise self.refuse(f"holds {wrong!r}; it may use numbers, x, + - * / ^, brackets and functions")
            kind = ("number", "name", "sign")[(match.lastindex or 1) - 1]
            tokens.append((kind, match.group(match.lastindex or 1)))
            at = match.end()
        return tokens

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> tuple[str, str]:
        if self.at >= len(self.tokens):
            raise self.refuse("ends too early" + (f", before {expected!r}" if expected else ""))
        token = self.tokens[self.at]
        if expected and token[1] != expected:
            raise self.refuse(f"has {token[1]!r} where {expected!r} was expected")
        self.at += 1
        return token

    def whole(self) -> _Node:
        if not self.tokens:
            raise self.refuse("is empty; a function of x was expected, as x*erf(x)/2")
        node = self.sum()
        if self.at < len(self.tokens):
            raise self.refuse(f"has {self.peek()!r} where an operator or the end was expected")
        if node.constant is not None:
            raise self.refuse("is not a function of x")
        return node

    def sum(self) -> _Node:
        node = self.product()
        while self.peek() in ("+", "-"):
            sign = self.take()[1]
            node = self.combine(sign, node, self.product())
        return node

    def product(self) -> _Node:
        node = self.signed()
        while self.peek() in ("*", "/"):
            sign = self.take()[1]
            node = self.combine(sign, node, self.signed())
        return node

    def signed(self) -> _Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.refuse(f"is nested deeper than {MAX_DEPTH} levels")
        if self.peek() == "-":
            self.take()
            node = self.combine("neg", self.signed())
        elif self.peek() == "+":
            self.take()
            node = self.signed()
        else:
            node = self.raised()
        self.depth -= 1
        return node

    def raised(self) -> _Node:
        base = self.atom()
        if self.peek() in ("^", "**"):
            self.take()
            return self.combine("^", base, self.signed())
        return base

    def atom(self) -> _Node:
        kind, text = self.take()
        if kind == "number":
            if len(text) > 40:
                raise self.refuse("holds a number of more than 40 characters")
            return self.bounded(_Node("number", text=text, constant=float(text)))
        if text == "(":
            node = self.sum()
            self.take(")")
            return node
        if kind == "name":
            return self.named(text)
        raise self.refuse(f"has {text!r} where a number, x, a function or a bracket was expected")

    def named(self, text: str) -> _Node:
        if text == "x":
            return _Node("x")
        if text in _CONSTANTS:
            return _Node(text, constant=_CONSTANTS[text])
        name = _ALIASES.get(text, text)
        if name not in FUNCTIONS and name not in _PAIRS:
            known = [*FUNCTIONS, *_PAIRS]
            raise self.refuse(f"uses {shown(text)}{nearest(text, known)}; it may use x, pi, e and {', '.join(known)}")
        self.take("(")
        parts = [self.sum()]
        while self.peek() == ",":
            self.take()
            parts.append(self.sum())
        self.take(")")
        if name in _PAIRS:
            if len(parts) < 2:
                raise self.refuse(f"gives {name} one argument; it takes two or more")
            node = parts[0]
            for part in parts[1:]:
                node = self.combine(name, node, part)
            return node
        if len(parts) != 1:
            raise self.refuse(f"gives {name} {len(parts)} arguments; it takes one")
        return self.combine(name, parts[0])

    def combine(self, kind: str, *parts: _Node) -> _Node:
        power = max(part.power for part in parts)
        if kind == "*":
            power = sum(part.power for part in parts if part.constant is None) or 1.0
        if kind == "^":
            base, exponent = parts
            if exponent.constant is None:
                if base.constant is None or base.constant <= 0:
                    raise self.refuse("raises to a power that depends on x; only a positive number can be, otherwise use exp")
            else:
                power = base.power * max(1.0, abs(exponent.constant))
                if abs(exponent.constant) > MAX_POWER:
                    raise self.refuse(f"has an exponent beyond {MAX_POWER}")
        if power > MAX_POWER:
            raise self.refuse(f"has powers of powers beyond the {MAX_POWER}th")
        height = 1 + max(part.height for part in parts)
        if height > MAX_HEIGHT:
            raise self.refuse(f"chains more than {MAX_HEIGHT} operations")
        node = _Node(kind, parts, power=power, height=height)
        if all(part.constant is not None for part in parts):
            with _quiet():
                try:
                    value = float(_value(node, 0.0))
                except (ArithmeticError, ValueError, TypeError):
                    value = math.nan
            node = self.bounded(_Node(kind, parts, constant=value, height=height))
        return node

    def bounded(self, node: _Node) -> _Node:
        value = node.constant
        if value is None or not math.isfinite(value) or abs(value) > MAX_CONSTANT or 0 < abs(value) < 1 / MAX_CONSTANT:
            raise self.refuse("holds a constant that is not a real number between 1e-100 and 1e100 in size")
        return node


def _quiet() -> Any:
    return _numpy().errstate(all="ignore")


def _value(node: _Node, x: Any) -> Any:
    return _BY_KIND[node.kind](node, x, False)[0]


def _dual(node: _Node, x: Any) -> tuple[Any, Any]:
    return _BY_KIND[node.kind](node, x, True)


def _evaluate_constant(node: _Node, x: Any, slope: bool) -> tuple[Any, Any]:
    return (float(node.text) if node.kind == "number" else _CONSTANTS[node.kind]), 0.0


def _evaluate_binary(node: _Node, x: Any, slope: bool) -> tuple[Any, Any]:
    (u, du), (v, dv) = (_BY_KIND[part.kind](part, x, slope) for part in node.parts)
    numpy = _numpy()
    if node.kind == "+":
        return u + v, du + dv
    if node.kind == "-":
        return u - v, du - dv
    if node.kind == "*":
        return u * v, (u * dv + du * v if slope else 0.0)
    if node.kind == "/":
        u, v = numpy.float64(u), numpy.float64(v) if isinstance(v, float) else v
        return u / v, ((du - u / v * dv) / v if slope else 0.0)
    larger = (u > v) == (node.kind == "max")
    return numpy.where(larger, u, v), (numpy.where(larger, du, dv) if slope else 0.0)


def _evaluate_power(node: _Node, x: Any, slope: bool) -> tuple[Any, Any]:
    base, exponent = node.parts
    u, du = _BY_KIND[base.kind](base, x, slope)
    numpy = _numpy()
    if exponent.constant is not None:
        p = exponent.constant
        u = numpy.float64(u) if isinstance(u, float) else u
        value = u * u if p == 2 else u * u * u if p == 3 else u**p
        if not slope or p == 0:
            return value, 0.0 * du
        return value, (2 * u * du if p == 2 else p * u ** (p - 1) * du)
    v, dv = _BY_KIND[exponent.kind](exponent, x, slope)
    value = numpy.exp(math.log(base.constant or 1.0) * v)
    return value, value * math.log(base.constant or 1.0) * dv


def _evaluate_negative(node: _Node, x: Any, slope: bool) -> tuple[Any, Any]:
    u, du = _BY_KIND[node.parts[0].kind](node.parts[0], x, slope)
    return -u, -du


def _evaluate_function(node: _Node, x: Any, slope: bool) -> tuple[Any, Any]:
    u, du = _BY_KIND[node.parts[0].kind](node.parts[0], x, slope)
    function = FUNCTIONS[node.kind]
    return function.value(u), (function.slope(u) * du if slope else 0.0)


_BY_KIND: dict[str, Callable[[_Node, Any, bool], tuple[Any, Any]]] = {
    "x": lambda node, x, slope: (x, 1.0),
    "^": _evaluate_power, "neg": _evaluate_negative,
    **dict.fromkeys(("number", *_CONSTANTS), _evaluate_constant),
    **dict.fromkeys(("+", "-", "*", "/", *_PAIRS), _evaluate_binary),
    **dict.fromkeys(FUNCTIONS, _evaluate_function),
}  # fmt: skip


_OPERATORS: dict[str, Callable[..., Any]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "^": operator.pow, "neg": operator.neg,
    "max": lambda u, v: _sympy().Max(u, v), "min": lambda u, v: _sympy().Min(u, v),
    "pi": lambda: _sympy().pi, "e": lambda: _sympy().E,
}  # fmt: skip


def _symbolic(node: _Node, x: Any) -> Any:
    if node.kind == "x":
        return x
    if node.kind == "number":
        return _sympy().Rational(node.text)
    build = _OPERATORS[node.kind] if node.kind in _OPERATORS else FUNCTIONS[node.kind].symbolic
    return build(*(_symbolic(part, x) for part in node.parts))


def _walk(node: _Node) -> Iterator[_Node]:
    yield node
    for part in node.parts:
        yield from _walk(part)


@dataclass(frozen=True)
class Expression:
    """A function of x with its exact derivative. Made by :func:`parse`."""

    text: str
    _node: _Node

    def __call__(self, x: Any) -> Any:
        """The value at x, a number or an array. Not a number where the expression is not defined."""
        x = _numpy().asarray(x, dtype=float)
        with _quiet():
            return _value(self._node, x)

    def derivative(self, x: Any) -> Any:
        """The exact derivative at x; at a kink, one of the two slopes or their mean."""
        x = _numpy().asarray(x, dtype=float)
        with _quiet():
            return _dual(self._node, x)[1] + 0 * x

    @property
    def symbolic(self) -> Any:
        """The SymPy expression, in a real symbol x."""
        return _symbolic(self._node, _sympy().Symbol("x", real=True))

    @functools.cached_property
    def kinks(self) -> tuple[float, ...]:
        """Where the function or its derivative may jump: the zeros of what abs, relu, sign, max and min compare.

        Found by bisection between 18,001 points spaced evenly in ratio from 1e-6 to 1e6 on both sides of 0.
        """
        found: list[float] = []
        for node in _walk(self._node):
            if node.constant is None and (node.kind in _PAIRS or (node.kind in FUNCTIONS and FUNCTIONS[node.kind].kink)):
                inner = _Node("-", node.parts) if node.kind in _PAIRS else node.parts[0]
                found += self._sign_changes(inner)
        points: list[float] = []
        for point in sorted(found):
            if not points or point - points[-1] > 1e-12 * max(1.0, abs(point)):
                points.append(0.0 if abs(point) < 1e-13 else point)
        return tuple(points)

    def _sign_changes(self, node: _Node) -> list[float]:
        numpy = _numpy()
        side = numpy.geomspace(1e-6, 1e6, 9000)
        grid = numpy.concatenate([-side[::-1], [0.0], side])
        with _quiet():
            signs = numpy.sign(_value(node, grid)) + 0 * grid
            (changes,) = numpy.nonzero(signs[1:] != signs[:-1])
            if changes.size > 200:
                raise InputError(f"the expression {shown(self.text)} has more than 200 kinks; moments need fewer")
            low, high, left = grid[changes], grid[changes + 1], signs[changes]
            for _ in range(100):
                middle = (low + high) / 2
                same = numpy.sign(_value(node, middle)) + 0 * middle == left
                low, high = numpy.where(same, middle, low), numpy.where(same, high, middle)
        points: list[float] = high.tolist()
        return points

    def __str__(self) -> str:
        return self.text


def parse(text: str) -> Expression:
    """The function of x that `text` writes, as ``x*erf(x)/2`` or ``max(x, 0.1*x)``.

    Parameters
    ----------
    text : numbers, ``x``, ``pi``, ``e``, ``+ - * / ^ **``, brackets, and the functions of :data:`FUNCTIONS` with max and min.
        At most 1,000 characters, 40 levels deep, exponents to 64. Nothing is executed.

    Raises
    ------
    InputError
        for anything else, with one sentence.

    Examples
    --------
    >>> f = parse("x * erf(x) / 2")
    >>> round(float(f(1.0)), 5), round(float(f.derivative(1.0)), 5)
    (0.42135, 0.6289)
    >>> f.symbolic
    x*erf(x)/2
    """
    if not isinstance(text, str):
        raise InputError(f"an expression is text, not {shown(type(text).__name__)}")
    if len(text) > MAX_LENGTH:
        raise InputError(f"the expression has {len(text):,} characters; at most {MAX_LENGTH:,} are read")
    return Expression(text.strip(), _Parser(text).whole())
