"""The ranks that a model's heads use: of the product of query and key maps, and of the product of value and output maps.

Weight decay of both factors is a penalty on the nuclear norm of their product (:mod:`depthwidth.formulas.implicit_rank`), so
that a head may use fewer dimensions than it has. The products are those of the stored weights: gains of norms and biases are
left out. With rotary positions the map between a query and a key depends on their distance; the product is that of one
token with itself.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from ..architecture import Transformer
from ..errors import InputError
from ..layers import AttentionLike
from ..numerics.gaussian_product import starting_ranks
from ..numerics.spectra import SHARE, Ranks, product_sizes, ranks, triangle
from ..progress import announced
from ..values import frozen

Array = Any
PRODUCTS = {"query-key": "W_Q W_K^T, the map of scores", "value-output": "W_V W_O, the map of what a head adds"}
"""The products of a head."""


class Weights(Protocol):
    """Weights of a tree: those of a checkpoint, or of a live model."""

    @property
    def tree(self) -> Transformer:
        """The tree whose weights they are."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the report."""

    def read(self, role: str, block: int | None = None) -> Array | None:
        """A tensor of the tree, matrices as (outputs, inputs); None if there is none."""


@frozen
class HeadRank:
    """The rank that one product of one head uses."""

    stack: str
    layer: int
    attention: str
    """Path of the attention from its block."""
    head: int
    kv_head: int
    product: str
    """A key of :data:`PRODUCTS`."""
    dim: int
    """Dimensions that the head has for it: the most that the rank can be."""
    ranks: Ranks
    balance: float
    """Half the sum of both factors' squared norms over the nuclear norm of the product: 1 if they are balanced, as weight decay
    makes them; 0 of a product of zeros."""
    start: float
    """Effective rank of a product of Gaussian matrices of these sizes."""
    group_rank: float | None = None
    """Effective rank of the stack of all heads that share this key or value; decay penalises its nuclear norm. None if none
    shares it."""

    def to_dict(self) -> dict[str, Any]:
        """One row of plain values."""
        measured = {
            "effective_rank": self.ranks.effective,
            "stable_rank": self.ranks.stable,
            "nuclear_rank": self.ranks.nuclear,
            "numerical_rank": self.ranks.numerical,
            "spectral_norm": self.ranks.spectral_norm,
            "nuclear_norm": self.ranks.nuclear_norm,
        }
        own = {name: value for name, value in vars(self).items() if name not in ("ranks", "balance", "start", "group_rank")}
        return own | measured | {"balance": self.balance, "start": self.start, "group_rank": self.group_rank}


@frozen
class HeadRanks:
    """The ranks of all heads of a model."""

    heads: tuple[HeadRank, ...]
    share: float
    """Of the largest singular value, above which one counts for the numerical rank."""
    notes: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """One row for each product of each head."""
        return [head.to_dict() for head in self.heads]

    def layers(self) -> list[dict[str, Any]]:
        """One row for each product of each layer: the median over heads of the ranks, with the least and the largest."""
        groups: dict[tuple[str, int, str, str], list[HeadRank]] = {}
        for one in self.heads:
            groups.setdefault((one.stack, one.layer, one.attention, one.product), []).append(one)
        return [dict(zip(("stack", "layer", "attention", "product"), key, strict=True)) | summary(some)
                for key, some in groups.items()]  # fmt: skip

    def summaries(self) -> dict[str, dict[str, Any]]:
        """The same over all layers, by product."""
        return {product: summary(some) for product in PRODUCTS if (some := [h for h in self.heads if h.product == product])}

    def sentences(self) -> list[str]:
        """One sentence for each product: the dimensions there are, and those that are used."""
        return [
            f"{PRODUCTS[product]}: a head has {one['dim']} dimensions and uses {one['effective_rank']:.0f} "
            f"({one['least_effective_rank']:.0f} to {one['largest_effective_rank']:.0f} by effective rank), "
            f"{one['numerical_rank']:.0f} above {self.share:g} of the largest singular value; "
            f"a Gaussian start uses {one['start']:.0f}"
            + ("" if one["group_rank"] is None else f"; heads that share one are a stack, which uses {one['group_rank']:.0f}")
            for product, one in self.summaries().items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "share": self.share,
            "summaries": self.summaries(),
            "layers": self.layers(),
            "heads": self.rows(),
            "notes": list(self.notes),
        }


def summary(heads: Sequence[HeadRank]) -> dict[str, Any]:
    """Medians over heads, with the least and the largest effective rank and the largest spectral norm."""
    effective = [one.ranks.effective for one in heads]
    shared = [one.group_rank for one in heads if one.group_rank is not None]
    return {
        "heads": len(heads),
        "dim": max(one.dim for one in heads),
        "effective_rank": statistics.median(effective),
        "least_effective_rank": min(effective),
        "largest_effective_rank": max(effective),
        "stable_rank": statistics.median(one.ranks.stable for one in heads),
        "nuclear_rank": statistics.median(one.ranks.nuclear for one in heads),
        "numerical_rank": statistics.median(one.ranks.numerical for one in heads),
        "largest_spectral_norm": max(one.ranks.spectral_norm for one in heads),
        "balance": statistics.median(one.balance for one in heads),
        "start": statistics.median(one.start for one in heads),
        "group_rank": statistics.median(shared) if shared else None,
    }


def head_ranks(weights: Weights, share: float = SHARE) -> HeadRanks:
    """The ranks of every head, layer by layer.

    Parameters
    ----------
    weights : of a tree.
    share : of the largest singular value, in [0, 1), above which one counts for the numerical rank.

    Raises
    ------
    InputError
        if no attention of the tree has its weights there, a weight is not finite, or the share is outside [0, 1).
    """
    ranks([1.0], share)  # refuses the share before anything is read
    found: list[HeadRank] = []
    skipped: dict[str, int] = {}
    for stack, layer, path, attention in announced("attention layer", list(attentions(weights.tree))):
        before = len(found)
        found += _of_attention(weights, stack, layer, path, attention, share)
        if len(found) == before:
            reason = "made of latent features" if getattr(attention, "factorised", False) else "not there"
            skipped[reason] = skipped.get(reason, 0) + 1
    if not found:
        reason = f": its maps are {next(iter(skipped))}" if skipped else ", as the model has no attention"
        raise InputError(f"effective rank: no head was measured{reason}")
    notes = [f"{count} attention layers are left out, as maps of theirs are {reason}" for reason, count in skipped.items()]
    return HeadRanks(tuple(found), share, (*weights.notes, *notes))


def attentions(tree: Transformer) -> Iterator[tuple[str, int, str, AttentionLike]]:
    """Stack, block, path from the block and component of every attention that has weights of its own."""
    for stack, part in tree.stacks.items():
        for layer, block in enumerate(part.blocks()):
            if part.first_use(layer) == layer:
                for path, residual in block.branches:
                    attention = residual.branch.as_attention
                    if attention is not None:
                        yield stack, layer, path, attention


def _of_attention(
    weights: Weights, stack: str, layer: int, path: str, attention: AttentionLike, share: float
) -> Iterator[HeadRank]:
    """The rows of one attention; none if a map is not there."""
    role = f"{stack}.block.{path}"
    heads, groups = attention.heads, attention.kv_heads
    for product, many, shared, dim in (("query-key", "query", "key", attention.head_dim),
                                       ("value-output", "out", "value", attention.value_dim)):  # fmt: skip
        each, one = weights.read(f"{role}.{many}.weight", layer), weights.read(f"{role}.{shared}.weight", layer)
        if each is None or one is None:
            continue
        # Factors (inputs, dim) of each head: rows of query and key, rows of value and columns of the output map.
        each = each if many == "query" else each.T
        left = [each[i * dim : (i + 1) * dim].T for i in range(heads)]
        right = [one[i * dim : (i + 1) * dim].T for i in range(groups)]
        start = dim * starting_ranks(dim / attention.width).effective if dim <= attention.width else float(attention.width)
        rows = [
            _row(stack, layer, path, head, head * groups // heads, product, left[head], right[head * groups // heads], share)
            for head in range(heads)
        ]
        stacked = _group_ranks(left, right) if groups < heads else [None] * groups
        for row in rows:
            yield replace(row, start=start, group_rank=stacked[row.kv_head])


def _row(
    stack: str, layer: int, path: str, head: int, kv_head: int, product: str, left: Array, right: Array, share: float
) -> HeadRank:
    import numpy as np

    left, right = np.asarray(left, float), np.asarray(right, float)
    found = ranks(product_sizes(left, right.T), share)
    half = float((left**2).sum() + (right**2).sum()) / 2
    balance = half / found.nuclear_norm if found.nuclear_norm else 0.0
    return HeadRank(stack, layer, path, head, kv_head, product, left.shape[1], found, balance, 0.0)


def _group_ranks(left: Sequence[Array], right: Sequence[Array]) -> list[float | None]:
    """Effective rank of the stack of the heads of each shared factor."""
    import numpy as np

    size = len(left) // len(right)
    stacks = (np.concatenate([triangle(one) for one in left[i * size : (i + 1) * size]]) for i in range(len(right)))
    return [ranks(product_sizes(stack, one.T)).effective for stack, one in zip(stacks, right, strict=True)]
