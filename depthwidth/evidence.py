"""Measured evidence: the rows that bear on a formula, and its errors there.

``data/evidence.csv`` names a formula, a file of ``data/measured/``, and the rows of it that count. All files there have the
same columns, which ``data/README.md`` describes; one row may stand for several settings that differ by an exact factor, as its
label ``cells`` then says. A row whose value is NaN is a measurement that did not decide.

>>> bool(evidence("rules.levine_width"))  # none of our measurements bears on that fit
False
"""

from __future__ import annotations

import contextlib
import csv
import functools
import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .coefficients import data_directory
from .errors import InputError, shown

COLUMNS = ("job", "run", "site", "quantity", "predicted", "value", "stderr", "seed", "labels", "device", "date")
"""The columns of a measured row that are read here; ``verify.rows.Row`` has all of them."""

MeasuredRow = dict[str, str]


@dataclass(frozen=True)
class Evidence:
    """The errors of one formula over the rows of one measurement: relative, of the prediction against the measurement."""

    formula: str
    file: str
    """below ``data/measured``"""
    what: str
    """the rows that count"""
    settings: int
    """number of settings that were measured"""
    undecided: int
    """number of these whose measurement did not decide; the errors are those of the others, None if there are none"""
    median_error: float | None
    """median of the relative error's absolute value over the rows"""
    median_stderr: float | None
    """median standard error of the measurements, in the same unit: below it an error may be noise alone"""
    worst_error: float | None
    """the relative error of largest absolute value, with its sign"""
    worst_stderr: float | None
    """the relative standard error of that row's measurement"""
    worst_at: str
    """the setting of that row"""
    date: str
    """of the latest row"""
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words."""
        return asdict(self)


def evidence(formula: str, directory: Path | None = None) -> tuple[Evidence, ...]:
    """The measured evidence for a formula: one item for each line of ``evidence.csv`` that names it, none if no line does.

    Parameters
    ----------
    formula : ``topic.function``.
    directory : of ``evidence.csv`` and ``measured/``; that of the package's data by default.

    Raises
    ------
    InputError
        if a line names a file or rows that do not exist, or a file lacks a column or has text in place of a number.
    """
    return all_evidence((formula,), directory).get(formula, ())


def all_evidence(names: tuple[str, ...] | None = None, directory: Path | None = None) -> dict[str, tuple[Evidence, ...]]:
    """:func:`evidence` of each formula in `names`, by default of all that have any; each file is read once."""
    directory = data_directory() if directory is None else directory
    tables: dict[str, list[MeasuredRow]] = {}
    found: dict[str, list[Evidence]] = {}
    for line in _read(directory / "evidence.csv"):
        formula, file, where = line["formula"], line["file"], line["where"]
        if names is not None and formula not in names:
            continue
        if file not in tables:
            tables[file] = measured_rows(directory / "measured" / file)
        wanted = dict(part.split("=", 1) for part in where.split(";")) if where else {}
        rows = _select(tables[file], wanted)
        if not rows:
            raise InputError(f"evidence.csv: {file} has no row where {where}")
        found.setdefault(formula, []).append(_evidence_of_rows(formula, file, wanted, rows))
    return {formula: tuple(items) for formula, items in found.items()}


def measured_rows(path: Path) -> list[MeasuredRow]:
    """The rows of a file of ``data/measured`` as text, by column; :func:`labels_of` reads their labels.

    Raises
    ------
    InputError
        if it cannot be read, or lacks a column.
    """
    rows = _read(path)
    if missing := [column for column in COLUMNS if rows and column not in rows[0]]:
        raise InputError(f"{path.name} has no column {missing[0]!r}, which evidence needs")
    return rows


def labels_of(row: MeasuredRow) -> dict[str, Any]:
    """The labels of a row, by name.

    Raises
    ------
    InputError
        if they are not a JSON object.
    """
    return _labels(row["labels"])


@functools.lru_cache(maxsize=1 << 16)
def _labels(text: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        found = json.loads(text)
        if isinstance(found, dict):
            return found
    raise InputError(f"the labels of a measured row must be a JSON object, not {shown(text)}")


def _select(rows: list[MeasuredRow], wanted: dict[str, str]) -> list[MeasuredRow]:
    """The rows with these columns and labels."""
    for name in sorted(wanted, key=lambda name: name not in COLUMNS):  # columns first: labels take longer to read
        if name in COLUMNS:
            rows = [row for row in rows if row[name] == wanted[name]]
        else:
            rows = [row for row in rows if str(labels_of(row).get(name)) == wanted[name]]
    return rows


def _evidence_of_rows(formula: str, file: str, wanted: dict[str, str], rows: list[MeasuredRow]) -> Evidence:
    decided = [row for row in rows if row["value"] not in ("", "nan")]
    try:
        errors = [_relative_error(row) for row in decided]
        noise = [float(row["stderr"]) / abs(labels_of(row).get("scale") or float(row["value"]) or 1.0) for row in decided]
        settings, known = (sum(int(labels_of(row).get("cells", 1)) for row in some) for some in (rows, decided))
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"{file} holds a value that is not a number ({error})") from error
    about = (formula, file, " ".join(wanted.values()), settings, settings - known)
    when = (max(row["date"] for row in rows), ", ".join(sorted({row["device"] for row in rows})))
    if not decided:
        return Evidence(*about, None, None, None, None, _place(rows[0]), *when)
    worst = max(range(len(decided)), key=lambda i: abs(errors[i]))
    medians = (statistics.median(map(abs, errors)), statistics.median(noise))
    return Evidence(*about, *medians, errors[worst], noise[worst], _place(decided[worst]), *when)


def _relative_error(row: MeasuredRow) -> float:
    """The recorded one, of numbers with all their digits, if there is one; else that of the row's own numbers."""
    labels = labels_of(row)
    if "relative_error" in labels:
        return float(labels["relative_error"])
    predicted, value = float(row["predicted"]), float(row["value"])
    if "scale" in labels:
        return (predicted - value) / abs(float(labels["scale"]))
    return predicted / value - 1


def _place(row: MeasuredRow) -> str:
    """The setting that singles a row out: its site, some of its labels, or its run."""
    setting = {**labels_of(row), "seed": row["seed"]}
    named = " ".join(f"{name} {setting[name]}" for name in _SETTING if setting.get(name) not in (None, ""))
    return str(row["site"] or named or row["run"])


_SETTING = ("length", "head_dim", "budget", "pair", "seed")


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = csv.reader(file, strict=True)
        return [dict(zip(header, line, strict=True)) for line in lines]
    except (OSError, ValueError, csv.Error) as error:  # text that is not UTF-8 is a ValueError too
        raise InputError(f"{path.name} cannot be read as a table of measurements") from error
