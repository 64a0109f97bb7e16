"""Checks of arguments: each raises one sentence that names the argument, its value and the values allowed."""

from __future__ import annotations

import sys
from typing import Any

from .errors import InputError, shown
from .formula import is_symbolic
from .quantities import parse_whole

LARGEST = 10**12
"""Largest dimension accepted: no network has a larger one, so a larger value is a mistake."""

DEEPEST = 100_000
"""Largest number of blocks that may differ: each then costs memory of its own, and a typing error must not."""

LONGEST_TRACED = 2**24
"""Largest number of tokens whose positions are followed: an array of them takes 128 MiB."""

DEEPEST_TRACED = 10_000
"""Largest number of blocks that moments are followed through: each takes up to some milliseconds."""

CEILINGS = {
    "layers": DEEPEST,
    "windows": 10_000,
    "workers": 10_000,
    "draws": 100_000,
    "ensemble": 10_000,
    "tokens": 10**18,
    "budget": 10**18,
}
"""Largest values of numbers that are no dimensions, or that cost memory or time by themselves, by name; all others have
:data:`LARGEST`. Configurations, options and functions share it."""


def ceiling(name: str) -> int:
    """The largest value of a count called `name`."""
    return CEILINGS.get(name, LARGEST)


def read_count(text: Any, what: str, name: str | None = None) -> int:
    """A whole number from 1 in the notation of counts, up to the ceiling of its name.

    Parameters
    ----------
    text : the number, such as ``128``, ``2K`` or ``2**20``.
    what : its name in sentences.
    name : the name that has a ceiling; `what` by default.

    Raises
    ------
    InputError
        if it is no such number.
    """
    found = parse_whole(text, what)
    name = what if name is None else name
    if found > ceiling(name):
        raise InputError(f"{name}={shown(text)} is above {ceiling(name):,}, the largest that is accepted")
    return found


def is_whole(value: Any, smallest: int = 1, largest: int = LARGEST) -> bool:
    """True for a Python integer from `smallest` to `largest`.

    NumPy's integers are refused, as they wrap around if a count exceeds 64 bits.
    """
    return isinstance(value, int) and not isinstance(value, bool) and smallest <= value <= largest


def not_whole(smallest: int = 1, largest: int = LARGEST) -> str:
    """The end of the sentence on a value that :func:`is_whole` refuses; it starts with name and value."""
    return f"is not a whole number from {smallest:,} to {largest:,}"


def check_whole(owner: str, smallest: int = 1, largest: int = LARGEST, **values: Any) -> None:
    """Refuse values that are not whole numbers from `smallest` to `largest`.

    SymPy symbols pass, as a tree with symbols for dimensions has polynomials for counts.

    Raises
    ------
    InputError
        with a sentence on the first value that is not.
    """
    for name, value in values.items():
        if not is_symbolic(value) and not is_whole(value, smallest, largest):
            raise InputError(f"{owner}: {name}={shown(value)} {not_whole(smallest, largest)}")


def whole(owner: str, name: str, value: Any, smallest: int = 1, largest: int = LARGEST) -> int:
    """Convert a whole number from `smallest` to `largest`, which may be NumPy's, to a Python integer.

    Raises
    ------
    InputError
        if it is not such a number.
    """
    numpy = sys.modules.get("numpy")  # a value of NumPy's has loaded it
    own = int(value) if numpy is not None and isinstance(value, numpy.integer) else value
    if not is_whole(own, smallest, largest):
        raise InputError(f"{owner}: {name}={shown(value)} {not_whole(smallest, largest)}")
    return int(own)


def check_fraction(owner: str, **values: float) -> None:
    """Refuse rates outside [0, 1).

    Raises
    ------
    InputError
        with a sentence on the first of them.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            raise InputError(f"{owner}: {name}={shown(value)} is not in [0, 1)")


def check_choice(owner: str, choices: tuple[str, ...], **values: str) -> None:
    """Refuse words that are not among `choices`.

    Raises
    ------
    InputError
        with a sentence on the first of them.
    """
    for name, value in values.items():
        if value not in choices:
            raise InputError(f"{owner}: {name}={shown(value)} is not one of {', '.join(choices)}")
