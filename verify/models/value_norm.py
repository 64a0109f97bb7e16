"""Attention whose values are normalised."""

from __future__ import annotations

from depthwidth import layers

from .attention import Attention
from .base import builds, module


@builds(layers.ValueNormAttention)
class ValueNormAttention(Attention):
    """Attention with a norm over the value of each head."""

    def __init__(self, layer: layers.ValueNormAttention) -> None:
        super().__init__(layer)
        self.value_norm = module(layer.value_norm)
