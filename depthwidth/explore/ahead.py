"""Answers for the settings that a person may choose next, computed ahead by a process of its own at the lowest priority.

The server tells it the settings that it has just answered (:meth:`Ahead.look`); after a pause it computes the next steps of the
control that was moved last and of a few others, until the server names other settings. It ends when the server does.
"""

from __future__ import annotations

import gc
import json
import math
import os
import queue
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from typing import Any

from ..errors import InputError
from ..quantities import parse_count
from .controls import Control, Settings, controls

PAUSE = 0.3
"""Seconds without other settings after which work begins: a person who drags a slider does not wait for it."""
MOST_ASKED, MOST_KEPT = 40, 160
"""Answers computed for one choice of settings, and answers kept; one takes some 20 kB."""
_STEPS = 3
"""Steps to either side of a slider that was moved last; one step for others."""
_OTHERS = ("budget", "context", "scheme", "preset")
"""Controls that are likely to be moved next."""
_GARBAGE_STEP = 200_000
"""Objects made between two searches for garbage. With Python's 700 to 2,000, searches through the objects of modules and caches
took half the time of an answer; an answer makes some ten thousand objects."""


class Ahead:
    """The process that computes ahead, as the server sees it."""

    def __init__(self, command: Sequence[str] = (sys.executable, "-m", "depthwidth.explore.ahead")) -> None:
        self._kept: OrderedDict[Settings, dict[str, Any]] = OrderedDict()
        self._before = Settings()
        self._moved = ""
        self._asked: queue.SimpleQueue[str] = queue.SimpleQueue()
        # Ctrl-C in a terminal is for the server alone; the process ends with its input.
        apart: dict[str, Any] = {"process_group": 0}
        if sys.platform == "win32":
            apart = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.IDLE_PRIORITY_CLASS}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(  # noqa: S603
            command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, encoding="utf-8", **apart
        )
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._write, self._read)]
        for thread in self._threads:
            thread.start()

    def look(self, settings: Settings) -> None:
        """Say that these settings have been answered; it returns at once."""
        moved = [name for name, value in asdict(settings).items() if value != getattr(self._before, name)]
        self._moved = moved[0] if moved else self._moved
        self._before = settings
        if self.process.poll() is None:
            self._asked.put(json.dumps({"settings": asdict(settings), "moved": self._moved}))

    def known(self, settings: Settings) -> dict[str, Any] | None:
        """The answers ``plan`` and ``depth`` of :mod:`.pieces`, if they have been computed; None otherwise."""
        return self._kept.get(settings)

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self._asked.put("")
        for thread, end in zip(self._threads, (self.process.stdin, self.process.stdout), strict=True):
            thread.join()
            with suppress(OSError):
                end.close()  # type: ignore[union-attr]

    def _write(self) -> None:
        with suppress(OSError, ValueError):  # the process has ended
            for line in iter(self._asked.get, ""):
                self.process.stdin.write(line + "\n")  # type: ignore[union-attr]
                self.process.stdin.flush()  # type: ignore[union-attr]

    def _read(self) -> None:
        for line in self.process.stdout or ():
            found = json.loads(line)
            self._kept[Settings(**found.pop("settings"))] = found
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)


def next_settings(settings: Settings, moved: str, instead: dict[str, int]) -> Iterator[Settings]:
    """Settings one choice away, the likeliest first.

    Parameters
    ----------
    settings : the present ones.
    moved : name of the control that was moved last; empty if none was.
    instead : numbers that count in place of empty fields (:func:`.page.values`), at which their sliders stand.
    """
    known = {control.name: control for control in controls()}
    seen = {settings}
    for name in dict.fromkeys((moved, *_OTHERS)):
        if name not in known:
            continue
        text = getattr(settings, name)
        for value in _beside(known[name], text or str(instead.get(name, "")), _STEPS if name == moved else 1):
            other = replace(settings, **{name: value})
            if other not in seen and len(seen) <= MOST_ASKED:
                seen.add(other)
                yield other


def _beside(control: Control, text: str, reach: int) -> list[str]:
    """The choices of a list, or the steps of a slider within a reach, nearest first; none of a field without a slider."""
    if control.choices:
        return [value for value, _ in control.choices]
    if not control.steps:
        return []
    place = control.steps.index(text) if text in control.steps else _nearest(control.steps, text)
    around = (place + sign * step for step in range(1, reach + 1) for sign in (1, -1))
    return [control.steps[one] for one in around if 0 <= one < len(control.steps)]


def _nearest(steps: tuple[str, ...], text: str) -> int:
    """The place of the step nearest to a number, at which the page puts the slider; the first if the text is none."""
    try:
        number = math.log(float(parse_count(text, "number")))
    except InputError:
        return 0
    apart = [abs(math.log(float(parse_count(step, "number"))) - number) if step else math.inf for step in steps]
    return apart.index(min(apart))


def collect_rarely() -> None:
    """Search for garbage rarely, and never among the objects that exist already."""
    gc.freeze()
    gc.set_threshold(_GARBAGE_STEP, 50, 50)


def main() -> None:
    """Compute ahead: a line of standard input names settings, a line of standard output holds an answer."""
    with suppress(OSError, AttributeError):  # on Windows the priority is given when the process begins
        os.nice(19)
    asked: list[dict[str, Any]] = []
    named = threading.Event()

    def read() -> None:
        for line in sys.stdin:
            asked[:] = [json.loads(line)]
            named.set()
        os._exit(0)  # the server has ended

    threading.Thread(target=read, daemon=True).start()
    answers, sys.stdout = sys.stdout, sys.stderr  # nothing else is to stand among the answers
    from . import page, pieces
    from .state import answer

    collect_rarely()
    sent: OrderedDict[Settings, None] = OrderedDict()
    while True:
        named.wait()
        named.clear()
        time.sleep(PAUSE)
        if named.is_set():
            continue
        settings = Settings(**asked[0]["settings"])
        for one in next_settings(settings, asked[0]["moved"], page.values(answer(settings))):
            if named.is_set():
                break
            if one in sent or answer(one).plan is None:
                continue
            found = {"settings": asdict(one), "plan": pieces.plan_pieces(one), "depth": pieces.depth_pieces(one)}
            answers.write(json.dumps(found) + "\n")
            answers.flush()
            sent[one] = None
            while len(sent) > MOST_KEPT:  # as the server forgets, so that both know the same
                sent.popitem(last=False)


if __name__ == "__main__":
    main()
