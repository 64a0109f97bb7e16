# mypy: disable-error-code="misc, no-any-return"
"""RWKV 4, one token after another: exact and slow."""

from __future__ import annotations

import torch
from torch import Tensor

from depthwidth import layers

from .base import Branch, Pass, add_children, add_tensors, builds, module
from .feed_forward import FeedForward


def blend(x: Tensor, share: Tensor) -> Tensor:
    """Each token times `share`, plus the one before it times the rest; there are zeros before the first."""
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)
    return x * share + before * (1 - share)


@builds(layers.TimeMix)
class TimeMix(Branch):
    """A weighted mean over the past for each feature."""

    def __init__(self, layer: layers.TimeMix) -> None:
        super().__init__()
        add_tensors(self, layer)
        add_children(self, layer)

    def branch(self, x: Tensor, run: Pass | None = None) -> Tensor:
        """Features (batch, length, width) to features of the same shape."""
        key, value = self.key(blend(x, self.key_share)).float(), self.value(blend(x, self.value_share)).float()
        receptance = torch.sigmoid(self.receptance(blend(x, self.receptance_share)))
        decay, bonus = -self.decay.float().exp(), self.bonus.float()
        above = below = torch.zeros_like(key[:, 0])
        largest = torch.full_like(above, -1e38)  # of the exponents, which are taken off so that nothing overflows
        outputs = []
        for t in range(x.shape[1]):
            (past, now), _ = _weights(largest, key[:, t] + bonus)
            outputs.append((past * above + now * value[:, t]) / (past * below + now))
            (past, now), largest = _weights(largest + decay, key[:, t])
            above, below = past * above + now * value[:, t], past * below + now
        return self.out(receptance * torch.stack(outputs, dim=1).to(x.dtype))


def _weights(*exponents: Tensor) -> tuple[list[Tensor], Tensor]:
    most = torch.maximum(*exponents)
    return [torch.exp(one - most) for one in exponents], most


@builds(layers.ChannelMix)
class ChannelMix(FeedForward):
    """A feed-forward part that reads two tokens, with a factor for each feature of its output."""

    def __init__(self, layer: layers.ChannelMix) -> None:
        super().__init__(layer)
        add_tensors(self, layer)
        self.receptance = module(next(child.layer for child in layer.children() if child.name == "receptance"))

    def branch(self, x: Tensor, run: Pass | None = None) -> Tensor:
        """Features (batch, length, width) to features of the same shape."""
        return torch.sigmoid(self.receptance(blend(x, self.receptance_share))) * super().branch(blend(x, self.up_share), run)
