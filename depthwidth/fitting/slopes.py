"""The value of a law and its derivatives by several coefficients, in one pass over its expression."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..numerics.expressions import FUNCTIONS, Node

Array = NDArray[np.float64]
Slopes = dict[str, Any]
"""Derivatives that are not identically zero, by coefficient."""


def value_and_slopes(node: Node, values: Mapping[str, Any], names: Set[str]) -> tuple[Any, Slopes]:
    """The value of `node` and its derivatives by each of `names` on which it depends (forward mode, exact).

    Parameters
    ----------
    node : the right side of a law.
    values : columns, shape (points,), and coefficients, numbers.
    names : coefficients to differentiate by.
    """
    if node.constant is not None:
        return node.constant, {}
    if node.kind == "variable":
        return values[node.text], ({node.text: 1.0} if node.text in names else {})
    parts = [value_and_slopes(part, values, names) for part in node.parts]
    if node.kind == "neg":
        u, du = parts[0]
        return -u, {name: -d for name, d in du.items()}
    if node.kind in FUNCTIONS:
        u, du = parts[0]
        function = FUNCTIONS[node.kind]
        value = function.value(u)
        slope = (value if node.kind == "exp" else function.slope(u)) if du else 0.0
        return value, {name: slope * d for name, d in du.items()}
    (u, du), (v, dv) = parts
    return _PAIRS[node.kind](u, du, v, dv)


def _combine(du: Slopes, by_u: Any, dv: Slopes, by_v: Any) -> Slopes:
    found = {name: by_u * d for name, d in du.items()}
    for name, d in dv.items():
        found[name] = found[name] + by_v * d if name in found else by_v * d
    return found


def _power(u: Any, du: Slopes, v: Any, dv: Slopes) -> tuple[Any, Slopes]:
    u = np.float64(u) if np.ndim(u) == 0 else u
    value = u**v
    found = {name: v * u ** (v - 1) * d for name, d in du.items()}
    if dv:
        by_v = value * np.log(u)
        found = _combine(found, 1.0, dv, by_v)
    return value, found


def _divide(u: Any, du: Slopes, v: Any, dv: Slopes) -> tuple[Any, Slopes]:
    v = np.float64(v) if np.ndim(v) == 0 else v
    value = u / v
    return value, _combine(du, 1 / v, dv, -value / v)


def _chosen(larger: bool) -> Callable[[Any, Slopes, Any, Slopes], tuple[Any, Slopes]]:
    def chosen(u: Any, du: Slopes, v: Any, dv: Slopes) -> tuple[Any, Slopes]:
        first = np.asarray(u > v if larger else u < v)
        return np.where(first, u, v), _combine(du, first * 1.0, dv, 1.0 - first)

    return chosen


_PAIRS: dict[str, Callable[[Any, Slopes, Any, Slopes], tuple[Any, Slopes]]] = {
    "+": lambda u, du, v, dv: (u + v, _combine(du, 1.0, dv, 1.0)),
    "-": lambda u, du, v, dv: (u - v, _combine(du, 1.0, dv, -1.0)),
    "*": lambda u, du, v, dv: (u * v, _combine(du, v, dv, u)),
    "/": _divide,
    "^": _power,
    "max": _chosen(larger=True),
    "min": _chosen(larger=False),
}


def linear_coefficients(node: Node, names: tuple[str, ...]) -> frozenset[str]:
    """Coefficients in which the law is affine jointly, however the others are chosen: those that a projection eliminates."""
    found: frozenset[str] = frozenset()
    for name in names:
        if _affine(node, found | {name}):
            found |= {name}
    return found


def _affine(node: Node, names: frozenset[str]) -> bool:
    if not node.variables & names or node.kind == "variable":
        return True
    if node.kind in ("+", "-", "neg"):
        return all(_affine(part, names) for part in node.parts)
    if node.kind == "*":
        one, other = node.parts
        return (not one.variables & names and _affine(other, names)) or (not other.variables & names and _affine(one, names))
    if node.kind == "/":
        return not node.parts[1].variables & names and _affine(node.parts[0], names)
    return False
