"""Functions that evaluate several formulas together: listed, shown and evaluated like a formula, with a table as the result."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from inspect import cleandoc
from typing import Any

from ..errors import InputError, nearest, shown
from ..formula import find_formula
from ..values import frozen


@frozen
class Composite:
    """A function whose result has several numbers, each of a formula."""

    name: str
    """``topic.function``."""
    numbers: tuple[tuple[str, tuple[str, ...]], ...]
    """The numbers of its result, each with the formulas that add up to it; all parts of a sum have one sign."""
    flags: tuple[str, ...] = ()
    """Arguments that are true or false."""
    left_out: tuple[str, ...] = ()
    """Arguments that are no numbers, which the command line does not have."""
    source: str = "derived for this package"
    kind: str = "approximation"
    status: str = "derived"

    @property
    def combines(self) -> tuple[str, ...]:
        """The formulas that it evaluates, by name."""
        return tuple(dict.fromkeys(formula for _, formulas in self.numbers for formula in formulas))

    def accuracies(self) -> list[dict[str, Any]]:
        """The claims on each number: the largest relative error of its formulas, and the claim of each.

        A sum of numbers of one sign is at most as far off as the worst of them.
        """
        found = []
        for number, names in self.numbers:
            formulas = [find_formula(name) for name in names]
            claimed = [f for f in formulas if f.accuracy is not None]
            exact = "exact" if all(f.kind == "exact" for f in formulas) else None
            error = max((f.accuracy for f in claimed if f.accuracy is not None), default=None)
            claims = {f.name: f.claim for f in claimed}
            found.append({"number": number, "accuracy": error if claimed else exact, "claims": claims})
        return found

    @property
    def function(self) -> Callable[..., Any]:
        """The function itself."""
        topic, _, name = self.name.partition(".")
        found: Callable[..., Any] = getattr(importlib.import_module(f"{__package__}.{topic}"), name)
        return found

    @property
    def topic(self) -> str:
        """The part of :mod:`depthwidth.formulas` that has it."""
        return self.name.partition(".")[0]

    @property
    def documentation(self) -> str:
        """Its docstring."""
        return cleandoc(self.function.__doc__ or "")

    def arguments(self) -> list[dict[str, Any]]:
        """Name, default and meaning of each argument; the meanings are those of the docstring."""
        section = self.documentation.partition("Parameters\n----------\n")[2].partition("\n\nReturns")[0]
        meanings = {name: " ".join(text.split()) for name, text in re.findall(r"(?ms)^(\w+) : (.*?)(?=^\w+ : |\Z)", section)}
        signature = inspect.signature(self.function).parameters
        return [
            {
                "name": name,
                "symbol": "",
                "domain": "",
                "unit": "",
                "default": None if one.default in (inspect.Parameter.empty, None) else one.default,
                "needed": one.default is inspect.Parameter.empty,
                "meaning": re.sub(r":\w+:`~?([^`]*)`", r"\1", meanings.get(name, "")),
            }
            for name, one in signature.items()
            if name not in self.left_out
        ]

    def card(self) -> dict[str, Any]:
        """All its metadata, as plain data."""
        summary = self.documentation.partition("\n")[0]
        own = {"name": self.name, "summary": summary, "kind": self.kind, "source": self.source, "status": self.status}
        claims: dict[str, Any] = {
            "validity": "",
            "order": None,
            "accuracy": None,
            "accuracies": self.accuracies(),
            "measure": "relative",
            "within": {},
            "given": "",
        }
        return own | claims | {"combines": list(self.combines), "arguments": self.arguments()}

    def evaluate(self, values: dict[str, Any]) -> dict[str, float]:
        """Its numbers by name.

        Raises
        ------
        InputError
            if an argument is unknown or missing, or no number, or a result is none.
        """
        known = {one["name"]: one for one in self.arguments()}
        for name in values:
            if name not in known:
                raise InputError(f"{self.name}: there is no argument {shown(name)}{nearest(name, known)}")
        for name, one in known.items():
            if one["needed"] and name not in values:
                raise InputError(f"{self.name}: needs {name}")
        result = self.function(**{name: self._argument(name, value) for name, value in values.items()})
        numbers = {**result._asdict(), **{name: getattr(result, name) for name in ("gradient", "gradient_covariance")}}
        for name, value in list(numbers.items()):
            if hasattr(value, "_asdict"):
                numbers |= {f"{name}.{inner}": number for inner, number in numbers.pop(name)._asdict().items()}
        if "queries" in values:  # then the paths lead to different tokens
            numbers = {name: value for name, value in numbers.items() if name not in ("gradient", "gradient_covariance")}
        return {name: float(value) for name, value in numbers.items()}

    def _argument(self, name: str, value: Any) -> Any:
        """A number, a whole one as such, or a truth value, given as a word."""
        if name in self.flags:
            words = {"true": True, "false": False}
            if str(value).lower() not in words:
                raise InputError(f"{self.name}: {name}={value} is neither true nor false")
            return words[str(value).lower()]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f"{self.name}: {name}={shown(str(value))} is not a number")
        return int(value) if abs(value) < 2**53 and value == int(value) else value


COMPOSITES = (
    Composite(
        "attention.attention_moments",
        numbers=(
            ("second_moment", ("attention.output_second_moment",)),
            ("covariance", ("attention.output_covariance",)),
            ("value_gradient", ("attention.value_gradient_second_moment",)),
            ("query_gradient", ("attention.query_gradient_second_moment",)),
            ("key_gradient", ("attention.key_gradient_second_moment",)),
            (
                "gradient",
                (
                    "attention.value_gradient_second_moment", "attention.query_gradient_second_moment",
                    "attention.key_gradient_second_moment",
                ),
            ),
            ("value_gradient_covariance", ("attention.value_gradient_covariance",)),
            ("query_gradient_covariance", ("attention.query_gradient_covariance",)),
            ("key_gradient_covariance", ("attention.key_gradient_second_moment", "attention.key_gradient_covariance")),
        ),
        flags=("causal", "equal_norms"),
        left_out=("overlap",),
    ),
)  # fmt: skip
"""Every such function."""


def find_composite(name: str) -> Composite | None:
    """The function called `name`, with or without its topic; None if there is none."""
    return next((one for one in COMPOSITES if name in (one.name, one.name.partition(".")[2])), None)
