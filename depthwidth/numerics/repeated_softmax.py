r"""Softmax over tokens that repeat: weights of a row on two positions of the same token, if frequencies follow Zipf's law.

A row sees n positions, each with token v with probability p_v. The scores of one token are equal up to a part of their own:
:math:`s_v + z_j`, of variances :math:`\sigma_e^2` and :math:`\sigma_i^2`. A frequent token takes part of the normalising sum
with it, so that it gains less from a large score than a rare one. With :math:`1/Z^2 = \int t\,e^{-tZ}\,dt` and
:math:`\psi(x) = E\,e^{-x e^z}` the average over all positions factorises over the tokens,

.. math:: n(n-1) \sum_v p_v^2 \int_0^\infty t\,
          \frac{E\,e^{2s} \psi'^2(t e^s)\,e^{(n-2) p_v (\psi(te^s) - 1)}}{A_v(t)}\,\Phi(t)\,dt,
          \qquad A_v = E\,e^{(n-2) p_v (\psi(te^s) - 1)},

with :math:`\Phi = \bar\psi^{n-2} \prod_v A_v / e^{(n-2)(\bar\psi - 1)}` and :math:`\bar\psi = E \psi(te^s)`: exact without
repetitions and in long rows.

Derivation: docs/derivations/tokens.md, (T8).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .chebyshev import chebyshev_basis, chebyshev_coefficients, chebyshev_nodes
from .distinct import distinct
from .hermite import gauss_hermite

Array = Any
Number = Any
"""A float, or an array over scores"""

_SINGLE = 12
"""Ranks that are summed one by one; beyond, groups of ranks at this ratio stand for their middle."""
_GROUP = 1.6
_SIZES = 3
_RARE, _TERMS = 0.1, 9
"""Number of a token's positions in a row below which exponentials are summed as a series, and its terms."""
_LEAST = 1e-300


class _Nodes(NamedTuple):
    """Numbers of nodes of the integrals."""

    scores: int
    own: int
    times: int


_FINE = _Nodes(20, 16, 56)
_COARSE = _Nodes(10, 6, 26)
"""For slopes, right to 1e-3"""


class Repetition(NamedTuple):
    """Products of two probabilities of one token's positions, as multiples of those of two tokens taken at random."""

    same_row: Number
    """G_1, of one row: n^2 E p_j p_l for two positions j, l of one token"""
    other_row: Number
    """G_0, the same of two rows whose scores are independent"""
    itself: Number
    """n^2 E p_j^2, of one position in one row"""


@functools.lru_cache(maxsize=64)
def zipf_classes(pair: float) -> tuple[Array, Array]:
    """Probabilities of tokens, and how many have each, by Zipf's law with this match probability."""
    low, high = 0.0, 650.0  # logarithm of the vocabulary
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _match_of(middle) > pair else (low, middle)
    return _classes_of(high)


def _match_of(log_vocabulary: float) -> float:
    """The match probability of the classes of a vocabulary, in plain floats: it is asked for sixty times."""
    last = math.exp(log_vocabulary)
    counts = [min(1.0, max(0.0, last - rank + 1)) for rank in range(1, _SINGLE + 1)]
    total = sum(count / rank for rank, count in enumerate(counts, 1))
    squares = sum(count / rank**2 for rank, count in enumerate(counts, 1))
    if last > _SINGLE:
        groups, first = _groups_to(last), _SINGLE + 0.5
        step = math.log((last + 0.5) / first) / groups  # of ln(rank), the sum of 1/rank over a group
        total += groups * step
        squares += step**2 / (first * math.expm1(step)) * math.expm1(-groups * step) / math.expm1(-step)
    return squares / total**2


def _groups_to(last: float) -> int:
    return max(1, math.ceil(math.log(last / _SINGLE) / math.log(_GROUP)))


def _classes_of(log_vocabulary: float) -> tuple[Array, Array]:
    last = math.exp(log_vocabulary)
    ranks = np.arange(1, _SINGLE + 1, dtype=float)
    count = np.clip(last - ranks + 1, 0.0, 1.0)
    if last > _SINGLE:
        edges = np.geomspace(_SINGLE + 0.5, last + 0.5, _groups_to(last) + 1)
        ranks = np.concatenate([ranks, np.diff(edges) / np.diff(np.log(edges))])
        count = np.concatenate([np.ones(_SINGLE), np.diff(edges)])
    weight = 1 / ranks
    return weight / (count @ weight), count


@functools.lru_cache(maxsize=16)
def _norms(head_dim: int) -> tuple[Array, Array]:
    """Nodes and weights of the average over |q|^2 / d_h of a query of Gaussian features: Gauss's of a gamma distribution."""
    alpha, k = head_dim / 2 - 1, np.arange(_SIZES)
    beside = np.sqrt(k[1:] * (k[1:] + alpha))
    x, vectors = np.linalg.eigh(np.diag(2 * k + 1 + alpha) + np.diag(beside, 1) + np.diag(beside, -1))
    return x * 2 / head_dim, vectors[0] ** 2


@functools.lru_cache(maxsize=4096)
def repetition(pair: float, n: float, shared: float, own: float, head_dim: int | None = None) -> Repetition:
    """Weights of two positions of one token, relative to two tokens of the row.

    Parameters
    ----------
    pair : F_2, probability that two positions hold the same token, in (0, 1).
    n : positions that a row sees, at least 2.
    shared, own : variances of a score's part that its token's positions share, and of the part of each, nats^2.
    head_dim : d_h, over whose queries' norms is averaged; None for the limit of infinite heads.
    """
    sizes, weights = (np.ones(1), np.ones(1)) if head_dim is None else _norms(head_dim)
    each = _repetition_of_sizes(zipf_classes(pair), n, max(0.0, shared) * sizes, max(0.0, own) * sizes)
    return Repetition(*(float(part @ weights) for part in each))


def _repetition_of_sizes(
    classes: tuple[Array, Array], n: float, shared: Array, own: Array, nodes: _Nodes = _FINE
) -> tuple[Array, Array, Array]:
    """The fields of :class:`Repetition` for several variances side by side, (m,) each."""
    p, count = classes
    x, weight = gauss_hermite(nodes.scores)
    z, mix = gauss_hermite(nodes.own) if own.any() else (np.zeros(1), np.ones(1))
    reach = 1.5 * np.sqrt(shared)[:, None]
    # In a short row of scores that vary much, all weights may be small for long.
    spacing = (13.5 + 2 * reach + 1.5 * np.sqrt(own)[:, None]) / (nodes.times - 1)
    t = np.exp(-9.0 - reach + spacing * np.arange(nodes.times)) / (n * np.exp((shared + own) / 2))[:, None]
    step = spacing * t  # dt
    # Before the first time integrands are constant: its step stands for all earlier ones, a geometric series.
    step[:, :1] /= -np.expm1(-spacing)
    each = np.exp(np.multiply.outer(np.sqrt(shared), x))[:, :, None] * np.exp(np.multiply.outer(np.sqrt(own), z))[:, None]
    fallen = t[:, :, None, None] * -each[:, None]  # -t e^(s + z)
    decay = np.exp(fallen)
    decay *= each[:, None]
    lost = np.expm1(fallen, out=fallen) @ -mix  # 1 - psi
    # What is averaged: 1, E e^(s + z) e^(-t e^(s + z)) over z, its square, and the same with e^(2 (s + z)).
    parts = np.empty((*lost.shape, 4))
    parts[..., 0] = 1
    np.matmul(decay, mix, out=parts[..., 1])
    np.square(parts[..., 1], out=parts[..., 2])
    decay *= each[:, None]
    np.matmul(decay, mix, out=parts[..., 3])
    parts *= weight[:, None]
    mean_lost = lost @ weight
    lasting = np.log1p(-np.minimum(mean_lost, 1 - 1e-15)) + mean_lost
    # Of the tokens of each class, beside all other positions but two, or but one.
    logarithm, means = _average_over_scores(np.stack([(n - 2) * p, (n - 1) * p]), lost, parts)
    phi_both, phi = (np.exp((n - k) * lasting + logarithm[..., 2 - k, :] @ count)[:, None] for k in (2, 1))
    both, alone, single = (
        ((measure[:, None] * weigh) @ means[..., which, :, k])[:, 0]
        for measure, weigh, which, k in ((step * t, phi_both, 0, 1), (step, phi, 1, 0), (step * t, phi, 1, 2))
    )
    share = count * p * p / (count @ p**2)
    return n * n * (both @ share), n * n * (alone * alone @ share), n * n * (single @ (count * p))


def _powers(lost: Array) -> Array:
    """(-lost)^k / k!, (.., terms, scores)."""
    powers = np.empty((*lost.shape[:-1], _TERMS, lost.shape[-1]))
    powers[..., 0, :] = 1
    for k in range(1, _TERMS):
        np.multiply(powers[..., k - 1, :], lost / -k, out=powers[..., k, :])
    return powers


def _average_over_scores(rates: Array, lost: Array, parts: Array) -> tuple[Array, Array]:
    """For the tokens of each class, ln A with A = E e^(-rate lost), and E what e^(-rate lost) / A.

    Parameters
    ----------
    rates : of each class in each of several rows, descending; (rows, classes).
    lost : ascending over times and scores; (m, times, scores).
    parts : weights of the scores, alone and times each `what`; (m, times, scores, 1 + k).

    Returns
    -------
    Shapes (m, times, rows, classes) and (m, times, rows, classes, k).
    """
    flat = rates.ravel()
    frequent, rare = np.flatnonzero(flat >= _RARE), np.flatnonzero(flat < _RARE)
    early = int((flat.max() * lost[..., -1] < _RARE).all(0).sum())  # times at which no token has lost much
    orders = flat[:, None] ** np.arange(1, _TERMS)
    series = _powers(lost) @ parts
    sums = np.empty((*lost.shape[:-1], flat.size, parts.shape[-1]))
    logarithm = np.empty(sums.shape[:-1])
    for times, classes in ((slice(early), slice(None)), (slice(early, None), rare)):
        found = orders[classes] @ series[:, times, 1:]
        logarithm[:, times, classes] = np.log1p(found[..., 0])
        found += series[:, times, :1]
        sums[:, times, classes] = found
    late, least = lost[:, early:], lost[:, early:, :1]  # the least is taken out, or long rows would leave the range of numbers
    if frequent.size:
        powers = (least - late)[:, :, None] * flat[frequent, None]
        found = np.exp(powers, out=powers) @ parts[:, early:]
        logarithm[:, early:, frequent] = np.log(found[..., 0]) - least * flat[frequent]
        sums[:, early:, frequent] = found
    shape = (*lost.shape[:-1], *rates.shape)
    return logarithm.reshape(shape), (sums[..., 1:] / sums[..., :1]).reshape(*shape, -1)


# ---- tables ----


def repetitions(pair: float, n: float, variance: Array, share: Array, head_dim: int | None = None) -> Repetition:
    """:func:`repetition` for many scores, from tables: right to 3e-6 up to a variance of 3, to 1e-4 up to 6.

    Beyond it is right to 1e-3, which is the error of the integrals there.

    Parameters
    ----------
    pair, n, head_dim : as there.
    variance : of the scores, nats^2; (m,).
    share : of the variance that a token's positions share, in [0, 1]; (m,).
    """
    return _from_tables(lambda domain: _table(pair, n, domain), np.exp, variance, share, head_dim)


def repetition_slopes(pair: float, n: float, variance: Array, share: Array, head_dim: int | None = None) -> Repetition:
    r"""Slopes of :class:`Repetition` by the share of equal pairs in a text, times F_2 except for the last; from tables, to 2 %.

    A text with more equal pairs than others has more of its frequent tokens: to first order its moments are those of texts with
    the frequencies :math:`p_v e^{\epsilon p_v}`, (W15).

    Parameters
    ----------
    pair, n, variance, share, head_dim : as of :func:`repetitions`.
    """
    return _from_tables(lambda domain: _slope_table(pair, n, domain), _as_is, variance, share, head_dim)


def _as_is(values: Array) -> Array:
    return values


def _from_tables(
    table: Callable[[int], tuple[float, float, Array]],
    inverse: Callable[[Array], Array],
    variance: Array,
    share: Array,
    head_dim: int | None,
) -> Repetition:
    """Averages over the norms of queries of the numbers in the table of each domain."""
    sizes, weights = (np.ones(1), np.ones(1)) if head_dim is None else _norms(head_dim)
    variances = np.multiply.outer(sizes, variance)
    if variances.max() <= _FIRST_DOMAIN:
        return Repetition(*(weights @ inverse(_read(table(0), variances, share))))
    domains = np.maximum(0, np.ceil(np.log2(np.maximum(variances, _FIRST_DOMAIN) / _FIRST_DOMAIN) - 1e-9)).astype(int)
    found = np.empty((3, *variances.shape))
    for domain in distinct(domains).tolist():
        at = domains == domain
        found[:, at] = inverse(_read(table(domain), variances[at][None], np.broadcast_to(share, at.shape)[at]))[:, 0]
    return Repetition(*(weights @ found))


def _read(table: tuple[float, float, Array], variances: Array, share: Array) -> Array:
    """Three fields from a table, for several variances (sizes, m) of each share (m,); (3, sizes, m)."""
    low, high, coefficients = table
    over_x = chebyshev_basis(2 * (np.log1p(variances) - low) / (high - low) - 1, coefficients.shape[1])
    along = coefficients @ chebyshev_basis(2 * share - 1, coefficients.shape[2])  # one polynomial for each share
    found: Array = np.einsum("fkm,ksm->fsm", along, over_x)
    return found


_FIRST_DOMAIN = 3.0
"""Variance up to which one table reaches; later ones reach from a multiple of it by a power of two to the next."""
_NODES = 12, 12
_MORE_NODES = 12, 16
"""Of the variance and of the share, in the first domain and in later ones."""


@functools.lru_cache(maxsize=64)
def _table(pair: float, n: float, domain: int) -> tuple[float, float, Array]:
    """Ends of ln(1 + variance), and Chebyshev coefficients of the logarithms over it and the share; (3, nodes, nodes)."""

    def logarithms(shared: float, own: float) -> Array:
        return np.log(np.maximum(repetition(pair, n, shared, own), _LEAST))

    return _tabulated(logarithms, domain, _MORE_NODES if domain else _NODES)


def _tabulated(values: Callable[[float, float], Any], domain: int, nodes: tuple[int, int]) -> tuple[float, float, Array]:
    """A table of three values over two variances: the part that positions of a token share, and the part of each alone."""
    low = math.log1p(_FIRST_DOMAIN * 2.0 ** (domain - 1)) if domain else 0.0
    high = math.log1p(_FIRST_DOMAIN * 2.0**domain)
    variance, share = (chebyshev_nodes(count) for count in nodes)
    variance, share = np.expm1(low + (high - low) * (variance + 1) / 2), (share + 1) / 2
    found = [[values(v * s, v * (1 - s)) for s in share.tolist()] for v in variance.tolist()]
    to_x, to_y = (chebyshev_coefficients(count) for count in nodes)
    return low, high, np.einsum("kx,ly,xyf->fkl", to_x, to_y, found)


_SLOPE_NODES = 3, 4
_TILT = 0.02
"""Relative change of the most frequent token by which slopes are taken, up and down: their error is its square."""


@functools.lru_cache(maxsize=64)
def _slope_table(pair: float, n: float, domain: int) -> tuple[float, float, Array]:
    p, count = zipf_classes(pair)
    tilted = []
    for epsilon in (_TILT / p.max(), -_TILT / p.max()):
        changed = p * np.exp(epsilon * p)
        tilted.append((changed / (count @ changed), count))
    matches = [float(count @ changed**2) for changed, _ in tilted]

    def slopes(shared: float, own: float) -> Array:
        up, down = (
            np.ravel(_repetition_of_sizes(classes, n, np.array([shared]), np.array([own]), _COARSE)) * [match, match, 1.0]
            for classes, match in zip(tilted, matches, strict=True)
        )
        return (up - down) / (matches[0] - matches[1])

    return _tabulated(slopes, domain, _SLOPE_NODES)
