"""The controls of the page: one entry for each setting, with the option of ``depthwidth plan`` that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from ..checks import read_count
from ..errors import InputError
from ..hardware.optimizers import OPTIMIZERS
from ..initialization import schemes
from ..planning.budget import BUDGETS
from ..planning.rules import rule_names
from ..planning.template import PRESETS

LONGEST = 100
"""Characters of a setting that are read; a longer one is no number and no name."""


@dataclass(frozen=True)
class Settings:
    """Choices of a person, as text; an empty string leaves the choice to the architecture or to the command's default."""

    budget: str = "7B"
    kind: str = "parameters"
    preset: str = "llama3"
    vocab: str = ""
    context: str = ""
    experts: str = ""
    top_k: str = ""
    rule: str = ""
    layers_at_most: str = ""
    tensor_parallel: str = ""
    pipeline: str = ""
    data_parallel: str = ""
    expert_parallel: str = ""
    zero: str = ""
    batch: str = ""
    recompute: str = ""
    optimizer: str = ""
    scheme: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Settings:
        """The settings of a query string; unknown names are ignored, absent settings have their default."""
        return cls(**{one.name: query[one.name].strip()[:LONGEST] for one in fields(cls) if one.name in query})


class Control(NamedTuple):
    """One control of the page."""

    name: str
    """The field of :class:`Settings`."""
    label: str
    steps: tuple[str, ...] = ()
    """Values of its slider; none without one."""
    choices: tuple[tuple[str, str], ...] = ()
    """Value and words of each choice; a field for text without any."""
    hint: str = ""
    """The meaning of an empty field."""
    whole: bool = True
    """True for a field whose text is a whole number."""
    words: tuple[str, ...] = ()
    """Further names by which a sentence may call the setting."""

    @property
    def option(self) -> str:
        """The option of ``depthwidth plan``."""
        return f"--{self.name.replace('_', '-')}"

    def value(self, text: str) -> Any:
        """The argument of :func:`~depthwidth.planning.plan.plan` that the text stands for; None if it is empty.

        Raises
        ------
        InputError
            if it is not a whole number although one is expected, with the sentence of the command line.
        """
        if not text:
            return None
        if self.name == "zero":
            if text not in ("0", "1", "2", "3"):
                raise InputError(f"Invalid value for '--zero': {text} is not in the range 0<=x<=3.")
            return int(text)
        return read_count(text, self.name) if self.whole and not self.choices else text


class Group(NamedTuple):
    """Controls that belong together."""

    title: str
    controls: tuple[Control, ...]


def _powers(low: int, high: int) -> tuple[str, ...]:
    return tuple(str(2**exponent) for exponent in range(low, high + 1))


def _choices(names: Any, default: str) -> tuple[tuple[str, str], ...]:
    return (("", default), *((name, name) for name in names))


def groups() -> tuple[Group, ...]:
    """All controls in the order of the page."""
    digits = (1, 2, 3, 5, 7, 10, 20, 30, 50, 70, 100, 200, 300, 500, 700)
    amounts = tuple(f"{digit}{unit}" for unit in ("M", "B", "T") for digit in digits)
    return (
        Group("Budget", (
            Control(
                "budget", "Amount", steps=amounts[3:36], hint="such as 7B, 80GB or 1e22", whole=False,
                words=("flops", "memory", "weights"),
            ),
            Control("kind", "Kind of budget", choices=tuple((kind, words) for kind, words in BUDGETS.items())),
        )),
        Group("Architecture", (
            Control("preset", "Preset", choices=_choices(PRESETS, "gpt3")[1:]),
            Control("vocab", "Vocabulary", steps=_powers(8, 18), hint="as the preset"),
            Control("context", "Context", steps=_powers(7, 17), hint="as the preset"),
            Control("experts", "Experts", steps=("", *_powers(1, 8)), hint="as the preset"),
            Control("top_k", "Experts per token", steps=("", "1", "2", "4", "8"), hint="as the preset"),
        )),
        Group("Shape", (
            Control("rule", "Rule", choices=_choices(rule_names(), "default")),
            Control("layers_at_most", "Layers at most", steps=("", *_powers(2, 8)), hint="no limit", words=("layers",)),
        )),
        Group("Devices and memory", (
            Control("tensor_parallel", "Tensor parallel", steps=_powers(0, 6), hint="1", words=("tensor",)),
            Control("pipeline", "Pipeline stages", steps=_powers(0, 6), hint="1"),
            Control("data_parallel", "Data parallel", steps=_powers(0, 10), hint="1", words=("data",)),
            Control("expert_parallel", "Expert parallel", steps=_powers(0, 6), hint="1", words=("expert",)),
            Control("zero", "ZeRO stage", choices=_choices("123", "0")),
            Control("batch", "Sequences per batch", steps=_powers(0, 8), hint="1"),
            Control("recompute", "Recompute", choices=_choices(("selective", "full"), "none")),
            Control("optimizer", "Optimiser", choices=_choices([name for name in OPTIMIZERS if name != "adamw"], "adamw")),
        )),
        Group("Initialisation", (
            Control("scheme", "Scheme", choices=_choices([name for name in schemes() if name != "shipped"], "shipped")),
        )),
    )  # fmt: skip


def controls() -> tuple[Control, ...]:
    """All controls."""
    return tuple(control for group in groups() for control in group.controls)
