"""The feed-forward part of a block: plain or gated, dense or a mixture of experts."""

from __future__ import annotations

from ..errors import InputError
from ..formula import is_symbolic
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

    def own_saved(self, run: Run) -> int:
        # The input; before and after the activation; with a gate also the other factor and the product.
        values = self.width + self.hidden * (4 if self.gated else 2)
        mask = self.hidden if self.dropout else 0
        return run.positions * (values * run.value_bytes + mask)


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

    def children(self) -> tuple[Child, ...]:
        parts = (Child("router", self.router), Child("expert", self.expert, copies=self.experts, active=self.top_k))
        if self.shared is None:
            return parts
        gate = (Child("shared_gate", Linear(self.expert.width, 1, bias=False)),) if self.shared_gate else ()
        return (*parts, *gate, Child("shared", self.shared))

    def own_saved(self, run: Run) -> int:
        return run.positions * self.experts * run.value_bytes  # the router's scores
