"""The moments of softmax attention: a layer's heads on exchangeable tokens, and on tokens followed position by position.

The functions take the :class:`~depthwidth.layers.attention.Attention` whose heads they are.
"""

from __future__ import annotations

import functools
from typing import Any

from ..numerics.interpolation import Table
from ..signal import AnySignal, Number, Signal, TokenSignal, Trace

_SCORE_STEP = 0.1
"""Step of the logarithm of the scores' variance between tables; interpolation between them is right to 1e-4."""
LARGEST_SCORES = 64.0
"""Largest variance of attention scores, in nats^2, that the softmax integrals cover; larger ones count as this one.

At the limit sum p^2 over 128 keys is 0.68. Beyond it the exact value tends to 1, so that outputs for independent tokens come
out too small by up to a third; so does the gradient through queries and keys, which grows with the variance.
"""
_LARGE_SCORES, _LARGE_HEAD = 8.0, 64
"""Score variance and head dimension from which on heads count as infinite: sum p^2 is right to 1 %, and seconds are spared."""


def capped_variance(attention: Any, scores: Number) -> Number:
    """Variance of the scores after the soft cap, at most :data:`LARGEST_SCORES`."""
    if attention.softcap is not None:
        from .activations import activation

        scores = attention.softcap**2 * activation("tanh").second_moment(scores / attention.softcap**2)
    return min(scores, LARGEST_SCORES) if isinstance(scores, float) else scores.clip(None, LARGEST_SCORES)


def mix_tokens(
    attention: Any,
    scores: Number,
    x: AnySignal,
    source: AnySignal,
    query: AnySignal,
    weight: Number,
    trace: Trace,
) -> Any:
    """The heads' output, position by position, and the map from its gradient to that of the querying tokens.

    In cross-attention the map also returns the source's gradient, as the second of two.
    """
    from ..signal.attention import token_attention
    from ..signal.positions import Positions

    normed = attention.query_norm is not None
    # Scores of tokens of second moment 1; what bounds the largest bounds all.
    largest = float(scores.max())
    bound = capped_variance(attention, largest) / largest
    unit = float(scores[-1]) if normed else float(scores[-1] / x.second_moment[-1] / _last(source.second_moment))
    large = largest * bound > _LARGE_SCORES and attention.head_dim >= _LARGE_HEAD
    head_dim = attention.head_dim if trace.finite_width and not large else None
    dropout = attention.dropout if trace.dropout else 0.0
    slopes = followed_slopes(attention, x)
    if slopes:
        from ..signal.alibi_attention import biased_attention

        width = attention.width if trace.finite_width else None
        biased = biased_attention(x.positions, slopes, window=attention.window, head_dim=head_dim, width=width, dropout=dropout)
        moved: Any = biased(x.second_moment, x.covariance, unit * bound, normed=normed)
        return _scale_by_values(attention, moved, x, source, weight)
    attend = token_attention(
        x.positions,
        Positions.one(trace.source_length) if attention.cross else None,
        causal=attention.causal and not attention.cross,
        window=None if attention.cross else attention.window,
        head_dim=head_dim,
        width=(attention.memory_width or attention.width) if trace.finite_width else None,
        dropout=dropout,
        rotation=None if attention.position is None or attention.cross else attention.position.rotation(attention.head_dim),
    )
    memory = _as_arrays(source) if attention.cross else None
    moved = attend(x.second_moment, x.covariance, unit * bound, memory=memory, normed=normed)
    return _scale_by_values(attention, moved, x, source, weight)


def followed_slopes(attention: Any, x: TokenSignal) -> tuple[float, ...] | None:
    """Slopes of the penalties on scores that are followed, one for each head; one zero if only other blocks have some."""
    from ..signal.positions import Distances

    if x.positions.length == 1:  # it sees itself alone, at no distance
        return None
    if attention.slopes and not attention.cross and (x.positions.dense or isinstance(x.positions, Distances)):
        slopes: tuple[float, ...] = attention.slopes
        return slopes
    return (0.0,) if isinstance(x.positions, Distances) else None


def _scale_by_values(attention: Any, moved: Any, x: AnySignal, source: AnySignal, weight: Number) -> Any:
    """The heads' output and its pullback, from those of attention for values with the second moment of the source."""
    value = _last(weight) / _last(source.second_moment)
    back_gain = value * attention.heads * attention.value_dim / attention.width

    def back(g: AnySignal) -> tuple[AnySignal, AnySignal]:
        (asked, asked_pair), (sent, sent_pair) = moved.pull(back_gain * g.second_moment, back_gain * g.covariance)
        if attention.cross:
            return x.of(asked, asked_pair), Signal(float(sent[0]), float(sent_pair[0, 0]))
        return x.of(asked + sent, asked_pair + sent_pair), None

    return x.of(value * moved.second_moment, value * moved.covariance), back


def mix_exchangeable(
    attention: Any,
    scores: Number,
    x: Signal,
    source: Signal,
    query: Signal,
    weight: Number,
    trace: Trace,
) -> Any:
    """The heads' output and the map of its gradient, as :func:`mix_tokens`, for exchangeable tokens."""
    parts = _read_table(attention, capped_variance(attention, scores), source, query, trace)

    def share(g: Signal, columns: Any, owner: Signal) -> Signal:
        # Linear in the gradient's two moments: one column for each of the four parts.
        one, other, pair_one, pair_other = columns
        gain = weight / owner.second_moment
        gamma, kappa = gain * g.second_moment, gain * g.covariance
        return Signal(gamma * one + kappa * other, gamma * pair_one + kappa * pair_other)

    def back(g: Signal) -> tuple[Signal, Signal | None]:
        return share(g, parts[2:6], x), share(g, parts[6:10], source) if attention.cross else None

    return Signal(weight * parts[0], weight * parts[1]), back


def _read_table(attention: Any, scores: Number, source: Signal, query: Signal, trace: Trace) -> Any:
    """The layer's moments for exchangeable tokens of second moment 1 and values of gain 1.

    First second moment and covariance of the output. Then the 2 by 2 matrix, row by row, from second moment and covariance
    of the output's gradient to those of the input's. In cross-attention this is the gradient of the querying tokens, and a
    second matrix gives that of the source.
    """
    rate = attention.dropout if trace.dropout else 0.0
    moving = query.correlation if attention.cross else source.correlation
    fixed = source.correlation if attention.cross else 0.0
    # After a norm, which leaves no spread, all tokens have one size in every draw.
    equal = source.spread is None if trace.finite_width else None
    given = (attention, fixed, rate, equal, trace.length, trace.source_length)
    family = trace.family(given, functools.partial(_exchangeable_table, *given), _SCORE_STEP)
    clipped = min(1.0, max(0.0, moving)) if isinstance(moving, float) else moving.clip(0.0, 1.0)
    return family(scores, clipped)


def _columns(
    attention: Any,
    scores: float,
    source: float,
    rate: float,
    equal: bool | None,
    length: int,
    source_length: int,
    r: Any,
) -> Any:
    """Rows of :func:`_read_table` for correlations r of the tokens.

    In cross-attention r is the correlation of the querying tokens, `source` that of the tokens attended to. `equal` is True
    if all tokens have one size; None leaves finite width out.
    """
    import numpy as np

    from ..formulas.attention import attention_moments

    asking = length
    length = source_length if attention.cross else length
    if attention.window is not None and not attention.cross:
        length = min(length, attention.window)
    given = {
        "signal": 1.0,
        "correlation": r,
        "length": length,
        "width": attention.memory_width or attention.width,
        "head_dim": None if equal is None else attention.head_dim,
        "score_gain": scores,
        "dropout": rate,
        "causal": attention.causal and not attention.cross,
        "equal_norms": equal,
    }
    if attention.cross:
        given |= {"queries": asking, "correlation": source + 0.0 * r, "row_correlation": r}
        known = None
    else:
        from ..numerics.softmax import overlap_table

        known = overlap_table(scores, length, attention.causal, given["head_dim"])(r)
    one = attention_moments(**given, gradient_correlation=0.0, overlap=known)
    both = attention_moments(**given, gradient_correlation=1.0, overlap=one.overlap)
    # A gradient of correlation 1 has both moments 1, so that the difference is what the covariance adds.
    heads = attention.heads * attention.value_dim / attention.width
    if not attention.cross:
        parts = [(one.gradient, both.gradient), (one.gradient_covariance, both.gradient_covariance)]
    else:
        parts = [
            (one.query_gradient, both.query_gradient),
            (one.query_gradient_covariance, both.query_gradient_covariance),
            tuple(m.value_gradient + m.key_gradient for m in (one, both)),
            tuple(m.value_gradient_covariance + m.key_gradient_covariance for m in (one, both)),
        ]
    columns = [one.second_moment, one.covariance]
    for alone, together in parts:
        columns += [heads * alone, heads * (together - alone)]
    return np.stack([np.broadcast_to(column, r.shape) for column in columns], axis=-1)


def _last(values: Number) -> float:
    """The number at the last position, or the number itself."""
    return float(values) if isinstance(values, float | int) else float(values[-1])


def _as_arrays(signal: AnySignal) -> tuple[Any, Any]:
    """The moments of exchangeable tokens as arrays over a single node."""
    import numpy as np

    return np.array([signal.second_moment]), np.array([[signal.covariance]])


@functools.lru_cache(maxsize=256)
def _exchangeable_table(
    attention: Any, source: float, rate: float, equal: bool | None, length: int, source_length: int, scores: float
) -> Table:
    """:func:`_columns` over the correlation, made once."""
    return Table(functools.partial(_columns, attention, scores, source, rate, equal, length, source_length), 0.0, 1.0)
