# mypy: disable-error-code="misc, no-any-return"
"""A head with logits for each patch of an image."""

from __future__ import annotations

from torch import Tensor, nn

from depthwidth import layers

from .base import builds, module


@builds(layers.PatchLogits)
class PatchLogits(nn.Module):
    """A norm, and a map of all tokens but the first to classes."""

    logits = True

    def __init__(self, layer: layers.PatchLogits) -> None:
        super().__init__()
        self.norm = module(layer.norm)
        self.linear = module(layers.Linear(layer.width, layer.classes))

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Features (batch, length, width) to logits (batch, length - 1, classes)."""
        return self.linear(self.norm(x)[:, 1:])
