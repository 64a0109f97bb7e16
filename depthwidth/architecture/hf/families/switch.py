"""Switch Transformers: T5 with mixtures of experts in some blocks; a token passes through one expert."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...design import Design
from ..family import Choices, Family, Part, every_block, without
from ..fields import Fields
from ..weights import WeightNames
from .t5 import ALIASES, DEFAULTS, FIXED, NAMES, NO_DECODER, WEIGHTS, models, plain_head, score_biased_stacks, stack_weights

_PARTS: WeightNames = {
    "mlp.wi": "feed_forward.up",
    "mlp.wo": "feed_forward.down",
    "mlp.router.classifier": "feed_forward.router",
    "mlp.experts.expert_*.wi": "feed_forward.expert.up",
    "mlp.experts.expert_*.wo": "feed_forward.expert.down",
}
_DENSE: Choices = {"experts": None}


def _marks(depth: int, mixtures: int, step: int | None = None) -> list[bool]:
    """True for each block with a mixture, by the library's rule for a number of them; it makes one if there should be none.

    A `step` from one mixture to the next goes before the number.
    """
    if step is None:
        step = depth // mixtures if mixtures > 0 else depth
    return [step == 1 or (step > 1 and block % step == 1) for block in range(depth)]


def _blocks(marks: list[bool]) -> tuple[Choices, ...] | None:
    return None if all(marks) else tuple({} if mark else _DENSE for mark in marks)


def _places(name: str, stack: Design) -> dict[str, int]:
    """The fields for which the library makes the blocks of a stack: a number of mixtures, or the step between them."""
    marks, numbers = [one.experts is not None for one in every_block(stack)], range(stack.depth + 2)
    number = next((number for number in numbers if _marks(stack.depth, number) == marks), None)
    if number is not None:
        return {f"num_sparse_{name}_layers": number}
    step = next((step for step in numbers if _marks(stack.depth, 0, step) == marks), 0)
    return {f"num_sparse_{name}_layers": sum(marks), f"{name}_sparse_step": step}


def _mixtures() -> Part:
    """Mixtures of experts in every few blocks of each stack."""

    def marks(fields: Fields, stack: str, depth: int) -> list[bool]:
        step = fields.count(f"{stack}_sparse_step") if fields.has(f"{stack}_sparse_step") else None
        return _marks(depth, fields.count(f"num_sparse_{stack}_layers"), step)

    def read(fields: Fields) -> Choices:
        stacks = score_biased_stacks().read(fields)
        encoder, decoder = fields.depth("num_layers"), fields.depth_or_none("num_decoder_layers")
        first = _blocks(marks(fields, "encoder", encoder))
        if str(fields.model()).endswith("EncoderModel"):
            return {**stacks, "blocks": first}
        depth = encoder if decoder is None else decoder
        second = _blocks(marks(fields, "decoder", depth))
        return {**stacks, "encoder_depth": encoder, "blocks": second, "encoder": {"blocks": first}}

    def write(design: Design) -> dict[str, Any]:
        decoder = replace(design, encoder=None)
        own = {**(design.encoder or {}), "depth": design.encoder_depth or design.depth}
        encoder = replace(decoder, **own) if design.kind == "encoder-decoder" else decoder
        mixed = [one for stack in (encoder, decoder) for one in every_block(stack) if one.experts is not None]
        return {
            **score_biased_stacks().write(design),
            **_places("encoder", encoder),
            **_places("decoder", decoder),
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
    only={"tie_word_embeddings": (True,), "router_bias": (False,), **NO_DECODER},
    noted={
        "expert_capacity": (64, "an expert takes every token that is sent to it; the library drops those beyond its capacity")
    },
    fixed={**FIXED, "top_k": 1, "renormalized": False, "gated": False},
    models=models("SwitchTransformers", tasks=False),
    parts=(_mixtures(), plain_head(scaled=True)),
    weights={**WEIGHTS, **stack_weights("encoder", 1, _PARTS), **stack_weights("decoder", 2, _PARTS)},
    initial_rule="t5",
    initial_std=1.0,
    initial_field="initializer_factor",
)
