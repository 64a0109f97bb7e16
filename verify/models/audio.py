# mypy: disable-error-code="misc, no-any-return"
"""The stem of a model of sound."""

from __future__ import annotations

from torch import Tensor, nn

from depthwidth import layers
from depthwidth.errors import InputError

from .activations import Activation
from .base import Undrawn, apply_dropout, builds, module, scale_by


@builds(layers.TimeConvolution)
class TimeConvolution(Undrawn, nn.Conv1d):
    """A convolution over time, padded to keep the length before it drops steps."""

    multiplier = 1.0

    def __init__(self, layer: layers.TimeConvolution) -> None:
        super().__init__(layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.kernel // 2)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name
        """Features (batch, inputs, steps) to features (batch, outputs, steps)."""
        return scale_by(super().forward(input), self.multiplier)


@builds(layers.AudioStem)
class AudioStem(nn.Module):
    """Two convolutions with activations, plus stored positions, then dropout."""

    def __init__(self, layer: layers.AudioStem) -> None:
        super().__init__()
        self.mel_bins, self.context, self.width, self.rate = layer.mel_bins, layer.context, layer.width, layer.dropout
        self.first, self.second = module(layer.first), module(layer.second)
        self.activation = Activation(layer.activation)
        self.positions = module(layer.positions)

    def forward(self, sound: Tensor, segments: Tensor | None = None) -> Tensor:
        """Spectrograms (batch, mel bins, steps) to the stream (batch, half as many positions, width)."""
        size = [self.mel_bins, 2 * self.context]
        if list(sound.shape[1:]) != size:
            raise InputError(f"the model takes spectrograms of shape {size}, and these are of shape {list(sound.shape[1:])}")
        x = self.activation(self.second(self.activation(self.first(sound)))).transpose(1, 2)
        x = x + self.positions.at(x.shape[1], self.width, x.device).to(x.dtype)
        return apply_dropout(x, self.rate, self.training)
