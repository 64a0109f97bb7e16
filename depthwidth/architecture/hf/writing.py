"""From a tree back to a configuration: the design it has, the fields of a family, and a reading of the result to be sure."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from ...errors import InputError
from ...formula import is_symbolic
from ...layers import (
    ALiBi,
    Attention,
    Block,
    ClassifierHead,
    FeedForward,
    LanguageHead,
    MixtureOfExperts,
    Norm,
    PatchStem,
    Pooler,
    RMSNorm,
    Stack,
)
from ..design import PLACEMENTS, Design
from ..transformer import Transformer
from .family import Family
from .fields import DEEPEST, brief


def as_config(tree: Transformer, family: Family) -> dict[str, Any]:
    """The configuration of `family` that reads back as `tree`.

    Raises
    ------
    InputError
        naming the first thing that the family cannot express.
    """
    name = family.model_type
    if not isinstance(tree, Transformer):
        raise InputError(f"{brief(tree)} is not a Transformer")
    if is_symbolic(*_numbers(tree)):
        raise InputError(f"{name} cannot express symbols; give every dimension a number")
    if max(stack.depth for stack in (tree.encoder, tree.decoder) if stack is not None) > DEEPEST:
        raise InputError(f"{name} cannot express more than {DEEPEST:,} blocks")
    config = family.fields(design_of(tree))
    try:
        again = Transformer.of_design(family.design(config))
    except InputError as error:
        # Its fields are this family's, so the sentence already says which of them cannot hold the tree's value.
        raise InputError(f"{name} cannot express this tree: {error}") from None
    if again != tree:
        raise InputError(f"{name} cannot express {_difference(tree, again)}")
    return config


def design_of(tree: Transformer) -> Design:
    """The flat design of a tree, as far as a design can say it: of blocks that differ otherwise, the first counts."""
    attentions = [_attention(block) for block in tree.stack.blocks()]
    first, attention = tree.stack.repeats[0].block, attentions[0]
    rooms: dict[str, Any] = {
        "kind": tree.kind,
        "depth": tree.stack.depth,
        "width": tree.width,
        "heads": _same([a.heads for a in attentions]),
        "window": _same([a.window for a in attentions]),
        "encoder_depth": tree.encoder.depth if tree.encoder and tree.decoder else None,
        "context": tree.context,
    }
    return Design(
        **rooms, **_attention_choices(attentions), **_block_choices(first), **_feed_forward_choices(first),
        **_stem_choices(tree), **_head_choices(tree), **_norm_choices(tree.stack), positions=_positions(tree, attention),
    )  # fmt: skip


def _attention(block: Block) -> Attention:
    branch = block.attention.branch
    if not isinstance(branch, Attention):
        raise InputError("a configuration needs attention in the attention branch of every block")
    return branch


def _same(values: list[Any]) -> Any:
    return values[0] if len(set(values)) == 1 else tuple(values)


def _attention_choices(attentions: list[Attention]) -> dict[str, Any]:
    attention = attentions[0]
    norm = attention.query_norm
    local = next((a.position for a in attentions if a.window is not None), None)
    return {
        "kv_heads": attention.kv_heads,
        "head_dim": attention.head_dim,
        "value_dim": attention.value_dim,
        "attention_bias": attention.bias,
        "attention_out_bias": attention.out_bias,
        "qk_norm": "none" if norm is None else "head" if norm.width == attention.head_dim else "full",
        "logit_scale": attention.scale,
        "score_softcap": attention.softcap,
        "attention_dropout": attention.dropout,
        "window_positions": local,
    }


def _block_choices(block: Block) -> dict[str, Any]:
    branch = block.attention
    here = tuple(name for name in ("norm_in", "norm_out", "norm_stream") if getattr(branch, name) is not None)
    placement = next((name for name, norms in PLACEMENTS.items() if norms == here), "pre")
    return {
        "parallel": block.parallel,
        "shared_norm": block.parallel and block.norm is not None,
        "placement": placement,
        "dropout": branch.dropout,
    }


def _feed_forward_choices(block: Block) -> dict[str, Any]:
    branch = block.feed_forward.branch
    choices: dict[str, Any] = {}
    if isinstance(branch, MixtureOfExperts):
        choices = {"experts": branch.experts, "top_k": branch.top_k, "shared_gate": branch.shared_gate}
        choices["renormalized"] = branch.renormalized
        choices["shared_ffn"] = None if branch.shared is None else branch.shared.hidden
        branch = branch.expert
    if not isinstance(branch, FeedForward):
        raise InputError("a configuration needs a feed-forward part in every block")
    return choices | {
        "ffn": branch.hidden,
        "activation": branch.activation,
        "gated": branch.gated,
        # The one bias that most families have is the feed-forward part's; attention's are beside it.
        "bias": branch.bias,
        "ffn_bias": branch.bias,
        "ffn_dropout": branch.dropout,
    }


def _norm_choices(stack: Stack) -> dict[str, Any]:
    norms = [node.layer for node in stack.walk() if isinstance(node.layer, Norm)]
    choices: dict[str, Any] = {"final_norm": stack.norm is not None}
    if norms:
        norm = norms[0]
        choices |= {"norm": "rmsnorm" if isinstance(norm, RMSNorm) else "layernorm"}
        choices |= {"norm_affine": norm.affine, "norm_eps": norm.eps, "norm_bias": getattr(norm, "bias", True)}
        choices |= {"norm_unit_offset": getattr(norm, "unit_offset", False)}
    return choices


def _positions(tree: Transformer, attention: Attention) -> Any:
    if tree.stack.position is not None:
        return tree.stack.position
    if not isinstance(tree.stem, PatchStem) and tree.stem.positions is not None:
        return "learned" if hasattr(tree.stem.positions, "context") else "sinusoidal"
    # Where blocks with a window have positions of their own, the others' are the model's.
    whole = next((b for b in map(_attention, tree.stack.blocks()) if b.window is None), attention).position
    if isinstance(whole, ALiBi):
        return whole if whole.scaled else "alibi"
    return "none" if whole is None else whole


def _stem_choices(tree: Transformer) -> dict[str, Any]:
    stem = tree.stem
    if isinstance(stem, PatchStem):
        image = (stem.height, stem.width_pixels)
        return {"patch": stem.patch, "image": image, "channels": stem.channels, "embedding_dropout": stem.dropout}
    return {
        "vocab": stem.vocab,
        "position_offset": getattr(stem.positions, "offset", 0),
        "segments": stem.segments.rows if stem.segments else 0,
        "embedding_norm": stem.norm is not None,
        "embedding_width": stem.tokens.width,
        "embedding_scale": stem.scale,
        "embedding_dropout": stem.dropout,
    }


def _head_choices(tree: Transformer) -> dict[str, Any]:
    head = tree.head
    if isinstance(head, LanguageHead):
        masked = head.norm is not None
        return {
            "head": "masked-lm" if masked else "lm",
            "tied": head.unembedding.tied,
            "head_bias": head.unembedding.bias,
            "logit_softcap": head.softcap,
            "head_activation": head.activation if masked else None,
        }
    pooler = head.pooler if isinstance(head, ClassifierHead) else head
    choices: dict[str, Any] = {"head": "none", "pooler": pooler is not None}
    if isinstance(head, ClassifierHead):
        choices |= {"head": "classifier", "classes": head.classes}
    return choices | {"pooler_width": pooler.outputs} if isinstance(pooler, Pooler) else choices


def _numbers(tree: Transformer) -> list[Any]:
    return [getattr(node.layer, f.name) for node in tree.walk() for f in fields(node.layer)] + [tree.context]


def _difference(tree: Any, other: Any) -> str:
    """Where a tree first differs from what a family makes of it, and how."""
    site, here, there = _first_difference(tree, other, [])
    return f"{site}={_named(here)}, which it would read back as {_named(there)}"


def _first_difference(here: Any, there: Any, site: list[str]) -> tuple[str, Any, Any]:
    if type(here) is type(there) and is_dataclass(here):
        for item in fields(here):
            one, two = getattr(here, item.name), getattr(there, item.name)
            if one != two:
                # Runs of equal blocks are of one kind, so their number is not part of the name.
                step = [] if item.name in ("repeats", "branch") else [item.name]
                return _first_difference(one, two, [*site, *step])
    if isinstance(here, tuple) and isinstance(there, tuple):
        for one, two in zip(here, there, strict=False):
            if one != two:
                return _first_difference(one, two, site)
        return ".".join([*site, "blocks"]), f"{len(here)} kinds", f"{len(there)}"
    return ".".join(site), here, there


def _named(value: Any) -> str:
    if is_dataclass(value):
        return type(value).__name__
    return value if isinstance(value, str) else brief(value)
