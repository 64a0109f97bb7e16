"""Positions: added to the embedding, rotated into queries and keys, or added to attention scores."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from ..checks import check_whole
from ..errors import InputError, shown
from ..numerics.distinct import distinct
from ..signal import AnySignal, Number, Offset, Site, TokenSignal
from .base import Layer, component, share
from .rotary_scaling import RotaryScaling
from .tensor import FIXED, ZEROS, Tensor

P = TypeVar("P", bound="Position")

MOST_ANGLES = 2**16
"""Largest number of features whose angles are followed; their products with thousands of distances take gigabytes."""


class BiasMoments(NamedTuple):
    """The part of a score bias that a softmax sees, over draws of its tables."""

    variance: Number
    """Of an entry, in nats^2; a number, or one for each of several blocks"""
    rank: float = float("inf")
    """Features over which an entry is a sum of products; infinite for entries that are drawn themselves"""
    own: float = 1.0
    """Share of the variance that differs between the keys of a row"""
    pair: float = 0.0
    """Share that two rows have in common for one key"""


@component
class Position(Layer):
    """A description of the order of tokens to a model. Each method's default is for positions without that effect.

    Abstract: a subclass sets `home`, the part of a model that holds it.
    """

    home = ""
    """``stem`` (added to the embedding), ``attention`` (acts on its queries, keys or scores) or ``stack`` (a table of score
    biases that all blocks share)."""
    adds_scores = False
    """True if it adds to the scores of attention, beyond rotating queries and keys."""

    @property
    def word(self) -> str | Position:
        """Its word in a :class:`~depthwidth.architecture.design.Design`; the component itself if no word expresses it fully."""
        return self

    # For positions in the stem.

    @property
    def vectors_width(self) -> int | None:
        """Features of the trained vectors that it adds; None if it adds none."""
        return None

    @property
    def longest(self) -> int | None:
        """The largest number of positions; None without a limit."""
        return None

    @property
    def fixed_variance(self) -> float:
        """Second moment of the fixed vectors that it adds."""
        return 0.0

    def add(self, x: AnySignal, identity: AnySignal, site: Site, width: int) -> Any:
        """The moments of `x`, of `width` features, with the position vectors added.

        `identity` has second moment 1 and, for covariance, the probability that two positions hold the same token.
        """
        return x

    def sharded(self, devices: int) -> Any:
        heads = getattr(self, "heads", None)
        return self if heads is None else self.replace(heads=share(type(self).__name__, devices, heads=heads))

    def fitted(self, heads: int, width: int) -> Position:
        """The same positions for attention of this number of heads, or for an embedding of this width."""
        return self

    # For positions in attention.

    def penalties(self, heads: int, scale: float) -> tuple[float, ...] | None:
        """Penalty on the scores of each head, in nats per position of distance, if scores are multiplied by `scale`."""
        return None

    def score_gain(self, head_dim: int) -> float:
        """Factor on the variance of the scores."""
        return 1.0

    def rotation(self, head_dim: int, length: int) -> Callable[[Any], Any] | None:
        """The factor of rotation on a query-key product, averaged over the head, as a function of an array of distances.

        `length` is that of the sequence.
        """
        return None

    def mean_rotation(self, head_dim: int, length: int, causal: bool, reach: int | None = None) -> float:
        """That factor, averaged over the pairs of keys that a query sees, of `reach` keys or of all."""
        return 1.0

    def content_scale(self, head_dim: int) -> float | None:
        """The factor on the products of queries and keys that goes with these positions; None for the usual one."""
        return None

    def pair_dims(self, head_dim: int, value_dim: int) -> int:
        """Features of the products that each head adds for each pair of query and key to those of scores and values."""
        return 0

    def score_bias(self, site: Site) -> BiasMoments | None:
        """The score bias at the start, of which `site` has the tables; None if it is zero, or neglected.

        Raises
        ------
        InputError
            if its moments are not known.
        """
        return None


def positions_as(kind: type[P], value: object) -> P | None:
    """`value`, a component or a design's word for one, if it is a component of this kind; otherwise None."""
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
    """Fixed sines and cosines added to the token embedding (Vaswani et al. 2017, arXiv 1706.03762, section 3.5).

    With `halves` all sines stand before all cosines, instead of in turn. With `to_end` the frequencies reach their lowest
    value, 1/10000 (tensor2tensor, M2M-100, Whisper), instead of ending one step above it. The first position has the number
    `offset`.
    """

    halves: bool = False
    to_end: bool = False
    offset: int = 0
    home = "stem"

    def __post_init__(self) -> None:
        check_whole(type(self).__name__, smallest=0, offset=self.offset)

    @property
    def word(self) -> str | Position:
        return "sinusoidal" if self == SinusoidalPositions() else self

    @property
    def fixed_variance(self) -> float:
        return 0.5

    def frequencies(self, width: int) -> Any:
        """Angle per position of each sine, and of the cosine beside it, in vectors of `width` features."""
        import numpy as np

        _check_angles(self, width)
        if self.to_end:
            pairs = width // 2
            return 10000.0 ** (-np.arange(pairs) / max(pairs - 1, 1))
        return 10000.0 ** (-np.arange(0, width, 2) / width)

    def add(self, x: AnySignal, identity: AnySignal, site: Site, width: int) -> Any:
        correlations = self._correlations(width, identity, site.trace.length)
        mean, mean_pair = self.mean_squares(width, identity, site.trace.length)
        mean, mean_pair = mean + 0.0 * identity.second_moment, mean_pair + 0.0 * identity.covariance
        second, pair = 0.5 * identity.second_moment - mean, 0.5 * correlations - mean_pair
        return x.plus(identity.of(second, pair).offset_as(Offset(mean, mean_pair, second, pair, width)))

    def correlation(self, width: int, distance: Any) -> Any:
        """Correlation of the vectors of two positions at this distance; a number or an array."""
        import numpy as np

        return np.cos(np.multiply.outer(distance, self.frequencies(width))).mean(axis=-1)

    def _correlations(self, width: int, identity: AnySignal, length: int) -> Any:
        """Correlation of the vectors of each pair of positions, or its mean over all pairs of `length` positions."""
        import numpy as np

        if isinstance(identity, TokenSignal) and not identity.positions.alike:
            return self.correlation(width, np.maximum(1, identity.positions.distances))
        if length < 2:
            return 0.0
        distance = np.arange(1, length)
        pairs = length - distance
        return float(self.correlation(width, distance) @ pairs / pairs.sum())

    def mean(self, width: int, position: Any) -> Any:
        """Mean over the features of the vectors at these positions, which begin at 0; a number or an array."""
        import numpy as np

        angles = np.multiply.outer(np.add(position, self.offset), self.frequencies(width))
        return (np.sin(angles).sum(axis=-1) + np.cos(angles[..., : width // 2]).sum(axis=-1)) / width

    def mean_squares(self, width: int, identity: AnySignal, length: int, beside: Any = 0.0) -> tuple[Any, Any]:
        """Squares of :meth:`mean` and its products for two positions, at each or their means over `length` positions.

        `beside` is the mean over the features of what the vectors are added to.
        """
        import numpy as np

        if isinstance(identity, TokenSignal) and not identity.positions.alike:
            mean = beside + self.mean(width, identity.positions.nodes - 1)
            one, other = identity.positions.pairs(mean)
            return mean * mean, one * other
        mean = beside + self.mean(width, np.arange(length))
        square = float(mean @ mean)
        return square / length, (float(mean.sum()) ** 2 - square) / (length * max(1, length - 1))


@component
class SinusoidalTable(SinusoidalPositions):
    """Sines and cosines that are stored: a fixed vector of `width` features for each of `rows` positions.

    The transformers library counts such a table among a model's weights (Marian, Pegasus, Whisper).
    """

    rows: int = 1
    width: int = 1
    embedding = True

    def __post_init__(self) -> None:
        check_whole("SinusoidalTable", rows=self.rows, width=self.width)
        super().__post_init__()

    def fitted(self, heads: int, width: int) -> Position:
        return replace(self, width=width)

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": Tensor((self.rows, self.width), "positions", start=FIXED)}

    @property
    def longest(self) -> int | None:
        return self.rows - self.offset


@component
class Rotary(Position):
    """Rotation of queries and keys by an angle proportional to the position (Su et al. 2021, arXiv 2104.09864).

    `fraction` of each head's dimensions are rotated. `interleaved` pairs neighbouring dimensions (GPT-J) instead of the two
    halves. `scaling` stretches the positions, and in two of its kinds enlarges the scores.
    """

    base: float = 10000.0
    fraction: float = 1.0
    interleaved: bool = False
    scaling: RotaryScaling | None = None
    home = "attention"

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise InputError(f"Rotary: fraction={shown(self.fraction)} is not in (0, 1]")
        if not self.base > 0:
            raise InputError(f"Rotary: base={shown(self.base)} is not positive")
        if self.scaling is not None and self.scaling.kind == "yarn" and self.base == 1:
            raise InputError("Rotary: base=1 has one angle for all dimensions, which YaRN cannot tell apart")

    def rotated(self, head_dim: int) -> int:
        """Dimensions of a head that are rotated."""
        return int(self.fraction * head_dim + 1e-6)  # a fraction of 3/10 is a little less

    @property
    def amplitude(self) -> float:
        """Factor on the rotated dimensions of queries and of keys."""
        return 1.0 if self.scaling is None else self.scaling.amplitude

    def score_gain(self, head_dim: int) -> float:
        if self.amplitude == 1:
            return 1.0
        share = 2 * (self.rotated(head_dim) // 2) / head_dim
        return 1 + share * (self.amplitude**4 - 1)

    def rotation(self, head_dim: int, length: int) -> Callable[[Any], Any]:
        return _rotation(self, head_dim, self._regime(length))

    def mean_rotation(self, head_dim: int, length: int, causal: bool, reach: int | None = None) -> float:
        return rotation_overlap(self, head_dim, length if reach is None else reach, causal, self._regime(length))

    def _regime(self, length: int) -> int:
        return 1 if self.scaling is None else self.scaling.regime(length)

    def frequencies(self, head_dim: int, length: int) -> Any:
        """Angle per position of each pair of dimensions, in a sequence of `length` tokens."""
        import numpy as np

        dims = self.rotated(head_dim)
        _check_angles(self, dims)
        if self.scaling is not None and dims > 1:
            return self.scaling.frequencies(self.base, dims, head_dim, length)
        pairs = dims // 2
        return self.base ** (-np.arange(pairs) / max(pairs, 1))


@component
class ALiBi(Position):
    """A fixed penalty on attention scores, linear in distance (Press et al. 2021, arXiv 2108.12409).

    With `scaled`, the sum of score and penalty is multiplied by the scale, which reduces the penalty by this factor (Falcon).
    """

    scaled: bool = False
    home = "attention"
    adds_scores = True

    @property
    def word(self) -> str | Position:
        return self if self.scaled else "alibi"

    def penalties(self, heads: int, scale: float) -> tuple[float, ...]:
        return self.slopes(heads, scale)

    def slopes(self, heads: int, scale: float = 1.0) -> tuple[float, ...]:
        """The penalty of each head in nats per position, if scores are multiplied by `scale`: a geometric series.

        If the number of heads is not a power of two, every other slope of twice as many completes it, as in the authors' code.

        Examples
        --------
        >>> ALiBi().slopes(4)
        (0.25, 0.0625, 0.015625, 0.00390625)
        >>> ALiBi().slopes(3)
        (0.0625, 0.00390625, 0.25)
        """

        def series(count: int) -> list[float]:
            return [2.0 ** (-8 * (head + 1) / count) for head in range(count)]

        power = 2 ** (heads.bit_length() - 1)
        factor = scale if self.scaled else 1.0
        return tuple(factor * slope for slope in (series(power) + series(2 * power)[::2])[:heads])


@component
class RelativeBias(Position):
    """A trainable score bias for each head and distance bucket, shared by the layers of a stack (T5, arXiv 1910.10683)."""

    heads: int
    buckets: int = 32
    max_distance: int = 128
    home = "stack"
    adds_scores = True

    def __post_init__(self) -> None:
        check_whole("RelativeBias", heads=self.heads, buckets=self.buckets, max_distance=self.max_distance)

    def fitted(self, heads: int, width: int) -> Position:
        return replace(self, heads=heads)

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": Tensor((self.buckets, self.heads), "score_bias", start=ZEROS)}


@component
class BlockRelativeBias(RelativeBias):
    """The same with a table of its own in each block (umT5, arXiv 2304.09151)."""

    home = "attention"


def _check_angles(position: Position, features: int) -> None:
    """Refuse more features than an array of their angles should have."""
    if features > MOST_ANGLES:
        name = type(position).__name__
        raise InputError(f"{name}: the angles of {features:,} features are not followed; at most {MOST_ANGLES:,}")


@functools.lru_cache(maxsize=64)
def _rotation(rotary: Rotary, head_dim: int, length: int) -> Callable[[Any], Any]:
    import numpy as np

    angles = rotary.frequencies(head_dim, length)
    if not angles.size:
        return lambda distance: np.ones(np.shape(distance))
    # Of the scores' variance, if the rotated dimensions are enlarged.
    share = 2 * angles.size / head_dim * rotary.amplitude**4 / rotary.score_gain(head_dim)
    return lambda distance: 1 - share * (1 - np.cos(np.multiply.outer(distance, angles)).mean(axis=-1))


@functools.lru_cache(maxsize=64)
def rotation_overlap(rotary: Rotary, head_dim: int, length: int, causal: bool, sequence: int | None = None) -> float:
    """Mean cosine of the angles between two rotated keys, over the dimensions of a head and the pairs of keys in one row.

    A row sees all `length` keys or, under a causal mask, the first, the first two, and so on; all rows have equal weight. The
    mean is 1 without rotation, and 0.51 for 188 keys of 64 dimensions, a base of 10,000 and no mask.

    `sequence` is the length of the sequence, if rows see fewer keys than it has.
    """
    import numpy as np

    if length < 2:
        return 1.0
    every = np.arange(1, length)
    # Beyond a few thousand positions a sample of the distances suffices.
    distance = every if length <= 4096 else distinct(np.geomspace(1, length - 1, 4096).astype(int))
    kernel = np.interp(every, distance, rotary.rotation(head_dim, sequence or length)(distance))
    # In a row of n keys, n - t pairs have distance t.
    rows = np.arange(2, length + 1)
    sums = rows * kernel.cumsum() - (every * kernel).cumsum()
    means = 2 * sums / (rows * (rows - 1))
    return float(means.mean() if causal else means[-1])
