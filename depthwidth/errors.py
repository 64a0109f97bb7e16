"""The exception for invalid input, and helpers for its sentence."""

from __future__ import annotations

from collections.abc import Iterable


class InputError(ValueError):
    """Invalid input. The message is one sentence that names the value and what was expected.

    The command line prints it and exits with status 2. A caller of the library can catch it, or ``ValueError``.
    """


class AccuracyWarning(UserWarning):
    """A value may be far from the exact one: outside the range for which a formula, or a pass of moments, is good."""


def nearest(word: str, valid: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` with the valid word most like `word`, or an empty string."""
    from difflib import get_close_matches  # needed for an error message only

    matches = get_close_matches(word, list(valid), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def printable(text: str) -> str:
    r"""`text` on one line, with whatever a terminal would act on, or could not print, escaped.

    Examples
    --------
    >>> print(printable("red: \x1b[31m, next\nline, half \ud800, turned \u202e"))
    red: \x1b[31m, next\nline, half \ud800, turned \u202e
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def shown(value: object, limit: int = 60) -> str:
    """`value` for an error sentence: its repr on one line, cut at `limit` characters."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python will write
        text = f"a {type(value).__name__} too long to print"
    return text if len(text) <= limit else text[: limit - 3] + "..."
