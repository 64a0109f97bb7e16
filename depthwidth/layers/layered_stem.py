"""Per-layer embeddings: a stem that also makes a vector for each block."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from ..checks import check_whole
from ..numerics.homogeneity import Place, Powers
from ..values import cached_property, frozen
from .base import Child, component
from .linear import Linear
from .norms import Norm, RMSNorm
from .stem import Embedding, TokenStem


@frozen
class LayerInputs:
    """The sizes of per-layer embeddings.

    Parameters
    ----------
    vocab : rows of their table; a token beyond them has the row of token 0.
    width : features of the vector of one block.
    """

    vocab: int
    width: int

    def __post_init__(self) -> None:
        check_whole("LayerInputs", vocab=self.vocab, width=self.width)


@component
class LayeredStem(TokenStem):
    """A stem of tokens that makes a second vector for each token and block (Gemma 3n's per-layer embeddings).

    It is ``(norm(projection(x) / sqrt(width)) + sqrt(features) * row) / sqrt(2)`` with the stem's output x. The row is of a
    second table, which has the vectors of all blocks; all blocks share the norm.
    """

    inputs: LayerInputs = field(kw_only=True)
    depth: int = field(kw_only=True)
    """Number of blocks."""
    eps: float = field(default=1e-6, kw_only=True)
    """Of the norm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("LayeredStem", depth=self.depth)

    @cached_property
    def layer_tokens(self) -> Embedding:
        """The table of the vectors of all blocks."""
        return Embedding(self.inputs.vocab, self.depth * self.inputs.width)

    @cached_property
    def layer_projection(self) -> Linear:
        """The map from the stem's output to the vectors of all blocks."""
        return Linear(self.width, self.depth * self.inputs.width, False)

    @cached_property
    def layer_norm(self) -> Norm:
        """The norm of the map's output, over the features of each block."""
        return RMSNorm(self.inputs.width, self.depth, eps=self.eps)

    @property
    def block_inputs(self) -> tuple[int, int]:
        return self.depth, self.inputs.width

    def children(self) -> tuple[Child, ...]:
        projection = Child("layer_projection", self.layer_projection, kind="latent")
        return (
            *super().children(),
            Child("layer_tokens", self.layer_tokens),
            projection,
            Child("layer_norm", self.layer_norm),
        )

    def degree(self, x: Powers, at: Place) -> Powers:
        y = super().degree(x, at)
        projected = at.at("layer_projection").through(self.layer_projection, y)
        projected = at.at("layer_norm").through(self.layer_norm, projected)
        rows = at.at("layer_tokens").through(self.layer_tokens, {})
        reason = "rows of a table are added to a norm's output of another degree"
        at.walk.block_inputs = at.apply("sum", projected, rows, reason=reason)
        return y

    def table_scale(self, kind: str) -> float:
        return float(self.inputs.width**0.5) if kind == "table" else super().table_scale(kind)

    def choices(self) -> dict[str, Any]:
        return super().choices() | {"layer_inputs": self.inputs}
