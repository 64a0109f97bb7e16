"""Seed-OSS."""

from __future__ import annotations

from ..family import ALL_TASKS, Family, causal
from ..parts import rope
from .llama import LLAMA_CHOICES, LLAMA_DEFAULTS, LLAMA_NAMES, llama_weights

SEED_OSS = Family(
    "seed_oss",
    defaults={
        **LLAMA_DEFAULTS,
        "vocab_size": 155136,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 80,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 524288,
        "attention_bias": True,
        "attention_out_bias": False,
        "attention_dropout": 0.1,
        "residual_dropout": 0.1,
        "mlp_bias": False,
    },
    names={
        **LLAMA_NAMES,
        "attention_bias": "attention_bias",
        "attention_out_bias": "attention_out_bias",
        "ffn_bias": "mlp_bias",
        "dropout": "residual_dropout",
    },
    fixed={**LLAMA_CHOICES, "embedding_dropout": 0.0},
    models=causal("SeedOss", tasks=ALL_TASKS),
    parts=(rope(),),
    weights=llama_weights(),
)
