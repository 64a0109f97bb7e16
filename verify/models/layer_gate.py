# mypy: disable-error-code="misc, no-any-return"
"""The gate of per-layer embeddings."""

from __future__ import annotations

from torch import Tensor, nn

from depthwidth import layers

from .activations import Activation
from .base import add_children, add_tensors, builds, scale_by


@builds(layers.LayerGate)
class LayerGate(nn.Module):
    """A vector from the stem, gated by the stream and mapped to it."""

    def __init__(self, layer: layers.LayerGate) -> None:
        super().__init__()
        add_tensors(self, layer)
        add_children(self, layer)
        self.activation = Activation(layer.activation)
        self.multipliers = {"scale": 1.0}

    def forward(self, x: Tensor, inputs: Tensor) -> Tensor:
        """The stream (..., width) and vectors (..., features) to a term of the stream (..., width)."""
        read = x * scale_by(self.scale, self.multipliers["scale"]).to(x.dtype)
        return self.norm(self.write(self.activation(self.gate(read)) * inputs))
