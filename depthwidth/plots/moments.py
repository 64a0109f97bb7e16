"""The picture of moments: the residual stream of several schemes along the depth, with the thresholds of the diagnosis."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ..analysis.diagnosis.checks import correlation_at_top, forward_growth, gradient_ratio
from ..errors import InputError
from . import ticks
from .labels import Label, ground, label_columns
from .theme import Theme, new_figure, picture, style_of

Rows = Sequence[Mapping[str, Any]]
ALMOST = 0.97
"""Correlation from which its distance from 1 is drawn instead, on a logarithmic axis."""
IN_SIGHT = 30.0
"""Factor beyond the data within which a threshold is kept on a logarithmic axis."""
MOST_SCHEMES = 20
"""Schemes in one picture."""


class _Line(NamedTuple):
    """One quantity of one scheme along the depth."""

    scheme: str
    layers: list[int]
    values: list[float]
    low: list[float]
    high: list[float]
    """Two draws of the weights in three lie between `low` and `high`; both are empty if that is not known."""


class _Quantity(NamedTuple):
    """A panel: its title, its thresholds, and the values from the rows of the stream in the order of the layers."""

    title: str
    direction: str
    thresholds: tuple[tuple[float, str], ...]
    values: Callable[[Rows], list[float]]


def _growth(rows: Rows) -> list[float]:
    return [row["second_moment"] / rows[0]["second_moment"] if rows[0]["second_moment"] else math.nan for row in rows]


def _gradient_growth(rows: Rows) -> list[float]:
    return [row["second_moment"] / rows[-1]["second_moment"] if rows[-1]["second_moment"] else math.nan for row in rows]


def _correlation(rows: Rows) -> list[float]:
    return [row["correlation"] for row in rows]


def _distance(rows: Rows) -> list[float]:
    return [max(0.0, 1 - row["correlation"]) or math.nan for row in rows]


def _either_way(watched: float, limit: float) -> tuple[tuple[float, str], ...]:
    return (limit, "problem"), (watched, "watch"), (1 / watched, "watch"), (1 / limit, "problem")


_COLLAPSE = correlation_at_top.COLLAPSE
SIGNAL = _Quantity(
    "Signal: second moment over that after the first block", "forward",
    _either_way(forward_growth.WATCHED, forward_growth.LIMIT), _growth,
)  # fmt: skip
CORRELATION = _Quantity("Correlation of two tokens", "forward", ((_COLLAPSE.threshold, "watch"),), _correlation)
DISTANCE = _Quantity(
    "Two tokens: 1 - correlation", "forward", ((1 - _COLLAPSE.threshold, "watch"), (1 - _COLLAPSE.limit, "problem")), _distance
)
GRADIENT = _Quantity(
    "Gradient: second moment over that after the last block", "gradient",
    _either_way(gradient_ratio.WATCHED, gradient_ratio.LIMIT), _gradient_growth,
)  # fmt: skip


@picture
def moments_figure(schemes: Mapping[str, Rows], *, theme: Theme) -> Any:
    """The residual stream of each scheme after every block: growth, correlation of two tokens, growth of the gradient.

    Lines across are the thresholds of ``diagnose``. A band holds two draws of the weights in three, of gradients whose spread
    between draws is known. Stacks stand side by side.

    Parameters
    ----------
    schemes : from the name of a scheme to its rows, those of :func:`~depthwidth.analysis.propagation.moments_of`, all of one
        transformer.
    theme : ``light`` or ``dark``.

    Raises
    ------
    InputError
        if there is no scheme or more than 20, rows have no residual stream, or matplotlib is not installed.
    """
    if not 1 <= len(schemes) <= MOST_SCHEMES:
        raise InputError(f"plot: {len(schemes)} schemes were given; a picture of moments takes 1 to {MOST_SCHEMES}")
    stacks = [stack for stack in ("encoder", "decoder") if any(_stream(rows, stack, "forward") for rows in schemes.values())]
    if not stacks:
        raise InputError("plot: the rows have no residual stream after a block")
    highest = max(max(map(abs, _correlation(_stream(rows, stack, "forward")))) for rows in schemes.values() for stack in stacks)
    quantities = [SIGNAL, DISTANCE if highest > ALMOST else CORRELATION, GRADIENT]
    figure = new_figure(0.5 + 3 * max(1.95, 0.17 * len(schemes) + 0.4), theme, "Residual stream at initialisation")
    panels = figure.subplots(3, len(stacks), sharex="col", sharey="row", squeeze=False)
    columns = []
    for quantity, row in zip(quantities, panels, strict=True):
        lines = {stack: list(_lines(schemes, stack, quantity)) for stack in stacks}
        for stack, axes in zip(stacks, row, strict=True):
            _draw(axes, lines[stack], theme)
        _scale(row, quantity, [value for some in lines.values() for line in some for value in line.values], theme)
        row[0].set_title(quantity.title)
        columns.append((row[-1], _labels(lines[stacks[-1]], theme)))
    for stack, axes in zip(stacks, panels[-1], strict=True):
        axes.set_xlabel("after block" if len(stacks) == 1 else f"after block of the {stack}")
        axes.margins(x=0.02)
        axes.set_xlim(axes.get_xlim())
        ticks.set_ticks(axes.xaxis)
    label_columns(columns, leader=theme.muted, gap=1.1)
    return figure


def _stream(rows: Rows, stack: str, direction: str) -> Rows:
    """The rows of a stack's residual stream after each block, by layer."""
    found = [row for row in rows if row["direction"] == direction and row["site"] == f"{stack}.block.{row['layer']}"]
    return sorted(found, key=lambda row: row["layer"])


def _lines(schemes: Mapping[str, Rows], stack: str, quantity: _Quantity) -> Iterable[_Line]:
    for name, every in schemes.items():
        rows = _stream(every, stack, quantity.direction)
        if not rows:
            continue
        values = quantity.values(rows)
        logs = [row.get("log_variance") or 0.0 for row in rows] if quantity.direction == "gradient" else []
        low, high = [], []
        if any(logs):
            medians = [value * math.exp(-spread / 2) for value, spread in zip(values, logs, strict=True)]
            low = [median * math.exp(-math.sqrt(spread)) for median, spread in zip(medians, logs, strict=True)]
            high = [median * math.exp(math.sqrt(spread)) for median, spread in zip(medians, logs, strict=True)]
        yield _Line(name, [row["layer"] for row in rows], values, low, high)


def _draw(axes: Any, lines: Iterable[_Line], theme: Theme) -> None:
    for line in lines:
        style = style_of(line.scheme, theme)
        if line.low:
            axes.fill_between(line.layers, line.low, line.high, color=style.color, alpha=0.15, linewidth=0)
        every = max(1, len(line.layers) // 6)
        axes.plot(
            line.layers, line.values, color=style.color, linestyle=style.dash, marker=style.marker, markersize=4.5,
            markevery=every, label=line.scheme,
        )  # fmt: skip


def _scale(row: Sequence[Any], quantity: _Quantity, values: list[float], theme: Theme) -> None:
    """A linear or a logarithmic axis by the range of the values, and the thresholds in sight."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return
    logarithmic = quantity is not CORRELATION and ticks.is_logarithmic(finite)
    low, high = min(finite), max(finite)
    reach = IN_SIGHT if logarithmic else 1.0
    near = [at for at, _ in quantity.thresholds if (quantity is CORRELATION or low / reach <= at <= high * reach)]
    low, high = min([low, *near]), max([high, *near])
    if logarithmic:
        low, high = low / 1.6, high * 1.6
    else:
        low = min(low, 0.0)
        low, high = low - 0.04 * (high - low), high + 0.06 * (high - low)
    # On a linear axis the thresholds for vanishing lie on its end and say nothing.
    clear = low if logarithmic else low + 0.08 * (high - low)
    seen = [(at, severity) for at, severity in quantity.thresholds if clear <= at <= high]
    for axes in row:
        axes.set_yscale("log" if logarithmic else "linear")
        axes.set_ylim(low, high)
        for at, severity in seen:
            dash = (0, (4, 2)) if severity == "watch" else "-"
            axes.axhline(at, color=theme.accent, linewidth=0.9, linestyle=dash, marker="", zorder=1.2)
        ticks.set_ticks(axes.yaxis, most=5)
    middle = math.sqrt(low * high) if logarithmic else (low + high) / 2
    for at, severity in seen:
        below, left = at > middle, severity == "watch"
        row[0].annotate(
            severity, (0.01 if left else 0.99, at), xycoords=row[0].get_yaxis_transform(),
            xytext=(0, -2 if below else 2), textcoords="offset points", ha="left" if left else "right",
            va="top" if below else "bottom", fontsize=7.5, color=theme.accent, bbox=ground(theme.background),
        )  # fmt: skip


def _last(line: _Line) -> int | None:
    """The number of the last value that can be drawn."""
    return next((i for i in reversed(range(len(line.values))) if math.isfinite(line.values[i])), None)


def _labels(lines: Iterable[_Line], theme: Theme) -> list[Label]:
    return [
        Label(line.layers[end], line.values[end], line.scheme, {"fontsize": 8.5, "color": style_of(line.scheme, theme).color})
        for line in lines
        if (end := _last(line)) is not None
    ]
