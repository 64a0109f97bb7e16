"""Concentration of attention: entropy and squared sum of rows of probabilities, the only definition in the package."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Concentration(NamedTuple):
    """The concentration of each row of attention weights. To average over batches, average these values."""

    entropy: Tensor
    """Entropy in nats: ln n for n equal weights, 0 for a one-hot row."""
    squared_sum: Tensor
    """Sum of squared weights: 1/n for n equal weights, 1 for a one-hot row. Its inverse is the effective number of tokens."""


def concentration(weights: Tensor) -> Concentration:
    """Entropy and squared sum of probability rows.

    Parameters
    ----------
    weights : (..., keys), not negative, each row with sum 1. A weight of 0 contributes nothing.

    Returns
    -------
    Two tensors of shape (...), in the dtype of the weights.
    """
    return Concentration(torch.special.entr(weights).sum(-1), squared_sum(weights))


def squared_sum(weights: Tensor) -> Tensor:
    """The sum of squares of each probability row: (..., keys) to (...)."""
    return weights.square().sum(-1)
