"""Rows that survive: one folder, one file a run, each there whole or not at all.

A folder of runs holds

    plans/JOB.SIZE.json          what is to be run and what is predicted, written before anything runs
    rows/RUN.DIGEST.csv          the rows of one finished run; the digest is of the file's own bytes
    leases/RUN.json              which process works on a run now
    failed/RUN.json              what went wrong with a run that has no rows
    work/RUN/                    a run's own folder while it is not finished: checkpoints
    work/DIGEST.ensemble/        the same of runs that go together, and which they are
    aside/                       files found damaged, kept for whoever wants to look

A file is written beside its place, flushed to the disk and renamed into it, so that a process killed at any moment leaves the
old state or the new one. What a disk or a copy damages afterwards is noticed, because the name carries the digest: such a file
is set aside and reported, and its run counts as not done. Nothing here is ever unpickled or executed.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
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

RUN_NAME = re.compile(r"[0-9a-f]{16}")
ROWS_NAME = re.compile(r"([0-9a-f]{16})\.([0-9a-f]{16})\.csv")
ENSEMBLE = ".ensemble"
"""How the folders of runs that go together end."""
PLAN_NAME = re.compile(r"([a-z0-9][a-z0-9-]{0,63})\.(tiny|small|gpu|full)\.json")

HEARTBEAT_S = 15.0
"""How often the owner of a lease shows that it is alive."""
SILENCE_S = 180.0
"""After how long without that a lease of another machine counts as given up: twelve heartbeats, more than a slow disk takes."""
LEFTOVER_S = 3600.0
"""Age at which a half-written file can belong to nobody any more."""


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


# Rows as text.


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


# Files.


def write_whole(path: Path, data: bytes) -> None:
    """Put `data` at `path`, all of it or nothing; whatever stood there stays until then.

    Raises
    ------
    OSError
        if the disk is full or will not be written to. Nothing half-written stays behind.
    """
    waiting = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with waiting.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        waiting.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            waiting.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power failure, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@dataclass(frozen=True)
class Damage:
    """A file that is not what it should be, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path.name}: {self.reason}"


class Store:
    """One folder of plans and rows.

    Parameters
    ----------
    root : the folder; made when something is first written.

    Raises
    ------
    InputError
        if there is something else than a folder at that path, or it cannot be written to.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        if self.root.exists() and not self.root.is_dir():
            raise InputError(f"{shown(str(root))} is not a folder")
        self._checked: dict[tuple[str, int, int], list[Row] | str] = {}

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    def open(self) -> Store:
        """Make the folder where it is missing, and check that it can be written to."""
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
        """Nobody else changes leases or rows while inside. The system lets go of it when a process dies, however it dies."""
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.root / ".lock", timeout=60):
                yield
        except Timeout:
            raise InputError(f"{shown(str(self.root))} is locked by another process that does not let go") from None

    # Rows.

    def _files(self) -> Iterator[tuple[str, str, Path]]:
        folder = self.root / "rows"
        for path in sorted(folder.glob("*.csv")) if folder.is_dir() else ():
            if found := ROWS_NAME.fullmatch(path.name):
                yield found[1], found[2], path

    def _read(self, run: str, digest: str, path: Path) -> list[Row] | str:
        """The rows of a file, or what is wrong with it."""
        try:
            about = path.stat()
            key = (path.name, about.st_size, about.st_mtime_ns)
            if key not in self._checked:
                self._checked[key] = read_rows(path.read_bytes(), run, digest)
        except OSError as error:
            return f"it cannot be read ({error.strerror})"
        return self._checked[key]

    def rows(self) -> dict[str, list[Row]]:
        """The rows of every finished run, by its name. Damaged files are left out; :meth:`damaged` names them."""
        found: dict[str, list[Row]] = {}
        for run, digest, path in self._files():
            rows = self._read(run, digest, path)
            if not isinstance(rows, str):
                found.setdefault(run, rows)
        return found

    def rows_of(self, run: str) -> list[Row] | None:
        """The rows of one run, None while it has none."""
        for path in sorted((self.root / "rows").glob(f"{run}.*.csv")):
            if found := ROWS_NAME.fullmatch(path.name):
                rows = self._read(found[1], found[2], path)
                if not isinstance(rows, str):
                    return rows
        return None

    def damaged_plans(self) -> list[Damage]:
        """Plans that are there and cannot be gone by."""
        return [Damage(path, plan) for path, plan in self._plan_files() if isinstance(plan, str)]

    def damaged(self) -> list[Damage]:
        """Files that are not whole: rows whose bytes are not those their name promises, plans that do not add up."""
        found = []
        for run, digest, path in self._files():
            rows = self._read(run, digest, path)
            if isinstance(rows, str):
                found.append(Damage(path, rows))
        return found + self.damaged_plans()

    def publish(self, run: str, rows: Sequence[Mapping[str, Any]], lease: Lease | None = None) -> bool:
        """Write the rows of a finished run, once.

        Parameters
        ----------
        run : its name.
        rows : with every column; nothing is written if one is not as it should be.
        lease : what this process holds on the run; without it nothing is written if someone else took the run over.

        Returns
        -------
        Whether they were written; False where the run has rows already, or is not ours any more.
        """
        if not rows:
            raise InputError(f"run {run} measured nothing")
        if odd := {row["run"] for row in rows} - {run}:
            raise InputError(f"rows of {', '.join(sorted(odd))} are offered as those of {run}")
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
        """Write what is to be run and what is predicted; a plan of the same job and size that differs moves to ``earlier``."""
        path = self.root / "plans" / f"{plan['job']}.{plan['size']}.json"
        if not PLAN_NAME.fullmatch(path.name):
            raise InputError(f"{shown(path.name)} is not a name for a plan")
        sealed = {**plan, "sha256": digest_of(canonical(plan).encode())}
        data = json.dumps(sealed, indent=1, allow_nan=False, sort_keys=True).encode() + b"\n"
        with self.alone():
            if path.exists():
                self.keep_earlier(path.name, path.read_bytes())
            write_whole(path, data)

    def keep_earlier(self, name: str, data: bytes) -> None:
        """Keep a plan that is not the one to go by, in ``plans/earlier``."""
        earlier = self.root / "plans" / "earlier"
        earlier.mkdir(exist_ok=True)
        write_whole(earlier / f"{name.removesuffix('.json')}.{digest_of(data)}.json", data)

    def _plan_files(self) -> Iterator[tuple[Path, dict[str, Any] | str]]:
        folder = self.root / "plans"
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            if found := PLAN_NAME.fullmatch(path.name):
                try:
                    plan = read_plan(path.read_bytes())
                except OSError as error:
                    plan = f"it cannot be read ({error.strerror})"
                if isinstance(plan, dict) and (plan["job"], plan["size"]) != found.groups():
                    plan = f"it is the plan of {plan['job']} {plan['size']}"
                yield path, plan

    def plans(self) -> list[dict[str, Any]]:
        """All plans that are whole."""
        return [plan for _, plan in self._plan_files() if isinstance(plan, dict)]

    # Failures.

    def write_failure(self, run: str, about: Mapping[str, Any]) -> None:
        """Keep what went wrong with a run, for :meth:`failures`."""
        write_whole(self.root / "failed" / f"{run}.json", json.dumps(about, indent=1, default=str).encode())

    def failures(self) -> dict[str, dict[str, Any]]:
        """What went wrong, by run; of runs that have no rows."""
        found = {}
        folder = self.root / "failed"
        for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            if RUN_NAME.fullmatch(path.stem):
                try:
                    about = json.loads(path.read_bytes())
                except (OSError, ValueError):
                    about = {"error": "its record of failure is damaged"}
                found[path.stem] = about if isinstance(about, dict) else {"error": str(about)}
        return found

    # Keeping house.

    def tidy(self) -> list[Damage]:
        """Set damaged files aside and remove what dead processes left; returns what was set aside.

        A run whose rows were damaged is then not done, and the next :command:`run` or :command:`resume` measures it again.
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
        """Where a run keeps its checkpoints while it is not finished."""
        return self.root / "work" / run

    def ensemble_folder(self, runs: Sequence[str]) -> Path:
        """Where runs that go together keep their checkpoints while they are not all finished."""
        return self.root / "work" / (digest_of(canonical(list(runs)).encode()) + ENSEMBLE)

    def begin_ensemble(self, runs: Sequence[str]) -> Path:
        """Note that these runs go together, so that whoever resumes takes the same ones."""
        folder = self.ensemble_folder(runs)
        with contextlib.suppress(OSError):  # the disk is full: there will be no checkpoint either
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / "members.json", canonical(list(runs)).encode())
        return folder

    def ensembles(self) -> list[list[str]]:
        """The runs of each ensemble that was begun and is not finished."""
        return [members for folder in sorted((self.root / "work").glob(f"*{ENSEMBLE}")) if (members := _members(folder))]


def _members(folder: Path) -> list[str]:
    """The runs of an ensemble; none where the record is damaged, and whatever it had done is then done again."""
    try:
        found = json.loads((folder / "members.json").read_bytes())
    except (OSError, ValueError):
        return []
    right = isinstance(found, list) and all(isinstance(one, str) and RUN_NAME.fullmatch(one) for one in found)
    return found if right else []


def read_rows(data: bytes, run: str, digest: str) -> list[Row] | str:
    """The rows in the bytes of ``RUN.DIGEST.csv``, or what is wrong with them."""
    if digest_of(data) != digest:
        return f"its {len(data)} bytes are not those that were written"
    try:
        rows = rows_from_csv(data, "it")
    except InputError as error:
        return str(error)
    return rows if {row["run"] for row in rows} == {run} else "it holds rows of another run"


_PLAN_KEYS = {"job", "size", "code", "created", "claim", "criterion", "predictions", "runs"}
_RUN_KEYS = {"run", "seed", "spec", "labels", "cost", "cpus", "gpus", "predictions"}


def read_plan(data: bytes) -> dict[str, Any] | str:
    """The plan in the bytes of a file, or what is wrong with it."""
    try:
        plan = json.loads(data)
    except ValueError:
        return "it is not JSON"
    if not isinstance(plan, dict) or not isinstance(seal := plan.pop("sha256", None), str):
        return "it is not a plan"
    try:
        if digest_of(canonical(plan).encode()) != seal:
            return "it is not what was written"
    except InputError as error:
        return str(error)
    runs = plan.get("runs")
    if not plan.keys() >= _PLAN_KEYS or not isinstance(runs, list):
        return "it lacks what a plan must have"
    if not all(isinstance(run, dict) and run.keys() >= _RUN_KEYS and RUN_NAME.fullmatch(str(run["run"])) for run in runs):
        return "one of its runs lacks what a run must have"
    return plan


# Leases: who works on what.


def _machine() -> str:
    """The machine since it was started, and the process numbers that are known here: a container has its own."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _started(pid: int) -> str:
    """When a process was started, in the kernel's ticks: another process that got its number has another time."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _alive(pid: int, started: str) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is there, and somebody else's
    return _started(pid) == started


@dataclass(frozen=True)
class Lease:
    """The hold that a process has on a run."""

    path: Path
    token: str

    def held(self) -> bool:
        """Whether it is still ours: another may have taken it if this machine was silent for too long."""
        return (_read_lease(self.path) or {}).get("token") == self.token

    def beat(self) -> None:
        """Show that we are alive."""
        with contextlib.suppress(OSError):
            os.utime(self.path)


def _read_lease(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


class Leases:
    """The runs that this process works on; entered and left like a lock.

    At most one process holds a run. A hold ends when it is given back, when its process is gone (seen at once on the same
    machine), or when a process on another machine has been silent for :data:`SILENCE_S`.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._held: dict[str, Lease] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Leases:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for run in list(self._held):
            self.give_back(run)
        self._thread.join(timeout=1)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            for lease in list(self._held.values()):
                lease.beat()

    def __getitem__(self, run: str) -> Lease:
        return self._held[run]

    def __contains__(self, run: str) -> bool:
        return run in self._held

    def claim(self, run: str) -> str:
        """Take a run: ``ours``, or why not: ``done`` or ``busy``."""
        path = self.store.root / "leases" / f"{run}.json"
        with self.store.alone():
            if self.store.rows_of(run) is not None:
                return "done"
            if lease_holder(path) is not None:
                return "busy"
            token = uuid.uuid4().hex
            about = {
                "token": token,
                "machine": _machine(),
                "pid": os.getpid(),
                "started": _started(os.getpid()),
                "since": time.time(),
            }
            write_whole(path, json.dumps(about).encode())
            self._held[run] = Lease(path, token)
        return "ours"

    def give_back(self, run: str) -> None:
        """Let go of a run."""
        lease = self._held.pop(run, None)
        if lease is not None:
            with contextlib.suppress(OSError, InputError), self.store.alone():
                if lease.held():
                    lease.path.unlink()


def lease_holder(path: Path) -> dict[str, Any] | None:
    """Who works on a run now: machine, process and since when; None where nobody does, or whoever did is gone."""
    found = _read_lease(path)
    if found is None:
        return None
    if found.get("machine") == _machine():
        pid = found.get("pid")
        return found if isinstance(pid, int) and pid > 0 and _alive(pid, str(found.get("started"))) else None
    try:
        silent = _clock_of(path.parent) - path.stat().st_mtime
    except OSError:
        return None
    return found if silent < SILENCE_S else None


def _clock_of(folder: Path) -> float:
    """The time by the clock of the file system, which heartbeats are written in; machines' own clocks differ."""
    probe = folder / f".clock.{uuid.uuid4().hex[:8]}.part"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def running(store: Store) -> dict[str, dict[str, Any]]:
    """Runs that some process works on now, and which."""
    found = {}
    folder = store.root / "leases"
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        if RUN_NAME.fullmatch(path.stem) and (holder := lease_holder(path)) is not None:
            found[path.stem] = holder
    return found


def finite_or_none(value: float | None) -> float | None:
    """For JSON, which has no infinity."""
    return value if value is not None and math.isfinite(value) else None


def flat(rows: Iterable[Row]) -> list[Row]:
    """Rows with their labels as columns of their own, before the provenance, for tables that people read."""
    rows = list(rows)
    names = sorted({name for row in rows for name in row["labels"]} - COLUMNS.keys())
    before, after = list(COLUMNS)[: list(COLUMNS).index("labels")], PROVENANCE
    return [{n: row[n] for n in before} | {n: row["labels"].get(n) for n in names} | {n: row[n] for n in after} for row in rows]
