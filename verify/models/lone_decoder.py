"""A block of a decoder without its encoder."""

from __future__ import annotations

from depthwidth import layers

from .base import Branch, builds
from .block import Block


@builds(layers.LoneDecoderBlock)
class LoneDecoderBlock(Block):
    """Attention and a feed-forward part; cross-attention has its weights, and is skipped."""

    def branches(self) -> list[Branch]:
        """The branches without cross-attention, in the order of a forward pass."""
        return [branch for branch in super().branches() if branch is not self.cross_attention]
