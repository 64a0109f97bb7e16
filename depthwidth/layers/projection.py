"""A head that reads one token: its features, or a linear map of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..checks import check_choice, check_whole
from ..numerics.homogeneity import Place, Powers
from .base import Child, Run, component
from .head import Head
from .linear import Linear

ENDS = ("first", "last")
"""The tokens that a :class:`Projection` may read."""


@component
class Projection(Head):
    """The features of the first or the last token, mapped to `outputs` features if that is given.

    CLIP (arXiv 2103.00020) compares such features of images, from the class token, with those of texts, from the last token.
    """

    width: int
    outputs: int | None = None
    """None for the token's own features."""
    bias: bool = False
    reads: str = "first"

    def __post_init__(self) -> None:
        check_whole("Projection", width=self.width, outputs=1 if self.outputs is None else self.outputs)
        check_choice("Projection", ENDS, reads=self.reads)

    def children(self) -> tuple[Child, ...]:
        if self.outputs is None:
            return ()
        return (Child("linear", Linear(self.width, self.outputs, self.bias), kind="pooler"),)

    def degree(self, x: Powers, at: Place) -> Powers:
        return x if self.outputs is None else at.at("linear").through(Linear(self.width, self.outputs, self.bias), x)

    def choices(self) -> dict[str, Any]:
        width = {"projection_width": self.outputs, "projection_bias": self.bias}
        return {"head": "projection", "projection_reads": self.reads, **width}

    def run_of(self, child: str, run: Run) -> Run:
        return replace(run, tokens=1)
