# mypy: disable-error-code="misc, no-any-return"
"""Attention within chunks of a sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from depthwidth import layers

from .attention import Attention
from .base import builds


@builds(layers.ChunkedAttention)
class ChunkedAttention(Attention):
    """Attention in which a query sees the keys of its own chunk, up to itself."""

    layer: layers.ChunkedAttention

    def _near(self, length: int) -> int | None:
        return self.layer.chunk if self.layer.chunk < length else None

    def _seen(self, length: int, device: torch.device) -> Tensor:
        position, chunk = torch.arange(length, device=device), self.layer.chunk
        return (position[:, None] >= position) & (position[:, None] // chunk == position // chunk)
