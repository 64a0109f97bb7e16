# mypy: disable-error-code="misc, no-any-return"
"""Short causal convolutions, and the gated mixer made of one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from depthwidth import layers

from .base import Branch, Pass, add_children, builds, scale_by


@builds(layers.Convolution)
class Convolution(nn.Module):
    """A filter along the tokens for each feature, zeros before the start."""

    multiplier = 1.0

    def __init__(self, layer: layers.Convolution) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(layer.channels, layer.kernel))
        self.bias = nn.Parameter(torch.empty(layer.channels)) if layer.bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Features (batch, length, channels) to features of the same shape."""
        padded = F.pad(x.transpose(1, 2), (self.weight.shape[-1] - 1, 0))
        y = F.conv1d(padded, self.weight[:, None], self.bias, groups=len(self.weight))
        return scale_by(y.transpose(1, 2), self.multiplier)


@builds(layers.ShortConvolution)
class ShortConvolution(Branch):
    """A short convolution between two gates."""

    def __init__(self, layer: layers.ShortConvolution) -> None:
        super().__init__()
        add_children(self, layer)

    def branch(self, x: Tensor, run: Pass | None = None) -> Tensor:
        """Features (batch, length, width) to features of the same shape."""
        mixed = self.convolution(self.input_gate(x) * self.read(x))
        return self.write(self.output_gate(x) * mixed)
