"""Bands of the combined rule: for the best width at a size, and for the loss of another width."""

from __future__ import annotations

import math

from ..coefficients import coefficient
from ..errors import InputError, shown
from ..formulas import rules as laws
from ..formulas import shape_penalty
from ..quantities import parse_count
from ..values import frozen
from .rules import meet, rules

LAW = "combined2026"
LEVELS = (0.5, 0.9)


@frozen
class WidthBand:
    """A band for the best width at one size."""

    low: float
    width: float
    high: float
    level: float
    """Share of sources whose best width the band is to hold: 0.5 or 0.9."""
    extrapolated: bool
    """True beyond the sizes of all sources, where the band holds the widths of all rules."""


def best_width_band(parameters: float | str, level: float = 0.9) -> WidthBand:
    """The best width at a number of parameters without embeddings, and the band in which one more source would find it.

    Half of the band is Student's quantile of the combined rule's error. Beyond the sizes of the sources the band also holds the
    width of every rule for text, so that it is never narrower than they disagree.

    Raises
    ------
    InputError
        if there is no such number of parameters or no band of this level; 0.5 and 0.9 are known.

    Examples
    --------
    >>> band = best_width_band(1e9)
    >>> round(band.low), round(band.width), round(band.high)
    (1159, 1470, 1865)
    """
    if level not in LEVELS:
        raise InputError(f"best_width_band: level={shown(level)} is not 0.5 or 0.9")
    size = float(parse_count(parameters, "parameters"))
    width = laws.combined_optimal_width(size)
    half = coefficient(LAW, f"quantile_{100 * level:.0f}").value * laws.combined_relative_width_error(size)
    low, high = width * math.exp(-half), width * math.exp(half)
    beyond = not coefficient(LAW, "non_embedding_min").value <= size <= coefficient(LAW, "non_embedding_max").value
    if beyond:
        widths = _widths_of_rules(size)
        low, high = min(low, *widths), max(high, *widths)
    return WidthBand(low, width, high, level, beyond)


def _widths_of_rules(size: float) -> list[float]:
    def plain(depth: float, width: float) -> float:
        return 12 * depth * width**2

    found = (meet(rule.curve(), plain, size) for rule in rules().values() if not rule.pooled)
    return [shape[1] for shape in found if shape is not None]


def penalty_band(width: float, parameters: float | str, level: float = 0.9) -> tuple[float, float]:
    """Least and largest relative loss of a width at a number of parameters without embeddings, above that of the best one.

    The best width is anywhere in its band, and the curvature between that of over-trained models and that at 20 tokens a
    parameter, each moved by its error.

    Raises
    ------
    InputError
        as :func:`best_width_band`, and for a width that is not a positive number.

    Examples
    --------
    >>> low, high = penalty_band(2048, 1e9)
    >>> f"{low:.2%} to {high:.2%}"
    '0.02% to 3.32%'
    """
    band = best_width_band(parameters, level)
    value = float(parse_count(width, "width"))
    least, most = coefficient(LAW, "k_low"), coefficient(LAW, "k_high")
    nearest = min(max(value, band.low), band.high)
    farthest = max(band.low, band.high, key=lambda edge: abs(math.log(edge / value)))
    return (
        shape_penalty.shape_penalty(value, nearest, least.value - (least.stderr or 0.0)),
        shape_penalty.shape_penalty(value, farthest, most.value + (most.stderr or 0.0)),
    )
