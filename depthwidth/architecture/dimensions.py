"""The dimensions of a transformer by name, and the overview that states them."""

from __future__ import annotations

from typing import Any

from ..display import Overview
from .length_counts import LengthCounts


def dimensions(tree: LengthCounts) -> dict[str, Any]:
    """The dimensions by name; if blocks differ, those of the first block that has the part, and None if there is none."""
    attention, feed_forward, mixture = map(tree.stack.first, ("as_attention", "as_feed_forward", "as_mixture"))
    encoder = tree.stacks.get("encoder")
    return {
        "kind": tree.kind,
        "depth": tree.depth,
        "encoder_depth": encoder.depth if encoder is not None else None,
        "width": tree.width,
        "heads": attention.heads if attention else None,
        "kv_heads": attention.kv_heads if attention else None,
        "head_dim": attention.head_dim if attention else None,
        "ffn": feed_forward.hidden if feed_forward else None,
        "vocab": tree.vocab,
        "context": tree.context,
        "experts": mixture.experts if mixture else None,
        "experts_per_token": mixture.top_k if mixture else None,
    }


def overview_of(tree: LengthCounts) -> Overview:
    """The dimensions that there are, and the numbers of parameters."""
    counts = {"parameters": tree.parameters, "non_embedding_parameters": tree.non_embedding_parameters}
    facts = {
        name.replace("_", " "): f"{value:,}" if isinstance(value, int) else str(value)
        for name, value in (dimensions(tree) | counts).items()
        if value is not None
    }
    return Overview(f"Transformer, {facts.pop('kind')}", facts)
