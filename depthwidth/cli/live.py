"""Progress on the standard error: bars on a terminal, a plain line now and then in a log. Nothing goes to the output.

rich draws the bars; it comes with the extra ``verify`` and is loaded when the first bar is due. Without it, or on a terminal
that cannot move its cursor, there are plain lines.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import printable
from ..progress import current_progress, for_people, for_people_roughly
from ..values import frozen

FIRST_S = 2.0
"""Seconds of work after which a terminal shows progress."""

LOG_S = 10.0
"""Shortest interval in seconds between two lines of progress in a log; it doubles up to :data:`LONGEST_LOG_S`."""

LONGEST_LOG_S = 60.0

FRAME_S = 0.25
"""Interval in seconds between two pictures on a terminal."""


@frozen
class Line:
    """One line of progress: words, a bar, and words after the bar."""

    words: str
    share: float | None = None
    tail: str = ""
    plain: str = ""
    """The line in a log, if it is another one."""

    def __str__(self) -> str:
        if self.plain:
            return self.plain
        percent = "" if self.share is None else f"{self.share:.0%} done"
        return ", ".join(filter(None, (self.words, percent, self.tail)))


class Display:
    """A few lines of progress on a stream, renewed in place on a terminal.

    Parameters
    ----------
    stream : the error stream.
    ending : added to a plain line.
    """

    def __init__(self, stream: Any = None, ending: str = "") -> None:
        self.stream = sys.stderr if stream is None else stream
        self.ending = ending
        self.bars = can_redraw(self.stream)
        self.lock = threading.RLock()
        self._live: Any = None
        self._shown: Any = None
        self._pause = FIRST_S if self.is_terminal else LOG_S
        self._next = time.monotonic() + (0.0 if self.is_terminal else LOG_S)

    @property
    def is_terminal(self) -> bool:
        """True if a person reads the stream as it is written."""
        return _is_terminal(self.stream)

    def show(self, lines: Sequence[Line]) -> None:
        """Renew the bars; in a log, and on a terminal without bars, print the first line if the last is old enough."""
        with self.lock:
            if self.bars:
                self._draw(lines)
            elif lines and time.monotonic() >= self._next:
                self.tell(f"{lines[0]}{self.ending}")
                self._pause = min(2 * self._pause, LONGEST_LOG_S)
                self._next = time.monotonic() + self._pause

    def tell(self, line: str) -> None:
        """Print a line that stays, above the bars."""
        with self.lock, contextlib.suppress(ValueError):  # a closed stream raises it; the line is then lost
            if self._live is not None:
                self._live.console.print(printable(line), markup=False, highlight=False, soft_wrap=True)
            elif self.stream is not None:  # closed by the caller; print would take the output instead
                print(printable(line), file=self.stream, flush=True)
            self._next = time.monotonic() + self._pause

    def hide(self) -> None:
        """Remove the bars, so that something else can be printed."""
        with self.lock:
            if self._live is not None:
                self._live.stop()
                self._live = None

    def _draw(self, lines: Sequence[Line]) -> None:
        if self._live is None:
            try:
                from rich.console import Console
                from rich.live import Live
            except ImportError:
                self.bars = False
                self.show(lines)
                return
            console = Console(file=self.stream)
            # Redirected, a table printed meanwhile would pass through rich to the error stream.
            self._live = Live(
                console=console, transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False,
                vertical_overflow="crop",
            )  # fmt: skip
            self._live.start()
            console.show_cursor(True)  # a process that is killed could not give it back
            self._shown = None
        width, height = self._live.console.size
        if self._shown == (lines, width, height):
            return
        self._shown = (lines, width, height)
        self._live.update(_picture(list(lines)[: max(1, height - 2)], width), refresh=True)


def _picture(lines: Sequence[Line], width: int) -> Any:
    """The lines for rich, each cut at the terminal's width; the first has a bar, unless the terminal is narrow."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    rows = []
    for number, line in enumerate(lines):
        percent = "" if line.share is None else f"{line.share:.0%}"
        cells: list[Any] = [Text(printable(line.words)), Text(" ".join(filter(None, (percent, line.tail))))]
        row = Table.grid(padding=(0, 1), expand=True)
        row.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        if number == 0 and width >= 60 and line.share is not None:
            bar = min(30, width // 4)
            row.add_column(width=bar)
            cells.insert(1, ProgressBar(total=1.0, completed=line.share, width=bar))
        row.add_column(no_wrap=True, justify="right")
        row.add_row(*cells)
        rows.append(row)
    return Group(*rows)


def _is_terminal(stream: Any) -> bool:
    with contextlib.suppress(ValueError, AttributeError):
        return bool(stream.isatty())
    return False


def can_redraw(stream: Any) -> bool:
    """True for a terminal that moves its cursor."""
    return _is_terminal(stream) and os.environ.get("TERM", "") not in ("dumb", "unknown")


class Ticker:
    """A thread that renews a display until it is stopped; a context manager.

    Parameters
    ----------
    display : where.
    lines : called for the lines to show; none shows nothing.
    first : seconds before the first picture.
    """

    def __init__(self, display: Display, lines: Callable[[], Sequence[Line]], first: float = FIRST_S) -> None:
        self.display, self.lines, self.first = display, lines, first
        self._stop = threading.Event()
        self._due = time.monotonic() + first
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Ticker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End, and clear the display."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)
        self.display.hide()

    def rest(self) -> None:
        """Clear the display, because something is about to be printed; it comes back if the work goes on."""
        self._due = time.monotonic() + self.first
        self.display.hide()

    def _run(self) -> None:
        while not self._stop.wait(max(0.01, min(FRAME_S, self.first))):
            if time.monotonic() >= self._due:
                with contextlib.suppress(Exception):  # a picture of progress must not end the work
                    lines = self.lines()
                    with self.display.lock:
                        if lines and time.monotonic() >= self._due:  # nothing has been printed meanwhile
                            self.display.show(lines)


class Computing:
    """The progress of one command, from the parts that its computation announces."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._first: tuple[float, float] | None = None

    def lines(self) -> list[Line]:
        """One line: the time so far, the parts at work, the share done and, once it is measured, the time left."""
        now, at = time.monotonic(), current_progress()
        words = f"Computing for {for_people(now - self.began) if now - self.began >= 60 else f'{now - self.began:.0f} s'}"
        return [Line(f"{words}{at.words and f', {at.words}'}", at.share, self._left(now, at.share))]

    def _left(self, now: float, share: float | None) -> str:
        if share is None:
            self._first = None
            return ""
        if self._first is None or share < self._first[1]:  # another part of the work has begun
            self._first = (now, share)
        then, before = self._first
        if share - before < 0.005 or now - then < 0.5:
            return ""
        return f"about {for_people_roughly((now - then) / (share - before) * (1 - share))} left"


_RUNNING: list[Ticker] = []


@contextlib.contextmanager
def reporting(wanted: bool, first: float = FIRST_S) -> Any:
    """Show the progress of the command that runs inside the block, if it is `wanted`."""
    if not wanted:
        yield
        return
    ticker = Ticker(Display(ending="; Ctrl-C stops it."), Computing().lines, first)
    with ticker:
        _RUNNING.append(ticker)
        try:
            yield
        finally:
            _RUNNING.remove(ticker)


def make_room() -> None:
    """Remove the progress of the command, before something is printed."""
    for ticker in tuple(_RUNNING):
        ticker.rest()
