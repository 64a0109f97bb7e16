# mypy: disable-error-code="misc, no-any-return"
"""A feed-forward part that cuts most of its hidden features to zero."""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Tensor

from depthwidth import layers

from .base import Pass, apply_dropout, builds
from .feed_forward import FeedForward


@builds(layers.SparseFeedForward)
class SparseFeedForward(FeedForward):
    """Hidden features of a token below a quantile of a Gaussian of their mean and deviation are cut to zero."""

    def __init__(self, layer: layers.SparseFeedForward) -> None:
        super().__init__(layer)
        self.cut = NormalDist().inv_cdf(layer.sparsity)

    def branch(self, x: Tensor, run: Pass | None = None) -> Tensor:
        """Features (..., width) to features of the same shape."""
        up = self.up(x) if self.up_activation is None else self.up_activation(self.up(x))
        hidden = self.activation(self.kept(up)) if self.gate is None else self.activation(up, self.kept(self.gate(x)))
        hidden = apply_dropout(hidden, self.hidden_rate, self.training)
        return self.down(hidden if self.inner_norm is None else self.inner_norm(hidden))

    def kept(self, z: Tensor) -> Tensor:
        """Hidden features (..., hidden) less the cut, none below zero."""
        mean = z.mean(-1, keepdim=True)
        return torch.relu(z - (mean + self.cut * z.std(-1, keepdim=True, unbiased=False)))
