# mypy: disable-error-code="misc, no-any-return"
"""The blocks of an encoder or a decoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from depthwidth import layers

from .base import Pass, builds, module, optional


@builds(layers.Stack)
class Stack(nn.Module):
    """The blocks of an encoder or a decoder, and the norm after the last one.

    The module of a block maps the stream and the pass's shared data to the stream: ``block(x, run)``. If blocks keep several
    copies of the stream (:attr:`~depthwidth.layers.BlockLike.streams`), `x` is (batch, copies, length, width).
    """

    def __init__(self, layer: layers.Stack) -> None:
        super().__init__()
        self.sharing = layer.sharing
        self.position = optional(layer.position)
        if self.position is not None:
            self.position.causal = layer.causal
        self.copies = module(layer.copies or layers.Streams(layer.streams)) if layer.streams > 1 else None
        self.block = nn.ModuleList(module(block) for block in layer.blocks())
        self.norm = optional(layer.norm)
        self.contacts = optional(layer.contacts)
        self._share()

    def _bias(self, length: int, segments: Tensor | None) -> Tensor | None:
        """The score bias that all blocks share: (heads, length, length), or one for each sequence; None without."""
        if self.position is None:
            return None
        bias, between = self.position(length), self.position.between(segments)
        return bias if between is None else bias + between

    def _share(self) -> None:
        """Give blocks that share weights the parameters of the first of them; hooks and scales stay their own."""
        for index, first in enumerate(self.sharing or ()):
            if index != first:
                for name, parameter in self.block[first].named_parameters():
                    place, _, leaf = name.rpartition(".")
                    if leaf != "alpha":  # the trained scale of a branch (ReZero) is the block's own
                        self.block[index].get_submodule(place).register_parameter(leaf, parameter)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)  # on the device meta every parameter is recreated
        self._share()
        return self

    def forward(
        self, x: Tensor, memory: Tensor | None = None, inputs: Tensor | None = None, segments: Tensor | None = None
    ) -> Tensor:
        """The stream (batch, length, width) after the last block and norm.

        `memory` is another stack's output to attend to, `inputs` (batch, length, blocks, features) further inputs of blocks,
        `segments` (batch, length) the segments that score biases read.
        """
        run = Pass(memory, self._bias(x.shape[1], segments), inputs, segments)
        if self.copies is not None:
            x = self.copies.open(x)
        for index, block in enumerate(self.block):
            run.block = index
            x = block(x, run)
        if self.copies is not None:
            x = self.copies.close(x)
        return x if self.norm is None else self.norm(x)
