"""The linear map: a matrix and an optional bias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import signal
from ..checks import check_whole
from ..formulas.moments import linear_gradient, linear_second_moment
from .base import Layer, Run, component
from .tensor import ZEROS, Tensor

if TYPE_CHECKING:
    from ..numerics.homogeneity import Place, Powers
    from ..signal import AnySignal, Pullback, Site

_second_moment, _gradient = linear_second_moment.body, linear_gradient.body  # without checks: signals are checked


@component
class Linear(Layer):
    """``y = W x + b`` from `inputs` to `outputs` features. Its weight is stored as (outputs, inputs)."""

    inputs: int
    outputs: int
    bias: bool = True

    def __post_init__(self) -> None:
        check_whole("Linear", inputs=self.inputs, outputs=self.outputs)

    def tensors(self) -> dict[str, Tensor]:
        weight = {"weight": Tensor((self.outputs, self.inputs), "matrix", self.inputs, self.outputs)}
        if not self.bias:
            return weight
        return weight | {"bias": Tensor((self.outputs,), "bias", self.inputs, self.outputs, start=ZEROS)}

    def moments(self, x: AnySignal, site: Site) -> tuple[Any, Pullback]:
        weight = site.variance("weight")
        y = x.whole().times(_second_moment(1.0, self.inputs, weight))
        added = site.variance("bias") if self.bias else 0.0
        if not (isinstance(added, float) and added == 0):  # which it is in most schemes
            y = y.with_bias(added)
        gain = _gradient(1.0, self.outputs, weight)
        return site.record(signal.finite(y, site.role)), site.record_gradient(lambda g: g.times(gain))

    def degree(self, x: Powers, at: Place) -> Powers:
        y = at.apply("linear", x, own=at.weight("weight"))
        return (
            at.apply("bias", y, own=at.weight("bias"), reason="a bias is added to a map of another degree") if self.bias else y
        )

    def own_flops(self, run: Run) -> int:
        return 2 * run.positions * self.inputs * self.outputs
