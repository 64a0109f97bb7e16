# mypy: disable-error-code="misc, no-any-return"
"""Attention by positive scores over their sum."""

from __future__ import annotations

import torch
from torch import Tensor

from depthwidth import layers

from .attention import Attention, Mix
from .base import builds


class ReluMix(Mix):
    """The mix of values by ReLU scores over their sum; zero for a query without a positive score."""

    fused = False

    def weights(self, scores: Tensor, sinks: Tensor | None) -> Tensor:
        """Positive scores over their sum; `sinks` are never given."""
        return relu_weights(scores)


def relu_weights(scores: Tensor) -> Tensor:
    """Positive scores over the sum of each row, in float32 or finer; rows without one are zero and have no gradient.

    Each row is divided by its largest score beforehand, so that neither its sum nor a gradient leaves the range of numbers. The
    divisor is no epsilon: a factor on all scores leaves the weights as they are.

    >>> relu_weights(torch.tensor([[-1.0, 3.0, 1.0], [-2.0, 0.0, -1.0]]))
    tensor([[0.0000, 0.7500, 0.2500],
            [0.0000, 0.0000, 0.0000]])
    """
    positive = torch.relu(scores.to(torch.promote_types(scores.dtype, torch.float32)))
    largest = positive.detach().amax(dim=-1, keepdim=True)
    positive = positive / torch.where(largest > 0, largest, 1.0)
    total = positive.sum(dim=-1, keepdim=True)
    return positive / torch.where(total > 0, total, 1.0)


@builds(layers.ReluAttention)
class ReluAttention(Attention):
    """Attention by ReLU scores."""

    def __init__(self, layer: layers.ReluAttention) -> None:
        super().__init__(layer)
        self.mix = ReluMix(self.mix.scale, None, layer.dropout)
