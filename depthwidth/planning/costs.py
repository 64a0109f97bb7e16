"""What a shape costs beside its loss: operations of training, memory on each device, cache in generation."""

from __future__ import annotations

from typing import NamedTuple

from ..architecture import Transformer
from ..architecture.number_formats import judged_dtype
from .budget import Budget
from .template import Template


class Costs(NamedTuple):
    """The costs of one model, under the conventions of a budget."""

    training_flops_per_token: float
    training_memory_per_device: float
    """Bytes of weights, gradients, Adam's moments and activations, divided evenly among the devices."""
    kv_cache_bytes_per_token: float | None
    """Bytes in generation, averaged over the context; None for a model that generates nothing."""


def costs(tree: Transformer, budget: Budget, devices: int = 1) -> Costs:
    """The costs of a tree.

    Parameters
    ----------
    tree : the model.
    budget : its context, batch, number format and recomputation are those of the counts.
    devices : devices among which the model is divided.
    """
    dtype = judged_dtype(budget.dtype)
    memory = tree.training_memory(budget.context, batch=budget.batch, dtype=dtype, recompute=budget.recompute).total
    tokens = tree.context if budget.context is None else budget.context
    cache = None if tree.kind == "encoder" else tree.kv_cache_bytes(budget.context, dtype=dtype) / tokens
    return Costs(float(budget.flops_per_token(tree)), memory / devices, cache)


def devices_of(template: Template) -> int:
    """Devices among which a template's model is divided."""
    return template.tensor_parallel * template.pipeline
