# mypy: disable-error-code="misc, no-any-return"
"""What turns tokens or images into the stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthwidth import layers
from depthwidth.errors import InputError

from .base import _dropped, _optional, _scaled, _Unset, module


class Embedding(_Unset, nn.Embedding):
    """A table of vectors, one a token, position or segment."""

    multiplier = 1.0

    def __init__(self, rows: int, width: int) -> None:
        super().__init__(rows, width)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name
        """Numbers (...) to vectors (..., width)."""
        return _scaled(super().forward(input), self.multiplier)


class TokenStem(nn.Module):
    """Token vectors, positions and segments added together; norm, dropout, projection."""

    def __init__(self, layer: layers.TokenStem) -> None:
        super().__init__()
        self.scale, self.rate = layer.scale, layer.dropout
        self.tokens = module(layer.tokens)
        self.positions = _optional(layer.positions)
        self.segments = _optional(layer.segments)
        self.norm = _optional(layer.norm)
        self.projection = _optional(layer.projection)
        # A narrow embedding is widened before what is as wide as the stream is added to it (OPT), otherwise at the end.
        parts = (layer.positions, layer.segments, layer.norm)
        widths = [part.width for part in parts if part is not None and hasattr(part, "width")]
        self.widened_first = layer.projection is not None and any(width != layer.tokens.width for width in widths)

    def forward(self, tokens: Tensor, segments: Tensor | None = None) -> Tensor:
        """Tokens (batch, length), and segments of the same shape or none for all 0, to (batch, length, width)."""
        x = _scaled(self.tokens(tokens), self.scale)
        if self.projection is not None and self.widened_first:
            x = self.projection(x)
        if self.positions is not None:
            x = x + self.positions.at(x.shape[1], x.shape[2], x.device).to(x.dtype)
        if self.segments is not None:
            x = x + self.segments(torch.zeros_like(tokens) if segments is None else segments)
        x = _dropped(x if self.norm is None else self.norm(x), self.rate, self.training)
        return x if self.projection is None or self.widened_first else self.projection(x)


class Patches(_Unset, nn.Conv2d):
    """Square patches of an image, each mapped linearly to a vector."""

    multiplier = 1.0

    def __init__(self, layer: layers.PatchStem) -> None:
        super().__init__(layer.channels, layer.width, layer.patch, stride=layer.patch, bias=layer.bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name
        """Images (batch, channels, height, width) to (batch, patches, width)."""
        return _scaled(super().forward(input), self.multiplier).flatten(2).transpose(1, 2)


class PatchStem(nn.Module):
    """Patches of an image, a class token before them, learned positions added, dropout."""

    def __init__(self, layer: layers.PatchStem) -> None:
        super().__init__()
        self.size, self.rate = (layer.channels, layer.height, layer.width_pixels), layer.dropout
        self.patch = Patches(layer)
        self.class_token = nn.Parameter(torch.empty(1, 1, layer.width)) if layer.class_token else None
        self.positions = nn.Parameter(torch.empty(1, layer.context, layer.width))
        self.multipliers: dict[str, float] = {}

    def forward(self, images: Tensor, segments: Tensor | None = None) -> Tensor:
        """Images (batch, channels, height, width) to (batch, tokens, width)."""
        if tuple(images.shape[1:]) != self.size:
            raise InputError(f"images of shape {list(images.shape[1:])} are given to a model of {list(self.size)}")
        x = self.patch(images)
        if self.class_token is not None:
            first = _scaled(self.class_token, self.multipliers.get("class_token", 1.0))
            x = torch.cat((first.expand(len(x), -1, -1).to(x.dtype), x), dim=1)
        x = x + _scaled(self.positions, self.multipliers.get("positions", 1.0))
        return _dropped(x, self.rate, self.training)


module.register(layers.Embedding, lambda layer: Embedding(layer.rows, layer.width))
module.register(layers.TokenStem, TokenStem)
module.register(layers.PatchStem, PatchStem)
