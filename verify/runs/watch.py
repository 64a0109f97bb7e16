"""``depthwidth verify status --watch``: the page of a status, kept current until every run has ended."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from depthwidth.cli.live import LOG_S, LONGEST_LOG_S, can_redraw
from depthwidth.cli.output import say
from depthwidth.errors import printable
from depthwidth.progress import facts_in_words, for_people_roughly

from .status import status_lines, status_table
from .store import Store

REFRESH_S = 2.0
"""Seconds between two looks at the folder."""


def watch_status(store: Store) -> None:
    """Show the status of a folder until all of its runs have ended, or Ctrl-C: renewed in place, or line by line in a log.

    Runs that no process works on keep it waiting: ``verify resume`` may take them up.
    """
    with contextlib.suppress(KeyboardInterrupt):
        if can_redraw(sys.stdout) and _has_rich():
            _on_terminal(store)
        else:
            _in_log(store)
    say(*status_lines(status_table(store), store.damaged()))


def has_ended(rows: Sequence[Mapping[str, Any]]) -> bool:
    """True if no run is at work or left. Failed runs have ended."""
    return not any(row["running"] or row["left"] for row in rows)


def _has_rich() -> bool:
    import importlib.util

    return importlib.util.find_spec("rich") is not None


def _on_terminal(store: Store) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(file=sys.stdout)
    live = Live(console=console, transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    with live:
        console.show_cursor(True)  # a process that is killed could not give it back
        while not has_ended(rows := status_table(store)):
            lines = [*status_lines(rows), "", f"{time.strftime('%H:%M:%S')}; Ctrl-C ends the watch, not the runs"]
            text = Text("\n".join(map(printable, lines[: max(1, console.size.height - 1)])), no_wrap=True, overflow="ellipsis")
            live.update(text, refresh=True)
            time.sleep(REFRESH_S)


def _in_log(store: Store) -> None:
    """A line when a run has ended, but at most every ten seconds, and after a pause that grows to a minute."""
    told, before, pause = 0.0, -1, LOG_S
    while not has_ended(rows := status_table(store)):
        ended, since = sum(row["done"] + row["failed"] for row in rows), time.monotonic() - told
        if not told or (ended != before and since >= LOG_S) or since >= pause:
            say(log_line(rows))
            sys.stdout.flush()
            pause = LOG_S if ended != before else min(2 * pause, LONGEST_LOG_S)
            told, before = time.monotonic(), ended
        time.sleep(REFRESH_S)


def log_line(rows: Sequence[Mapping[str, Any]]) -> str:
    """The whole folder in one line."""
    total = {key: sum(row[key] for row in rows) for key in ("runs", "done", "running", "failed")}
    seconds = [row["seconds_left"] for row in rows if row["running"] or row["left"]]
    known = [one for one in seconds if one is not None]
    facts = [facts_in_words({k: v for k, v in one.items() if v is not None}) for row in rows for one in row["at_work"]]
    left = f"{'about' if len(known) == len(seconds) else 'at least'} {for_people_roughly(sum(known))} left" if known else ""
    failed = f"{total['failed']} failed" if total["failed"] else ""
    words = f"{total['done']} of {total['runs']} runs done, {total['running']} at work"
    return ", ".join(filter(None, (time.strftime("%H:%M:%S"), words, failed, left, next(filter(None, facts), ""))))
