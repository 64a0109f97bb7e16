# mypy: disable-error-code="misc, no-any-return"
"""The blocks of an encoder or a decoder."""

from __future__ import annotations

from torch import Tensor, nn

from depthwidth import layers

from .base import Pass, _optional, module
from .positions import RelativeBias


class Stack(nn.Module):
    """The blocks of an encoder or a decoder and the norm behind them."""

    def __init__(self, layer: layers.Stack) -> None:
        super().__init__()
        self.position = _optional(layer.position)
        if isinstance(self.position, RelativeBias):
            first = layer.repeats[0].block.attention.branch
            self.position.causal = isinstance(first, layers.Attention) and first.causal
        self.block = nn.ModuleList(module(block) for block in layer.blocks())
        self.norm = _optional(layer.norm)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """The stream (batch, length, width), and that of another stack to attend to, to the last block's, normed."""
        run = Pass(memory, None if self.position is None else self.position(x.shape[1]))
        for block in self.block:
            x = block(x, run)
        return x if self.norm is None else self.norm(x)


module.register(layers.Stack, Stack)
