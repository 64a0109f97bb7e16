"""Storage of rows: one folder with one file per run, whole or absent.

A folder of runs holds

    plans/JOB.SIZE.json          the runs and all predictions, written before anything runs
    rows/RUN.DIGEST.csv          the rows of one finished run; the digest is of the file's own bytes
    leases/RUN.json              the process that works on a run
    failed/RUN.json              the error of a run that has no rows
    work/RUN/                    the checkpoints of an unfinished run
    work/DIGEST.ensemble/        the same for runs in one program, with their names
    aside/                       damaged files, kept for inspection

A file is written beside its place, flushed to the disk and renamed, so that a process killed at any moment leaves the old state
or the new one. Later damage is noticed, because the name holds the digest: such a file is set aside and reported, and its run
counts as not done. Nothing here is ever unpickled or executed.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthwidth.errors import InputError, shown
from depthwidth.files import parse_json, read_regular

from ..files import write_whole
from ..records import LARGEST_PLAN, FailureRecord, LeaseRecord, Members, PlanRecord, check_record, read_record
from ..rows import Row, canonical, digest_of, rows_from_csv, rows_to_csv
from .leases import Lease, lease_holder

RUN_NAME = re.compile(r"[0-9a-f]{16}")
ROWS_NAME = re.compile(r"([0-9a-f]{16})\.([0-9a-f]{16})\.csv")
ENSEMBLE = ".ensemble"
"""Suffix of the folders of runs in one program."""
PLAN_NAME = re.compile(r"([a-z0-9][a-z0-9-]{0,63})\.(tiny|small|gpu|full)\.json")

LARGEST_ROWS = 128 * 2**20
"""Bytes of one run's rows."""

LEFTOVER_S = 3600.0
"""Age in seconds at which a half-written file belongs to no living process."""


@dataclass(frozen=True)
class Damage:
    """A damaged file and the fault."""

    path: Path
    reason: str
    effect: str = ""
    """The consequence and its cure, as the end of the sentence."""
    ensemble: int | None = None
    """Of a plan: the number of runs in one program, if its bytes still tell it."""

    def __str__(self) -> str:
        return f"{self.path.name}: {self.reason}{self.effect and f'; {self.effect}'}"


_RECORDS: tuple[tuple[str, Any, str, str], ...] = (
    ("failed", FailureRecord, "failure", "its run counts as failed for an unknown reason"),
    ("leases", LeaseRecord, "lease", "its run counts as held by nobody"),
)
"""Folders of small records, the schema and the name of each record, and the effect of a damaged one."""


class Store:
    """One folder of plans and rows.

    Parameters
    ----------
    root : the folder; created when something is first written.

    Raises
    ------
    InputError
        if the path is not a folder, or it cannot be written to.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        try:
            if self.root.exists() and not self.root.is_dir():
                raise InputError(f"{shown(str(root))} is not a folder")
        except (OSError, ValueError) as error:  # a name too long, a null byte
            raise InputError(f"{shown(str(root))} cannot be read: {getattr(error, 'strerror', None) or error}") from None
        self._checked: dict[tuple[str, int, int], list[Row] | str] = {}

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    def open(self) -> Store:
        """Create the folder if it is missing, and check that it can be written to."""
        try:
            for part in ("plans", "rows", "leases", "failed", "work"):
                (self.root / part).mkdir(parents=True, exist_ok=True)
            write_whole(self.root / "rows" / ".writable", b"")
            (self.root / "rows" / ".writable").unlink(missing_ok=True)  # another process may have opened it at the same time
        except OSError as error:
            raise InputError(f"{shown(str(self.root))} cannot be written to ({error.strerror})") from None
        return self

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Lock leases and rows. The system releases the lock when the process dies, however it dies."""
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.root / ".lock", timeout=60):
                yield
        except Timeout:
            raise InputError(f"{shown(str(self.root))} is locked by another process, which does not release it") from None

    # Rows.

    def _files(self) -> Iterator[tuple[str, str, Path]]:
        folder = self.root / "rows"
        for path in sorted(folder.glob("*.csv")) if folder.is_dir() else ():
            if found := ROWS_NAME.fullmatch(path.name):
                yield found[1], found[2], path

    def _read(self, run: str, digest: str, path: Path) -> list[Row] | str:
        """The rows of a file, or its fault."""
        try:
            about = path.stat()
            key = (path.name, about.st_size, about.st_mtime_ns)
            if key not in self._checked:
                self._checked[key] = read_rows(read_regular(path, "rows", LARGEST_ROWS, path.name), run, digest)
        except OSError as error:
            return f"it cannot be read ({error.strerror})"
        except InputError as error:
            return str(error)
        return self._checked[key]

    def rows(self) -> dict[str, list[Row]]:
        """The rows of every finished run, by its name, without damaged files, which :meth:`damaged` names."""
        found: dict[str, list[Row]] = {}
        for run, digest, path in self._files():
            rows = self._read(run, digest, path)
            if not isinstance(rows, str):
                found.setdefault(run, rows)
        return found

    def rows_of(self, run: str) -> list[Row] | None:
        """The rows of one run, None if it has none."""
        for path in sorted((self.root / "rows").glob(f"{run}.*.csv")):
            if found := ROWS_NAME.fullmatch(path.name):
                rows = self._read(found[1], found[2], path)
                if not isinstance(rows, str):
                    return rows
        return None

    def damaged_measurements(self) -> list[Damage]:
        """Rows and plans that do not match their digest, or that do not follow their schema."""
        found = []
        for run, digest, path in self._files():
            rows = self._read(run, digest, path)
            if isinstance(rows, str):
                found.append(Damage(path, rows, "its run counts as not done"))
        return found + [_damaged_plan(path, plan) for path, plan in self._plan_files() if isinstance(plan, str)]

    def damaged(self) -> list[Damage]:
        """Damaged files: rows, plans, and records that do not follow their schema."""
        return self.damaged_measurements() + self._damaged_records()

    def _damaged_records(self) -> list[Damage]:
        found = [
            Damage(path, fault, effect)
            for part, schema, what, effect in _RECORDS
            for path in self._records(part)
            if (fault := _fault_of(path, schema, what))
        ]
        for folder in sorted((self.root / "work").glob(f"*{ENSEMBLE}")):
            path = folder / "members.json"
            if path.exists() and (fault := _fault_of(path, Members, "list of members")):
                found.append(Damage(path, fault, "the runs of this ensemble start again"))
        return found

    def _records(self, part: str) -> list[Path]:
        """The files of ``failed`` or ``leases`` that are named as a run."""
        folder = self.root / part
        return [path for path in sorted(folder.glob("*.json")) if RUN_NAME.fullmatch(path.stem)] if folder.is_dir() else []

    def publish(self, run: str, rows: Sequence[Row], lease: Lease | None = None) -> bool:
        """Write the rows of a finished run, once.

        Parameters
        ----------
        run : its name.
        rows : nothing is written if one holds a wrong type.
        lease : of this process on the run; nothing is written if another process has taken the run over.

        Returns
        -------
        True if they were written; False if the run has rows already, or is not ours any more.
        """
        if not rows:
            raise InputError(f"run {run} measured nothing")
        if odd := {row.run for row in rows} - {run}:
            raise InputError(f"rows of {', '.join(sorted(odd))} are offered as those of {run}")
        for name in ("seed", "wall_s"):  # every run has them; only rows in data/measured may lack them
            if any(getattr(row, name) is None for row in rows):
                raise InputError(f"a row's {name} must be a {'whole ' * (name == 'seed')}number, not None")
        data = rows_to_csv(rows)
        with self.alone():
            if self.rows_of(run) is not None or (lease is not None and not lease.held()):
                return False
            write_whole(self.root / "rows" / f"{run}.{digest_of(data)}.csv", data)
            with contextlib.suppress(OSError):
                (self.root / "failed" / f"{run}.json").unlink(missing_ok=True)
        return True

    # Plans.

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """Write a plan; an existing one of the same job and size is kept in ``plans/earlier``."""
        path = self.root / "plans" / f"{plan['job']}.{plan['size']}.json"
        if not PLAN_NAME.fullmatch(path.name):
            raise InputError(f"{shown(path.name)} is not a name for a plan")
        check_record(json.loads(canonical(plan)), PlanRecord, f"the plan of {plan['job']}")  # a written file can be read
        sealed = {**plan, "sha256": digest_of(canonical(plan).encode())}
        data = json.dumps(sealed, indent=1, allow_nan=False, sort_keys=True).encode() + b"\n"
        with self.alone():
            if path.exists():
                with contextlib.suppress(InputError):  # no plan, whatever it is: its place is needed
                    self.keep_earlier(path.name, read_regular(path, "plan", LARGEST_PLAN))
            write_whole(path, data)

    def keep_earlier(self, name: str, data: bytes) -> None:
        """Keep a superseded plan in ``plans/earlier``."""
        earlier = self.root / "plans" / "earlier"
        earlier.mkdir(exist_ok=True)
        write_whole(earlier / f"{name.removesuffix('.json')}.{digest_of(data)}.json", data)

    def _plan_files(self) -> Iterator[tuple[Path, dict[str, Any] | str]]:
        folder = self.root / "plans"
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            if found := PLAN_NAME.fullmatch(path.name):
                try:
                    plan = read_plan(read_regular(path, "plan", LARGEST_PLAN, path.name))
                except InputError as error:
                    plan = str(error)
                if isinstance(plan, dict) and (plan["job"], plan["size"]) != found.groups():
                    plan = f"it is the plan of {plan['job']} {plan['size']}"
                yield path, plan

    def plans(self) -> list[dict[str, Any]]:
        """All plans that are not damaged."""
        return [plan for _, plan in self._plan_files() if isinstance(plan, dict)]

    # Failures.

    def write_failure(self, run: str, about: Mapping[str, Any]) -> None:
        """Record the error of a run, for :meth:`failures`."""
        write_whole(self.root / "failed" / f"{run}.json", json.dumps(about, indent=1, default=str).encode())

    def failures(self) -> dict[str, dict[str, Any]]:
        """The recorded errors, by run."""
        found: dict[str, dict[str, Any]] = {}
        for path in self._records("failed"):
            try:
                found[path.stem] = read_record(path, FailureRecord, "failure")
            except InputError:  # :meth:`damaged` names it
                found[path.stem] = {"error": "its record of failure is damaged"}
        return found

    # Cleaning up.

    def tidy(self) -> list[Damage]:
        """Set damaged files aside and remove the remains of dead processes; returns the files set aside.

        A run whose rows were damaged counts as not done; the next :command:`run` or :command:`resume` measures it again.
        """
        with self.alone():
            found = self.damaged()
            for damage in found:
                aside = self.root / "aside"
                aside.mkdir(exist_ok=True)
                damage.path.replace(aside / f"{damage.path.name}.{uuid.uuid4().hex[:8]}")
            for path in self.root.glob("*/.*.part"):
                with contextlib.suppress(OSError):
                    if time.time() - path.stat().st_mtime > LEFTOVER_S:
                        path.unlink()
            for path in (self.root / "leases").glob("*.json"):
                if RUN_NAME.fullmatch(path.stem) and lease_holder(path) is None:
                    path.unlink(missing_ok=True)
            for folder in (self.root / "work").glob("*"):
                if RUN_NAME.fullmatch(folder.name) and self.rows_of(folder.name) is not None:
                    shutil.rmtree(folder, ignore_errors=True)
            for folder in (self.root / "work").glob(f"*{ENSEMBLE}"):
                if all(self.rows_of(run) is not None for run in _members(folder)):
                    shutil.rmtree(folder, ignore_errors=True)
        return found

    def work_folder(self, run: str) -> Path:
        """The folder of the checkpoints of an unfinished run."""
        return self.root / "work" / run

    def ensemble_folder(self, runs: Sequence[str]) -> Path:
        """The folder of the checkpoints of runs in one program, until all of them are finished."""
        return self.root / "work" / (digest_of(canonical(list(runs)).encode()) + ENSEMBLE)

    def begin_ensemble(self, runs: Sequence[str]) -> Path:
        """Record that these runs are carried out in one program, so that a resumed sweep takes the same ones."""
        folder = self.ensemble_folder(runs)
        with contextlib.suppress(OSError):  # the disk is full: there will be no checkpoint either
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / "members.json", canonical(list(runs)).encode())
        return folder

    def ensembles(self) -> list[list[str]]:
        """The runs of each started ensemble that is not finished."""
        return [members for folder in sorted((self.root / "work").glob(f"*{ENSEMBLE}")) if (members := _members(folder))]


def _members(folder: Path) -> list[str]:
    """The runs of an ensemble; none if the record is damaged, and its work is then done again."""
    try:
        found: list[str] = read_record(folder / "members.json", Members, "list of members")
    except InputError:
        return []
    return found


def _fault_of(path: Path, schema: Any, what: str) -> str:
    """The fault of a small record, empty if there is none or the file is gone."""
    try:
        read_record(path, schema, what)
    except InputError as error:
        return str(error) if path.exists() else ""
    return ""


def _damaged_plan(path: Path, fault: str) -> Damage:
    """A damaged plan with its consequence and the cure: the runs named in its bytes, as far as these can be read."""
    job, size = PLAN_NAME.fullmatch(path.name).groups()  # type: ignore[union-attr]
    try:
        data = read_regular(path, "plan", LARGEST_PLAN)
    except InputError:
        data = b""
    names = sorted({name.decode() for name in re.findall(rb'"run": ?"([0-9a-f]{16})"', data)})
    listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    together = re.search(rb'^ "ensemble": ([1-9][0-9]{0,5}),?$', data, re.MULTILINE)
    effect = (
        f"its runs{f' ({listed})' if names else ''} are no longer planned, and `depthwidth verify run {job} --size {size}` "
        "plans them again; rows that are there stay"
    )
    return Damage(path, fault, effect, int(together[1]) if together else None)


def read_rows(data: bytes, run: str, digest: str) -> list[Row] | str:
    """The rows in the bytes of ``RUN.DIGEST.csv``, or their fault."""
    if digest_of(data) != digest:
        return f"its {len(data)} bytes are not those that were written"
    try:
        rows = rows_from_csv(data, "it")
    except InputError as error:
        return str(error)
    return rows if {row.run for row in rows} == {run} else "it holds rows of another run"


def read_plan(data: bytes) -> dict[str, Any] | str:
    """The plan in the bytes of a file, or its fault."""
    try:
        plan = parse_json(data, "it")
        if not isinstance(plan, dict) or not isinstance(seal := plan.pop("sha256", None), str):
            return "it is not a plan"
        if digest_of(canonical(plan).encode()) != seal:
            return "it is not what was written"
        check_record(plan, PlanRecord, "it is not a plan")  # sealed or not, anyone may have written it
    except InputError as error:
        return str(error)
    assert isinstance(plan, dict)  # noqa: S101
    names = [run["run"] for run in plan["runs"]]
    if len(set(names)) < len(names):
        return "it names a run twice"
    for about in (plan, *plan["runs"]):
        keys = [(p.get("site", ""), p.get("step"), p["quantity"]) for p in about["predictions"]]
        if len(set(keys)) < len(keys):
            return "it predicts one quantity twice"
    return plan
