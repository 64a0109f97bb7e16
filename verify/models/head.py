# mypy: disable-error-code="misc, no-any-return"
"""Heads: the features after the last norm to logits of tokens or classes, or to a pooled vector.

A head with ``logits = True`` can be trained by cross-entropy.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from depthwidth import layers

from .activations import Activation
from .base import builds, module, optional, scale_by


@builds(layers.Unembedding)
class Unembedding(nn.Module):
    """One logit for each token; if it is tied, its matrix is the embedding."""

    multiplier = 1.0

    def __init__(self, layer: layers.Unembedding) -> None:
        super().__init__()
        self.weight = None if layer.tied else nn.Parameter(torch.empty(layer.vocab, layer.width))
        self.bias = nn.Parameter(torch.empty(layer.vocab)) if layer.bias else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Features (..., width) to logits (..., vocab)."""
        return scale_by(F.linear(x, embedding if self.weight is None else self.weight, self.bias), self.multiplier)


@builds(layers.LanguageHead)
class LanguageHead(nn.Module):
    """Logits over the vocabulary, after a transform if there is one.

    A transform with a norm is BERT's, with an activation between. A transform alone is a projection.
    """

    logits = True

    def __init__(self, layer: layers.LanguageHead) -> None:
        super().__init__()
        self.transform = optional(layer.transform)
        self.activation = Activation(layer.activation) if layer.norm is not None and layer.transform is not None else None
        self.norm = optional(layer.norm)
        self.unembedding = module(layer.unembedding)
        self.softcap, self.scale = layer.softcap, layer.scale

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Features (batch, length, width) to logits (batch, length, vocab)."""
        if self.transform is not None:
            x = self.transform(x)
        if self.activation is not None:
            x = self.activation(x)
        if self.norm is not None:
            x = self.norm(x)
        logits = self.unembedding(scale_by(x, self.scale), embedding)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


@builds(layers.Pooler)
class Pooler(nn.Module):
    """A linear map and a tanh of the first token's features."""

    settings: ClassVar = {"pooler_activation": "function"}

    def __init__(self, layer: layers.Pooler) -> None:
        super().__init__()
        self.linear = module(layers.Linear(layer.width, layer.outputs))
        self.activation = Activation("tanh")

    @property
    def function(self) -> str:
        """The name of the activation."""
        return self.activation.name

    @function.setter
    def function(self, name: str) -> None:
        self.activation = Activation(name)

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Features (batch, length, width) to (batch, outputs)."""
        return self.activation(self.linear(x[:, 0]))


@builds(layers.ClassifierHead)
class ClassifierHead(nn.Module):
    """One logit for each class, from the first token's features."""

    logits = True

    def __init__(self, layer: layers.ClassifierHead) -> None:
        super().__init__()
        self.pooler = optional(layer.pooler)
        self.linear = module(layers.Linear(layer.width, layer.classes, layer.bias))
        self.reads = layer.reads

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Features (batch, length, width) to logits (batch, classes), or (batch, length, classes) of each token."""
        if self.pooler is not None:
            return self.linear(self.pooler(x))
        return self.linear(x if self.reads == "every" else x[:, 0] if self.reads == "first" else x[:, -1])
