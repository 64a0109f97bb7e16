"""Batches of sequences of unequal length, padded with tokens that no token attends to and that carry no loss.

A real token is then in the same situation as in a batch of its own, a sequence of L tokens, on whichever side the padding is.
At random initialisation all learned positions have the same distribution, and rotations, penalties and biases of scores depend
on distances only. So the moments of the real tokens of a batch are averages over its lengths, each weighted by its tokens.

Of a pair, the first token is any real token, and the second any other token of its sequence. Counting every pair once instead
would weight long sequences by their length twice, and a correlation could exceed 1 if their second moments are also larger.

The loss is a sum over real tokens; with ``gradient="loss"`` it is that of the predictions at each length. If there are many
lengths, some are evaluated and the others interpolated. Measured error: below 1e-4 for second moments, 2e-4 for correlations
and 1e-3 for gradients (encoders and decoders of 2 to 40 blocks, pre- and post-norm, score variances up to 7). With windows
under a causal mask, or sinusoidal positions, neighbouring lengths themselves differ by up to 2 %, and averages agree to 1 %.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..architecture import Transformer
from ..errors import InputError, shown
from ..numerics.interpolation import spline_values
from ..signal import quotient

Array = Any
Columns = dict[str, Array]

FEW_LENGTHS = 12
"""Up to this many lengths are all evaluated: interpolation evaluates about as many."""
MOST_PAIRS = 64
"""Most pairs of lengths of a batch; all are evaluated, in a second or two each."""
_FIRST, _RATIO = 8, 1.5
"""Of more lengths, all up to the first number are evaluated, then a ladder with steps of at most the second as a factor."""
_OF_SOURCE = re.compile(r"encoder|decoder\.block\.\d+\.cross_attention\.(key|value)")
"""Sites whose tokens are those of the encoder's sequence, in a model of two stacks."""


@dataclass(frozen=True)
class Batch:
    """The lengths of the sequences of a batch."""

    tokens: Array
    """The different lengths, shape (n,)"""
    source: Array
    """Length of the encoder's sequence for each, shape (n,); 0 in a model of one stack"""
    counts: Array
    """Sequences of each length, shape (n,)"""

    @classmethod
    def of(cls, tree: Transformer, lengths: Any, source: int | None = None) -> Batch:
        """The batch with these lengths.

        Parameters
        ----------
        tree : the transformer.
        lengths : of the sequences without their padding, or a mapping from a length to the number of its sequences. In a model
            of two stacks a length may be a pair, of the decoder's and of the encoder's sequence; the latter is at least 2.
        source : length of all sequences of the encoder, if lengths are not pairs; by default that of the decoder's.

        Raises
        ------
        InputError
            if a length is not a whole number from 1 (of a source, from 2) to the context, or nothing is counted.
        """
        if tree.stem.images:
            raise InputError("propagate: lengths have no meaning for images, which all have the same number of tokens")
        two = tree.kind == "encoder-decoder"
        if source is not None and not two:
            raise InputError("a source length has no meaning for a model of one stack")
        counts: dict[tuple[int, int], float] = {}
        for given, count in _count_lengths(lengths):
            pair = given if isinstance(given, tuple) else (given,)
            if len(pair) > 1 and not two:
                raise InputError(f"propagate: lengths holds the pair {shown(given)}, and this model has one stack")
            if len(pair) > 1 and source is not None:
                raise InputError("propagate: lengths holds pairs, so source cannot be given as well")
            if not 1 <= len(pair) <= 2:
                raise InputError(f"propagate: lengths holds {shown(given)}, which is not a length or a pair of them")
            one = _length(pair[0], tree.context)
            whole = tree.reader.fixed_context if two else None  # an encoder that reads sequences of one length
            usual = whole or one if source is None else source
            other = _length(pair[1] if len(pair) > 1 else usual, whole or tree.context, 2) if two else 0
            key = (one, other)
            counts[key] = counts.get(key, 0.0) + count
        ordered = sorted(counts)
        tokens, memory = np.array(ordered).T
        return cls(tokens, memory, np.array([counts[key] for key in ordered]))

    def averages(self, tree: Transformer, columns: Callable[[int, int | None], Columns]) -> Columns:
        """The table of :func:`~depthwidth.analysis.propagation.propagate`, averaged over the real tokens of the batch.

        `columns` makes the table of one length, and one length of the source.

        Raises
        ------
        InputError
            if there are more different pairs of lengths than :data:`MOST_PAIRS`.
        """
        parts = [(self.tokens, self.tokens)]
        sources = self.source
        if np.array_equal(self.source, self.tokens) or len(set(self.source)) == 1:  # one number identifies a length
            parts = self._parts(tree)
            walked = np.unique(np.concatenate([nodes for _, nodes in parts]))
            sources = walked if np.array_equal(self.source, self.tokens) else np.full(len(walked), self.source[0])
        elif len(self.tokens) > MOST_PAIRS:
            raise InputError(f"propagate: lengths has {len(self.tokens)} different pairs, more than {MOST_PAIRS}; round them")
        else:
            walked = self.tokens
        found = _Evaluated.of([columns(int(t), int(s) or None) for t, s in zip(walked, sources, strict=True)])
        return found.between(walked, self.tokens, parts).averaged(self)

    def _parts(self, tree: Transformer) -> list[tuple[Array, Array]]:
        """Ranges of lengths, each with the lengths to evaluate: all, or nodes for interpolation over the logarithm.

        Moments are smooth in it except at one token, which has no pair, and at the length of a window.
        """
        lengths = self.tokens
        if len(lengths) <= FEW_LENGTHS:
            return [(lengths, lengths)]
        found = [(lengths[:1], lengths[:1])] if lengths[0] == 1 else []
        lengths = lengths[len(found) :]
        attentions = [one for node in tree.walk() if (one := node.layer.as_attention) is not None]
        bends = sorted({a.window for a in attentions if a.window is not None and lengths[0] < a.window < lengths[-1]})
        edges = [lengths[0], *bends, lengths[-1]]
        for low, high in pairwise(edges):
            inside = lengths[(lengths >= low) & (lengths <= high)]
            nodes = _ladder(int(low), int(high))
            # A length that ends one range and begins the next is evaluated, so that both agree on it.
            found.append((inside, inside if len(inside) <= max(3, len(nodes)) else nodes))
        return found


def _count_lengths(lengths: Any) -> Iterable[tuple[Any, float]]:
    if isinstance(lengths, Mapping):
        for length, count in lengths.items():
            if isinstance(count, bool) or not isinstance(count, int | float | np.number) or not 0 < count < math.inf:
                raise InputError(
                    f"propagate: lengths counts {shown(count)} sequences of {shown(length)}, not a positive number"
                )
        pairs = list(lengths.items())
    elif isinstance(lengths, str) or not isinstance(lengths, Iterable):
        raise InputError(f"propagate: lengths={shown(lengths)} is not a list of lengths, or how many sequences have each")
    else:
        each = lengths.tolist() if isinstance(lengths, np.ndarray) else lengths
        pairs = list(Counter(tuple(one) if isinstance(one, list) else one for one in each).items())
    if not pairs:
        raise InputError("propagate: lengths is empty")
    return [(length, float(count)) for length, count in pairs]


def _length(value: Any, context: int, smallest: int = 1) -> int:
    whole = int(value) if isinstance(value, np.integer) else value
    if isinstance(whole, bool) or not isinstance(whole, int) or whole < smallest:
        raise InputError(
            f"propagate: lengths holds {shown(value)}, not a whole number from {smallest} (a source has two or more)"
        )
    if whole > context:
        raise InputError(f"propagate: lengths holds {whole}, beyond the {context} tokens of this model's context")
    return whole


def _ladder(low: int, high: int) -> Array:
    """Lengths from `low` to `high`: the first few, and then evenly spaced in their logarithm."""
    start = max(low, min(_FIRST, high))
    steps = max(1, math.ceil(math.log(high / start) / math.log(_RATIO)))
    spaced = start * (high / start) ** (np.arange(steps + 1) / steps)
    return np.unique(np.concatenate([np.arange(low, start), np.rint(spaced).astype(int)]))


@dataclass(frozen=True)
class _Evaluated:
    """Tables for several lengths: arrays of shape (lengths, rows), and the labels of the rows."""

    labels: Columns
    numbers: Columns
    """`mean`, `second_moment`, the uncentred `pair` of two tokens, `spread` and `log_variance`"""

    @classmethod
    def of(cls, found: list[Columns]) -> _Evaluated:
        first = found[0]
        labels = {name: first[name] for name in _LABELS}
        keys = [list(zip(one["site"].tolist(), one["direction"].tolist(), strict=True)) for one in found]
        places = {key: place for place, key in enumerate(keys[0])}
        orders = [np.argsort([places[key] for key in each]) for each in keys]

        def stacked(name: str) -> Array:
            return np.stack([one[name][order] for one, order in zip(found, orders, strict=True)])

        numbers = {name: stacked(name) for name in ("mean", "second_moment", "spread", "log_variance")}
        return cls(labels, numbers | {"pair": stacked("covariance") + numbers["mean"] ** 2})

    def between(self, walked: Array, lengths: Array, parts: list[tuple[Array, Array]]) -> _Evaluated:
        """Interpolation to other lengths, over their logarithm: of the log second moments, and of the rest relative to them."""
        if np.array_equal(walked, lengths):
            return self
        q = self.numbers["second_moment"]
        shapes = {
            "second_moment": np.log(np.maximum(q, _NOTHING)),
            "pair": self.numbers["pair"] / np.maximum(q, _NOTHING),
            "mean": self.numbers["mean"] / np.sqrt(np.maximum(q, _NOTHING)),
            "spread": np.nan_to_num(self.numbers["spread"]),
            "log_variance": np.nan_to_num(self.numbers["log_variance"]),
        }
        found = {name: np.empty((len(lengths), q.shape[1])) for name in shapes}
        for inside, nodes in parts:
            known, at = np.searchsorted(walked, nodes), np.searchsorted(lengths, inside)
            for name, values in shapes.items():
                if len(inside) == len(nodes) and np.array_equal(inside, nodes):
                    found[name][at] = values[known]
                else:
                    found[name][at] = spline_values(np.log(nodes), values[known], np.log(inside))
        size = np.exp(found["second_moment"])
        size[size < 2 * _NOTHING] = 0.0
        spread, log_variance = (
            np.where(np.isnan(self.numbers[name][:1]), math.nan, found[name]) for name in ("spread", "log_variance")
        )
        numbers = {
            "second_moment": size,
            "pair": found["pair"] * size,
            "mean": found["mean"] * np.sqrt(size),
            "spread": spread,
            "log_variance": np.maximum(0.0, log_variance),
        }
        return _Evaluated(self.labels, numbers)

    def averaged(self, batch: Batch) -> Columns:
        """Averages over the real tokens of a batch with these lengths."""
        share, paired = self._shares(batch)
        q, mean = self.numbers["second_moment"], self.numbers["mean"]
        size, centre = (share * q).sum(0), (share * mean).sum(0)
        variance = size - centre**2
        # The tokens that share their sequence with another: all, unless there are sequences of one.
        size_paired, centre_paired = (paired * q).sum(0), (paired * mean).sum(0)
        covariance = (paired * self.numbers["pair"]).sum(0) - centre_paired**2
        # A draw of the weights that makes sequences of one length large makes all large.
        spread, log_deviation = self.numbers["spread"], np.sqrt(self.numbers["log_variance"])
        return {
            **self.labels,
            "mean": centre,
            "second_moment": size,
            "variance": variance,
            "covariance": covariance,
            "correlation": quotient(covariance, size_paired - centre_paired**2),
            "spread": quotient((paired * q * spread).sum(0), size_paired),
            "log_variance": quotient((share * q * log_deviation).sum(0), size) ** 2,
        }

    def _shares(self, batch: Batch) -> tuple[Array, Array]:
        """Share of each length among all tokens of a site, and among those of sequences of more than one; (lengths, rows)."""
        two = bool(batch.source.any())
        of_source = np.array([two and _OF_SOURCE.match(site) is not None for site in self.labels["site"]])
        lengths = np.where(of_source, batch.source[:, None], batch.tokens[:, None])
        tokens = batch.counts[:, None] * lengths
        paired = np.where(lengths > 1, tokens, 0.0)
        return tokens / tokens.sum(0), paired / np.maximum(paired.sum(0), _NOTHING)


_LABELS = ("site", "layer", "direction")
_NOTHING = 1e-300
"""Replaces a second moment of 0, which has no logarithm."""
