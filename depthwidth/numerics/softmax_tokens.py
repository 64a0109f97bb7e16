r"""Averages of a softmax row and its logits together, for attention between tokens of finite width.

Given a query, the logits of a row are the components of the keys' tokens along one direction. Everything else of these tokens
is independent of the weights, if tokens are Gaussian; if they are of one norm, a token with a large component there has less in
all other directions, and the logits have lighter tails than Gaussian ones. All averages here are over n independent logits of
variance s2, with :math:`\hat s = s/\sigma` and J the Jacobian of the softmax.

Derivation: docs/derivations/attention.md, (A24) to (A26).
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from .chebyshev import chebyshev_basis, chebyshev_coefficients, chebyshev_nodes
from .distinct import distinct
from .softmax import overlap

Array = Any

_STEP, _BELOW, _ABOVE, _DEVIATIONS = 0.4, 30.0, 3.75, 8.0
_LOGITS = np.arange(-_DEVIATIONS, _DEVIATIONS + 0.05, 0.1)
_NODES = 18
_LEAST = -700.0


class TokenAverages(NamedTuple):
    """Averages over one row, in proportion to those of :class:`~depthwidth.numerics.softmax.Overlap`."""

    aligned: Array
    """E |J s^|^2 over T: 1 for logits without variance"""
    weighted: Array
    """E sum J_jl^2 (s^_l^2 - 1) over T: the keys that a gradient reaches have large logits"""
    P_tails: Array
    """Change of P by the fourth Hermite polynomial of every logit, over P: -k P for tails with an excess -24 k"""
    T_tails: Array
    """The same of T, over T"""
    P_spread: Array
    """s2^2 d2P/ds2^2 over P: P changes by P_spread v/2 if the variance of a row has the relative variance v"""
    T_spread: Array
    """The same of T, over T"""
    P_growth: Array
    """d ln P / d ln s2, half of E p.(J s) over P"""


def token_averages(variance: Array, length: Array) -> TokenAverages:
    """The averages for logits of variance s2, nats^2, in rows of n entries; the arguments broadcast.

    By Chebyshev polynomials up to the next power of two of the largest variance: right to 1e-4 up to s2 = 8 and n = 512, and to
    0.02 up to 64. s2 >= 0, n >= 1.

    Examples
    --------
    >>> found = token_averages(4.0, 64)
    >>> print(f"{found.aligned:.2f} {found.weighted:.2f}")
    0.72 3.91
    """
    variance, length = np.broadcast_arrays(np.asarray(variance, dtype=float), np.asarray(length, dtype=float))
    flat, lengths = variance.ravel(), length.ravel()
    octave = max(0, math.ceil(math.log2(max(float(flat.max(initial=0.0)), _TINY))))
    found = np.empty((len(TokenAverages._fields), flat.size))
    for n in distinct(lengths):
        here = lengths == n
        basis = chebyshev_basis(2 * np.log1p(flat[here]) / math.log1p(2.0**octave) - 1, _NODES)
        found[:, here] = _coefficients(octave, float(n)) @ basis
    return TokenAverages(*(float(v[0]) if variance.shape == () else v.reshape(variance.shape) for v in found))


_TINY = 1e-9
_AROUND = 0.1


@functools.lru_cache(maxsize=256)
def _coefficients(octave: int, n: float) -> Array:
    """Chebyshev coefficients of the averages over ln(1 + s2), from 0 to a power of two."""
    s2 = np.expm1((chebyshev_nodes(_NODES) + 1) / 2 * math.log1p(2.0**octave))
    found = averages_at(np.maximum(s2, _TINY), np.array([n]))
    return np.stack(found)[..., 0] @ chebyshev_coefficients(_NODES).T


def averages_at(variances: Array, lengths: Array) -> TokenAverages:
    """The averages for rows of each variance and length, which ascend; each of shape (variances, lengths)."""
    near = overlap(variances * np.array([[1 - _AROUND], [1.0], [1 + _AROUND]])[..., None], lengths[:, None], entropy=False)
    (P_below, P, P_above), (T_below, T, T_above) = (np.moveaxis(part, 1, 2) for part in (near.P, near.T))
    whole = np.where(T > 0, T, 1.0)
    spreads = (P_below + P_above - 2 * P) / P / _AROUND**2, (T_below + T_above - 2 * T) / whole / _AROUND**2
    return TokenAverages._make([*averages_of_rows(variances, lengths), *spreads, (P_above - P_below) / (2 * _AROUND * P)])


def averages_of_rows(variances: Array, lengths: Array) -> Array:
    """The first four fields of :class:`TokenAverages` for rows of each variance and length; shape (4, variances, lengths)."""
    found = np.empty((4, variances.size, lengths.size))
    found[0], found[1:] = 1.0, 0.0
    several = np.flatnonzero(lengths >= _FEWEST)
    for at, s2 in enumerate(variances.tolist() if several.size else ()):
        found[:, at, several] = _Row(s2, lengths[several]).averages()
    return found


class _Row:
    """The integrands of the averages at one variance, in rows of several lengths, which ascend and are at least 2."""

    def __init__(self, s2: float, lengths: Array) -> None:
        sigma, z, self.n = math.sqrt(s2), _LOGITS, lengths
        low, high = _BELOW + _DEVIATIONS * sigma + math.log(lengths[-1]), _ABOVE + _DEVIATIONS * sigma
        u = _STEP * np.arange(-math.ceil(low / _STEP), math.ceil(high / _STEP))
        y = u[:, None] + sigma * z
        t = np.exp(np.minimum(y, 6.0))
        kernel = np.exp(-t)
        self.psi = [kernel @ _WEIGHTS]
        less = -np.expm1(-t) @ _WEIGHTS
        self.psi[0][:, 3] = -less[:, 3]
        for _ in range(4):
            kernel = kernel * t
            self.psi.append(kernel @ _WEIGHTS)
        self.one, self.first, self.square = ([part[:, column] for part in self.psi] for column in range(3))
        log_psi = np.where(
            less[:, 0] < 0.5, np.log1p(-np.minimum(less[:, 0], 0.5)), np.log(np.maximum(self.psi[0][:, 0], 1e-300))
        )
        # A row of two has no third entry, and the factor before its average is 0.
        others = (np.maximum(lengths - entries, 0)[:, None] for entries in (1, 2, 3))
        self._powers = [np.exp(np.maximum(number * log_psi, _LEAST)) for number in others]

    def _over_row(self, entries: int, *factors: Array) -> Array:
        """For each length the average of a product over so many different entries; the others have no factor."""
        average: Array = _STEP * (self._powers[entries - 1] @ math.prod(factors))
        return average

    def _tails(self, *orders: int) -> Array:
        """Of the same, the change by He_4 in every entry."""
        plain, entries = [self.psi[k][:, 0] for k in orders], len(orders)
        changed = (self.n - entries) * self._over_row(entries + 1, self.psi[0][:, 3], *plain)
        for place, k in enumerate(orders):
            changed += self._over_row(entries, self.psi[k][:, 3], *plain[:place], *plain[place + 1 :])
        return changed

    def averages(self) -> Array:
        """The first four fields of :class:`TokenAverages`; shape (4, lengths)."""
        n, one, first, square, over_row, tails = self.n, self.one, self.first, self.square, self._over_row, self._tails
        two = n * (n - 1)
        P, M3 = n * over_row(1, one[2]), n / 2 * over_row(1, one[3])
        M4, A22 = n / 6 * over_row(1, one[4]), two / 6 * over_row(2, one[2], one[2])
        T = P - 2 * M3 + M4 + A22
        # sum_l z_l^2 p_l^2 (1 - 2 p_l + sum p^2)
        own = n * over_row(1, square[2] - square[3] + square[4] / 6)
        weighted = own + two / 6 * over_row(2, square[2], one[2])
        # sum_j p_j^2 (z_j - sum_k p_k z_k)^2
        crossed = two * (over_row(2, first[2], first[1]) - over_row(2, first[3], first[1]) / 3)
        mean = two / 6 * (over_row(2, one[2], square[2]) + (n - 2) * over_row(3, one[2], first[1], first[1]))
        aligned = own - crossed + mean
        P_tails = n * tails(2)
        T_tails = P_tails - n * tails(3) + n / 6 * tails(4) + two / 6 * tails(2, 2)
        return np.stack([aligned / T, weighted / T - 1, P_tails / P, T_tails / T])


_DENSITY = np.exp(-_LOGITS * _LOGITS / 2) / np.exp(-_LOGITS * _LOGITS / 2).sum()
_WEIGHTS = _DENSITY[:, None] * np.stack([np.ones_like(_LOGITS), _LOGITS, _LOGITS**2, _LOGITS**4 - 6 * _LOGITS**2 + 3], axis=1)
"""Columns: the averages weighed by 1, z, z^2 and He_4(z)."""
_FEWEST = 2
"""A row of one entry has no Jacobian."""
