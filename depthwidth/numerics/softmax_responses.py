r"""Response of the softmax of two Gaussian rows to the covariance of their logits, in tables over variance and correlation.

Let two rows have n and n' >= n logits of variance s2. Logits in the same column, of which there are n, have covariance v; all
others are independent. The overlap P2 = E sum p_j p'_j is 1/n' at v = 0. Written as

.. math:: P_2 = \frac{1}{n'}\left[1 + \left(1 - \frac1n\right)(e^{\theta} - 1)\right]

its exponent :math:`\theta(v)` is nearly linear: :math:`\theta = v` for long diffuse rows. By Price's theorem the overlap of the
two Jacobians is the derivative T2 = dP2/dv. The exponent and its *slope* :math:`d\theta/dv` therefore suffice; both are smooth
functions, which a few Chebyshev nodes represent.

Derivation: docs/derivations/softmax.md, (S10).
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .bounds import LARGEST_VARIANCE
from .chebyshev import chebyshev_basis, chebyshev_coefficients, chebyshev_derivative, chebyshev_nodes
from .softmax import (
    DEAD,
    LARGEST_DEVIATION,
    LARGEST_PAIR_VARIANCE,
    Overlap,
    _PairGrid,
    overlap,
    query_pairs,
)
from .softmax_grid import LEAST, enough_nodes, head_norms

if TYPE_CHECKING:
    from .softmax_tokens import TokenAverages

Array = Any

_VARIANCES, _CORRELATIONS, _ROW_VARIANCES, _TOKEN_VARIANCES = 8, 6, 14, 9  # Chebyshev nodes
_LEAST_VARIANCE = 1e-9
_LEAST_CORRELATION = -0.1
_STEEP = 4.0  # nats^2
_TINY = 1e-300
_NOTHING = 1e-17  # n e^u at the lower end of the integrals for rows of n entries
_STEP, _BELOW = 0.4, 20.0
"""Grid of the integrals of two rows: right to 3e-7 of theta/s2 and of the slope, a tenth of the tables' own error."""
_SMALL_HEAD, _MORE_CORRELATIONS = 32, 9
_LEAST_PRODUCT, _REPULSION = (
    -0.5,
    2.0,
)  # the overlap of rows with covariances below -2 nats^2 is negligible, and theta is undefined
_WEAKEST, _WEAK_CORRELATIONS = -0.25, 5
"""Least correlation of rows that repel weakly, and nodes for those: as accurate as a table down to -1, in half of its time."""
_NORM_NODES = 6
_SMOOTH_HEAD, _SMOOTH_LARGEST, _SMOOTH_NODES = 32, 1.0, 32
"""Averages over norms are those of polynomials from so many dimensions on and up to this variance: right to 5e-11."""


class RowResponse(NamedTuple):
    """Responses of one row. Each field has the shape of the variance."""

    ratio: Array
    """theta/s2 for P"""
    slope: Array
    """d theta/dv at v = s2, from T"""
    T: Array
    """E ||diag p - p p'||^2"""
    output_noise: Array
    """C = 1 - P - 4 (P - M3) + 6 A22, response of the output to noise in the token products"""
    query_noise: Array
    """1 - 3 P + 2 M3 + 2 A22, the same response for the query path of the gradient"""
    attraction: Array
    """1 - 3 P + 2 M3, response of E p_j to the variance of logit j"""
    P: Array
    """E sum p^2"""
    norm: Array
    """E[|q|^2/d_h T] / E[T] over the norm of the query; 1 for infinite d_h"""


def _pairs(s2: float, rho: float, lengths: Array) -> tuple[Array, Array]:
    """P2 and T2 for every pair of row lengths, as symmetric matrices (lengths, lengths); lengths ascend and are at least 2."""
    grid = _PairGrid(s2, rho, lengths[0], lengths[-1], step=_STEP, below=_BELOW)
    p2, t2 = np.empty((2, lengths.size, lengths.size))
    parts, live = np.stack([grid.n11, grid.jacobians(), grid.cross]), grid.live
    room = np.empty(live.size)
    falling = (lengths - 1)[:, None] * grid.log_psi0
    # Beyond, neither row of this length has any weight; before, they have none beside that of longer rows.
    ends = zip(*(np.count_nonzero(falling > most, axis=1).tolist() for most in (-_NOTHING, DEAD)), strict=True)
    for i, (n, (begin, end)) in enumerate(zip(lengths.tolist(), ends, strict=True)):
        seen, count = slice(begin, end), end - begin
        powers = np.multiply(n - 1, live[seen, seen], out=room[: count * count].reshape(count, count))
        np.exp(powers, out=powers)
        # Summed over the first row, one product of vectors for each point of the second: all of it is symmetric.
        over_first = (powers[:, None, :] @ parts[:, seen, seen, None])[:, :, 0, 0]
        extra = np.exp(np.maximum(falling[i:, seen] - falling[i, seen], LEAST))
        one, two, cross = over_first @ extra.T
        p2[i, i:] = p2[i:, i] = n * one
        t2[i, i:] = t2[i:, i] = n * (two + (n - 1) * cross)
    return p2 * _STEP**2, t2 * _STEP**2


class PairResponse(NamedTuple):
    """Responses of two different rows. Each field has shape (lengths, lengths)."""

    exponent: Array
    """theta / s2"""
    slope: Array
    """d theta / dv"""
    product: Array
    """E[q.q' T2] / E[T2] over the product of the two queries; their correlation for infinite d_h"""


class Responses:
    """Tables of the responses for a list of row lengths and for variances up to `largest`.

    Parameters
    ----------
    largest : largest variance s2 of the logits, nats^2.
    lengths : lengths of the rows, ascending whole numbers.
    head_dim : d_h, for averages over the norm of a query and the product of two queries; None for infinite d_h.

    Notes
    -----
    Built in about 0.1 s for ten lengths. Relative error against :func:`~depthwidth.numerics.softmax.pair_overlap` and
    :func:`~depthwidth.numerics.softmax.attention_overlap`: see ``tests/signal/test_attention.py``.
    """

    def __init__(self, largest: float, lengths: tuple[int, ...], head_dim: int | None = None) -> None:
        self.largest, self.head_dim = largest, head_dim
        self.lengths = n = np.asarray(lengths, dtype=float)
        self._scale = math.log1p(largest)
        self._low = max(_LEAST_CORRELATION, -_REPULSION / largest)
        s2 = np.expm1((chebyshev_nodes(_ROW_VARIANCES) + 1) / 2 * self._scale)
        row = self._averages(s2, n)
        one = np.where(n == 1, 1.0, 1 - 1 / n)  # a row of one entry has no response; the value is arbitrary but finite
        grown = np.maximum((n * row.P - 1) / one, 0)
        fields = [
            _fill_length_one(np.log1p(grown) / s2[:, None], n), _fill_length_one(n * row.T / (one * (1 + grown)), n), row.T,
            1 - row.P - 4 * (row.P - row.M3) + 6 * row.A22, 1 - 3 * row.P + 2 * row.M3 + 2 * row.A22,
            1 - 3 * row.P + 2 * row.M3, row.P,
            self._norm(s2, n),
        ]  # fmt: skip
        self.row_table = np.einsum("kx,fxn->fkn", chebyshev_coefficients(_ROW_VARIANCES), np.stack(fields))

    def _averages(self, s2: Array, n: Array) -> Overlap:
        """:func:`overlap` for each variance and length, averaged over the norm of a query."""
        if self._smooth is None or self.head_dim is None:
            return overlap(s2[:, None], n[None, :], self.head_dim, entropy=False)
        norms, weights = head_norms(self.head_dim, enough_nodes(self.head_dim))
        basis = self._smooth_basis(s2[:, None] * norms) @ weights
        return Overlap(*np.einsum("fkn,kx->fxn", self._smooth, basis), *[np.nan] * 2)

    @functools.cached_property
    def _smooth(self) -> Array | None:
        """Chebyshev coefficients, over ln(1 + variance), of the averages for queries of one norm; shape (fields, nodes, n).

        Each norm is another variance. The averages are smooth enough for a few nodes if variances are small; otherwise None.
        """
        if self.head_dim is None or self.head_dim < _SMOOTH_HEAD or self.largest > _SMOOTH_LARGEST:
            return None
        norms, _ = head_norms(self.head_dim, enough_nodes(self.head_dim))
        self._reach = math.log1p(self.largest * float(norms.max()))
        variances = np.expm1((chebyshev_nodes(_SMOOTH_NODES) + 1) / 2 * self._reach)
        found = np.stack(overlap(variances[:, None], self.lengths, entropy=False)[:-2])
        return np.einsum("kx,fxn->fkn", chebyshev_coefficients(_SMOOTH_NODES), found)

    def _smooth_basis(self, variances: Array) -> Array:
        return chebyshev_basis(2 * np.log1p(variances) / self._reach - 1, _SMOOTH_NODES)

    @functools.cached_property
    def token_table(self) -> Array:
        """Coefficients as ``row_table`` of :class:`~depthwidth.numerics.softmax_tokens.TokenAverages`, from fewer nodes."""
        from .softmax_tokens import averages_of_rows

        x = chebyshev_nodes(_TOKEN_VARIANCES)
        s2 = np.expm1((x + 1) / 2 * self._scale)
        basis = chebyshev_basis(x, _ROW_VARIANCES)
        steep = (2 / self._scale * s2 / (1 + s2))[:, None]  # dx/d ln s2
        fields = [*averages_of_rows(np.maximum(s2, _LEAST_VARIANCE), self.lengths)]
        for name in ("P", "T"):
            plain = self.row_table[RowResponse._fields.index(name)]
            value, slope, bend = (basis.T @ chebyshev_derivative(plain, order) for order in range(3))
            size = np.maximum(value, _TINY)
            fields.append((steep**2 * bend - steep * s2[:, None] / (1 + s2[:, None]) * slope) / size)
            if name == "P":
                growth = steep * slope / size
        found = np.einsum("kx,fxn->fkn", chebyshev_coefficients(_TOKEN_VARIANCES), np.stack([*fields, growth]))
        return np.pad(found, ((0, 0), (0, _ROW_VARIANCES - _TOKEN_VARIANCES), (0, 0)))

    @functools.cached_property
    def with_tokens(self) -> Array:
        """``row_table`` and ``token_table``."""
        return np.concatenate([self.row_table, self.token_table])

    @property
    def lowest(self) -> float:
        """Least correlation of two rows for which the exponent is tabulated."""
        return self._low

    def repelling(self, variance: Array, correlation: Array) -> tuple[Array, Array, Array]:
        """Coefficients as ``pairs`` of the :class:`Growth` of rows that repel, and the polynomials at these values.

        The polynomials are of the variance and of the negative correlation; (nodes, values). Tables are made on first use: few
        rows repel, most of them weakly, and theta may not exist for those that do.
        """
        near = float(correlation.min()) >= _WEAKEST
        over_x = chebyshev_basis(2 * np.log1p(variance) / self._scale - 1, _VARIANCES)
        if near:
            return self._near, over_x, chebyshev_basis(1 - 2 * correlation / _WEAKEST, _WEAK_CORRELATIONS)
        return self._far, over_x, chebyshev_basis(2 * correlation + 1, _MORE_CORRELATIONS)

    @functools.cached_property
    def _near(self) -> Array:
        return self._growth_table(_WEAKEST, _WEAK_CORRELATIONS)

    @functools.cached_property
    def _far(self) -> Array:
        return self._growth_table(-1.0, _MORE_CORRELATIONS)

    def _growth_table(self, least: float, nodes: int) -> Array:
        """The coefficients for correlations from `least` to 0."""
        n = self.lengths[self.lengths > 1]
        if not n.size:
            return np.zeros((3, _VARIANCES, nodes, self.lengths.size, self.lengths.size))
        s2 = np.expm1((chebyshev_nodes(_VARIANCES) + 1) / 2 * self._scale)
        rho = least * (1 - chebyshev_nodes(nodes)) / 2
        found = _chebyshev_fit(_growths(s2, rho, n, self.head_dim))
        return _prepend_pairs_of_length_one(found, self.lengths) if self.lengths[0] == 1 else found

    def _norm(self, s2: Array, n: Array) -> Array:
        if self.head_dim is None:
            return np.ones((s2.size, n.size))
        norms, weights = head_norms(self.head_dim, _NORM_NODES)
        if self._smooth is not None:
            basis = self._smooth_basis(s2[:, None] * norms)
            jacobians = np.einsum("kn,kxm->xnm", self._smooth[Overlap._fields.index("T")], basis) * weights
        else:
            spread = np.minimum(s2[:, None, None] * norms, LARGEST_VARIANCE)
            jacobians = overlap(spread, n[:, None], entropy=False).T * weights
        total = jacobians.sum(-1)
        return np.where(total > 0, (jacobians * norms).sum(-1) / np.where(total > 0, total, 1.0), 1.0)

    @functools.cached_property
    def pairs(self) -> Array:
        """Chebyshev coefficients of :class:`PairResponse`; shape (3 or 2, variances, correlations, lengths, lengths)."""
        n = self.lengths[self.lengths > 1]
        if not n.size:
            return np.zeros((3, 1, 1, self.lengths.size, self.lengths.size))
        steep = self.largest > _STEEP
        s2, rho = self._grid(self._scale, self._low, _MORE_CORRELATIONS if steep else _CORRELATIONS)
        if self.head_dim is None:
            values = _exponents(s2, rho, n)
        elif steep:
            values = _average_exponents(s2, rho, n, self.head_dim)
        else:
            # Correlations of queries extend below -0.1, and variances beyond those of queries of mean norm.
            reach = LARGEST_DEVIATION * math.sqrt((1 + self._low**2) / self.head_dim)
            widest = min(LARGEST_PAIR_VARIANCE, self.largest * (1 + LARGEST_DEVIATION * math.sqrt(2 / self.head_dim)))
            low = max(_LEAST_PRODUCT, self._low - reach, -_REPULSION / widest)
            scale = math.log1p(widest)
            few = self.head_dim < _SMALL_HEAD
            wide = _chebyshev_fit(_exponents(*self._grid(scale, low, _MORE_CORRELATIONS if few else _CORRELATIONS), n))
            products, sizes, weights = query_pairs(rho[:, None], self.head_dim)
            spread = np.minimum(s2[:, None, None] * sizes, np.expm1(scale))
            clipped = np.clip(products / sizes, low, 1)
            over_x = chebyshev_basis(2 * np.log1p(spread) / scale - 1, wide.shape[1])
            over_y = chebyshev_basis(2 * (clipped - low) / (1 - low) - 1, wide.shape[2])
            theta, slope = np.einsum("fklnm,kxyp,lyp->fxypnm", wide, over_x, over_y)
            grown = np.exp(theta * spread[..., None, None])
            slope = grown * slope  # T2 up to a factor that depends on the lengths
            mean = np.einsum("xypnm,p->xynm", grown, weights)
            jacobians = np.einsum("xypnm,p->xynm", slope, weights)
            both = np.einsum("xypnm,yp,p->xynm", slope, np.broadcast_to(products, clipped.shape), weights)
            values = np.stack([np.log(mean) / s2[:, None, None, None], jacobians / mean, both / jacobians])
        found = _chebyshev_fit(values)
        return _prepend_pairs_of_length_one(found, self.lengths) if self.lengths[0] == 1 else found

    @staticmethod
    def _grid(scale: float, low: float, correlations: int = _CORRELATIONS) -> tuple[Array, Array]:
        s2 = np.expm1((chebyshev_nodes(_VARIANCES) + 1) / 2 * scale)
        return s2, low + (1 - low) * (chebyshev_nodes(correlations) + 1) / 2

    def row(self, variance: Array) -> RowResponse:
        """The responses of the rows, each at its own variance; shape (lengths,)."""
        return self.rows(variance, self.row_table)

    def rows(self, variance: Array, coefficients: Array) -> RowResponse:
        """As :meth:`row`, for other lengths with interpolated `coefficients` of shape (fields, variances, rows)."""
        return RowResponse(*self.values(variance, coefficients))

    def of_one_length(
        self, variance: Array, correlation: Array, with_tokens: bool = False
    ) -> tuple[RowResponse, PairResponse, TokenAverages | None]:
        """The responses of rows of the first length at each of several variances (n,), and of pairs of them.

        `correlation` and the responses of pairs have shape (r, n). The averages of a row and its logits are None unless asked
        for.
        """
        over_variance = chebyshev_basis(2 * np.log1p(variance) / self._scale - 1, _ROW_VARIANCES)
        over_x = over_variance[: self.pairs.shape[1]]
        over_y = chebyshev_basis(self._along_correlation(correlation), self.pairs.shape[2])
        along = (self.pairs[..., 0, 0] @ over_y.reshape(len(over_y), -1)).reshape(-1, len(over_x), *correlation.shape)
        both = np.einsum("fkrp,kp->frp", along, over_x)
        pairs = PairResponse(both[0], both[1], both[2] if len(both) == 3 else correlation)
        tokens = None
        if with_tokens:
            from .softmax_tokens import TokenAverages

            tokens = TokenAverages(*(self.token_table[:, :, 0] @ over_variance))
        return RowResponse(*(self.row_table[:, :, 0] @ over_variance)), pairs, tokens

    def _along_correlation(self, correlation: Array) -> Array:
        above = np.maximum(correlation, self._low) - self._low
        return 2 * above / (1 - self._low) - 1

    def values(self, variance: Array, coefficients: Array) -> Array:
        """Fields at each row's own variance, from coefficients of shape (fields, variances, rows)."""
        basis = chebyshev_basis(2 * np.log1p(variance) / self._scale - 1, _ROW_VARIANCES)
        values: Array = np.einsum("fkn,kn->fn", coefficients, basis)
        return values

    def pair(self, variance: Array, correlation: Array) -> PairResponse:
        """The responses of all pairs of rows, each at its own variance and correlation; shape (lengths, lengths)."""
        over_x, over_y = self.bases(variance, correlation)
        both = np.einsum("fklnm,knm,lnm->fnm", self.pairs, over_x, over_y)
        return PairResponse(both[0], both[1], both[2] if both.shape[0] == 3 else correlation)

    def bases(self, variance: Array, correlation: Array) -> tuple[Array, Array]:
        """Chebyshev polynomials of the variance and of the correlation at given points."""
        orders = self.pairs.shape[1:3]
        both = np.array((2 * np.log1p(variance) / self._scale - 1, self._along_correlation(correlation)))
        basis = chebyshev_basis(both, max(orders))  # one recurrence for both
        return basis[: orders[0], 0], basis[: orders[1], 1]


@functools.lru_cache(maxsize=64)
def responses(largest: float, lengths: tuple[int, ...], head_dim: int | None) -> Responses:
    """:class:`Responses`, cached: models of other widths have the same tables, and making them takes 0.1 s and more."""
    return Responses(largest, lengths, head_dim)


class Growth(NamedTuple):
    """Responses of two rows whose correlation is negative. With g = e^theta, which is negative for short rows that repel."""

    growth: Array
    """(g - 1) / s2"""
    slope: Array
    """dg/dv"""
    product: Array
    """as in :class:`PairResponse`"""


def _growths(s2: Array, rho: Array, lengths: Array, head_dim: int | None) -> Array:
    """The fields of :class:`Growth` on a grid of variances and correlations; shape (3, s2, rho, lengths, lengths)."""
    longer = np.maximum(lengths[:, None], lengths)
    one = 1 - 1 / np.minimum(lengths[:, None], lengths)
    values = np.empty((3, s2.size, rho.size, lengths.size, lengths.size))
    for i, variance in enumerate(s2):
        for j, correlation in enumerate(rho):
            p2, t2, product = _averages_of_pairs(variance, correlation, lengths, head_dim)
            values[:, i, j] = (longer * p2 - 1) / one / variance, longer * t2 / one, product / np.maximum(t2, _TINY)
    return values


def _averages_of_pairs(s2: float, rho: float, lengths: Array, head_dim: int | None) -> Array:
    """P2, T2 and T2 times the product of the two queries, averaged over that product."""
    sums = np.zeros((3, lengths.size, lengths.size))
    for product, size, weight in zip(*query_pairs(np.array([rho]), head_dim), strict=True):
        spread = min(LARGEST_PAIR_VARIANCE, float(s2 * size))
        p2, t2 = _pairs(spread, float(product / size), lengths)
        sums += weight * np.stack([p2, t2, product * t2])
    return sums


def _exponents(s2: Array, rho: Array, lengths: Array) -> Array:
    """theta/s2 and d theta/dv on a grid of variances and correlations; shape (2, s2, rho, lengths, lengths)."""
    longer = np.maximum(lengths[:, None], lengths)
    one = 1 - 1 / np.minimum(lengths[:, None], lengths)
    values = np.empty((2, s2.size, rho.size, lengths.size, lengths.size))
    for i, variance in enumerate(s2):
        for j, correlation in enumerate(rho):
            p2, t2 = _pairs(float(variance), float(correlation), lengths)
            grown = 1 + (longer * p2 - 1) / one
            values[:, i, j] = np.log(np.maximum(grown, 1e-300)) / variance, longer * t2 / (one * grown)
    return values


def _average_exponents(s2: Array, rho: Array, lengths: Array, head_dim: int) -> Array:
    """theta/s2, d theta/dv and the mean product, averaged over the product of two queries, node by node."""
    longer = np.maximum(lengths[:, None], lengths)
    one = 1 - 1 / np.minimum(lengths[:, None], lengths)
    values = np.empty((3, s2.size, rho.size, lengths.size, lengths.size))
    for i, variance in enumerate(s2):
        for j, correlation in enumerate(rho):
            sums = _averages_of_pairs(variance, correlation, lengths, head_dim)
            grown = np.maximum(1 + (longer * sums[0] - 1) / one, _TINY)
            jacobians = np.maximum(sums[1], _TINY)
            values[:, i, j] = np.log(grown) / variance, longer * jacobians / (one * grown), sums[2] / jacobians
    return values


def _chebyshev_fit(values: Array) -> Array:
    to_x, to_y = chebyshev_coefficients(values.shape[1]), chebyshev_coefficients(values.shape[2])
    return np.einsum("kx,ly,fxynm->fklnm", to_x, to_y, values)


def _fill_length_one(values: Array, n: Array) -> Array:
    """Replace the values of length 1 (the first along the last axis) by those of the next length."""
    if n[0] == 1 and n.size > 1:
        values[..., 0] = values[..., 1]
    return values


def _prepend_pairs_of_length_one(found: Array, n: Array) -> Array:
    whole = np.empty((*found.shape[:-2], n.size, n.size))
    whole[..., 1:, 1:] = found
    whole[..., 0, 1:] = found[..., 0, :]
    whole[..., 0] = whole[..., 1]
    return whole
