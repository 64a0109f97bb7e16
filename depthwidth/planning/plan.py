"""From a budget to a shape: the optimum of each rule, the rounding that hardware needs, and the cost of alternatives."""

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
from . import policy
from .budget import BUDGETS, Budget
from .caveats import EXPERTS_CAVEAT, penalty_caveats, penalty_error, shape_caveats
from .policy import DEFAULT_RULE
from .rules import Curve, Quantity, Rule, default_rule, find_rule, meet, rules
from .search import Search, Shape, at_depth
from .template import Template

if TYPE_CHECKING:
    import pandas

    from .optima import FlopOptimum


class RuleShape(NamedTuple):
    """The optimum of a rule at the budget, before any rounding."""

    rule: str
    kind: str
    source: str
    depth: float
    width: float
    parameters: float
    loss_penalty: float | None
    """Relative loss compared with the plan's own rule at equal parameters, if that one is right; None for the plan's rule."""
    extrapolated: bool | None
    """True if this shape lies outside the range of the rule's data; None if its source does not state that range."""
    comparison: bool = False
    loss_penalty_stderr: float | None = None
    """Standard error of the loss penalty, as :attr:`~depthwidth.planning.search.Shape.loss_penalty_stderr`."""


class Band(NamedTuple):
    """An interval of depths and widths."""

    depth: tuple[float, float]
    width: tuple[float, float]
    over: str
    """The cause of the variation: a coefficient error, or the choice of rule."""


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """The answer to a budget, with everything that the command line prints of it."""

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
    """For a FLOPs budget, the optimum of the Gemstones law over shapes and tokens, for its own block and vocabulary."""
    notes: tuple[str, ...]

    @cached_property
    def tree(self) -> Transformer:
        """The recommended transformer."""
        return self.template.at(self.shape.depth, self.shape.width)

    @property
    def headline(self) -> str:
        """Depth and width, as in ``95 layers x 29,696 wide``."""
        encoder = self.tree.encoder.depth if self.tree.kind == "encoder-decoder" and self.tree.encoder else 0
        layers = f"{encoder} + {self.shape.depth} layers (encoder + decoder)" if encoder else f"{self.shape.depth} layers"
        return f"{layers} x {self.shape.width:,} wide"

    def facts(self) -> dict[str, str]:
        """The recommended shape and its counts, formatted for people."""
        shape, kind, experts = self.shape, self.budget.kind, self.tree.experts
        miss = f" ({abs(shape.budget_miss):.2%} {'below' if shape.budget_miss < 0 else 'above'} the budget)"

        def counted(number: int, by: str) -> str:
            return f"{number:,}" + (miss if kind == by else "")

        facts = {}
        if shape.heads:
            shared = f", {shape.kv_heads} key-value heads" if shape.kv_heads != shape.heads else ""
            facts["heads x head dimension"] = f"{shape.heads} x {shape.head_dim}{shared}"
        if shape.ffn:
            mixed = f", {experts.experts} experts, {experts.top_k} per token" if experts else ""
            if experts and experts.expert.hidden != shape.ffn:  # that of the first block, which is dense
                mixed = f" in dense blocks, {experts.expert.hidden:,} in experts{mixed.replace(',', ':', 1)}"
            facts["feed-forward width"] = f"{shape.ffn:,}{mixed}"
        facts |= {
            "total parameters": counted(shape.parameters, "parameters"),
            "  non-embedding": counted(shape.non_embedding_parameters, "non_embedding"),
        }
        if experts:
            facts["  active"] = counted(shape.active_parameters, "active")
        if self.budget.cap:
            amount = float(shape.amount)
            facts[self.budget.unit] = (f"{amount:.4g}" if kind == "flops" else format_bytes(amount, 4)) + miss
        if kind == "flops":
            facts["training tokens"] = format_count(self.tokens)
        penalty = f"{shape.loss_penalty:.3%} +- {shape.loss_penalty_stderr:.3%}"
        return facts | {"predicted loss penalty": f"{penalty}, if {self.rule.name} is right"}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``depthwidth plan --json`` prints it."""
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
        """Continuous (depth, width) of shapes that use the budget exactly, from a fifth of the depth to five times it."""
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
        """Continuous (depth, width) along a rule's curve, for budgets from a thirtieth to thirty times this one."""
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
    budget : a :class:`Budget`, or an amount such as ``1T``, ``1.3B``, ``6.7e9``, or ``80GB`` for bytes.
    rule : the rule whose curve decides between depth and width; one of :func:`~depthwidth.planning.rules.rules`, by default
        ``levine2020`` for text and ``sovit2023`` for images.
    kind : the quantity that the amount counts, one of :data:`BUDGETS`; ``parameters`` by default.
    template : the architecture without its shape; that of GPT-3 by default.
    options : the other fields of :class:`Budget`.

    Returns
    -------
    A :class:`Plan`: the recommended shape of whole numbers, the optimum of every rule, two separate bands (across rules, and
    from the coefficient error of the chosen rule), and runners-up of equal budget.

    Raises
    ------
    InputError
        if the budget is not a positive amount, is too small for any transformer of this design, or a name is unknown.

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
    chosen = default_rule(images=template.design.patch is not None) if rule is None else find_rule(rule)
    return _Planner(budget, chosen, template).plan()


class _Planner:
    """Everything that a plan reports for one budget and one rule."""

    def __init__(self, budget: Budget, rule: Rule, template: Template) -> None:
        images = template.design.patch is not None
        if images != rule.images and not rule.comparison:
            known = ", ".join(rules(images))
            what = "images, which this design does not read" if rule.images else "text, but this design reads images"
            raise InputError(f"the rule {rule.name!r} is for {what}; known are {known}")
        self.budget = budget
        self.rule = rule
        self.rules = rules(images) | {rule.name: rule}  # GPT-3's shapes may be asked for, for images too
        self.search = Search(budget, rule, template)

    def plan(self) -> Plan:
        """The whole plan."""
        search = self.search
        tree = search.recommend()
        shape = search.measure(tree)
        found = {name: self.rule_shape(rule) for name, rule in self.rules.items()}
        optima = {name: shape for name, shape in found.items() if shape is not None}
        compared = [(s.depth, s.width) for s in optima.values() if not s.comparison]
        like = self.gpt3_like(shape)
        others = tuple(self.runners_up(shape))
        return Plan(
            budget=self.budget,
            rule=self.rule,
            template=search.template,
            shape=shape,
            rules=optima,
            rule_band=_band(compared, f"{len(compared)} rules, not weighted by evidence"),
            coefficient_band=self.coefficient_band(),
            gpt3_like=like,
            runners_up=others,
            tokens=self.budget.tokens_for(shape.parameters),
            flop_optimum=self.flop_optimum(),
            notes=tuple(self.notes(tree, shape, found, [*others, *filter(None, [like])])),
        )

    def rule_shape(self, rule: Rule) -> RuleShape | None:
        """The optimum of one rule at the budget; None if its curve does not meet it."""
        search = self.search
        found = search.meet_budget(rule.curve(search.density))
        if found is None:
            return None
        own = rule.name == self.rule.name
        size = search.size(*found)
        best = None if own else search.optimal_width(size)
        return RuleShape(
            rule=rule.name,
            kind=rule.kind,
            source=rule.source,
            depth=found[0],
            width=found[1],
            parameters=search.parameters(*found),
            loss_penalty=None if own else search.penalty(*found),
            loss_penalty_stderr=None if best is None else penalty_error(found[1], best, size),
            extrapolated=rule.extrapolates(*found, size),
            comparison=rule.comparison,
        )

    def coefficient_band(self) -> Band | None:
        """The range of the chosen rule's optimum over the error of its coefficients."""
        density = self.search.density
        curves = [self.rule.curve(density), *self.rule.variants(density).values()]
        shapes = [found for curve in curves if (found := self.search.meet_budget(curve)) is not None]
        return _band(shapes, self.rule.error) if len(curves) > 1 else None

    def gpt3_like(self, shape: Shape) -> Shape | None:
        """The shape for this budget along the depths and widths of the GPT-3 family."""
        found = self.search.with_rule(find_rule("gpt3")).nearest() if "gpt3" in self.rules else None
        return None if found is None else self.search.measure(found[1], against=shape)

    def runners_up(self, shape: Shape) -> Iterator[Shape]:
        """Shapes of other depths for the same budget."""
        depths = [shape.depth]
        for share in policy.RUNNER_UP_DEPTHS:
            found = self.search.cheapest(self.search.shapes_of_depth(max(1, share * shape.depth)))
            if found is None or any(abs(math.log(found[1].depth / depth)) < policy.DISTINCT_DEPTHS for depth in depths):
                continue
            other = self.search.measure(found[1], against=shape)
            # If allowed widths are far apart, no shape of this depth may be near the budget.
            if abs(other.budget_miss) <= policy.RUNNER_UP_MISS:
                depths.append(other.depth)
                yield other

    def flop_optimum(self) -> FlopOptimum | None:
        """The optimum of the Gemstones law for a FLOPs budget; None for other budgets and for images."""
        if self.budget.kind != "flops" or "gemstones2025" not in self.rules:
            return None
        from .optima import gemstones_flop_optimum

        return gemstones_flop_optimum(float(self.budget.amount))

    def notes(self, tree: Transformer, shape: Shape, found: dict[str, RuleShape | None], others: list[Shape]) -> Iterator[str]:
        """Caveats on the numbers, one sentence each."""
        devices = self.search.template.tensor_parallel
        if self.budget.in_bytes and devices > 1:
            each = format_bytes(float(self.budget.amount) / devices)
            yield f"the budget is that of the whole model: {each} on each of {devices} devices if everything divides evenly"
        own = found[self.rule.name]
        if own is None:
            yield (
                f"{self.rule.name} has no shape at this budget, as its curve begins above it or ends below it; "
                "the nearest shape that fits is given"
            )
        else:
            if own.extrapolated:
                ranges = " and ".join(f"{name} {low:g} to {high:g}" for name, low, high in self.rule.fitted_on)
                yield f"{self.rule.name} was fitted on {ranges}; this shape is outside that range"
            if abs(math.log(shape.depth / own.depth)) > policy.MOVED:
                yield (
                    f"heads and hardware allow few widths here; the {self.rule.name} optimum before rounding is "
                    f"{own.depth:.1f} layers x {own.width:,.0f} wide"
                )
        absent = [name for name, optimum in found.items() if optimum is None and name != self.rule.name]
        if absent:
            yield f"the curve of {' and of '.join(absent)} does not reach this budget"
        if tree.experts is not None:
            yield EXPERTS_CAVEAT
        widths = [s.width for s in (shape, *others)] + [s.width for s in found.values() if s is not None]
        ratios = [width / own.width for width in widths] if own is not None else []
        yield from penalty_caveats(tree, shape.trained_size, ratios)
        yield from shape_caveats(tree)
        largest_miss = max(policy.BETTER_MISS, shape.budget_miss)
        if any(s.loss_change < -policy.BETTER_LOSS and s.budget_miss <= largest_miss for s in others):
            yield (
                "a runner-up has a lower predicted loss: it spends less on the embedding, which the rule's curve ignores "
                "(at a fixed total the best width is narrower than the curve's)"
            )


def _band(shapes: list[tuple[float, float]], over: str) -> Band | None:
    if len(shapes) < 2:
        return None
    depths, widths = zip(*shapes, strict=True)
    return Band((min(depths), max(depths)), (min(widths), max(widths)), over)


class Estimate(NamedTuple):
    """A continuous optimum and its uncertainty. ``float(estimate)`` is its value."""

    value: float
    low: float
    high: float
    """From the error of the rule's coefficients; equal to the value if the source gives none."""
    over_rules: tuple[float, float]
    """The smallest and the largest optimum of any rule."""
    rule: str
    kind: str
    error: str
    counted: str = ""
    """The convention of the number of parameters that was given: :func:`plan` counts all of them by default."""

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        spread = " to ".join(format_count(v) for v in self.over_rules)
        moved = f"{format_count(self.low)} to {format_count(self.high)} within {self.error}; " if self.error else ""
        return f"{format_count(self.value)} ({moved}{spread} across rules{self.counted and f'; {self.counted}'})"


def optimal_width(
    parameters: float | str | None = None,
    *,
    depth: float | None = None,
    rule: str = DEFAULT_RULE,
    c: float = 12,
) -> Estimate:
    """The optimal width for a number of parameters, or for a depth.

    Parameters
    ----------
    parameters : N, non-embedding parameters, c L d^2; a number or text such as ``1T``.
    depth : the number of blocks, instead of `parameters`.
    rule : the rule whose curve to use, one of :func:`~depthwidth.planning.rules.rules`.
    c : parameters per layer and squared width: 12 if the feed-forward width is four times the width.

    Returns
    -------
    An :class:`Estimate`, continuous. For exact counts of a real architecture use :func:`plan`, whose budget includes the
    embedding unless ``kind="non_embedding"``: at 7B the two differ by 1 % in width.

    Raises
    ------
    InputError
        if not exactly one of `parameters` and `depth` is given, or the rule is unknown or has no shape there.

    Examples
    --------
    >>> round(float(optimal_width(parameters=1e12)), 1)
    29657.0
    >>> print(optimal_width(depth=24))
    585 (578 to 591 within one standard error of the fit, whose covariance is recalled, not confirmed; 460 to 2.4K across rules)
    """
    return _estimate(parameters, depth, rule, c, given="depth", sought=1)


def optimal_depth(
    parameters: float | str | None = None,
    *,
    width: float | None = None,
    rule: str = DEFAULT_RULE,
    c: float = 12,
) -> Estimate:
    """The optimal depth for a number of parameters, or for a width; see :func:`optimal_width`.

    Examples
    --------
    >>> round(float(optimal_depth(parameters="1T")), 3)
    94.747
    >>> round(float(optimal_depth(width=768)), 4)
    28.9151
    """
    return _estimate(parameters, width, rule, c, given="width", sought=0)


def _estimate(parameters: Any, fixed: Any, rule: str, c: float, given: str, sought: int) -> Estimate:
    name = ("optimal_depth", "optimal_width")[sought]
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
        return None if found is None else found[sought]

    c = float(parse_count(c, "c"))
    value = at(chosen.curve(c))
    if value is None:
        raise InputError(f"{name}: {rule} has no shape of {given if parameters is None else 'parameters'} {amount:g}")
    moved = [value, *filter(None, map(at, chosen.variants(c).values()))]
    every = [v for r in rules(chosen.images).values() if not r.comparison and (v := at(r.curve(c))) is not None]
    counted = "" if parameters is None else f"{format_count(amount)} without the embedding, as c L d^2"
    return Estimate(value, min(moved), max(moved), (min(every), max(every)), rule, chosen.kind, chosen.error, counted)
