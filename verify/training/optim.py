"""What moves the weights: schedules of the learning rate, groups of decay, and the two ways to clip a gradient.

>>> from verify.training.settings import Training
>>> training = Training(steps=7, warmup=2, schedule="linear", final=0.0)
>>> [round(factor(training, step), 2) for step in range(7)]
[0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from depthwidth.errors import InputError

from .settings import Training

Groups = list[dict[str, Any]]
"""Groups of parameters as a torch optimizer takes them, each with ``params``, ``lr`` and ``weight_decay``."""


def factor(training: Training, step: int) -> float:
    """What the learning rate of update number `step`, from 0, is multiplied by.

    It rises linearly over `warmup` updates, reaching 1 with the last of them. Then, with t from 0 to 1 over the rest:
    ``cosine`` and ``linear`` fall to `final`, ``constant`` stays, and ``wsd`` (warm-up, stable, decay) stays until the last
    `cooldown` of all updates, over which it falls linearly to `final`.
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
    """Matrices decay; gains and biases, which have fewer than two dimensions, do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.dim() >= 2]
    vectors = [parameter for parameter in trained if parameter.dim() < 2]
    rates = ((matrices, weight_decay), (vectors, 0.0))
    return [{"params": some, "lr": learning_rate, "weight_decay": decay} for some, decay in rates if some]


def make_optimizer(training: Training, groups: Groups, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer of a run, in its fused form where there is one; each group remembers its full rate as ``base``."""
    if not any(group["params"] for group in groups):
        raise InputError("train: the model has no parameter to train")
    for group in groups:
        group["base"] = group["lr"]
    if training.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=training.learning_rate, momentum=training.momentum, fused=_fused(device))
    return torch.optim.AdamW(
        groups, lr=training.learning_rate, betas=(training.beta1, training.beta2), eps=training.epsilon, fused=_fused(device)
    )


def _fused(device: torch.device) -> bool | None:
    return True if device.type in {"cpu", "cuda"} else None


def clip(training: Training, optimizer: torch.optim.Optimizer) -> Tensor | None:
    """Shrink gradients that are too long, in place, and return the norm that all had together; None if nothing is clipped.

    Two thresholds, each for a global norm, without waiting for the device:

    - ``clip``: a number, for all parameters together (:func:`torch.nn.utils.clip_grad_norm_`);
    - ``relative_clip`` = C: ``sqrt(2 C lambda / eta)`` times the norm of the weights, for the parameters that decay at their
      group's rate lambda while they learn at eta (Li et al. 2022, arXiv 2202.00980, algorithm 1; there sqrt(C) = 2). With C = 1
      it is the gradient that scale-invariant weights have at equilibrium, so that C must exceed 1.
    """
    if training.clip is None and training.relative_clip is None:
        return None
    groups = optimizer.param_groups
    parameters = [parameter for group in groups for parameter in group["params"]]
    whole: Tensor = nn.utils.clip_grad_norm_(parameters, math.inf if training.clip is None else training.clip)
    if training.relative_clip is not None:
        _clip_relatively(training.relative_clip, groups)
    return whole


def _clip_relatively(C: float, groups: Groups) -> None:
    held = [
        (parameter, group["weight_decay"] / group["lr"])
        for group in groups
        if group["weight_decay"] > 0 and group["lr"] > 0
        for parameter in group["params"]
        if parameter.grad is not None
    ]
    if not held:
        return
    gradients = [parameter.grad for parameter, _ in held]
    # Groups may decay and learn at rates of their own; each weight then counts by its own ratio.
    norms = torch.stack(torch._foreach_norm([parameter.detach() for parameter, _ in held]))
    ratios = torch.tensor([ratio for _, ratio in held], dtype=norms.dtype, device=norms.device)
    limit = math.sqrt(2 * C) * torch.linalg.vector_norm(norms * ratios.sqrt())
    length = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (limit / length.clamp(min=1e-30)).clamp(max=1.0))
