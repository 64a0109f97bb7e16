"""Jamba: Mamba mixers, attention in some blocks, mixtures of experts in others."""

from __future__ import annotations

from typing import Any

from ....layers import Mamba, RMSNorm
from ....layers.activation_entries import spelling_of
from ...design import Design
from ..family import Choices, Family, Part, causal, every_block, first_mixer, without
from ..fields import Fields
from ..weights import WeightNames
from .llama import ATTENTION_WEIGHTS, EXPERT_WEIGHTS, GATED_WEIGHTS, LLAMA_CHOICES, LLAMA_DEFAULTS, LLAMA_NAMES, llama_weights
from .mamba import MAMBA_WEIGHTS, of_mixer, step_rank


def _every(fields: Fields, name: str) -> set[int]:
    """The blocks of a period and an offset."""
    period, offset = fields.whole(f"{name}_layer_period"), fields.count(f"{name}_layer_offset")
    if offset >= period:
        raise fields.wrong(f"{name}_layer_offset", f"is not below {fields.spell(f'{name}_layer_period')}")
    return set(range(offset, fields.depth("num_hidden_layers"), period))


def _written(name: str, blocks: list[int], depth: int) -> dict[str, int]:
    """A period and an offset that give these blocks; if none does, those of the first block alone."""
    if not blocks:
        return {f"{name}_layer_period": depth + 1, f"{name}_layer_offset": depth}
    offset = blocks[0]
    periods = (period for period in range(offset + 1, depth + 1) if list(range(offset, depth, period)) == blocks)
    return {f"{name}_layer_period": next(periods, depth + 1), f"{name}_layer_offset": offset}


def _blocks() -> Part:
    def read(fields: Fields) -> Choices:
        width, depth = fields.whole("hidden_size"), fields.depth("num_hidden_layers")
        mixer = Mamba(
            width,
            fields.whole("mamba_expand") * width,
            fields.whole("mamba_d_state"),
            step_rank(fields, "mamba_dt_rank"),
            fields.whole("mamba_d_conv"),
            fields.activation("hidden_act"),
            fields.flag("mamba_proj_bias"),
            fields.flag("mamba_conv_bias"),
            RMSNorm(1, eps=fields.positive("rms_norm_eps")),
        )
        attends, mixes, experts = _every(fields, "attn"), _every(fields, "expert"), fields.whole("num_experts")
        if experts == 1:
            mixes = set()
        own = tuple(
            {"mixer": "attention" if block in attends else mixer, "experts": experts if block in mixes else None}
            for block in range(depth)
        )
        return {"mixer": mixer, "experts": experts if mixes else None, "blocks": own}

    def write(design: Design) -> dict[str, Any]:
        each, mixer = every_block(design), first_mixer(Mamba, design)
        mixed = [one for one in each if one.experts is not None]
        config: dict[str, Any] = {"num_experts": 1, "num_experts_per_tok": 1}
        if mixed:
            config = {"num_experts": mixed[0].experts, "num_experts_per_tok": mixed[0].top_k}
        for name, found in (
            ("attn", [block for block, one in enumerate(each) if one.mixer == "attention"]),
            ("expert", [block for block, one in enumerate(each) if one.experts is not None]),
        ):
            config |= _written(name, found, design.depth)
        if mixer is None:
            return config
        return config | {
            "mamba_expand": max(1, mixer.inner // design.width),
            "mamba_d_state": mixer.state,
            "mamba_dt_rank": mixer.rank,
            "mamba_d_conv": mixer.kernel,
            "hidden_act": spelling_of(mixer.activation),
            "mamba_proj_bias": mixer.bias,
            "mamba_conv_bias": mixer.kernel_bias,
        }

    return Part(read, write)


_FEED_FORWARD: WeightNames = {**GATED_WEIGHTS, **without(EXPERT_WEIGHTS, "mlp.gate")}

JAMBA = Family(
    "jamba",
    defaults={
        **LLAMA_DEFAULTS,
        "vocab_size": 65536,
        "max_position_embeddings": 262144,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "attn_layer_period": 8,
        "attn_layer_offset": 4,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_dt_rank": "auto",
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
    },
    names={**LLAMA_NAMES, "top_k": "num_experts_per_tok"},
    aliases={"num_local_experts": "num_experts"},
    fixed={**LLAMA_CHOICES, "positions": "none", "renormalized": False},
    models=causal("Jamba", tasks=("SequenceClassification",)),
    parts=(_blocks(),),
    weights=llama_weights(
        {
            **ATTENTION_WEIGHTS,
            "input_layernorm": "mixer.norm_in|attention.norm_in",
            **of_mixer("mamba", MAMBA_WEIGHTS),
            "mamba.dt_layernorm": "mixer.step_norm",
            "mamba.b_layernorm": "mixer.write_norm",
            "mamba.c_layernorm": "mixer.read_norm",
            "pre_ff_layernorm": "feed_forward.norm_in",
            **{name.replace("mlp.", "feed_forward."): role for name, role in _FEED_FORWARD.items()},
            "feed_forward.router": "feed_forward.router",
        },
        last_norm="final_layernorm",
    ),
    initial_rule="jamba",
)
