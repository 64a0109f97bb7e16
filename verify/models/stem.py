# mypy: disable-error-code="misc, no-any-return"
"""The stem of tokens: tokens to the residual stream.

A stem whose ``table`` is a matrix (vocab, width) shares it with a tied head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthwidth import layers

from .base import Table, apply_dropout, builds, module, optional, scale_by


@builds(layers.Embedding)
class Embedding(Table):
    """A table of vectors, one for each token or segment."""

    def __init__(self, layer: layers.Embedding) -> None:
        super().__init__(layer.rows, layer.width)


@builds(layers.SharedEmbedding)
class SharedEmbedding(nn.Module):
    """The token table of another stem."""

    multiplier = 1.0

    def __init__(self, layer: layers.SharedEmbedding) -> None:
        super().__init__()
        self.owner: tuple[nn.Module, ...] = ()  # in a tuple, so that it is not part of this module
        self.width = layer.width

    def forward(self, tokens: Tensor) -> Tensor:
        """Whole numbers (...) to vectors (..., width)."""
        return self.owner[0](tokens)


@builds(layers.TokenStem)
class TokenStem(nn.Module):
    """The sum of token vectors, positions and segments, followed by norm, dropout and projection."""

    def __init__(self, layer: layers.TokenStem) -> None:
        super().__init__()
        self.scale, self.rate = layer.scale, layer.dropout
        self.tokens = module(layer.tokens)
        self.positions = optional(layer.positions)
        self.segments = optional(layer.segments)
        self.norm = optional(layer.norm)
        self.projection = optional(layer.projection)
        # A narrow embedding is projected before tables as wide as the stream are added to it (OPT), otherwise at the end.
        parts = (layer.positions, layer.segments, layer.norm)
        widths = [part.width for part in parts if part is not None and hasattr(part, "width")]
        self.widened_first = layer.projection is not None and any(width != layer.tokens.width for width in widths)

    @property
    def table(self) -> Tensor:
        """The token vectors (vocab, width)."""
        return self.tokens.weight

    def share(self, other: nn.Module) -> None:
        """Read the token vectors of another stem, if this one has none of its own."""
        if hasattr(self.tokens, "owner"):
            self.tokens.owner = (other.tokens,)

    def forward(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """Tokens (batch, length) and segments of the same shape, all 0 by default, to the stream (batch, length, width)."""
        x = scale_by(self.tokens(tokens), self.scale)
        if self.projection is not None and self.widened_first:
            x = self.projection(x)
        if self.positions is not None:
            x = x + self.positions.at(x.shape[1], x.shape[2], x.device).to(x.dtype)
        if self.segments is not None:
            x = x + self.segments(torch.zeros_like(tokens) if segments is None else segments)
        x = apply_dropout(x if self.norm is None else self.norm(x), self.rate, self.training)
        return x if self.projection is None or self.widened_first else self.projection(x)
