"""The picture of the best shape for a number of FLOPs: its width, depth, parameters and tokens by each law, with errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from . import ticks
from .theme import Theme, new_figure, picture, style_of

if TYPE_CHECKING:
    from ..planning.compute import ComputeOptimum

_QUANTITIES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("depth", "layers", ticks.plain), ("width", "width", ticks.plain), ("parameters", "parameters", ticks.count),
    ("tokens", "training tokens", ticks.count),
)  # fmt: skip


@picture
def compute_figure(found: Sequence[ComputeOptimum], *, theme: Theme) -> Any:
    """The optimum of each law, with one standard error of its coefficients either way, one panel a quantity.

    A hollow marker lies outside the law's data in that quantity. A marker without a bar has an error that is not known.

    Parameters
    ----------
    found : of :func:`~depthwidth.planning.compute.compute_optimum`, all for the same number of FLOPs.
    theme : ``light`` or ``dark``.

    Raises
    ------
    InputError
        if matplotlib is not installed or there is no such theme.
    """
    flops = found[0].training_flops + found[0].serving_flops
    heading = f"Best shape for {ticks.plain(float(f'{flops:.3g}'))} FLOPs"
    figure = new_figure(1.4 + 2 * (0.75 + 0.26 * len(found)), theme, heading)
    panels = figure.subplots(2, 2, sharey=True)
    for axes, (name, title, form) in zip(panels.flat, _QUANTITIES, strict=True):
        axes.set_xscale("log")
        for place, one in enumerate(found):
            _draw(axes, one, name, place, theme)
        axes.margins(x=0.12)
        axes.set_xlim(_widen(axes.get_xlim()))
        ticks.set_ticks(axes.xaxis, form, most=4)
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.set_yticks(range(len(found)), labels=[one.law for one in found])
        axes.grid(visible=False, axis="y")
        axes.set_title(title)
    panels[1][0].set_xlabel("hollow: outside of the data; bar: one standard error", loc="left", fontsize=8.5)
    return figure


def _draw(axes: Any, one: ComputeOptimum, name: str, place: int, theme: Theme) -> None:
    value, point = float(getattr(one, name)), style_of(one.law, theme).point()
    bar = None
    if one.bands is not None:
        low, high = one.bands[name]
        bar = [[max(0.0, value - low)], [max(0.0, high - value)]]
    if name in one.extrapolated:
        point |= {"markerfacecolor": theme.background}
    axes.errorbar([value], [place], xerr=bar, markersize=6, elinewidth=1.4, **point)


def _widen(ends: tuple[float, float], least: float = 4.0) -> tuple[float, float]:
    """The ends of a logarithmic axis, at least a factor apart."""
    low, high = ends
    more = max(1.0, (least / (high / low)) ** 0.5)
    return low / more, high * more
