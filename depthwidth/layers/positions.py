"""How a model knows the order of its tokens: added to the embedding, rotated into queries and keys, or added to scores."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ..checks import check_whole
from ..errors import InputError, shown
from .base import Layer, Shape, component


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

    def left_at(self, head_dim: int) -> Callable[[Any], Any]:
        """From distances of two positions, an array, to what rotations leave of a product, averaged over dimensions."""
        return _left_at(self, head_dim)


@component
class ALiBi(Layer):
    """A fixed penalty on attention scores, linear in distance (Press et al. 2021, arXiv 2108.12409).

    With `scaled`, scores are multiplied by their scale after the penalty is added, so that it is as much smaller (Falcon).
    """

    scaled: bool = False

    def slopes(self, heads: int, scale: float = 1.0) -> tuple[float, ...]:
        """The penalty of each head in nats a position, of scores that are multiplied by `scale`: a geometric series.

        Where the number of heads is no power of two, every other slope of twice as many fills up, as in the authors' code.

        Examples
        --------
        >>> ALiBi().slopes(4)
        (0.25, 0.0625, 0.015625, 0.00390625)
        >>> ALiBi().slopes(3)
        (0.0625, 0.00390625, 0.25)
        """

        def series(count: int) -> list[float]:
            return [2.0 ** (-8 * (head + 1) / count) for head in range(count)]

        whole = 2 ** (heads.bit_length() - 1)
        factor = scale if self.scaled else 1.0
        return tuple(factor * slope for slope in (series(whole) + series(2 * whole)[::2])[:heads])


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


@functools.lru_cache(maxsize=64)
def _left_at(rotary: Rotary, head_dim: int) -> Callable[[Any], Any]:
    import numpy as np

    turned = int(rotary.fraction * head_dim) // 2
    if not turned:
        return lambda distance: np.ones(np.shape(distance))
    angles = rotary.base ** (-np.arange(turned) / turned)
    share = 2 * turned / head_dim
    return lambda distance: 1 - share * (1 - np.cos(np.multiply.outer(distance, angles)).mean(axis=-1))


@functools.lru_cache(maxsize=64)
def rotation_overlap(rotary: Rotary, head_dim: int, length: int, causal: bool) -> float:
    """Average cosine by which rotations turn two keys apart, over the dimensions of a head and pairs of keys in one row.

    Rows see all of `length` keys or, under a causal mask, the first, the first two, and so on; their averages count alike. It
    is 1 where nothing is rotated, and 0.51 for 188 keys of 64 dimensions, a base of 10,000 and no mask.
    """
    import numpy as np

    if length < 2:
        return 1.0
    every = np.arange(1, length)
    # Beyond a few thousand positions a sample of the distances is as good.
    distance = every if length <= 4096 else np.unique(np.geomspace(1, length - 1, 4096).astype(int))
    kernel = np.interp(every, distance, rotary.left_at(head_dim)(distance))
    # In a row of n keys, n - t pairs are t apart.
    rows = np.arange(2, length + 1)
    sums = rows * kernel.cumsum() - (every * kernel).cumsum()
    means = 2 * sums / (rows * (rows - 1))
    return float(means.mean() if causal else means[-1])
