"""How parts become a network: a residual branch with its norms, a block of branches, a stack of repeated blocks."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

from ..errors import InputError
from ..formulas.moments import post_norm_log_drift, post_norm_log_variance
from ..interpolation import Table
from ..signal import AnySignal, DrawSpread, Number, Place, Pullback, Signal, Spread, quotient
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

    def moments(self, x: AnySignal, place: Place) -> tuple[Any, Pullback]:
        skip, scale = place.scales()
        f, pull_branch, shape = self.branch_moments(x, place)
        kept, added = x.scaled(skip), f.times(scale**2)
        y = kept.plus(added).spread_as(kept.spread and kept.spread.after(kept, added, shape.omega, self.width))
        pull_norm: Pullback | None = None
        drift: Number = 0.0
        if self.norm_stream is not None:
            if kept.spread:
                drift = self._collapsed_drift(kept, added, shape, place)
            y, pull_norm = self.norm_stream.moments(y, place.at("norm_stream"))
            y = y.spread_as(kept.spread and Spread.none(y))  # a norm leaves every draw with the same length
        place.forward(y)

        def pull(g: AnySignal) -> AnySignal:
            if pull_norm is not None:
                g = pull_norm(g).times(1 + drift)
            return g.times(skip**2).plus(pull_branch(g.times(scale**2)))

        return y, place.traced(pull)

    def _collapsed_drift(self, kept: AnySignal, added: AnySignal, shape: DrawSpread, place: Place) -> Number:
        """What the first-order spread leaves out: behind a norm the gradient has no component along the stream.

        The norm's factor on the mean gradient, 1 + v, is then too large, by a known amount where all tokens are one
        (:func:`~depthwidth.formulas.moments.post_norm_log_drift`). That it is so in proportion to what tokens share, their
        correlation, is our reading.
        """
        (q, c), (a, a_pair) = kept.averages, added.averages
        collapse = quotient(c + a_pair, q + a)
        strength, width = quotient(a, q), self.width
        place.walk.write_log_variance(place.role, collapse * post_norm_log_variance(strength, width, shape.omega))
        return collapse * post_norm_log_drift(strength, width, shape.backward)

    def branch_moments(self, x: AnySignal, place: Place) -> tuple[Any, Pullback, DrawSpread]:
        """The branch with the norms on its way and its dropout, without the sum; and how draws of its weights differ."""
        rate = self.dropout if place.walk.dropout else 0.0
        pulls: list[Pullback] = []
        shape = DrawSpread(0.0, 0.0)
        for name, part in (("norm_in", self.norm_in), ("", self.branch), ("norm_out", self.norm_out)):
            if part is None:
                continue
            if part is self.branch:
                shape = self.branch.draw_spread(x, place)
            x, pull_part = part.moments(x, place.at(name))
            pulls.append(pull_part)

        def pull(g: AnySignal) -> AnySignal:
            g = g.times(1 / (1 - rate), 1.0)
            for pull_part in reversed(pulls):
                g = pull_part(g)
            return g

        return x.times(1 / (1 - rate), 1.0), pull, shape

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
    def branches(self) -> list[tuple[str, Residual]]:
        """The residual branches by name, in the order a signal meets them."""
        return [(child.name, child.layer) for child in self.children() if isinstance(child.layer, Residual)]

    def moments(self, x: AnySignal, place: Place) -> tuple[Any, Pullback]:
        if self.parallel:
            return self._parallel_moments(x, place)
        pulls: list[Pullback] = []
        for name, branch in self.branches:
            x, pull_branch = branch.moments(x, place.at(name))
            pulls.append(pull_branch)
        place.forward(x)

        def pull(g: AnySignal) -> AnySignal:
            for pull_branch in reversed(pulls):
                g = pull_branch(g)
            return g

        return x, place.traced(pull)

    def _parallel_moments(self, x: AnySignal, place: Place) -> tuple[Any, Pullback]:
        """All branches read the same signal; their weights are independent, so their moments add."""
        y, shared = (x, None) if self.norm is None else self.norm.moments(x, place.at("norm"))
        total, pulls = x, []
        for name, branch in self.branches:
            f, pull_branch, shape = branch.branch_moments(y, place.at(name))
            _, scale = place.at(name).scales()
            added = f.times(scale**2)
            total = total.plus(added).spread_as(total.spread and total.spread.after(total, added, shape.omega, self.width))
            pulls.append((scale, pull_branch))
        place.forward(total)

        def pull(g: AnySignal) -> AnySignal:
            front = g.times(0.0)
            for scale, pull_branch in pulls:
                front = front.plus(pull_branch(g.times(scale**2)))
            return g.plus(front if shared is None else shared(front))

        return total, place.traced(pull)

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

    def moments(self, x: AnySignal, place: Place) -> tuple[Any, Pullback]:
        walk = place.walk
        first = walk.layer if isinstance(walk.layer, int) else 0
        last = first + self.times
        if isinstance(x, Signal) and self.times > _FEW_BLOCKS:
            return self._at_once(x, place, range(first, last))
        pulls: list[Pullback] = []
        for walk.layer in range(first, last):
            x, pull_block = self.block.moments(x, place)
            pulls.append(pull_block)

        def pull(g: AnySignal) -> AnySignal:
            for pull_block in reversed(pulls):
                g = pull_block(g)
            return g

        return x, pull

    def _at_once(self, x: Signal, place: Place, layers: range) -> tuple[Signal, Pullback]:
        """All blocks in one pass over arrays, once the stream in front of each of them is known."""
        import numpy as np

        walk = place.walk
        inputs = block_inputs(self.block, x, place, layers)
        walk.layer = layers
        y, pull_blocks = self.block.moments(inputs, place)
        spread = y.spread and Spread(*(float(v[-1]) for v in y.spread))
        last = Signal(float(y.second_moment[-1]), float(y.covariance[-1]), spread)

        def pull(g: Signal) -> Signal:
            # The gradient in front of a block is linear in the two moments of the one behind it.
            with walk.silence():
                unit = pull_blocks(Signal(np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])))
            shape = (2, len(layers))
            (a, b), (c, d) = (np.broadcast_to(v, shape)[:, ::-1].tolist() for v in unit[:2])
            gamma, kappa = float(g.second_moment), float(g.covariance)
            behind = []
            for one, other, pair_one, pair_other in zip(a, b, c, d, strict=True):
                behind.append((gamma, kappa))
                gamma, kappa = gamma * one + kappa * other, gamma * pair_one + kappa * pair_other
            pull_blocks(Signal(*np.array(behind[::-1]).T))
            return Signal(gamma, kappa)

        return last, pull


_FEW_BLOCKS = 2
"""So few blocks are walked one by one."""


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

    @property
    def causal(self) -> bool:
        """Whether tokens attend only to what comes before them."""
        branches = (repeat.block.attention.branch for repeat in self.repeats)
        return any(isinstance(branch, Attention) and branch.causal for branch in branches)

    def blocks(self) -> Iterator[Block]:
        """Every block from the first to the last."""
        for repeat in self.repeats:
            yield from (repeat.block for _ in range(repeat.times))

    def children(self) -> tuple[Child, ...]:
        parts = [Child("position", self.position)] if self.position is not None else []
        parts += [Child(name, block, copies, copies) for name, block, copies in self._distinct]
        if self.norm is not None:
            parts.append(Child("norm", self.norm))
        return tuple(parts)

    @cached_property
    def _distinct(self) -> tuple[tuple[str, Block, int], ...]:
        """Each kind of block once, however its copies are scattered: where they stand, the block, how many there are.

        A site names its blocks as they are counted in the model: block.0-95, block.7, or block.0,2,..,24.
        """
        if len(self.repeats) == 1:  # nearly every model; spares comparing blocks
            only = self.repeats[0]
            return ((f"block.{_span(0, only.times)}", only.block, only.times),)
        runs: dict[Block, list[tuple[int, int]]] = {}
        first = 0
        for repeat in self.repeats:
            runs.setdefault(repeat.block, []).append((first, repeat.times))
            first += repeat.times
        found = []
        for block, places in runs.items():
            names = [_span(*place) for place in places]
            where = ",".join(names) if len(names) < 4 else f"{names[0]},{names[1]},..,{names[-1]}"
            found.append((f"block.{where}", block, sum(times for _, times in places)))
        return tuple(found)

    def moments(self, x: AnySignal, place: Place) -> tuple[Any, Pullback]:
        walk, inside = place.walk, place.at("block")
        entrance = place.at("input")
        entrance.forward(x)
        pulls: list[Pullback] = [entrance.traced(lambda g: g)]
        first = 0
        for repeat in self.repeats:
            walk.layer = first
            x, pull_blocks = repeat.moments(x, inside)
            pulls.append(pull_blocks)
            first += repeat.times
        walk.layer = None
        if self.norm is not None:
            x, pull_norm = self.norm.moments(x, place.at("norm"))
            pulls.append(pull_norm)
        place.forward(x)

        def pull(g: AnySignal) -> AnySignal:
            for pull_part in reversed(pulls):
                g = pull_part(g)
            return g

        return x, place.traced(pull)

    def recomputed_bytes(self, run: Run) -> int:
        """Bytes kept for the backward pass when only block inputs are stored and each block is computed again.

        While the backward pass is in a block, everything that block keeps exists as well; the largest block counts.
        """
        inputs = self.depth * run.positions * self.width * run.value_bytes
        working = max(block.saved_bytes(run) for _, block, _ in self._distinct)
        around = sum(c.layer.saved_bytes(run) for c in self.children() if not isinstance(c.layer, Block))
        return inputs + working + around


# ---- the stream in front of each block ----


def block_inputs(block: Block, x: Signal, place: Place, layers: range) -> Signal:
    """The residual stream in front of each of these equal blocks, as arrays, given that in front of the first.

    Where every branch reads a normalised stream and no number differs between the blocks, a branch's output depends on one
    number, the correlation of two tokens. It is tabulated, and a block then costs microseconds. Otherwise each is walked.
    """
    walk = place.walk
    states: list[tuple[float, ...]] = []
    steps = None
    with walk.silence():
        for walk.layer in layers:
            if steps is None and _normal(block, x, started=walk.layer > layers.start):
                steps = [] if walk.recipe.varies(place.role) else _steps(block, x, place)
            if steps:
                states += _fast_states(steps, block.parallel, x, layers.stop - walk.layer)
                break
            states.append(_state(x))
            x, _ = block.moments(x, place)
    import numpy as np

    columns = np.array(states).T
    return Signal(columns[0], columns[1], Spread(*columns[2:]) if x.spread else None)


def _state(x: Signal) -> tuple[float, ...]:
    return (x.second_moment, x.covariance, *(x.spread or ()))


_SMALL_EPS = 2e-5


def _normal(block: Block, x: Signal, *, started: bool) -> bool:
    """Whether all branches read what a norm has brought to one size; a post-norm stack's first block reads what none has."""
    if x.covariance < 0:
        return False
    for _, part in block.branches:
        norm = (block.norm if block.parallel else None) or part.norm_in or part.norm_stream
        if norm is None or norm.eps > _SMALL_EPS * x.second_moment:
            return False
        if not (started or block.norm or part.norm_in):
            return False
    return True


class _Step(NamedTuple):
    """A branch as its table: output moments over the angle whose cosine is the correlation of what it reads."""

    table: Table
    skip: float
    reads_norm: bool
    norm_behind: float | None
    """Second moment that a post-norm leaves"""
    omega: float
    width: int


def _steps(block: Block, x: Signal, place: Place) -> list[_Step]:
    """Each branch's table, at the stream's size."""
    import numpy as np

    size = x.second_moment

    def outputs(part: Residual, at: Place, omegas: list[Any], angles: Any) -> Any:
        y = Signal(np.full(angles.shape, size), size * np.cos(angles))
        if block.parallel and block.norm is not None:
            y, _ = block.norm.moments(y, place.at("norm"))
        f, _, shape = part.branch_moments(y, at)
        omegas.append(shape.omega)
        scale = at.scales()[1] ** 2
        return np.stack([np.broadcast_to(v * scale, angles.shape) for v in f[:2]], axis=-1)

    steps = []
    for name, part in block.branches:
        at, omegas = place.at(name), list[Any]()
        table = Table(functools.partial(outputs, part, at, omegas), 0.0, math.pi / 2)
        behind = None
        if part.norm_stream is not None:
            y, _ = part.norm_stream.moments(Signal(size, size), at.at("norm_stream"))
            behind = y.second_moment
        reads = part.norm_in is not None or block.norm is not None
        skip = 1.0 if block.parallel else at.scales()[0]
        steps.append(_Step(table, skip, reads, behind, float(np.max(omegas[0])), part.width))
    return steps


def _fast_states(steps: list[_Step], parallel: bool, x: Signal, times: int) -> list[tuple[float, ...]]:
    """The stream in front of each of `times` blocks, from the branches' tables."""
    spread = x.spread is not None
    q, c, v, w, u = (*_state(x), 0.0, 0.0, 0.0)[:5]
    states: list[tuple[float, ...]] = []
    for _ in range(times):
        states.append((q, c, v, w, u) if spread else (q, c))
        front = 0.0
        for k, (table, skip, reads_norm, behind, omega, width) in enumerate(steps):
            if k == 0 or not parallel:
                front = c / q
                if reads_norm and spread and c:
                    front *= 1 - u / (c * q) + (0.75 * v + 0.25 * w) / (q * q)
                front = math.acos(min(1.0, max(0.0, front)))
            a, pair = table(front)
            if skip != 1.0:
                square = skip * skip
                q, c, v, w, u = square * q, square * c, square * square * v, square * square * w, square * square * u
            if spread:
                v += a * (4 * q + omega * a) / width
                w += pair * (4 * c + omega * pair) / width
                u += (2 * (q * pair + c * a) + omega * a * pair) / width
            q, c = q + a, c + pair
            if behind is not None:
                if spread and c:
                    c *= 1 - u / (c * q) + (0.75 * v + 0.25 * w) / (q * q)
                q, c, v, w, u = behind, behind * c / q, 0.0, 0.0, 0.0
    return states


def _span(start: int, times: int) -> str:
    return f"{start}" if times == 1 else f"{start}-{start + times - 1}"
