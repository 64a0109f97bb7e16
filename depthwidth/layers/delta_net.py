"""The gated delta net: a state that is corrected towards each token's value, and decays."""

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
from .tensor import Special, Tensor


@component
class GatedDeltaNet(Mixer):
    """A state of `key_dim` by `value_dim` numbers for each value head (Yang et al. 2024, arXiv 2412.06464; Qwen3-Next).

    ``S_t = a_t S_{t-1} + k_t b_t (v_t - a_t S'_{t-1} k_t)'`` with keys and queries of unit length, a decay a and a strength b
    for each value head; the output is ``out(norm(S'_t q_t) * silu(gate(x)))``.
    """

    width: int
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int = 4
    activation: str = "silu"
    eps: float = 1e-6

    proportional: ClassVar = ("key_heads",)

    def __post_init__(self) -> None:
        heads = {"key_heads": self.key_heads, "value_heads": self.value_heads}
        check_whole("GatedDeltaNet", width=self.width, **heads)
        check_whole("GatedDeltaNet", key_dim=self.key_dim, value_dim=self.value_dim, kernel=self.kernel)
        check_activation("GatedDeltaNet", self.activation)
        if not is_symbolic(self.key_heads, self.value_heads) and self.value_heads % self.key_heads:
            raise InputError(f"GatedDeltaNet: key_heads={self.key_heads} does not divide value_heads={self.value_heads}")

    def at_width(self, width: int) -> Any:
        key_heads = max(1, round(self.key_heads * width / self.width))
        return self.replace(width=width, key_heads=key_heads, value_heads=key_heads * (self.value_heads // self.key_heads))

    @property
    def row_groups(self) -> int:
        """Groups of heads by which transformers stores the maps from the stream."""
        return self.key_heads

    @property
    def keys(self) -> int:
        """Features of all keys, and of all queries."""
        return self.key_heads * self.key_dim

    @property
    def values(self) -> int:
        """Features of all values."""
        return self.value_heads * self.value_dim

    def tensors(self) -> dict[str, Tensor]:
        return {
            "log_decay": Tensor((self.value_heads,), "vector", start=Special("the logarithms of uniform numbers up to 16")),
            "step_bias": Tensor((self.value_heads,), "bias", start=Special("ones, or steps of random logarithm")),
        }

    def children(self) -> tuple[Child, ...]:
        return (
            Child("query", Linear(self.width, self.keys, bias=False), kind="query"),
            Child("key", Linear(self.width, self.keys, bias=False), kind="key"),
            Child("value", Linear(self.width, self.values, bias=False), kind="value"),
            Child("gate", Linear(self.width, self.values, bias=False), kind="gate"),
            Child("strength", Linear(self.width, self.value_heads, bias=False)),
            Child("step", Linear(self.width, self.value_heads, bias=False)),
            Child("convolution", Convolution(2 * self.keys + self.values, self.kernel)),
            Child("norm", RMSNorm(self.value_dim, self.value_heads, eps=self.eps)),
            Child("out", Linear(self.values, self.width, bias=False), kind="out"),
        )

    def degree(self, x: Powers, at: Place) -> Powers:
        """Queries and keys have unit length, so that the state has the degree of the values."""
        from .activations import activated_degree

        part = self.degrees_of_parts(at)
        query, key, value = (
            activated_degree(self.activation, part("convolution", part(name, x)), at) for name in ("query", "key", "value")
        )
        for one in (query, key):
            at.require(one, "an epsilon is added to the squared length", exact=False)
        at.apply("gelu", part("strength", x), reason="sigmoid of the strengths")
        steps = at.apply("bias", part("step", x), own=at.weight("step_bias"), reason="a bias is added to steps")
        at.apply("gelu", steps, reason="softplus of the steps")
        at.require(at.weight("log_decay"), "decays are exponentials of their weights")
        at.apply("gelu", part("gate", x), reason="silu of the gate")
        return part("out", part("norm", value))

    def own_flops(self, run: Run) -> int:
        # The value that the state holds for a key, its correction, and the query's value.
        return 6 * run.positions * self.values * self.key_dim

    def own_saved(self, run: Run) -> int:
        # The input; input and output of the activation after the convolution; strengths and steps; the gate, the normalised
        # output, and their product. The recurrence computes its states again.
        mixed = 2 * self.keys + self.values
        values = self.width + 2 * mixed + 2 * self.value_heads + 3 * self.values
        states = 0 if run.fused else self.values * self.key_dim
        return run.positions * (values + states) * run.value_bytes

    def own_cache(self, run: Run) -> int:
        return run.batch * self.values * self.key_dim
