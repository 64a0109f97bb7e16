# mypy: disable-error-code="misc, no-any-return"
"""A head that reads one token."""

from __future__ import annotations

from torch import Tensor, nn

from depthwidth import layers

from .base import builds, module


@builds(layers.Projection)
class Projection(nn.Module):
    """The features of the first or the last token, after a linear map if there is one."""

    def __init__(self, layer: layers.Projection) -> None:
        super().__init__()
        self.place = 0 if layer.reads == "first" else -1
        self.linear = next((module(child.layer) for child in layer.children()), None)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Features (batch, length, width) to (batch, outputs)."""
        token = x[:, self.place]
        return token if self.linear is None else self.linear(token)
