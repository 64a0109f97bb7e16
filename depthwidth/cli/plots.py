"""Pictures, drawn with matplotlib (the ``plots`` extra)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..coefficients import reference
from ..errors import InputError, shown
from ..formulas.scaling import kaplan_nonembedding_parameters
from ..planning.plan import Plan
from ..quantities import format_count

_FORMATS = (".png", ".pdf", ".svg", ".jpg")


def plot_plan(plan: Plan, path: str | Path) -> None:
    """Plot a plan: the curve of equal budget over depth and width, the curve of each rule, and known models.

    Raises
    ------
    InputError
        if matplotlib is not installed, or the file's ending is not one of its formats, or it cannot be written.
    """
    figure = _figure(path, (9, 6))
    _draw(figure.add_subplot(), plan)
    _save(figure, path)


def plot_moments(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Plot the residual stream of each stack along its depth: variance, correlation between tokens, gradient variance.

    `rows` are those of :func:`~depthwidth.analysis.propagation.moments_of`. Raises what :func:`plot_plan` raises.
    """
    figure = _figure(path, (12, 4))
    panels = figure.subplots(1, 3)
    for stack in ("encoder", "decoder"):
        for axes, direction, quantity in zip(
            panels, ("forward", "forward", "gradient"), ("variance", "correlation", "variance"), strict=True
        ):
            found = [
                (row["layer"], row[quantity])
                for row in rows
                if row["direction"] == direction and row["site"] == f"{stack}.block.{row['layer']}"
            ]
            if found:
                axes.plot(*zip(*sorted(found), strict=True), label=stack)
            axes.set_title(f"{direction} {quantity}")
            axes.set_xlabel("after block")
            axes.grid(alpha=0.25)
    for axes in (panels[0], panels[2]):
        axes.set_yscale("log")
    panels[0].legend()
    _save(figure, path)


def plot_trainability(path: str | Path, length: int, depth: int, activation: str = "tanh") -> None:
    """Plot rank collapse and entropy collapse over query-key gain (horizontal) and residual gain (vertical).

    See :func:`depthwidth.analysis.concentration.trainability`. Raises what
    :func:`plot_plan` raises.
    """
    import numpy as np

    from ..analysis.concentration import trainability

    figure = _figure(path, (12, 4.5))
    found = trainability(
        np.linspace(0.05, 4.0, 60), np.linspace(0.0, 3.0, 40), depth=depth, length=length, activation=activation
    )
    for axes, values, title in zip(
        figure.subplots(1, 2), (1 - found.correlation, found.squared_sum),
        (f"1 - correlation of two tokens after {depth} blocks", "sum of squared weights in the last layer"), strict=True,
    ):  # fmt: skip
        mesh = axes.pcolormesh(found.beta, found.residual_gain, values, vmin=0, vmax=1, shading="nearest")
        axes.plot(found.boundary, found.residual_gain, color="white", lw=1.5, label="entropy collapse to the right")
        if found.critical_gain is not None:
            axes.axhline(found.critical_gain, color="white", ls="--", label="rank collapse below, left of the line")
        axes.set_xlim(found.beta[0], found.beta[-1])
        axes.set_xlabel("query-key gain beta: scores have variance beta^2 ln n")
        axes.set_ylabel("residual gain alpha of the attention layer")
        axes.set_title(title)
        axes.figure.colorbar(mesh, ax=axes)
    axes.legend(loc="upper right", framealpha=0.4)
    _save(figure, path)


def check_target(path: str | Path) -> None:
    """Refuse a file that cannot be written, before anything is computed for it.

    Raises
    ------
    InputError
        if its ending is not one of the formats, or its folder is missing or not writable.
    """
    if Path(path).suffix.lower() not in _FORMATS:
        raise InputError(f"plot: {shown(str(path))} does not end in {', '.join(_FORMATS)}")
    folder = Path(path).parent
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise InputError(f"plot: {shown(str(path))} cannot be written: its folder does not exist or is not writable")


def _figure(path: str | Path, size: tuple[float, float]) -> Any:
    """An empty figure, for a file that can be written."""
    check_target(path)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("plot: matplotlib is not installed; pip install 'depthwidth[plots]'") from None
    return Figure(figsize=size, layout="constrained")


def _save(figure: Any, path: str | Path) -> None:
    from ..files import open_whole

    try:
        with open_whole(Path(path)) as file:  # a picture that cannot be drawn or written leaves no file
            figure.savefig(file, dpi=150, format=Path(path).suffix.lower().removeprefix("."))
    except OSError as error:
        raise InputError(f"plot: {shown(str(path))} cannot be written ({error.strerror})") from None


def _draw(axes: Any, plan: Plan) -> None:
    from matplotlib.ticker import LogLocator

    curve = plan.equal_budget_curve()
    axes.plot([d for d, _ in curve], [w for _, w in curve], color="black", lw=1.2, label=f"{plan.budget}")
    for found in plan.rules.values():
        marker = "s" if found.comparison else "o"
        line = axes.plot([found.depth], [found.width], marker, ms=7, label=found.rule, zorder=4)[0]
        points = plan.rule_curve(found.rule)
        axes.plot([d for d, _ in points], [w for _, w in points], ":", color=line.get_color(), lw=1)
    axes.plot([plan.shape.depth], [plan.shape.width], "*", ms=18, color="crimson", label="recommended", zorder=5)
    if plan.coefficient_band is not None:
        (shallow, deep), (narrow, wide) = plan.coefficient_band.depth, plan.coefficient_band.width
        axes.plot([shallow, deep], [wide, narrow], color="crimson", lw=5, alpha=0.35, label="coefficient error")
    low, high = curve[0][0], curve[-1][0]
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_ylim(curve[-1][1], curve[0][1])
    _draw_known_models(axes)
    axes.set_xlabel("depth (layers)")
    axes.set_ylabel("width (dimensions)")
    axes.set_title(f"Shapes that use {plan.budget}")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axis.set_major_formatter(lambda value, _: format_count(value))
        axis.set_minor_formatter("")
    axes.figure.legend(fontsize=8, loc="outside right upper")
    axes.grid(alpha=0.25, which="both")


def _draw_known_models(axes: Any) -> None:
    names: dict[tuple[float, float], list[str]] = {}
    for row in (*reference("gpt3_family"), *reference("real_models")):
        models = names.setdefault((float(row["depth"]), float(row["width"])), [])
        if row["model"] not in models:
            models.append(row["model"])
    for (depth, width), models in names.items():
        axes.plot([depth], [width], ".", color="gray", ms=4)
        label = f"{' / '.join(models)} ({format_count(kaplan_nonembedding_parameters(depth, width), 2)})"
        near = {"fontsize": 6, "color": "gray", "xytext": (3, 2), "textcoords": "offset points"}
        axes.annotate(label, (depth, width), annotation_clip=True, **near)
