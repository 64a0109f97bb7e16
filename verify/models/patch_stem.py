# mypy: disable-error-code="misc, no-any-return"
"""The stem of images: patches to the residual stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthwidth import layers
from depthwidth.errors import InputError

from .base import Undrawn, apply_dropout, builds, optional, scale_by


class Patches(Undrawn, nn.Conv2d):
    """Square patches of an image, each mapped linearly to a vector."""

    multiplier = 1.0

    def __init__(self, layer: layers.PatchStem) -> None:
        super().__init__(layer.channels, layer.width, layer.patch, stride=layer.patch, bias=layer.bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name
        """Images (batch, channels, height, width) to (batch, patches, width)."""
        return scale_by(super().forward(input), self.multiplier).flatten(2).transpose(1, 2)


@builds(layers.PatchStem)
class PatchStem(nn.Module):
    """A class token and the patches of an image, plus learned positions, then a norm and dropout.

    A pass without hidden patches does not read the mask token. If patches are hidden, `noise` (batch, patches) decides which:
    those of the largest numbers; it is drawn for each pass unless it is given.
    """

    noise: Tensor | None = None

    def __init__(self, layer: layers.PatchStem) -> None:
        super().__init__()
        self.size, self.rate = (layer.channels, layer.height, layer.width_pixels), layer.dropout
        self.patch = Patches(layer)
        self.tokens = [name for name in ("class_token", "distillation_token") if getattr(layer, name)]
        for name in (*self.tokens, *(["mask_token"] if layer.mask_token else [])):
            self.register_parameter(name, nn.Parameter(torch.empty(1, 1, layer.width)))
        self.layer, learned = layer, layer.positions == "learned"
        places = torch.empty(1, layer.places, layer.width)
        self.positions = None if layer.positions == "none" else nn.Parameter(places, requires_grad=learned)
        self.norm = optional(layer.norm)
        self.multipliers = dict.fromkeys(("class_token", "distillation_token", "mask_token", "positions"), 1.0)

    def fill(self) -> None:
        """Set fixed positions: sines and cosines of the column, then of the row; zeros for tokens that are not patches."""
        if self.positions is None or self.positions.requires_grad:
            return
        (rows, columns), quarter = self.layer.grid, self.positions.shape[-1] // 4
        device = self.positions.device
        rates = 10000.0 ** (-torch.arange(quarter, device=device).double() / quarter)
        across = torch.outer(torch.arange(columns, device=device).double(), rates).expand(rows, -1, -1)
        down = torch.outer(torch.arange(rows, device=device).double(), rates)[:, None].expand(-1, columns, -1)
        grid = torch.cat((across.sin(), across.cos(), down.sin(), down.cos()), dim=-1).flatten(0, 1)
        self.positions.zero_()
        self.positions[0, -len(grid) :] = grid.to(self.positions.dtype)

    def forward(self, images: Tensor, segments: Tensor | None = None) -> Tensor:
        """Images (batch, channels, height, width) to the stream (batch, tokens, width)."""
        if tuple(images.shape[1:]) != self.size:
            raise InputError(
                f"the model takes images of shape {list(self.size)}, and these are of shape {list(images.shape[1:])}"
            )
        x = self.patch(images)
        first = [scale_by(getattr(self, name), self.multipliers[name]) for name in self.tokens]
        if first:
            x = torch.cat((*(token.expand(len(x), -1, -1).to(x.dtype) for token in first), x), dim=1)
        if self.positions is not None:
            x = x + scale_by(self.positions, self.multipliers["positions"])
        if self.layer.kept is not None:
            x = self._keep(x)
        return apply_dropout(x if self.norm is None else self.norm(x), self.rate, self.training)

    def _keep(self, x: Tensor) -> Tensor:
        """The tokens without the hidden patches."""
        first, kept = len(self.tokens), self.layer.kept
        patches = x[:, first:]
        noise = torch.rand(patches.shape[:2], device=x.device) if self.noise is None else self.noise
        chosen = noise.argsort(dim=1)[:, :kept, None].expand(-1, -1, x.shape[-1])
        return torch.cat((x[:, :first], patches.gather(1, chosen)), dim=1)
