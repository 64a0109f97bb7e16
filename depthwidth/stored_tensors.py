"""Tensors of a checkpoint in the safetensors format, read one at a time: memory is bounded by the largest one read.

A file is eight bytes of the header's length, the header in JSON, and the tensors' bytes one after the other. Only numbers are
read; no other format is, as a pickle can run code.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .errors import InputError, shown
from .files import open_regular, parse_json, read_regular, reading
from .values import frozen

Array = Any
LONGEST_HEADER = 100_000_000
"""Bytes of a header, the limit of the format's own library."""
LONGEST_INDEX = 100_000_000
"""Bytes of the file that says which of several files holds each tensor."""
PIECE = 2**26
"""Bytes of a piece, in single precision, that :meth:`StoredTensors.pieces` returns: 64 MiB."""
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Number formats that are read, with the bytes of a number."""
OTHERS = {
    "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
    "F8_E8M0": 1, "C64": 8,
}  # fmt: skip
"""Number formats that a file may hold and that are no weights by themselves."""
UNREAD = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack", ".npz", ".gguf")
"""Endings of checkpoints in other formats."""
INDEX = ".safetensors.index.json"
"""End of the name of the file that says which of several files holds each tensor."""


class StoredTensor(NamedTuple):
    """The place of one tensor."""

    dtype: str
    """A name of :data:`FLOATS` or :data:`OTHERS`."""
    shape: tuple[int, ...]
    file: Path
    start: int
    """Its first byte in the file."""
    stop: int
    """The byte after its last one."""


@frozen
class StoredTensors:
    """The tensors of a checkpoint by name. Each reading opens the file again; nothing is kept."""

    entries: Mapping[str, StoredTensor]
    label: str
    """The checkpoint as the sentence of an error names it."""

    def read(self, name: str) -> Array:
        """A tensor as an array: (shape), in single precision, or in double if it is stored so.

        Raises
        ------
        InputError
            if there is none of that name, it is empty or stored in a format that is no weight by itself, the file has changed,
            or it holds numbers that are not finite.
        """
        entry = self._entry(name)
        [whole] = self._rows(name, entry, entry.shape[0] if entry.shape else 1)
        return whole.reshape(entry.shape)

    def pieces(self, name: str, most: int = PIECE) -> Iterator[Array]:
        """A tensor in pieces of whole rows, each of at most `most` bytes in single precision unless a row is larger.

        Raises
        ------
        InputError
            as :meth:`read` does.
        """
        entry = self._entry(name)
        row = 4 * math.prod(entry.shape[1:])
        return self._rows(name, entry, max(1, most // max(row, 1)))

    def _entry(self, name: str) -> StoredTensor:
        if name not in self.entries:
            raise InputError(f"{self.label} has no tensor {shown(name)}")
        entry = self.entries[name]
        if entry.dtype not in FLOATS:
            reason = "quantised weights" if entry.dtype != "C64" else "complex numbers"
            raise InputError(f"tensor {shown(name)} of {self.label} is stored as {entry.dtype}; {reason} are not read")
        if 0 in entry.shape:
            raise InputError(f"tensor {shown(name)} of {self.label} is empty")
        return entry

    def _rows(self, name: str, entry: StoredTensor, rows: int) -> Iterator[Array]:
        import numpy as np  # on use: the calculator starts without it

        first, rest = (entry.shape[0], entry.shape[1:]) if entry.shape else (1, ())
        size = FLOATS[entry.dtype] * math.prod(rest)
        shown_file = shown(str(entry.file), limit=300)
        with reading("checkpoint", shown_file), open_regular(entry.file, "checkpoint", shown_file) as file:
            file.seek(entry.start)
            for row in range(0, first, rows):
                count = min(rows, first - row)
                data = file.read(count * size)
                if len(data) < count * size:
                    raise InputError(f"{self.label} has become shorter while it was read")
                found = _numbers(data, entry.dtype).reshape(count, *rest)
                if not np.isfinite(found).all():
                    raise InputError(f"tensor {shown(name)} of {self.label} holds numbers that are not finite")
                yield found


def _numbers(data: bytes, dtype: str) -> Array:
    """The numbers in bytes, in single precision unless they are doubles."""
    import numpy as np

    if dtype == "BF16":  # the upper half of a single-precision number
        wide = np.frombuffer(data, "<u2").astype("<u4")
        wide <<= 16
        return wide.view("<f4")
    found = np.frombuffer(data, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype])
    return found if dtype in ("F64", "F32") else found.astype(np.float32)


def open_tensors(path: str | os.PathLike[str]) -> StoredTensors:
    """The tensors of a checkpoint: a safetensors file, its index, or a folder with one file or an index.

    Raises
    ------
    InputError
        if there is no such file, it is of another format, is truncated or damaged, or an index names files that are not there.

    >>> open_tensors("model.bin")
    Traceback (most recent call last):
    depthwidth.errors.InputError: there is no checkpoint 'model.bin'
    """
    place, name = Path(path), shown(os.fspath(path), limit=300)
    with reading("checkpoint", name):
        folder = place.is_dir()
        if not folder and not place.exists():
            raise InputError(f"there is no checkpoint {name}")
        if folder:
            place = _in_folder(place, name)
    label = f"checkpoint {shown(str(place), limit=300)}"
    if place.name.endswith(INDEX):
        return StoredTensors(_read_index(place, label), label)
    if place.suffix in UNREAD:
        raise _foreign(label)
    return StoredTensors(_read_header(place, label), label)


def _foreign(label: str) -> InputError:
    return InputError(f"{label} is not a safetensors file; no other format is read, as a pickle can run code")


def _in_folder(folder: Path, name: str) -> Path:
    """The file of a folder to read: the index, ``model.safetensors``, or the only safetensors file."""
    names = sorted(one.name for one in folder.iterdir())
    files = [one for one in names if one.endswith(".safetensors")]
    indices = [one for one in names if one.endswith(INDEX)]
    for one in (f"model{INDEX}", "model.safetensors"):
        if one in names:
            return folder / one
    if len(indices) == 1:
        return folder / indices[0]
    if len(files) == 1:
        return folder / files[0]
    if files:
        raise InputError(f"folder {name} holds {len(files)} safetensors files and no index: name one of them")
    others = [one for one in names if Path(one).suffix in UNREAD]
    if others:
        raise _foreign(f"checkpoint {shown(others[0], limit=300)}")
    raise InputError(f"folder {name} has no safetensors file")


def _read_index(index: Path, label: str) -> dict[str, StoredTensor]:
    """The tensors of several files, located by their index."""
    data = parse_json(read_regular(index, "checkpoint", LONGEST_INDEX), label)
    places = data.get("weight_map") if isinstance(data, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(one, str) for one in places.values()):
        raise InputError(f"{label} has no weight_map from the names of tensors to files")
    found: dict[str, dict[str, StoredTensor]] = {}
    for file in sorted(set(places.values())):
        # A name with a folder in it could lead out of the checkpoint.
        if Path(file).name != file or "\\" in file or not file.endswith(".safetensors"):
            raise InputError(f"{label} names {shown(file)}, which is not a safetensors file in the same folder")
        there = index.parent / file
        found[file] = _read_header(there, f"checkpoint {shown(str(there), limit=300)}")
    missing = [name for name, file in places.items() if name not in found[file]]
    if missing:
        raise InputError(f"{label}: tensor {shown(missing[0])} is not in {shown(places[missing[0]])}")
    return {name: found[file][name] for name, file in places.items()}


def _read_header(path: Path, label: str) -> dict[str, StoredTensor]:
    """The tensors of one file, by its header."""
    name = shown(str(path), limit=300)
    with reading("checkpoint", name), open_regular(path, "checkpoint", name) as file:
        size = os.fstat(file.fileno()).st_size
        header, first = _header(file, size, label)
    found = {one: _entry(one, value, path, first, label) for one, value in header.items() if one != "__metadata__"}
    end = first
    for one, entry in sorted(found.items(), key=lambda pair: (pair[1].start, pair[1].stop)):
        if entry.start != end:
            raise InputError(f"{label} is damaged: tensor {shown(one)} does not begin where the one before ends")
        end = entry.stop
    if end > size:
        raise InputError(f"{label} is truncated: its header promises {end:,} bytes, and it has {size:,}")
    return found


def _header(file: BinaryIO, size: int, label: str) -> tuple[dict[str, Any], int]:
    """The header of a file and the place of the first tensor."""
    start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    if len(start) < 9 or start[8:] != b"{" or length > LONGEST_HEADER:
        raise _foreign(label)
    if 8 + length > size:
        raise InputError(f"{label} is truncated: its header alone has {length:,} bytes, and it has {size:,}")
    header = parse_json(start[8:] + file.read(length - 1), f"the header of {label}")
    if not isinstance(header, dict):
        raise _foreign(label)
    return header, 8 + length


def _entry(name: str, value: Any, path: Path, first: int, label: str) -> StoredTensor:
    """One entry of a header, checked."""
    wrong = InputError(f"the header of {label} is damaged at tensor {shown(name)}")
    if not isinstance(value, dict) or not {"dtype", "shape", "data_offsets"} <= value.keys():
        raise wrong
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not _is_whole_list(shape) or not _is_whole_list(offsets) or len(offsets) != 2:
        raise wrong
    each = FLOATS.get(dtype, OTHERS.get(dtype)) if isinstance(dtype, str) else None
    if each is None:
        raise InputError(f"tensor {shown(name)} of {label} is stored as {shown(dtype)}, an unknown number format")
    start, stop = offsets
    if stop - start != each * math.prod(shape):
        raise InputError(
            f"{label} is damaged: tensor {shown(name)} has {stop - start:,} bytes for the shape {shape} in {dtype}"
        )
    return StoredTensor(dtype, tuple(shape), path, first + start, first + stop)


def _is_whole_list(value: Any) -> bool:
    """True for a list of whole numbers, none below 0."""
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)
