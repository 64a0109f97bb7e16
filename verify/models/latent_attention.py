# mypy: disable-error-code="no-any-return"
"""Multi-head latent attention."""

from __future__ import annotations

import torch
from torch import Tensor

from depthwidth import layers

from .attention import Attention, split_heads
from .base import Pass, builds, module, optional


@builds(layers.LatentAttention)
class LatentAttention(Attention):
    """Attention whose keys and values are maps of few normalised features, and its rotary key one for all heads."""

    def __init__(self, layer: layers.LatentAttention) -> None:
        super().__init__(layer)
        self.sizes = layer.latent
        self.query_latent, self.query_latent_norm = optional(layer.query_latent), optional(layer.query_latent_norm)
        self.latent_map, self.latent_norm = module(layer.latent_map), module(layer.latent_norm)
        self.rotary_key = module(layer.rotary_key)

    def branch(self, x: Tensor, run: Pass) -> Tensor:
        """Features (batch, length, width) to features of the same shape."""
        layer, rotary = self.layer, self.sizes.rotary
        source = x
        if self.query_latent is not None and self.query_latent_norm is not None:
            source = self.query_latent_norm(self.query_latent(x))
        q = split_heads(self.query(source), layer.heads, layer.head_dim)
        z = self.latent_norm(self.latent_map(x))
        k, v = (split_heads(part(z), layer.heads, dim) for part, dim in self._from_latent())
        still, turned, key = q[..., :-rotary], q[..., -rotary:], self.rotary_key(x)[:, None]
        if self.position is not None:
            turned, key = self.position.encode(turned, key, run)
        q = torch.cat((still, turned), dim=-1)
        k = torch.cat((k, key.expand(-1, layer.heads, -1, -1)), dim=-1)
        y = self.mix(q, k, v, *self._mask(x.shape[1], q, run))
        return self.out(y.transpose(1, 2).flatten(2))

    def _from_latent(self) -> tuple[tuple[torch.nn.Module, int], ...]:
        """The maps of the latent features with the dimensions of a head."""
        return (self.key, self.layer.head_dim - self.sizes.rotary), (self.value, self.layer.value_dim)
