r"""Exact averages of a softmax over n independent Gaussian logits, for any n and any variance, by quadrature.

With logits x_j ~ N(0, s2), Z = sum_j exp(x_j) and p_j = exp(x_j) / Z, write 1/Z^k as an integral of exp(-tZ), in which the
logits factorise. With t = e^u and K_j(y) = e^{jy} exp(-e^y),

.. math:: \psi_j(u) = E\, K_j(u + x), \qquad E \sum_i p_i^j = \frac{n}{(j-1)!} \int \psi_j(u)\, \psi_0(u)^{n-1}\, du

All terms of the sums are positive, so probabilities as small as 1e-9 are accurate. Averages over two rows with correlated
logits are analogous integrals over two variables. Nothing is assumed about n; the common log-normal approximations have errors
of 16 % at n = 64, s2 = 1, and of a factor of six at s2 = 4.

Exchangeable logits, x_j = common + noise, have the same softmax as the noise alone; s2 is then (1 - r) times the variance of a
raw score, where r is the correlation of two scores.

Derivation: docs/derivations/softmax.md, (S1) to (S9).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np

from ..checks import whole
from ..errors import InputError
from ..mathematics import harmonic
from . import softmax_grid as quad
from .bounds import LARGEST_VARIANCE
from .bounds import LONGEST as LARGEST_LENGTH
from .chebyshev import chebyshev_basis, chebyshev_nodes
from .distinct import distinct
from .gauss import gauss_legendre
from .hermite import gauss_hermite
from .softmax_grid import head_norms

LARGEST_PAIR_VARIANCE = 1e3
# Sums over two variables have the square of the number of nodes and a tolerance of only 3e-8, so their grid is coarser and
# shorter.
_PAIR_STEP = 0.3
_PAIR_BELOW = 24.0
_PAIR_DEVIATIONS = 8.0
_PAIR_NODES = 10
DEAD = -40.0
_ROWS_AT_ONCE = 1024
_ROWS_IN_CACHE = 64
"""Rows whose exponents, some 300 each, stay in a processor's cache."""

Array = Any
_Fields = TypeVar("_Fields")


class Overlap(NamedTuple):
    """Averages over one row of softmax probabilities p_1 ... p_n. Each field has the broadcast shape of the arguments."""

    P: Array
    """E sum p^2, from 1/n (uniform) to 1 (one-hot); its inverse is the effective number of entries"""
    M3: Array
    """E sum p^3"""
    M4: Array
    """E sum p^4"""
    A22: Array
    """E sum over i != j of p_i^2 p_j^2"""
    T: Array
    """E ||diag p - p p'||^2, the squared Frobenius norm of the softmax's Jacobian"""
    entropy: Array
    """E of -sum p ln p, in nats"""
    log_partition: Array
    """E ln Z, in nats"""

    @property
    def jacobian_trace(self) -> Array:
        """E trace(diag p - p p') = 1 - P."""
        return 1 - self.P

    def element_variance(self, length: Array) -> Array:
        """Variance of one probability, P/n - 1/n^2, for rows of length n."""
        return (self.P - 1 / np.asarray(length, dtype=float)) / length


class PairOverlap(NamedTuple):
    """Averages over two rows of probabilities p and p' whose logits are correlated within each column."""

    P2: Array
    """E sum p_j p'_j"""
    M21: Array
    """E sum p_j^2 p'_j"""
    M12: Array
    """E sum p_j p'_j^2; equals M21 for rows of one length"""
    T2: Array
    """E trace[(diag p - p p')(diag p' - p' p'')], the overlap of the two Jacobians"""


# ---- one row ----


def overlap(variance: Array, length: Array, head_dim: int | None = None, *, entropy: bool = True) -> Overlap:
    r"""Averages of a softmax over independent Gaussian logits.

    Parameters
    ----------
    variance : s2, variance of each logit, in nats^2. 0 <= s2 <= 1e4. A number or an array.
    length : n, entries in the row. A whole number from 1 to 2^40, or an array that broadcasts against `variance`.
    head_dim : d_h, dimensions of a query. If it is given, logits are products of a Gaussian query with Gaussian keys: their
        variance is s2 times \|q\|^2/d_h, and averages include the norm of the query. None means infinite d_h.
    entropy : False leaves out the entropy and ln Z, which take half of the time; they are then NaN.

    Returns
    -------
    :class:`Overlap`.

    Raises
    ------
    InputError
        if an argument is outside its range.

    Notes
    -----
    The relative error is below 5e-12 up to s2 = 50 and n = 131072, measured against finer grids and, for n = 2, against
    multiple precision. The entropy is E ln Z - s2 (1 - P), which suffers from cancellation if it is small: its absolute error
    is below 1e-11.

    Examples
    --------
    >>> row = overlap(1.0, 64)
    >>> print(f"{row.P:.5f} {row.T:.5f} {row.entropy:.4f}")
    0.03880 0.03408 3.6847
    >>> overlap([0.0, 1.0], 4).P.round(4).tolist()
    [0.25, 0.392]
    """
    variance, length = _rows(variance, length)
    return _to_fields(Overlap, _average_over_norms(variance.ravel(), length.ravel(), head_dim, entropy=entropy), variance.shape)


def _average_over_norms(variance: Array, length: Array, head_dim: int | None, *, entropy: bool) -> Array:
    if head_dim is None:
        return _row_averages(variance, length, entropy)
    scales, weights = _norms("overlap", variance, head_dim)
    spread = variance[:, None] * scales
    lengths = np.broadcast_to(length[:, None], spread.shape)
    return _row_averages(spread.ravel(), lengths.ravel(), entropy).reshape(-1, *spread.shape) @ weights


def _norms(name: str, variance: Array, head_dim: int | None) -> tuple[Array, Array]:
    """Squared norms of a query, over their mean, and their weights; one norm in infinitely many dimensions."""
    if head_dim is None:
        return np.ones(1), np.ones(1)
    scales, weights = head_norms(whole(name, "head_dim", head_dim), quad.enough_nodes(head_dim))
    if variance.size and variance.max() * scales.max() > LARGEST_VARIANCE:
        raise InputError(f"with head_dim={head_dim} the variance can be at most {LARGEST_VARIANCE / scales.max():.4g}")
    return scales, weights


def _rows(variance: Array, length: Array) -> tuple[Array, Array]:
    variance, length = np.asarray(variance), np.asarray(length)
    for name, values in (("variance", variance), ("length", length)):
        if values.dtype.kind not in "iuf":
            raise InputError(f"{name} holds {values.dtype} values, not real numbers")
    variance, length = variance.astype(float), length.astype(float)
    if not np.all((variance >= 0) & (variance <= LARGEST_VARIANCE)):
        raise InputError(f"variance is outside [0, {LARGEST_VARIANCE:g}]")
    if not np.all((length >= 1) & (length <= LARGEST_LENGTH) & (length % 1 == 0)):
        raise InputError("length is outside the whole numbers of [1, 2^40]")
    try:
        variance, length = np.broadcast_arrays(variance, length)
    except ValueError:
        raise InputError(f"variance of shape {variance.shape} and length of shape {length.shape} do not broadcast") from None
    return variance, length


def _to_fields(kind: Callable[..., _Fields], values: Array, shape: tuple[int, ...]) -> _Fields:
    return kind(*(float(v[0]) if shape == () else v.reshape(shape) for v in values))


def _row_averages(variance: Array, length: Array, entropy: bool) -> Array:
    """The fields of :class:`Overlap` for flat arrays, shape (fields, elements). Variances in one octave share a grid."""
    result = np.empty((len(Overlap._fields), variance.size))
    octave = np.ceil(np.log2(np.maximum(variance, 1e-3)))
    octave[variance == 0] = -np.inf
    for value in distinct(octave):
        members = np.flatnonzero(octave == value)
        at_once = _ROWS_AT_ONCE if value <= 6 else _ROWS_AT_ONCE // 16
        for part in np.array_split(members, math.ceil(members.size / at_once)):
            if value == -np.inf:
                result[:, part] = _uniform_averages(length[part])
            else:
                result[:, part] = _octave_averages(variance[part], length[part], entropy)
    return result


def _uniform_averages(n: Array) -> Array:
    return np.stack([1 / n, n**-2, n**-3, (n - 1) / n**3, (1 - 1 / n) / n, np.log(n), np.log(n)])


def _octave_averages(variance: Array, n: Array, entropy: bool) -> Array:
    several = distinct(variance)
    index: Array = np.searchsorted(several, variance)
    sigma, widest = np.sqrt(several), math.sqrt(several[-1])
    longest = math.log(n.max())
    low = quad.BELOW + quad.DEVIATIONS * widest + longest
    u = quad.STEP * np.arange(-math.ceil(low / quad.STEP), math.ceil((quad.ABOVE + quad.DEVIATIONS * widest) / quad.STEP))
    less, psi0, psi2, psi3, psi4 = quad.average_kernels(u, quad.STEP, sigma, (2, 3, 4), longest)
    log_psi0 = quad.log_psi(less, psi0)
    # Probabilities get nothing from the lower end, which the sum for ln Z needs: psi_2 falls as e^(2u), psi_3 and psi_4 faster.
    start = int(np.argmax(psi2[-1] * math.exp(2 * longest) > _NOTHING))
    weights = np.stack([part[:, start:] for part in (psi2, psi3 / 2, psi4 / 6, psi2**2 / 6 / psi0)], axis=2)
    plain = -np.expm1(-np.exp(np.minimum(u, 5.0)))  # 1 - exp(-e^u)
    sums, log_z = np.empty((n.size, 4)), np.full(n.size, math.nan)
    order = np.argsort(index, kind="stable")
    for some in np.array_split(order, math.ceil(n.size / _ROWS_IN_CACHE)):
        exponent, own = log_psi0[index[some]], index[some]
        powers = exponent[:, start:] * (n[some, None] - 1)
        np.exp(np.maximum(powers, quad.LEAST, out=powers), out=powers)
        edges = [0, *(np.flatnonzero(np.diff(own)) + 1).tolist(), some.size]
        for first, last in itertools.pairwise(edges):
            sums[some[first:last]] = powers[first:last] @ weights[own[first]]
        if entropy:
            exponent *= n[some, None]
            np.expm1(np.maximum(exponent, quad.LEAST, out=exponent), out=exponent)
            log_z[some] = -quad.STEP * (exponent + plain).sum(-1)
    m2, m3, m4, a22 = (quad.STEP * n) * sums.T
    a22 = a22 * (n - 1)
    rows = np.stack([m2, m3, m4, a22, m2 - 2 * m3 + m4 + a22, log_z - variance * (1 - m2), log_z])
    rows[:, n == 1] = np.array([[1.0], [1.0], [1.0], [0.0], [0.0], [0.0], [0.0]])
    return rows


_NOTHING = 1e-22
"""Weight of a node, relative to 1 / n^2, below which it adds nothing to a sum of probabilities."""


# ---- two rows ----


def pair_overlap(variance: Array, correlation: Array, length: Array, longer: Array | None = None) -> PairOverlap:
    r"""Averages over two rows of softmax probabilities whose Gaussian logits are correlated within each column.

    Parameters
    ----------
    variance : s2, variance of each logit in both rows, in nats^2. 0 <= s2 <= 1000.
    correlation : rho, correlation of the two logits of a column. -1 <= rho <= 1.
    length : n, entries of the first row. A whole number from 1 to 2^40.
    longer : n' >= n, entries of the second row; its first n columns are those of the first row, as with a causal mask. By
        default n.

    Returns
    -------
    :class:`PairOverlap`; the arguments are broadcast.

    Raises
    ------
    InputError
        if an argument is outside its range.

    Notes
    -----
    The relative error is below 3e-8 up to s2 = 9 and n = 4096, measured against finer grids.

    Examples
    --------
    >>> pair = pair_overlap(1.0, 0.5, 64)
    >>> print(f"{pair.P2:.5f} {pair.T2:.5f}")
    0.02481 0.02259
    """
    shape = np.broadcast_shapes(*(np.shape(v) for v in (variance, correlation, length, length if longer is None else longer)))
    variance, length = _rows(np.broadcast_to(variance, shape), length)
    longer = length if longer is None else _rows(variance, longer)[1]
    correlation = np.broadcast_to(np.asarray(correlation, dtype=float), shape)
    if not np.all(np.abs(correlation) <= 1):
        raise InputError("correlation is outside [-1, 1]")
    if not np.all(variance <= LARGEST_PAIR_VARIANCE):
        raise InputError(f"variance is outside [0, {LARGEST_PAIR_VARIANCE:g}], the range for two rows")
    if not np.all(longer >= length):
        raise InputError("longer is below length")
    result = np.empty((len(PairOverlap._fields), variance.size))
    keys = np.stack([variance.ravel(), correlation.ravel()])
    several, index = np.unique(keys, axis=1, return_inverse=True)
    index = index.ravel()
    lengths, longers = length.ravel(), longer.ravel()
    for which, (s2, rho) in enumerate(several.T):
        members = np.flatnonzero(index == which)
        result[:, members] = _pairs(float(s2), float(rho), lengths[members], longers[members])
    return _to_fields(PairOverlap, result, shape)


def _pairs(s2: float, rho: float, lengths: Array, longers: Array) -> Array:
    result = np.empty((len(PairOverlap._fields), lengths.size))
    alone = lengths == 1  # the first row is one-hot, so only the second row's first entry matters, 1/n' on average
    if alone.any():
        second = overlap(s2, longers[alone])
        result[:, alone] = 1 / longers[alone]
        result[2, alone] *= second.P
        result[3, alone] = 0
    rows = np.flatnonzero(~alone)
    if rows.size:
        grid = _PairGrid(s2, rho, lengths[rows].min(), longers[rows].max())
        for i in rows:
            extra = longers[i] - lengths[i]
            result[:, i] = grid.at(lengths[i], np.exp(np.maximum(extra * grid.log_psi0, quad.LEAST)) if extra else None)
    return result


class _PairGrid:
    """The part of the pair integrals at one variance and correlation that is the same for all lengths."""

    def __init__(
        self,
        s2: float,
        rho: float,
        shortest: float,
        longest: float,
        orders: tuple[int, ...] = (1, 2),
        *,
        step: float | None = None,
        below: float | None = None,
    ) -> None:
        sigma, longest = math.sqrt(s2), math.log(longest)
        self.step, below = (own if given is None else given for given, own in ((step, _PAIR_STEP), (below, _PAIR_BELOW)))
        shared, own = sigma * math.sqrt(abs(rho)), np.array([sigma * math.sqrt(1 - abs(rho))])
        u = _live_points(sigma, shortest, longest, self.step, below)
        parts = math.ceil(self.step / (quad.COARSEST * shared)) if shared else 0
        if 1 <= parts <= 4:
            fine = self.step / parts
            reach = math.ceil(_PAIR_DEVIATIONS * shared / fine)
            weights = np.exp(-((fine * np.arange(-reach, reach + 1) / shared) ** 2) / 2)
            weights /= weights.sum()
            wide = u[0] + fine * np.arange(-reach, parts * (u.size - 1) + reach + 1)
            values = np.concatenate(quad.average_kernels(wide, fine, own, orders, longest))
            rows = np.lib.stride_tricks.sliding_window_view(values, weights.size, axis=1)[:, ::parts]
        else:
            z, weights = gauss_hermite(_PAIR_NODES) if shared else (np.zeros(1), np.ones(1))
            rows = np.stack(quad.average_kernels_around(u, shared * z, self.step, own, orders, longest)).transpose(0, 2, 1)
        less, k0, k1, k2, *more = np.ascontiguousarray(rows)
        mirror = slice(None, None, -1) if rho < 0 else slice(None)  # sign of the common part of the logits in the second row
        less_m, k0_m, k1_m, k2_m = (v[:, mirror].T for v in (less, k0, k1, k2))
        marginal = less @ weights  # of the second row, too: the weights are symmetric
        both = marginal[:, None] + marginal - (less * weights) @ less_m
        self.log_both = quad.log_psi(both, (k0 * weights) @ k0_m)
        self.log_psi0 = quad.log_psi(marginal, k0 @ weights)
        self._first, self._second = (k1 * weights, k1_m), (k2 * weights, k2_m)
        self.n11 = self._product(self._first, self._first)
        self.live = np.maximum(self.log_both, quad.LEAST)
        self.cross = self.n11 * self.n11 * np.exp(-self.live)
        self.s2, self.rho = s2, rho
        if more:
            self.n31, self.n20, self.n02 = (more[0] * weights) @ k1_m, self._second[0] @ k0_m, (k0 * weights) @ k2_m

    @staticmethod
    def _product(one: tuple[Array, Array], other: tuple[Array, Array]) -> Array:
        """E K K' of two kernels, each with the weights of its own row and as a column of the second."""
        found: Array = one[0] @ other[1]
        return found

    @functools.cached_property
    def n21(self) -> Array:
        """E K_2 K_1'."""
        return self._product(self._second, self._first)

    @functools.cached_property
    def n12(self) -> Array:
        """E K_1 K_2'."""
        return self._product(self._first, self._second)

    @functools.cached_property
    def n22(self) -> Array:
        """E K_2 K_2'."""
        return self._product(self._second, self._second)

    def jacobians(self) -> Array:
        """E (K_1 - K_2)(K_1' - K_2'), the diagonal part of the overlap of two Jacobians."""
        (one, one_m), (two, two_m) = self._first, self._second
        return self._product((one - two, one_m - two_m), (one - two, one_m - two_m))

    def squares(self, n: float) -> tuple[float, float]:
        """E sum p_i^2 sum p_j p'_j and E sum p_i^2 sum p'_j^2 for rows of n entries, of a grid with the orders 1, 2 and 3."""
        powers = np.exp(np.maximum((n - 1) * self.log_both, quad.LEAST)) * (self.step**2 * n)
        others = (n - 1) * np.exp(-self.live)
        crossed = self.n31 + others * self.n20 * self.n11, self.n22 + others * self.n20 * self.n02
        return float(np.vdot(powers, crossed[0])) / 2, float(np.vdot(powers, crossed[1]))

    def at(self, n: float, second_row: Array | None) -> Array:
        """P2, M21, M12 and T2 for rows of n entries; `second_row` is the factor over u' of the second row's other columns."""
        powers = np.exp(np.maximum((n - 1) * self.log_both, quad.LEAST)) * (self.step**2 * n)
        if second_row is not None:
            powers *= second_row
        p2, m21, m12, m22, a22 = (float(np.vdot(powers, v)) for v in (self.n11, self.n21, self.n12, self.n22, self.cross))
        return np.array([p2, m21, m12, p2 - m21 - m12 + m22 + (n - 1) * a22])


@functools.lru_cache(maxsize=16)
def _live_points(sigma: float, shortest: float, longest: float, step: float, below: float) -> Array:
    """Points of u at which a row of the shortest length has any weight; `longest` is the logarithm of the longest length."""
    low, high = below + _PAIR_DEVIATIONS * sigma + longest, quad.ABOVE + _PAIR_DEVIATIONS * sigma
    u = step * np.arange(-math.ceil(low / step), math.ceil(high / step))
    less, k0 = (v[0] for v in quad.average_kernels(u, step, np.array([sigma]), (1,), longest)[:2])
    return u[(shortest - 1) * quad.log_psi(less, k0) > DEAD]  # a range from the lower end up


class PairSquares(NamedTuple):
    """Averages of the fourth order over two rows of probabilities p and p' whose logits are correlated within each column."""

    S2D: float
    """E sum p^2 sum p p'"""
    S22: float
    """E sum p^2 sum p'^2"""


def pair_squares(variance: float, correlation: float, length: int) -> PairSquares:
    r"""Averages over two rows of probabilities for the gradient of the cross-entropy, in addition to :func:`pair_overlap`.

    Parameters
    ----------
    variance, correlation, length : s2, rho and n, as in :func:`pair_overlap`.

    Returns
    -------
    :class:`PairSquares`. With t = e^u, 1/Z^3 is the integral of t^2 exp(-tZ)/2, so that the kernels K_3, K_2 and K_1 enter.

    Examples
    --------
    >>> two = pair_squares(1.0, 0.5, 64)
    >>> one = overlap(1.0, 64)
    >>> round(two.S2D / (one.P * pair_overlap(1.0, 0.5, 64).P2), 3), round(two.S22 / one.P**2, 3)
    (1.051, 1.014)
    """
    if not 0 <= variance <= LARGEST_PAIR_VARIANCE or not abs(correlation) <= 1:
        raise InputError(f"variance is outside [0, {LARGEST_PAIR_VARIANCE:g}] or correlation outside [-1, 1]")
    n = float(whole("pair_squares", "length", length))
    if n == 1:
        return PairSquares(1.0, 1.0)
    return PairSquares(*_PairGrid(float(variance), float(correlation), n, n, (1, 2, 3)).squares(n))


# ---- a whole attention map ----


class AttentionOverlap(NamedTuple):
    """Averages over the rows of an attention map and over pairs of different rows, for the moments of an attention layer."""

    P: Array
    """E sum p^2"""
    M3: Array
    """E sum p^3"""
    A22: Array
    """E sum over i != j of p_i^2 p_j^2"""
    T: Array
    """E ||diag p - p p'||^2"""
    R: Array
    """T with the query's squared norm |q|^2/d_h as a factor inside the average; equals T for infinite d_h"""
    P2: Array
    """E sum p_j p'_j"""
    T2: Array
    """E trace[(diag p - p p')(diag p' - p' p'')]"""
    R2: Array
    """T2 with the product q.q'/d_h of the two queries as a factor inside the average; equals rho T2 for infinite d_h"""
    entropy: Array
    """E of -sum p ln p, in nats"""
    log_partition: Array
    """E ln Z, in nats"""


def attention_overlap(
    variance: Array, correlation: Array, length: Array, causal: bool = False, head_dim: int | None = None
) -> AttentionOverlap:
    """The averages of an attention map with exchangeable tokens.

    Parameters
    ----------
    variance : s2, variance of a row's scores without their common part, in nats^2. 0 <= s2 <= 1000.
    correlation : rho, correlation of the scores of two rows in the same column; in self-attention it equals the correlation of
        the tokens. -1 <= rho <= 1.
    length : n, number of keys per row; with `causal`, the number of rows, of which row i attends to i keys. A whole number from
        1 to 2^40.
    causal : average over row lengths 1 to n, and over pairs of rows of different lengths.
    head_dim : d_h. If it is given, averages over one row include the norm of its query, as in :func:`overlap`, and averages
        over two rows include the product and the norms of their queries, :func:`query_pairs`.

    Returns
    -------
    :class:`AttentionOverlap`; the arguments are broadcast. A single causal row has no pairs: P2 = 1, T2 = R2 = 0.

    Raises
    ------
    InputError
        if an argument is outside its range.

    Notes
    -----
    Causal sums are exact over the first 64 rows; the others are integrated over ln n with an error of 1e-5.

    Examples
    --------
    >>> round(attention_overlap(1.0, 0.2, 64).P, 5)
    0.0388
    >>> round(attention_overlap(1.0, 0.2, 64, causal=True).P, 4)
    0.127
    """
    if not causal:
        row = overlap(variance, length, head_dim)
        shape = np.broadcast_shapes(np.shape(row.P), np.shape(correlation))
        s2, rho, n = (np.broadcast_to(np.asarray(v, dtype=float), shape)[..., None] for v in (variance, correlation, length))
        if not np.all(np.abs(rho) <= 1):
            raise InputError("correlation is outside [-1, 1]")
        products, sizes, weights = query_pairs(rho, head_dim)
        pair = pair_overlap(s2 * sizes, products / sizes, n)
        two = (pair.P2 @ weights, pair.T2 @ weights, (products * pair.T2) @ weights)
        longer = row.T if head_dim is None else overlap(*_weight_by_norm(variance, head_dim, length)).T
        fields = (row.P, row.M3, row.A22, row.T, longer, *two, row.entropy, row.log_partition)
        values = np.stack([np.broadcast_to(v, shape).ravel() for v in fields])
        return _to_fields(AttentionOverlap, values, shape)
    shape = np.broadcast_shapes(np.shape(variance), np.shape(correlation), np.shape(length))
    variance, length = _rows(np.broadcast_to(variance, shape), length)
    correlation = np.broadcast_to(np.asarray(correlation, dtype=float), shape)
    if not np.all(np.abs(correlation) <= 1):
        raise InputError("correlation is outside [-1, 1]")
    if not np.all(variance <= LARGEST_PAIR_VARIANCE):
        raise InputError(f"variance is outside [0, {LARGEST_PAIR_VARIANCE:g}], the range for two rows")
    problems = zip(variance.ravel(), correlation.ravel(), length.ravel(), strict=True)
    values = (
        np.array([_causal_averages(float(s2), float(rho), float(n), head_dim) for s2, rho, n in problems])
        .reshape(-1, len(AttentionOverlap._fields))
        .T
    )
    return _to_fields(AttentionOverlap, values, shape)


def _weight_by_norm(variance: Array, head_dim: int, length: Array) -> tuple[Array, Array, int]:
    """Arguments of :func:`overlap` for averages weighted by the query's squared norm.

    The density of chi-square with d_h degrees of freedom times its variable is, up to a factor, that with d_h + 2.
    """
    return np.asarray(variance) * (head_dim + 2) / head_dim, length, head_dim + 2


_PRODUCT_NODES = 5


def query_products(rho: Array, head_dim: int | None) -> tuple[Array, Array]:
    """Nodes and weights of the average over q.q'/d_h, a Gaussian with variance (1 + rho^2)/d_h."""
    if head_dim is None:
        return rho, np.ones(1)
    z, weights = gauss_hermite(_PRODUCT_NODES)
    return rho + z * np.sqrt((1 + rho**2) / head_dim), weights


_HEXAGON = 2 * np.exp(1j * np.pi / 3 * np.arange(6))
"""With the origin, exact for polynomials of two Gaussian variables up to the fifth degree."""
LARGEST_DEVIATION = 2.0
"""Largest deviation of a product or a size among the nodes of :func:`query_pairs`, in standard deviations."""


def query_pairs(rho: Array, head_dim: int | None) -> tuple[Array, Array, Array]:
    """Nodes of q.q'/d_h and of |q||q'|/d_h for two queries of correlation rho, and their weights, along the last axis.

    The scores of two rows have the product as their covariance and the size as their variance. Both are taken as Gaussian: of
    variance (1 + rho^2)/d_h each and covariance 2 rho/d_h.

    Derivation: docs/derivations/softmax.md, (S12).
    """
    if head_dim is None:
        return rho, np.ones_like(rho), np.ones(1)
    square = rho * rho
    both = np.append(0.0, _HEXAGON)
    apart = both.real * np.sqrt((1 + square) / head_dim)
    sizes = 1 + 2 * rho / (1 + square) * apart + both.imag * (1 - square) / np.sqrt((1 + square) * head_dim)
    products = rho + apart
    return products, np.maximum(np.maximum(sizes, np.abs(products)), _LEAST_SIZE), np.append(0.5, np.full(6, 1 / 12))


_LEAST_SIZE = 1e-3
"""Least variance of a row, relative to its mean, in heads of a few dimensions"""


_EXACT_ROWS = 64
_SAMPLED_ROWS = 24


def row_lengths(length: int) -> tuple[Array, Array]:
    """Lengths and weights of the average of a smooth function of the length over the rows 1 to `length` of a causal mask.

    The first 64 rows are summed exactly. The others are replaced by an integral over ln n, from half a row before the first of
    them to half a row after the last.
    """
    exact = np.arange(1.0, min(length, _EXACT_ROWS) + 1)
    if length <= _EXACT_ROWS:
        return exact, np.full(exact.size, 1 / length)
    low, high = math.log(_EXACT_ROWS + 0.5), math.log(length + 0.5)
    nodes, weights = gauss_legendre(_SAMPLED_ROWS)
    sampled = np.exp(low + (high - low) * (nodes + 1) / 2)
    return np.concatenate([exact, sampled]), np.concatenate([exact * 0 + 1, weights * (high - low) / 2 * sampled]) / length


def _causal_averages(s2: float, rho: float, length: float, head_dim: int | None) -> list[float]:
    n, weights = row_lengths(int(length))
    p, m3, _, a22, t, entropy, log_z = _average_over_norms(np.full(n.size, s2), n, head_dim, entropy=True) @ weights
    longer = t
    if head_dim is not None:
        variance, lengths, dims = _weight_by_norm(np.full(n.size, s2), head_dim, n)
        longer = _average_over_norms(variance, lengths, dims, entropy=False)[Overlap._fields.index("T")] @ weights
    if length == 1:
        return [p, m3, a22, t, longer, 1.0, 0.0, 0.0, entropy, log_z]
    two = np.zeros(3)
    for product, size, share in zip(*query_pairs(np.array([rho]), head_dim), strict=True):
        p2, t2 = _causal_pairs(s2 * float(size), float(product / size), length, n, weights)
        two += share * np.array([p2, t2, product * t2])
    return [p, m3, a22, t, longer, *map(float, two), entropy, log_z]


def _causal_pairs(s2: float, rho: float, length: float, lengths: Array, weights: Array) -> tuple[float, float]:
    """P2 and T2, averaged over pairs of rows of different lengths."""
    grid = _PairGrid(s2, rho, 2.0, length)
    kept = np.exp(np.maximum(grid.log_psi0, quad.LEAST))
    left = -np.expm1(np.maximum(grid.log_psi0, quad.LEAST))
    p2 = t2 = 0.0
    for rows, weight in zip(lengths, weights, strict=True):
        following = length - rows
        if rows == 1:  # the only entry is 1, and the first entry of a row of length n' is 1/n' on average
            p2 += weight * (harmonic(length) - 1)
        elif following > 0:
            # If the second row is k entries longer, the factor is psi_0^k: its sum over k = 1 ... `following`.
            sums = grid.at(rows, -np.expm1(np.maximum(following * grid.log_psi0, quad.LEAST)) * kept / left)
            p2 += weight * sums[0]
            t2 += weight * sums[3]
    pairs = (length - 1) / 2
    return float(p2 / pairs), float(t2 / pairs)


class OverlapTable:
    """Interpolated :func:`attention_overlap` of self-attention at one score variance and length, for recursions over depth.

    In such a recursion only the tokens' correlation r changes. It determines the variance (1 - r) ss of a row's scores and the
    correlation r of the scores of two rows.

    Parameters
    ----------
    score_variance : ss, variance of a raw score q.k / sqrt(d_h), in nats^2. 0 <= ss <= 1000.
    length : number of tokens. A whole number from 1 to 2^40.
    causal : each row attends to itself and to earlier tokens only.
    head_dim : as in :func:`attention_overlap`.
    lowest : least correlation, from -1 to 0.
    averages : the averages at correlations r (n,), if they are not those of :func:`attention_overlap`.

    Notes
    -----
    The relative error is below 1e-5 for infinite d_h. With `head_dim` it is below 1e-4 for d_h = 64 and ss up to 4. It is up
    to 3e-3 in P2, T2 and R2 for d_h of 32 or less and larger ss; the average over q.q'/d_h has the same error there.

    Examples
    --------
    >>> table = OverlapTable(1.0, 64)
    >>> round(table(0.25).P, 4), round(attention_overlap(0.75, 0.25, 64).P, 4)
    (0.0315, 0.0315)
    """

    def __init__(
        self,
        score_variance: float,
        length: int,
        causal: bool = False,
        head_dim: int | None = None,
        lowest: float = 0.0,
        averages: Callable[[Array], AttentionOverlap] | None = None,
    ) -> None:
        self.score_variance, self.length, self.causal, self.head_dim = score_variance, length, causal, head_dim
        self.lowest = lowest
        # For finite d_h the average over q.q'/d_h is not smooth near r = 1, so more nodes than these improve little.
        for degree in (12, 24, 48) if head_dim is None else (16,):
            nodes = chebyshev_nodes(degree + 1)
            r = lowest + (1 - lowest) * (nodes + 1) / 2
            if averages is None:
                values = np.array(attention_overlap((1 - r) * score_variance, r, length, causal, head_dim))
            else:
                values = np.array(averages(r))
            values[_R2] /= np.maximum(values[_T2], 1e-300)  # interpolate the ratio R2/T2, which may change sign
            self._logs = np.all(values > 0, axis=1)
            self._logs[_R2] = False
            values[self._logs] = np.log(values[self._logs])
            self._coefficients = np.linalg.solve(chebyshev_basis(nodes, degree + 1).T, values.T)
            if np.abs(self._coefficients[-2:]).max() < _TABLE_TAIL:
                break

    def __call__(self, correlation: Array) -> AttentionOverlap:
        """The averages at given correlations r of the tokens, lowest <= r <= 1."""
        r = np.asarray(correlation, dtype=float)
        low = self.lowest
        if not np.all((r >= low) & (r <= 1)):
            raise InputError(f"correlation is outside [{low:g}, 1]")
        basis = chebyshev_basis(2 * (r.ravel() - low) / (1 - low) - 1, len(self._coefficients))
        values = self._coefficients.T @ basis
        values[self._logs] = np.exp(values[self._logs])
        values[_R2] *= values[_T2]
        return _to_fields(AttentionOverlap, values, r.shape)


_TABLE_TAIL = 1e-6
_T2, _R2 = (AttentionOverlap._fields.index(name) for name in ("T2", "R2"))


@functools.lru_cache(maxsize=64)
def overlap_table(
    score_variance: float, length: int, causal: bool = False, head_dim: int | None = None, lowest: float = 0.0
) -> OverlapTable:
    """The :class:`OverlapTable` for these arguments, cached."""
    return OverlapTable(score_variance, length, causal, head_dim, lowest)


# ---- the largest probability ----


def max_probability(variance: Array, length: Array, head_dim: int | None = None) -> Array:
    """Mean of the largest of n softmax probabilities over independent Gaussian logits.

    Parameters
    ----------
    variance : s2, variance of each logit, in nats^2. 0 <= s2 <= 1e4.
    length : n, entries in the row. A whole number from 1 to 2^40.
    head_dim : d_h, dimensions of a query, as in :func:`overlap`; None for infinitely many.

    Returns
    -------
    A number from 1/n to 1; the arguments are broadcast.

    Raises
    ------
    InputError
        if an argument is outside its range.

    Examples
    --------
    >>> round(max_probability(1.0, 64), 5)
    0.10727
    """
    variance, length = _rows(variance, length)
    scales, weights = _norms("max_probability", variance, head_dim)
    values = np.array(
        [
            sum(w * _largest_probability(float(s2 * u), float(n)) for u, w in zip(scales, weights, strict=True))
            for s2, n in zip(variance.ravel(), length.ravel(), strict=True)
        ]
    )
    return float(values[0]) if variance.shape == () else values.reshape(variance.shape)


def _largest_probability(s2: float, n: float) -> float:
    if n == 1 or s2 == 0:
        return 1 / n
    sigma = math.sqrt(s2)
    u = quad.STEP * np.arange(-math.ceil((quad.BELOW + quad.DEVIATIONS * sigma + math.log(n)) / quad.STEP),
                          math.ceil((quad.ABOVE + quad.DEVIATIONS * sigma) / quad.STEP))  # fmt: skip
    panels = math.ceil(2 * quad.DEVIATIONS * sigma / min(1.0, sigma))
    width = 2 * quad.DEVIATIONS * sigma / panels
    nodes, weights, cumulative = quad.panel()
    x = width * ((np.arange(panels) - panels / 2)[:, None] + nodes)
    density = np.exp(-((x / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
    less, k0, k1 = (v * density for v in quad.kernels(u[:, None, None] + x, (1,)))
    sums = width * (k0 @ weights)
    before = np.cumsum(sums, axis=1) - sums
    below = before[..., None] + width * (k0 @ cumulative.T)  # integral over a smaller logit, weighted by exp(-tZ)
    above = (width * (less @ weights)).sum(1)[:, None, None] + (sums.sum(1)[:, None, None] - below)
    powers = np.exp(np.maximum((n - 1) * quad.log_psi(above, below), quad.LEAST))
    return float(n * quad.STEP * width * ((powers * k1) @ weights).sum())
