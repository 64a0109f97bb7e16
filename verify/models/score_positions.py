# mypy: disable-error-code="misc, no-any-return"
"""Positions in attention scores: DIET's biases, biases of segments, Shaw's relative vectors, TUPE's untied positions."""

from __future__ import annotations

import torch
from torch import Tensor

from depthwidth import layers
from depthwidth.errors import InputError

from .base import add_children, add_tensors, builds, scale_by
from .positions import ScorePosition, TableBias


@builds(layers.SegmentBias)
class SegmentBias(TableBias):
    """A score bias for each pair of segments: the base of the biases by position, and one that has no others."""

    def __init__(self, layer: layers.SegmentBias) -> None:
        super().__init__()
        self.layer = layer
        self.multipliers = dict.fromkeys(layer.tensors(), 1.0)
        add_tensors(self, layer)
        add_children(self, layer)

    def scaled(self, name: str) -> Tensor:
        """A table, times the recipe's factor."""
        return scale_by(getattr(self, name), self.multipliers[name])

    def check(self, length: int) -> None:
        """Refuse a sequence that is longer than the tables.

        Raises
        ------
        InputError
            if it is.
        """
        longest = self.layer.longest
        if longest is not None and length > longest:
            raise InputError(f"this model has score biases for {longest} positions; a sequence of {length} is beyond them")

    def table(self, length: int) -> Tensor:
        """The score bias of equal segments, zero: (heads, length, length)."""
        return self.segments.new_zeros((self.layer.heads, length, length))

    def between(self, segments: Tensor | None) -> Tensor | None:
        """The score bias of segments (batch, length): (batch, heads, length, length), or (heads, 1, 1) if all are 0."""
        if not self.layer.segments:
            return None
        table = self.scaled("segments")
        if segments is None:
            return table[0, 0][:, None, None].expand(self.layer.heads, 1, 1)
        found = table[segments[:, :, None], segments[:, None, :]].permute(0, 3, 1, 2)
        return found.expand(-1, self.layer.heads, -1, -1)


@builds(layers.DietRel)
class DietRel(SegmentBias):
    """A score bias for each difference of positions, query less key."""

    layer: layers.DietRel

    def table(self, length: int) -> Tensor:
        """The score bias, computed: (heads, length, length)."""
        self.check(length)
        position = torch.arange(length, device=self.weight.device)
        rows = position[:, None] - position + self.layer.context - 1
        return self.scaled("weight")[rows].permute(2, 0, 1).expand(self.layer.heads, -1, -1)


@builds(layers.DietAbs)
class DietAbs(SegmentBias):
    """A score bias that is a product of a table of queries and one of keys."""

    def table(self, length: int) -> Tensor:
        """The score bias, computed: (heads, length, length)."""
        self.check(length)
        query, key = (self.scaled(name)[:, :length] for name in ("query", "key"))
        return (query @ key.transpose(1, 2)).expand(self.layer.heads, -1, -1)


@builds(layers.UntiedPositions)
class UntiedPositions(SegmentBias):
    """A score bias of position vectors with a query and a key map of their own."""

    layer: layers.UntiedPositions

    def table(self, length: int) -> Tensor:
        """The score bias, computed: (heads, length, length)."""
        self.check(length)
        x, dim = self.scaled("weight")[torch.arange(length, device=self.weight.device)], self.layer.head_dim
        q, k = (part(x).unflatten(-1, (self.layer.heads, dim)).transpose(0, 1) for part in (self.query, self.key))
        return q @ k.transpose(1, 2) * (2 * dim) ** -0.5


@builds(layers.ShawVectors)
class ShawVectors(ScorePosition):
    """Vectors of differences of positions, key less query, added to keys and perhaps to values."""

    pairwise = True

    def __init__(self, layer: layers.ShawVectors) -> None:
        super().__init__()
        self.layer = layer
        self.multipliers = dict.fromkeys(layer.tensors(), 1.0)
        add_tensors(self, layer)

    def vectors(self, name: str, length: int) -> Tensor:
        """The vector of each query and key: (length, length, head_dim)."""
        reach, table = self.layer.reach, scale_by(getattr(self, name), self.multipliers[name])
        position = torch.arange(length, device=table.device)
        return table[(position - position[:, None]).clamp(-reach, reach) + reach]

    def scores(self, q: Tensor, scale: float) -> Tensor:
        """Summands of the scores: (batch, heads, length, length)."""
        return torch.einsum("bhid,ijd->bhij", q, self.vectors("key", q.shape[-2])) * scale

    def values(self, weights: Tensor) -> Tensor | None:
        """Summands of the mixed values: (batch, heads, length, head_dim)."""
        if not self.layer.values:
            return None
        return torch.einsum("bhij,ijd->bhid", weights, self.vectors("value", weights.shape[-1]))
