# mypy: disable-error-code="misc, no-any-return"
"""The copies of the residual stream that the blocks of a stack keep."""

from __future__ import annotations

from torch import Tensor, nn

from depthwidth import layers

from .base import builds


@builds(layers.Streams)
class Streams(nn.Module):
    """Equal copies, and their mean."""

    def __init__(self, layer: layers.Streams) -> None:
        super().__init__()
        self.count = layer.count

    def open(self, x: Tensor) -> Tensor:
        """The stem's output (batch, length, width) as the copies that the first block reads: (batch, copies, length, width)."""
        return x[:, None].expand(-1, self.count, -1, -1)

    def close(self, x: Tensor) -> Tensor:
        """The last block's output (batch, copies, length, width) as one stream (batch, length, width)."""
        return x.mean(1)
