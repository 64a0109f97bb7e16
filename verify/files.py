"""Atomic file writes: after an interruption a file has either its old content or its complete new content."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def write_whole(path: Path, data: bytes) -> None:
    """Replace the content of `path` by `data` atomically.

    Raises
    ------
    OSError
        if the file cannot be written, for example because the disk is full. The old content is then unchanged.
    """
    with open_whole(path) as file:
        file.write(data)


@contextlib.contextmanager
def open_whole(path: Path) -> Iterator[BinaryIO]:
    """A binary file to write to. It replaces `path` if the block ends without an error, and is deleted otherwise.

    It is a temporary file in the same folder, which is flushed to the disk and then renamed: a process killed at any moment
    leaves either the old file or the new one.

    Raises
    ------
    OSError
        if the file cannot be written, for example because the disk is full.
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
    """Flush a folder to the disk, so that a rename in it survives a power failure, if the system supports this."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
