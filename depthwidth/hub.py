"""Files of repositories on the Hugging Face hub: from its local cache, or through the library ``huggingface_hub``.

The library determines the cache and the server: it honours ``HF_HOME``, ``HF_HUB_CACHE``, ``HF_ENDPOINT``,
``HF_HUB_OFFLINE`` and ``HF_TOKEN``. A file is data: nothing in it is executed, and weights are not downloaded.
"""

from __future__ import annotations

import io
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

from .errors import InputError, shown

T = TypeVar("T")
LONGEST = 60.0
"""Seconds that one file may take in all. A connection, and each pause in an answer, has the library's limit of 10 s."""
_PART = r"[A-Za-z0-9_][\w.-]{0,95}"
_NAME = re.compile(
    rf"(?P<name>{_PART}(?:/{_PART})?)(?::(?P<model>[\w.-]{{1,99}}))?(?:@(?P<revision>[\w.][\w./-]{{0,99}}))?", re.ASCII
)
_ABOUT = {"library_name": "depthwidth"}
"""The name under which the library asks the hub."""
BLOCK = 2**20
"""Bytes of one request for a part of a file."""
_FILES = (
    ".json", ".jsonl", ".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".txt", ".csv", ".yaml", ".yml", ".toml",
    ".zip", ".py", ".md",
)  # fmt: skip
"""Endings of names of files: such a name is a path that is wrong, and no repository."""


class NoFileError(InputError):
    """A repository that can be read and has no such file."""


class Repository(NamedTuple):
    """The name of a repository, with a revision of it (a branch, a tag or a commit) and one of its models in GGUF."""

    name: str
    revision: str | None = None
    model: str | None = None
    """The end of the name of a file, such as ``Q4_K_M``."""

    def __str__(self) -> str:
        model = "" if self.model is None else f":{self.model}"
        return self.name + model + ("" if self.revision is None else f"@{self.revision}")


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
    """The repository that a name can mean: ``owner/name`` or ``name``, then ``:model``, then ``@revision``; otherwise None.

    >>> repository_of("meta-llama/Llama-3.1-8B@main")
    Repository(name='meta-llama/Llama-3.1-8B', revision='main', model=None)
    >>> repository_of("owner/Llama-GGUF:Q4_K_M").model
    'Q4_K_M'
    >>> repository_of("../config.json") is None
    True
    """
    found = _NAME.fullmatch(name)
    if found is None or found["name"].lower().endswith(_FILES) or ".." in name or "--" in found["name"]:
        return None
    return Repository(found["name"], found["revision"], found["model"])


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
    huggingface_hub = _library()
    cached = cached_file(repository, filename)
    if cached is not None:
        return cached
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        raise InputError(
            f"{filename} of the repository {shown(str(repository))} is not in the cache of the hub; HF_HUB_OFFLINE is set, so "
            "the hub is not asked"
        )
    path = _call_library(lambda: _download(huggingface_hub, repository, filename, most), repository, filename)
    return HubFile(path, path.parents[filename.count("/")].name, cached=False)


def cached_file(repository: Repository, filename: str) -> HubFile | None:
    """A file of a repository from the cache; None if the cache has no such file of this revision.

    Raises
    ------
    InputError
        if the library is not installed.
    """
    cached = _library().try_to_load_from_cache(repository.name, filename, revision=repository.revision)
    if not isinstance(cached, str):
        return None
    return HubFile(Path(cached), Path(cached).parents[filename.count("/")].name, cached=True)


def hub_models(repository: Repository) -> list[str]:
    """The names of the files in GGUF of a repository, sorted; projections of images and tables of importance left out.

    Raises
    ------
    InputError
        as :func:`hub_file` does.
    """
    library = _library()
    if library.constants.HF_HUB_OFFLINE:
        return cached_models(repository)
    about = library.HfApi(**_ABOUT)
    found = _call_library(lambda: about.model_info(repository.name, revision=repository.revision), repository, "list of files")
    return _models(one.rfilename for one in found.siblings or ())


def cached_models(repository: Repository) -> list[str]:
    """As :func:`hub_models`, from the cache alone; none if the library is not installed."""
    try:
        import huggingface_hub
    except ImportError:
        return []
    try:
        found = huggingface_hub.snapshot_download(repository.name, revision=repository.revision, local_files_only=True)
    except (OSError, ValueError, RuntimeError):
        # The library's exception for a repository that the cache does not have is one of the first two; without a home folder
        # there is no cache.
        return []
    return _models(one.relative_to(found).as_posix() for one in Path(found).rglob("*"))


@contextmanager
def hub_stream(repository: Repository, filename: str) -> Iterator[tuple[BinaryIO, int, str]]:
    """A file of a repository; only the parts that are read are downloaded; its size in bytes, and its commit.

    Raises
    ------
    InputError
        as :func:`hub_file` does, here or while the file is read.
    """
    library = _library()
    url = library.hf_hub_url(repository.name, filename, revision=repository.revision)
    found = _call_library(lambda: library.get_hf_file_metadata(url, **_ABOUT), repository, filename)
    if type(found.size) is not int or found.size < 0:
        raise InputError(f"{_endpoint()} did not report the size of {filename} of {shown(repository.name)}")

    end = time.monotonic() + LONGEST

    def part(start: int, stop: int) -> bytes:
        return _call_library(lambda: _request_range(library, url, start, stop), repository, filename, end - time.monotonic())

    raw = _Parts(part, found.size)
    with io.BufferedReader(raw, BLOCK) as file:
        yield cast("BinaryIO", file), found.size, found.commit_hash or "unknown"


class _Parts(io.RawIOBase):
    """A file of known size that asks for each part when it is read."""

    def __init__(self, part: Callable[[int, int], bytes], size: int) -> None:
        self._part, self._size, self._place = part, size, 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place, which may be beyond the end."""
        self._place = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence])
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, or read the rest of the file."""
        stop = min(self._size, self._place + len(buffer))
        if stop <= self._place:
            return 0
        data = self._part(self._place, stop)
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)


def hub_tensors(repository: Repository) -> dict[str, tuple[tuple[int, ...], str, int | None]] | None:
    """Shape, number format and bytes of each tensor of a repository, from the headers of its safetensors files alone.

    None if it has no ``model.safetensors`` and no index of several.

    Raises
    ------
    InputError
        as :func:`hub_file` does, or if a header is damaged.
    """
    huggingface_hub = _library()

    def headers() -> Any:
        try:
            return huggingface_hub.HfApi(**_ABOUT).get_safetensors_metadata(repository.name, revision=repository.revision)
        except huggingface_hub.errors.NotASafetensorsRepoError:
            return None

    found = _call_library(headers, repository, "model.safetensors")
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
        if it names a repository without safetensors in the cache.
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


def _library() -> Any:
    """The library; an InputError that names the extra if it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.utils
    except ImportError:
        raise InputError("pip install 'depthwidth[hub]' reads the repositories of the Hugging Face hub") from None
    return huggingface_hub


_NO_MODEL = re.compile(r"(^|[/._-])(mmproj|imatrix)([/._-])", re.IGNORECASE)


def _models(names: Iterable[str]) -> list[str]:
    return sorted(one for one in names if one.lower().endswith(".gguf") and not _NO_MODEL.search(one))


def _request_range(library: Any, url: str, start: int, stop: int) -> bytes:
    """Bytes `start` to `stop` of a file; a server that would send more is not read further."""
    headers = library.utils.build_hf_headers(**_ABOUT) | {"range": f"bytes={start}-{stop - 1}"}
    limits = {"timeout": library.constants.HF_HUB_DOWNLOAD_TIMEOUT, "follow_redirects": True}
    with library.utils.get_session().stream("GET", url, headers=headers, **limits) as response:
        library.utils.hf_raise_for_status(response)
        data = bytearray()
        for piece in response.iter_bytes() if response.status_code == 206 else ():
            data += piece
            if len(data) > stop - start:
                break
    if len(data) != stop - start:
        raise InputError(f"{_endpoint()} does not send parts of files as the hub does")
    return bytes(data)


def _download(library: Any, repository: Repository, filename: str, most: int) -> Path:
    """The path of a file after its download to the cache."""
    url = library.hf_hub_url(repository.name, filename, revision=repository.revision)
    size = library.get_hf_file_metadata(url, **_ABOUT).size  # asked beforehand, as a download has no limit of its own
    if size is not None and size > most:
        raise InputError(f"{filename} of the repository {shown(str(repository))} has {size:,} bytes; at most {most:,} are read")
    return Path(library.hf_hub_download(repository.name, filename, revision=repository.revision, **_ABOUT))


def _call_library(work: Callable[[], T], repository: Repository, filename: str, seconds: float | None = None) -> T:
    """The result of `work` with the library, whose exceptions become one sentence; within :data:`LONGEST` by default."""
    import huggingface_hub as library

    try:
        with _silent(library):
            return _in_time(work, LONGEST if seconds is None else seconds)
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


def _in_time(work: Callable[[], T], seconds: float) -> T:
    """The result of `work`, which is left to itself after so many seconds: a server may send one byte at a time."""
    results: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            results.append(work())
        except Exception as error:  # noqa: BLE001, RUF100  (raised again below)
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(max(0.0, seconds))
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
