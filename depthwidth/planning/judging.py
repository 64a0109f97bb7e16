"""Shapes for a budget: their counts, their predicted loss, and the ranking of a search."""

from __future__ import annotations

import math
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
from .caveats import loss_change_error, penalty_error
from .continuous import depth_on_line, meet_at_depth
from .counting import Counts
from .equal_budget import EqualBudget
from .limits import Limits
from .rules import Curve, Rule, log_parameter, meet
from .template import Template

NO_LIMITS = Limits()


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
    loss_at_budget: float
    """Relative loss compared with the recommended shape, if both used the budget exactly."""
    loss_at_budget_stderr: float
    """Its standard error, from the penalty's curvature and from the place of the optimum, which both shapes share."""
    parameter_equivalent: float
    """Share of the parameters that the shape penalty wastes."""
    flops_per_token: float
    """Forward operations per token at the design's context."""

    @property
    def trained_size(self) -> int:
        """The N of the rules, as :attr:`~depthwidth.layers.Layer.trained_size` of the tree."""
        return self.active_parameters - (self.parameters - self.non_embedding_parameters)


class Judge(Counts):
    """Counts and predicted losses of shapes, for one budget, one rule, one template and the limits of a caller."""

    def __init__(self, budget: Budget, rule: Rule, template: Template, limits: Limits = NO_LIMITS) -> None:
        super().__init__(budget)
        self.rule = rule
        self.limits = limits
        self.by_loss = True
        self.choosy = True
        self.open_head_dim = template.head_dim is None and template.heads is None
        self.penalty_of = shape_penalty.shape_penalty.with_fixed()
        self.exponent_of = shape_penalty.loss_exponent.with_fixed()
        self.equivalent_of = shape_penalty.parameter_equivalent.with_fixed()
        # The head dimension follows from the width, and the width depends a little on the head dimension: two rounds suffice.
        near = float(policy.REFERENCE_WIDTH)
        for _ in range(2):
            self.use_template(replace(template, head_dim=template.head_dim_at(near)) if self.open_head_dim else template)
            near = self.centre[1]

    def use_template(self, template: Template) -> None:
        """Count with this template from now on."""
        if self.__dict__.get("template") != template:
            super().use_template(template)
            self._clear_cache()

    def _clear_cache(self) -> None:
        for name in (
            "loss_per_amount",
            "_optimal_width_line",
            "level",
            "judged",
            "centre",
            "_least_loss",
            "_curve",
            "_own_shape",
        ):
            self.__dict__.pop(name, None)
        self._costs: dict[tuple[int, int], float] = {}
        self._screened: dict[tuple[int, int], float] = {}
        self._places: dict[tuple[float, ...], tuple[float, float | None, float]] = {}
        self._depths: dict[int, tuple[float, float] | None] = {}
        self._near: float | None = None
        self._optimum: tuple[float, float] | None = None

    # Continuous shapes.

    def meet_budget(self, curve: Curve) -> tuple[float, float] | None:
        """The point at which a curve uses up the budget; None if it never does."""
        return meet(curve, self.quantity, self.amount)

    def at_depth(self, depth: float) -> tuple[float, float] | None:
        """The shape of one depth that uses up the budget; None if none does."""
        return meet_at_depth(depth, self.quantity, self.amount)

    def shape_by(self, rule: Rule) -> tuple[float, float] | None:
        """A rule's shape at the budget; None if its curve never meets the budget."""
        return self.meet_budget(rule.curve(self.density))

    def optimum(self) -> tuple[float, float]:
        """The rule's shape at the budget; if its curve never meets the budget, the widest shape that the budget allows.

        Raises
        ------
        InputError
            if the budget is too small for any shape.
        """
        if self._optimum is None:
            self._optimum = self._own_shape or self.at_depth(self.template.least_depth)
        if self._optimum is None:
            raise InputError(too_small(self))
        return self._optimum

    @cached_property
    def _own_shape(self) -> tuple[float, float] | None:
        """The shape of this search's own rule; None if its curve never meets the budget."""
        return self.shape_by(self.rule)

    @cached_property
    def level(self) -> EqualBudget:
        """The loss along the shapes of this budget."""
        return EqualBudget(self.quantity, self.amount, self.size, self.optimal_width, self.optimum())

    @cached_property
    def judged(self) -> bool:
        """True if shapes are judged by their loss, False if by their distance from the rule's curve alone."""
        return self.by_loss and self._own_shape is not None

    @cached_property
    def centre(self) -> tuple[float, float]:
        """The continuous shape of least loss at the budget, within the limits; without a loss the rule's own."""
        own, limits = self.optimum(), self.limits
        if limits.width is not None:
            width = float(limits.width)
            found = self.meet_budget(lambda depth: (depth, width))
            if found is None:
                raise InputError(too_small(self))
            return found
        depth = self.level.best_depth if self.judged else own[0]
        if limits.layers_at_most is not None:
            depth = min(depth, limits.layers_at_most)
        if limits.depth is not None:
            depth = limits.depth
        return own if depth == own[0] else self.at_depth(depth) or own

    def optimal_width(self, size: float) -> float | None:
        """The rule's width for a network of this size; None if it has none."""
        curve = self._curve
        found = log_parameter(curve, self.size, size, self._near)
        if found is None:
            return None
        self._near = found
        return curve(math.exp(found))[1]

    @cached_property
    def _curve(self) -> Curve:
        return self.rule.curve(self.density)

    # The cost of a shape.

    def excess(self, shape: tuple[float, float], size: float, amount: float, *, screened: bool = False) -> float:
        """Relative loss at equal budget compared with :attr:`centre`; the penalty alone if the rule has no loss here.

        The best width is taken from a straight line if `screened`.
        """
        penalty_at = self.screened_penalty if screened else self.penalty
        if not self.judged:
            return penalty_at(shape[1], size)
        size = self.level.at_budget(shape, size, amount)
        return self.level.log_loss(size, penalty_at(shape[1], size)) - self._least_loss

    @cached_property
    def _least_loss(self) -> float:
        size = self.level.at_budget(self.centre, self.size(*self.centre), self.quantity(*self.centre))
        return self.level.log_loss(size, self.penalty(self.centre[1], size))

    def cost_of(self, tree: Transformer) -> float:
        """:meth:`cost` of a tree, with its exact counts; infinite above a limit."""
        place = tree.depth, tree.width
        if place not in self._costs:
            amount = self.budget.of(tree)
            over = self.budget.cap and amount > self.budget.amount
            loss = self.excess(place, tree.trained_size, float(amount))
            # Depths of one width are equivalent at equal budget; the one nearer to the curve at its own size is taken.
            loss += policy.NEARER_CURVE * self.penalty(tree.width, tree.trained_size)
            self._costs[place] = math.inf if over else self.cost(float(amount), loss)
        return self._costs[place] + self.uneven(tree.width) + self.far(tree.width)

    def uneven(self, width: int) -> float:
        """The price of a number of heads that does not divide among the devices of a machine; 0 if it is given or ignored."""
        template = self.template
        if not self.choosy or template.heads is not None:
            return 0.0
        return policy.UNEVEN_HEADS * policy.missing_factors(template.heads_at(width))

    def far(self, width: int) -> float:
        """The price of a width whose depth at the budget is beyond the depths searched for the least loss; 0 if ignored."""
        found = self.depth_of(width) if self.choosy and self.judged else None
        if found is None:
            return 0.0
        off = abs(math.log(found[0] / self.optimum()[0])) - math.log(policy.FARTHEST_DEPTH)
        return policy.FAR_DEPTH * max(0.0, off)

    def depth_of(self, width: int) -> tuple[float, float] | None:
        """The continuous depth at which blocks of this width use up the budget, and the width; None if there is none."""
        if width not in self._depths:
            line = self.rounded_line(width)
            if line is None:
                self._depths[width] = meet(lambda depth: (depth, width), self.rounded_quantity, self.amount)
            else:
                depth = depth_on_line(line, self.amount)
                self._depths[width] = None if depth is None else (depth, width)
        return self._depths[width]

    def screened_cost(self, depth: int, width: int) -> float:
        """:meth:`cost` of a shape by its polynomials, without any rounding of its feed-forward width."""
        if (depth, width) not in self._screened:
            amount, size = (reading(depth, width) for reading in (self.rounded_quantity, self.rounded_size))
            loss = self.excess((depth, width), size, amount, screened=True)
            self._screened[depth, width] = self.cost(amount, loss)
        return self._screened[depth, width] + self.uneven(width) + self.far(width)

    def penalty(self, width: float, size: float) -> float:
        """Relative loss of this width compared with the rule's optimum at this size."""
        best = self.optimal_width(size)
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

    def screened_penalty(self, width: float, size: float) -> float:
        """:meth:`penalty` with the optimal width from a straight line around the optimum: accurate enough to screen with."""
        log_size, log_best, slope = self._optimal_width_line
        best = math.exp(log_best + slope * (math.log(size) - log_size))
        return float(self.penalty_of(width, best))

    @cached_property
    def loss_per_amount(self) -> float:
        """Relative loss per relative amount of the budget, at the size of the optimum."""
        exponent = float(shape_penalty.loss_exponent(max(1.0, self.size(*self.optimum()))))
        return abs(exponent) * self.budget.size_share

    def cost(self, amount: float, loss: float) -> float:
        """Relative loss of a shape at the budget plus the price of its miss; infinite above a limit.

        A miss below :data:`~.policy.FREE_MISS` is free; one above :data:`~.policy.TOLERATED_MISS` costs its own size as well.
        """
        miss = math.log(amount / self.amount)
        slack = 0.0 if self.template.exact else policy.ROUNDING
        if self.budget.cap and miss > slack:
            return math.inf
        steep = max(0.0, abs(miss) - policy.TOLERATED_MISS)
        return loss + self.loss_per_amount * max(0.0, abs(miss) - policy.FREE_MISS) + steep


class Measurer(Judge):
    """Shapes of whole numbers with their exact counts, and their losses against each other."""

    def measure(self, tree: Transformer, against: Shape | None = None, best_width: float | None = None) -> Shape:
        """A tree with its exact counts and its predicted cost, relative to another shape if one is given.

        `best_width` is the rule's width for a tree of another architecture.
        """
        size = tree.trained_size
        best = self.optimal_width(size) if best_width is None else best_width
        penalty = float(self.penalty_of(tree.width, best)) if best else 0.0
        exponent = self.exponent_of(size)
        amount = self.budget.of(tree)
        attention, feed_forward = map(tree.stack.first, ("as_attention", "as_feed_forward"))
        change = at_budget = at_budget_error = 0.0
        if against is not None:
            change = (1 + penalty) / (1 + against.loss_penalty) * (size / against.trained_size) ** exponent - 1
            at_budget, at_budget_error = self._at_budget(tree, against)
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
            loss_at_budget=at_budget,
            loss_at_budget_stderr=at_budget_error,
            parameter_equivalent=float(self.equivalent_of(penalty, exponent)),
            flops_per_token=float(tree.flops_per_token()),
        )

    def measure_other(self, tree: Transformer, against: Shape) -> Shape:
        """:meth:`measure` of a tree of another architecture, whose own parameters per block decide its best width.

        Its loss at the budget is that of a shape of this architecture with its ratio of width to depth: its vocabulary and its
        feed-forward width are other choices.
        """
        size = tree.trained_size
        density = size / (tree.depth * tree.width**2)
        best = meet(self.rule.curve(density), lambda depth, width: density * depth * width**2, size)
        found = self.measure(tree, against, 0.0 if best is None else best[1])
        alike = self.meet_budget(lambda depth: (depth, depth * tree.width / tree.depth))
        changed = None if alike is None else self.loss_at(alike[0], against)
        if changed is None:
            return found
        return found._replace(loss_at_budget=changed[0], loss_at_budget_stderr=changed[1])

    def loss_at(self, depth: float, against: Shape) -> tuple[float, float] | None:
        """Relative loss of the continuous shape of this depth at exactly the budget, compared with a shape's, and its error.

        None if there is no such shape, or the rule has no best width there.
        """
        loss = self.level.on_curve(math.log(depth))
        found = self.at_depth(depth)
        if loss is None or found is None:
            return None
        other = self.level.at_budget((against.depth, against.width), against.trained_size, float(against.amount))
        difference = loss - self.level.log_loss(other, self.penalty(against.width, other))
        size = self.size(*found)
        places = (against.width, self.optimal_width(other), other), (found[1], self.optimal_width(size), size)
        return math.expm1(difference), loss_change_error(*places)

    def _at_budget(self, tree: Transformer, against: Shape) -> tuple[float, float]:
        """Relative loss of a tree compared with a shape if both used the budget exactly, and its standard error."""
        other = self._place((against.depth, against.width), against.trained_size, float(against.amount))
        own = self._place((tree.depth, tree.width), tree.trained_size, float(self.budget.of(tree)))
        penalties = [float(self.penalty_of(width, best)) if best else 0.0 for width, best, _ in (other, own)]
        by_size = (own[2] / other[2]) ** float(self.exponent_of(other[2]))
        return (1 + penalties[1]) / (1 + penalties[0]) * by_size - 1, loss_change_error(other, own)

    def _place(self, shape: tuple[int, int], size: float, amount: float) -> tuple[float, float | None, float]:
        """Width, best width and size of a shape if its depth were changed to use the budget exactly."""
        key = (*shape, size, amount)
        if key not in self._places:
            own = self.level.at_budget(shape, size, amount)
            self._places[key] = shape[1], self.optimal_width(own), own
        return self._places[key]


def too_small(judge: Judge) -> str:
    """The sentence for a budget that no shape fits."""
    if judge.limits.width is not None:
        return f"plan: a block of width {judge.limits.width:,} already takes more than the budget of {judge.budget}"
    template = replace(judge.template, head_dim=policy.HEAD_DIMS[-1]) if judge.open_head_dim else judge.template
    smallest = template.at(template.least_depth, template.nearest_widths(1.0)[-1])
    used = float(judge.budget.of(smallest))
    amount = format_bytes(used) if judge.budget.in_bytes else f"{used:.3g}"
    with_vocab = f" and a vocabulary of {smallest.vocab}" if smallest.vocab else ""
    blocks, verb = ("one block", "takes") if smallest.depth == 1 else (f"{smallest.depth} blocks", "take")
    vocab_counts = smallest.vocab and judge.budget.kind != "non_embedding"
    return (
        f"the budget of {judge.budget} is too small: "
        f"{blocks} of width {smallest.width}{with_vocab} already {verb} {amount}; "
        f"give {'a smaller vocab or ' if vocab_counts else ''}a larger budget"
    )
