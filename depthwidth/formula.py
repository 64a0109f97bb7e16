"""``@formula``: a published or derived result as a function that records its claim.

A formula is written once, as a short pure function over :mod:`depthwidth.mathematics`. The decorator keeps the body as it
is and adds: where the result comes from, what kind of claim it is, the domain of every argument (checked on every call), its
SymPy expression and its LaTeX. Calling it with numbers, arrays, tensors or symbols runs the same body.
"""

from __future__ import annotations

import decimal
import functools
import importlib
import inspect
import math
import re
import sys
import typing
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal, TypeAlias

from .display import Overview, with_overview
from .errors import AccuracyWarning, InputError, nearest, shown
from .mathematics import library_of, minimum
from .values import frozen

Kind = Literal["exact", "asymptotic", "approximation", "fitted", "heuristic"]
KINDS: dict[str, str] = {
    "exact": "true under its assumptions at every size",
    "asymptotic": "the leading term of a limit",
    "approximation": "close on a stated range",
    "fitted": "a form whose coefficients come from data",
    "heuristic": "a rule of thumb its authors use, without a derivation",
}

Status = Literal["primary", "secondary", "rederived", "derived", "measured", "recalled"]
STATUSES: dict[str, str] = {
    "primary": "read in the primary source (paper text, authors' code or data)",
    "secondary": "read in a secondary source (code or notes that cite the paper)",
    "rederived": "recalled, not seen in the source's text, but derived again here and in agreement",
    "derived": "derived here from other lines of this list",
    "measured": "our own analysis of openly published data",
    "recalled": "recalled; not confirmed in a text and not checkable here",
}


@frozen
class Domain:
    """The values an argument may take: an interval, with the letter the papers use for it and its unit."""

    low: float = -math.inf
    high: float = math.inf
    closed_low: bool = False
    closed_high: bool = False
    integer: bool = False
    symbol: str = ""
    unit: str = ""
    typical: tuple[float, float] = (0.1, 10.0)
    """A range that tests and examples draw from; inside the domain."""

    def __str__(self) -> str:
        left, right = "[" if self.closed_low else "(", "]" if self.closed_high else ")"
        interval = f"{left}{_plain(self.low)}, {_plain(self.high)}{right}"
        return f"the whole numbers of {interval}" if self.integer else interval

    def contains(self, value: Any) -> Any:
        """True if `value` lies inside; element by element for an array or tensor. NaN never does."""
        above = value >= self.low if self.closed_low else value > self.low
        below = value <= self.high if self.closed_high else value < self.high
        inside = above & below
        if not self.integer:
            return inside
        # Infinity, if it is allowed, has no remainder; doubles as large as this are whole numbers.
        endless = self.closed_high and self.high == math.inf
        return inside & ((minimum(value, 1e16) if endless else value) % 1 == 0)

    def contains_all(self, values: Any) -> bool:
        """True if every element of an array or tensor lies inside."""
        if self.integer or not math.prod(values.shape):
            return bool(self.contains(values).all())
        # The extremes decide for an interval, without an array of verdicts; NaN is an extreme of any array that holds it.
        return bool(self.contains(values.min()) & self.contains(values.max()))

    def assumptions(self) -> dict[str, bool]:
        """SymPy's assumptions for a symbol in this domain."""
        known = {"real": True}
        if self.low > 0 or (self.low == 0 and not self.closed_low):
            known["positive"] = True
        elif self.low == 0:
            known["nonnegative"] = True
        if self.integer:
            known["integer"] = True
        return known


def _plain(bound: float) -> str:
    return f"{bound:g}"


# The domains that recur. A parameter is annotated with an alias such as these, or with its own
# ``Annotated[Any, Domain(...), "meaning"]``. ``Annotated[Alias, "meaning"]`` gives the argument a meaning of its own.
Real: TypeAlias = Annotated[Any, Domain(typical=(-3.0, 3.0))]
Positive: TypeAlias = Annotated[Any, Domain(0)]
NonNegative: TypeAlias = Annotated[Any, Domain(0, closed_low=True)]
Fraction01: TypeAlias = Annotated[Any, Domain(0, 1, closed_low=True, closed_high=True, typical=(0.05, 0.95))]
Correlation: TypeAlias = Annotated[
    Any, Domain(-1, 1, True, True, symbol="rho", typical=(-0.95, 0.95)), "correlation between two tokens"
]


@frozen
class Fitted:
    """A default that is a fitted number: the row of ``data/coefficients`` to read when the formula is first called."""

    law: str
    name: str
    edition: str = ""

    @functools.cached_property
    def value(self) -> float:
        """The number in the table."""
        from .coefficients import coefficient

        return coefficient(self.law, self.name, self.edition).value


def fitted(law: str, name: str, edition: str = "") -> Any:
    """A fitted number as the default of a formula's argument; typed as Any so that it can stand in a signature."""
    return Fitted(law, name, edition)


_REQUIRED = inspect.Parameter.empty
_INDENTED: dict[str, Any] = {"initial_indent": "    ", "subsequent_indent": "    ", "break_long_words": False}
_PACKAGE = "depthwidth.formulas"


@frozen
class Parameter:
    """One argument of a formula."""

    name: str
    domain: Domain
    default: Any = _REQUIRED
    meaning: str = ""
    """The quantity, as a noun phrase without the letter, the unit and the range, which the domain knows."""

    @property
    def letter(self) -> str:
        """The paper's symbol for it, or its name if none is declared."""
        return self.domain.symbol or self.name

    def symbol(self) -> Any:
        """The SymPy symbol that stands for this argument."""
        import sympy

        return sympy.Symbol(self.letter, **self.domain.assumptions())

    def __str__(self) -> str:
        """The argument's entry in a numpydoc section."""
        letter = f"{self.domain.symbol} in " if self.domain.symbol not in ("", self.name) else "in "
        unit = f", {self.domain.unit}" if self.domain.unit else ""
        default = f", default {_named(self.default)}" if self.default is not _REQUIRED else ""
        entry = f"{self.name} : {letter}{self.domain}{unit}{default}"
        if self.meaning:
            import textwrap  # compiles expressions, which every command would wait for

            word = self.meaning.partition(" ")[0]
            letter = word[0].upper() if word.isalpha() and len(word) > 2 else word[0]  # "f at ..." is a formula's letter
            entry += "\n" + textwrap.fill(f"{letter}{self.meaning[1:]}.", 120, **_INDENTED)
        return entry


class _Documentation:
    """``__doc__`` of formulas: the body's docstring, with a section on its parameters made from their domains.

    It is made on first use, because annotations take time to evaluate.
    """

    def __init__(self, of_the_class: str | None) -> None:
        self.of_the_class = of_the_class

    def __get__(self, instance: Formula | None, owner: type) -> str | None:
        if instance is None:
            return self.of_the_class
        documented = vars(instance)["__doc__"] = _documented(instance)
        return documented


def _documented(of: Formula) -> str:
    text = inspect.cleandoc(of.body.__doc__ or "")
    if not of.parameters or _PARAMETERS in text:
        return text
    section = f"{_PARAMETERS}{chr(10).join(map(str, of.parameters.values()))}"
    before, returns, after = text.partition("\n\nReturns\n-------\n")
    return f"{before}\n\n{section}{returns}{after}"


_PARAMETERS = "Parameters\n----------\n"


class _Claim:
    """The accuracy that a formula states, and its range."""

    accuracy: float | None
    measure: str
    within: dict[str, tuple[float, float]]
    given: str
    _warned = False

    def _state(
        self, accuracy: float | None, measure: str, within: Mapping[str, tuple[float, float]] | None, given: str
    ) -> None:
        self.accuracy, self.measure, self.within, self.given = accuracy, measure, dict(within or {}), given

    def _claim_card(self) -> dict[str, Any]:
        return {
            "accuracy": self.accuracy,
            "measure": self.measure,
            "within": {name: [end if math.isfinite(end) else None for end in ends] for name, ends in self.within.items()},
            "given": self.given,
        }

    @property
    def claim(self) -> str:
        """The stated accuracy and the range it is stated for, in words; empty for a formula that states none."""
        if self.accuracy is None:
            return ""
        ranges = ", ".join(f"{name} from {low:g}" + (f" to {high:g}" if high < math.inf else "") for name, (low, high) in
                           self.within.items())  # fmt: skip
        return self._error + (f" for {ranges}" if ranges else "") + (f"; {self.given}" if self.given else "")

    @property
    def _error(self) -> str:
        if self.measure == "factor":
            return f"within a factor of {self.accuracy:g}"
        if self.measure == "absolute":
            return f"within {self.accuracy:g}"
        return f"within {100 * (self.accuracy or 0):.2g} %" + (f" of {self.measure}" if self.measure != "relative" else "")

    def error(self, value: float, exact: float, arguments: Mapping[str, float]) -> float:
        """The distance of `value` from `exact` as :attr:`accuracy` measures it.

        Parameters
        ----------
        value, exact : the formula's value and the exact one.
        arguments : the formula's arguments by name, one of which may be the unit.
        """
        if self.measure == "factor":
            return max(value / exact, exact / value)
        units = {"relative": exact, "absolute": 1.0, **arguments}
        return abs((value - exact) / units[self.measure])

    def outside_claim(self, values: Mapping[str, Any]) -> list[str]:
        """Names of the numbers and arrays among `values` that lie outside the range of :attr:`claim`."""
        ranges = ((name, range_) for name, range_ in self._ranges.items() if name in values)
        return [name for name, range_ in ranges if not (is_symbolic(values[name]) or _all_inside(range_, values[name]))]

    @functools.cached_property
    def _ranges(self) -> dict[str, Domain]:
        return {name: Domain(low, high, True, True) for name, (low, high) in self.within.items()}

    def _warn_outside(self: Any, values: Sequence[Any]) -> None:
        """Warn, once a formula, of a call from outside this package with arguments outside the range of :attr:`claim`.

        The package's own calls judge the range themselves, as the command line does, which prints it.
        """
        if sys._getframe(2).f_globals.get("__name__", "").partition(".")[0] in _OWN:
            return
        given = dict(zip(self.parameters, values, strict=True))
        if outside := self.outside_claim(given):
            listed = ", ".join(f"{name}={shown(given[name])}" for name in outside)
            # Marked after the warning: a filter that makes it an error meets every call.
            sentence = f"{self.name}: {listed} outside the range it is claimed for: {self.claim or self.validity}"
            warnings.warn(sentence, AccuracyWarning, stacklevel=3)
            self._warned = True


_OWN = ("depthwidth", "verify")


class _Checks:
    """Demands on arguments whatever their domains: shapes that broadcast, real numbers, room for products."""

    name: Any
    parameters: Any

    def _require_shapes_that_broadcast(self, values: list[Any]) -> None:
        shapes = {name: tuple(v.shape) for name, v in zip(self.parameters, values, strict=True) if hasattr(v, "dtype")}
        longest = max(map(len, shapes.values()), default=0)
        for axis in range(1, longest + 1):
            sizes = {name: shape[-axis] for name, shape in shapes.items() if len(shape) >= axis and shape[-axis] != 1}
            if len(set(sizes.values())) > 1:
                listed = ", ".join(f"{name} {shapes[name]}" for name in sizes)
                raise InputError(f"{self.name}: these shapes do not broadcast: {listed}")

    def _as_array(self, parameter: Parameter, values: Any) -> Any:
        import numpy

        try:
            return numpy.asarray(values)
        except ValueError:
            raise InputError(f"{self.name}: {parameter.name} holds rows of different lengths") from None

    def _in_floating_point(self, parameter: Parameter, value: Any) -> Any:
        """Arrays and tensors of integers and half precision as doubles: products of sizes overflow in them without a word.

        So are longer numbers than doubles, for which SciPy has no functions.
        """
        if not _is_real(value.dtype):
            raise InputError(f"{self.name}: {parameter.name} holds {value.dtype} values, not real numbers")
        if _is_floating(value.dtype) and value.dtype.itemsize in (4, 8):
            return value
        return value.astype(float) if hasattr(value.dtype, "kind") else value.double()


class _Symbolic:
    """The closed form of a formula."""

    symbol: str
    body: Callable[..., Any]
    name = property()
    parameters: Any

    @functools.cached_property
    def expr(self) -> Any:
        """The SymPy expression: the body applied to one symbol for each argument."""
        import sympy  # noqa: F401  (the body's functions find it in sys.modules)

        try:
            return self.body(*(parameter.symbol() for parameter in self.parameters.values()))
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.name} has no closed symbolic form ({error})") from error

    @functools.cached_property
    def closed(self) -> bool:
        """True if there is a SymPy expression; integrals and roots found by search have none."""
        try:
            return self.expr is not None
        except InputError:
            return False

    def latex(self) -> str:
        """The formula as a LaTeX equation.

        Raises
        ------
        InputError
            if it has no closed form.
        """
        import sympy

        equation = sympy.Eq(sympy.Symbol(self.symbol), self.expr, evaluate=False)
        names = {symbol: _letters(symbol.name) for symbol in equation.free_symbols}
        return str(sympy.latex(equation, symbol_names={symbol: name for symbol, name in names.items() if name}))

    def _repr_latex_(self) -> str | None:
        """Its closed form for notebooks; None without one."""
        try:
            return f"$\\displaystyle {self.latex()}$"
        except InputError:
            return None


@with_overview
class Formula(_Claim, _Checks, _Symbolic):
    """A function with a source, a kind, a domain for each argument, and a symbolic form. Made by :func:`formula`.

    Calling it checks every argument, which takes a few microseconds. Three attributes skip the checks:

    body : the function as it is written. For code that calls a formula often with values known to lie in their domains, such
        as a layer: ``linear_second_moment.body(q, inputs, variance)`` costs no more than the arithmetic. Every argument
        without an ordinary default has to be given; a fitted default is not looked up.
    numeric : the same for numbers, arrays and tensors only: the form declared with :meth:`stable`, or else the body.
    with_fixed : a partial function with the fitted defaults filled in.
    """

    __doc__ = _Documentation(__doc__)

    def __init__(
        self,
        body: Callable[..., Any],
        kind: Kind,
        source: str,
        status: Status,
        symbol: str,
        domain: str,
        order: float | None,
        **stated: Any,
    ) -> None:
        functools.update_wrapper(self, body, assigned=("__module__", "__name__", "__qualname__"))
        self.body = body
        self.numeric: Callable[..., Any] = body
        self.kind = kind
        self.source = source
        self.status = status
        self.symbol = symbol or body.__name__
        self.validity = domain
        self.order = order
        self._state(**stated)
        self.topic = _topic(body.__module__)
        self.__name__: str = body.__name__

    @functools.cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The arguments in order. A parameter without a declared domain is a mistake of the author's and raises."""
        hints = typing.get_type_hints(self.body, include_extras=True)
        found = {}
        for name, parameter in inspect.signature(self.body).parameters.items():
            declared = getattr(hints.get(name), "__metadata__", ())
            domain = next((m for m in declared if isinstance(m, Domain)), None)
            if domain is None:
                raise TypeError(f"{self.name}: the argument {name!r} declares no Domain")
            meaning = next((m for m in reversed(declared) if isinstance(m, str)), "")
            found[name] = Parameter(name, domain, parameter.default, meaning)
        return found

    @functools.cached_property
    def _defaults(self) -> dict[str, Any]:
        """The defaults of the arguments that have one: a plan needs no more, and :attr:`parameters` reads their annotations."""
        code = self.body.__code__
        positional = code.co_varnames[: code.co_argcount]
        stated = self.body.__defaults__ or ()
        return {
            **dict(zip(positional[len(positional) - len(stated) :], stated, strict=True)),
            **(self.body.__kwdefaults__ or {}),
        }

    @property
    def name(self) -> str:
        """``topic.function``, the name under which the command line knows it; a file in a topic's folder is not part of it."""
        return f"{self.topic}.{self.__name__}"

    @property
    def summary(self) -> str:
        """The first line of the docstring, its cross-references as plain names."""
        first = (self.body.__doc__ or "").strip().partition("\n")[0]
        return _without_markup(first)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The body's value, after every argument is checked against its domain.

        Raises
        ------
        InputError
            if an argument is missing, unknown or outside its domain, if symbols are mixed with arrays or have no
            closed form here, or if the value leaves the range of floating-point numbers.

        Warns
        -----
        AccuracyWarning
            once a formula, if numbers or arrays lie outside the range for which the formula states its accuracy.
        """
        values = self._checked(args, kwargs)
        if self.within and not self._warned:
            self._warn_outside(values)
        if is_symbolic(*values) and any(getattr(value, "ndim", 0) for value in values):
            raise InputError(f"{self.name}: symbols and lists cannot be mixed; give single numbers with symbols")
        try:
            result = self._form(values)(*values)
        except InputError:
            raise
        except TypeError as error:
            if not is_symbolic(*values):
                raise
            raise InputError(f"{self.name} has no closed form at these arguments; give numbers, not symbols") from error
        except (ArithmeticError, ValueError) as error:
            raise self._out_of_range() from error
        # Every argument is a number, so that NaN comes from infinities that met on the way.
        if result != result if type(result) is float else _holds_nan(result):
            raise self._out_of_range()
        return result

    def _out_of_range(self) -> InputError:
        return InputError(f"{self.name} leaves the range of floating-point numbers at these arguments")

    def stable(self, numeric: Callable[..., Any]) -> Callable[..., Any]:
        """Declare the form to use for numbers, arrays and tensors if the body loses digits in floating point.

        It takes the body's arguments. Symbols and mpmath numbers still go through the body, which defines the formula.
        """
        self.numeric = numeric
        return numeric

    def _form(self, values: Iterable[Any]) -> Callable[..., Any]:
        if self.numeric is self.body or library_of(*values) in ("sympy", "mpmath"):
            return self.body
        return self.numeric

    def with_fixed(self, **fixed: float) -> Callable[..., Any]:
        """The formula with these arguments and all fitted defaults filled in, without checks: for inner loops on numbers.

        It takes the arguments that remain, in order. Fixed arguments are checked here, once.
        """
        for name, value in fixed.items():
            self._in_domain(self.parameters[name], value)
        filled = {name: value.value if isinstance(value, Fitted) else value for name, value in self._defaults.items()} | fixed
        return functools.partial(self._form(filled.values()), **filled)

    def _checked(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        names = list(self.parameters)
        if len(args) > len(names):
            raise InputError(f"{self.name} takes {len(names)} arguments ({', '.join(names)}), but {len(args)} were given")
        given = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name not in self.parameters:
                takes = ", ".join(names)
                raise InputError(f"{self.name} has no argument {name!r}{nearest(name, names)}; it takes {takes}")
            if name in given:
                raise InputError(f"{self.name} was given {name!r} twice")
            given[name] = value
        values = []
        for name, parameter in self.parameters.items():
            value = given.get(name, parameter.default)
            if value is _REQUIRED:
                raise InputError(f"{self.name} needs {name}, in {parameter.domain}")
            if isinstance(value, Fitted):
                value = value.value
            values.append(self._in_domain(parameter, value))
        if any(hasattr(value, "dtype") for value in values):
            self._require_shapes_that_broadcast(values)
        if Fraction in map(type, values) and not is_symbolic(*values):  # with symbols it stays exact
            try:
                values = [float(value) if type(value) is Fraction else value for value in values]
            except OverflowError as error:
                raise self._out_of_range() from error
        return values

    def _in_domain(self, parameter: Parameter, value: Any) -> Any:
        if type(value) is float or type(value) is int:  # by far the most calls
            if not parameter.domain.contains(value):
                raise self._outside(parameter, value)
            return value
        if isinstance(value, (list, tuple)) or (hasattr(value, "__array__") and library_of(value) == "math"):
            value = self._as_array(parameter, value)  # columns of tables too, whose library is none that formulas know
        if isinstance(value, decimal.Decimal):  # which takes no part in arithmetic with floats
            value = float("nan") if value.is_snan() else float(value)
        if hasattr(value, "free_symbols"):
            self._require_symbol(parameter, value)
            return value
        if hasattr(value, "dtype"):
            value = self._in_floating_point(parameter, value)
            self._require_array(parameter, value)
            return value
        self._require_number(parameter, value)
        return value

    def _require_symbol(self, parameter: Parameter, value: Any) -> None:
        # The domain of a value that is not a number is carried by its assumptions.
        if getattr(value, "is_number", False) and not (value.is_real and parameter.domain.contains(float(value))):
            raise self._outside(parameter, value)

    def _require_array(self, parameter: Parameter, value: Any) -> None:
        if not parameter.domain.contains_all(value):
            outside = ~parameter.domain.contains(value)
            raise self._outside(parameter, value[outside].flatten()[0].item() if value.ndim else value.item())

    def _require_number(self, parameter: Parameter, value: Any) -> None:
        if isinstance(value, (bool, complex)) or not isinstance(value, typing.SupportsFloat):
            expected = f"is not a number, expected one in {parameter.domain}"
            raise InputError(f"{self.name}: {parameter.name}={shown(value)} {expected}")
        if not parameter.domain.contains(value):
            raise self._outside(parameter, value)

    def _outside(self, parameter: Parameter, value: Any) -> InputError:
        return InputError(f"{self.name}: {parameter.name}={value} is outside {parameter.domain}")

    def card(self) -> dict[str, Any]:
        """All metadata of the formula, as plain data."""
        return {
            "name": self.name,
            "summary": self.summary,
            "kind": self.kind,
            "source": self.source,
            "status": self.status,
            "validity": self.validity,
            "order": self.order,
            **self._claim_card(),
            "arguments": [
                {
                    "name": p.name,
                    "symbol": p.letter,
                    "domain": str(p.domain),
                    "unit": p.domain.unit,
                    "default": _default(p.default),
                    "meaning": _without_markup(p.meaning),
                }
                for p in self.parameters.values()
            ],
        }

    def overview(self) -> Overview:
        """Summary, source, and the arguments with their domains, for a prompt or a notebook."""
        card = self.card()
        columns = ("name", "symbol", "domain", "unit", "meaning")
        arguments = [tuple(one[column] for column in columns) for one in card["arguments"]]
        facts = {"summary": card["summary"], "kind": f"{card['kind']}, {card['status']}", "source": card["source"]}
        return Overview(f"Formula {self.name}({', '.join(self.parameters)})", facts, columns, arguments, columns)


def _all_inside(domain: Domain, value: Any) -> bool:
    return bool(domain.contains_all(value) if hasattr(value, "dtype") else domain.contains(value))


def _holds_nan(result: Any) -> bool:
    library = library_of(result)
    if library not in ("numpy", "torch") or not _is_floating(result.dtype):
        return False
    return bool((result != result).any())


def _is_floating(dtype: Any) -> bool:
    return bool(dtype.kind == "f" if hasattr(dtype, "kind") else dtype.is_floating_point)


def _is_real(dtype: Any) -> bool:
    """True for floating-point numbers and integers of NumPy and torch, whose dtypes have no kind."""
    if hasattr(dtype, "kind"):
        return dtype.kind in "iuf"
    return not (dtype.is_complex or str(dtype) == "torch.bool")


def _letters(name: str) -> str:
    """LaTeX of letters with primes, alone or in a product, which SymPy takes for one word; empty if it knows the name."""
    import sympy

    letters = [re.fullmatch(r"(\w+(?:\^\w+)?)('*)", part) for part in name.split(" ")]
    if not ("'" in name or " " in name) or not all(letters):
        return ""
    return " ".join(sympy.latex(sympy.Symbol(found[1])) + found[2] for found in letters if found)


def _without_markup(text: str) -> str:
    """A text with its cross-references as plain names."""
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", text)


def _topic(module: str) -> str:
    """The part of a module's name after ``depthwidth.formulas``; elsewhere its last part."""
    return module.removeprefix(f"{_PACKAGE}.").partition(".")[0] if module.startswith(_PACKAGE) else module.rpartition(".")[2]


def _named(default: Any) -> str:
    """A default as documentation writes it: of a fitted number its name, so that no table is read for it."""
    return f"the fitted {default.law} {default.name}" if isinstance(default, Fitted) else f"{default:g}"


def _default(default: Any) -> Any:
    if default is _REQUIRED:
        return None
    value = default.value if isinstance(default, Fitted) else default
    return "inf" if value == math.inf else value  # JSON has no infinity


def formula(
    *,
    kind: Kind,
    source: str,
    status: Status = "primary",
    symbol: str = "",
    domain: str = "",
    order: float | None = None,
    accuracy: float | None = None,
    measure: str = "relative",
    within: Mapping[str, tuple[float, float]] | None = None,
    given: str = "",
) -> Callable[[Callable[..., Any]], Formula]:
    """Declare a function to be a formula.

    Parameters
    ----------
    kind : what sort of claim it is; one of :data:`KINDS`. The kind decides how the tests check it.
    source : paper, arXiv id, equation or table.
    status : origin of the result; one of :data:`STATUSES`.
    symbol : the paper's letter for the left-hand side, in SymPy's spelling; the function's name by default.
    domain : the range of arguments in which the claim itself is made, in words, if that is narrower than the arguments'
        own domains (a fit extrapolated beyond its data still returns a number).
    order : for an asymptotic formula whose remainder is known to be of it: the remainder, relative to the exact value, falls as
        one over this power of the size that goes to infinity, logarithms aside.
    accuracy : of an approximation or an asymptotic formula, the largest error over everything that its arguments' domains and
        its own refusals admit, `within` the ranges given for some of the arguments. The tests sample all of that range.
    measure : the error that the accuracy bounds: "relative" to the exact value, "absolute", the "factor" by which the formula
        is too large or too small, or the name of the argument that it is divided by.
    within : the range of each argument for which the accuracy is stated, if it is narrower than the argument's domain.
    given : assumptions of the accuracy about quantities that are not arguments, in words.
    """
    if kind not in KINDS or status not in STATUSES:
        raise TypeError(f"a formula's kind is one of {', '.join(KINDS)} and its status one of {', '.join(STATUSES)}")

    def declare(body: Callable[..., Any]) -> Formula:
        stated = {"accuracy": accuracy, "measure": measure, "within": within, "given": given}
        return Formula(body, kind, source, status, symbol, domain, order, **stated)

    return declare


def formulas(kind: Kind | None = None, topic: str | None = None) -> list[Formula]:
    """Every formula of :mod:`depthwidth.formulas`, by topic and in the order of its file; optionally of one kind or topic.

    A topic is a file of that package, or a folder with a file for each part of the theory.
    """
    return [f for f in _all() if kind in (None, f.kind) and topic in (None, f.topic)]


def _all() -> Iterator[Formula]:
    import pkgutil

    package = importlib.import_module(_PACKAGE)
    for info in pkgutil.walk_packages(package.__path__, f"{_PACKAGE}."):
        module = importlib.import_module(info.name)
        for value in vars(module).values():
            if isinstance(value, Formula) and value.__module__ == module.__name__:
                yield value


def find_formula(name: str) -> Formula:
    """The formula called `name`: ``topic.function``, or the function's name alone if only one topic has it.

    Raises
    ------
    InputError
        if there is none, or more than one.
    """
    known = list(_all())
    matches = [f for f in known if name in (f.name, f.__name__)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InputError(f"{name!r} could be {' or '.join(f.name for f in matches)}; give the full name")
    guess = nearest(name, [n for f in known for n in (f.name, f.__name__)])
    raise InputError(f"there is no formula {shown(name)}{guess}; `depthwidth formulas list` prints them all")


def is_symbolic(*values: Any) -> bool:
    """True if any of `values` is a SymPy object, so that a comparison between them cannot be decided."""
    return "sympy" in sys.modules and library_of(*values) == "sympy"
