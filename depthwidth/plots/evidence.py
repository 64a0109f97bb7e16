"""The picture of the tournament: costs of each rule's shape on runs of many shapes, and costs of head dimensions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..coefficients import coefficient
from ..errors import InputError
from ..formulas.head_size import head_size_penalty
from . import ticks
from .theme import Theme, new_figure, nth_style, picture, style_of

if TYPE_CHECKING:
    from ..fitting.tournament import Score

FLOOR = 1e-5
"""Relative cost at which the logarithmic axis begins: smaller ones are drawn there."""
MEASURED = 0.75
"""Share of sizes with runs around the preferred width from which a marker is filled."""
_HEAD = "head dimension "
REFITTED = ", refitted"
"""After the name of a rule that was fitted again without the model nearest to the best shape."""


@picture
def evidence_figure(scores: Iterable[Score], *, theme: Theme) -> Any:
    """Mean cost of each rule on each data set with its 68.3 % interval, the cheapest rule on top; below it head dimensions.

    A filled marker was measured: runs surround the preferred width at three sizes in four. A hollow one is extrapolated.

    Parameters
    ----------
    scores : of :func:`~depthwidth.fitting.tournament.tournament`, ``published_scores`` or ``head_sizes``; means are drawn, the
        cells are not.
    theme : ``light`` or ``dark``.

    Raises
    ------
    InputError
        if there is no mean among the scores, or matplotlib is not installed.
    """
    means = [one for one in scores if one.parameters is None]
    heads = [one for one in means if one.rule.startswith(_HEAD)]
    rules = [one for one in means if not one.rule.startswith(_HEAD)]
    if not means:
        raise InputError("plot: there is no mean cost to draw")
    sets = list(dict.fromkeys(one.data for one in means))
    names = _rank_names(rules)
    heights = [height for height, some in ((0.9 + (0.16 + 0.055 * len(sets)) * len(names), rules), (2.4, heads)) if some]
    figure = new_figure(0.75 + 0.2 * math.ceil(len(sets) / 3) + sum(heights), theme, "Loss above that of the best shape")
    panels = list(figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0])
    if rules:
        _draw_rules(panels.pop(0), rules, names, sets, theme)
    if heads:
        _draw_heads(panels.pop(0), heads, sets, theme)
    _legend(figure, sets, theme)
    return figure


def _name(score: Score) -> str:
    return score.rule + (REFITTED if score.refitted else "")


def _rank_names(rules: Sequence[Score]) -> list[str]:
    """Names by their mean cost over the data sets, the dearest first, as axes count from below."""
    costs: dict[str, list[float]] = {}
    for one in rules:
        costs.setdefault(_name(one), []).append(one.cost)
    return sorted(costs, key=lambda name: -sum(costs[name]) / len(costs[name]))


def _draw_rules(axes: Any, rules: Sequence[Score], names: Sequence[str], sets: Sequence[str], theme: Theme) -> None:
    axes.set_xscale("log")
    for number, data in enumerate(sets):
        style = nth_style(number, theme)
        shift = 0.0 if len(sets) == 1 else 0.66 * (0.5 - number / (len(sets) - 1))
        for one in (one for one in rules if one.data == data):
            cost, low, high = (max(FLOOR, value) for value in (one.cost, one.low, one.high))
            axes.errorbar(
                [cost], [names.index(_name(one)) + shift], xerr=[[max(0.0, cost - low)], [max(0.0, high - cost)]],
                elinewidth=1.0, capsize=0, markersize=5, gid=f"{data}|{_name(one)}", **_marker(one, style.point(), theme),
            )  # fmt: skip
    for place in range(len(names)):
        if place % 2:
            axes.axhspan(place - 0.5, place + 0.5, color=theme.grid, alpha=0.35, linewidth=0, zorder=0)
    highest = max(one.high for one in rules)
    axes.set_xlim(FLOOR / 1.15, max(highest, 10 * FLOOR) * 1.25)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_yticks(range(len(names)), labels=names)
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_color(style_of(name.removesuffix(REFITTED), theme).color)
    axes.grid(visible=False, axis="y")
    ticks.set_ticks(axes.xaxis, ticks.percent)
    texts = [text.get_text() for text in axes.get_xticklabels()]
    if axes.get_xticks()[0] <= FLOOR * 1.01:
        texts[0] = f"≤ {texts[0]}"
        axes.set_xticks(axes.get_xticks(), labels=texts)
    axes.set_title("Shape that each rule prefers")


def _draw_heads(axes: Any, heads: Sequence[Score], sets: Sequence[str], theme: Theme) -> None:
    axes.set_xscale("log")
    sizes = [int(one.rule.removeprefix(_HEAD)) for one in heads]
    line = [min(sizes) * (max(sizes) / min(sizes)) ** (i / 60) for i in range(61)]
    if any(one.data == "gadre" for one in heads):
        axes.plot(line, [float(head_size_penalty(size)) for size in line], color=theme.muted, linestyle="-", marker="",
                  linewidth=1.2)  # fmt: skip
        best = coefficient("gadre2024_head_size", "h", "w>=512").value
        axes.annotate(f"least at {best:.0f}", (best, 0), xytext=(0, 26), textcoords="offset points", ha="center", fontsize=8.5,
                      color=theme.muted, arrowprops={"arrowstyle": "-", "linewidth": 0.6, "color": theme.muted})  # fmt: skip
    for one, size in zip(heads, sizes, strict=True):
        bar = [[max(0.0, one.cost - one.low)], [max(0.0, one.high - one.cost)]]
        point = _marker(one, nth_style(sets.index(one.data), theme).point(), theme)
        axes.errorbar([size], [one.cost], yerr=bar, elinewidth=1.2, markersize=6, **point)
    axes.set_xlim(min(sizes) / 1.15, max(sizes) * 1.15)
    top = max(one.high for one in heads)
    axes.set_ylim(-0.06 * top, 1.12 * top)
    axes.set_xticks(sorted(set(sizes)), labels=[str(size) for size in sorted(set(sizes))])
    axes.set_xticks([], minor=True)
    ticks.set_ticks(axes.yaxis, ticks.percent, most=5)
    axes.set_xlabel("dimensions of a head")
    axes.set_title("Head dimension at equal shape")


def _marker(one: Score, point: dict[str, Any], theme: Theme) -> dict[str, Any]:
    return point if one.inside >= MEASURED else {**point, "markerfacecolor": theme.background}


def _legend(figure: Any, sets: Sequence[str], theme: Theme) -> None:
    from matplotlib.lines import Line2D

    entries = [Line2D([], [], label=data, markersize=5, **nth_style(i, theme).point()) for i, data in enumerate(sets)]
    entries.append(Line2D([], [], label="hollow: extrapolated", linestyle="", marker="o", color=theme.muted,
                          markerfacecolor=theme.background, markersize=5))  # fmt: skip
    figure.legend(
        handles=entries, loc="outside lower left", ncols=2 if len(sets) < 3 else 3, handletextpad=0.2, columnspacing=1.2
    )
