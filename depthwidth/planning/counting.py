"""Counts of the shapes of a template as functions of continuous depth and width."""

from __future__ import annotations

from functools import cached_property

from ..architecture import Transformer
from .budget import Budget
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
        trees: dict[tuple[int, int], Transformer] = {}
        self.quantity = self.budget.quantity(template, trees)
        self.parameters = template.polynomial(lambda tree: tree.parameters, trees).continuous()
        size = template.polynomial(lambda tree: tree.trained_size, trees)
        self.size = size.continuous()
        self.density = float(size.per_block[2])
        self.__dict__.pop("_by_kv_heads", None)

    def rounded_quantity(self, depth: float, width: float) -> float:
        """The budget's amount at a width that is offered, with its own number of key-value heads."""
        return self._with_kv_heads(0, depth, width)

    def rounded_size(self, depth: float, width: float) -> float:
        """The N of the rules at a width that is offered, with its own number of key-value heads."""
        return self._with_kv_heads(1, depth, width)

    def _with_kv_heads(self, which: int, depth: float, width: float) -> float:
        usual = (self.quantity, self.size)[which](depth, width)
        template = self.template
        if template.kv_usual is None or template.design.kv_heads is not None:
            return usual
        kv_heads = template.kv_heads_at(template.heads_at(round(width)))
        # Counts are affine in the number of key-value heads.
        one, two = (readings[which](depth, width) for readings in self._by_kv_heads)
        return usual if kv_heads is None else one + (kv_heads / template.tensor_parallel - 1) * (two - one)

    @cached_property
    def _by_kv_heads(self) -> tuple[tuple[Quantity, Quantity], ...]:
        """The amount and the size with one key-value head on each device, and with two."""
        found = []
        for kv_heads in (self.template.tensor_parallel, 2 * self.template.tensor_parallel):
            trees: dict[tuple[int, int], Transformer] = {}
            template = self.template.with_kv_heads(kv_heads)
            size = template.polynomial(lambda tree: tree.trained_size, trees).continuous()
            found.append((self.budget.quantity(template, trees), size))
        return tuple(found)
