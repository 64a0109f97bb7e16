"""Value of alternating updates: the cost of a K-fold wider representation, and the dense model of equal cost.

Costs are exact counts. The loss of dense models is predicted by the plan's rule and the measured penalty of shapes. No law
predicts the loss with AltUp, so the comparison states the gain that it needs, and lists the measurements of its authors and by
others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..architecture import Transformer
from ..architecture.design import ALTUP_FORMS
from ..coefficients import reference
from ..errors import InputError
from ..formulas import shape_penalty
from .caveats import loss_change_error
from .plan import Plan
from .rules import at_depth, meet
from .search import Search

QUANTITIES = ("parameters", "training FLOPs per token", "training memory")
"""The quantities in which a dense model may equal one with AltUp."""


class Cost(NamedTuple):
    """The exact counts of one form: the dense shape, or AltUp on it."""

    form: str
    parameters: int
    flops_per_token: float
    """Of training"""
    memory: int
    """Bytes of training memory for one sequence in bf16"""
    stream_bytes: int
    """Bytes of the residual stream in bf16, for one token"""

    def over(self, dense: Cost) -> dict[str, float]:
        """Relative excess over the dense shape, by quantity."""
        pairs = zip(QUANTITIES, self[1:4], dense[1:4], strict=True)
        return {name: float(own / other - 1) for name, own, other in pairs}


class Rival(NamedTuple):
    """A dense model of the same cost, before any rounding of its depth and width."""

    form: str
    equal_in: str
    """One of :data:`QUANTITIES`."""
    direction: str
    """``wider`` or ``deeper``"""
    depth: float
    width: float
    loss_change: float
    """Predicted relative loss, compared with the dense shape of the plan."""
    loss_change_stderr: float
    """Its standard error, if the rule is right."""


class Evidence(NamedTuple):
    """One measurement of AltUp against its dense model, in the units of its source."""

    setting: str
    metric: str
    baseline: float | None
    altup: float | None
    gain: float
    """The improvement; negative if AltUp is worse."""
    status: str
    source: str


@dataclass(frozen=True)
class AltUpBuy:
    """The answer of ``depthwidth plan --altup``."""

    streams: int
    costs: tuple[Cost, ...]
    table_share: float
    """Share of the full form's added parameters that are its wider embedding and output matrix"""
    rivals: tuple[Rival, ...]
    evidence: tuple[Evidence, ...]

    @property
    def dense(self) -> Cost:
        """The plan's shape itself."""
        return self.costs[0]

    def _best(self, form: str, equal_in: str) -> Rival | None:
        rivals = (rival for rival in self.rivals if (rival.form, rival.equal_in) == (form, equal_in))
        return min(rivals, key=lambda rival: rival.loss_change, default=None)

    def needed_gain(self, form: str, equal_in: str) -> float:
        """Relative loss by which the better dense model of equal cost beats the plan's shape: AltUp must gain as much."""
        best = self._best(form, equal_in)
        return 0.0 if best is None else max(0.0, -best.loss_change)

    def needed_gain_stderr(self, form: str, equal_in: str) -> float:
        """The standard error of that dense model's loss; 0 if there is none."""
        best = self._best(form, equal_in)
        return 0.0 if best is None else best.loss_change_stderr

    def loss_gains(self) -> dict[str, float]:
        """By training and metric, the measured gain as a share of the dense model's loss: the unit of :meth:`needed_gain`.

        A perplexity counts by its logarithm. Trainings without a loss, as T5's with its accuracies, are left out.
        """
        found = {}
        for one in self.evidence:
            if one.baseline is None or one.altup is None or "AltUp" not in one.setting:
                continue
            if "loss" in one.metric:
                found[f"{one.setting}: {one.metric}"] = one.gain / one.baseline
            elif one.metric == "val ppl":
                found[f"{one.setting}: {one.metric}"] = 1 - math.log(one.altup) / math.log(one.baseline)
        return found

    def verdict(self) -> str:
        """A sentence on the evidence that AltUp is worth its cost."""
        gains = self.loss_gains().values()
        needed = [self.needed_gain("full", name) for name in QUANTITIES]
        reached = sum(gain >= min(needed) for gain in gains)
        shown = "none of them gained as much" if not reached else f"{reached} of {len(gains)} gained as much"
        measured, wanted = (f"{min(each):+.2%} to {max(each):+.2%}" for each in (gains, needed))
        return (
            f"How sure: compared with dense models, trainings with AltUp gained {measured} of the loss, and the full form "
            f"needs {wanted}; {shown}. T5 reports accuracies, which are not losses."
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "streams": self.streams,
            "costs": [{**cost._asdict(), "flops_per_token": float(cost.flops_per_token)} for cost in self.costs],
            "table_share": self.table_share,
            "rivals": [rival._asdict() for rival in self.rivals],
            "needed_gain": {form: {name: self.needed_gain(form, name) for name in QUANTITIES} for form in ALTUP_FORMS},
            "needed_gain_stderr": {
                form: {name: self.needed_gain_stderr(form, name) for name in QUANTITIES} for form in ALTUP_FORMS
            },
            "evidence": [one._asdict() for one in self.evidence],
            "loss_gains": self.loss_gains(),
        }


def altup_buy(plan: Plan, streams: int) -> AltUpBuy:
    """Compare AltUp on a plan's shape with dense models of its cost.

    Parameters
    ----------
    plan : a plan of a dense model.
    streams : K, the expansion.

    Raises
    ------
    InputError
        if K is not a whole number from 2, or the plan's model has alternating updates already.
    """
    design, shape = plan.template.design, plan.shape
    if design.altup is not None:
        raise InputError("plan: the model has alternating updates already")
    templates = {form: replace(plan.template, design=replace(design, altup=streams, altup_form=form)) for form in ALTUP_FORMS}
    dense = _cost("dense", plan.tree)
    trees = {form: template.at(shape.depth, shape.width) for form, template in templates.items()}
    costs = [_cost(form, tree) for form, tree in trees.items()]
    tables = trees["full"].embedding_parameters - plan.tree.embedding_parameters
    rivals = [rival for cost in costs for rival in _rivals(plan, cost, dense)]
    share = tables / (trees["full"].parameters - plan.tree.parameters)
    return AltUpBuy(streams, (dense, *costs), share, tuple(rivals), tuple(evidence()))


def _cost(form: str, tree: Transformer) -> Cost:
    streams = tree.stack.streams
    return Cost(form, tree.parameters, float(_flops(tree)), int(_memory(tree)), 2 * streams * tree.width)


def _flops(tree: Transformer) -> Any:
    return tree.flops_per_token(training=True)


def _memory(tree: Transformer) -> Any:
    return tree.training_memory().total


def _parameters(tree: Transformer) -> int:
    return tree.parameters


_COUNTS: dict[str, Callable[[Transformer], Any]] = dict(zip(QUANTITIES, (_parameters, _flops, _memory), strict=True))


def _rivals(plan: Plan, cost: Cost, dense: Cost) -> Iterator[Rival]:
    """The wider and the deeper dense model of each equal quantity."""
    search, depth, width = Search(plan.budget, plan.rule, plan.template), plan.shape.depth, plan.shape.width
    for name, amount, own in zip(QUANTITIES, cost[1:4], dense[1:4], strict=True):
        quantity = plan.template.polynomial(_COUNTS[name]).continuous()
        # Rounded feed-forward widths put a shape off its polynomial; the ratio of the amounts is kept.
        asked = quantity(depth, width) * float(amount) / float(own)
        for direction, curve in (("wider", at_depth(depth)), ("deeper", lambda other: (other, float(width)))):
            found = meet(curve, quantity, asked)
            if found is not None:
                own_shape = (depth, width)
                error = loss_change_error(_place_shape(search, own_shape), _place_shape(search, found))
                yield Rival(cost.form, name, direction, *found, _loss_change(search, own_shape, found), error)


def _place_shape(search: Search, shape: tuple[float, float]) -> tuple[float, float | None, float]:
    """Width, best width at its size, and size."""
    size = search.size(*shape)
    return shape[1], search.optimal_width(size), size


def _loss_change(search: Search, dense: tuple[float, float], other: tuple[float, float]) -> float:
    """Relative loss of another shape, as :meth:`.Search.measure` has it: the penalties and the difference in size."""
    before, after = search.size(*dense), search.size(*other)
    by_size = (after / before) ** float(shape_penalty.loss_exponent(after))
    return float((1 + search.penalty(other[1], after)) / (1 + search.penalty(dense[1], before)) * by_size - 1)


_SUITES = (
    ("pretrain_acc", "accuracy of predicted spans, %"),
    ("GLUE", "GLUE"),
    ("SuperGLUE", "SuperGLUE"),
    ("SQuAD_F1", "SQuAD F1"),
)


def evidence() -> Iterator[Evidence]:
    """The measurements: by the paper with T5, and by others, each with its status."""
    rows = reference("altup2023_t5_quality")
    baselines = {row["model"]: row for row in rows if row["streams"] == "1"}
    for row in rows:
        if row["streams"] == "1":
            continue
        for column, metric in _SUITES:
            before, after = float(baselines[row["model"]][column]), float(row[column])
            setting = f"{row['model']}, K = {row['streams']}"
            yield Evidence(
                setting, metric, before, after, after - before, row["status"], "Baykal et al. 2023, arXiv 2301.13310"
            )
    for row in reference("altup2023_replications"):
        sign = 1 if row["better"] == "higher" else -1
        dense, wide = (float(row[name]) if row[name] else None for name in ("baseline", "altup"))
        setting = f"{row['setting']}, {row['model']}"
        yield Evidence(setting, row["metric"], dense, wide, sign * float(row["delta"]), row["status"], row["source"])
