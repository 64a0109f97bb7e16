"""BitNet b1.58."""

from __future__ import annotations

from ..family import Family, causal, without
from ..parts import rope, usual_head_dim
from .llama import ATTENTION_BIAS, BLOCK_WEIGHTS, LLAMA_CHOICES, LLAMA_DEFAULTS, LLAMA_NAMES, llama_weights

BITNET = Family(
    "bitnet",
    defaults={
        **without(LLAMA_DEFAULTS, "head_dim"),
        "vocab_size": 128256,
        "hidden_size": 2560,
        "intermediate_size": 6912,
        "num_hidden_layers": 30,
        "num_attention_heads": 20,
        "num_key_value_heads": 5,
        "hidden_act": "relu2",
        "rms_norm_eps": 1e-5,
        "attention_bias": False,
    },
    names={**without(LLAMA_NAMES, "head_dim"), **ATTENTION_BIAS},
    fixed={**LLAMA_CHOICES, "inner_norm": True},
    models=causal("BitNet"),
    # The norm between values and output matrix is as wide as the stream.
    parts=(rope(500000.0), usual_head_dim()),
    weights=llama_weights(
        {
            **BLOCK_WEIGHTS,
            "self_attn.attn_sub_norm": "attention.inner_norm",
            "mlp.ffn_sub_norm": "feed_forward.inner_norm",
        }
    ),
)
