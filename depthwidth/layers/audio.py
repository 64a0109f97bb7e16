"""The stem of a model of sound: two convolutions over a spectrogram."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ..checks import check_fraction, check_whole
from ..formulas.moments import linear_gradient, linear_second_moment
from ..numerics.homogeneity import Place, Powers
from ..signal import AnySignal, Pullback, Site, Spread, TokenSignal, finite
from .activation_entries import check_activation, keeps_input
from .base import Child, Layer, Run, component
from .feed_forward_moments import activation_tables, hidden_moments
from .sinusoidal_positions import SinusoidalTable
from .stem import Stem
from .tensor import ZEROS, Tensor


@component
class TimeConvolution(Layer):
    """A convolution over time, from `inputs` to `outputs` features of each step, with `kernel` taps.

    It is padded so as to keep the length, and then keeps one step in `stride`.
    """

    inputs: int
    outputs: int
    kernel: int = 3
    stride: int = 1

    def __post_init__(self) -> None:
        check_whole("TimeConvolution", inputs=self.inputs, outputs=self.outputs, kernel=self.kernel, stride=self.stride)

    @property
    def fan_in(self) -> int:
        """Number of terms in the sum of one output."""
        return self.inputs * self.kernel

    @property
    def fan_out(self) -> int:
        """Number of outputs to which one input contributes, on average over the steps."""
        return max(1, self.outputs * self.kernel // self.stride)

    def tensors(self) -> dict[str, Tensor]:
        weight = Tensor((self.outputs, self.inputs, self.kernel), "matrix", self.fan_in, self.fan_out)
        return {"weight": weight, "bias": Tensor((self.outputs,), "bias", self.fan_in, self.fan_out, start=ZEROS)}

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        # Two outputs that have steps in common read them by different taps, which are independent.
        weight = site.variance("weight")
        y = x.times(linear_second_moment.body(1.0, self.fan_in, weight)).with_bias(site.variance("bias"))
        gain = linear_gradient.body(1.0, self.fan_out, weight)
        return site.record(finite(y, site.role)), site.record_gradient(lambda g: g.times(gain))

    def degree(self, x: Powers, at: Place) -> Powers:
        y = at.apply("linear", x, own=at.weight("weight"))
        return at.apply("bias", y, own=at.weight("bias"), reason="a bias is added to a convolution of another degree")

    def own_flops(self, run: Run) -> int:
        return 2 * run.positions * self.fan_in * self.outputs  # `run` has the steps of the output


@component
class AudioStem(Stem):
    """A log-mel spectrogram to the stream: two convolutions with activations, plus fixed sines and cosines.

    It is Whisper's (arXiv 2212.04356). The second convolution keeps every other step, so that `context` positions read twice as
    many steps of `mel_bins` numbers.
    """

    mel_bins: int
    context: int
    width: int
    activation: str = "gelu"
    dropout: float = 0.0

    vocab = 0

    def __post_init__(self) -> None:
        check_whole("AudioStem", mel_bins=self.mel_bins, context=self.context, width=self.width)
        check_activation("AudioStem", self.activation)
        check_fraction("AudioStem", dropout=self.dropout)

    @property
    def first(self) -> TimeConvolution:
        """The convolution over the spectrogram."""
        return TimeConvolution(self.mel_bins, self.width)

    @property
    def second(self) -> TimeConvolution:
        """The convolution that keeps every other step."""
        return TimeConvolution(self.width, self.width, stride=2)

    @property
    def positions(self) -> SinusoidalTable:
        """The stored sines and cosines."""
        return SinusoidalTable(halves=True, to_end=True, rows=self.context, width=self.width)

    @property
    def fixed_context(self) -> int:
        return self.context

    @property
    def fixed_variance(self) -> float:
        return self.positions.fixed_variance

    def children(self) -> tuple[Child, ...]:
        second = Child("second", self.second, kind="projection", reads=self.activation)
        return Child("first", self.first, kind="patch"), second, Child("positions", self.positions)

    def run_of(self, child: str, run: Run) -> Run:
        return replace(run, tokens=2 * run.tokens) if child == "first" else run

    def choices(self) -> dict[str, Any]:
        return {"mel_bins": self.mel_bins, "context": self.context, "embedding_dropout": self.dropout}

    def own_saved(self, run: Run) -> int:
        # The spectrogram, the input of each activation if its derivative needs it, and the second convolution's input.
        kept = keeps_input(self.activation)
        values = 2 * self.mel_bins + (2 + 2 * kept + kept) * self.width
        return run.positions * (values * run.value_bytes + (self.width if self.dropout else 0))

    def degree(self, x: Powers, at: Place) -> Powers:
        from .activations import activated_degree

        for name, convolution in (("first", self.first), ("second", self.second)):
            x = activated_degree(self.activation, at.at(name).through(convolution, x), at)
        return at.at("positions").through(self.positions, x)

    def embed(self, site: Site, identity: AnySignal, segment_match: float) -> tuple[Any, Pullback]:
        # Spectrograms of unit variance, whose steps have the correlation of `identity`.
        x = identity
        for name, convolution, width in (("first", self.first, self.mel_bins), ("second", self.second, self.width)):
            x, _ = convolution.moments(x, site.at(name))
            features = width if site.trace.finite_width else math.inf
            hidden = hidden_moments(self.activation, x, None, features, activation_tables(self.activation, site.trace))
            x = x.of(hidden.second_moment, hidden.pair)
        x = self._add_positions(x, hidden.mean, identity, site)
        if site.trace.finite_width:
            x = x.spread_as(Spread.of_gaussian(x, self.width))
        rate = self.dropout if site.trace.dropout else 0.0
        site.record(x := x.after_dropout(rate).spread_as(x.spread))
        return x, site.record_gradient(lambda g: g.after_dropout(rate))

    def _add_positions(self, x: AnySignal, mean: Any, identity: AnySignal, site: Site) -> Any:
        """The moments of the stream: the second activation's output, whose features have a `mean`, plus the fixed vectors.

        A LayerNorm subtracts the mean over the features of both.
        """
        square = mean * mean
        first = square if not isinstance(x, TokenSignal) else mean[:, None] * mean
        y = self.positions.add(x.of(x.second_moment - square, x.covariance - first), identity, site, self.width)
        squares = self.positions.mean_squares(self.width, identity, site.trace.length, mean)
        return y.offset_as(y.offset and y.offset._replace(second_moment=squares[0], covariance=squares[1]))
