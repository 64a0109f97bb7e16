r"""Terms of order 1/width and 1/head size of attention position by position: each row with its own length and score variance.

Two rows have the factors of their mean. A change of the sum over keys of the products of two rows' weights is a multiple of the
centred covariance K of the keys, which leaves the sums of the rows at 1.

Derivation: docs/derivations/attention.md, (A24) to (A28), and docs/derivations/tokens.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..formulas.attention.token_directions import Changes, pair_terms, terms_of
from ..formulas.attention.token_norms import equal_norm_response, gaussian_norm_response, product_noise, share_noise
from ..numerics.softmax_responses import PairResponse, RowResponse
from ..numerics.softmax_tokens import TokenAverages
from .rotation import Turned

Array = Any

_TINY = 1e-12


class Overlaps(NamedTuple):
    """Pairs of rows of a layer, then each row with itself."""

    pair: PairResponse
    correlation: Array
    variance: Array
    """Geometric mean of both rows' score variances"""
    shared: Array
    """Probability that a key of one row is the key of the other"""
    one: Array
    """1 - 1/n of the shorter row"""
    grown: Array
    """e^theta"""
    jacobian: Array
    """The slope of e^theta"""
    sizes: Array
    """Geometric mean of both queries' second moments"""
    parts: Array
    """Product of the parts of both rows' keys that tokens do not share"""


class Rows(NamedTuple):
    """Rows of a layer, and pairs of them."""

    averages: RowResponse
    tokens: TokenAverages
    own: Array
    """Mean second moment of the keys that a row sees"""
    apart: Array
    """Its part that tokens do not share"""
    overlaps: Overlaps
    gain: Any
    """Variance of a raw score between tokens of second moment 1; a number, or one for each pair of rows"""
    first: Array
    """Of each pair the index of its first row, or the weights of the rows that stand for it (pairs, rows)"""
    second: Array
    split: int
    turned: Turned | None = None
    """Rotation between the rows; None without one"""


class WidthTerms(NamedTuple):
    """Changes in units of a layer's own quantities, over pairs of rows, then each row with itself."""

    overlap: Array
    """Of the weights' overlap, times the part of keys that tokens do not share"""
    two_paths: Array
    """Of the product of the paths through keys and values, in the same units"""
    product: Array
    """The product of two queries in the path of the keys, relative to the mean second moment"""
    asked: Array
    """Factor on the response, in the path of the queries"""
    covariance: Array
    """Of the output"""
    response: Array
    """Of the scores' gradients"""


_LEFT = 0.25  # share of the mean square of unlike tokens' K below which that of two rows does not fall


def bend_per_key(squares: Array, stretch: Any, alone: Array) -> Array:
    """The multiple of the centred K by which the overlap of two rows' weights changes by 1.

    Rotation may turn the K of the scores until its product with that of the values vanishes: a share of `alone` is kept.

    Parameters
    ----------
    squares : mean product of the centred K of scores and values by the weights of both rows.
    stretch : the part of values that tokens do not share, over that of scores.
    alone : the same mean of unlike tokens.
    """
    known = (squares > _TINY) & (alone > _TINY)  # a row of one key has no weights that change
    found: Array = stretch / np.where(known, np.maximum(squares, _LEFT * stretch * alone), np.inf)
    return found


def width_terms_of_blocks(rows: Rows, width: float, head_dims: Array, equal_norms: Any) -> WidthTerms:
    """:func:`width_terms` of several blocks side by side.

    Parameters
    ----------
    head_dims : d_h of each block; 0 for the limit of infinite heads; (n,).
    equal_norms : as there, of all blocks or of each.
    """
    if isinstance(equal_norms, bool) and (head_dims == head_dims[0]).all():  # most stacks
        return width_terms(rows, width, int(head_dims[0]) or None, equal_norms)
    equal = np.broadcast_to(np.asarray(equal_norms, dtype=bool), head_dims.shape)
    found = None
    for dims, one in sorted(set(zip(head_dims.tolist(), equal.tolist(), strict=True))):
        part = width_terms(rows, width, dims or None, one)
        here = ((head_dims == dims) & (equal == one)).take(rows.first)
        found = part if found is None else WidthTerms(*(np.where(here, a, b) for a, b in zip(part, found, strict=True)))
    return found  # type: ignore[return-value]


def width_terms(rows: Rows, width: float, head_dim: int | None, equal_norms: bool) -> WidthTerms:
    """All terms of one layer.

    Parameters
    ----------
    width, head_dim : d and d_h; the latter None for the limit of infinite heads.
    equal_norms : whether all tokens have one norm, or those of Gaussian vectors.
    """
    row, a, b, split = rows.averages, rows.first, rows.second, rows.split
    response, rho, variance, shared, one, grown, jacobian, sizes, parts = rows.overlaps
    turned = rows.turned
    of_keys, own_part, near = parts / width, 1.0, 1.0
    if turned is not None:  # rotation turns the products of keys in the scores; r is that of the values
        of_keys, own_part, near = of_keys * turned.products(a, b), turned.stretch[split:], 1 - turned.lost
    rest = rows.apart * own_part / np.maximum(rows.own, _TINY)  # 1 - r
    M3, A22 = (row.attraction - 1 + 3 * row.P) / 2, (row.query_noise - row.attraction) / 2
    M4 = row.T - row.P + 2 * M3 - A22
    terms = terms_of(rows.tokens, row.P, row.T, A22, 1 - rest, width, head_dim, equal_norms, own_part, near)
    found: Changes = terms.changes  # type: ignore[assignment]
    shares = found.shares if equal_norms else 0.0 * rest
    alone = 1 - row.P
    in_token = found.in_token + 0.0 * rest
    both = np.array(
        [
            found.P, found.T, found.aligned, found.independent, in_token, found.less, shares, terms.beside,
            row.attraction * near, rest, rows.apart,
        ]
    )  # fmt: skip
    both = _of_rows(both, a) if a is b else (_of_rows(both, a) + _of_rows(both, b)) / 2
    P, T, aligned, independent, in_token, less, shares, beside, attraction, rest_of_pair, apart = both
    pair = pair_terms(Changes(P, T, aligned, independent, in_token, found.in_query, less, shares), rho)

    P2, T2 = shared * (1 + one * (grown - 1)), shared * one * jacobian
    left = _of_rows(alone, a) * _of_rows(alone, b)
    # The map of the keys spreads the product of queries as their own map does, 1/d for 1/d_h; so do the two asking tokens.
    square, per_head = rho * rho, (head_dim or 0) / width
    mapped = (response.product - rho) * per_head
    asking = (1 - square) ** 2 / (1 + square) if equal_norms else 1.0
    overlap = P2 * (pair.P - 1) + variance / 2 * T2 * mapped * asking
    two_paths = beside * rho * P2
    product = (response.product + mapped * (1 + asking)) * pair.keys
    asked = pair.asked
    across = rho if turned is None else turned.across
    noise = product_noise(left, attraction, P2, across)
    if equal_norms:
        noise = noise - (1 - rest_of_pair**2) * share_noise(left, attraction, P2, across)
        norms = -(1 - rest**2) * equal_norm_response(row.P, M3, M4) * near
    else:
        norms = 2 * gaussian_norm_response(row.P, M3, M4)
    noise[split:] = row.output_noise * near + norms
    responding = left - T2
    responding[split:] = row.query_noise
    if turned is not None:
        responding *= turned.different
    overlap[split:], two_paths[split:] = row.P * (terms.P - 1), row.P * terms.beside
    product[split:] = (row.norm + (row.norm - 1) * per_head) * terms.keys
    asked[split:] = terms.T * terms.asked
    covariance = rows.gain * sizes * of_keys * noise
    return WidthTerms(overlap * apart, two_paths * apart, product, asked, covariance, responding * of_keys)


def _of_rows(values: Array, rows: Array) -> Array:
    """Values (..., rows) at one row of each pair, by its index or by weights."""
    found: Array = values.take(rows, axis=-1) if rows.ndim == 1 else values @ rows.T
    return found
