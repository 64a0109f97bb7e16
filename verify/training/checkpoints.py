"""Checkpoints that survive a kill: each is one file, complete or absent, with its checksum in its name.

A checkpoint is a safetensors file ``step-STEP-DIGEST.safetensors``. It is written to a temporary file in the same folder,
flushed to the disk and renamed, so that a kill leaves earlier checkpoints unchanged. DIGEST is the SHA-256 of its bytes: a
truncated or altered file is recognised, and the checkpoint before it is used. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from depthwidth.files import parse_json, read_regular

from ..files import write_whole

LARGEST = 2**40
"""Bytes of a checkpoint that are read."""

KEEP = 2
"""Number of checkpoints kept per run."""

_NAME = re.compile(r"step-(\d{10})-([0-9a-f]{32})\.safetensors")


class Checkpoint(NamedTuple):
    """The content of a checkpoint: tensors by name, and all other state as plain JSON values."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write a checkpoint, then remove all but the newest :data:`KEEP`.

    Parameters
    ----------
    tensors : on any device, in any layout. They are copied to the host and made contiguous, which needs as much memory again
        while the file is written.
    state : plain values that JSON can represent.

    Raises
    ------
    OSError
        if the file cannot be written. Earlier checkpoints are then unchanged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(plain, metadata={"step": str(step), "state": json.dumps(state)})
    path = folder / f"step-{step:010d}-{hashlib.sha256(data).hexdigest()[:32]}.safetensors"
    write_whole(path, data)
    unfinished = folder.glob(".step-*.part")  # left by a process that was killed while writing
    for old in (*unfinished, *(path for _, _, path in list(_checkpoint_files(folder))[KEEP:])):
        with contextlib.suppress(OSError):
            old.unlink()
    return path


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest intact checkpoint in a folder, or None if there is none."""
    for step, digest, path in _checkpoint_files(folder):
        try:
            data = read_regular(path, "checkpoint", LARGEST)
            if hashlib.sha256(data).hexdigest()[:32] != digest:
                continue
            return Checkpoint(step, load(data), parse_json(_metadata(data)["state"], "the state", finite=False))
        except (SafetensorError, KeyError, TypeError, ValueError):  # InputError among them
            continue
    return None


def _metadata(data: bytes) -> dict[str, str]:
    """The metadata in the header of a safetensors file, which is eight bytes of length followed by JSON."""
    header = parse_json(data[8 : 8 + int.from_bytes(data[:8], "little")], "the header")
    return dict(header["__metadata__"])


def _checkpoint_files(folder: Path) -> Iterator[tuple[int, str, Path]]:
    """Step, digest and path of each file named as a checkpoint, newest first."""
    names = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    yield from sorted(((int(name[1]), name[2], path) for name, path in names if name), reverse=True)
