"""Fitted numbers and published tables, read from ``data/``: every value with its error, its source and its status.

``data/coefficients/LAW.csv`` holds the numbers of one law, ``data/coefficients/LAW.covariance.csv`` their covariance where
there is one, and ``data/reference/NAME.csv`` a table as its source published it. ``data/README.md`` describes every column.
"""

from __future__ import annotations

import csv
import functools
import math
import os
from typing import TYPE_CHECKING

from .errors import InputError, nearest, shown
from .values import frozen

if TYPE_CHECKING:
    from pathlib import Path  # whose import takes longer than reading a table


@frozen
class Coefficient:
    """One fitted number. `stderr` is one standard error, None if the source gives none."""

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
    from pathlib import Path

    return Path(_data())


@functools.cache
def _data() -> str:
    here = os.path.dirname(os.path.realpath(__file__))
    installed = os.path.join(here, "data")
    return installed if os.path.isdir(installed) else os.path.join(os.path.dirname(here), "data")


def _file(folder: str, name: str) -> str:
    return os.path.join(_data(), folder, f"{name}.csv")


def _names(folder: str) -> list[str]:
    """The names of the tables in a folder; that of a covariance, which has a second point, is none."""
    found = (name.removesuffix(".csv") for name in os.listdir(os.path.join(_data(), folder)) if name.endswith(".csv"))
    return sorted(name for name in found if "." not in name)


def laws() -> list[str]:
    """The names of all laws that have coefficients."""
    return _names("coefficients")


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
    return tuple(_coefficient(law, row) for row in _rows(_file("coefficients", law)))


def _coefficient(law: str, row: dict[str, str]) -> Coefficient:
    return Coefficient(
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


LARGEST_FILE = 2**20
"""Bytes of a file of coefficients of one's own."""


def coefficients_of_file(path: str | Path) -> tuple[tuple[Coefficient, ...], dict[tuple[str, str], float]]:
    """The coefficients in a file of one's own, as ``depthwidth fit --save`` writes it, and the covariance next to it.

    Returns
    -------
    The coefficients of its first edition, and the covariance of each pair in both orders; empty without such a file.

    Raises
    ------
    InputError
        if it cannot be read, or does not have the columns of ``data/coefficients``.
    """
    from pathlib import Path

    target = Path(path)
    found = tuple(_coefficient(target.stem, row) for row in _rows_of_file(target, set(Coefficient.__annotations__) - {"law"}))
    if not found:
        raise InputError(f"coefficients {shown(str(path))} has no rows")
    covariances = target.with_suffix(".covariance.csv")
    pairs: dict[tuple[str, str], float] = {}
    if covariances.exists():
        for row in _rows_of_file(covariances, {"edition", "row", "column", "value"}):
            if row["edition"] == found[0].edition:
                pairs[row["row"], row["column"]] = pairs[row["column"], row["row"]] = float(row["value"])
    return tuple(one for one in found if one.edition == found[0].edition), pairs


def _rows_of_file(path: Path, columns: set[str]) -> list[dict[str, str]]:
    from .files import read_regular  # other commands read no untrusted file

    label = f"coefficients {shown(str(path), limit=300)}"
    try:
        rows = list(csv.DictReader(read_regular(path, "coefficients", LARGEST_FILE).decode("utf-8-sig").splitlines()))
        if rows and columns - rows[0].keys():
            raise InputError(f"{label} lacks the column {', '.join(sorted(columns - rows[0].keys()))}")
        for row in rows:
            if not all(isinstance(row[name], str) for name in columns):
                raise InputError(f"{label} has a row of another length than its header")
            for name in columns & {"value", "stderr"}:
                if (row[name] or name == "value") and not math.isfinite(float(row[name])):
                    raise ValueError
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{label} is not comma-separated text in UTF-8") from None
    except InputError:
        raise
    except ValueError:
        raise InputError(f"{label} holds a value that is not a finite number") from None
    return rows


def editions(law: str) -> list[str]:
    """The editions of `law` (one fit each), the default one first."""
    return list(dict.fromkeys(c.edition for c in coefficients(law)))


def coefficient(law: str, name: str, edition: str = "") -> Coefficient:
    """The coefficient `name` of `law`, in `edition` or, by default, the first edition of its file."""
    rows = coefficients(law)
    edition = edition or rows[0].edition
    for row in rows:
        if (row.edition, row.name) == (edition, name):
            return row
    known = [c.name for c in coefficients(law) if c.edition == edition]
    if not known:
        raise InputError(f"{law} has no edition {shown(edition)}; it has {', '.join(editions(law))}")
    raise InputError(f"{law} has no coefficient {shown(name)}{nearest(name, known)}; it has {', '.join(known)}")


@functools.cache
def covariance(law: str, edition: str = "") -> dict[tuple[str, str], float]:
    """The covariance of the coefficients of `law`, both orders of each pair; empty if the source gives none."""
    path = _file("coefficients", f"{law}.covariance")
    if not os.path.exists(path):
        return {}
    edition = edition or editions(law)[0]
    found = {}
    for row in _rows(path):
        if row["edition"] == edition:
            found[row["row"], row["column"]] = found[row["column"], row["row"]] = float(row["value"])
    return found


def reference_tables() -> list[str]:
    """The names of all published tables in ``data/reference``."""
    return _names("reference")


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
    return tuple(_rows(_file("reference", table)))


def _rows(path: str) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    return [dict(zip(header, row, strict=True)) for row in rows if row]
