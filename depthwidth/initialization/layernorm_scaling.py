"""LayerNorm scaling: the outputs of norms divided by the square root of the layer's number."""

from __future__ import annotations

import math
import re

from ..architecture import Transformer
from .draft import Choice, Draft, finite_number, scheme
from .tensor_rules import normal_rule
from .tensors import Weight, weights


@scheme("layernorm-scaling", "Sun et al. 2025, arXiv 2502.05795, equation 7, and code", "primary; std is the base model's")
def layernorm_scaling(tree: Transformer, std: float = 0.02) -> Draft:
    """Weights start with `std`; only the outputs of the branches' norms are scaled."""
    base = normal_rule(tree, finite_number("layernorm-scaling", "std", std, closed=True))
    reads = re.compile(r"(encoder|decoder)\.block\.(norm|(attention|cross_attention|feed_forward)\.norm_in)\.(weight|bias)")

    def rule(weight: Weight) -> Choice:
        choice = base(weight)
        if not reads.fullmatch(weight.role):
            return choice
        reason = f"{choice.reason}; its output is multiplied by 1/sqrt(layer), which stops the variance from growing"
        return choice._replace(multiplier=lambda block: 1 / math.sqrt(block + 1), reason=reason)

    draft = Draft(tree, rule)
    if not any(reads.fullmatch(weight.role) for weight in weights(tree)):
        draft.notes.append("layernorm-scaling needs norms with gains before the branches, but this tree has none")
    return draft
