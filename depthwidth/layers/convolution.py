"""Short causal convolutions along the tokens: one filter for each feature, and a gated mixer made of one."""

from __future__ import annotations

from ..checks import check_whole
from .base import Child, Layer, Run, component
from .linear import Linear
from .mixer import Mixer
from .tensor import ZEROS, Tensor


@component
class Convolution(Layer):
    """``y_t = sum_j w_j x_{t-j} + b`` with `kernel` taps for each of `channels` features, and zeros before the first token.

    The last stored tap is that of the present token.
    """

    channels: int
    kernel: int
    bias: bool = False

    def __post_init__(self) -> None:
        check_whole("Convolution", channels=self.channels, kernel=self.kernel)

    def tensors(self) -> dict[str, Tensor]:
        weight = {"weight": Tensor((self.channels, self.kernel), "kernel", self.kernel, self.kernel)}
        if not self.bias:
            return weight
        return weight | {"bias": Tensor((self.channels,), "bias", self.kernel, self.kernel, start=ZEROS)}

    def own_flops(self, run: Run) -> int:
        return 2 * run.positions * self.channels * self.kernel

    def own_saved(self, run: Run) -> int:
        return run.positions * self.channels * run.value_bytes  # its input

    def own_cache(self, run: Run) -> int:
        return run.batch * self.channels * self.kernel  # its latest inputs


@component
class ShortConvolution(Mixer):
    """``write(output_gate(x) * convolution(input_gate(x) * read(x)))``: the mixer of LFM2 (Liquid AI 2025)."""

    width: int
    kernel: int = 3
    bias: bool = False

    def __post_init__(self) -> None:
        check_whole("ShortConvolution", width=self.width, kernel=self.kernel)

    def children(self) -> tuple[Child, ...]:
        square = Linear(self.width, self.width, self.bias)
        return (
            Child("input_gate", square, kind="gate"),
            Child("output_gate", square, kind="gate"),
            Child("read", square, kind="read"),
            Child("convolution", Convolution(self.width, self.kernel, self.bias)),
            Child("write", square, kind="write"),
        )

    def own_saved(self, run: Run) -> int:
        # The input of three maps; the two factors of either product, of which the convolution's input is its own; and the
        # input of the last map.
        return 6 * run.positions * self.width * run.value_bytes
