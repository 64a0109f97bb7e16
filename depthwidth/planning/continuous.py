"""Counts at real depths and widths, and the shapes at which they reach an amount: in closed form if they are polynomials."""

from __future__ import annotations

import math

from ..values import frozen
from .rules import SPAN, Quantity, at_depth, meet


@frozen
class Continuous:
    """``sum_k (around[k] + depth * per_block[k]) width^k`` for k = 0, 1, 2, in floating point."""

    around: tuple[float, float, float]
    per_block: tuple[float, float, float]

    def __call__(self, depth: float, width: float) -> float:
        """The value at a shape."""
        a0, a1, a2 = self.around
        b0, b1, b2 = self.per_block
        return (a0 + depth * b0) + width * ((a1 + depth * b1) + width * (a2 + depth * b2))

    def line(self, width: float) -> tuple[float, float]:
        """The value without blocks at a width, and that of each block."""
        a0, a1, a2 = self.around
        b0, b1, b2 = self.per_block
        return a0 + width * (a1 + width * a2), b0 + width * (b1 + width * b2)

    def width_at(self, depth: float, amount: float) -> float | None:
        """The width at which blocks of one depth reach an amount; None if the closed form does not apply."""
        c0, c1, c2 = (a + depth * b for a, b in zip(self.around, self.per_block, strict=True))
        rest = amount - c0
        if not (c2 > 0 and c1 >= 0 and 0 < rest < math.inf):  # the value need not grow with the width, or not from below
            return None
        return 2 * rest / (c1 + math.sqrt(c1 * c1 + 4 * c2 * rest))


def meet_at_depth(depth: float, quantity: Quantity, amount: float) -> tuple[float, float] | None:
    """The shape of this depth at which a quantity reaches an amount: ``meet(at_depth(depth), ...)``, quicker."""
    width = quantity.width_at(depth, amount) if isinstance(quantity, Continuous) else None
    if width is None or not SPAN[0] < width < SPAN[1]:
        return meet(at_depth(depth), quantity, amount)
    return depth, width


def depth_on_line(line: tuple[float, float], amount: float) -> float | None:
    """The depth at which a value reaches an amount, from those of :meth:`Continuous.line`; None if no depth does."""
    around, per_block = line
    if not per_block > 0:
        return None
    depth = (amount - around) / per_block
    return depth if SPAN[0] < depth < SPAN[1] else None
