"""The weight names of a family: the tensor of the tree for each parameter of the transformers library.

A table maps the name of a module in the library's model to a role of the tree. ``#`` is the number of a block. The library's
prefix of the base model (``model.``, ``transformer.``) is omitted. ``_*`` is the number of one of several equal parts, such as
experts, whose tensors are one in the tree. A role may list alternatives, separated by ``|``; the first
one in the tree applies, and ``#`` in it is the number of the name. :class:`Fused` is for a parameter that holds several
tensors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

LAYOUTS = {
    "rows": "one after the other along the first dimension",
    "columns": "one after the other along the last dimension: the matrix is stored as (inputs, outputs)",
    "halves": "two of equal size along the dimension of outputs",
    "thirds": "three of equal size along the dimension of outputs",
    "parts": "one after the other along the first dimension, each with the rows of its tensor",
    "groups": "for each group of heads, which the component has as `row_groups`, its rows of each tensor in turn",
    "key_groups": "for each key head its queries, its key and its value",
    "transposed_halves": "two of equal size along the last dimension, stored as (inputs, outputs)",
    "transposed": "one, stored as (inputs, outputs)",
    "alternating": "two in turn along the last dimension, the matrices stored as (inputs, outputs)",
    "latent": "latent features, then the part of the keys that has positions",
    "latent_heads": "for each head the part of its key without positions, then its value",
    "shards": "in four shards for four devices; in each, queries, values, keys",
}
"""The ways in which one parameter holds several tensors."""


class Fused(NamedTuple):
    """Several tensors of the tree in one parameter."""

    layout: str
    """A name of :data:`LAYOUTS`."""
    roles: tuple[str, ...]


WeightNames = Mapping[str, str | Fused]

QKV = ("attention.query", "attention.key", "attention.value")


def in_blocks(prefix: str, stack: str, table: WeightNames) -> dict[str, str | Fused]:
    """The table for all blocks of `stack`, which the library names `prefix`, given the table of one block.

    >>> in_blocks("h.#", "decoder", {"ln_1": "attention.norm_in|norm"})
    {'h.#.ln_1': 'decoder.block.attention.norm_in|decoder.block.norm'}
    """
    names: dict[str, str | Fused] = {}
    for name, role in table.items():
        if isinstance(role, Fused):
            names[f"{prefix}.{name}"] = Fused(role.layout, tuple(_in_block(stack, one) for one in role.roles))
        else:
            names[f"{prefix}.{name}"] = _in_block(stack, role)
    return names


def _in_block(stack: str, role: str) -> str:
    return re.sub(r"[^|]+", lambda match: f"{stack}.block.{match[0]}", role)
