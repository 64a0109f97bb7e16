"""The moments of attention whose softmax has a sink, from those without it.

The keys of a row have a share S of its weight, which is taken as independent of how they divide it. The derivative of the
weights S p by the scores is S (diag p - p p') + S (1 - S) p p': the first part is that without a sink, the second raises and
lowers the scores of a row together, and reaches queries and keys. Products of the two parts are left out.

Derivation: docs/derivations/attention.md, (A20).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..signal import AnySignal, Number, TokenSignal, Trace, quotient
from .attention_moments import capped_variance

if TYPE_CHECKING:
    from ..numerics.sink import KeyShare

_LEAST = 1e-9


def through_sinks(
    attention: Any, mixed: Any, pull: Any, scores: Number, x: Any, weight: Any, rotated: float, logit: Number, trace: Trace
) -> tuple[Any, Any]:
    """The heads' output and its pullback, given those of the same attention without sinks.

    Parameters
    ----------
    attention : the component.
    mixed, pull : the output without sinks, and the map of its gradient.
    scores : variance of the scores.
    x : the input.
    weight : second moment of the values.
    rotated : factor of the rotations on the covariance of a row's scores.
    logit : variance of the sinks' logits.
    trace : the pass.
    """
    import numpy as np

    from ..formulas.attention.sinks import sink_gradient
    from ..numerics.sink import key_share

    size, covariance = x.averages
    common = np.clip(quotient(covariance, size), 0.0, 1.0)
    variance = np.asarray(capped_variance(attention, scores))
    reach = trace.length if attention.window is None else min(trace.length, attention.window)
    if isinstance(x, TokenSignal):
        keys: Any = np.minimum(x.positions.nodes, reach) if attention.causal else np.full(x.positions.count, reach)
        share = key_share(variance, rotated * common, keys, logit)
        pairs = x.positions.pairs
    else:
        share, keys = _average_rows(attention, variance, common, rotated, logit, trace.length, reach)

        def pairs(values: Any) -> tuple[Any, Any]:
            return values, values

    means, deviations, slopes = (pairs(part) for part in (share.mean, share.deviation, share.slope**0.5))
    tokens = np.clip(x.correlation, 0.0, 1.0)
    factor, pair = share.second, means[0] * means[1] + tokens * deviations[0] * deviations[1]
    one, other = pairs(np.sqrt(weight))
    plain, plain_pair = np.clip(quotient(mixed.second_moment, weight), 0.0, 1.0), quotient(mixed.covariance, one * other)
    squares = np.clip((plain - common) / np.maximum(1 - common, _LEAST), 1 / keys, 1.0)
    gain = attention.heads * attention.value_dim / attention.width * variance * quotient(weight, x.second_moment)
    own = gain * sink_gradient.body(share.slope, plain, squares)
    first, last = pairs(np.sqrt(gain))
    crossed = first * last * slopes[0] * slopes[1] * plain_pair**2

    def pull_sunk(g: AnySignal) -> tuple[Any, Any]:
        back, memory = pull(g.times(factor, pair))
        return back.plus(g.times(own, crossed)), memory

    return mixed.times(factor, pair), pull_sunk


def _average_rows(
    attention: Any, variance: Any, common: Any, rotated: float, logit: Any, length: int, reach: int
) -> tuple[KeyShare, Any]:
    """The averages over the rows of exchangeable tokens, and the keys of a row in the mean."""
    import numpy as np

    from ..numerics.sink import KeyShare, key_share

    if not attention.causal:
        return key_share(variance, rotated * common, reach, logit), reach
    keys = np.minimum(np.arange(1, length + 1), reach)
    variance, common, logit = (np.asarray(part)[..., None] for part in (variance, common, logit))
    share = key_share(variance, rotated * common, keys, logit)
    # Rows of few keys have the larger outputs.
    weight = common + (1 - common) * np.minimum(1.0, np.exp((1 - common) * variance) / keys)
    return KeyShare(*((weight * part).sum(-1) / weight.sum(-1) for part in share)), float(keys.mean())
