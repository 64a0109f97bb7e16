"""The picture of a Pareto front: loss over the time of a step of generation, with the memory of each shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..quantities import format_bytes
from . import ticks
from .labels import Label, place_labels
from .theme import Theme, new_figure, picture, ramp

if TYPE_CHECKING:
    from ..planning.candidates import Scores


@picture
def pareto_figure(
    front: Scores, named: Scores | None = None, errors: Sequence[float | None] = (), *, law: str = "", theme: Theme
) -> Any:
    """Shapes that no other beats in loss, latency and memory: loss over milliseconds a step, in the colour of their memory.

    Parameters
    ----------
    front : the shapes, of :func:`~depthwidth.planning.candidates.unbeaten`.
    named : those of them that are labelled, of ``thinned``; None labels none.
    errors : of each of them the standard error of its loss relative to the least one; None if it is not known.
    law : the law of the loss, which the axis names.
    theme : ``light`` or ``dark``.

    Raises
    ------
    InputError
        if matplotlib is not installed or there is no such theme.
    """
    from matplotlib.colors import LogNorm, Normalize

    figure = new_figure(4.6, theme, "Shapes that no other beats in loss, latency and memory")
    axes = figure.subplots()
    times = [1e3 * float(seconds) for seconds in front.decode_seconds]
    losses, memory = [float(loss) for loss in front.loss], [float(amount) for amount in front.serving_memory]
    low, high = min(memory), max(memory)
    norm = (LogNorm if ticks.is_logarithmic(memory) else Normalize)(low, high if high > low else 2 * low)
    dots = axes.scatter(times, losses, c=memory, norm=norm, cmap=ramp(theme), s=18, linewidths=0, zorder=2)
    if named is not None:
        least, known = min(losses), [error or 0.0 for error in errors]
        axes.errorbar(
            [1e3 * float(seconds) for seconds in named.decode_seconds], [float(loss) for loss in named.loss],
            yerr=[least * error for error in known] or None, linestyle="", marker="o", markersize=7, color=theme.accent,
            markerfacecolor="none", elinewidth=1.0, zorder=3,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.margins(0.08)
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    bar = figure.colorbar(dots, ax=axes)
    bar.set_label("weights and cache")
    ticks.set_ticks(bar.ax.yaxis, format_bytes, most=5)
    for axis in (axes.xaxis, axes.yaxis):
        ticks.set_ticks(axis)
    axes.set_xlabel("milliseconds per step of generation")
    axes.set_ylabel(f"predicted loss ({law})" if law else "predicted loss")
    if any(errors):
        axes.set_title("Bars: one standard error against the least loss")
    elif named is not None:
        axes.set_title("No bars: the error of this law is not known")
    if named is not None:
        place_labels(axes, _labels(named, theme), leader=theme.muted)
    return figure


def _labels(named: Scores, theme: Theme) -> list[Label]:
    style = {"fontsize": 8, "color": theme.text}
    return [
        Label(1e3 * row["decode_seconds"], row["loss"], f"{row['depth']} x {row['width']:,}", style) for row in named.rows()
    ]
