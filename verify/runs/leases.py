"""Lease files: which process, on which machine, works on a run, and whether it still lives."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEARTBEAT_S = 15.0
"""How often the owner of a lease shows that it is alive."""

SILENCE_S = 180.0
"""After how long without that a lease of another machine counts as given up: twelve heartbeats, more than a slow disk takes."""


def machine_name() -> str:
    """The machine since it was started, and the process numbers that are known here: a container has its own."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def start_time(pid: int) -> str:
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
    return start_time(pid) == started


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


def lease_holder(path: Path) -> dict[str, Any] | None:
    """Who works on a run now: machine, process and since when; None where nobody does, or whoever did is gone."""
    found = _read_lease(path)
    if found is None:
        return None
    if found.get("machine") == machine_name():
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
