"""Files: untrusted ones are read where reading ends, with bounds, and ours are written whole.

A file that cannot be read gives one sentence. After an interruption a file has its old content or its complete new one.
"""

from __future__ import annotations

import json
import math
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from .errors import InputError, shown

DEEPEST = 64
"""Levels of nesting in JSON. What is written and published here has fewer than ten."""

MOST_VALUES = 3_000_000
"""Values in a JSON file: each takes about a hundred bytes of memory, however short it is in the file."""


@contextmanager
def reading(what: str, name: str) -> Iterator[None]:
    """Around all that touches a file: turns the system's refusals into one sentence.

    Parameters
    ----------
    what : the kind of file that was expected, as in "config file".
    name : the path as the sentence shows it.

    Raises
    ------
    InputError
        if there is no such file, or it cannot be read.
    """
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"there is no {what} {name}") from None
    except PermissionError:
        raise InputError(f"{what} {name} may not be read: permission denied") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = getattr(error, "strerror", None) or "it is not a path"
        raise InputError(f"{what} {name} cannot be read: {reason}") from None


def open_regular(path: Path, what: str, name: str) -> BinaryIO:
    """A regular file, open for its bytes; to be called within :func:`reading`.

    Raises
    ------
    InputError
        if it is a folder, a pipe or a device.
    """
    # Asked before opening, as opening a device may act on it; and after, as the file may have been replaced meanwhile.
    if stat.S_ISREG(path.stat().st_mode):
        file = os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        file.close()
    raise InputError(f"{what} {name} is not a regular file")


def read_regular(path: Path, what: str, most: int, name: str | None = None) -> bytes:
    """The bytes of a regular file.

    Parameters
    ----------
    path : the file.
    what : its kind, for the sentence of an error.
    most : largest number of bytes.
    name : the path as the sentence shows it; by default :func:`~depthwidth.errors.shown`.

    Raises
    ------
    InputError
        if it cannot be read, is a folder, a pipe or a device, or has more than `most` bytes.
    """
    name = shown(str(path), limit=300) if name is None else name
    with reading(what, name), open_regular(path, what, name) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1) if size <= most else b""  # it may grow meanwhile
    if max(size, len(data)) > most:
        raise InputError(f"{what} {name} has {max(size, len(data)):,} bytes; at most {most:,} are read")
    return data


def parse_json(data: bytes | str, label: str, finite: bool = True) -> Any:
    """The value in JSON text from an untrusted file.

    Parameters
    ----------
    data : the text, or its bytes in UTF-8.
    label : name of the file in the sentence of an error.
    finite : refuse what our own records never hold: NaN, infinities, whole numbers of more than 64 bits, and halves of
        characters (lone surrogates).

    Raises
    ------
    InputError
        if it is not JSON in UTF-8, holds a key twice, more than :data:`DEEPEST` levels or :data:`MOST_VALUES` values, or
        something that `finite` excludes.
    """
    if isinstance(data, bytes):
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise InputError(f"{label} is not UTF-8 text") from None
    else:
        text = data
    if not text.strip():
        raise InputError(f"{label} is empty")
    if sum(map(text.count, ",[{")) > MOST_VALUES:
        raise InputError(f"{label} holds more than {MOST_VALUES:,} values")
    try:
        value = json.loads(text, object_pairs_hook=lambda pairs: _without_duplicates(pairs, label))
    except json.JSONDecodeError as error:
        raise InputError(f"{label} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise InputError(f"{label} is nested too deeply") from None
    except InputError:
        raise
    except ValueError:  # Python refuses to read whole numbers of thousands of digits
        raise InputError(f"{label} holds a number with too many digits") from None
    _check_levels(value, label, finite)
    return value


def _check_levels(value: Any, label: str, finite: bool) -> None:
    """Refuse deep nesting, and values that `finite` excludes, level by level, without recursion."""
    level = [value]
    for _ in range(DEEPEST + 1):
        if finite:
            for one in level:
                _check_plain(one, label)
        inner: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.values()
                if finite:
                    for key in one:
                        _check_plain(key, label)
            elif isinstance(one, list):
                inner += one
        if not inner:
            return
        level = inner
    raise InputError(f"{label} is nested too deeply")


def _check_plain(value: Any, label: str) -> None:
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise InputError(f"{label} holds half a character: {shown(value)}")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise InputError(f"{label} holds {value}, which is not a finite number")
    elif isinstance(value, int) and value.bit_length() > 64:
        raise InputError(f"{label} holds a whole number of more than 64 bits")


def _without_duplicates(pairs: list[tuple[str, Any]], label: str) -> dict[str, Any]:
    # JSON does not define which of two equal keys counts, so a file with both is ambiguous.
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InputError(f"{label} has the key {shown(twice)} twice")
    return found


def write_whole(path: Path, data: bytes) -> None:
    """Replace the content of `path` by `data` atomically.

    Raises
    ------
    OSError
        if the file cannot be written, for example because the disk is full. The old content is then unchanged.
    """
    with open_whole(path) as file:
        file.write(data)


@contextmanager
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
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Flush a folder to the disk, so that a rename in it survives a power failure, if the system supports this."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
