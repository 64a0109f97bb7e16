"""Switch Transformers: T5 with mixtures of experts in some blocks; a token passes through one expert."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...design import Design
from ..family import Choices, Family, Part, every_block, without
from ..fields import Fields
from ..weights import WeightNames
from .t5 import ALIASES, DEFAULTS, FIXED, NAMES, WEIGHTS, models, plain_head, score_biased_stacks, stack_weights

_PARTS: WeightNames = {
    "mlp.wi": "feed_forward.up",
    "mlp.wo": "feed_forward.down",
    "mlp.router.classifier": "feed_forward.router",
    "mlp.experts.expert_*.wi": "feed_forward.expert.up",
    "mlp.experts.expert_*.wo": "feed_forward.expert.down",
}
_DENSE: Choices = {"experts": None}


def _marks(depth: int, mixtures: int) -> list[bool]:
    """True for each block with a mixture, by the library's rule for a number of them; it makes one if there should be none."""
    step = depth // mixtures if mixtures > 0 else depth
    return [step == 1 or (step > 1 and block % step == 1) for block in range(depth)]


def _blocks(marks: list[bool]) -> tuple[Choices, ...] | None:
    return None if all(marks) else tuple({} if mark else _DENSE for mark in marks)


def _number(stack: Design) -> int:
    """The number of mixtures for which the library makes the blocks of a stack; 0 if there is none."""
    marks = [one.experts is not None for one in every_block(stack)]
    return next((number for number in range(stack.depth + 2) if _marks(stack.depth, number) == marks), 0)


def _mixtures() -> Part:
    """Mixtures of experts in every few blocks of each stack."""

    def read(fields: Fields) -> Choices:
        stacks = score_biased_stacks().read(fields)
        encoder, decoder = fields.depth("num_layers"), fields.depth_or_none("num_decoder_layers")
        first = _blocks(_marks(encoder, fields.count("num_sparse_encoder_layers")))
        if str(fields.model()).endswith("EncoderModel"):
            return {**stacks, "blocks": first}
        depth = encoder if decoder is None else decoder
        second = _blocks(_marks(depth, fields.count("num_sparse_decoder_layers")))
        return {**stacks, "encoder_depth": encoder, "blocks": second, "encoder": {"blocks": first}}

    def write(design: Design) -> dict[str, Any]:
        decoder = replace(design, encoder=None)
        own = {**(design.encoder or {}), "depth": design.encoder_depth or design.depth}
        encoder = replace(decoder, **own) if design.kind == "encoder-decoder" else decoder
        mixed = [one for stack in (encoder, decoder) for one in every_block(stack) if one.experts is not None]
        return {
            **score_biased_stacks().write(design),
            "num_sparse_encoder_layers": _number(encoder),
            "num_sparse_decoder_layers": _number(decoder),
            "num_experts": mixed[0].experts if mixed else 1,
        }

    return Part(read, write)


SWITCH_TRANSFORMERS = Family(
    "switch_transformers",
    defaults={
        **without(DEFAULTS, "feed_forward_proj"),
        "d_model": 768,
        "num_layers": 12,
        "num_decoder_layers": 12,
        "num_sparse_encoder_layers": 3,
        "num_sparse_decoder_layers": 3,
        "num_heads": 12,
        "num_experts": 8,
        "dense_act_fn": "relu",
    },
    names={**NAMES, "experts": "num_experts", "activation": "dense_act_fn"},
    aliases=without(ALIASES, "head_dim"),
    only={"tie_word_embeddings": (True,), "router_bias": (False,)},
    noted={
        "expert_capacity": (64, "an expert takes every token that is sent to it; the library drops those beyond its capacity")
    },
    fixed={**FIXED, "top_k": 1, "renormalized": False, "gated": False},
    models=models("SwitchTransformers", tasks=False),
    parts=(_mixtures(), plain_head(scaled=True)),
    weights={**WEIGHTS, **stack_weights("encoder", 1, _PARTS), **stack_weights("decoder", 2, _PARTS)},
    initial_rule="t5",
    initial_std=1.0,
)
