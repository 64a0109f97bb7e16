"""Reports of the rows that are committed in data/measured, as if they lay in a folder of runs."""

import contextlib
import functools
from pathlib import Path

from verify.jobs import Verdict, jobs
from verify.rows import canonical, digest_of, rows_from_csv
from verify.runs.report import Report

MEASURED = Path(__file__).parents[3] / "data" / "measured"


def names():
    """The jobs with committed rows."""
    return sorted(path.stem.replace("_", "-") for path in MEASURED.glob("*.csv") if path.stem.replace("_", "-") in jobs())


@functools.cache
def rows_of(name):
    """The rows of a job."""
    path = MEASURED / f"{name.replace('-', '_')}.csv"
    return rows_from_csv(path.read_bytes(), path.name)


@functools.cache
def told(name):
    """The predictions of a job as a whole."""
    with contextlib.suppress(Exception):
        return list(jobs()[name].predict("small"))
    return []


def report_of(name, rows=None):
    """The report of a job on its committed rows, or on others; runs without a name are told apart by seed and labels."""
    job, rows = jobs()[name], rows_of(name) if rows is None else rows
    runs = {}
    for row in rows:
        key = row.run or digest_of(canonical([row.seed, dict(row.labels)]).encode())
        its = runs.setdefault(key, {"run": key, "seed": row.seed, "labels": row.labels, "predictions": [], "cost": 1.0})
        if row.predicted is not None:
            formula, _, version = row.formula.partition(" ")
            one = {"quantity": row.quantity, "value": row.predicted, "formula": formula, "version": version, "site": row.site}
            its["predictions"].append({**one, "step": row.step})
    predictions = [one.to_dict() for one in told(name)]
    plan = {**job.to_dict(), "job": name, "size": "small", "created": "2026-01-01T00:00:00Z", "predictions": predictions}
    plan |= {"runs": list(runs.values()), "depthwidth": "0.1.0"}
    try:
        verdict = job.judge(rows, told(name))
    except Exception as error:
        verdict = Verdict("undecided", f"it could not be judged: {error!r}")
    return Report(plan, tuple(rows), len(runs), verdict, (), verdict.outcome)
