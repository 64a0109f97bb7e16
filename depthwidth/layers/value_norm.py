"""Softmax attention whose values are normalised."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from ..errors import InputError
from ..numerics.homogeneity import Place, Powers
from ..signal import AnySignal, Pullback, Site
from .attention import Attention
from .attention_degrees import attention_degree
from .base import Child, component
from .norms import Norm


@component
class ValueNormAttention(Attention):
    """Attention with a norm over the value of each head (Gemma 3n)."""

    value_norm: Norm = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.value_norm.width != self.value_dim:
            raise InputError(
                f"ValueNormAttention: its norm has width={self.value_norm.width}, and values have {self.value_dim} dimensions"
            )

    def children(self) -> tuple[Child, ...]:
        norm = Child("value_norm", self.value_norm)
        return tuple(one for child in super().children() for one in ((norm, child) if child.name == "out" else (child,)))

    def choices(self) -> dict[str, Any]:
        return super().choices() | {"value_norm": True}

    degree = attention_degree

    def value_degree(self, source: Powers, at: Place) -> Powers:
        return at.at("value_norm").through(self.value_norm, super().value_degree(source, at))

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """Refused.

        Raises
        ------
        InputError
            always.
        """
        raise InputError(f"{site.role}: the moments of attention with normalised values are not derived")
