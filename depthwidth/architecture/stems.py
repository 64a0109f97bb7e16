"""The stem of a design, and its positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

from .. import layers
from ..checks import check_whole
from ..formula import is_symbolic
from ..layers import (
    Embedding,
    Linear,
    Norm,
    Position,
    PositionSizes,
    Stem,
    TokenStem,
)
from ..layers.position_entries import position_entry
from .design import Design


def stem_of(design: Design, norm_over: Callable[[int], Norm]) -> Stem:
    """The stem of a design; `norm_over` makes a norm over a number of features."""
    dropout = design.dropout if design.embedding_dropout is None else design.embedding_dropout
    if design.patch is not None:
        height, width = design.image if isinstance(design.image, Sequence) else (design.image, design.image)
        return layers.PatchStem(
            height,
            width,
            design.patch,
            design.channels,
            design.width,
            class_token=design.class_token,
            bias=design.patch_bias,
            dropout=dropout,
            distillation_token=design.distillation_token,
            mask_token=design.mask_token,
            positions=design.patch_positions,
            kept=design.kept_patches,
            norm=norm_over(design.width) if design.embedding_norm else None,
        )
    if design.mel_bins is not None:
        return layers.AudioStem(design.mel_bins, design.context, design.width, dropout=dropout)
    features = design.embedding_width or design.width
    place = design.embedding_projection
    first, always = place == "first", place in ("always", "plain")
    added = design.width if first else features  # features of positions and segments
    kind: Callable[..., TokenStem] = TokenStem
    if design.layer_inputs is not None:
        kind = partial(layers.LayeredStem, inputs=design.layer_inputs, depth=design.depth, eps=design.norm_eps)
    return kind(
        tokens=Embedding(design.vocab + design.spare_tokens, features),
        positions=position_of(design.positions, "stem", design, width=added),
        segments=Embedding(design.segments, added) if design.segments else None,
        norm=norm_over(added) if design.embedding_norm else None,
        projection=Linear(features, design.width, bias=place in ("last", "always"))
        if always or features != design.width
        else None,
        scale=design.embedding_scale,
        dropout=dropout,
    )


def _head_dim(width: int, design: Design, heads: int) -> int:
    if design.head_dim is not None:
        return design.head_dim
    if not is_symbolic(width, heads):
        check_whole("Transformer", heads=heads)
    return width // heads


@lru_cache(maxsize=64)
def _make_position(make: Callable[[PositionSizes], Position], sizes: PositionSizes) -> Position:
    """The component of these sizes; each part of a model checks if it is its home."""
    return make(sizes)


def position_of(
    positions: str | Position, home: str, design: Design, heads: int = 1, width: int | None = None
) -> Position | None:
    """The component of a design's positions, of `width` features or the design's, if this part of a model is its home."""
    if positions == "none":
        return None
    component, width = positions, width or design.width
    if isinstance(component, str):
        sizes = PositionSizes(design.context, width, heads, _head_dim(width, design, heads), design.position_offset)
        component = _make_position(position_entry("Transformer", component).make, sizes)
    return component.fitted(heads, width) if component.home == home else None
