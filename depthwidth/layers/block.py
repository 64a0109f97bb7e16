"""How parts become a network: a residual branch with its norms, a block of branches, a stack of repeated blocks."""

from __future__ import annotations

from typing import Any

from ..checks import check_fraction
from ..errors import InputError
from ..signal import AnySignal, DrawSpread, Number, Place, Pullback, Spread, finite
from ..signal.residual import add_branch, add_gradient, post_norm_drift
from .attention import Attention
from .base import Child, Layer, Run, component
from .feed_forward import FeedForward, MixtureOfExperts
from .norms import Norm


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
        f, pull_branch, draw = self.branch_moments(x, place)
        added = f.times(scale**2)
        y = add_branch(x, added, draw.omega, self.width, skip)
        pull_norm: Pullback | None = None
        drift: Number = 0.0
        if self.norm_stream is not None:
            if x.spread:
                drift, log_variance = post_norm_drift(x.times(skip**2), added, draw, self.width)
                place.walk.write_log_variance(place.role, log_variance)
            y, pull_norm = self.norm_stream.moments(y, place.at("norm_stream"))
            y = y.spread_as(x.spread and Spread.none(y))  # a norm leaves every draw with the same length
        place.forward(finite(y, place.role))

        def pull(g: AnySignal) -> AnySignal:
            if pull_norm is not None:
                g = pull_norm(g).times(1 + drift)
            return add_gradient(g, pull_branch(g.times(scale**2)), skip)

        return y, place.traced(pull)

    def branch_moments(self, x: AnySignal, place: Place) -> tuple[Any, Pullback, DrawSpread]:
        """The branch with the norms on its way and its dropout, without the sum; and how draws of its weights differ."""
        rate = self.dropout if place.walk.dropout else 0.0
        pulls: list[Pullback] = []
        draw = DrawSpread(0.0, 0.0)
        for name, part in (("norm_in", self.norm_in), ("", self.branch), ("norm_out", self.norm_out)):
            if part is None:
                continue
            if part is self.branch:
                draw = self.branch.draw_spread(x, place)
            x, pull_part = part.moments(x, place.at(name))
            pulls.append(pull_part)

        def pull(g: AnySignal) -> AnySignal:
            g = g.after_dropout(rate)
            for pull_part in reversed(pulls):
                g = pull_part(g)
            return g

        return x.after_dropout(rate), pull, draw

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
            f, pull_branch, draw = branch.branch_moments(y, place.at(name))
            _, scale = place.at(name).scales()
            total = add_branch(total, f.times(scale**2), draw.omega, self.width)
            pulls.append((scale, pull_branch))
        behind: list[Pullback] = []
        for name, branch in self.branches:  # the sum is what every branch's post-norm sees, one after the other
            if branch.norm_stream is not None:
                total, pull_norm = branch.norm_stream.moments(total, place.at(name).at("norm_stream"))
                total = total.spread_as(x.spread and Spread.none(total))
                behind.append(pull_norm)
        place.forward(finite(total, place.role))

        def pull(g: AnySignal) -> AnySignal:
            for pull_norm in reversed(behind):
                g = pull_norm(g)
            front = g.times(0.0)
            for scale, pull_branch in pulls:
                front = front.plus(pull_branch(g.times(scale**2)))
            return g.plus(front if shared is None else shared(front))

        return total, place.traced(pull)

    @property
    def width(self) -> int:
        """Features of the residual stream."""
        return self.attention.width
