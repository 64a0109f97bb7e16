"""Mamba: a selective state space for each feature."""

from __future__ import annotations

from typing import ClassVar

from ..checks import check_whole
from ..numerics.homogeneity import Place, Powers
from .activation_entries import check_activation
from .base import Child, Run, component
from .convolution import Convolution
from .linear import Linear
from .mixer import Mixer
from .norms import Norm
from .tensor import ONES, Special, Tensor


@component
class Mamba(Mixer):
    """A state of `state` numbers for each of `inner` features, with steps that depend on the input (Gu & Dao 2023, 2312.00752).

    ``u = f(convolution(read(x)))``; `select` gives a low-rank step and the vectors B and C of a token; the state follows
    ``h_t = exp(-exp(log_decay) s_t) h_{t-1} + s_t u_t B_t`` with steps ``s = softplus(step(..) + step_bias)``, and the output
    is ``write((h_t C_t + direct u_t) * silu(gate(x)))``.
    """

    width: int
    inner: int
    state: int
    rank: int
    """Rank of the map from the features to their steps."""
    kernel: int = 4
    activation: str = "silu"
    bias: bool = False
    """True if the maps from and to the stream have biases."""
    kernel_bias: bool = True
    norm: Norm | None = None
    """The norm of low-rank steps, B and C, each over its own features; None for no norms. Falcon Mamba's has no weights."""

    proportional: ClassVar = ("inner", "rank")

    def __post_init__(self) -> None:
        sizes = {"width": self.width, "inner": self.inner, "state": self.state, "rank": self.rank}
        check_whole("Mamba", **sizes, kernel=self.kernel)
        check_activation("Mamba", self.activation)

    def tensors(self) -> dict[str, Tensor]:
        return {
            "log_decay": Tensor((self.inner, self.state), "vector", start=Special("the logarithms of 1, 2, ..")),
            "step_bias": Tensor((self.inner,), "bias", start=Special("steps of random logarithm, before softplus")),
            "direct": Tensor((self.inner,), "vector", start=ONES),
        }

    def children(self) -> tuple[Child, ...]:
        inward = Linear(self.width, self.inner, self.bias)
        norms = () if self.norm is None else (
            Child("step_norm", self.norm.replace(width=self.rank)),
            Child("write_norm", self.norm.replace(width=self.state)),
            Child("read_norm", self.norm.replace(width=self.state)),
        )  # fmt: skip
        return (
            Child("read", inward, kind="read"),
            Child("gate", inward, kind="gate"),
            Child("convolution", Convolution(self.inner, self.kernel, self.kernel_bias)),
            Child("select", Linear(self.inner, self.rank + 2 * self.state, bias=False)),
            *norms,
            Child("step", Linear(self.rank, self.inner, bias=False)),
            Child("write", Linear(self.inner, self.width, self.bias), kind="write"),
        )

    def degree(self, x: Powers, at: Place) -> Powers:
        """Steps, decays and the gate are functions that are not homogeneous; the state is linear in the features."""
        from .activations import activated_degree

        part = self.degrees_of_parts(at)
        u = activated_degree(self.activation, part("convolution", part("read", x)), at)
        selected = part("select", u)
        names = ("step_norm", "write_norm", "read_norm")
        step, write, read = (selected if self.norm is None else part(name, selected) for name in names)
        y = self.degree_of_state(at, part("step", step), u, write, read, part("gate", x))
        return part("write", y)

    def own_flops(self, run: Run) -> int:
        return 4 * run.positions * self.inner * self.state

    def own_saved(self, run: Run) -> int:
        # The input; the activation's input and output; the low-rank steps, B and C; the steps before softplus; the gate, the
        # scan's output, and their product. The scan computes its states again.
        values = self.width + 6 * self.inner + self.rank + 2 * self.state
        states = 0 if run.fused else self.inner * self.state
        return run.positions * (values + states) * run.value_bytes

    def own_cache(self, run: Run) -> int:
        return run.batch * self.inner * self.state
