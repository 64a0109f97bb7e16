# mypy: disable-error-code="misc, no-any-return"
"""Positions: added to the embedding, rotated into queries and keys, or added to attention scores.

A position component inside attention subclasses :class:`ScorePosition`; one that is added to the embedding has a method `at`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Hashable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from depthwidth import layers
from depthwidth.errors import InputError

from .base import Pass, Table, builds, scale_by


@builds(layers.LearnedPositions)
class LearnedPositions(Table):
    """A vector for each position."""

    def __init__(self, layer: layers.LearnedPositions) -> None:
        super().__init__(layer.context + layer.offset, layer.width)
        self.context, self.offset = layer.context, layer.offset

    def at(self, length: int, width: int, device: torch.device) -> Tensor:
        """Vectors of the first `length` positions: (length, width)."""
        if length > self.context:
            raise InputError(f"this model has {self.context} learned positions; a sequence of {length} is beyond them")
        return self(torch.arange(self.offset, self.offset + length, device=device))


@builds(layers.SinusoidalPositions)
class SinusoidalPositions(nn.Module):
    """Sines and cosines of wavelengths from 2 pi to 10000 * 2 pi, in turn or in two halves (arXiv 1706.03762, section 3.5)."""

    def __init__(self, layer: layers.SinusoidalPositions) -> None:
        super().__init__()
        self.layer, self.offset = layer, layer.offset

    def at(self, length: int, width: int, device: torch.device) -> Tensor:
        """Vectors of the first `length` positions: (length, width)."""
        return self.vectors(torch.arange(self.offset, self.offset + length, device=device), width)

    def vectors(self, positions: Tensor, width: int) -> Tensor:
        """Vectors of these positions: (length, width)."""
        even = width if self.layer.halves else width + width % 2  # of an odd number the last one has no partner
        frequencies = torch.from_numpy(self.layer.frequencies(even)).to(positions.device, torch.float32)
        angles = torch.outer(positions.float(), frequencies)
        if not self.layer.halves:
            return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :width]
        pairs = torch.cat((angles.sin(), angles.cos()), dim=1)[:, :width]
        return F.pad(pairs, (0, width - pairs.shape[1]))


@builds(layers.SinusoidalTable)
class SinusoidalTable(SinusoidalPositions):
    """The same, stored."""

    def __init__(self, layer: layers.SinusoidalTable) -> None:
        super().__init__(layer)
        self.weight = nn.Parameter(torch.empty(layer.rows, layer.width), requires_grad=False)

    def fill(self) -> None:
        """Set the table to its values."""
        rows, width = self.weight.shape
        self.weight.copy_(self.vectors(torch.arange(rows, device=self.weight.device), width))

    def at(self, length: int, width: int, device: torch.device) -> Tensor:
        """Vectors of the first `length` positions: (length, width)."""
        if length + self.offset > len(self.weight):
            known = len(self.weight) - self.offset
            raise InputError(f"this model has {known} stored positions; a sequence of {length} is beyond them")
        return self.weight[self.offset : self.offset + length]


def _frequencies(base: float, dims: int, device: torch.device) -> Tensor:
    """``base^(-2i / dims)`` for each pair i; of an odd number of dimensions the last one has no partner."""
    return base ** (-torch.arange(0, dims, 2, device=device).float() / dims)


class ScorePosition(nn.Module):
    """A position component inside attention: it changes queries and keys, or adds a bias to scores, or both."""

    biased = False
    """True if it adds a bias to scores."""
    causal = True
    """True if queries see earlier keys only; the attention sets it."""
    turns_pairs = False
    """True if it turns pairs of dimensions by :meth:`Rotary.angles` of the position alone."""

    def rotated(self, head_dim: int) -> int:
        """Dimensions of a head that it rotates."""
        return 0

    def encode(self, q: Tensor, k: Tensor, run: Pass) -> tuple[Tensor, Tensor]:
        """Queries (batch, heads, length, dim) and keys (batch, kv_heads, length, dim) with their positions."""
        return q, k

    pairwise = False
    """True if it has products with each query, :meth:`scores`, and perhaps with its attention weights, :meth:`values`."""

    def bias(self, heads: int, length: int, scale: float, device: torch.device) -> Tensor:
        """The score bias (heads, length, length), if `scale` multiplies the products of queries and keys."""
        raise NotImplementedError

    def between(self, segments: Tensor | None) -> Tensor | None:
        """The score bias (batch or nothing, heads, length, length) of segments (batch, length), all 0 if None; None without."""
        return None

    def scores(self, q: Tensor, scale: float) -> Tensor:
        """Summands of the scores that depend on the queries: (batch, heads, length, length)."""
        raise NotImplementedError

    def values(self, weights: Tensor) -> Tensor | None:
        """Summands of the mixed values, given the attention weights (batch, heads, length, length); None if there are none."""
        return None


class TableBias(ScorePosition):
    """A score bias that does not depend on the input. In evaluation it is kept from pass to pass until a weight changes."""

    biased = True
    _kept: tuple[Hashable, Tensor] | None = None

    def table(self, length: int) -> Tensor:
        """The score bias, computed: (heads, length, length)."""
        raise NotImplementedError

    def forward(self, length: int) -> Tensor:
        """The score bias: (heads, length, length)."""
        weights = list(self.parameters())
        # Weights that another transformation of torch stands in for have neither an address nor a version.
        alone = all(type(weight) is nn.Parameter and not weight.is_meta for weight in weights)
        if self.training or torch.is_grad_enabled() or not alone or torch.compiler.is_compiling():
            return self.table(length)
        key = (length, self.causal, *((weight.data_ptr(), weight._version, weight.dtype) for weight in weights))
        if self._kept is None or self._kept[0] != key:
            table = self.table(length)
            # A fused kernel reads a table of one piece faster; equal heads stay one table.
            self._kept = key, table.contiguous() if all(table.stride()) else table
        return self._kept[1]

    def train(self, mode: bool = True) -> TableBias:
        """Set the mode, and drop what was kept."""
        self._kept = None
        return super().train(mode)

    def bias(self, heads: int, length: int, scale: float, device: torch.device) -> Tensor:
        """The score bias: (heads, length, length)."""
        return self(length)


@builds(layers.Rotary)
class Rotary(ScorePosition):
    """Rotation of queries and keys by angles proportional to the position, stretched as the component says."""

    turns_pairs = True
    backward = False
    """True if angles have the other sign (nanochat)."""
    query_growth: tuple[float, float] | None = None
    """If given, a rate b and a length n: the query at position p is multiplied by 1 + b log(1 + floor(p / n)) (Ministral 3)."""
    factor: float | None = None
    """If given, a factor on queries and keys that the component does not have, because a norm follows (Hunyuan)."""
    settings: ClassVar = {"backward_rotation": "backward", "query_growth": "query_growth", "rotary_factor": "factor"}

    def __init__(self, layer: layers.Rotary) -> None:
        super().__init__()
        self.layer = layer

    def rotated(self, head_dim: int) -> int:
        """Dimensions of a head that it rotates."""
        return self.layer.rotated(head_dim)

    def angles(self, length: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosine and sine for each position and pair: (length, pairs) each, float32."""
        layer = self.layer
        if layer.scaling is None:
            frequencies = _frequencies(layer.base, layer.rotated(dim), device)[: dim // 2]
        else:
            frequencies = torch.from_numpy(layer.frequencies(dim, length)).to(device, torch.float32)
        with torch.autocast(device.type, enabled=False):  # a position of 1000 has no bf16
            angles = torch.arange(length, device=device).float()[:, None] * frequencies
        factor = layer.amplitude if self.factor is None else self.factor
        return angles.cos() * factor, angles.sin() * factor

    def encode(self, q: Tensor, k: Tensor, run: Pass) -> tuple[Tensor, Tensor]:
        """Queries and keys (batch, heads, length, dim), rotated."""
        length, dim = q.shape[-2:]
        make = functools.partial(self.angles, length, dim, q.device)
        cos, sin = run.table(("rotary", self.layer, dim), make)
        if self.query_growth is not None:
            rate, near = self.query_growth
            position = torch.arange(length, device=q.device)
            q = q * (1 + rate * torch.log(1 + torch.floor(position / near)))[:, None].to(q.dtype)
        return self.rotate(q, cos, sin), self.rotate(k, cos, sin)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries or keys (..., length, dim), rotated."""
        turned = 2 * cos.shape[-1]
        cos, sin = cos.to(x.dtype), (-sin if self.backward else sin).to(x.dtype)
        if self.layer.interleaved:
            one, two = x[..., 0:turned:2], x[..., 1:turned:2]
            pairs = torch.stack((one * cos - two * sin, two * cos + one * sin), dim=-1).flatten(-2)
        else:
            one, two = x[..., : turned // 2], x[..., turned // 2 : turned]
            pairs = torch.cat((one * cos - two * sin, two * cos + one * sin), dim=-1)
        return pairs if turned == x.shape[-1] else torch.cat((pairs, x[..., turned:]), dim=-1)


@builds(layers.ALiBi)
class ALiBi(ScorePosition):
    """A penalty on scores of ``slope * distance``; the slopes of the heads are a geometric series (arXiv 2108.12409).

    With `coarse` the penalty is computed in bf16 (Falcon).
    """

    biased = True
    coarse = False
    settings: ClassVar = {"coarse_penalty": "coarse"}

    def __init__(self, layer: layers.ALiBi) -> None:
        super().__init__()
        self.scaled = layer.scaled

    def slopes(self, heads: int, device: torch.device) -> Tensor:
        """The slope of each head."""
        return torch.tensor(layers.ALiBi().slopes(heads), device=device)

    def bias(self, heads: int, length: int, scale: float, device: torch.device) -> Tensor:
        """The penalty: (heads, length, length)."""
        scale = scale if self.scaled else 1.0
        position = torch.arange(length, device=device)
        if self.coarse:  # a function of the key's position alone: in causal softmax a constant apart, except for the rounding
            penalty = self.slopes(heads, device).bfloat16()[:, None] * position
            return scale * penalty.float()[:, None].expand(-1, length, -1)
        distance = (position[:, None] - position).abs()
        return -scale * self.slopes(heads, device)[:, None, None] * distance


@builds(layers.RelativeBias)
class RelativeBias(TableBias):
    """A trainable score bias for each head and bucket of distances, shared by the blocks of a stack (T5)."""

    multiplier = 1.0

    def __init__(self, layer: layers.RelativeBias) -> None:
        super().__init__()
        self.max_distance = layer.max_distance
        self.weight = nn.Parameter(torch.empty(layer.buckets, layer.heads))

    def table(self, length: int) -> Tensor:
        """The score bias, computed: (heads, length, length)."""
        position = torch.arange(length, device=self.weight.device)
        table = self.weight[self.bucket(position - position[:, None])]
        return scale_by(table.permute(2, 0, 1), self.multiplier)

    def bucket(self, relative: Tensor) -> Tensor:
        """The bucket of the difference of a key's and its query's position: exact if near, logarithmic up to `max_distance`.

        Without a causal mask each direction has half of the buckets.
        """
        buckets = self.weight.shape[0]
        start = torch.zeros_like(relative)
        if self.causal:
            distance = (-relative).clamp(min=0)
        else:
            start = (relative > 0).long() * (buckets // 2)
            buckets = max(1, buckets // 2)
            distance = relative.abs()
        exact = max(1, buckets // 2)
        ratio = max(self.max_distance, exact + 1) / exact
        far = torch.log(distance.clamp(min=1).float() / exact) / math.log(ratio) * (buckets - exact)
        return start + torch.where(distance < exact, distance, (exact + far.long()).clamp(max=buckets - 1))


@builds(layers.ImageBias)
class ImageBias(TableBias):
    """A trainable score bias for each head and each difference of two patches' places; the first token is the class token."""

    multiplier = 1.0

    def __init__(self, layer: layers.ImageBias) -> None:
        super().__init__()
        self.layer = layer
        self.weight = nn.Parameter(torch.empty(layer.differences + 3, layer.heads))

    def table(self, length: int) -> Tensor:
        """The score bias, computed: (heads, length, length)."""
        if length != self.layer.longest:
            raise InputError(f"this model has score biases for {self.layer.longest} tokens, not {length}")
        table = self.weight[self.places(self.weight.device)]
        return scale_by(table.permute(2, 0, 1), self.multiplier)

    def places(self, device: torch.device) -> Tensor:
        """The row of the table for each query and key: (length, length)."""
        layer, last = self.layer, self.layer.differences
        patch = torch.arange(layer.rows * layer.columns, device=device)
        row, column = patch // layer.columns, patch % layer.columns
        vertical = row[:, None] - row + layer.rows - 1
        horizontal = column[:, None] - column + layer.columns - 1
        found = torch.full((layer.longest, layer.longest), last, device=device)  # the class token as query
        found[1:, 1:] = vertical * (2 * layer.columns - 1) + horizontal
        found[1:, 0], found[0, 0] = last + 1, last + 2
        return found


@builds(layers.BlockRelativeBias)
class BlockRelativeBias(RelativeBias):
    """The same in one block (umT5)."""
