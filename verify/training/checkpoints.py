"""Checkpoints that survive a kill: one file each, whole or absent, its checksum in its name.

A checkpoint is a safetensors file ``step-STEP-DIGEST.safetensors``. It is written beside, flushed to the disk and renamed, so
that a kill leaves the old ones as they were; DIGEST is the SHA-256 of its bytes, so that a file cut short or altered is known
for what it is and the one before it is taken. Nothing is unpickled.
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

from ..files import write_whole

KEEP = 2
"""How many checkpoints of a run are kept."""

_NAME = re.compile(r"step-(\d{10})-([0-9a-f]{32})\.safetensors")


class Checkpoint(NamedTuple):
    """What was saved: tensors by name, and anything else as JSON holds it."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write a checkpoint, then remove all but the newest :data:`KEEP`.

    Parameters
    ----------
    tensors : of any device and layout; copied to the host and made contiguous. Takes as much memory again while it is written.
    state : what JSON can hold.

    Raises
    ------
    OSError
        if it cannot be written. Earlier checkpoints are then as they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = save(plain, metadata={"step": str(step), "state": json.dumps(state)})
    path = folder / f"step-{step:010d}-{hashlib.sha256(data).hexdigest()[:32]}.safetensors"
    write_whole(path, data)
    killed = folder.glob(".step-*.part")  # of a process that was killed while it wrote
    for old in (*killed, *(path for _, _, path in list(_found(folder))[KEEP:])):
        with contextlib.suppress(OSError):
            old.unlink()
    return path


def latest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole, or nothing where there is none."""
    for step, digest, path in _found(folder):
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest()[:32] != digest:
                continue
            return Checkpoint(step, load(data), json.loads(_metadata(data)["state"]))
        except (OSError, SafetensorError, KeyError, ValueError):
            continue
    return None


def _metadata(data: bytes) -> dict[str, str]:
    """The header of a safetensors file: eight bytes of length, then JSON."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(header["__metadata__"])


def _found(folder: Path) -> Iterator[tuple[int, str, Path]]:
    """Checkpoints by name, the newest first."""
    names = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    yield from sorted(((int(name[1]), name[2], path) for name, path in names if name), reverse=True)
