"""Arguments as they must be, and the one sentence that says so where they are not."""

from __future__ import annotations

import sys
from typing import Any

from .errors import InputError, shown
from .formula import is_symbolic

LARGEST = 10**12
"""No dimension of a network is larger; a value beyond it is a slip, and would only cost time."""


def is_whole(value: Any, smallest: int = 1, largest: int = LARGEST) -> bool:
    """Whether a value is one of Python's own whole numbers, from `smallest` to `largest`.

    NumPy's are not: they wrap around where a count grows beyond 64 bits.
    """
    return isinstance(value, int) and not isinstance(value, bool) and smallest <= value <= largest


def not_whole(smallest: int = 1, largest: int = LARGEST) -> str:
    """What is wrong with a value that is none: the end of a sentence that starts with its name and value."""
    return f"is not a whole number from {smallest:,} to {largest:,}"


def check_whole(owner: str, smallest: int = 1, largest: int = LARGEST, **values: Any) -> None:
    """Refuse values that are not whole numbers from `smallest` to `largest`, with a sentence that names the first.

    A SymPy symbol passes: a tree with symbols for dimensions has polynomials for counts.
    """
    for name, value in values.items():
        if not is_symbolic(value) and not is_whole(value, smallest, largest):
            raise InputError(f"{owner}: {name}={shown(value)} {not_whole(smallest, largest)}")


def whole(owner: str, name: str, value: Any, smallest: int = 1, largest: int = LARGEST) -> int:
    """A whole number from `smallest` to `largest`, one of NumPy's too, as Python's own.

    Raises
    ------
    InputError
        if it is none.
    """
    numpy = sys.modules.get("numpy")  # a value of NumPy's has loaded it
    own = int(value) if numpy is not None and isinstance(value, numpy.integer) else value
    if not is_whole(own, smallest, largest):
        raise InputError(f"{owner}: {name}={shown(value)} {not_whole(smallest, largest)}")
    return int(own)


def check_fraction(owner: str, **values: float) -> None:
    """Refuse rates that do not lie in [0, 1), with a sentence that names the first."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise InputError(f"{owner}: {name}={shown(value)} is not in [0, 1)")


def check_choice(owner: str, choices: tuple[str, ...], **values: str) -> None:
    """Refuse a word that is not one of `choices`, with a sentence that names it."""
    for name, value in values.items():
        if value not in choices:
            raise InputError(f"{owner}: {name}={shown(value)} is not one of {', '.join(choices)}")
