"""Replace the predictions beside kept measurements by those of today's formulas.

    python tests/predictions.py                       # all files of moments; measured values stay as they are
    python tests/predictions.py transformers-init

A formula that was corrected predicts something else for settings that were measured before. The measured numbers, their
standard errors and their provenance stay; `predicted` and `formula` become those of this checkout where a prediction moved by
more than the rounding of the file, and the labels that were computed from the old prediction go.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

from verify.jobs import find_job
from verify.rows import Row, rows_from_csv, rows_to_csv

MEASURED = Path(__file__).parents[1] / "data" / "measured"
FILES = {
    "moments": "moments.csv", "transformers-init": "transformers_init.csv", "attention-entropy": "attention_entropy.csv",
}  # fmt: skip
LABELS = {
    "moments": ("activation", "depth", "dropout", "mask", "placement", "scheme", "width"),
    "transformers-init": ("depth", "family", "width", "window"),
    "attention-entropy": ("layers", "length", "model", "width"),
}
COMPUTED = ("relative_error", "z")
"""Labels that follow from a prediction."""
ROUNDING = 1e-5
"""Relative step of the numbers that were kept with six digits."""

Key = tuple[tuple[str, ...], str, str]


def key_of(job: str, row: Row) -> Key:
    """The setting, site and quantity of a row: what a prediction is made for."""
    return tuple(str(row.labels[name]) for name in LABELS[job]), row.site, row.quantity


def predictions(job: str) -> dict[Key, tuple[float, str]]:
    """Today's prediction for every setting of the job's size `small`, and the formula with its version."""
    found = {}
    for run in find_job(job).runs("small"):
        setting = tuple(str(run.labels[name]) for name in LABELS[job])
        for one in run.predictions:
            found[setting, one.site, one.quantity] = one.value, f"{one.formula} {one.version}"
    return found


def update(job: str) -> tuple[int, float]:
    """Rewrite the file of a job; the number of rows that changed, and the largest relative change."""
    path = MEASURED / FILES[job]
    today, rows, changes = predictions(job), [], [0.0]
    for row in rows_from_csv(path.read_bytes(), path.name):
        value, formula = today[key_of(job, row)]
        if not math.isclose(value, row.expected, rel_tol=ROUNDING, abs_tol=ROUNDING):
            changes.append(abs(value / row.expected - 1))
            labels = {name: label for name, label in row.labels.items() if name not in COMPUTED}
            row = dataclasses.replace(row, predicted=value, formula=formula, labels=labels)
        rows.append(row)
    path.write_bytes(rows_to_csv(rows))
    return len(changes) - 1, max(changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("jobs", nargs="*", default=list(FILES), help=", ".join(FILES))
    for job in parser.parse_args().jobs:
        changed, most = update(job)
        print(f"{FILES[job]}: {changed} predictions changed, by at most {100 * most:.2g} %")  # noqa: T201


if __name__ == "__main__":
    main()
