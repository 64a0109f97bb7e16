"""From a budget to a shape: the optimum of each rule, the rounding that hardware needs, and the cost of alternatives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from ..architecture import Transformer
from ..display import Overview, with_overview
from ..errors import InputError
from ..quantities import format_bytes, format_count, numbered, plain_number
from ..values import frozen_fields
from . import policy
from .budget import Budget
from .caveats import EXPERTS_CAVEAT, measured_cost, penalty_caveats, penalty_error, shape_caveats
from .continuous import meet_at_depth
from .costs import costs
from .equal_budget import DepthRange
from .judging import Shape
from .known_models import comparable_models, family_of
from .limits import Limits
from .requests import Request, read_request
from .rules import Rule, default_rule, find_rule, meet, rules
from .search import Search
from .template import Template

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    import pandas

    from .best_depth import BestDepth
    from .counting import Counts
    from .mixtures import MixtureVerdict
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
    """True if the range across rules leaves it out."""
    loss_penalty_stderr: float | None = None
    """Standard error of the loss penalty, as :attr:`~depthwidth.planning.search.Shape.loss_penalty_stderr`."""


class Band(NamedTuple):
    """An interval of depths and widths."""

    depth: tuple[float, float]
    width: tuple[float, float]
    over: str
    """The cause of the variation: a coefficient error, or the choice of rule."""


class KnownShape(NamedTuple):
    """A published model, for comparison with a plan."""

    name: str
    shape: Shape
    tree: Transformer
    source: str


@with_overview
@frozen_fields
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
    limits: Limits
    architecture: str
    """The name of the preset, or words on where the architecture is from."""
    counts: Counts
    """Counts of the template's shapes, as the search has sampled them."""
    best_depth: float
    """The continuous depth of least predicted loss at exactly this budget."""
    ranges: tuple[DepthRange, ...]
    """Depths at which little of the loss is lost, from the widest range to the narrowest."""
    least_loss: Shape | None
    """The shape of least predicted loss within the limits, if it is another; None otherwise."""
    without_limits: Shape | None
    """The shape without the caller's limits, if there are some; None otherwise."""
    known: tuple[KnownShape, ...]
    """Published models of about this size, nearest first."""
    source: Mapping[str, Any] | None = None
    """Fields of the configuration whose architecture the plan keeps; None without one."""

    @cached_property
    def tree(self) -> Transformer:
        """The recommended transformer."""
        return self.template.at(self.shape.depth, self.shape.width)

    @property
    def headline(self) -> str:
        """Depth and width, as in ``95 layers x 29,696 wide``."""
        encoder = self.tree.encoder.depth if self.tree.kind == "encoder-decoder" and self.tree.encoder else 0
        layers = (
            f"{encoder} + {self.shape.depth} layers (encoder + decoder)" if encoder else numbered(self.shape.depth, "layer")
        )
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
        from ..hardware.latency import GUESSES

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
            "limits": {name: value for name, value in asdict(self.limits).items() if value is not None},
            "best_depth": self.best_depth,
            "ranges": [one._asdict() for one in self.ranges],
            "best_depth_bands": [one._asdict() for one in self.best_depths],
            "least_loss": None if self.least_loss is None else shape_dict(self.least_loss),
            "without_limits": None if self.without_limits is None else shape_dict(self.without_limits),
            "known_models": [{"model": one.name, **shape_dict(one.shape), "source": one.source} for one in self.known],
            "mixture": [verdict.to_dict() for verdict in self.mixture],
            **costs(self.tree, self.budget)._asdict(),
            "guesses": dict(GUESSES),
            "devices": self.devices,
        }

    def rows(self) -> list[dict[str, Any]]:
        """The recommended shape, the runners-up and the known models, one row each, by depth, with their costs."""
        labelled = [("recommended", self.shape), *(("runner-up", shape) for shape in self.runners_up)]
        for label, shape in (("gpt3-like", self.gpt3_like), ("without limits", self.without_limits)):
            labelled += [] if shape is None else [(label, shape)]
        return self._rows(labelled)

    def _rows(self, labelled: Iterable[tuple[str, Shape]]) -> list[dict[str, Any]]:
        """Rows of shapes of this architecture and of the known models, by depth."""
        trees = [(label, shape, self.template_at(shape)) for label, shape in labelled]
        trees += [(one.name, one.shape, one.tree) for one in self.known]
        return [
            {"choice": label, **shape_dict(shape), **costs(tree, self.budget)._asdict()}
            for label, shape, tree in sorted(trees, key=lambda row: row[1].depth)
        ]

    def template_at(self, shape: Shape) -> Transformer:
        """The tree of a shape of this plan's architecture, with the shape's own head dimension."""
        template, head_dim = self.template, shape.head_dim
        if template.heads is None and head_dim not in (0, template.head_dim_at(shape.width)):
            template = replace(template, head_dim=head_dim)
        return template.at(shape.depth, shape.width)

    @cached_property
    def mixture(self) -> tuple[MixtureVerdict, ...]:
        """The dense model that the suggested mixture of experts is worth, by each law; empty for a dense model."""
        if self.tree.experts is None:
            return ()
        from .mixtures import mixture_verdicts

        return mixture_verdicts(self.tree, self.tokens)

    @property
    def devices(self) -> int:
        """Devices among which the model is divided."""
        return self.budget.parallelism.devices

    @cached_property
    def best_depths(self) -> tuple[BestDepth, ...]:
        """The 50 % and 90 % bands of the best depth by all sources of evidence; empty for images."""
        if self.rule.images or self.tree.stem.images:
            return ()
        from .best_depth import best_depths

        return tuple(best_depths(self.counts, self.shape))

    def table(self) -> list[dict[str, Any]]:
        """Five to seven shapes as rows, by depth: the suggestion, wider and deeper shapes, known models of that size.

        If there are limits, the shape without them is among the rows.
        """
        free = self.without_limits
        kept = {(self.shape.depth, self.shape.width): ("suggested", self.shape)}
        if free is not None:
            kept.setdefault((free.depth, free.width), ("without limits", free))
        for share in policy.TABLE_DEPTHS if free is None else policy.TABLE_DEPTHS[1:]:
            wanted = math.log(share * self.shape.depth)
            left = [(abs(math.log(one.depth) - wanted), one) for one in self.runners_up if (one.depth, one.width) not in kept]
            if left:
                nearest = min(left)[1]
                kept[nearest.depth, nearest.width] = "deeper" if nearest.depth > self.shape.depth else "wider", nearest
        return self._rows(kept.values())

    def equal_budget_curve(self, points: int = 200) -> list[tuple[float, float]]:
        """Continuous (depth, width) of shapes that use the budget exactly, from a fifth of the depth to five times it."""
        quantity = self.budget.quantity(self.template)
        amount = float(self.budget.amount)
        found = []
        for i in range(points):
            depth = self.shape.depth * 5 ** (2 * i / (points - 1) - 1)
            shape = meet_at_depth(depth, quantity, amount)
            if shape is not None:
                found.append(shape)
        return found

    def rule_curve(self, name: str, points: int = 60) -> list[tuple[float, float]]:
        """Continuous (depth, width) along a rule's curve, for budgets from a thirtieth to thirty times this one."""
        quantity = self.budget.quantity(self.template)
        curve = find_rule(name).curve(float(self.template.polynomial(lambda tree: tree.trained_size).per_block[2]))
        amounts = (float(self.budget.amount) * 30 ** (2 * i / (points - 1) - 1) for i in range(points))
        return [shape for amount in amounts if (shape := meet(curve, quantity, amount)) is not None]

    def overview(self) -> Overview:
        """The range of depths, the suggestion, its reasons, the assumptions, and the table."""
        from .wording import plan_overview

        return plan_overview(self)

    def save(self, path: str | PathLike[str], scheme: str = "shipped") -> tuple[Path, Path]:
        """Write a configuration that transformers loads, and the recipe of a scheme next to it; both paths.

        Of a plan like a configuration, fields that do not concern the shape are kept.

        Raises what :func:`~depthwidth.planning.saving.save_model` raises.
        """
        from .saving import save_model

        return save_model(self.tree, self.architecture, path, scheme, self.source)

    def frame(self) -> pandas.DataFrame:
        """:meth:`rows` as a data frame."""
        import pandas

        return pandas.DataFrame(self.rows())


def shape_dict(shape: Shape) -> dict[str, Any]:
    """A shape as plain data."""
    return {**shape._asdict(), "amount": plain_number(shape.amount)}


def plan(
    budget: Budget | str | float | None = None,
    *,
    rule: str | None = None,
    kind: str = "parameters",
    template: Template | None = None,
    preset: str | None = None,
    like: Any = None,
    **options: Any,
) -> Plan:
    """The transformer to build with a budget.

    Parameters
    ----------
    budget : a :class:`Budget`, or an amount such as ``1T``, ``1.3B``, ``6.7e9``, or ``80GB`` for bytes.
    rule : the rule whose curve decides between depth and width; one of :func:`~depthwidth.planning.rules.rules`, by default
        ``levine2020`` for text and ``sovit2023`` for images. If the default has no shape at a budget for text, as at a few
        million parameters, ``combined2026`` decides, and a note says so.
    kind : the quantity that the amount counts, one of :data:`~depthwidth.planning.budget.BUDGETS`; ``parameters`` by default.
    template : the architecture without its shape.
    preset : the name of an architecture, instead of a template; ``gpt3`` by default.
    like : a Hugging Face configuration whose architecture to keep: a file, a folder, a mapping, or the library's own object.
    options : the budget by its kind (``flops=1e22``); ``depth``, ``width`` and ``layers_at_most``, which limit the shape
        (:class:`~depthwidth.planning.limits.Limits`); the fields of :class:`Budget`; and, unless a template is given,
        ``heads``, ``head_dim``, ``ffn_ratio``, ``tensor_parallel``, ``pipeline``, ``multiple``, ``vocab_multiple`` and choices
        of :class:`~depthwidth.architecture.design.Design` (``vocab``, ``context``, ``kv_heads``, ...), whose ``kind`` is
        called ``stacks`` here. A depth and a width together are a shape, whose own count is then the budget.

    Returns
    -------
    A :class:`Plan`: the recommended shape of whole numbers, the optimum of every rule, two separate bands (across rules, and
    from the coefficient error of the chosen rule), and runners-up of equal budget.

    Raises
    ------
    InputError
        if the budget is not a positive amount, is too small for any transformer of this design, a name is unknown, or the rule
        that was named has no shape at the budget.

    Examples
    --------
    >>> best = plan("1T").shape
    >>> best.depth, best.width
    (95, 29696)
    >>> plan("7B", preset="llama3", tensor_parallel=8).shape.heads % 8
    0
    >>> plan(flops=1e22).budget.kind
    'flops'
    """
    request = read_request(budget, kind, template, preset, like, options)
    if rule is not None:
        return _Planner(request, find_rule(rule)).plan()
    default = default_rule(images=request.template.design.patch is not None)
    try:
        planner = _Planner(request, default)
        if default.images or planner.search.optimum()[0] >= 1:  # less than one layer is no shape to follow
            return planner.plan()
    except _NoShapeError:
        if default.images:
            raise
    return _Planner(request, find_rule(policy.FALLBACK_RULE), instead_of=default).plan()


class _NoShapeError(InputError):
    """The curve of a rule does not meet the budget."""


class _Planner:
    """Everything that a plan reports for one request and one rule."""

    def __init__(self, request: Request, rule: Rule, instead_of: Rule | None = None) -> None:
        images = request.template.design.patch is not None
        if images != rule.images and not rule.comparison:
            known = ", ".join(rules(images))
            what = "images, which this design does not read" if rule.images else "text, but this design reads images"
            raise InputError(f"the rule {rule.name!r} is for {what}; known are {known}")
        self.request = request
        self.budget = request.budget
        self.rule = rule
        self.rules = rules(images) | {rule.name: rule}  # GPT-3's shapes may be asked for, for images too
        self.instead_of = instead_of
        self.search = Search(request.budget, rule, request.template, request.limits)
        if not self.search.judged:
            raise _NoShapeError(self.no_shape())

    def no_shape(self) -> str:
        """The sentence for a rule whose curve does not meet the budget."""
        search = self.search
        others = [name for name, rule in self.rules.items() if not rule.comparison and search.shape_by(rule) is not None]
        having = f"; {', '.join(others)} have one" if len(others) > 1 else ""
        why = "its curve begins above it or ends below it"
        return f"plan: the rule {self.rule.name} has no shape at {self.budget}, as {why}{having}"

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
        least = search.least_loss()
        differs = least is not None and (least.depth, least.width) != (shape.depth, shape.width)
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
            limits=self.request.limits,
            architecture=self.request.architecture,
            counts=search,
            best_depth=search.level.best_depth,
            ranges=tuple(self.ranges()),
            least_loss=search.measure(least, against=shape) if least is not None and differs else None,
            without_limits=self.without_limits(shape),
            known=tuple(self.known(shape)),
            source=self.request.source,
        )

    def ranges(self) -> Iterator[DepthRange]:
        """Depths at which little of the loss is lost, whatever the caller's limits."""
        search = self.search
        for loss in policy.NEGLIGIBLE_LOSSES:
            found = search.level.range_of(loss, search.template.least_depth, policy.DEEPEST)
            if found is not None:
                yield found

    def without_limits(self, shape: Shape) -> Shape | None:
        """The shape without the caller's limits; None if there are none."""
        if not self.request.limits.any:
            return None
        free = Search(self.budget, self.rule, self.request.template)
        return free.measure(free.recommend(), against=shape)

    def known(self, shape: Shape) -> Iterator[KnownShape]:
        """Published models of about this size; the first two differ in depth."""
        design = self.request.template.design
        if design.patch is not None or design.kind != "decoder":
            return
        family = family_of(self.request.architecture)
        depths: list[int] = []
        for one in comparable_models(shape.parameters, experts=design.experts is not None, family=family):
            if len(depths) == policy.KNOWN_MODELS or one.depth in depths:
                continue
            tree = one.tree(design.context)
            try:
                measured = self.search.measure_other(tree, against=shape)
            except InputError:  # it has no such context
                continue
            depths.append(one.depth)
            yield KnownShape(one.name, measured, tree, one.source)

    def rule_shape(self, rule: Rule) -> RuleShape | None:
        """The optimum of one rule at the budget; None if its curve does not meet it."""
        search = self.search
        found = search.shape_by(rule)
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
            loss_penalty=None if own else search.penalty(found[1], size),
            loss_penalty_stderr=None if best is None else penalty_error(found[1], best, size),
            extrapolated=rule.extrapolates(*found, size),
            comparison=not rule.independent,
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
        """Shapes of other depths for the same budget; with other head dimensions if the usual one leaves few."""
        depths, search = [shape.depth], self.search.without_limits()
        yield from self._runners_up(search, shape, depths)
        if self.request.template.head_dim is None and self.request.template.heads is None and shape.head_dim:
            for head_dim in policy.head_dims_by_distance(shape.head_dim):
                if len(depths) > policy.FEW_RUNNERS_UP:
                    return
                with suppress(InputError):  # no width holds such heads
                    yield from self._runners_up(search.with_head_dim(head_dim), shape, depths)

    @staticmethod
    def _runners_up(search: Search, shape: Shape, depths: list[int]) -> Iterator[Shape]:
        """Shapes of other depths with one head dimension; theirs are added to `depths`."""
        for share in policy.RUNNER_UP_DEPTHS:
            found = search.cheapest(search.shapes_of_depth(max(1, share * shape.depth)), policy.RUNNER_UP_SHORTLIST)
            if found is None or any(abs(math.log(found[1].depth / depth)) < policy.DISTINCT_DEPTHS for depth in depths):
                continue
            other = search.measure(found[1], against=shape)
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
        devices = self.budget.parallelism.devices
        if self.budget.kind == "memory" and devices > 1:
            yield f"the budget is that of each of {devices} devices ({self.budget.parallelism})"
        elif self.budget.kind == "weights" and devices > 1:
            yield f"the budget is that of all weights, on {devices} devices together"
        if self.instead_of is not None:
            yield f"{self.instead_of.name}, the default, has no shape at this budget; {self.rule.name} is used instead"
        own = found[self.rule.name]
        if own is None:
            raise AssertionError("a rule without a shape is refused")
        if own.extrapolated:
            ranges = " and ".join(f"{name} {low:g} to {high:g}" for name, low, high in self.rule.fitted_on)
            yield f"{self.rule.name} was fitted on {ranges}; this shape is outside that range"
        best = self.search.centre
        if abs(math.log(shape.depth / best[0])) > policy.MOVED:
            yield (
                "heads and hardware allow few widths here; the best shape before rounding is "
                f"{best[0]:.1f} layers x {best[1]:,.0f} wide"
            )
        yield from measured_cost(self.rule.name, shape.trained_size)
        absent = [name for name, optimum in found.items() if optimum is None and name != self.rule.name]
        if absent:
            curves, reach = ("curve", "does") if len(absent) == 1 else ("curves", "do")
            yield f"the {curves} of {' and '.join(absent)} {reach} not reach this budget"
        if tree.experts is not None:
            yield EXPERTS_CAVEAT
        widths = [s.width for s in (shape, *others)] + [s.width for s in found.values() if s is not None]
        yield from penalty_caveats(tree, shape.trained_size, [width / own.width for width in widths])
        yield from shape_caveats(tree)


def _band(shapes: list[tuple[float, float]], over: str) -> Band | None:
    if len(shapes) < 2:
        return None
    depths, widths = zip(*shapes, strict=True)
    return Band((min(depths), max(depths)), (min(widths), max(widths)), over)
