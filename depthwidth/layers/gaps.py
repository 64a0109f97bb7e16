"""The gradient through blocks that are not evaluated, from the pullbacks of evaluated ones: a few pulls for a hundred blocks.

The map of a block on gradients is 1 + B, with B small and slowly varying along the depth. The blocks of a gap between two
evaluated blocks act as powers of the maps at its ends, such that the exponents of each block sum to 1. An evaluated block
thus stands for its shares of two gaps; all of these are one power series in its B, with as many pulls as terms.

Increments of the gradient cannot be extrapolated as those of the stream are: at early positions it grows with high powers of
the depth.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any, NamedTuple

from ..signal import BlockRecords, Pullback, TokenSignal, Trace, quotient

Array = Any

_NEGLIGIBLE = 3e-4
"""Error of the extrapolation of a term, relative to the gradient, at which a power series in a block's map ends: the terms
after it are extrapolated."""
_FRACTION = 1e-6
"""Size of the last term of a fraction of a block, relative to the gradient: a stack has up to a hundred of them."""
_TERMS = 24
"""Largest number of terms of such a series."""
_REST = 1e-7
"""Size of an extrapolated term, relative to the gradient, at which extrapolation ends."""
_FAR = 30.0
"""Largest mean increment of blocks, relative to the end that represents them, at which they act as powers of its map."""
_STRONGEST = 1e6
"""Largest increment of a block, relative to the end that represents it: beyond, in streams that grow fast, it is rounding."""


class Sample(NamedTuple):
    """An evaluated block: its number, its pullback and its records."""

    layer: int
    size: float
    """Second moment of the stream at its input."""
    pull: Pullback
    records: BlockRecords


class Blocks(NamedTuple):
    """The blocks of a gap, each with the share of it that one end of the gap represents.

    With 1 + B the map of that end, block l acts as (1 + a_l B)^s_l.
    """

    strengths: Array
    """a: the increment of each block over that of the end; shape (n,)"""
    exponents: Array
    """s: the share of each block; shape (n,)"""

    @property
    def total(self) -> float:
        """The power of the end's map that has the same first order."""
        return float(self.strengths @ self.exponents)

    @property
    def slopes(self) -> Array:
        """The coefficients -sum s (-a)^m, for m from 1, of the derivative by ln x of the logarithm of all (1 + a x)^s."""
        import numpy as np

        return -self.exponents @ np.vander(-self.strengths, _TERMS + 1, increasing=True)[:, 1:]


def share_gap(above: Sample, below: Sample, sizes: Array) -> tuple[Blocks, Blocks]:
    """The blocks of a gap between two evaluated blocks, shared between the upper and the lower one.

    The increments of a block are inversely proportional to the size of its input, and otherwise linear in 1/sqrt(l + 1/2).
    """
    import numpy as np

    between = np.arange(below.layer + 1, above.layer)
    low, high = (1 / math.sqrt(end.layer + 0.5) for end in (below, above))
    share = (1 / np.sqrt(between + 0.5) - low) / (high - low)
    upper, lower = (np.minimum(end.size / sizes[between], _STRONGEST) for end in (above, below))
    return Blocks(upper, share), Blocks(lower, 1 - share)


class _PowerSeries:
    """A power series from 1 on, given the derivative of its logarithm by ln x; coefficients are computed when first needed."""

    def __init__(self, slopes: Array) -> None:
        self._slopes: list[float] = slopes.tolist()
        self._coefficients = [1.0]

    def __getitem__(self, degree: int) -> float:
        known = self._coefficients
        while len(known) <= degree:
            m = len(known)
            known.append(sum(map(operator.mul, reversed(self._slopes[:m]), known)) / m)
        return known[degree]


class _Gradients:
    """Gradients of one shape as vectors, and the pullback of an evaluated block between them."""

    def __init__(self, like: TokenSignal, sample: Sample, skip: float, trace: Trace) -> None:
        self._like, self._pull, self._skip, self._trace = like, sample.pull, skip, trace

    def over_skip(self, g: TokenSignal) -> Array:
        """The vector of a gradient before the block, as if its skip paths had no factor."""
        return _gradient_vector(pass_skips(g, 1 / self._skip))

    def before_skip(self, vector: Array) -> TokenSignal:
        """The inverse of :meth:`over_skip`."""
        return pass_skips(self.signal(vector), self._skip)

    def signal(self, vector: Array) -> TokenSignal:
        """The gradient of a vector."""
        like = self._like
        half = like.second_moment.size + like.covariance.size
        g, *leaning = (
            like.of(part[: like.second_moment.size], part[like.second_moment.size :].reshape(like.covariance.shape))
            for part in (vector[:half], vector[half:])
            if part.size
        )
        return g.leaning_as(leaning[0]) if leaning else g

    def pull(self, vector: Array) -> tuple[Array, BlockRecords]:
        """The gradient before the block over the factor of its skip paths, and its records, given that after the block."""
        with self._trace.divert() as records:
            back = self._pull(self.signal(vector))
        return self.over_skip(back), records

    def through(self, vector: Array, gap: Iterable[Blocks]) -> Array:
        """The gradient at the input of blocks that this one represents: its map to their total power, which may be fractional.

        If they add far more than this block does, each block acts once instead, as 1 + s a B.
        """
        with self._trace.silence():
            for blocks in gap:
                count, each = blocks.total, blocks.strengths * blocks.exponents
                if count <= _FAR * len(each):
                    for _ in range(int(count)):
                        vector = self.pull(vector)[0]
                    vector = self._fraction(vector, count % 1)
                else:
                    for share in each:
                        vector = vector + share * (self.pull(vector)[0] - vector)
        return vector

    def _fraction(self, vector: Array, share: float) -> Array:
        """A power below 1 of the map 1 + B, as the binomial series; it ends before a term that B has made larger."""
        import numpy as np

        total, term, coefficient = vector, vector, 1.0
        for degree in range(1, _TERMS):
            power = self.pull(term)[0] - term
            size = np.abs(power).max()
            if degree > 1 and size > np.abs(term).max():
                break
            coefficient *= (share - degree + 1) / degree
            term = power
            total = total + coefficient * term
            if abs(coefficient) * size <= _FRACTION * np.abs(vector).max():
                break
        return total

    def sizes(self, *vectors: Array) -> list[tuple[float, float]]:
        """Second moment and covariance of each gradient, averaged over positions."""
        like = self._like
        n, half = like.second_moment.size, like.second_moment.size + like.covariance.size
        return like.positions.averages_of([(v[:n], v[n:half].reshape(like.covariance.shape)) for v in vectors])


def pass_skips(g: TokenSignal, factor: float) -> TokenSignal:
    """The gradient before skip paths that multiply the stream's second moment by `factor`, given that after them.

    Its leaning takes the factor twice: a derivative by the second moment before them is `factor` times that by the one after.
    """
    if factor == 1:  # in most networks
        return g
    passed: TokenSignal = g.times(factor)
    return passed if passed.leaning is None else passed.leaning_as(passed.leaning.times(factor))


def _gradient_vector(g: TokenSignal) -> Array:
    """One vector of the moments of a gradient, and of its leaning if it has one."""
    import numpy as np

    parts = (g,) if g.leaning is None else (g, g.leaning)
    return np.concatenate([part.ravel() for one in parts for part in (one.second_moment, one.covariance)])


def pull_near(
    g: TokenSignal, sample: Sample, above: Blocks | None, below: Blocks | None, skip: float, trace: Trace
) -> tuple[TokenSignal, BlockRecords]:
    """The gradient through an evaluated block and its shares of the gaps above and below it, and the records of that block.

    The product of the maps of all of these is a power series in B, with `skip` (1 + B) the block's own map. The gradient at the
    block's output, whose records these are, is a series of the same powers. Neighbours nearly commute, so that a gap may be
    crossed with the map of its upper end first. Terms after the last are extrapolated. A series of growing terms, or whose sum
    is a negative second moment, is replaced by repeated pulls.
    """
    import numpy as np

    with trace.divert() as records:
        back = sample.pull(g)
    if above is None and below is None:
        return back, records
    if g.leaning is None and back.leaning is not None:
        g = g.leaning_as(g.times(0.0))
    upper, lower = ([part] if part else [] for part in (above, below))
    own, *slopes = (part.slopes for part in (Blocks(np.ones(1), np.ones(1)), *upper, *lower))
    whole, before = _PowerSeries(sum(slopes, own)), _PowerSeries(slopes[0] if upper else 0.0 * own)
    count = sum(part.total for part in (*upper, *lower))
    space = _Gradients(g, sample, skip, trace)

    def repeated() -> tuple[TokenSignal, BlockRecords]:
        after, records = space.pull(space.through(_gradient_vector(g), upper))
        return space.before_skip(space.through(after, lower)), records

    length = g.positions.length
    power, after = _gradient_vector(g), space.over_skip(back)
    total, groups, (second, pair), largest, ratio = power, [records], g.averages, np.abs(power).max(), 0.0
    while True:
        earlier, (earlier_second, earlier_pair), earlier_largest = power, (second, pair), largest
        power = after - earlier
        terms = len(groups)
        total = total + whole[terms] * power
        # The first term is not extrapolated, and counts whole.
        (second, pair), (size, covariance), missed = space.sizes(power, total, power - ratio * earlier)
        largest = np.abs(power).max()
        least = max(abs(covariance), abs(size) / length)
        # Patterns that a block takes out in one step may grow from term to term, below the averages.
        grows = terms > 1 and largest * count > (terms + 1) * earlier_largest
        if grows or terms >= _TERMS:
            return repeated()
        # No entry falls less than the largest one: the ratios of rounding errors would grow with the binomials of a long gap.
        falls = min(1.0, quotient(largest, earlier_largest))
        ratio = np.divide(power, earlier, out=np.zeros_like(power), where=earlier != 0).clip(-falls, falls)
        weight = max(abs(whole[terms]), abs(whole[terms + 1]) * falls)
        error = weight * max(quotient(abs(missed[0]), abs(size)), quotient(abs(missed[1]), least))
        if error <= _NEGLIGIBLE and (terms > 1 or above is None):
            break
        after, records = space.pull(power)
        groups.append(records)
    ratios = [min(1.0, max(-1.0, quotient(a, b))) for a, b in ((second, earlier_second), (pair, earlier_pair))]
    last = terms
    if terms > 1:
        left = quotient(largest, np.abs(total).max())
        while abs(whole[last]) * left > _REST and last < _TERMS:
            last, left, power = last + 1, left * falls, power * ratio
            total = total + whole[last] * power
    numbers = _combine_numbers([one.numbers for one in groups], [before[degree] for degree in range(last + 1)], *ratios)
    front = space.before_skip(total)
    if front.second_moment.min() < -_NEGLIGIBLE * abs(size) or (numbers[0] < 0).any():
        return repeated()
    return front, groups[0].with_numbers(numbers)


def _combine_numbers(groups: list[Array], weights: list[float], second: float, pair: float) -> Array:
    """The records of a sum of gradients with these weights; those after the last one follow by the given ratios."""
    import numpy as np

    known, combined = len(groups) - 1, groups[0].copy()
    for row, ratio in enumerate((second, pair)):
        last = sum(weight * ratio**power for power, weight in enumerate(weights[known:]))
        combined[row] = np.array([*weights[:known], last]) @ [group[row] for group in groups]
    return combined
