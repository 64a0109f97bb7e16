r"""Moments of several streams that blocks keep side by side: the second moments of each, and of every pair.

A map that is linear in the streams acts on the whole matrix, :math:`M \to R M R^\top`, and what a branch adds is added to it,
:math:`M \to M + g g^\top a`. Gradients are followed in the same way. Derivation: docs/derivations/altup.md, (U3) to (U7).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..formulas.altup import joined_spread
from .signal import AnySignal, Spread

Weights = Sequence[float]


class StreamSignal(NamedTuple):
    """The moments of K streams of equal width, or of the gradients there.

    Finite-width spreads and leanings are those of single streams: between draws the streams vary alike, each relative to its
    own size.
    """

    gram: tuple[tuple[AnySignal, ...], ...]
    """Row i, column k: E x_i x_k of one token and of two, as a signal"""

    @classmethod
    def apart(cls, x: AnySignal, count: int) -> StreamSignal:
        """Independent streams, each with the moments of `x`."""
        none = x.times(0.0)
        return cls(tuple(tuple(x if i == k else none for k in range(count)) for i in range(count)))

    @classmethod
    def alike(cls, x: AnySignal, count: int) -> StreamSignal:
        """Equal streams."""
        return cls(((x,) * count,) * count)

    @property
    def number(self) -> int:
        """K, the number of streams."""
        return len(self.gram)

    def stream(self, index: int) -> Any:
        """The moments of one stream."""
        return self.gram[index][index]

    def mixed(self, matrix: Sequence[Weights]) -> StreamSignal:
        """``R M R^T``: the streams after a linear map."""
        count = range(self.number)
        if all(matrix[i][k] == (i == k) for i in count for k in count):
            return self
        rows = [[_sum(self.gram, matrix[i], matrix[k]) if k >= i else None for k in count] for i in count]
        return StreamSignal(tuple(tuple(rows[min(i, k)][max(i, k)] for k in count) for i in count))

    def plus(self, weights: Weights, added: AnySignal) -> StreamSignal:
        """``M + g g^T a``: the streams with multiples of one signal added, which depends on none of them."""
        return StreamSignal(
            tuple(
                tuple(one.plus(added.times(g * h)) for one, h in zip(row, weights, strict=True))
                for row, g in zip(self.gram, weights, strict=True)
            )
        )

    def combined(self, weights: Weights) -> Any:
        """The moments of a weighted sum of the streams."""
        return _sum(self.gram, weights, weights)

    def with_spread_of(self, y: AnySignal) -> StreamSignal:
        """The same moments; each stream varies between draws as `y` does, relative to its size."""
        return self if y.spread is None else self._with_spreads([_relative(one, y) for one in self._streams])

    def with_spread_between(self, x: AnySignal, y: AnySignal, weights: Weights) -> StreamSignal:
        """The same moments, after a layer that makes `y` of a stream `x`: each stream takes the share `weights` of the change.

        Relative to its size it varies between draws as `x` if it takes nothing and as `y` if it takes all; linearly between.
        """
        if y.spread is None:
            return self
        found = []
        for one, weight in zip(self._streams, weights, strict=True):
            share = min(1.0, abs(weight))
            ends = zip(_relative(one, x).spread, _relative(one, y).spread, strict=True)
            found.append(one.spread_as(Spread(*((1 - share) * before + share * after for before, after in ends))))
        return self._with_spreads(found)

    @property
    def _streams(self) -> list[Any]:
        return [self.stream(i) for i in range(self.number)]

    def _with_spreads(self, streams: Sequence[AnySignal]) -> StreamSignal:
        count = range(self.number)
        return StreamSignal(tuple(tuple(streams[i] if i == k else self.gram[i][k] for k in count) for i in count))

    @property
    def alikeness(self) -> Any:
        """Root mean square correlation of two streams, averaged over positions."""
        sizes = [self.stream(i).averages[0] for i in range(self.number)]
        pairs = [(i, k) for i in range(self.number) for k in range(i)]
        squares = sum(self.gram[i][k].averages[0] ** 2 / (sizes[i] * sizes[k]) for i, k in pairs if sizes[i] * sizes[k])
        return min(1.0, (squares / max(1, len(pairs))) ** 0.5)

    @property
    def joined(self) -> Any:
        """The moments over the features of all streams together, with their spread."""
        count = self.number
        total = self.stream(0)
        for i in range(1, count):
            total = total.plus(self.stream(i))
        y, first = total.times(1 / count), self.stream(0)
        if first.spread is None:
            return y
        share = joined_spread.body(count, self.alikeness)
        return y.spread_as(Spread(*(share * part for part in _relative(y, first).spread)))

    def whole(self) -> Any:
        """The moments that a trace records: those of :attr:`joined`."""
        return self.joined


def _sum(gram: tuple[tuple[AnySignal, ...], ...], one: Weights, other: Weights) -> Any:
    """``sum_ab one_a other_b M_ab``."""
    total = None
    for a, row in zip(one, gram, strict=True):
        for b, part in zip(other, row, strict=True):
            if a * b:
                term = part.times(a * b)
                total = term if total is None else total.plus(term)
    return gram[0][0].times(0.0) if total is None else total


def _relative(x: AnySignal, y: AnySignal) -> Any:
    """`x` with the spread of `y` in proportion to the squares of their second moments."""
    before, after = y.averages[0], x.averages[0]
    factor = (after / before) ** 2 if before else 0.0
    return x.spread_as(Spread(*(factor * part for part in y.spread)))
