"""A pooler that averages over the patches of an image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..checks import check_whole
from ..numerics.homogeneity import Place, Powers
from .base import Child, Run, component
from .head import Head
from .norms import Norm


@component
class PatchMean(Head):
    """The mean of all tokens but the first, which is the class token, and a norm of it (BEiT, arXiv 2106.08254)."""

    width: int
    norm: Norm

    def __post_init__(self) -> None:
        check_whole("PatchMean", width=self.width)

    @property
    def outputs(self) -> int:
        """Features of its output."""
        return self.width

    def children(self) -> tuple[Child, ...]:
        return (Child("norm", self.norm),)

    def degree(self, x: Powers, at: Place) -> Powers:
        return at.at("norm").through(self.norm, x)

    def choices(self) -> dict[str, Any]:
        return {"head": "none", "pooler": True, "pooler_reads": "patches"}

    def run_of(self, child: str, run: Run) -> Run:
        return replace(run, tokens=1)
