"""Saturated attention: the number of tokens that a query attends to, 1 / E sum p^2."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ....formulas.saturation import LARGEST_VARIANCE
from ..base import OURS, Check, Finding, Thresholds
from ..network import Network
from .score_variance import worst_scores

DECISIVE = 2.0
"""The limit. Ours: below two effective tokens, a single token decides."""


def thresholds(n: int) -> Thresholds:
    """The bounds for rows of n tokens."""
    return Thresholds(
        math.sqrt(n),
        DECISIVE,
        f"{OURS}: n exp(-s2) at s2 = (ln n)/2, up to which it holds; below 2, one token decides",
        at_most=False,
    )


def effective_tokens(network: Network) -> Iterator[Finding]:
    """The finding for the attention nearest to condensing; none in a network without attention."""
    found = network.once(worst_scores)
    if found is None:
        return
    from ....numerics.softmax import overlap

    row, variance, n = found
    kept = overlap(min(variance, LARGEST_VARIANCE), n)
    tokens, entropy = 1 / float(kept.P), float(kept.entropy)
    sentence = (
        f"a query attends to {tokens:.3g} of {n} tokens (entropy {entropy:.3g} of at most {math.log(n):.3g} nats); the softmax "
        f"passes {1 - float(kept.P):.3g} of the gradient"
    )
    yield Finding("effective_tokens", row["site"], tokens, thresholds(n), sentence)


CHECK = Check(60, effective_tokens)
