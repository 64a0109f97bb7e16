# mypy: disable-error-code="misc, no-any-return"
"""Copies of the stream made by matrices, and joined by others."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthwidth import layers

from .base import add_children, builds


@builds(layers.ProjectedStreams)
class ProjectedStreams(nn.Module):
    """Maps of the stream, rescaled to its root mean square, as copies of it."""

    def __init__(self, layer: layers.ProjectedStreams) -> None:
        super().__init__()
        self.count, self.floor = layer.count, layer.floor
        add_children(self, layer)

    def open(self, x: Tensor) -> Tensor:
        """The stem's output (batch, length, width) as the copies that the first block reads: (batch, copies, length, width)."""
        maps = (self.get_submodule(f"make_{copy}") for copy in range(self.count - 1))
        return torch.stack([x, *(self._sized(part(x), x) for part in maps)], dim=1)

    def close(self, x: Tensor) -> Tensor:
        """The last block's output (batch, copies, length, width) as one stream (batch, length, width)."""
        first, *others = (part.contiguous() for part in x.unbind(1))
        maps = (self.get_submodule(f"join_{copy}") for copy in range(self.count - 1))
        sized = [self._sized(part(other), first) for part, other in zip(maps, others, strict=True)]
        return torch.stack([first, *sized]).mean(0)

    def _sized(self, y: Tensor, like: Tensor) -> Tensor:
        """`y` with the root mean square of `like`, over the features."""
        size = like.square().mean(-1, keepdim=True).sqrt()
        return y * (size / y.square().mean(-1, keepdim=True).clamp(min=self.floor).sqrt())
