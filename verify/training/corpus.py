"""Corpora of tokens: sources of installed packages by default, a user's files, Hugging Face datasets, a synthetic chain.

>>> corpus = zipf_markov(2000, vocab=16, seed=1)
>>> inputs, targets = corpus.batch(seed=0, step=7, batch=4, context=8)
>>> tuple(inputs.shape), bool((inputs[:, 1:] == targets[:, :-1]).all())
((4, 8), True)

The batch of a step is a pure function of (seed, step), on any device: to resume a run, nothing has to be saved or replayed.
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

from ..records import CorpusRecord, read_record

DEFAULT_BYTES = 1 << 25
"""Size of the default corpus: 32 MiB of the installed packages' sources, which take about 20 s to read from a cold disk."""


@dataclass(frozen=True)
class Corpus:
    """Training tokens and validation tokens, each one contiguous block, with a description of their source.

    Parameters
    ----------
    train, validation : integer tensors of shape (tokens,), in memory, memory-mapped or on a device.
    vocab : number of different tokens.
    source : description of the source as plain strings and numbers; it is part of :meth:`identity`.
    entropy : entropy rate in nats per token, a lower bound on the loss of any model; None if it is unknown.

    Raises
    ------
    InputError
        if `train` or `validation` is not a one-dimensional integer tensor with values from 0 to `vocab` - 1.
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
                raise InputError(f"corpus: {name} is not a one-dimensional tensor of whole numbers")
            if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab:
                raise InputError(f"corpus: {name} contains tokens outside 0 to {self.vocab - 1}")

    @property
    def device(self) -> torch.device:
        """The device that holds the tokens."""
        return self.train.device

    def to(self, device: torch.device | str) -> Corpus:
        """The same corpus with its tokens on `device`."""
        return replace(self, train=self.train.to(device), validation=self.validation.to(device))

    def identity(self) -> dict[str, Any]:
        """Description that a run records: source, sizes, vocabulary, and the SHA-256 of the tokens as 64-bit integers."""
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
        """Inputs and targets (the next tokens) of a step, each of shape (batch, context), or (members, batch, context).

        Parameters
        ----------
        seed : seed of the data; or a tensor of seeds, one per member of an ensemble.
        step : number of the step, from 0; every step takes the same time.
        batch, context : number of sequences, and tokens per sequence. Each window starts at a uniformly random place.
        rows : the sequences to return: the share of one process or micro-batch in the same batch.

        Raises
        ------
        InputError
            if the training block has fewer than `context` + 1 tokens.
        """
        starts = window_starts(seed, step, batch, self._windows("train", context), self.device)[..., rows]
        return _read_windows(self.train, starts, context)

    def validation_batches(self, batches: int, batch: int, context: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Validation batches, the same in every call: windows evenly spaced over the validation block.

        They do not overlap if the block is long enough.
        """
        windows = self._windows("validation", context)
        count = batches * batch
        starts = torch.arange(count, device=self.device, dtype=torch.int64) * max(windows - 1, 0) // max(count - 1, 1)
        for part in starts.split(batch):
            yield _read_windows(self.validation, part, context)

    def _windows(self, split: str, context: int) -> int:
        windows = len(getattr(self, split)) - context
        if context < 1 or windows < 1:
            tokens = len(getattr(self, split))
            needed = f"at least {context + 1} {split} tokens"
            raise InputError(f"corpus: a context of {context} needs {needed}, but there are {tokens:,}")
        return windows

    def largest_token(self) -> int:
        """The largest token; -1 if the corpus is empty."""
        found: int | None = self.__dict__.get("_largest")
        if found is None:
            found = max((int(tokens.max()) for tokens in (self.train, self.validation) if len(tokens)), default=-1)
            object.__setattr__(self, "_largest", found)
        return found

    def counts(self) -> NDArray[np.int64]:
        """Number of occurrences of each token in the training block: shape (vocab,)."""
        found = np.zeros(self.vocab, dtype=np.int64)
        for part in self.train.split(1 << 24):
            found += torch.bincount(part.long(), minlength=self.vocab).cpu().numpy()
        return found

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the tokens to a folder, from which :func:`load` maps them into memory in any number of processes."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        kind = str(self.train.dtype).removeprefix("torch.")
        for name in ("train", "validation"):
            getattr(self, name).cpu().numpy().tofile(place / f"{name}.bin")
        about = {"dtype": kind, "source": dict(self.source), "entropy": self.entropy, "identity": self.identity()}
        (place / "corpus.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
        return place


def load(folder: str | os.PathLike[str]) -> Corpus:
    """Load a corpus written by :meth:`Corpus.save`; its tokens are memory-mapped.

    Raises
    ------
    InputError
        if a file is missing, has the wrong size, or contains other tokens than were written.
    """
    place = Path(folder)
    try:
        about = read_record(place / "corpus.json", CorpusRecord, "description of a corpus")
        identity, kind = about["identity"], about["dtype"]
        train, validation = (
            _map_tokens(place / f"{name}.bin", kind, int(identity[f"{name}_tokens"])) for name in ("train", "validation")
        )
        found = Corpus(train, validation, int(identity["vocab"]), about["source"], about["entropy"])
    except (InputError, OSError, RuntimeError) as error:  # RuntimeError: torch cannot map the file
        raise InputError(f"{shown(str(place), limit=300)} is not a corpus: {error}") from None
    if found.identity() != identity:
        raise InputError(f"the tokens in {shown(str(place))} have changed since they were written")
    return found


def _map_tokens(path: Path, kind: str, tokens: int) -> Tensor:
    dtypes = {"uint8": torch.uint8, "int16": torch.int16, "int32": torch.int32, "int64": torch.int64}
    if kind not in dtypes:
        raise InputError(f"{path}: tokens cannot have the type {shown(kind)}")
    dtype = dtypes[kind]
    if path.stat().st_size != tokens * dtype.itemsize:
        raise InputError(f"{path} has {path.stat().st_size:,} bytes, not {tokens * dtype.itemsize:,}")
    if not tokens:
        return torch.empty(0, dtype=dtype)
    return torch.from_file(str(path), shared=False, size=tokens, dtype=dtype)


# Choice of the windows of a step.

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)


def hashed(x: Tensor) -> Tensor:
    """Hash of each 64-bit integer (the finaliser of SplitMix64: Steele, Lea and Flood 2014)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9 - (1 << 64)), (27, 0x94D049BB133111EB - (1 << 64))):
        x = (x ^ (x >> shift & (1 << (64 - shift)) - 1)) * factor
    return x ^ (x >> 31 & (1 << 33) - 1)


def mix_seeds(*numbers: int) -> int:
    """Hash of `numbers`, including their order, to one seed from 0 to 2**63 - 1."""
    x, whole = 0, (1 << 64) - 1
    for number in numbers:  # plain integers are many times faster than tensors of one element
        x = (x * 3 + number + 0x9E3779B97F4A7C15) & whole
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = ((x ^ x >> shift) * factor) & whole
        x ^= x >> 31
    return x >> 1


def window_starts(seed: int | Tensor, step: int, batch: int, windows: int, device: torch.device | str = "cpu") -> Tensor:
    """Start positions of the windows of a step: shape (batch,), or (members, batch) for a tensor of seeds.

    Each is a hash of (seed, step, row), so every step takes the same time and every device gives the same result. Uniform over
    0 to ``windows - 1``, up to a bias of ``windows / 2**63``.
    """
    seeds = torch.as_tensor(seed, dtype=torch.int64, device=device)
    # Three rounds of hashing, one per coordinate, so that neighbouring seeds and steps are unrelated.
    key = hashed(hashed(seeds * 3 + _GOLDEN) * 3 + step + _GOLDEN)
    rows = torch.arange(batch, dtype=torch.int64, device=device)
    return (hashed(key[..., None] * 3 + rows + _GOLDEN) & (1 << 63) - 1) % windows


def _read_windows(tokens: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    window = tokens[starts[..., None] + torch.arange(context + 1, device=tokens.device)].long()
    return window[..., :-1].contiguous(), window[..., 1:].contiguous()  # contiguous: models may call .view on them


# Sources of tokens.


def split(tokens: Tensor, vocab: int, source: Mapping[str, Any], validation: float, entropy: float | None = None) -> Corpus:
    """A corpus whose last tokens, a fraction `validation` of all, are for validation, and the others for training.

    Each part is one contiguous block, so no training window overlaps a validation window.
    """
    if not 0 <= validation < 1:
        raise InputError(f"corpus: validation={shown(validation)} is not a fraction of at least 0 and below 1")
    kept = len(tokens) - round(len(tokens) * validation)
    return Corpus(tokens[:kept], tokens[kept:], vocab, {**source, "validation": validation}, entropy)


def python_sources(limit: int = DEFAULT_BYTES, *, validation: float = 0.05, root: str | Path | None = None) -> Corpus:
    """Bytes of the Python sources of the installed packages: a corpus that exists on every machine.

    Parameters
    ----------
    limit : largest number of bytes.
    validation : fraction at the end that is used for validation.
    root : folder to read instead of that of the installed packages.

    Notes
    -----
    Files are read in the order of the SHA-256 of their paths: the order is the same on every disk, and packages are mixed.
    Machines with different packages have different text; :meth:`Corpus.identity` shows the difference.
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
    """Text from a file, or from all files in a folder whose names match `pattern`, as bytes (vocabulary 256) or as tokens.

    Parameters
    ----------
    path : a file, which is memory-mapped if there is no tokenizer; or a folder, whose files are read in the order of the
        SHA-256 of their relative paths, separated by newlines.
    limit : largest number of bytes.
    tokenizer : see :func:`tokenize`; None for bytes.

    Raises
    ------
    InputError
        if there is nothing to read, for example in an empty file.
    """
    place = Path(path)
    source = {"kind": "text", "path": place.name, "pattern": pattern, "limit": limit, "tokenizer": _tokenizer_name(tokenizer)}
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
        data, any_text = bytearray(), False
        for file in files:
            content = file.read_bytes()
            any_text = any_text or bool(content)
            data += content + b"\n"
            if limit is not None and len(data) >= limit:
                del data[limit:]
                break
    except OSError as error:
        raise InputError(f"{shown(str(path))} cannot be read: {error.strerror or error}") from None
    if not data or not any_text:
        matching = "" if place.is_file() else f" in files that match {pattern!r}"
        raise InputError(f"{shown(str(path))} contains no text{matching}")
    if tokenizer is None:
        return split(torch.frombuffer(data, dtype=torch.uint8), 256, source, validation)
    tokens, vocab = tokenize([data.decode("utf-8", errors="replace")], tokenizer)
    return split(tokens, vocab, source, validation)


def _files(place: Path, pattern: str) -> list[Path]:
    def key(file: Path) -> bytes:
        return hashlib.sha256(file.relative_to(place).as_posix().encode()).digest()

    # os.walk does not follow links to folders, which may form a cycle.
    found = (Path(folder, name) for folder, _, names in os.walk(place) for name in names if fnmatch.fnmatch(name, pattern))
    return sorted((file for file in found if file.is_file()), key=key)


def _tokenizer_name(tokenizer: Any) -> str | None:
    return tokenizer if tokenizer is None or isinstance(tokenizer, str) else type(tokenizer).__name__


def tokenize(texts: Iterable[str], tokenizer: Any) -> tuple[Tensor, int]:
    """Tokens of texts by the ``tokenizers`` library, shape (tokens,), and the size of the tokenizer's vocabulary.

    Parameters
    ----------
    texts : texts to concatenate; special tokens are added as the tokenizer does by default.
    tokenizer : a ``tokenizers.Tokenizer``, the path of its ``tokenizer.json``, or a name on the Hugging Face hub.

    Raises
    ------
    InputError
        if the library is not installed or the tokenizer cannot be loaded.
    """
    if isinstance(tokenizer, (str, os.PathLike)):
        library = _library("tokenizers", "a tokenizer by name")
        try:
            load_tokenizer = library.Tokenizer.from_file if Path(tokenizer).is_file() else library.Tokenizer.from_pretrained
            tokenizer = load_tokenizer(str(tokenizer))
        except Exception as error:  # the library raises bare Exceptions
            raise InputError(f"the tokenizer {shown(str(tokenizer))} cannot be loaded: {error}") from None
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
    """A dataset loaded by the ``datasets`` library, as bytes or as tokens.

    Parameters
    ----------
    name, config, split_name, options : arguments of ``datasets.load_dataset``. Code in a dataset is never run.
    column : the column with the text.
    tokenizer : see :func:`tokenize`; None for bytes.
    limit : largest number of rows.
    validation : fraction at the end that is used for validation.

    Raises
    ------
    InputError
        if the library is not installed, the dataset has no rows, or ``trust_remote_code`` is among the options.
    """
    library = _library("datasets", "a dataset by name")
    if "trust_remote_code" in options:
        raise InputError("dataset: trust_remote_code is not accepted, because code in a dataset is never run")
    rows = library.load_dataset(name, config, split=split_name, **options)
    texts = [str(row[column]) for row in itertools.islice(rows, limit)]
    if not texts:
        raise InputError(f"dataset {shown(name)} has no rows")
    source = {"kind": "dataset", "name": name, "config": config, "split": split_name, "column": column, "limit": limit}
    source["tokenizer"] = _tokenizer_name(tokenizer)
    if tokenizer is None:
        data = bytearray("\n".join(texts).encode())
        return split(torch.frombuffer(data, dtype=torch.uint8), 256, source, validation)
    tokens, vocab = tokenize(texts, tokenizer)
    return split(tokens, vocab, source, validation)


# A synthetic source with known entropy.


def _check_count(who: str, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 0:
        raise InputError(f"{who}: {name}={shown(value)} is not a whole number from 0")


@dataclass(frozen=True)
class ZipfMarkov:
    """A stationary Markov chain over `vocab` tokens whose stationary distribution is exactly Zipf's law.

    Parameters
    ----------
    vocab : number of tokens, 2 to 8192; token r has probability proportional to ``1 / (r + 1)**exponent``.
    exponent : exponent of Zipf's law, 0 (uniform) to 8.
    strength : dependence between neighbouring tokens, 0 to 8: the standard deviation of the logarithms of the pair weights.
        With 0, tokens are independent.
    seed : seed of the pair weights.

    Notes
    -----
    The joint probability of a pair is ``u_i exp(strength g_ij) v_j`` with Gaussian ``g``; Sinkhorn's iteration finds u and v
    such that both marginals follow Zipf's law. Zipf's law is then the stationary distribution, and the entropy rate is the
    entropy of a pair minus the entropy of a token, both finite sums (Cover and Thomas, Elements of Information Theory, theorem
    4.2.4).
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
        found = joint / joint.sum(1, keepdims=True)  # rows sum to 1 to rounding, even if the iteration did not converge fully
        object.__setattr__(self, "_transition", found)
        return np.asarray(found)

    def entropy(self) -> float:
        """Entropy rate in nats per token: the loss of the true model."""
        P = self.transition()
        return float(-(self.stationary()[:, None] * P * np.log(P)).sum())

    def unigram_entropy(self) -> float:
        """Entropy of a single token in nats: the loss of a model that ignores the context."""
        p = self.stationary()
        return float(-(p * np.log(p)).sum())

    def sample(self, tokens: int, seed: int = 0) -> NDArray[np.int64]:
        """A sample of consecutive tokens: shape (tokens,).

        Raises
        ------
        InputError
            if `tokens` or `seed` is not a whole number from 0.
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
    """A corpus sampled from :class:`ZipfMarkov`, with its entropy rate.

    Parameters
    ----------
    tokens : number of tokens, training and validation together.
    validation : fraction at the end that is used for validation.
    seed : seed of the sample.
    options : parameters of :class:`ZipfMarkov`.

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
    """Probability that two different positions of a text hold the same token: sum n_v (n_v - 1) / (n (n - 1)).

    For independent tokens it is an unbiased estimate of the sum of squared probabilities. It equals the expected correlation of
    the embeddings of two tokens of the text.

    Parameters
    ----------
    counts : number of occurrences of each token; at least two tokens in total.

    Raises
    ------
    InputError
        if a count is negative or there are fewer than two tokens.

    Examples
    --------
    >>> match_probability([2, 1, 1])
    0.16666666666666666
    """
    whole = [int(count) for count in counts]  # Python integers do not overflow
    n = math.fsum(whole)
    if n < 2 or min(whole) < 0:
        raise InputError("match_probability: counts must not be negative, and there must be at least two tokens")
    return sum(count * (count - 1) for count in whole) / (n * (n - 1))
