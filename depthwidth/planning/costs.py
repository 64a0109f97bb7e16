"""Costs of a shape besides its loss: operations of training, memory on each device, cache in generation."""

from __future__ import annotations

import functools
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from ..architecture import Transformer
from ..architecture.number_formats import judged_dtype
from ..errors import InputError
from ..hardware.parallelism import Parallelism
from .budget import Budget


class Costs(NamedTuple):
    """The costs of one model, under the conventions of a budget."""

    training_flops_per_token: float
    training_memory_per_device: float | None
    """Bytes of the fullest device; None if the model cannot be divided so."""
    kv_cache_bytes_per_token: float | None
    """Bytes in generation, averaged over the context; None for a model that generates nothing."""
    decode_seconds: float | None
    """Estimated time of a step of generation on the accelerator :data:`DEVICE`, one sequence, tensor and pipeline parallelism
    as in training; None for other than decoders, or if the model cannot be divided so."""


DEVICE = "H100"
"""The accelerator of the estimate of time."""


def costs(tree: Transformer, budget: Budget) -> Costs:
    """The costs of a tree.

    Parameters
    ----------
    tree : the model.
    budget : its context, batch, number format, recomputation, optimiser and devices are those of the counts.
    """
    return _kept_costs(_Itself(tree), replace(budget, amount=Fraction(1)))


class _Itself:
    """A tree as a key that equals itself alone: two trees are compared at the price of counting one."""

    def __init__(self, tree: Transformer) -> None:
        self.tree = tree

    def __hash__(self) -> int:
        return id(self.tree)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.tree is self.tree


@functools.lru_cache(maxsize=256)
def _kept_costs(itself: _Itself, budget: Budget) -> Costs:
    tree, dtype = itself.tree, judged_dtype(budget.dtype)
    tokens = tree.context if budget.context is None else budget.context
    cache = None if tree.kind == "encoder" else tree.kv_cache_bytes(budget.context, dtype=dtype) / tokens
    return Costs(float(budget.flops_per_token(tree)), _memory(tree, budget, dtype), cache, _seconds(tree, budget, dtype))


def _memory(tree: Transformer, budget: Budget, dtype: str) -> float | None:
    try:
        return replace(budget, dtype=dtype).memory(tree).total
    except InputError:
        return None


def _seconds(tree: Transformer, budget: Budget, dtype: str) -> float | None:
    if tree.kind != "decoder":
        return None
    from ..hardware.accelerators import accelerator
    from ..hardware.latency import decode_time, decode_work

    devices = Parallelism(tensor=budget.tensor_parallel, pipeline=budget.pipeline)
    try:
        work = decode_work(tree, devices, context=budget.context, dtype=dtype)
    except InputError:
        return None
    return float(decode_time(work, accelerator(DEVICE), dtype).total)
