"""Pictures of measured rows, for reports of jobs: measured against predicted, and means over seeds with their errors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from . import ticks
from .labels import Label, label_columns
from .theme import nth_style, theme_in

LARGEST = 1e300
"""Size of a number from which the margins of an axis overflow."""
MANY = 1e5
"""Number from which ticks are counts with K, M and B."""
MOST_BARS = 400
"""Points up to which each has an error bar of its own; of more, all bars are one line with gaps, which keeps a page small."""
HEIGHT = 3.6
"""Of a picture in a report, in inches."""


def draw_against(axes: Any, triples: Iterable[tuple[float, float, float]]) -> None:
    """Draw (predicted, measured, standard error) with the line of equality; on logarithmic axes if all are positive.

    Values that are not finite, or exceed the range of an axis, are left out.
    """
    theme = theme_in(axes.figure)
    finite = [triple for triple in triples if all(abs(value) < LARGEST for value in triple)]
    ends = [value for predicted, measured, _ in finite for value in (predicted, measured)]
    if ends:
        predicted, measured, errors = (list(column) for column in zip(*finite, strict=True))
        low, high = min(ends), max(ends)
        bars = errors if len(finite) <= MOST_BARS else None
        axes.errorbar(predicted, measured, yerr=bars, markersize=3.5 if bars else 2.0, elinewidth=0.8, capsize=0, alpha=0.75,
                      **nth_style(0, theme).point())  # fmt: skip
        if not bars:
            ends_of_bars = [(x, y) for x, y, error in finite for y in (y - error, y + error, math.nan)]
            axes.plot(
                *zip(*ends_of_bars, strict=True), color=theme.series[0], linestyle="-", marker="", linewidth=0.8, alpha=0.75
            )
        axes.plot([low, high], [low, high], color=theme.muted, linestyle="-", marker="", linewidth=0.9, zorder=0)
        if low > 0:
            axes.set_xscale("log")
            axes.set_yscale("log", nonpositive="clip")
        for axis in (axes.xaxis, axes.yaxis):
            ticks.set_ticks(axis, most=5)
    axes.set_xlabel("predicted")
    axes.set_ylabel("measured, one standard error")


def draw_means(
    axes: Any, lines: Mapping[str, Mapping[float, Sequence[float]]], across: str, up: str, *,
    logarithmic: bool = True, marks: Mapping[str, float] = {},
) -> None:  # fmt: skip
    """Draw lines of means over seeds, with their standard errors if there are several seeds, each labelled at its end.

    Call it last, as its labels settle the layout.

    Parameters
    ----------
    axes : of an empty picture.
    lines : by its label, from a place on the axis across to the values of its seeds. Values that are not finite are left out.
    across, up : names of the axes, with units.
    logarithmic : True for a logarithmic axis across.
    marks : by the label of a line, a place on the axis across, which is marked by dots in its colour.
    """
    theme = theme_in(axes.figure)
    labels = []
    for number, (name, cells) in enumerate(lines.items()):
        kept = {x: [value for value in values if math.isfinite(value)] for x, values in sorted(cells.items())}
        points = [(x, mean(values), stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0)
                  for x, values in kept.items() if values]  # fmt: skip
        if not points:
            continue
        style = nth_style(number, theme)
        xs, means, errors = zip(*points, strict=True)
        axes.errorbar(xs, means, yerr=errors, color=style.color, linestyle=style.dash, marker=style.marker, markersize=5,
                      elinewidth=1.0, label=name)  # fmt: skip
        if name in marks:
            axes.axvline(marks[name], color=style.color, linestyle=":", marker="", linewidth=1.2)
        labels.append(Label(xs[-1], means[-1], name, {"fontsize": 8.5, "color": style.color}))
    if logarithmic:
        axes.set_xscale("log")
    axes.set_xlim(axes.get_xlim())  # the leaders of the labels must not widen it
    axes.set_ylim(axes.get_ylim())
    ticks.set_ticks(axes.xaxis, ticks.count if axes.get_xlim()[1] >= MANY else ticks.plain)
    ticks.set_ticks(axes.yaxis)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    label_columns([(axes, labels)], leader=theme.muted)
