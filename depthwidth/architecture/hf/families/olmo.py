"""OLMo 1 and 2."""

from __future__ import annotations

from ..family import Family, causal, without
from ..parts import rope
from .llama import (
    ATTENTION_BIAS,
    GATED_WEIGHTS,
    LLAMA_CHOICES,
    LLAMA_DEFAULTS,
    LLAMA_NAMES,
    QK_NORM_WEIGHTS,
    llama_weights,
)

OLMO = Family(
    "olmo",
    defaults={
        **without(LLAMA_DEFAULTS, "rms_norm_eps"),
        "vocab_size": 50304,
        "attention_bias": False,
    },
    names={**without(LLAMA_NAMES, "norm_eps"), **ATTENTION_BIAS},
    # Its norms have no weights.
    fixed={"gated": True, "bias": False, "norm_affine": False},
    models=causal("Olmo"),
    parts=(rope(),),
    weights=llama_weights(),
    settings={"qkv_clip": lambda config: config.get("clip_qkv")},
)

OLMO2 = Family(
    "olmo2",
    defaults={**LLAMA_DEFAULTS, "vocab_size": 50304, "rms_norm_eps": 1e-5, "attention_bias": False},
    names={**LLAMA_NAMES, **ATTENTION_BIAS},
    fixed={**LLAMA_CHOICES, "placement": "output", "qk_norm": "full"},
    models=causal("Olmo2"),
    parts=(rope(),),
    weights=llama_weights(
        {
            "self_attn.q_proj": "attention.query",
            "self_attn.k_proj": "attention.key",
            "self_attn.v_proj": "attention.value",
            "self_attn.o_proj": "attention.out",
            **QK_NORM_WEIGHTS,
            "post_attention_layernorm": "attention.norm_out",
            **GATED_WEIGHTS,
            "post_feedforward_layernorm": "feed_forward.norm_out",
        }
    ),
)
