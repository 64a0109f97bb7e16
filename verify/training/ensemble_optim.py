"""The optimizers of an ensemble: learning-rate schedules, clipping, and the state that a checkpoint keeps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .ensemble_members import Members
from .ensemble_passes import PassMode
from .optim import clip, make_optimizer, schedule_factor
from .settings import Training


class MemberOptimizers:
    """The optimizers of all members.

    In ``loop`` each member has its own optimizer. In ``batched``, members share one if they differ only in learning rate,
    schedule, weight decay and clipping threshold. On a GPU the time of an update depends on its number of calls; with one
    optimizer per member these calls would take longer than the forward and backward passes.
    """

    def __init__(self, members: Members, trainings: Sequence[Training], mode: PassMode) -> None:
        self.members, self.trainings, self.mode = members, trainings, mode
        sharing: dict[Hashable, list[int]] = {}
        for member, training in enumerate(trainings):
            constants = (training.beta1, training.beta2, training.epsilon, training.momentum)
            sharing.setdefault(member if self._clips_alone(member) else constants, []).append(member)
        self._optimizers = [(one, self._make(one)) for one in sharing.values()]
        limits = [
            math.inf if training.clip is None or self._clips_alone(member) else training.clip
            for member, training in enumerate(trainings)
        ]
        self._limits = None if min(limits) == math.inf else torch.tensor(limits, device=members.device)

    def _clips_alone(self, member: int) -> bool:
        return self.mode == "loop" or self.trainings[member].relative_clip is not None

    def _make(self, members: Sequence[int]) -> torch.optim.Optimizer:
        """One optimizer for given members. Stretches with the same schedule, learning rate and decay form one group."""
        groups: dict[Hashable, dict[str, Any]] = {}
        for member in members:
            schedule = dataclasses.replace(self.trainings[member], seed=0, data_seed=0)
            for stretch in self.members.stretches[member]:
                key = (schedule, stretch["lr"], stretch["weight_decay"])
                groups.setdefault(key, {**stretch, "params": [], "training": schedule})["params"] += stretch["params"]
        return make_optimizer(self.trainings[members[0]], list(groups.values()), self.members.device)

    def step_together(self, step: int) -> None:
        """Clip the gradients and update all members, after `step` updates."""
        if self._limits is not None:
            # verify.training.optim.clip for all members at once, each at its own threshold
            lengths = torch.linalg.vector_norm(self.members.gradients, dim=1)
            self.members.gradients.mul_((self._limits / (lengths + 1e-6)).clamp(max=1.0).unsqueeze(1))
        for index in range(len(self._optimizers)):
            self.step(index, step)

    def step(self, index: int, step: int) -> None:
        """Update the members of one optimizer, after `step` updates; in ``loop``, of the member `index`."""
        (first, *_), optimizer = self._optimizers[index]
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * schedule_factor(group["training"], step)
        if self._clips_alone(first):
            clip(self.trainings[first], optimizer)
        optimizer.step()

    def state(self) -> dict[str, Tensor]:
        """The optimizers' tensors by names that do not depend on the sharing of optimizers."""
        return {
            f"optimizer/{member}/{index}/{key}": value
            for members, optimizer in self._optimizers
            for member in members
            for index, stretch in enumerate(self.members.stretches[member])
            for key, value in optimizer.state[stretch["params"][0]].items()
            if isinstance(value, Tensor)
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state` gave; other tensors are ignored."""
        owner = {member: optimizer for members, optimizer in self._optimizers for member in members}
        for name, tensor in tensors.items():
            if name.startswith("optimizer/"):
                _, member, index, key = name.split("/")
                stretch = self.members.stretches[int(member)][int(index)]
                owner[int(member)].state[stretch["params"][0]][key] = tensor.to(self.members.device)
