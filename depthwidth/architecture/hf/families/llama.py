"""Llama, Mistral, Ministral 3 and Mixtral. Other families share Llama's names, and take them from here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...design import Design
from ..family import ALL_TASKS, TASK_WEIGHTS, Choices, Family, Part, causal
from ..fields import Fields
from ..parts import rope
from ..weights import Fused, WeightNames, in_blocks

LLAMA_NAMES = {
    "vocab": "vocab_size",
    "context": "max_position_embeddings",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "ffn": "intermediate_size",
    "activation": "hidden_act",
    "attention_dropout": "attention_dropout",
    "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
}
LLAMA_DEFAULTS = {
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "intermediate_size": 11008,
    "hidden_act": "silu",
    "attention_dropout": 0.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
LLAMA_CHOICES = {"norm": "rmsnorm", "gated": True, "bias": False}
ATTENTION_BIAS = {"attention_bias": "attention_bias", "attention_out_bias": "attention_bias"}
WINDOW = {"window": "sliding_window"}


ATTENTION_WEIGHTS: WeightNames = {
    "input_layernorm": "attention.norm_in",
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.o_proj": "attention.out",
}
QK_NORM_WEIGHTS: WeightNames = {"self_attn.q_norm": "attention.query_norm", "self_attn.k_norm": "attention.key_norm"}
NORM_WEIGHTS: WeightNames = {"post_attention_layernorm": "feed_forward.norm_in"}
GATED_WEIGHTS: WeightNames = {
    "mlp.gate_proj": "feed_forward.gate",
    "mlp.up_proj": "feed_forward.up",
    "mlp.down_proj": "feed_forward.down",
}
EXPERT_FIELDS = {
    "ffn": "moe_intermediate_size",
    "experts": "num_experts",
    "top_k": "num_experts_per_tok",
    "renormalized": "norm_topk_prob",
}
EXPERT_WEIGHTS: WeightNames = {
    "mlp.gate": "feed_forward.router",
    "mlp.experts.gate_up_proj": Fused("halves", ("feed_forward.expert.gate", "feed_forward.expert.up")),
    "mlp.experts.down_proj": "feed_forward.expert.down",
}
BLOCK_WEIGHTS: WeightNames = {**ATTENTION_WEIGHTS, **NORM_WEIGHTS, **GATED_WEIGHTS}


def llama_weights(block: WeightNames = BLOCK_WEIGHTS, last_norm: str = "norm") -> WeightNames:
    """Weight names: Llama's outside of blocks, and those of `block` in each block."""
    around = {"embed_tokens": "stem.tokens", last_norm: "decoder.norm", "lm_head": "head.unembedding", **TASK_WEIGHTS}
    return {**around, **in_blocks("layers.#", "decoder", block)}


LLAMA = Family(
    "llama",
    defaults={**LLAMA_DEFAULTS, "attention_bias": False, "mlp_bias": False},
    names={**LLAMA_NAMES, **ATTENTION_BIAS, "ffn_bias": "mlp_bias"},
    fixed=LLAMA_CHOICES,
    models=causal("Llama", tasks=ALL_TASKS),
    parts=(rope(),),
    weights=llama_weights(),
)

MISTRAL = Family(
    "mistral",
    defaults={
        **LLAMA_DEFAULTS,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    names={**LLAMA_NAMES, **WINDOW},
    fixed=LLAMA_CHOICES,
    models=causal("Mistral", tasks=ALL_TASKS),
    parts=(rope(),),
    weights=llama_weights(),
)

_MINISTRAL_ROPE: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 1000000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}
"""The table of a file that has none."""


def _ministral_rope() -> Part:
    """Rotary positions of the table; a base of its own is read next to ``rope_scaling`` only."""

    def read(fields: Fields) -> Choices:
        if fields.has("rope_scaling"):  # an older file, whose base is a field of its own
            return rope(1000000.0).read(fields)
        if not fields.has("rope_parameters"):
            fields.values["rope_parameters"] = _MINISTRAL_ROPE
        return rope(1000000.0, theta_name="").read(fields)

    def write(design: Design) -> dict[str, Any]:
        config = rope(1000000.0, theta_name="").write(design)
        for name in ("llama_4_scaling_beta", "original_max_position_embeddings"):  # without which the library's code fails
            config.get("rope_parameters", {}).setdefault(name, _MINISTRAL_ROPE[name])
        return config

    return Part(read, write)


def _query_growth(config: Mapping[str, Any]) -> tuple[float, float]:
    """The rate and the length by which queries grow with the logarithm of their position."""
    table = {**_MINISTRAL_ROPE, **(config.get("rope_parameters") or {})}
    return float(table["llama_4_scaling_beta"]), float(table["original_max_position_embeddings"])


MINISTRAL3 = Family(
    "ministral3",
    defaults={
        **LLAMA_DEFAULTS,
        "vocab_size": 131072,
        "intermediate_size": 14336,
        "num_hidden_layers": 34,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262144,
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
    },
    names={**LLAMA_NAMES, **WINDOW},
    fixed=LLAMA_CHOICES,
    models=causal("Ministral3", tasks=ALL_TASKS),
    parts=(_ministral_rope(),),
    weights=llama_weights(),
    settings={"query_growth": _query_growth},
)

MIXTRAL = Family(
    "mixtral",
    defaults={
        **MISTRAL.defaults,
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
        "num_experts_per_tok": 2,
        "num_local_experts": 8,
    },
    names={**MISTRAL.names, "experts": "num_local_experts", "top_k": "num_experts_per_tok"},
    aliases={"num_experts": "num_local_experts"},
    fixed=LLAMA_CHOICES,
    models=causal("Mixtral", tasks=ALL_TASKS),
    parts=(rope(1000000.0),),
    weights=llama_weights({**ATTENTION_WEIGHTS, **NORM_WEIGHTS, **EXPERT_WEIGHTS}),
)
