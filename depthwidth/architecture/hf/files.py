"""Reading a JSON object from an untrusted file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import open_regular, reading
from .fields import brief

LARGEST_FILE = 5 * 10**6
"""Bytes. The largest published configurations, with thousands of labels, have a tenth of it."""


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in `path`, a file or a folder that holds ``config.json``.

    Raises
    ------
    InputError
        if it is not a regular file of moderate size that holds one JSON object.
    """
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise InputError(f"config: {brief(path)} is neither a mapping nor the path of a file")
    name = _shown(path)
    text = _text(Path(path))
    try:
        value = json.loads(text, object_pairs_hook=lambda pairs: _without_duplicates(pairs, name))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"config file {name} is not JSON: {error.msg} at {where}") from None
    except RecursionError:
        raise InputError(f"config file {name} is nested too deeply") from None
    except InputError:
        raise
    except ValueError:  # Python refuses to read whole numbers of thousands of digits
        raise InputError(f"config file {name} holds a number with too many digits") from None
    if not isinstance(value, dict):
        raise InputError(f"config file {name} holds a JSON {type(value).__name__}, not an object")
    return value


def _shown(path: str | os.PathLike[str]) -> str:
    return brief(os.fspath(path), limit=300)


def _text(path: Path) -> str:
    name = _shown(path)
    with reading("config file", name):
        if path.is_dir():
            path = path / "config.json"
            if not path.exists():
                raise InputError(f"folder {name} has no config.json")
            name = _shown(path)
        with open_regular(path, "config file", name) as file:
            size = os.fstat(file.fileno()).st_size
            if size > LARGEST_FILE:
                raise InputError(f"config file {name} has {size:,} bytes; at most {LARGEST_FILE:,} are read")
            data = file.read(LARGEST_FILE)
    if not data.strip():
        raise InputError(f"config file {name} is empty")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"config file {name} is not UTF-8 text") from None


def _without_duplicates(pairs: list[tuple[str, Any]], name: str) -> dict[str, Any]:
    # JSON does not define which of two equal keys counts, so a file with both is ambiguous.
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InputError(f"config file {name} has the key {brief(twice)} twice")
    return found
