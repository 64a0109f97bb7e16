"""The pictures of a report: gauges next to the numbers, and figures in the library's theme for light and dark pages."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from depthwidth.errors import InputError, printable
from depthwidth.plots import ticks
from depthwidth.plots.measured import HEIGHT as FIGURE_HEIGHT
from depthwidth.plots.measured import draw_against
from depthwidth.plots.saving import for_both_pages, svg_of
from depthwidth.plots.theme import LIGHT, drawing, new_figure

from ..jobs import Comparison, find_job
from ..rows import Row, canonical
from .executors import describe_error
from .margins import number

Draw = Callable[[Any, Sequence[Row]], None]

MOST_SETTINGS = 24
"""Settings in one picture."""

MOST_QUANTITIES = 6
"""Number of quantities with a picture of measured against predicted values."""

Picture = tuple[str, str, str]
"""Title, caption and SVG; in place of the SVG a sentence if it cannot be drawn."""


def pictures(job: str, rows: Sequence[Row]) -> list[Picture]:
    """The job's own figures, then the measured values of each predicted quantity against the predictions."""
    if not rows:
        return []
    found: list[tuple[str, str, Draw, Sequence[Row], float]] = []
    with contextlib.suppress(InputError):  # the job may not be installed; its rows are here
        found += [(title, "", draw, rows, FIGURE_HEIGHT) for title, draw in find_job(job).figures]
    compared = [row for row in rows if row.predicted is not None and math.isfinite(row.predicted) and math.isfinite(row.value)]
    for quantity in sorted({row.quantity for row in compared})[:MOST_QUANTITIES]:
        its = [row for row in compared if row.quantity == quantity]
        caption = "Each point is a mean over seeds with its standard error; on the line the two are equal."
        found.append((f"Measured {quantity} against predicted", caption, against, its, FIGURE_HEIGHT))
    if not found and (groups := settings_of(rows)):
        caption = "Large: the mean over seeds with two standard errors. Small: single seeds."
        height = 0.9 + 0.27 * len(groups)
        found.append((f"Measured {_quantity_of(rows)} of each setting", caption, of_settings, rows, height))
    return [(title, caption, picture(draw, its, height)) for title, caption, draw, its, height in found]


def picture(draw: Draw, rows: Sequence[Row], height: float = FIGURE_HEIGHT) -> str:
    """The SVG of a picture of rows, or a sentence: a job, its rows and their labels may be anyone's."""
    with drawing() as theme, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numbers that a picture cannot show
        figure = new_figure(height, theme)
        try:
            draw(figure.subplots(), rows)
            return for_both_pages(svg_of(figure))
        except Exception as error:
            return f"This picture cannot be drawn: {printable(describe_error(error))}."


def over_seeds(rows: Sequence[Row]) -> list[tuple[float, float, float]]:
    """Predicted, measured and its standard error of each setting: the mean over seeds, or the one value with its own error.

    Values that are not finite are left out.
    """
    groups: dict[tuple[str, int | None, str], list[Row]] = {}
    for row in rows:
        if row.predicted is not None and math.isfinite(row.predicted) and math.isfinite(row.value):
            groups.setdefault((row.site, row.step, canonical(dict(row.labels))), []).append(row)
    found = []
    for its in groups.values():
        values = [row.value for row in its]
        several = len(values) > 1 and len({row.seed for row in its}) > 1
        error = stdev(values) / math.sqrt(len(values)) if several else its[0].stderr or 0.0
        found.append((mean(row.predicted for row in its if row.predicted is not None), mean(values), error))
    return [triple for triple in found if all(map(math.isfinite, triple))]


def against(axes: Any, rows: Sequence[Row]) -> None:
    """Measured against predicted values of one quantity, with the line of equality."""
    draw_against(axes, over_seeds(rows))


def _quantity_of(rows: Sequence[Row]) -> str:
    """The quantity that a picture of all settings shows: the loss, or else the one with most rows."""
    counts = Counter(row.quantity for row in rows)
    return "loss" if "loss" in counts else max(counts, key=lambda name: counts[name])


def settings_of(rows: Sequence[Row]) -> dict[str, list[float]]:
    """Values over seeds of each setting, named by the labels, site and step that vary; empty if there are too many."""
    name = _quantity_of(rows)
    its = [row for row in rows if row.quantity == name and math.isfinite(row.value)]
    places = [{**row.labels, "site": row.site, "step": row.step} for row in its]
    keys = dict.fromkeys(key for place in places for key in place)
    varied = [key for key in keys if len({str(place.get(key)) for place in places}) > 1]
    for key in sorted(
        varied, key=lambda key: isinstance(places[0].get(key), str)
    ):  # numbers are dropped first if words distinguish all
        if _distinct_settings(places, [other for other in varied if other != key]) == _distinct_settings(places, varied):
            varied.remove(key)
    groups: dict[str, list[float]] = {}
    for row, place in zip(its, places, strict=True):
        given = [(key, place[key]) for key in varied if place.get(key) not in (None, "")]
        words = [value if isinstance(value, str) else f"{key} {value}" for key, value in given]
        groups.setdefault(", ".join(words) or name, []).append(row.value)
    return groups if 1 < len(groups) <= MOST_SETTINGS else {}


def _distinct_settings(places: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> int:
    """Number of settings that these labels distinguish."""
    return len({tuple(str(place.get(key)) for key in keys) for place in places})


def of_settings(axes: Any, rows: Sequence[Row]) -> None:
    """The values of each setting on a line of its own."""
    groups = settings_of(rows)
    names = list(reversed(groups))
    for place, name in enumerate(names):
        values = groups[name]
        error = 2 * stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        center = mean(values)
        axes.plot(values, [place] * len(values), linestyle="", marker="o", markersize=2.5, color=LIGHT.muted, zorder=3)
        axes.plot(
            [center - error, center + error], [place, place], linestyle="-", marker="", color=LIGHT.series[0], linewidth=1.4
        )
        axes.plot([center], [place], linestyle="", marker="o", markersize=5.5, color=LIGHT.series[0], zorder=2)
    axes.set_yticks(range(len(names)), labels=[f"{name[:37]}..." if len(name) > 40 else name for name in names])
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlabel(_quantity_of(rows))
    ticks.set_ticks(axes.xaxis, most=5)


# Gauges: a line of a table as a drawing of its own, coloured by the page's style sheet.

WIDTH, HEIGHT = 180.0, 22.0


def gauge(line: Comparison) -> str:
    """The measured value with two standard errors, the predicted one, and the values that meet the criterion, on one scale.

    Empty if the value is not finite, or has neither a prediction nor a limit.
    """
    if line.measured is None or not math.isfinite(line.measured) or (line.limit is None and line.predicted is None):
        return ""
    error = 2 * line.stderr if line.stderr and math.isfinite(line.stderr) else 0.0
    low, high = (-math.inf, math.inf) if line.limit is None else line.limit.ends(line.stderr if line.limit.sigmas > 0 else None)
    marks = [line.measured - error, line.measured + error, *(x for x in (line.predicted, low, high) if x is not None)]
    marks = [x for x in marks if math.isfinite(x)]
    first, last = min(marks), max(marks)
    pad = 0.15 * (last - first) or 0.5 * abs(first) or 1.0
    first, last = first - pad, last + pad
    if not math.isfinite(last - first):
        return ""

    def at(x: float) -> float:
        return round(WIDTH * (min(max(x, first), last) - first) / (last - first), 1)

    middle = HEIGHT / 2
    parts = [f'<line class="axis" x1="0" x2="{WIDTH:g}" y1="{middle}" y2="{middle}"/>']
    if line.limit is not None and low <= high:
        left, right = at(low), at(high)
        parts.append(f'<rect class="zone" x="{left}" y="3" width="{max(0.8, right - left):.1f}" height="{HEIGHT - 6}"/>')
    if line.predicted is not None and math.isfinite(line.predicted):
        parts.append(f'<line class="told" x1="{at(line.predicted)}" x2="{at(line.predicted)}" y1="2" y2="{HEIGHT - 2}"/>')
    state = "open" if line.passes is None or line.is_noisy else "in" if line.passes else "out"
    if error:
        ends = f'x1="{at(line.measured - error)}" x2="{at(line.measured + error)}"'
        parts.append(f'<line class="bar {state}" {ends} y1="{middle}" y2="{middle}"/>')
    parts.append(f'<circle class="dot {state}" cx="{at(line.measured)}" cy="{middle}" r="4"/>')
    told = "" if line.predicted is None else f", predicted {number(line.predicted)}"
    words = f"measured {number(line.measured)}{told}"
    return f'<svg class="gauge" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-label="{words}">{"".join(parts)}</svg>'
