"""The torch modules of the library's own components; importing this file registers them."""

from . import (
    attention,
    attention_pooling,
    block,
    convolution,
    feed_forward,
    head,
    linear,
    mamba,
    norms,
    patch_logits,
    patch_mean,
    patch_stem,
    positions,
    projection,
    stack,
    stem,
)

__all__ = [
    "attention",
    "attention_pooling",
    "block",
    "convolution",
    "feed_forward",
    "head",
    "linear",
    "mamba",
    "norms",
    "patch_logits",
    "patch_mean",
    "patch_stem",
    "positions",
    "projection",
    "stack",
    "stem",
]
