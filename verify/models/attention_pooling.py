# mypy: disable-error-code="misc, no-any-return"
"""A head that pools the tokens of an image by attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthwidth import layers

from .base import Pass, builds, module, scale_by


@builds(layers.AttentionPooling)
class AttentionPooling(nn.Module):
    """A probe that attends to all tokens, then a feed-forward part with a norm and a skip path."""

    def __init__(self, layer: layers.AttentionPooling) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(1, 1, layer.width))
        self.multipliers = {"probe": 1.0}
        self.attention, self.norm = module(layer.attention), module(layer.norm)
        self.feed_forward = module(layer.feed_forward)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Features (batch, length, width) to (batch, width)."""
        run = Pass(memory=x)
        probe = scale_by(self.probe, self.multipliers["probe"]).to(x.dtype).repeat(len(x), 1, 1)
        y = self.attention.branch(probe, run)
        return (y + self.feed_forward.branch(self.norm(y), run))[:, 0]
