"""Classes from the features of tokens, and a pooler of the first token's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..checks import check_choice
from ..errors import InputError
from ..numerics.homogeneity import Place, Powers
from .activation_entries import check_activation
from .base import Child, Run, component
from .head import Head
from .linear import Linear
from .norms import Norm

READS = ("first", "last", "end", "every", "mean", "late", "first and mean", "first two")
"""The tokens whose features a classifier may read."""
_FIRST = ("first", "end", "mean", "first and mean", "first two")
"""Those of them for which the map to classes is applied once an input, not once a token."""


@component
class Pooler(Head):
    """A linear map, an activation and possibly a norm of the first token's features, as in BERT and ViT.

    With `every` it reads each token's (ELECTRA's discriminator).
    """

    width: int
    outputs: int
    activation: str = "tanh"
    norm: Norm | None = None
    bias: bool = True
    every: bool = False

    def __post_init__(self) -> None:
        check_activation("Pooler", self.activation)

    @property
    def linear(self) -> Linear:
        """The linear map."""
        return Linear(self.width, self.outputs, self.bias)

    def children(self) -> tuple[Child, ...]:
        linear = Child("linear", self.linear, kind="pooler")
        return (linear,) if self.norm is None else (linear, Child("norm", self.norm))

    def degree(self, x: Powers, at: Place) -> Powers:
        from .activations import activated_degree

        x = activated_degree(self.activation, at.at("linear").through(self.linear, x), at)
        return x if self.norm is None else at.at("norm").through(self.norm, x)

    def choices(self) -> dict[str, Any]:
        options = {"pooler_activation": self.activation, "pooler_norm": self.norm is not None, "pooler_bias": self.bias}
        return {"head": "none", "pooler": True, "pooler_width": self.outputs, **options}

    def run_of(self, child: str, run: Run) -> Run:
        return run if self.every else replace(run, tokens=1)


@component
class ClassifierHead(Head):
    """One logit for each of `classes`, from the first token's features, after an optional `pooler`.

    `reads` is ``first``; ``mean`` for the mean of all features; ``every`` for logits of each token (labels of tokens, both ends
    of an answer); ``last`` for those of the last one; ``late`` for the mean of the logits. For the last three, pooler and map
    are applied to all tokens, as in the transformers library. ``end`` is the last token alone (BART, T5).
    Of images it is also ``first and mean``, one map of the class token's features beside the mean of the patches' (DINOv2); or
    ``first two``, the mean of two maps, one of the class token and one of the distillation token (DeiT).
    """

    width: int
    classes: int
    pooler: Head | None = None
    """A head with features for the map to classes, such as :class:`Pooler`."""
    bias: bool = True
    reads: str = "first"

    def __post_init__(self) -> None:
        check_choice("ClassifierHead", READS, reads=self.reads)
        if self.pooler is not None and self.pooler.every != self.all_tokens:
            words = "every=True" if self.all_tokens else "every=False"
            raise InputError(f"ClassifierHead: the pooler needs {words}, as reads={self.reads!r}")

    @property
    def all_tokens(self) -> bool:
        """True if the map to classes is applied to all tokens."""
        return self.reads_all(self.reads)

    @staticmethod
    def reads_all(reads: str) -> bool:
        """True if the map to classes is then applied to all tokens, not once an input."""
        return reads not in _FIRST

    def children(self) -> tuple[Child, ...]:
        features = 2 * self.width if self.reads == "first and mean" else self.width
        names = ("linear", "distilled") if self.reads == "first two" else ("linear",)
        maps = tuple(Child(name, Linear(features, self.classes, self.bias), kind="classifier") for name in names)
        return maps if self.pooler is None else (Child("pooler", self.pooler), *maps)

    def degree(self, x: Powers, at: Place) -> Powers:
        x = x if self.pooler is None else at.at("pooler").through(self.pooler, x)
        maps = [at.at(part.name).through(part.layer, x) for part in self.children() if part.name != "pooler"]
        return maps[0] if len(maps) == 1 else at.apply("sum", *maps, reason="the two maps to classes have different degrees")

    logits_tensor = "linear.weight"

    def choices(self) -> dict[str, Any]:
        return {
            "head": "classifier",
            "classes": self.classes,
            "classifier_bias": self.bias,
            "classifier_reads": self.reads,
        }

    def run_of(self, child: str, run: Run) -> Run:
        return run if self.all_tokens else replace(run, tokens=1)
