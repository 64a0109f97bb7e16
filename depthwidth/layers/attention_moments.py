"""The moments of softmax attention: of the heads of one layer, on exchangeable tokens or position by position.

The argument `attention` is the :class:`~depthwidth.layers.attention.Attention`.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from ..formulas.moments import least_correlation
from ..numerics.interpolation import Table
from ..signal import AnySignal, Number, Signal, Site, TokenSignal, Trace, quotient
from .positions import BiasMoments

if TYPE_CHECKING:
    from ..numerics.softmax import OverlapTable

SCORE_STEP = 0.1
"""Step of the logarithm of the scores' variance between tables; the error of interpolation between them is 1e-4."""
LARGEST_SCORES = 64.0
"""Largest variance of attention scores, in nats^2, that the softmax integrals cover; larger variances are set to it.

At the limit sum p^2 over 128 keys is 0.68. Beyond it the exact value tends to 1. Outputs for independent tokens are then too
small by up to a third. So is the gradient through queries and keys, which grows with the variance.
"""
_LARGE_SCORES, _LARGE_HEAD = 8.0, 64
"""Score variance and head dimension from which heads are treated as infinite: sum p^2 is right to 1 %, and it saves seconds."""


def capped_variance(attention: Any, scores: Number) -> Number:
    """Variance of the scores after the soft cap, at most :data:`LARGEST_SCORES`."""
    scores = soft_variance(attention, scores)
    return min(scores, LARGEST_SCORES) if isinstance(scores, float) else scores.clip(None, LARGEST_SCORES)


def soft_variance(attention: Any, scores: Number) -> Number:
    """Variance of the scores after the soft cap, if there is one."""
    if attention.softcap is None:
        return scores
    from .activations import activation

    found: Number = attention.softcap**2 * activation("tanh").second_moment(scores / attention.softcap**2)
    return found


_NEGLIGIBLE_BIAS = 1e-6
"""Variance of a score bias, in nats^2, below which it counts as zero; it changes sum p^2 by this part of it."""
_LARGEST_HEAD = 4096
"""Dimensions from which the variance of a row with a score bias does not fluctuate."""


def starting_bias(attention: Any, site: Site) -> BiasMoments | None:
    """The score bias of an attention at the start: its own, or that of its stack; None if it is negligible.

    Raises
    ------
    InputError
        if it has both.
    """
    if attention.cross:
        return None
    own = None if attention.position is None else attention.position.score_bias(site.at("position"))
    found = [one for one in (own, site.trace.score_bias) if one is not None and _largest(one.variance) > _NEGLIGIBLE_BIAS]
    if len(found) > 1:
        raise InputError(f"{site.role}: the moments of two score biases that do not start at zero are not known")
    return found[0] if found else None


def _largest(value: Number) -> float:
    return float(value) if isinstance(value, float | int) else float(value.max())


def biased_head_dim(scores: float, bias: BiasMoments, head_dim: int | None) -> int | None:
    """The head dimension at which a row fluctuates like one of this variance with the bias; None if it hardly does."""
    if head_dim is None:
        return None
    from ..formulas.positions import effective_head_dim

    found = effective_head_dim.body(max(scores, _TINY), float(bias.variance) * bias.own, head_dim, bias.rank)
    return max(1, round(found)) if found < _LARGEST_HEAD else None


def mix_heads(attention: Any, scores: Number, x: AnySignal, *others: Any) -> Any:
    """:func:`mix_tokens` or :func:`mix_exchangeable`, whichever is for the grain of `x`."""
    return (mix_tokens if isinstance(x, TokenSignal) else mix_exchangeable)(attention, scores, x, *others)


def mix_tokens(
    attention: Any,
    scores: Number,
    x: AnySignal,
    source: AnySignal,
    query: AnySignal,
    weight: Number,
    trace: Trace,
    bias: BiasMoments | None = None,
) -> Any:
    """The heads' output, position by position, and the map from its gradient to the gradients of the two inputs.

    The first gradient is that of the queries' input, the second that of the source in cross-attention, otherwise None.
    """
    from ..signal.attention import token_attention
    from ..signal.positions import Positions
    from ..signal.window_pairs import WindowPairs

    if x.positions.of_kinds:
        found = _mix_alike(attention, scores, x, weight, trace)
        return found if bias is None else _with_bias(attention, found, scores, x, weight, trace, bias)
    normed = attention.query_norm is not None
    # `unit` is for tokens of second moment 1. The bound on the largest variance is applied to all as a factor.
    largest = float(scores.max())
    bound = capped_variance(attention, largest) / largest if largest else 1.0
    unit = float(scores[-1]) if normed else float(scores[-1] / x.second_moment[-1] / _last_value(source.second_moment))
    large = largest * bound > _LARGE_SCORES and attention.head_dim >= _LARGE_HEAD
    head_dim = own_dim = attention.head_dim if trace.finite_width and not large else None
    if bias is not None:
        apart = largest * bound * (1 - x.positions.pair_mean(x.covariance) / x.positions.mean(x.second_moment))
        head_dim = _round_head_dim(biased_head_dim(apart, bias, own_dim))
    dropout = attention.dropout if trace.dropout else 0.0
    slopes = score_slopes(attention, x)
    if bias is not None and slopes:
        raise InputError(
            "the moments of score biases that do not start at zero are not known together with penalties of distance"
        )
    if slopes:
        from ..signal.alibi_attention import biased_attention

        width = attention.width if trace.finite_width else None
        attend_biased = biased_attention(
            x.positions,
            slopes,
            window=attention.window,
            head_dim=head_dim,
            width=width,
            dropout=dropout,
            equal_norms=_all_equal_norms(x, trace),
        )
        mixed: Any = attend_biased(x.second_moment, x.covariance, unit * bound, normed=normed)
        return _scale_by_values(attention, mixed, x, source, weight)
    attend_to = token_attention
    if isinstance(x.positions, WindowPairs):
        from ..signal.window_attention import window_attention as attend_to
    attend = attend_to(
        x.positions,
        Positions.one(trace.source_length) if attention.cross else None,
        causal=attention.causal and not attention.cross,
        window=None if attention.cross else attention.window,
        head_dim=head_dim,
        width=(attention.memory_width or attention.width) if trace.finite_width else None,
        dropout=dropout,
        rotation=_rotation(attention, trace.length),
        equal_norms=_all_equal_norms(source if attention.cross else x, trace),
    )
    memory = _to_arrays(source) if attention.cross else None
    added = None if bias is None else (min(float(bias.variance) * bias.own, LARGEST_SCORES), bias.pair / bias.own, own_dim)
    mixed = attend(x.second_moment, x.covariance, unit * bound, memory=memory, normed=normed, bias=added)
    return _scale_by_values(attention, mixed, x, source, weight)


def _mix_alike(attention: Any, scores: Number, x: TokenSignal, weight: Number, trace: Trace) -> Any:
    """:func:`mix_tokens` for exchangeable tokens without a mask, pairs of equal tokens apart, of one block or of many."""
    import numpy as np

    from ..signal.alike_attention import Setting, alike_attention
    from ..signal.rotation import over_pairs

    q = x.second_moment
    normed = attention.query_norm is not None
    scores, weight = (np.broadcast_to(part, q.shape) for part in (scores, weight))
    bounded = capped_variance(attention, scores)
    large = (bounded > _LARGE_SCORES) & (attention.head_dim >= _LARGE_HEAD)
    turned = _rotation(attention, trace.length)
    setting = Setting(
        trace.length,
        float(x.positions.match or 0.0),
        attention.width if trace.finite_width else None,
        attention.dropout if trace.dropout else 0.0,
        (1.0, 1.0) if turned is None else over_pairs(turned, trace.length),
    )
    head_dims = np.where(large, 0, attention.head_dim) if trace.finite_width else np.zeros(q.shape, dtype=int)
    unit = bounded if normed else quotient(bounded, q * q)
    mixed = alike_attention(np.concatenate([x.covariance, q[None]]), unit, head_dims, setting, normed, equal_norms(x, trace))
    value = weight / q
    gain = _gradient_gain(attention, value)

    def pull(g: TokenSignal) -> tuple[TokenSignal, None]:
        back = mixed.pull(gain * np.concatenate([g.covariance, g.second_moment[..., None, :]], axis=-2))
        return x.of(back[..., 2, :], back[..., :2, :]), None

    return x.of(value * mixed.covariance[2].clip(0.0), value * mixed.covariance[:2]), pull


def _with_bias(attention: Any, found: Any, scores: Number, x: TokenSignal, weight: Number, trace: Trace, bias: Any) -> Any:
    """The result of :func:`_mix_alike`, times the ratio of moments of exchangeable tokens with the bias to those without."""
    import numpy as np

    (mixed, pull), average = found, x.positions.average_kinds
    plain = Signal(x.second_moment, average(x.covariance))
    scores, weight = (np.broadcast_to(part, x.second_moment.shape) for part in (scores, weight))
    biased, unbiased = (mix_exchangeable(attention, scores, plain, plain, plain, weight, trace, one) for one in (bias, None))

    def scaled(signal: TokenSignal, one: Signal, other: Signal) -> TokenSignal:
        own, pair = (
            np.where(np.abs(b) > _TINY, a / np.where(np.abs(b) > _TINY, b, 1.0), 1.0).clip(0.0, _LARGEST_CHANGE)
            for a, b in ((one.second_moment, other.second_moment), (one.covariance, other.covariance))
        )
        return signal.times(own, pair[..., None, :])

    def pull_biased(g: TokenSignal) -> tuple[TokenSignal, None]:
        mean = Signal(g.second_moment, average(g.covariance))
        return scaled(pull(g)[0], biased[1](mean)[0], unbiased[1](mean)[0]), None

    return scaled(mixed, biased[0], unbiased[0]), pull_biased


def score_gain(attention: Any) -> float:
    """Variance of a score of queries and keys of second moment 1."""
    gain: float = attention.head_dim * (1 / attention.head_dim if attention.scale is None else attention.scale**2)
    if attention.position is not None and not attention.cross:
        gain *= attention.position.score_gain(attention.head_dim)
    return gain


def match_slopes(attention: Any, scores: Number, x: TokenSignal, length: int) -> tuple[Number, Number]:
    """Slopes of the output by the mean covariance of the keys, as the share of equal tokens differs between texts.

    Those of a second moment and of the covariances of both kinds of pairs, relative to the second moment of the output if all
    keys were equal. All rows have those of a row of mean length.
    """
    import numpy as np

    from ..numerics.repeated_softmax import repetition_slopes

    positions, q, c, pair = x.positions, x.second_moment, x.covariance, x.correlation
    if positions.of_kinds:  # of several blocks, the first
        q, c, pair, scores = q[:1], c[:, :1], pair[:, :1], np.broadcast_to(scores, q.shape)[:1]
    else:
        q, scores = np.array([positions.mean(q)]), scores[-1:]
        c, pair = (np.array([[positions.pair_mean_of_kind(part)] for part in both]) for both in (c, pair))
    turned = attention._rotation_factor(length)
    apart, gap = np.maximum(q - turned * c[0], 0.0), np.maximum(turned * (c[1] - c[0]), 0.0)
    variance = np.broadcast_to(capped_variance(attention, scores), q.shape) * quotient(apart, q)
    n = (length + 1) / 2 if attention.causal else length
    n = max(2.0, n if attention.window is None else min(n, attention.window))
    head_dim = attention.head_dim if float(variance.max()) <= _LARGE_SCORES else None
    found = repetition_slopes(positions.match or 0.0, n, variance, np.minimum(1.0, quotient(gap, apart)), head_dim)
    alone = quotient(q - c[0], c[1] - c[0]) * found.itself / n
    own, other = (1 - 1 / n) * found.same_row + alone, (1 - 1 / n) * found.other_row
    pairs = other + pair * (own - other)
    return (own, pairs) if positions.of_kinds else (own, pairs.reshape(2, *(1,) * (x.covariance.ndim - 1)))


_LARGEST_CHANGE = 100.0
"""Largest factor of a bias on a moment; a covariance near zero has none."""


def _gradient_gain(attention: Any, value: Number) -> Number:
    """Factor on the gradient of the heads' output, all heads together, for values of this size relative to the source."""
    return value * attention.heads * attention.value_dim / attention.width


def score_slopes(attention: Any, x: TokenSignal) -> tuple[float, ...] | None:
    """The slope of the score penalty of each head; a single zero if only other blocks have penalties.

    None if the positions do not tell distances, or there is one position, at no distance from itself.
    """
    from ..signal.positions import Distances

    if x.positions.length == 1:
        return None
    if attention.slopes and not attention.cross and (x.positions.dense or isinstance(x.positions, Distances)):
        slopes: tuple[float, ...] = attention.slopes
        return slopes
    return (0.0,) if isinstance(x.positions, Distances) else None


def _round_head_dim(head_dim: int | None) -> int | None:
    """To a quarter of an octave, so that few tables serve all layers."""
    return None if head_dim is None else max(1, round(2 ** (round(4 * math.log2(head_dim)) / 4)))


def _rotation(attention: Any, length: int) -> Any:
    """The factor of rotation by distance; None without one."""
    turns = attention.position is not None and not attention.cross
    return attention.position.rotation(attention.head_dim, length) if turns else None


def _scale_by_values(attention: Any, mixed: Any, x: AnySignal, source: AnySignal, weight: Number) -> Any:
    """The heads' output and its pullback, given those for values with the second moment of the source."""
    value = _last_value(weight) / _last_value(source.second_moment)
    gain = _gradient_gain(attention, value)

    def pull(g: AnySignal) -> tuple[AnySignal, AnySignal]:
        (query_side, query_pair), (source_side, source_pair) = mixed.pull(gain * g.second_moment, gain * g.covariance)
        if attention.cross:
            return x.of(query_side, query_pair), Signal(float(source_side[0]), float(source_pair[0, 0]))
        return x.of(query_side + source_side, query_pair + source_pair), None

    import numpy as np

    # Between a few nodes the error is a thousandth of the largest second moment, which is more than the second moment of a late
    # token in a long row of uncorrelated ones.
    return x.of(value * np.maximum(mixed.second_moment, 0.0), value * mixed.covariance), pull


def mix_exchangeable(
    attention: Any,
    scores: Number,
    x: Signal,
    source: Signal,
    query: Signal,
    weight: Number,
    trace: Trace,
    bias: BiasMoments | None = None,
) -> Any:
    """The heads' output and the map from its gradient, as in :func:`mix_tokens`, for exchangeable tokens."""
    parts = _read_table(attention, capped_variance(attention, scores), source, query, trace, bias)

    def input_gradient(g: Signal, columns: Any, tokens: Signal) -> Signal:
        # The map is linear in the two moments of the gradient: a column for each entry of the 2 by 2 matrix.
        one, other, pair_one, pair_other = columns
        gain = weight / tokens.second_moment
        gamma, kappa = gain * g.second_moment, gain * g.covariance
        return Signal(gamma * one + kappa * other, gamma * pair_one + kappa * pair_other)

    def pull(g: Signal) -> tuple[Signal, Signal | None]:
        return input_gradient(g, parts[2:6], x), input_gradient(g, parts[6:10], source) if attention.cross else None

    return Signal(weight * parts[0], weight * parts[1]), pull


def _read_table(
    attention: Any, scores: Number, source: Signal, query: Signal, trace: Trace, bias: BiasMoments | None = None
) -> Any:
    """The layer's moments for exchangeable tokens of second moment 1 and values of gain 1.

    The columns start with the second moment and covariance of the output. The 2 by 2 matrix follows, row by row, that maps the
    second moment and covariance of the output's gradient to those of the input's. In cross-attention this is the gradient of
    the queries' input, and a second matrix gives that of the source.
    """
    moving = query.correlation if attention.cross else source.correlation
    equal = equal_norms(source, trace)
    if bias is not None and not isinstance(bias.variance, float | int):
        bias = _one_bias(bias)
    if equal is None or isinstance(equal, bool):
        return _look_up(attention, scores, source, moving, equal, trace, bias)
    import numpy as np

    # Only the first of several blocks reads tokens that no norm has passed.
    scores, moving = np.broadcast_arrays(scores, moving)
    found = np.array(_look_up(attention, scores, source, moving, True, trace, bias))
    found[..., ~equal] = _look_up(attention, scores[~equal], source, moving[~equal], False, trace, bias)
    return found


def _one_bias(bias: BiasMoments) -> BiasMoments:
    """The bias of blocks that are evaluated together, which must be alike."""
    values: Any = bias.variance
    if values.max() > values.min() * (1 + 1e-9):
        raise InputError("the moments of score biases that start differently in different blocks are not known")
    return bias._replace(variance=float(values.max()))


def equal_norms(source: AnySignal, trace: Trace) -> Any:
    """True if all tokens have the same size in every draw, as after a norm; an array if blocks differ.

    None without corrections for finite width.
    """
    if not trace.finite_width:
        return None
    if source.spread is None:
        return True
    none: Any = source.spread.second_moment == 0
    if isinstance(none, bool) or none.all() or not none.any():
        return bool(none if isinstance(none, bool) else none.all())
    return none


def _all_equal_norms(source: AnySignal, trace: Trace) -> bool | None:
    """As :func:`equal_norms`, of one block."""
    found = equal_norms(source, trace)
    return found if found is None else bool(found.all()) if hasattr(found, "all") else found


def _look_up(
    attention: Any,
    scores: Number,
    source: Signal,
    moving: Number,
    equal: bool | None,
    trace: Trace,
    bias: BiasMoments | None = None,
) -> Any:
    """The columns of :func:`_read_table` at the correlations `moving`, tokens of equal size or not."""
    rate = attention.dropout if trace.dropout else 0.0
    fixed = source.correlation if attention.cross else 0.0
    settings = (attention, fixed, rate, equal, trace.length, trace.source_length, bias)
    family = trace.family(settings, functools.partial(_exchangeable_table, *settings), SCORE_STEP)
    least = least_correlation.body(max(trace.length, 2))

    def repelling(moving: Number) -> Any:
        # Negative correlations are rare. They have tables of their own, so that the others keep all of their nodes.
        below = functools.partial(_exchangeable_table, *settings, lowest=least, highest=0.0)
        return trace.family((*settings, least), below, SCORE_STEP)(scores, moving)

    if isinstance(moving, float):
        return family(scores, min(1.0, moving)) if moving >= 0 else repelling(max(least, moving))
    found = family(scores, moving.clip(0.0, 1.0))
    if moving.min() >= 0:
        return found
    import numpy as np

    return np.where(moving < 0, repelling(moving.clip(least, 0.0)), found)


def _columns(
    attention: Any,
    scores: float,
    source: float,
    rate: float,
    equal: bool | None,
    length: int,
    source_length: int,
    bias: BiasMoments | None,
    r: Any,
) -> Any:
    """Rows of :func:`_read_table` for correlations r of the tokens.

    In cross-attention r is the correlation of the queries' tokens, `source` that of the tokens attended to. `equal` is True if
    all tokens have one size; None means without corrections for finite width.
    """
    import math

    import numpy as np

    from ..formulas.attention import attention_moments

    queries = length
    length = source_length if attention.cross else length
    if attention.window is not None and not attention.cross:
        length = min(length, attention.window)
    settings = {
        "signal": 1.0,
        "correlation": r,
        "length": length,
        "width": math.inf if equal is None else attention.memory_width or attention.width,
        "head_dim": None if equal is None else attention.head_dim,
        "score_gain": scores,
        "dropout": rate,
        "causal": attention.causal and not attention.cross,
        "equal_norms": equal,
    }
    if attention.cross:
        settings |= {"queries": queries, "correlation": source + 0.0 * r, "row_correlation": r}
        overlap = None
    else:
        from ..numerics.softmax import overlap_table

        lowest = min(0.0, float(r.min()))
        if bias is None:
            overlap = overlap_table(scores, length, attention.causal, settings["head_dim"], lowest)(r)
        else:
            overlap = _biased_overlap(scores, bias, length, attention.causal, settings["head_dim"], lowest)(r)
    without = attention_moments(**settings, gradient_correlation=0.0, overlap=overlap)
    full = attention_moments(**settings, gradient_correlation=1.0, overlap=without.overlap)
    # A gradient of correlation 1 has covariance 1: the difference is the contribution of the covariance.
    heads = attention.heads * attention.value_dim / attention.width
    if not attention.cross:
        parts = [(without.gradient, full.gradient), (without.gradient_covariance, full.gradient_covariance)]
    else:
        parts = [
            (without.query_gradient, full.query_gradient),
            (without.query_gradient_covariance, full.query_gradient_covariance),
            tuple(m.value_gradient + m.key_gradient for m in (without, full)),
            tuple(m.value_gradient_covariance + m.key_gradient_covariance for m in (without, full)),
        ]
    columns = [without.second_moment, without.covariance]
    for own, total in parts:
        columns += [heads * own, heads * (total - own)]
    found = np.stack([np.broadcast_to(column, r.shape) for column in columns], axis=-1)
    turned = None if attention.causal else _rotation(attention, length)
    return found if turned is None else found + _turned_columns(turned, settings, heads, r)


def _turned_columns(turned: Any, settings: dict[str, Any], heads: float, r: Any) -> Any:
    """The change of the rows of :func:`_columns` by a rotation of the keys, (T11) to (T13)."""
    import numpy as np

    from ..signal.alike_attention import Setting, alike_attention
    from ..signal.rotation import over_pairs

    length, one = settings["length"], np.ones_like(r)
    moments, given = np.array([r, r, one]), np.array([[[0.0], [0.0], [1.0]], [[1.0], [1.0], [0.0]]]) * one
    width = None if math.isinf(settings["width"]) else settings["width"]

    def columns(rotation: tuple[float, float]) -> Any:
        setting = Setting(length, 0.0, width, settings["dropout"], rotation)
        head_dims = np.full(r.shape, settings["head_dim"] or 0)
        with np.errstate(invalid="ignore"):  # of equal tokens, which there are none of
            gain = settings["score_gain"] * one
            mixed = alike_attention(moments, gain, head_dims, setting, equal_norms=settings["equal_norms"])
            of_own, of_shared = (heads * mixed.pull(g) for g in given)
        own, pair = mixed.covariance[2], mixed.covariance[0]
        return np.stack([own, pair, of_own[2], of_shared[2], of_own[0], of_shared[0]], axis=-1)

    return columns(over_pairs(turned, length)) - columns((1.0, 1.0))


_TINY = 1e-9


@functools.lru_cache(maxsize=64)
def _biased_overlap(
    scores: float, bias: BiasMoments, length: int, causal: bool, head_dim: int | None, lowest: float
) -> OverlapTable:
    """The table of :func:`_biased_averages` over the correlation, cached."""
    from ..numerics.softmax import OverlapTable

    averages = functools.partial(_biased_averages, scores, bias, length, causal, head_dim)
    return OverlapTable(scores, length, causal, head_dim, lowest, averages)


def _biased_averages(scores: float, bias: BiasMoments, length: int, causal: bool, head_dim: int | None, r: Any) -> Any:
    """The averages of a softmax of scores with a bias, at correlations r of the tokens, (A21) to (A23).

    R and R2, which weigh by the queries alone, follow from those that weigh by the whole row in proportion of covariances.
    """
    import numpy as np

    from ..formulas.positions import biased_row_correlation, biased_score_variance
    from ..numerics.softmax import AttentionOverlap, attention_overlap

    beta, share, common = min(float(bias.variance), LARGEST_SCORES), bias.own, bias.pair
    rows = []
    for one in np.atleast_1d(r):
        content = max((1 - float(one)) * scores, _TINY)
        total = biased_score_variance.body(content, beta, share)
        rho = min(1.0, biased_row_correlation.body(float(one), content, beta, share, common))
        dims = biased_head_dim(content, bias, head_dim)
        found = attention_overlap(total, rho, length, causal, dims)
        longer, product = found.T, float(one) * found.T2
        if head_dim is not None and dims is not None:
            part = content / total * dims / head_dim
            longer = longer + part * (found.R - found.T)
            product = product + part * (1 + float(one) ** 2) / (1 + rho**2) * (found.R2 - rho * found.T2)
        rows.append(found._replace(R=longer, R2=product))
    return AttentionOverlap(*(np.reshape(values, np.shape(r)) for values in zip(*rows, strict=True)))


def _last_value(values: Number) -> float:
    """The value at the last position, or the number itself."""
    return float(values) if isinstance(values, float | int) else float(values[-1])


def _to_arrays(signal: AnySignal) -> tuple[Any, Any]:
    """The moments of exchangeable tokens, as arrays over one position."""
    import numpy as np

    return np.array([signal.second_moment]), np.array([[signal.covariance]])


@functools.lru_cache(maxsize=256)
def _exchangeable_table(
    attention: Any,
    source: float,
    rate: float,
    equal: bool | None,
    length: int,
    source_length: int,
    bias: BiasMoments | None,
    scores: float,
    lowest: float = 0.0,
    highest: float = 1.0,
) -> Table:
    """:func:`_columns` over the correlation, cached."""
    columns = functools.partial(_columns, attention, scores, source, rate, equal, length, source_length, bias)
    return Table(columns, lowest, highest)
