# mypy: disable-error-code="misc, no-any-return"
"""Disentangled attention: scores of content, and of content with relative position (DeBERTa)."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from depthwidth import layers
from depthwidth.errors import InputError

from .attention import Attention, split_heads
from .base import Pass, builds, optional
from .positions import ScorePosition


@builds(layers.RelativeVectors)
class RelativeVectors(ScorePosition):
    """A vector for each relative position, for all blocks of a stack."""

    def __init__(self, layer: layers.RelativeVectors) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(2 * layer.span, layer.width))
        self.norm = optional(layer.norm)

    def forward(self, length: int) -> Tensor:
        """The vectors: (2 span, width)."""
        return self.weight if self.norm is None else self.norm(self.weight)


@builds(layers.DisentangledAttention)
class DisentangledAttention(Attention):
    """Attention with up to two terms of the scores that depend on relative positions."""

    def __init__(self, layer: layers.DisentangledAttention) -> None:
        super().__init__(layer)
        self.relative = layer.relative
        self.position_key, self.position_query = optional(layer.position_key), optional(layer.position_query)

    def joined(self, x: Tensor, run: Pass) -> Tensor:
        """The heads' outputs, joined: (batch, length, heads value_dim)."""
        layer, length = self.layer, x.shape[1]
        q, k = (split_heads(part(x), layer.heads, layer.head_dim) for part in (self.query, self.key))
        v = split_heads(self.value(x), layer.heads, layer.value_dim)
        y = self.mix(q, k, v, self._summand(q, k, length, run), False).transpose(1, 2).flatten(2)
        return y if self.inner_norm is None else self.inner_norm(y)

    def _summand(self, q: Tensor, k: Tensor, length: int, run: Pass) -> Tensor:
        """The parts of the scores that depend on relative positions: (batch, heads, length, length)."""
        layer, relative = self.layer, self.relative
        if run.bias is None or run.bias.shape != (2 * relative.span, layer.width):
            raise InputError("disentangled attention reads RelativeVectors of its span, which its stack lacks")
        near = relative.rows(length) // 2
        vectors = run.bias[relative.span - near : relative.span + near][None]
        key, query = (self.key, self.query) if relative.shared else (self.position_key, self.position_query)
        keys, queries = (
            None if part is None else split_heads(part(vectors), layer.heads, layer.head_dim) for part in (key, query)
        )
        make = functools.partial(rows_of, length, near, relative.longest, q.device)
        rows = run.table(("relative rows", length, near, relative.longest), make)
        rows = rows.expand(*q.shape[:2], -1, -1)
        parts = []
        if relative.to_position and keys is not None:
            parts.append((q @ keys.transpose(-2, -1)).gather(-1, rows))
        if relative.to_content and queries is not None:
            parts.append((k @ queries.transpose(-2, -1)).gather(-1, rows.transpose(-2, -1)).transpose(-2, -1))
        return sum(parts[1:], parts[0]) * self.mix.scale


def rows_of(length: int, span: int, longest: int | None, device: torch.device) -> Tensor:
    """The row of the table for each query and key, by their distance: (length, length)."""
    position = torch.arange(length, device=device)
    distance = position[:, None] - position
    if longest is not None:
        half = span // 2
        # In single precision as in the library, on which the last vector of a scale depends.
        far = torch.log(distance.abs().clamp(min=1) / half) / torch.log(torch.tensor((longest - 1) / half, device=device))
        grown = (torch.ceil(far * (half - 1)) + half) * distance.sign()
        distance = torch.where(distance.abs() <= half, distance, grown.long())
    return (distance + span).clamp(0, 2 * span - 1)
