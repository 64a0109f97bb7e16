"""The places a configuration is read from: a file, a folder, the cache of the Hugging Face hub, or the hub."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...hub import hub_file, repository_of
from .fields import brief
from .files import LARGEST_FILE, read_json, read_object


class SourcedFields(dict[str, Any]):
    """The fields of a configuration, with the place they were read from."""

    def __init__(self, fields: Mapping[str, Any], read_from: str, notes: tuple[str, ...] = ()) -> None:
        super().__init__(fields)
        self.read_from = read_from
        """The file, or the repository with its commit."""
        self.notes = notes
        """Notes on the reading, one sentence each."""


def read_source(path: str | os.PathLike[str]) -> SourcedFields:
    """The fields of the configuration that `path` names.

    Parameters
    ----------
    path : a ``config.json``, a folder with one, or the name of a repository of the Hugging Face hub, with ``@revision`` if it
        is not to be the newest. A file or folder of that name comes first, then the hub's local cache, then the hub.

    Raises
    ------
    InputError
        if there is none of that name, it cannot be read, or is no configuration.
    """
    repository = repository_of(path) if isinstance(path, str) else None
    if repository is None or os.path.lexists(path):
        return SourcedFields(read_json(path), os.fspath(path))
    try:
        found = hub_file(repository, "config.json", LARGEST_FILE)
    except InputError as error:
        raise InputError(f"there is no config file {brief(path, limit=300)}, and {error}") from None
    source = found.source(repository)
    fields = read_object(Path(found.path), f"config.json of {brief(str(repository), limit=300)}")
    return SourcedFields(fields, source, (f"the configuration is {source}",))


def source_notes(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The notes on the reading of a configuration, none for a plain mapping or the file that was named.

    >>> source_notes({"model_type": "gpt2"})
    ()
    """
    return fields.notes if isinstance(fields, SourcedFields) else ()
