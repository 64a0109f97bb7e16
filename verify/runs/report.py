"""Predicted against measured, claim by claim, for people and for machines."""

from __future__ import annotations

import contextlib
import html
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from depthwidth.display import Overview, with_overview
from depthwidth.errors import InputError, nearest, printable, shown
from depthwidth.plots.measured import HEIGHT, draw_against
from depthwidth.plots.saving import svg_of
from depthwidth.plots.theme import drawing, new_figure
from depthwidth.progress import announced

from ..files import write_whole
from ..jobs import Job, Prediction, Verdict, find_job
from ..rows import Row, finite_or_none
from .executors import describe_error
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

    def overview(self) -> Overview:
        """The question, the criterion and the verdict, for a prompt or a notebook."""
        facts = {name: str(self.plan[name]) for name in ("question", "criterion")}
        facts |= {
            "runs": f"{self.done} of {len(self.plan['runs'])}",
            "outcome": f"{self.verdict.outcome}: {self.verdict.summary}",
        }
        return Overview(f"Report of {self.plan['job']}, {self.plan['size']}", facts)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        words = {k: self.plan[k] for k in ("job", "size", "question", "claim", "measured", "criterion", "created", "code")}
        return words | {
            "runs": len(self.plan["runs"]), "done": self.done, "outcome": self.verdict.outcome,
            "summary": self.verdict.summary, "comparisons": self.rows(), "notes": list(self.notes),
        }  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """One dictionary for each comparison."""
        head = {"job": self.plan["job"], "size": self.plan["size"]}
        return [
            head | {k: finite_or_none(v) if isinstance(v, float) else v for k, v in line.to_dict().items()}
            for line in self.verdict.comparisons
        ]


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
    except Exception as error:  # a job may be anyone's
        verdict = Verdict("undecided", f"it could not be judged: {describe_error(error)}")
    missing = len(plan["runs"]) - len(done)
    if missing:
        notes.append(f"{missing} of {len(plan['runs'])} runs are missing")
        verdict = Verdict("undecided", f"So far: {verdict.outcome}. {verdict.summary}", verdict.comparisons)
    return Report(plan, tuple(measured), len(done), verdict, tuple(notes))


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


# The page.

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: 0.15rem 0.7rem; text-align: left; }
th { border-bottom: 1px solid #888; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
tr.bad td { background: #fde8e8; } .holds { color: #17692d; } .fails { color: #a11; } .range, .undecided { color: #8a5a00; }
svg { max-width: 100%; height: auto; } dt { font-weight: 600; } dd { margin: 0 0 0.4rem 1rem; }
"""


def page(found: Sequence[Report], path: str | Path) -> None:
    """Write reports as one self-contained HTML file: no script, no link, pictures inside.

    Raises
    ------
    InputError
        if it cannot be written, or matplotlib is not installed.
    """
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"html: {shown(str(path))} does not end in .html")
    text = as_page(found)
    try:
        write_whole(target, text.encode())
    except OSError as error:
        raise InputError(f"html: {shown(str(path))} cannot be written ({error.strerror})") from None


def as_page(found: Sequence[Report]) -> str:
    """The text of :func:`page`."""
    body = "\n".join(_section(one) for one in found)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Predicted and measured</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>Predicted and measured</h1>\n{body}\n</body></html>\n"
    )


def _section(one: Report) -> str:
    plan, verdict = one.plan, one.verdict
    css = "range" if verdict.outcome == "holds on a range" else verdict.outcome
    facts = {
        "Question": plan["question"], "Claim": plan["claim"], "Measured": plan["measured"],
        "Criterion, stated beforehand": plan["criterion"],
        "Predicted": f"{plan['created']}; code {plan['code']}",
        "Runs": f"{one.done} of {len(plan['runs'])} done" + _made_on(one.measured),
    }  # fmt: skip
    listed = "".join(f"<dt>{_safe(key)}</dt><dd>{_safe(value)}</dd>" for key, value in facts.items())
    notes = "".join(f"<p>Note: {_safe(note)}.</p>" for note in one.notes)
    return (
        f'<h2>{_safe(plan["job"])} ({_safe(plan["size"])}): <span class="{css}">{_safe(verdict.outcome)}</span></h2>'
        f"<p>{_safe(verdict.summary)}.</p><dl>{listed}</dl>{notes}{_pictures(one)}{_table(one)}"
    )


def _made_on(rows: Sequence[Row]) -> str:
    devices = sorted({f"{row.device}, {row.dtype}" for row in rows})
    return f"; on {'; '.join(devices)}" if devices else ""


def _table(one: Report) -> str:
    lines = []
    for line in one.verdict.comparisons:
        cells = "".join(
            f'<td class="n">{"" if value is None else f"{value:.5g}"}</td>'
            for value in (line.predicted, line.measured, line.stderr)
        )
        met = {True: "met", False: "not met", None: ""}[line.passes] + (f" ({line.note})" if line.note else "")
        bad = ' class="bad"' if line.passes is False else ""
        lines.append(f"<tr{bad}><td>{_safe(line.what)}</td>{cells}<td>{_safe(met)}</td></tr>")
    head = "".join(f"<th>{name}</th>" for name in ("", "predicted", "measured", "standard error", "criterion"))
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>" if lines else ""


def _safe(text: object) -> str:
    return html.escape(printable(str(text)))


Draw = Callable[[Any, Sequence[Row]], None]


def _pictures(one: Report) -> str:
    if not one.measured:
        return ""
    compared = [row for row in one.measured if row.predicted is not None]
    quantities = sorted({row.quantity for row in compared})
    pictures: list[tuple[str, Draw, Sequence[Row]]] = [
        (f"Measured {quantity} against predicted", _against, [row for row in compared if row.quantity == quantity])
        for quantity in quantities
    ]
    with contextlib.suppress(InputError):  # the job may not be installed; its rows are here
        pictures += [(title, draw, one.measured) for title, draw in find_job(one.plan["job"]).figures]
    return "".join(f"<h3>{_safe(title)}</h3>{_svg(draw, rows)}" for title, draw, rows in pictures)


def _svg(draw: Draw, rows: Sequence[Row]) -> str:
    with drawing() as theme:
        figure = new_figure(HEIGHT, theme)
        try:
            draw(figure.subplots(), rows)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of numbers that a picture cannot show
                return svg_of(figure)
        except Exception as error:  # a job, its rows and their labels may be anyone's: the other pictures are drawn
            return f"<p>This picture cannot be drawn: {_safe(printable(describe_error(error)))}.</p>"


def _against(axes: Any, rows: Sequence[Row]) -> None:
    """All rows of one quantity, with the line of equality."""
    draw_against(axes, [(row.predicted, row.value, row.stderr or 0.0) for row in rows if row.predicted is not None])
