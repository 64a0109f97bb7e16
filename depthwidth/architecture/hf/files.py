"""Reader of a JSON object in an untrusted file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...files import parse_json, read_regular, reading
from .fields import brief

LARGEST_FILE = 5 * 10**6
"""Largest size, in bytes: ten times that of the largest published configurations, with thousands of labels."""


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object in `path`, a file or a folder with a ``config.json``.

    Raises
    ------
    InputError
        if it is not a regular file of moderate size that holds one JSON object.
    """
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise InputError(f"config: {brief(path)} is neither a mapping nor the path of a file")
    name, place = _show_path(path), Path(path)
    with reading("config file", name):
        inside = place.is_dir()
        if inside and not (place / "config.json").exists():
            raise InputError(f"folder {name} has no config.json")
    if inside:
        place = place / "config.json"
        name = _show_path(place)
    return read_object(place, name)


def read_object(place: Path, name: str) -> dict[str, Any]:
    """The JSON object in a configuration file, which the sentence of an error calls `name`.

    Raises
    ------
    InputError
        as :func:`read_json` does.
    """
    # Infinity is allowed, since some published configurations have an infinite limit.
    value = parse_json(read_regular(place, "config file", LARGEST_FILE, name), f"config file {name}", finite=False)
    if not isinstance(value, dict):
        raise InputError(f"config file {name} holds a JSON {type(value).__name__}, not an object")
    return value


def _show_path(path: str | os.PathLike[str]) -> str:
    return brief(os.fspath(path), limit=300)
