r"""Routing of tokens to experts: averages over the weights of the top k of n scores.

The scores of a token are n independent Gaussian logits of variance s2. The scores of two tokens for the same expert are
correlated. The weights w are the softmax over the k largest scores, or their sigmoids, and 0 for the other experts. With groups
of experts only those of the best groups can be chosen. No closed form is known for k below n, so the averages are taken over
random draws, which are the same for every variance and correlation.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from ..errors import InputError

Array = Any

DRAWS = 1 << 19
"""Number of random values per average. The standard error is about 1 % for 8 experts and 2 % for 128."""

MOST_EXPERTS = 4096
"""Largest number of experts; the draws of 2,048 pairs of tokens then take 64 MiB an array."""


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
def routing(
    variance: float,
    correlation: float,
    experts: int,
    top_k: int,
    renormalized: bool = True,
    sigmoid: bool = False,
    groups: tuple[int, int, int] = (1, 1, 1),
) -> Routing:
    """Averages of a router's weights.

    Parameters
    ----------
    variance : s2, variance of a token's score for an expert, nats^2, at least 0.
    correlation : rho, correlation of the scores of two tokens for the same expert, in [-1, 1].
    experts : n, number of experts, at least 1.
    top_k : k, number of experts per token, from 1 to n.
    renormalized : the weights of the chosen experts sum to 1 (Mixtral); otherwise they are the softmax over all experts, or the
        sigmoids themselves.
    sigmoid : weights are sigmoids of the scores instead of their softmax (DeepSeek-V3).
    groups : number of groups of equal size, of groups from which experts are chosen, and of largest values in a group whose sum
        is its size.

    Returns
    -------
    :class:`Routing`, averaged over a seeded sample of pairs of tokens, so that results are repeatable.

    Raises
    ------
    InputError
        if an argument is outside its range, or there are more than :data:`MOST_EXPERTS` experts.

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
    second = _other_scores(experts, correlation)
    rule = variance, top_k, renormalized, sigmoid, groups
    (p, w), (q, v) = _first_weights(experts, *rule), _weights(second, *rule)
    summed = renormalized or not sigmoid  # sigmoids that are not divided by their sum depend on one score each

    def jacobians(p: Array, w: Array, q: Array, v: Array) -> tuple[float, float]:
        """The mean of w v, and the trace of the product of two Jacobians."""
        # Row e of a Jacobian is p_e (delta_ef [e is chosen] - w_f).
        both, count = w * v, w.shape[1]
        met = both.sum(0)
        if not summed:  # and p is 0 for experts that are not chosen
            trace = np.vdot(p, q)
        elif p is w and q is v:
            trace = met.sum() + np.vdot(met, met) - np.vdot(both, w) - np.vdot(both, v)
        else:
            chosen, other_chosen = w > 0, v > 0
            trace = np.vdot(p * q, (chosen & other_chosen) - chosen * v - other_chosen * w + met)
        return float(met.sum()) / count, float(trace) / count

    (overlap, jacobian), (pair_overlap, pair_jacobian) = jacobians(p, w, p, w), jacobians(p, w, q, v)
    return Routing(overlap, pair_overlap, jacobian, pair_jacobian)


@functools.lru_cache(maxsize=4096)
def sparse_mixer_routing(variance: float, correlation: float, experts: int, jitter: float) -> Routing:
    """Averages of a sparse mixer's weights: two experts, each with its share in a softmax over the candidates near the best.

    Parameters
    ----------
    variance, correlation, experts : as for :func:`routing`; at least two experts.
    jitter : half of the largest distance to the best score, relative to the larger of the two scores.

    Raises
    ------
    InputError
        if an argument is outside its range, or there are more than :data:`MOST_EXPERTS` experts.

    Examples
    --------
    >>> apart = sparse_mixer_routing(1.0, 0.0, 16, 0.01)
    >>> round(apart.overlap, 1), round(apart.pair_overlap, 2)
    (1.9, 0.23)
    """
    import numpy as np

    if not (variance >= 0 and -1 <= correlation <= 1 and experts >= 2 and 0 <= jitter < 1):
        raise InputError(f"sparse_mixer_routing: variance={variance}, correlation={correlation}, {experts=} is out of range")
    both = _standard_scores(experts)[0].T, _other_scores(experts, correlation).T
    here, there = (_picks(np.sqrt(variance) * scores, jitter) for scores in both)

    def met(kind: int, mine: Any, theirs: Any) -> float:
        """The mean over pairs of tokens of the products that the experts of both take part in."""
        total = 0.0
        for expert, *values in mine:
            for their_expert, *their_values in theirs:
                product = values[kind] * their_values[kind]
                total += float(np.where(expert == their_expert, product.sum(1), 0.0).mean())
        return total

    return Routing(met(0, here, here), met(0, here, there), met(1, here, here), met(1, here, there))


def _picks(scores: Array, jitter: float) -> list[tuple[Array, Array, Array]]:
    """The two picks of each token: the expert (tokens,), its weight (tokens, 1), the weight's gradient (tokens, experts)."""
    import numpy as np

    rows, left, picks = np.arange(len(scores)), scores, []
    for _ in range(2):
        expert = left.argmax(1)
        best = left[rows, expert][:, None]
        near = (best - scores) <= 2 * jitter * np.maximum(np.abs(scores), best)
        shares = np.where(near & np.isfinite(left), np.exp(scores - best), 0.0)
        shares /= shares.sum(1, keepdims=True)
        weight = shares[rows, expert][:, None]
        slope = -shares * weight
        slope[rows, expert] += weight[:, 0]
        picks.append((expert, weight, slope))
        left = left.copy()
        left[rows, expert] = -np.inf
    return picks


@functools.lru_cache(maxsize=2)
def _standard_scores(experts: int) -> tuple[Array, Array]:
    """Scores of the first token of each pair, and others, (experts, pairs): sums over experts then run along memory."""
    import numpy as np

    if experts > MOST_EXPERTS:
        raise InputError(f"routing among {experts:,} experts is not computed; at most {MOST_EXPERTS:,} are supported")
    pairs = max(2048, DRAWS // (2 * experts))
    rng = np.random.default_rng(experts)
    one, other = (np.ascontiguousarray(rng.standard_normal((pairs, experts)).T) for _ in range(2))
    return one, other


def _other_scores(experts: int, correlation: float) -> Array:
    """Standard scores of the second token of each pair, with this correlation with those of the first."""
    import numpy as np

    one, other = _standard_scores(experts)
    return correlation * one + np.sqrt(max(0.0, 1 - correlation**2)) * other if correlation < 1 else one


@functools.lru_cache(maxsize=1)
def _first_weights(experts: int, *rule: Any) -> tuple[Array, Array]:
    """The weights of the first token of each pair, which do not depend on the correlation."""
    return _weights(_standard_scores(experts)[0], *rule)


def _weights(
    scores: Array,
    variance: float,
    top_k: int,
    renormalized: bool,
    sigmoid: bool = False,
    groups: tuple[int, int, int] = (1, 1, 1),
) -> tuple[Array, Array]:
    """The derivative of each weight by its own score, had it no sum to share, and the weights: 0 for experts not chosen.

    Scores and both results have shape (experts, tokens). The former is the softmax itself, over the chosen experts if
    renormalised, else over all; or the derivative of the sigmoid, over the sum of the chosen ones if renormalised.
    """
    import numpy as np

    scale = np.sqrt(variance)
    shares = 1 / (1 + np.exp(-scale * scores)) if sigmoid else np.exp(scale * (scores - scores.max(0)))
    open_to = scores if groups[0] == 1 else np.where(_in_best_groups(scores, shares, *groups), scores, -np.inf)
    chosen = open_to >= _largest(open_to, top_k)  # ties have probability zero
    if renormalized:
        shares = np.where(chosen, shares, 0.0)
    slopes = shares * (1 - shares) if sigmoid else shares
    if renormalized or not sigmoid:
        total = shares.sum(0)
        shares = shares / total
        slopes = slopes / total if sigmoid else shares
    if renormalized and not sigmoid:
        return shares, shares
    return np.where(chosen, slopes, 0.0) if sigmoid else slopes, np.where(chosen, shares, 0.0)


def _in_best_groups(scores: Array, shares: Array, groups: int, top_groups: int, counted: int) -> Array:
    """True for the experts of the groups of largest sum of their `counted` largest shares."""
    import numpy as np

    grouped = shares.reshape(groups, -1, shares.shape[1])
    # By their scores if one counts: shares of large scores may be equal.
    one = scores.reshape(grouped.shape).max(1)
    sizes = one if counted == 1 else np.sort(grouped, axis=1)[:, -counted:].sum(1)
    return np.repeat(sizes >= _largest(sizes, top_groups), grouped.shape[1], axis=0)


_FEW = 3


def _largest(values: Array, rank: int) -> Array:
    """Of each column the value of this rank from the largest on, which is 1."""
    import numpy as np

    if rank > _FEW:
        return np.partition(np.ascontiguousarray(values.T), -rank, axis=1)[:, -rank]
    found = values.max(0)
    for _ in range(rank - 1):
        values = np.where(values >= found, -np.inf, values)
        found = values.max(0)
    return found
