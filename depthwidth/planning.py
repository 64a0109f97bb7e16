"""From a budget to a shape: what each rule wants, what the hardware likes, what it costs to choose otherwise."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from .architecture import Transformer
from .budget import BUDGETS, Budget
from .coefficients import coefficient
from .errors import InputError
from .formulas import shape as formulas
from .layers.base import check_choice
from .optima import FlopOptimum, gemstones_flop_optimum
from .quantities import format_bytes, format_count, parse_bytes, parse_count, plain_number
from .rules import Curve, Quantity, Rule, find_rule, meet, rules
from .template import Template

if TYPE_CHECKING:
    import pandas

_RUNNER_UP_DEPTHS = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 5 / 4, 3 / 2, 2)  # of the recommended depth
_FREE = 0.01  # of the budget: see _Planner.demerit
_TOLERANCE = 0.05
_RUNNER_UP_MISS = 0.06
_DISTINCT = 0.08  # in ln depth: shapes closer than this are the same advice
_ROUNDING = 0.02  # how much rounding the feed-forward width may bring a shape back under a limit
_SHORTLIST = 4
_WIDTHS = 64
_DEEPEST = 10**6


class RuleShape(NamedTuple):
    """What a rule wants at the budget, before any rounding."""

    rule: str
    kind: str
    source: str
    depth: float
    width: float
    parameters: float
    loss_penalty: float | None
    """Relative loss it would cost if the plan's own rule were right, at equal parameters."""
    extrapolated: bool
    """Whether this shape lies outside what the rule's data covered."""
    comparison: bool = False


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
    """Relative loss that its shape costs against the rule's best at its own size."""
    loss_penalty_stderr: float
    loss_change: float
    """Relative loss against the recommended shape: the penalty and the difference in size together."""
    parameter_equivalent: float
    """Share of the parameters that the shape penalty wastes."""
    flops_per_token: float
    """Forward operations per token at the design's context."""


class Band(NamedTuple):
    """An interval of depths and widths, and what it is over."""

    depth: tuple[float, float]
    width: tuple[float, float]
    over: str


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """The answer to a budget. Everything the command line prints of a plan is here."""

    budget: Budget
    rule: Rule
    template: Template
    shape: Shape
    rules: dict[str, RuleShape]
    rule_band: Band | None
    coefficient_band: Band | None
    gpt3_like: Shape | None
    runners_up: tuple[Shape, ...]
    tokens: int
    flop_optimum: FlopOptimum | None
    """For a FLOPs budget, the optimum of the Gemstones law with the tokens free, for its own block and vocabulary."""
    notes: tuple[str, ...]

    @cached_property
    def tree(self) -> Transformer:
        """The recommended transformer."""
        return self.template.at(self.shape.depth, self.shape.width)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what ``depthwidth plan --json`` prints."""
        best = shape_dict(self.shape)
        return {
            **best,
            "budget": plain_number(self.budget.amount),
            "budget_kind": self.budget.kind,
            "rule": self.rule.name,
            "rules": {name: found._asdict() for name, found in self.rules.items()},
            "rule_band": None if self.rule_band is None else self.rule_band._asdict(),
            "coefficient_band": None if self.coefficient_band is None else self.coefficient_band._asdict(),
            "gpt3_like": None if self.gpt3_like is None else shape_dict(self.gpt3_like),
            "runners_up": [shape_dict(shape) for shape in self.runners_up],
            "tokens": self.tokens,
            "flop_optimum": None if self.flop_optimum is None else asdict(self.flop_optimum),
            "vocab": self.tree.vocab,
            "context": self.tree.context,
            "notes": list(self.notes),
        }

    def rows(self) -> list[dict[str, Any]]:
        """The recommended shape and the runners-up, one row each, by depth."""
        labelled = [("recommended", self.shape), *(("runner-up", s) for s in self.runners_up)]
        if self.gpt3_like is not None:
            labelled.append(("gpt3-like", self.gpt3_like))
        return [{"choice": label, **shape_dict(s)} for label, s in sorted(labelled, key=lambda pair: pair[1].depth)]

    def equal_budget_curve(self, points: int = 200) -> list[tuple[float, float]]:
        """(depth, width), continuous, of shapes that use the budget exactly: from a fifth of the depth to five times it."""
        quantity = self.budget.quantity(self.template)
        amount = float(self.budget.amount)
        found = []
        for i in range(points):
            depth = self.shape.depth * 5 ** (2 * i / (points - 1) - 1)
            shape = meet(_at_depth(depth), quantity, amount)
            if shape is not None:
                found.append(shape)
        return found

    def rule_curve(self, name: str, points: int = 60) -> list[tuple[float, float]]:
        """(depth, width) along a rule's own curve, for budgets from a thirtieth to thirty times this one."""
        quantity = self.budget.quantity(self.template)
        curve = find_rule(name).curve
        amounts = (float(self.budget.amount) * 30 ** (2 * i / (points - 1) - 1) for i in range(points))
        return [shape for amount in amounts if (shape := meet(curve, quantity, amount)) is not None]

    def frame(self) -> pandas.DataFrame:
        """:meth:`rows` as a data frame."""
        import pandas

        return pandas.DataFrame(self.rows())


def _at_depth(depth: float) -> Curve:
    return lambda width: (depth, width)


def shape_dict(shape: Shape) -> dict[str, Any]:
    """A shape as plain data."""
    return {**shape._asdict(), "amount": plain_number(shape.amount)}


def plan(
    budget: Budget | str | float,
    *,
    rule: str | None = None,
    kind: str = "parameters",
    template: Template | None = None,
    **options: Any,
) -> Plan:
    """The transformer to build with a budget.

    Parameters
    ----------
    budget : a :class:`Budget`, or an amount as people write it (``1T``, ``1.3B``, ``6.7e9``; ``80GB`` for bytes).
    rule : the rule whose curve decides between depth and width; one of :func:`~depthwidth.rules.rules`, by default
        ``levine2020`` for text and ``sovit2023`` for images.
    kind : what the amount counts, one of :data:`BUDGETS`; ``parameters`` by default.
    template : everything but the shape; the GPT-3 architecture by default.
    options : the other fields of :class:`Budget`.

    Returns
    -------
    A :class:`Plan`: the recommended shape of whole numbers, what every rule wants, two separate bands (over rules, and over
    the coefficient error of the chosen rule), and runners-up along the curve of equal budget.

    Raises
    ------
    InputError
        if the budget is not a positive amount, holds no transformer of this design, or a name is unknown.

    Examples
    --------
    >>> best = plan("1T").shape
    >>> best.depth, best.width
    (95, 29696)
    """
    template = Template.of() if template is None else template
    if not isinstance(budget, Budget):
        check_choice("plan", tuple(BUDGETS), kind=kind)
        parse = parse_bytes if kind in ("memory", "weights") else parse_count
        budget = Budget(kind, parse(budget, "budget"), **options)
    elif options:
        raise InputError(f"plan: {next(iter(options))} belongs to the Budget that was given")
    chosen = find_rule(rule) if rule is not None else next(iter(rules(template.design.patch is not None).values()))
    return _Planner(budget, chosen, template).plan()


def _trained_size(tree: Transformer) -> int:
    """The N of the rules: parameters without the embedding, of a mixture of experts those that a token meets."""
    return tree.active_parameters - tree.embedding_parameters


class _Planner:
    """One budget, one rule and one template, and what is worked out of them on the way to a plan."""

    def __init__(self, budget: Budget, rule: Rule, template: Template) -> None:
        self.budget = budget
        self.amount = float(budget.amount)
        self.rule = rule
        self.penalty_of = formulas.shape_penalty.with_fixed()
        images = template.design.patch is not None
        if images != rule.images and not rule.comparison:
            known = ", ".join(rules(images))
            what = "images, which this design does not read" if rule.images else "text, but this design reads images"
            raise InputError(f"the rule {rule.name!r} is for {what}; known are {known}")
        self.rules = rules(images)
        # The head dimension follows from the width, the width a little from the head dimension: two rounds settle it.
        near = 1024.0
        for _ in range(2):
            self.settle(replace(template, head_dim=template.head_dim_at(near)))
            near = self.wanted(rule.curve)[1]
        self.open_head_dim = template.head_dim is None

    def settle(self, template: Template) -> None:
        """Take this template, its counts as polynomials."""
        self.template = template
        self.quantity = self.budget.quantity(template)
        self.parameters = template.polynomial(lambda tree: tree.parameters).continuous()
        self.size = template.polynomial(_trained_size).continuous()
        self.forget()

    def forget(self) -> None:
        """Drop what was worked out for another rule or template."""
        for name in ("slope", "_best_line"):
            self.__dict__.pop(name, None)

    def with_rule(self, rule: Rule) -> _Planner:
        """The same planner for another rule."""
        other = copy.copy(self)
        other.rule = rule
        other.forget()
        return other

    def wanted(self, curve: Curve) -> tuple[float, float]:
        """The shape a curve wants at the budget; where it never meets it, the narrowest or widest that the budget allows."""
        found = meet(curve, self.quantity, self.amount)
        if found is not None:
            return found
        width = self.width_closing(1.0)
        if width is None:
            raise InputError(self._too_small())
        return 1.0, width

    def width_closing(self, depth: float) -> float | None:
        """The width at which `depth` blocks use up the budget."""
        found = meet(_at_depth(depth), self.quantity, self.amount)
        return None if found is None else found[1]

    def depth_closing(self, width: float) -> float | None:
        """The depth at which blocks of `width` use up the budget."""
        found = meet(lambda depth: (depth, width), self.quantity, self.amount)
        return None if found is None else found[0]

    def _too_small(self) -> str:
        smallest = self.template.at(1, self.template.step_at(1))
        used = self.budget.of(smallest)
        amount = format_bytes(float(used)) if self.budget.kind in ("memory", "weights") else f"{float(used):.3g}"
        return (
            f"a budget of {self.budget} is too small: one block of width {smallest.width} with {smallest.vocab} tokens "
            f"already takes {amount}; give fewer tokens with vocab, or a larger budget"
        )

    # What a shape costs.

    def best_width(self, size: float) -> float | None:
        """The width the rule calls best for a network of this size."""
        found = meet(self.rule.curve, self.size, size)
        return None if found is None else found[1]

    def penalty(self, depth: float, width: float) -> float:
        """Relative loss that this shape costs against the rule's best at the same size."""
        best = self.best_width(self.size(depth, width))
        return float(self.penalty_of(width, best)) if best else 0.0

    @cached_property
    def _best_line(self) -> tuple[float, float, float]:
        """Ln of the wanted size, ln of the best width there, and how the second changes with the first."""
        size = self.size(*self.wanted(self.rule.curve))
        here, beyond = (self.best_width(size * factor) for factor in (1.0, 1.1))
        if not here or not beyond:
            return math.log(size), math.log(self.wanted(self.rule.curve)[1]), 0.0
        return math.log(size), math.log(here), math.log(beyond / here) / math.log(1.1)

    def penalty_nearby(self, depth: float, width: float) -> float:
        """:meth:`penalty` by a straight line through the best widths around the wanted size: good enough to screen with."""
        log_size, log_best, slope = self._best_line
        best = math.exp(log_best + slope * (math.log(self.size(depth, width)) - log_size))
        return float(self.penalty_of(width, best))

    def measure(self, tree: Transformer, against: Shape | None = None) -> Shape:
        """A tree with its exact counts and its predicted cost, relative to another shape where one is given."""
        size = _trained_size(tree)
        best = self.best_width(size)
        penalty = float(formulas.shape_penalty(tree.width, best)) if best else 0.0
        k = coefficient("shape_penalty", "k")
        exponent = formulas.loss_exponent(size)
        amount = self.budget.of(tree)
        change = 0.0
        if against is not None:
            other = against.active_parameters - (against.parameters - against.non_embedding_parameters)
            change = (1 + penalty) / (1 + against.loss_penalty) * (size / other) ** exponent - 1
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
            parameter_equivalent=float(formulas.parameter_equivalent(penalty, exponent)),
            flops_per_token=float(tree.flops_per_token()),
        )

    # Shapes of whole numbers.

    def best_of(self, shapes: Iterator[tuple[int, int]]) -> Transformer | None:
        """The best of some shapes, weighing the shape against the distance from the budget.

        All are screened by the polynomial; the shortlist is then counted exactly, as rounding moves feed-forward widths.
        """
        screened = sorted((self.demerit(self.quantity(*found), self.penalty_nearby(*found)), found) for found in set(shapes))
        counted = []
        for demerit, (depth, width) in screened[:_SHORTLIST]:
            if math.isinf(demerit):
                break
            tree = self.template.at(depth, width)
            amount = self.budget.of(tree)
            if not (self.budget.cap and amount > self.budget.amount):
                counted.append((self.demerit(float(amount), self.penalty(depth, width)), width, tree))
        return min(counted, key=lambda found: found[:2])[2] if counted else None

    def demerit(self, amount: float, penalty: float) -> float:
        """Relative loss that a shape costs by its form and by its distance from the budget; infinite beyond a limit.

        A miss below 1 % is free, since no budget is meant more exactly than that; one above 5 % costs far more than the loss
        it makes, since it is another budget.
        """
        miss = math.log(amount / self.amount)
        if self.budget.cap and miss > _ROUNDING:
            return math.inf
        return penalty + self.slope * max(0.0, abs(miss) - _FREE) + max(0.0, abs(miss) - _TOLERANCE)

    @cached_property
    def slope(self) -> float:
        """Relative loss per relative size, at the size the rule wants."""
        return abs(float(formulas.loss_exponent(max(1.0, self.size(*self.wanted(self.rule.curve))))))

    def around(self, width: float, factor: float) -> Iterator[tuple[int, int]]:
        """Shapes whose width is within `factor` of `width` and whose depth then uses up the budget."""
        step = self.template.step_at(width / factor)
        first, last = max(1, round(width / factor / step)), max(1, round(width * factor / step))
        # Thin out where the multiples lie closer than the loss can tell apart.
        stride = max(1, (last - first) // _WIDTHS)
        for count in {*range(first, last + 1, stride), max(1, round(width / step))}:
            if self.template.fits(count * step):
                yield from self.closing(count * step)

    def closing(self, width: int) -> Iterator[tuple[int, int]]:
        """The one or two depths at which blocks of `width` come closest to the budget."""
        depth = self.depth_closing(width)
        if depth is not None and depth < _DEEPEST:
            yield from ((d, width) for d in {max(1, math.floor(depth)), math.ceil(depth)})

    def at_depth(self, depth: float) -> Iterator[tuple[int, int]]:
        """Shapes of about this depth: the two nearest multiples of the width, and the depths that suit those."""
        width = self.width_closing(depth)
        if width is None:
            return
        for multiple in self.template.widths_beside(width):
            yield max(1, round(depth)), multiple
            yield from (found for found in self.closing(multiple) if depth / 1.2 <= found[0] <= depth * 1.2)

    def recommended(self) -> Transformer:
        """The shape to build: near the rule's width, or as near as the budget allows."""
        best = self.nearest()
        # A tiny budget has no room for heads of the usual dimension.
        while self.open_head_dim and self.missed(best) and self.template.head_dim_at(1) > 8:
            self.settle(replace(self.template, head_dim=self.template.head_dim_at(1) // 2))
            narrower = self.nearest()
            best = narrower if best is None or not self.missed(narrower) else best
        if best is None:
            raise InputError(self._too_small())
        return best

    def nearest(self) -> Transformer | None:
        """The best shape around the rule's width, looking further away until one is near the budget."""
        width = self.wanted(self.rule.curve)[1]
        best: Transformer | None = None
        for factor in (1.25, 2.0, 8.0, 64.0):
            best = self.best_of(self.around(width, factor)) or best
            if not self.missed(best):
                break
        return best

    def missed(self, tree: Transformer | None) -> bool:
        """Whether a shape is not near the budget."""
        return tree is None or abs(math.log(float(self.budget.of(tree)) / self.amount)) > _TOLERANCE

    def plan(self) -> Plan:
        """Everything that is said about the budget."""
        tree = self.recommended()
        shape = self.measure(tree)
        found = {name: self.rule_shape(rule) for name, rule in self.rules.items()}
        wanted = {name: shape for name, shape in found.items() if shape is not None}
        return Plan(
            budget=self.budget,
            rule=self.rule,
            template=self.template,
            shape=shape,
            rules=wanted,
            rule_band=_band(
                [(s.depth, s.width) for s in wanted.values() if not s.comparison],
                f"{sum(not s.comparison for s in wanted.values())} rules, whatever their evidence",
            ),
            coefficient_band=self.coefficient_band(),
            gpt3_like=self.gpt3_like(shape),
            runners_up=tuple(self.runners_up(shape)),
            tokens=self.budget.tokens_for(shape.parameters),
            flop_optimum=self.flop_optimum(),
            notes=tuple(self.notes(shape, wanted)),
        )

    def rule_shape(self, rule: Rule) -> RuleShape | None:
        """What one rule wants at the budget; None where its curve does not meet it."""
        found = meet(rule.curve, self.quantity, self.amount)
        if found is None:
            return None
        depth, width = found
        size = self.size(depth, width)
        return RuleShape(
            rule=rule.name,
            kind=rule.kind,
            source=rule.source,
            depth=depth,
            width=width,
            parameters=self.parameters(depth, width),
            loss_penalty=None if rule.name == self.rule.name else self.penalty(depth, width),
            extrapolated=rule.extrapolates(depth, width, size),
            comparison=rule.comparison,
        )

    def coefficient_band(self) -> Band | None:
        """How far the chosen rule's shape moves with the error of its coefficients."""
        curves = [self.rule.curve, *self.rule.variants().values()]
        shapes = [found for curve in curves if (found := meet(curve, self.quantity, self.amount)) is not None]
        return _band(shapes, self.rule.error) if len(curves) > 1 else None

    def gpt3_like(self, shape: Shape) -> Shape | None:
        """What the GPT-3 family's own depths and widths would have made of the budget."""
        if "gpt3" not in self.rules:
            return None
        tree = self.with_rule(find_rule("gpt3")).nearest()
        return None if tree is None else self.measure(tree, against=shape)

    def runners_up(self, shape: Shape) -> Iterator[Shape]:
        """Shapes of other depths that use the same budget."""
        depths = [shape.depth]
        for share in _RUNNER_UP_DEPTHS:
            tree = self.best_of(self.at_depth(max(1, share * shape.depth)))
            if tree is None or any(abs(math.log(tree.depth / depth)) < _DISTINCT for depth in depths):
                continue
            found = self.measure(tree, against=shape)
            # Where the multiples lie far apart, no shape of this depth may be near the budget.
            if abs(found.budget_miss) <= _RUNNER_UP_MISS:
                depths.append(tree.depth)
                yield found

    def flop_optimum(self) -> FlopOptimum | None:
        """What the Gemstones law makes of a FLOPs budget; None for other budgets and images."""
        if self.budget.kind != "flops" or self.template.design.patch is not None:
            return None
        return gemstones_flop_optimum(self.amount)

    def notes(self, shape: Shape, wanted: dict[str, RuleShape]) -> Iterator[str]:
        """What a reader must know before believing the numbers."""
        own = wanted.get(self.rule.name)
        if own is None:
            yield (
                f"{self.rule.name} has no shape of this budget: where its curve begins, the embedding alone takes more; "
                "the shape given is the nearest that fits"
            )
        elif own.extrapolated:
            ranges = " and ".join(f"{name} {low:g} to {high:g}" for name, low, high in self.rule.fitted_on)
            yield f"{self.rule.name} was fitted on {ranges}; this shape extrapolates it"
        size = shape.active_parameters - (shape.parameters - shape.non_embedding_parameters)
        if not PENALTY_RANGE[0] <= size <= PENALTY_RANGE[1]:
            yield (
                f"loss penalties were measured on {format_count(PENALTY_RANGE[0])} to {format_count(PENALTY_RANGE[1])} "
                "parameters; here they extrapolate"
            )
        rank = min(self.template.design.embedding_width or shape.width, self.template.design.vocab)
        if rank < shape.width and self.template.design.patch is None:
            yield (
                f"the input embedding has rank {rank}, below the width: by Wies et al. 2021 (arXiv 2105.03928) width beyond "
                "it is of limited use, and depth is worth more"
            )


PENALTY_RANGE = (2.3e7, 1.8e9)
"""Sizes on which the loss penalty was measured, in parameters without the embedding."""


def _band(shapes: list[tuple[float, float]], over: str) -> Band | None:
    if len(shapes) < 2:
        return None
    depths, widths = zip(*shapes, strict=True)
    return Band((min(depths), max(depths)), (min(widths), max(widths)), over)


class Estimate(NamedTuple):
    """A continuous optimum with what it depends on. ``float(estimate)`` is its value."""

    value: float
    low: float
    high: float
    """From the error of the rule's coefficients; equal to the value where the source gives none."""
    over_rules: tuple[float, float]
    """The smallest and the largest that any rule gives."""
    rule: str
    kind: str
    error: str

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        spread = " to ".join(format_count(v) for v in self.over_rules)
        moved = f"{format_count(self.low)} to {format_count(self.high)} by {self.error}"
        return f"{format_count(self.value)} ({moved}; {spread} over rules)"


def optimal_width(
    params: float | str | None = None, *, depth: float | None = None, rule: str = "levine2020", c: float = 12
) -> Estimate:
    """The width that suits a parameter budget, or a depth.

    Parameters
    ----------
    params : N, parameters without the embedding, c L d^2; a number or text such as ``1T``.
    depth : in place of `params`, the number of blocks.
    rule : whose curve to use.
    c : parameters per layer and squared width: 12 for a feed-forward part four times the width.

    Returns
    -------
    An :class:`Estimate`, continuous. For exact counts of a real architecture use :func:`plan`.

    Examples
    --------
    >>> round(float(optimal_width(params=1e12)), 1)
    29657.0
    >>> print(optimal_width(depth=24))
    585 (578 to 591 by one standard error of the fit; its covariance is recalled, not confirmed; 460 to 2.4K over rules)
    """
    return _estimate(params, depth, rule, c, given="depth", wanted=1)


def optimal_depth(
    params: float | str | None = None, *, width: float | None = None, rule: str = "levine2020", c: float = 12
) -> Estimate:
    """The depth that suits a parameter budget, or a width; see :func:`optimal_width`.

    Examples
    --------
    >>> round(float(optimal_depth(params="1T")), 3)
    94.747
    >>> round(float(optimal_depth(width=768)), 4)
    28.9151
    """
    return _estimate(params, width, rule, c, given="width", wanted=0)


def _estimate(params: Any, fixed: Any, rule: str, c: float, given: str, wanted: int) -> Estimate:
    name = ("optimal_depth", "optimal_width")[wanted]
    if (params is None) == (fixed is None):
        raise InputError(f"{name} takes either params or {given}")
    chosen = find_rule(rule)
    quantity: Quantity
    if params is not None:
        amount = float(parse_count(params, "params"))
        factor = float(parse_count(c, "c"))

        def quantity(depth: float, width: float) -> float:
            return factor * depth * width**2

    else:
        amount = float(parse_count(fixed, given))

        def quantity(depth: float, width: float) -> float:
            return depth if given == "depth" else width

    def at(curve: Curve) -> float | None:
        found = meet(curve, quantity, amount)
        return None if found is None else found[wanted]

    value = at(chosen.curve)
    if value is None:
        raise InputError(f"{name}: {rule} has no shape of {given if params is None else 'params'} {amount:g}")
    moved = [value, *filter(None, map(at, chosen.variants().values()))]
    every = [v for r in rules(chosen.images).values() if not r.comparison and (v := at(r.curve)) is not None]
    return Estimate(value, min(moved), max(moved), (min(every), max(every)), rule, chosen.kind, chosen.error)
