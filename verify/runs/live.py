"""The progress of a sweep while it runs: the runs at work, and the time left over all."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from depthwidth.cli.live import Line
from depthwidth.progress import facts_in_words, for_people_roughly

from .clock import LEAST_SHARE, Left, Pace, Plan, pace_of_rows, time_left
from .status import label, progress_of
from .store import Store

FRESH_S = 1.0
"""Seconds between two looks at the progress that workers have written."""


@dataclass
class _AtWork:
    since: float
    begun: float = 0.0
    """Share that was done when this process first looked: a resumed run begins in the middle."""
    share: float = 0.0
    facts: Mapping[str, Any] | None = None
    together: int = 1


class Sweep:
    """The runs of a sweep: waiting, at work, ended.

    Parameters
    ----------
    store : the folder, in which workers write the progress of their run.
    todo : the runs by name, each with its plan.
    workers : number of runs at once, None if it is not known.
    """

    def __init__(self, store: Store, todo: Mapping[str, tuple[Plan, Mapping[str, Any]]], workers: int | None) -> None:
        self.store, self.todo, self.workers = store, todo, workers
        self.waiting = set(todo)
        self.at_work: dict[str, _AtWork] = {}
        self.ended = 0
        self.pace = Pace()
        plans = {(plan["job"], plan["size"]): plan for plan, _ in todo.values()}
        self._earlier = pace_of_rows(plans.values(), store.rows())
        self._looked = 0.0

    def drop(self, run: str) -> None:
        """Leave a run out, because it has ended before or another process works on it."""
        self.waiting.discard(run)

    def begin(self, runs: Sequence[str]) -> None:
        """The runs of one program begin."""
        for run in runs:
            self.waiting.discard(run)
            self.at_work[run] = _AtWork(time.monotonic(), together=len(runs))

    def end(self, run: str, wall_s: float) -> None:
        """A run has ended after so many seconds; 0 if they are not known."""
        self.waiting.discard(run)
        self.at_work.pop(run, None)
        self.ended += 1
        plan, about = self.todo[run]
        if wall_s > 0:
            self.pace.add(plan["job"], wall_s, about["cost"])

    def left(self) -> Left:
        """The time left, by the pace of this sweep; that of earlier rows counts for jobs that have not begun."""
        self._look()
        pace = Pace(dict(self.pace.seconds), dict(self.pace.cost))
        costs: dict[str, list[float]] = {}
        for run in tuple(self.waiting):
            plan, about = self.todo[run]
            costs.setdefault(plan["job"], []).append(about["cost"])
        active, now = dict(self.at_work), time.monotonic()
        for run, one in active.items():
            plan, about = self.todo[run]
            done = one.share - one.begun
            if done >= LEAST_SHARE:
                pace.add(plan["job"], (now - one.since) / one.together, done * about["cost"])
            costs.setdefault(plan["job"], []).append((1 - one.share) * about["cost"])
        return time_left(costs, (pace, self._earlier), self.workers or len(active))

    def _look(self) -> None:
        """Read the progress of the runs at work, at most once a second."""
        if time.monotonic() - self._looked < FRESH_S:
            return
        self._looked = time.monotonic()
        for run, one in tuple(self.at_work.items()):
            found = dict(progress_of(self.store, run))
            share = found.pop("share", None)
            if share is None:
                continue
            if one.facts is None:  # the first look: earlier work does not show the pace
                one.begun, one.since = share, time.monotonic()
            one.share, one.facts = max(share, one.begun), found

    def share(self) -> float | None:
        """The share of the cost that is done, each job counting by its number of runs."""
        done = total = 0.0
        whole: dict[str, list[float]] = {}
        for plan, about in self.todo.values():
            whole.setdefault(plan["job"], []).append(about["cost"])
        for name, (plan, about) in self.todo.items():
            costs = whole[plan["job"]]
            part = about["cost"] * len(costs) / sum(costs) if sum(costs) else 1.0
            total += part
            if name not in self.waiting:
                one = self.at_work.get(name)
                done += part * (1.0 if one is None else one.share)
        return done / total if total else None

    def lines(self) -> list[Line]:
        """The whole, then each run at work."""
        left, active = self.left(), dict(self.at_work)
        words = f"{len(self.todo) - len(self.waiting) - len(active)} of {len(self.todo)} runs done, {len(active)} at work"
        runs = [self._line(run, one) for run, one in active.items()]
        details = next((facts for one in active.values() if one.facts and (facts := facts_in_words(one.facts))), "")
        tail = left_in_words(left)
        plain = ", ".join(filter(None, (words, f"{self.share() or 0.0:.0%} done", tail, details)))
        return [Line(words, self.share(), tail, plain), *runs]

    def _line(self, run: str, one: _AtWork) -> Line:
        plan, about = self.todo[run]
        facts = facts_in_words(one.facts or {})
        words = ", ".join(filter(None, (facts, f"{plan['job']} {label(about)}")))
        return Line(words, None if one.facts is None else one.share)


def left_in_words(left: Left) -> str:
    """The time left in words; empty if nothing is known or left.

    Examples
    --------
    >>> left_in_words(Left(250.0, True)), left_in_words(Left(250.0, False)), left_in_words(Left(None, False))
    ('about 4 min left', 'at least 4 min left', '')
    """
    if not left.seconds:
        return ""
    return f"{'about' if left.complete else 'at least'} {for_people_roughly(left.seconds)} left"
