"""Short causal convolutions along the tokens: one filter for each feature, and a gated mixer made of one."""

from __future__ import annotations

from typing import Any

from ..checks import check_whole
from ..formulas.finite_width import (
    aligned_share,
    convolution_common_kurtosis,
    convolution_kurtosis,
    convolution_slope_kurtosis,
    correlation_spread,
)
from ..numerics.homogeneity import Place, Powers
from ..signal import AnySignal, DrawSpread, Pullback, Site, TokenSignal
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

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """Those of independent taps: of each of the latest tokens, and of the same distance for pairs of tokens.

        Derivation: docs/derivations/convolution.md, (V1) and (V4).
        """
        weight, length = site.variance("weight"), site.trace.length

        def over_taps(signal: AnySignal, direction: int) -> Any:
            parts = [_shift_tokens(signal, direction * steps, length) for steps in range(min(self.kernel, length))]
            return signal.of(*(weight * sum(part[k] for part in parts) for k in (0, 1)))

        y = over_taps(x, 1)
        if self.bias:
            y = y.with_bias(site.variance("bias"))
        return site.record(y), site.record_gradient(lambda g: over_taps(g, -1))

    def degree(self, x: Powers, at: Place) -> Powers:
        y = at.apply("linear", x, own=at.weight("weight"))
        reason = "a bias is added to a convolution of another degree"
        return at.apply("bias", y, own=at.weight("bias"), reason=reason) if self.bias else y

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

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        """Those of products of independent maps of one stream, (V2) to (V4) of docs/derivations/convolution.md."""
        parts = {child.name: child.layer for child in self.children()}
        names = "input_gate", "output_gate", "read"
        (gate, pull_gate), (late, pull_late), (read, pull_read) = (parts[n].moments(x, site.at(n)) for n in names)
        # In one network the correlation of two tokens deviates from its mean, equally for all three maps.
        step = correlation_spread.body(x.correlation, self.width) if site.trace.finite_width else 0.0
        square = step * step * gate.pair_second_moment * read.pair_second_moment
        added = x.of(gate.second_moment * read.second_moment, gate.covariance * read.covariance + square)
        mixed, pull_convolution = parts["convolution"].moments(added, site.at("convolution"))
        shared = 2 * site.at("convolution").variance("weight") * square * late.pair_second_moment * x.correlation
        hidden = x.of(late.second_moment * mixed.second_moment, late.covariance * mixed.covariance + shared)
        y, pull_write = parts["write"].moments(hidden, site.at("write"))

        def pull(g: AnySignal) -> AnySignal:
            g = pull_write(g)
            into = pull_convolution(g.times(late.second_moment, late.covariance))
            found = pull_late(g.times(mixed.second_moment, mixed.covariance))
            found = found.plus(pull_gate(into.times(read.second_moment, read.covariance)))
            return found.plus(pull_read(into.times(gate.second_moment, gate.covariance)))

        return y, pull

    def degree(self, x: Powers, at: Place) -> Powers:
        part = self.degrees_of_parts(at)
        mixed = part("convolution", at.apply("product", part("input_gate", x), part("read", x)))
        return part("write", at.apply("product", part("output_gate", x), mixed))

    def draw_spread(self, x: AnySignal, site: Site) -> DrawSpread:
        """The spread of hidden features that are a Gaussian times a sum of products, for tokens without correlation."""
        kurtosis, common = convolution_kurtosis.body(self.kernel), convolution_common_kurtosis.body(self.kernel)
        draw = DrawSpread.of_matrices(
            1.0, kurtosis, convolution_slope_kurtosis.body(self.kernel), common_kurtosis=common, even=1 / 3
        )
        # Three factors that are each proportional to the token's size: k^2 / s = 3^2 / 3.
        return draw._replace(along=aligned_share.body(1.0, 3.0, common), radial=3.0, growth=3.0)

    def own_saved(self, run: Run) -> int:
        # The input of three maps; the two factors of either product, of which the convolution's input is its own; and the
        # input of the last map.
        return 6 * run.positions * self.width * run.value_bytes


def _shift_tokens(signal: AnySignal, steps: int, length: int) -> tuple[Any, Any]:
    """Second moment and covariance of a signal whose tokens have moved by so many positions, zeros before the first."""
    if isinstance(signal, TokenSignal):
        return signal.positions.moved(signal.second_moment, signal.covariance, steps)
    left = length - abs(steps)
    return signal.second_moment * (left / length), signal.covariance * (left * (left - 1) / max(1, length * (length - 1)))
