"""Growth of the signal along the depth: its second moment at the last block over that at the first."""

from __future__ import annotations

from ..base import BEYOND_RECORD, Check, Finding, ratio_thresholds, worst_stack
from ..network import Network

WATCHED, LIMIT = 150.0, 2e4
"""Ratios, either way. Late blocks change a grown stream less than early ones (Sun et al. 2025, arXiv 2502.05795)."""


def forward_growth(network: Network, stack: str, depth: int) -> Finding | None:
    """The finding for one stack; None if no signal leaves its first block."""
    start, top = network.q(f"{stack}.block.0"), network.q(f"{stack}.block.{depth - 1}") / network.last_gain(stack, depth)
    if not start:
        return None
    ratio = top / start
    sentence = f"the second moment of the signal after the last block is {ratio:.3g} times that after the first"
    return Finding(
        "forward_growth", f"{stack}.block.{depth - 1}", ratio, ratio_thresholds(ratio, BEYOND_RECORD, WATCHED, LIMIT), sentence
    )


CHECK = Check(20, worst_stack(forward_growth))
