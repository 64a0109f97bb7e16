# mypy: disable-error-code="misc, no-any-return"
"""The two training heads of BERT and ALBERT."""

from __future__ import annotations

from depthwidth import layers

from .base import builds, optional
from .head import LanguageHead


@builds(layers.PretrainingHead)
class PretrainingHead(LanguageHead):
    """Logits of tokens; those of a pair of sentences are ``head.classifier(features)``."""

    def __init__(self, layer: layers.PretrainingHead) -> None:
        super().__init__(layer)
        self.classifier = optional(layer.classifier)
