# mypy: disable-error-code="misc, no-any-return"
"""A model of two towers, one for images and one for texts, whose features are compared (CLIP, SigLIP)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from .model import Model


class TwoTowers(nn.Module):
    """A module for each tower, and the factor and the term of their similarity; :func:`verify.from_hf` makes it."""

    def __init__(self, text: Model, vision: Model, logit_scale: Tensor, logit_bias: Tensor | None = None) -> None:
        super().__init__()
        self.text, self.vision = text, vision
        self.logit_scale = nn.Parameter(logit_scale)
        """The logarithm of the factor."""
        self.logit_bias = None if logit_bias is None else nn.Parameter(logit_bias)

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """The similarity of each of the images (n, channels, height, width) with each of the texts (m, length): (n, m)."""
        ours, theirs = (F.normalize(part, dim=-1) for part in (self.vision(images), self.text(tokens)))
        similarity = ours @ theirs.T * torch.exp(self.logit_scale)
        return similarity if self.logit_bias is None else similarity + self.logit_bias
