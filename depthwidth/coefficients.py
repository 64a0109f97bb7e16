"""Fitted numbers and published tables, read from ``data/``: every value with its error, its source and how sure we are.

``data/coefficients/LAW.csv`` holds the numbers of one law, ``data/coefficients/LAW.covariance.csv`` their covariance where
there is one, and ``data/reference/NAME.csv`` a table as its source published it. ``data/README.md`` describes every column.
"""

from __future__ import annotations

import csv
import functools
from pathlib import Path

from .errors import InputError, nearest, shown
from .values import frozen


@frozen
class Coefficient:
    """One fitted number. `stderr` is one standard error, None where the source gives none."""

    law: str
    edition: str
    name: str
    value: float
    stderr: float | None
    unit: str
    status: str
    source: str
    note: str


def data_directory() -> Path:
    """The folder of the tables: inside the installed package, or at the root of a checkout."""
    here = Path(__file__).resolve().parent
    installed = here / "data"
    return installed if installed.is_dir() else here.parent / "data"


def laws() -> list[str]:
    """The names of all laws that have coefficients."""
    return sorted(p.stem for p in (data_directory() / "coefficients").glob("*.csv") if "." not in p.stem)


@functools.cache
def coefficients(law: str) -> tuple[Coefficient, ...]:
    """All coefficients of `law`, every edition, in the order of the file.

    Raises
    ------
    InputError
        if there is no such law.
    """
    if law not in laws():
        raise InputError(f"there are no coefficients for {shown(law)}{nearest(law, laws())}; there are for {', '.join(laws())}")
    return tuple(
        Coefficient(
            law=law,
            edition=row["edition"],
            name=row["name"],
            value=float(row["value"]),
            stderr=float(row["stderr"]) if row["stderr"] else None,
            unit=row["unit"],
            status=row["status"],
            source=row["source"],
            note=row["note"],
        )
        for row in _rows(data_directory() / "coefficients" / f"{law}.csv")
    )


def editions(law: str) -> list[str]:
    """The editions of `law` (one fit each), the default one first."""
    return list(dict.fromkeys(c.edition for c in coefficients(law)))


def coefficient(law: str, name: str, edition: str = "") -> Coefficient:
    """The coefficient `name` of `law`, in `edition` or, by default, the first edition of its file."""
    edition = edition or editions(law)[0]
    for row in coefficients(law):
        if (row.edition, row.name) == (edition, name):
            return row
    known = [c.name for c in coefficients(law) if c.edition == edition]
    if not known:
        raise InputError(f"{law} has no edition {shown(edition)}; it has {', '.join(editions(law))}")
    raise InputError(f"{law} has no coefficient {shown(name)}{nearest(name, known)}; it has {', '.join(known)}")


@functools.cache
def covariance(law: str, edition: str = "") -> dict[tuple[str, str], float]:
    """The covariance of the coefficients of `law`, both orders of each pair; empty where the source gives none."""
    path = data_directory() / "coefficients" / f"{law}.covariance.csv"
    if not path.exists():
        return {}
    edition = edition or editions(law)[0]
    found = {}
    for row in _rows(path):
        if row["edition"] == edition:
            found[row["row"], row["column"]] = found[row["column"], row["row"]] = float(row["value"])
    return found


def reference_tables() -> list[str]:
    """The names of all published tables in ``data/reference``."""
    return sorted(path.stem for path in (data_directory() / "reference").glob("*.csv"))


@functools.cache
def reference(table: str) -> tuple[dict[str, str], ...]:
    """The rows of a published table, as the file has them: column name to text.

    Raises
    ------
    InputError
        if there is no such table.
    """
    known = reference_tables()
    if table not in known:
        raise InputError(f"there is no table {shown(table)}{nearest(table, known)}; `depthwidth table` lists them")
    return tuple(_rows(data_directory() / "reference" / f"{table}.csv"))


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
