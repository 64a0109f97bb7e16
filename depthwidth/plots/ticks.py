"""Ticks at round numbers, written the way people write them: 0.5 %, 4,096, 30M, 10⁻³."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..quantities import format_count

DECADES = 30.0
"""Ratio of the largest to the smallest value from which an axis of positive values is logarithmic."""
MOST = 6
"""Ticks of an axis, at most."""

PANEL, LETTER = 280.0, 5.6
"""Width of a panel, and of a letter of a tick, in points."""

_MANTISSAS = ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def is_logarithmic(values: Iterable[float]) -> bool:
    """True if the values are positive and span a factor of :data:`DECADES` or more.

    >>> is_logarithmic([1.0, 40.0]), is_logarithmic([1.0, 20.0]), is_logarithmic([0.0, 40.0])
    (True, False, False)
    """
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) / min(finite) >= DECADES


def log_ticks(low: float, high: float, most: int = MOST) -> list[float]:
    """Round numbers from `low` to `high` for a logarithmic axis, at most `most`.

    >>> log_ticks(8, 300)
    [10.0, 20.0, 50.0, 100.0, 200.0]
    >>> log_ticks(1e-7, 1e5)
    [1e-06, 0.001, 1.0, 1000.0]
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for mantissas in _MANTISSAS:
        found = [float(f"{m}e{k}") for k in range(first, last + 1) for m in mantissas]
        found = [value for value in found if math.isfinite(value) and low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]
        if len(found) <= most:
            return found if len(found) > 1 else linear_ticks(low, high, most)
    step = next(step for step in (2, 3, 4, 5, 10, 20, 50, 100, 200) if (last - first) / step <= most - 1)
    decades = [float(f"1e{k}") for k in range(first, last + 1) if k % step == 0]
    return [value for value in decades if math.isfinite(value) and low * (1 - 1e-9) <= value <= high * (1 + 1e-9)]


def linear_ticks(low: float, high: float, most: int = MOST) -> list[float]:
    """Round numbers from `low` to `high` at equal distances, at most `most`.

    >>> linear_ticks(-0.1, 2.2)
    [0.0, 0.5, 1.0, 1.5, 2.0]
    """
    if not high > low:
        return [low]
    if not math.isfinite(high - low):
        return [low, high]
    unit = 10.0 ** math.floor(math.log10((high - low) / most))
    for multiple in (1, 2, 2.5, 5, 10, 20):
        step = multiple * unit
        ends = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if ends[1] - ends[0] < most:
            break
    return [float(f"{k * step:.12g}") for k in range(ends[0], ends[1] + 1)]


def plain(value: float) -> str:
    """A number as people write it.

    >>> [plain(value) for value in (4096, 0.25, 1e-6, 3e7, 0)]
    ['4,096', '0.25', '10⁻⁶', '3·10⁷', '0']
    """
    size = abs(value)
    if size == 0 or 1e-3 <= size < 1e6:
        text = f"{value:,.10g}"
    else:
        mantissa, _, exponent = f"{size:.3e}".partition("e")
        number, sign = f"{float(mantissa):g}", "-" if value < 0 else ""
        power = f"10{str(int(exponent)).translate(_SUPERSCRIPT)}"
        text = sign + (power if number == "1" else f"{number}·{power}")
    return text.replace("-", "\N{MINUS SIGN}")


def count(value: float) -> str:
    """A count with K, M, B or T.

    >>> count(2.5e9), count(512)
    ('2.5B', '512')
    """
    return format_count(value, 4)


def percent(value: float) -> str:
    """A share in per cent.

    >>> percent(0.005), percent(0), percent(2e-7)
    ('0.5 %', '0 %', '2·10⁻⁵ %')
    """
    return f"{plain(float(f'{100 * value:.10g}'))} %"


def set_ticks(axis: Any, form: Callable[[float], str] = plain, most: int = MOST) -> None:
    """Put ticks on an axis of matplotlib, by its scale and its present range: fewer than `most` if their texts would touch."""
    low, high = sorted(axis.get_view_interval())
    logarithmic = axis.get_scale() == "log"
    for number in range(most, 1, -1):
        found = log_ticks(low, high, number) if logarithmic else linear_ticks(low, high, number)
        texts = _texts(found, form, logarithmic)
        if axis.axis_name == "y" or _have_room(found, texts, (low, high), logarithmic):
            break
    axis.set_ticks(found, labels=texts)
    axis.set_ticks([], minor=True)


def _texts(found: Sequence[float], form: Callable[[float], str], logarithmic: bool) -> list[str]:
    """The texts of ticks, in one way of writing for the whole axis."""
    if form is plain and logarithmic and any(not 1e-3 <= value < 1e6 for value in found):
        return [f"10{str(round(math.log10(v))).translate(_SUPERSCRIPT)}" if _is_power(v) else plain(v) for v in found]
    texts = [form(value) for value in found]
    return texts if len(set(texts)) == len(texts) else [plain(value) for value in found]


def _have_room(found: Sequence[float], texts: Sequence[str], ends: tuple[float, float], logarithmic: bool) -> bool:
    """True if neighbouring texts along the foot of a panel of the usual width stay apart."""
    low, high = (math.log(end) for end in ends) if logarithmic else ends
    places = [(math.log(value) if logarithmic else value) - low for value in found]
    lengths = [max(map(len, text.split("\n"))) for text in texts]
    return all(
        (right - left) / (high - low) * PANEL > LETTER * (1 + (one + other) / 2)
        for (left, one), (right, other) in itertools.pairwise(zip(places, lengths, strict=True))
    )


def _is_power(value: float) -> bool:
    return abs(math.log10(value) - round(math.log10(value))) < 1e-9
