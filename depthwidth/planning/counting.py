"""Counts of the shapes of a template as functions of continuous depth and width."""

from __future__ import annotations

import functools
from functools import cached_property
from typing import NamedTuple

from ..architecture import Transformer
from .budget import Budget
from .continuous import Continuous
from .rules import Quantity
from .template import Template


class Counts:
    """The amount that shapes of a template use of one budget, their parameters, and their size in the rules."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.amount = float(budget.amount)

    def use_template(self, template: Template) -> None:
        """Count with this template from now on."""
        self.template = template
        self._kv_heads: dict[int, int | None] = {}
        self.quantity, self.parameters, self.size = readings_of(template, self.budget)
        self.density = self.size.per_block[2]
        self.__dict__.pop("_by_kv_heads", None)

    def rounded_quantity(self, depth: float, width: float) -> float:
        """The budget's amount at a width that is offered, with its own number of key-value heads."""
        return self._with_kv_heads(0, depth, width)

    def rounded_size(self, depth: float, width: float) -> float:
        """The N of the rules at a width that is offered, with its own number of key-value heads."""
        return self._with_kv_heads(1, depth, width)

    def rounded_line(self, width: int) -> tuple[float, float] | None:
        """:meth:`rounded_quantity` of a width without blocks, and for each block; None if it is not affine in the depth."""
        if not isinstance(self.quantity, Continuous):
            return None
        beyond = self._kv_beyond_one(width)
        if beyond is None:
            return self.quantity.line(width)
        (one, _), (two, _) = self._by_kv_heads
        if not isinstance(one, Continuous) or not isinstance(two, Continuous):
            return None
        (a1, b1), (a2, b2) = one.line(width), two.line(width)
        return a1 + beyond * (a2 - a1), b1 + beyond * (b2 - b1)

    def _with_kv_heads(self, which: int, depth: float, width: float) -> float:
        beyond = self._kv_beyond_one(width)
        if beyond is None:
            return (self.quantity, self.size)[which](depth, width)
        # Counts are affine in the number of key-value heads.
        one, two = (readings[which](depth, width) for readings in self._by_kv_heads)
        return one + beyond * (two - one)

    def _kv_beyond_one(self, width: float) -> float | None:
        """Key-value heads on each device at a width, less one; None if their number is that of the polynomials."""
        template = self.template
        if template.kv_usual is None or template.design.kv_heads is not None:
            return None
        key = round(width)
        if key not in self._kv_heads:
            self._kv_heads[key] = template.kv_heads_at(template.heads_at(key))
        kv_heads = self._kv_heads[key]
        return None if kv_heads is None else kv_heads / template.tensor_parallel - 1

    @cached_property
    def _by_kv_heads(self) -> tuple[tuple[Quantity, Quantity], ...]:
        """The amount and the size with one key-value head on each device, and with two."""
        found = []
        for kv_heads in (self.template.tensor_parallel, 2 * self.template.tensor_parallel):
            readings = readings_of(self.template.with_kv_heads(kv_heads), self.budget)
            found.append((readings.quantity, readings.size))
        return tuple(found)


class Readings(NamedTuple):
    """Counts of the shapes of a template."""

    quantity: Quantity
    """The amount of a budget's kind."""
    parameters: Continuous
    size: Continuous
    """The N of the rules."""


def readings_of(template: Template, budget: Budget) -> Readings:
    """The counts by which a budget is planned. Those of recent templates are kept, as they serve budgets of any amount."""
    try:
        hash(template)
    except TypeError:  # the choices of single blocks are mappings
        return _readings(template, budget)
    return _kept_readings(template, budget.of_one())


def _readings(template: Template, budget: Budget) -> Readings:
    trees: dict[tuple[int, int], Transformer] = {}
    parameters, size = (
        template.polynomial(reading, trees).continuous()
        for reading in (lambda tree: tree.parameters, lambda tree: tree.trained_size)
    )
    return Readings(budget.quantity(template, trees), parameters, size)


_kept_readings = functools.lru_cache(maxsize=64)(_readings)
