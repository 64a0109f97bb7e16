"""The tensors of a tree: role, kind, shape, fans and start of each, those of equal blocks once.

A *site* is a path in the tree with the number of a block, ``decoder.block.17.attention.query.weight``. A *role* is the same
path without it, ``decoder.block.attention.query.weight``, and stands for the tensor in every block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from ..architecture import Transformer
from ..layers import KINDS, BlockLike, Child, Kind, Layer, MixtureLike, Start
from ..layers.tensor import Shape, Tensor


class Weight(NamedTuple):
    """A tensor with one role: it stands in each of several equal blocks, or once outside of blocks."""

    role: str
    tensor: Tensor
    """As the component states it; its kind is the parent's word for it if the component has none."""
    shape: Shape
    """Of all copies together: equal experts are stacked."""
    layer: Layer
    owners: tuple[Layer, ...]
    """The branches or the stem that it belongs to, from the outermost: of an expert's weight the mixture, then the expert."""
    reads: str
    """The activation whose output it multiplies, by name; empty if there is none."""
    branch: str
    """Path, from its block, of the residual branch that it belongs to, such as ``attention``; empty for none."""
    stack: str
    """``encoder`` or ``decoder`` for a tensor of a block, otherwise empty."""
    blocks: tuple[int, ...]
    """The blocks that have it, (0,) outside of blocks."""

    @property
    def kind(self) -> str:
        """Its job, a name of :data:`~depthwidth.layers.tensor.KINDS`."""
        return self.tensor.kind

    @property
    def job(self) -> Kind:
        """The entry of :data:`~depthwidth.layers.tensor.KINDS` for its kind."""
        return KINDS[self.tensor.kind]

    @property
    def start(self) -> Start:
        """The values it starts with, unless a scheme has a reason to differ."""
        return self.tensor.start

    @property
    def fan_in(self) -> int:
        """Numbers that one output is a sum over; 1 for a table, of which one row is looked up."""
        return self.tensor.fan_in

    @property
    def fan_out(self) -> int:
        """Outputs that one input contributes to."""
        return self.tensor.fan_out

    @property
    def owner(self) -> Layer:
        """The innermost branch, or the stem, that it belongs to; otherwise the component that holds it."""
        return self.owners[-1] if self.owners else self.layer

    @property
    def mixture(self) -> MixtureLike | None:
        """The mixture of experts that the weight is part of, if it is."""
        return next((found for owner in self.owners if (found := owner.as_mixture) is not None), None)


TABLES = tuple(kind.name for kind in KINDS.values() if kind.group == "table")


def weights(tree: Transformer) -> Iterator[Weight]:
    """The tensors of a tree, those of equal blocks once, in the order a signal meets them."""
    found: list[Weight] = []
    for child in tree.children():
        name, stack = child.name, tree.stacks.get(child.name)
        if stack is None:
            _collect(found, child, name)
            continue
        before, after = stack.around
        for part in before:
            _collect(found, part, f"{name}.{part.name}")
        places: dict[BlockLike, list[int]] = {}
        for index, block in enumerate(stack.blocks()):
            places.setdefault(block, []).append(index)
        for block, indices in places.items():
            branches = {f"{name}.block.{branch}": branch for branch, _ in block.branches}
            _collect(found, Child("block", block), f"{name}.block", stack=name, blocks=tuple(indices), branches=branches)
        for part in after:
            _collect(found, part, f"{name}.{part.name}")
    return iter(found)


def _collect(
    found: list[Weight],
    child: Child,
    role: str,
    copies: int = 1,
    owners: tuple[Layer, ...] = (),
    branch: str = "",
    stack: str = "",
    blocks: tuple[int, ...] = (0,),
    branches: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Add the weights of a part and of everything in it; `branches` maps the roles of a block's residual branches to names."""
    layer = child.layer
    if layer.owner:
        owners = (*owners, layer)
    branch = branch or branches.get(role, "")
    for name, tensor in layer.tensors().items():
        if child.kind and KINDS[tensor.kind].generic:
            tensor = tensor._replace(kind=child.kind)
        shape = (copies, *tensor.shape) if copies > 1 else tensor.shape
        found.append(Weight(f"{role}.{name}", tensor, shape, layer, owners, child.reads, branch, stack, blocks))
    for part in layer.children():
        inner = f"{role}.{part.name}" if part.name else role
        _collect(found, part, inner, copies * part.copies, owners, branch, stack, blocks, branches)


def parameters(tree: Transformer) -> Iterator[tuple[str, str, int | None, Shape]]:
    """Name (its site), role, block and shape of every tensor, in the order a signal meets them; equal experts are stacked."""
    every = list(weights(tree))
    done = set()
    for weight in every:
        if not weight.stack:
            yield weight.role, weight.role, None, weight.shape
        elif weight.stack not in done:
            done.add(weight.stack)
            inside: dict[int, list[Weight]] = {}
            for one in every:
                if one.stack == weight.stack:
                    for block in one.blocks:
                        inside.setdefault(block, []).append(one)
            for block in sorted(inside):
                for one in inside[block]:
                    yield site_of(one.role, block), one.role, block, one.shape


def site_of(role: str, block: int | None) -> str:
    """The path of a role in one block; the role itself outside of blocks.

    >>> site_of("decoder.block.attention.out.weight", 3)
    'decoder.block.3.attention.out.weight'
    """
    return role if block is None else role.replace(".block.", f".block.{block}.", 1)


def stacks(tree: Transformer) -> list[tuple[str, int, tuple[str, ...]]]:
    """Name, depth and branches of each stack, the branches in order."""
    return [(name, stack.depth, stack.branches) for name, stack in tree.stacks.items()]


def depths_of(tree: Transformer) -> dict[str, int]:
    """Number of blocks by stack."""
    return {name: depth for name, depth, _ in stacks(tree)}


def branch_counts(tree: Transformer) -> dict[str, int]:
    """Number of residual branches by stack."""
    return {name: depth * len(branches) for name, depth, branches in stacks(tree)}
