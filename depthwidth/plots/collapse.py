"""The picture of the two failures of attention at initialisation: rank collapse and entropy collapse over two gains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import ticks
from .theme import Theme, new_figure, picture

BETAS, GAINS = (0.05, 4.0, 60), (0.0, 3.0, 40)
"""First value, last value and number of values of either axis."""


@picture
def collapse_figure(length: int, depth: int, activation: str = "tanh", betas: Sequence[float] = (), *, theme: Theme) -> Any:
    """Likeness of tokens and concentration of attention over query-key gain (across) and residual gain (up).

    Parameters
    ----------
    length, depth, activation : as of :func:`depthwidth.analysis.concentration.trainability`.
    betas : query-key gains of the layers of a model, which are marked.
    theme : ``light`` or ``dark``.

    Raises
    ------
    InputError
        as :func:`~depthwidth.analysis.concentration.trainability`, or if matplotlib is not installed.
    """
    import numpy as np

    from ..analysis.concentration import trainability

    found = trainability(np.linspace(*BETAS), np.linspace(*GAINS), depth=depth, length=length, activation=activation)
    figure = new_figure(7.0, theme, f"Collapse after {depth} blocks on {length:,} tokens")
    panels = figure.subplots(2, 1, sharex=True)
    shown = (
        (1 - found.correlation, "Tokens stay apart: 1 - correlation"),
        (found.squared_sum, "Attention concentrates: sum of squared weights"),
    )
    for axes, (values, title) in zip(panels, shown, strict=True):
        mesh = axes.pcolormesh(
            found.beta, found.residual_gain, values, vmin=0, vmax=1, shading="nearest", cmap="cividis", rasterized=True
        )
        axes.grid(visible=False)
        axes.plot(found.boundary, found.residual_gain, color="white", linestyle="-", marker="", linewidth=1.8)
        if found.critical_gain is not None:
            axes.plot(
                list(BETAS[:2]), [found.critical_gain] * 2, color="white", linestyle=(0, (5, 2)), marker="", linewidth=1.8
            )
        if betas:
            inside = [min(beta, BETAS[1]) for beta in betas]
            axes.plot(inside, [0.02] * len(inside), linestyle="", marker="^", markersize=8, color=theme.accent, clip_on=False,
                      markeredgecolor="white", transform=axes.get_xaxis_transform(), zorder=5)  # fmt: skip
        axes.set_xlim(found.beta[0], found.beta[-1])
        axes.set_ylim(found.residual_gain[0], found.residual_gain[-1])
        axes.set_ylabel("residual gain of attention")
        axes.set_title(title)
        bar = axes.figure.colorbar(mesh, ax=axes)
        bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["0", "0.25", "0.5", "0.75", "1"])
        ticks.set_ticks(axes.yaxis)
    ticks.set_ticks(panels[1].xaxis)
    panels[0].tick_params(labelbottom=True)
    words = "query-key gain: scores have variance gain² ln n"
    notes = ["full line: entropy collapse on its right"]
    if found.critical_gain is not None:
        notes.append("dashes: rank collapse below, on the left of the line")
    if betas:
        notes.append("triangles: the layers of your model")
    panels[1].set_xlabel("\n".join([words, *notes]), loc="left")
    return figure
