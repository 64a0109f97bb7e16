"""Corrections of order 1/width and 1/head size to attention: a key's logit tells something of its token."""

from __future__ import annotations

from typing import Any, NamedTuple


class PairTerms(NamedTuple):
    """Factors on the averages over two different rows."""

    P: Any
    """On P2"""
    asked: Any
    """On T2 in the path through queries"""
    keys: Any
    """On R2, in the path through keys"""


class TokenTerms(NamedTuple):
    """Factors on the averages over one row, and the product of two paths.

    Derivation: docs/derivations/attention.md, (A24) to (A28).
    """

    P: Any
    """On P"""
    T: Any
    """On T, in every path"""
    asked: Any
    """On T besides, in the path through queries"""
    keys: Any
    """On R, in the path through keys; that on T is in it"""
    beside: Any
    """Of the paths through keys and values: their product is this times P"""
    changes: Changes | None = None

    def of_pairs(self, rho: Any) -> PairTerms:
        """The factors for two rows alike of correlation rho."""
        return PairTerms(1.0, 1.0, 1.0) if self.changes is None else pair_terms(self.changes, rho)


def pair_terms(changes: Changes, rho: Any) -> PairTerms:
    """The factors for two rows of correlation rho, from the changes of one, or their means over both."""
    P, T, aligned, independent, in_token, in_query, less, shares = changes
    square = rho * rho
    rows = 0.8 * rho + 0.2 * square
    along, half = rho * aligned - (1 - square) * independent, (1 + rho) / 2 * less
    queries = (2 * in_token + in_query) * along - 2 * half + shares
    return PairTerms(grown(rows * P), grown(rows * T + queries), grown(rows * T + in_token * along - half))


class Changes(NamedTuple):
    """Relative changes to first order."""

    P: Any
    T: Any
    aligned: Any
    """X/T - 1, of the gradient's part along the logit's direction"""
    independent: Any
    """4 P' sigma^2 / (1 - P): less of it along either of two independent directions"""
    in_token: Any
    """1/d"""
    in_query: Any
    """1/d_h"""
    less: Any
    """The loss in other directions of a token of one norm with a large logit"""
    shares: Any
    """By the spread of the tokens' common share"""


no_terms = TokenTerms(1.0, 1.0, 1.0, 1.0, 0.0)


def token_terms(
    averages: Any, s2: Any, correlation: Any, length: Any, width: Any, head_dim: int | None, equal_norms: bool
) -> TokenTerms:
    """The terms of rows of n entries and score variance s2, between tokens of correlation r.

    Parameters
    ----------
    averages : P, T and A22 of the rows.
    equal_norms : whether all tokens have one norm, or those of Gaussian vectors.
    """
    from ...numerics.softmax_tokens import token_averages

    found = token_averages(s2, length)
    return terms_of(found, averages.P, averages.T, averages.A22, correlation, width, head_dim, equal_norms)


def causal_token_terms(
    s2: Any, correlation: Any, length: Any, width: Any, head_dim: int | None, equal_norms: bool
) -> TokenTerms:
    """The terms of rows under a causal mask, averaged over the rows 1 to `length`; the arguments as in :func:`token_terms`.

    Each row counts by its share of an average. Two rows have the means of their changes, each pair counting by the overlap of
    two diffuse rows' Jacobians, (1 - 1/n)/n' of a row and a longer one.
    """
    import numpy

    given = numpy.broadcast_arrays(s2, correlation, length, width)
    found = [
        _causal_terms(float(v), float(r), int(n), float(d), head_dim, equal_norms)
        for v, r, n, d in zip(*(part.ravel() for part in given), strict=True)
    ]
    if given[0].shape == ():
        return found[0]
    means = [numpy.reshape(part, given[0].shape) for part in zip(*(terms[:-1] for terms in found), strict=True)]
    changes = zip(*(terms.changes or () for terms in found), strict=True)
    return TokenTerms._make([*means, Changes._make(numpy.reshape(part, given[0].shape) for part in changes)])


def _causal_terms(
    s2: float, correlation: float, length: int, width: float, head_dim: int | None, equal_norms: bool
) -> TokenTerms:
    import numpy

    from ...numerics.softmax import overlap, row_lengths
    from ...numerics.softmax_tokens import averages_at

    n, weights = row_lengths(length)
    rows = overlap(s2, n, head_dim, entropy=False)
    averages = averages_at(numpy.array([max(s2, _LEAST_VARIANCE)]), n)
    found = type(averages)(*(part[0] for part in averages))
    terms = terms_of(found, rows.P, rows.T, rows.A22, correlation, width, head_dim, equal_norms)
    by_weights, by_jacobian = weights * rows.P, weights * rows.T
    one = numpy.outer((1 - 1 / n) * weights, weights / n) * (n[:, None] < n)
    by_pairs = one.sum(0) + one.sum(1)

    def mean(values: Any, by: Any) -> float:
        return float((values * by).sum() / by.sum()) if by.sum() else float(numpy.mean(values))

    T, changes = mean(terms.T, by_jacobian), (mean(part, by_pairs) for part in terms.changes or ())
    asked = mean(terms.T * terms.asked, by_jacobian) / T
    keys, beside = mean(terms.keys, by_jacobian), mean(terms.beside, by_weights)
    return TokenTerms(mean(terms.P, by_weights), T, asked, keys, beside, Changes(*changes))


def terms_of(
    found: Any,
    P: Any,
    T: Any,
    A22: Any,
    correlation: Any,
    width: Any,
    head_dim: int | None,
    equal_norms: bool,
    own_part: Any = 1.0,
    rotation: Any = 1.0,
) -> TokenTerms:
    """As :func:`token_terms`, from the averages of a row and its logits.

    Parameters
    ----------
    own_part : of the variance of a row's logits, the part by what tokens do not share; less than 1 if positions are rotary.
    rotation : the mean cosine between two keys of a row.
    """
    one, apart = 1 / width, 1 - correlation
    own = 1 - A22 / (T + _TINY)  # of T, the share on the Jacobian's diagonal
    share = apart * apart * one if equal_norms else 0.0
    shares = 2 * one * (1 - apart * apart) * own * own_part * rotation if equal_norms else 0.0
    # Of a gradient at a query the part along it comes back through the logits: 1/d_h of it, and 1/d of either token.
    in_query, aligned = 1 / head_dim if head_dim else 0.0, found.aligned - 1
    growth = abs(found.P_growth)  # never negative, but for rounding at variance 0
    changes = Changes(
        found.P_spread * one - share * own_part**2 / 4 * found.P_tails,
        found.T_spread * one - share * own_part**2 / 4 * found.T_tails,
        aligned,
        4 * P * growth / (1 - P + _LEAST_LEFT),
        one * own_part,
        in_query,
        share * own_part * found.weighted,
        shares,
    )
    asked = grown((2 * changes.in_token + in_query) * aligned - 2 * changes.less + shares)
    keys = grown(changes.T - changes.less + changes.in_token * aligned)
    return TokenTerms(grown(changes.P), grown(changes.T), asked, keys, 2 * growth * one, changes)


def grown(change: Any) -> Any:
    """A factor of 1 and a change to first order, positive also where a small width makes the change large."""
    if isinstance(change, float):
        return 1 + change if change >= _MOST_LOST else -(_MOST_LOST**2) / change
    if change.min() >= _MOST_LOST:
        return 1 + change
    import numpy

    lost = numpy.minimum(change, _MOST_LOST)
    return numpy.where(change >= _MOST_LOST, 1 + change, -(_MOST_LOST**2) / lost)


_LEAST_VARIANCE = 1e-9
_MOST_LOST = -0.5
_TINY = 1e-300
_LEAST_LEFT = 1e-9
