"""The parts of a scheme: a rule for each tensor, scales for each branch, and the draft of a recipe from both."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..architecture import Transformer
from ..errors import InputError, shown
from ..layers import Special
from .recipes import Mean, PerBlock, ResidualScale, TensorInit, at_block
from .starting_laws import StartingLaw
from .tensors import Weight, stacks, weights

Values = float | Callable[[int], float]
"""A number, or a function of the block's index from 0."""


class NoRecipeError(InputError):
    """The scheme does not state starting values that the tree has (:class:`~depthwidth.layers.Special`)."""


def refuse_special(scheme: str, tree: Transformer) -> None:
    """Refuse a tree whose starting values are not all normal draws and constants.

    Raises
    ------
    NoRecipeError
        which names the first of them.
    """
    for weight in weights(tree):
        if isinstance(weight.start, Special):
            name = type(weight.layer).__name__
            raise NoRecipeError(
                f"{scheme}: no rule of this scheme states the initialisation of {name}, whose {weight.role} starts at "
                f"{weight.start.words}; the scheme shipped has the rules of transformers for its families"
            )


class Choice(NamedTuple):
    """The settings of one tensor: values for all blocks, or functions of the block."""

    std: Values
    reason: str
    multiplier: Values = 1.0
    learning_rate: Values = 1.0
    weight_decay: Values = 1.0
    mean: Mean | Callable[[int], float] = 0.0
    law: StartingLaw | None = None
    """The law of values that are not normal; mean and standard deviation are the law's."""


TensorRule = Callable[[Weight], Choice]
"""A function from a tensor to its settings."""


@dataclass
class Draft:
    """A recipe before its values are computed for each block."""

    tree: Transformer
    rule: TensorRule
    scales: Callable[[str, str, int], tuple[Values, Values, str]] | None = None
    """A function from stack, branch and the branch's index in its block to the skip scale, the branch scale and the reason."""
    extras: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    """Instructions that the settings of the tensors cannot express, one sentence each."""
    remarks: list[str] = field(default_factory=list)
    """Other information, one sentence each."""
    trained_scales: bool = False
    """True if each branch scale is the initial value of a trainable scalar."""
    output: float = 1.0
    """Factor on the logits, which becomes a multiplier of the output matrix, or of the weight before it if that is tied."""
    output_reason: str = ""

    def lines(self) -> tuple[TensorInit, ...]:
        """The settings of every role, with one number for all blocks if they agree."""
        depths = {name: depth for name, depth, _ in stacks(self.tree)}
        lines: dict[str, dict[str, Any]] = {}
        for weight in weights(self.tree):
            choice = self.rule(weight)
            if weight.kind == "layer_scale" and self.scales is not None:
                choice = choice._replace(mean=1.0, reason="one, as the scheme sets the branch's scale")
            line = lines.setdefault(
                weight.role,
                {"role": weight.role, "mean": choice.mean, "reason": choice.reason, "law": choice.law, "depth": 0, "parts": []},
            )
            line["depth"] = depths.get(weight.stack, 0)
            line["parts"].append((weight, choice))
        output_role = self._output_role()
        inits = []
        for role, line in lines.items():
            values = {
                name: _merge_blocks(line["parts"], name, line["depth"])
                for name in ("std", "multiplier", "learning_rate", "weight_decay")
            }
            reason = line["reason"]
            if role == output_role and self.output != 1.0:
                values["multiplier"] = self._scale_output(values["multiplier"], line["depth"])
                reason = f"{reason}; {self.output_reason}"
            mean = _merge_blocks(line["parts"], "mean", line["depth"]) if callable(line["mean"]) else line["mean"]
            inits.append(TensorInit(role=role, mean=mean, reason=reason, law=line["law"], **values))
        if self.output != 1.0:
            self.extras["output_multiplier"] = self.output
            if output_role not in lines:
                self.notes.append(f"multiply the logits by {self.output:.6g}: no tensor of this tree can take this factor")
        return tuple(inits)

    def _scale_output(self, multiplier: PerBlock, depth: int) -> PerBlock:
        if not depth:
            return at_block(multiplier, None) * self.output
        # The post-norm of the last block is the last weight before the head.
        each = [at_block(multiplier, block) for block in range(depth)]
        each[-1] *= self.output
        return tuple(each)

    def _output_role(self) -> str:
        """The role of the weight that takes the factor on the logits; empty if there is none."""
        tree, head = self.tree, self.tree.head
        path = None if head is None else head.logits_tensor
        if path is None:
            return ""
        if path:
            return f"head.{path}"
        if tree.stack.norm is not None:
            return f"{tree.stack_name}.norm.weight"
        branches = tree.stack.repeats[-1].block.branches
        post_normed = branches and branches[-1][1].norm_stream is not None
        return f"{tree.stack_name}.block.{branches[-1][0]}.norm_stream.weight" if post_normed else ""

    def residuals(self) -> tuple[ResidualScale, ...]:
        """The scales of every residual branch; empty if the scheme sets none."""
        if self.scales is None:
            return tuple(self._own_scales())
        return tuple(
            ResidualScale(
                f"{stack}.block.{branch}", _per_block(skip, depth), _per_block(scale, depth), reason, self.trained_scales
            )
            for stack, depth, branches in stacks(self.tree)
            for branch in branches
            for skip, scale, reason in [self.scales(stack, branch, self._place(stack, branch))]
        )

    def _place(self, stack: str, branch: str) -> int:
        """The index of a branch in the first block that has it."""
        each = ([name for name, _ in run.block.branches] for run in self.tree.stacks[stack].repeats)
        return next(names.index(branch) for names in each if branch in names)

    def _own_scales(self) -> Iterator[ResidualScale]:
        """The model's own factors on its branches. A scheme without scales keeps them."""
        for stack, layers in self.tree.stacks.items():
            each: dict[str, list[float]] = {}
            for block in layers.blocks():
                for branch, residual in block.branches:
                    each.setdefault(branch, []).append(residual.scale)
            for branch, values in each.items():
                if any(value != 1 for value in values):
                    same = len(set(values)) == 1
                    scale: PerBlock = values[0] if same else tuple(values)
                    yield ResidualScale(f"{stack}.block.{branch}", 1.0, scale, "the model's own factor")


def _per_block(value: Values, depth: int) -> PerBlock:
    return tuple(value(block) for block in range(depth)) if callable(value) else value


def _merge_blocks(parts: list[tuple[Weight, Choice]], name: str, depth: int) -> PerBlock:
    """One number if all blocks agree, otherwise one for each; a block without the tensor has that of the block before it."""
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
        if it is not.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not (low <= value <= high if closed else low < value <= high):
        bounds = f"{'[' if closed else '('}{low:g}, {high:g}{']' if high < math.inf else ')'}"
        raise InputError(f"{scheme}: {name}={shown(value)} is not a number in {bounds}")
    return float(value)


class Scheme(NamedTuple):
    """An initialisation scheme."""

    name: str
    make: Callable[..., Draft]
    """The function that returns the draft of a tree's recipe, given the options."""
    source: str
    status: str
    """The status of the source, in the words of data/README.md."""

    @property
    def summary(self) -> str:
        """The starting values in one line: the first line of the function's documentation."""
        lines = inspect.cleandoc(self.make.__doc__ or "").splitlines()
        return lines[0].replace("`", "").removesuffix(".") if lines else ""

    @property
    def options(self) -> dict[str, Any]:
        """Its options and their defaults."""
        signature = inspect.signature(self.make)
        return {name: one.default for name, one in list(signature.parameters.items())[1:]}


def scheme(name: str, source: str, status: str) -> Callable[[Callable[..., Draft]], Scheme]:
    """A decorator that turns a function from a tree and options to a :class:`Draft` into a scheme with this name."""
    return lambda make: Scheme(name, make, source, status)
