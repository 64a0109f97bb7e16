"""Which measured rows bear on which formula, and what they say of its error.

``data/measured/evidence.csv`` says it: a formula, a file of ``data/measured/``, and which of its rows. A file of measurements
has a row for each comparison, with at least ``measured``, ``stderr``, ``date`` and ``device``, and with ``relative_error`` or
``predicted`` (``data/README.md`` describes the columns); one row may stand for several settings that differ by an exact factor,
as its column ``cells`` then says. Where ``measured`` is empty, a measurement was made and did not decide.

>>> bool(evidence("rules.levine_width"))  # none of our measurements bears on that fit
False
"""

from __future__ import annotations

import csv
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .coefficients import data_directory
from .errors import InputError

_NEEDED = ("measured", "stderr", "date", "device")


@dataclass(frozen=True)
class Evidence:
    """What the rows of one measurement say of one formula. Errors are relative, of the prediction against the measurement."""

    formula: str
    file: str
    """below ``data/measured``"""
    what: str
    """the rows it is about"""
    settings: int
    """how many settings were measured"""
    undecided: int
    """of these, where what was found is too uncertain to be a number; errors are over the others, None where there are none"""
    median_error: float | None
    """median of the relative error's size over the rows"""
    median_stderr: float | None
    """median standard error of the measurements, in the same unit: below it an error may be noise alone"""
    worst_error: float | None
    """the relative error that is largest in size, with its sign"""
    worst_stderr: float | None
    """the standard error of that one row's measurement, relative too"""
    worst_at: str
    """where that is"""
    date: str
    """of the latest row"""
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and words."""
        return asdict(self)


def evidence(formula: str, directory: Path | None = None) -> tuple[Evidence, ...]:
    """The measured evidence for a formula, one item for each line of ``evidence.csv`` that names it; empty where there is none.

    Parameters
    ----------
    formula : ``topic.function``.
    directory : of the measured tables; ``data/measured`` by default.

    Raises
    ------
    InputError
        where a line names a file or rows that are not there, or a file lacks a column or holds what is not a number.
    """
    return all_evidence((formula,), directory).get(formula, ())


def all_evidence(names: tuple[str, ...] | None = None, directory: Path | None = None) -> dict[str, tuple[Evidence, ...]]:
    """:func:`evidence` of each formula in `names`, by default of all that have any; every file is read once."""
    directory = data_directory() / "measured" if directory is None else directory
    tables: dict[str, list[dict[str, str]]] = {}
    found: dict[str, list[Evidence]] = {}
    for line in _read(directory / "evidence.csv"):
        formula, file, where = line["formula"], line["file"], line["where"]
        if names is not None and formula not in names:
            continue
        if file not in tables:
            tables[file] = _read(directory / file)
        wanted = dict(part.split("=", 1) for part in where.split(";")) if where else {}
        rows = [row for row in tables[file] if all(row.get(column) == value for column, value in wanted.items())]
        if not rows:
            raise InputError(f"evidence.csv: {file} has no row where {where}")
        found.setdefault(formula, []).append(_of_rows(formula, file, wanted, rows))
    return {formula: tuple(items) for formula, items in found.items()}


def _of_rows(formula: str, file: str, wanted: dict[str, str], rows: list[dict[str, str]]) -> Evidence:
    missing = [column for column in _NEEDED if rows[0].get(column) is None]
    if rows[0].get("relative_error") is None and rows[0].get("predicted") is None:
        missing.append("predicted")
    if missing:
        raise InputError(f"{file} has no column {missing[0]!r}, which evidence needs")
    decided = [row for row in rows if row["measured"]]
    try:
        errors = [_relative_error(row) for row in decided]
        noise = [float(row["stderr"]) / abs(float(row.get("scale") or row["measured"]) or 1.0) for row in decided]
        settings, known = (sum(int(row.get("cells") or 1) for row in some) for some in (rows, decided))
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"{file} holds what is not a number ({error})") from error
    about = (formula, file, " ".join(wanted.values()), settings, settings - known)
    when = (max(row["date"] for row in rows), ", ".join(sorted({row["device"] for row in rows})))
    if not decided:
        return Evidence(*about, None, None, None, None, _place(rows[0]), *when)
    worst = max(range(len(decided)), key=lambda i: abs(errors[i]))
    medians = (statistics.median(map(abs, errors)), statistics.median(noise))
    return Evidence(*about, *medians, errors[worst], noise[worst], _place(decided[worst]), *when)


def _relative_error(row: dict[str, str]) -> float:
    if row.get("relative_error") is not None:
        return float(row["relative_error"])
    return float(row["predicted"]) / float(row["measured"]) - 1


def _place(row: dict[str, str]) -> str:
    """What singles a row out: the text of its setting, or the numbers that it is made of."""
    named = next((row[column] for column in ("cell", "stack", "run") if row.get(column)), "")
    return named or " ".join(f"{column} {row[column]}" for column in _SETTING if row.get(column))


_SETTING = ("length", "head_dim", "budget", "pair", "seed")


def _read(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path.name} cannot be read as a table of measurements") from error
