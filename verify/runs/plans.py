"""Plans: the runs of a job and all predictions, on disk before the first run starts."""

from __future__ import annotations

import datetime
import functools
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import depthwidth
from depthwidth.errors import InputError, nearest, shown

from ..jobs import Job, Prediction, Run, check_size, find_job, run_name
from ..rows import canonical
from .executors import describe_error
from .store import PLAN_NAME, Damage, Store

Plan = Mapping[str, Any]


def now() -> str:
    """The time, to the second, in UTC."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@functools.cache
def commit() -> str:
    """The commit of the checkout that this code runs from, with ``+changed`` if files differ; empty if there is no checkout."""
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
    """The runs of a size and all predictions, as plain data.

    Raises
    ------
    InputError
        if there is no such size, or the job has no runs of it or describes two runs identically.
    """
    check_size(size)
    code = job.code
    try:
        runs = [_planned(job.name, code, run) for run in job.runs(size)]
        predictions = [prediction.to_dict() for prediction in job.predict(size)]
    except InputError:
        raise
    except Exception as error:  # a job may come from anyone
        raise InputError(f"{job.name} cannot say what to run: {describe_error(error)}") from None
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
    found = json.loads(canonical(about))  # as the file will hold it: tuples become lists
    assert isinstance(found, dict)  # noqa: S101
    return found


def predictions_of(about: Mapping[str, Any]) -> list[Prediction]:
    """The predictions in a plan, or in one of its runs."""
    return [Prediction(**row) for row in about["predictions"]]


def same_plan(one: Plan, other: Plan) -> bool:
    """True if two plans ask for the same runs and predict the same, whenever they were made."""
    passing = ("created", "commit", "ensemble", "judging")
    return canonical({k: v for k, v in one.items() if k not in passing}) == canonical(
        {k: v for k, v in other.items() if k not in passing}
    )


def prepare(
    store: Store, names: Sequence[str], size: str, ensemble: int | None = None, default: int = 1
) -> list[dict[str, Any]]:
    """Write plans for the jobs called `names`; an existing plan that agrees is kept.

    The plan records how many runs are trained together, so that a resumed sweep does the same: `ensemble`, or if that is None
    the number in the existing plan, or `default` for a new one. Once a run has its rows, the predictions for the job as a whole
    are kept, and so is the digest of the code that judges.
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


def load_plans(
    store: Store, damaged: Sequence[Damage] = (), names: Sequence[str] = (), default: int = 1
) -> tuple[list[dict[str, Any]], list[str]]:
    """The plans of a folder, to be resumed; a damaged plan is made again, since it follows from the job.

    Parameters
    ----------
    store, damaged : the folder, and the files that :meth:`Store.tidy` set aside there.
    names : jobs; all by default.
    default : number of runs in one program, for a damaged plan that has lost it.

    Returns
    -------
    The plans, and a sentence for each that cannot be resumed because its job is gone or has changed.

    Raises
    ------
    InputError
        if there are none, or none of a job in `names`.
    """
    plans, passed = store.plans(), []
    for damage in damaged:
        if found := PLAN_NAME.fullmatch(damage.path.name):
            try:
                plans += prepare(store, [found[1]], found[2], default=damage.ensemble or default)
            except InputError as error:
                passed.append(f"{found[1]} {found[2]}, whose plan was damaged, cannot be planned again: {error}")
    jobs = {plan["job"] for plan in plans}
    for name in [*names, *([] if plans or passed else [""])]:
        if name not in jobs:
            what = f"plan of {name}{nearest(name, jobs)}" if name else "plan"
            raise InputError(f"{shown(str(store.root))} holds no {what} to resume; `depthwidth verify run JOB` makes one")
    asked = [plan for plan in plans if not names or plan["job"] in names]
    good = []
    for plan in asked:
        try:
            if find_job(plan["job"]).code != plan["code"]:
                raise InputError(
                    f"{plan['job']} has changed since {plan['created']}, so its runs are different now; "
                    f"`depthwidth verify run {plan['job']} --size {plan['size']}` plans it again"
                )
            good.append(plan)
        except InputError as error:
            passed.append(str(error))
    return good, passed
