"""The one schema of everything measured: a row is one number with its prediction, its labels and its provenance.

Rows in a folder of runs and the files of ``data/measured`` have the same columns, and :func:`rows_to_csv` writes both.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from depthwidth.errors import InputError, shown

from .records import Labels, check_record, labels_of

MOST_ROWS = 200_000
"""Rows in one file. The largest run of the library's jobs has a tenth of it."""


MOST_LABEL_VALUES = 1_000_000
"""Values of different labels in one file; rows with equal labels share them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One measured number. ``data/README.md`` and ``docs/verify.md`` describe the columns.

    Parameters
    ----------
    job, run : the job, and the name of the run; ``""`` if the run's name is not known.
    step, site, quantity : the training step (None if there is none), the place in the model or in a grid of settings, and the
        name of the quantity.
    predicted, value, stderr : the prediction made beforehand, the measurement, and its standard error. A value of NaN is a
        measurement that did not decide.
    formula : name and version of the formula that made the prediction.
    seed : of the run.
    labels : a few plain values, by name, that tables and fits group by.
    code, commit, depthwidth, torch, device, dtype, wall_s, date : provenance. Rows measured before a column was recorded have
        ``""`` or None there.
    """

    job: str = ""
    run: str = ""
    step: int | None = None
    site: str = ""
    quantity: str
    predicted: float | None = None
    value: float
    stderr: float | None = None
    formula: str = ""
    seed: int | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    commit: str = ""
    depthwidth: str = ""
    torch: str = ""
    device: str = ""
    dtype: str = ""
    wall_s: float | None = None
    date: str = ""

    @property
    def expected(self) -> float:
        """The prediction of a row that must have one.

        Raises
        ------
        InputError
            if it has none.
        """
        if self.predicted is None:
            raise InputError(f"nothing was predicted for {shown(self.quantity)} at {shown(self.site)}")
        return self.predicted

    def to_dict(self) -> dict[str, Any]:
        """The columns in order, as plain data."""
        return {name: getattr(self, name) for name in COLUMNS}


COLUMNS: dict[str, str] = {
    "job": "text",
    "run": "text",
    "step": "whole?",
    "site": "text",
    "quantity": "text",
    "predicted": "number?",
    "value": "number",
    "stderr": "error?",
    "formula": "text",
    "seed": "whole?",
    "labels": "object",
    "code": "text",
    "commit": "text",
    "depthwidth": "text",
    "torch": "text",
    "device": "text",
    "dtype": "text",
    "wall_s": "seconds?",
    "date": "text",
}
"""The columns of a row in the order of a file, and the type of each; a question mark if a cell may be empty."""

assert tuple(COLUMNS) == tuple(one.name for one in fields(Row))  # noqa: S101

PROVENANCE = ("code", "commit", "depthwidth", "torch", "device", "dtype", "wall_s", "date")
"""Columns that say where and when a row was measured. Two measurements of one run may differ in these and still agree."""


def digest_of(data: bytes) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of `data`: 64 bits, ample against accidents."""
    return hashlib.sha256(data).hexdigest()[:16]


def canonical(value: Any) -> str:
    """`value` as JSON that depends on the value alone: sorted keys, no spaces.

    Raises
    ------
    InputError
        if it cannot be written as JSON, or holds a number that is not finite.
    """
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    except (TypeError, ValueError) as error:
        raise InputError(f"a run's description must be plain JSON: {error}") from None


def rows_to_csv(rows: Sequence[Row]) -> bytes:
    """Rows as CSV with all columns of :data:`COLUMNS`; numbers keep all their digits, so that they are read back bit for bit.

    Raises
    ------
    InputError
        if a row holds something of another type than its column.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([_to_text(name, getattr(row, name)) for name in COLUMNS])
    return text.getvalue().encode()


def rows_from_csv(data: bytes, where: str = "rows") -> list[Row]:
    """The rows in the bytes of a file, checked against :data:`COLUMNS`.

    Raises
    ------
    InputError
        if the bytes are not such a file; the sentence names the fault and its line.
    """
    rows: list[Row] = []
    values = 0
    same: dict[str, str] = {}  # equal texts are one object: most columns repeat
    try:
        # Decoded and read line by line, so that a file that is not a table needs no more memory than its bytes.
        lines = csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8", newline=""), strict=True)
        if next(lines, None) != list(COLUMNS):
            raise InputError(f"{where} does not begin with the columns {', '.join(COLUMNS)}")
        for number, line in enumerate(lines, 2):
            if len(rows) == MOST_ROWS:
                raise InputError(f"{where} holds more than {MOST_ROWS:,} rows")
            if len(line) != len(COLUMNS):
                raise InputError(f"{where}, line {number}: {len(line)} cells for {len(COLUMNS)} columns")
            row = _row([same.setdefault(cell, cell) for cell in line], f"{where}, line {number}")
            values += len(row.labels) if not rows or row.labels is not rows[-1].labels else 0
            if values > MOST_LABEL_VALUES:
                raise InputError(f"{where} holds more than {MOST_LABEL_VALUES:,} values of labels")
            rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{where} is not a table: {error}") from None
    if not rows:
        raise InputError(f"{where} holds no rows")
    return rows


def _row(line: Sequence[str], where: str) -> Row:
    try:
        values = [read(cell) for read, cell in zip(_READERS, line, strict=True)]
    except ValueError:
        raise InputError(f"{where}: {_fault(line)}") from None
    return Row(**dict(zip(COLUMNS, values, strict=True)))


def _to_text(name: str, value: Any) -> str:
    kind = COLUMNS[name]
    if value is None and kind.endswith("?"):
        return ""
    fine = _FINE[kind.rstrip("?")](value)
    if fine and kind == "object":
        check_record(value := json.loads(canonical(value)), Labels, f"a row's {name} must be {_TYPES[kind]}")
        value = canonical(value)
    elif fine and kind in _NUMBERS:
        value = repr(float(value))
    if not fine:
        raise InputError(f"a row's {name} must be {_TYPES[kind]}, not {shown(value)}")
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 1024)


LONGEST_S = 1e12
"""Seconds of the longest run: 30,000 years."""
_NUMBERS = ("number", "number?", "error?", "seconds?")
_FINE: dict[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str),
    "whole": lambda value: isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 64,
    "number": _is_number,
    "error": lambda value: _is_number(value) and not value < 0,
    "seconds": lambda value: _is_number(value) and 0 <= value <= LONGEST_S,
    "object": lambda value: isinstance(value, Mapping),
}
"""The test, for each type of column, that a value has the type."""

_TYPES = {
    "text": "text",
    "whole?": "a whole number or nothing",
    "number": "a number",
    "number?": "a number or nothing",
    "error?": "a number that is not negative, or nothing",
    "seconds?": "a number of seconds or nothing",
    "object": "an object of plain values",
}


def _read_as(kind: str, read: Callable[[str], Any]) -> Callable[[str], Any]:
    fine, optional = _FINE[kind.rstrip("?")], kind.endswith("?")

    def cell_value(cell: str) -> Any:
        if optional and not cell:
            return None
        value = read(cell)
        if not fine(value):
            raise ValueError(cell)
        return value

    return cell_value


_READ: dict[str, Callable[[str], Any]] = {
    "text": str,
    "object": labels_of,
    **{kind: _read_as(kind, int if kind == "whole?" else float) for kind in ("whole?", *_NUMBERS)},
}
_READERS = tuple(_READ[kind] for kind in COLUMNS.values())


def _fault(line: Sequence[str]) -> str:
    """The first cell of a line that is not of its column's type, in a sentence."""
    for (name, kind), cell in zip(COLUMNS.items(), line, strict=True):
        try:
            _READ[kind](cell)
        except ValueError:
            return f"{name} must be {_TYPES[kind]}, not {shown(cell)}"
    return "a cell cannot be read"


def same_values(ours: Sequence[Row], theirs: Sequence[Row]) -> bool:
    """True if two measurements of one run agree, whatever machine and hour they come from."""
    return [_value_of(row) for row in ours] == [_value_of(row) for row in theirs]


def _value_of(row: Row) -> tuple[str, ...]:
    # As text, so that two NaN are equal. The prediction is not part of the measurement.
    return tuple(_to_text(name, getattr(row, name)) for name in COLUMNS if name not in (*PROVENANCE, "predicted", "formula"))


def finite_or_none(value: float | None) -> float | None:
    """A number for JSON, which has no infinity: None unless it is finite."""
    return value if value is not None and math.isfinite(value) else None


def flat(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Rows as dictionaries with one key for each label, before the provenance: tables for people and other programs."""
    rows = list(rows)
    names = sorted({name for row in rows for name in row.labels} - COLUMNS.keys())
    before = list(COLUMNS)[: list(COLUMNS).index("labels")]
    return [
        {n: getattr(row, n) for n in before} | {n: row.labels.get(n) for n in names} | {n: getattr(row, n) for n in PROVENANCE}
        for row in rows
    ]
