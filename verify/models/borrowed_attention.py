# mypy: disable-error-code="no-any-return"
"""Attention with the keys and values of an earlier block."""

from __future__ import annotations

from torch import Tensor

from depthwidth import layers
from depthwidth.errors import InputError

from .attention import Attention, split_heads
from .base import Pass, builds, scale_by


@builds(layers.BorrowedAttention)
class BorrowedAttention(Attention):
    """Queries of its own; keys and values are those of the last block before it with the same window."""

    def __init__(self, layer: layers.BorrowedAttention) -> None:
        super().__init__(layer)
        del self.key, self.value, self.key_norm

    def joined(self, x: Tensor, run: Pass) -> Tensor:
        """The heads' outputs, joined: (batch, length, heads value_dim)."""
        layer = self.layer
        found = run.kept.get(("keys and values", layer.window))
        if found is None:
            raise InputError("no earlier block has keys and values for attention that borrows them")
        q = split_heads(self.query(x), layer.heads, layer.head_dim, self.query_norm, layer.query_norm)
        if self.query.deferred:
            q = scale_by(q, self.query.multiplier)
        k, v = found
        if self.position is not None:
            q, _ = self.position.encode(q, q[:, :1], run)
        y = self.mix(q, k, v, *self._mask(x.shape[1], q, run), self.sinks).transpose(1, 2).flatten(2)
        return y if self.inner_norm is None else self.inner_norm(y)
