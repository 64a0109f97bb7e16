# mypy: disable-error-code="misc, no-any-return, untyped-decorator"
"""Tree attention: a differentiable form with dense masks for training, and a sorted form that skips keys that no query sees.

Shapes: queries and keys (batch, heads, length, dim), hyperplanes (heads, nodes, dim), thresholds (heads, nodes). Node j of
level l is number 2^l - 1 + j, so that a shallower tree has the first nodes of a higher one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from depthwidth import layers
from depthwidth.errors import InputError, shown
from depthwidth.layers import Tree

from .attention import Attention
from .base import add_tensors, apply_dropout, builds, scale_by

FULL = None
"""The height at which tree attention is full attention, whatever its tree."""


# The decisions.


def node_scores(x: Tensor, planes: Tensor, thresholds: Tensor) -> Tensor:
    """Scores of vectors (batch, heads, length, dim) at every node: (batch, heads, length, nodes)."""
    return x @ planes.transpose(-1, -2) + thresholds[:, None]


def memberships(x: Tensor, planes: Tensor, thresholds: Tensor, sharpness: float = 1.0) -> list[Tensor]:
    """For each level from the root, 1 for the node that a vector passes and 0 for others: (batch, heads, length, 2^level).

    The derivative of a decision is that of the sigmoid of `sharpness` times the node's score; a score of exactly 0 goes to the
    child 0.
    """
    scores = node_scores(x, planes, thresholds)
    soft = torch.sigmoid(sharpness * scores)
    right = (scores > 0).to(x.dtype) + (soft - soft.detach())
    found = [torch.ones_like(right[..., :1]) if right.shape[-1] else x.new_ones(*x.shape[:-1], 1)]
    while found[-1].shape[-1] <= right.shape[-1]:
        nodes = found[-1].shape[-1]
        choice = right[..., nodes - 1 : 2 * nodes - 1]
        found.append(torch.stack((found[-1] * (1 - choice), found[-1] * choice), dim=-1).flatten(-2))
    return found


@torch.no_grad()
def leaves(x: Tensor, planes: Tensor, thresholds: Tensor, *, all_nodes: bool = False) -> Tensor:
    """Number of the leaf of each vector (batch, heads, length), by the nodes of its path or by all nodes at once."""
    batch, heads, length, dim = x.shape
    place = torch.zeros(batch, heads, length, dtype=torch.long, device=x.device)
    scores = node_scores(x, planes, thresholds) if all_nodes else None
    head = torch.arange(heads, device=x.device)[:, None]
    for level in range(round(math.log2(planes.shape[1] + 1))):
        node = 2**level - 1 + place
        if scores is None:
            along = torch.bmm(planes[head, node].reshape(-1, 1, dim), x.reshape(-1, dim, 1)).view_as(place)
            score = along + thresholds[head, node]
        else:
            score = scores.gather(-1, node[..., None])[..., 0]
        place = 2 * place + (score > 0)
    return place


def imbalance(query_leaves: Tensor, key_leaves: Tensor, height: int) -> float:
    """Query-key pairs that share a leaf, over those of balanced leaves; leaves (..., length), a mean over what comes before.

    Examples
    --------
    >>> imbalance(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 0]), 1)
    1.0
    >>> imbalance(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 1]), 1)
    1.25
    """
    count = 2**height
    queries, keys = (F.one_hot(one, count).sum(-2).double() for one in (query_leaves, key_leaves))
    pairs = (queries * keys).sum(-1) * count / (query_leaves.shape[-1] * key_leaves.shape[-1])
    return float(pairs.mean())


# The two layers with dense masks: each is differentiable in everything.


def leaf_attention(
    q: Tensor, k: Tensor, v: Tensor, planes: Tensor, thresholds: Tensor, *,
    scale: float, own_key: bool = True, sharpness: float = 1.0, dropout: float = 0.0, bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """TF-attention: softmax over the keys of the query's leaf, and its own key if `own_key`; (batch, heads, length, dim).

    A `bias`, (heads, length, length) or one for each sequence, is added to the scores.

    A query that sees no key has an output of zero. If a decision is differentiated, a hidden key has the weight that it
    would have in its own leaf: the derivative of a query's decision is the difference of the outputs of two leaves.
    """
    held = memberships(k, planes, thresholds, sharpness)[-1]
    same = memberships(q, planes, thresholds, sharpness)[-1] @ held.mT
    if own_key:
        same = 1 - (1 - same) * (1 - torch.eye(q.shape[-2], dtype=q.dtype, device=q.device))
    scores = q @ k.mT * scale if bias is None else q @ k.mT * scale + bias
    hidden = same.detach() < 0.5
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1).nan_to_num(0.0)
    if torch.is_grad_enabled():  # the factors are 1 and 0, so that no weight changes
        weights = torch.where(hidden, same * _weights_in_leaf(scores.detach(), held.detach()), weights * same)
        total = weights.sum(-1, keepdim=True)
        weights = weights / torch.where(total > 0.5, total, torch.ones_like(total))
    return apply_dropout(weights, dropout, True) @ v


def _weights_in_leaf(scores: Tensor, held: Tensor) -> Tensor:
    """The softmax weight of each key among those of its own leaf, for each query: (batch, heads, length, length)."""
    raised = (scores - scores.amax(-1, keepdim=True)).exp()
    total = raised @ held @ held.mT
    return torch.where(total > 0, raised / total, torch.zeros_like(total))


def path_attention(
    q: Tensor, k: Tensor, v: Tensor, planes: Tensor, thresholds: Tensor, level_weights: Tensor, *, sharpness: float = 1.0
) -> Tensor:
    """TC-attention: the mean values of the nodes on the query's path, weighted by level (heads, levels); an empty one is 0.

    If the decision of a key is differentiated, the key has the weight that it has in its own node, there and in the other.
    """
    queries, keys = (memberships(x, planes, thresholds, sharpness) for x in (q, k))
    total = 0.0
    for level, (one, other) in enumerate(zip(queries, keys, strict=True)):
        held = other.detach()
        counts = held.sum(-2, keepdim=True).mT
        means = held.mT @ v / counts.clamp(min=1.0)
        if torch.is_grad_enabled():
            moving = (other - held) / (held @ counts)  # zero, but for its derivative
            means = means + moving.mT @ v.detach() - moving.sum(-2)[..., None] * means.detach()
        total = total + level_weights[:, level, None, None] * (one @ means)
    return total


# The same without masks: sorted by leaf, or summed by node.


@torch.no_grad()
def sorted_leaf_attention(
    q: Tensor, k: Tensor, v: Tensor, query_leaves: Tensor, key_leaves: Tensor, height: int, *,
    scale: float, own_key: bool = True, bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """TF-attention with queries and keys sorted by leaf, and one small softmax attention for each leaf that holds a query."""
    batch, heads, length, dim = q.shape
    if bias is not None:
        bias = bias.reshape(-1, length, length)  # of each head, or of each head of each sequence
    groups, count = batch * heads, 2**height
    first = count * torch.arange(groups, device=q.device)[:, None]
    ask, seen = ((one.reshape(groups, length) + first).flatten() for one in (query_leaves, key_leaves))
    query_order, key_order = ask.argsort(stable=True), seen.argsort(stable=True)
    own = own_key and height > 0
    q = q.reshape(-1, dim)[query_order] * scale
    keys, values = k.reshape(-1, dim), v.reshape(groups * length, -1)
    if own:
        own_values = values[query_order]
        own_scores = torch.bmm(q[:, None], keys[query_order][:, :, None])[:, :, 0]
        if bias is not None:
            own_scores += bias.diagonal(dim1=1, dim2=2).repeat(groups // len(bias), 1).flatten()[query_order, None]
        # In its leaf already, the own key is not seen twice.
        own_scores.masked_fill_((ask == seen)[query_order][:, None], -torch.inf)
    keys, values = keys[key_order], values[key_order]
    mixed = values.new_zeros(values.shape)
    own_weights = values.new_zeros(len(values), 1)
    start = key_start = 0
    sizes = torch.bincount(ask, minlength=groups * count), torch.bincount(seen, minlength=groups * count)
    for number, (asking, held) in enumerate(zip(*(size.tolist() for size in sizes), strict=True)):
        rows, columns = slice(start, start + asking), slice(key_start, key_start + held)
        start, key_start = rows.stop, columns.stop
        if not asking or not (held or own):
            continue
        scores = q[rows] @ keys[columns].mT
        if bias is not None:
            place = query_order[rows, None] % length, key_order[columns] % length
            scores += bias[number // count % len(bias)][place]
        if not own:
            torch.mm(scores.softmax(-1), values[columns], out=mixed[rows])
            continue
        weights = torch.cat((scores, own_scores[rows]), dim=-1).softmax(-1)
        torch.mm(weights[:, :-1], values[columns], out=mixed[rows])
        own_weights[rows] = weights[:, -1:]
    if own:
        mixed += torch.bmm(own_weights[:, None], own_values[:, None])[:, 0]
    y = torch.empty_like(mixed)
    y[query_order] = mixed
    return y.view(batch, heads, length, -1)


@torch.no_grad()
def summed_path_attention(v: Tensor, query_leaves: Tensor, key_leaves: Tensor, level_weights: Tensor) -> Tensor:
    """TC-attention by sums of values over the nodes of each level; level weights (heads, levels)."""
    batch, heads, length, dim = v.shape
    groups, height = batch * heads, level_weights.shape[1] - 1
    values = v.reshape(-1, dim)
    total = torch.zeros_like(values)
    weights = level_weights.to(v.dtype).repeat(batch, 1).repeat_interleave(length, 0)
    for level in range(height + 1):
        first = 2**level * torch.arange(groups, device=v.device)[:, None]
        ask, seen = (
            ((one.reshape(groups, length) >> (height - level)) + first).flatten() for one in (query_leaves, key_leaves)
        )
        sums = values.new_zeros(groups * 2**level, dim).index_add_(0, seen, values)
        held = torch.bincount(seen, minlength=len(sums)).clamp(min=1)
        means = sums / held[:, None]
        total.addcmul_(means[ask], weights[:, level, None])
    return total.view(batch, heads, length, dim)


def full_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, rate: float, scale: float) -> Tensor:
    """Attention without a tree, as at height 0."""
    bias = bias[None] if bias is not None and bias.dim() == 3 else bias
    return F.scaled_dot_product_attention(q, k, v, bias, rate, scale=scale)


class TreeMix(nn.Module):
    """Tree attention itself: queries, keys, values and the tree in, mixed values out. It has no weights; probes read it."""

    heads_apart = True
    """Its output keeps a dimension for the heads: (batch, heads, length, dim)."""

    def __init__(self, tree: Tree, scale: float, dropout: float) -> None:
        super().__init__()
        self.tree, self.scale, self.rate = tree, scale, dropout
        self.sorted: bool | None = None
        """True for the sorted form, which has no gradients; by default where no gradient is requested."""

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, planes: Tensor, thresholds: Tensor, level_weights: Tensor | None,
        bias: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Queries and keys (batch, heads, length, dim), values, hyperplanes, thresholds and, of TC, the weights of levels.

        A `bias` of TF, (heads, length, length) or one for each sequence, is added to the scores.
        """
        tree, height = self.tree, round(math.log2(planes.shape[1] + 1))
        rate = self.rate if self.training else 0.0
        if self._sorts(rate):
            places = (leaves(x, planes, thresholds, all_nodes=tree.all_nodes) for x in (q, k))
            if level_weights is not None:
                return summed_path_attention(v, *places, level_weights)
            return sorted_leaf_attention(q, k, v, *places, height, scale=self.scale, own_key=tree.own_key, bias=bias)
        if level_weights is not None:
            return path_attention(q, k, v, planes, thresholds, level_weights, sharpness=tree.sharpness)
        if not height:
            return full_attention(q, k, v, bias, rate, self.scale)
        return leaf_attention(
            q, k, v, planes, thresholds,
            scale=self.scale, own_key=tree.own_key, sharpness=tree.sharpness, dropout=rate, bias=bias,
        )  # fmt: skip

    def _sorts(self, rate: float) -> bool:
        if self.sorted is not None:
            return self.sorted
        # The sizes of leaves depend on the data, which vmap does not allow.
        return not torch.is_grad_enabled() and not rate and torch._C._functorch.peek_interpreter_stack() is None


@builds(layers.TreeAttention)
class TreeAttention(Attention):
    """Attention through a tree for each head, of an active height up to that of the component."""

    layer: layers.TreeAttention

    def __init__(self, layer: layers.TreeAttention) -> None:
        super().__init__(layer)
        add_tensors(self, layer)
        self.mix = TreeMix(layer.tree, layer.head_dim**-0.5 if layer.scale is None else layer.scale, layer.dropout)
        self.multipliers = {"planes": 1.0}
        self.height: int | None = layer.tree.height

    def set_height(self, height: int | None) -> None:
        """Use the first levels of the tree only; None for full attention.

        Below the active height the weights of a TC tree's levels count for the lowest active one.

        Raises
        ------
        InputError
            if the tree has fewer levels.
        """
        most = self.layer.tree.height
        if height is not None and (isinstance(height, bool) or not isinstance(height, int) or not 0 <= height <= most):
            raise InputError(f"tree attention: height={shown(height)} is neither None nor a whole number from 0 to {most}")
        self.height = height

    def mixed(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """The mixed values of each head through the active levels."""
        if mask is not None and not self.layer.tree.softmax:
            raise InputError("tree attention by means of nodes has no scores that a bias could be added to")
        if self.height is FULL:
            y = full_attention(q, k, v, mask, self.mix.rate if self.training else 0.0, self.mix.scale)
        else:
            planes, thresholds = self._nodes(q, 2**self.height - 1)
            y = self.mix(q, k, v, planes, thresholds, self._levels(self.height), mask)
        unused = self._unused()
        # Every weight has a gradient at every height, zero if it is not used.
        return y if not unused or not torch.is_grad_enabled() else y + 0.0 * sum(part.sum() for part in unused)

    def _nodes(self, q: Tensor, count: int) -> tuple[Tensor, Tensor]:
        if not self.layer.tree.height:
            return q.new_zeros(q.shape[1], 0, q.shape[-1]), q.new_zeros(q.shape[1], 0)
        factor = self.multipliers["planes"]
        active = (one if one.shape[1] == count else one[:, :count] for one in (self.planes, self.thresholds))
        planes, thresholds = (scale_by(one.to(q.dtype), factor) for one in active)
        return planes, thresholds

    def _levels(self, height: int) -> Tensor | None:
        if self.layer.tree.softmax:
            return None
        active, lent = self.level_weights[:, :height], self.level_weights[:, height:]
        return torch.cat((active, lent.sum(-1, keepdim=True)), dim=-1)

    def _unused(self) -> list[Tensor]:
        if self.height == self.layer.tree.height:
            return []
        found = [self.planes, self.thresholds] if self.layer.tree.height else []
        return found + ([self.level_weights] if self.height is FULL and not self.layer.tree.softmax else [])


def tree_parts(model: nn.Module) -> list[TreeAttention]:
    """The tree attention of a model, in the order of its blocks."""
    return [part for part in model.modules() if isinstance(part, TreeAttention)]


def set_heights(model: nn.Module, heights: Sequence[int | None]) -> None:
    """Set the active height of each tree attention, in the order of the blocks; None for full attention.

    Raises
    ------
    InputError
        if there are not as many, or a tree has fewer levels.
    """
    parts = tree_parts(model)
    if len(parts) != len(heights):
        raise InputError(f"the model has {len(parts)} layers of tree attention, and {len(heights)} heights are given")
    for part, height in zip(parts, heights, strict=True):
        part.set_height(height)


class Census(NamedTuple):
    """The leaves of one layer in one forward pass, averaged over sequences and heads."""

    imbalance: float
    """query-key pairs that share a leaf, over those of balanced leaves, the own key left out"""
    empty_leaves: float
    """share of leaves without a key"""
    lost_queries: float
    """share of queries in a leaf without a key"""


def take_census(model: nn.Module, *inputs: Tensor) -> list[Census]:
    """The leaves of each layer of tree attention, in the order of its blocks, in a forward pass of `inputs`.

    A layer of height None, full attention, has none.
    """
    found: list[Census] = []

    def look(mix: TreeMix, given: tuple[Any, ...], output: Tensor) -> None:
        q, k, _, planes, thresholds, *_ = given
        asking, seen = (leaves(x, planes, thresholds) for x in (q, k))
        held = F.one_hot(seen, planes.shape[1] + 1).sum(-2)
        alone = held.gather(-1, asking) == 0
        height = round(math.log2(planes.shape[1] + 1))
        found.append(Census(imbalance(asking, seen, height), float((held == 0).double().mean()), float(alone.double().mean())))

    hooks = [part.mix.register_forward_hook(look) for part in tree_parts(model)]
    try:
        with torch.no_grad():
            model(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found
