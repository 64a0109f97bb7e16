r"""Routing of tokens to experts: averages over the weights of the top k of n softmax scores.

The scores of a token are n independent Gaussian logits of variance s2. The scores of two tokens for the same expert are
correlated. The weights w are the softmax over the k largest scores, and 0 for the other experts. No closed form is known for k
below n, so the averages are taken over random draws, which are the same for every variance and correlation.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from ..errors import InputError

Array = Any

DRAWS = 1 << 19
"""Number of random values per average. The standard error is about 1 % for 8 experts and 2 % for 128."""


class Routing(NamedTuple):
    """Averages over the routing weights of one token and of two tokens."""

    overlap: float
    """E sum w^2, from 1/k to 1"""
    pair_overlap: float
    """E sum w w' over two tokens"""
    jacobian: float
    """E of the squared Frobenius norm of the weights' Jacobian with respect to the scores"""
    pair_jacobian: float
    """E of the trace of the product of the Jacobians of two tokens"""


@functools.lru_cache(maxsize=4096)
def routing(variance: float, correlation: float, experts: int, top_k: int, renormalized: bool = True) -> Routing:
    """Averages of a router's weights.

    Parameters
    ----------
    variance : s2, variance of a token's score for an expert, nats^2, at least 0.
    correlation : rho, correlation of the scores of two tokens for the same expert, in [-1, 1].
    experts : n, number of experts, at least 1.
    top_k : k, number of experts per token, from 1 to n.
    renormalized : the weights of the chosen experts sum to 1 (Mixtral); otherwise they are the softmax over all experts.

    Returns
    -------
    :class:`Routing`, averaged over a seeded sample of pairs of tokens, so that results are repeatable.

    Raises
    ------
    InputError
        if an argument is outside its range.

    Examples
    --------
    >>> even = routing(0.0, 0.0, 8, 2)
    >>> round(even.overlap, 2), round(even.pair_overlap, 2)
    (0.5, 0.13)
    >>> routing(1.0, 1.0, 8, 8).pair_overlap == routing(1.0, 1.0, 8, 8).overlap
    True
    """
    import numpy as np

    if not (variance >= 0 and -1 <= correlation <= 1 and 1 <= top_k <= experts):
        raise InputError(f"routing: variance={variance}, correlation={correlation}, top_k={top_k} of {experts} is out of range")
    one, other = _standard_scores(experts)
    second = correlation * one + np.sqrt(max(0.0, 1 - correlation**2)) * other if correlation < 1 else one
    (p, w), (q, v) = _first_weights(variance, experts, top_k, renormalized), _weights(second, variance, top_k, renormalized)

    def jacobians(p: Array, w: Array, q: Array, v: Array) -> float:
        # Trace of the product of two Jacobians. Row e of a Jacobian is p_e (delta_ef [e is chosen] - w_f).
        chosen, other_chosen = w > 0, v > 0
        rows = chosen * other_chosen - chosen * v - other_chosen * w + (w * v).sum(1, keepdims=True)
        return float((p * q * rows).sum(1).mean())

    pairs = (float((w * w).sum(1).mean()), float((w * v).sum(1).mean()))
    return Routing(*pairs, jacobians(p, w, p, w), jacobians(p, w, q, v))


@functools.lru_cache(maxsize=2)
def _standard_scores(experts: int) -> tuple[Array, Array]:
    import numpy as np

    pairs = max(2048, DRAWS // (2 * experts))
    rng = np.random.default_rng(experts)
    return rng.standard_normal((pairs, experts)), rng.standard_normal((pairs, experts))


@functools.lru_cache(maxsize=1)
def _first_weights(variance: float, experts: int, top_k: int, renormalized: bool) -> tuple[Array, Array]:
    """The weights of the first token of each pair, which do not depend on the correlation."""
    return _weights(_standard_scores(experts)[0], variance, top_k, renormalized)


def _weights(scores: Array, variance: float, top_k: int, renormalized: bool) -> tuple[Array, Array]:
    """The softmax (over the chosen experts if renormalised, else over all), and the weights: 0 for experts not chosen."""
    import numpy as np

    shares = np.exp(np.sqrt(variance) * (scores - scores.max(1, keepdims=True)))
    least = np.partition(scores, -top_k, axis=1)[:, -top_k, None]
    chosen = scores >= least  # ties have probability zero
    if renormalized:
        shares = np.where(chosen, shares, 0.0)
    shares /= shares.sum(1, keepdims=True)
    return shares, np.where(chosen, shares, 0.0)
