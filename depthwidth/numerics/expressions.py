"""A safe parser for expressions: Python's grammar with a whitelist of syntax. Nothing is executed.

``parse("x * erf(x) / 2")`` returns an :class:`Expression`, a function of x with its values, its exact derivative, its SymPy
form and its kinks. ``read("E + A * width**-alpha")`` returns the :class:`Node` of a law in any variables. Expressions consist
of numbers, variables, ``+ - * / ^ **``, brackets and the functions in :data:`FUNCTIONS`; anything else raises an InputError of
one sentence. Derivatives are computed in forward mode and not by SymPy, whose import takes longer than most commands.
"""

from __future__ import annotations

import ast
import functools
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import InputError, nearest, shown
from ..values import frozen
from .roots import bisect_sign_changes

MAX_LENGTH = 1000
"""Largest number of characters of an expression."""
MAX_DEPTH = 40
"""Largest nesting depth of brackets, calls, signs and exponents."""
MAX_HEIGHT = 120
"""Largest number of chained operations, for example terms of a sum."""
MAX_POWER = 64
"""Largest exponent, and largest product of exponents of nested powers."""
MAX_CONSTANT = 1e100


@frozen
class Function:
    """A function that expressions may call: its value, its derivative and its SymPy form."""

    value: Callable[[Any], Any]
    slope: Callable[[Any], Any]
    symbolic: Callable[[Any], Any]
    kink: bool = False
    """True if the function or its derivative jumps at zero."""


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
    """1/(1 + exp(-u)) without overflow. SciPy's function is not faster, and takes a tenth of a second to import."""
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
    # the normal distribution function, accurate in its lower tail
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
"""Functions that expressions may call, by name. The derivative of a step function is zero, which excludes the jump."""

_ALIASES = {
    "ln": "log",
    "Abs": "abs",
    "Heaviside": "heaviside",
    "step": "heaviside",
    "logistic": "sigmoid",
    "arctan": "atan",
    "arcsinh": "asinh",
    "ReLU": "relu",
}
_CONSTANTS = {"pi": math.pi, "e": math.e}
_PAIRS = ("max", "min")
_CHARACTERS = re.compile(r"[\w\s.+\-*/^(),]", re.ASCII)
_NUMBER = re.compile(r"\d+\.?\d*(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?", re.ASCII)
_SIGNS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "^"}


@frozen
class Node:
    """A number, a variable, an operation or a call. `constant` is its value if it contains no variable, otherwise None."""

    kind: str
    """``number``, ``variable``, a constant's name, an operator (``neg`` is the sign), or a function's name."""
    parts: tuple[Node, ...] = ()
    text: str = ""
    """The text of a number, or the name of a variable."""
    constant: float | None = None
    power: float = 1.0
    """Upper bound of the product of nested exponents."""
    height: int = 1

    def walk(self) -> Iterator[Node]:
        """The node and all its descendants."""
        yield self
        for part in self.parts:
            yield from part.walk()

    @property
    def variables(self) -> frozenset[str]:
        """The names of all variables."""
        return frozenset(node.text for node in self.walk() if node.kind == "variable")

    def __call__(self, values: Mapping[str, Any]) -> Any:
        """The value for given `values` of the variables, numbers or arrays; NaN or infinity outside the domain."""
        with _quiet():
            return _evaluate(self, values, None)[0]


class _Reader:
    """Converts Python's syntax tree of a text to nodes, and refuses any syntax that is not allowed."""

    def __init__(self, text: str, variables: tuple[str, ...] | None) -> None:
        self.text = text
        self.source = text.replace("^", "**")  # in Python, ^ has a lower precedence than +
        self.variables = variables

    def refuse(self, reason: str) -> InputError:
        return InputError(f"the expression {shown(self.text)} {reason}")

    @property
    def allowed(self) -> str:
        names = "variables" if self.variables is None else ", ".join((*self.variables, *_CONSTANTS))
        return f"it may use numbers, {names}, + - * / ^, brackets and {', '.join((*FUNCTIONS, *_PAIRS))}"

    def read(self) -> Node:
        if not self.text.strip():
            raise self.refuse("is empty")
        wrong = next((character for character in self.text if not _CHARACTERS.match(character)), None)
        if wrong is not None:
            raise self.refuse(f"holds {wrong!r}; {self.allowed}")
        self._check_brackets()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings about unusual literals, which are refused below
                tree = ast.parse(self.source.strip(), mode="eval").body
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            why = getattr(error, "msg", "") or "too complex"
            raise self.refuse(f"cannot be read: {why.partition('. ')[0]}") from None
        return self.node(tree, 1)

    def _check_brackets(self) -> None:
        """Refuse deep nesting, for which Python's parser has a different message or fails."""
        depth = 0
        for character in self.text:
            depth += (character == "(") - (character == ")")
            if depth > MAX_DEPTH:
                raise self.refuse(f"is nested deeper than {MAX_DEPTH} levels")

    def node(self, tree: ast.expr, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self.refuse(f"is nested deeper than {MAX_DEPTH} levels")
        # A chain a + b + c nests to the left. It is read in a loop, so that its length does not count as depth.
        chain: list[tuple[str, ast.expr]] = []
        while isinstance(tree, ast.BinOp) and type(tree.op) in _SIGNS:
            chain.append((_SIGNS[type(tree.op)], tree.right))
            tree = tree.left
        found = self.leaf(tree, depth)
        for sign, right in reversed(chain):
            found = self.combine(sign, found, self.node(right, depth + 1))
        return found

    def leaf(self, tree: ast.expr, depth: int) -> Node:
        match tree:
            case ast.Constant(value=int() | float()) if _NUMBER.fullmatch(text := self.segment(tree)):
                return self.number(text)
            case ast.Name(id=name):
                return self.resolve_name(name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.combine("neg", self.node(operand, depth + 1))
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.node(operand, depth + 1)
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return self.call(name, [self.node(argument, depth + 1) for argument in arguments])
        raise self.refuse(f"holds {shown(self.segment(tree))}; {self.allowed}")

    def segment(self, tree: ast.expr) -> str:
        return ast.get_source_segment(self.source.strip(), tree) or type(tree).__name__

    def number(self, text: str) -> Node:
        if len(text) > 40:
            raise self.refuse("holds a number of more than 40 characters")
        return self.check_bounds(Node("number", text=text, constant=float(text)))

    def resolve_name(self, name: str) -> Node:
        if self.variables is None or name in self.variables:
            return Node("variable", text=name)
        if name in _CONSTANTS:
            return Node(name, constant=_CONSTANTS[name])
        if _ALIASES.get(name, name) in (*FUNCTIONS, *_PAIRS):
            raise self.refuse(f"uses {name} without an argument, as in {name}({self.variables[0]})")
        raise self.refuse(f"uses {shown(name)}{nearest(name, (*self.variables, *_CONSTANTS))}; {self.allowed}")

    def call(self, name: str, arguments: list[Node]) -> Node:
        function = _ALIASES.get(name, name)
        if function not in FUNCTIONS and function not in _PAIRS:
            raise self.refuse(f"uses {shown(name)}{nearest(name, (*FUNCTIONS, *_PAIRS))}; {self.allowed}")
        if function in _PAIRS:
            if len(arguments) < 2:
                raise self.refuse(f"gives {name} {len(arguments)} arguments; it takes two or more")
            return functools.reduce(lambda one, other: self.combine(function, one, other), arguments)
        if len(arguments) != 1:
            raise self.refuse(f"gives {name} {len(arguments)} arguments; it takes one")
        return self.combine(function, arguments[0])

    def combine(self, kind: str, *parts: Node) -> Node:
        power = self._power(kind, *parts)
        if power > MAX_POWER:
            raise self.refuse(f"has powers of powers beyond the {MAX_POWER}th")
        height = 1 + max(part.height for part in parts)
        if height > MAX_HEIGHT:
            raise self.refuse(f"chains more than {MAX_HEIGHT} operations")
        node = Node(kind, parts, power=power, height=height)
        if all(part.constant is not None for part in parts):
            with _quiet():
                try:
                    value = float(_evaluate(node, {}, None)[0])
                except (ArithmeticError, ValueError, TypeError):
                    value = math.nan
            node = self.check_bounds(Node(kind, parts, constant=value, height=height))
        return node

    def _power(self, kind: str, *parts: Node) -> float:
        if kind == "*":
            return sum(part.power for part in parts if part.constant is None) or 1.0
        if kind == "^":
            base, exponent = parts
            if exponent.constant is not None:
                if abs(exponent.constant) > MAX_POWER:
                    raise self.refuse(f"has an exponent beyond {MAX_POWER}")
                return base.power * max(1.0, abs(exponent.constant))
        return max(part.power for part in parts)

    def check_bounds(self, node: Node) -> Node:
        value = node.constant
        if value is None or not math.isfinite(value) or abs(value) > MAX_CONSTANT or 0 < abs(value) < 1 / MAX_CONSTANT:
            raise self.refuse("holds a constant that is not a real number between 1e-100 and 1e100 in size")
        return node


def _quiet() -> Any:
    return _numpy().errstate(all="ignore")


def _evaluate(node: Node, values: Mapping[str, Any], by: str | None) -> tuple[Any, Any]:
    """The value, and the derivative with respect to the variable `by` (forward mode), which is meaningless if `by` is None."""
    kind = node.kind
    if kind == "variable":
        return values[node.text], float(node.text == by)
    if kind == "number":
        return float(node.text), 0.0
    if kind in _CONSTANTS:
        return _CONSTANTS[kind], 0.0
    if kind == "^":
        return _evaluate_power(node, values, by)
    u, du = _evaluate(node.parts[0], values, by)
    if kind == "neg":
        return -u, -du
    if kind in FUNCTIONS:
        function, value = FUNCTIONS[kind], FUNCTIONS[kind].value(u)
        if not by:
            return value, 0.0
        return value, (value if kind == "exp" else function.slope(u)) * du  # exp is its own slope
    return _evaluate_pair(kind, u, du, *_evaluate(node.parts[1], values, by), bool(by))


def _evaluate_pair(kind: str, u: Any, du: Any, v: Any, dv: Any, slope: bool) -> tuple[Any, Any]:
    numpy = _numpy()
    if kind == "+":
        return u + v, du + dv if slope else 0.0
    if kind == "-":
        return u - v, du - dv if slope else 0.0
    if kind == "*":
        return u * v, (_sum_of_products(u, dv, du, v) if slope else 0.0)
    if kind == "/":
        u, v = numpy.float64(u), numpy.float64(v) if isinstance(v, float) else v  # Python floats raise an error for 1/0
        ratio = u / v
        if isinstance(dv, float) and dv == 0.0:
            return ratio, (du / v if slope else 0.0)
        return ratio, ((du - ratio * dv) / v if slope else 0.0)
    larger = (u > v) == (kind == "max")
    return numpy.where(larger, u, v), (numpy.where(larger, du, dv) if slope else 0.0)


def _sum_of_products(u: Any, dv: Any, du: Any, v: Any) -> Any:
    """The sum u dv + du v, without the term of a constant, whose derivative is the float 0."""
    if isinstance(dv, float) and dv == 0.0:
        return du * v
    if isinstance(du, float) and du == 0.0:
        return u * dv
    return u * dv + du * v


def _evaluate_power(node: Node, values: Mapping[str, Any], by: str | None) -> tuple[Any, Any]:
    base, exponent = node.parts
    u, du = _evaluate(base, values, by)
    numpy = _numpy()
    if exponent.constant is not None:
        p = exponent.constant
        u = numpy.float64(u) if isinstance(u, float) else u
        value = u * u if p == 2 else u * u * u if p == 3 else u**p
        if not by or p == 0:
            return value, 0.0 * du
        return value, (2 * u * du if p == 2 else p * u ** (p - 1) * du)
    v, dv = _evaluate(exponent, values, by)
    if base.constant is not None and base.constant > 0:
        value = numpy.exp(math.log(base.constant) * v)
        return value, value * math.log(base.constant) * dv
    value = numpy.power(u, v)
    return value, (value * (dv * numpy.log(u) + v * du / u) if by else 0.0)


_SYMBOLIC: dict[str, Callable[..., Any]] = {
    "+": lambda u, v: u + v,
    "-": lambda u, v: u - v,
    "*": lambda u, v: u * v,
    "/": lambda u, v: u / v,
    "^": lambda u, v: u**v,
    "neg": lambda u: -u,
    "max": lambda u, v: _sympy().Max(u, v),
    "min": lambda u, v: _sympy().Min(u, v),
    "pi": lambda: _sympy().pi,
    "e": lambda: _sympy().E,
}


def _symbolic(node: Node, symbols: Mapping[str, Any]) -> Any:
    if node.kind == "variable":
        return symbols[node.text]
    if node.kind == "number":
        return _sympy().Rational(node.text)
    build = _SYMBOLIC[node.kind] if node.kind in _SYMBOLIC else FUNCTIONS[node.kind].symbolic
    return build(*(_symbolic(part, symbols) for part in node.parts))


def read(text: str, variables: tuple[str, ...] | None = None) -> Node:
    """Read an expression such as ``E + A * width**-alpha``.

    Parameters
    ----------
    text : numbers, variables, ``+ - * / ^ **``, brackets, the functions in :data:`FUNCTIONS`, max and min. It may have at most
        1,000 characters, 40 levels of nesting, and exponents up to 64. Nothing is executed.
    variables : allowed names of variables, in addition to the constants ``pi`` and ``e``. By default every name is a variable,
        and there are no constants.

    Raises
    ------
    InputError
        if the text contains anything else or exceeds a limit.

    Examples
    --------
    >>> law = read("E + A * width**-alpha")
    >>> sorted(law.variables)
    ['A', 'E', 'alpha', 'width']
    >>> law({"E": 1.5, "A": 8.0, "width": 64.0, "alpha": 0.5})
    np.float64(2.5)
    """
    if not isinstance(text, str):
        raise InputError(f"an expression is text, not {shown(type(text).__name__)}")
    if len(text) > MAX_LENGTH:
        raise InputError(f"the expression has {len(text):,} characters; at most {MAX_LENGTH:,} are read")
    return _Reader(text, variables).read()


@frozen
class Expression:
    """A function of x with its exact derivative, returned by :func:`parse`."""

    text: str
    _node: Node

    def __call__(self, x: Any) -> Any:
        """The value at x, a number or an array; NaN outside the expression's domain."""
        x = _numpy().asarray(x, dtype=float)
        return self._node({"x": x})

    def derivative(self, x: Any) -> Any:
        """The exact derivative at x; at a kink, one of the two slopes or their mean."""
        x = _numpy().asarray(x, dtype=float)
        with _quiet():
            return _evaluate(self._node, {"x": x}, "x")[1] + 0 * x

    @property
    def symbolic(self) -> Any:
        """The SymPy expression, in a real symbol x."""
        return _symbolic(self._node, {"x": _sympy().Symbol("x", real=True)})

    @functools.cached_property
    def kinks(self) -> tuple[float, ...]:
        """Points at which the function or its derivative may jump: zeros of arguments of abs, relu, sign, heaviside, max, min.

        They are found by bisection between 18,001 grid points: 0, and points spaced logarithmically from 1e-6 to 1e6 on both
        sides.
        """
        found: list[float] = []
        for node in self._node.walk():
            if node.constant is None and (node.kind in _PAIRS or (node.kind in FUNCTIONS and FUNCTIONS[node.kind].kink)):
                inner = Node("-", node.parts) if node.kind in _PAIRS else node.parts[0]
                found += self._sign_changes(inner)
        points: list[float] = []
        for point in sorted(found):
            if not points or point - points[-1] > 1e-12 * max(1.0, abs(point)):
                points.append(0.0 if abs(point) < 1e-13 else point)
        return tuple(points)

    def _sign_changes(self, node: Node) -> list[float]:
        numpy = _numpy()
        side = numpy.geomspace(1e-6, 1e6, 9000)
        grid = numpy.concatenate([-side[::-1], [0.0], side])
        points = bisect_sign_changes(lambda x: node({"x": x}) + 0 * x, grid)
        if points.size > 200:
            raise InputError(f"the expression {shown(self.text)} has more than 200 kinks; moments need fewer")
        return list(points.tolist())

    def __str__(self) -> str:
        return self.text


def parse(text: str) -> Expression:
    """Read a function of x such as ``x*erf(x)/2`` or ``max(x, 0.1*x)``.

    Parameters
    ----------
    text : as for :func:`read`, with the single variable ``x``. If an exponent depends on x, its base must be a positive number.

    Raises
    ------
    InputError
        if the text contains anything else or exceeds a limit.

    Examples
    --------
    >>> f = parse("x * erf(x) / 2")
    >>> round(float(f(1.0)), 5), round(float(f.derivative(1.0)), 5)
    (0.42135, 0.6289)
    >>> f.symbolic
    x*erf(x)/2
    """
    node = read(text, ("x",))
    if node.constant is not None:
        raise InputError(f"the expression {shown(text)} is not a function of x")
    for power in (one for one in node.walk() if one.kind == "^"):
        base, exponent = power.parts
        if exponent.constant is None and (base.constant is None or base.constant <= 0):
            raise InputError(
                f"the expression {shown(text)} has an exponent that depends on x; its base must be a positive number "
                "(otherwise use exp)"
            )
    return Expression(text.strip(), node)
