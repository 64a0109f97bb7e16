"""A mixer and attention side by side in one branch."""

from __future__ import annotations

from typing import Any, TypeVar

from ..errors import InputError
from ..numerics.homogeneity import Place, Powers
from ..signal import AnySignal
from .attention import Attention
from .base import Child, component
from .interfaces import AttentionLike
from .mixer import Mixer, mixer_as

M = TypeVar("M")


@component
class ParallelMixer(Mixer):
    """``mixer(x) + attention(x)``: both read one input, and their outputs are added to the stream together (Falcon-H1)."""

    mixer: Mixer
    attention: Attention

    def __post_init__(self) -> None:
        if self.mixer.width != self.attention.width:
            raise InputError(f"ParallelMixer: the widths {self.mixer.width} and {self.attention.width} differ")

    @property
    def width(self) -> int:
        """Features of the residual stream."""
        return self.mixer.width

    @property
    def width_step(self) -> int:
        return self.mixer.width_step

    def at_width(self, width: int) -> Any:
        """The same pair for a stream of another width: heads of the same dimension, in proportion, key heads as well."""
        attention = self.attention
        kv_heads = max(1, round(attention.kv_heads * width / self.width))
        heads = kv_heads * (attention.heads // attention.kv_heads)
        return self.replace(
            mixer=self.mixer.at_width(width), attention=attention.replace(width=width, heads=heads, kv_heads=kv_heads)
        )

    def mixer_as(self, kind: type[M]) -> M | None:
        """The mixer if it is of this class, otherwise None."""
        return mixer_as(kind, self.mixer)

    @property
    def as_attention(self) -> AttentionLike:
        return self.attention

    def children(self) -> tuple[Child, ...]:
        return Child("mixer", self.mixer), Child("attention", self.attention)

    def degree(self, x: Powers, at: Place) -> Powers:
        part = self.degrees_of_parts(at)
        return at.apply("sum", part("mixer", x), part("attention", x), reason="the mixer has another degree than attention")

    def draw_spread(self, x: AnySignal, site: Any) -> Any:
        return self.mixer.draw_spread(x, site.at("mixer"))
