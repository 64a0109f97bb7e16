"""Match probability of a text: how often two positions hold the same token, measured instead of assumed by Zipf's law.

Two positions with the same token share a row of the embedding, so the inputs of a language model correlate. The probability
differs by a factor of ten between bytes, words and subwords, and is higher within one passage than over a corpus.

>>> import numpy as np
>>> text = Text(np.array([0, 1, 0, 2, 0, 1, 3, 3]), "ids", "example")
>>> text.match_probability(), round(text.within(4).value, 4)
(0.17857142857142858, 0.1667)
>>> text.match_matrix(3).astype(int).tolist()
[[1, 0, 1], [0, 1, 0], [1, 0, 1]]
"""

from __future__ import annotations

import codecs
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..checks import ceiling, check_whole
from ..errors import InputError, shown
from ..files import open_regular, reading

LONGEST_MATRIX = 8192
"""Tokens of a window whose pairs are held in an array, of 512 MiB."""

LARGEST_PREFIX = 2**24
"""Bytes read of a text. Ours: two million words determine the match probability to several digits."""
LARGEST_TOKENIZER = 10**8
"""Bytes allowed in a tokenizer file: three times the largest published one."""
KINDS = ("bytes", "words", "ids")
LARGEST_MATRICES = 2**28
"""Bytes of the matches of several windows."""
_FEW_TOKENS = 300
"""Vocabularies up to this size are taken to be bytes with a few special tokens: 256 and 44."""


class Measured(NamedTuple):
    """A mean over windows of a text, and its standard error; None for a single window."""

    value: float
    stderr: float | None
    windows: int


@dataclass(frozen=True)
class Text:
    """A text as token numbers."""

    ids: Any
    """One-dimensional array of whole numbers."""
    kind: str
    """The unit of a token: ``bytes``, ``words`` (runs without white space), ``ids`` (as given) or ``tokenizer FILE``."""
    source: str
    truncated: bool = False
    """True if only the beginning of the file was read."""

    def __post_init__(self) -> None:
        ids = np.asarray(self.ids)
        if ids.ndim != 1 or ids.dtype.kind not in "iu":
            raise InputError(f"text {self.source}: token numbers are a one-dimensional array of whole numbers")
        if len(ids) < 2:
            raise InputError(f"text {self.source} holds {len(ids)} tokens ({self.kind}); a match needs two")
        # Small numbers in order of their size, so that counting takes no more memory than there are distinct tokens.
        object.__setattr__(self, "ids", np.unique(ids, return_inverse=True)[1].reshape(-1))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def distinct(self) -> int:
        """Number of different tokens."""
        return int(self.ids.max()) + 1

    def counts(self) -> Any:
        """Number of occurrences of each token, the most frequent first."""
        return np.sort(np.bincount(self.ids))[::-1]

    def match_probability(self) -> float:
        r"""Probability that two different positions of the whole text hold the same token.

        The unbiased estimate :math:`\sum_v n_v (n_v - 1) / (n (n - 1))`; squared frequencies would count each position with
        itself.
        """
        counts = self.counts().astype(float)
        return float(counts @ (counts - 1) / (len(self) * (len(self) - 1.0)))

    def within(self, length: int) -> Measured:
        """The match probability within windows of `length` tokens, or of the whole text if it is shorter.

        Raises
        ------
        InputError
            if the length is not a whole number of two or more.
        """
        check_whole("text", smallest=2, length=length)
        length = min(length, len(self))
        windows = len(self) // length
        rows = np.sort(self.ids[: windows * length].reshape(windows, length), axis=1)
        # Sorted, equal tokens are runs; a run of k holds k (k - 1) pairs.
        starts = np.ones(rows.shape, dtype=bool)
        starts[:, 1:] = rows[:, 1:] != rows[:, :-1]
        first = np.flatnonzero(starts)
        runs = np.diff(np.append(first, rows.size)).astype(float)
        pairs = np.bincount(first // length, weights=runs * (runs - 1), minlength=windows)
        each = pairs / (length * (length - 1.0))
        error = float(each.std(ddof=1) / windows**0.5) if windows > 1 else None
        return Measured(float(each.mean()), error, windows)

    def match_matrix(self, length: int, windows: int = 1) -> Any:
        """The matches between positions of a window: the `token_match` of ``propagate``, position by position.

        Parameters
        ----------
        length : L, tokens of a window.
        windows : number of windows to average over, evenly spaced through the text; by default only the first.

        Returns
        -------
        An array of shape (L, L): 1 on the diagonal, elsewhere the share of windows in which the two positions match.

        Raises
        ------
        InputError
            if the text has fewer tokens than that, or an argument is not a whole number.
        """
        passages = self._passages(length, windows)
        total = np.zeros((length, length))
        for passage in passages:
            total += passage[:, None] == passage
        return total / len(passages)

    def match_matrices(self, length: int, windows: int) -> Any:
        """The matches between positions of each window: a `token_match` of ``propagate``, which averages the moments.

        Two positions of a text are equal or not, while the mean of :meth:`match_matrix` gives them a probability. The arguments
        and errors are the same.

        Returns
        -------
        An array of truth values of shape (windows, L, L).
        """
        passages = self._passages(length, windows)
        if len(passages) * length**2 > LARGEST_MATRICES:
            raise InputError(f"text: {len(passages)} windows of {length:,} tokens are too many to compute position by position")
        return np.stack([passage[:, None] == passage for passage in passages])

    def _passages(self, length: int, windows: int) -> list[Any]:
        """Windows of `length` tokens, evenly spaced through the text."""
        check_whole("text", smallest=2, length=length)
        check_whole("text", largest=ceiling("windows"), windows=windows)
        if length > LONGEST_MATRIX:
            raise InputError(
                f"text: windows of {length:,} tokens cannot be computed position by position; at most {LONGEST_MATRIX:,}"
            )
        if length > len(self):
            raise InputError(f"text {self.source} holds {len(self)} tokens ({self.kind}), fewer than the window of {length}")
        last = len(self) - length
        places = sorted({round(last * i / max(1, windows - 1)) for i in range(windows)}) if windows > 1 else [0]
        return [self.ids[place : place + length] for place in places]

    def match_by_distance(self, farthest: int) -> Any:
        """Probability that tokens 1, 2, .. `farthest` positions apart are equal, an array of shape (`farthest`,).

        Raises
        ------
        InputError
            if the text has no more than `farthest` tokens.
        """
        check_whole("text", farthest=farthest)
        if farthest >= len(self):
            raise InputError(f"text {self.source} holds {len(self)} tokens ({self.kind}); farthest={farthest} is too far")
        return np.array([np.mean(self.ids[apart:] == self.ids[:-apart]) for apart in range(1, farthest + 1)])

    def summary(self, context: int = 1024) -> dict[str, Any]:
        """Counts and match probabilities as plain data, as ``depthwidth text --json`` prints them."""
        from ..formulas.moments import zipf_match_probability

        share = self.counts() / len(self)
        found = self.within(context)
        return {
            "source": self.source,
            "tokens_are": self.kind,
            "tokens": len(self),
            "truncated": self.truncated,
            "distinct": self.distinct,
            "entropy_nats": float(-(share @ np.log(share))),
            "match_probability": self.match_probability(),
            "window": min(context, len(self)),
            "windows": found.windows,
            "match_within_windows": found.value,
            "match_within_windows_stderr": found.stderr,
            "zipf_match_probability": float(zipf_match_probability(self.distinct)),
        }


def zipf_matches(vocab: int, length: int, texts: int = 8, seed: int = 0) -> Any:
    """The matches between positions of texts that are drawn word by word from Zipf's law: a `token_match` of ``propagate``.

    Parameters
    ----------
    vocab, length : V, number of different tokens, of frequency 1/rank, and L, tokens of each text.
    texts : S, how many.
    seed : of the draws.

    Returns
    -------
    An array of shape (S, L, L), 1 where two positions hold the same token and 0 elsewhere.

    Examples
    --------
    >>> zipf_matches(2, 3, texts=2).astype(int).tolist()
    [[[1, 1, 1], [1, 1, 1], [1, 1, 1]], [[1, 0, 0], [0, 1, 1], [0, 1, 1]]]
    """
    check_whole("zipf_matches", vocab=vocab, length=length, texts=texts)
    share = np.cumsum(1 / np.arange(1, vocab + 1))
    ids = np.searchsorted(share, np.random.default_rng(seed).random((texts, length)) * share[-1])
    return (ids[:, :, None] == ids[:, None, :]).astype(float)


def read_text(path: str | os.PathLike[str], tokenizer: str | None = None, vocab: int | None = None) -> Text:
    """The tokens of a file.

    Parameters
    ----------
    path : a text in UTF-8; at most its first 16 MiB are read.
    tokenizer : ``bytes``, ``words`` (runs without white space), ``ids`` (the file holds token numbers: decimal, separated by
        white space, or a NumPy .npy file), or a ``tokenizer.json`` of Hugging Face tokenizers, if that library is installed. By
        default words, or bytes for a vocabulary of at most 300.
    vocab : vocabulary size of the model, for that default.

    Raises
    ------
    InputError
        if the file is missing, empty, not text, or holds fewer than two tokens; if `tokenizer` is none of these.
    """
    if tokenizer is None:
        tokenizer = "bytes" if vocab is not None and vocab <= _FEW_TOKENS else "words"
    if not isinstance(tokenizer, (str, os.PathLike)):
        raise InputError(f"tokenizer={shown(tokenizer)} is none of {', '.join(KINDS)} and no tokenizer file")
    name = shown(os.fspath(path), limit=300) if isinstance(path, (str, os.PathLike)) else shown(path)
    if not isinstance(path, (str, os.PathLike)):
        raise InputError(f"text {name} is not the path of a file")
    if tokenizer not in KINDS and not Path(tokenizer).exists():
        raise InputError(
            f"tokenizer={shown(tokenizer)} is none of {', '.join(KINDS)}, and there is no tokenizer file of that name"
        )
    if tokenizer == "ids" and Path(path).suffix == ".npy":
        return _npy(Path(path), name)
    data, truncated = _prefix(Path(path), name, "text", LARGEST_PREFIX)
    if b"\0" in data:
        raise InputError(f"text {name} holds null bytes, so it is not text")
    if tokenizer == "bytes":
        return Text(np.frombuffer(data, dtype=np.uint8), "bytes", name, truncated)
    try:
        # Where reading stopped within a character, its first bytes are left over, and no mistake.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(data, final=not truncated)
    except UnicodeDecodeError:
        raise InputError(f"text {name} is not UTF-8 text") from None
    if tokenizer not in KINDS:
        return Text(_tokenize(text, Path(tokenizer)), f"tokenizer {Path(tokenizer).name}", name, truncated)
    parts = text.split()
    if truncated and not text[-1:].isspace():
        parts = parts[:-1]  # cut in two
    return Text(_numbers(parts, name) if tokenizer == "ids" else _words(parts), tokenizer, name, truncated)


def _prefix(path: Path, name: str, what: str, most: int) -> tuple[bytes, bool]:
    """The first bytes of a regular file, and whether there are more."""
    with reading(what, name), open_regular(path, what, name) as file:
        data = file.read(most + 1)
    if not data.strip():
        raise InputError(f"{what} {name} is empty")
    return data[:most], len(data) > most


def _words(parts: list[str]) -> Any:
    known: dict[str, int] = {}
    return np.fromiter((known.setdefault(word, len(known)) for word in parts), dtype=np.int64, count=len(parts))


def _numbers(parts: list[str], name: str) -> Any:
    for part in parts:
        if not (part.isascii() and part.isdigit() and len(part) <= 18):
            raise InputError(f"text {name} holds {shown(part)}, which is not a token number")
    return np.array([int(part) for part in parts], dtype=np.int64)


def _npy(path: Path, name: str) -> Text:
    _prefix(path, name, "text", 64)  # refuses a file that cannot be read
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a header that is nearly right
            ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # a broken header is read as Python, tokenised and evaluated as a literal: it may fail in any way
        raise InputError(f"text {name} is not an array of NumPy's format") from None
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise InputError(f"text {name} holds an array of {ids.ndim} dimensions of {ids.dtype}, not token numbers in a row")
    most = LARGEST_PREFIX // 4
    return Text(np.array(ids[:most]), "ids", name, len(ids) > most)


def _tokenize(text: str, path: Path) -> Any:
    name = shown(os.fspath(path), limit=300)
    data, more = _prefix(path, name, "tokenizer", LARGEST_TOKENIZER)
    if more:
        raise InputError(f"tokenizer {name} is larger than {LARGEST_TOKENIZER:,} bytes")
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise InputError("a tokenizer file needs the package tokenizers; without it, use bytes, words or ids") from None
    try:
        tokenizer = Tokenizer.from_buffer(data)
    except Exception:  # the library raises nothing narrower, whatever is wrong with a file
        raise InputError(f"tokenizer {name} is not a file of the tokenizers library") from None
    # In pieces at line ends: a tokenizer holds several objects a token.
    try:
        pieces = [tokenizer.encode(line, add_special_tokens=False).ids for line in _lines(text)]
    except Exception as error:  # a vocabulary without an unknown token lacks a word
        raise InputError(f"tokenizer {name} cannot read this text: {shown(str(error))}") from None
    return np.array([one for piece in pieces for one in piece], dtype=np.int64)


def _lines(text: str, size: int = 65536) -> Any:
    """Pieces of about `size` characters that end at line ends."""
    start = 0
    while start < len(text):
        end = text.find("\n", min(len(text), start + size))
        end = len(text) if end < 0 else end + 1
        yield text[start:end]
        start = end
