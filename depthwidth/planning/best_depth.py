"""The depths among which the best shape of a budget is, by all sources of evidence, and what a shape may lose against it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..coefficients import coefficient
from ..formulas import rules as laws
from ..formulas import shape_penalty
from .combined import LAW, LEVELS, best_width_band
from .counting import Counts
from .equal_budget import EqualBudget
from .judging import Shape
from .rules import at_depth, meet


class BestDepth(NamedTuple):
    """A band for the best depth at one budget, by the combined rule."""

    level: float
    """Share of sources whose best shape the band is to hold: 0.5 or 0.9."""
    depth: tuple[float, float]
    width: tuple[float, float]
    """Widths of these depths at the budget, the narrower first."""
    loss: tuple[float, float]
    """Least and largest relative loss of the plan's shape against the best one, if that is in the band."""
    extrapolated: bool
    """True beyond the sizes of all sources, where the band holds the shapes of all rules."""


def best_depths(counts: Counts, shape: Shape) -> Iterator[BestDepth]:
    """The bands of both levels at the budget of `counts`, and the loss of `shape` there.

    At each end of the band of best widths the depth of least loss at the exact budget is sought, as for a plan's own rule. The
    least loss has the smallest curvature of the sources and the largest loss the largest one, each moved by its error. There is
    no band beyond the largest shapes that are sought, as at 1e19 parameters.
    """
    curvatures = [
        row.value + sign * (row.stderr or 0.0)
        for sign, row in ((-1, coefficient(LAW, "k_low")), (1, coefficient(LAW, "k_high")))
    ]
    size = max(1.0, float(shape.trained_size))
    for level in LEVELS:
        band = best_width_band(size, level)
        try:
            ends = [_Ends(counts, math.log(edge / band.width)) for edge in (band.high, band.low)]
        except _BeyondSearchError:
            return
        depths = [one.best_depth for one in ends]
        low, high = min(depths), max(depths)
        widths = sorted(found[1] for depth in depths if (found := meet(at_depth(depth), counts.quantity, counts.amount)))
        losses = [[one.loss(shape, k) for one in ends] for k in curvatures]
        least = 0.0 if low <= shape.depth <= high else min(losses[0])
        yield BestDepth(level, (low, high), (widths[0], widths[-1]), (least, max(losses[1])), band.extrapolated)


class _BeyondSearchError(Exception):
    """The budget is beyond the largest shapes that are sought."""


class _Ends:
    """Losses at one budget if the best width is the combined rule's times a factor."""

    def __init__(self, counts: Counts, shift: float) -> None:
        self.counts, self.factor = counts, math.exp(shift)
        c = counts.density
        self.width_at = laws.combined_optimal_width.with_fixed()
        found = meet(
            lambda size: (size / (c * self.best_width(size) ** 2), self.best_width(size)), counts.quantity, counts.amount
        )
        if found is None:  # the band's own curve has a shape at every size, but the search for it ends
            raise _BeyondSearchError
        self.optimum = found

    def best_width(self, size: float) -> float:
        return float(self.width_at(size)) * self.factor

    def level(self, curvature: float | None = None) -> EqualBudget:
        made = EqualBudget(self.counts.quantity, self.counts.amount, self.counts.size, self.best_width, self.optimum)
        if curvature is not None:
            made.penalty_of = _penalty(curvature)
        return made

    @functools.cached_property
    def best_depth(self) -> float:
        return self.level().best_depth

    def loss(self, shape: Shape, curvature: float) -> float:
        """Relative loss of a shape at the exact budget above the best one."""
        level = self.level(curvature)
        least = level.on_curve(math.log(level.best_depth))
        size = level.at_budget((shape.depth, shape.width), float(shape.trained_size), float(shape.amount))
        own = level.log_loss(size, float(level.penalty_of(shape.width, self.best_width(size))))
        return max(0.0, math.expm1(own - (own if least is None else least)))


def _penalty(curvature: float) -> Callable[..., float]:
    return shape_penalty.shape_penalty.with_fixed(k=curvature)
