# mypy: disable-error-code="misc, no-any-return"
"""Activations as torch functions: those that an entry names, all others made from their expressions."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from depthwidth import layers
from depthwidth.errors import InputError, shown
from depthwidth.layers.activation_entries import activation_entry, trained_numbers
from depthwidth.numerics.expressions import Node, read

from .base import builds

_CALLS: dict[str, Callable[..., Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "^": torch.pow,
    "neg": operator.neg,
    "max": lambda u, v: torch.maximum(*_tensors(u, v)),
    "min": lambda u, v: torch.minimum(*_tensors(u, v)),
    "exp": torch.exp,
    "log": torch.log,
    "sqrt": torch.sqrt,
    "sin": torch.sin,
    "cos": torch.cos,
    "sinh": torch.sinh,
    "cosh": torch.cosh,
    "tanh": torch.tanh,
    "atan": torch.atan,
    "asinh": torch.asinh,
    "erf": torch.erf,
    "Phi": lambda u: 0.5 * torch.special.erfc(-u / math.sqrt(2)),
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
    "relu": F.relu,
    "abs": torch.abs,
    "sign": torch.sign,
    "heaviside": lambda u: torch.heaviside(u, torch.full((), 0.5, dtype=u.dtype, device=u.device)),
}
"""The torch form of every operation of :mod:`depthwidth.numerics.expressions`."""


def _tensors(u: Any, v: Any) -> tuple[Tensor, Tensor]:
    like = u if isinstance(u, Tensor) else v
    u, v = (value if isinstance(value, Tensor) else torch.full_like(like, value) for value in (u, v))
    return u, v


@functools.cache
def torch_function(name: str) -> Callable[[Tensor], Tensor]:
    """The torch function of an activation.

    Parameters
    ----------
    name : a name of :data:`depthwidth.layers.ACTIVATIONS`, or an expression in x.

    Raises
    ------
    InputError
        if it is neither, or its entry names a function that torch does not have.

    Examples
    --------
    >>> torch_function("x*sigmoid(2*x)")(torch.tensor([0.0, 1.0]))
    tensor([0.0000, 0.8808])
    """
    entry = activation_entry(name)
    if entry is None or entry.torch is None:
        node = read(name if entry is None else entry.expression, ("x",))
        return functools.partial(_value, node)
    if not isinstance(entry.torch, str):
        return entry.torch(torch)
    place, _, function = entry.torch.rpartition(".")
    try:
        return getattr(import_module(place), function)
    except (ImportError, AttributeError, ValueError) as error:
        named = shown(entry.torch)
        raise InputError(f"the activation {name} names the torch function {named}, which does not exist") from error


def _value(node: Node, x: Tensor) -> Any:
    if node.constant is not None:
        return node.constant
    if node.kind == "variable":
        return x
    return _CALLS[node.kind](*(_value(part, x) for part in node.parts))


class Activation(nn.Module):
    """``f(x)``, or ``f(gate) * x`` with a gate. Few have weights; probes read it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.function = torch_function(name)  # here: a compiler cannot look it up within a forward pass
        for number, _ in trained_numbers(name):
            self.register_parameter(number, nn.Parameter(torch.empty(1)))

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """Hidden features to hidden features of the same shape."""
        value = self.function(x if gate is None else gate, *self.parameters(recurse=False))
        return value if gate is None else value * x


@builds(layers.TrainedActivation)
def trained(layer: layers.TrainedActivation) -> Activation:
    """The activation itself, with its trained numbers."""
    return Activation(layer.name)
