"""The moments of tree attention on exchangeable tokens, with hyperplanes that are drawn around the origin.

Derivation: docs/derivations/tree-attention.md, (R7) to (R18).
"""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

from ..formulas.treeformer import same_side_probability
from ..numerics.interpolation import Table
from ..signal import Number, Signal, Trace
from .attention_moments import SCORE_STEP, capped_variance, equal_norms

_LENGTHS = 14
"""Lengths of rows at which softmax averages are integrated; between them a spline errs by a thousandth."""


_ANGLES = 33
"""Nodes of a table over the angle of two tokens, in which the probability of one side is linear."""


class Columns(NamedTuple):
    """Moments for tokens of second moment 1 and values of gain 1, at one correlation of the tokens.

    Gradients are those at the input, through values, queries and keys, and apart from them through the decisions of queries and
    keys. The latter are in units of a product: the mean squared derivative of a decision by its node's score, times the
    variance of that score.
    """

    second_moment: float
    covariance: float
    one: float
    """second moment of the input's gradient, from that of the output's"""
    other: float
    """from the covariance of the output's gradient"""
    pair_one: float
    pair_other: float
    asked: float
    """through decisions of queries, from the second moment"""
    held: float
    """through decisions of keys, from the second moment"""
    held_pair: float
    """from the covariance"""


def mix_tree(attention: Any, scores: Number, x: Signal, decisions: Any, weight: Number, trace: Trace) -> Any:
    """The heads' output and the map from its gradient to that of the input, decisions included.

    Parameters
    ----------
    scores : variance of the scores of queries and keys.
    decisions : variances of the scores of queries, and of keys, at a node.
    weight : second moment of the values, without their bias.
    """
    parts = _read_table(attention, scores, x, trace)
    sharpness = attention.tree.sharpness
    asked, held = (_slopes(variance, sharpness) for variance in decisions)

    def pull(g: Signal) -> Signal:
        gain = weight / x.second_moment
        own = parts[2] + asked * parts[6] + held * parts[7]
        pair = parts[3] + held * parts[8]
        gamma, kappa = gain * g.second_moment, gain * g.covariance
        return Signal(gamma * own + kappa * pair, gamma * parts[4] + kappa * parts[5])

    return Signal(weight * parts[0], weight * parts[1]), pull


def _slopes(variance: Number, sharpness: float) -> Number:
    """The mean squared derivative of a decision by its score, times the variance of the score; blocks alike share it."""
    from ..numerics.tree_routing import decision_slope

    if isinstance(variance, float | int):
        return variance * decision_slope(float(f"{variance:.6g}"), sharpness)
    import numpy as np

    return np.array([_slopes(float(one), sharpness) for one in np.ravel(variance)]).reshape(np.shape(variance))


def _read_table(attention: Any, scores: Number, x: Signal, trace: Trace) -> Any:
    """The columns of :class:`Columns` at each block's scores and correlation of tokens."""
    equal = equal_norms(x, trace)
    if equal is None or isinstance(equal, bool):
        return _look_up(attention, scores, x.correlation, equal, trace)
    import numpy as np

    both = (_look_up(attention, scores, x.correlation, one, trace) for one in (True, False))
    return np.where(equal, *both)


def _look_up(attention: Any, scores: Number, correlation: Number, equal: bool | None, trace: Trace) -> Any:
    # Means of nodes have no scores: one table serves all.
    scores = capped_variance(attention, scores) if attention.tree.softmax else 1.0 + 0.0 * scores
    settings = (attention, equal, trace.length, attention.dropout if trace.dropout else 0.0)
    family = trace.family(("tree", *settings), functools.partial(_table, *settings), SCORE_STEP)
    if isinstance(correlation, float):
        return family(scores, math.acos(min(1.0, max(0.0, correlation))))
    import numpy as np

    return family(scores, np.arccos(correlation.clip(0.0, 1.0)))


@functools.lru_cache(maxsize=256)
def _table(attention: Any, equal: bool | None, length: int, rate: float, scores: float) -> Table:
    make = leaf_columns if attention.tree.softmax else path_columns

    def columns(angles: Any) -> Any:
        import numpy as np

        return np.stack([make(attention, scores, equal, length, rate, float(r)) for r in np.cos(angles).clip(0.0, 1.0)])

    return Table(columns, 0.0, math.pi / 2, _ANGLES)


def _counts(correlation: float, height: int, keys: int, length: int) -> Any:
    from ..numerics.tree_routing import count_weights

    return count_weights(correlation, height, keys, length)


def _sides(correlation: float, height: int) -> tuple[float, float]:
    """The mean of the tokens of a leaf across the hyperplanes of its path: its square, and the product over two queries.

    Both per feature of one, summed over levels, beyond what tokens have in common.
    """
    from ..numerics.tree_routing import side_moments

    one, both = side_moments(correlation), float(same_side_probability(correlation))
    own = 2 * one.common + one.shift
    pair = sum(
        both**level * own + both ** (level - 1) * (1 - both) * one.across + (1 - both ** (level - 1)) * 2 * one.common
        for level in range(1, height + 1)
    )
    return height * own, pair


def leaf_columns(attention: Any, scores: float, equal: bool | None, length: int, rate: float, r: float) -> Columns:
    """TF-attention: (R7) to (R14)."""
    import numpy as np

    from ..formulas.attention import attention_moments
    from ..numerics.softmax import AttentionOverlap
    from ..numerics.tree_routing import side_moments

    height, width, head_dim = attention.tree.height, attention.width, None if equal is None else attention.head_dim
    one, both = side_moments(r), float(same_side_probability(r))
    variance, rho = (1 - r) * scores, r
    if head_dim is not None:
        # Within a leaf keys differ less across the hyperplanes, and queries are more similar.
        variance *= max(0.0, 1 - height * one.narrowed / max(1 - r, 1e-12) / head_dim)
        rho = min(1.0, r + height * one.shift / head_dim)
    average = _overlaps(variance, rho, length, head_dim)
    others, keys = _counts(r, height, length - 1, length), _counts(r, height, length, length)
    seen = 1 + np.arange(length)
    number = np.arange(length + 1)
    shared = 1 + number * (1 - 1 / length)
    alone = float(others @ ((seen - 1) / seen))  # of two queries in two leaves, the share of a key that both see

    def row(name: str) -> float:
        return float(others @ (average(np.log(seen))[AttentionOverlap._fields.index(name)] / seen))

    def pair(name: str) -> float:
        index = AttentionOverlap._fields.index(name)
        same = float(keys @ (number / shared * average(np.log(shared))[index] / shared))
        apart = float(others @ (average(np.log(seen))[index] / seen))
        return float(both**height * same + (1 - both**height) * 2 / length * alone * apart)

    fields = {name: row(name) for name in ("P", "M3", "A22", "T", "R", "entropy", "log_partition")}
    overlap = AttentionOverlap(**fields, **{name: pair(name) for name in ("P2", "T2", "R2")})
    settings: dict[str, Any] = {
        "signal": 1.0, "correlation": r, "length": length, "width": width, "head_dim": head_dim, "score_gain": scores,
        "dropout": rate, "equal_norms": equal, "overlap": overlap,
    }  # fmt: skip
    without = attention_moments(**settings, gradient_correlation=0.0)
    full = attention_moments(**settings, gradient_correlation=1.0)
    heads = attention.heads * attention.value_dim / width
    own, two = _sides(r, height) if equal is not None else (0.0, 0.0)
    leaf = float(others @ ((seen - 1) / seen) ** 2)
    # The derivative of a query's decision is the difference of the outputs of two leaves; of a key's, its value against them.
    squares = average(np.log(seen))[0]
    other = float(others[1:] @ (squares[:-1] / seen[:-1]))  # of a leaf that need not hold the own key
    itself = float(others @ (squares / seen**2))
    moved = (1 - r) * (other + overlap.P + itself * (1 - overlap.P))
    asked = height * moved + (height * (height + 3) * one.shift / width if equal is not None else 0.0)
    held = height * (1 - r) * ((overlap.P - itself) * (1 - overlap.P) + other * (1 + overlap.P))
    inverse = float(keys[1:] @ (1 / number[1:]))
    uneven = sum(_uneven(both, level, height) for level in range(1, height + 1))
    pulled = (1 - r) * inverse * (length * 2**height * uneven + 4 * height)
    return Columns(
        without.second_moment + leaf * own / width, without.covariance + leaf * two / width,
        heads * without.gradient, heads * (full.gradient - without.gradient),
        heads * without.gradient_covariance, heads * (full.gradient_covariance - without.gradient_covariance),
        heads * asked, heads * held, heads * pulled,
    )  # fmt: skip


def _uneven(both: float, level: int, height: int) -> float:
    """``E (pi' - pi)^2`` of the shares of queries in two leaves whose paths part at a level: (R13)."""
    below = height - level
    return (both / 2) ** (level - 1) * (2 * (both / 2) ** (below + 1) - (1 - both) * 0.25**below)


@functools.lru_cache(maxsize=512)
def _overlaps(variance: float, rho: float, length: int, head_dim: int | None) -> Any:
    """Averages of softmax rows times their length, smooth functions of the logarithm of the length."""
    import numpy as np

    from ..numerics.interpolation import spline_values
    from ..numerics.softmax import attention_overlap

    lengths = np.round(np.geomspace(1, max(length, 8), _LENGTHS)).astype(int)
    lengths = np.unique(np.concatenate([lengths, np.arange(1, 6)]))
    found = np.array(attention_overlap(variance, rho, lengths, head_dim=head_dim))
    return lambda at: spline_values(np.log(lengths), (found * lengths).T, at).T


def path_columns(attention: Any, scores: float, equal: bool | None, length: int, rate: float, r: float) -> Columns:
    """TC-attention: (R15) to (R18)."""
    import numpy as np

    from ..numerics.tree_routing import filled_levels, nested_means

    height, width = attention.tree.height, attention.width
    both = float(same_side_probability(r))
    alpha = np.full(height + 1, 1 / (height + 1))
    means = nested_means(r, height, length)
    level = np.minimum.outer(np.arange(height + 1), np.arange(height + 1))
    weights = np.outer(alpha, alpha)
    own, pair = float((weights * means).sum()), float((weights * both**level * means).sum())
    filled = filled_levels(r, height, length)
    finer = np.maximum.outer(np.arange(height + 1), np.arange(height + 1))
    present = float((weights * filled[finer]).sum())
    second, covariance = present * r + (1 - r) * own, present * r + (1 - r) * pair
    if equal is not None:
        sides = [_sides(r, depth) for depth in range(height + 1)]
        second += float((weights * np.array([one for one, _ in sides])[level]).sum()) / width
        covariance += float((weights * np.array([two for _, two in sides])[level]).sum()) / width
    heads = attention.heads * attention.value_dim / width
    asked = held = held_pair = 0.0
    for decision in range(height):
        below = slice(decision + 1, height + 1)
        moved = float((weights * means)[below, below].sum())
        asked += (1 - r) * 2 * moved
        held += (1 - r) * 2 * moved
        for coarse, fine in itertools.product(range(decision + 1, height + 1), repeat=2):
            meet = min(coarse, fine)
            uneven = length * 2**meet * _uneven(both, decision + 1, meet)
            held_pair += (1 - r) * weights[coarse, fine] * means[coarse, fine] * (uneven + 4)
    others = length - 1
    return Columns(
        second, covariance, heads * own, heads * others * pair,
        heads * (present - own) / others, heads * (present - pair),
        heads * asked, heads * held, heads * held_pair,
    )  # fmt: skip
