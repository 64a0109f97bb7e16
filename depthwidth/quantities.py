"""Counts and byte sizes: parse ``1T``, ``1.3B``, ``6.7e9``, ``2**20`` or ``80GB``; format them as short text."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any

from .errors import InputError, shown

_COUNTS = {"": 0, "K": 3, "M": 6, "B": 9, "T": 12}
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15} | {
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40, "PIB": 2**50,
    "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15,
}  # fmt: skip
_OPERATIONS = {"FLOP": 1, "FLOPS": 1}
_WHOLE = r"(?:[0-9]{1,3}(?:[_,][0-9]{3})+|[0-9]+)"
_SIZE = re.compile(rf"(?P<number>(?:{_WHOLE}(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{{1,3}})?)\s*(?P<suffix>[A-Za-z]*)")
_POWER = re.compile(r"(?P<base>[0-9]{1,6})\s*(?:\*\*|\^)\s*(?P<exponent>[0-9]{1,3})")
_LONGEST = 64
_LARGEST = 10**30  # far beyond any machine; a typing error then costs no minutes of arithmetic


def parse_count(text: Any, what: str = "size") -> Fraction:
    """Parse a positive count: a number, or text such as ``1.3B``, ``350M``, ``6.7e9``, ``2**20`` or ``1_000_000``.

    Returns
    -------
    The exact value as a fraction (``1.3B`` is 1300000000 with no rounding).

    Raises
    ------
    InputError
        if it is not a positive finite number, with a sentence that names `what`.
    """
    return _parse(text, what, {suffix: 10**power for suffix, power in _COUNTS.items()}, "1.3B, 350M, 6.7e9 or 2**20")


def parse_whole(text: Any, what: str = "size") -> int:
    """Parse a positive whole number, in the notation of :func:`parse_count`.

    Raises
    ------
    InputError
        if it is not one, with a sentence that names `what`.
    """
    value = parse_count(text, what)
    if value.denominator != 1:
        raise InputError(f"{what} {shown(text)} is not a whole number")
    return value.numerator


def parse_bytes(text: Any, what: str = "memory") -> Fraction:
    """Parse a positive number of bytes: a number, or text such as ``80GB`` (10^9) or ``80GiB`` (2^30).

    Raises
    ------
    InputError
        if it is not a positive finite size, with a sentence that names `what`.
    """
    return _parse(text, what, {"": 1, **_BYTES}, "80GB, 24GiB or 6.7e9 bytes")


def parse_flops(text: Any, what: str = "flops") -> Fraction:
    """Parse a positive number of floating-point operations: a number, or text such as ``1e22`` or ``1e22FLOPs``.

    Raises
    ------
    InputError
        if it is not a positive finite number, with a sentence that names `what`.
    """
    counts = {suffix: 10**power for suffix, power in _COUNTS.items()}
    return _parse(text, what, counts | _OPERATIONS, "1e22, 1e22FLOPs or 6.7e9")


def unit_of(text: Any) -> str:
    """``bytes`` or ``flops`` for text with a unit that only those have, as ``80GB``, ``80G`` or ``1e22FLOPs``; else empty."""
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) and len(text) <= _LONGEST else None
    suffix = match["suffix"].upper() if match else ""
    return "flops" if suffix in _OPERATIONS else "bytes" if suffix in _BYTES and suffix not in _COUNTS else ""


def _parse(text: Any, what: str, suffixes: dict[str, int], examples: str) -> Fraction:
    problem = f"{what} {shown(text)} is not a positive size; write it like {examples}"
    if isinstance(text, bool):
        raise InputError(problem)
    if not isinstance(text, str):
        try:
            value = Fraction(text)
        except (TypeError, ValueError, OverflowError):
            raise InputError(problem) from None
    else:
        value = _parse_text(text.strip(), problem, suffixes)
    if not 0 < value <= _LARGEST:
        raise InputError(problem)
    return value


def _parse_text(text: str, problem: str, suffixes: dict[str, int]) -> Fraction:
    if len(text) > _LONGEST:
        raise InputError(problem)
    if power := _POWER.fullmatch(text):
        return Fraction(int(power["base"]) ** int(power["exponent"]))
    match = _SIZE.fullmatch(text)
    if not match:
        raise InputError(problem)
    suffix = match["suffix"].upper()
    if suffix not in suffixes:
        known = [s for s in suffixes if s]
        raise InputError(f"{problem} (unknown suffix {match['suffix']!r}; known are {', '.join(known)})")
    return Fraction(match["number"].replace("_", "").replace(",", "")) * suffixes[suffix]


def plain_number(value: int | Fraction) -> int | float:
    """An exact number for JSON: an integer if it is whole, otherwise a float."""
    return value.numerator if value.denominator == 1 else float(value)


def numbered(number: float, noun: str) -> str:
    """A number and its noun, which takes an s unless there is one of it.

    >>> numbered(1, "layer"), numbered(1200, "layer")
    ('1 layer', '1,200 layers')
    """
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def format_count(value: float, digits: int = 3) -> str:
    """Format a count with `digits` significant digits: 1.3e9 becomes ``1.3B``, 29657 ``29.7K``.

    >>> format_count(124_439_808)
    '124M'
    """
    return _scaled(float(value), digits, [("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)])


def format_bytes(value: float, digits: int = 3) -> str:
    """Format a number of bytes in decimal units: 2.49e8 becomes ``249 MB``."""
    units = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)]
    return _scaled(float(value), digits, [(f" {unit}", size) for unit, size in units]) + ("" if abs(value) >= 1e3 else " B")


def _scaled(value: float, digits: int, units: list[tuple[str, float]]) -> str:
    for suffix, size in units:
        # 999,999 rounds to 1M, not to 1000K.
        if float(f"{abs(value):.{digits - 1}e}") >= size:
            scaled = value / size
            return (f"{scaled:.{digits}g}" if abs(scaled) < 10**digits else f"{scaled:.0f}") + suffix
    return f"{value:.{digits}g}"
