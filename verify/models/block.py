# mypy: disable-error-code="misc, no-any-return"
"""A residual branch with its norms, and a block of branches."""

from __future__ import annotations

from torch import Tensor, nn

from depthwidth import layers
from depthwidth.errors import InputError

from .base import Pass, Residual, _optional, _scaled, module


def _residual(layer: layers.Residual) -> Residual:
    made = module(layer.branch)
    if not isinstance(made, Residual):
        raise InputError(f"the module of {type(layer.branch).__name__} is not a Residual, so it cannot be a branch")
    made.norm_in, made.norm_out = _optional(layer.norm_in), _optional(layer.norm_out)
    made.norm_stream = _optional(layer.norm_stream)
    made.rate = layer.dropout
    return made


class Block(nn.Module):
    """Attention, cross-attention where there is one, feed-forward; one after the other, or side by side.

    Branches side by side are added to the stream together; where they have norms for the stream, the sum goes through them in
    turn.
    """

    def __init__(self, layer: layers.Block) -> None:
        super().__init__()
        self.parallel = layer.parallel
        self.norm = _optional(layer.norm)
        self.attention = module(layer.attention)
        self.cross_attention = _optional(layer.cross_attention)
        self.feed_forward = module(layer.feed_forward)

    def branches(self) -> list[Residual]:
        """In the order a signal meets them."""
        present = (self.attention, self.cross_attention, self.feed_forward)
        return [branch for branch in present if isinstance(branch, Residual)]

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """The stream (batch, length, width) behind this block."""
        branches = self.branches()
        if not self.parallel:
            for branch in branches:
                x = branch(x, run)
            return x
        y = x if self.norm is None else self.norm(x)
        x = _scaled(x, branches[0].skip)  # they state one skip
        for branch in branches:
            x = x + branch.added(y, run)
        for branch in branches:
            x = x if branch.norm_stream is None else branch.norm_stream(x)
        return x


module.register(layers.Residual, _residual)
module.register(layers.Block, Block)
