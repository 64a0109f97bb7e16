"""OLMo 1 and 2."""

from __future__ import annotations

from ..family import ALL_TASKS, Family, causal, without
from ..parts import rope, two_ropes, usual_head_dim, windows
from ..weights import WeightNames
from .llama import (
    ATTENTION_BIAS,
    ATTENTION_WEIGHTS,
    EXPERT_FIELDS,
    EXPERT_WEIGHTS,
    GATED_WEIGHTS,
    LLAMA_CHOICES,
    LLAMA_DEFAULTS,
    LLAMA_NAMES,
    NORM_WEIGHTS,
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
    models=causal("Olmo", tasks=ALL_TASKS[:1]),
    parts=(rope(),),
    weights=llama_weights(),
    settings={"qkv_clip": lambda config: config.get("clip_qkv")},
)

OLMO2_BLOCK: WeightNames = {
    **without(ATTENTION_WEIGHTS, "input_layernorm"),
    **QK_NORM_WEIGHTS,
    "post_attention_layernorm": "attention.norm_out",
    **GATED_WEIGHTS,
    "post_feedforward_layernorm": "feed_forward.norm_out",
}

OLMO2 = Family(
    "olmo2",
    defaults={**LLAMA_DEFAULTS, "vocab_size": 50304, "rms_norm_eps": 1e-5, "attention_bias": False},
    names={**LLAMA_NAMES, **ATTENTION_BIAS},
    fixed={**LLAMA_CHOICES, "placement": "output", "qk_norm": "full"},
    models=causal("Olmo2", tasks=ALL_TASKS[:1]),
    parts=(rope(),),
    weights=llama_weights(OLMO2_BLOCK),
)

OLMO3 = Family(
    "olmo3",
    defaults={**OLMO2.defaults, "sliding_window": 4096, "layer_types": None},
    names=OLMO2.names,
    fixed=OLMO2.fixed,
    models=causal("Olmo3", tasks=ALL_TASKS[:1]),
    parts=(two_ropes(500000.0, 500000.0), windows(lambda fields, block: (block + 1) % 4 != 0)),
    weights=llama_weights(OLMO2_BLOCK),
)

OLMOE = Family(
    "olmoe",
    defaults={
        **without(OLMO2.defaults, "head_dim"),
        "hidden_size": 2048,
        "intermediate_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "max_position_embeddings": 4096,
        "num_experts_per_tok": 8,
        "num_experts": 64,
        "norm_topk_prob": False,
    },
    names={
        **without(OLMO2.names, "head_dim"),
        **without(EXPERT_FIELDS, "ffn"),
    },
    aliases={"num_local_experts": "num_experts"},
    fixed={**LLAMA_CHOICES, "qk_norm": "full"},
    models=causal("Olmoe"),
    # Its norms over all queries are as wide as the stream, so that no other head dimension runs.
    parts=(rope(), usual_head_dim()),
    weights=llama_weights({**ATTENTION_WEIGHTS, **QK_NORM_WEIGHTS, **NORM_WEIGHTS, **EXPERT_WEIGHTS}),
    settings=OLMO.settings,
)
