"""The search behind a plan: shapes of whole numbers near a rule's curve that use up a budget, and the cost of each."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

from ..architecture import Transformer
from ..errors import InputError
from ..formulas import shape_penalty
from ..quantities import format_bytes
from . import policy
from .budget import Budget
from .caveats import penalty_error
from .rules import Curve, Rule, meet
from .template import Template


class Shape(NamedTuple):
    """A shape of whole numbers, with exact counts and its predicted cost."""

    depth: int
    width: int
    heads: int
    """Query heads; 0, like the next two, without softmax attention."""
    kv_heads: int
    head_dim: int
    ffn: int
    """Hidden features of the feed-forward part; 0 without one."""
    parameters: int
    non_embedding_parameters: int
    active_parameters: int
    amount: int | Fraction
    """The amount of the budget's quantity that it uses, exact."""
    budget_miss: float
    """Relative distance of that amount from the budget; negative below it."""
    loss_penalty: float
    """Relative loss of its shape compared with the rule's optimum at the same size, if the rule is right."""
    loss_penalty_stderr: float
    """Standard error from the penalty's curvature and from the place of the optimum, as measured, not from the rule."""
    loss_change: float
    """Relative loss compared with the recommended shape: the penalty and the difference in size together."""
    parameter_equivalent: float
    """Share of the parameters that the shape penalty wastes."""
    flops_per_token: float
    """Forward operations per token at the design's context."""

    @property
    def trained_size(self) -> int:
        """The N of the rules, as :attr:`~depthwidth.layers.Layer.trained_size` of the tree."""
        return self.active_parameters - (self.parameters - self.non_embedding_parameters)


def at_depth(depth: float) -> Curve:
    """The curve of all widths at one depth."""
    return lambda width: (depth, width)


class Search:
    """The search for one budget, one rule and one template."""

    def __init__(self, budget: Budget, rule: Rule, template: Template) -> None:
        self.budget = budget
        self.amount = float(budget.amount)
        self.rule = rule
        self.open_head_dim = template.head_dim is None
        self.penalty_of = shape_penalty.shape_penalty.with_fixed()
        # The head dimension follows from the width, and the width depends a little on the head dimension: two rounds suffice.
        near = float(policy.REFERENCE_WIDTH)
        for _ in range(2):
            self.use_template(replace(template, head_dim=template.head_dim_at(near)))
            near = self.optimum()[1]

    def use_template(self, template: Template) -> None:
        """Count with this template from now on."""
        self.template = template
        self.quantity = self.budget.quantity(template)
        self.parameters = template.polynomial(lambda tree: tree.parameters).continuous()
        size = template.polynomial(lambda tree: tree.trained_size)
        self.size = size.continuous()
        self.density = float(size.per_block[2])
        self._clear_cache()

    def with_rule(self, rule: Rule) -> Search:
        """The same search for another rule."""
        other = copy.copy(self)
        other.rule = rule
        other.open_head_dim = False
        other._clear_cache()
        return other

    def _clear_cache(self) -> None:
        for name in ("loss_per_amount", "_optimal_width_line"):
            self.__dict__.pop(name, None)

    # Continuous shapes.

    def meet_budget(self, curve: Curve) -> tuple[float, float] | None:
        """The point at which a curve uses up the budget; None if it never does."""
        return meet(curve, self.quantity, self.amount)

    def optimum(self) -> tuple[float, float]:
        """The rule's shape at the budget; if its curve never meets the budget, the widest shape that the budget allows.

        Raises
        ------
        InputError
            if the budget is too small for any shape.
        """
        found = self.meet_budget(self.rule.curve(self.density)) or self.meet_budget(at_depth(self.template.least_depth))
        if found is None:
            raise InputError(self.too_small())
        return found

    def optimal_width(self, size: float) -> float | None:
        """The rule's width for a network of this size; None if it has none."""
        found = meet(self.rule.curve(self.density), self.size, size)
        return None if found is None else found[1]

    def too_small(self) -> str:
        """The sentence for a budget that no shape fits."""
        template = replace(self.template, head_dim=policy.HEAD_DIMS[-1]) if self.open_head_dim else self.template
        smallest = template.at(template.least_depth, template.widths_beside(1.0)[-1])
        used = float(self.budget.of(smallest))
        amount = format_bytes(used) if self.budget.in_bytes else f"{used:.3g}"
        with_vocab = f" and a vocabulary of {smallest.vocab}" if smallest.vocab else ""
        blocks, verb = ("one block", "takes") if smallest.depth == 1 else (f"{smallest.depth} blocks", "take")
        vocab_counts = smallest.vocab and self.budget.kind != "non_embedding"
        return (
            f"the budget of {self.budget} is too small: "
            f"{blocks} of width {smallest.width}{with_vocab} already {verb} {amount}; "
            f"give {'a smaller vocab or ' if vocab_counts else ''}a larger budget"
        )

    # The cost of a shape.

    def penalty(self, depth: float, width: float) -> float:
        """Relative loss of this shape compared with the rule's optimum at the same size."""
        best = self.optimal_width(self.size(depth, width))
        return float(self.penalty_of(width, best)) if best else 0.0

    @cached_property
    def _optimal_width_line(self) -> tuple[float, float, float]:
        """Ln of the optimum's size, ln of the optimal width there, and the derivative of the second by the first."""
        optimum = self.optimum()
        size = self.size(*optimum)
        here, beyond = (self.optimal_width(size * factor) for factor in (1.0, 1.1))
        if not here or not beyond:
            return math.log(size), math.log(optimum[1]), 0.0
        return math.log(size), math.log(here), math.log(beyond / here) / math.log(1.1)

    def screened_penalty(self, depth: float, width: float) -> float:
        """:meth:`penalty` with the optimal width from a straight line around the optimum: accurate enough to screen with."""
        log_size, log_best, slope = self._optimal_width_line
        best = math.exp(log_best + slope * (math.log(self.size(depth, width)) - log_size))
        return float(self.penalty_of(width, best))

    @cached_property
    def loss_per_amount(self) -> float:
        """Relative loss per relative amount of the budget, at the size of the optimum."""
        exponent = float(shape_penalty.loss_exponent(max(1.0, self.size(*self.optimum()))))
        return abs(exponent) * self.budget.size_share

    def cost(self, amount: float, penalty: float) -> float:
        """Relative loss of a shape from its penalty and its miss of the budget; infinite above a limit.

        A miss below :data:`~.policy.FREE_MISS` is free; one above :data:`~.policy.TOLERATED_MISS` costs its own size as well.
        """
        miss = math.log(amount / self.amount)
        slack = 0.0 if self.template.exact else policy.ROUNDING
        if self.budget.cap and miss > slack:
            return math.inf
        steep = max(0.0, abs(miss) - policy.TOLERATED_MISS)
        return penalty + self.loss_per_amount * max(0.0, abs(miss) - policy.FREE_MISS) + steep

    def measure(self, tree: Transformer, against: Shape | None = None) -> Shape:
        """A tree with its exact counts and its predicted cost, relative to another shape if one is given."""
        size = tree.trained_size
        best = self.optimal_width(size)
        penalty = float(self.penalty_of(tree.width, best)) if best else 0.0
        exponent = shape_penalty.loss_exponent(size)
        amount = self.budget.of(tree)
        attention, feed_forward = map(tree.stack.first, ("as_attention", "as_feed_forward"))
        change = 0.0
        if against is not None:
            change = (1 + penalty) / (1 + against.loss_penalty) * (size / against.trained_size) ** exponent - 1
        return Shape(
            depth=tree.depth,
            width=tree.width,
            heads=0 if attention is None else attention.heads,
            kv_heads=0 if attention is None else attention.kv_heads,
            head_dim=0 if attention is None else attention.head_dim,
            ffn=0 if feed_forward is None else feed_forward.hidden,
            parameters=tree.parameters,
            non_embedding_parameters=tree.non_embedding_parameters,
            active_parameters=tree.active_parameters,
            amount=amount,
            budget_miss=float(Fraction(amount) / self.budget.amount - 1),
            loss_penalty=penalty,
            loss_penalty_stderr=penalty_error(tree.width, best, size) if best else 0.0,
            loss_change=change,
            parameter_equivalent=float(shape_penalty.parameter_equivalent(penalty, exponent)),
            flops_per_token=float(tree.flops_per_token()),
        )

    # Shapes of whole numbers.

    def cheapest(self, shapes: Iterable[tuple[int, int]]) -> tuple[float, Transformer] | None:
        """The cost of the cheapest of these shapes, and its tree; None if all exceed a limit.

        All are screened by the polynomial; a few are then counted exactly, as rounding moves feed-forward widths.
        """
        screened = sorted((self.cost(self.quantity(*found), self.screened_penalty(*found)), found) for found in set(shapes))
        best: tuple[float, Transformer] | None = None
        counted = 0
        for screen, (depth, width) in screened:
            if math.isinf(screen) or counted == policy.SHORTLIST:
                break
            tree = self.template.at(depth, width)
            amount = self.budget.of(tree)
            if self.budget.cap and amount > self.budget.amount:
                continue
            counted += 1
            cost = self.cost(float(amount), self.penalty(depth, width))
            if best is None or cost < best[0]:
                best = cost, tree
        return best

    def shapes_around(self, width: float, factor: float) -> Iterator[tuple[int, int]]:
        """Shapes whose width is within `factor` of `width` and whose depth uses up the budget."""
        last = policy.SAMPLED_WIDTHS - 1
        targets = (width * factor ** (2 * i / last - 1) for i in range(policy.SAMPLED_WIDTHS))
        widths = {found for target in (width, *targets) for found in self.template.widths_beside(target)}
        for found in widths:
            yield from self.shapes_of_width(found)

    def shapes_of_width(self, width: int) -> Iterator[tuple[int, int]]:
        """The one or two depths at which blocks of `width` come closest to the budget."""
        found = self.meet_budget(lambda depth: (depth, width))
        if found is not None and found[0] < policy.DEEPEST:
            least = self.template.least_depth
            yield from ((depth, width) for depth in {max(least, math.floor(found[0])), max(least, math.ceil(found[0]))})

    def shapes_of_depth(self, depth: float) -> Iterator[tuple[int, int]]:
        """Shapes of about this depth: the two nearest allowed widths, and the depths that suit those."""
        found = self.meet_budget(at_depth(depth))
        near = policy.NEAR_DEPTH
        for width in () if found is None else self.template.widths_beside(found[1]):
            yield max(self.template.least_depth, round(depth)), width
            yield from (shape for shape in self.shapes_of_width(width) if depth / near <= shape[0] <= depth * near)

    def nearest(self) -> tuple[float, Transformer] | None:
        """The cheapest shape around the rule's width and its cost; the search widens until one is good enough."""
        width = self.optimum()[1]
        best: tuple[float, Transformer] | None = None
        for factor in policy.SEARCH_FACTORS:
            found = self.cheapest(self.shapes_around(width, factor))
            if found is not None and (best is None or found[0] < best[0]):
                best = found
            if best is not None and best[0] < policy.GOOD_ENOUGH:
                break
        return best if best is None or self.template.exact else _refined(self, *best)

    def recommend(self) -> Transformer:
        """The shape to build: near the rule's curve and the budget, with the usual head dimension if that costs little.

        Raises
        ------
        InputError
            if the budget is too small for any shape.
        """
        usual = self.template.head_dim_at(policy.REFERENCE_WIDTH)
        others = sorted(set(policy.HEAD_DIMS) - {usual}, key=lambda dim: abs(math.log(dim / usual)))
        best: tuple[float, Template, Transformer] | None = None
        for rank, head_dim in enumerate((usual, *others) if self.open_head_dim else (usual,)):
            if rank:
                self.use_template(replace(self.template, head_dim=head_dim))
            found = _own_shape(self) or self.nearest()
            if found is None:
                continue
            cost = found[0] + rank * policy.UNUSUAL_HEADS
            if best is None or cost < best[0]:
                best = cost, self.template, found[1]
            if best[0] < policy.GOOD_ENOUGH:
                break
        if best is None or float(self.budget.of(best[2])) > self.amount * (1 + policy.LARGEST_OVERSHOOT):
            raise InputError(self.too_small())
        if self.template is not best[1]:
            self.use_template(best[1])
        return best[2]


def _refined(search: Search, cost: float, tree: Transformer) -> tuple[float, Transformer]:
    """The cheapest shape of this width, one block more or less at a time: screening does not round counts."""
    for step in (-1, 1):
        while tree.depth + step >= search.template.least_depth:
            other = search.template.at(tree.depth + step, tree.width)
            amount = search.budget.of(other)
            over = search.budget.cap and amount > search.budget.amount
            found = math.inf if over else search.cost(float(amount), search.penalty(other.depth, other.width))
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
    shapes = set(search.shapes_around(search.optimum()[1], policy.SEARCH_FACTORS[0]))
    slack = 1e-9 if search.template.exact else 2 * policy.ROUNDING
    near = [found for found in shapes if abs(search.quantity(*found) / search.amount - 1) <= slack]
    for depth, width in sorted(near, key=lambda found: search.screened_penalty(*found)):
        tree = search.template.at(depth, width)
        if search.budget.of(tree) == search.budget.amount:
            return search.penalty(depth, width), tree
    return None
