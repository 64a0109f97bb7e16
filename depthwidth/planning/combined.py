"""Bands of the combined rule: for the best width at a size, and for the loss of another width."""

from __future__ import annotations

import functools
import math
from typing import Any

from ..coefficients import coefficient, reference
from ..errors import InputError, shown
from ..formulas import rules as laws
from ..numerics.roots import false_position
from ..numerics.student import student_quantile, student_share
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
    of_rules: tuple[float, float] | None = None
    """Least and largest width of these rules; None if the band need not hold them."""


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
    if not beyond:
        return WidthBand(low, width, high, level, beyond)
    widths = _widths_of_rules(size)
    ends = min(widths), max(widths)
    return WidthBand(min(low, ends[0]), width, max(high, ends[1]), level, beyond, ends)


def _widths_of_rules(size: float) -> list[float]:
    def plain(depth: float, width: float) -> float:
        return 12 * depth * width**2

    found = (meet(rule.curve(), plain, size) for rule in rules().values() if not rule.pooled)
    return [shape[1] for shape in found if shape is not None]


def penalty_band(width: float, parameters: float | str, level: float = 0.9) -> tuple[float, float]:
    """Least and largest relative loss of a width at a number of parameters without embeddings, above that of the best one.

    The band lies between quantiles of the loss if the best width and the curvature follow Student's distributions of their own
    sources; equal shares are left out below and above it. Beyond the sizes of the sources the band also holds the losses by the
    best widths of all rules.

    Raises
    ------
    InputError
        as :func:`best_width_band`, and for a width that is not a positive number.

    Examples
    --------
    >>> low, high = penalty_band(2048, 1e9)
    >>> f"{low:.2%} to {high:.2%}"
    '0.04% to 2.72%'
    """
    band = best_width_band(parameters, level)
    value = float(parse_count(width, "width"))
    size = float(parse_count(parameters, "parameters"))
    return LossBand(level, size, math.log(value / band.width)).ends(band)


class LossBand:
    """A band for the loss of a shape above the best one, if best width and curvature are those of one more source.

    Along the shapes of one budget the loss is k x^2 + slope x, with x the ln of the width over the best one; the second term is
    that of the size that a wider embedding takes away. The shape is held against the least of that curve.

    Parameters
    ----------
    level : share of sources whose losses the band is to hold.
    size : parameters without embeddings.
    offset : ln of the shape's width over the combined rule's.
    slope : change of the relative loss with ln(width) by the size alone; 0 at equal size.
    rest : loss of the shape by its size that the slope leaves out, as for a shape far from the best one.
    farthest : largest shift of the best ln(width) that the size may cause.
    """

    def __init__(
        self,
        level: float,
        size: float,
        offset: float,
        slope: float = 0.0,
        rest: float = 0.0,
        *,
        farthest: float = math.inf,
    ) -> None:
        self.level, self.offset, self.slope, self.rest, self.farthest = level, offset, slope, rest, farthest
        self.error = float(laws.combined_relative_width_error(size))
        self.degrees = int(coefficient(LAW, "degrees").value)

    def ends(self, band: WidthBand) -> tuple[float, float]:
        """Least and largest relative loss; beyond the sources they hold those by the best widths of all rules."""
        low, high = (self.quantile((1 + sign * self.level) / 2) for sign in (-1, 1))
        if band.of_rules:
            widths = [math.log(edge / band.width) for edge in band.of_rules]
            least, most = (_curvature((1 + sign * self.level) / 2) for sign in (-1, 1))
            nearest = min(max(self.offset, widths[0]), widths[1])
            low = min(low, self.lost(nearest, least))
            high = max(high, *(self.lost(shift, most) for shift in widths))
        return low, high

    def lost(self, shift: float, k: float) -> float:
        """The relative loss if the best ln(width) is shifted so far from the combined rule's."""
        moved, left = self._at(k)
        t = self.offset + moved - shift
        return max(0.0, t * (k * t + left) + self.rest)

    def _at(self, k: float) -> tuple[float, float]:
        """The distance of the best width at this budget from that at equal size, and the slope that is left there."""
        moved = max(-self.farthest, min(self.slope / (2 * k), self.farthest))
        return moved, self.slope - 2 * k * moved

    def quantile(self, share: float) -> float:
        """The relative loss below which this share of all draws lies."""
        nodes = [(weight, k, *self._at(k)) for weight, k in curvatures(_NODES)]

        def excess(log_root: float) -> float:
            by_shape, below = math.exp(2 * log_root) - self.rest, 0.0
            for weight, k, moved, left in nodes:
                half = left / (2 * k)
                middle, reach = self.offset + moved + half, math.sqrt(max(0.0, half * half + by_shape / k))
                upper, lower = (student_share((middle + way) / self.error, self.degrees) for way in (reach, -reach))
                below += weight * (upper - lower)
            # In the ln of the odds the shares are nearly straight over the logarithm of the loss.
            return math.log(below / (1 - below)) - wanted if 0 < below < 1 else math.inf * (below - 0.5)

        wanted = math.log(share / (1 - share))
        log_root = false_position(excess, *_LOG_ROOTS, close=1e-6)
        return 0.0 if log_root is None else math.exp(2 * log_root)


_LOG_ROOTS = (math.log(1e-6), math.log(10.0))
"""ln of the root of the least and of the largest loss that are sought."""
_NODES = 15
"""Number of curvatures that represent their distribution."""


def _curvature(share: float) -> float:
    """The curvature below which that of one more source is with this probability."""
    log_k, error, degrees = (coefficient(LAW, name).value for name in ("ln_k", "k_error", "k_degrees"))
    return math.exp(log_k + error * student_quantile(share, int(degrees)))


@functools.cache
def curvatures(number: int) -> tuple[tuple[float, float], ...]:
    """Curvatures that represent their distribution: pairs of a weight and a curvature; weights sum to 1."""
    return tuple((weight, _curvature(share)) for weight, share in _shares(number))


def shifts(number: int, error: float) -> list[tuple[float, float]]:
    """Distances of the best ln(width) from the combined rule's, as :func:`curvatures`: pairs of a weight and a distance."""
    degrees = int(coefficient(LAW, "degrees").value)
    return [(weight, error * student_quantile(share, degrees)) for weight, share in _shares(number)]


def _shares(number: int) -> list[tuple[float, float]]:
    """Weights and shares (1 - cos a)/2 with a evenly over half a turn, so that they are closer together in the tails."""
    angles = [math.pi * (i + 0.5) / number for i in range(number)]
    total = sum(map(math.sin, angles))
    return [(math.sin(angle) / total, (1 - math.cos(angle)) / 2) for angle in angles]


def calibration_words() -> str:
    """The measured shares of both kinds of bands, as in ``12 and 22 of 22 best widths, 34 and 53 of 55 losses``."""

    def held(prefix: str, cells: str) -> str:
        inside = " and ".join(f"{coefficient(LAW, f'{prefix}inside_{100 * level:.0f}').value:.0f}" for level in LEVELS)
        return f"{inside} of {coefficient(LAW, cells).value:.0f}"

    return f"{held('', 'calibration_cells')} best widths, {held('loss_', 'loss_cells')} losses"


def calibration_rows() -> list[dict[str, Any]]:
    """The cells of ``data/reference/combined_calibration.csv``: what each source measured, and its bands by the others.

    ``value`` is the best width that a source found at a size, or the relative loss of one of its widths; both are seen with
    errors of their own, which are in the bands.
    """
    words = ("quantity", "source", "status")
    return [
        {
            name: text if name in words else int(text) if name.startswith("inside") else float(text) if text else None
            for name, text in row.items()
        }
        for row in reference("combined_calibration")
    ]
