"""Rotary positions in configurations: ``rope_parameters``, or before transformers 5 ``rope_theta`` and ``rope_scaling``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...errors import InputError, nearest
from ...layers.rotary_scaling import KINDS, RotaryScaling
from .fields import Fields, as_number, brief

FULL, SLIDING = "full_attention", "sliding_attention"
_PLAIN = ("default", "mrope")
"""Types without scaling. The three positions of a multimodal token are one in a text."""
_OTHER = ("axial",)
"""Types that no component here has: two-dimensional positions of images."""
_RENAMED = {"su": "longrope"}
_LENGTH = "original_max_position_embeddings"


def rope_table(fields: Fields, layer_type: str = FULL, *, scaled: bool = True) -> Any:
    """``rope_scaling`` or ``rope_parameters``; if it holds a table for each kind of layer, that of `layer_type`.

    A table that is not divided serves every kind; without `scaled` only its base does.
    """
    for name in ("rope_scaling", "rope_parameters"):
        if fields.has(name):
            table = fields.table(name)
            inner = table.get(layer_type)
            if inner is None and (FULL in table or SLIDING in table):
                return {}
            if inner is None:
                return table if scaled else {key: table[key] for key in ("rope_theta",) if key in table}
            if not hasattr(inner, "get"):
                raise InputError(f"{fields.model_type} config: {layer_type}={brief(inner)} in {name} is not an object")
            return inner
    return {}


def read_scaling(fields: Fields, table: Mapping[str, Any]) -> RotaryScaling | None:
    """The scaling of a table of rotary positions; None for plain ones.

    Raises
    ------
    InputError
        if the type is not known, or a number is missing or not valid for its type.
    """
    named = table.get("rope_type", table.get("type"))
    kind = "default" if named is None else named
    if not isinstance(kind, str):
        raise InputError(f"{fields.model_type} config: rope_type={brief(kind)} is not a word")
    kind = _RENAMED.get(kind, kind)
    if kind == "yarn" and "long_factor" in table:  # as early files of Phi-3 called it
        kind = "longrope"
    if kind in _PLAIN:
        return None
    if kind not in KINDS:
        known = ", ".join((*_PLAIN, *KINDS))
        if kind in _OTHER:
            name = "rope_scaling" if fields.has("rope_scaling") else "rope_parameters"
            raise fields.beyond(name, f"has positions that no component here has; known are {known}")
        raise InputError(f"{fields.model_type} config: rope_type={brief(kind)} is not one of {known}{nearest(kind, KINDS)}")
    return _Table(fields, table).scaling(kind)


class _Table:
    """The numbers of a table, each checked as it is taken."""

    def __init__(self, fields: Fields, table: Mapping[str, Any]) -> None:
        self._fields, self._table = fields, table

    def scaling(self, kind: str) -> RotaryScaling:
        """The scaling of this type."""
        if kind == "linear":
            return RotaryScaling(kind, self.number("factor"))
        if kind == "proportional":
            return RotaryScaling(kind, self.number("factor", 1.0))
        if kind == "dynamic":
            return RotaryScaling(kind, self.number("factor"), self.length("max_position_embeddings"))
        original = self.original()
        if kind == "llama3":
            fast, slow = self.number("high_freq_factor"), self.number("low_freq_factor")
            return RotaryScaling(kind, self.number("factor"), original, fast=fast, slow=slow)
        stretched = None if self._table.get("factor") is not None else self.length("max_position_embeddings")
        factor = self.number("factor") if stretched is None else stretched / original
        if kind == "longrope":
            grown = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0
            each = self.numbers("short_factor"), self.numbers("long_factor")
            return RotaryScaling(kind, 1.0, original, self.number("attention_factor", grown), short=each[0], long=each[1])
        truncate = self._table.get("truncate", True)
        if not isinstance(truncate, bool):
            raise self.wrong("truncate", "is neither true nor false")
        fast, slow = (self.number(name, default) for name, default in (("beta_fast", 32.0), ("beta_slow", 1.0)))
        return RotaryScaling(kind, factor, original, self.amplitude(factor), fast, slow, truncate)

    def amplitude(self, factor: float) -> float:
        """YaRN's factor on queries and keys: as given, or 0.1 ln s + 1 of a stretch s, or a ratio of two such."""

        def grown(scale: float) -> float:
            return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0

        one, every = (self._table.get(name) for name in ("mscale", "mscale_all_dim"))
        if one and every:
            return self.number("attention_factor", grown(self.number("mscale")) / grown(self.number("mscale_all_dim")))
        return self.number("attention_factor", grown(1.0))

    def original(self) -> int:
        """Tokens of training: a field of its own goes before that of the table, as in the library."""
        stated = self._fields.values.get(_LENGTH, self._fields.defaults.get(_LENGTH))
        if stated is not None:
            return self.whole(_LENGTH, stated)
        inside = self._table.get(_LENGTH)
        return self.length("max_position_embeddings") if inside is None else self.whole(_LENGTH, inside)

    def length(self, name: str) -> int:
        """A number of tokens among the configuration's own fields."""
        return self.whole(name, self._fields.values.get(name, self._fields.defaults.get(name)))

    def whole(self, name: str, value: Any) -> int:
        number = as_number(value)
        if not 1 <= number < math.inf or number % 1:
            raise InputError(f"{self._fields.model_type} config: {name}={brief(value)} is not a positive whole number")
        return int(number)

    def number(self, name: str, default: float | None = None) -> float:
        value = self._table.get(name)
        if value is None and default is not None:
            return default
        number = as_number(value)
        if not 0 < number < math.inf:
            raise self.wrong(name, "is not a positive number")
        return number

    def numbers(self, name: str) -> tuple[float, ...]:
        values = self._table.get(name)
        if not isinstance(values, (list, tuple)) or not all(0 < as_number(value) < math.inf for value in values):
            raise self.wrong(name, "is not a list of positive numbers")
        return tuple(as_number(value) for value in values)

    def wrong(self, name: str, problem: str) -> InputError:
        return InputError(f"{self._fields.model_type} config: {name}={brief(self._table.get(name))} of its rope {problem}")


def written_scaling(scaling: RotaryScaling | None) -> dict[str, Any]:
    """The entries of a table, ``rope_type`` among them, from which :func:`read_scaling` makes this scaling."""
    if scaling is None:
        return {"rope_type": "default"}
    kind: dict[str, Any] = {"rope_type": scaling.kind}
    if scaling.kind == "longrope":
        each = {"short_factor": list(scaling.short), "long_factor": list(scaling.long)}
        return {**kind, **each, _LENGTH: scaling.original, "attention_factor": scaling.amplitude}
    kind = {**kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        return {**kind, "high_freq_factor": scaling.fast, "low_freq_factor": scaling.slow, _LENGTH: scaling.original}
    if scaling.kind == "yarn":
        ramp = {"beta_fast": scaling.fast, "beta_slow": scaling.slow, "truncate": scaling.truncate}
        return {**kind, **ramp, _LENGTH: scaling.original, "attention_factor": scaling.amplitude}
    return kind


def written_length(scaling: RotaryScaling | None) -> dict[str, Any]:
    """The field next to the table that states the tokens of training, which some classes read before the table's own."""
    return {_LENGTH: scaling.original} if scaling is not None and scaling.kind in ("longrope", "llama3", "yarn") else {}
