# mypy: disable-error-code="misc, no-any-return"
"""A pooler that averages over the patches of an image."""

from __future__ import annotations

from torch import Tensor, nn

from depthwidth import layers

from .base import builds, module


@builds(layers.PatchMean)
class PatchMean(nn.Module):
    """The mean of all tokens but the first, and a norm of it."""

    def __init__(self, layer: layers.PatchMean) -> None:
        super().__init__()
        self.norm = module(layer.norm)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Features (batch, length, width) to (batch, width)."""
        return self.norm(x[:, 1:].mean(1))
