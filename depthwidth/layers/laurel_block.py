"""A block with a learned augmented residual layer beside attention."""

from __future__ import annotations

import math
from typing import Any

from ..errors import InputError
from ..numerics.homogeneity import Place, Powers
from .base import Child, component
from .block import BlockLike, Residual
from .laurel import Laurel

SHARE = 1 / math.sqrt(2)
"""The factor on the sum of attention and Laurel."""


@component
class LaurelBlock(BlockLike):
    """``y = (x + attention(x) + laurel(norm_in(x))) / sqrt(2)``, then ``y + feed_forward(y)``: the block of Gemma 3n.

    The norms of attention are those of its residual, and Laurel reads what its input norm returns. Its moments are not derived.
    """

    attention: Residual
    laurel: Laurel
    feed_forward: Residual

    def __post_init__(self) -> None:
        widths = {part.width for part in (self.attention, self.laurel, self.feed_forward)}
        if len(widths) > 1:
            raise InputError(f"LaurelBlock: its parts differ in width ({', '.join(map(str, sorted(widths)))})")

    @property
    def width(self) -> int:
        """Features of the residual stream."""
        return self.laurel.width

    def children(self) -> tuple[Child, ...]:
        return tuple(Child(name, getattr(self, name)) for name in ("attention", "laurel", "feed_forward"))

    def degree(self, x: Powers, at: Place) -> Powers:
        attention, place = self.attention, at.at("attention")
        read = x if attention.norm_in is None else place.at("norm_in").through(attention.norm_in, x)
        mapped = at.at("laurel").through(self.laurel, read)
        reason = "a branch is added to a stream of another degree"
        y = at.apply("sum", x, attention.branch_degree(x, place), mapped, reason=reason)
        y = y if attention.norm_stream is None else place.at("norm_stream").through(attention.norm_stream, y)
        return at.at("feed_forward").through(self.feed_forward, y)

    def choices(self) -> dict[str, Any]:
        return {"laurel": self.laurel.rank, "mixer": "attention", "parallel": False, "shared_norm": False}
