"""How a model knows the order of its tokens: added to the embedding, rotated into queries and keys, or added to scores."""

from __future__ import annotations

from ..errors import InputError, shown
from .base import Layer, Shape, check_whole, component


@component
class LearnedPositions(Layer):
    """A trainable vector for each of `context` positions, added to the token embedding.

    Some families keep `offset` more rows than there are positions (OPT: 2).
    """

    context: int
    width: int
    offset: int = 0
    embedding = True

    def __post_init__(self) -> None:
        check_whole("LearnedPositions", context=self.context, width=self.width)
        check_whole("LearnedPositions", smallest=0, offset=self.offset)

    def tensors(self) -> dict[str, Shape]:
        return {"weight": (self.context + self.offset, self.width)}


@component
class SinusoidalPositions(Layer):
    """Fixed sines and cosines added to the token embedding (Vaswani et al. 2017, arXiv 1706.03762, section 3.5)."""


@component
class Rotary(Layer):
    """Rotation of queries and keys by an angle proportional to the position (Su et al. 2021, arXiv 2104.09864).

    `fraction` of each head's dimensions are rotated. `interleaved` pairs neighbouring dimensions (GPT-J) instead of the two
    halves.
    """

    base: float = 10000.0
    fraction: float = 1.0
    interleaved: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise InputError(f"Rotary: fraction={shown(self.fraction)} is not in (0, 1]")
        if not self.base > 0:
            raise InputError(f"Rotary: base={shown(self.base)} is not positive")


@component
class ALiBi(Layer):
    """A fixed penalty on attention scores, linear in distance (Press et al. 2021, arXiv 2108.12409)."""


@component
class RelativeBias(Layer):
    """A trainable score bias for each head and distance bucket, shared by the layers of a stack (T5, arXiv 1910.10683)."""

    heads: int
    buckets: int = 32
    max_distance: int = 128

    def __post_init__(self) -> None:
        check_whole("RelativeBias", heads=self.heads, buckets=self.buckets, max_distance=self.max_distance)

    def tensors(self) -> dict[str, Shape]:
        return {"weight": (self.buckets, self.heads)}
