"""A block of a decoder without its encoder."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..values import cached_property
from .base import Child, component
from .block import Block, Residual

_PASSED = "cross_attention"


@component
class LoneDecoderBlock(Block):
    """A block whose cross-attention is skipped, as there is no encoder's output to read (``BartForCausalLM``).

    Its weights are there all the same. It is not among the branches, has no operations and no cache, and adds nothing; its norm
    is skipped with it.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cross_attention is None:
            raise InputError("LoneDecoderBlock: it has no unused cross-attention; use a Block")
        if self.parallel:
            raise InputError("LoneDecoderBlock: its branches are in sequence; parallel=True makes them parallel")

    def choices(self) -> dict[str, Any]:
        return {**super().choices(), "lone_decoder": True}

    @cached_property
    def branches(self) -> tuple[tuple[str, Residual], ...]:
        return tuple((name, part) for name, part in super().branches if name != _PASSED)

    def children(self) -> tuple[Child, ...]:
        return tuple(child._replace(active=0) if child.name == _PASSED else child for child in super().children())
