"""The picture of a plan: the loss along all shapes of its budget, and their map with rules and known models."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from ..planning.combined import LAW, LEVELS
from ..planning.known_models import known_models
from ..planning.loss_curve import LossPoint, loss_curve
from ..planning.plan import Plan
from . import ticks
from .labels import Label, ground, label_columns, place_labels
from .theme import Theme, new_figure, picture, style_of

POINTS, RULE_POINTS = 81, 31
"""Of the lines of this budget, and of each rule."""
NEAR = 3.0
"""Factor in parameters within which a known model is on the map."""
NAMES = 2
"""Names of models of equal shape that are written out."""
SEEN = 1.08
"""Ratio of its ends from which the band of the coefficients is labelled."""
LABELLED = 8
"""Shapes of known models that are labelled, those nearest in size first."""


@picture
def plan_figure(plan: Plan, *, theme: Theme) -> Any:
    """Loss change over depth with its error, and below it depth against width: equal budget, rules and known models.

    Points and their error bars are the rows of the plan's table. The line is the loss of the shapes between them, its band one
    standard error.

    Parameters
    ----------
    plan : from :func:`depthwidth.plan`.
    theme : ``light`` or ``dark``.

    Raises
    ------
    InputError
        if matplotlib is not installed or there is no such theme.
    """
    curve = loss_curve(plan, POINTS)
    figure = new_figure(7.4, theme, f"Shapes of {plan.budget}, {plan.architecture}")
    losses, shapes = figure.subplots(2, 1, sharex=True, height_ratios=(1, 1.35))
    _set_depths(shapes, plan)
    _draw_losses(losses, plan, curve, theme)
    _draw_map(shapes, plan, theme)
    # The column of the map takes its room first; then all other places are known.
    label_columns([(shapes, _rule_labels(shapes, plan, theme))], leader=theme.muted)
    place_labels(losses, _shape_labels(plan, theme), leader=theme.muted)
    place_labels(shapes, _model_labels(shapes, plan, theme), leader=theme.muted)
    return figure


def _set_depths(axes: Any, plan: Plan) -> None:
    curve = plan.equal_budget_curve(POINTS)
    axes.set_xscale("log")
    axes.set_xlim(curve[0][0], curve[-1][0])
    axes.set_xlabel("layers")
    ticks.set_ticks(axes.xaxis)


# The loss.


def _draw_losses(axes: Any, plan: Plan, curve: list[LossPoint], theme: Theme) -> None:
    depths, losses = [one.depth for one in curve], [one.loss for one in curve]
    axes.fill_between(
        depths, [one.loss - one.stderr for one in curve], [one.loss + one.stderr for one in curve],
        color=theme.series[0], alpha=0.22, linewidth=0, label="one standard error",
    )  # fmt: skip
    axes.plot(depths, losses, color=theme.series[0], linestyle="-", marker="", label=f"loss by {plan.rule.name}")
    axes.plot([depths[0], depths[-1]], [0, 0], color=theme.muted, linewidth=0.8, linestyle="-", marker="")
    for row in plan.table():
        point = _point_of(row["choice"], theme)
        axes.errorbar(
            [row["depth"]], [row["loss_at_budget"]], yerr=[row["loss_at_budget_stderr"]], elinewidth=1.0, zorder=4, **point
        )
    top = max(3 * max(row["loss_at_budget"] for row in plan.table()), 0.005)
    top = min(top, max(losses))
    low = min(0.0, *(one.loss - one.stderr for one in curve), *(row["loss_at_budget"] for row in plan.table()))
    room = 0.22 if plan.best_depths else 0.06
    axes.set_ylim(low - room * (top - low), 1.12 * top)
    _mark_ranges(axes, plan, theme)
    _mark_best_depths(axes, plan, theme)
    ticks.set_ticks(axes.yaxis, ticks.percent)
    axes.set_ylabel("change of the loss")
    axes.set_title("Predicted loss at equal budget, against the suggestion")
    axes.tick_params(labelbottom=True)


def _mark_ranges(axes: Any, plan: Plan, theme: Theme) -> None:
    """Shade the ranges of depths that cost little, and label them at the top."""
    for number, found in enumerate(plan.ranges):
        low, high = found.depth
        axes.axvspan(low, high, color=theme.series[2], alpha=0.10, linewidth=0, zorder=0)
        whole = math.ceil(low), math.floor(high)
        if whole[0] <= whole[1]:
            words = f"{whole[0]} to {whole[1]} layers: less than {ticks.percent(found.loss)}"
            left, right = axes.get_xlim()
            middle = math.log(math.sqrt(low * high) / left) / math.log(right / left)
            axes.annotate(
                words, (min(max(middle, 0.34), 0.66), 0.97 - 0.095 * number), xycoords="axes fraction", ha="center", va="top",
                fontsize=8.5, color=theme.text, bbox=ground(theme.background),
            )  # fmt: skip


def _mark_best_depths(axes: Any, plan: Plan, theme: Theme) -> None:
    """Draw the bands of the best depth by all sources together along the lower edge."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    color, y = style_of(LAW, theme).color, low + 0.045 * (high - low)
    for band in plan.best_depths:
        ends = [min(max(end, left), right) for end in band.depth]
        axes.plot(ends, [y, y], color=color, linestyle="-", marker="", linewidth=5 if band.level == min(LEVELS) else 2,
                  solid_capstyle="butt", label=f"best depth {band.level:.0%}")  # fmt: skip
    if plan.best_depths:
        words = "best depth by all sources: 50 % and 90 %"
        axes.annotate(words, (0.5, 0.075), xycoords="axes fraction", ha="center", va="bottom", fontsize=7.5, color=color,
                      bbox=ground(theme.background))  # fmt: skip


def _point_of(choice: str, theme: Theme) -> dict[str, Any]:
    """The marker of a row of the table."""
    kinds = {
        "suggested": {"marker": "*", "markersize": 13, "color": theme.accent},
        "without limits": {"marker": "P", "markersize": 7, "color": theme.accent},
        "wider": {"marker": "o", "markersize": 5, "color": theme.text},
        "deeper": {"marker": "o", "markersize": 5, "color": theme.text},
    }
    known = {"marker": "D", "markersize": 5, "color": theme.series[1]}
    return {"linestyle": "", **kinds.get(choice, known)}


def _shape_labels(plan: Plan, theme: Theme) -> Iterable[Label]:
    rows = sorted(plan.table(), key=lambda row: (row["choice"] != "suggested", row["choice"] in ("wider", "deeper")))
    for row in rows:
        style: dict[str, Any] = {"color": theme.text, "fontsize": 8.5}
        shape = f"{row['depth']} x {row['width']:,}"
        if row["choice"] == "suggested":
            style |= {"color": theme.accent, "fontweight": "bold"}
        text = shape if row["choice"] in ("wider", "deeper") else row["choice"]
        if row["choice"] == "suggested":
            text += f", {shape}"
        yield Label(row["depth"], row["loss_at_budget"], text, style)


# The map.


def _draw_map(axes: Any, plan: Plan, theme: Theme) -> None:
    curve = plan.equal_budget_curve(POINTS)
    axes.set_yscale("log")
    axes.set_ylim(curve[-1][1] / 1.15, curve[0][1] * 1.15)
    for found in plan.rules.values():
        style = style_of(found.rule, theme)
        points = plan.rule_curve(found.rule, RULE_POINTS)
        axes.plot(*zip(*points, strict=True), linewidth=0.9, alpha=0.6, zorder=2, **style.line())
        axes.plot([found.depth], [found.width], markersize=7, zorder=4, markeredgecolor=theme.background, **style.point())
    axes.plot(*zip(*curve, strict=True), color=theme.text, linestyle="-", marker="", linewidth=1.8, zorder=3)
    if plan.coefficient_band is not None:
        _draw_band(axes, plan, theme)
    models = _models(axes, plan)
    axes.plot(
        [shape[0] for shape in models], [shape[1] for shape in models], linestyle="", marker="D", markersize=4,
        color=theme.muted, markerfacecolor="none", zorder=3,
    )  # fmt: skip
    axes.plot([plan.shape.depth], [plan.shape.width], zorder=5, **_point_of("suggested", theme))
    axes.set_ylabel("width")
    axes.set_title("Shapes of this budget (line), rules, and known models")
    ticks.set_ticks(axes.yaxis)


def _draw_band(axes: Any, plan: Plan, theme: Theme) -> None:
    """The part of the line of equal budget that the error of the rule's coefficients allows."""
    shallow, deep = plan.coefficient_band.depth  # type: ignore[union-attr]
    part = [point for point in plan.equal_budget_curve() if shallow <= point[0] <= deep]
    if len(part) > 1:
        color = style_of(plan.rule.name, theme).color
        axes.plot(*zip(*part, strict=True), color=color, linestyle="-", marker="", linewidth=8, alpha=0.35, zorder=2.5,
                  solid_capstyle="butt")  # fmt: skip


def _rule_labels(axes: Any, plan: Plan, theme: Theme) -> list[Label]:
    """The names of the rules; of one whose optimum is out of sight, with its number of layers."""
    left, right = axes.get_xlim()
    return [
        Label(
            found.depth, found.width,
            found.rule if left <= found.depth <= right else f"{found.rule} at {found.depth:.3g}",
            {"fontsize": 8.5, "color": style_of(found.rule, theme).color,
             "fontweight": "bold" if found.rule == plan.rule.name else "normal"},
        )
        for found in sorted(plan.rules.values(), key=lambda one: one.width)
    ]  # fmt: skip


def _models(axes: Any, plan: Plan) -> dict[tuple[int, int], list[str]]:
    """Known models on the map by shape, those nearest in size first."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    size, design = plan.shape.parameters, plan.template.design
    if design.patch is not None or design.kind != "decoder":  # as in the table
        return {}
    alike = [one for one in known_models() if (one.experts is None) == (design.experts is None)]
    found: dict[tuple[int, int], list[str]] = {}
    for one in sorted(alike, key=lambda one: abs(math.log(one.parameters / size))):
        inside = left < one.depth < right and low < one.width < high
        if inside and abs(math.log(one.parameters / size)) <= math.log(NEAR):
            found.setdefault((one.depth, one.width), []).append(one.name)
    return found


def _model_labels(axes: Any, plan: Plan, theme: Theme) -> Iterable[Label]:
    yield Label(plan.shape.depth, plan.shape.width, "suggested", {"fontsize": 8.5, "color": theme.accent, "fontweight": "bold"})
    band = plan.coefficient_band
    if band is not None and band.depth[1] / band.depth[0] > SEEN:
        inside = [point for point in plan.equal_budget_curve() if band.depth[0] <= point[0] <= band.depth[1]]
        if inside:
            yield Label(
                *inside[-1], f"error of {plan.rule.name}", {"fontsize": 7.5, "color": style_of(plan.rule.name, theme).color}
            )
    for (depth, width), names in list(_models(axes, plan).items())[:LABELLED]:
        more = f" +{len(names) - NAMES}" if len(names) > NAMES else ""
        yield Label(depth, width, ", ".join(names[:NAMES]) + more, {"fontsize": 7.5, "color": theme.muted})
