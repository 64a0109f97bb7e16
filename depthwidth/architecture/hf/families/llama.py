"""Llama, Mistral and Mixtral. Other families share Llama's names, and take them from here."""

from __future__ import annotations

from ..family import ALL_TASKS, TASK_WEIGHTS, Family, causal
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
