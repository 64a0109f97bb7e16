# mypy: disable-error-code="misc, no-any-return"
"""A block that reads the output of another model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthwidth import layers

from .base import Branch, Pass, add_children, add_tensors, builds, scale_by


@builds(layers.MemoryBlock)
class MemoryBlock(nn.Module):
    """Gated cross-attention and a gated feed-forward part, skipped if there is nothing to attend to."""

    def __init__(self, layer: layers.MemoryBlock) -> None:
        super().__init__()
        add_tensors(self, layer)
        add_children(self, layer)
        self.multipliers = {"attention_gate": 1.0, "feed_forward_gate": 1.0}

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """The stream (batch, length, width) after this block."""
        if run.memory is None:
            return x
        for branch, gate in ((self.cross_attention, "attention_gate"), (self.feed_forward, "feed_forward_gate")):
            factor = torch.tanh(scale_by(getattr(self, gate), self.multipliers[gate]))
            x = self._after(branch, x, factor, run)
        return x

    @staticmethod
    def _after(branch: Branch, x: Tensor, factor: Tensor, run: Pass) -> Tensor:
        y = scale_by(x, branch.skip) + factor * branch.summand(x, run)
        return y if branch.norm_stream is None else branch.norm_stream(y)
