"""The weights of an ensemble: one matrix with a row a member, of which the members' own parameters are views."""

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
    """Where one weight lies in a row."""

    name: str
    shape: torch.Size
    start: int
    stop: int

    def of(self, matrix: Tensor) -> Tensor:
        """The weight in every row: (members, *shape)."""
        return matrix[:, self.start : self.stop].unflatten(1, self.shape) if self.shape else matrix[:, self.start]


class Members:
    """Models of one shape, laid out for training together.

    `weights` and `gradients` have a row a member; `parts` says where each weight lies in a row; `stretches` are each member's
    groups for an optimizer; `stacked` has each weight of all members as one tensor (members, *shape), a leaf of autograd.
    """

    def __init__(self, models: Sequence[nn.Module], groups: Sequence[Groups], loss: Loss, device: torch.device) -> None:
        self.models, self.loss, self.device, self.count = list(models), loss, device, len(models)
        self._lay_out(groups)

    def _lay_out(self, groups: Sequence[Groups]) -> None:
        """Weights of one group of the first member go side by side; optimizers take whole stretches of a row."""
        first = dict(self.models[0].named_parameters())
        names = {id(parameter): name for name, parameter in first.items()}
        order = [names[id(parameter)] for group in groups[0] for parameter in group["params"]]
        if not order:
            raise InputError("train_ensemble: the models have no parameter to train")
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
                raise InputError(f"train_ensemble: member {member} trains weights that the first one does not")
            stretches: list[list[Any]] = []
            for part in self.parts:
                parameter = parameters[part.name]
                if id(parameter) not in rate:
                    raise InputError(f"train_ensemble: member {member} does not train {part.name}, and others do")
                with torch.no_grad():
                    row = self.weights[member, part.start : part.stop].view(part.shape)
                    row.copy_(parameter)
                    parameter.data = row
                    parameter.grad = self.gradients[member, part.start : part.stop].view(part.shape)
                if stretches and stretches[-1][2] == rate[id(parameter)]:
                    stretches[-1][1] = part.stop
                else:
                    stretches.append([part.start, part.stop, rate[id(parameter)]])
            taken: Groups = []
            for begin, end, (lr, decay) in stretches:
                stretch = self.weights[member, begin:end].requires_grad_()
                stretch.grad = self.gradients[member, begin:end]
                taken.append({"params": [stretch], "lr": lr, "weight_decay": decay})
            self.stretches.append(taken)
        self.stacked = {part.name: part.of(self.weights).detach().requires_grad_() for part in self.parts}
        self.stacked_gradients = [part.of(self.gradients) for part in self.parts]

    @cached_property
    def code(self) -> WithLoss:
        """The first member's code and the loss, to be called with anyone's weights; those that are tied stay one."""
        empty: dict[int, Any] = {id(one): nn.Parameter(one.to("meta")) for one in self.models[0].parameters()}
        return WithLoss(copy.deepcopy(self.models[0], empty), self.loss)

    def held(self, model: nn.Module) -> dict[str, Tensor]:
        """What a model has beside the weights that are trained, by name."""
        trained = {part.name for part in self.parts}
        still = {name: one for name, one in model.named_parameters() if name not in trained}
        return {**still, **dict(model.named_buffers())}

    @cached_property
    def stacked_buffers(self) -> dict[str, Tensor]:
        """Each buffer, and each weight that is not trained, of all members: (members, *shape).

        The members' own become views of it, so that what a pass writes there (running means) is theirs. One that never changes
        costs nothing.
        """
        named = [self.held(model) for model in self.models]
        shapes = [{name: (buffer.shape, buffer.dtype) for name, buffer in some.items()} for some in named]
        if any(some != shapes[0] for some in shapes[1:]):
            raise InputError("train_ensemble: members have buffers of different names or shapes; take mode='loop'")
        _ = self.code  # copies the first member, while its buffers are its own
        stacked = {}
        for name in named[0]:
            stacked[f"model.{name}"] = torch.stack([some[name].detach() for some in named])
            for some, row in zip(named, stacked[f"model.{name}"], strict=True):
                some[name].data = row
        return stacked
