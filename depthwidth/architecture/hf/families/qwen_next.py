"""Qwen3-Next and the text stack of Qwen 3.5: gated delta nets, and gated attention in every fourth block."""

from __future__ import annotations

from typing import Any

from ....layers import GatedDeltaNet
from ...design import Design
from ..family import ALL_TASKS, Choices, Family, Part, causal, every_block, first_mixer
from ..fields import Fields
from ..parts import rope
from ..weights import Fused, WeightNames
from .llama import (
    ATTENTION_BIAS,
    EXPERT_FIELDS,
    EXPERT_WEIGHTS,
    GATED_WEIGHTS,
    LLAMA_CHOICES,
    LLAMA_DEFAULTS,
    LLAMA_NAMES,
    llama_weights,
)
from .qwen import SHARED_WEIGHTS, SPARSE_DEFAULTS, sparse_blocks

_LINEAR, _FULL = "linear_attention", "full_attention"


def _delta_nets() -> Part:
    """A gated delta net in the blocks that ``layer_types`` names so: by default in all but every fourth."""

    def read(fields: Fields) -> Choices:
        depth = fields.depth("num_hidden_layers")
        kinds = fields.words("layer_types", (_LINEAR, _FULL), depth)
        if kinds is None:
            interval = fields.whole("full_attention_interval") if fields.has("full_attention_interval") else 4
            kinds = [_LINEAR if (block + 1) % interval else _FULL for block in range(depth)]
        key_heads, value_heads = fields.whole("linear_num_key_heads"), fields.whole("linear_num_value_heads")
        if value_heads % key_heads:
            raise fields.wrong("linear_num_value_heads", f"is not a multiple of {fields.spell('linear_num_key_heads')}")
        mixer = GatedDeltaNet(
            fields.whole("hidden_size"),
            key_heads,
            value_heads,
            fields.whole("linear_key_head_dim"),
            fields.whole("linear_value_head_dim"),
            fields.whole("linear_conv_kernel_dim"),
            fields.activation("hidden_act"),
            fields.positive("rms_norm_eps"),
        )
        own = tuple({"mixer": mixer} if kind == _LINEAR else {} for kind in kinds)
        return {"mixer": mixer} if all(own) else {"blocks": own} if any(own) else {}

    def write(design: Design) -> dict[str, Any]:
        kinds = [_FULL if block.mixer == "attention" else _LINEAR for block in every_block(design)]
        mixer = first_mixer(GatedDeltaNet, design)
        if mixer is None:
            return {"layer_types": kinds}
        return {
            "layer_types": kinds,
            "linear_num_key_heads": mixer.key_heads,
            "linear_num_value_heads": mixer.value_heads,
            "linear_key_head_dim": mixer.key_dim,
            "linear_value_head_dim": mixer.value_dim,
            "linear_conv_kernel_dim": mixer.kernel,
        }

    return Part(read, write)


_DEFAULTS = {
    **LLAMA_DEFAULTS,
    "num_attention_heads": 16,
    "max_position_embeddings": 32768,
    "head_dim": 256,
    "attention_bias": False,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "layer_types": None,
}
_NAMES = {**LLAMA_NAMES, **ATTENTION_BIAS}
_CHOICES = {**LLAMA_CHOICES, "qk_norm": "head", "norm_unit_offset": True, "attention_gate": True}
_WEIGHTS: WeightNames = {
    "input_layernorm": "mixer.norm_in|attention.norm_in",
    "self_attn.q_proj": Fused("groups", ("attention.query", "attention.gate")),
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.out",
    "self_attn.q_norm": "attention.query_norm",
    "self_attn.k_norm": "attention.key_norm",
    "linear_attn.conv1d": "mixer.convolution",
    "linear_attn.dt_bias": "mixer.step_bias",
    "linear_attn.A_log": "mixer.log_decay",
    "linear_attn.norm": "mixer.norm",
    "linear_attn.out_proj": "mixer.out",
    "post_attention_layernorm": "feed_forward.norm_in",
    **GATED_WEIGHTS,
}

QWEN3_NEXT = Family(
    "qwen3_next",
    defaults={
        **_DEFAULTS,
        **SPARSE_DEFAULTS,
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 48,
        "num_key_value_heads": 2,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "num_experts_per_tok": 10,
        "num_experts": 512,
        "norm_topk_prob": True,
    },
    names={**_NAMES, **EXPERT_FIELDS, "shared_ffn": "shared_expert_intermediate_size"},
    fixed={**_CHOICES, "shared_gate": True},
    models=causal("Qwen3Next", tasks=ALL_TASKS),
    parts=(rope(fraction=0.25), _delta_nets(), sparse_blocks(shared=True)),
    weights=llama_weights(
        {
            **_WEIGHTS,
            "linear_attn.in_proj_qkvz": Fused("groups", ("mixer.query", "mixer.key", "mixer.value", "mixer.gate")),
            "linear_attn.in_proj_ba": Fused("groups", ("mixer.strength", "mixer.step")),
            **EXPERT_WEIGHTS,
            **SHARED_WEIGHTS,
        }
    ),
    initial_rule="gated-delta",
)

QWEN3_5_TEXT = Family(
    "qwen3_5_text",
    defaults={
        **_DEFAULTS,
        "vocab_size": 248320,
        "intermediate_size": 12288,
        "num_key_value_heads": 4,
    },
    names=_NAMES,
    fixed=_CHOICES,
    models={"Qwen3_5ForCausalLM": {"head": "lm", "pooler": False}, "Qwen3_5TextModel": {"head": "none", "pooler": False}},
    parts=(rope(fraction=0.25), _delta_nets()),
    weights=llama_weights(
        {
            **_WEIGHTS,
            "linear_attn.in_proj_qkv": Fused("parts", ("mixer.query", "mixer.key", "mixer.value")),
            "linear_attn.in_proj_z": "mixer.gate",
            "linear_attn.in_proj_b": "mixer.strength",
            "linear_attn.in_proj_a": "mixer.step",
        }
    ),
    initial_rule="gated-delta",
)
