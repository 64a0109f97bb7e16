"""How parts become a network: a residual branch with its norms, a block of branches, a stack of repeated blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from ..errors import InputError
from .attention import Attention
from .base import Child, Layer, Run, check_fraction, check_whole, component
from .feed_forward import FeedForward, MixtureOfExperts
from .norms import Norm
from .positions import RelativeBias


@component
class Residual(Layer):
    """``norm_stream(x + dropout(norm_out(branch(norm_in(x)))))``, each of the three norms where it is given.

    Pre-norm has `norm_in`, post-norm `norm_stream`, sandwich-norm `norm_in` and `norm_out`; OLMo 2 has `norm_out` alone.
    """

    branch: Attention | FeedForward | MixtureOfExperts
    norm_in: Norm | None = None
    norm_out: Norm | None = None
    norm_stream: Norm | None = None
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_fraction("Residual", dropout=self.dropout)

    def children(self) -> tuple[Child, ...]:
        parts = (
            ("norm_in", self.norm_in), ("", self.branch), ("norm_out", self.norm_out), ("norm_stream", self.norm_stream)
        )  # fmt: skip
        return tuple(Child(name, layer) for name, layer in parts if layer is not None)

    @property
    def width(self) -> int:
        """Features of the stream it adds to."""
        return self.branch.expert.width if isinstance(self.branch, MixtureOfExperts) else self.branch.width

    def own_saved(self, run: Run) -> int:
        return run.positions * self.width if self.dropout else 0  # the dropout mask, one byte each


@component
class Block(Layer):
    """Attention and feed-forward, and between them cross-attention where a decoder reads an encoder.

    With `parallel` all branches read the block's own input and their outputs are added together (GPT-J, arXiv 2204.02311);
    `norm`, where given, then normalises that input once for all of them.
    """

    attention: Residual
    feed_forward: Residual
    cross_attention: Residual | None = None
    parallel: bool = False
    norm: Norm | None = None

    def __post_init__(self) -> None:
        if self.norm is not None and not self.parallel:
            raise InputError("Block: a norm shared by all branches needs parallel=True")

    def children(self) -> tuple[Child, ...]:
        parts = (
            ("norm", self.norm), ("attention", self.attention),
            ("cross_attention", self.cross_attention), ("feed_forward", self.feed_forward),
        )  # fmt: skip
        return tuple(Child(name, layer) for name, layer in parts if layer is not None)

    @property
    def width(self) -> int:
        """Features of the residual stream."""
        return self.attention.width


@component
class Repeat(Layer):
    """The same block `times` times, each with weights of its own."""

    block: Block
    times: int

    def __post_init__(self) -> None:
        check_whole("Repeat", times=self.times)

    def children(self) -> tuple[Child, ...]:
        return (Child("", self.block, copies=self.times, active=self.times),)


@component
class Stack(Layer):
    """The blocks of an encoder or a decoder, runs of equal ones written once, and what stands around them."""

    repeats: tuple[Repeat, ...]
    norm: Norm | None = None
    """The norm after the last block."""
    position: RelativeBias | None = None
    """A table of score biases that all blocks share."""

    @classmethod
    def of(cls, blocks: Iterable[Block], norm: Norm | None = None, position: RelativeBias | None = None) -> Stack:
        """A stack of the given blocks in order, runs of equal ones joined."""
        return cls(tuple(Repeat(block, sum(1 for _ in run)) for block, run in groupby(blocks)), norm, position)

    def __post_init__(self) -> None:
        if not self.repeats:
            raise InputError("Stack: it has no blocks; the depth is at least 1")

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return sum(repeat.times for repeat in self.repeats)

    @property
    def width(self) -> int:
        """Features of the residual stream."""
        return self.repeats[0].block.width

    def blocks(self) -> Iterator[Block]:
        """Every block from the first to the last."""
        for repeat in self.repeats:
            yield from (repeat.block for _ in range(repeat.times))

    def children(self) -> tuple[Child, ...]:
        parts = [Child("position", self.position)] if self.position is not None else []
        first = 0
        for repeat in self.repeats:
            last = first + repeat.times - 1
            # Indices as they are in the model, so that a site names its blocks: block.0-95, or block.7 for one alone.
            parts.append(Child(f"block.{first}" if repeat.times == 1 else f"block.{first}-{last}", repeat))
            first = last + 1
        if self.norm is not None:
            parts.append(Child("norm", self.norm))
        return tuple(parts)

    def recomputed_bytes(self, run: Run) -> int:
        """Bytes kept for the backward pass when only block inputs are stored and each block is computed again.

        While the backward pass is in a block, everything that block keeps exists as well; the largest block counts.
        """
        inputs = self.depth * run.positions * self.width * run.value_bytes
        working = max(repeat.block.saved_bytes(run) for repeat in self.repeats)
        around = sum(c.layer.saved_bytes(run) for c in self.children() if not isinstance(c.layer, Repeat))
        return inputs + working + around
