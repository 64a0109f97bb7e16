"""Rows from one machine to another: archives, and flat tables for other programs.

An archive is not trusted: only files named as plans and rows are read, nothing is unpacked to a path that the archive chooses,
sizes are limited, and every file must match its digest before it is written.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from depthwidth.cli.output import as_csv
from depthwidth.errors import InputError, shown
from depthwidth.files import read_regular

from ..files import open_whole, write_whole
from ..records import LARGEST_PLAN
from ..rows import Row, flat, rows_to_csv, same_values
from .plans import same_plan
from .store import LARGEST_ROWS, PLAN_NAME, ROWS_NAME, Store, read_plan, read_rows

LARGEST_FILE = LARGEST_ROWS
LARGEST_ARCHIVE = 2**30
"""Bytes when unpacked. A million rows take about 300 MB."""

MOST_LINES = 2_000_000
"""Rows in an archive: all commands that read a folder hold its rows in memory, at about 500 bytes each."""


def export_rows(store: Store, path: str | Path, names: Sequence[str] = ()) -> int:
    """Write the plans and rows of a folder to one file.

    Parameters
    ----------
    store : the folder.
    path : ``.zip`` for an archive that :func:`import_rows` reads; ``.csv`` or ``.parquet`` for one flat table of all rows, with
        labels as columns.
    names : jobs; all by default.

    Returns
    -------
    The number of runs that were written.

    Raises
    ------
    InputError
        if there is nothing to write, the ending is none of these, or the file cannot be written.
    """
    target = Path(path)
    if target.suffix not in (".zip", ".csv", ".parquet"):
        raise InputError(f"export: {shown(str(path))} does not end in .zip, .csv or .parquet")
    rows = {run: its for run, its in store.rows().items() if not names or its[0].job in names}
    if not rows:
        raise InputError(f"export: {store.root} has no rows" + (f" of {', '.join(names)}" if names else ""))
    try:
        if target.suffix == ".zip":
            _write_archive(store, target, set(rows), names)
        elif target.suffix == ".csv":
            write_whole(target, as_csv(flat(row for its in rows.values() for row in its)).encode())
        else:
            _write_parquet(target, flat(row for its in rows.values() for row in its))
    except OSError as error:
        raise InputError(f"export: {shown(str(path))} cannot be written ({error.strerror or error})") from None
    return len(rows)


def export_evidence(store: Store, path: str | Path, names: Sequence[str] = ()) -> int:
    """Write the rows that test a formula in the format of ``data/measured/``, for :mod:`depthwidth.evidence`.

    Parameters
    ----------
    store, names : as in :func:`export_rows`.
    path : a ``.csv`` file, with the columns of :class:`verify.rows.Row`. It has the rows that were predicted and measured with
        a standard error; of deep stacks those of blocks 1, 2, 3, 4, 6, 8, 12, 16 and so on.

    Returns
    -------
    The number of rows that were written.

    Raises
    ------
    InputError
        if there is nothing to write, or the file does not end in .csv or cannot be written.
    """
    if Path(path).suffix != ".csv":
        raise InputError(f"export: evidence goes into a .csv file, and {shown(str(path))} does not end so")
    rows = [
        row
        for its in store.rows().values()
        for row in its
        if (not names or row.job in names) and row.predicted is not None and row.stderr is not None and _kept(row.site)
    ]
    if not rows:
        raise InputError(
            f"export: {store.root} has no predicted and measured rows" + (f" of {', '.join(names)}" if names else "")
        )
    rows.sort(key=_order)
    try:
        write_whole(Path(path), rows_to_csv(rows))
    except OSError as error:
        raise InputError(f"export: {shown(str(path))} cannot be written ({error.strerror or error})") from None
    return len(rows)


def _order(row: Row) -> list[str]:
    labels = (str(row.labels[name]).zfill(8) for name in sorted(row.labels))
    return [row.job, *labels, row.quantity, row.site, str(row.seed).zfill(8)]


def _kept(site: str) -> bool:
    """True unless a site is in a block that is left out: those kept are 1, 2, 3, 4, 6, 8, 12 and so on, counted from 1."""
    numbers = [int(number) + 1 for number in re.findall(r"\b(?:block|layer)\.(\d+)", site)]
    return all(number & (number - 1) == 0 or (number % 3 == 0 and (number // 3) & (number // 3 - 1) == 0) for number in numbers)


def _write_archive(store: Store, target: Path, runs: set[str], names: Sequence[str]) -> None:
    damaged = {damage.path for damage in store.damaged()}
    with open_whole(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for folder in ("plans", "rows"):
            for path in sorted({*(store.root / folder).iterdir()} - damaged):
                plan, rows = PLAN_NAME.fullmatch(path.name), ROWS_NAME.fullmatch(path.name)
                if (plan and (not names or plan[1] in names)) or (rows and rows[1] in runs):
                    # One date for all files, so that the same rows make the same archive.
                    archive.writestr(
                        zipfile.ZipInfo(f"{folder}/{path.name}"),
                        read_regular(path, "file", max(LARGEST_ROWS, LARGEST_PLAN)),
                        zipfile.ZIP_DEFLATED,
                    )


def _write_parquet(target: Path, rows: list[dict[str, Any]]) -> None:
    if importlib.util.find_spec("pyarrow") is None:
        raise InputError("export: Parquet needs pyarrow, which is not installed; .csv holds the same")
    import pandas

    frame = pandas.DataFrame(rows)
    # A column in which all numbers are missing is still one of numbers.
    frame = frame.astype({name: float for name in ("predicted", "value", "stderr") if name in frame})
    with open_whole(target) as file:
        frame.to_parquet(file, index=False)


@dataclass
class Imported:
    """Counts of the contents of an archive."""

    new: int = 0
    """Runs that are new here."""
    same: int = 0
    """Runs that were here with the same values."""
    plans: int = 0
    """Plans that are new here."""
    conflicts: list[str] = field(default_factory=list)
    """Runs and plans that are here with other content; ours were kept."""
    damaged: list[str] = field(default_factory=list)
    """Files of the archive that do not match their digest; they were left out."""

    @property
    def status(self) -> int:
        """The exit status: 3 if there is something to look at, else 0."""
        return 3 if self.conflicts or self.damaged else 0


def import_rows(store: Store, path: str | Path) -> Imported:
    """Add the plans and rows of an archive of :func:`export_rows`; doing it again adds nothing.

    If a run is already here with other values, ours stay and the difference is reported.

    Raises
    ------
    InputError
        if it is not such an archive, or holds anything but plans and rows; then nothing is imported.
    """
    found = Imported()
    plans = {(plan["job"], plan["size"]): plan for plan in store.plans()}
    for folder, name, read in _members(path):
        try:
            data = read()
        except _UNREADABLE as error:
            found.damaged.append(f"{name}: it cannot be unpacked ({error})")
            continue
        if folder == "plans":
            _import_plan(store, found, plans, name, data)
        else:
            _import_run(store, found, name, data)
    return found


_UNREADABLE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError)


def _import_plan(store: Store, found: Imported, plans: dict[tuple[str, str], dict[str, Any]], name: str, data: bytes) -> None:
    plan = read_plan(data)
    if isinstance(plan, str):
        found.damaged.append(f"{name}: {plan}")
    elif name != f"{plan['job']}.{plan['size']}.json":
        found.damaged.append(f"{name}: it is the plan of {plan['job']} {plan['size']}")
    elif (there := plans.get((plan["job"], plan["size"]))) is None:
        store.write_plan(plan)
        found.plans += 1
    elif not same_plan(there, plan):
        store.keep_earlier(name, data)
        why = "was made by other code" if there["code"] != plan["code"] else "predicts or asks for something else"
        found.conflicts.append(f"the plan of {plan['job']} {plan['size']} {why}; ours stays, theirs is in plans/earlier")


def _import_run(store: Store, found: Imported, name: str, data: bytes) -> None:
    """One run at a time, so that an archive takes no more memory than its largest file."""
    run, digest = ROWS_NAME.fullmatch(name).groups()  # type: ignore[union-attr]
    rows = read_rows(data, run, digest)
    if isinstance(rows, str):
        found.damaged.append(f"{name}: {rows}")
    elif (ours := store.rows_of(run)) is None:
        if store.publish(run, rows):
            found.new += 1
    elif same_values(ours, rows):
        found.same += 1
    else:
        found.conflicts.append(_difference(run, ours, rows))


def _members(path: str | Path) -> Iterator[tuple[str, str, Callable[[], bytes]]]:
    """Folder, name and reader of every file of an archive, once all are known to be plans or rows, and not too many."""
    try:
        archive = zipfile.ZipFile(path)
    except FileNotFoundError:
        raise InputError(f"import: there is no file {shown(str(path))}") from None
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"import: {shown(str(path))} is not an archive of rows ({error})") from None
    with archive:
        listed = archive.infolist()
        for member in listed:
            folder, _, name = member.filename.partition("/")
            pattern = {"plans": PLAN_NAME, "rows": ROWS_NAME}.get(folder)
            if pattern is None or not pattern.fullmatch(name):
                raise InputError(f"import: {shown(member.filename)} is neither a plan nor rows; nothing was imported")
            most = LARGEST_FILE if folder == "rows" else min(LARGEST_FILE, LARGEST_PLAN)
            if member.file_size > most:
                raise InputError(f"import: {shown(member.filename)} has more than {most} bytes; nothing was imported")
        if sum(member.file_size for member in listed) > LARGEST_ARCHIVE:
            raise InputError(f"import: {shown(str(path))} has more than {LARGEST_ARCHIVE} bytes unpacked; nothing was imported")
        if len({member.filename for member in listed}) < len(listed):
            raise InputError(f"import: {shown(str(path))} holds one file twice; nothing was imported")
        lines = 0
        for member in listed:
            lines += _lines(archive, member) if member.filename.startswith("rows/") else 0
            if lines > MOST_LINES:
                raise InputError(f"import: {shown(str(path))} holds more than {MOST_LINES:,} rows; nothing was imported")
        for member in listed:
            folder, _, name = member.filename.partition("/")

            def read(member: zipfile.ZipInfo = member) -> bytes:
                with archive.open(member) as file:
                    return file.read(member.file_size + 1)

            yield folder, name, read


def _lines(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """The number of lines in a file, unpacked piece by piece; reading it for its rows reports one that cannot be unpacked."""
    found = read = 0
    with contextlib.suppress(*_UNREADABLE), archive.open(member) as file:
        while (piece := file.read(2**20)) and read <= member.file_size and found <= MOST_LINES:
            found += piece.count(b"\n")
            read += len(piece)
    return found


def _difference(run: str, ours: Sequence[Row], theirs: Sequence[Row]) -> str:
    """The largest difference between two measurements of one run, in words."""

    def keyed(rows: Sequence[Row]) -> dict[tuple[str, int | None, str], float]:
        return {(row.site, row.step, row.quantity): row.value for row in rows}

    one, other = keyed(ours), keyed(theirs)
    made = [f"{rows[0].device}, torch {rows[0].torch or 'none'}" for rows in (ours, theirs)]
    if one.keys() != other.keys():
        return f"run {run}: {len(one)} and {len(other)} rows of different quantities; ours stay"

    def gap(key: tuple[str, int | None, str]) -> float:
        a, b = one[key], other[key]
        if a == b or (math.isnan(a) and math.isnan(b)):
            return 0.0
        return abs(a - b) / max(abs(a), abs(b)) if math.isfinite(a) and math.isfinite(b) else math.inf

    key = max(one, key=gap)
    how = f"by {gap(key):.2g} of its value"
    if gap(key) == math.inf:
        how = f"({one[key]:.4g} and {other[key]:.4g})"
    elif not gap(key):
        return f"run {run}: the values are the same, but other columns differ; ours stay"
    return f"run {run}: {key[2]} differs {how} ({made[0]} here, {made[1]} there); ours stay"
