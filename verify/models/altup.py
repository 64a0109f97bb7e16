# mypy: disable-error-code="misc, no-any-return"
"""Alternating updates over streams and along the sequence."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from depthwidth import layers
from depthwidth.numerics.altup import active_stream

from .base import Pass, add_tensors, builds, module, scale_by
from .streams import Streams


@builds(layers.PartStreams)
class PartStreams(Streams):
    """Streams that are the equal parts of a wider input, joined side by side at the end."""

    def open(self, x: Tensor) -> Tensor:
        """(batch, length, streams * width) to (batch, streams, length, width)."""
        return x.unflatten(-1, (self.count, -1)).transpose(1, 2).contiguous()

    def close(self, x: Tensor) -> Tensor:
        """(batch, streams, length, width) to (batch, length, streams * width)."""
        return x.transpose(1, 2).flatten(2)


@builds(layers.SummedStreams)
class SummedStreams(Streams):
    """Equal copies, and their sum at the end."""

    def open(self, x: Tensor) -> Tensor:
        """(batch, length, width) to (batch, streams, length, width)."""
        return super().open(x).contiguous()

    def close(self, x: Tensor) -> Tensor:
        """(batch, streams, length, width) to (batch, length, width)."""
        return x.sum(1)


@builds(layers.AltUp)
class AltUp(nn.Module):
    """Predict all streams, compute the layer on one of them as it was, correct all by the same innovation."""

    heads_apart = True
    """Its output is (batch, streams, length, width): probes join the features of all streams."""

    def __init__(self, layer: layers.AltUp) -> None:
        super().__init__()
        self.streams, self.select = layer.k, layer.select
        self.multipliers = {"predict": 1.0, "correct": 1.0}
        add_tensors(self, layer)
        self.layer = module(layer.layer)

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """The streams (batch, streams, length, width) after this block."""
        active = active_stream(run.block, self.streams, self.select)
        predict = scale_by(self.predict, self.multipliers["predict"])
        correct = scale_by(self.correct, self.multipliers["correct"])
        predicted = torch.bmm(predict.expand(len(x), -1, -1), x.flatten(2)).view(x.shape)
        innovation = self.layer(x[:, active], run) - predicted[:, active]
        return torch.addcmul(predicted, correct[:, None, None], innovation[:, None])


@builds(layers.SequenceAltUp)
class SequenceAltUp(nn.Module):
    """Predict all tokens, compute the layer on every `stride`-th of them, correct all by the innovation at their base."""

    def __init__(self, layer: layers.SequenceAltUp) -> None:
        super().__init__()
        self.stride = layer.stride
        self.multipliers = {"own": 1.0, "base": 1.0, "correct": 1.0}
        add_tensors(self, layer)
        self.layer = module(layer.layer)

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """The stream (batch, length, width) after this block."""
        own, base, correct = (scale_by(getattr(self, name), factor) for name, factor in self.multipliers.items())
        bases = x[:, :: self.stride]
        predicted = own * bases + base * bases
        change = correct * (self.layer(bases, self._shorter(run, bases.shape[1])) - predicted) + base * bases
        return own * x + change.repeat_interleave(self.stride, 1)[:, : x.shape[1]]

    def _shorter(self, run: Pass, length: int) -> Pass:
        """The pass of the bases, which are at consecutive positions."""
        bias = None if run.bias is None else run.bias[..., :length, :length]
        inputs = None if run.inputs is None else run.inputs[:, :: self.stride]
        return replace(run, bias=bias, inputs=inputs, tables=run.table(("bases", self.stride), dict))
