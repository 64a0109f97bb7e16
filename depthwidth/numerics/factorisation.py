r"""Products of matrices under gradient flow and weight decay: flows on factors, their limits, and certificates of rank.

The product is ``W = W_N ... W_1``, its factors listed in the order in which they act, W_1 first. A head's score matrix is the
product of two, ``[W_K', W_Q]``. A symmetric product ``X = U U'`` has a flow of its own.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..checks import check_whole
from ..errors import InputError

Array = Any
Gradient = Callable[[Array], Array]
"""From the product, (m, n), to the gradient of the loss with respect to it, of the same shape."""

MOST_NEWTON = 2000
"""Newton steps of :func:`commuting_limit`; well-posed problems at starts of 1e-12 take about a hundred."""


def product(factors: Sequence[Array]) -> Array:
    """``W_N ... W_1`` of the factors, W_1 first.

    >>> product([[[1.0, 2.0]], [[3.0], [4.0]]]).tolist()
    [[3.0, 6.0], [4.0, 8.0]]
    """
    import numpy as np

    return functools.reduce(lambda right, left: np.asarray(left, float) @ right, factors[1:], np.asarray(factors[0], float))


def gradient_flow(
    gradient: Gradient, factors: Sequence[Array], times: Sequence[float], decay: float = 0.0, tolerance: float = 1e-8
) -> list[list[Array]]:
    """Factors along the gradient flow of ``L(W_N ... W_1) + (decay/2) sum |W_j|^2``.

    Parameters
    ----------
    gradient : the gradient of L with respect to the product.
    factors : W_1 to W_N at time 0; the columns of each are as many as the rows of the one before.
    times : the times to report, increasing and at least 0.
    decay : coupled weight decay, at least 0.
    tolerance : relative error of a step of the integration.

    Returns
    -------
    For each time the factors, W_1 first.

    Raises
    ------
    InputError
        if shapes do not chain, times do not increase, or the integration does not reach the last time.

    >>> [[w1, w2]] = gradient_flow(lambda w: w - 3.0, [[[0.1]], [[0.1]]], [9.0])
    >>> round(float(w2[0, 0] * w1[0, 0]), 6)
    3.0
    """
    start = _matrices(factors)
    if not decay >= 0:
        raise InputError("gradient flow: decay is at least 0")
    return _integrate(lambda now: factor_rates(gradient(product(now)), now, decay), start, times, tolerance)


def symmetric_flow(gradient: Gradient, factor: Array, times: Sequence[float], tolerance: float = 1e-8) -> list[Array]:
    """The factor U along ``dU/dt = -G(U U') U``, the gradient flow on ``X = U U'`` with time in units of arXiv 1705.09280.

    It is the flow on the factors ``[U', U]``. There, though, rounding grows: factors that are no longer transposes can fit
    negative eigenvalues, which U U' cannot.

    Parameters
    ----------
    gradient : symmetric, (n, n), of the loss with respect to X.
    factor : U at time 0, (n, k).
    times : the times to report, increasing and at least 0.
    tolerance : relative error of a step of the integration.

    Raises
    ------
    InputError
        if U is no matrix, times do not increase, or the integration does not reach the last time.

    >>> [u] = symmetric_flow(lambda x: x - 4.0, [[0.1]], [9.0])
    >>> round(float(u[0, 0]), 6)
    2.0
    """
    return [u for [u] in _integrate(lambda now: [-gradient(now[0] @ now[0].T) @ now[0]], _matrices([factor]), times, tolerance)]


def _integrate(
    rates: Callable[[list[Array]], list[Array]], start: list[Array], times: Sequence[float], tolerance: float
) -> list[list[Array]]:
    """Matrices at each time, from their rates."""
    import numpy as np
    from scipy.integrate import solve_ivp

    at = np.asarray(times, float)
    if not at.size or at[0] < 0 or not (np.diff(at) > 0).all() or not np.isfinite(at).all():
        raise InputError("gradient flow: times are at least 0 and increase")
    ends = np.cumsum([one.size for one in start])

    def unpacked(flat: Array) -> list[Array]:
        return [part.reshape(one.shape) for part, one in zip(np.split(flat, ends[:-1]), start, strict=True)]

    def rate(_: float, flat: Array) -> Array:
        return np.concatenate([one.ravel() for one in rates(unpacked(flat))])

    flat = np.concatenate([one.ravel() for one in start])
    # Explicit steps keep the signs of directions that shrink exponentially, which implicit ones lose in their tolerance. The
    # small absolute tolerance lets factors that start small grow at their own rate.
    solved = solve_ivp(rate, (0.0, max(at[-1], 1e-300)), flat, "DOP853", at, rtol=tolerance, atol=tolerance * 1e-6)
    if not solved.success or not np.isfinite(solved.y).all():
        raise InputError(f"gradient flow: the integration did not reach time {at[-1]:g}")
    return [unpacked(column) for column in solved.y.T]


def factor_rates(slope: Array, factors: Sequence[Array], decay: float = 0.0) -> list[Array]:
    """Rate of each factor: ``-(W_N ... W_{j+1})' G (W_{j-1} ... W_1)' - decay W_j``.

    >>> [one.tolist() for one in factor_rates([[2.0]], [[[3.0]], [[5.0]]])]
    [[[-10.0]], [[-6.0]]]
    """
    import numpy as np

    matrices = [np.asarray(one, float) for one in factors]
    above = [np.eye(matrices[-1].shape[0])]
    for one in reversed(matrices[1:]):
        above.append(above[-1] @ one)
    below = np.eye(matrices[0].shape[1])
    rates = []
    for one, left in zip(matrices, reversed(above), strict=True):
        rates.append(-left.T @ np.asarray(slope, float) @ below.T - decay * one)
        below = one @ below
    return rates


def product_rate(slope: Array, matrix: Array, depth: int) -> Array:
    """Rate of a product of `depth` balanced factors: ``-sum_j (W W')^((j-1)/N) G (W' W)^((N-j)/N)`` (arXiv 1905.13655).

    Parameters
    ----------
    slope : (m, n), the gradient of the loss with respect to the product.
    matrix : (m, n), the product.
    depth : N, number of factors, at least 1.

    >>> product_rate([[1.0]], [[0.25]], 2).tolist()
    [[-0.5]]
    """
    import numpy as np

    check_whole("product_rate", depth=depth)
    w, g = np.asarray(matrix, float), np.asarray(slope, float)
    left, sizes, right = np.linalg.svd(w)

    def power(basis: Array, exponent: float) -> Array:
        if exponent == 0:
            return np.eye(len(basis))
        padded = np.zeros(len(basis))
        padded[: len(sizes)] = sizes ** (2 * exponent)
        return (basis * padded) @ basis.T

    terms = (power(left, (j - 1) / depth) @ g @ power(right.T, (depth - j) / depth) for j in range(1, depth + 1))
    return -sum(terms, np.zeros_like(w))


def balanced_factors(matrix: Array, depth: int = 2) -> list[Array]:
    """Balanced factors of a matrix, W_1 first; those of the least sum of squared norms if there are two.

    Of two factors half that sum is the nuclear norm of the product. Heads that share keys K are one product, of the stack
    of their queries with K', so that they are penalised by the nuclear norm of the stack.

    >>> a, b = balanced_factors([[4.0, 0.0], [0.0, 1.0]])
    >>> float((a**2).sum() + (b**2).sum()) / 2
    5.0
    """
    import numpy as np

    check_whole("balanced_factors", depth=depth)
    left, sizes, right = np.linalg.svd(np.asarray(matrix, float), full_matrices=False)
    root = np.diag(sizes ** (1 / depth))
    factors = [root] * depth
    factors[0] = factors[0] @ right
    factors[-1] = left @ factors[-1]
    return factors


def imbalance(factors: Sequence[Array]) -> list[Array]:
    """``W_{j+1}' W_{j+1} - W_j W_j'`` of each pair of neighbours: kept by the flow, shrunk by weight decay as e^(-2 decay t).

    >>> [one.tolist() for one in imbalance([[[2.0]], [[3.0]]])]
    [[[5.0]]]
    """
    import numpy as np

    matrices = [np.asarray(one, float) for one in factors]
    return [later.T @ later - one @ one.T for one, later in itertools.pairwise(matrices)]


def commuting_limit(measurements: Array, values: Array, start: Array) -> Array:
    """Limit of the flow on ``X = U U'`` for diagonal measurements and start: the fitting x with ln x - ln x_0 in their span.

    It minimises the convex function ``sum x_0 exp(2 A' v) / 2 - v . y`` of the m multipliers v; then ``x = x_0 exp(2 A' v)``
    satisfies ``A x = y``, and is the limit of the flow (arXiv 1705.09280, Theorem 1). For a start of one value it tends to the
    least sum of x among the fitting x >= 0 as the value tends to 0.

    Parameters
    ----------
    measurements : A, (m, n): a row for each measurement's diagonal.
    values : y, (m,).
    start : x_0, (n,): the diagonal of X at time 0, above 0.

    Raises
    ------
    InputError
        if shapes do not fit, a start is not above 0, or no x > 0 is found that fits.

    >>> commuting_limit([[1.0, 2.0]], [2.0], [1e-12, 1e-12]).round(4).tolist()
    [0.0, 1.0]
    """
    import numpy as np

    a, y, x0 = (np.asarray(one, float) for one in (measurements, values, start))
    if a.ndim != 2 or a.shape != (y.size, x0.size) or not (x0 > 0).all():
        raise InputError("commuting_limit: A is (measurements, entries), and the start is above 0")
    v, log_start, scale = np.zeros(y.size), np.log(x0), np.abs(y).max(initial=0.0) + 1e-300

    def objective(at: Array) -> float:
        exponent = log_start + 2 * a.T @ at
        return float(np.exp(exponent).sum() / 2 - at @ y) if exponent.max() < 300 else np.inf

    now = objective(v)
    for _ in range(MOST_NEWTON):
        x = np.exp(log_start + 2 * a.T @ v)
        residual = a @ x - y
        if np.abs(residual).max() < 1e-12 * scale:
            return x
        curvature = 2 * (a * x) @ a.T
        if not np.trace(curvature) > 1e-250:  # every entry has vanished
            break
        # A little of the largest curvature keeps directions in which x is still tiny from steps without end.
        curvature += 1e-14 * np.trace(curvature) * np.eye(y.size)
        step = np.linalg.solve(curvature, -residual)
        size, slope = 1.0, float(residual @ step)
        while size > 1e-18 and not (then := objective(v + size * step)) <= now + 1e-4 * size * slope:
            size /= 2
        if size <= 1e-18:
            break
        v, now = v + size * step, then
    if np.abs(residual).max() < 1e-9 * scale:  # the last steps are lost in rounding
        return x
    raise InputError("commuting_limit: no positive entries were found that fit the measurements")


def greedy_path(gradient: Gradient, size: int, ranks: int, push: float = 1e-4, time: float = 100.0) -> list[Array]:
    """Matrices of greedy low-rank learning on ``X = U U'``: stations of a flow from an infinitesimal start, arXiv 2012.09839.

    From the point of rank r a column is added to U along the top eigenvector of minus the gradient, `push` long, and the flow
    is followed to the point of rank r + 1.

    Parameters
    ----------
    gradient : symmetric, (size, size), of the loss with respect to X.
    size, ranks : rows of X; the largest rank, at least 1 each.
    push : length of an added column, above 0.
    time : length of the flow at each rank.

    Returns
    -------
    X at each rank from 1 on; fewer than `ranks` if minus the gradient has no eigenvalue above `push` left.

    Raises
    ------
    InputError
        if a size, a push or a time is not above 0.

    >>> import numpy as np
    >>> [x.round(3).diagonal().tolist() for x in greedy_path(lambda x: x - np.diag([2.0, 1.0, -1.0]), 3, 3)]
    [[2.0, 0.0, 0.0], [2.0, 1.0, 0.0]]
    """
    import numpy as np

    check_whole("greedy_path", size=size, ranks=ranks)
    if not (push > 0 and time > 0):
        raise InputError("greedy_path: push and time are above 0")
    u, stations = np.zeros((size, 0)), [np.zeros((size, size))]
    for _ in range(ranks):
        sizes, basis = np.linalg.eigh(-np.asarray(gradient(stations[-1]), float))
        if sizes[-1] <= push:
            break
        u = np.column_stack([u, push * basis[:, -1]])
        [u] = symmetric_flow(gradient, u, [time])
        stations.append(u @ u.T)
    return stations[1:]


def soft_thresholded(target: Array, decay: float, head_dim: int | None = None) -> Array:
    """Minimiser of ``|W - Y|^2 / 2 + decay |W|_*`` of rank at most `head_dim`: weight decay on the factors of W.

    >>> soft_thresholded([[5.0, 0.0], [0.0, 1.0]], 2.0).tolist()
    [[3.0, 0.0], [0.0, 0.0]]
    """
    import numpy as np

    if not decay >= 0:
        raise InputError("soft_thresholded: decay is at least 0")
    left, sizes, right = np.linalg.svd(np.asarray(target, float), full_matrices=False)
    kept = np.maximum(sizes - decay, 0.0)
    if head_dim is not None:
        check_whole("soft_thresholded", head_dim=head_dim)
        kept[head_dim:] = 0
    return (left * kept) @ right


class Certificate(NamedTuple):
    """A gradient's singular values against the decay: evidence that a product is a minimum under the nuclear-norm penalty."""

    ratios: Array
    """Singular values of the gradient with respect to the product, over the decay, largest first."""
    rank: int
    """Number of ratios at 1 or above, within the tolerance: no minimiser of the penalised loss has a larger rank."""
    excess: float
    """Largest ratio less 1. Above the tolerance the head limits the rank, or training has not converged."""
    misalignment: float
    """Distance of the gradient from -decay times the product's singular directions, over the decay; 0 at stationary points."""
    tolerance: float

    @property
    def optimal(self) -> bool:
        """True if the product is a minimum within the tolerance, a global one if the loss is convex in the product."""
        return self.excess <= self.tolerance and self.misalignment <= self.tolerance


def certificate(slope: Array, matrix: Array, decay: float, tolerance: float = 1e-3) -> Certificate:
    """Certificate of optimality of a product ``W = A B'`` under the loss plus ``(decay/2) (|A|^2 + |B|^2)``.

    At a minimum whose rank the head does not limit, no singular value of the gradient exceeds the decay, and those of W's
    singular directions equal it.

    Parameters
    ----------
    slope : (m, n), gradient of the loss, without the penalty, with respect to the product. A complex one, by a complex product,
        is the matrix G of the change ``Re <G, dW>``.
    matrix : (m, n), the product.
    decay : coupled weight decay of each factor, above 0. AdamW's decoupled decay has no such certificate.
    tolerance : relative tolerance of the comparisons, and the share of the largest singular value of W below which one is 0.

    Raises
    ------
    InputError
        if shapes differ or decay is not above 0.

    >>> found = certificate([[-0.5, 0.0], [0.0, -0.2]], [[4.5, 0.0], [0.0, 0.0]], 0.5)
    >>> found.ratios.tolist(), found.rank, found.optimal
    ([1.0, 0.4], 1, True)
    """
    import numpy as np

    kind = complex if np.iscomplexobj(slope) or np.iscomplexobj(matrix) else float
    g, w = np.asarray(slope, kind), np.asarray(matrix, kind)
    if g.ndim != 2 or g.shape != w.shape or not decay > 0:
        raise InputError("certificate: gradient and product are matrices of one shape, and decay is above 0")
    ratios = np.linalg.svd(g, compute_uv=False) / decay
    left, sizes, right = np.linalg.svd(w, full_matrices=False)
    held = sizes > tolerance * sizes.max(initial=0.0)
    left, right = left[:, held], right[held].conj().T
    apart = (g @ right / decay + left, g.conj().T @ left / decay + right)
    misalignment = max((float(np.linalg.norm(one, 2)) for one in apart if one.size), default=0.0)
    rank = int((ratios >= 1 - tolerance).sum())
    return Certificate(ratios, rank, float(ratios.max(initial=0.0) - 1), misalignment, tolerance)


def joint_certificate(parts: Sequence[tuple[Certificate, int, int]]) -> Certificate:
    """The certificate of a head whose scores are sums of several products, each with its own penalty.

    Parameters
    ----------
    parts : for each product its certificate, the largest rank that the head has for it, and the dimensions that a unit of rank
        takes: 2 for a pair of dimensions that rotates, whose product is complex.

    >>> used = certificate([[-0.5j]], [[4.5j]], 0.5)
    >>> still = certificate([[0.2 + 0.1j]], [[0.0]], 0.5)
    >>> both = joint_certificate([(used, 1, 2), (still, 1, 2)])
    >>> both.rank, both.optimal, both.ratios.round(3).tolist()
    (2, True, [1.0, 0.447])
    """
    import numpy as np

    ratios = np.sort(np.concatenate([one.ratios for one, _, _ in parts]))[::-1]
    rank = sum(size * min(one.rank, most) for one, most, size in parts)
    excess, misalignment = (max(getattr(one, name) for one, _, _ in parts) for name in ("excess", "misalignment"))
    return Certificate(ratios, rank, excess, misalignment, parts[0][0].tolerance)


def _matrices(factors: Sequence[Array]) -> list[Array]:
    """Copies of factors whose shapes chain."""
    import numpy as np

    found = [np.array(one, float) for one in factors]
    if not found or any(one.ndim != 2 for one in found):
        raise InputError("gradient flow: factors are one or more matrices")
    for one, later in itertools.pairwise(found):
        if later.shape[1] != one.shape[0]:
            raise InputError(f"gradient flow: factors of shapes {one.shape} and {later.shape} do not chain")
    return found
