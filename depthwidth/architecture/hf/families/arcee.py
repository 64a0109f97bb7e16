"""Arcee."""

from __future__ import annotations

from ..family import ALL_TASKS, Family, causal
from ..parts import rope
from .llama import ATTENTION_BIAS, ATTENTION_WEIGHTS, LLAMA_DEFAULTS, LLAMA_NAMES, NORM_WEIGHTS, llama_weights

ARCEE = Family(
    "arcee",
    defaults={
        **LLAMA_DEFAULTS,
        "hidden_size": 2560,
        "intermediate_size": 18432,
        "hidden_act": "relu2",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "attention_bias": False,
        "mlp_bias": False,
    },
    names={**LLAMA_NAMES, **ATTENTION_BIAS, "ffn_bias": "mlp_bias"},
    fixed={"norm": "rmsnorm"},
    models=causal("Arcee", tasks=ALL_TASKS),
    parts=(rope(),),
    weights=llama_weights(
        {**ATTENTION_WEIGHTS, **NORM_WEIGHTS, "mlp.up_proj": "feed_forward.up", "mlp.down_proj": "feed_forward.down"}
    ),
)
