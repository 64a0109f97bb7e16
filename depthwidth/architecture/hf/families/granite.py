"""Granite, dense and with a mixture of experts."""

from __future__ import annotations

from ..family import Family, causal
from ..parts import reciprocal, rope
from ..weights import Fused
from .llama import (
    ATTENTION_BIAS,
    ATTENTION_WEIGHTS,
    LLAMA_CHOICES,
    LLAMA_DEFAULTS,
    LLAMA_NAMES,
    NORM_WEIGHTS,
    llama_weights,
)

GRANITE_DEFAULTS = {
    **LLAMA_DEFAULTS,
    "attention_bias": False,
    "embedding_multiplier": 1.0,
    "logits_scaling": 1.0,
    "residual_multiplier": 1.0,
    "attention_multiplier": 1.0,
}
GRANITE_NAMES = {
    **LLAMA_NAMES,
    **ATTENTION_BIAS,
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "attention_multiplier",
}

GRANITE = Family(
    "granite",
    defaults={**GRANITE_DEFAULTS, "mlp_bias": False},
    names={**GRANITE_NAMES, "ffn_bias": "mlp_bias"},
    fixed=LLAMA_CHOICES,
    models=causal("Granite"),
    parts=(rope(), reciprocal("logits_scaling", "head_scale")),
    weights=llama_weights(),
)

GRANITE_MOE = Family(
    "granitemoe",
    defaults={**GRANITE_DEFAULTS, "num_local_experts": 8, "num_experts_per_tok": 2},
    names={**GRANITE_NAMES, "experts": "num_local_experts", "top_k": "num_experts_per_tok"},
    aliases={"num_experts": "num_local_experts"},
    fixed=LLAMA_CHOICES,
    models=causal("GraniteMoe"),
    parts=(rope(), reciprocal("logits_scaling", "head_scale")),
    weights=llama_weights(
        {
            **ATTENTION_WEIGHTS,
            **NORM_WEIGHTS,
            "block_sparse_moe.router": "feed_forward.router",
            "block_sparse_moe.experts.gate_up_proj": Fused("halves", ("feed_forward.expert.gate", "feed_forward.expert.up")),
            "block_sparse_moe.experts.down_proj": "feed_forward.expert.down",
        }
    ),
)
