"""From plans to rows: lease runs, hand them to an executor, store their rows. Repeating it completes the missing runs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import depthwidth
from depthwidth.cli.live import Display, Ticker
from depthwidth.errors import InputError, shown
from depthwidth.progress import for_people

from ..jobs import find_job
from ..rows import Row
from .claims import Leases
from .executors import Executor, Task, TaskResult
from .live import Sweep, left_in_words
from .plans import Plan, commit, now, predictions_of
from .status import label
from .store import Damage, Store


@dataclass
class Summary:
    """Counts of the runs of a sweep by outcome."""

    done: int = 0
    """Runs that were measured."""
    before: int = 0
    """Runs that already had rows."""
    busy: int = 0
    """Runs that another process was working on."""
    failed: dict[str, str] = field(default_factory=dict)
    """Errors, by run."""
    damaged: list[Damage] = field(default_factory=list)
    """Damaged files that were set aside."""

    @property
    def status(self) -> int:
        """The exit status: 3 if a run failed, else 0."""
        return 3 if self.failed else 0


Tell = Callable[[str], None]


def carry_out(
    store: Store,
    plans: Sequence[Plan],
    executor: Executor,
    device: str = "cpu",
    tell: Tell = lambda _: None,
    damaged: Sequence[Damage] = (),
    ensemble: int | None = None,
    display: Display | None = None,
) -> Summary:
    """Measure the runs of the plans that the store does not hold.

    Parameters
    ----------
    store : the folder that receives the rows of each run as soon as it is finished.
    plans : the runs. The costliest run first, each on the first idle worker: the end comes at most a third later than the best
        order allows (Graham 1969).
    executor : carries the runs out.
    device : ``cpu`` or ``cuda``.
    tell : called with a sentence whenever a run is finished.
    damaged : files that :meth:`Store.tidy` set aside before, to be reported.
    ensemble : largest number of runs in one program, if the job supports it (:class:`verify.jobs.Ensemble`); by default the
        number in the plan.
    display : shows the runs at work and the time left; nothing is shown without one.
    """
    summary = Summary(damaged=list(damaged))
    todo = {run["run"]: (plan, run) for plan in plans for run in plan["runs"]}
    sweep = Sweep(store, todo, executor.workers)
    shown_live = contextlib.nullcontext() if display is None else Ticker(display, sweep.lines, 1.0)
    with Leases(store) as leases, shown_live:

        def claimed(name: str) -> str:
            try:
                return leases.claim(name)
            except OSError as error:
                summary.failed[name] = f"its lease could not be written ({error.strerror})"
                return "failed"

        def tasks() -> Iterator[Task]:
            for names in group_runs(store, todo, ensemble, executor.workers):
                found = {name: claimed(name) for name in names}
                for name in (name for name in names if found[name] != "ours"):
                    summary.before += found[name] == "done"
                    summary.busy += found[name] == "busy"
                    sweep.drop(name)
                ours = [name for name in names if found[name] == "ours"]
                if ours:
                    sweep.begin(ours)
                    # The checkpoint of an ensemble is that of all its members: those that have their rows already come along.
                    begun = store.ensemble_folder(names).is_dir() and "busy" not in found.values()
                    yield _task_of(store, {name: todo[name] for name in (names if begun else ours)}, device)

        for every in executor.run(tasks()):
            for result in (one for one in every.runs if one.task.run in leases):
                name = result.task.run
                plan, run = todo[name]
                error = _finish(store, leases, plan, run, result, summary)
                sweep.end(name, result.wall_s)
                settled = summary.before + summary.busy + summary.done + len(summary.failed)
                left = left_in_words(sweep.left())
                how = f"FAILED: {error.splitlines()[0]}" if error else for_people(result.wall_s)
                tell(f"[{settled}/{len(todo)}] {plan['job']} {label(run)}: {how}{left and f', {left}'}")
            if every.note:
                tell(f"{len(every.runs)} runs were measured one by one, because together they failed: {every.note}")
            _clear(store, every.task, summary)
    return summary


Todo = Mapping[str, tuple[Plan, Mapping[str, Any]]]
"""Runs by name, each with its plan."""


def group_runs(store: Store, todo: Todo, most: int | None, workers: int | None) -> list[list[str]]:
    """Groups of runs in the order of execution, the costliest first: single runs, or ensembles of runs of one shape.

    An ensemble has at most `most` runs, by default the number in the plan, and at most a worker's fair share of all runs, so
    that no worker is idle. A started ensemble keeps its members.
    """
    waiting, found = dict(todo), []
    for names in store.ensembles():
        if len(names) > 1 and all(name in waiting for name in names):
            found.append(names)
            for name in names:
                del waiting[name]
    share = -(-len(todo) // (workers or 1))
    alike: dict[Hashable, list[str]] = {}
    for name, (plan, run) in waiting.items():
        size = min(plan.get("ensemble", 1) if most is None else most, share)
        ensemble = find_job(plan["job"]).ensemble if size > 1 else None
        alike.setdefault(name if ensemble is None else (size, plan["job"], ensemble.shape(run["spec"])), []).append(name)
    for key, names in alike.items():
        size = key[0] if isinstance(key, tuple) else 1
        found += [names[start : start + size] for start in range(0, len(names), size)]
    return sorted(found, key=lambda names: -sum(todo[name][1]["cost"] for name in names))


def _task_of(store: Store, runs: Todo, device: str) -> Task:
    """The task for one run, or for several in one program."""
    first, *others = (
        Task(
            plan["job"], name, plan["code"], run["spec"], run["seed"], str(store.work_folder(name).resolve()), device,
            run["cpus"], run["gpus"],
        )
        for name, (plan, run) in runs.items()
    )  # fmt: skip
    if not others:
        return first
    folder = str(store.begin_ensemble(list(runs)).resolve())
    share = min(1.0, sum(run["gpus"] for _, run in runs.values()))  # of the one GPU that an ensemble runs on
    return replace(first, gpus=max(first.gpus, share), beside=tuple(others), together=folder)


def _finish(store: Store, leases: Leases, plan: Plan, run: Mapping[str, Any], result: TaskResult, summary: Summary) -> str:
    """Store the rows or the error of a run and release it; returns the error, empty if there is none."""
    error = result.error or _keep(store, leases, plan, run, result)
    leases.release(run["run"])
    if error:
        summary.failed[run["run"]] = error
        _keep_failure(store, result, error)
    else:
        summary.done += 1
    return error


def _clear(store: Store, task: Task, summary: Summary) -> None:
    """Remove the checkpoints of runs that have their rows, and of an ensemble once all of its runs have."""
    finished = [store.work_folder(one.run) for one in task.runs if one.run not in summary.failed]
    if task.together and len(finished) == len(task.runs):
        finished.append(Path(task.together))
    for folder in finished:
        shutil.rmtree(folder, ignore_errors=True)


def _keep(store: Store, leases: Leases, plan: Plan, run: Mapping[str, Any], result: TaskResult) -> str:
    """Write the rows of a run; returns the error, empty if there is none."""
    try:
        rows = build_rows(plan, run, result)
        if not store.publish(run["run"], rows, leases[run["run"]]) and store.rows_of(run["run"]) is None:
            return "another process took the run over while this machine was silent"
    except InputError as error:
        return str(error)
    except OSError as error:
        return f"its rows could not be written ({error.strerror}); they are lost, its last checkpoint is not"
    return ""


def _keep_failure(store: Store, result: TaskResult, error: str) -> None:
    with contextlib.suppress(OSError):  # the disk is full: the run simply has no rows, and the summary says why
        store.write_failure(
            result.task.run,
            {"job": result.task.job, "error": error, "deaths": result.task.deaths, "host": result.host, "date": now()},
        )


def build_rows(plan: Plan, run: Mapping[str, Any], result: TaskResult) -> list[Row]:
    """The rows of a finished run: each measurement with its prediction and provenance.

    Raises
    ------
    InputError
        if a predicted quantity was not measured, or a quantity was measured twice.
    """
    predicted = {(p.site, p.step, p.quantity): p for p in predictions_of(run)}
    rows: dict[tuple[str, int | None, str], Row] = {}
    for found in result.measurements:
        key = (found.site, found.step, found.quantity)
        if key in rows:
            raise InputError(f"{found.quantity} at {shown(found.site)}, step {found.step}, was measured twice")
        theory = predicted.get(key)
        rows[key] = Row(
            job=plan["job"],
            run=run["run"],
            step=found.step,
            site=found.site,
            quantity=found.quantity,
            predicted=theory.value if theory else None,
            value=float(found.value),
            stderr=None if found.stderr is None else float(found.stderr),
            formula=f"{theory.formula} {theory.version}" if theory else "",
            seed=run["seed"],
            labels=run["labels"] | dict(found.labels),
            code=plan["code"],
            commit=commit(),
            depthwidth=depthwidth.__version__,
            torch=result.torch,
            device=result.device,
            dtype=str(run["spec"].get("dtype", "float32")),
            wall_s=round(result.wall_s, 3),
            date=now(),
        )
    if missing := predicted.keys() - rows.keys():
        raise InputError(f"predicted but not measured: {shown(sorted(missing, key=str)[0])} and {len(missing) - 1} more")
    return list(rows.values())
