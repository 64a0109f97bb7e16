"""Direct labels without collisions, placed by a fixed procedure: the same picture always gets the same places.

Labels are placed in their order. Each takes the nearest free place around its point, or a farther one with a leader to the
point. A place is free if it lies inside the axes and touches no other label and no marker; of free places the one that
covers least of the lines is taken. A label without a free place, or whose point lies outside, is left out.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

DISTANCES = (6.0, 13.0, 22.0, 34.0, 48.0, 66.0)
"""Of a label from its point, in points."""
LEADER_FROM = 13.0
"""Distance from which a line joins a label to its point."""
GAP = 1.5
"""Between two labels, in points."""
LINE_STEP = 3.0
"""Between the sampled points of a line, in pixels."""


@dataclass(frozen=True)
class Label:
    """A label next to a data point."""

    x: float
    y: float
    text: str
    style: dict[str, Any] = field(default_factory=dict)
    """Arguments of ``annotate``: ``color``, ``fontsize``, ``fontweight``."""


Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in pixels."""
Segment = tuple[float, float, float, float]
"""From x, y to x, y, in pixels."""


def overlap(one: Box, other: Box) -> float:
    """Area that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def ground(background: Any) -> dict[str, Any]:
    """A background patch in the page's colour, which keeps a text readable across a line.

    A rim around the letters would look better, but would take ten times the room in an SVG file.
    """
    return {"boxstyle": "square,pad=0.06", "facecolor": background, "edgecolor": "none", "alpha": 0.72}


def settle(figure: Any) -> Any:
    """Fix the layout of a figure, and return its renderer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    if not hasattr(figure.canvas, "get_renderer"):  # of a figure that was not begun here
        FigureCanvasAgg(figure)
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    return figure.canvas.get_renderer()


def place_labels(axes: Any, labels: Iterable[Label], keep_clear: Sequence[Box] = (), *, leader: str = "gray") -> list[Any]:
    """Place labels on axes whose limits are final, and return their artists.

    Parameters
    ----------
    axes : of matplotlib.
    labels : in the order of their importance.
    keep_clear : further boxes that no label may touch.
    leader : colour of the lines from labels to points.
    """
    figure = axes.figure
    renderer = settle(figure)
    scale = figure.dpi / 72
    frame = _box(axes.get_window_extent(renderer))
    texts = [text for text in axes.texts if text.get_visible() and text.get_text()]
    taken = [*keep_clear, *(text_box(text, renderer) for text in texts)]
    markers, samples = list(_markers(axes, scale)), list(_samples(axes))
    leaders: list[Segment] = []
    made = []
    for label in labels:
        at = tuple(axes.transData.transform((label.x, label.y)))
        if not _holds(frame, at):
            continue
        size = _size(axes, label, renderer)
        best: tuple[float, Box, tuple[float, float], float, Segment | None] | None = None
        for distance, dx, dy in _places():
            if best is not None and distance > best[0]:
                break  # nothing farther can cost less
            box = _box_at((at[0] + dx * distance * scale, at[1] + dy * distance * scale), size, dx, dy)
            line = (*at, *_nearest_of(box, at)) if distance >= LEADER_FROM else None
            if not _is_free(box, line, frame, taken, markers, leaders, GAP * scale):
                continue
            covered = sum(weight for x, y, weight in samples if box[0] <= x <= box[2] and box[1] <= y <= box[3])
            crossed = 0 if line is None else sum(_crosses(marker, line) for marker in markers if not _holds(marker, at))
            cost = distance + 3.0 * covered + 25.0 * crossed + (0.5 if dx < 0 else 0.0)
            if best is None or cost < best[0]:
                best = cost, box, (dx, dy), distance, line
        if best is None:
            continue
        _, box, way, distance, line = best
        taken.append(box)
        leaders += [line] if line else []
        made.append(_annotate(axes, label, way, distance, leader))
    return made


def _is_free(
    box: Box, line: Segment | None, frame: Box, taken: Iterable[Box], markers: Iterable[Box], leaders: Iterable[Segment],
    gap: float,
) -> bool:  # fmt: skip
    """True if a label may be in this box, with this leader."""
    wide = _grown(box, gap)
    if not _inside(box, frame) or any(overlap(wide, other) for other in taken) or any(overlap(box, one) for one in markers):
        return False
    if any(_crosses(box, one) for one in leaders):
        return False
    return line is None or not (any(_crosses(other, line) for other in taken) or any(_meet(one, line) for one in leaders))


def _places() -> Iterator[tuple[float, float, float]]:
    """Distance and direction of each place, the nearest first."""
    near = [(1, 0), (0.7, 0.7), (0.7, -0.7), (0, 1), (0, -1), (-1, 0), (-0.7, 0.7), (-0.7, -0.7)]
    between = [
        (0.92, 0.38),
        (0.92, -0.38),
        (0.38, 0.92),
        (0.38, -0.92),
        (-0.38, 0.92),
        (-0.38, -0.92),
        (-0.92, 0.38),
        (-0.92, -0.38),
    ]
    for distance in DISTANCES:
        for dx, dy in near if distance < LEADER_FROM else (*near, *between):
            yield distance, dx, dy


_SIDES = {1: ("left", "bottom"), 0: ("center", "center"), -1: ("right", "top")}


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _box_at(point: tuple[float, float], size: tuple[float, float], dx: float, dy: float) -> Box:
    """The box of a text whose corner or side that looks at its point is at `point`."""
    width, height = size
    left = point[0] - width * (1 - _sign(dx)) / 2
    bottom = point[1] - height * (1 - _sign(dy)) / 2
    return left, bottom, left + width, bottom + height


def _annotate(axes: Any, label: Label, way: tuple[float, float], distance: float, leader: str) -> Any:
    arrow = (
        {"arrowstyle": "-", "linewidth": 0.6, "color": leader, "shrinkA": 0, "shrinkB": 2} if distance >= LEADER_FROM else None
    )
    return axes.annotate(
        label.text, (label.x, label.y), xytext=(way[0] * distance, way[1] * distance), textcoords="offset points",
        ha=_SIDES[_sign(way[0])][0], va=_SIDES[_sign(way[1])][1], arrowprops=arrow, zorder=6, bbox=ground(axes.get_facecolor()),
        **label.style,
    )  # fmt: skip


def _size(axes: Any, label: Label, renderer: Any) -> tuple[float, float]:
    trial = axes.annotate(label.text, (label.x, label.y), **label.style)
    box = trial.get_window_extent(renderer)
    trial.remove()
    return float(box.width), float(box.height)


def text_box(text: Any, renderer: Any) -> Box:
    """The box of a text alone, without the line that may lead from it."""
    from matplotlib.text import Text

    return _box(Text.get_window_extent(text, renderer))


def _box(extent: Any) -> Box:
    return float(extent.x0), float(extent.y0), float(extent.x1), float(extent.y1)


def _grown(box: Box, by: float) -> Box:
    return box[0] - by, box[1] - by, box[2] + by, box[3] + by


def _inside(box: Box, frame: Box) -> bool:
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]


def _nearest_of(box: Box, point: tuple[float, float]) -> tuple[float, float]:
    return min(max(point[0], box[0]), box[2]), min(max(point[1], box[1]), box[3])


def _holds(box: Box, point: tuple[float, float]) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def _meet(one: Segment, other: Segment) -> bool:
    """True if two segments cross."""

    def side(line: Segment, x: float, y: float) -> float:
        return (line[2] - line[0]) * (y - line[1]) - (line[3] - line[1]) * (x - line[0])

    def parts(line: Segment, cut: Segment) -> bool:
        return side(line, cut[0], cut[1]) * side(line, cut[2], cut[3]) < 0

    return parts(one, other) and parts(other, one)


def _crosses(box: Box, line: Segment) -> bool:
    """True if a segment passes through a box; it is sampled, as leaders are short."""
    x0, y0, x1, y1 = line
    return any(
        box[0] < x0 + t * (x1 - x0) < box[2] and box[1] < y0 + t * (y1 - y0) < box[3] for t in (i / 12 for i in range(1, 12))
    )


def _shown_lines(axes: Any) -> Iterator[tuple[Any, list[tuple[float, float]]]]:
    for line in axes.lines:
        if line.get_visible() and line.get_transform() == axes.transData:
            points = axes.transData.transform(line.get_xydata())
            yield line, [(x, y) for x, y in points.tolist() if math.isfinite(x) and math.isfinite(y)]


def _markers(axes: Any, scale: float) -> Iterator[Box]:
    for line, points in _shown_lines(axes):
        if line.get_marker() not in ("", "None", " ", None, ",", "|", "_"):
            half = line.get_markersize() * scale / 2
            yield from ((x - half, y - half, x + half, y + half) for x, y in points)


def _samples(axes: Any) -> Iterator[tuple[float, float, float]]:
    """Points along lines and error bars, each with the weight of covering it."""
    frame = _grown(_box(axes.bbox), 1.0)
    paths = [
        (points, float(line.get_linewidth()) * (line.get_alpha() or 1.0))
        for line, points in _shown_lines(axes)
        if line.get_linestyle() not in ("None", "", " ")
    ]
    for bars in axes.collections:  # of error bars
        if hasattr(bars, "get_segments"):
            paths += [(axes.transData.transform(bar).tolist(), 4.0) for bar in bars.get_segments()]
    for points, weight in paths:
        for (x0, y0), (x1, y1) in itertools.pairwise(points):
            steps = min(400, max(1, round(math.hypot(x1 - x0, y1 - y0) / LINE_STEP)))
            for i in range(steps):
                x, y = x0 + (x1 - x0) * i / steps, y0 + (y1 - y0) * i / steps
                if frame[0] <= x <= frame[2] and frame[1] <= y <= frame[3]:
                    yield x, y, weight


def spread(wanted: Sequence[float], distance: float, low: float, high: float) -> list[float]:
    """Positions in the order of `wanted`, as near to it as `distance` apart and the ends allow.

    >>> [round(value, 2) for value in spread([1.0, 1.0, 5.0], 1.0, 0.0, 10.0)]
    [0.5, 1.5, 5.0]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    if len(order) > 1:
        distance = min(distance, (high - low) / (len(order) - 1))
    groups: list[tuple[list[int], float]] = []  # members, and the place of the first
    for i in order:
        groups.append(([i], wanted[i]))
        while True:
            members, _ = groups[-1]
            span = distance * (len(members) - 1)
            first = sum(wanted[m] - distance * k for k, m in enumerate(members)) / len(members)
            first = min(max(first, low), high - span)
            groups[-1] = members, first
            if len(groups) < 2 or groups[-2][1] + distance * len(groups[-2][0]) <= first + 1e-9:
                break
            groups[-2:] = [(groups[-2][0] + members, first)]
    placed = {m: first + distance * k for members, first in groups for k, m in enumerate(members)}
    return [placed[i] for i in range(len(wanted))]


def label_columns(
    columns: Sequence[tuple[Any, Sequence[Label]]], *, leader: str = "gray", gap: float = 1.25, at: float = 1.045
) -> list[Any]:
    """Place labels in columns on the right of axes whose limits are final, each with a leader to its point if that is in sight.

    Call it before anything else that settles the layout: the columns take their room from the axes.

    Parameters
    ----------
    columns : axes, and the labels beside them.
    leader : colour of the lines from labels to points.
    gap : distance of two labels over their height.
    at : place of the columns, as a share of the width of the axes.
    """
    made = [
        [
            axes.annotate(
                label.text, (label.x, label.y), xycoords="data", xytext=(at, i / max(1, len(labels) - 1)),
                textcoords="axes fraction", ha="left", va="center", annotation_clip=False, **label.style,
            )
            for i, label in enumerate(labels)
        ]
        for axes, labels in columns
    ]  # fmt: skip
    texts = list(itertools.chain.from_iterable(made))
    if not texts:
        return texts
    renderer = settle(columns[0][0].figure)
    height = max(text.get_window_extent(renderer).height for text in texts)
    for (axes, labels), column in zip(columns, made, strict=True):
        frame = axes.get_window_extent(renderer)
        wanted = [float(axes.transData.transform((label.x, label.y))[1]) for label in labels]
        places = spread(wanted, gap * height, frame.y0 + height / 2, frame.y1 - height / 2)
        for text, label, place in zip(column, labels, places, strict=True):
            share = (place - frame.y0) / frame.height
            text.set_position((at, share))
            if not _holds(_grown(_box(frame), 1.0), tuple(axes.transData.transform((label.x, label.y)))):
                continue
            end = axes.transData.inverted().transform(axes.transAxes.transform((at - 0.007, share)))
            axes.plot([label.x, end[0]], [label.y, end[1]], color=leader, linestyle="-", marker="", linewidth=0.5, zorder=1.5,
                      clip_on=False, scalex=False, scaley=False, label="_leader")  # fmt: skip
    return texts
