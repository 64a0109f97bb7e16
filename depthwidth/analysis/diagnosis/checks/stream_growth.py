"""Growth of parallel streams: the spectral radius of the product of the blocks' mixing matrices."""

from __future__ import annotations

from ....numerics.altup import spectral_radius
from ..base import OURS, TRAINABLE, Check, Finding, ratio_thresholds, worst_stack
from ..network import Network

REASON = "the linear part of alternating updates alone makes the streams grow or vanish, whatever the branches add"


def stream_growth(network: Network, stack: str, depth: int) -> Finding | None:
    """The finding for one stack; None if its blocks keep one stream, or do not state how they mix several."""
    blocks = enumerate(network.setting.tree.stacks[stack].blocks())
    mixings = [block.mixing(network.made, f"{stack}.block", index) for index, block in blocks]
    known = [mixing for mixing in mixings if mixing is not None]
    if not known or len(known) < len(mixings):
        return None
    radius = spectral_radius(known)
    rule = ratio_thresholds(radius, f"{OURS}: {REASON}; limit: {TRAINABLE}")
    verdict = "the streams keep their size" if rule.severity(radius) == "fine" else "they do not keep their size"
    sentence = f"over the {depth} blocks the mixing of streams has the spectral radius {radius:.3g}: {verdict}"
    return Finding("stream_growth", stack, radius, rule, sentence)


CHECK = Check(25, worst_stack(stream_growth))
