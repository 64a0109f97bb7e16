"""Sines and cosines added to the embedding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..checks import check_whole
from ..numerics.homogeneity import Place, Powers
from ..signal import AnySignal, Offset, Site, TokenSignal
from .base import component
from .positions import Position, check_angles
from .tensor import FIXED, Tensor


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

    def degree(self, x: Powers, at: Place) -> Powers:
        return at.apply("sum", x, {}, reason="fixed sines and cosines are added")

    def frequencies(self, width: int) -> Any:
        """Angle per position of each sine, and of its cosine, in vectors of `width` features."""
        import numpy as np

        check_angles(self, width)
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

        `beside` is the mean over the features of the stream that the vectors are added to.
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

    def degree(self, x: Powers, at: Place) -> Powers:
        return at.apply(
            "sum", x, at.weight("weight"), reason="stored sines and cosines are added to a stream of another degree"
        )

    @property
    def longest(self) -> int | None:
        return self.rows - self.offset
