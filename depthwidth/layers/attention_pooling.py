"""A head that pools the tokens of an image by attention."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import InputError
from ..numerics.homogeneity import Place, Powers
from .attention import Attention
from .base import Child, Run, component
from .feed_forward import FeedForward
from .head import Head
from .norms import Norm
from .tensor import Tensor


@component
class AttentionPooling(Head):
    """One trained query, the probe, attends to all tokens; a feed-forward part with a norm and a skip path follows.

    SigLIP (arXiv 2303.15343), after Zhai et al. 2021, arXiv 2106.04560, appendix D.
    """

    attention: Attention
    """Cross-attention, whose memory is the stream."""
    norm: Norm
    feed_forward: FeedForward

    def __post_init__(self) -> None:
        if not self.attention.cross:
            raise InputError("AttentionPooling: its attention needs memory_width, the features of the stream that it reads")

    @property
    def width(self) -> int:
        """Features of the probe and of the output."""
        return self.attention.width

    def tensors(self) -> dict[str, Tensor]:
        return {"probe": Tensor((1, 1, self.width), "class_token")}

    def children(self) -> tuple[Child, ...]:
        parts = (("attention", self.attention), ("norm", self.norm), ("feed_forward", self.feed_forward))
        return tuple(Child(name, layer) for name, layer in parts)

    def choices(self) -> dict[str, Any]:
        return {"head": "attention-pooling"}

    def degree(self, x: Powers, at: Place) -> Powers:
        before, at.walk.memory = at.walk.memory, x
        y = at.at("attention").through(self.attention, at.weight("probe"))
        at.walk.memory = before
        added = at.at("feed_forward").through(self.feed_forward, at.at("norm").through(self.norm, y))
        return at.apply("sum", y, added, reason="a feed-forward part is added to a pooled token of another degree")

    def run_of(self, child: str, run: Run) -> Run:
        return replace(run, tokens=1, memory=run.tokens)

    def cache_values(self, run: Run) -> int:
        """0, as nothing is generated."""
        return 0
