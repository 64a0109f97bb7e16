"""Normalisation: LayerNorm and RMSNorm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import signal
from ..checks import check_whole
from ..formulas.moments import least_correlation, norm_moment
from ..values import once
from .base import Layer, Run, component, share
from .tensor import ZEROS, Constant, Tensor

if TYPE_CHECKING:
    from ..numerics.homogeneity import Place, Powers
    from ..signal import AnySignal, Number, Pullback, Site


@component
class Norm(Layer):
    """A normalisation over `width` features.

    With `groups` > 1 it normalises that many slices with the same weights, such as the query of each head.
    Abstract: use :class:`LayerNorm` or :class:`RMSNorm`.
    """

    width: int
    groups: int = 1
    affine: bool = True
    """True if it has a trainable gain; a LayerNorm may then have a bias too."""
    eps: float = 1e-5
    centred = False
    """True if it subtracts the mean over the features."""
    unit_offset = False
    """True if the gain is stored as its difference from one (Gemma, Nemotron)."""
    separate = False
    """True if each group has weights of its own (Cohere's heads)."""

    def __post_init__(self) -> None:
        check_whole(type(self).__name__, width=self.width, groups=self.groups)

    def tensors(self) -> dict[str, Tensor]:
        if not self.affine:
            return {}
        return {"weight": Tensor(self._shape, "gain", start=Constant(1.0 - self._offset), offset=self._offset)}

    @property
    def _shape(self) -> tuple[int, ...]:
        return (self.groups, self.width) if self.separate else (self.width,)

    def read(self, x: AnySignal) -> Any:
        """The part of its input that it divides: without the mean over the features, if it subtracts that."""
        if x.offset is None:
            return x
        return x.offset_as(None) if self.centred else x.whole()

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        x = self.read(x)
        gain = self.gain(site)
        size, pair_size = x.second_moment + self.eps, x.pair_second_moment + self.eps
        spread, scale = signal.norm_spread(x, self.width, self.centred), norm_moment.body
        factor = 1.0 if spread is None else spread.of_covariance()
        second, pair = scale(x.second_moment, size, gain), scale(x.covariance, pair_size, gain, factor)
        if isinstance(pair, float) and pair < 0:  # of first order in 1/width: beyond what tokens near the least can have
            pair = max(pair, second * least_correlation.body(max(site.trace.length, 2)))
        y = site.record(x.of(second, pair))

        @once  # a norm passes several gradients, and many norms none
        def gradient_gains() -> tuple[Number, Number]:
            own, pair = (1.0, 1.0) if spread is None else spread.of_gradient()
            return scale(1.0, size, gain, own), scale(1.0, pair_size, gain, pair)

        return y, site.record_gradient(lambda g: g.times(*gradient_gains()))

    def gain(self, site: Site) -> Number:
        """Mean square of its gain at `site`; 1 without weights."""
        return site.gain(self._offset) if self.affine else 1.0

    def degree(self, x: Powers, at: Place) -> Powers:
        if self.eps:
            at.require(x, f"epsilon {self.eps:g} is added to the variance", exact=False)
        y = at.apply("norm", x)
        if not self.affine:
            return y
        gain = at.weight("weight")
        if self.unit_offset:
            at.require(gain, "the gain is one plus its weight")
        return at.apply("linear", y, own=gain)

    @property
    def _offset(self) -> float:
        """Added to the stored gain before it is used."""
        return 1.0 if self.unit_offset else 0.0

    def choices(self) -> dict[str, Any]:
        options = {"norm_affine": self.affine, "norm_eps": self.eps, "norm_bias": True}
        return options | {"norm_unit_offset": self.unit_offset}

    def own_saved(self, run: Run) -> int:
        return run.positions * self.width * self.groups * run.value_bytes  # its input; the statistics are negligible

    def own_stream(self, run: Run) -> int:
        return self.own_saved(run)

    def sharded_with(self, parts: int) -> Norm:
        """The same norm of a `parts`-th of the groups, or of the features if there is one group, as heads are divided."""
        if self.groups > 1:
            return self.replace(groups=share(type(self).__name__, parts, groups=self.groups))  # type: ignore[no-any-return]
        return self.replace(width=share(type(self).__name__, parts, width=self.width))  # type: ignore[no-any-return]


@component
class LayerNorm(Norm):
    """Subtract the mean and divide by the standard deviation over the features (Ba et al. 2016, arXiv 1607.06450)."""

    bias: bool = True
    unit_offset: bool = False
    separate: bool = False

    centred = True

    def tensors(self) -> dict[str, Tensor]:
        bias = {"bias": Tensor(self._shape, "bias", start=ZEROS)} if self.affine and self.bias else {}
        return super().tensors() | bias

    def degree(self, x: Powers, at: Place) -> Powers:
        y = super().degree(x, at)
        biased = self.affine and self.bias
        return at.apply("bias", y, own=at.weight("bias"), reason="a bias is added to a gain's output") if biased else y

    def choices(self) -> dict[str, Any]:
        return super().choices() | {"norm": "layernorm", "norm_bias": self.bias}


@component
class RMSNorm(Norm):
    """Divide by the root mean square over the features (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    eps: float = 1e-6
    unit_offset: bool = False
    separate: bool = False

    def choices(self) -> dict[str, Any]:
        return super().choices() | {"norm": "rmsnorm"}
