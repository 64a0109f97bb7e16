"""From a job to its rows: plan, claim, carry out, keep.

The plan, predictions included, is on disk before the first run starts. Doing a sweep again does what is missing.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import depthwidth
from depthwidth.errors import InputError, nearest, shown

from ..jobs import Job, Prediction, Run, check_size, find_job, run_name
from ..rows import Row, canonical
from .claims import Leases, running
from .executors import Executor, Outcome, Task, told
from .store import PLAN_NAME, Damage, Store

Plan = Mapping[str, Any]


def now() -> str:
    """The time, to the second, in UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@functools.cache
def commit() -> str:
    """The commit of the checkout that this code runs from, with ``+changed`` where files differ from it; empty elsewhere."""
    git = shutil.which("git")
    here = Path(__file__).resolve().parents[2]
    if git is None or not (here / ".git").exists():
        return ""

    def ask(*words: str) -> str:
        done = subprocess.run([git, "-C", str(here), *words], capture_output=True, text=True, check=False, timeout=30)  # noqa: S603
        return done.stdout.strip() if done.returncode == 0 else ""

    head = ask("rev-parse", "--short=12", "HEAD")
    return head + ("+changed" if head and ask("status", "--porcelain", "-uno") else "")


def make_plan(job: Job, size: str) -> dict[str, Any]:
    """What is to be run, and what is predicted, as plain data.

    Raises
    ------
    InputError
        if there is no such size, or the job has no runs of it or describes two runs alike.
    """
    check_size(size)
    code = job.code
    try:
        runs = [_planned(job.name, code, run) for run in job.runs(size)]
        predictions = [prediction.to_dict() for prediction in job.predict(size)]
    except InputError:
        raise
    except Exception as error:  # a job may be anyone's
        raise InputError(f"{job.name} cannot say what to run: {told(error)}") from None
    if not runs:
        raise InputError(f"{job.name} has no runs of size {size}")
    if len({run["run"] for run in runs}) < len(runs):
        raise InputError(f"{job.name} describes two runs of size {size} alike")
    return {
        "job": job.name, "size": size, "code": code, "judging": job.judging, "created": now(), "commit": commit(),
        "depthwidth": depthwidth.__version__,
        "question": job.question, "claim": job.claim, "measured": job.measured, "criterion": job.criterion,
        "predictions": predictions, "runs": runs,
    }  # fmt: skip


def _planned(job: str, code: str, run: Run) -> dict[str, Any]:
    keys = [(p.site, p.step, p.quantity) for p in run.predictions]
    if len(set(keys)) < len(keys):
        raise InputError(f"{job} predicts the same quantity of a run twice")
    about = {
        "run": run_name(job, code, run), "seed": run.seed, "spec": dict(run.spec), "labels": dict(run.labels), "cost": run.cost,
        "cpus": run.cpus, "gpus": run.gpus, "predictions": [prediction.to_dict() for prediction in run.predictions],
    }  # fmt: skip
    found = json.loads(canonical(about))  # what the file will hold: tuples are lists now
    assert isinstance(found, dict)  # noqa: S101
    return found


def predictions_of(about: Mapping[str, Any]) -> list[Prediction]:
    """The predictions in a plan, or in one of its runs."""
    return [Prediction(**row) for row in about["predictions"]]


def same_plan(one: Plan, other: Plan) -> bool:
    """Whether two plans ask for the same and predict the same, whenever they were made."""
    passing = ("created", "commit", "ensemble", "judging")
    return canonical({k: v for k, v in one.items() if k not in passing}) == canonical(
        {k: v for k, v in other.items() if k not in passing}
    )


def prepare(
    store: Store, names: Sequence[str], size: str, ensemble: int | None = None, default: int = 1
) -> list[dict[str, Any]]:
    """Plans for the jobs called `names`, written down; a plan that is there already and says the same stays as it is.

    How many runs go together stands in the plan, so that whoever resumes does as was begun: `ensemble`; where it is None, what
    the plan that is there says, and `default` for a new one. Once a run has its rows, what is predicted of the job as a whole
    stays as it was, and so does the way that it is judged.
    """
    plans = []
    known = {(plan["job"], plan["size"]): plan for plan in store.plans()}
    for name in dict.fromkeys(names):
        plan = make_plan(find_job(name), size)
        there = known.get((name, size))
        if there is not None:
            if _runs_of(there) == _runs_of(plan) and any(store.rows_of(run) is not None for run in _runs_of(plan)):
                plan = {**there, "runs": plan["runs"]}
            if same_plan(there, plan):
                plan = there
        before = None if there is None else there.get("ensemble")
        together = ensemble or before or default
        if plan is not there or together != before:
            plan = {**plan, "ensemble": together}
            store.write_plan(plan)
        plans.append(plan)
    return plans


def _runs_of(plan: Plan) -> list[str]:
    return [run["run"] for run in plan["runs"]]


def planned(store: Store, damaged: Sequence[Damage] = (), names: Sequence[str] = ()) -> tuple[list[dict[str, Any]], list[str]]:
    """The plans in a folder, to go on with; one that was damaged is made again, since it follows from the job.

    Parameters
    ----------
    store, damaged : the folder, and what :meth:`Store.tidy` set aside there.
    names : jobs; all by default.

    Returns
    -------
    The plans, and a sentence for each that cannot be gone on with, because its job is gone, or has changed.

    Raises
    ------
    InputError
        if there are none, or none of a job in `names`.
    """
    plans = store.plans()
    for damage in damaged:
        if found := PLAN_NAME.fullmatch(damage.path.name):
            plans += prepare(store, [found[1]], found[2])
    jobs = {plan["job"] for plan in plans}
    for name in [*names, *([] if plans else [""])]:
        if name not in jobs:
            what = f"plan of {name}{nearest(name, jobs)}" if name else "plan"
            raise InputError(f"{shown(str(store.root))} holds no {what} to resume; `depthwidth verify run JOB` makes one")
    asked = [plan for plan in plans if not names or plan["job"] in names]
    good, passed = [], []
    for plan in asked:
        try:
            if find_job(plan["job"]).code != plan["code"]:
                raise InputError(
                    f"{plan['job']} has changed since {plan['created']}, so that its runs are others now; "
                    f"`depthwidth verify run {plan['job']} --size {plan['size']}` plans it again"
                )
            good.append(plan)
        except InputError as error:
            passed.append(str(error))
    return good, passed


@dataclass
class Summary:
    """What came of a sweep."""

    done: int = 0
    """Runs measured now."""
    before: int = 0
    """Runs that had their rows already."""
    busy: int = 0
    """Runs that another process was at work on."""
    failed: dict[str, str] = field(default_factory=dict)
    """What went wrong, by run."""
    damaged: list[Damage] = field(default_factory=list)
    """Files that were set aside."""

    @property
    def status(self) -> int:
        """The exit status: 3 if a run failed, else 0."""
        return 3 if self.failed else 0


Tell = Callable[[str], None]


def sweep(
    store: Store,
    plans: Sequence[Plan],
    executor: Executor,
    device: str = "cpu",
    tell: Tell = lambda _: None,
    damaged: Sequence[Damage] = (),
    ensemble: int | None = None,
) -> Summary:
    """Measure whatever the plans ask for and the store does not hold.

    Parameters
    ----------
    store : where rows go, each run's as soon as it is finished.
    plans : what to do. The costliest runs go first, each to whoever is idle, so that the end, in which some are, is short: it
        comes at most a third later than it could (Graham 1969).
    executor : who does it.
    device : ``cpu`` or ``cuda``.
    tell : is called with a sentence whenever something is finished.
    damaged : what :meth:`Store.tidy` set aside before, to be reported.
    ensemble : how many runs at most go together in one program, where the job says how (:class:`verify.jobs.Ensemble`); by
        default as many as the plan says.
    """
    summary = Summary(damaged=list(damaged))
    todo = {run["run"]: (plan, run) for plan in plans for run in plan["runs"]}
    clock = _Clock({name: run["cost"] for name, (_, run) in todo.items()})
    with Leases(store) as leases:

        def claimed(name: str) -> str:
            try:
                return leases.claim(name)
            except OSError as error:
                summary.failed[name] = f"its lease could not be written ({error.strerror})"
                return "failed"

        def tasks() -> Iterator[Task]:
            for names in gathered(store, todo, ensemble, executor.workers):
                found = {name: claimed(name) for name in names}
                for name in (name for name in names if found[name] != "ours"):
                    summary.before += found[name] == "done"
                    summary.busy += found[name] == "busy"
                    clock.costs.pop(name)
                ours = [name for name in names if found[name] == "ours"]
                if ours:
                    # The checkpoint of an ensemble is that of all its members: those that have their rows already come along.
                    begun = store.ensemble_folder(names).is_dir() and "busy" not in found.values()
                    yield _task_of(store, {name: todo[name] for name in (names if begun else ours)}, device)

        for every in executor.run(tasks()):
            for outcome in (one for one in every.runs if one.task.run in leases):
                name = outcome.task.run
                plan, run = todo[name]
                error = _settle(store, leases, plan, run, outcome, summary)
                clock.passed(name)
                settled = summary.before + summary.busy + summary.done + len(summary.failed)
                left = f", about {for_people(seconds)} left" if (seconds := clock.left()) and settled < len(todo) else ""
                how = f"FAILED: {error.splitlines()[0]}" if error else for_people(outcome.wall_s)
                tell(f"[{settled}/{len(todo)}] {plan['job']} {label(run)}: {how}{left}")
            if every.note:
                tell(f"{len(every.runs)} runs were measured one by one, as together they failed: {every.note}")
            _clear(store, every.task, summary)
    return summary


Todo = Mapping[str, tuple[Plan, Mapping[str, Any]]]
"""Runs by name, each with its plan."""


def gathered(store: Store, todo: Todo, most: int | None, workers: int | None) -> list[list[str]]:
    """Runs as they are carried out, the costliest first: each alone, or some of one shape as an ensemble.

    There are `most` in an ensemble at most, by default as many as the plan says, and no more than a worker's fair share of all
    runs, so that none is left without. An ensemble that was begun stays what it was.
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
    """One run, or several that go together."""
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


def _settle(store: Store, leases: Leases, plan: Plan, run: Mapping[str, Any], outcome: Outcome, summary: Summary) -> str:
    """Keep what came of a run, rows or a failure, and let go of it; returns what went wrong, empty if nothing did."""
    error = outcome.error or _keep(store, leases, plan, run, outcome)
    leases.give_back(run["run"])
    if error:
        summary.failed[run["run"]] = error
        _keep_failure(store, outcome, error)
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


def _keep(store: Store, leases: Leases, plan: Plan, run: Mapping[str, Any], outcome: Outcome) -> str:
    """Write the rows of a run; returns what went wrong, empty if nothing did."""
    try:
        rows = made_rows(plan, run, outcome)
        if not store.publish(run["run"], rows, leases[run["run"]]) and store.rows_of(run["run"]) is None:
            return "another process took the run over while this machine was silent"
    except InputError as error:
        return str(error)
    except OSError as error:
        return f"its rows could not be written ({error.strerror}); they are lost, its last checkpoint is not"
    return ""


def _keep_failure(store: Store, outcome: Outcome, error: str) -> None:
    with contextlib.suppress(OSError):  # the disk is full: the run simply has no rows, and the summary says why
        store.write_failure(
            outcome.task.run,
            {"job": outcome.task.job, "error": error, "deaths": outcome.task.deaths, "host": outcome.host, "date": now()},
        )


def made_rows(plan: Plan, run: Mapping[str, Any], outcome: Outcome) -> list[Row]:
    """The rows of a finished run: each measurement beside what was predicted for it, with where it comes from.

    Raises
    ------
    InputError
        if something that was predicted was not measured, or something was measured twice.
    """
    predicted = {(p.site, p.step, p.quantity): p for p in predictions_of(run)}
    rows: dict[tuple[str, int | None, str], Row] = {}
    for found in outcome.measurements:
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
            torch=outcome.torch,
            device=outcome.device,
            dtype=str(run["spec"].get("dtype", "float32")),
            wall_s=round(outcome.wall_s, 3),
            date=now(),
        )
    if missing := predicted.keys() - rows.keys():
        raise InputError(f"predicted but not measured: {shown(sorted(missing, key=str)[0])} and {len(missing) - 1} more")
    return list(rows.values())


class _Clock:
    """How long the rest will take, by the work that was done since the start."""

    def __init__(self, costs: Mapping[str, float]) -> None:
        self.costs = dict(costs)
        self.began, self.done = time.monotonic(), 0.0

    def passed(self, run: str) -> None:
        self.done += self.costs.pop(run)

    def left(self) -> float:
        return (time.monotonic() - self.began) / self.done * sum(self.costs.values()) if self.done else 0.0


def label(run: Mapping[str, Any]) -> str:
    """A run in a few words."""
    labels = run["labels"].items()
    return " ".join([*(f"{key}={value}" for key, value in labels), f"seed={run['seed']}"])


def for_people(seconds: float) -> str:
    """A time as people say it.

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


# Where things stand.


def standing(store: Store) -> list[dict[str, Any]]:
    """For each plan: how many runs are done, running, failed and left, and how long what is left will take.

    The time is that of finished runs for each unit of their declared cost, shared among the runs that are at work now (or one
    after the other where none are); None while nothing is finished.
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
        return min(1.0, max(0.0, float((store.work_folder(run) / "progress").read_text()[:16])))
    except (OSError, ValueError):
        return 0.0
