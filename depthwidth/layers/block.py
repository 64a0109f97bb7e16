"""Residual branches with their norms, and blocks of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from .. import signal
from ..checks import check_fraction
from ..errors import InputError
from ..values import cached_property, once
from .base import Branch, Child, Layer, Run, check_branch, component
from .norms import Norm
from .streams import Streams
from .tensor import Constant, Tensor

if TYPE_CHECKING:
    from ..numerics.homogeneity import Place, Powers
    from ..signal import AnySignal, DrawSpread, Number, Pullback, Scales, Site
    from .interfaces import AttentionLike, FeedForwardLike, MixtureLike

PLACEMENTS = {
    "pre": ("norm_in",),
    "post": ("norm_stream",),
    "sandwich": ("norm_in", "norm_out"),
    "output": ("norm_out",),
    "none": (),
}
"""The placements of norms by name, each with the norms that a residual then has."""


@component
class Residual(Layer):
    """``norm_stream(x + dropout(norm_out(branch(norm_in(x)))))``, without the norms that are None.

    Pre-norm has `norm_in`, post-norm `norm_stream`, sandwich-norm `norm_in` and `norm_out`; OLMo 2 has `norm_out` alone.
    """

    branch: Branch
    norm_in: Norm | None = None
    norm_out: Norm | None = None
    norm_stream: Norm | None = None
    dropout: float = 0.0
    scale: float = 1.0
    """A fixed factor on what is added (Granite). A scheme that sets residual scales replaces it."""
    layer_scale: float | None = None
    """The start of trained factors on what is added, one for each feature (Touvron et al. 2021, arXiv 2103.17239); None for
    none. They start at 1 under a scheme that sets residual scales."""

    def __post_init__(self) -> None:
        check_branch("Residual", self.branch)
        check_fraction("Residual", dropout=self.dropout)

    def tensors(self) -> dict[str, Tensor]:
        if self.layer_scale is None:
            return {}
        return {"layer_scale": Tensor((self.width,), "layer_scale", start=Constant(self.layer_scale))}

    def children(self) -> tuple[Child, ...]:
        parts = (("norm_in", self.norm_in), ("", self.branch), ("norm_out", self.norm_out), ("norm_stream", self.norm_stream))
        return tuple(Child(name, layer) for name, layer in parts if layer is not None)

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        skip, scale = site.scales()
        f, pull_branch, draw = self.branch_moments(x, site)
        added, draw = signal.scaled(f, scale**2), draw.scaled(scale**2)
        y = summed = signal.add_branch(x, added, draw.omega, self.width, skip, draw)
        pull_norm: Pullback | None = None

        @once  # the recursion along the depth needs no gradient
        def drift() -> signal.PostNormDrift:
            return signal.post_norm_drift(x.times(skip**2), added, draw, self.width) if x.spread else signal.PostNormDrift()

        if self.norm_stream is not None:
            y, pull_norm = self.norm_stream.moments(y, site.at("norm_stream"))
            y = y.spread_as(summed.spread and summed.spread.after_norm(summed, y))
        site.record(signal.finite(y, site.role))

        pull_scaled = _scaled(pull_branch, scale)
        norm = self.norm_stream
        if pull_norm is None or norm is None:
            if self.norm_out is not None and x.spread:
                pull_scaled = signal.pull_past_norms(pull_scaled, y, added, self.width)
            paths = [(pull_scaled, draw.whole is not None)]
            options = {
                "normed": self.normed,
                "several": self.branch.pulls_several,
                "with_stream": draw.with_stream,
            }
            return y, site.record_gradient(signal.residual_pullback(self.read(x), paths, skip, site.trace, **options))

        layer, length, last = site.trace.layer, site.trace.length, site.trace.ends_at(site.role)
        pull_stream = _pull_stream_norm(norm, summed, pull_norm, last)

        def pull_parts(g: AnySignal) -> tuple[AnySignal, AnySignal]:
            g = drift().at_norm(pull_stream(g))
            return g, drift().path(g, pull_scaled)

        def pull(g: AnySignal) -> AnySignal:
            kept, through = pull_parts(g)
            if x.spread and layer is not None and not site.trace.silent:
                with site.trace.silence():
                    units = [signal.add_gradient(*pull_parts(unit), skip).averages for unit in signal.unit_gradients(g)]
                stream, back = (summed, added), (g, kept.times(skip**2), through)
                step = signal.gradient_step(stream, back, units, draw, self.width, length, last)
                site.trace.record_gradient_step(site.role, layer, step)
            return signal.add_gradient(kept, through, skip)

        return y, site.record_gradient(pull)

    def degree(self, x: Powers, at: Place) -> Powers:
        y = at.apply("sum", x, self.branch_degree(x, at), reason="a branch is added to a stream of another degree")
        return y if self.norm_stream is None else at.at("norm_stream").through(self.norm_stream, y)

    def branch_degree(self, x: Powers, at: Place) -> Powers:
        """The powers of the branch's output in the stream."""
        for name, part in (("norm_in", self.norm_in), ("", self.branch), ("norm_out", self.norm_out)):
            x = x if part is None else at.at(name).through(part, x)
        return x if self.layer_scale is None else at.apply("linear", x, own=at.weight("layer_scale"))

    def branch_moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback, DrawSpread]:
        """The branch with its norms and dropout, without the sum: output, pullback, and variation between draws."""
        rate = self.dropout if site.trace.dropout else 0.0
        pulls: list[Pullback] = []
        x = self.read(x)
        draw, read, through = signal.DrawSpread(0.0, 0.0), x, None
        mixed: signal.MixedTokens | None = None
        together: Number = 0.0
        for name, part in (("norm_in", self.norm_in), ("", self.branch), ("norm_out", self.norm_out)):
            if part is None:
                continue
            if name == "":
                draw = self.branch.draw_spread(x, site)
                if self.norm_out is not None and site.trace.finite_width:
                    through = self.branch.through_norm(x, site, normed=self.norm_in is not None)
                    if self.norm_in is not None:
                        read, mixed = signal.normed_input(read, x, draw, self.mixed_length(site))
            elif name == "norm_out" and self.norm_out and site.trace.finite_width:  # both norms may be one object
                x = x.spread_as(signal.branch_spread(x, draw, self.width, read))
                pulls.append(signal.pull_branch_norm(draw, x, self.width, self.norm_out.centred, through))
                together, pull_together = signal.pull_mixed_norms(draw, mixed, x, read, self.width)
                pulls.append(pull_together)
            x, pull_part = part.moments(x, site.at(name))
            pulls.append(pull_part)
            if name == "" and self.norm_in is not None:
                draw = draw.of_normed_input(x.averages[0])
            elif name == "norm_out":
                draw = draw.normed(x.averages[0])._replace(with_stream=together)

        def pull(g: AnySignal) -> AnySignal:
            g = g.after_dropout(rate) if rate else g
            for pull_part in reversed(pulls):
                g = pull_part(g)
            return g

        if self.layer_scale is None:
            return x.after_dropout(rate), pull, draw
        factor = site.gain(tensor="layer_scale")  # of equal numbers, which they are at the start
        return x.after_dropout(rate).times(factor), _scaled_by(pull, factor), draw.scaled(factor)

    def read(self, x: AnySignal) -> Any:
        """The part of the stream that its first norm divides, or its branch reads."""
        return x.whole() if self.norm_in is None else self.norm_in.read(x)

    def mixed_length(self, site: Site) -> float:
        """Tokens of a sequence that it mixes alike; infinite under a causal mask, where rows differ."""
        return math.inf if self.branch.causal else site.trace.length

    @property
    def normed(self) -> bool:
        """True if the size of its output does not depend on that of the stream."""
        return self.norm_in is not None or self.norm_out is not None

    @property
    def width(self) -> int:
        """Features of the residual stream."""
        return self.branch.width

    def choices(self) -> dict[str, Any]:
        given = tuple(name for name in ("norm_in", "norm_out", "norm_stream") if getattr(self, name) is not None)
        placement = next((name for name, norms in PLACEMENTS.items() if norms == given), "pre")
        scales = {"residual_scale": self.scale, "layer_scale": self.layer_scale}
        return {"placement": placement, "dropout": self.dropout, **scales}

    @property
    def last(self) -> str:
        """Path, from the residual, of the output that is added to the stream before dropout."""
        return self.branch.last if self.norm_out is None else "norm_out"

    def own_saved(self, run: Run) -> int:
        mask = run.positions * self.width if self.dropout else 0  # one byte each
        # The gradient of trained factors needs the vectors that they multiply.
        return mask + (0 if self.layer_scale is None else run.positions * self.width * run.value_bytes)

    def own_stream(self, run: Run) -> int:
        return self.own_saved(run)


L = TypeVar("L", bound=Layer)


@component
class BlockLike(Layer):
    """A component that a stack repeats: it reads the residual stream, and its output is the next block's input.

    A subclass has `width`, the features of the stream, as a field or a property. All other members have defaults, which find
    the residual branches among its parts at any depth.
    """

    if TYPE_CHECKING:  # a default here would be the default of a dataclass field of this name

        @property
        def width(self) -> int:
            """Features of the residual stream."""

    parallel = False
    """True if all branches read the block's input, and their outputs are added to it together."""
    plain = False
    """True if its moments are those of its branches, in sequence or in parallel, and nothing else acts on the stream. Many
    plain blocks are propagated at once, all others one by one."""
    streams = 1
    """Copies of the residual stream that it keeps. A stack copies the stem's output before the first block, and takes the mean
    of the copies after the last, unless it has :class:`~depthwidth.layers.Streams` of another kind."""

    @property
    def inputs_width(self) -> int | None:
        """Features of the vector from the stem that it reads for each token in addition to the stream; None if it reads none.

        The stem says in :attr:`~depthwidth.layers.Stem.block_inputs` that it makes one.
        """
        return None

    @property
    def norm(self) -> Norm | None:
        """The norm that parallel branches share for their input; None if they share none."""
        return None

    @property
    def own_streams(self) -> Streams | None:
        """The part that makes and joins its streams in a stack that states none; None for equal copies and their mean."""
        return None

    def mixing(self, recipe: Scales, role: str, index: int) -> Sequence[Sequence[float]] | None:
        """The linear map of its streams apart from what branches add, in block `index` of a stack; None if it has none."""
        return None

    @property
    def separates_equal_tokens(self) -> bool:
        """True if it follows equal and different tokens apart, as plain blocks do."""
        return self.plain

    def without_shared_norm(self) -> BlockLike:
        """The same block without the norm that parallel branches share."""
        return self if self.norm is None else self.replace(norm=None)

    @cached_property
    def branches(self) -> tuple[tuple[str, Residual], ...]:
        """The residual branches in the order a signal meets them, each with its path from the block."""
        return tuple(_residuals(self, ""))

    def replace_branches(self, change: Callable[[Residual], Residual]) -> BlockLike:
        """The same block with `change` applied to each of its residual branches."""
        return _with_residuals(self, change)

    @property
    def causal(self) -> bool:
        """True if a branch mixes positions and hides later ones from earlier ones."""
        return any(residual.branch.causal for _, residual in self.branches)

    @property
    def penalises_distance(self) -> bool:
        """True if the attention scores of a branch fall with distance."""
        return any(residual.branch.penalises_distance for _, residual in self.branches)

    @property
    def reads_memory(self) -> bool:
        """True if a branch reads the output of an encoder."""
        return any(layer is not None and layer.cross for layer in (part.branch.as_attention for _, part in self.branches))

    @property
    def as_attention(self) -> AttentionLike | None:
        """The first self-attention among its branches."""
        every = (residual.branch.as_attention for _, residual in self.branches)
        return next((attention for attention in every if attention is not None and not attention.cross), None)

    @property
    def as_feed_forward(self) -> FeedForwardLike | None:
        """The first feed-forward part among its branches."""
        return next((layer for _, part in self.branches if (layer := part.branch.as_feed_forward) is not None), None)

    @property
    def as_mixture(self) -> MixtureLike | None:
        """The first mixture of experts among its branches."""
        return next((layer for _, part in self.branches if (layer := part.branch.as_mixture) is not None), None)


def without_norms(block: BlockLike) -> BlockLike:
    """The block without the norms of its residual branches, shared or not. Norms inside branches stay."""

    def bare(residual: Residual) -> Residual:
        return replace(residual, norm_in=None, norm_out=None, norm_stream=None)

    return block.replace_branches(bare).without_shared_norm()


def _residuals(layer: Layer, path: str) -> Iterator[tuple[str, Residual]]:
    for child in layer.children():
        inner = ".".join(filter(None, (path, child.name)))
        if isinstance(child.layer, Residual):
            yield inner, child.layer
        else:
            yield from _residuals(child.layer, inner)


def _with_residuals(layer: L, change: Callable[[Residual], Residual]) -> L:
    changed: dict[str, Layer] = {}
    for field in fields(layer):
        part = getattr(layer, field.name)
        if isinstance(part, Residual):
            changed[field.name] = change(part)
        elif isinstance(part, Layer):
            changed[field.name] = _with_residuals(part, change)
    return replace(layer, **changed)


@component
class Block(BlockLike):
    """One to four branches: a mixer, attention, cross-attention if a decoder reads an encoder, feed-forward.

    Most models have attention and feed-forward. A `mixer` is any other branch between tokens, such as
    :class:`~depthwidth.layers.Mamba`, usually in place of attention. A block may have a single branch: Mamba's has a mixer and
    no feed-forward part, Nemotron-H's has one of a mixer, attention and feed-forward.

    With `parallel` all branches read the block's input, and their outputs are added together (GPT-J, arXiv 2204.02311). A
    `norm` then normalises that input once for all of them.

    Raises
    ------
    InputError
        if it has no branch, or a shared norm for branches in sequence.

    Examples
    --------
    >>> from depthwidth.layers import FeedForward, RMSNorm
    >>> alone = Block(feed_forward=Residual(FeedForward(64, 256), norm_in=RMSNorm(64)))
    >>> [name for name, _ in alone.branches], alone.width
    (['feed_forward'], 64)
    """

    plain = True
    attention: Residual | None = None
    feed_forward: Residual | None = None
    cross_attention: Residual | None = None
    parallel: bool = False
    norm: Norm | None = None
    mixer: Residual | None = None

    def __post_init__(self) -> None:
        if self.norm is not None and not self.parallel:
            raise InputError("Block: a norm shared by all branches needs parallel=True")
        if not self.branches:
            raise InputError("Block: it has no branch; give it attention, a mixer or a feed-forward part")

    def children(self) -> tuple[Child, ...]:
        parts = ((name, getattr(self, name)) for name in ("norm", "mixer", "attention", "cross_attention", "feed_forward"))
        return tuple(Child(name, layer) for name, layer in parts if layer is not None)

    def choices(self) -> dict[str, Any]:
        shared = self.parallel and self.norm is not None
        mixer = self.mixer.branch if self.mixer is not None else "none" if self.attention is None else "attention"
        # Branches that share a norm have none of their own.
        own = {"placement": "pre"} if shared else self._bare_attention()
        return {"parallel": self.parallel, "shared_norm": shared, "mixer": mixer, **own}

    def _bare_attention(self) -> dict[str, Any]:
        """The choices of attention without the norms that the feed-forward part has."""
        if self.attention is None or self.feed_forward is None:
            return {}
        norms = self.feed_forward.choices()["placement"]
        return {"placement": norms, "attention_norm": False} if self.attention.choices()["placement"] == "none" != norms else {}

    def own_saved(self, run: Run) -> int:
        # Parallel branches read one tensor, which each of them counts.
        return -run.positions * self.width * run.value_bytes * (len(self.branches) - 1) if self.parallel else 0

    def own_stream(self, run: Run) -> int:
        return self.own_saved(run)

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        if self.parallel:
            return self._parallel_moments(x, site)
        pulls: list[Pullback] = []
        for name, branch in self.branches:
            x, pull_branch = branch.moments(x, site.at(name))
            pulls.append(pull_branch)
        site.record(x)

        def pull(g: AnySignal) -> AnySignal:
            for pull_branch in reversed(pulls):
                g = pull_branch(g)
            return g

        return x, site.record_gradient(pull)

    def degree(self, x: Powers, at: Place) -> Powers:
        if not self.parallel:
            for name, branch in self.branches:
                x = at.at(name).through(branch, x)
            return x
        read = x if self.norm is None else at.at("norm").through(self.norm, x)
        for name, branch in self.branches:
            added = branch.branch_degree(read, at.at(name))
            x = at.at(name).apply("sum", x, added, reason="a branch is added to a stream of another degree")
        for name, branch in self.branches:
            if branch.norm_stream is not None:
                x = at.at(name).at("norm_stream").through(branch.norm_stream, x)
        return x

    def _parallel_moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """The moments of parallel branches: they read the same signal with independent weights, so their moments add."""
        y, pull_shared_norm = (x, None) if self.norm is None else self.norm.moments(x, site.at("norm"))
        total, normed = x, self.norm is not None
        paths: list[tuple[Pullback, bool]] = []
        skip, _ = site.at(self.branches[0][0]).scales()  # parallel branches state one skip scale
        for number, (name, branch) in enumerate(self.branches):
            output, pull_branch, draw = branch.branch_moments(y, site.at(name))
            _, scale = site.at(name).scales()
            draw = draw if self.norm is None else draw.of_normed_input(output.averages[0])
            output, draw = output.times(scale**2), draw.scaled(scale**2)
            total = signal.add_branch(total, output, draw.omega, self.width, None if number else skip, draw)
            paths.append((_scaled(pull_branch, scale), draw.whole is not None))
            normed = normed or branch.normed
        post_norm_pulls: list[Pullback] = []
        for name, branch in self.branches:  # the post-norms read the sum, one after the other
            if branch.norm_stream is not None:
                summed = branch.norm_stream.read(total)
                total, pull_norm = branch.norm_stream.moments(summed, site.at(name).at("norm_stream"))
                total = total.spread_as(summed.spread and summed.spread.after_norm(summed, total))
                last = site.trace.ends_at(site.at(name).role)
                post_norm_pulls.append(_pull_stream_norm(branch.norm_stream, summed, pull_norm, last))
        site.record(signal.finite(total, site.role))

        ways = paths if pull_shared_norm is None else [(_together(paths, pull_shared_norm), False)]
        read = self.branches[0][1].read(x) if self.norm is None else self.norm.read(x)
        several = all(branch.branch.pulls_several for _, branch in self.branches)
        pull_sum = signal.residual_pullback(read, ways, skip, site.trace, normed=normed, several=several)

        def pull(g: AnySignal) -> AnySignal:
            for pull_norm in reversed(post_norm_pulls):
                g = pull_norm(g)
            return pull_sum(g)

        return total, site.record_gradient(pull)

    @property
    def width(self) -> int:
        """Features of the residual stream."""
        return self.branches[0][1].width


def _pull_stream_norm(norm: Norm, summed: AnySignal, pull_norm: Pullback, last: Number) -> Pullback:
    return lambda g: signal.pull_post_norm(pull_norm(g), summed, norm.width, norm.centred, last)


def _scaled(pull_branch: Pullback, scale: Number) -> Pullback:
    """The gradient's way back through a branch with this factor on its output."""
    return _scaled_by(pull_branch, scale**2)


def _scaled_by(pull_branch: Pullback, square: Number) -> Pullback:
    return lambda g: pull_branch(signal.scaled(g, square))


def _together(paths: list[tuple[Pullback, bool]], pull_norm: Pullback) -> Pullback:
    """The gradient's way back through several branches and the norm of the input that they share."""

    def pull(g: AnySignal) -> AnySignal:
        total = g.times(0.0)
        for pull_branch, _ in paths:
            total = total.plus(pull_branch(g))
        return pull_norm(total)

    return pull


def check_block(owner: str, block: object) -> None:
    """Refuse an object that a stack cannot repeat.

    Raises
    ------
    InputError
        if it is not a :class:`BlockLike`, or has no width.
    """
    if not isinstance(block, BlockLike):
        raise InputError(f"{owner}: {type(block).__name__} is not a BlockLike, so a stack cannot repeat it")
    if not hasattr(block, "width"):
        raise InputError(f"{owner}: {type(block).__name__} has no width, the features of the residual stream")
