"""Multi-head softmax attention: self- and cross-attention, grouped and multi-query, full, causal and windowed."""

from __future__ import annotations

from dataclasses import replace

from ..errors import InputError
from ..formula import is_symbolic
from .base import Child, Layer, Run, check_fraction, check_whole, component
from .linear import Linear
from .norms import Norm
from .positions import ALiBi, Rotary

_LOGSUMEXP_BYTES = 4  # a fused kernel keeps one float32 per query and head in place of the scores


@component
class Attention(Layer):
    """Softmax attention (Vaswani et al. 2017, arXiv 1706.03762).

    `kv_heads` keys and values serve `heads` queries: equal numbers are multi-head, one is multi-query (arXiv 1911.02150),
    a divisor between is grouped-query attention (arXiv 2305.13245). `memory_width` makes it cross-attention, whose keys and
    values read another stack's output of that width.
    """

    width: int
    heads: int
    kv_heads: int
    head_dim: int
    """Dimensions of one query and one key."""
    value_dim: int
    """Dimensions of one value."""
    causal: bool = True
    window: int | None = None
    """How many latest positions a query may see, its own included; None for all."""
    position: Rotary | ALiBi | None = None
    bias: bool = True
    """Whether the query, key and value maps have biases."""
    out_bias: bool = True
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    scale: float | None = None
    """What scores are multiplied by; None for 1/sqrt(head_dim)."""
    softcap: float | None = None
    """Scores pass through softcap * tanh(score / softcap) where given."""
    memory_width: int | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        dims = {"width": self.width, "heads": self.heads, "kv_heads": self.kv_heads}
        check_whole("Attention", **dims, head_dim=self.head_dim, value_dim=self.value_dim)
        if self.window is not None:
            check_whole("Attention", window=self.window)
        if self.memory_width is not None:
            check_whole("Attention", memory_width=self.memory_width)
        check_fraction("Attention", dropout=self.dropout)
        if not is_symbolic(self.heads, self.kv_heads) and self.heads % self.kv_heads:
            raise InputError(f"Attention: kv_heads={self.kv_heads} does not divide heads={self.heads}")

    @property
    def cross(self) -> bool:
        """Whether it reads another stack's output."""
        return self.memory_width is not None

    @property
    def query(self) -> Linear:
        """The query map, all heads together."""
        return Linear(self.width, self.heads * self.head_dim, self.bias)

    @property
    def key(self) -> Linear:
        """The key map, all key heads together."""
        return Linear(self.memory_width or self.width, self.kv_heads * self.head_dim, self.bias)

    @property
    def value(self) -> Linear:
        """The value map, all value heads together."""
        return Linear(self.memory_width or self.width, self.kv_heads * self.value_dim, self.bias)

    @property
    def out(self) -> Linear:
        """The output map from the joined heads back to the residual stream."""
        return Linear(self.heads * self.value_dim, self.width, self.out_bias)

    def children(self) -> tuple[Child, ...]:
        parts = (
            ("query", self.query), ("key", self.key), ("value", self.value),
            ("query_norm", self.query_norm), ("key_norm", self.key_norm),
            ("position", self.position), ("out", self.out),
        )  # fmt: skip
        return tuple(Child(name, layer) for name, layer in parts if layer is not None)

    def run_of(self, child: str, run: Run) -> Run:
        if self.cross and child in ("key", "value", "key_norm"):
            return replace(run, tokens=run.memory)
        return run

    def keys_seen(self, run: Run) -> int:
        """Query-key pairs of one sequence, summed over its queries."""
        keys = run.memory if self.cross else run.tokens
        if self.cross or not self.causal:
            return run.tokens * keys
        reach = keys if self.window is None else min(keys, self.window)
        # The first `reach` queries see 1, 2, .. reach keys, the others reach each.
        return reach * (reach + 1) // 2 + (run.tokens - reach) * reach if run.masked else run.tokens * reach

    def own_flops(self, run: Run) -> int:
        # Scores and the weighted sum of values; softmax is not a matrix product and is left out, as everyone does.
        return 2 * run.batch * self.keys_seen(run) * self.heads * (self.head_dim + self.value_dim)

    def own_saved(self, run: Run) -> int:
        keys = run.memory if self.cross else run.tokens
        source = keys * run.batch
        values = run.positions * self.width  # the input, once for query, key and value together
        values += run.positions * self.heads * self.head_dim + source * self.kv_heads * (self.head_dim + self.value_dim)
        values += run.positions * self.heads * self.value_dim  # what the output map reads
        if run.fused:
            return values * run.value_bytes + run.positions * self.heads * _LOGSUMEXP_BYTES
        scores = run.positions * keys * self.heads
        # Without dropout the softmax alone; with it, the dropped-out copy and a mask of one byte each as well.
        per_score = 2 * run.value_bytes + 1 if self.dropout else run.value_bytes
        return values * run.value_bytes + scores * per_score

    def own_cache(self, run: Run) -> int:
        if not (self.causal or self.cross):
            return 0
        kept = run.memory if self.cross else run.tokens
        if self.window is not None:
            kept = min(kept, self.window)
        return run.batch * kept * self.kv_heads * (self.head_dim + self.value_dim)
