"""The gate of per-layer embeddings: a vector from the stem, gated by the stream."""

from __future__ import annotations

from ..checks import check_whole
from ..errors import InputError
from ..numerics.homogeneity import Place, Powers
from .activation_entries import check_activation, keeps_input
from .base import Child, Layer, Run, component
from .linear import Linear
from .norms import Norm
from .tensor import ZEROS, Tensor


@component
class LayerGate(Layer):
    """``norm(write(f(gate(scale * x)) * v))`` for the stream x and the vector v that the stem made for this block (Gemma 3n).

    `scale` has a number for each feature of the stream. It starts at zero, as the library's models do, and then nothing is
    added; Google's own code starts it at one.
    """

    width: int
    features: int
    """Features of the vector from the stem."""
    activation: str
    norm: Norm

    def __post_init__(self) -> None:
        check_whole("LayerGate", width=self.width, features=self.features)
        check_activation("LayerGate", self.activation)
        if self.norm.width != self.width:
            raise InputError(f"LayerGate: its norm has width={self.norm.width}, and it has width={self.width}")

    def tensors(self) -> dict[str, Tensor]:
        return {"scale": Tensor((self.width,), "gain", start=ZEROS)}

    def children(self) -> tuple[Child, ...]:
        gate, write = Linear(self.width, self.features, False), Linear(self.features, self.width, False)
        return Child("gate", gate, kind="gate"), Child("write", write, kind="write"), Child("norm", self.norm)

    def degree(self, x: Powers, at: Place) -> Powers:
        from .activations import activated_degree

        gate, write, norm = self.children()
        read = at.apply("linear", x, own=at.weight("scale"))
        opened = activated_degree(self.activation, at.at("gate").through(gate.layer, read), at)
        gated = at.apply("product", opened, at.walk.block_inputs or {})
        return at.at("norm").through(norm.layer, at.at("write").through(write.layer, gated))

    def own_saved(self, run: Run) -> int:
        # The stream, its scaled copy; the gate's activation, its input if the derivative needs it, the vector, their product.
        values = 2 * self.width + self.features * (3 + keeps_input(self.activation))
        return run.positions * values * run.value_bytes
