"""The predicted loss along the shapes that use up one budget, its minimum, and the depths at which little is lost."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

from ..formulas import shape_penalty
from ..numerics.roots import false_position
from . import policy
from .caveats import loss_change_error
from .continuous import meet_at_depth
from .rules import Quantity


class DepthRange(NamedTuple):
    """The depths at which less than a stated share of the loss is lost, and the error of the loss at the two ends."""

    loss: float
    """Relative loss compared with the best depth, at equal budget."""
    depth: tuple[float, float]
    stderr: tuple[float, float]
    """Standard error of the loss at either end."""


class EqualBudget:
    """Predicted loss of shapes compared at equal budget: the penalty of the shape, and the parameters left for the blocks.

    A wider shape spends more of the budget on its embedding, so that fewer parameters remain for its blocks. A shape that
    misses the budget is judged as though its depth were changed to meet it.

    Parameters
    ----------
    quantity : the budget's amount at a continuous shape.
    amount : the budget.
    size : the N of the rules at a continuous shape.
    best_width : the rule's width at a size; None if the rule has none.
    optimum : the rule's own shape at the budget.
    """

    def __init__(
        self,
        quantity: Quantity,
        amount: float,
        size: Quantity,
        best_width: Callable[[float], float | None],
        optimum: tuple[float, float],
    ) -> None:
        self.quantity, self.amount, self.size, self.best_width = quantity, amount, size, best_width
        self.penalty_of = shape_penalty.shape_penalty.with_fixed()
        self.reference_size = max(1.0, size(*optimum))
        self.exponent = float(shape_penalty.loss_exponent(self.reference_size))
        self.optimum = optimum

    def elasticity(self, depth: float, width: float) -> float:
        """Relative change of the size per relative change of the amount, if the depth is changed."""
        here, more = (depth, width), (depth * 1.01, width)
        grown = self.quantity(*more) / self.quantity(*here) - 1
        return (self.size(*more) / self.size(*here) - 1) / grown if grown else 1.0

    def log_loss(self, size: float, penalty: float) -> float:
        """Ln of the predicted loss of a shape of this size at the exact budget, up to a constant."""
        return math.log1p(penalty) + self.exponent * math.log(size / self.reference_size)

    def on_curve(self, log_depth: float) -> float | None:
        """:meth:`log_loss` of the continuous shape of this ln(depth) that uses the budget exactly; None if there is none."""
        found = meet_at_depth(math.exp(log_depth), self.quantity, self.amount)
        if found is None:
            return None
        size = self.size(*found)
        best = self.best_width(size)
        return None if best is None else self.log_loss(size, float(self.penalty_of(found[1], best)))

    @cached_property
    def best_depth(self) -> float:
        """The continuous depth of least loss, within a factor of the rule's own; the rule's own if it has no minimum."""
        start = math.log(self.optimum[0])
        here, step, farthest = start, 0.05, math.log(policy.FARTHEST_DEPTH)
        for _ in range(8):
            values = [self.on_curve(here + change) for change in (-step, 0.0, step)]
            if None in values:
                return self.optimum[0]
            low, middle, high = (value for value in values if value is not None)
            bend = low - 2 * middle + high
            move = (low - high) / bend * step / 2 if bend > 0 else math.copysign(step, low - high)
            move = max(-0.7, min(0.7, move))
            here = max(start - farthest, min(start + farthest, here + move))
            if abs(move) < 1e-6:
                break
        return math.exp(here)

    def range_of(self, loss: float, least: float, most: float) -> DepthRange | None:
        """The depths from `least` to `most` around the best one at which less than `loss` is lost; None without a rule."""
        middle = math.log(self.best_depth)
        floor = self.on_curve(middle)
        if floor is None:
            return None
        ends = [self._end(middle, floor, math.log1p(loss), math.log(bound)) for bound in (least, most)]
        low, high = map(math.exp, ends)
        return DepthRange(loss, (low, high), (self._error(ends[0], middle), self._error(ends[1], middle)))

    def _end(self, middle: float, floor: float, loss: float, bound: float) -> float:
        """The ln(depth) between the best one and a bound at which so much is lost; the bound if it never is."""

        def excess(share: float) -> float:
            value = self.on_curve(middle + share * (bound - middle))
            # The loss is nearly a parabola, so that its root is nearly a straight line.
            return math.inf if value is None else math.sqrt(max(0.0, value - floor)) - math.sqrt(loss)

        root = false_position(excess, 0.0, 1.0) if excess(1.0) > 0 else None
        return bound if root is None else middle + root * (bound - middle)

    def at_budget(self, shape: tuple[float, float], size: float, amount: float) -> float:
        """The size of a shape if its depth were changed to use the budget exactly."""
        return max(1.0, size * (1 + self.elasticity(*shape) * (self.amount / amount - 1)))

    def _error(self, log_depth: float, against: float) -> float:
        """Standard error of the difference in loss between two depths of the curve."""
        places = []
        for place in (against, log_depth):
            found = meet_at_depth(math.exp(place), self.quantity, self.amount)
            if found is None:
                return 0.0
            size = self.size(*found)
            places.append((found[1], self.best_width(size), size))
        return loss_change_error(*places)
