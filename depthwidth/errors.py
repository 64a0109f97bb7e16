"""The one exception a user can cause, and the sentence it carries."""

from __future__ import annotations

from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave is wrong; the message is one sentence that says what and what was expected.

    The command line prints it and exits with status 2. A library caller can catch it, or ``ValueError``.
    """


def nearest(word: str, valid: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the valid word most like `word`, or an empty string."""
    from difflib import get_close_matches  # only ever needed on the way to an error message

    matches = get_close_matches(word, list(valid), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def shown(value: object, limit: int = 60) -> str:
    """`value` as it may stand in an error sentence: its repr on one line, cut at `limit` characters."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python will write
        text = f"a {type(value).__name__} too long to print"
    return text if len(text) <= limit else text[: limit - 3] + "..."
