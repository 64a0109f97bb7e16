"""The library's rules for models of images and texts: CLIP and SigLIP."""

from __future__ import annotations

import math

from ..architecture import Transformer
from .draft import Choice, TensorRule
from .tensor_rules import XAVIER, stated_choice, xavier_std
from .tensors import Weight, depths_of

_WIDER = 1 / 0.87962566103423978
"""The library widens these draws for a cut at two standard deviations, and then cuts them at two, which is far beyond."""


def clip_rule(tree: Transformer, std: float, factor: float = 1.0) -> TensorRule:
    """CLIP's rule; `std` is for patches and their positions, `factor` multiplies every deviation."""
    depths = depths_of(tree)

    def rule(weight: Weight) -> Choice:
        plain = stated_choice(weight)
        if plain is not None:
            return plain
        if weight.kind in ("patch", "positions", "tokens"):
            # Of texts it is 0.02 whatever the file says.
            return Choice(factor * (std if tree.stem.images else 0.02), "clip: one standard deviation for what the stem adds")
        whole, depth = factor / math.sqrt(tree.width), depths.get(weight.stack, 1)
        if weight.kind in ("query", "key", "value", "down"):
            return Choice(whole / math.sqrt(2 * depth), f"clip: 1/sqrt(width) over the square root of {2 * depth} branches")
        if weight.kind == "up":
            return Choice(whole / math.sqrt(2), "clip: 1/sqrt(2 width)")
        return Choice(whole, "clip: 1/sqrt(width)")

    return rule


def siglip_rule(tree: Transformer, std: float) -> TensorRule:
    """SigLIP's rule; `std` has no part in it."""

    def rule(weight: Weight) -> Choice:
        if weight.kind == "bias" and weight.owner.as_feed_forward is not None:
            return Choice(1e-6, "siglip: nearly zero", weight_decay=0.0)
        plain = stated_choice(weight)
        if plain is not None:
            return plain
        if weight.job.group == "table":
            return Choice(1 / math.sqrt(tree.width), "siglip: 1/sqrt(width)")
        pooled = not weight.stack and weight.kind in ("query", "key", "value")
        if pooled:  # one matrix of three outputs there
            total = weight.fan_in + 3 * weight.fan_out
            return Choice(math.sqrt(2 / total), f"{XAVIER}, of query, key and value together")
        if (weight.stack and weight.kind in ("query", "key", "value", "out")) or weight.kind in ("up", "down"):
            return Choice(xavier_std(weight), XAVIER)
        return Choice(_WIDER / math.sqrt(weight.fan_in), f"LeCun: 1/sqrt(fan-in), and {_WIDER:.4f} as in the library")

    return rule
