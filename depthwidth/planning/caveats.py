"""Caveats on a predicted loss penalty and a shape: limits of the measurements and of the rules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from ..architecture import Transformer
from ..coefficients import coefficient, reference
from ..formulas import shape_penalty
from ..quantities import format_count
from . import policy
from .rules import MEASURED_SIZES

EXPERTS_CAVEAT = "for a mixture of experts, the rules are compared at its active parameters, not at all parameters"


def penalty_caveats(tree: Transformer, size: float, width_ratios: Iterable[float]) -> Iterator[str]:
    """Sentences on the penalty of a tree of this size, and of shapes whose width relative to the optimum is given."""
    if tree.stem.images:
        yield "loss penalties were measured on language models; for images they are a guess"
    elif tree.kind != "decoder" or tree.experts is not None or "mixer" in tree.stack.branches:
        yield "loss penalties were measured on dense decoders with attention; for this kind of model they are a guess"
    low, high = MEASURED_SIZES
    if not low <= size <= high:
        sizes = f"{format_count(low)} to {format_count(high)} parameters"
        yield f"loss penalties were measured from {sizes}; here they are extrapolated"
    least, most = (coefficient("shape_penalty", name).value for name in ("x_min", "x_max"))
    if any(not least <= math.log(ratio) <= most for ratio in width_ratios):
        measured = f"{math.exp(least):.1f} to {math.exp(most):.1f} times the optimum"
        yield f"penalties of widths outside {measured} extrapolate the measured parabola"


def measured_cost(rule: str, size: float) -> Iterator[str]:
    """A sentence if the shapes of a rule lost more than a little on public runs of about this size.

    It names the rule that lost least of those that were not fitted to any of these runs.
    """
    low, high = MEASURED_SIZES
    if not low / policy.SAME_SIZE <= size <= high * policy.SAME_SIZE:
        return
    costs, fitted = _costs_beside(size)
    losses = [
        f"{with_error(cost, error)} at {format_count(judged)} parameters on {runs}"
        for runs, judged, cost, error in costs.get(rule, ())
        if cost > policy.MEASURED_COST
    ]
    if losses:
        mean = {name: sum(cell[2] for cell in each) / len(each) for name, each in costs.items() if name not in fitted}
        best = min(mean, key=lambda name: mean[name])
        less = f"; {best} lost {mean[best]:.2%}" if best != rule else ""
        yield f"shapes of {rule} lost {' and '.join(losses)} against the best shapes there{less} (`depthwidth evidence`)"


def _costs_beside(size: float) -> tuple[dict[str, list[tuple[str, float, float, float]]], set[str]]:
    """By rule, its mean cost and error in the cells of public runs nearest to a size, and the rules fitted to some of them."""
    cells: dict[tuple[str, str, float], list[tuple[float, float]]] = {}
    fitted: set[str] = set()
    for row in reference("rule_tournament"):
        if row["refitted"] != "0":
            fitted.add(row["rule"])
        elif row["parameters"] and row["width"]:  # others are head dimensions
            runs = "the Gadre grid" if row["data"] == "gadre" else "the Gemstones"
            found = cells.setdefault((row["rule"], runs, float(row["parameters"])), [])
            found.append((float(row["cost"]), float(row["stderr"])))
    nearest: dict[str, float] = {}
    for _, runs, judged in cells:
        nearest[runs] = min(nearest.get(runs, judged), judged, key=lambda one: abs(math.log(one / size)))
    costs: dict[str, list[tuple[str, float, float, float]]] = {}
    for (rule, runs, judged), each in cells.items():
        if judged == nearest[runs] and abs(math.log(judged / size)) <= math.log(policy.SAME_SIZE):
            cost, error = (sum(column) / len(each) for column in zip(*each, strict=True))
            costs.setdefault(rule, []).append((runs, judged, cost, error))
    return costs, fitted


def penalty_error(width: float, best_width: float, size: float) -> float:
    """Standard error of the penalty of a width, if its rule is right: from the curvature and from the place, as measured."""
    errors = {name: coefficient("shape_penalty", name).stderr or 0.0 for name in ("k", "x0", "s")}
    drift = math.log(max(size, 1.0) / coefficient("shape_penalty", "N_0").value)
    return float(
        shape_penalty.shape_penalty_error(width, best_width, errors["k"], math.hypot(errors["x0"], errors["s"] * drift))
    )


def loss_change_error(before: tuple[float, float | None, float], after: tuple[float, float | None, float]) -> float:
    """Standard error of the relative loss between two shapes, from the penalty's coefficients and the loss's exponent in size.

    Both penalties have the same coefficients, so that errors of shapes alike cancel: the errors of :func:`penalty_error` do not
    add up.

    Parameters
    ----------
    before, after : width, best width at that size (None without one, and then no penalty) and size of each shape.
    """
    values = {name: coefficient("shape_penalty", name) for name in ("k", "x0", "s", "N_0")}
    slopes = dict.fromkeys(("k", "x0", "s"), 0.0)
    for sign, (width, best, size) in ((-1, before), (1, after)):
        x = math.log(width / best) if best else 0.0
        by_place = -2 * values["k"].value * x
        drift = math.log(max(size, 1.0) / values["N_0"].value)
        for name, slope in (("k", x**2), ("x0", by_place), ("s", by_place * drift)):
            slopes[name] += sign * slope
    points = (coefficient("shape_penalty", f"exponent_{size}").stderr or 0.0 for size in ("1e8", "1e9", "1e10"))
    # The errors of the exponent, too, are joined by straight lines between its three points.
    of_size = float(shape_penalty.loss_exponent(after[2], *points)) * math.log(after[2] / before[2])
    return math.hypot(of_size, *(slope * (values[name].stderr or 0.0) for name, slope in slopes.items()))


def with_error(penalty: float, error: float, decimals: int = 2) -> str:
    """A penalty in per cent with its standard error."""
    return f"{penalty:.{decimals}%} +- {error:.{decimals}%}"


def shape_caveats(tree: Transformer) -> Iterator[str]:
    """Sentences on limits of a shape that are independent of the rules."""
    rank = tree.stem.rank
    if rank is not None and rank < tree.width:
        yield (
            f"the input embedding has rank {rank}, below the width {tree.width}: width beyond the rank is of limited use, "
            "and depth is worth more (Wies et al. 2021, arXiv 2105.03928)"
        )
    attention = tree.stack.first("as_attention")
    inner = tree.width if attention is None else attention.heads * attention.head_dim
    if inner < tree.width:
        yield f"the queries of all heads together span {inner} dimensions, fewer than the width {tree.width}"
    if tree.kind == "encoder-decoder":
        yield "the rules were fitted on models of one stack; here they compare the decoder's depth with all parameters"
    if tree.embedding_parameters > tree.non_embedding_parameters:
        share = tree.embedding_parameters / tree.parameters
        yield f"the embedding takes {share:.0%} of the parameters, which the rules do not cover"
