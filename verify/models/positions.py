# mypy: disable-error-code="misc, no-any-return"
"""How a model knows the order of its tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from depthwidth import layers
from depthwidth.errors import InputError

from .base import _scaled, module
from .stem import Embedding


class LearnedPositions(Embedding):
    """A vector for each position."""

    def __init__(self, layer: layers.LearnedPositions) -> None:
        super().__init__(layer.context + layer.offset, layer.width)
        self.context, self.offset = layer.context, layer.offset

    def at(self, length: int, width: int, device: torch.device) -> Tensor:
        """Vectors of the first positions: (length, width)."""
        if length > self.context:
            raise InputError(f"this model has {self.context} learned positions; a sequence of {length} is beyond them")
        return self(torch.arange(self.offset, self.offset + length, device=device))


class SinusoidalPositions(nn.Module):
    """Sines and cosines in turn, of wavelengths from 2 pi to 10000 * 2 pi (arXiv 1706.03762, section 3.5)."""

    def __init__(self, layer: layers.SinusoidalPositions) -> None:
        super().__init__()

    def at(self, length: int, width: int, device: torch.device) -> Tensor:
        """Vectors of the first positions: (length, width)."""
        angles = torch.outer(torch.arange(length, device=device).float(), _frequencies(10000.0, width + width % 2, device))
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :width]


def _frequencies(base: float, dims: int, device: torch.device) -> Tensor:
    """base^(-2i / dims) for each pair i; of an odd number the last has no partner of its own."""
    return base ** (-torch.arange(0, dims, 2, device=device).float() / dims)


class Rotary(nn.Module):
    """Rotation of queries and keys by angles proportional to the position.

    The other attributes are for models that stretch their positions beyond the training length: `frequencies` and `amplitude`
    in place of the plain ones; `far_frequencies` for sequences longer than `near` (LongRoPE, arXiv 2402.13753); a base that
    grows with the length, by `growth` beyond `near` (dynamic NTK). Layers with the same `name` share them.
    """

    name = ""
    near: int | None = None
    growth: float | None = None

    def __init__(self, layer: layers.Rotary) -> None:
        super().__init__()
        self.layer = layer
        self.amplitude = 1.0
        self.register_buffer("frequencies", None, persistent=False)
        self.register_buffer("far_frequencies", None, persistent=False)

    def angles(self, length: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosine and sine for each position and pair: (length, pairs) each, float32."""
        near = length if self.near is None else self.near
        far = length > near
        frequencies = self.frequencies if not far or self.far_frequencies is None else self.far_frequencies
        if frequencies is None:
            base, turned = self.layer.base, int(self.layer.fraction * dim + 1e-6)  # a fraction of 3/10 is a little less
            if far and self.growth is not None:
                base *= (self.growth * length / near - self.growth + 1) ** (turned / (turned - 2))
            frequencies = _frequencies(base, turned, device)[: dim // 2]
        with torch.autocast(device.type, enabled=False):  # a position of 1000 has no bf16
            angles = torch.arange(length, device=device).float()[:, None] * frequencies.float()
        return angles.cos() * self.amplitude, angles.sin() * self.amplitude

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Queries or keys (..., length, dim), rotated."""
        turned = 2 * cos.shape[-1]
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        if self.layer.interleaved:
            one, two = x[..., 0:turned:2], x[..., 1:turned:2]
            pairs = torch.stack((one * cos - two * sin, two * cos + one * sin), dim=-1).flatten(-2)
        else:
            one, two = x[..., : turned // 2], x[..., turned // 2 : turned]
            pairs = torch.cat((one * cos - two * sin, two * cos + one * sin), dim=-1)
        return pairs if turned == x.shape[-1] else torch.cat((pairs, x[..., turned:]), dim=-1)


class ALiBi(nn.Module):
    """A penalty on scores of ``slope * distance``, the slopes a geometric series over the heads (arXiv 2108.12409).

    Falcon scales the penalty like the scores, and computes it in bf16: `scale` and `coarse`.
    """

    scale = 1.0
    coarse = False

    def __init__(self, layer: layers.ALiBi) -> None:
        super().__init__()

    def slopes(self, heads: int, device: torch.device) -> Tensor:
        """One for each head."""
        return torch.tensor(layers.ALiBi().slopes(heads), device=device)

    def bias(self, heads: int, length: int, device: torch.device) -> Tensor:
        """What is added to scores: (heads, length, length)."""
        place = torch.arange(length, device=device)
        if self.coarse:  # of the key's place alone, from which causal softmax differs by a constant, but for the rounding
            penalty = self.slopes(heads, device).bfloat16()[:, None] * place
            return self.scale * penalty.float()[:, None].expand(-1, length, -1)
        distance = (place[:, None] - place).abs()
        return -self.scale * self.slopes(heads, device)[:, None, None] * distance


class RelativeBias(nn.Module):
    """A trainable score bias for each head and bucket of distances (T5)."""

    multiplier = 1.0
    causal = True

    def __init__(self, layer: layers.RelativeBias) -> None:
        super().__init__()
        self.max_distance = layer.max_distance
        self.weight = nn.Parameter(torch.empty(layer.buckets, layer.heads))

    def forward(self, length: int) -> Tensor:
        """What is added to scores: (heads, length, length)."""
        place = torch.arange(length, device=self.weight.device)
        table = self.weight[self.bucket(place - place[:, None])]
        return _scaled(table.permute(2, 0, 1), self.multiplier)

    def bucket(self, relative: Tensor) -> Tensor:
        """The bucket of a key's position less its query's: exact when near, logarithmic up to `max_distance`.

        Half of the buckets are for each direction where both are seen.
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


module.register(layers.LearnedPositions, LearnedPositions)
module.register(layers.SinusoidalPositions, SinusoidalPositions)
module.register(layers.Rotary, Rotary)
module.register(layers.ALiBi, ALiBi)
module.register(layers.RelativeBias, RelativeBias)
