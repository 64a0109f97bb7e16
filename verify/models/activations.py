# mypy: disable-error-code="misc, no-any-return"
"""Activations as torch functions."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": functools.partial(F.gelu, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),  # Hendrycks & Gimpel 2016, arXiv 1606.08415
    "silu": F.silu,
    "relu2": lambda x: F.relu(x).square(),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}
"""The torch function of each activation of :data:`depthwidth.layers.ACTIVATIONS`."""


class Activation(nn.Module):
    """``f(x)``, or ``f(gate) * x`` with a gate. It has no weights; probes read it."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor, gate: Tensor | None = None) -> Tensor:
        """Hidden features to hidden features of the same shape."""
        f = ACTIVATIONS[self.name]
        return f(x) if gate is None else f(gate) * x
