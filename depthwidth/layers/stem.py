"""What turns an input into the residual stream: token tables with positions, or image patches."""

from __future__ import annotations

from ..errors import InputError, shown
from .base import Child, Layer, Run, Shape, check_fraction, check_whole, component
from .linear import Linear
from .norms import Norm
from .positions import LearnedPositions, SinusoidalPositions


@component
class Embedding(Layer):
    """A table with one trainable vector of `width` features for each of `rows` tokens, segments or positions."""

    rows: int
    width: int
    embedding = True

    def __post_init__(self) -> None:
        check_whole("Embedding", rows=self.rows, width=self.width)

    def tensors(self) -> dict[str, Shape]:
        return {"weight": (self.rows, self.width)}


@component
class TokenStem(Layer):
    """Token embedding, added positions and segments, then a norm and a projection to the stream's width where there are.

    The embedding may be narrower than the stream (`projection` widens it), which bounds its rank.
    """

    tokens: Embedding
    positions: LearnedPositions | SinusoidalPositions | None = None
    segments: Embedding | None = None
    norm: Norm | None = None
    projection: Linear | None = None
    scale: float = 1.0
    """What the token embedding is multiplied by (Gemma: the square root of the width)."""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_fraction("TokenStem", dropout=self.dropout)

    @property
    def width(self) -> int:
        """Features it hands to the first block."""
        return self.projection.outputs if self.projection else self.tokens.width

    @property
    def vocab(self) -> int:
        """Number of tokens it knows."""
        return self.tokens.rows

    def children(self) -> tuple[Child, ...]:
        parts = (
            ("tokens", self.tokens), ("positions", self.positions), ("segments", self.segments),
            ("norm", self.norm), ("projection", self.projection),
        )  # fmt: skip
        return tuple(Child(name, layer) for name, layer in parts if layer is not None)

    def own_saved(self, run: Run) -> int:
        mask = run.positions * self.tokens.width if self.dropout else 0
        return mask + (run.positions * self.tokens.width * run.value_bytes if self.projection else 0)


@component
class PatchStem(Layer):
    """An image cut into square patches, each mapped linearly to a token, with a class token and learned positions.

    Dosovitskiy et al. 2020, arXiv 2010.11929.
    """

    height: int
    width_pixels: int
    patch: int
    channels: int
    width: int
    class_token: bool = True
    bias: bool = True
    dropout: float = 0.0
    embedding = True

    def __post_init__(self) -> None:
        check_whole("PatchStem", height=self.height, width_pixels=self.width_pixels, patch=self.patch)
        check_whole("PatchStem", channels=self.channels, width=self.width)
        check_fraction("PatchStem", dropout=self.dropout)
        if self.patch > min(self.height, self.width_pixels):
            raise InputError(f"PatchStem: patch={shown(self.patch)} is larger than the image")

    @property
    def patches(self) -> int:
        """Patches of one image."""
        return (self.height // self.patch) * (self.width_pixels // self.patch)

    @property
    def context(self) -> int:
        """Tokens of one image, the class token included."""
        return self.patches + self.class_token

    @property
    def vocab(self) -> int:
        """No tokens: images only."""
        return 0

    def tensors(self) -> dict[str, Shape]:
        weights: dict[str, Shape] = {"patch.weight": (self.width, self.channels, self.patch, self.patch)}
        if self.bias:
            weights["patch.bias"] = (self.width,)
        if self.class_token:
            weights["class_token"] = (1, 1, self.width)
        return weights | {"positions": (1, self.context, self.width)}

    def own_flops(self, run: Run) -> int:
        return 2 * run.batch * self.patches * self.channels * self.patch**2 * self.width

    def own_saved(self, run: Run) -> int:
        pixels = run.batch * self.channels * self.height * self.width_pixels * run.value_bytes
        return pixels + (run.positions * self.width if self.dropout else 0)
