"""Attention within chunks of a sequence."""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

from ..checks import check_whole
from ..errors import InputError
from ..signal import AnySignal, Pullback, Site
from .attention import Attention
from .base import Run, component


@component
class ChunkedAttention(Attention):
    """Causal attention in which a query sees only the keys of its own chunk of `chunk` tokens, up to itself (Llama 4).

    Its moments are those of causal attention, and known for sequences of one chunk.
    """

    chunk: int = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("ChunkedAttention", chunk=self.chunk)
        if not self.causal or self.cross or self.window is not None:
            raise InputError("ChunkedAttention: chunks are for causal self-attention without a window")

    def choices(self) -> dict[str, Any]:
        return super().choices() | {"chunk": self.chunk}

    def keys_seen(self, run: Run) -> int:
        """Query-key pairs of one sequence, summed over its queries."""
        reach = min(run.tokens, self.chunk)
        if not run.masked:
            return run.tokens * reach
        whole, rest = divmod(run.tokens, self.chunk)
        return whole * (self.chunk * (self.chunk + 1) // 2) + rest * (rest + 1) // 2

    def own_cache(self, run: Run) -> int:
        return super().own_cache(replace(run, tokens=min(run.tokens, self.chunk)))

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        if site.trace.length > self.chunk:
            raise InputError(f"{site.role}: the moments of attention in chunks are known for up to {self.chunk:,} tokens")
        return super().moments(x, site)

    degree = Attention.degree  # a mask leaves it as it is
