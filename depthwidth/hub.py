"""Files of repositories on the Hugging Face hub: from its local cache, or through the library ``huggingface_hub``.

The library says where the cache is and which server is the hub: it honours ``HF_HOME``, ``HF_HUB_CACHE``, ``HF_ENDPOINT``,
``HF_HUB_OFFLINE`` and ``HF_TOKEN``. A file is data: nothing in it is executed, and weights are not downloaded.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from .errors import InputError, shown

T = TypeVar("T")
LONGEST = 60.0
"""Seconds that one file may take in all. A connection, and each pause in an answer, has the library's limit of 10 s."""
_PART = r"[A-Za-z0-9_][\w.-]{0,95}"
_NAME = re.compile(rf"(?P<name>{_PART}(?:/{_PART})?)(?:@(?P<revision>[\w.][\w./-]{{0,99}}))?", re.ASCII)
_FILES = (
    ".json", ".jsonl", ".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".txt", ".csv", ".yaml", ".yml", ".toml",
    ".zip", ".py", ".md",
)  # fmt: skip
"""Endings of names of files: such a name is a path that is wrong, and no repository."""


class NoFileError(InputError):
    """A repository that can be read and has no such file."""


class Repository(NamedTuple):
    """The name of a repository, with a revision of it: a branch, a tag or a commit."""

    name: str
    revision: str | None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


class HubFile(NamedTuple):
    """One file of a repository, on this machine."""

    path: Path
    commit: str
    cached: bool
    """True if it was in the cache, False if it was downloaded."""

    def source(self, repository: Repository) -> str:
        """The file's name, repository and commit, and the place it was read from."""
        place = "the local cache of the hub" if self.cached else _endpoint()
        return f"{self.path.name} of {repository.name} at commit {self.commit[:12]}, from {place}"


def repository_of(name: str) -> Repository | None:
    """The repository that a name can mean, ``owner/name``, ``name`` or either ``@revision``; None if it can mean none.

    >>> repository_of("meta-llama/Llama-3.1-8B@main")
    Repository(name='meta-llama/Llama-3.1-8B', revision='main')
    >>> repository_of("../config.json") is None
    True
    """
    found = _NAME.fullmatch(name)
    if found is None or found["name"].lower().endswith(_FILES) or ".." in name or "--" in found["name"]:
        return None
    return Repository(found["name"], found["revision"])


def hub_file(repository: Repository, filename: str, most: int) -> HubFile:
    """A file of a repository: that in the cache for this revision, or else the hub's, which is then kept in the cache.

    Parameters
    ----------
    filename : its name in the repository.
    most : largest number of bytes that are downloaded.

    Raises
    ------
    InputError
        if the library is not installed, the hub has no such repository, revision or file, does not let you read it, does not
        answer in time or answers unlike a hub, or the file is too large. The sentence continues one that says that there is no
        file of that name.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise InputError("pip install 'depthwidth[hub]' reads the repositories of the Hugging Face hub") from None

    cached = huggingface_hub.try_to_load_from_cache(repository.name, filename, revision=repository.revision)
    if isinstance(cached, str):
        return HubFile(Path(cached), Path(cached).parents[filename.count("/")].name, cached=True)
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise InputError(
            f"{filename} of the repository {shown(str(repository))} is not in the cache of the hub; HF_HUB_OFFLINE is set, so "
            "that the hub is not asked"
        )
    path = _asked(lambda: _downloaded(huggingface_hub, repository, filename, most), repository, filename)
    return HubFile(path, path.parents[filename.count("/")].name, cached=False)


def hub_tensors(repository: Repository) -> dict[str, tuple[tuple[int, ...], str, int | None]] | None:
    """Shape, number format and bytes of each tensor of a repository, from the headers of its safetensors files alone.

    None if it has no ``model.safetensors`` and no index of several.

    Raises
    ------
    InputError
        as :func:`hub_file` does, or if a header is damaged.
    """
    import huggingface_hub

    def headers() -> Any:
        try:
            return huggingface_hub.HfApi(library_name="depthwidth").get_safetensors_metadata(
                repository.name, revision=repository.revision
            )
        except huggingface_hub.errors.NotASafetensorsRepoError:
            return None

    found = _asked(headers, repository, "model.safetensors")
    if found is None:
        return None
    tensors: dict[str, tuple[tuple[int, ...], str, int | None]] = {}
    for file in found.files_metadata.values():
        for name, one in file.tensors.items():
            shape, (start, stop) = tuple(one.shape), one.data_offsets
            if not all(type(size) is int and size >= 0 for size in (*shape, stop - start)):
                raise InputError(f"the headers of the repository {shown(str(repository))} are damaged at {shown(name)}")
            tensors[name] = (shape, str(one.dtype), stop - start)
    return tensors


def local_checkpoint(path: str | os.PathLike[str]) -> Path:
    """The path of a checkpoint: `path` itself, or, if there is none and it names a repository, its folder in the hub's cache.

    Nothing is downloaded, as weights are large.

    Raises
    ------
    InputError
        if it names a repository of which the cache holds no safetensors.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"checkpoint: {shown(path)} is not a path")
    repository = repository_of(path) if isinstance(path, str) else None
    if repository is None or os.path.lexists(path):
        return Path(path)
    try:
        import huggingface_hub
    except ImportError:
        return Path(path)
    for file in ("model.safetensors.index.json", "model.safetensors"):
        found = huggingface_hub.try_to_load_from_cache(repository.name, file, revision=repository.revision)
        if isinstance(found, str):
            return Path(found).parent
    raise InputError(
        f"there is no checkpoint {shown(path, limit=300)}, and the cache of the hub holds no safetensors of that name; weights "
        "are not downloaded here, but by `hf download`"
    )


def _downloaded(library: Any, repository: Repository, filename: str, most: int) -> Path:
    """The path of a file after its download to the cache."""
    about = {"library_name": "depthwidth"}
    url = library.hf_hub_url(repository.name, filename, revision=repository.revision)
    size = library.get_hf_file_metadata(url, **about).size  # asked beforehand, as a download has no limit of its own
    if size is not None and size > most:
        raise InputError(f"{filename} of the repository {shown(str(repository))} has {size:,} bytes; at most {most:,} are read")
    return Path(library.hf_hub_download(repository.name, filename, revision=repository.revision, **about))


def _asked(work: Callable[[], T], repository: Repository, filename: str) -> T:
    """The result of `work` with the library, whose exceptions become one sentence."""
    import huggingface_hub as library

    try:
        with _silent(library):
            return _in_time(work)
    except InputError:
        raise
    except Exception as error:  # the library's, and those of the one below it, whose name differs between versions
        absent = isinstance(error, library.errors.RemoteEntryNotFoundError)
        raise (NoFileError if absent else InputError)(_reason(library, error, repository, filename)) from None


def _reason(library: Any, error: Exception, repository: Repository, filename: str) -> str:
    """One sentence on an exception of the library, the most special first."""
    errors, hub, name = library.errors, _endpoint(), shown(repository.name)
    if isinstance(error, errors.GatedRepoError):
        return f"the repository {name} is gated: ask for access at {hub}/{repository.name}, and set HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{hub} has no repository {name} that can be read; a private one needs HF_TOKEN"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the repository {name} has no revision {shown(repository.revision or 'main')}"
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return _reason(library, error.__cause__, repository, filename)  # a download that failed, and nothing in the cache
    if isinstance(error, errors.EntryNotFoundError):
        return f"the repository {shown(str(repository))} has no {filename}"
    if isinstance(error, errors.HFValidationError):
        return f"{name} is not the name of a repository"
    if isinstance(error, errors.SafetensorsParsingError):
        return f"the header of a safetensors file of {name} is damaged"
    return _fault(library, error, name)


def _fault(library: Any, error: Exception, name: str) -> str:
    """One sentence on a refusal of the server, a connection that fails, or a cache that cannot be written."""
    hub, status = _endpoint(), getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"{hub} does not let you read {name} (status {status}): HF_TOKEN is wrong or lacks the permission"
    if status is not None:
        return f"{hub} answers with status {status}"
    if isinstance(error, library.errors.FileMetadataError):
        return f"{hub} does not answer as the hub does"
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno is not None and error.filename):
        return f"the cache of the hub cannot be written: {error.strerror}"
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "TimeoutException" in kinds:
        return f"{hub} does not answer in time"
    reason = " ".join(str(error).split())
    return f"{hub} cannot be reached: {reason[:200] or type(error).__name__}"


def _in_time(work: Callable[[], T]) -> T:
    """The result of `work`, which is left to itself after :data:`LONGEST` seconds: a server may send one byte at a time."""
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001, RUF100  (raised again below)
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LONGEST)
    if errors:
        raise errors[0]
    if not results:
        raise InputError(f"{_endpoint()} did not send the file within {LONGEST:.0f} s")
    return results[0]


@contextmanager
def _silent(library: Any) -> Iterator[None]:
    """Without the library's progress bars and warnings, which would stand between the lines of a command."""
    utils, logging = library.utils, library.utils.logging
    before, bars = logging.get_verbosity(), utils.are_progress_bars_disabled()
    logging.set_verbosity(logging.CRITICAL)
    if not bars:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if not bars:
            utils.enable_progress_bars()


def _endpoint() -> str:
    """The address of the hub."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)
