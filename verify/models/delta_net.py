# mypy: disable-error-code="misc, no-any-return"
"""The gated delta net, one token after another: exact and slow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from depthwidth import layers

from .activations import Activation
from .base import Branch, Pass, add_children, add_tensors, builds

_LEAST = 1e-6  # term of a squared length before the division by its root, as in the kernels


@builds(layers.GatedDeltaNet)
class GatedDeltaNet(Branch):
    """A state for each value head, corrected towards each token's value; states are in float32."""

    def __init__(self, layer: layers.GatedDeltaNet) -> None:
        super().__init__()
        self.layer = layer
        add_tensors(self, layer)
        add_children(self, layer)
        self.activation = Activation(layer.activation)

    def branch(self, x: Tensor, run: Pass | None = None) -> Tensor:
        """Features (batch, length, width) to features of the same shape."""
        layer = self.layer
        mixed = torch.cat([self.query(x), self.key(x), self.value(x)], dim=-1)
        query, key, value = self.activation(self.convolution(mixed)).split([layer.keys, layer.keys, layer.values], dim=-1)
        share = layer.value_heads // layer.key_heads
        query, key = (
            _unit(part.unflatten(-1, (layer.key_heads, layer.key_dim)).float()).repeat_interleave(share, dim=2)
            for part in (query, key)
        )
        value = value.unflatten(-1, (layer.value_heads, layer.value_dim)).float()
        strength = torch.sigmoid(self.strength(x)).float()
        kept = torch.exp(-self.log_decay.float().exp() * F.softplus(self.step(x).float() + self.step_bias.float()))
        state = torch.zeros(x.shape[0], layer.value_heads, layer.key_dim, layer.value_dim, device=x.device)
        outputs = []
        for t in range(x.shape[1]):
            state = state * kept[:, t, :, None, None]
            held = torch.einsum("bhkv,bhk->bhv", state, key[:, t])
            change = (value[:, t] - held) * strength[:, t, :, None]
            state = state + key[:, t, :, :, None] * change[:, :, None]
            outputs.append(torch.einsum("bhkv,bhk->bhv", state, query[:, t] * layer.key_dim**-0.5))
        y = self.norm(torch.stack(outputs, dim=1).to(x.dtype)).flatten(-2)
        return self.out(y * F.silu(self.gate(x)))


def _unit(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + _LEAST)
