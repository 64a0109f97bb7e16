"""Words on what a long computation is doing, for the line that the command line prints after some seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

_NOW: list[str | Callable[[], str]] = []


@contextmanager
def during(words: str | Callable[[], str]) -> Iterator[None]:
    """Say what is done inside of the block: words, or a function that returns them when they are asked for.

    >>> with during("window 2 of 8"), during(lambda: "block 7 of 12"):
    ...     doing()
    'window 2 of 8, block 7 of 12'
    >>> doing()
    ''
    """
    _NOW.append(words)
    try:
        yield
    finally:
        _NOW.pop()


def doing() -> str:
    """The work at hand, from the outermost to the innermost part; empty if nothing was said."""
    found = (words if isinstance(words, str) else words() for words in tuple(_NOW))
    return ", ".join(filter(None, found))
