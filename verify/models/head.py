# mypy: disable-error-code="misc, no-any-return"
"""Heads: the features after the last norm to logits of tokens or classes, or to a pooled vector.

A head with ``logits = True`` can be trained by cross-entropy.
"""

from __future__ import annotations

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
        self.spare_bias = nn.Parameter(torch.empty(layer.vocab)) if layer.spare_bias else None  # read by nothing

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
        self.register_buffer("offset", None)

    offset: Tensor | None
    """A term of the logits (vocab,) that is not trained, copied from a model of the transformers library (Marian)."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Features (batch, length, width) to logits (batch, length, vocab)."""
        if self.transform is not None:
            x = self.transform(x)
        if self.activation is not None:
            x = self.activation(x)
        if self.norm is not None:
            x = self.norm(x)
        logits = self.unembedding(scale_by(x, self.scale), embedding)
        logits = logits if self.offset is None else logits + self.offset
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


@builds(layers.Pooler)
class Pooler(nn.Module):
    """A linear map, an activation and possibly a norm, of the first token's features or of each token's."""

    def __init__(self, layer: layers.Pooler) -> None:
        super().__init__()
        self.linear = module(layer.linear)
        self.activation = Activation(layer.activation)
        self.norm = optional(layer.norm)
        self.every = layer.every

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Features (batch, length, width) to (batch, outputs), or (batch, length, outputs) of each token."""
        x = self.activation(self.linear(x if self.every else x[:, 0]))
        return x if self.norm is None else self.norm(x)


@builds(layers.ClassifierHead)
class ClassifierHead(nn.Module):
    """One logit for each class, from the features of the first token, of each, or of all."""

    logits = True

    def __init__(self, layer: layers.ClassifierHead) -> None:
        super().__init__()
        self.pooler = optional(layer.pooler)
        for child in layer.children():
            if child.name != "pooler":
                self.add_module(child.name, module(child.layer))
        self.reads = layer.reads

    def forward(self, x: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Features (batch, length, width) to logits (batch, classes), or (batch, length, classes) of each token."""
        if self.reads == "mean":
            x = x.mean(1, keepdim=True)
        elif self.reads == "end":
            x = x[:, -1:]
        if self.pooler is not None:
            x = self.pooler(x)
        elif self.reads in ("first", "end", "mean"):
            x = x[:, 0]
        elif self.reads == "first and mean":
            x = torch.cat((x[:, 0], x[:, 1:].mean(1)), dim=1)
        elif self.reads == "first two":
            return (self.linear(x[:, 0]) + self.distilled(x[:, 1])) / 2
        logits = self.linear(x)
        return logits.mean(1) if self.reads == "late" else logits[:, -1] if self.reads == "last" else logits
