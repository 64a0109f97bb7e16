"""Optimizers: learning-rate schedules, parameter groups with and without weight decay, and gradient clipping.

>>> from verify.training.settings import Training
>>> training = Training(steps=7, warmup=2, schedule="linear", final=0.0)
>>> [round(schedule_factor(training, step), 2) for step in range(7)]
[0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from depthwidth.errors import InputError

from .scale_invariant import scale_decaying, split_optimizer
from .settings import Training

Groups = list[dict[str, Any]]
"""Parameter groups in the format of torch optimizers, each with ``params``, ``lr`` and ``weight_decay``."""


def schedule_factor(training: Training, step: int) -> float:
    """Learning rate of update number `step` (counted from 0), as a fraction of the peak.

    It rises linearly over `warmup` updates and reaches 1 at the last of them. After that ``cosine`` and ``linear`` fall to
    `final` over the remaining updates, and ``constant`` stays at 1. ``wsd`` (warm-up, stable, decay) stays at 1 until the last
    fraction `cooldown` of all updates, then falls linearly to `final`.
    """
    if step < training.warmup:
        return (step + 1) / training.warmup
    start, steps, final = training.warmup, training.steps, training.final
    if training.schedule == "constant":
        return 1.0
    if training.schedule == "wsd":
        start = max(start, steps - round(training.cooldown * steps))
    t = min(max((step - start) / max(steps - start, 1), 0.0), 1.0)
    if training.schedule == "cosine":
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * t))
    return 1 - (1 - final) * t


def default_groups(model: nn.Module, learning_rate: float, weight_decay: float) -> Groups:
    """Two parameter groups: matrices decay; gains and biases, which have fewer than two dimensions, do not."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trainable if parameter.dim() >= 2]
    vectors = [parameter for parameter in trainable if parameter.dim() < 2]
    rates = ((matrices, weight_decay), (vectors, 0.0))
    return [{"params": params, "lr": learning_rate, "weight_decay": decay} for params, decay in rates if params]


def make_optimizer(training: Training, groups: Groups, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer of a run, in its fused form if the device has one. Each group stores its peak learning rate as ``base``."""
    if not any(group["params"] for group in groups):
        raise InputError("train: the model has no trainable parameters")
    for group in groups:
        group["base"] = group["lr"]
    if training.optimizer == "scale-invariant":
        return split_optimizer(training, groups, _fused(device))
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.learning_rate, momentum=training.momentum, fused=_fused(device))
    return torch.optim.AdamW(
        groups, lr=training.learning_rate, betas=(training.beta1, training.beta2), eps=training.epsilon, fused=_fused(device)
    )


def _fused(device: torch.device) -> bool | None:
    return True if device.type in {"cpu", "cuda"} else None


def clip(training: Training, optimizer: torch.optim.Optimizer) -> Tensor | None:
    """Scale gradients above a threshold down to it, in place.

    There are two thresholds, both for a global norm; neither synchronises with the device:

    - ``clip``: a number, for all parameters together (:func:`torch.nn.utils.clip_grad_norm_`);
    - ``relative_clip`` = C: ``sqrt(2 C lambda / eta)`` times the norm of the weights, for all parameters with weight decay;
      lambda is the weight decay and eta the learning rate of their group (Li et al. 2022, arXiv 2202.00980, algorithm 1, with
      sqrt(C) = 2). C = 1 is the gradient norm of scale-invariant weights at equilibrium, so C must exceed 1.

    With the optimizer ``scale-invariant`` the second is for scale-invariant weights alone, and the first for all others.

    Returns
    -------
    The norm of the gradient of all parameters before clipping, shape (), on their device; None if both thresholds are None.
    """
    if training.clip is None and training.relative_clip is None:
        return None
    groups = optimizer.param_groups
    inside = [group for group in groups if group.get("scale_invariant")]
    outside = [group for group in groups if not group.get("scale_invariant")]
    parameters = [parameter for group in outside for parameter in group["params"]]
    norm: Tensor = nn.utils.clip_grad_norm_(parameters, math.inf if training.clip is None else training.clip)
    if inside:
        own = [parameter.grad for group in inside for parameter in group["params"] if parameter.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack([norm, *torch._foreach_norm(own)]))
    if training.relative_clip is not None:
        scale_decaying(inside or outside, training.relative_clip)
    return norm
