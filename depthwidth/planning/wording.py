"""The sentences of a plan: the range that costs little, the suggestion, its reasons, the assumptions, and every source."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..coefficients import coefficient
from ..display import Overview
from ..formulas import shape_penalty
from ..hardware.latency import BRANCH_SECONDS, CALL_SECONDS
from ..quantities import format_count, numbered
from . import combined, policy
from .budget import TOKENS_PER_PARAMETER
from .costs import DEVICE

if TYPE_CHECKING:
    from .judging import Shape

    Plan = Any  # a Plan, whose own file imports this one

SMALLEST_SAID = 5e-7
"""Relative loss below which two shapes are called equal: it would be printed as 0.0000 %."""
LEAST_SAID = 5e-4
"""Relative loss below which the lower end of a band is not said: it would be printed as 0.0 %."""
SHIFTED = 0.05
"""In ln(depth): a rule's own optimum that is further from the best depth at equal budget is mentioned."""
EDGE = 0.98
"""Share of the farthest ln(depth) that is sought from which the best depth counts as one that was cut off."""


def range_words(plan: Plan) -> str:
    """The depths that cost little, as in ``28 to 113 layers lose less than 0.4% +- 0.18%, for 7B ...``."""
    sentences: list[str] = []
    for found in () if cut_off(plan) else plan.ranges:
        low, high = math.ceil(found.depth[0]), math.floor(found.depth[1])
        if low > high:
            continue
        at = f"{low} to {high}" if high > low else f"{low}"
        layers = "" if sentences else " layer loses" if low == high == 1 else " layers lose"
        sentences.append(f"{at}{layers} less than {found.loss * 100:g}% +- {max(found.stderr):.2%}")
    if not sentences:
        return f"{plan.headline}, for {plan.budget}."
    return f"{', '.join(sentences)}, for {plan.budget}."


def sureness(plan: Plan) -> Iterator[str]:
    """The bands of the best depth over all sources, those of the suggestion's loss against it, and the record of such bands."""
    if not plan.best_depths:
        return
    bands, name = plan.best_depths, combined.LAW
    far = bands[-1].extrapolated
    depths = ", ".join(
        f"{max(1, round(low))} to {round(high):,}{' layers' if level == bands[0].level else ''} ({level:.0%})"
        for level, (low, high), *_ in bands
    )
    least, most = (math.exp(coefficient("shape_penalty", end).value) for end in ("x_min", "x_max"))
    measured = all(least <= plan.shape.width / width <= most for width in bands[-1].width)
    losses = ", ".join(f"{loss_range(*band.loss)} ({band.level:.0%})" for band in bands)
    beyond = ", beyond their sizes, so including every rule" if far else ""
    yield (
        f"How sure: best depth {depths}, over all sources ({name}{beyond}); "
        f"the suggestion loses {losses}{'' if measured else ' (extrapolated)'}."
    )
    if not far:
        yield f"(with each source left out in turn, such bands held {combined.calibration_words()})"


def loss_range(low: float, high: float) -> str:
    """A band of a relative loss, as in ``up to 0.5%`` or ``3.2% to 6.7%``."""
    return f"{low:.1%} to {high:.1%}" if low >= LEAST_SAID else f"up to {high:.1%}"


def cut_off(plan: Plan) -> bool:
    """True if the loss still falls at the depth at which the search for the best one ends."""
    own = plan.rules.get(plan.rule.name)
    return own is not None and abs(math.log(plan.best_depth / own.depth)) > EDGE * math.log(policy.FARTHEST_DEPTH)


def suggestion(plan: Plan) -> str:
    """The suggested shape in one line."""
    shape = plan.shape
    parts = [plan.headline]
    if shape.heads:
        shared = f" ({shape.kv_heads} key-value heads)" if shape.kv_heads != shape.heads else ""
        parts.append(f"{numbered(shape.heads, 'head')} of {shape.head_dim}{shared}")
    if shape.ffn:
        mixed = plan.tree.experts
        parts.append(f"feed-forward {shape.ffn:,}" + (f", {mixed.experts} experts, {mixed.top_k} per token" if mixed else ""))
    parts.append(f"{format_count(shape.parameters, 4)} parameters")
    return f"{', '.join(parts)}, {abs(shape.budget_miss):.2%} {'below' if shape.budget_miss < 0 else 'above'} the budget"


def reasons(plan: Plan) -> Iterator[str]:
    """Reasons for the suggested shape, one sentence each."""
    shape, rule = plan.shape, plan.rule.name
    better = _better(plan)
    if better is None:
        heads = f" with heads of {shape.head_dim}" if shape.heads and plan.template.heads is None else ""
        yield f"Picked for the least predicted loss ({rule}) of the shapes{heads} that meet the budget."
    else:
        gain = f"{-better.loss_at_budget:.4%}"
        yield (
            f"Picked although {better.depth} x {better.width:,} has {gain} less predicted loss ({rule}): "
            f"{_against(plan, better, shape)}."
        )
    free = plan.without_limits
    if free is not None:
        same = (free.depth, free.width) == (shape.depth, shape.width)
        less = f"{-free.loss_at_budget:z.2%} +- {free.loss_at_budget_stderr:.2%}"
        cost = "they cost nothing" if same else f"without them {free.depth} x {free.width:,} loses {less} less"
        yield f"Limits: {plan.limits.words()}; {cost}."
    own = plan.rules.get(rule)
    if own is not None and abs(math.log(plan.best_depth / own.depth)) > SHIFTED:
        spent = (
            "a wider shape spends more on its embedding"
            if plan.best_depth > own.depth
            else "a deeper shape spends more outside the weights of its blocks"
        )
        yield (
            f"The {rule} curve has {own.depth:.1f} layers here, and compares blocks of equal size; at an equal budget "
            f"{plan.best_depth:.1f} layers are best, as {spent}."
        )
        if cut_off(plan):
            share = plan.tree.embedding_parameters / plan.tree.parameters
            yield (
                f"The loss still falls there, {policy.FARTHEST_DEPTH:g} times from the curve, where the search ends: "
                f"{share:.0%} of the parameters are the embedding, and a smaller vocabulary matters more than any rule."
            )


def _better(plan: Plan) -> Shape | None:
    """The shape within the limits whose predicted loss at equal budget is lower; None if there is none."""
    limits, stages = plan.limits, plan.template.pipeline
    allowed = [
        one
        for one in plan.runners_up
        if (one.depth == limits.depth or limits.depth is None)
        and (one.width == limits.width or limits.width is None)
        and limits.within(one.depth, stages) == one.depth
    ]
    found = min([*allowed, *filter(None, [plan.least_loss])], key=lambda one: one.loss_at_budget, default=None)
    return found if found is not None and found.loss_at_budget < -SMALLEST_SAID else None


def _beyond(shape: Shape, plan: Plan) -> bool:
    """True for a depth that is further from that of the rule's curve than the best depth is sought."""
    own = plan.rules.get(plan.rule.name)
    return own is not None and abs(math.log(shape.depth / own.depth)) > math.log(policy.FARTHEST_DEPTH)


def _against(plan: Plan, better: Shape, shape: Shape) -> str:
    """The reason against a shape of lower predicted loss."""
    even = -better.loss_at_budget < policy.missing_factors(1) * policy.UNEVEN_HEADS
    if better.heads and even and policy.missing_factors(better.heads) > policy.missing_factors(shape.heads or 1):
        return f"its {better.heads} heads divide among fewer devices"
    if abs(better.budget_miss) > max(policy.FREE_MISS, abs(shape.budget_miss)):
        return f"it is {abs(better.budget_miss):.1%} {'below' if better.budget_miss < 0 else 'above'} the budget"
    own = plan.rules.get(plan.rule.name)
    if own is not None and _beyond(better, plan) and abs(math.log(better.depth / shape.depth)) > policy.MOVED:
        return (
            f"it has {better.depth / own.depth:,.3g} times the layers of the {plan.rule.name} curve, where its loss is a guess"
        )
    if better.head_dim != shape.head_dim:
        return f"it has heads of {better.head_dim}"
    return "the difference is less than the search resolves"


def assumptions(plan: Plan) -> str:
    """The assumptions in one line."""
    tree, budget = plan.tree, plan.budget
    parts = [f"{plan.architecture} architecture"]
    if tree.stem.images:
        parts.append("images")
    else:
        parts.append(f"context {tree.context:,}")
        parts.append(f"vocabulary {tree.vocab:,}")
    by = "" if budget.tokens is not None else f" ({budget.tokens_per_parameter:g} a parameter)"
    parts.append(f"{format_count(plan.tokens)} training tokens{by}")
    parts.append(f"{budget.dtype} with {'Adam' if budget.optimizer == 'adamw' else budget.optimizer}")
    parts.append(f"batches of {budget.batch}")
    divided = f" ({plan.budget.parallelism})" if plan.devices > 1 else ""
    parts.append(f"{plan.devices} device{'s' if plan.devices > 1 else ''}{divided}")
    return ", ".join(parts)


def heads_words(row: Mapping[str, Any]) -> str:
    """Heads as in ``24/8 x 128``: query heads, key-value heads if they are fewer, head dimension."""
    shared = f"/{row['kv_heads']}" if row["kv_heads"] != row["heads"] else ""
    return f"{row['heads']}{shared} x {row['head_dim']}" if row["heads"] else "-"


def loss_words(row: Mapping[str, Any]) -> str:
    """The loss of a row against the suggestion with its error; 0 for the suggestion."""
    return "0" if row["choice"] == "suggested" else f"{row['loss_at_budget']:+.2%} +- {row['loss_at_budget_stderr']:.2%}"


def plan_overview(plan: Plan) -> Overview:
    """A plan at a prompt or in a notebook."""
    facts = {"suggested": suggestion(plan), "why": " ".join(reasons(plan))}
    facts |= {"how sure": " ".join(sureness(plan)).removeprefix("How sure: ")} if plan.best_depths else {}
    facts |= {"assumed": assumptions(plan)}
    rows = [
        (
            row["choice"], str(row["depth"]), f"{row['width']:,}", heads_words(row), format_count(row["parameters"], 4),
            loss_words(row),
        )
        for row in plan.table()
    ]  # fmt: skip
    columns = ("shape", "layers", "width", "heads", "parameters", "loss")
    return Overview(range_words(plan).rstrip("."), facts, columns, rows, whole=".frame()")


def explanations(plan: Plan) -> dict[str, str]:
    """From each kind of number to its origin."""
    k = coefficient("shape_penalty", "k")
    exponent = float(shape_penalty.loss_exponent(plan.shape.trained_size))
    found = {
        "curve of best shapes": f"{plan.rule.name} ({plan.rule.kind}): {plan.rule.source}",
        "loss of a shape": f"{k.value:g} +- {k.stderr:g} times the squared ln of width over best width; {k.source}",
        "loss of a size": f"exponent {exponent:.3f} in parameters without the embedding, at this size; the same source",
        "equal budget": "a shape that misses the budget is judged as though its depth were changed to meet it",
        "standard error": "from the curvature, optimum and exponent that all shapes share; not that of the rule itself",
        "parameters, FLOPs": "counted tensor by tensor and product by product; docs/counting.md has the conventions",
        "training memory": "of the fullest device: weights, gradients, states of the optimiser, activations; temporary buffers "
        "and fragmentation are left out; docs/memory_and_serving.md",
        "best depth (how sure)": f"{combined.LAW}, whose error includes the spread between sources; docs/evidence.md",
        "time per token": f"a roofline of one step of generation on {DEVICE}s, relative to the suggestion, plus "
        f"{BRANCH_SECONDS * 1e6:g} us a branch and {CALL_SECONDS * 1e6:g} us a call, which are guesses; the same page",
        "cache": "keys and values (or a mixer's state) of the context, over its tokens",
        "training tokens": f"given; {TOKENS_PER_PARAMETER:g} a parameter by default (Hoffmann et al. 2022, arXiv 2203.15556)",
        "widths": "multiples of 128 (finer below 1,024) with a whole number of heads; policy.py gives a reason for each number",
    }
    found |= {one.name: one.source for one in plan.known}
    return found | _memory_words(plan)


def _memory_words(plan: Plan) -> dict[str, str]:
    """The content of a budget in bytes."""
    words = {"memory": "of each device", "weights": "of all weights, on all devices together"}
    return {"budget": words[plan.budget.kind]} if plan.budget.in_bytes else {}
