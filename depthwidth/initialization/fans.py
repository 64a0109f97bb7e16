"""Standard deviations by fan-in and fan-out: Xavier's and Kaiming's."""

from __future__ import annotations

import math

from ..architecture import Transformer
from .activation_moment import activation_second_moment
from .draft import Draft, scheme
from .tensor_rules import XAVIER, fan_rule, xavier_std
from .tensors import Weight


@scheme("xavier", "Glorot & Bengio 2010", "primary")
def xavier(tree: Transformer, embedding_std: float | None = None, per_head: bool = False) -> Draft:
    """Xavier's rule; with `per_head`, the fan-out of queries, keys and values is that of one head instead of all."""

    def matrix(weight: Weight) -> tuple[float, str]:
        attention = weight.owner.as_attention
        if per_head and weight.kind in ("query", "key", "value") and attention is not None:
            features = attention.value_dim if weight.kind == "value" else attention.head_dim
            return math.sqrt(2 / (weight.fan_in + features)), "Xavier for each head's map: sqrt(2 / (width + head_dim))"
        return xavier_std(weight), XAVIER

    return Draft(tree, fan_rule(tree, embedding_std, matrix))


@scheme("kaiming", "He et al. 2015, arXiv 1502.01852, equation 10; other activations by E f^2", "primary; constants derived")
def kaiming(tree: Transformer, embedding_std: float | None = None) -> Draft:
    """Kaiming's rule: each matrix compensates for the activation before it, if there is one."""

    def matrix(weight: Weight) -> tuple[float, str]:
        if weight.reads:
            gain = 1 / activation_second_moment(weight.reads)
            return math.sqrt(gain / weight.fan_in), "sqrt(1 / (E f^2 fan-in)), which compensates for the activation before it"
        return math.sqrt(1 / weight.fan_in), "sqrt(1 / fan-in): there is no activation before it"

    return Draft(tree, fan_rule(tree, embedding_std, matrix))
