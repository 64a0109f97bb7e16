"""The fields of one configuration, each checked when it is read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ...checks import DEEPEST, LARGEST, is_whole, not_whole
from ...errors import InputError, nearest, shown
from ...layers.activation_entries import activation_entry, spellings


class NoTreeError(InputError):
    """A configuration that may be valid but that no tree describes: its family, or one of its choices, is not supported.

    `reason` is the sentence without `more`, which lists the supported values.
    """

    def __init__(self, reason: str, more: str = "") -> None:
        super().__init__(f"{reason}{more}")
        self.reason = reason


def brief(value: object, limit: int = 60) -> str:
    """`value` as an error sentence shows it, shortened to `limit` characters."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 200:
        return f"a number of {value.bit_length():,} bits"  # its decimal digits could take minutes
    try:
        return shown(value, limit)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"


class Fields:
    """Typed access to a configuration; a missing field has its family's default.

    Every method takes the name of a field as the file spells it.

    Raises
    ------
    InputError
        in every method, if the value is of the wrong kind.
    """

    def __init__(
        self, model_type: str, config: Mapping[str, Any], defaults: Mapping[str, Any], aliases: Mapping[str, str]
    ) -> None:
        self.model_type = model_type
        self.defaults = defaults
        self.values = dict(config)
        self.spelled: dict[str, str] = {}
        for other, name in aliases.items():
            if other not in config:
                continue
            if name in config and config[name] != config[other]:
                here, there = brief(config[name]), brief(config[other])
                raise InputError(f"{model_type} config: {name}={here} and {other}={there} are one field and differ")
            if name not in config:
                self.values[name] = config[other]
                self.spelled[name] = other

    def has(self, name: str) -> bool:
        """True if the file has a value for the field other than null."""
        return self.values.get(name) is not None

    def raw(self, name: str) -> Any:
        """The unchecked value, or the default."""
        return self.values[name] if name in self.values else self.defaults[name]

    def wrong(self, name: str, problem: str) -> InputError:
        """The error for a field; `problem` follows its name and value."""
        return InputError(f"{self.model_type} config: {self.spell(name)} {problem}")

    def beyond(self, name: str, problem: str) -> NoTreeError:
        """The error for a field whose value changes the model in a way that no tree describes."""
        return NoTreeError(f"{self.model_type} config: {self.spell(name)} {problem}")

    def spell(self, name: str) -> str:
        """The field's name and value as the file spells them: ``n_layer=24``."""
        value = self.values.get(name, self.defaults.get(name))
        return f"{self.spelled.get(name, name)}={brief(value)}"

    def whole(self, name: str, smallest: int = 1, largest: int = LARGEST) -> int:
        """A whole number."""
        value = self.raw(name)
        if not is_whole(value, smallest, largest):
            raise self.wrong(name, not_whole(smallest, largest))
        return int(value)

    def whole_or_none(self, name: str) -> int | None:
        """A positive whole number, or null."""
        return None if self.raw(name) is None else self.whole(name)

    def depth(self, name: str) -> int:
        """A number of blocks."""
        return self.whole(name, largest=DEEPEST)

    def depth_or_none(self, name: str) -> int | None:
        """A number of blocks, or null."""
        return None if self.raw(name) is None else self.depth(name)

    def count(self, name: str) -> int:
        """A whole number that may be zero."""
        return self.whole(name, smallest=0)

    def positive(self, name: str) -> float:
        """A positive finite number."""
        number = as_number(self.raw(name))
        if not 0 < number < math.inf:
            raise self.wrong(name, "is not a positive number")
        return number

    def positive_or_none(self, name: str) -> float | None:
        """A positive finite number, or null."""
        return None if self.raw(name) is None else self.positive(name)

    def rate(self, name: str) -> float:
        """A dropout rate; null is 0."""
        value = self.raw(name)
        number = 0.0 if value is None else as_number(value)
        if not 0 <= number < 1:
            raise self.wrong(name, "is not a rate in [0, 1)")
        return number

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.raw(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "is neither true nor false")
        return value

    def model(self) -> str | None:
        """The first model class in the file; None if it names none."""
        names = self.raw("architectures")
        if names is None or names == []:
            return None
        if not isinstance(names, (list, tuple)) or not names or not isinstance(names[0], str):
            raise self.wrong("architectures", "is not a list of model classes")
        return names[0]

    def activation(self, name: str) -> str:
        """The name of an activation in :data:`~depthwidth.layers.ACTIVATIONS`."""
        value = self.raw(name)
        entry = activation_entry(value) if isinstance(value, str) else None
        if entry is None or value not in entry.spellings:
            raise self.wrong(name, f"is not a known activation{_like(value)}; known are {', '.join(spellings())}")
        return entry.name

    def table(self, name: str) -> Mapping[str, Any]:
        """An object; empty for null."""
        value = self.raw(name)
        if value is not None and not isinstance(value, Mapping):
            raise self.wrong(name, "is not an object")
        return value or {}

    def word(self, name: str, choices: Iterable[str]) -> str:
        """A word from `choices`."""
        value, known = self.raw(name), tuple(choices)
        if not isinstance(value, str) or value not in known:
            raise self.wrong(name, f"is not one of {', '.join(known)}")
        return value

    def words(self, name: str, choices: tuple[str, ...], length: int) -> list[str] | None:
        """A list of `length` words from `choices`, or null."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, (list, tuple)) or len(value) != length:
            raise self.wrong(name, f"is not a list of {length} words, one for each block")
        for word in value:
            if not isinstance(word, str) or word not in choices:
                raise InputError(f"{self.model_type} config: {name} holds {brief(word)}; known are {', '.join(choices)}")
        return list(value)


def as_number(value: Any) -> float:
    """`value` as a float; not-a-number if it is not a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _like(value: object) -> str:
    return nearest(value, spellings()) if isinstance(value, str) else ""
