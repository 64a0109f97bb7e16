# mypy: disable-error-code="misc, no-any-return"
"""A mixture of experts with a sparse mixer for a router, as it is evaluated."""

from __future__ import annotations

import torch
from torch import Tensor

from depthwidth import layers

from .base import builds
from .feed_forward import MixtureOfExperts


@builds(layers.SparseMixer)
class SparseMixer(MixtureOfExperts):
    """The best expert and the best of the others, each weighted by its share among the candidates near it.

    Training is not random here, unlike in the library.
    """

    def __init__(self, layer: layers.SparseMixer) -> None:
        super().__init__(layer)
        self.jitter = layer.jitter

    def route(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The weights and the numbers of each token's experts, (tokens, 2) each, from the scores (tokens, experts)."""
        left, weights, chosen = scores, [], []
        for _ in range(2):
            best, expert = left.max(dim=-1, keepdim=True)
            far = (best - scores) / scores.abs().clamp(min=best) > 2 * self.jitter
            shares = torch.softmax(left.masked_fill(far, -torch.inf), dim=-1)
            weights.append(shares.gather(-1, expert))
            chosen.append(expert)
            left = left.scatter(-1, expert, -torch.inf)
        return torch.cat(weights, dim=-1), torch.cat(chosen, dim=-1)
