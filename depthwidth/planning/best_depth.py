"""The depths among which the best shape of a budget is, by all sources of evidence, and what a shape may lose against it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

from ..coefficients import coefficient
from ..formulas import rules as laws
from ..formulas import shape_penalty
from . import policy
from .combined import LAW, LEVELS, LossBand, best_width_band, curvatures, shifts
from .continuous import meet_at_depth
from .counting import Counts
from .equal_budget import EqualBudget
from .judging import Shape
from .rules import meet


class BestDepth(NamedTuple):
    """A band for the best depth at one budget, by the combined rule."""

    level: float
    """Share of sources whose best shape the band is to hold: 0.5 or 0.9."""
    depth: tuple[float, float]
    width: tuple[float, float]
    """Widths of these depths at the budget, the narrower first."""
    loss: tuple[float, float]
    """Least and largest relative loss of the plan's shape against the best one: a :class:`.LossBand` of the same level."""
    extrapolated: bool
    """True beyond the sizes of all sources, where the band holds the shapes of all rules."""


def best_depths(counts: Counts, shape: Shape) -> Iterator[BestDepth]:
    """The bands of both levels at the budget of `counts`, and the loss of `shape` there.

    At each end of the band of best widths the depth of least loss at the exact budget is sought, as for a plan's own rule.
    There is no band beyond the largest shapes that are sought, as at 1e19 parameters.
    """
    size = max(1.0, float(shape.trained_size))
    try:
        place = _place(counts, shape)
        for level in LEVELS:
            band = best_width_band(size, level)
            depths = sorted(_Ends(counts, math.log(edge / band.width)).best_depth for edge in (band.low, band.high))
            widths = sorted(found[1] for depth in depths if (found := meet_at_depth(depth, counts.quantity, counts.amount)))
            losses = _loss_band(counts, shape, level, place).ends(band)
            yield BestDepth(level, (depths[0], depths[1]), (widths[0], widths[-1]), losses, band.extrapolated)
    except _BeyondSearchError:
        return


def _place(counts: Counts, shape: Shape) -> tuple[float, float, float, float]:
    """Arguments of a :class:`.LossBand`: size at the exact budget, offset, slope, and the loss that the slope leaves out."""
    middle = _Ends(counts, 0.0)
    level = middle.level()
    level.penalty_of = shape_penalty.shape_penalty.with_fixed(k=math.exp(coefficient(LAW, "ln_k").value))
    depth = level.best_depth
    size = level.at_budget((shape.depth, shape.width), float(shape.trained_size), float(shape.amount))
    offset = math.log(shape.width / middle.best_width(size))
    here, *beside = (meet_at_depth(depth * factor, counts.quantity, counts.amount) for factor in (1.0, 1 / _ASIDE, _ASIDE))
    if here is None or None in beside:
        return size, offset, 0.0, 0.0
    (few, wide), (many, narrow) = (found for found in beside if found is not None)
    slope = level.exponent * math.log(counts.size(many, narrow) / counts.size(few, wide)) / math.log(narrow / wide)
    by_size = level.exponent * math.log(size / counts.size(*here))
    return size, offset, slope, by_size - slope * math.log(shape.width / here[1])


_ASIDE = 1.25
"""Factor in depth to either side of the best one between which the slope of the loss by size alone is taken."""


def _loss_band(counts: Counts, shape: Shape, level: float, place: tuple[float, float, float, float]) -> LossBand:
    size, offset, slope, rest = place
    if abs(slope) > _STEEP or abs(rest) > _BENT:
        return _SearchedLossBand(counts, shape, level, size, offset)
    return LossBand(level, size, offset, slope, rest, farthest=math.log(policy.FARTHEST_DEPTH) / 2)


_STEEP, _BENT = 0.04, 0.01
"""Slope of the loss by size, and the rest that it leaves out, from which on bands are searched. The embedding then takes most
of the parameters, and their part in the loss is no straight line over the widths of a band."""


class _SearchedLossBand(LossBand):
    """A band of losses, each against the best depth at the exact budget: a hundred times slower."""

    def __init__(self, counts: Counts, shape: Shape, level: float, size: float, offset: float) -> None:
        super().__init__(level, size, offset)
        self.counts, self.shape, self.size = counts, shape, size

    def lost(self, shift: float, k: float) -> float:
        level = _Ends(self.counts, shift).level()
        level.penalty_of = shape_penalty.shape_penalty.with_fixed(k=k)
        least = level.on_curve(math.log(level.best_depth))
        own = level.log_loss(self.size, float(level.penalty_of(self.shape.width, level.best_width(self.size))))
        return max(0.0, math.expm1(own - (own if least is None else least)))

    @functools.cached_property
    def _losses(self) -> list[tuple[float, float]]:
        return sorted(
            (self.lost(shift, k), weight * share)
            for weight, k in curvatures(_SEARCHED[0])
            for share, shift in shifts(_SEARCHED[1], self.error)
        )

    def quantile(self, share: float) -> float:
        below = 0.0
        for lost, weight in self._losses:
            below += weight
            if below >= share:
                return lost
        return self._losses[-1][0]


_SEARCHED = (7, 15)
"""Curvatures and best widths of a band that is searched."""


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

    def level(self) -> EqualBudget:
        return EqualBudget(self.counts.quantity, self.counts.amount, self.counts.size, self.best_width, self.optimum)

    @functools.cached_property
    def best_depth(self) -> float:
        return self.level().best_depth
