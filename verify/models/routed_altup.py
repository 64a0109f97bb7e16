# mypy: disable-error-code="misc, no-any-return"
"""AltUp whose coefficients depend on the token."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from depthwidth import layers

from .base import Pass, add_children, builds, scale_by


@builds(layers.RoutedAltUp)
class RoutedAltUp(nn.Module):
    """Predict all copies, compute on the active one, correct all."""

    def __init__(self, layer: layers.RoutedAltUp) -> None:
        super().__init__()
        self.count, self.active, self.clip = layer.streams, layer.routing.active, layer.routing.clip
        self.width = layer.width
        add_children(self, layer)

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """The copies of the stream (batch, copies, length, width) after this block."""
        predicted = self.predicted(x)
        y = self.corrected(predicted, self.inner(self._one(predicted), run))
        if not hasattr(self, "gate"):
            return y
        added = self.gate(self._one(y), run.block_input)
        return torch.cat((y[:, :1], y[:, 1:] + added[:, None]), dim=1)

    def modes(self, x: Tensor) -> Tensor:
        """Weights of the modes (batch, length, copies) from one copy of the stream (batch, length, width)."""
        return torch.tanh(self.router(self.router_norm(x) / self.width).float()).to(x.dtype)

    def predicted(self, x: Tensor) -> Tensor:
        """All copies (batch, copies, length, width) as predicted from one another."""
        mixing = self._map(self.predict, self.modes(self._one(x))).unflatten(-1, (self.count, self.count))
        return x + torch.einsum("blij,bjlw->bilw", mixing, x)

    def corrected(self, predicted: Tensor, computed: Tensor) -> Tensor:
        """The predicted copies, each plus a multiple of the block's innovation (batch, length, width)."""
        factors = 1 + self._map(self.correct, self.modes(computed))
        return predicted + factors.transpose(1, 2)[..., None] * (computed - predicted[:, self.active])[:, None]

    def _one(self, x: Tensor) -> Tensor:
        """The active copy (batch, length, width), in memory of its own, so that not all are kept for the backward pass."""
        return x[:, self.active].clone()

    def _map(self, part: nn.Module, modes: Tensor) -> Tensor:
        """Coefficients from modes, their weights clipped in training."""
        if self.clip is None or not self.training:
            return part(modes)
        return scale_by(F.linear(modes, part.weight.clamp(-self.clip, self.clip)), part.multiplier)
