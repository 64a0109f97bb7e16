"""Softmax attention with the keys and values of an earlier block."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..signal import AnySignal, Pullback, Site
from .attention import Attention
from .attention_degrees import attention_degree
from .base import Child, Run, component


@component
class BorrowedAttention(Attention):
    """Attention that has queries of its own, and the keys and values of the last block before it that has its own (Gemma 3n).

    That block has the same window, and so the same positions. It keeps the cache of both.
    """

    borrows = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cross:
            raise InputError("BorrowedAttention: cross-attention has the keys and values of another stack")

    def children(self) -> tuple[Child, ...]:
        return tuple(child for child in super().children() if child.name not in ("key", "value", "key_norm"))

    def choices(self) -> dict[str, Any]:
        return super().choices() | {"borrowed_keys": True}

    degree = attention_degree

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """Refused.

        Raises
        ------
        InputError
            always.
        """
        raise InputError(f"{site.role}: the moments of attention with the keys of another block are not derived")

    def own_saved(self, run: Run) -> int:
        lent = run.positions * self.kv_heads * (self.head_dim + self.value_dim)
        return super().own_saved(run) - lent * run.value_bytes  # which the block that made them counts

    def own_cache(self, run: Run) -> int:
        return 0
