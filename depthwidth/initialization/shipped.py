"""What transformers itself does, by the family of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from os import PathLike
from typing import Any

from ..architecture import Transformer
from ..errors import InputError, nearest, shown
from .draft import Choice, Draft, TensorRule, finite_number, scheme
from .tensor_rules import normal_rule, stated_choice
from .tensors import Weight


@scheme(
    "shipped",
    "transformers 5, `_init_weights` of each family",
    "primary; measured on small models of every family (tests/verify/models/test_initialize.py)",
)
def shipped(tree: Transformer, family: str | None = None, initializer_range: float | None = None) -> Draft:
    """By default the family whose architecture is nearest, and its own standard deviation."""
    from ..architecture.hf import FAMILIES, find_family

    name = _family_like(tree) if family is None else family
    found = find_family(name) if isinstance(name, str) else None
    if found is None:
        raise InputError(f"shipped: there is no family {shown(family)}{nearest(str(family), FAMILIES)}")
    # The library takes its default for a file that says 0.
    std = finite_number("shipped", "initializer_range", initializer_range or found.initial_std)
    deep = found.initial_rule == "normal-by-depth"
    draft = Draft(tree, _t5(tree, std) if found.initial_rule == "t5" else normal_rule(tree, std, deep=deep, where=f"{name}: "))
    draft.extras["family"] = name
    if family is None:
        draft.remarks.append(f"no family was named; the rule of {name}, whose architecture is nearest, was taken")
    draft.remarks.append("a padding token's row of the token table starts at zero where the configuration names one")
    return draft


def _family_like(tree: Transformer) -> str:
    """The family whose initialisation a tree without a name most likely means."""
    stem, block = tree.stem, tree.stack.repeats[0].block
    if stem.images:
        return "vit"
    attention, feed_forward = block.as_attention, block.as_feed_forward
    if tree.stack.position is not None and attention is not None and attention.scale == 1.0:
        return "t5"
    if tree.kind != "decoder":
        return "bert"
    gated = feed_forward is not None and feed_forward.gated
    plain = stem.learned_positions and not gated and block.as_mixture is None
    return "gpt2" if plain else "llama"


def shipped_options(config: Mapping[str, Any] | str | PathLike[str]) -> dict[str, Any]:
    """The options with which ``recipe(tree, "shipped")`` is what transformers does for a configuration.

    >>> shipped_options({"model_type": "opt", "init_std": 0.006})
    {'family': 'opt', 'initializer_range': 0.006}
    """
    from ..architecture.hf import read_design
    from ..architecture.hf.files import read_json

    fields = config if isinstance(config, Mapping) else read_json(config)
    read_design(fields)  # a broken file gets its own sentence
    for name in ("initializer_range", "init_std", "initializer_factor"):
        if fields.get(name) is not None:
            std = finite_number("config", name, fields[name], closed=True)
            return {"family": fields["model_type"], "initializer_range": std}
    return {"family": fields["model_type"], "initializer_range": None}


def _t5(tree: Transformer, factor: float) -> TensorRule:
    """T5 has no 1/sqrt(head_dim) on scores; the query's standard deviation makes up for it."""

    def rule(weight: Weight) -> Choice:
        if weight.kind == "gain":
            return Choice(0.0, "t5: a gain of the factor", weight_decay=0.0, mean=factor)
        if weight.kind == "query":
            attention = weight.owner.as_attention
            per_head = 1 if attention is None else attention.head_dim
            return Choice(factor / math.sqrt(weight.fan_in * per_head), "t5: factor / sqrt(width head_dim)")
        if weight.kind in ("tokens", "unembedding"):
            return Choice(factor, "t5: the factor itself")
        if weight.kind == "score_bias":
            return Choice(factor / math.sqrt(tree.width), "t5: factor / sqrt(width)", weight_decay=0.0)
        return stated_choice(weight) or Choice(factor / math.sqrt(weight.fan_in), "t5: factor / sqrt(fan-in)")

    return rule
