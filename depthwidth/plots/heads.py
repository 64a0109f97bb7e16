"""The picture of heads: what an allocation gives to each layer, and the heads of known models with yours marked."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

from ..coefficients import coefficient, reference
from ..formulas.head_size import head_size_penalty
from ..planning.head_allocation import Allocation
from ..planning.known_models import known_models
from . import ticks
from .labels import Label, ground, place_labels
from .theme import Theme, new_figure, picture

SMALL_LOSS = 1e-3
"""Relative loss that head dimensions of the band may cost."""
LINES = (32, 64, 128, 256)
"""Head dimensions that have a line."""
LABELLED = 9
"""Known models that are labelled, those nearest in width first."""


@picture
def heads_figure(found: Allocation, *, heads: int | None = None, theme: Theme) -> Any:
    """Head dimensions and predicted error of every layer, and below them heads over width of known models and of yours.

    The band holds the head dimensions that cost less than 0.1 % on the one data set that varies them, if heads fill the width.

    Parameters
    ----------
    found : from :func:`~depthwidth.planning.head_allocation.allocate_heads`.
    heads : the present number of heads, marked in addition to the allocated one; None leaves it out.
    theme : ``light`` or ``dark``.

    Raises
    ------
    InputError
        if matplotlib is not installed or there is no such theme.
    """
    figure = new_figure(7.8, theme, f"Heads at width {found.width:,} and {found.context:,} tokens")
    sizes, errors, models = figure.subplots(3, 1, height_ratios=(1, 0.8, 1.7))
    _draw_sizes(sizes, found, theme)
    _draw_errors(errors, found, theme)
    _draw_models(models, found, heads, theme)
    place_labels(sizes, _size_labels(found, theme), leader=theme.muted)
    place_labels(models, _model_labels(found, heads, theme), leader=theme.muted)
    return figure


def _steps(values: Iterable[float]) -> tuple[list[float], list[float]]:
    """A line of steps, one a layer, from half a layer on its left to half a layer on its right."""
    pairs = [((layer - 0.5, value), (layer + 0.5, value)) for layer, value in enumerate(values)]
    points = list(itertools.chain.from_iterable(pairs))
    return [x for x, _ in points], [y for _, y in points]


def _draw_sizes(axes: Any, found: Allocation, theme: Theme) -> None:
    for number, name in enumerate(("head_dim", "value_dim")):
        values = [getattr(layer, name) for layer in found.layers]
        axes.plot(
            *_steps(values), color=theme.series[number], linestyle="-" if number == 0 else (0, (4, 1.6)), marker="",
            linewidth=2.0, label="query and key" if number == 0 else "value",
        )  # fmt: skip
    top = max(max(layer.head_dim, layer.value_dim) for layer in found.layers)
    axes.set_ylim(0, 1.25 * top)
    _layers(axes, found)
    ticks.set_ticks(axes.yaxis, most=5)
    axes.set_ylabel("dimensions")
    axes.set_title("Dimensions of a head in each layer")


def _size_labels(found: Allocation, theme: Theme) -> Iterable[Label]:
    last = found.layers[-1]
    same = all(layer.head_dim == layer.value_dim for layer in found.layers)
    middle = found.layers[len(found.layers) // 2]
    if same:
        yield Label(middle.layer, middle.head_dim, "query, key and value", {"fontsize": 8.5, "color": theme.text})
        return
    for number, (text, value) in enumerate((("query and key", last.head_dim), ("value", last.value_dim))):
        yield Label(last.layer, value, text, {"fontsize": 8.5, "color": theme.series[number]})


def _draw_errors(axes: Any, found: Allocation, theme: Theme) -> None:
    values = [layer.error for layer in found.layers]
    axes.plot(range(len(values)), values, color=theme.series[1], linestyle=":", marker="o", markersize=3.5, linewidth=1)
    if ticks.is_logarithmic(values):
        axes.set_yscale("log")
        axes.set_ylim(min(values) / 1.6, max(values) * 1.6)
    else:
        top = max(values) or 0.01
        axes.set_ylim(-0.08 * top, 1.25 * top)
    _layers(axes, found)
    ticks.set_ticks(axes.yaxis, ticks.percent, most=4)
    axes.set_ylabel("error")
    axes.set_xlabel("layer")
    axes.set_title("Predicted error of each layer")


def _layers(axes: Any, found: Allocation) -> None:
    axes.set_xlim(-0.75, len(found.layers) - 0.25)
    ticks.set_ticks(axes.xaxis, most=9)


def _published_models() -> list[tuple[str, int, int]]:
    """Name, width and heads of known models."""
    rows = [(one.name, one.width, int(one.choices["heads"])) for one in known_models() if one.choices.get("heads")]
    rows += [(row["model"], int(row["d_model"]), int(row["n_heads"])) for row in reference("model_head_counts")]
    return rows


def _limits(found: Allocation) -> tuple[float, float]:
    widths = [width for _, width, _ in _published_models()]
    return min(*widths, found.width) / 1.25, max(*widths, found.width) * 1.25


def _draw_models(axes: Any, found: Allocation, heads: int | None, theme: Theme) -> None:
    left, right = _limits(found)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    counts = [count for _, _, count in _published_models()] + [layer.heads for layer in found.layers]
    low, high = min(counts) / 1.6, max(counts) * 1.5
    axes.set_ylim(low, high)
    best = coefficient("gadre2024_head_size", "h", "w>=512").value
    factor = math.exp(math.sqrt(SMALL_LOSS / float(head_size_penalty(math.e * best))))
    ends = [left, right]
    axes.fill_between(
        ends, [width / (best * factor) for width in ends], [width * factor / best for width in ends], color=theme.series[2],
        alpha=0.14, linewidth=0, zorder=0,
    )  # fmt: skip
    for size in LINES:
        axes.plot(ends, [width / size for width in ends], color=theme.muted, linestyle=(0, (2, 2)), marker="", linewidth=0.8)
        top = min(right, high * size)
        beside = (-9, -5) if top == right else (-4, -9)
        axes.annotate(
            f"{size}", (top, top / size), xytext=beside, textcoords="offset points", fontsize=7.5, color=theme.muted,
            ha="right", va="top", bbox=ground(theme.background),
        )  # fmt: skip
    published = _published_models()
    axes.plot(
        [width for _, width, _ in published], [count for _, _, count in published], linestyle="", marker="D", markersize=4,
        color=theme.muted, markerfacecolor="none",
    )  # fmt: skip
    for count in sorted({layer.heads for layer in found.layers}):
        axes.plot([found.width], [count], linestyle="", marker="*", markersize=14, color=theme.accent, zorder=5)
    if heads is not None and heads not in {layer.heads for layer in found.layers}:
        axes.plot([found.width], [heads], linestyle="", marker="P", markersize=8, color=theme.accent, zorder=5)
    ticks.set_ticks(axes.xaxis)
    ticks.set_ticks(axes.yaxis)
    axes.set_xlabel("width")
    axes.set_ylabel("heads")
    axes.set_title("Your heads among known models; lines: width / heads")


def _model_labels(found: Allocation, heads: int | None, theme: Theme) -> Iterable[Label]:
    yours = sorted({layer.heads for layer in found.layers})
    style = {"fontsize": 8.5, "color": theme.accent, "fontweight": "bold"}
    yield Label(found.width, yours[-1], "yours", style)
    if heads is not None and heads not in yours:
        yield Label(found.width, heads, "present", style)
    left, right = _limits(found)
    edge = math.exp(0.30 * math.log(right / left)) * left
    best = coefficient("gadre2024_head_size", "h", "w>=512").value
    yield Label(
        edge,
        edge / best,
        f"costs under {ticks.percent(SMALL_LOSS)} on one data set",
        {"fontsize": 7.5, "color": theme.series[2]},
    )
    places: dict[tuple[int, int], str] = {}
    for name, width, count in sorted(_published_models(), key=lambda row: abs(math.log(row[1] / found.width))):
        places.setdefault((width, count), name)
    for (width, count), name in list(places.items())[:LABELLED]:
        yield Label(width, count, name, {"fontsize": 7.5, "color": theme.muted})
