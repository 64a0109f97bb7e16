"""What a shape may use: an amount of parameters, FLOPs or bytes, and the conventions by which it is counted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

from .architecture import RECOMPUTE, Transformer
from .errors import InputError, shown
from .layers.base import check_choice
from .quantities import bits_of, format_bytes, format_count
from .rules import Quantity
from .template import Template

BUDGETS = {
    "parameters": "parameters, all of them",
    "non_embedding": "parameters without the embedding",
    "active": "parameters that one token meets",
    "flops": "training FLOPs",
    "memory": "bytes of training memory",
    "weights": "bytes of weights",
}
_CAPS = ("flops", "memory", "weights")  # limits rather than sizes to come close to


@dataclass(frozen=True)
class Budget:
    """An amount of something that a shape may use, and the conventions by which it is counted.

    Parameters
    ----------
    kind : one of :data:`BUDGETS`.
    amount : exact.
    tokens : training tokens, for a FLOPs budget; `tokens_per_parameter` of all parameters by default (20: Hoffmann et al. 2022,
        arXiv 2203.15556).
    context, batch : length and number of sequences; the design's context and 1 by default.
    masked : whether attention scores behind a causal mask are left out of FLOPs.
    dtype, recompute : number format of weights and activations, and whether activations are recomputed.
    """

    kind: str
    amount: Fraction
    tokens: int | None = None
    tokens_per_parameter: float = 20.0
    context: int | None = None
    batch: int = 1
    masked: bool = False
    dtype: str = "bf16"
    recompute: str = "none"

    def __post_init__(self) -> None:
        check_choice("budget", tuple(BUDGETS), kind=self.kind)
        check_choice("budget", RECOMPUTE, recompute=self.recompute)
        bits_of(self.dtype)
        if self.tokens is not None and not 0 < self.tokens <= 10**18:
            raise InputError(f"budget: tokens={shown(self.tokens)} is not a positive number of tokens")
        if not 0 < self.tokens_per_parameter < math.inf:
            raise InputError(f"budget: tokens_per_parameter={shown(self.tokens_per_parameter)} is not a positive number")

    @property
    def cap(self) -> bool:
        """Whether it is a limit that must not be exceeded, rather than a size to come close to."""
        return self.kind in _CAPS

    @property
    def unit(self) -> str:
        """What the amount counts."""
        return BUDGETS[self.kind]

    def of(self, tree: Transformer) -> int | Fraction:
        """How much of it `tree` uses, exact."""
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
                return tree.training_memory(self.context, batch=self.batch, dtype=self.dtype, recompute=self.recompute).total
            case _:
                return tree.weight_bytes(self.dtype)

    def flops_per_token(self, tree: Transformer) -> int | Fraction:
        """Training operations per token under this budget's conventions."""
        return tree.flops_per_token(self.context, masked=self.masked, training=True)

    def tokens_for(self, parameters: float) -> int:
        """Training tokens of a model of this size."""
        return self.tokens if self.tokens is not None else round(self.tokens_per_parameter * parameters)

    def quantity(self, template: Template) -> Quantity:
        """The amount as a function of continuous depth and width."""
        if self.kind != "flops":
            return template.polynomial(self.of).continuous()
        per_token = template.polynomial(self.flops_per_token).continuous()
        parameters = template.polynomial(lambda tree: tree.parameters).continuous()

        def flops(depth: float, width: float) -> float:
            tokens = self.tokens if self.tokens is not None else self.tokens_per_parameter * parameters(depth, width)
            return per_token(depth, width) * tokens

        return flops

    def __str__(self) -> str:
        if self.kind in ("memory", "weights"):
            return f"{format_bytes(float(self.amount))} of {self.unit.removeprefix('bytes of ')}"
        if self.kind == "flops":
            return f"{float(self.amount):.3g} {self.unit}"
        return f"{format_count(float(self.amount))} {self.unit}"
