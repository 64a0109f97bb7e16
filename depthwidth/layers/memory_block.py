"""A block that reads the output of another model, and is skipped if there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import InputError
from ..numerics.homogeneity import Place, Powers
from ..signal import AnySignal, Pullback, Site
from .base import Child, Run, component
from .block import BlockLike, Residual
from .tensor import ZEROS, Tensor


@component
class MemoryBlock(BlockLike):
    """``y = x + tanh(a) cross_attention(x)``, then ``y + tanh(b) feed_forward(y)``: the block for images of Llama 3.2 Vision.

    The numbers a and b are trained. They start at zero, so that a new block adds nothing. Cross-attention reads image
    features from another model. Without them, in a text alone, the block is skipped: it then has no operations and no
    cache, and its output is its input.
    """

    cross_attention: Residual
    feed_forward: Residual

    def __post_init__(self) -> None:
        attention = self.cross_attention.branch.as_attention
        if attention is None or not attention.cross:
            raise InputError("MemoryBlock: its first branch is not cross-attention")
        if self.cross_attention.width != self.feed_forward.width:
            here, there = self.cross_attention.width, self.feed_forward.width
            raise InputError(f"MemoryBlock: the widths {here} and {there} of its branches differ")

    @property
    def width(self) -> int:
        """Features of the residual stream."""
        return self.cross_attention.width

    def tensors(self) -> dict[str, Tensor]:
        return {name: Tensor((1,), "vector", start=ZEROS) for name in ("attention_gate", "feed_forward_gate")}

    def children(self) -> tuple[Child, ...]:
        return Child("cross_attention", self.cross_attention), Child("feed_forward", self.feed_forward)

    def choices(self) -> dict[str, Any]:
        return {"memory_block": True}

    @property
    def separates_equal_tokens(self) -> bool:
        return True

    def run_of(self, child: str, run: Run) -> Run:
        return run if run.memory else replace(run, tokens=0)

    def degree(self, x: Powers, at: Place) -> Powers:
        if at.walk.memory is None:  # it is skipped
            return x
        for name, part in (("cross_attention", self.cross_attention), ("feed_forward", self.feed_forward)):
            place = at.at(name)
            gate = "attention_gate" if name == "cross_attention" else "feed_forward_gate"
            at.require(at.weight(gate), "tanh of a gate")
            x = at.apply("sum", x, part.branch_degree(x, place), reason="a branch is added to a stream of another degree")
            x = x if part.norm_stream is None else place.at("norm_stream").through(part.norm_stream, x)
        return x

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """Those of the input, if there is nothing to attend to.

        Raises
        ------
        InputError
            if there is.
        """
        if site.trace.memory is not None:
            raise InputError(f"{site.role}: the moments of gated cross-attention are not derived")
        pulls: list[Pullback] = []
        for place in (*(site.at(name) for name, _ in self.branches), site):
            place.record(x)
            pulls.append(place.record_gradient(lambda g: g))

        def pull(g: AnySignal) -> AnySignal:
            for pull_place in reversed(pulls):
                g = pull_place(g)
            return g

        return x, pull
