"""The weights of an ensemble: one matrix with a row per member; the parameters of the members are views of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from depthwidth.errors import InputError

from .optim import Groups
from .train import Loss, WithLoss


@dataclass
class Part:
    """The place of one weight in a row: columns `start` to `stop`."""

    name: str
    shape: torch.Size
    start: int
    stop: int

    def view(self, matrix: Tensor) -> Tensor:
        """The weight of every row, as a view: (members, *shape)."""
        return matrix[:, self.start : self.stop].unflatten(1, self.shape) if self.shape else matrix[:, self.start]


class Members:
    """Models of one shape, whose weights are stored for training together.

    `weights` and `gradients` have one row per member. `parts` lists the place of each weight in a row. `stretches` are the
    parameter groups of each member's optimizer. `stacked` maps each weight's name to one tensor of all members, (members,
    *shape), a leaf of autograd.
    """

    def __init__(self, models: Sequence[nn.Module], groups: Sequence[Groups], loss: Loss, device: torch.device) -> None:
        self.models, self.loss, self.device, self.count = list(models), loss, device, len(models)
        self._lay_out(groups)

    def _lay_out(self, groups: Sequence[Groups]) -> None:
        """Copy all weights into one matrix. Weights of a group are adjacent, so optimizers update whole stretches of a row."""
        first = dict(self.models[0].named_parameters())
        names = {id(parameter): name for name, parameter in first.items()}
        order = [names[id(parameter)] for group in groups[0] for parameter in group["params"]]
        if not order:
            raise InputError("train_ensemble: the models have no trainable parameters")
        self.parts: list[Part] = []
        start = 0
        for name in order:
            size = first[name].numel()
            self.parts.append(Part(name, first[name].shape, start, start + size))
            start += size
        self.weights = torch.empty(self.count, start, device=self.device, dtype=first[order[0]].dtype)
        self.gradients = torch.zeros_like(self.weights)
        self.stretches: list[Groups] = []
        for member, (model, own) in enumerate(zip(self.models, groups, strict=True)):
            parameters = dict(model.named_parameters())
            rate = {id(p): (group["lr"], group["weight_decay"]) for group in own for p in group["params"]}
            if len(rate) > len(order):
                raise InputError(f"train_ensemble: member {member} trains weights that the first member does not")
            stretches: list[list[Any]] = []
            for part in self.parts:
                parameter = parameters[part.name]
                if id(parameter) not in rate:
                    raise InputError(f"train_ensemble: member {member} does not train {part.name}, but others do")
                with torch.no_grad():
                    row = self.weights[member, part.start : part.stop].view(part.shape)
                    row.copy_(parameter)
                    parameter.data = row
                    parameter.grad = self.gradients[member, part.start : part.stop].view(part.shape)
                if stretches and stretches[-1][2] == rate[id(parameter)]:
                    stretches[-1][1] = part.stop
                else:
                    stretches.append([part.start, part.stop, rate[id(parameter)]])
            member_groups: Groups = []
            for begin, end, (lr, decay) in stretches:
                stretch = self.weights[member, begin:end].requires_grad_()
                stretch.grad = self.gradients[member, begin:end]
                member_groups.append({"params": [stretch], "lr": lr, "weight_decay": decay})
            self.stretches.append(member_groups)
        self.stacked = {part.name: part.view(self.weights).detach().requires_grad_() for part in self.parts}
        self.stacked_gradients = [part.view(self.gradients) for part in self.parts]

    @cached_property
    def code(self) -> WithLoss:
        """The first member's code and the loss, without weights, to be called with any member's. Tied weights stay tied."""
        empty: dict[int, Any] = {id(one): nn.Parameter(one.to("meta")) for one in self.models[0].parameters()}
        return WithLoss(copy.deepcopy(self.models[0], empty), self.loss)

    def fixed_tensors(self, model: nn.Module) -> dict[str, Tensor]:
        """The weights of a model that are not trained, and its buffers, by name."""
        trained = {part.name for part in self.parts}
        frozen = {name: parameter for name, parameter in model.named_parameters() if name not in trained}
        return {**frozen, **dict(model.named_buffers())}

    @cached_property
    def stacked_buffers(self) -> dict[str, Tensor]:
        """Each buffer and each untrained weight of all members, stacked: (members, *shape).

        The members' buffers become views of it, so that values written in a pass (running means) are the member's own.
        """
        named = [self.fixed_tensors(model) for model in self.models]
        shapes = [{name: (buffer.shape, buffer.dtype) for name, buffer in own.items()} for own in named]
        if any(other != shapes[0] for other in shapes[1:]):
            raise InputError("train_ensemble: members have buffers of different names or shapes; use mode='loop'")
        _ = self.code  # copies the first member before its buffers become views
        stacked = {}
        for name in named[0]:
            stacked[f"model.{name}"] = torch.stack([own[name].detach() for own in named])
            for own, row in zip(named, stacked[f"model.{name}"], strict=True):
                own[name].data = row
        return stacked
