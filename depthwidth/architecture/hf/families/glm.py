"""GLM-4: the dense models of two generations."""

from __future__ import annotations

from dataclasses import replace

from ..family import ALL_TASKS, Family, causal
from ..parts import rope
from ..weights import Fused, WeightNames
from .llama import ATTENTION_WEIGHTS, LLAMA_CHOICES, LLAMA_DEFAULTS, LLAMA_NAMES, NORM_WEIGHTS, llama_weights

_FUSED_WEIGHTS: WeightNames = {
    "mlp.gate_up_proj": Fused("halves", ("feed_forward.gate", "feed_forward.up")),
    "mlp.down_proj": "feed_forward.down",
}

GLM = Family(
    "glm",
    defaults={
        **LLAMA_DEFAULTS,
        "vocab_size": 151552,
        "intermediate_size": 13696,
        "num_hidden_layers": 40,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 0.00000015625,
        "attention_bias": True,
    },
    names={**LLAMA_NAMES, "attention_bias": "attention_bias"},
    fixed=LLAMA_CHOICES,
    models=causal("Glm", tasks=ALL_TASKS[:2]),
    parts=(rope(fraction=0.5, interleaved=True),),
    weights=llama_weights({**ATTENTION_WEIGHTS, **NORM_WEIGHTS, **_FUSED_WEIGHTS}),
)

GLM4 = replace(
    GLM,
    model_type="glm4",
    fixed={**LLAMA_CHOICES, "placement": "sandwich"},
    models=causal("Glm4", tasks=ALL_TASKS[:2]),
    weights=llama_weights(
        {
            **ATTENTION_WEIGHTS,
            "post_self_attn_layernorm": "attention.norm_out",
            **NORM_WEIGHTS,
            **_FUSED_WEIGHTS,
            "post_mlp_layernorm": "feed_forward.norm_out",
        }
    ),
)
