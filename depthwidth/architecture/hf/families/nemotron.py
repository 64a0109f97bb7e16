"""Nemotron."""

from __future__ import annotations

from ..family import ALL_TASKS, Family, causal, without
from ..parts import rope
from .llama import ATTENTION_BIAS, ATTENTION_WEIGHTS, LLAMA_DEFAULTS, LLAMA_NAMES, NORM_WEIGHTS, llama_weights

NEMOTRON = Family(
    "nemotron",
    defaults={
        **without(LLAMA_DEFAULTS, "rms_norm_eps"),
        "vocab_size": 256000,
        "hidden_size": 6144,
        "intermediate_size": 24576,
        "num_attention_heads": 48,
        "hidden_act": "relu2",
        "max_position_embeddings": 4096,
        "norm_eps": 1e-5,
        "attention_bias": False,
        "mlp_bias": False,
    },
    names={**LLAMA_NAMES, **ATTENTION_BIAS, "norm_eps": "norm_eps", "ffn_bias": "mlp_bias"},
    fixed={"norm_unit_offset": True},
    models=causal("Nemotron", tasks=ALL_TASKS),
    even_rotation=False,
    parts=(rope(fraction=0.5),),
    weights=llama_weights(
        {**ATTENTION_WEIGHTS, **NORM_WEIGHTS, "mlp.up_proj": "feed_forward.up", "mlp.down_proj": "feed_forward.down"}
    ),
    initial_rule="normal-doubled-gains",
    initial_std=0.0134,
)
