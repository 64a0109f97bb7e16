"""The header of a GGUF file: its metadata and the shapes of its tensors. No weight is read, and nothing is mapped into memory.

The file is untrusted. Every count and length is compared with the bytes that are there before anything is read, long lists
(the tokens of a vocabulary) are skipped, and each fault is reported in one sentence. The format's own package ``gguf``
maps the whole file, trusts its counts, and keeps several objects for each token.
"""

from __future__ import annotations

import math
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .errors import InputError, shown
from .files import MOST_VALUES, open_regular, reading
from .values import frozen

LONGEST_HEADER = 100_000_000
"""Bytes of a header; that of a model with 262,144 tokens and their merges has about 15 million."""
LONGEST_LIST = 10_000
"""Values of a list that are kept, such as one for each block; of a longer one only the length is."""
LARGEST_DIMENSION = 10**12
MOST_PARTS = 10_000
"""Files of one model."""
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_SINGLE, _STRING, _LIST = 6, 8, 9
FORMATS = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136), 24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
"""Number formats by their code: the name, the weights of a block and its bytes."""


def _shortest(value: float) -> float:
    """The shortest decimal number that is `value` in single precision: what was meant by it.

    >>> _shortest(9.999999974752427e-07)
    1e-06
    """
    if not math.isfinite(value):
        return value
    texts = (f"{value:.{digits}g}" for digits in range(1, 10))
    return float(next(text for text in texts if struct.unpack("<f", struct.pack("<f", float(text)))[0] == value))


class HeaderTensor(NamedTuple):
    """The shape of one tensor, outputs first, and its number format."""

    shape: tuple[int, ...]
    dtype: str
    bytes: int | None
    """None for a format that is not known."""


@frozen
class GGUFHeader:
    """The metadata of a model and its tensors by name, of all files that it is divided among."""

    metadata: Mapping[str, Any]
    """Numbers, words and short lists of numbers."""
    lengths: Mapping[str, int]
    """Number of values of every list, the long ones included."""
    tensors: Mapping[str, HeaderTensor]
    label: str
    """The file as the sentence of an error names it."""


def is_gguf(path: Path) -> bool:
    """True for a regular file that begins as a GGUF file does."""
    try:
        with open_regular(path, "file", "") as file:
            return file.read(4) == b"GGUF"
    except (OSError, ValueError):
        return False


class OpenPart(NamedTuple):
    """One file of a model, open for reading."""

    file: BinaryIO
    size: int
    """Bytes of the whole file."""
    label: str
    """The file as the sentence of an error names it."""


def read_header(path: str | os.PathLike[str]) -> GGUFHeader:
    """The header of a GGUF file; of one among several (``-00001-of-00003.gguf``), those of all together.

    Raises
    ------
    InputError
        if there is no such file, it is of another format or version, is truncated or damaged, or a part is missing.
    """
    place = Path(path)
    return read_parts(place.name, lambda name: _open(place.with_name(name)))


def read_parts(name: str, opened: Callable[[str], AbstractContextManager[OpenPart]]) -> GGUFHeader:
    """:func:`read_header` of a file that `opened` opens by its name, as it does the other files of the same model."""
    first = _read(opened(name))
    count = first.metadata.get("split.count", 1)
    if count == 1:
        return first
    found = re.fullmatch(r"(?P<stem>.+)-(?P<part>\d{5})-of-(?P<count>\d{5})\.gguf", name)
    if type(count) is not int or not 1 < count <= MOST_PARTS or found is None or int(found["count"]) != count:
        raise InputError(f"{first.label} is one part of a model in {shown(count)} files, and its name does not say which")
    parts = [_read(opened(f"{found['stem']}-{i:05d}-of-{count:05d}.gguf")) for i in range(1, count + 1)]
    tensors: dict[str, HeaderTensor] = {}
    for part in parts:
        for tensor_name, tensor in part.tensors.items():
            if tensor_name in tensors:
                raise InputError(f"{part.label} has the tensor {shown(tensor_name)}, which another part has too")
            tensors[tensor_name] = tensor
    return GGUFHeader(parts[0].metadata, parts[0].lengths, tensors, parts[0].label)


def _read(opened: AbstractContextManager[OpenPart]) -> GGUFHeader:
    with opened as part:
        return _Reader(*part).header()


@contextmanager
def _open(path: Path) -> Iterator[OpenPart]:
    name = shown(str(path), limit=300)
    with reading("GGUF file", name), open_regular(path, "GGUF file", name) as file:
        yield OpenPart(file, os.fstat(file.fileno()).st_size, f"GGUF file {name}")


class _Reader:
    """The bytes of one header, read from the front to the back."""

    def __init__(self, file: BinaryIO, size: int, label: str) -> None:
        self._file, self._size, self._said = file, size, label
        self._place = 0
        self._values = 0

    def header(self) -> GGUFHeader:
        """Everything before the weights, checked against the size of the file."""
        if self._take(4) != b"GGUF":
            raise InputError(f"{self._said} does not begin as a GGUF file does")
        version = self._number("<I")
        if version not in (2, 3):
            if version & 0xFFFF == 0 and version:
                raise InputError(f"{self._said} is written for processors of the other byte order, which is not read")
            raise InputError(f"{self._said} is of version {version:,} of the format; 2 and 3 are read")
        tensors, keys = self._count(24), self._count(12)  # bytes that the smallest takes
        metadata: dict[str, Any] = {}
        lengths: dict[str, int] = {}
        for _ in range(keys):
            key = self._word()
            if key in metadata or key in lengths:
                raise InputError(f"{self._said} has the key {shown(key)} twice")
            self._entry(key, metadata, lengths)
        found, starts = self._tensors(tensors)
        self._check_places(found, starts, metadata.get("general.alignment", 32))
        return GGUFHeader(metadata, lengths, found, self._said)

    def _tensors(self, count: int) -> tuple[dict[str, HeaderTensor], list[tuple[int, str]]]:
        found: dict[str, HeaderTensor] = {}
        starts: list[tuple[int, str]] = []
        for _ in range(count):
            name = self._word()
            if name in found:
                raise InputError(f"{self._said} has the tensor {shown(name)} twice")
            dimensions = self._number("<I")
            if not 1 <= dimensions <= 4:
                raise InputError(f"{self._said} is damaged: tensor {shown(name)} has {dimensions:,} dimensions")
            shape = tuple(self._number("<Q") for _ in range(dimensions))[::-1]
            if not all(1 <= size <= LARGEST_DIMENSION for size in shape):
                raise InputError(f"{self._said} is damaged: tensor {shown(name)} has the shape {shown(list(shape))}")
            code, start = self._number("<I"), self._number("<Q")
            dtype, block, each = FORMATS.get(code, (f"format {code}", 0, 0))
            size = math.prod(shape)
            if block and shape[-1] % block:
                raise InputError(f"{self._said} is damaged: rows of {shape[-1]:,} in tensor {shown(name)} do not fit {dtype}")
            found[name] = HeaderTensor(shape, dtype, size // block * each if block else None)
            starts.append((start, name))
        return found, starts

    def _check_places(self, tensors: Mapping[str, HeaderTensor], starts: list[tuple[int, str]], alignment: Any) -> None:
        """Refuse tensors that overlap, or reach beyond the end of the file."""
        if type(alignment) is not int or not 1 <= alignment <= 2**20 or alignment & (alignment - 1):
            raise InputError(f"{self._said} is damaged: general.alignment={shown(alignment)} is not a power of two")
        first = -(-self._place // alignment) * alignment
        end, before = 0, ""
        for start, name in sorted(starts):
            if start < end or start % alignment:
                raise InputError(f"{self._said} is damaged: tensor {shown(name)} does not begin after {shown(before)}")
            end, before = start + (tensors[name].bytes or 0), name
        if starts and first + end > self._size:
            raise InputError(f"{self._said} is truncated: its header promises {first + end:,} bytes, and it has {self._size:,}")

    def _entry(self, key: str, metadata: dict[str, Any], lengths: dict[str, int]) -> None:
        kind = self._number("<I")
        if kind != _LIST:
            metadata[key] = self._value(kind, key)
            return
        kind, length = self._number("<I"), self._number("<Q")
        if kind == _LIST:
            raise InputError(f"{self._said} has lists within the list {shown(key)}, which are not read")
        least = 8 if kind == _STRING else struct.calcsize(self._format(kind, key))
        self._check_room(length, least)
        lengths[key] = length
        if kind == _STRING:
            for _ in range(length):
                self._skip(self._number("<Q"))
        elif length > LONGEST_LIST:
            self._skip(length * least)
        else:
            metadata[key] = [self._value(kind, key) for _ in range(length)]

    def _value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self._word()
        value = self._number(self._format(kind, key))
        return _shortest(value) if kind == _SINGLE else value

    def _format(self, kind: int, key: str) -> str:
        if kind not in _SCALARS:
            raise InputError(f"{self._said} is damaged: {shown(key)} is of the unknown kind {kind:,}")
        return _SCALARS[kind]

    def _count(self, least: int) -> int:
        """A number of entries that take at least so many bytes each."""
        count: int = self._number("<Q")
        self._check_room(count, least)
        return count

    def _check_room(self, count: int, least: int) -> None:
        self._values += count
        if self._values > MOST_VALUES:
            raise InputError(f"{self._said} has a header of more than {MOST_VALUES:,} values")
        if count * least > self._size - self._place:
            raise InputError(f"{self._said} is truncated: its header promises {count:,} entries beyond its end")

    def _number(self, format_: str) -> Any:
        return struct.unpack(format_, self._take(struct.calcsize(format_)))[0]

    def _word(self) -> str:
        data = self._take(self._number("<Q"))
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise InputError(f"the header of {self._said} holds a word that is not UTF-8 text") from None

    def _take(self, size: int) -> bytes:
        self._check_end(size)
        data = self._file.read(size)
        if len(data) < size:
            raise InputError(f"{self._said} has become shorter while it was read")
        self._place += size
        return data

    def _skip(self, size: int) -> None:
        self._check_end(size)
        self._file.seek(size, os.SEEK_CUR)
        self._place += size

    def _check_end(self, size: int) -> None:
        if self._place + size > self._size:
            raise InputError(f"{self._said} is truncated in its header: it has {self._size:,} bytes")
        if self._place + size > LONGEST_HEADER:
            raise InputError(f"{self._said} has a header of more than {LONGEST_HEADER:,} bytes")
