"""Pairs of tokens of any kind: their mean spread, and the part of it by which texts differ, the share of equal tokens.

Derivation: docs/derivations/finite-width.md, (W15).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from .signal import AnySignal, DrawSpread, Number, TokenSignal, quotient


class Matches(NamedTuple):
    """The share of equal tokens, which varies between texts."""

    variance: Number
    """Its part in :attr:`Others.covariances`"""
    mean: Callable[[Number], Number]
    """Means over the rows of values at pairs, of each kind if there are two"""
    of_blocks: bool
    """True if the last axis is one of blocks"""

    @classmethod
    def of(cls, x: AnySignal, draw: DrawSpread | None) -> Matches | None:
        """That of a stream; None if its pairs are of one kind, or the branch has no slopes by it."""
        if draw is None or draw.matches is None or not isinstance(x, TokenSignal) or x.positions.match is None:
            return None
        return cls(x.text_variance, x.positions.row_means, x.positions.of_kinds)

    def mixed(self, lines: tuple[Number, Number], draw: DrawSpread, covariances: Number) -> Any:
        """The slopes by the mean covariance: `lines`, with other slopes for the part that the share of equal tokens varies.

        The latter are those of a mean row, and change along the rows as the former do. Of several blocks the first has them.
        """
        share = quotient(self.variance, covariances).clip(None, 1.0)
        if draw.matches is None:
            return lines
        changed = [line.copy() for line in lines]
        first = slice(None) if share.shape[-1] == 1 or not self.of_blocks else slice(1)  # of several blocks
        whole = draw.whole[first] if getattr(draw.whole, "ndim", 0) else draw.whole
        for line, slope in zip(changed, draw.matches(), strict=True):
            part = line[..., first]
            part *= 1 + share[..., first] * (quotient(whole * slope, self.mean(part)) - 1)
        return changed


class Others(NamedTuple):
    """Moments of any two tokens, averaged over the kinds of pairs: those of a pair and a token outside it, of either kind."""

    covariance: Number
    branch: Number
    """Covariance of the branch's output"""
    second_moments: Number
    """The fields of :class:`Spread` from here on"""
    third_token: Number
    covariances: Number
    matches: Matches | None = None
    """None if the share of equal tokens does not vary"""

    @classmethod
    def of(
        cls, average: Callable[[Number], Number], c: Number, a_pair: Number, spread: Sequence[Number], matches: Matches | None
    ) -> Others:
        """The averages of the numbers of each kind of pair."""
        _, w, _, x, z = spread
        return cls(average(c), average(a_pair), average(w), average(x), average(z), matches)

    def scaled(self, square: Number) -> Others:
        """Those of a stream times a factor with this square."""
        fourth, matches = square * square, self.matches
        if matches is not None:
            matches = matches._replace(variance=fourth * matches.variance)
        w, x, z = (fourth * part for part in self[2:5])
        return Others(square * self.covariance, self.branch, w, x, z, matches)
