"""The tensors of a tree: role, kind and shape of each, those of equal blocks once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from ..architecture import Transformer
from ..layers import (
    Attention,
    Block,
    ClassifierHead,
    Embedding,
    FeedForward,
    LearnedPositions,
    Linear,
    MixtureOfExperts,
    Norm,
    PatchStem,
    RelativeBias,
    Stack,
    TokenStem,
    Unembedding,
)
from ..layers.base import Layer, Shape


class Weight(NamedTuple):
    """A tensor that stands at one place in each of several equal blocks, or once outside of them."""

    role: str
    kind: str
    """What it does: tokens, positions, segments, class_token, patch, projection, query, key, value, out, gate, up, down,
    router, shared_gate, gain, bias, score_bias, transform, pooler, classifier, unembedding."""
    shape: Shape
    """Of all copies together: equal experts are stacked."""
    layer: Layer
    owner: Layer
    """The attention, feed-forward part or stem that it belongs to; otherwise the layer itself."""
    mixture: MixtureOfExperts | None
    """The mixture of experts that the owner is part of, where it is."""
    stack: str
    """``encoder`` or ``decoder`` for what stands in a block, otherwise empty."""
    blocks: tuple[int, ...]
    """The blocks that have it, (0,) outside of blocks."""

    @property
    def branch(self) -> str:
        """``attention``, ``cross_attention`` or ``feed_forward``, empty for what belongs to no branch."""
        parts = self.role.split(".")
        return parts[2] if self.stack and parts[2] in BRANCHES else ""

    @property
    def fan_in(self) -> int:
        """Numbers that one output is a sum over; a table looks one row up."""
        if isinstance(self.layer, Linear):
            return self.layer.inputs
        if self.kind == "patch":
            return math.prod(self.shape[1:])
        return self.shape[-1] if self.kind == "unembedding" else 1

    @property
    def fan_out(self) -> int:
        """Outputs that one input contributes to."""
        if isinstance(self.layer, Linear):
            return self.layer.outputs
        return self.shape[0] if self.kind in ("patch", "unembedding") else self.shape[-1]


BRANCHES = ("attention", "cross_attention", "feed_forward")
TABLES = ("tokens", "positions", "segments", "class_token")
VECTORS = ("gain", "bias", "score_bias")
INNER = ("query", "key", "value", "out", "gate", "up", "down")
_LINEARS = {name: name for name in (*INNER, "router", "shared_gate", "projection", "transform")}


def weights(tree: Transformer) -> Iterator[Weight]:
    """The tensors of a tree, those of equal blocks once."""
    for child in tree.children():
        if not isinstance(child.layer, Stack):
            yield from _weights_of(tree, child.layer, child.name, "", (0,))
            continue
        stack, name = child.layer, child.name
        if stack.position is not None:
            yield from _weights_of(tree, stack.position, f"{name}.position", "", (0,))
        kinds: dict[Block, list[int]] = {}
        for index, block in enumerate(stack.blocks()):
            kinds.setdefault(block, []).append(index)
        for block, places in kinds.items():
            yield from _weights_of(tree, block, f"{name}.block", name, tuple(places))
        if stack.norm is not None:
            yield from _weights_of(tree, stack.norm, f"{name}.norm", "", (0,))


def _weights_of(tree: Transformer, layer: Layer, site: str, stack: str, blocks: tuple[int, ...]) -> Iterator[Weight]:
    owner: Layer | None = None
    mixture: MixtureOfExperts | None = None
    place = around = ""
    for node in layer.walk(site):
        if isinstance(node.layer, (Attention, FeedForward, TokenStem, PatchStem)):
            place, owner = node.site, node.layer
        elif isinstance(node.layer, MixtureOfExperts):
            around, mixture = node.site, node.layer
        mine = owner if owner is not None and node.site.startswith(place) else node.layer
        group = mixture if mixture is not None and node.site.startswith(around) else None
        for name, shape in node.layer.tensors().items():
            role = f"{node.site}.{name}"
            whole = (node.copies, *shape) if node.copies > 1 else shape
            yield Weight(role, _kind(tree, role, node.layer, name), whole, node.layer, mine, group, stack, blocks)


def _kind(tree: Transformer, role: str, layer: Layer, name: str) -> str:
    if isinstance(layer, Norm):
        return "gain" if name == "weight" else "bias"
    if name.endswith("bias"):
        return "bias"
    if isinstance(layer, PatchStem):
        return {"patch.weight": "patch", "class_token": "class_token"}.get(name, "positions")
    if isinstance(layer, LearnedPositions):
        return "positions"
    if isinstance(layer, RelativeBias):
        return "score_bias"
    if isinstance(layer, Unembedding):
        return "unembedding"
    last = role.split(".")[-2]
    if isinstance(layer, Embedding):
        return last
    if last in _LINEARS:
        return last
    return "classifier" if isinstance(tree.head, ClassifierHead) and role == "head.linear.weight" else "pooler"


def parameters(tree: Transformer) -> Iterator[tuple[str, str, int | None, Shape]]:
    """Name, role, block and shape of every tensor, in the order a signal meets them; equal experts are one, stacked."""
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
                    yield one.role.replace(".block.", f".block.{block}.", 1), one.role, block, one.shape


def stacks(tree: Transformer) -> list[tuple[str, int, tuple[str, ...]]]:
    """Name, depth and branches of each stack, the branches in order."""
    found: list[tuple[str, int, tuple[str, ...]]] = []
    for name, stack in (("encoder", tree.encoder), ("decoder", tree.decoder)):
        if stack is not None:
            cross = any(repeat.block.cross_attention is not None for repeat in stack.repeats)
            found.append((name, stack.depth, BRANCHES if cross else ("attention", "feed_forward")))
    return found


def depths_of(tree: Transformer) -> dict[str, int]:
    """Number of blocks by stack."""
    return {name: depth for name, depth, _ in stacks(tree)}


def branch_counts(tree: Transformer) -> dict[str, int]:
    """Number of residual branches by stack."""
    return {name: depth * len(branches) for name, depth, branches in stacks(tree)}


def summed_tables(tree: Transformer) -> int:
    """Number of tables of equal variance whose rows are summed into the stream's input."""
    stem = tree.stem
    if isinstance(stem, PatchStem):
        return 2  # the patches' own map and their positions
    return 1 + isinstance(stem.positions, LearnedPositions) + (stem.segments is not None)


def stem_scale(tree: Transformer, kind: str) -> float:
    """What the stem multiplies the rows of such a table by."""
    return tree.stem.scale if isinstance(tree.stem, TokenStem) and kind == "tokens" else 1.0
