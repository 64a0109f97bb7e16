"""Leases on runs: those of this process, and those of any process."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import uuid
from typing import Any

from depthwidth.errors import InputError

from ..files import write_whole
from .leases import HEARTBEAT_S, Lease, lease_holder, machine_name, start_time
from .store import RUN_NAME, Store


class Leases:
    """The runs that this process works on; a context manager.

    At most one process holds a run. A lease ends when it is released, when its process is gone (detected at once on the same
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
            self.release(run)
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
        """Lease a run: ``ours``, or the reason against it, ``done`` or ``busy``."""
        path = self.store.root / "leases" / f"{run}.json"
        with self.store.alone():
            if self.store.rows_of(run) is not None:
                return "done"
            if lease_holder(path) is not None:
                return "busy"
            token = uuid.uuid4().hex
            about = {
                "token": token,
                "machine": machine_name(),
                "pid": os.getpid(),
                "started": start_time(os.getpid()),
                "since": time.time(),
            }
            write_whole(path, json.dumps(about).encode())
            self._held[run] = Lease(path, token)
        return "ours"

    def release(self, run: str) -> None:
        """Release a run."""
        lease = self._held.pop(run, None)
        if lease is not None:
            with contextlib.suppress(OSError, InputError), self.store.alone():
                if lease.held():
                    lease.path.unlink()


def running(store: Store) -> dict[str, dict[str, Any]]:
    """The leased runs, each with the process that works on it."""
    found = {}
    folder = store.root / "leases"
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        if RUN_NAME.fullmatch(path.stem) and (holder := lease_holder(path)) is not None:
            found[path.stem] = holder
    return found
