# mypy: disable-error-code="misc, no-any-return"
"""Stems: tokens or images to the residual stream.

A stem whose ``table`` is a matrix (vocab, width) shares it with a tied head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthwidth import layers
from depthwidth.errors import InputError

from .base import Table, Undrawn, apply_dropout, builds, module, optional, scale_by


@builds(layers.Embedding)
class Embedding(Table):
    """A table of vectors, one for each token or segment."""

    def __init__(self, layer: layers.Embedding) -> None:
        super().__init__(layer.rows, layer.width)


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


class Patches(Undrawn, nn.Conv2d):
    """Square patches of an image, each mapped linearly to a vector."""

    multiplier = 1.0

    def __init__(self, layer: layers.PatchStem) -> None:
        super().__init__(layer.channels, layer.width, layer.patch, stride=layer.patch, bias=layer.bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name
        """Images (batch, channels, height, width) to (batch, patches, width)."""
        return scale_by(super().forward(input), self.multiplier).flatten(2).transpose(1, 2)


@builds(layers.PatchStem)
class PatchStem(nn.Module):
    """A class token and the patches of an image, plus learned positions, then dropout."""

    def __init__(self, layer: layers.PatchStem) -> None:
        super().__init__()
        self.size, self.rate = (layer.channels, layer.height, layer.width_pixels), layer.dropout
        self.patch = Patches(layer)
        self.class_token = nn.Parameter(torch.empty(1, 1, layer.width)) if layer.class_token else None
        self.positions = nn.Parameter(torch.empty(1, layer.context, layer.width))
        self.multipliers = {"class_token": 1.0, "positions": 1.0}

    def forward(self, images: Tensor, segments: Tensor | None = None) -> Tensor:
        """Images (batch, channels, height, width) to the stream (batch, tokens, width)."""
        if tuple(images.shape[1:]) != self.size:
            raise InputError(
                f"the model takes images of shape {list(self.size)}, and these are of shape {list(images.shape[1:])}"
            )
        x = self.patch(images)
        if self.class_token is not None:
            first = scale_by(self.class_token, self.multipliers["class_token"])
            x = torch.cat((first.expand(len(x), -1, -1).to(x.dtype), x), dim=1)
        x = x + scale_by(self.positions, self.multipliers["positions"])
        return apply_dropout(x, self.rate, self.training)
