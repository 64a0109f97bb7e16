"""The feed-forward part of a block, plain or gated."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .. import layers
from ..checks import check_fraction, check_whole
from ..errors import InputError
from ..formulas.moments import dropout_second_moment, linear_second_moment
from ..values import cached_property
from .activation_entries import check_activation, keeps_input, trained_numbers
from .base import Branch, Child, Run, component, share
from .linear import Linear
from .norms import Norm

if TYPE_CHECKING:
    from ..numerics.homogeneity import Place, Powers
    from ..signal import AnySignal, DrawSpread, NormedOutput, Number, Pullback, Site
    from .interfaces import FeedForwardLike


@component
class FeedForward(Branch):
    """Two linear maps with an activation between them, ``down(f(up(x)))``, or three with a gate, ``down(f(gate(x)) * up(x))``.

    Gated: Shazeer 2020, arXiv 2002.05202 (GEGLU with gelu, SwiGLU with silu, ReGLU with relu).
    """

    width: int
    hidden: int
    activation: str = "gelu"
    gated: bool = False
    bias: bool = True
    dropout: float = 0.0
    """Dropout rate on the hidden features."""
    up_activation: str = "identity"
    """Of a gated part: the activation of the factor that the gate scales (gpt-oss)."""
    inner_norm: Norm | None = None
    """A norm of the hidden features before the last map (BitNet)."""

    def __post_init__(self) -> None:
        check_whole("FeedForward", width=self.width, hidden=self.hidden)
        check_activation("FeedForward", self.activation, trained=True)
        check_activation("FeedForward", self.up_activation)
        check_fraction("FeedForward", dropout=self.dropout)
        if self.up_activation != "identity" and not self.gated:
            raise InputError("FeedForward: up_activation needs gated=True; without a gate there is one activation")

    @cached_property
    def gate(self) -> Linear | None:
        """The map whose activation gates the other; None without a gate."""
        return Linear(self.width, self.hidden, self.bias) if self.gated else None

    @cached_property
    def up(self) -> Linear:
        """The map into the hidden features."""
        return Linear(self.width, self.hidden, self.bias)

    @cached_property
    def down(self) -> Linear:
        """The map back to the residual stream."""
        return Linear(self.hidden, self.width, self.bias)

    def children(self) -> tuple[Child, ...]:
        gate = () if self.gate is None else (Child("gate", self.gate, kind="gate"),)
        own = (Child("activation", layers.TrainedActivation(self.activation)),) if trained_numbers(self.activation) else ()
        norm = () if self.inner_norm is None else (Child("inner_norm", self.inner_norm),)
        reads = self.activation if self.inner_norm is None else ""
        return (*gate, Child("up", self.up, kind="up"), *own, *norm, Child("down", self.down, kind="down", reads=reads))

    @property
    def as_feed_forward(self) -> FeedForwardLike:
        return self

    def choices(self) -> dict[str, Any]:
        return {
            "ffn": self.hidden,
            "activation": self.activation,
            "gated": self.gated,
            # A design's `bias` is the default of every part; attention states its own.
            "bias": self.bias,
            "ffn_bias": self.bias,
            "ffn_dropout": self.dropout,
            "up_activation": self.up_activation,
            "inner_norm": self.inner_norm is not None,
        }

    pulls_several = True

    @property
    def normed_inside(self) -> bool:
        """True if a norm fixes the size of the hidden features."""
        return self.inner_norm is not None

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        from .feed_forward_moments import activation_tables, hidden_moments

        rate = self.dropout if site.trace.dropout else 0.0
        up, pull_up = self.up.moments(x, site.at("up"))
        gate, pull_gate = up, pull_up
        if self.gate is not None:
            gate, pull_gate = self.gate.moments(x, site.at("gate"))
        width = self.width if site.trace.finite_width else math.inf
        tables, other = activation_tables(self.activation, site.trace), None
        if self.up_activation != "identity":
            other = self.up_activation, activation_tables(self.up_activation, site.trace)
        features = hidden_moments(self.activation, gate, up if self.gated else None, width, tables, other)
        inner = site.at("activation")
        hidden = inner.record(x.of(dropout_second_moment.body(features.second_moment, rate), features.pair), features.mean)
        pull_norm: Pullback | None = None
        if self.inner_norm is not None:
            hidden, pull_norm = self.inner_norm.moments(hidden, site.at("inner_norm"))
        y, pull_down = self.down.moments(hidden, site.at("down"))

        def pull(g: AnySignal) -> AnySignal:
            g = g.after_dropout(rate) if rate else g
            input_gradient = pull_gate(g.times(features.gate_gradient, features.gate_gradient_pair))
            if self.gated:
                input_gradient = input_gradient.plus(pull_up(g.times(features.linear_gradient, features.linear_gradient_pair)))
            return input_gradient

        pull_inner = inner.record_gradient(pull)
        if pull_norm is None:
            return y, lambda g: pull_inner(pull_down(g))
        return y, lambda g: pull_inner(pull_norm(pull_down(g)))

    def degree(self, x: Powers, at: Place) -> Powers:
        from .activations import activated_degree

        hidden = at.at("up").through(self.up, x)
        if self.gate is not None:
            hidden = activated_degree(self.up_activation, hidden, at)
            hidden = at.apply("product", hidden, activated_degree(self.activation, at.at("gate").through(self.gate, x), at))
        else:
            hidden = activated_degree(self.activation, hidden, at)
        if self.inner_norm is not None:
            hidden = at.at("inner_norm").through(self.inner_norm, hidden)
        return at.at("down").through(self.down, hidden)

    def draw_spread(self, x: AnySignal, site: Site) -> DrawSpread:
        """The spread that follows from the kurtoses of the hidden features and of their derivative.

        Example: ReLU, with kurtoses 6 and 2, and a hidden width of four times the width give 3.25 and 2.5.
        """
        from .feed_forward_moments import LINEAR, Unit, activation_tables, hidden_spread

        first = self.gate or self.up
        variance = self._input_variance(first, x, site.at("gate" if self.gated else "up"))
        unit, other = Unit.of(activation_tables(self.activation, site.trace), variance), None
        if self.gated and self.up_activation != "identity":
            variance = self._input_variance(self.up, x, site.at("up"))
            other = Unit.of(activation_tables(self.up_activation, site.trace), variance)
        draw = hidden_spread(x, self.hidden / self.width, unit, (other or LINEAR) if self.gated else None)
        return draw.normed_inside() if self.inner_norm is not None else draw

    def through_norm(self, x: AnySignal, site: Site, *, normed: bool) -> NormedOutput | None:
        """That of hidden features without a norm of their own, one factor of which is linear if there are two."""
        if self.inner_norm is not None or (self.gated and self.up_activation != "identity"):
            return None
        from .normed_feed_forward import normed_output

        variance = self._input_variance(self.gate or self.up, x, site.at("gate" if self.gated else "up"))
        return normed_output(x, self.activation, variance, self.hidden, self.width, site.trace, gated=self.gated, normed=normed)

    def _input_variance(self, first: Linear, x: AnySignal, site: Site) -> Number:
        """Variance of the output of one of the first maps, averaged over tokens."""
        variance = linear_second_moment.body(x.averages[0], self.width, site.variance("weight"))
        return variance + (site.variance("bias") if first.bias else 0.0)

    def own_saved(self, run: Run) -> int:
        # The input; the activation's input if its derivative needs it; its output, or dropout's copy of it; with a gate the
        # activation's output, the other factor, and their product.
        copied = bool(self.dropout) and not self.gated
        second = self.up_activation != "identity" and keeps_input(self.up_activation)
        values = self.width + self.hidden * ((3 if self.gated else 1) + (keeps_input(self.activation) or copied) + second)
        mask = self.hidden if self.dropout else 0
        return run.positions * (values * run.value_bytes + mask)

    def own_stream(self, run: Run) -> int:
        return run.positions * self.width * run.value_bytes

    def sharded(self, devices: int) -> Any:
        norm = self.inner_norm
        hidden = share(type(self).__name__, devices, hidden=self.hidden)
        return self.replace(hidden=hidden, inner_norm=norm and norm.sharded_with(devices))
