# mypy: disable-error-code="misc, no-any-return"
"""What the modules of all components share: how the module of a component is found, and small steps of a forward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from depthwidth import layers
from depthwidth.errors import InputError


@functools.singledispatch
def module(layer: layers.Layer) -> nn.Module:
    """The module of one component. Register a new component with ``module.register(Component, Module)``.

    Raises
    ------
    InputError
        if no module is registered for the component.
    """
    raise InputError(f"{type(layer).__name__} has no torch module: register one with verify.models.model.module")


def _optional(layer: layers.Layer | None) -> nn.Module | None:
    return None if layer is None else module(layer)


def _scaled(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1.0 else factor * x


def _dropped(x: Tensor, rate: float, training: bool) -> Tensor:
    return F.dropout(x, rate) if rate and training else x


class _Unset:
    """For torch's modules that draw weights when they are made: a recipe sets ours."""

    def reset_parameters(self) -> None:
        """Nothing."""


@dataclass
class Pass:
    """What the blocks of a stack share in one pass: another stack's output, a score bias, tables made once."""

    memory: Tensor | None = None
    bias: Tensor | None = None
    tables: dict[Hashable, Any] = field(default_factory=dict)

    def table(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The table of this key, made when it is first asked for."""
        if key not in self.tables:
            self.tables[key] = make()
        return self.tables[key]


class Residual(nn.Module):
    """``norm_stream(skip x + scale dropout(norm_out(branch(norm_in(x)))))``: what every branch is.

    A subclass says what `branch` does. `skip` and `scale` are a recipe's; a trainable `alpha` stands in place of `scale`
    where the recipe is ReZero's or SkipInit's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_module("norm_in", None)  # first, as a signal meets it
        self.norm_out: nn.Module | None = None
        self.norm_stream: nn.Module | None = None
        self.rate = 0.0
        self.skip = self.scale = 1.0
        self.register_parameter("alpha", None)

    def branch(self, x: Tensor, run: Pass) -> Tensor:
        """Features (batch, length, width) to what is added to the stream."""
        raise NotImplementedError

    def added(self, x: Tensor, run: Pass) -> Tensor:
        """What is added to the stream: the branch with its norms, dropout and scale."""
        y = self.branch(x if self.norm_in is None else self.norm_in(x), run)
        y = _dropped(y if self.norm_out is None else self.norm_out(y), self.rate, self.training)
        return _scaled(y, self.scale) if self.alpha is None else self.alpha * y

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """The stream (batch, length, width) behind this branch."""
        y = _scaled(x, self.skip) + self.added(x, run)
        return y if self.norm_stream is None else self.norm_stream(y)
