"""How a scheme is written: a rule for each tensor, scales for each branch, and what becomes a recipe of them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..architecture import Transformer
from ..errors import InputError, shown
from .recipes import Mean, PerBlock, ResidualScale, TensorInit, at_block
from .tensors import Weight, stacks, weights

Values = float | Callable[[int], float]
"""A number, or a function of the block's index from 0."""


class Choice(NamedTuple):
    """What a rule says of one tensor."""

    std: Values
    reason: str
    multiplier: Values = 1.0
    learning_rate: Values = 1.0
    weight_decay: Values = 1.0
    mean: Mean = 0.0


TensorRule = Callable[[Weight], Choice]
"""What a scheme says of each tensor."""


@dataclass
class Draft:
    """A recipe in the making."""

    tree: Transformer
    rule: TensorRule
    scales: Callable[[str, str, int], tuple[Values, Values, str]] | None = None
    """Skip, branch and reason by stack, branch and the branch's index in its block."""
    extras: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """What weights cannot say."""
    remarks: list[str] = field(default_factory=list)
    """What else one should know."""
    output: float = 1.0
    """Multiplier on logits; it stands at the output matrix, or at what is before it where the matrix is tied."""
    output_reason: str = ""

    def lines(self) -> tuple[TensorInit, ...]:
        """The line of every role, with one number for all blocks where they agree."""
        depths = {name: depth for name, depth, _ in stacks(self.tree)}
        found: dict[str, dict[str, Any]] = {}
        for weight in weights(self.tree):
            choice = self.rule(weight)
            line = found.setdefault(
                weight.role, {"role": weight.role, "mean": choice.mean, "reason": choice.reason, "depth": 0, "parts": []}
            )
            line["depth"] = depths.get(weight.stack, 0)
            line["parts"].append((weight, choice))
        place = self._output_place()
        made = []
        for role, line in found.items():
            values = {
                name: _joined(line["parts"], name, line["depth"])
                for name in ("std", "multiplier", "learning_rate", "weight_decay")
            }
            reason = line["reason"]
            if role == place and self.output != 1.0:
                values["multiplier"] = self._with_output(values["multiplier"], line["depth"])
                reason = f"{reason}; {self.output_reason}"
            made.append(TensorInit(role=role, mean=line["mean"], reason=reason, **values))
        if self.output != 1.0:
            self.extras["output_multiplier"] = self.output
            if place not in found:
                self.notes.append(f"multiply the logits by {self.output:.6g}: no tensor of this tree can carry it")
        return tuple(made)

    def _with_output(self, multiplier: PerBlock, depth: int) -> PerBlock:
        if not depth:
            return at_block(multiplier, None) * self.output
        # A post-norm of the last block is the last thing before the head.
        each = [at_block(multiplier, block) for block in range(depth)]
        each[-1] *= self.output
        return tuple(each)

    def _output_place(self) -> str:
        tree, head = self.tree, self.tree.head
        place = None if head is None else head.logits_tensor
        if place is None:
            return ""
        if place:
            return f"head.{place}"
        if tree.stack.norm is not None:
            return f"{tree.stack_name}.norm.weight"
        branches = tree.stack.repeats[-1].block.branches
        post_normed = branches and branches[-1][1].norm_stream is not None
        return f"{tree.stack_name}.block.{branches[-1][0]}.norm_stream.weight" if post_normed else ""

    def residuals(self) -> tuple[ResidualScale, ...]:
        """The scales of every residual branch; none where the scheme says nothing of them."""
        if self.scales is None:
            return ()
        return tuple(
            ResidualScale(f"{stack}.block.{branch}", _spread(skip, depth), _spread(scale, depth), reason)
            for stack, depth, branches in stacks(self.tree)
            for index, branch in enumerate(branches)
            for skip, scale, reason in [self.scales(stack, branch, index)]
        )


def _spread(value: Values, depth: int) -> PerBlock:
    return tuple(value(block) for block in range(depth)) if callable(value) else value


def _joined(parts: list[tuple[Weight, Choice]], name: str, depth: int) -> PerBlock:
    """One number where all blocks agree, otherwise one for each; a block without the tensor takes that before it."""
    if not depth:
        value = getattr(parts[0][1], name)
        return float(value(0) if callable(value) else value)
    if all(not callable(getattr(choice, name)) for _, choice in parts):
        values = {float(getattr(choice, name)) for _, choice in parts}
        if len(values) == 1:
            return values.pop()
    each: dict[int, float] = {}
    for weight, choice in parts:
        value = getattr(choice, name)
        for block in weight.blocks:
            each[block] = float(value(block) if callable(value) else value)
    latest = each[min(each)]
    filled = []
    for block in range(depth):
        latest = each.get(block, latest)
        filled.append(latest)
    return tuple(filled)


def finite_number(
    scheme: str, name: str, value: Any, low: float = 0.0, high: float = math.inf, *, closed: bool = False
) -> float:
    """An option that must be a finite number above `low` (or equal, if closed) and at most `high`.

    Raises
    ------
    InputError
        if it is none.
    """
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not (low <= value <= high if closed else low < value <= high):
        bounds = f"{'[' if closed else '('}{low:g}, {high:g}{']' if high < math.inf else ')'}"
        raise InputError(f"{scheme}: {name}={shown(value)} is not a number in {bounds}")
    return float(value)


class Scheme(NamedTuple):
    """A scheme of initialisation."""

    name: str
    make: Callable[..., Draft]
    """What it says of a tree, given its options."""
    source: str
    status: str
    """How the rules reached us, in the words of data/README.md."""

    @property
    def options(self) -> dict[str, Any]:
        """Its options and their defaults."""
        signature = inspect.signature(self.make)
        return {name: one.default for name, one in list(signature.parameters.items())[1:]}


def scheme(name: str, source: str, status: str) -> Callable[[Callable[..., Draft]], Scheme]:
    """A function of a tree and options that returns a :class:`Draft`, as a scheme of this name."""
    return lambda make: Scheme(name, make, source, status)
