"""From a budget to a shape: what each rule wants, what the hardware likes, what it costs to choose otherwise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ..architecture import Transformer
from ..checks import check_choice
from ..errors import InputError, nearest, shown
from ..quantities import format_bytes, format_count, parse_bytes, parse_count, plain_number
from .budget import BUDGETS, Budget
from .caveats import penalty_caveats, shape_caveats
from .optima import FlopOptimum, gemstones_flop_optimum
from .rules import Curve, Quantity, Rule, find_rule, meet, rules
from .search import Search, Shape, at_depth
from .template import Template

if TYPE_CHECKING:
    import pandas

_RUNNER_UP_DEPTHS = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 5 / 4, 3 / 2, 2)  # of the recommended depth
_RUNNER_UP_MISS = 0.06
_MOVED = 0.15  # in ln depth: a recommendation this far from its rule is explained
_BETTER = 5e-4  # relative loss
_BETTER_MISS = 0.01  # of the budget
_DISTINCT = 0.08  # in ln depth: shapes closer than this are the same advice


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
    extrapolated: bool | None
    """Whether this shape lies outside what the rule's data covered; None where its source does not say what that was."""
    comparison: bool = False


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

    @property
    def headline(self) -> str:
        """Depth and width in words."""
        encoder = self.tree.encoder.depth if self.tree.kind == "encoder-decoder" and self.tree.encoder else 0
        layers = f"{encoder} + {self.shape.depth} layers (encoder + decoder)" if encoder else f"{self.shape.depth} layers"
        return f"{layers}, {self.shape.width:,} wide"

    def facts(self) -> dict[str, str]:
        """What there is to say of the recommended shape, as people read it."""
        shape, kind, experts = self.shape, self.budget.kind, self.tree.experts
        miss = f" ({shape.budget_miss:+.2%} from the budget)"

        def counted(number: int, by: str) -> str:
            return f"{number:,}" + (miss if kind == by else "")

        facts = {
            "depth x width": f"{shape.depth} x {shape.width}",
            "heads": f"{shape.heads} of {shape.head_dim}"
            + (f", {shape.kv_heads} key and value heads" if shape.kv_heads != shape.heads else ""),
            "ffn": f"{shape.ffn}" + (f", {experts.experts} experts, {experts.top_k} a token" if experts else ""),
            "parameters": counted(shape.parameters, "parameters"),
            "  without embedding": counted(shape.non_embedding_parameters, "non_embedding"),
        }
        if experts:
            facts["  active"] = counted(shape.active_parameters, "active")
        if self.budget.cap:
            amount = float(shape.amount)
            facts[self.budget.unit] = (f"{amount:.4g}" if kind == "flops" else format_bytes(amount, 4)) + miss
        if kind == "flops":
            facts["training tokens"] = format_count(self.tokens)
        return facts | {"loss penalty of its shape": f"{shape.loss_penalty:.3%} if {self.rule.name} is right"}

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
            "kind": self.tree.kind,
            "encoder_depth": self.tree.encoder.depth if self.tree.encoder is not None else None,
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
            shape = meet(at_depth(depth), quantity, amount)
            if shape is not None:
                found.append(shape)
        return found

    def rule_curve(self, name: str, points: int = 60) -> list[tuple[float, float]]:
        """(depth, width) along a rule's own curve, for budgets from a thirtieth to thirty times this one."""
        quantity = self.budget.quantity(self.template)
        curve = find_rule(name).curve(float(self.template.polynomial(lambda tree: tree.trained_size).per_block[2]))
        amounts = (float(self.budget.amount) * 30 ** (2 * i / (points - 1) - 1) for i in range(points))
        return [shape for amount in amounts if (shape := meet(curve, quantity, amount)) is not None]

    def frame(self) -> pandas.DataFrame:
        """:meth:`rows` as a data frame."""
        import pandas

        return pandas.DataFrame(self.rows())


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
    rule : the rule whose curve decides between depth and width; one of :func:`~depthwidth.planning.rules.rules`, by default
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
    if not isinstance(template, Template):
        raise InputError(f"plan: template={shown(template)} is not a Template; make one with Template.of or Template.like")
    if not isinstance(budget, Budget):
        check_choice("plan", tuple(BUDGETS), kind=kind)
        known = {field.name for field in fields(Budget)}
        for name in options:
            if name not in known:
                raise InputError(f"plan: there is no option {shown(name)}{nearest(name, known)}")
        parse = parse_bytes if kind in ("memory", "weights") else parse_count
        budget = Budget(kind, parse(budget, "budget"), **options)
    elif options:
        raise InputError(f"plan: {next(iter(options))} belongs to the Budget that was given")
    chosen = find_rule(rule) if rule is not None else next(iter(rules(template.design.patch is not None).values()))
    return _Planner(budget, chosen, template).plan()


class _Planner:
    """What is said about one budget under one rule."""

    def __init__(self, budget: Budget, rule: Rule, template: Template) -> None:
        images = template.design.patch is not None
        if images != rule.images and not rule.comparison:
            known = ", ".join(rules(images))
            what = "images, which this design does not read" if rule.images else "text, but this design reads images"
            raise InputError(f"the rule {rule.name!r} is for {what}; known are {known}")
        self.budget = budget
        self.rule = rule
        self.rules = rules(images)
        self.search = Search(budget, rule, template)

    def plan(self) -> Plan:
        """Everything that is said about the budget."""
        search = self.search
        tree = search.recommended()
        shape = search.measure(tree)
        found = {name: self.rule_shape(rule) for name, rule in self.rules.items()}
        wanted = {name: shape for name, shape in found.items() if shape is not None}
        spoken = [(s.depth, s.width) for s in wanted.values() if not s.comparison]
        like = self.gpt3_like(shape)
        others = tuple(self.runners_up(shape))
        return Plan(
            budget=self.budget,
            rule=self.rule,
            template=search.template,
            shape=shape,
            rules=wanted,
            rule_band=_band(spoken, f"{len(spoken)} rules, whatever their evidence"),
            coefficient_band=self.coefficient_band(),
            gpt3_like=like,
            runners_up=others,
            tokens=self.budget.tokens_for(shape.parameters),
            flop_optimum=self.flop_optimum(),
            notes=tuple(self.notes(tree, shape, found, [*others, *filter(None, [like])])),
        )

    def rule_shape(self, rule: Rule) -> RuleShape | None:
        """What one rule wants at the budget; None where its curve does not meet it."""
        search = self.search
        found = search.meets(rule.curve(search.density))
        if found is None:
            return None
        return RuleShape(
            rule=rule.name,
            kind=rule.kind,
            source=rule.source,
            depth=found[0],
            width=found[1],
            parameters=search.parameters(*found),
            loss_penalty=None if rule.name == self.rule.name else search.penalty(*found),
            extrapolated=rule.extrapolates(*found, search.size(*found)),
            comparison=rule.comparison,
        )

    def coefficient_band(self) -> Band | None:
        """How far the chosen rule's shape moves with the error of its coefficients."""
        density = self.search.density
        curves = [self.rule.curve(density), *self.rule.variants(density).values()]
        shapes = [found for curve in curves if (found := self.search.meets(curve)) is not None]
        return _band(shapes, self.rule.error) if len(curves) > 1 else None

    def gpt3_like(self, shape: Shape) -> Shape | None:
        """What the GPT-3 family's own depths and widths would have made of the budget."""
        found = self.search.with_rule(find_rule("gpt3")).nearest() if "gpt3" in self.rules else None
        return None if found is None else self.search.measure(found[1], against=shape)

    def runners_up(self, shape: Shape) -> Iterator[Shape]:
        """Shapes of other depths that use the same budget."""
        depths = [shape.depth]
        for share in _RUNNER_UP_DEPTHS:
            found = self.search.best_of(self.search.beside(max(1, share * shape.depth)))
            if found is None or any(abs(math.log(found[1].depth / depth)) < _DISTINCT for depth in depths):
                continue
            other = self.search.measure(found[1], against=shape)
            # Where the multiples lie far apart, no shape of this depth may be near the budget.
            if abs(other.budget_miss) <= _RUNNER_UP_MISS:
                depths.append(other.depth)
                yield other

    def flop_optimum(self) -> FlopOptimum | None:
        """What the Gemstones law makes of a FLOPs budget; None for other budgets and images."""
        if self.budget.kind != "flops" or "gemstones2025" not in self.rules:
            return None
        return gemstones_flop_optimum(float(self.budget.amount))

    def notes(self, tree: Transformer, shape: Shape, found: dict[str, RuleShape | None], others: list[Shape]) -> Iterator[str]:
        """What a reader must know before believing the numbers."""
        own = found[self.rule.name]
        if own is None:
            yield (
                f"{self.rule.name} has no shape of this budget: its curve begins beyond it or ends before it; "
                "the shape given is the nearest that fits"
            )
        else:
            if own.extrapolated:
                ranges = " and ".join(f"{name} {low:g} to {high:g}" for name, low, high in self.rule.fitted_on)
                yield f"{self.rule.name} was fitted on {ranges}; this shape extrapolates it"
            if abs(math.log(shape.depth / own.depth)) > _MOVED:
                yield (
                    f"the widths that heads and hardware allow lie far apart here: {self.rule.name} itself wants "
                    f"{own.depth:.1f} layers, {own.width:,.0f} wide"
                )
        absent = [name for name, wanted in found.items() if wanted is None and name != self.rule.name]
        if absent:
            yield f"the curve of {' and of '.join(absent)} does not reach this budget"
        if tree.experts is not None:
            yield "the rules are held against the parameters that a token meets, not against all"
        widths = [s.width for s in (shape, *others)] + [s.width for s in found.values() if s is not None]
        ratios = [width / own.width for width in widths] if own is not None else []
        yield from penalty_caveats(tree, shape.trained_size, ratios)
        yield from shape_caveats(tree)
        better = [s for s in others if s.loss_change < -_BETTER and s.budget_miss <= max(_BETTER_MISS, shape.budget_miss)]
        if better:
            yield (
                "a runner-up has the lower predicted loss: it spends less on the embedding, which the rule's curve does not "
                "weigh (the best width at a fixed total is narrower than the curve's)"
            )


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
        moved = f"{format_count(self.low)} to {format_count(self.high)} by {self.error}; " if self.error else ""
        return f"{format_count(self.value)} ({moved}{spread} over rules)"


def optimal_width(
    parameters: float | str | None = None,
    *,
    depth: float | None = None,
    rule: str = "levine2020",
    c: float = 12,
) -> Estimate:
    """The width that suits a parameter budget, or a depth.

    Parameters
    ----------
    parameters : N, parameters without the embedding, c L d^2; a number or text such as ``1T``.
    depth : in place of `parameters`, the number of blocks.
    rule : whose curve to use.
    c : parameters per layer and squared width: 12 for a feed-forward part four times the width.

    Returns
    -------
    An :class:`Estimate`, continuous. For exact counts of a real architecture use :func:`plan`.

    Examples
    --------
    >>> round(float(optimal_width(parameters=1e12)), 1)
    29657.0
    >>> print(optimal_width(depth=24))
    585 (578 to 591 by one standard error of the fit; its covariance is recalled, not confirmed; 460 to 2.4K over rules)
    """
    return _estimate(parameters, depth, rule, c, given="depth", wanted=1)


def optimal_depth(
    parameters: float | str | None = None,
    *,
    width: float | None = None,
    rule: str = "levine2020",
    c: float = 12,
) -> Estimate:
    """The depth that suits a parameter budget, or a width; see :func:`optimal_width`.

    Examples
    --------
    >>> round(float(optimal_depth(parameters="1T")), 3)
    94.747
    >>> round(float(optimal_depth(width=768)), 4)
    28.9151
    """
    return _estimate(parameters, width, rule, c, given="width", wanted=0)


def _estimate(parameters: Any, fixed: Any, rule: str, c: float, given: str, wanted: int) -> Estimate:
    name = ("optimal_depth", "optimal_width")[wanted]
    if (parameters is None) == (fixed is None):
        raise InputError(f"{name} takes either parameters or {given}")
    chosen = find_rule(rule)
    quantity: Quantity
    if parameters is not None:
        amount = float(parse_count(parameters, "parameters"))

        def quantity(depth: float, width: float) -> float:
            return c * depth * width**2

    else:
        amount = float(parse_count(fixed, given))

        def quantity(depth: float, width: float) -> float:
            return depth if given == "depth" else width

    def at(curve: Curve) -> float | None:
        found = meet(curve, quantity, amount)
        return None if found is None else found[wanted]

    c = float(parse_count(c, "c"))
    value = at(chosen.curve(c))
    if value is None:
        raise InputError(f"{name}: {rule} has no shape of {given if parameters is None else 'parameters'} {amount:g}")
    moved = [value, *filter(None, map(at, chosen.variants(c).values()))]
    every = [v for r in rules(chosen.images).values() if not r.comparison and (v := at(r.curve(c))) is not None]
    return Estimate(value, min(moved), max(moved), (min(every), max(every)), rule, chosen.kind, chosen.error)
