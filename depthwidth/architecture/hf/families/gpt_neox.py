"""GPT-NeoX and Pythia."""

from __future__ import annotations

from ..family import ALL_TASKS, TASK_WEIGHTS, Family, causal, without
from ..parts import rope, usual_head_dim
from ..weights import QKV, Fused, in_blocks
from .llama import (
    ATTENTION_BIAS,
    LLAMA_NAMES,
)

GPT_NEOX = Family(
    "gpt_neox",
    defaults={
        "vocab_size": 50432,
        "max_position_embeddings": 2048,
        "hidden_size": 6144,
        "num_hidden_layers": 44,
        "num_attention_heads": 64,
        "intermediate_size": 24576,
        "hidden_act": "gelu",
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "layer_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "use_parallel_residual": True,
        "attention_bias": True,
    },
    names={
        **without(LLAMA_NAMES, "kv_heads", "head_dim"),
        **ATTENTION_BIAS,
        "dropout": "hidden_dropout",
        "norm_eps": "layer_norm_eps",
        "parallel": "use_parallel_residual",
    },
    fixed={},
    models=causal("GPTNeoX", tasks=ALL_TASKS),
    even_rotation=False,
    parts=(rope(fraction=0.25, theta_name="rotary_emb_base", fraction_name="rotary_pct"), usual_head_dim()),
    weights={
        "embed_in": "stem.tokens",
        "final_layer_norm": "decoder.norm",
        "lm_head": "head.unembedding",
        **TASK_WEIGHTS,
        **in_blocks(
            "layers.#",
            "decoder",
            {
                "input_layernorm": "attention.norm_in",
                "attention.query_key_value": Fused("key_groups", QKV),
                "attention.dense": "attention.out",
                "post_attention_layernorm": "feed_forward.norm_in",
                "mlp.dense_h_to_4h": "feed_forward.up",
                "mlp.dense_4h_to_h": "feed_forward.down",
            },
        ),
    },
)
