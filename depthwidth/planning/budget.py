"""Budgets: an amount of parameters, FLOPs or bytes, and the conventions of its count."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from ..architecture import RECOMPUTE, Transformer
from ..checks import check_choice, check_whole
from ..errors import InputError, shown
from ..hardware.parallelism import Parallelism, ParallelMemory, TrainingSetup, training_memory
from ..quantities import format_bytes, format_count, unit_of
from ..values import frozen
from . import policy
from .rules import Quantity
from .template import Template

BUDGETS = {
    "parameters": "total parameters",
    "non_embedding": "non-embedding parameters",
    "active": "active parameters",
    "flops": "training FLOPs",
    "memory": "training memory",
    "weights": "weights",
}
"""Kinds of budget, and their names in text."""
_CAPS = ("flops", "memory", "weights")
"""Budgets that are limits, rather than sizes to come close to."""

LARGEST_AMOUNT = 10**26
"""The largest budget accepted: shapes that use it up have dimensions beyond those that a component accepts."""
TOKENS_PER_PARAMETER = policy.TOKENS_PER_PARAMETER
MOST_TOKENS_PER_PARAMETER = 1e6
"""Largest ratio of training tokens to parameters, and its inverse the smallest; models have 1 to 10,000."""


def kind_by_unit(amount: Any, kind: str = "parameters") -> str:
    """The kind of a budget given as text: ``80GB`` is training memory and ``1e22FLOPs`` are FLOPs, anything else is `kind`.

    >>> kind_by_unit("7B"), kind_by_unit("80GB"), kind_by_unit("1e22FLOPs"), kind_by_unit("80GB", "weights")
    ('parameters', 'memory', 'flops', 'weights')
    """
    unit = unit_of(amount) if kind == "parameters" else ""
    return {"bytes": "memory", "flops": "flops", "": kind}[unit]


@frozen
class Budget:
    """An amount of parameters, FLOPs or bytes that a shape may use, and the conventions by which it is counted.

    Parameters
    ----------
    kind : one of :data:`BUDGETS`.
    amount : exact.
    tokens : training tokens, for a FLOPs budget; by default `tokens_per_parameter` for each of all parameters.
    context, batch : length and number of sequences; the design's context and 1 by default.
    masked : whether attention scores hidden by a causal mask are excluded from FLOPs.
    dtype, recompute : number format of weights and activations, and which activations are recomputed.
    tensor_parallel, sequence_parallel, pipeline, microbatches, data_parallel, expert_parallel, zero, context_parallel : devices
        of a training, as fields of :class:`~depthwidth.hardware.parallelism.Parallelism`; a budget of memory is of each device.
    optimizer, gradients : optimiser and number format of gradients, as in
        :class:`~depthwidth.hardware.parallelism.TrainingSetup`.

    Raises
    ------
    InputError
        if a value is out of range or a name is unknown.
    """

    kind: str
    amount: Fraction
    tokens: int | None = None
    tokens_per_parameter: float = TOKENS_PER_PARAMETER
    context: int | None = None
    batch: int = 1
    masked: bool = False
    dtype: str = "bf16"
    recompute: str = "none"
    tensor_parallel: int = 1
    sequence_parallel: bool = False
    pipeline: int = 1
    microbatches: int | None = None
    data_parallel: int = 1
    expert_parallel: int = 1
    zero: int = 0
    optimizer: str = "adamw"
    gradients: str | None = None
    context_parallel: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.amount, (int, Fraction)) or not 0 < self.amount <= LARGEST_AMOUNT:
            raise InputError(f"budget: amount={shown(self.amount)} is not a positive exact number; parse text with plan(...)")
        check_whole("budget", batch=self.batch)
        if self.context is not None:
            check_whole("budget", context=self.context)
        object.__setattr__(self, "amount", Fraction(self.amount))
        check_choice("budget", tuple(BUDGETS), kind=self.kind)
        check_choice("budget", RECOMPUTE, recompute=self.recompute)
        self.setup  # noqa: B018  (refuses unknown names)
        self.parallelism  # noqa: B018
        if self.tokens is not None:
            check_whole("budget", tokens=self.tokens, largest=10**18)
        if not 1 / MOST_TOKENS_PER_PARAMETER <= self.tokens_per_parameter <= MOST_TOKENS_PER_PARAMETER:
            raise InputError(
                f"budget: tokens_per_parameter={shown(self.tokens_per_parameter)} is not a number from "
                f"{1 / MOST_TOKENS_PER_PARAMETER:g} to {MOST_TOKENS_PER_PARAMETER:g}"
            )

    @property
    def parallelism(self) -> Parallelism:
        """The devices of a training."""
        return Parallelism(
            data=self.data_parallel, tensor=self.tensor_parallel, sequence=self.sequence_parallel, pipeline=self.pipeline,
            microbatches=self.microbatches, expert=self.expert_parallel, zero=self.zero, context=self.context_parallel,
        )  # fmt: skip

    @property
    def setup(self) -> TrainingSetup:
        """The tensors that a training keeps."""
        return TrainingSetup(self.optimizer, self.dtype, self.gradients, recompute=self.recompute)

    def memory(self, tree: Transformer) -> ParallelMemory:
        """Memory of each device in training."""
        return training_memory(tree, self.parallelism, self.setup, context=self.context, batch=self.batch)

    @property
    def cap(self) -> bool:
        """True for a limit that must not be exceeded, False for a size to come close to."""
        return self.kind in _CAPS

    @property
    def in_bytes(self) -> bool:
        """True if the amount is a number of bytes."""
        return self.kind in ("memory", "weights")

    def of_one(self) -> Budget:
        """A budget of one unit by the same counts: of those of parameters, the other conventions have no part."""
        if self.kind in ("parameters", "non_embedding", "active"):
            return Budget(self.kind, Fraction(1))
        return replace(self, amount=Fraction(1))

    @property
    def size_share(self) -> float:
        """Relative change of the parameters per relative change of the amount: 1/2 if FLOPs pay for tokens as well."""
        return 0.5 if self.kind == "flops" and self.tokens is None else 1.0

    @property
    def unit(self) -> str:
        """The counted quantity in words."""
        return BUDGETS[self.kind]

    def of(self, tree: Transformer) -> int | Fraction:
        """The amount that `tree` uses, exact."""
        match self.kind:
            case "parameters":
                return tree.parameters
            case "non_embedding":
                return tree.non_embedding_parameters
            case "active":
                return tree.active_parameters
            case "flops":
                return self.flops_per_token(tree) * self.tokens_for(tree.parameters)
            case "memory":
                return self.memory(tree).total
            case _:
                return tree.weight_bytes(self.dtype)

    def flops_per_token(self, tree: Transformer) -> int | Fraction:
        """Training operations per token under this budget's conventions."""
        return tree.flops_per_token(self.context, masked=self.masked, training=True)

    def tokens_for(self, parameters: float) -> int:
        """Training tokens of a model of this size."""
        return self.tokens if self.tokens is not None else round(self.tokens_per_parameter * parameters)

    def quantity(self, template: Template, trees: dict[tuple[int, int], Transformer] | None = None) -> Quantity:
        """The amount as a function of continuous depth and width; `trees` as in :meth:`.Template.polynomial`."""
        if self.kind == "memory" and self.pipeline > 1:
            # Between the two ends a stage holds fewer micro-batches than the first, and neither embedding nor head.

            def of_stage(end: int) -> Quantity:
                return template.polynomial(lambda tree: self.memory(tree).stages[end].total, trees).continuous()

            first, last = of_stage(0), of_stage(-1)
            return lambda depth, width: max(first(depth, width), last(depth, width))
        if self.kind != "flops":
            return template.polynomial(self.of, trees).continuous()
        per_token = template.polynomial(self.flops_per_token, trees).continuous()
        parameters = template.polynomial(lambda tree: tree.parameters, trees).continuous()

        def flops(depth: float, width: float) -> float:
            tokens = self.tokens if self.tokens is not None else self.tokens_per_parameter * parameters(depth, width)
            return per_token(depth, width) * tokens

        return flops

    def __str__(self) -> str:
        if self.in_bytes:
            return f"{format_bytes(float(self.amount))} of {self.unit}"
        if self.kind == "flops":
            return f"{float(self.amount):.3g} {self.unit}"
        return f"{format_count(float(self.amount))} {self.unit}"
