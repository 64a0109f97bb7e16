"""The predicted loss of a plan along all shapes of its budget; its table lists a few of them."""

from __future__ import annotations

import math
from typing import NamedTuple

from .judging import Measurer
from .plan import Plan


class LossPoint(NamedTuple):
    """A continuous shape that uses the budget exactly."""

    depth: float
    width: float
    loss: float
    """Relative loss compared with the suggested shape at equal budget: 0.01 is 1 %."""
    stderr: float
    """Its standard error, as in the plan's table."""


def loss_curve(plan: Plan, points: int = 121) -> list[LossPoint]:
    """The loss of each shape of a plan's budget, from a fifth of its depth to five times it.

    Parameters
    ----------
    plan : the plan; its rule judges.
    points : number of depths, evenly spaced in the logarithm.

    Examples
    --------
    >>> from depthwidth import plan
    >>> found = plan("350M")
    >>> curve = loss_curve(found, points=41)
    >>> least = min(curve, key=lambda point: point.loss)
    >>> round(least.depth), found.shape.depth, f"{least.loss:.3%} +- {least.stderr:.3%}"
    (41, 44, '-0.007% +- 0.008%')
    """
    judge = Measurer(plan.budget, plan.rule, plan.template)
    found = []
    for depth, width in plan.equal_budget_curve(points):
        changed = judge.loss_at(depth, plan.shape)
        if changed is not None and math.isfinite(changed[0]):
            found.append(LossPoint(depth, width, *changed))
    return found
