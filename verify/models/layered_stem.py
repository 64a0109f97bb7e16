# mypy: disable-error-code="misc, no-any-return"
"""A stem that also makes a vector for each block."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from depthwidth import layers

from .base import builds, module
from .stem import TokenStem


@builds(layers.LayeredStem)
class LayeredStem(TokenStem):
    """A stem of tokens with per-layer embeddings."""

    def __init__(self, layer: layers.LayeredStem) -> None:
        super().__init__(layer)
        self.inputs, self.depth, self.width = layer.inputs, layer.depth, layer.width
        self.layer_tokens = module(layer.layer_tokens)
        self.layer_projection = module(layer.layer_projection)
        self.layer_norm = module(layer.layer_norm)

    def block_inputs(self, tokens: Tensor, x: Tensor) -> Tensor:
        """Tokens (batch, length) and the stem's output to vectors (batch, length, blocks, features)."""
        each = self.depth, self.inputs.width
        projected = self.layer_norm((self.layer_projection(x) / math.sqrt(self.width)).unflatten(-1, each))
        rows = self.layer_tokens(torch.where(tokens < self.inputs.vocab, tokens, 0)) * math.sqrt(self.inputs.width)
        return (projected + rows.unflatten(-1, each)) / math.sqrt(2)
