"""A head with logits for each patch of an image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..checks import check_whole
from .base import Child, Run, component
from .head import Head
from .linear import Linear
from .norms import Norm


@component
class PatchLogits(Head):
    """A norm, and one logit of each patch for each of `classes`: the codes that stand for hidden patches (BEiT's pre-training).

    The norm reads the class token as well, the map to classes does not.
    """

    width: int
    classes: int
    norm: Norm
    every = True
    logits_tensor = "linear.weight"

    def __post_init__(self) -> None:
        check_whole("PatchLogits", width=self.width, classes=self.classes)

    def children(self) -> tuple[Child, ...]:
        linear = Linear(self.width, self.classes)
        return Child("norm", self.norm), Child("linear", linear, kind="classifier")

    def choices(self) -> dict[str, Any]:
        return {"head": "patch-logits", "classes": self.classes}

    def run_of(self, child: str, run: Run) -> Run:
        return replace(run, tokens=run.tokens - 1) if child == "linear" else run
