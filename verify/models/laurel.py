# mypy: disable-error-code="misc, no-any-return"
"""The learned augmented residual layer."""

from __future__ import annotations

from torch import Tensor, nn

from depthwidth import layers

from .base import add_children, builds


@builds(layers.Laurel)
class Laurel(nn.Module):
    """The input, and a map of it of low rank."""

    def __init__(self, layer: layers.Laurel) -> None:
        super().__init__()
        add_children(self, layer)

    def forward(self, x: Tensor) -> Tensor:
        """Features (..., width) to features of the same shape."""
        y = self.right(self.left(x))
        return x + (self.norm(y) if hasattr(self, "norm") else y)
