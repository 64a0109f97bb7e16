# mypy: disable-error-code="misc, no-any-return"
"""Attention with a gate on its output, and attention parallel to a mixer."""

from __future__ import annotations

import torch
from torch import Tensor

from depthwidth import layers

from .attention import Attention
from .base import Branch, Pass, builds, module


@builds(layers.GatedAttention)
class GatedAttention(Attention):
    """Attention whose joined heads are multiplied by a sigmoid of the input."""

    def __init__(self, layer: layers.GatedAttention) -> None:
        super().__init__(layer)
        self.gate = module(layer.gate)

    def branch(self, x: Tensor, run: Pass) -> Tensor:
        """Features (batch, length, width) to features of the same shape."""
        return self.out(self.joined(x, run) * torch.sigmoid(self.gate(x)))


@builds(layers.ParallelMixer)
class ParallelMixer(Branch):
    """The sum of a mixer and attention."""

    def __init__(self, layer: layers.ParallelMixer) -> None:
        super().__init__()
        self.mixer, self.attention = module(layer.mixer), module(layer.attention)

    def branch(self, x: Tensor, run: Pass) -> Tensor:
        """Features (batch, length, width) to features of the same shape."""
        return self.mixer.branch(x, run) + self.attention.branch(x, run)
