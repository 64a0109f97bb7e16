"""Atomic writing: a file appears whole, or stays as it was."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` to `path`, all of it or nothing; until then the file holds what it held before.

    Raises
    ------
    OSError
        if it cannot be written, as on a full disk. No part of it is left.
    """
    with open_whole(path) as file:
        file.write(data)


@contextlib.contextmanager
def open_whole(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write to, which becomes `path` when the block ends without an error, and else disappears.

    It is written beside its place, flushed to the disk and renamed, so that a process that is killed at any moment leaves the
    old state or the new one.

    Raises
    ------
    OSError
        if it cannot be written, as on a full disk.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power failure, on systems that can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
