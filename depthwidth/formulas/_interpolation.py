"""Linear interpolation between points, for tables without a law."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ..mathematics import maximum, minimum


def broken_line(x: Any, knots: list[tuple[float, Any]]) -> Any:
    """The broken line through `knots`, held constant beyond its ends."""
    value = knots[0][1]
    for (x0, y0), (x1, y1) in pairwise(knots):
        inside = minimum(maximum(x, x0), x1)
        value = value + (y1 - y0) * (inside - x0) / (x1 - x0)
    return value
