"""The state of a folder of runs: done, running, failed and left, and for how long."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from depthwidth.display import align_table
from depthwidth.errors import InputError
from depthwidth.progress import facts_in_words, for_people

from ..records import ProgressRecord, read_record
from ..rows import Row
from .claims import running
from .clock import LEAST_SHARE, Pace, Plan, pace_of_rows, time_left
from .store import Damage, Store


def label(run: Mapping[str, Any]) -> str:
    """A run in a few words: its labels and seed."""
    labels = run["labels"].items()
    return " ".join([*(f"{key}={value}" for key, value in labels), f"seed={run['seed']}"])


def status_table(store: Store) -> list[dict[str, Any]]:
    """For each plan the number of runs that are done, running, failed and left, and the time left.

    The time is estimated from the seconds of finished runs per unit of declared cost, and from the share of the runs at work
    that is done. It is shared among the programs at work now (one after the other if there are none); None while nothing has
    been measured.
    """
    rows, busy, failures, plans = store.rows(), running(store), store.failures(), store.plans()
    members = {name: names for names in store.ensembles() for name in names}
    everywhere = pace_of_rows(plans, rows)
    table = []
    for plan in plans:
        runs = {run["run"]: run for run in plan["runs"]}
        done = [name for name in runs if name in rows]
        active = [name for name in runs if name in busy and name not in rows]
        failed = [name for name in runs if name in failures and name not in rows and name not in busy]
        left = [name for name in runs if name not in {*done, *active, *failed}]
        at_work = {name: progress_of(store, name) for name in active}
        programs = {tuple(members.get(name, (name,))) for name in active}
        pace = _pace(plan, rows, {name: (busy[name], at_work[name].get("share", 0.0)) for name in active}, members)
        costs = [runs[name]["cost"] for name in (*left, *failed)]
        costs += [runs[name]["cost"] * (1 - at_work[name].get("share", 0.0)) for name in active]
        table.append(
            {
                "job": plan["job"], "size": plan["size"], "planned": plan["created"], "runs": len(runs), "done": len(done),
                "running": len(active), "failed": len(failed), "left": len(left),
                "seconds_left": time_left({plan["job"]: costs}, (pace, everywhere), len(programs)).seconds,
                "at_work": [_at_work(name, runs[name], at_work[name], busy[name]) for name in active],
                "failures": [{"run": n, "what": label(runs[n]), "error": str(failures[n].get("error", ""))} for n in failed],
            }
        )  # fmt: skip
    return table


def status_lines(rows: Sequence[Mapping[str, Any]], damaged: Sequence[Damage] = ()) -> list[str]:
    """The page of a status: a table of the plans, the runs at work, the failures and the damaged files."""
    columns = ("job", "size", "runs", "done", "running", "failed", "left", "time left")
    counts = [[str(row[key]) for key in columns[2:-1]] for row in rows]
    cells = [[row["job"], row["size"], *count, _left(row)] for row, count in zip(rows, counts, strict=True)]
    lines = [*align_table(columns, cells, ("size",)), ""]
    for row in rows:
        for active in row["at_work"]:
            facts = facts_in_words({key: value for key, value in active.items() if value is not None})
            lines.append(f"running: {row['job']} {active['what']}, {active['share']:.0%} done{facts and f', {facts}'}")
        lines += [f"failed: {row['job']} {one['what']}: {one['error'].partition(chr(10))[0]}" for one in row["failures"]]
    return [*lines, *(f"damaged: {damage}" for damage in damaged)]


def _left(row: Mapping[str, Any]) -> str:
    if row["done"] == row["runs"]:
        return ""
    return "not known yet" if row["seconds_left"] is None else for_people(row["seconds_left"])


def _at_work(name: str, run: Mapping[str, Any], progress: Mapping[str, float], lease: Mapping[str, Any]) -> dict[str, Any]:
    """A run at work, as plain data."""
    facts = {key: progress.get(key) for key in ("step", "steps", "loss", "rate")}
    return {"run": name, "what": label(run), "share": progress.get("share", 0.0), **facts, "since": lease.get("since")}


def _pace(
    plan: Plan, rows: Mapping[str, list[Row]], active: Mapping[str, tuple[Any, float]], members: Mapping[str, list[str]]
) -> Pace:
    """The pace of a plan's runs: those that ended, and those at work, each with its lease and the share that is done."""
    found = pace_of_rows([plan], rows)
    costs = {run["run"]: run["cost"] for run in plan["runs"]}
    for name, (lease, share) in active.items():
        seconds = time.time() - lease["since"]
        if share >= LEAST_SHARE and seconds > 0:
            found.add(plan["job"], seconds / len(members.get(name, (name,))), share * costs[name])
    return found


def progress_of(store: Store, run: str) -> dict[str, float]:
    """The progress that the worker of a run has written last: ``share``, and the facts of a training.

    Empty if it has written none, or if the file is damaged: it is for people alone.
    """
    try:
        found: dict[str, float] = read_record(store.work_folder(run) / "progress", ProgressRecord, "progress")
    except InputError:
        return {}
    return found
