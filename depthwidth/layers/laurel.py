"""The learned augmented residual layer: a skip path with a map of low rank."""

from __future__ import annotations

from ..checks import check_whole
from ..errors import InputError
from ..numerics.homogeneity import Place, Powers
from .base import Child, Layer, Run, component
from .linear import Linear
from .norms import Norm


@component
class Laurel(Layer):
    """``x + norm(right(left(x)))``, the form of LAuReL with a map of low rank (Menghani et al. 2024, arXiv 2411.07501).

    The norm is that of Gemma 3n; without it the form is the paper's.
    """

    width: int
    rank: int
    norm: Norm | None = None

    def __post_init__(self) -> None:
        check_whole("Laurel", width=self.width, rank=self.rank)
        if self.norm is not None and self.norm.width != self.width:
            raise InputError(f"Laurel: its norm has width={self.norm.width}, and it has width={self.width}")

    def children(self) -> tuple[Child, ...]:
        left, right = Linear(self.width, self.rank, False), Linear(self.rank, self.width, False)
        norm = () if self.norm is None else (Child("norm", self.norm),)
        return (Child("left", left, kind="read"), Child("right", right, kind="write"), *norm)

    def degree(self, x: Powers, at: Place) -> Powers:
        y = x
        for child in self.children():
            y = at.at(child.name).through(child.layer, y)
        return at.apply("sum", x, y, reason="a map is added to a stream of another degree")

    def own_saved(self, run: Run) -> int:
        # The input of the second map; that of the first is the input of the parallel branch, which counts it.
        return run.positions * self.rank * run.value_bytes
