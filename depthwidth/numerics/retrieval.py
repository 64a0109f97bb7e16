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
