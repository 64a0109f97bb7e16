# mypy: disable-error-code="misc, no-any-return"
"""Normalisation of the features of each token."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from depthwidth import layers

from .base import builds, scale_by


@builds(layers.LayerNorm)
class LayerNorm(nn.Module):
    """LayerNorm over the last dimension, with or without gain and bias, which may differ by the groups before it."""

    multiplier = 1.0

    def __init__(self, layer: layers.LayerNorm) -> None:
        super().__init__()
        self.width, self.eps, self.unit_offset = layer.width, layer.eps, layer.unit_offset
        shape = (layer.groups, layer.width) if layer.separate else (layer.width,)
        self.weight = nn.Parameter(torch.empty(shape)) if layer.affine else None
        self.bias = nn.Parameter(torch.empty(shape)) if layer.affine and layer.bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Features (..., width), normalised."""
        weight = None if self.weight is None else (self.weight + 1 if self.unit_offset else self.weight).to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if weight is not None and weight.dim() > 1:
            y = F.layer_norm(x, (self.width,), None, None, self.eps) * weight
            return scale_by(y if bias is None else y + bias, self.multiplier)
        return scale_by(F.layer_norm(x, (self.width,), weight, bias, self.eps), self.multiplier)


@builds(layers.RMSNorm)
class RMSNorm(nn.Module):
    """RMSNorm over the last dimension; with a unit offset the stored weights are the gain minus one."""

    multiplier = 1.0

    def __init__(self, layer: layers.RMSNorm) -> None:
        super().__init__()
        self.width, self.eps, self.unit_offset = layer.width, layer.eps, layer.unit_offset
        shape = (layer.groups, layer.width) if layer.separate else (layer.width,)
        self.weight = nn.Parameter(torch.empty(shape)) if layer.affine else None

    def forward(self, x: Tensor) -> Tensor:
        """Features (..., width), normalised."""
        weight = self.weight
        if weight is not None:
            weight = (weight + 1 if self.unit_offset else weight).to(x.dtype)
        if weight is not None and weight.dim() > 1:
            return scale_by(F.rms_norm(x, (self.width,), None, self.eps) * weight, self.multiplier)
        return scale_by(F.rms_norm(x, (self.width,), weight, self.eps), self.multiplier)
