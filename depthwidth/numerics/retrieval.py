r"""Retrieval of one target among n - 1 distractors by a softmax: exact averages, and the smallest possible error.

The target's logit is a number; the distractors' logits are independent Gaussians. As in :mod:`depthwidth.numerics.softmax`,
1/Z^k is written as an integral of exp(-tZ), in which the logits factorise. With t = e^u, K_j(y) = e^{jy} exp(-e^y) and
psi_j(u) = E K_j(u + x),

.. math:: E\,p_t^j = \frac{1}{(j-1)!}\int K_j(u + \Delta)\, \psi_0(u)^{n-1}\, du, \qquad
    E \sum_{i \ne t} p_i^2 = (n - 1) \int \psi_2(u)\, K_0(u + \Delta)\, \psi_0(u)^{n-2}\, du

Derivation: docs/derivations/softmax.md, (S11), and heads.md, (H5).
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from . import softmax_grid as quad
from .softmax_grid import head_norms


class Planted(NamedTuple):
    """Averages over a softmax with a planted target."""

    probability: float
    """E p_t"""
    squared: float
    """E p_t^2"""
    others: float
    """E of the sum of p^2 over the distractors"""

    @property
    def squared_sum(self) -> float:
        """E sum p^2 over the target and the distractors."""
        return self.squared + self.others


def planted(gap: float, variance: float, length: float) -> Planted:
    """Exact averages over a softmax with one target and `length` - 1 distractors.

    Parameters
    ----------
    gap : Delta, the target's logit minus the mean of the distractors' logits, nats; it may be negative.
    variance : sigma^2, variance of a distractor's logit, nats^2, from 0 to 1e4.
    length : n, number of entries including the target, at least 2.

    Examples
    --------
    >>> found = planted(6.0, 1.0, 64)
    >>> print(f"{found.probability:.5f} {found.squared:.5f} {found.others:.6f}")
    0.79614 0.63453 0.001746
    """
    sigma, longest = math.sqrt(variance), math.log(length)
    low = -(max(gap, quad.DEVIATIONS * sigma + longest) + quad.BELOW)
    high = quad.ABOVE + min(-gap, quad.DEVIATIONS * sigma)
    u = quad.STEP * np.arange(math.floor(low / quad.STEP), math.ceil(high / quad.STEP) + 1)
    less, psi0, psi2 = (values[0] for values in quad.average_kernels(u, quad.STEP, np.array([sigma]), (2,), longest))
    log_psi0 = quad.log_psi(less, psi0)
    y = u + gap
    t = np.exp(np.minimum(y, 6.0))
    survives = np.exp(np.maximum((length - 1) * log_psi0 - t, quad.LEAST))
    first, second = float((t * survives).sum()), float((t * t * survives).sum())
    fewer = np.exp(np.maximum((length - 2) * log_psi0 - t, quad.LEAST))
    return Planted(quad.STEP * first, quad.STEP * second, quad.STEP * (length - 1) * float((psi2 * fewer).sum()))


def planted_entropy(gap: float, variance: float, length: float) -> float:
    """Average entropy of a softmax with one target, nats; arguments as for :func:`planted`.

    Examples
    --------
    >>> round(planted_entropy(0.0, 0.0, 64), 6) == round(math.log(64), 6)
    True
    """
    sigma, longest = math.sqrt(variance), math.log(length)
    low = -(max(gap, 0.0, quad.DEVIATIONS * sigma + longest) + quad.BELOW)
    high = quad.ABOVE + max(0.0, min(-gap, quad.DEVIATIONS * sigma))
    u = quad.STEP * np.arange(math.floor(low / quad.STEP), math.ceil(high / quad.STEP) + 1)
    less, psi0, _ = (values[0] for values in quad.average_kernels(u, quad.STEP, np.array([sigma]), (2,), longest))
    # Of both terms the deviation from one, and their difference: each is small where the other is.
    alone = np.exp(np.minimum(u, 6.0))
    together = np.exp(np.minimum(u + gap, 6.0)) - (length - 1) * quad.log_psi(less, psi0)
    log_partition = quad.STEP * float((np.expm1(-alone) - np.expm1(np.maximum(-together, quad.LEAST))).sum())
    found = planted(gap, variance, length)
    return log_partition - gap * found.probability - variance * (1 - found.probability - found.others)


def planted_largest(gap: float, variance: float, length: float) -> float:
    """Average of the largest weight of a softmax with one target; arguments as for :func:`planted`.

    Examples
    --------
    >>> round(planted_largest(6.0, 1.0, 64), 5), round(planted_largest(0.0, 0.0, 64), 6) == round(1 / 64, 6)
    (0.79614, True)
    """
    if variance == 0:
        other = (length - 1) * math.exp(-abs(gap)) if gap > 0 else length - 2 + math.exp(gap)
        return 1 / (1 + other)
    sigma, longest = math.sqrt(variance), math.log(length)
    reach = quad.DEVIATIONS * sigma
    low = -(max(gap, reach + longest) + quad.BELOW)
    high = quad.ABOVE + min(-gap, reach)
    u = quad.STEP * np.arange(math.floor(low / quad.STEP), math.ceil(high / quad.STEP) + 1)
    x, width, from_target = _panels(sigma, gap)
    weights, cumulative = quad.panel()[1:]
    density = np.exp(-((x / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))
    less, k0, k1 = (values * density for values in quad.kernels(u[:, None, None] + x, (1,)))
    sums = width * (k0 @ weights)  # (u, panels)
    ends = np.cumsum(sums, axis=1)
    total, beyond = ends[:, -1], (width * (less @ weights)).sum(1)
    t = np.exp(np.minimum(u + gap, 6.0))

    def powers(below: np.ndarray, others: float) -> np.ndarray:
        """The probability that `others` distractors are below, weighted by exp(-tZ), target included."""
        shape = (-1, *(1,) * (below.ndim - 1))
        above = beyond.reshape(shape) + (total.reshape(shape) - below)
        exponent: np.ndarray = others * quad.log_psi(above, below) - t.reshape(shape)
        return np.asarray(np.exp(np.maximum(exponent, quad.LEAST)))

    # The target is the largest: every distractor is below it.
    under = ends[:, from_target - 1] if from_target else 0 * total
    target = float((t * powers(under, length - 1)).sum())
    # A distractor is: only those above the target count.
    below = (ends - sums)[..., None] + width[:, None] * (k0 @ cumulative.T)
    one = (powers(below, length - 2) * k1) @ weights
    return quad.STEP * (target + (length - 1) * float((width * one)[:, from_target:].sum()))


def _panels(sigma: float, gap: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Nodes (panels, nodes) over the distractors' logits, the panels' widths, and the number of the first one above the target.

    One end of a panel is the target's logit, where the largest weight passes from it to a distractor.
    """
    reach = quad.DEVIATIONS * sigma
    split = max(-reach, min(reach, gap))
    sides = [(low, high) for low, high in ((-reach, split), (split, reach)) if high > low]
    edges: list[float] = [-reach]
    for low, high in sides:
        parts = math.ceil((high - low) / min(1.0, sigma))
        edges += [low + (high - low) * (k + 1) / parts for k in range(parts)]
    first = sum(1 for edge in edges[1:] if edge <= split)
    starts, widths = np.array(edges[:-1]), np.diff(edges)
    return starts[:, None] + widths[:, None] * quad.panel()[0], widths, first


class Retrieval(NamedTuple):
    """The best possible copy of a planted target's value by one head."""

    error: float
    """Smallest normalised squared error, from 0 to 1."""
    logit_scale: float
    """c, the factor of q.k with this error."""
    probability: float
    """E p_t with this factor."""


def retrieval_error_at(logit_scale: float, length: int, head_dim: int) -> tuple[float, float]:
    """Normalised error 1 - (E p_t)^2 / E sum p^2 at one logit scale, and E p_t.

    Keys are N(0, I) in `head_dim` dimensions, the query equals the target's key, logits are `logit_scale` q.k, and the output
    is multiplied by the best gain. Given the squared norm R of the target's key, the target's logit is c R, and the
    distractors' logits are Gaussian with variance c^2 R. R is averaged over chi^2(d_h) with 32 Gauss-Laguerre nodes.
    """
    scales, weights = head_norms(head_dim)
    kept = weights > 1e-13
    found = [planted(logit_scale * head_dim * r, logit_scale**2 * head_dim * r, length) for r in scales[kept].tolist()]
    hit = float(np.dot(weights[kept], [p.probability for p in found]))
    spread = float(np.dot(weights[kept], [p.squared_sum for p in found]))
    return 1 - hit * hit / spread, hit


@functools.lru_cache(maxsize=4096)
def best_retrieval(length: int, head_dim: int) -> Retrieval:
    """The smallest error over all logit scales, accurate to about 1e-6, and the scale that attains it.

    Parameters
    ----------
    length : n, number of tokens, at least 2.
    head_dim : d_h, dimensions of a key, at least 1.

    Examples
    --------
    >>> best = best_retrieval(64, 8)
    >>> print(f"{best.error:.3f} {best.logit_scale:.2f} {best.probability:.2f}")
    0.410 1.29 0.58
    """
    from scipy.optimize import minimize_scalar

    # The best standard deviation of the logits is near sqrt(d_h) if retrieval succeeds, and smaller otherwise.
    found = minimize_scalar(
        lambda log_c: retrieval_error_at(math.exp(log_c), length, head_dim)[0],
        bounds=(math.log(0.02), math.log(8 * max(1.0, math.log(length) / head_dim))), method="bounded", options={"xatol": 1e-3},
    )  # fmt: skip
    scale = math.exp(float(found.x))
    error, hit = retrieval_error_at(scale, length, head_dim)
    return Retrieval(max(error, 0.0), scale, hit)
