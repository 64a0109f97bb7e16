"""The trained numbers of an activation, such as the two factors of xIELU."""

from __future__ import annotations

from .activation_entries import trained_numbers
from .base import Layer, component
from .tensor import Constant, Tensor


@component
class TrainedActivation(Layer):
    """The numbers of the activation `name` that are trained like weights.

    Its moments are those of :class:`~depthwidth.layers.FeedForward`, with the numbers at their starting values.
    """

    name: str

    def tensors(self) -> dict[str, Tensor]:
        return {name: Tensor((1,), "vector", start=Constant(value)) for name, value in trained_numbers(self.name)}
