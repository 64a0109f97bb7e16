"""The search for a plan: whole-number shapes that use up a budget, near the one of least loss, and the cost of each."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Self

from ..architecture import Transformer
from ..errors import InputError
from . import policy
from .judging import NO_LIMITS, Measurer, too_small
from .limits import smallest_depth
from .rules import Rule
from .template import Template


class Search(Measurer):
    """The search for the best shape."""

    def with_rule(self, rule: Rule) -> Self:
        """The same search for the shapes of another rule's curve, whatever their predicted loss."""
        other = copy.copy(self)
        other.rule, other.by_loss, other.limits, other.open_head_dim = rule, False, NO_LIMITS, False
        other._clear_cache()
        return other

    def without_limits(self) -> Self:
        """The same search without limits on the shape."""
        if not self.limits.any:
            return self
        other = copy.copy(self)
        other.limits, other.open_head_dim = NO_LIMITS, False
        other._clear_cache()
        return other

    def with_head_dim(self, head_dim: int) -> Self:
        """The same search with another head dimension."""
        other = copy.copy(self)
        other.use_template(replace(self.template, head_dim=head_dim))
        return other

    def least_loss(self) -> Transformer | None:
        """The shape of least predicted loss within the limits, however its heads divide or far from the rule's it is."""
        other = copy.copy(self)
        other.choosy = False
        found = other.nearest()
        return None if found is None else found[1]

    def cheapest(
        self, shapes: Iterable[tuple[int, int]], shortlist: int = policy.SHORTLIST
    ) -> tuple[float, Transformer] | None:
        """The cost of the cheapest of these shapes, and its tree; None if all exceed a limit.

        All are screened by the polynomial; a few are then counted exactly, as rounding moves feed-forward widths.
        """
        screened = sorted((self.screened_cost(*found), found) for found in set(shapes))
        best: tuple[float, Transformer] | None = None
        counted = 0
        for screen, (depth, width) in screened:
            if math.isinf(screen) or counted == shortlist:
                break
            tree = self.template.at(depth, width)
            cost = self.cost_of(tree)
            counted += math.isfinite(cost)
            if math.isfinite(cost) and (best is None or cost < best[0]):
                best = cost, tree
        return best

    def shapes_around(self, width: float, factor: float) -> Iterator[tuple[int, int]]:
        """Shapes whose width is within `factor` of `width` and whose depth uses up the budget."""
        last = policy.SAMPLED_WIDTHS - 1
        targets = (width * factor ** (2 * i / last - 1) for i in range(policy.SAMPLED_WIDTHS))
        distinct = {int(target / self.template.step_at(target)): target for target in (width, *targets)}
        widths = {found for target in distinct.values() for found in self.template.nearest_widths(target)}
        for found in widths if self.limits.width is None else {self.limits.width}:
            yield from self.shapes_of_width(found)

    def shapes_of_width(self, width: int) -> Iterator[tuple[int, int]]:
        """The one or two depths at which blocks of `width` come closest to the budget."""
        found = self.depth_of(width)
        if found is not None and found[0] < policy.DEEPEST:
            yield from ((depth, width) for depth in self.limits.depths(found[0], self.template))

    def shapes_of_depth(self, depth: float) -> Iterator[tuple[int, int]]:
        """Shapes of about this depth: the two nearest allowed widths, and the depths that suit those."""
        found = self.at_depth(depth)
        near = policy.NEAR_DEPTH
        for width in () if found is None else self.template.nearest_widths(found[1]):
            stages = self.template.pipeline
            yield max(smallest_depth(self.template), stages * round(depth / stages)), width
            yield from (shape for shape in self.shapes_of_width(width) if depth / near <= shape[0] <= depth * near)

    def nearest(self) -> tuple[float, Transformer] | None:
        """The cheapest shape around the best width and its cost; the search widens until one is good enough."""
        width = self.centre[1]
        best: tuple[float, Transformer] | None = None
        for factor in policy.SEARCH_FACTORS:
            found = self.cheapest(self.shapes_around(width, factor))
            if found is not None and (best is None or found[0] < best[0]):
                best = found
            if best is not None and best[0] < policy.GOOD_ENOUGH:
                break
        return best if best is None or self.template.exact else _refine_shape(self, *best)

    def recommend(self) -> Transformer:
        """The shape to build: near the rule's curve and the budget, with the usual head dimension if that costs little.

        Raises
        ------
        InputError
            if the budget is too small for any shape.
        """
        usual = self.template.head_dim_at(policy.REFERENCE_WIDTH)
        others = policy.head_dims_by_distance(usual)
        if self.limits.width is not None and self.open_head_dim:
            usual, *others = policy.head_dims_near(self.template.head_dim_at(self.limits.width))
        best: tuple[float, Template, Transformer] | None = None
        for rank, head_dim in enumerate((usual, *others) if self.open_head_dim else (usual,)):
            if rank:
                self.use_template(replace(self.template, head_dim=head_dim))
            if self.limits.width is not None and not self.template.holds(self.limits.width):
                continue
            found, own = self.nearest(), _own_shape(self)
            if own is not None and (found is None or own[0] < found[0] + policy.GOOD_ENOUGH):
                return own[1]
            if found is None:
                continue
            cost = found[0] + rank * policy.UNUSUAL_HEADS
            # A shape that is good enough but far from the rule's gives way to a nearer one only if that is clearly better.
            gain = policy.GOOD_ENOUGH if best is not None and best[0] < policy.GOOD_ENOUGH else 0.0
            if best is None or cost < best[0] - gain:
                best = cost, self.template, found[1]
            if best[0] < policy.GOOD_ENOUGH and self.far(best[2].width) < policy.FAR_ENOUGH:
                break
        if best is None and self.limits.width is not None:
            beside = " or ".join(f"{found:,}" for found in self.template.nearest_widths(self.limits.width))
            raise InputError(f"plan: width={self.limits.width} holds no whole number of heads within the limits; {beside} does")
        if best is None or float(self.budget.of(best[2])) > self.amount * (1 + policy.LARGEST_OVERSHOOT):
            raise InputError(too_small(self))
        if self.template is not best[1]:
            self.use_template(best[1])
        return best[2]


def _refine_shape(search: Search, cost: float, tree: Transformer) -> tuple[float, Transformer]:
    """The cheapest shape of this width, one block (of each stage) more or less at a time: screening does not round counts."""
    stages, most = search.template.pipeline, search.limits.layers_at_most or policy.DEEPEST
    for step in () if search.limits.depth is not None else (-stages, stages):
        while smallest_depth(search.template) <= tree.depth + step <= most:
            other = search.template.at(tree.depth + step, tree.width)
            found = search.cost_of(other)
            if found >= cost:
                break
            cost, tree = found, other
    return cost, tree


def _own_shape(search: Search) -> tuple[float, Transformer] | None:
    """The shape near the rule's width whose count is exactly the budget, with its cost; None if there is none.

    A number that a person gives is round, and no shape has it. The count of a shape that was planned leads back to it.
    """
    if search.budget.cap or search.budget.amount % policy.ROUND_AMOUNT == 0:
        return None
    for depth, width in _shapes_near_amount(search):
        tree = search.template.at(depth, width)
        if search.budget.of(tree) == search.budget.amount:
            return search.cost_of(tree), tree
    return None


def _shapes_near_amount(search: Search) -> Iterator[tuple[int, int]]:
    """Shapes near the best width that may use the budget exactly, the cheapest first."""
    shapes = set(search.shapes_around(search.centre[1], policy.SEARCH_FACTORS[0]))
    ranked = sorted(shapes, key=lambda found: search.screened_cost(*found))
    if search.template.exact:
        yield from (found for found in ranked if abs(search.rounded_quantity(*found) / search.amount - 1) <= 1e-9)
        return
    # Rounding puts the depth a few blocks off; the exact counts of two depths, which are affine in it, lead to the right one.
    depths: dict[int, int] = {}
    for depth, width in ranked:
        depths.setdefault(width, depth)
    for width, depth in itertools.islice(depths.items(), policy.OWN_WIDTHS):
        one, more = (search.budget.of(search.template.at(depth + step, width)) for step in (0, 1))
        if more > one:
            exact = depth + round(float((search.budget.amount - one) / (more - one)))
            if exact >= search.template.least_depth:
                yield exact, width
