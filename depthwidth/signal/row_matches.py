r"""Rows whose own tokens are equal: they see that token, and with it equal keys, more often than other rows do.

A pair of rows of kind k, of different or of equal own tokens, sees a share of equal keys that differs from the mean by
:math:`\mathrm{Cov}(1_k, f)/P(1_k)`, with f the share of equal tokens among the pairs of their keys. The covariance of their
outputs is larger for it, and so are their second moments, by which norms divide it. Second moments are stored for all rows
alike; so the change of the correlation alone is made.

Derivation: docs/derivations/tokens.md, (T16) and (T17).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..numerics.matches import match_covariance, row_match_covariance

Array = Any

_TINY = 1e-9


class OwnMatches(NamedTuple):
    """Covariances of the match of two rows' own tokens with the share of equal tokens among their keys; (pairs,) each."""

    both: Array
    """Among the pairs of one key of each row"""
    first: Array
    """Among the pairs of keys of the first row"""
    second: Array
    match: float
    """Probability that two positions hold the same token"""

    @classmethod
    def of(cls, match: float, n: Array, other: Array, seen: Array, seen_by_other: Array) -> OwnMatches:
        """Those of rows of n and `other` keys; the rest as of :func:`~depthwidth.numerics.matches.match_covariance`."""
        return cls(
            match_covariance(match, n, other, seen, seen_by_other),
            row_match_covariance(match, n, seen),
            row_match_covariance(match, other, seen_by_other),
            match,
        )

    def change(self, covariance: Array, response: Array, first: Array, second: Array, whole: Array) -> Array:
        """Change of the covariance of outputs, so that each kind of pair has its own correlation; (2, pairs).

        Parameters
        ----------
        covariance : of the outputs, of different and of equal own tokens; (2, pairs).
        response : of that to the share of equal tokens, from :func:`match_response`.
        first, second : the response of each row's second moment, over the second moment.
        whole : geometric mean of both rows' second moments, which no covariance is changed to exceed.
        """
        found = response * self.both - covariance * (first * self.first + second * self.second) / 2
        found[0] /= -max(1 - self.match, _TINY)
        found[1] /= self.match
        return np.minimum(found, np.maximum(whole - covariance, 0.0))


def match_response(output: Array, even: Array, whole: Array, gap: Array) -> Array:
    """Slope of a moment of the output by the share of equal tokens among the keys.

    A softmax of the same entropy averages keys that are more alike: its output is linear in their mean covariance, as in (W7).

    Parameters
    ----------
    output : the moment, a second moment or a covariance of two rows.
    even : the same of rows that weigh all keys alike.
    whole : the same if all keys were equal.
    gap : covariance of two equal keys less that of two different ones.
    """
    apart = whole - even
    known = apart > _TINY * whole
    return np.where(known, gap * np.maximum(whole - output, 0.0) / np.where(known, apart, 1.0), 0.0)
