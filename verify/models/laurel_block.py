# mypy: disable-error-code="misc, no-any-return"
"""A block with a learned augmented residual layer parallel to attention."""

from __future__ import annotations

from torch import Tensor, nn

from depthwidth import layers
from depthwidth.layers.laurel_block import SHARE

from .base import Pass, add_children, builds, scale_by


@builds(layers.LaurelBlock)
class LaurelBlock(nn.Module):
    """Attention and Laurel in parallel, then a feed-forward part."""

    def __init__(self, layer: layers.LaurelBlock) -> None:
        super().__init__()
        add_children(self, layer)

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """The stream (batch, length, width) after this block."""
        attention = self.attention
        read = attention.read_stream(x)
        y = scale_by(x, attention.skip) + attention.finish_branch(attention.branch(read, run))
        y = SHARE * (y + self.laurel(read))
        return self.feed_forward(y if attention.norm_stream is None else attention.norm_stream(y), run)
