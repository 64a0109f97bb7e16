"""The picture of the rules: the best width by each over that of the combined one, its bands, measured optima, known models."""

from __future__ import annotations

import math
from typing import Any

from ..coefficients import coefficient
from ..fitting.tournament import published_scores
from ..formulas.rules import combined_optimal_width
from ..formulas.scaling import kaplan_nonembedding_parameters
from ..planning.combined import LAW, LEVELS, WidthBand, best_width_band
from ..planning.known_models import KnownModel, known_models
from ..planning.rules import Rule, meet, rules
from . import ticks
from .labels import Label, label_columns, place_labels
from .theme import Theme, new_figure, picture, style_of

SIZES = (1e6, 1e12)
"""Parameters without embeddings, at both ends."""
RATIOS = (0.33, 2.95)
"""Ends of the axis of widths."""
POINTS = 49
LABELLED = (
    "GPT-2 XL",
    "Llama 3.2 1B",
    "Llama 2 7B",
    "Gemma 2 27B",
    "Llama 3 70B",
    "GPT-3 175B",
    "Llama 3.1 405B",
    "SmolLM2 135M",
)
"""Known models that are labelled."""
_SETS = {"gemstones": 3, "gadre": 1}


@picture
def rules_figure(*, theme: Theme) -> Any:
    """The width that each rule for text prefers at a size, over that of the combined rule, with its 50 % and 90 % bands.

    A line is thick on the range of its rule's data and thin beyond it. Points with bars are the best widths of the public runs,
    from the least to the largest over texts and token counts.

    Parameters
    ----------
    theme : ``light`` or ``dark``.

    Raises
    ------
    InputError
        if matplotlib is not installed or there is no such theme.
    """
    figure = new_figure(5.6, theme, "Best width by size, over that of combined2026")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = [SIZES[0] * (SIZES[1] / SIZES[0]) ** (i / (POINTS - 1)) for i in range(POINTS)]
    for level in sorted(LEVELS, reverse=True):
        bands = [best_width_band(size, level) for size in sizes]
        low, high = ([edge / band.width for edge, band in zip(edges, bands, strict=True)] for edges in _edges(bands))
        color, alpha = style_of(LAW, theme).color, 0.13 if level > min(LEVELS) else 0.2
        axes.fill_between(sizes, low, high, linewidth=0, zorder=0.5, color=color, alpha=alpha)
    ends = [_draw_rule(axes, rule, sizes, theme) for rule in rules().values()]
    _draw_models(axes, theme)
    cells = _draw_optima(axes, theme)
    for name in ("non_embedding_min", "non_embedding_max"):
        axes.axvline(coefficient(LAW, name).value, color=theme.muted, linestyle=":", marker="", linewidth=1.0)
    axes.set_xlim(*SIZES)
    axes.set_ylim(*RATIOS)
    ticks.set_ticks(axes.xaxis, lambda size: f"{ticks.count(size)}\n{combined_optimal_width(size):,.0f}", most=7)
    ticks.set_ticks(axes.yaxis, most=8)
    axes.set_xlabel("parameters without embeddings, and the width of combined2026")
    axes.set_ylabel("width over that of combined2026")
    axes.set_title("Bands: 50 % and 90 % of the sources; dotted: their ends")
    label_columns([(axes, [end for end in ends if end is not None])], leader=theme.muted)
    place_labels(axes, [*cells, *_model_labels(theme)], leader=theme.muted)
    return figure


def _edges(bands: list[WidthBand]) -> tuple[list[float], list[float]]:
    return [band.low for band in bands], [band.high for band in bands]


def _ratio(width: float, size: float) -> float:
    return width / float(combined_optimal_width(size))


def _draw_rule(axes: Any, rule: Rule, sizes: list[float], theme: Theme) -> Label | None:
    """Draw one rule, and return the label of its end."""
    shapes = [(size, meet(rule.curve(), kaplan_nonembedding_parameters, size)) for size in sizes]
    found = [(size, *shape) for size, shape in shapes if shape is not None]
    if not found:
        return None
    style = style_of(rule.name, theme)
    xs, ys = [size for size, _, _ in found], [_ratio(width, size) for size, _, width in found]
    axes.plot(xs, ys, linewidth=0.8, alpha=0.7, **style.line())
    inside = [math.nan if rule.extrapolates(depth, width, size) else _ratio(width, size) for size, depth, width in found]
    axes.plot(xs, inside, linewidth=2.0, label=rule.name, **style.line())
    return Label(xs[-1], ys[-1], rule.name, {"fontsize": 8.5, "color": style.color})


def _draw_models(axes: Any, theme: Theme) -> None:
    found = [_place(one) for one in known_models() if one.experts is None]
    axes.plot(*zip(*found, strict=True), linestyle="", marker="D", markersize=3.5, color=theme.muted, markerfacecolor="none")


def _place(model: KnownModel) -> tuple[float, float]:
    """Size and relative width of a known model, in plain blocks."""
    size = float(kaplan_nonembedding_parameters(model.depth, model.width))
    return size, _ratio(model.width, size)


def _draw_optima(axes: Any, theme: Theme) -> list[Label]:
    """Draw the best widths of the public runs, and return a label for each set."""
    labels = []
    for data, number in _SETS.items():
        best: dict[float, set[float]] = {}
        for one in published_scores():
            if one.data.startswith(data) and one.parameters is not None and one.best_width is not None:
                best.setdefault(one.parameters, set()).add(_ratio(one.best_width, one.parameters))
        xs = sorted(best)
        middle = [math.exp(sum(map(math.log, best[x])) / len(best[x])) for x in xs]
        low = [y - min(best[x]) for x, y in zip(xs, middle, strict=True)]
        high = [max(best[x]) - y for x, y in zip(xs, middle, strict=True)]
        color = theme.series[number]
        axes.errorbar(xs, middle, yerr=[[max(0.0, v) for v in low], [max(0.0, v) for v in high]], linestyle="", color=color,
                      marker="o" if number == 1 else "s", markersize=6, elinewidth=1.2, markeredgecolor=theme.background,
                      zorder=4, label=f"{data}, measured")  # fmt: skip
        labels.append(Label(xs[0], middle[0], f"{data}, measured", {"fontsize": 8.5, "color": color}))
    return labels


def _model_labels(theme: Theme) -> list[Label]:
    style = {"fontsize": 7.5, "color": theme.muted}
    return [Label(*_place(one), one.name, style) for one in known_models() if one.name in LABELLED]
