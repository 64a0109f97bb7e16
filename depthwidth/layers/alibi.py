"""A fixed penalty on attention scores that is linear in distance."""

from __future__ import annotations

from ..numerics.homogeneity import Place, Powers
from .base import component
from .positions import Position


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

    def degree(self, x: Powers, at: Place) -> Powers:
        return at.apply("sum", x, {}, reason="a fixed penalty is added to scores")

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
