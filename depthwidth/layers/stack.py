"""Runs of equal blocks, and the stack of an encoder or a decoder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

from .. import signal
from ..checks import DEEPEST, check_whole
from ..errors import InputError, shown
from ..progress import during
from ..values import cached_property
from .base import Child, Layer, Run, component
from .block import BlockLike, check_block, without_norms
from .linear import Linear
from .norms import Norm
from .positions import Position
from .streams import Streams

if TYPE_CHECKING:
    from ..numerics.homogeneity import Place, Powers
    from ..signal import AnySignal, Pullback, Site


@component
class Repeat(Layer):
    """The same block `times` times, each copy with separate weights."""

    block: BlockLike
    times: int

    def __post_init__(self) -> None:
        check_block("Repeat", self.block)
        check_whole("Repeat", times=self.times)

    def children(self) -> tuple[Child, ...]:
        return (Child("", self.block, copies=self.times, active=self.times),)

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        from .repetition import MANY_BLOCKS, apply_all_blocks, apply_sampled_blocks

        trace = site.trace
        first = trace.layer if isinstance(trace.layer, int) else 0
        layers = range(first, first + self.times)
        if self.block.plain:
            together = apply_all_blocks(self.block, x, site, layers)
            if together is not None:
                return together
        if self.block.plain and self.times > MANY_BLOCKS and not self.block.reads_memory:
            return apply_sampled_blocks(self.block, x, site, layers)
        pulls: list[Pullback] = []
        for trace.layer in layers:
            x, pull_block = self.block.moments(x, site)
            pulls.append(pull_block)

        def pull(g: AnySignal) -> AnySignal:
            for pull_block in reversed(pulls):
                g = pull_block(g)
            return g

        return x, pull


def _degree(stack: Stack, x: Powers, at: Place) -> Powers:
    """The powers of a stack's output. Of a run of equal blocks the first three are followed, after which nothing is new."""
    walk = at.walk
    walk.score_bias = None if stack.position is None else at.at("position").through(stack.position, {})
    walk.kept.clear()
    x = x if stack.copies is None else stack.copies.open_degree(x, at.at("copies"))
    first = 0
    for repeat in stack.repeats:
        for index in range(first, first + min(repeat.times, _FOLLOWED)):
            x = at.at(f"block.{stack.first_use(index)}").through(repeat.block, x)
        first += repeat.times
    walk.score_bias = None
    x = x if stack.copies is None else stack.copies.close_degree(x, at.at("copies"))
    return x if stack.norm is None else at.at("norm").through(stack.norm, x)


@component
class Stack(Layer):
    """The blocks of an encoder or a decoder, with each run of equal blocks stored once, and the parts before and after them."""

    repeats: tuple[Repeat, ...]
    norm: Norm | None = None
    """The norm after the last block."""
    position: Position | None = None
    """A table of score biases that all blocks share."""
    sharing: tuple[int, ...] | None = None
    """For each block the first one with the same weights, itself if it has weights of its own; None if all have (ALBERT has one
    set of weights)."""
    contacts: Linear | None = None
    """A map from the attention weights of all heads to one logit for each pair of tokens (ESM), outside the forward pass."""
    copies: Streams | None = None
    """The part that makes and joins the copies of the stream that its blocks keep; None for equal copies and their mean."""

    @classmethod
    def of(
        cls,
        blocks: Iterable[BlockLike],
        norm: Norm | None = None,
        position: Position | None = None,
        sharing: tuple[int, ...] | None = None,
        contacts: Linear | None = None,
        copies: Streams | None = None,
    ) -> Stack:
        """A stack of the given blocks in order, runs of equal ones joined."""
        repeats = tuple(Repeat(block, sum(1 for _ in run)) for block, run in groupby(blocks))
        return cls(repeats, norm, position, sharing, contacts, copies)

    def __post_init__(self) -> None:
        if not self.repeats:
            raise InputError("Stack: it has no blocks; the depth is at least 1")
        streams = {repeat.block.streams for repeat in self.repeats}
        if len(streams) > 1:
            raise InputError(f"Stack: its blocks keep different numbers of streams ({', '.join(map(str, sorted(streams)))})")
        if self.copies is None and self.repeats[0].block.own_streams is not None:
            object.__setattr__(self, "copies", self.repeats[0].block.own_streams)
        if self.copies is not None and self.copies.count != self.streams:
            raise InputError(f"Stack: its blocks keep {self.streams} streams, and it makes {self.copies.count} copies")
        _check_borrowed(self.repeats)
        if self.sharing is not None:
            self._check_sharing(self.sharing)

    def _check_sharing(self, sharing: tuple[int, ...]) -> None:
        if len(sharing) != self.depth:
            raise InputError(f"Stack: sharing has {len(sharing)} entries for {self.depth} blocks")
        blocks = list(self.blocks())
        for index, first in enumerate(sharing):
            if not 0 <= first <= index or sharing[first] != first:
                raise InputError(f"Stack: block {index} shares the weights of {shown(first)}, not the first block with them")
            if blocks[first] != blocks[index]:
                raise InputError(f"Stack: blocks {first} and {index} differ, so they cannot share their weights")

    def first_use(self, block: int) -> int:
        """The first block with the weights of this one; the block itself if it shares none."""
        return block if self.sharing is None else self.sharing[block]

    @cached_property
    def weight_sets(self) -> tuple[int, ...]:
        """The first block of each set of weights, in order: the blocks whose weights are counted and drawn."""
        return tuple(range(self.depth)) if self.sharing is None else tuple(dict.fromkeys(self.sharing))

    @property
    def streams(self) -> int:
        """Copies of the residual stream that its blocks keep."""
        return self.repeats[0].block.streams

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return sum(repeat.times for repeat in self.repeats)

    @property
    def width(self) -> int:
        """Features of the residual stream."""
        return self.repeats[0].block.width

    @property
    def outer_width(self) -> int:
        """Features of its input and output: those of a stream, unless streams are parts of a wider input."""
        return self.width if self.copies is None else self.copies.outer_width(self.width)

    @property
    def causal(self) -> bool:
        """True if tokens attend only to themselves and earlier ones."""
        return any(repeat.block.causal for repeat in self.repeats)

    @property
    def penalises_distance(self) -> bool:
        """True if causal scores fall with distance, on which the correlation of two tokens then depends."""
        return any(repeat.block.penalises_distance for repeat in self.repeats)

    @property
    def longest(self) -> int | None:
        """The largest number of positions that the tables of its attention have; None without a limit."""
        own = [self.position]
        for repeat in self.repeats:
            attention = repeat.block.as_attention
            own.append(None if attention is None else attention.position)
        known = [position.longest for position in own if position is not None and position.longest is not None]
        return min(known, default=None)

    def first(self, name: str) -> Any:
        """A part of the first block that has it: ``as_attention``, ``as_feed_forward`` or ``as_mixture``; None if none has."""
        parts = (getattr(repeat.block, name) for repeat in self.repeats)
        return next((part for part in parts if part is not None), None)

    @property
    def separates_equal_tokens(self) -> bool:
        """True if its blocks follow equal and different tokens apart: plain ones of attention and feed-forward parts.

        Trees send equal tokens to one leaf, for which averages over all pairs are known alone.
        """
        blocks = [repeat.block for repeat in self.repeats]
        parts = [part.branch for block in blocks for _, part in block.branches]
        known = (
            not attention.routed if (attention := branch.as_attention) else branch.as_feed_forward or branch.as_mixture
            for branch in parts
        )
        return all(block.separates_equal_tokens for block in blocks) and all(known)

    def blocks(self) -> Iterator[BlockLike]:
        """Every block from the first to the last."""
        for repeat in self.repeats:
            yield from (repeat.block for _ in range(repeat.times))

    def without_norms(self) -> Stack:
        """The same stack without the norms of its blocks' residual branches and the last one."""
        repeats = tuple(repeat.replace(block=without_norms(repeat.block)) for repeat in self.repeats)
        return self.replace(repeats=repeats, norm=None)  # type: ignore[no-any-return]

    def children(self) -> tuple[Child, ...]:
        blocks = tuple(Child(name, block, self._sets_of(block, times), times) for name, block, times in self._distinct)
        before, after = self.around
        return (*before, *blocks, *after)

    def run_of(self, child: str, run: Run) -> Run:
        return replace(run, tokens=0) if child == "contacts" else run

    def choices(self) -> dict[str, Any]:
        own = {} if self.position is None else {"positions": self.position.word, "score_bias": self.position}
        shared = {} if self.sharing is None else shared_choices(self.sharing)
        return own | shared | {"final_norm": self.norm is not None, "contacts": self.contacts is not None}

    def _sets_of(self, block: BlockLike, times: int) -> int:
        """The number of sets of weights of `times` copies of a block."""
        if self.sharing is None:
            return times
        every = list(self.blocks())
        return sum(every[first] == block for first in self.weight_sets)

    @property
    def around(self) -> tuple[tuple[Child, ...], tuple[Child, ...]]:
        """The parts before the first block and after the last."""
        position = () if self.position is None else (Child("position", self.position),)
        copies = () if self.copies is None else (Child("copies", self.copies),)
        norm = () if self.norm is None else (Child("norm", self.norm),)
        contacts = () if self.contacts is None else (Child("contacts", self.contacts, kind="classifier"),)
        return (*position, *copies), (*norm, *contacts)

    @cached_property
    def branches(self) -> tuple[str, ...]:
        """Paths of the residual branches from a block, in order; those of all blocks if blocks differ."""
        every = sorted((tuple(name for name, _ in repeat.block.branches) for repeat in self.repeats), key=len, reverse=True)
        return tuple(dict.fromkeys(name for names in every for name in names))

    @cached_property
    def _distinct(self) -> tuple[tuple[str, BlockLike, int], ...]:
        """Each distinct block once, wherever its copies are: its name, the block, the number of copies.

        The name lists the numbers of the copies in the stack: block.0-95, block.7, or block.0,2,..,24.
        """
        if len(self.repeats) == 1:  # nearly every model; spares comparing blocks
            only = self.repeats[0]
            return ((f"block.{_span(0, only.times)}", only.block, only.times),)
        runs: dict[BlockLike, list[tuple[int, int]]] = {}
        first = 0
        for repeat in self.repeats:
            runs.setdefault(repeat.block, []).append((first, repeat.times))
            first += repeat.times
        distinct = []
        for block, places in runs.items():
            names = [_span(*place) for place in places]
            numbers = ",".join(names) if len(names) < 4 else f"{names[0]},{names[1]},..,{names[-1]}"
            distinct.append((f"block.{numbers}", block, sum(times for _, times in places)))
        return tuple(distinct)

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        if len(self.weight_sets) < self.depth:
            # The outputs of one block at two depths correlate, so that they do not add like those of independent weights.
            raise InputError(f"{site.role}: the moments of blocks that share their weights are not known")
        trace, block_site = site.trace, site.at("block")
        if not self._takes_off_means:
            x = x.whole()
        input_site = site.at("input")
        input_site.record(x)
        pulls: list[Pullback] = [input_site.record_gradient(lambda g: g)]
        if self.copies is not None:
            x, pull_copies = self.copies.open(x, site.at("copies"))
            pulls.append(pull_copies)
        trace.score_bias = None if self.position is None else self.position.score_bias(site.at("position"))
        first, trace.end = 0, self._end(block_site.role)
        with during(partial(_words_on_block, site, self.depth), lambda: FORWARD_SHARE * first / self.depth):
            for repeat in self.repeats:
                trace.layer = first
                x, pull_blocks = repeat.moments(x, block_site)
                pulls.append(pull_blocks)
                first += repeat.times
        trace.layer = trace.score_bias = None
        if self.copies is not None:
            x, pull_copies = self.copies.close(x, site.at("copies"))
            pulls.append(pull_copies)
        if self.norm is not None:
            last = x
            x, pull_norm = self.norm.moments(last, site.at("norm"))
            pulls.append(lambda g: signal.lean_on_norm(pull_norm(g), last))
        site.record(x := x.whole())

        return x, site.record_gradient(partial(_pull_through, pulls, site.role))

    degree = _degree

    def _end(self, role: str) -> tuple[str, int] | None:
        """The residual and the block whose norm after the sum is the last part, as :attr:`Trace.end` has it."""
        *_, (name, part) = self.repeats[-1].block.branches or (("", None),)
        ends = self.norm is None and self.copies is None and part is not None and part.norm_stream is not None
        return (f"{role}.{name}", self.depth - 1) if ends else None

    @property
    def _takes_off_means(self) -> bool:
        """True if every norm of the stream subtracts the mean over the features, so that it can be followed apart."""
        norms = [self.norm]
        for repeat in self.repeats:
            norms.append(repeat.block.norm)
            for _, part in repeat.block.branches:
                norms += [part.norm_in, part.norm_stream]
        return all(repeat.block.plain for repeat in self.repeats) and all(norm.centred for norm in norms if norm is not None)

    def recomputed_bytes(self, run: Run) -> int:
        """Bytes kept for the backward pass if only block inputs are stored and each block is computed again.

        While the backward pass is in a block, everything that this block keeps is stored as well; the largest block counts.
        """
        inputs = self.depth * run.positions * self.streams * self.width * run.value_bytes
        working = max(block.saved_bytes(run) for _, block, _ in self._distinct)
        around = sum(c.layer.saved_bytes(self.run_of(c.name, run)) for side in self.around for c in side)
        return inputs + working + around


_FOLLOWED = 3
"""Equal blocks in a row whose degrees are followed: the first, one that reads its output, and one that reads that one's."""


def _check_borrowed(repeats: tuple[Repeat, ...]) -> None:
    """Refuse attention that would have the keys and values of an earlier block, if there is no such block."""
    own = set()
    for repeat in repeats:
        attention = repeat.block.as_attention
        if attention is None:
            continue
        kind = attention.window, attention.kv_heads, attention.head_dim, attention.value_dim
        if not attention.borrows:
            own.add(kind)
        elif kind not in own:
            window = "no window" if attention.window is None else f"window={attention.window}"
            raise InputError(f"Stack: no earlier block has keys and values for attention that borrows them, with {window}")


FORWARD_SHARE = 0.65
"""Share of the time of a pass that the moments forward take: reports of progress need it to a tenth."""


def _words_on_block(site: Site, depth: int) -> str:
    """Words on the block that is followed."""
    layer = site.trace.layer
    return f"{site.role} block {layer + 1} of {depth}" if isinstance(layer, int) else ""


def _pull_through(pulls: list[Pullback], name: str, g: AnySignal) -> AnySignal:
    """The gradient's way back through the parts of a stack."""
    passed = 0
    with during(f"gradient through the {name}", lambda: FORWARD_SHARE + (1 - FORWARD_SHARE) * passed / len(pulls)):
        for pull_part in reversed(pulls):
            g = pull_part(g)
            passed += 1
    return g


def shared_pattern(depth: int, groups: int, group_blocks: int) -> tuple[int, ...]:
    """:attr:`Stack.sharing` of ALBERT's pattern: consecutive rounds of blocks, in equal parts, each with one group's weights.

    A round passes through the `group_blocks` blocks of its group in order.

    Raises
    ------
    InputError
        if the depth is not a multiple of `group_blocks`, or there are more groups than rounds.

    >>> shared_pattern(6, 2, 1), shared_pattern(6, 1, 2)
    ((0, 0, 0, 3, 3, 3), (0, 1, 0, 1, 0, 1))
    """
    check_whole("Transformer", shared_groups=groups, group_blocks=group_blocks, depth=depth)
    if depth > DEEPEST:
        raise InputError(f"Transformer: depth={depth} is too deep for blocks that share weights, at most {DEEPEST:,}")
    rounds, rest = divmod(depth, group_blocks)
    if rest:
        raise InputError(f"Transformer: depth={depth} is not a multiple of group_blocks={group_blocks}")
    if groups > rounds:
        raise InputError(f"Transformer: shared_groups={groups} is more than the {rounds} rounds through the blocks of a group")
    firsts: dict[tuple[int, int], int] = {}
    pattern = ((int(turn / (rounds / groups)), block) for turn in range(rounds) for block in range(group_blocks))
    return tuple(firsts.setdefault(place, index) for index, place in enumerate(pattern))


def shared_choices(sharing: tuple[int, ...]) -> dict[str, int]:
    """The design's choices for a pattern of sharing; those of separate weights if the pattern is not one of ALBERT's."""
    depth, sets = len(sharing), len(set(sharing))
    for group_blocks in range(1, sets + 1):
        groups, rest = divmod(sets, group_blocks)
        if not rest and depth % group_blocks == 0 and sharing == shared_pattern(depth, groups, group_blocks):
            return {"shared_groups": groups, "group_blocks": group_blocks}
    return {}


def _span(start: int, times: int) -> str:
    return f"{start}" if times == 1 else f"{start}-{start + times - 1}"
