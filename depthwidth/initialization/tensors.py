"""The tensors of a tree: the role, kind, shape, fans and start of each, with those of equal blocks listed once.

A *site* is a path in the tree with the number of a block, ``decoder.block.17.attention.query.weight``. A *role* is the same
path without the number, ``decoder.block.attention.query.weight``, and refers to the tensor in every block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from ..architecture import Transformer
from ..layers import KINDS, BlockLike, Child, Kind, Layer, MixtureLike, Start
from ..layers.tensor import Shape, Tensor


class Weight(NamedTuple):
    """A tensor with one role: one in each of several equal blocks, or a single one outside of blocks."""

    role: str
    tensor: Tensor
    """The tensor as the component states it; its kind is the parent's if the component states a generic one."""
    shape: Shape
    """The shape of all copies together: equal experts are stacked."""
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
    """The blocks that have it, (0,) outside of blocks; of those that share it the first."""

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
        """Its starting values, unless a scheme sets others."""
        return self.tensor.start

    @property
    def fan_in(self) -> int:
        """Number of terms in the sum of one output; 1 for a table, because a single row is looked up."""
        return self.tensor.fan_in

    @property
    def fan_out(self) -> int:
        """Number of outputs to which one input contributes."""
        return self.tensor.fan_out

    @property
    def owner(self) -> Layer:
        """The innermost branch, or the stem, that it belongs to; otherwise the component that holds it."""
        return self.owners[-1] if self.owners else self.layer

    @property
    def mixture(self) -> MixtureLike | None:
        """The mixture of experts that the weight is part of; None if there is none."""
        return next((mixture for owner in self.owners if (mixture := owner.as_mixture) is not None), None)


TABLES = tuple(kind.name for kind in KINDS.values() if kind.group == "table")


def weights(tree: Transformer) -> Iterator[Weight]:
    """The tensors of a tree in the order of the forward pass, with those of equal blocks listed once."""
    collected: list[Weight] = []
    for child in tree.children():
        name, stack = child.name, tree.stacks.get(child.name)
        if stack is None:
            _collect(collected, child, name)
            continue
        before, after = stack.around
        for part in before:
            _collect(collected, part, f"{name}.{part.name}")
        blocks: dict[BlockLike, list[int]] = {}
        for index, block in enumerate(stack.blocks()):
            if stack.first_use(index) == index:
                blocks.setdefault(block, []).append(index)
        for block, indices in blocks.items():
            branches = {f"{name}.block.{branch}": branch for branch, _ in block.branches}
            _collect(collected, Child("block", block), f"{name}.block", stack=name, blocks=tuple(indices), branches=branches)
        for part in after:
            _collect(collected, part, f"{name}.{part.name}")
    return iter(collected)


def _collect(
    collected: list[Weight],
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
        collected.append(Weight(f"{role}.{name}", tensor, shape, layer, owners, child.reads, branch, stack, blocks))
    for part in layer.children():
        inner = f"{role}.{part.name}" if part.name else role
        _collect(collected, part, inner, copies * part.copies, owners, branch, stack, blocks, branches)


def parameters(tree: Transformer) -> Iterator[tuple[str, str, int | None, Shape]]:
    """Site, role, block and shape of every tensor, in the order of the forward pass; equal experts are stacked."""
    every = list(weights(tree))
    done_stacks = set()
    for weight in every:
        if not weight.stack:
            yield weight.role, weight.role, None, weight.shape
        elif weight.stack not in done_stacks:
            done_stacks.add(weight.stack)
            by_block: dict[int, list[Weight]] = {}
            for one in every:
                if one.stack == weight.stack:
                    for block in one.blocks:
                        by_block.setdefault(block, []).append(one)
            for block in sorted(by_block):
                for one in by_block[block]:
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
    each = {name: stack.repeats for name, stack in tree.stacks.items()}
    return {name: sum(run.times * len(run.block.branches) for run in runs) for name, runs in each.items()}


def sums_before(tree: Transformer, stack: str, size: Callable[[str], float]) -> dict[str, list[float]]:
    """For each branch of a stack, by block, the sum of `size` over the branches before it; blocks may differ in branches."""
    before: dict[str, list[float]] = {name: [] for name in tree.stacks[stack].branches}
    passed = 0.0
    for block in tree.stacks[stack].blocks():
        within: dict[str, float] = {}
        for name, _ in block.branches:
            within[name] = passed
            passed += size(name)
        for name, found in before.items():
            found.append(within.get(name, passed))
    return before
