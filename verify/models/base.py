# mypy: disable-error-code="misc, no-any-return"
"""The registry of torch modules, their base classes, and small steps that several of them share.

A user's component needs a module, registered with :func:`builds`:

>>> from depthwidth.layers.base import component
>>> @component
... class Doubling(layers.Layer):
...     '''Twice its input.'''
>>> @builds(Doubling)
... class DoublingModule(nn.Module):
...     def __init__(self, layer: Doubling) -> None:
...         super().__init__()
...
...     def forward(self, x: Tensor) -> Tensor:
...         return 2 * x
>>> module(Doubling())
DoublingModule()

Modules are created on the device ``meta``; their memory and weights follow later. So a module computes constant tensors in
`forward` and does not draw its parameters. The name of a parameter is that of the component's tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from depthwidth import layers
from depthwidth.errors import InputError
from depthwidth.plugins import plugins

Maker = Callable[[Any], nn.Module]
M = TypeVar("M", bound=Maker)

_MAKERS: dict[type[layers.Layer], Maker] = {}


def builds(*components: type[layers.Layer]) -> Callable[[M], M]:
    """Decorate the class or function that makes the torch module of a component; it is called with the component.

    The module of a component also serves its subclasses without a module. A later registration replaces an earlier one.
    """

    def register(maker: M) -> M:
        _MAKERS.update(dict.fromkeys(components, maker))
        return maker

    return register


def module(layer: layers.Layer) -> nn.Module:
    """The torch module of a component, on the current device, before its weights are drawn.

    Raises
    ------
    InputError
        if no module is registered for the component or a class it inherits from.
    """
    maker = _maker(layer)
    if maker is None:
        for _ in plugins("depthwidth.components"):
            pass  # a package registers its modules when it is imported
        maker = _maker(layer)
    if maker is not None:
        return maker(layer)
    name = type(layer).__name__
    raise InputError(f"{name} has no torch module: decorate one with @verify.models.base.builds({name})")


def _maker(layer: layers.Layer) -> Maker | None:
    return next((_MAKERS[kind] for kind in type(layer).__mro__ if kind in _MAKERS), None)


def optional(layer: layers.Layer | None) -> nn.Module | None:
    """The module of a component that may be absent."""
    return None if layer is None else module(layer)


def add_tensors(owner: nn.Module, layer: layers.Layer) -> None:
    """Give `owner` the component's own tensors as parameters, under the same names."""
    for name, tensor in layer.tensors().items():
        owner.register_parameter(name, nn.Parameter(torch.empty(tensor.shape)))


def add_children(owner: nn.Module, layer: layers.Layer) -> None:
    """Give `owner` the modules of the component's parts, under the same names."""
    for name, part, *_ in layer.children():
        owner.add_module(name, module(part))


def scale_by(x: Tensor, factor: float) -> Tensor:
    """``factor * x``; `x` itself if the factor is 1."""
    return x if factor == 1.0 else factor * x


def apply_dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """`x` after dropout; `x` itself outside of training."""
    return F.dropout(x, rate) if rate and training else x


def set_multiplier(owner: nn.Module, tensor: str, factor: float) -> None:
    """Set the factor of `owner` on the output of one of its tensors.

    A module stores the factor of its ``weight`` as ``multiplier`` and that of a tensor with another name in the dictionary
    ``multipliers``. A bias has the factor of its weight.

    Raises
    ------
    InputError
        if the module has no place for the factor, unless the factor is 1.
    """
    if tensor in getattr(owner, "multipliers", {}):
        owner.multipliers[tensor] = factor
    elif tensor == "weight" and hasattr(owner, "multiplier"):
        owner.multiplier = factor
    elif factor != 1.0 and not tensor.endswith("bias"):
        place = f"{type(owner).__name__}.multipliers[{tensor!r}]"
        raise InputError(f"the recipe multiplies the output of {tensor} by {factor:.6g}, but there is no {place} for it")


def multiplier_of(owner: nn.Module, tensor: str) -> float:
    """The factor of a module on the output of one of its tensors, as :func:`set_multiplier` set it."""
    found = getattr(owner, "multipliers", {}).get(tensor)
    if found is None:
        found = getattr(owner, "multiplier", 1.0) if tensor == "weight" else 1.0
    return float(found)


class Undrawn:
    """A base class that keeps torch's modules from drawing weights on creation, since a recipe draws them."""

    def reset_parameters(self) -> None:
        """Do nothing."""


class Table(Undrawn, nn.Embedding):
    """A vector of `width` features for each of `rows` tokens, positions or segments."""

    multiplier = 1.0

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002, torch's name
        """Whole numbers (...) to vectors (..., width)."""
        return scale_by(super().forward(input), self.multiplier)


@dataclass
class Pass:
    """Data that the blocks of a stack share in one forward pass: another stack's output, a score bias, cached tables."""

    memory: Tensor | None = None
    bias: Tensor | None = None
    inputs: Tensor | None = None
    """A vector from the stem for each token and block: (batch, length, blocks, features)."""
    segments: Tensor | None = None
    """The segment of each token, which score biases read: (batch, length); None if all are 0."""
    block: int = 0
    """The number of the block at work."""
    tables: dict[Hashable, Any] = field(default_factory=dict)
    kept: dict[Hashable, Any] = field(default_factory=dict)
    """Tensors that a block keeps for later ones, such as its keys and values."""

    def table(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """The table of this key, computed on first use."""
        if key not in self.tables:
            self.tables[key] = make()
        return self.tables[key]

    @property
    def block_input(self) -> Tensor:
        """The vectors of the block at work: (batch, length, features).

        Raises
        ------
        InputError
            if the stem made none.
        """
        if self.inputs is None:
            raise InputError("the block reads a vector for each token from the stem, and there are none")
        return self.inputs[:, :, self.block]


class Branch(nn.Module):
    """A residual branch: ``norm_stream(skip x + scale layer_scale dropout(norm_out(branch(norm_in(x)))))``.

    A subclass computes `branch`; the norms and the dropout rate come from the :class:`~depthwidth.layers.Residual` around it.
    `skip` and `scale` come from a recipe; a trainable `alpha` replaces `scale` under ReZero and SkipInit.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_module("norm_in", None)  # first in the order of a forward pass
        self.norm_out: nn.Module | None = None
        self.norm_stream: nn.Module | None = None
        self.rate = 0.0
        self.skip = self.scale = self.own_scale = 1.0
        self.register_parameter("layer_scale", None)
        self.register_parameter("alpha", None)

    def branch(self, x: Tensor, run: Pass) -> Tensor:
        """The branch itself: features (batch, length, width) to features of the same shape."""
        raise NotImplementedError

    def read_stream(self, x: Tensor) -> Tensor:
        """The part of the stream that the branch reads."""
        return x if self.norm_in is None else self.norm_in(x)

    def summand(self, x: Tensor, run: Pass) -> Tensor:
        """The term of the stream: the branch with its norms, dropout and scale."""
        return self.finish_branch(self.branch(self.read_stream(x), run))

    def finish_branch(self, y: Tensor) -> Tensor:
        """The term of the stream, given the branch's output."""
        y = apply_dropout(y if self.norm_out is None else self.norm_out(y), self.rate, self.training)
        y = y if self.layer_scale is None else y * self.layer_scale
        return scale_by(y, self.scale) if self.alpha is None else self.alpha * y

    def forward(self, x: Tensor, run: Pass) -> Tensor:
        """The stream (batch, length, width) after this branch."""
        y = scale_by(x, self.skip) + self.summand(x, run)
        return y if self.norm_stream is None else self.norm_stream(y)
