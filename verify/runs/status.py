"""The state of a folder of runs: done, running, failed and left, and for how long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from depthwidth.files import read_regular

from .claims import running
from .store import Store


def label(run: Mapping[str, Any]) -> str:
    """A run in a few words: its labels and seed."""
    labels = run["labels"].items()
    return " ".join([*(f"{key}={value}" for key, value in labels), f"seed={run['seed']}"])


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


def status_table(store: Store) -> list[dict[str, Any]]:
    """For each plan the number of runs that are done, running, failed and left, and the time left.

    The time is estimated from the seconds of finished runs per unit of declared cost, shared among the runs at work now (one
    after the other if there are none); None while nothing is finished.
    """
    rows, busy, failures = store.rows(), running(store), store.failures()
    table = []
    for plan in store.plans():
        runs = {run["run"]: run for run in plan["runs"]}
        done = [name for name in runs if name in rows]
        active = [name for name in runs if name in busy and name not in rows]
        failed = [name for name in runs if name in failures and name not in rows and name not in busy]
        left = [name for name in runs if name not in {*done, *active, *failed}]
        spent = sum(max(row.wall_s or 0.0 for row in rows[name]) for name in done)
        work = sum(runs[name]["cost"] for name in done)
        shares = {name: _share_done(store, name) for name in active}
        to_do = sum(runs[name]["cost"] * (1 - shares.get(name, 0.0)) for name in (*left, *active, *failed))
        table.append(
            {
                "job": plan["job"], "size": plan["size"], "planned": plan["created"], "runs": len(runs), "done": len(done),
                "running": len(active), "failed": len(failed), "left": len(left),
                "seconds_left": spent / work * to_do / max(1, len(active)) if work else None,
                "at_work": [
                    {"run": n, "what": label(runs[n]), "share": shares[n], "since": busy[n].get("since")} for n in active
                ],
                "failures": [{"run": n, "what": label(runs[n]), "error": str(failures[n].get("error", ""))} for n in failed],
            }
        )  # fmt: skip
    return table


def _share_done(store: Store, run: str) -> float:
    try:
        share = float(read_regular(store.work_folder(run) / "progress", "progress", 16))
    except ValueError:  # InputError, if there is no such file, among them
        return 0.0
    return min(1.0, max(0.0, share)) if share == share else 0.0
