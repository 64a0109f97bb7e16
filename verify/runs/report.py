"""Predicted against measured, claim by claim, for people and for machines."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from depthwidth.display import Overview, with_overview
from depthwidth.errors import InputError, nearest, shown
from depthwidth.progress import announced

from ..jobs import Comparison, Job, Outcome, Prediction, Verdict, find_job
from ..rows import Row, finite_or_none
from .executors import describe_error
from .margins import flips, margin_in_words, outcome_in_noise, seeds_of
from .plans import make_plan, predictions_of
from .store import Store


@with_overview
@dataclass(frozen=True)
class Report:
    """One job of one size: its plan, its rows so far, and the verdict."""

    plan: Mapping[str, Any]
    measured: tuple[Row, ...]
    done: int
    verdict: Verdict
    notes: tuple[str, ...]
    judged: str = ""
    """The outcome by the criterion on the rows that are there, if the verdict is another one because runs are missing."""

    @property
    def standing(self) -> Outcome:
        """The outcome, if comparisons count as undecided when their noise exceeds the allowed range."""
        return outcome_in_noise(self.verdict)

    def overview(self) -> Overview:
        """The question, the criterion and the verdict, for a prompt or a notebook."""
        facts = {name: str(self.plan[name]) for name in ("question", "criterion")}
        facts |= {
            "runs": f"{self.done} of {len(self.plan['runs'])}",
            "outcome": f"{self.standing}: {self.verdict.summary}",
        }
        return Overview(f"Report of {self.plan['job']}, {self.plan['size']}", facts)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        words = {k: self.plan[k] for k in ("job", "size", "question", "claim", "measured", "criterion", "created", "code")}
        return words | {
            "runs": len(self.plan["runs"]), "done": self.done, "outcome": self.verdict.outcome, "standing": self.standing,
            "summary": self.verdict.summary, "margin": margin_in_words(self.verdict),
            "would_change": flips(self.verdict, len(seeds_of(self.measured))), "comparisons": self.rows(),
            "notes": list(self.notes),
        }  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary for each comparison."""
        head = {"job": self.plan["job"], "size": self.plan["size"]}
        return [head | _row_of(line) for line in self.verdict.comparisons]


def _row_of(line: Comparison) -> dict[str, Any]:
    """A comparison as plain data, with the ends of its limit at its standard error."""
    low, high = (None, None) if line.limit is None else line.limit.ends(line.stderr)
    found = {name: value for name, value in line.to_dict().items() if name != "limit"} | {"low": low, "high": high}
    plain = {name: finite_or_none(value) if isinstance(value, float) else value for name, value in found.items()}
    return plain | {"noisy": line.is_noisy}


def reports(store: Store, names: Sequence[str] = (), *, now: bool = False) -> list[Report]:
    """A report for each plan in a folder, or for those of the jobs called `names`.

    Parameters
    ----------
    store : the folder.
    names : jobs; all by default.
    now : use today's predictions instead of those that were recorded before measuring. That does not test a theory; it tells
        if a theory that has changed since would have passed.

    Raises
    ------
    InputError
        if there is no such plan.
    """
    plans = store.plans()
    known = sorted({plan["job"] for plan in plans})
    for name in names:
        if name not in known:
            raise InputError(
                f"{store.root} has no plan of {shown(name)}{nearest(name, known)}; it has {', '.join(known) or 'none'}"
            )
    if not plans:
        raise InputError(f"{shown(str(store.root))} holds no plan; `depthwidth verify run JOB` makes one")
    rows = store.rows()
    asked = [plan for plan in plans if not names or plan["job"] in names]
    return [_report(plan, rows, now) for plan in announced("report", asked)]


def _report(plan: Mapping[str, Any], rows: Mapping[str, list[Row]], now: bool) -> Report:
    done = [run["run"] for run in plan["runs"] if run["run"] in rows]
    measured = [row for name in done for row in rows[name]]
    try:
        job = find_job(plan["job"])
    except InputError as error:
        verdict = Verdict("undecided", f"the job that judges these rows is not installed: {error}")
        return Report(plan, tuple(measured), len(done), verdict, ())
    notes = []
    if changed := _changed(job, plan):
        notes.append(changed)
    predictions = predictions_of(plan)
    if now and job.code == plan["code"]:
        today = make_plan(job, plan["size"])
        measured, others = _with_predictions_of(today, measured)
        others += _differing(predictions, predictions_of(today))
        predictions = predictions_of(today)
        notes.append(f"predicted today, after measuring; {others} predictions differ from those recorded before")
    elif now:
        notes.append("today's predictions are for other runs; judged by those recorded before measuring")
    else:
        if others := _with_predictions_of(plan, measured)[1]:
            notes.append(f"{others} rows have an earlier prediction and are judged by it; --now uses today's")
        if _differing(predictions, _predicted_now(job, plan["size"])):
            notes.append(
                "depthwidth now predicts something else for the job as a whole; judged by the prediction recorded before "
                "measuring, --now uses today's"
            )
    if before := sum(rows[name][0].date < plan["created"] for name in done):
        notes.append(f"{before} of its runs had been measured when this plan was made")
    try:
        verdict = job.judge(measured, predictions)
    except Exception as error:  # a job may come from anyone
        verdict = Verdict("undecided", f"it could not be judged: {describe_error(error)}")
    missing, judged = len(plan["runs"]) - len(done), verdict.outcome
    if missing:
        notes.append(f"{missing} of {len(plan['runs'])} runs are missing")
        verdict = Verdict("undecided", f"So far: {verdict.outcome}. {verdict.summary}", verdict.comparisons)
    return Report(plan, tuple(measured), len(done), verdict, tuple(notes), judged)


def _changed(job: Job, plan: Mapping[str, Any]) -> str:
    """A sentence about the code of a job that has changed since a plan was made; empty if none has."""
    measures, judges = job.code != plan["code"], job.judging != plan.get("judging", job.judging)
    if measures and judges and job.measure.__module__ == job.judge.__module__:
        return "the job's file, which predicts, measures and judges, has changed since this was planned"
    which = [word for word, changed in (("measures", measures), ("judges", judges)) if changed]
    return f"the code that {' and that which '.join(which)} has changed since this was planned" if which else ""


def _with_predictions_of(plan: Mapping[str, Any], rows: Sequence[Row]) -> tuple[list[Row], int]:
    """The rows with the predictions of a plan, and the number of rows that had another prediction."""
    theory = {(run["run"], p.site, p.step, p.quantity): p.value for run in plan["runs"] for p in predictions_of(run)}
    found = [replace(row, predicted=theory.get((row.run, row.site, row.step, row.quantity))) for row in rows]
    others = sum(one.predicted not in (None, row.predicted) for one, row in zip(found, rows, strict=True))
    return found, others


def _predicted_now(job: Job, size: str) -> list[Prediction]:
    """The predictions for a job as a whole; none if that fails, since a job may be anyone's."""
    with contextlib.suppress(Exception):
        return list(job.predict(size))
    return []


def _differing(recorded: Sequence[Prediction], other: Sequence[Prediction]) -> int:
    """Number of recorded predictions that have another value among the others."""
    values = {(p.site, p.step, p.quantity): p.value for p in other}
    return sum(values.get((p.site, p.step, p.quantity), p.value) != p.value for p in recorded)
