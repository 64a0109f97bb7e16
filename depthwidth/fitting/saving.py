"""A fit as rows of ``data/coefficients``, which formulas and ``plan --rule FILE`` read."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, printable, shown
from ..files import write_whole
from .result import Fit

_COLUMNS = ("edition", "name", "value", "stderr", "unit", "status", "source", "note")
_PAIRS = ("edition", "row", "column", "value", "status")


def coefficient_rows(
    found: Fit, edition: str = "", source: str = "", unit: Mapping[str, str] | None = None
) -> list[dict[str, Any]]:
    """The coefficients of a fit, and the ranges of its columns, in the columns of ``data/coefficients``.

    Parameters
    ----------
    found : the fit.
    edition : name of the edition; by default that of the law.
    source : the runs, in words.
    unit : units of coefficients that the law does not state.
    """
    edition = edition or found.law.name
    source = printable(f"{source + ', ' if source else ''}{found.points} rows of {found.groups} runs, rows {found.rows_sha256}")
    units = {**found.law.units, **(unit or {})}

    def row(name: str, value: float, stderr: str, unit: str, note: str) -> dict[str, Any]:
        return {
            "edition": edition, "name": name, "value": repr(float(value)), "stderr": stderr, "unit": unit, "status": "measured",
            "source": source, "note": note,
        }  # fmt: skip

    rows = []
    errors = np.sqrt(np.diag(saved_covariance(found)))
    for name, value, error, (low, high) in zip(found.names, found.values, errors, found.intervals, strict=True):
        note = f"{found.law.text}; 68.3 % interval {low:.6g} to {high:.6g}"
        if verdict := found.verdicts.get(name):
            note += f"; {verdict}"
        rows.append(row(name, value, repr(float(error)) if found.method != "none" else "", units.get(name, "1"), note))
    rows += [row(name, value, "", "1", "held fixed") for name, value in found.law.constants.items()]
    for name, (low, high) in found.ranges.items():
        if name not in found.names and name in found.law.needs and name != found.law.left:
            rows.append(row(f"{name}_min", low, "", "1", f"least {name} of the fitted rows"))
            rows.append(row(f"{name}_max", high, "", "1", f"largest {name} of the fitted rows"))
    return rows


def saved_covariance(found: Fit) -> NDArray[np.float64]:
    """The covariance that is written: of laws with power terms that of the jackknife, if there is one.

    A bootstrap holds fits whose exponents are far off, and the formulas propagate errors to first order.
    """
    if found.law.terms and found.jackknife_covariance is not None:
        return found.jackknife_covariance
    return found.covariance


def save(found: Fit, path: str | Path, *, edition: str = "", source: str = "", unit: Mapping[str, str] | None = None) -> Path:
    """Write a fit as ``NAME.csv``, and its covariance as ``NAME.covariance.csv``.

    Parameters
    ----------
    found, edition, source, unit : as :func:`coefficient_rows` has them.
    path : the file; its name without ``.csv`` is that of the law: lower-case letters, digits and underscores.

    Returns
    -------
    The path.

    Raises
    ------
    InputError
        if the name is invalid or the file cannot be written.
    """
    name = check_name(path)
    target = Path(path).with_name(f"{name}.csv")
    matrix = saved_covariance(found)
    values = coefficient_rows(found, edition, source, unit)
    pairs = [
        {
            "edition": values[0]["edition"],
            "row": a,
            "column": b,
            "value": repr(float(matrix[i, j])),
            "status": "measured",
        }
        for i, a in enumerate(found.names)
        for j, b in enumerate(found.names[: i + 1])
    ]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, _csv(_COLUMNS, values))
        if found.method != "none":
            write_whole(target.with_name(f"{name}.covariance.csv"), _csv(_PAIRS, pairs))
    except OSError as error:
        raise InputError(f"fit: {shown(str(target.parent))} cannot be written to ({error.strerror})") from None
    return target


def check_name(path: str | Path) -> str:
    """The name of the law that a file would hold.

    Raises
    ------
    InputError
        if it does not consist of lower-case letters, digits and underscores.
    """
    target = Path(path)
    name = target.name.removesuffix(".csv")
    if not name.isidentifier() or not name.islower() or target.suffix not in ("", ".csv"):
        raise InputError(f"fit: the name of a law consists of lower-case letters, digits and _, not {shown(target.name)}")
    return name


def _csv(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()
