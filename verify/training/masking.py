"""Masked-language modelling: the loss of hidden tokens, for the training loop of next tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from depthwidth.checks import check_whole
from depthwidth.errors import InputError

from ..models.model import IGNORED
from .corpus import hashed
from .train import Loss


def hidden_positions(tokens: Tensor, share: float) -> Tensor:
    """True at about a `share` of the positions of each sequence (..., length).

    The choice is a hash of the whole sequence and the position, so that training, evaluation, an ensemble and a resumed run all
    hide the same.
    """
    place = torch.arange(tokens.shape[-1], device=tokens.device)
    key = hashed(hashed(tokens.long() * 257 + place).sum(-1, keepdim=True))
    return hashed(key + place) & 0xFFFFFF < int(share * 2**24)


def masked_loss(mask_token: int, share: float = 0.15) -> Loss:
    """The mean cross-entropy of hidden tokens, in nats, of a model that takes targets; it ignores the targets of the loop.

    Parameters
    ----------
    mask_token : the token that replaces a hidden one; the model's vocabulary must have it.
    share : of the positions that are hidden.

    Raises
    ------
    InputError
        if the share is not between 0 and 1.
    """
    check_whole("masked_loss", 0, mask_token=mask_token)
    if not 0 < share < 1:
        raise InputError(f"masked_loss: share={share:g} is not between 0 and 1")

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        hidden = hidden_positions(inputs, share)
        shown = torch.where(hidden, torch.full_like(inputs, mask_token), inputs)
        _, mean = model(shown, torch.where(hidden, inputs, torch.full_like(inputs, IGNORED)))
        return mean

    return loss
