"""Positions: added to the embedding, rotated into queries and keys, or added to attention scores."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from ..checks import check_whole
from ..errors import InputError, shown
from ..signal import AnySignal, Site, TokenSignal
from .base import Layer, component
from .tensor import ZEROS, Tensor

P = TypeVar("P", bound="Position")


@component
class Position(Layer):
    """A way to tell a model the order of its tokens. Each method has a default for positions that do not do this.

    Abstract: a subclass sets `home`, the part of a model that holds it.
    """

    home = ""
    """``stem`` (added to the embedding), ``attention`` (acts on its queries, keys or scores) or ``stack`` (a table of score
    biases that all blocks share)."""

    @property
    def word(self) -> str | Position:
        """Its word in a :class:`~depthwidth.architecture.design.Design`; the component itself if no word says all of it."""
        return self

    # Of positions in the stem.

    @property
    def vectors_width(self) -> int | None:
        """Features of the trained vectors that it adds; None if it adds none."""
        return None

    @property
    def longest(self) -> int | None:
        """The most positions that it knows; None without a limit."""
        return None

    @property
    def fixed_variance(self) -> float:
        """Second moment of the fixed vectors that it adds."""
        return 0.0

    def add(self, x: AnySignal, identity: AnySignal, site: Site, width: int) -> Any:
        """The moments of `x`, features of a `width`, with its vectors added.

        `identity` has second moment 1 and, for covariance, the probability that two positions hold the same token.
        """
        return x

    # Of positions in attention.

    def penalties(self, heads: int, scale: float) -> tuple[float, ...] | None:
        """By how much the scores of each head fall with distance, in nats a position, if they are multiplied by `scale`."""
        return None

    def rotation(self, head_dim: int) -> Callable[[Any], Any] | None:
        """From an array of distances to the share of a product that rotations leave, averaged over the dimensions of a head."""
        return None

    def mean_rotation(self, head_dim: int, length: int, causal: bool) -> float:
        """That share, averaged over the pairs of keys that a query sees."""
        return 1.0


def positions_as(kind: type[P], value: object) -> P | None:
    """`value`, a component or a design's word for one, if it is positions of this kind; otherwise None."""
    return value if isinstance(value, kind) else None


@component
class LearnedPositions(Position):
    """A trainable vector for each of `context` positions, added to the token embedding.

    Some families keep `offset` more rows than there are positions (OPT: 2).
    """

    context: int
    width: int
    offset: int = 0
    embedding = True
    home = "stem"
    word = "learned"

    def __post_init__(self) -> None:
        check_whole("LearnedPositions", context=self.context, width=self.width)
        check_whole("LearnedPositions", smallest=0, offset=self.offset)

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": Tensor((self.context + self.offset, self.width), "positions")}

    def choices(self) -> dict[str, Any]:
        return {"position_offset": self.offset}

    @property
    def vectors_width(self) -> int | None:
        return self.width

    @property
    def longest(self) -> int | None:
        return self.context

    def add(self, x: AnySignal, identity: AnySignal, site: Site, width: int) -> Any:
        return x.plus(identity.times(site.at("positions").variance("weight"), 0.0))


@component
class SinusoidalPositions(Position):
    """Fixed sines and cosines added to the token embedding (Vaswani et al. 2017, arXiv 1706.03762, section 3.5)."""

    home = "stem"
    word = "sinusoidal"

    @property
    def fixed_variance(self) -> float:
        return 0.5

    def add(self, x: AnySignal, identity: AnySignal, site: Site, width: int) -> Any:
        waves = _sinusoidal(width, identity, site.trace.length)
        return x.plus(identity.of(0.5 * identity.second_moment, 0.5 * waves))


@component
class Rotary(Position):
    """Rotation of queries and keys by an angle proportional to the position (Su et al. 2021, arXiv 2104.09864).

    `fraction` of each head's dimensions are rotated. `interleaved` pairs neighbouring dimensions (GPT-J) instead of the two
    halves.
    """

    base: float = 10000.0
    fraction: float = 1.0
    interleaved: bool = False
    home = "attention"

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise InputError(f"Rotary: fraction={shown(self.fraction)} is not in (0, 1]")
        if not self.base > 0:
            raise InputError(f"Rotary: base={shown(self.base)} is not positive")

    def rotation(self, head_dim: int) -> Callable[[Any], Any]:
        return _rotation(self, head_dim)

    def mean_rotation(self, head_dim: int, length: int, causal: bool) -> float:
        return rotation_overlap(self, head_dim, length, causal)


@component
class ALiBi(Position):
    """A fixed penalty on attention scores, linear in distance (Press et al. 2021, arXiv 2108.12409).

    With `scaled`, scores are multiplied by their scale after the penalty is added, so that it is as much smaller (Falcon).
    """

    scaled: bool = False
    home = "attention"

    @property
    def word(self) -> str | Position:
        return self if self.scaled else "alibi"

    def penalties(self, heads: int, scale: float) -> tuple[float, ...]:
        return self.slopes(heads, scale)

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
class RelativeBias(Position):
    """A trainable score bias for each head and distance bucket, shared by the layers of a stack (T5, arXiv 1910.10683)."""

    heads: int
    buckets: int = 32
    max_distance: int = 128
    home = "stack"

    def __post_init__(self) -> None:
        check_whole("RelativeBias", heads=self.heads, buckets=self.buckets, max_distance=self.max_distance)

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": Tensor((self.buckets, self.heads), "score_bias", start=ZEROS)}


@functools.lru_cache(maxsize=64)
def _rotation(rotary: Rotary, head_dim: int) -> Callable[[Any], Any]:
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
    kernel = np.interp(every, distance, rotary.rotation(head_dim)(distance))
    # In a row of n keys, n - t pairs are t apart.
    rows = np.arange(2, length + 1)
    sums = rows * kernel.cumsum() - (every * kernel).cumsum()
    means = 2 * sums / (rows * (rows - 1))
    return float(means.mean() if causal else means[-1])


def sinusoidal_correlation(width: int, distance: Any) -> Any:
    """Correlation of the sinusoidal vectors of two positions that are so far apart; a number or an array."""
    import numpy as np

    frequencies = 10000.0 ** (-np.arange(0, width, 2) / width)
    return np.cos(np.multiply.outer(distance, frequencies)).mean(axis=-1)


def _sinusoidal(width: int, identity: AnySignal, length: int) -> Any:
    """That correlation for each pair of positions, or on average over all pairs of `length` positions."""
    import numpy as np

    if isinstance(identity, TokenSignal):
        return sinusoidal_correlation(width, np.maximum(1, identity.positions.distances))
    if length < 2:
        return 0.0
    distance = np.arange(1, length)
    pairs = length - distance
    return float(sinusoidal_correlation(width, distance) @ pairs / pairs.sum())
