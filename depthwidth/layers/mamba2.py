"""Mamba 2: a state space with one decay for each head."""

from __future__ import annotations

from typing import Any, ClassVar

from ..checks import check_whole
from ..errors import InputError
from ..formula import is_symbolic
from ..numerics.homogeneity import Place, Powers
from .activation_entries import check_activation
from .base import Child, Run, component
from .convolution import Convolution
from .linear import Linear
from .mixer import Mixer
from .norms import RMSNorm
from .tensor import ONES, Special, Tensor


@component
class Mamba2(Mixer):
    """`heads` states of `head_dim` by `state` numbers, each with one decay (Dao & Gu 2024, arXiv 2405.21060).

    Heads of a group share their vectors B and C, `key` and `query`. With y the output of the recurrence (:class:`Mamba`), that
    of the mixer is ``write(norm(y * silu(gate(x))))``, or without `normed` ``write(y * silu(gate(x)))``.
    """

    width: int
    heads: int
    head_dim: int
    state: int
    groups: int = 1
    kernel: int = 4
    activation: str = "silu"
    bias: bool = False
    """True if the maps from the stream have biases."""
    out_bias: bool = False
    kernel_bias: bool = True
    normed: bool = True
    eps: float = 1e-5

    proportional: ClassVar = ("heads",)

    def __post_init__(self) -> None:
        sizes = {"width": self.width, "heads": self.heads, "head_dim": self.head_dim, "state": self.state}
        check_whole("Mamba2", **sizes, groups=self.groups, kernel=self.kernel)
        check_activation("Mamba2", self.activation)
        if not is_symbolic(self.heads, self.groups) and self.heads % self.groups:
            raise InputError(f"Mamba2: groups={self.groups} does not divide heads={self.heads}")

    @property
    def width_step(self) -> int:
        return super().width_step * self.groups  # so that groups divide the heads

    def at_width(self, width: int) -> Any:
        heads = self.groups * max(1, round(self.heads * width / (self.width * self.groups)))
        return self.replace(width=width, heads=heads)

    @property
    def inner(self) -> int:
        """Features of all heads."""
        return self.heads * self.head_dim

    @property
    def channels(self) -> int:
        """Features that the convolution mixes: those of all heads, and B and C of each group."""
        return self.inner + 2 * self.groups * self.state

    def tensors(self) -> dict[str, Tensor]:
        return {
            "log_decay": Tensor((self.heads,), "vector", start=Special("the logarithms of 1, 2, ..")),
            "step_bias": Tensor((self.heads,), "bias", start=Special("steps of random logarithm, before softplus")),
            "direct": Tensor((self.heads,), "vector", start=ONES),
        }

    def children(self) -> tuple[Child, ...]:
        shared = Linear(self.width, self.groups * self.state, self.bias)
        norm = RMSNorm(self.inner // self.groups, self.groups, eps=self.eps, separate=True)
        return (
            Child("gate", Linear(self.width, self.inner, self.bias), kind="gate"),
            Child("read", Linear(self.width, self.inner, self.bias), kind="read"),
            Child("key", shared, kind="key"),
            Child("query", shared, kind="query"),
            Child("step", Linear(self.width, self.heads, self.bias)),
            Child("convolution", Convolution(self.channels, self.kernel, self.kernel_bias)),
            *((Child("norm", norm),) if self.normed else ()),
            Child("write", Linear(self.inner, self.width, self.out_bias), kind="write"),
        )

    def degree(self, x: Powers, at: Place) -> Powers:
        """Steps, decays and the gate are functions that are not homogeneous; the state is linear in the features."""
        from .activations import activated_degree

        part = self.degrees_of_parts(at)
        u, key, query = (
            activated_degree(self.activation, part("convolution", part(name, x)), at) for name in ("read", "key", "query")
        )
        y = self.degree_of_state(at, part("step", x), u, key, query, part("gate", x))
        return part("write", part("norm", y) if self.normed else y)

    def own_flops(self, run: Run) -> int:
        return 4 * run.positions * self.inner * self.state

    def own_saved(self, run: Run) -> int:
        # The input; input and output of the activation after the convolution; the steps; the gate, the scan's output, and the
        # input of the last map. The scan computes its states again.
        values = self.width + 2 * self.channels + self.heads + 3 * self.inner
        states = 0 if run.fused else self.inner * self.state
        return run.positions * (values + states) * run.value_bytes

    def own_cache(self, run: Run) -> int:
        return run.batch * self.inner * self.state
