"""The time left: seconds per unit of declared cost, from runs that have ended and from the measured share of those at work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..rows import LONGEST_S, Row

LEAST_SHARE = 0.01
"""Smallest share of a run from which its pace is taken."""

Plan = Mapping[str, Any]


@dataclass
class Pace:
    """Seconds per unit of cost, job by job: the unit of a cost is the same for all runs of one job only."""

    seconds: dict[str, float] = field(default_factory=dict)
    cost: dict[str, float] = field(default_factory=dict)

    def add(self, job: str, seconds: float, cost: float) -> None:
        """Count a measured part of a run."""
        self.seconds[job] = self.seconds.get(job, 0.0) + seconds
        self.cost[job] = self.cost.get(job, 0.0) + cost

    def of(self, job: str) -> float | None:
        """Seconds per unit of cost, None if nothing has been measured."""
        return min(self.seconds[job] / self.cost[job], LONGEST_S) if self.cost.get(job) else None


def pace_of_rows(plans: Iterable[Plan], rows: Mapping[str, Sequence[Row]]) -> Pace:
    """The pace of all finished runs of these plans."""
    found = Pace()
    for plan in plans:
        for run in plan["runs"]:
            if its := rows.get(run["run"]):
                found.add(plan["job"], max(row.wall_s or 0.0 for row in its), run["cost"])
    return found


@dataclass(frozen=True)
class Left:
    """An estimate of the time left."""

    seconds: float | None
    """None if nothing is known."""
    complete: bool
    """False if runs of a job that has not been measured yet are left out."""


def time_left(costs: Mapping[str, Sequence[float]], paces: Sequence[Pace], workers: int) -> Left:
    """The time that these workers need for the rest: the mean load, or the longest single run if that is more.

    Parameters
    ----------
    costs : by job, the cost that is left of each run that has not ended.
    paces : the first that knows a job counts.
    workers : number of runs at once.

    Examples
    --------
    >>> pace = Pace()
    >>> pace.add("walk", 10.0, 5.0)
    >>> time_left({"walk": [1.0, 1.0, 2.0]}, [pace], 2)
    Left(seconds=4.0, complete=True)
    >>> time_left({"walk": [1.0], "new": [1.0]}, [pace], 2)
    Left(seconds=2.0, complete=False)
    """
    known: list[float] = []
    complete = True
    for job, left in costs.items():
        pace = next((found for one in paces if (found := one.of(job)) is not None), None)
        if pace is None:
            complete = complete and not left
        else:
            known += [pace * cost for cost in left]
    if not known:
        return Left(0.0 if complete else None, complete)
    return Left(min(max(sum(known) / max(1, workers), *known), LONGEST_S), complete)
