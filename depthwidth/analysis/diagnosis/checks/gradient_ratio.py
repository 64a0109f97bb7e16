"""Vanishing or exploding gradients: the gradient's second moment at the first block over that at the last."""

from __future__ import annotations

from ..base import SEPARATED, Check, Finding, ratio_thresholds, worst_stack
from ..network import Network

WATCHED, LIMIT = 3e3, 8e4
"""Ratios, either way. Optimisers that scale each tensor's step, as Adam does, train far beyond the tenfold at which one step
size stops to suit both ends."""


def gradient_ratio(network: Network, stack: str, depth: int) -> Finding | None:
    """The finding for one stack; None if no gradient reaches its last block."""
    first, last = f"{stack}.block.0", f"{stack}.block.{depth - 1}"
    above = network.q(last, "gradient") * network.last_gain(stack, depth)
    if not above:
        return None
    ratio = network.q(first, "gradient") / above
    rule = ratio_thresholds(ratio, SEPARATED, WATCHED, LIMIT)
    if rule.severity(ratio) == "fine":
        verdict = f"gradients stay within a factor of {WATCHED:,.0f}"
    else:
        verdict = "gradients explode towards the input" if ratio > 1 else "gradients vanish towards the input"
    sentence = f"the gradient variance at the first block is {ratio:.3g} times that at the last block: {verdict}"
    return Finding("gradient_ratio", first, ratio, rule, sentence)


CHECK = Check(10, worst_stack(gradient_ratio))
