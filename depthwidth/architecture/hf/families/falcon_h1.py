"""Falcon-H1: a Mamba 2 mixer and attention side by side in every block."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....layers import Attention, Mamba2, ParallelMixer
from ...design import Design
from ..family import Choices, Family, Part, causal, first_mixer
from ..fields import Fields
from ..parts import rope
from .granite_hybrid import head_features
from .llama import ATTENTION_BIAS, LLAMA_CHOICES, LLAMA_DEFAULTS, LLAMA_NAMES, llama_weights
from .mamba import MAMBA2_WEIGHTS, STEP_LIMITS, of_mixer

_ROPE = rope()


def _mixers() -> Part:
    def read(fields: Fields) -> Choices:
        width, heads = fields.whole("hidden_size"), fields.whole("num_attention_heads")
        inner = fields.whole_or_none("mamba_d_ssm") or fields.whole("mamba_expand") * width
        mixer_heads, groups = fields.whole("mamba_n_heads"), fields.whole("mamba_n_groups")
        if mixer_heads % groups:
            raise fields.wrong("mamba_n_heads", f"is not a multiple of {fields.spell('mamba_n_groups')}")
        mixer = Mamba2(
            width,
            mixer_heads,
            head_features(fields, "mamba_n_heads", inner),
            fields.whole("mamba_d_state"),
            groups,
            fields.whole("mamba_d_conv"),
            fields.activation("hidden_act"),
            fields.flag("mamba_proj_bias"),
            fields.flag("projectors_bias"),
            fields.flag("mamba_conv_bias"),
            fields.flag("mamba_rms_norm"),
            fields.positive("rms_norm_eps"),
        )
        head_dim = fields.whole_or_none("head_dim")
        if head_dim is None and width % heads:
            raise fields.wrong("hidden_size", f"is not a multiple of {fields.spell('num_attention_heads')}")
        dim, kv_heads = head_dim or width // heads, fields.whole_or_none("num_key_value_heads") or heads
        if heads % kv_heads:
            raise fields.wrong("num_attention_heads", f"is not a multiple of {fields.spell('num_key_value_heads')}")
        attention = Attention(
            width,
            heads,
            kv_heads,
            dim,
            dim,
            position=_ROPE.read(fields)["positions"],
            bias=fields.flag("attention_bias"),
            out_bias=fields.flag("attention_bias"),
            dropout=fields.rate("attention_dropout"),
        )
        return {"mixer": ParallelMixer(mixer, attention)}

    def write(design: Design) -> dict[str, Any]:
        both = first_mixer(ParallelMixer, design)
        mixer = None if both is None else both.mixer_as(Mamba2)
        if mixer is None:
            return {}
        return {
            "mamba_n_heads": mixer.heads,
            "mamba_d_head": mixer.head_dim,
            "mamba_d_ssm": mixer.inner,
            "mamba_n_groups": mixer.groups,
            "mamba_d_state": mixer.state,
            "mamba_d_conv": mixer.kernel,
            "mamba_proj_bias": mixer.bias,
            "projectors_bias": mixer.out_bias,
            "mamba_conv_bias": mixer.kernel_bias,
            "mamba_rms_norm": mixer.normed,
        }

    return Part(read, write)


def _factors(config: Mapping[str, Any]) -> dict[str, float]:
    """The fixed factors of a configuration on the outputs of linear maps, by role."""

    def number(name: str) -> float:
        return float(config.get(name, 1.0))

    maps = {
        "attention.query": number("attention_in_multiplier"),
        "attention.key": number("attention_in_multiplier") * number("key_multiplier"),
        "attention.value": number("attention_in_multiplier"),
        "attention.out": number("attention_out_multiplier"),
        "mixer.write": number("ssm_out_multiplier"),
    }
    parts = ("gate", "read", "key", "query", "step")
    for part, factor in zip(parts, config.get("ssm_multipliers") or [1.0] * len(parts), strict=True):
        maps[f"mixer.{part}"] = number("ssm_in_multiplier") * factor
    gate, down = config.get("mlp_multipliers") or (1.0, 1.0)
    found = {f"mixer.{part}": factor for part, factor in maps.items()} | {"feed_forward.gate": gate, "feed_forward.down": down}
    return {f"decoder.block.{part}.weight": factor for part, factor in found.items()}


def _unlike(config: Mapping[str, Any]) -> str:
    """Biases that the library adds after a factor on the input of their map."""
    for name, bias in (("attention_in_multiplier", "attention_bias"), ("ssm_in_multiplier", "mamba_proj_bias")):
        if config.get(name, 1.0) != 1.0 and config.get(bias):
            return f"{name}={config[name]} leaves out the biases of the map that it precedes"
    return ""


FALCON_H1 = Family(
    "falcon_h1",
    defaults={
        **LLAMA_DEFAULTS,
        "vocab_size": 128000,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192,
        "mamba_d_ssm": 1024,
        "mamba_n_heads": 128,
        "mamba_d_head": "auto",
        "mamba_n_groups": 1,
        "mamba_d_state": 256,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
        "mamba_rms_norm": False,
        "projectors_bias": False,
        "lm_head_multiplier": 1.0,
        "embedding_multiplier": 1.0,
        "attention_bias": False,
        "mlp_bias": False,
    },
    names={
        **LLAMA_NAMES,
        **ATTENTION_BIAS,
        "ffn_bias": "mlp_bias",
        "embedding_scale": "embedding_multiplier",
        "head_scale": "lm_head_multiplier",
    },
    fixed=LLAMA_CHOICES,
    models=causal("FalconH1"),
    parts=(_ROPE, _mixers()),
    weights=llama_weights(
        {
            "input_layernorm": "mixer.norm_in",
            "self_attn.q_proj": "mixer.attention.query",
            "self_attn.k_proj": "mixer.attention.key",
            "self_attn.v_proj": "mixer.attention.value",
            "self_attn.o_proj": "mixer.attention.out",
            **of_mixer("mamba", MAMBA2_WEIGHTS, "mixer.mixer"),
            "pre_ff_layernorm": "feed_forward.norm_in",
            "feed_forward.gate_proj": "feed_forward.gate",
            "feed_forward.up_proj": "feed_forward.up",
            "feed_forward.down_proj": "feed_forward.down",
        },
        last_norm="final_layernorm",
    ),
    settings={**STEP_LIMITS, "norm_before_gate": lambda config: config.get("mamba_norm_before_gate", True)},
    factors=_factors,
    unlike=_unlike,
    initial_rule="state-space",
)
