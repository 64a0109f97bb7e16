# mypy: disable-error-code="misc, no-any-return"
"""A residual branch with its norms, and a block of branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthwidth import layers
from depthwidth.errors import InputError

from .base import Branch, Pass, builds, module, optional, scale_by


@builds(layers.Residual)
def residual(layer: layers.Residual) -> Branch:
    """The module of the branch, with the norms and the dropout rate of the residual around it.

    Raises
    ------
    InputError
        if the branch's module is not a :class:`~verify.models.base.Branch`.
    """
    made = module(layer.branch)
    if not isinstance(made, Branch):
        name = type(layer.branch).__name__
        raise InputError(f"{name} cannot be a branch: its module {type(made).__name__} is no verify.models.base.Branch")
    made.norm_in, made.norm_out = optional(layer.norm_in), optional(layer.norm_out)
    made.norm_stream = optional(layer.norm_stream)
    made.rate = layer.dropout
    if layer.layer_scale is not None:
        made.layer_scale = nn.Parameter(torch.empty(layer.width))
    made.scale = made.own_scale = layer.scale
    return made


@builds(layers.Block)
class Block(nn.Module):
    """A mixer, attention, cross-attention and feed-forward, those that are present: in sequence or in parallel.

    Parallel branches are added to the stream together; if they have norms for the stream, the sum passes through them in turn.
    """

    def __init__(self, layer: layers.Block) -> None:
        super().__init__()
        self.parallel = layer.parallel
        self.norm = optional(layer.norm)
        self.mixer = optional(layer.mixer)
        self.attention = optional(layer.attention)
        self.cross_attention = optional(layer.cross_attention)
        self.feed_forward = optional(layer.feed_forward)

    def branches(self) -> list[Branch]:
        """The branches, in the order of a forward pass."""
        present = (self.mixer, self.attention, self.cross_attention, self.feed_forward)
        return [branch for branch in present if branch is not None]

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """The stream (batch, length, width) after this block."""
        branches = self.branches()
        if not self.parallel:
            for branch in branches:
                x = branch(x, run)
            return x
        y = x if self.norm is None else self.norm(x)
        x = scale_by(x, branches[0].skip)  # parallel branches state one skip scale
        for branch in branches:
            x = x + branch.summand(y, run)
        for branch in branches:
            x = x if branch.norm_stream is None else branch.norm_stream(x)
        return x
