"""The picture of a fit: how well each coefficient is known, and the errors of its predictions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from . import ticks
from .theme import Theme, new_figure, picture

if TYPE_CHECKING:
    from ..fitting.result import Fit

WIDEST = 1.5
"""Relative deviation at which the axis of coefficients ends: a longer interval ends in an arrow."""


@picture
def fit_figure(found: Fit, *, theme: Theme) -> Any:
    """The interval of each coefficient over its value, and below it the errors of predictions.

    A hollow marker is a coefficient that the rows cannot pin down. Bars are the 68.3 % intervals of the fit.

    Parameters
    ----------
    found : of :func:`depthwidth.fit`.
    theme : ``light`` or ``dark``.

    Raises
    ------
    InputError
        if matplotlib is not installed or there is no such theme.
    """
    rows, errors = found.rows(), _errors(found)
    name = "your law" if found.law.name == "own" else found.law.name
    title = f"Fit of {name}: {found.points:,} rows of {found.groups:,} models"
    figure = new_figure(1.5 + 0.3 * len(rows) + 0.9 + 0.3 * len(errors), theme, title)
    coefficients, predictions = figure.subplots(2, 1, height_ratios=(len(rows) + 1.2, len(errors) + 1.2))
    _draw_coefficients(coefficients, rows, theme)
    _draw_errors(predictions, errors, found.logarithm, theme)
    return figure


def _draw_coefficients(axes: Any, rows: list[dict[str, Any]], theme: Theme) -> None:
    reach = 0.02
    for place, row in enumerate(rows):
        value = row["value"]
        if not value:
            continue
        ends = sorted(end / value - 1 for end in (row["low"], row["high"]) if math.isfinite(end))
        color = theme.series[1 if row["verdict"] else 0]
        hollow = {"markerfacecolor": theme.background} if row["verdict"] else {}
        if ends:
            low, high = (max(-WIDEST, min(WIDEST, end)) for end in (ends[0], ends[-1]))
            reach = max(reach, -low, high)
            axes.plot([low, high], [place, place], color=color, linestyle="-", marker="", linewidth=1.6)
            for end, cut, marker in ((ends[0], low, "<"), (ends[-1], high, ">")):
                if end != cut:
                    axes.plot([cut], [place], color=color, linestyle="", marker=marker, markersize=6, clip_on=False)
        axes.plot([0], [place], color=color, linestyle="", marker="s" if row["verdict"] else "o", markersize=6, **hollow)
    axes.axvline(0, color=theme.muted, linewidth=0.8, linestyle="-", marker="", zorder=0)
    axes.set_xlim(-1.06 * reach, 1.06 * reach)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), labels=[_row_label(row) for row in rows])
    axes.grid(visible=False, axis="y")
    ticks.set_ticks(axes.xaxis, ticks.percent)
    hollow_ones = any(row["verdict"] for row in rows)
    axes.set_title("Coefficients" + ("; hollow: not pinned down" if hollow_ones else ""))
    axes.set_xlabel("ends of the interval over the value, less 1")


def _row_label(row: dict[str, Any]) -> str:
    value = float(f"{row['value']:.3g}")
    return f"{row['name']} = {ticks.plain(value)}"


def _errors(found: Fit) -> dict[str, float]:
    """Known root mean square errors of predictions, by predicted and fitted models."""
    held, errors = found.held_out, {"fitted models": found.residual_rms}
    if held is not None:
        errors["each from the others"] = held.one_model
        errors |= {} if held.surface is None else {"the same, by a surface": held.surface}
        errors |= {} if held.large is None else {"large from small ones": held.large}
    return {name: float(error) for name, error in errors.items() if math.isfinite(error)}


def _draw_errors(axes: Any, errors: dict[str, float], logarithm: bool, theme: Theme) -> None:
    for place, error in enumerate(errors.values()):
        axes.plot([0, error], [place, place], color=theme.series[2], linestyle="-", marker="", linewidth=1.6)
        axes.plot([error], [place], color=theme.series[2], linestyle="", marker="D", markersize=6)
    axes.set_xlim(0, 1.12 * max([*errors.values(), 1e-12]))
    axes.set_ylim(len(errors) - 0.4, -0.6)
    axes.set_yticks(range(len(errors)), labels=list(errors))
    axes.grid(visible=False, axis="y")
    ticks.set_ticks(axes.xaxis, ticks.percent if logarithm else ticks.plain)
    axes.set_title("Error of predictions, root mean square")
