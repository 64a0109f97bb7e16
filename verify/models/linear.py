# mypy: disable-error-code="misc, no-any-return"
"""Linear maps."""

from __future__ import annotations

from torch import Tensor, nn

from depthwidth import layers

from .base import _scaled, _Unset, module


class Linear(_Unset, nn.Linear):
    """``multiplier * (W x + b)``."""

    multiplier = 1.0

    def __init__(self, layer: layers.Linear) -> None:
        super().__init__(layer.inputs, layer.outputs, layer.bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name
        """Features (..., inputs) to (..., outputs)."""
        return _scaled(super().forward(input), self.multiplier)


module.register(layers.Linear, Linear)
