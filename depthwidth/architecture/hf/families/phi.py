"""Phi (1, 1.5 and 2) and Phi-3."""

from __future__ import annotations

from ..family import ALL_TASKS, Family, causal, without
from ..parts import qk_norm, rope
from ..weights import QKV, Fused
from .llama import (
    LLAMA_CHOICES,
    LLAMA_DEFAULTS,
    LLAMA_NAMES,
    NORM_WEIGHTS,
    WINDOW,
    llama_weights,
)

PHI = Family(
    "phi",
    defaults={
        **without(LLAMA_DEFAULTS, "rms_norm_eps"),
        "vocab_size": 51200,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-5,
        "qk_layernorm": False,
    },
    names={**LLAMA_NAMES, "norm_eps": "layer_norm_eps", "dropout": "resid_pdrop", "embedding_dropout": "embd_pdrop"},
    fixed={"parallel": True, "shared_norm": True, "head_bias": True},
    models=causal("Phi", tasks=ALL_TASKS[:2]),
    parts=(
        rope(fraction=0.5),
        qk_norm("qk_layernorm", "head"),
    ),
    weights=llama_weights(
        {
            "input_layernorm": "norm",
            "self_attn.q_proj": "attention.query",
            "self_attn.k_proj": "attention.key",
            "self_attn.v_proj": "attention.value",
            "self_attn.dense": "attention.out",
            "self_attn.q_layernorm": "attention.query_norm",
            "self_attn.k_layernorm": "attention.key_norm",
            "mlp.fc1": "feed_forward.up",
            "mlp.fc2": "feed_forward.down",
        },
        last_norm="final_layernorm",
    ),
)


PHI3 = Family(
    "phi3",
    defaults={
        **LLAMA_DEFAULTS,
        "vocab_size": 32064,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "resid_pdrop": 0.0,
        "max_position_embeddings": 4096,
        "original_max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
    },
    names={**LLAMA_NAMES, **WINDOW, "dropout": "resid_pdrop"},
    fixed={**LLAMA_CHOICES, "embedding_dropout": 0.0},
    models=causal("Phi3", tasks=ALL_TASKS[:2]),
    parts=(rope(fraction=1.0),),
    weights=llama_weights(
        {
            "input_layernorm": "attention.norm_in",
            "self_attn.qkv_proj": Fused("rows", QKV),
            "self_attn.o_proj": "attention.out",
            **NORM_WEIGHTS,
            "mlp.gate_up_proj": Fused("halves", ("feed_forward.gate", "feed_forward.up")),
            "mlp.down_proj": "feed_forward.down",
        }
    ),
)
