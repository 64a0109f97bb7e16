"""Qwen 2 and 3, dense and with mixtures of experts."""

from __future__ import annotations

from typing import Any

from ...design import Design
from ..family import ALL_TASKS, Choices, Family, Part, causal, without
from ..fields import Fields
from ..parts import rope, windows
from .llama import (
    ATTENTION_BIAS,
    ATTENTION_WEIGHTS,
    BLOCK_WEIGHTS,
    EXPERT_WEIGHTS,
    LLAMA_CHOICES,
    LLAMA_DEFAULTS,
    LLAMA_NAMES,
    NORM_WEIGHTS,
    QK_NORM_WEIGHTS,
    llama_weights,
)

_QWEN_DEFAULTS = {
    **LLAMA_DEFAULTS,
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 32,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
_QWEN_MOE_ONLY: dict[str, tuple[Any, ...]] = {"decoder_sparse_step": (1,), "mlp_only_layers": (None, [])}


def _late(fields: Fields, block: int) -> bool:
    return block >= fields.count("max_window_layers")


QWEN2 = Family(
    "qwen2",
    defaults=_QWEN_DEFAULTS,
    names=LLAMA_NAMES,
    fixed={**LLAMA_CHOICES, "attention_bias": True},
    models=causal("Qwen2", tasks=ALL_TASKS),
    parts=(rope(), windows(_late, "use_sliding_window")),
    weights=llama_weights(),
)

QWEN3 = Family(
    "qwen3",
    defaults={**_QWEN_DEFAULTS, "head_dim": 128, "attention_bias": False},
    names={**LLAMA_NAMES, **ATTENTION_BIAS},
    fixed={**LLAMA_CHOICES, "qk_norm": "head"},
    models=causal("Qwen3", tasks=ALL_TASKS),
    parts=(rope(), windows(_late, "use_sliding_window")),
    weights=llama_weights({**BLOCK_WEIGHTS, **QK_NORM_WEIGHTS}),
)

_QWEN_MOE_NAMES = {
    **LLAMA_NAMES,
    "ffn": "moe_intermediate_size",
    "experts": "num_experts",
    "top_k": "num_experts_per_tok",
    "renormalized": "norm_topk_prob",
}

QWEN2_MOE = Family(
    "qwen2_moe",
    defaults={
        **without(_QWEN_DEFAULTS, "intermediate_size"),
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "num_experts_per_tok": 4,
        "num_experts": 60,
        "norm_topk_prob": False,
        "qkv_bias": True,
    },
    names={**_QWEN_MOE_NAMES, "shared_ffn": "shared_expert_intermediate_size", "attention_bias": "qkv_bias"},
    fixed={**LLAMA_CHOICES, "shared_gate": True},
    models=causal("Qwen2Moe", tasks=ALL_TASKS),
    only=_QWEN_MOE_ONLY,
    parts=(
        rope(),
        windows(lambda fields, block: block % 2 == 0 and not _late(fields, block), "use_sliding_window"),
    ),
    weights=llama_weights(
        {
            **ATTENTION_WEIGHTS,
            **NORM_WEIGHTS,
            **EXPERT_WEIGHTS,
            "mlp.shared_expert_gate": "feed_forward.shared_gate",
            "mlp.shared_expert.gate_proj": "feed_forward.shared.gate",
            "mlp.shared_expert.up_proj": "feed_forward.shared.up",
            "mlp.shared_expert.down_proj": "feed_forward.shared.down",
        }
    ),
)


def _one_window() -> Part:
    """``sliding_window`` in every block if ``use_sliding_window`` is true."""

    def read(fields: Fields) -> Choices:
        return {"window": fields.whole_or_none("sliding_window") if fields.flag("use_sliding_window") else None}

    def write(design: Design) -> dict[str, Any]:
        return {"sliding_window": design.window, "use_sliding_window": design.window is not None}

    return Part(read, write)


QWEN3_MOE = Family(
    "qwen3_moe",
    defaults={
        **without(_QWEN_DEFAULTS, "intermediate_size", "layer_types", "max_window_layers"),
        "hidden_size": 2048,
        "num_hidden_layers": 24,
        "num_key_value_heads": 4,
        "attention_bias": False,
        "moe_intermediate_size": 768,
        "num_experts_per_tok": 8,
        "num_experts": 128,
        "norm_topk_prob": False,
    },
    names={**_QWEN_MOE_NAMES, **ATTENTION_BIAS},
    aliases={"num_local_experts": "num_experts"},
    fixed={**LLAMA_CHOICES, "qk_norm": "head"},
    models=causal("Qwen3Moe", tasks=ALL_TASKS),
    only=_QWEN_MOE_ONLY,
    parts=(rope(), _one_window()),
    weights=llama_weights({**ATTENTION_WEIGHTS, **QK_NORM_WEIGHTS, **NORM_WEIGHTS, **EXPERT_WEIGHTS}),
)
