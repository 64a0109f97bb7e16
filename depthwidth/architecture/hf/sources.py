"""The places a configuration is read from: a file, a folder, a GGUF header, the cache of the Hugging Face hub, or the hub."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import InputError
from ...files import reading
from ...gguf_header import GGUFHeader, OpenPart, is_gguf, read_header, read_parts
from ...hub import (
    HubFile,
    NoFileError,
    Repository,
    cached_file,
    cached_models,
    hub_file,
    hub_models,
    hub_stream,
    hub_tensors,
    repository_of,
)
from ...quantities import format_bytes
from ...stored_counts import StoredCounts, stored_counts
from ...stored_tensors import INDEX, open_tensors
from ..transformer import Transformer
from .families import FAMILIES
from .fields import NoTreeError, brief
from .files import LARGEST_FILE, read_json, read_object
from .gguf import fields_of_header, notes_on_header


class SourcedFields(dict[str, Any]):
    """The fields of a configuration, with the place they were read from."""

    def __init__(
        self, fields: Mapping[str, Any], read_from: str, notes: tuple[str, ...] = (), tensors: Path | None = None
    ) -> None:
        super().__init__(fields)
        self.read_from = read_from
        """The file, or the repository with its commit."""
        self.notes = notes
        """Notes on the reading, one sentence each."""
        self.tensors = tensors
        """The safetensors file or index that was named, if the configuration is the one in its folder."""


class NoConfigError(NoTreeError):
    """Weights without a configuration, or of an architecture without a family: their headers are counted, and that is all."""

    def __init__(self, reason: str, counts: StoredCounts) -> None:
        super().__init__(reason, "; `depthwidth describe` counts what is stored")
        self.counts = counts


def read_source(path: str | os.PathLike[str]) -> SourcedFields:
    """The fields of the configuration that `path` names.

    Parameters
    ----------
    path : a ``config.json``, a ``params.json``, a GGUF file, a safetensors file or index with a ``config.json`` in its folder,
        a folder that holds one of these, or the name of a repository of the Hugging Face hub. ``@revision`` after the name
        chooses another revision than the newest, ``:Q4_K_M`` one of its models in GGUF. A file or folder of that name comes
        first, then the hub's local cache, then the hub.

    Raises
    ------
    InputError
        if there is none of that name, it cannot be read, or is no configuration; a :class:`NoConfigError` for weights whose
        configuration is not known.
    """
    repository = repository_of(path) if isinstance(path, str) else None
    if repository is not None and not os.path.lexists(path):
        return _read_hub(repository)
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise InputError(f"config: {brief(path)} is neither a mapping nor the path of a file")
    name, place = brief(os.fspath(path), limit=300), Path(path)
    with reading("config file", name):
        inside = _inside(place, name) if place.is_dir() else place
    if is_gguf(inside) or inside.suffix == ".gguf":
        return _read_gguf(inside)
    if inside.suffix == ".safetensors" or inside.name.endswith(INDEX):
        return _read_safetensors(inside)
    notes = () if inside.name in ("config.json", place.name) else (f"the configuration is {brief(str(inside), limit=300)}",)
    return SourcedFields(read_json(inside), str(inside) if notes else os.fspath(path), notes)


def source_notes(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """The notes on the reading of a configuration, none for a plain mapping or the file that was named.

    >>> source_notes({"model_type": "gpt2"})
    ()
    """
    return fields.notes if isinstance(fields, SourcedFields) else ()


_PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


def _inside(folder: Path, name: str) -> Path:
    """The file of a folder to read: its configuration, its only model in GGUF, or its tensors."""
    for file in ("config.json", "params.json"):
        if os.path.lexists(folder / file):
            if (folder / file).is_dir():
                raise InputError(f"{file} in the folder {name} is not a regular file")
            return folder / file
    names = sorted(one.name for one in folder.iterdir())
    models = [one for one in names if one.endswith(".gguf")]
    stems = {_PART.sub("", one) for one in models}
    if len(stems) > 1:
        raise InputError(f"folder {name} has no config.json and {len(stems)} models in GGUF: name one of them")
    if models:
        return folder / models[0]
    stored = [one for one in names if one.endswith(INDEX)] or [one for one in names if one.endswith(".safetensors")]
    if len(stored) > 1:
        raise InputError(f"folder {name} has no config.json, and {len(stored)} safetensors files: name one of them")
    if stored:
        return folder / stored[0]
    raise InputError(f"folder {name} has no config.json")


def _read_gguf(path: Path) -> SourcedFields:
    return _fields_of_header(read_header(path), str(path))


def _fields_of_header(header: GGUFHeader, read_from: str, *notes: str) -> SourcedFields:
    try:
        config = fields_of_header(header)
    except NoTreeError as error:
        raise NoConfigError(error.reason, stored_counts(_shapes(header), read_from, error.reason)) from None
    source = f"the configuration is the header of {header.label}, {_stored_words(header)}"
    tree = Transformer.of_design(FAMILIES[config["model_type"]].design(config))
    return SourcedFields(config, read_from, (source, *notes, *notes_on_header(header, tree)))


def _stored_words(header: GGUFHeader) -> str:
    """The bytes of the tensors and the number format of most of their weights."""
    weights: dict[str, int] = {}
    for one in header.tensors.values():
        weights[one.dtype] = weights.get(one.dtype, 0) + math.prod(one.shape)
    sizes = [one.bytes for one in header.tensors.values()]
    size = "unknown bytes" if None in sizes else format_bytes(sum(one or 0 for one in sizes))
    return f"whose tensors take {size}" + (f", most of them {max(weights, key=weights.__getitem__)}" if weights else "")


def _shapes(header: GGUFHeader) -> dict[str, tuple[tuple[int, ...], str, int | None]]:
    return {name: (one.shape, one.dtype, one.bytes) for name, one in header.tensors.items()}


def _read_safetensors(path: Path) -> SourcedFields:
    """The configuration in the folder of a safetensors file."""
    beside = path.parent / "config.json"
    if os.path.lexists(beside):
        note = f"the configuration is {brief(str(beside), limit=300)}, beside the tensors"
        return SourcedFields(read_json(beside), str(beside), (note,), path)
    stored = open_tensors(path)
    reason = f"{stored.label} has no config.json beside it"
    shapes = {name: (one.shape, one.dtype, one.stop - one.start) for name, one in stored.entries.items()}
    raise NoConfigError(reason, stored_counts(shapes, str(path), reason))


def _read_hub(repository: Repository) -> SourcedFields:
    if repository.model is not None:
        return _read_hub_model(repository, hub_models(repository))
    try:
        found = hub_file(repository, "config.json", LARGEST_FILE)
    except InputError as error:
        of_model = _without_config(repository, error)
        if of_model is None:
            raise InputError(f"there is no config file {brief(str(repository), limit=300)}, and {error}") from None
        return of_model
    source = found.source(repository)
    fields = read_object(found.path, f"config.json of {brief(str(repository), limit=300)}")
    return SourcedFields(fields, source, (f"the configuration is {source}",))


def _without_config(repository: Repository, error: InputError) -> SourcedFields | None:
    """The configuration by the header of a model in GGUF, or None; `error` is the reason why there is no ``config.json``."""
    if not isinstance(error, NoFileError):  # the hub cannot be asked
        models = cached_models(repository)
        return _read_hub_model(repository, models) if models else None
    shapes = _tensors_on_hub(repository)
    if shapes is not None:
        read_from = f"the headers of the tensors of {repository} on the hub"
        raise NoConfigError(str(error), stored_counts(shapes, read_from, str(error)))
    models = hub_models(repository)
    return _read_hub_model(repository, models) if models else None


_USUAL_MODEL = "q4_k_m"
"""The quantisation that llama.cpp reads of a repository unless another is named."""


def _read_hub_model(repository: Repository, models: list[str]) -> SourcedFields:
    """The configuration in the header of one of the models in GGUF of a repository."""
    ends = {_model_name(one): one for one in reversed(models)}  # of a model in parts the first
    wanted = _USUAL_MODEL if repository.model is None else repository.model.lower()
    fitting = [one for name, one in ends.items() if re.search(rf"(^|[-._]){re.escape(wanted)}$", name.lower())]
    if not fitting and repository.model is not None:
        known = ", ".join(sorted(ends)[:20]) or "none"
        raise InputError(f"no model in GGUF of {brief(repository.name)} ends in {brief(repository.model)}; it has {known}")
    chosen = min(fitting or models)
    notes = []
    if repository.model is None and len(ends) > 1:
        other = max(name for name, one in ends.items() if one != chosen)
        notes = [f"the repository has {len(ends)} models in GGUF; {repository.name}:{other} reads another"]
    cached = cached_file(repository, chosen)
    if cached is not None:
        header, source = read_header(cached.path), cached.source(repository)
    else:
        folder, source = PurePosixPath(chosen).parent, ""

        @contextmanager
        def opened(name: str) -> Iterator[OpenPart]:
            nonlocal source
            with hub_stream(repository, str(folder / name)) as (file, size, commit):
                label = HubFile(Path(name), commit, cached=False).source(repository)
                source = source or label
                yield OpenPart(file, size, label)

        header = read_parts(PurePosixPath(chosen).name, opened)
    return _fields_of_header(replace(header, label=source), source, *notes)


def _model_name(file: str) -> str:
    """The name of the model of a file: its own without the ending and the number of a part."""
    return PurePosixPath(_PART.sub(".gguf", file)).stem


def _tensors_on_hub(repository: Repository) -> dict[str, tuple[tuple[int, ...], str, int | None]] | None:
    try:
        return hub_tensors(repository)
    except InputError as error:
        raise InputError(f"the repository {brief(str(repository), limit=300)} has no config.json, and {error}") from None
