# mypy: disable-error-code="misc, no-any-return"
"""Linear maps."""

from __future__ import annotations

from torch import Tensor, nn

from depthwidth import layers

from .base import Undrawn, builds, scale_by


@builds(layers.Linear)
class Linear(Undrawn, nn.Linear):
    """``multiplier * (W x + b)``."""

    multiplier = 1.0
    deferred = False
    """True if the caller applies the multiplier, after a norm that would cancel it here."""

    def __init__(self, layer: layers.Linear) -> None:
        super().__init__(layer.inputs, layer.outputs, layer.bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name
        """Features (..., inputs) to features (..., outputs)."""
        y = super().forward(input)
        return y if self.deferred else scale_by(y, self.multiplier)
