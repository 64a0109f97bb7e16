"""DS-Init: standard deviations that decrease with the depth of the layer."""

from __future__ import annotations

import math

from ..architecture import Transformer
from .draft import Choice, Draft, finite_number, scheme
from .tensor_rules import XAVIER, fan_rule, xavier_std
from .tensors import Weight


@scheme("ds-init", "Zhang, Titov & Sennrich 2019, arXiv 1908.11365, equation 5", "secondary: read in the authors' notes")
def ds_init(tree: Transformer, alpha: float = 1.0, embedding_std: float | None = None) -> Draft:
    """Xavier's standard deviations times `alpha` / sqrt(layer)."""
    base = fan_rule(tree, embedding_std, lambda weight: (xavier_std(weight), XAVIER))
    factor = finite_number("ds-init", "alpha", alpha, high=1.0)

    def rule(weight: Weight) -> Choice:
        choice = base(weight)
        std = choice.std
        if not weight.stack or weight.job.group == "vector" or callable(std) or not std:
            return choice
        reason = f"{choice.reason}; times alpha / sqrt(layer), alpha = {factor:g}"
        return choice._replace(std=lambda block: std * factor / math.sqrt(block + 1), reason=reason)

    return Draft(tree, rule)
