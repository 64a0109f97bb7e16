"""The feed-forward part of a block: plain or gated, dense or a mixture of experts."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from ..errors import InputError
from ..formula import is_symbolic
from ..interpolation import Table, TableFamily
from ..signal import AnySignal, Number, Place, Pullback, TokenSignal, common
from .base import Child, Layer, Run, check_choice, check_fraction, check_whole, component
from .linear import Linear

ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "relu2", "tanh", "sigmoid", "identity")


@component
class FeedForward(Layer):
    """Two maps with an activation between, ``down(f(up(x)))``, or three with a gate, ``down(f(gate(x)) * up(x))``.

    Gated: Shazeer 2020, arXiv 2002.05202 (GEGLU with gelu, SwiGLU with silu, ReGLU with relu).
    """

    width: int
    hidden: int
    activation: str = "gelu"
    gated: bool = False
    bias: bool = True
    dropout: float = 0.0
    """Dropout rate on the hidden features."""

    def __post_init__(self) -> None:
        check_whole("FeedForward", width=self.width, hidden=self.hidden)
        check_choice("FeedForward", ACTIVATIONS, activation=self.activation)
        check_fraction("FeedForward", dropout=self.dropout)

    @property
    def gate(self) -> Linear | None:
        """The map whose activation gates the other, where there is one."""
        return Linear(self.width, self.hidden, self.bias) if self.gated else None

    @property
    def up(self) -> Linear:
        """The map into the hidden features."""
        return Linear(self.width, self.hidden, self.bias)

    @property
    def down(self) -> Linear:
        """The map back to the residual stream."""
        return Linear(self.hidden, self.width, self.bias)

    def children(self) -> tuple[Child, ...]:
        parts = (("gate", self.gate), ("up", self.up), ("down", self.down))
        return tuple(Child(name, layer) for name, layer in parts if layer is not None)

    def moments(self, x: AnySignal, place: Place) -> tuple[Any, Pullback]:
        rate = self.dropout if place.walk.dropout else 0.0
        up, pull_up = self.up.moments(x, place.at("up"))
        gate, pull_gate = up, pull_up
        if self.gate is not None:
            gate, pull_gate = self.gate.moments(x, place.at("gate"))
        known = hidden_moments(self.activation, gate, up if self.gated else None)
        inner = place.at("activation")
        hidden = inner.forward(x.of(known.second_moment / (1 - rate), known.pair), known.mean)
        y, pull_down = self.down.moments(hidden, place.at("down"))

        def pull(g: AnySignal) -> AnySignal:
            g = g.times(1 / (1 - rate), 1.0)
            front = pull_gate(g.times(known.gate_gradient, known.gate_gradient_pair))
            if self.gated:
                front = front.plus(pull_up(g.times(known.linear_gradient, known.linear_gradient_pair)))
            return front

        pull_inner = inner.traced(pull)
        return y, lambda g: pull_inner(pull_down(g))

    def matrix_spread(self, x: AnySignal, place: Place) -> Number:
        """How strongly the size of this branch's output varies between draws: omega of the finite-width recursion.

        It depends on the kurtosis of the hidden features, E f^4 / (E f^2)^2, 6 for ReLU.
        """
        into = self.gate or self.up
        at = place.at("gate" if self.gated else "up")
        variance = self.width * at.variance("weight") * x.averages[0] + (at.variance("bias") if into.bias else 0.0)
        kurtosis = activation_tables(self.activation)(variance, 0.0)[5]
        if self.gated:
            kurtosis = 3 * kurtosis  # of the Gaussian linear part
        return 2 + (kurtosis - 1) * self.width / self.hidden

    def own_saved(self, run: Run) -> int:
        # The input; before and after the activation; with a gate also the other factor and the product.
        values = self.width + self.hidden * (4 if self.gated else 2)
        mask = self.hidden if self.dropout else 0
        return run.positions * (values * run.value_bytes + mask)


class HiddenMoments(NamedTuple):
    """What an activation, or a gated pair, does to the moments of the hidden features: forward, and as factors on a gradient.

    Without `pair`, of one token (each), with it, of two different tokens.
    """

    second_moment: Number
    pair: Number
    gate_gradient: Number
    gate_gradient_pair: Number
    mean: Number
    linear_gradient: Number = 0.0
    linear_gradient_pair: Number = 0.0


def hidden_moments(name: str, gate: AnySignal, linear: AnySignal | None) -> HiddenMoments:
    """The moments behind the activation `name` of a signal, times an independent `linear` one where the unit is gated."""
    each = gate.second_moment
    if isinstance(gate, TokenSignal) and common(each) is None:
        from ..activations import activation

        f, first, rho = activation(name), gate.first_second_moment, gate.correlation
        second, slope, mean = f.second_moment(each), f.derivative_second_moment(each), f.mean(each)
        pair = f.pair_moment(first, rho, other_variance=first.T)
        slope_pair = f.derivative_pair_moment(first, rho, other_variance=first.T)
    else:
        if isinstance(gate, TokenSignal):
            each = float(each[0])
        second, slope, mean, pair, slope_pair, _ = activation_tables(name)(each, _angle(gate.correlation))
        if isinstance(gate, TokenSignal):
            second, slope, mean = second[0], slope[0], mean[0]  # the same in every column
            second, slope = second + 0.0 * gate.second_moment, slope + 0.0 * gate.second_moment
    if linear is None:
        return HiddenMoments(second, pair, slope, slope_pair, mean)
    v, c = linear.second_moment, linear.covariance
    return HiddenMoments(second * v, pair * c, slope * v, slope_pair * c, 0.0, second, pair)


def _angle(correlation: Number) -> Number:
    if isinstance(correlation, float):
        return math.acos(min(1.0, max(-1.0, correlation)))
    import numpy as np

    return np.arccos(np.clip(correlation, -1.0, 1.0))


@functools.lru_cache(maxsize=64)
def activation_tables(name: str) -> TableFamily:
    """Gaussian moments of an activation over its input's variance and the angle whose cosine is the correlation of two inputs.

    Columns: E f^2, E f'^2, E f, E f(x) f(y), E f'(x) f'(y), and the kurtosis E f^4 / (E f^2)^2 to a per cent even at a kink. Over the angle the moments are smooth even where they have a square-root branch in the correlation.
    """
    from ..activations import activation

    f = activation(name)

    def columns(variance: float, angles: Any) -> Any:
        import numpy as np

        rho = np.cos(angles)
        single = f.second_moment(variance), f.derivative_second_moment(variance), f.mean(variance)
        both = f.pair_moment(variance, rho), f.derivative_pair_moment(variance, rho)
        x = np.arange(-9.0, 9.0, 0.0625)
        weights, squares = np.exp(-x * x / 2), f(x * math.sqrt(variance)) ** 2
        kurtosis = (weights @ squares**2) * weights.sum() / (weights @ squares) ** 2
        return np.stack([np.broadcast_to(column, rho.shape) for column in (*single, *both, kurtosis)], axis=-1)

    return TableFamily(lambda variance: Table(functools.partial(columns, variance), 0.0, math.pi), _VARIANCE_STEP)


_VARIANCE_STEP = 0.05
"""Of the logarithm of a variance: the tables between are right to 1e-5."""


@component
class MixtureOfExperts(Layer):
    """`experts` equal feed-forward parts of which a router picks `top_k` for each token (arXiv 1701.06538, 2401.04088).

    A `shared` part, where there is one, serves every token; with `shared_gate` a learnt factor for each token scales it
    (Qwen2-MoE, arXiv 2407.10671).
    """

    expert: FeedForward
    experts: int
    top_k: int
    shared: FeedForward | None = None
    shared_gate: bool = False

    def __post_init__(self) -> None:
        check_whole("MixtureOfExperts", experts=self.experts, top_k=self.top_k)
        if not is_symbolic(self.experts, self.top_k) and self.top_k > self.experts:
            raise InputError(f"MixtureOfExperts: top_k={self.top_k} is more than experts={self.experts}")
        if self.shared_gate and self.shared is None:
            raise InputError("MixtureOfExperts: shared_gate needs a shared part to scale")

    @property
    def router(self) -> Linear:
        """The map that scores the experts for a token."""
        return Linear(self.expert.width, self.experts, bias=False)

    def matrix_spread(self, x: AnySignal, place: Place) -> float:
        """Not known; the branch's moments are refused before it is asked for."""
        raise NotImplementedError

    def children(self) -> tuple[Child, ...]:
        parts = (Child("router", self.router), Child("expert", self.expert, copies=self.experts, active=self.top_k))
        if self.shared is None:
            return parts
        gate = (Child("shared_gate", Linear(self.expert.width, 1, bias=False)),) if self.shared_gate else ()
        return (*parts, *gate, Child("shared", self.shared))

    def own_saved(self, run: Run) -> int:
        return run.positions * self.experts * run.value_bytes  # the router's scores
