"""The state of a long computation: words, the share that is done, and facts, for a progress bar or a log.

A computation announces its parts with :func:`during` or :func:`announced`, from the outermost to the innermost. The display
reads it from another thread with :func:`current_progress`: the command line, or a worker of ``verify`` for its run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")

QUIET_VARIABLE = "DEPTHWIDTH_QUIET"
"""Environment variable that, if it is not empty, turns progress reports off like ``--quiet``."""


class _Part:
    """The arguments of :func:`during`: a plain class, because every command loads it, and a dataclass takes long to define."""

    def __init__(
        self,
        words: str | Callable[[], str],
        done: Callable[[], float] | None,
        span: float,
        facts: Callable[[], Mapping[str, float]] | None,
    ) -> None:
        self.words, self.done, self.span, self.facts = words, done, span, facts


class Progress(NamedTuple):
    """The progress of a computation at one moment."""

    words: str
    """The parts at work, from the outermost to the innermost; empty outside announced work."""
    share: float | None
    """The share of the whole that is done, from 0 to 1; None if no part tells."""
    facts: Mapping[str, float]
    """Further numbers, by name: ``step``, ``steps``, ``loss``, ``rate`` (tokens per second)."""


_NOW: list[_Part] = []


@contextmanager
def during(
    words: str | Callable[[], str] = "",
    done: Callable[[], float] | None = None,
    span: float = 0.0,
    facts: Callable[[], Mapping[str, float]] | None = None,
) -> Iterator[None]:
    """Announce the work done inside the block.

    Parameters
    ----------
    words : a few words, or a function that returns them on demand.
    done : the share of this part that is done, from 0 to 1. It is called from another thread.
    span : the share that the parts announced inside the block fill, from `done()` on.
    facts : further numbers; see :class:`Progress`. Those of inner parts win.

    Examples
    --------
    >>> with during("window 2 of 8", lambda: 1 / 8, span=1 / 8), during(lambda: "block 6 of 12", lambda: 0.5):
    ...     current_progress().words, current_progress().share
    ('window 2 of 8, block 6 of 12', 0.1875)
    >>> current_progress().words, current_progress().share
    ('', None)
    """
    part = _Part(words, done, span, facts)
    _NOW.append(part)
    try:
        yield
    finally:
        _NOW.remove(part)  # by identity: another thread of the process may have announced its own after it


def announced(words: str, items: Sequence[T]) -> Iterator[T]:
    """The items one by one, announced as parts of equal length.

    Examples
    --------
    >>> [f"{current_progress().words}: {current_progress().share}" for _ in announced("shape", "ab")]
    ['shape 1 of 2: 0.0', 'shape 2 of 2: 0.5']
    """
    count = len(items)
    for number, item in enumerate(items):
        with during(f"{words} {number + 1} of {count}", lambda number=number: number / count, 1 / count):  # type: ignore[misc]
            yield item


def current_progress() -> Progress:
    """The state of the computation at hand."""
    words: list[str] = []
    facts: dict[str, float] = {}
    share, room = None, 1.0
    for part in tuple(_NOW):
        words.append(part.words if isinstance(part.words, str) else part.words())
        if part.done is not None and room > 0:
            share = (share or 0.0) + room * min(1.0, max(0.0, part.done()))
            room *= part.span
        facts |= {} if part.facts is None else part.facts()
    return Progress(", ".join(filter(None, words)), share, facts)


def is_quiet(arguments: Sequence[str]) -> bool:
    """True if the arguments of a command, or the environment, ask for no progress report."""
    return bool(os.environ.get(QUIET_VARIABLE)) or any(word in arguments for word in ("--json", "--quiet"))


def for_people(seconds: float) -> str:
    """A duration in words.

    Examples
    --------
    >>> for_people(0.25), for_people(75), for_people(9000)
    ('0.2 s', '1 min 15 s', '2 h 30 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def for_people_roughly(seconds: float) -> str:
    """A duration that is an estimate: no digits that it cannot have.

    Examples
    --------
    >>> for_people_roughly(3.4), for_people_roughly(47), for_people_roughly(431), for_people_roughly(9000)
    ('3 s', '45 s', '7 min', '2 h 30 min')
    """
    if seconds < 20:
        return f"{max(1, round(seconds))} s"
    if seconds < 57:
        return f"{5 * round(seconds / 5)} s"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 60 else for_people(60 * minutes)


def facts_in_words(facts: Mapping[str, Any]) -> str:
    """Step, loss and speed of a training in words.

    Examples
    --------
    >>> facts_in_words({"step": 40, "steps": 200, "loss": 3.2512, "rate": 12345.6})
    'step 40 of 200, loss 3.251, 12,346 tokens/s'
    >>> facts_in_words({})
    ''
    """
    words = []
    if "step" in facts:
        words.append(f"step {facts['step']:,.0f}" + (f" of {facts['steps']:,.0f}" if "steps" in facts else ""))
    if "loss" in facts:
        words.append(f"loss {facts['loss']:.4g}")
    if "rate" in facts:
        words.append(f"{facts['rate']:,.0f} tokens/s")
    return ", ".join(words)
