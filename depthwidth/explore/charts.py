"""Two small charts as SVG text. Colours and line styles are those of the style sheet, which has them for light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

WIDTH = 400
"""Units across a chart: at the width of a phone one unit is about one pixel."""
_ROW, _TOP, _LEFT, _RIGHT = 18, 8, 96, 100


class Dot(NamedTuple):
    """A rule's shape on the chart of rules."""

    name: str
    depth: float
    words: str
    role: str
    """``own`` for the plan's rule, ``rule`` for others, ``comparison`` for those outside the range across rules."""


def rules_chart(dots: Sequence[Dot], bands: Sequence[tuple[float, float]], suggested: int) -> str:
    """The depth that each rule prefers, on a logarithmic axis.

    Parameters
    ----------
    dots : one a row.
    bands : intervals of depth that cost little, from the widest to the narrowest; they are shaded.
    suggested : number of layers, a line from top to bottom.
    """
    depths = [float(suggested), *(dot.depth for dot in dots), *(end for band in bands for end in band)]
    low, high = math.log(max(min(depths), 0.5)) - 0.1, math.log(max(depths)) + 0.1
    span = WIDTH - _LEFT - _RIGHT

    def x(depth: float) -> float:
        return round(_LEFT + span * (math.log(max(depth, 0.5)) - low) / (high - low), 1)

    bottom = _TOP + _ROW * len(dots)
    parts = [
        f'<rect class="band band{number}" x="{x(start)}" width="{max(x(end) - x(start), 1):.1f}" y="{_TOP}" '
        f'height="{bottom - _TOP}"/>'
        for number, (start, end) in enumerate(bands)
    ]
    for tick in _ticks(math.exp(low), math.exp(high), 4):
        parts.append(f'<line class="grid" x1="{x(tick)}" x2="{x(tick)}" y1="{_TOP}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x(tick)}" y="{bottom + 14}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<line class="suggested" x1="{x(suggested)}" x2="{x(suggested)}" y1="{_TOP}" y2="{bottom}"/>')
    for number, dot in enumerate(dots):
        y = _TOP + _ROW * (number + 0.5)
        parts.append(f'<text class="{dot.role}" x="0" y="{y + 4:g}">{escape(dot.name)}</text>')
        parts.append(f'<circle class="dot {dot.role}" cx="{x(dot.depth)}" cy="{y:g}" r="4"/>')
        parts.append(f'<text class="value" x="{WIDTH}" y="{y + 4:g}" text-anchor="end">{escape(dot.words)}</text>')
    middle = _LEFT + span / 2
    parts.append(f'<text class="tick" x="{middle}" y="{bottom + 28}" text-anchor="middle">layers</text>')
    parts.append(f'<text class="tick" x="{WIDTH}" y="{bottom + 14}" text-anchor="end">layers x width</text>')
    return _svg("Layers that each rule prefers at this budget", bottom + 34, parts)


def growth_chart(forward: Sequence[float], gradient: Sequence[float]) -> str:
    """Second moments along the depth, each relative to its start, on a logarithmic axis.

    Parameters
    ----------
    forward : of the signal after each block; relative to the first block.
    gradient : of the gradient there; relative to the last block, from which it runs back.
    """
    height, top, left, right = 200, 8, 44, 8
    lines = {
        "forward": [value / forward[0] if forward[0] else math.nan for value in forward],
        "gradient": [value / gradient[-1] if gradient[-1] else math.nan for value in gradient],
    }
    logs = [math.log10(value) for values in lines.values() for value in values if value > 0 and math.isfinite(value)] or [0.0]
    low, high = min(0.0, *logs), max(0.0, *logs)
    if high - low < 0.5:
        low, high = low - 0.25, high + 0.25
    bottom, last = height - 34, max(len(forward) - 1, 1)

    def x(layer: int) -> float:
        return round(left + (WIDTH - left - right) * layer / last, 1)

    def y(value: float) -> float:
        return round(bottom - (bottom - top) * (math.log10(value) - low) / (high - low), 1)

    parts = []
    for tick in _ticks(10**low, 10**high, 6):
        parts.append(f'<line class="grid" x1="{left}" x2="{WIDTH - right}" y1="{y(tick)}" y2="{y(tick)}"/>')
        parts.append(f'<text class="tick" x="{left - 6}" y="{y(tick) + 4}" text-anchor="end">{_short(tick)}</text>')
    parts += [
        f'<text class="tick" x="{x(layer)}" y="{bottom + 15}" text-anchor="middle">{layer + 1}</text>'
        for layer in sorted({round(last * share / 4) for share in range(5)})
    ]
    for name, values in lines.items():
        points = " ".join(f"{x(i)},{y(v)}" for i, v in enumerate(values) if v > 0 and math.isfinite(v))
        parts.append(f'<polyline class="line {name}" points="{points}"/>')
    parts.append(f'<text class="tick" x="{(WIDTH + left) / 2}" y="{height - 4}" text-anchor="middle">after block</text>')
    return _svg("Growth of signal and gradient along the depth", height, parts)


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img"><title>{escape(title)}</title>{"".join(parts)}</svg>'
    )


def _ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` round numbers on a logarithmic axis: as many digits of each decade as fit, or fewer powers of ten."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 2, 3, 5, 7)):
        inside = [tick for decade in decades for digit in digits if low <= (tick := digit * 10.0**decade) <= high]
        if len(inside) > most:
            break
        found = inside
    if found:
        return found
    powers = [10.0**decade for decade in decades if low <= 10.0**decade <= high]
    step = math.ceil(len(powers) / most)
    return [power for power in powers if round(math.log10(power)) % step == 0]


def _short(value: float) -> str:
    return f"{value:g}" if 1e-3 < value < 1e5 else f"1e{round(math.log10(value))}"
