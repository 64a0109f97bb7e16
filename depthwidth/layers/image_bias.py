"""Score biases for the tokens of an image, by the difference of their places."""

from __future__ import annotations

from dataclasses import replace

from ..checks import check_whole
from .base import component
from .positions import Position
from .tensor import ZEROS, Tensor


@component
class ImageBias(Position):
    """A trainable score bias for each head and each difference of two patches' places (BEiT, arXiv 2106.08254).

    Three more rows of the table are for the class token, which is the first: as query, as key, and as both. `shared` says
    whether all blocks of a stack share one table, or each has its own.
    """

    rows: int
    """Patches along the height."""
    columns: int
    """Patches along the width."""
    heads: int
    shared: bool = False
    adds_scores = True

    def __post_init__(self) -> None:
        check_whole("ImageBias", rows=self.rows, columns=self.columns, heads=self.heads)

    @property
    def home(self) -> str:  # type: ignore[override]
        """``stack`` if blocks share the table, else ``attention``."""
        return "stack" if self.shared else "attention"

    def fitted(self, heads: int, width: int) -> Position:
        return replace(self, heads=heads)

    @property
    def longest(self) -> int:
        return self.rows * self.columns + 1

    @property
    def differences(self) -> int:
        """Number of differences between the places of two patches."""
        return (2 * self.rows - 1) * (2 * self.columns - 1)

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": Tensor((self.differences + 3, self.heads), "score_bias", start=ZEROS)}
