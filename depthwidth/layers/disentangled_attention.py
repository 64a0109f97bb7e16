"""Disentangled attention: scores of content beside those of content and relative position (DeBERTa)."""

from __future__ import annotations

import math
from dataclasses import field, replace
from typing import Any

from ..checks import check_whole
from ..errors import InputError
from ..formula import is_symbolic
from ..numerics.homogeneity import Place, Powers
from ..signal import AnySignal, Pullback, Site
from ..values import cached_property, frozen
from .attention import Attention
from .attention_degrees import key_degree, query_degree
from .base import Child, Run, component
from .linear import Linear
from .norms import Norm
from .positions import Position
from .tensor import Tensor


@frozen
class Disentangled:
    """The parts of the scores that depend on the position of a key relative to its query.

    Parameters
    ----------
    span : distances on each side that have a vector of their own; farther ones have the last.
    longest : with a number, distances beyond half of the span share vectors, on a logarithmic scale up to this distance (v2).
    to_position : a query meets the vector of the distance, as a key.
    to_content : a key meets the vector of the distance, as a query.
    shared : vectors pass through the maps of queries and keys; otherwise through maps of their own.
    key_bias : the vectors' own map to keys has a bias.
    sliced : only vectors of distances that occur are mapped (v1), instead of all.
    """

    span: int
    longest: int | None = None
    to_position: bool = True
    to_content: bool = True
    shared: bool = False
    key_bias: bool = True
    sliced: bool = False

    def __post_init__(self) -> None:
        check_whole("Disentangled", span=self.span)
        if not (self.to_position or self.to_content):
            raise InputError("Disentangled: neither to_position nor to_content is true; then it is plain attention")
        if self.longest is not None:
            check_whole("Disentangled", smallest=2, span=self.span)
        if self.longest is not None and self.longest <= self.span // 2 + 1:
            raise InputError(
                f"Disentangled: longest={self.longest} is not beyond half of span={self.span}, from where it counts"
            )

    @property
    def parts(self) -> int:
        """Parts of a score, that of the content alone included."""
        return 1 + self.to_position + self.to_content

    def rows(self, tokens: int) -> int:
        """Number of vectors that are mapped for a sequence of `tokens`."""
        return 2 * (min(self.span, tokens) if self.sliced else self.span)


@component
class RelativeVectors(Position):
    """A trained vector for each of 2 `span` relative positions, shared by the blocks of a stack, and a norm of these vectors.

    Attention of another kind than :class:`DisentangledAttention` cannot read them.
    """

    span: int
    width: int
    norm: Norm | None = None
    home = "stack"

    def __post_init__(self) -> None:
        check_whole("RelativeVectors", span=self.span, width=self.width)

    def fitted(self, heads: int, width: int) -> Position:
        return replace(self, width=width, norm=None if self.norm is None else self.norm.replace(width=width))

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": Tensor((2 * self.span, self.width), "positions")}

    def children(self) -> tuple[Child, ...]:
        return () if self.norm is None else (Child("norm", self.norm),)

    def degree(self, x: Powers, at: Place) -> Powers:
        """The powers of the vectors, which attention maps to keys and queries."""
        vectors = at.weight("weight")
        return vectors if self.norm is None else at.at("norm").through(self.norm, vectors)

    def run_of(self, child: str, run: Run) -> Run:
        return replace(run, tokens=2 * self.span, batch=1)


@component
class DisentangledAttention(Attention):
    """Attention whose scores are sums of up to three products (He et al. 2021, arXiv 2006.03654, section 3.1).

    A query meets a key; a query meets the vector of the key's relative position, mapped to a key; and the key meets this
    vector, mapped to a query. The vectors are those of :class:`RelativeVectors` in the stack. There is no causal mask.
    """

    relative: Disentangled = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.causal or self.cross or self.window is not None or self.sinks:
            raise InputError("DisentangledAttention: it has neither a causal mask nor a window, a memory or sinks")
        if self.query_norm is not None or self.key_norm is not None or self.position is not None:
            raise InputError("DisentangledAttention: it has neither norms of queries and keys nor other positions")
        if not is_symbolic(self.heads, self.kv_heads) and self.heads != self.kv_heads:
            raise InputError(f"DisentangledAttention: kv_heads={self.kv_heads} is not heads={self.heads}")

    @cached_property
    def position_key(self) -> Linear | None:
        """The map from vectors of relative positions to keys; None if it is that of the content."""
        own = self.relative.to_position and not self.relative.shared
        return Linear(self.width, self.heads * self.head_dim, self.relative.key_bias) if own else None

    @cached_property
    def position_query(self) -> Linear | None:
        """The map from vectors of relative positions to queries; None if it is that of the content."""
        own = self.relative.to_content and not self.relative.shared
        return Linear(self.width, self.heads * self.head_dim, True) if own else None

    def children(self) -> tuple[Child, ...]:
        own = (("position_key", self.position_key, "key"), ("position_query", self.position_query, "query"))
        *first, out = super().children()
        return (*first, *(Child(name, layer, kind=kind) for name, layer, kind in own if layer is not None), out)

    def choices(self) -> dict[str, Any]:
        return super().choices() | {"disentangled": self.relative}

    def run_of(self, child: str, run: Run) -> Run:
        # The vectors are the same for every sequence of a batch.
        own = child in ("position_key", "position_query")
        return replace(run, tokens=self.relative.rows(run.tokens), batch=1) if own else super().run_of(child, run)

    def degree(self, x: Powers, at: Place) -> Powers:
        vectors = at.walk.score_bias
        if vectors is None:
            return at.unknown(self, x)
        relative, reason = self.relative, "scores of positions have another degree than those of content"
        # A bias of keys adds one number to all scores of a query, unless keys meet the vectors of positions.
        own = self.key if relative.to_content else self.key.replace(bias=False)
        query, key = query_degree(self, x, at), key_degree(self, x, at, own)
        scores = at.apply("product", query, key)
        if relative.to_position:
            name, part = ("key", self.key) if self.position_key is None else ("position_key", self.position_key)
            met = at.at(name).through(part.replace(bias=False), vectors)
            scores = at.apply("sum", scores, at.apply("product", query, met), reason=reason)
        if relative.to_content:
            name, part = ("query", self.query) if self.position_query is None else ("position_query", self.position_query)
            asking = at.at(name).through(part, vectors)
            scores = at.apply("sum", scores, at.apply("product", asking, key), reason=reason)
        weights = at.apply("softmax", scores, reason="softmax of scores that are not of degree 0")
        mixed = at.apply("product", weights, at.at("value").through(self.value, x))
        if self.inner_norm is not None:
            mixed = at.at("inner_norm").through(self.inner_norm, mixed)
        return at.at("out").through(self.out, mixed)

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        raise InputError(f"{site.role}: the moments of disentangled attention are not known")

    def own_flops(self, run: Run) -> int:
        rows, features = self.relative.rows(run.tokens), self.heads * self.head_dim
        products = 2 * run.positions * rows * features * (self.relative.parts - 1)
        shared = 4 * rows * self.width * features if self.relative.shared else 0
        return super().own_flops(run) + products + shared

    def own_saved(self, run: Run) -> int:
        # Fused kernels take the parts that depend on positions as a term of the scores, which they keep.
        mapped = (self.relative.parts - 1) * self.relative.rows(run.tokens) * self.heads * self.head_dim
        summand = run.positions * run.tokens * self.heads if run.fused and not run.rescored else 0
        return super().own_saved(run) + (mapped + summand) * run.value_bytes


def score_factor(head_dim: int, relative: Disentangled) -> float:
    """The factor on scores, one over the square root of the dimensions of all their parts.

    >>> round(score_factor(64, Disentangled(span=512)) ** -2, 9)
    192.0
    """
    return 1 / math.sqrt(head_dim * relative.parts)
