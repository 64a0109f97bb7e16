"""The feed-forward part of a block: plain or gated, dense or a mixture of experts."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from ..errors import InputError
from ..formula import is_symbolic
from ..interpolation import Table
from ..signal import Place, Pullback, Signal, Walk
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

    def moments(self, x: Signal, place: Place) -> tuple[Signal, Pullback]:
        rate = self.dropout if place.walk.dropout else 0.0
        up, pull_up = self.up.moments(x, place.at("up"))
        gate, pull_gate = up, pull_up
        if self.gate is not None:
            gate, pull_gate = self.gate.moments(x, place.at("gate"))
        known = unit_moments(self, gate.second_moment, up.second_moment, gate.correlation, place)
        place.walk.tables["kurtosis"] = hidden_kurtosis(self, gate.second_moment, place.walk)
        inner = place.at("activation")
        hidden = inner.forward(Signal(known.second_moment / (1 - rate), known.pair), known.mean)
        y, pull_down = self.down.moments(hidden, place.at("down"))

        def pull(g: Signal) -> Signal:
            g = g.times(1 / (1 - rate), 1.0)
            front = pull_gate(g.times(known.gate_gradient, known.gate_gradient_pair))
            if self.gated:
                front = front.plus(pull_up(g.times(known.linear_gradient, known.linear_gradient_pair)))
            return front

        pull_inner = inner.traced(pull)
        return y, lambda g: pull_inner(pull_down(g))

    def matrix_spread(self, walk: Walk) -> float:
        """How strongly the size of this branch's output varies between draws: omega of the finite-width recursion."""
        return float(2 + (walk.tables["kurtosis"] - 1) * self.width / self.hidden)

    def own_saved(self, run: Run) -> int:
        # The input; before and after the activation; with a gate also the other factor and the product.
        values = self.width + self.hidden * (4 if self.gated else 2)
        mask = self.hidden if self.dropout else 0
        return run.positions * (values * run.value_bytes + mask)


def hidden_kurtosis(part: FeedForward, variance: float, walk: Walk) -> float:
    """E f^4 / (E f^2)^2 of the hidden features, on which the spread between draws of the weights depends."""
    key = ("kurtosis", part.activation, part.gated, round(variance, 12))
    found = walk.tables.get(key)
    if found is None:
        import numpy as np

        from ..activations import activation

        # A rule of 256 points is good to a per cent even at a kink, ample for a correction of order 1/width.
        x, weights = np.polynomial.hermite_e.hermegauss(256)
        f = activation(part.activation)(x * math.sqrt(variance))
        weights = weights / weights.sum()
        kurtosis = float(weights @ f**4) / float(weights @ f**2) ** 2
        found = walk.tables[key] = kurtosis * (3.0 if part.gated else 1.0)  # of the Gaussian linear part
    return float(found)


class UnitMoments(NamedTuple):
    """What an activation, or a gated pair, does to the moments of the hidden features."""

    second_moment: float
    pair: float
    gate_gradient: float
    gate_gradient_pair: float
    mean: float
    linear_gradient: float = 0.0
    linear_gradient_pair: float = 0.0


def unit_moments(part: FeedForward, variance: float, linear: float, correlation: float, place: Place) -> UnitMoments:
    """The moments at a correlation, read from a table over correlations that is made once for each pair of variances."""
    key = (part.activation, part.gated, round(variance, 12), round(linear, 12) if part.gated else 0.0)
    table = place.walk.tables.get(key)
    if table is None:
        table = place.walk.tables[key] = Table(functools.partial(_unit_columns, part, variance, linear), 0.0, math.pi)
    # Over the angle the moments are smooth even where they have a square-root branch in the correlation.
    return UnitMoments(*table(math.acos(min(1.0, max(-1.0, correlation)))))


def _unit_columns(part: FeedForward, variance: float, linear: float, angles: Any) -> Any:
    import numpy as np

    from ..activations import activation

    f = activation(part.activation)
    rho = np.cos(angles)
    second, slope = f.second_moment(variance), f.derivative_second_moment(variance)
    pair, slope_pair = f.pair_moment(variance, rho), f.derivative_pair_moment(variance, rho)
    if not part.gated:
        columns = [second, pair, slope, slope_pair, f.mean(variance)]
    else:
        # The linear part is independent of the gate, with mean zero and the same correlation between tokens.
        columns = [second * linear, pair * linear * rho, slope * linear, slope_pair * linear * rho, 0.0, second, pair]
    return np.stack([np.broadcast_to(column, rho.shape) for column in columns], axis=-1)


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

    def matrix_spread(self, walk: Walk) -> float:
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
