"""The ranks of a head's weights as a criterion for its dimensions: unused dimensions of its products can be cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from depthwidth.architecture import Transformer
from depthwidth.layers import AttentionLike
from depthwidth.layers.positions import positions_as
from depthwidth.layers.rotary import Rotary
from depthwidth.numerics.spectra import SHARE, product_sizes, ranks
from depthwidth.planning.head_allocation import LayerNeed

from ..models.live_weights import LiveWeights
from .head_forms import HeadMeasure


def weight_ranks(weights: LiveWeights, tree: Transformer, layer: int) -> list[dict[str, Any]]:
    """The ranks of the products of each head of a layer, biases as one more input that is 1; empty if its maps are unknown."""
    attention = tree.attention
    role, block = f"{tree.stack_name}.block.attention", tree.stack.first_use(layer)
    maps = {name: weights.read(f"{role}.{name}.weight", block) for name in ("query", "key", "value", "out")}
    biases = {name: weights.read(f"{role}.{name}.bias", block) for name in ("query", "key", "value")}

    def part(name: str, number: int, dim: int) -> Any:
        """Rows of a map for one head, with its bias as one more column."""
        own, bias = slice(number * dim, (number + 1) * dim), biases[name]
        return maps[name][own] if bias is None else np.column_stack([maps[name][own], bias[own]])

    rows: list[dict[str, Any]] = []
    for head in range(attention.heads):
        shared = head * attention.kv_heads // attention.heads
        found: dict[str, Any] = {}
        if maps["query"] is not None and maps["key"] is not None:
            query, key = part("query", head, attention.head_dim), part("key", shared, attention.head_dim)
            measured = ranks(product_sizes(query.T, key))
            found |= {"weight_rank": measured.numerical, "weight_effective_rank": measured.effective}
        if maps["value"] is not None and maps["out"] is not None:
            dim = attention.value_dim
            measured = ranks(product_sizes(maps["out"][:, head * dim : (head + 1) * dim], part("value", shared, dim)))
            found |= {"value_rank": measured.numerical, "value_effective_rank": measured.effective}
        rows.append(found)
    return rows


def capped_by_weights(need: LayerNeed, heads: Sequence[HeadMeasure], attention: AttentionLike, *, values: bool) -> LayerNeed:
    """The need of a layer, at most the largest rank of its heads' weights: fewer dimensions leave the products as they are.

    Rotary positions turn pairs of dimensions, and keys that several heads share are cut for all of them: both keep their
    queries and keys as measured.
    """
    scores, mixed = ([getattr(head, name) for head in heads] for name in ("weight_rank", "value_rank"))
    alone = positions_as(Rotary, attention.position) is None and attention.heads == attention.kv_heads
    most = max(scores) if None not in scores else need.rank
    if alone and max(most, 1) < need.rank:
        need = replace(need, rank=max(most, 1), criterion=f"weights: W_Q W_K^T has {most} {_ABOVE}")
    if values and None not in mixed and need.value_rank is not None and max(max(mixed), 1) < need.value_rank:
        need = replace(need, value_rank=max(max(mixed), 1), value_criterion=f"weights: W_V W_O has {max(mixed)} {_ABOVE}")
    return need


_ABOVE = f"singular values above {SHARE:g} of the largest"
