"""Text as tokens: bytes of the installed packages by default, a user's own files, a Hugging Face dataset, or a made-up source.

>>> corpus = zipf_markov(2000, vocab=16, seed=1)
>>> inputs, targets = corpus.batch(seed=0, step=7, batch=4, context=8)
>>> tuple(inputs.shape), bool((inputs[:, 1:] == targets[:, :-1]).all())
((4, 8), True)

What a run reads is a pure function of (seed, step): nothing has to be saved or replayed to go on with it, on any device.
"""

from __future__ import annotations

import bisect
import fnmatch
import hashlib
import importlib
import itertools
import json
import math
import os
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from depthwidth.errors import InputError, shown

DEFAULT_BYTES = 1 << 25
"""How much of the installed packages' sources the default corpus takes: 32 MiB, some 20 s of reading on a cold disk."""


@dataclass(frozen=True)
class Corpus:
    """Tokens to train on and tokens to validate with, each one contiguous block, and where they come from.

    Parameters
    ----------
    train, validation : integer tensors of shape (tokens,), in memory, memory-mapped or on a device.
    vocab : number of different tokens.
    source : where they come from, in plain words and numbers; `identity` hashes it with the tokens themselves.
    entropy : nats per token that no model can beat, where that is known.
    """

    train: Tensor
    validation: Tensor
    vocab: int
    source: Mapping[str, Any] = field(default_factory=dict)
    entropy: float | None = None

    def __post_init__(self) -> None:
        for name in ("train", "validation"):
            tokens = getattr(self, name)
            if tokens.dim() != 1 or tokens.is_floating_point():
                raise InputError(f"corpus: {name} is not one row of whole numbers")
            if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab:
                raise InputError(f"corpus: {name} holds tokens outside 0 to {self.vocab - 1}")

    @property
    def device(self) -> torch.device:
        """Where the tokens are."""
        return self.train.device

    def to(self, device: torch.device | str) -> Corpus:
        """The same with its tokens resident on `device`."""
        return replace(self, train=self.train.to(device), validation=self.validation.to(device))

    def identity(self) -> dict[str, Any]:
        """What a run records of its data: source, sizes, vocabulary and the SHA-256 of the tokens as 64-bit numbers."""
        digest: str | None = self.__dict__.get("_digest")
        if digest is None:
            sha = hashlib.sha256()
            for tokens in (self.train, self.validation):
                sha.update(len(tokens).to_bytes(8, "little"))
                for part in tokens.split(1 << 20):
                    sha.update(part.cpu().numpy().astype("<i8").tobytes())
            digest = sha.hexdigest()
            object.__setattr__(self, "_digest", digest)
        sizes = {"vocab": self.vocab, "train_tokens": len(self.train), "validation_tokens": len(self.validation)}
        return {**self.source, **sizes, "sha256": digest}

    def batch(
        self, seed: int | Tensor, step: int, batch: int, context: int, rows: slice = slice(None)
    ) -> tuple[Tensor, Tensor]:
        """Inputs and the tokens that follow them, each of shape (batch, context), or (members, batch, context).

        Parameters
        ----------
        seed : of the data; or a tensor of seeds, one a member of an ensemble.
        step : counted from 0; any step costs the same.
        batch, context : sequences, and tokens in each. Windows start anywhere, with equal chances.
        rows : which of the sequences are wanted: a process or a micro-batch takes its share of the same batch.
        """
        starts = window_starts(seed, step, batch, self._windows("train", context), self.device)[..., rows]
        return _windows_at(self.train, starts, context)

    def validation_batches(self, batches: int, batch: int, context: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The same `batches` at every call: windows evenly spaced over the validation block, without overlap if it suffices."""
        windows = self._windows("validation", context)
        wanted = batches * batch
        starts = torch.arange(wanted, device=self.device, dtype=torch.int64) * max(windows - 1, 0) // max(wanted - 1, 1)
        for part in starts.split(batch):
            yield _windows_at(self.validation, part, context)

    def _windows(self, split: str, context: int) -> int:
        windows = len(getattr(self, split)) - context
        if context < 1 or windows < 1:
            have = len(getattr(self, split))
            raise InputError(f"corpus: a context of {context} wants {context + 1} {split} tokens or more, and has {have:,}")
        return windows

    def largest(self) -> int:
        """The largest number that a token has; -1 where there is none."""
        found: int | None = self.__dict__.get("_largest")
        if found is None:
            found = max((int(tokens.max()) for tokens in (self.train, self.validation) if len(tokens)), default=-1)
            object.__setattr__(self, "_largest", found)
        return found

    def counts(self) -> NDArray[np.int64]:
        """How often each token occurs in the training block: shape (vocab,)."""
        found = np.zeros(self.vocab, dtype=np.int64)
        for part in self.train.split(1 << 24):
            found += torch.bincount(part.long(), minlength=self.vocab).cpu().numpy()
        return found

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the tokens once, for :func:`load` to map into memory in any number of processes."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        kind = str(self.train.dtype).removeprefix("torch.")
        for name in ("train", "validation"):
            getattr(self, name).cpu().numpy().tofile(place / f"{name}.bin")
        about = {"dtype": kind, "source": dict(self.source), "entropy": self.entropy, "identity": self.identity()}
        (place / "corpus.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
        return place


def load(folder: str | os.PathLike[str]) -> Corpus:
    """A corpus that :meth:`Corpus.save` wrote, its tokens memory-mapped.

    Raises
    ------
    InputError
        if a file is missing or its size is not what was written.
    """
    place = Path(folder)
    try:
        about = json.loads((place / "corpus.json").read_text(encoding="utf-8"))
        identity, kind = about["identity"], about["dtype"]
        train, validation = (
            _mapped(place / f"{name}.bin", kind, int(identity[f"{name}_tokens"])) for name in ("train", "validation")
        )
        found = Corpus(train, validation, int(identity["vocab"]), about["source"], about["entropy"])
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"{shown(str(place))} is not a corpus: {error}") from None
    if found.identity() != identity:
        raise InputError(f"the tokens in {shown(str(place))} are not those that were written there")
    return found


def _mapped(path: Path, kind: str, tokens: int) -> Tensor:
    dtypes = {"uint8": torch.uint8, "int16": torch.int16, "int32": torch.int32, "int64": torch.int64}
    if kind not in dtypes:
        raise InputError(f"{path}: no tokens are of type {shown(kind)}")
    dtype = dtypes[kind]
    if path.stat().st_size != tokens * dtype.itemsize:
        raise InputError(f"{path} has {path.stat().st_size:,} bytes, not {tokens * dtype.itemsize:,}")
    if not tokens:
        return torch.empty(0, dtype=dtype)
    return torch.from_file(str(path), shared=False, size=tokens, dtype=dtype)


# Which windows a step reads.

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)


def _mix(x: Tensor) -> Tensor:
    """Each 64-bit number to one that looks unrelated (the finaliser of SplitMix64: Steele, Lea and Flood 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9 - (1 << 64)), (27, 0x94D049BB133111EB - (1 << 64))):
        x = (x ^ (x >> shift & (1 << (64 - shift)) - 1)) * factor
    return x ^ (x >> 31 & (1 << 33) - 1)


def mixed(*numbers: int) -> int:
    """One number from 0 to 2**63 - 1 that depends on all of `numbers` and their order: a seed out of seeds."""
    x, whole = 0, (1 << 64) - 1
    for number in numbers:  # plain integers: many times quicker than tensors of one element
        x = (x * 3 + number + 0x9E3779B97F4A7C15) & whole
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = ((x ^ x >> shift) * factor) & whole
        x ^= x >> 31
    return x >> 1


def window_starts(seed: int | Tensor, step: int, batch: int, windows: int, device: torch.device | str = "cpu") -> Tensor:
    """First tokens of the windows that a step reads: shape (batch,), or (members, batch) for a tensor of seeds.

    A hash of (seed, step, row), so that any step is found at once and every device finds the same. Uniform over 0 to
    ``windows - 1`` up to a bias of ``windows / 2**63``.
    """
    seeds = torch.as_tensor(seed, dtype=torch.int64, device=device)
    # Three rounds of mixing, one for each coordinate, so that neighbouring seeds and steps share nothing.
    key = _mix(_mix(seeds * 3 + _GOLDEN) * 3 + step + _GOLDEN)
    rows = torch.arange(batch, dtype=torch.int64, device=device)
    return (_mix(key[..., None] * 3 + rows + _GOLDEN) & (1 << 63) - 1) % windows


def _windows_at(tokens: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    window = tokens[starts[..., None] + torch.arange(context + 1, device=tokens.device)].long()
    return window[..., :-1].contiguous(), window[..., 1:].contiguous()  # models may want to view them flat


# Where tokens come from.


def split(tokens: Tensor, vocab: int, source: Mapping[str, Any], validation: float, entropy: float | None = None) -> Corpus:
    """The last part of the tokens, a fraction `validation` of them, to validate with; the rest to train on.

    One contiguous block each, so that no window of one overlaps a window of the other.
    """
    if not 0 <= validation < 1:
        raise InputError(f"corpus: validation={shown(validation)} is not a fraction from 0 below 1")
    kept = len(tokens) - round(len(tokens) * validation)
    return Corpus(tokens[:kept], tokens[kept:], vocab, {**source, "validation": validation}, entropy)


def python_sources(limit: int = DEFAULT_BYTES, *, validation: float = 0.05, root: str | Path | None = None) -> Corpus:
    """Bytes of the Python sources of the installed packages: a corpus that every machine has.

    Parameters
    ----------
    limit : bytes at most.
    validation : the fraction at the end that is kept to validate with.
    root : another folder than that of the installed packages.

    Notes
    -----
    Files come in the order of the SHA-256 of their paths, so that it is the same on every disk and no package fills the
    whole. Machines with other packages have other text: :meth:`Corpus.identity` tells them apart.
    """
    place = Path(root) if root is not None else Path(sysconfig.get_paths()["purelib"])
    found = text(place, pattern="*.py", limit=limit, validation=validation)
    return replace(found, source={**found.source, "kind": "python sources", "path": None})


def text(
    path: str | os.PathLike[str],
    *,
    pattern: str = "*",
    limit: int | None = None,
    validation: float = 0.05,
    tokenizer: Any = None,
) -> Corpus:
    """A file, or all files of a folder whose names match `pattern`, as bytes (a vocabulary of 256) or as a tokenizer cuts them.

    Parameters
    ----------
    path : a file, which is memory-mapped if no tokenizer is asked for; or a folder, read file after file in the order of the
        SHA-256 of their relative paths, a newline between two.
    limit : bytes at most.
    tokenizer : see :func:`tokenized`.

    Raises
    ------
    InputError
        if there is nothing to read, as in an empty file.
    """
    place = Path(path)
    source = {"kind": "text", "path": place.name, "pattern": pattern, "limit": limit, "tokenizer": _called(tokenizer)}
    try:
        if place.is_file():
            size = place.stat().st_size if limit is None else min(place.stat().st_size, limit)
            if tokenizer is None and size:
                tokens = torch.from_file(str(place), shared=False, size=size, dtype=torch.uint8)
                return split(tokens, 256, source, validation)
            files = [place]
        elif place.is_dir():
            files = _files(place, pattern)
        else:
            raise InputError(f"there is no file or folder {shown(str(path))}")
        data, some = bytearray(), False
        for file in files:
            read = file.read_bytes()
            some = some or bool(read)
            data += read + b"\n"
            if limit is not None and len(data) >= limit:
                del data[limit:]
                break
    except OSError as error:
        raise InputError(f"{shown(str(path))} cannot be read: {error.strerror or error}") from None
    if not data or not some:
        raise InputError(f"{shown(str(path))} holds no text" + ("" if place.is_file() else f" that matches {pattern!r}"))
    if tokenizer is None:
        return split(torch.frombuffer(data, dtype=torch.uint8), 256, source, validation)
    tokens, vocab = tokenized([data.decode("utf-8", errors="replace")], tokenizer)
    return split(tokens, vocab, source, validation)


def _files(place: Path, pattern: str) -> list[Path]:
    def key(file: Path) -> bytes:
        return hashlib.sha256(file.relative_to(place).as_posix().encode()).digest()

    # os.walk does not follow links to folders, which may lead in circles.
    found = (Path(folder, name) for folder, _, names in os.walk(place) for name in names if fnmatch.fnmatch(name, pattern))
    return sorted((file for file in found if file.is_file()), key=key)


def _called(tokenizer: Any) -> str | None:
    return tokenizer if tokenizer is None or isinstance(tokenizer, str) else type(tokenizer).__name__


def tokenized(texts: Iterable[str], tokenizer: Any) -> tuple[Tensor, int]:
    """Texts as tokens by the ``tokenizers`` library, and how many tokens it knows.

    Parameters
    ----------
    texts : one after another; the tokenizer's own special tokens are added as it does by itself.
    tokenizer : a ``tokenizers.Tokenizer``, the path of its ``tokenizer.json``, or a name on the Hugging Face hub.
    """
    if isinstance(tokenizer, (str, os.PathLike)):
        library = _library("tokenizers", "a tokenizer by name")
        try:
            named = library.Tokenizer.from_file if Path(tokenizer).is_file() else library.Tokenizer.from_pretrained
            tokenizer = named(str(tokenizer))
        except Exception as error:  # the library raises bare Exceptions
            raise InputError(f"no tokenizer {shown(str(tokenizer))}: {error}") from None
    ids = [np.asarray(one.ids, dtype=np.int64) for one in tokenizer.encode_batch(list(texts))]
    vocab = int(tokenizer.get_vocab_size())
    return torch.from_numpy(np.concatenate(ids)).to(_dtype(vocab)), vocab


def _dtype(vocab: int) -> torch.dtype:
    return torch.uint8 if vocab <= 1 << 8 else torch.int16 if vocab <= 1 << 15 else torch.int32


def _library(name: str, what: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f"{what} needs the library {name}: pip install {name}") from None


def dataset(
    name: str,
    *,
    config: str | None = None,
    split_name: str = "train",
    column: str = "text",
    tokenizer: Any = None,
    limit: int | None = None,
    validation: float = 0.05,
    **options: Any,
) -> Corpus:
    """A dataset by the ``datasets`` library, as bytes or as a tokenizer cuts it.

    Parameters
    ----------
    name, config, split_name, options : as ``datasets.load_dataset`` takes them. Code that a dataset brings is never run.
    column : that holds the text.
    limit : rows at most.
    """
    library = _library("datasets", "a dataset by name")
    if "trust_remote_code" in options:
        raise InputError("dataset: code that a dataset brings is never run")
    rows = library.load_dataset(name, config, split=split_name, **options)
    texts = [str(row[column]) for row in itertools.islice(rows, limit)]
    if not texts:
        raise InputError(f"dataset {shown(name)} has no rows")
    source = {"kind": "dataset", "name": name, "config": config, "split": split_name, "column": column, "limit": limit}
    source["tokenizer"] = _called(tokenizer)
    if tokenizer is None:
        data = bytearray("\n".join(texts).encode())
        return split(torch.frombuffer(data, dtype=torch.uint8), 256, source, validation)
    tokens, vocab = tokenized(texts, tokenizer)
    return split(tokens, vocab, source, validation)


# A source whose entropy is known.


def _check_count(who: str, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise InputError(f"{who}: {name}={shown(value)} is not a whole number from 0")


@dataclass(frozen=True)
class ZipfMarkov:
    """A stationary chain over `vocab` tokens whose single tokens follow Zipf's law exactly.

    Parameters
    ----------
    vocab : number of tokens; token r has probability proportional to ``1 / (r + 1)**exponent``.
    exponent : of Zipf's law, from 0 (uniform).
    strength : how much a token says of the next one: the standard deviation of the logarithms of the pairs' weights. 0
        leaves tokens independent.
    seed : of the pairs' weights.

    Notes
    -----
    The joint probability of a pair is ``u_i exp(strength g_ij) v_j`` with Gaussian ``g``, where u and v are found by
    Sinkhorn's iteration so that both marginals are Zipf's. Then Zipf's law is the stationary distribution, and the entropy
    rate is that of the pair less that of a token, both finite sums (Cover and Thomas, Elements of Information Theory,
    theorem 4.2.4).
    """

    vocab: int = 256
    exponent: float = 1.0
    strength: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.vocab, bool) or not isinstance(self.vocab, int) or not 2 <= self.vocab <= 1 << 13:
            raise InputError(f"ZipfMarkov: vocab={shown(self.vocab)} is not a whole number from 2 to 8192")
        for name in ("exponent", "strength"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and 0 <= value <= 8):
                raise InputError(f"ZipfMarkov: {name}={shown(value)} is not a number from 0 to 8")
        _check_count("ZipfMarkov", "seed", self.seed)

    def stationary(self) -> NDArray[np.float64]:
        """Probability of each token: shape (vocab,)."""
        p = np.arange(1, self.vocab + 1, dtype=float) ** -self.exponent
        return np.asarray(p / p.sum())

    def transition(self) -> NDArray[np.float64]:
        """Probability of the next token (column) after each token (row): shape (vocab, vocab)."""
        cached: NDArray[np.float64] | None = self.__dict__.get("_transition")
        if cached is not None:
            return cached
        p = self.stationary()
        weights = np.exp(self.strength * np.random.default_rng(self.seed).standard_normal((self.vocab, self.vocab)))
        v = p.copy()
        for _ in range(10_000):
            u = p / (weights @ v)
            off = np.abs(v * (u @ weights) - p).sum()
            v = p / (u @ weights)
            if off < 1e-15:
                break
        joint = u[:, None] * weights * v
        found = joint / joint.sum(1, keepdims=True)  # rows are distributions to rounding, whatever the iteration left
        object.__setattr__(self, "_transition", found)
        return np.asarray(found)

    def entropy(self) -> float:
        """Nats per token that remain once the token before is known: the loss of the true model."""
        P = self.transition()
        return float(-(self.stationary()[:, None] * P * np.log(P)).sum())

    def unigram_entropy(self) -> float:
        """Nats per token for a model that knows single tokens only."""
        p = self.stationary()
        return float(-(p * np.log(p)).sum())

    def sample(self, tokens: int, seed: int = 0) -> NDArray[np.int64]:
        """One stretch of the chain: shape (tokens,).

        Raises
        ------
        InputError
            if one of the two is not a whole number from 0.
        """
        _check_count("ZipfMarkov", "tokens", tokens)
        _check_count("ZipfMarkov", "seed", seed)
        uniforms = np.random.default_rng(seed).random(tokens).tolist()
        rows = [row.tolist() for row in np.cumsum(self.transition(), axis=1)]
        last = self.vocab - 1
        found, state = [], min(bisect.bisect(np.cumsum(self.stationary()).tolist(), uniforms[0]) if tokens else 0, last)
        for uniform in uniforms[1:]:
            found.append(state)
            state = min(bisect.bisect(rows[state], uniform), last)  # a row's sum may round to just below 1
        return np.array([*found, state][:tokens], dtype=np.int64)


def zipf_markov(tokens: int, *, validation: float = 0.05, seed: int = 0, **options: Any) -> Corpus:
    """A sample of :class:`ZipfMarkov`, its entropy beside it.

    Parameters
    ----------
    tokens : in all.
    seed : of the sample. `options` are those of :class:`ZipfMarkov`.

    Raises
    ------
    InputError
        if a number is not in its range.
    """
    source = ZipfMarkov(**options)
    sampled = torch.from_numpy(source.sample(tokens, seed)).to(_dtype(source.vocab))
    about = {"kind": "zipf-markov", "vocab": source.vocab, "exponent": source.exponent, "strength": source.strength}
    about |= {"source_seed": source.seed, "sample_seed": seed, "tokens": tokens}
    return split(sampled, source.vocab, about, validation, source.entropy())


def match_probability(counts: Iterable[int] | NDArray[np.int64]) -> float:
    """Chance that two different places of a text hold the same token: sum n_v (n_v - 1) / (n (n - 1)).

    Without bias for the sum of squared probabilities where tokens are independent; it is the correlation that a token embedding
    gives to two tokens of a text.

    Parameters
    ----------
    counts : how often each token occurs; at least two tokens in all.

    Examples
    --------
    >>> match_probability([2, 1, 1])
    0.16666666666666666
    """
    whole = [int(count) for count in counts]  # Python's numbers, which do not overflow
    n = math.fsum(whole)
    if n < 2 or min(whole) < 0:
        raise InputError("match_probability: needs counts from 0 and at least two tokens")
    return sum(count * (count - 1) for count in whole) / (n * (n - 1))
