"""The rows of every measurement: their columns, their text, and how they compare."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from depthwidth.errors import InputError, shown

Row = dict[str, Any]

COLUMNS: dict[str, str] = {
    "job": "text",
    "run": "text",
    "step": "whole?",
    "site": "text",
    "quantity": "text",
    "predicted": "number?",
    "value": "number",
    "stderr": "number?",
    "formula": "text",
    "seed": "whole",
    "labels": "object",
    "code": "text",
    "commit": "text",
    "depthwidth": "text",
    "torch": "text",
    "device": "text",
    "dtype": "text",
    "wall_s": "number",
    "date": "text",
}
"""The columns of a row in their order, and what each holds; a question mark where it may be empty."""

PROVENANCE = ("code", "commit", "depthwidth", "torch", "device", "dtype", "wall_s", "date")
"""Columns that say how a row came about; two measurements of one run may differ in these and still say the same."""


def digest_of(data: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of `data`: 64 bits, ample against accidents."""
    return hashlib.sha256(data).hexdigest()[:16]


def canonical(value: Any) -> str:
    """`value` as JSON that depends on nothing but the value.

    Raises
    ------
    InputError
        if it is not made of what JSON knows, or holds a number that is not finite.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    except (TypeError, ValueError) as error:
        raise InputError(f"a run's description must be plain JSON: {error}") from None


def rows_to_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows as CSV with every column of :data:`COLUMNS`; numbers with all their digits, so that they come back bit for bit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        if row.keys() != COLUMNS.keys():
            odd = sorted(row.keys() ^ COLUMNS.keys())
            raise InputError(f"a row has other columns than it should: {', '.join(odd)}")
        writer.writerow([_to_text(name, row[name]) for name in COLUMNS])
    return text.getvalue().encode()


def rows_from_csv(data: bytes, where: str = "rows") -> list[Row]:
    """The rows in the bytes of a file, checked against :data:`COLUMNS`.

    Raises
    ------
    InputError
        if anything in it is not as it should be; the sentence says what, and in which line.
    """
    try:
        lines = list(csv.reader(io.StringIO(data.decode(), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{where} is not a table: {error}") from None
    if not lines or lines[0] != list(COLUMNS):
        raise InputError(f"{where} does not begin with the columns {', '.join(COLUMNS)}")
    rows = []
    for number, line in enumerate(lines[1:], 2):
        if len(line) != len(COLUMNS):
            raise InputError(f"{where}, line {number}: {len(line)} cells for {len(COLUMNS)} columns")
        rows.append({name: _from_text(name, cell, f"{where}, line {number}") for name, cell in zip(COLUMNS, line, strict=True)})
    if not rows:
        raise InputError(f"{where} holds no rows")
    return rows


def _to_text(name: str, value: Any) -> str:
    kind = COLUMNS[name]
    if value is None and kind.endswith("?"):
        return ""
    match kind.rstrip("?"):
        case "text":
            fine = isinstance(value, str)
        case "whole":
            fine = isinstance(value, int) and not isinstance(value, bool)
        case "number":
            fine = isinstance(value, (int, float)) and not isinstance(value, bool)
            value = repr(float(value)) if fine else value
        case _:
            fine = isinstance(value, Mapping)
            value = canonical(value) if fine else value
    if not fine:
        raise InputError(f"a row's {name} must be {_WORDS[kind]}, not {shown(value)}")
    return str(value)


_WORDS = {
    "text": "text", "whole": "a whole number", "whole?": "a whole number or nothing", "number": "a number",
    "number?": "a number or nothing", "object": "an object",
}  # fmt: skip


def _from_text(name: str, cell: str, where: str) -> Any:
    kind = COLUMNS[name]
    if not cell and kind.endswith("?"):
        return None
    try:
        match kind.rstrip("?"):
            case "text":
                return cell
            case "whole":
                return int(cell)
            case "number":
                return float(cell)
            case _:
                value = json.loads(cell)
                if isinstance(value, dict):
                    return value
    except ValueError:
        pass
    raise InputError(f"{where}: {name} must be {_WORDS[kind]}, not {shown(cell)}")


def same_values(ours: Sequence[Row], theirs: Sequence[Row]) -> bool:
    """Whether two measurements of one run found the same, whatever machine and hour they were made in."""
    return [_value_of(row) for row in ours] == [_value_of(row) for row in theirs]


def _value_of(row: Row) -> tuple[str, ...]:
    # As text, so that two NaN are the same. The prediction is no part of what was measured.
    return tuple(_to_text(name, row[name]) for name in COLUMNS if name not in (*PROVENANCE, "predicted", "formula"))


def finite_or_none(value: float | None) -> float | None:
    """For JSON, which has no infinity."""
    return value if value is not None and math.isfinite(value) else None


def flat(rows: Iterable[Row]) -> list[Row]:
    """Rows with their labels as columns of their own, before the provenance, for tables that people read."""
    rows = list(rows)
    names = sorted({name for row in rows for name in row["labels"]} - COLUMNS.keys())
    before, after = list(COLUMNS)[: list(COLUMNS).index("labels")], PROVENANCE
    return [{n: row[n] for n in before} | {n: row["labels"].get(n) for n in names} | {n: row[n] for n in after} for row in rows]
