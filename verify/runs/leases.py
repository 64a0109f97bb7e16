"""Lease files: the process and machine that work on a run, and a test of their life."""

from __future__ import annotations

import contextlib
import os
import socket
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from depthwidth.errors import InputError

from ..records import LeaseRecord, read_record

HEARTBEAT_S = 15.0
"""Interval in seconds at which the owner of a lease shows that it is alive."""

SILENCE_S = 180.0
"""Seconds without a heartbeat after which a lease of another machine has ended: twelve, more than a slow disk takes."""


def machine_name() -> str:
    """A name for this machine since its start and for its process numbers: a container has its own."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def start_time(pid: int) -> str:
    """Start time of a process in the kernel's ticks: another process with the same number has another one."""
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
        pass  # it exists, and belongs to another user
    return start_time(pid) == started


@dataclass(frozen=True)
class Lease:
    """The hold that a process has on a run."""

    path: Path
    token: str

    def held(self) -> bool:
        """True if the lease is still ours: another process may have taken it if this machine was silent for too long."""
        return (_read_lease(self.path) or {}).get("token") == self.token

    def beat(self) -> None:
        """Write a heartbeat."""
        with contextlib.suppress(OSError):
            os.utime(self.path)


def _read_lease(path: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = read_record(path, LeaseRecord, "lease")
    except InputError:  # gone, or damaged: :meth:`verify.runs.store.Store.damaged` names it
        return None
    return found


def lease_holder(path: Path) -> dict[str, Any] | None:
    """The process that works on a run: machine, number and start; None if there is none, or it is gone."""
    found = _read_lease(path)
    if found is None:
        return None
    if found["machine"] == machine_name():
        return found if _alive(found["pid"], found["started"]) else None
    try:
        silent = _clock_of(path.parent) - path.stat().st_mtime
    except OSError:
        return None
    return found if silent < SILENCE_S else None


def _clock_of(folder: Path) -> float:
    """The time by the clock of the file system, which dates the heartbeats; machines' own clocks differ."""
    probe = folder / f".clock.{uuid.uuid4().hex[:8]}.part"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
