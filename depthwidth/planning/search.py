"""The search behind a plan: shapes of whole numbers near a rule's curve that use up a budget, and what each costs."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

from ..architecture import Transformer
from ..coefficients import coefficient
from ..errors import InputError
from ..formulas import shape_penalty
from ..quantities import format_bytes
from .budget import Budget
from .rules import Curve, Rule, meet
from .template import Template

_FREE = 0.01  # of the budget: see Search.demerit
_TOLERANCE = 0.05
_FAR = 0.5  # of the budget: a shape that misses it by more is no answer to it
_GOOD = 2e-3  # relative loss below which nothing better is looked for
_AWKWARD = 2e-4  # relative loss that an unusual head dimension must win to be worth it, for each step from the usual one
_ROUNDING = 0.02  # how much rounding the feed-forward width may bring a shape back under a limit
_SHORTLIST = 4
_SAMPLES = 65
_DEEPEST = 10**6
_HEAD_DIMS = (128, 96, 80, 64, 48, 32, 16, 8)


class Shape(NamedTuple):
    """A shape of whole numbers, with exact counts and what it is predicted to cost."""

    depth: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    parameters: int
    non_embedding_parameters: int
    active_parameters: int
    amount: int | Fraction
    """How much of the budget's quantity it uses, exact."""
    budget_miss: float
    """Relative distance of that amount from the budget; negative below it."""
    loss_penalty: float
    """Relative loss that its shape costs against the rule's best at its own size, if the rule is right."""
    loss_penalty_stderr: float
    """From the error of the penalty's curvature alone, not from the rule's."""
    loss_change: float
    """Relative loss against the recommended shape: the penalty and the difference in size together."""
    parameter_equivalent: float
    """Share of the parameters that the shape penalty wastes."""
    flops_per_token: float
    """Forward operations per token at the design's context."""

    @property
    def trained_size(self) -> int:
        """The N of the rules, as :attr:`~depthwidth.layers.Layer.trained_size` of the tree."""
        return self.active_parameters - (self.parameters - self.non_embedding_parameters)


def at_depth(depth: float) -> Curve:
    """All widths at one depth."""
    return lambda width: (depth, width)


class Search:
    """One budget, one rule and one template, and what is worked out of them."""

    def __init__(self, budget: Budget, rule: Rule, template: Template) -> None:
        self.budget = budget
        self.amount = float(budget.amount)
        self.rule = rule
        self.open_head_dim = template.head_dim is None
        self.penalty_of = shape_penalty.shape_penalty.with_fixed()
        # The head dimension follows from the width, the width a little from the head dimension: two rounds settle it.
        near = 1024.0
        for _ in range(2):
            self.settle(replace(template, head_dim=template.head_dim_at(near)))
            near = self.wanted()[1]

    def settle(self, template: Template) -> None:
        """Take this template, its counts as polynomials."""
        self.template = template
        self.quantity = self.budget.quantity(template)
        self.parameters = template.polynomial(lambda tree: tree.parameters).continuous()
        size = template.polynomial(lambda tree: tree.trained_size)
        self.size = size.continuous()
        self.density = float(size.per_block[2])
        self.forget()

    def forget(self) -> None:
        """Drop what was worked out for another rule or template."""
        for name in ("slope", "_best_line"):
            self.__dict__.pop(name, None)

    def with_rule(self, rule: Rule) -> Search:
        """The same search for another rule."""
        other = copy.copy(self)
        other.rule = rule
        other.open_head_dim = False
        other.forget()
        return other

    # Continuous shapes.

    def meets(self, curve: Curve) -> tuple[float, float] | None:
        """Where a curve uses up the budget; None where it never does."""
        return meet(curve, self.quantity, self.amount)

    def wanted(self) -> tuple[float, float]:
        """The shape the rule wants at the budget; where its curve never meets it, the widest that the budget allows."""
        found = self.meets(self.rule.curve(self.density)) or self.meets(at_depth(1.0))
        if found is None:
            raise InputError(self.too_small())
        return found

    def best_width(self, size: float) -> float | None:
        """The width the rule calls best for a network of this size."""
        found = meet(self.rule.curve(self.density), self.size, size)
        return None if found is None else found[1]

    def too_small(self) -> str:
        """The sentence that says why nothing fits."""
        template = replace(self.template, head_dim=_HEAD_DIMS[-1]) if self.open_head_dim else self.template
        smallest = template.at(1, template.widths_beside(1.0)[-1])
        used = float(self.budget.of(smallest))
        amount = format_bytes(used) if self.budget.in_bytes else f"{used:.3g}"
        with_vocab = f" with {smallest.vocab} tokens" if smallest.vocab else ""
        advice = "" if self.budget.kind == "non_embedding" or not smallest.vocab else "give fewer tokens with vocab, or "
        return (
            f"a budget of {self.budget} is too small: one block of width {smallest.width}{with_vocab} already takes {amount}; "
            f"{advice}give a larger budget"
        )

    # What a shape costs.

    def penalty(self, depth: float, width: float) -> float:
        """Relative loss that this shape costs against the rule's best at the same size."""
        best = self.best_width(self.size(depth, width))
        return float(self.penalty_of(width, best)) if best else 0.0

    @cached_property
    def _best_line(self) -> tuple[float, float, float]:
        """Ln of the wanted size, ln of the best width there, and how the second changes with the first."""
        wanted = self.wanted()
        size = self.size(*wanted)
        here, beyond = (self.best_width(size * factor) for factor in (1.0, 1.1))
        if not here or not beyond:
            return math.log(size), math.log(wanted[1]), 0.0
        return math.log(size), math.log(here), math.log(beyond / here) / math.log(1.1)

    def penalty_nearby(self, depth: float, width: float) -> float:
        """:meth:`penalty` by a straight line through the best widths around the wanted size: good enough to screen with."""
        log_size, log_best, slope = self._best_line
        best = math.exp(log_best + slope * (math.log(self.size(depth, width)) - log_size))
        return float(self.penalty_of(width, best))

    @cached_property
    def slope(self) -> float:
        """Relative loss per relative amount of the budget, at the size the rule wants."""
        exponent = float(shape_penalty.loss_exponent(max(1.0, self.size(*self.wanted()))))
        return abs(exponent) * self.budget.size_share

    def demerit(self, amount: float, penalty: float) -> float:
        """Relative loss that a shape costs by its form and by its distance from the budget; infinite beyond a limit.

        A miss below 1 % is free, since no budget is meant more exactly than that; one above 5 % costs far more than the loss
        it makes, since it is another budget.
        """
        miss = math.log(amount / self.amount)
        slack = 0.0 if self.template.exact else _ROUNDING
        if self.budget.cap and miss > slack:
            return math.inf
        return penalty + self.slope * max(0.0, abs(miss) - _FREE) + max(0.0, abs(miss) - _TOLERANCE)

    def measure(self, tree: Transformer, against: Shape | None = None) -> Shape:
        """A tree with its exact counts and its predicted cost, relative to another shape where one is given."""
        size = tree.trained_size
        best = self.best_width(size)
        penalty = float(self.penalty_of(tree.width, best)) if best else 0.0
        k = coefficient("shape_penalty", "k")
        exponent = shape_penalty.loss_exponent(size)
        amount = self.budget.of(tree)
        change = 0.0
        if against is not None:
            change = (1 + penalty) / (1 + against.loss_penalty) * (size / against.trained_size) ** exponent - 1
        return Shape(
            depth=tree.depth,
            width=tree.width,
            heads=tree.heads,
            kv_heads=tree.kv_heads,
            head_dim=tree.head_dim,
            ffn=tree.ffn,
            parameters=tree.parameters,
            non_embedding_parameters=tree.non_embedding_parameters,
            active_parameters=tree.active_parameters,
            amount=amount,
            budget_miss=float(Fraction(amount) / self.budget.amount - 1),
            loss_penalty=penalty,
            loss_penalty_stderr=penalty * (k.stderr or 0.0) / k.value,
            loss_change=change,
            parameter_equivalent=float(shape_penalty.parameter_equivalent(penalty, exponent)),
            flops_per_token=float(tree.flops_per_token()),
        )

    # Shapes of whole numbers.

    def best_of(self, shapes: Iterable[tuple[int, int]]) -> tuple[float, Transformer] | None:
        """The best of some shapes with its demerit.

        All are screened by the polynomial; a few are then counted exactly, as rounding moves feed-forward widths.
        """
        screened = sorted((self.demerit(self.quantity(*found), self.penalty_nearby(*found)), found) for found in set(shapes))
        best: tuple[float, Transformer] | None = None
        counted = 0
        for screen, (depth, width) in screened:
            if math.isinf(screen) or counted == _SHORTLIST:
                break
            tree = self.template.at(depth, width)
            amount = self.budget.of(tree)
            if self.budget.cap and amount > self.budget.amount:
                continue
            counted += 1
            demerit = self.demerit(float(amount), self.penalty(depth, width))
            if best is None or demerit < best[0]:
                best = demerit, tree
        return best

    def around(self, width: float, factor: float) -> Iterator[tuple[int, int]]:
        """Shapes whose width is within `factor` of `width` and whose depth then uses up the budget."""
        targets = (width * factor ** (2 * i / (_SAMPLES - 1) - 1) for i in range(_SAMPLES))
        widths = {found for target in (width, *targets) for found in self.template.widths_beside(target)}
        for found in widths:
            yield from self.closing(found)

    def closing(self, width: int) -> Iterator[tuple[int, int]]:
        """The one or two depths at which blocks of `width` come closest to the budget."""
        found = self.meets(lambda depth: (depth, width))
        if found is not None and found[0] < _DEEPEST:
            yield from ((depth, width) for depth in {max(1, math.floor(found[0])), math.ceil(found[0])})

    def beside(self, depth: float) -> Iterator[tuple[int, int]]:
        """Shapes of about this depth: the two nearest multiples of the width, and the depths that suit those."""
        found = self.meets(at_depth(depth))
        for width in () if found is None else self.template.widths_beside(found[1]):
            yield max(1, round(depth)), width
            yield from (shape for shape in self.closing(width) if depth / 1.2 <= shape[0] <= depth * 1.2)

    def nearest(self) -> tuple[float, Transformer] | None:
        """The best shape around the rule's width, looking further away until one is good, with its demerit."""
        width = self.wanted()[1]
        best: tuple[float, Transformer] | None = None
        for factor in (1.25, 2.0, 8.0, 64.0):
            found = self.best_of(self.around(width, factor))
            if found is not None and (best is None or found[0] < best[0]):
                best = found
            if best is not None and best[0] < _GOOD:
                break
        return best

    def recommended(self) -> Transformer:
        """The shape to build: near the rule's curve and the budget, with the usual head dimension where that costs little."""
        usual = self.template.head_dim_at(1024)
        others = sorted(set(_HEAD_DIMS) - {usual}, key=lambda dim: abs(math.log(dim / usual)))
        best: tuple[float, Template, Transformer] | None = None
        for rank, head_dim in enumerate((usual, *others) if self.open_head_dim else (usual,)):
            if rank:
                self.settle(replace(self.template, head_dim=head_dim))
            found = self.nearest()
            if found is None:
                continue
            demerit = found[0] + rank * _AWKWARD
            if best is None or demerit < best[0]:
                best = demerit, self.template, found[1]
            if best[0] < _GOOD:
                break
        if best is None or float(self.budget.of(best[2])) > self.amount * (1 + _FAR):
            raise InputError(self.too_small())
        if self.template is not best[1]:
            self.settle(best[1])
        return best[2]
