"""The two training heads of BERT and ALBERT: one for hidden tokens, one for pairs of sentences."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..numerics.homogeneity import Place, Powers
from .base import Child, component
from .classifier import ClassifierHead
from .head import LanguageHead


@component
class PretrainingHead(LanguageHead):
    """A masked-language head, and a `classifier` of the same features.

    BERT's classifier says if one sentence follows the other (arXiv 1810.04805, section 3.1), ALBERT's if the two are in their
    order (arXiv 1909.11942, section 3.1). The logits, their moments and the loss are those of the tokens.
    """

    classifier: ClassifierHead | None = None
    """Required."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classifier is None:
            raise InputError("PretrainingHead: the classifier is missing; without one it is a LanguageHead")

    def children(self) -> tuple[Child, ...]:
        classifier = () if self.classifier is None else (Child("classifier", self.classifier),)
        return (*super().children(), *classifier)

    def degree(self, x: Powers, at: Place) -> Powers:
        logits = super().degree(x, at)
        classes = {} if self.classifier is None else at.at("classifier").through(self.classifier, x)
        return at.apply("sum", logits, classes, reason="the head's two outputs have different degrees")

    def choices(self) -> dict[str, Any]:
        return super().choices() | {"head": "pretraining"}
