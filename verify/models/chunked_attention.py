# mypy: disable-error-code="misc, no-any-return"
"""Attention within chunks of a sequence."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from depthwidth import layers

from .attention import Attention
from .base import Pass, builds


@builds(layers.ChunkedAttention)
class ChunkedAttention(Attention):
    """Attention in which a query sees the keys of its own chunk, up to itself."""

    layer: layers.ChunkedAttention

    def _mask(self, length: int, q: Tensor, run: Pass) -> tuple[Tensor | None, bool]:
        chunk = self.layer.chunk
        if length <= chunk:
            return super()._mask(length, q, run)
        return run.table(("chunks", chunk), functools.partial(_chunks, length, chunk, q.device)), False


def _chunks(length: int, chunk: int, device: torch.device) -> Tensor:
    position = torch.arange(length, device=device)
    return (position[:, None] >= position) & (position[:, None] // chunk == position // chunk)
