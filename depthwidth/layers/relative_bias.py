"""A trained score bias for each bucket of distances."""

from __future__ import annotations

from dataclasses import replace

from ..checks import check_whole
from ..numerics.homogeneity import Place, Powers
from .base import component
from .positions import Position
from .tensor import ZEROS, Tensor


@component
class RelativeBias(Position):
    """A trainable score bias for each head and distance bucket, shared by the layers of a stack (T5, arXiv 1910.10683)."""

    heads: int
    buckets: int = 32
    max_distance: int = 128
    home = "stack"
    adds_scores = True

    def __post_init__(self) -> None:
        check_whole("RelativeBias", heads=self.heads, buckets=self.buckets, max_distance=self.max_distance)

    def fitted(self, heads: int, width: int) -> Position:
        return replace(self, heads=heads)

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": Tensor((self.buckets, self.heads), "score_bias", start=ZEROS)}

    def degree(self, x: Powers, at: Place) -> Powers:
        """The powers of the table, which attention adds to its scores."""
        return at.weight("weight")


@component
class BlockRelativeBias(RelativeBias):
    """The same with a table of its own in each block (umT5, arXiv 2304.09151)."""

    home = "attention"

    def degree(self, x: Powers, at: Place) -> Powers:
        return at.apply("sum", x, at.weight("weight"), reason="a trained bias is added to scores of another degree")
