"""Qwen 2 and 3, dense and with mixtures of experts."""

from __future__ import annotations

from typing import Any

from ....checks import is_whole
from ...design import Design
from ..family import ALL_TASKS, Choices, Family, Part, causal, every_block, without
from ..fields import Fields
from ..parts import rope, windows
from ..weights import WeightNames
from .llama import (
    ATTENTION_BIAS,
    ATTENTION_WEIGHTS,
    BLOCK_WEIGHTS,
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
SPARSE_DEFAULTS = {"decoder_sparse_step": 1, "mlp_only_layers": None}
SHARED_WEIGHTS: WeightNames = {
    "mlp.shared_expert_gate": "feed_forward.shared_gate",
    "mlp.shared_expert.gate_proj": "feed_forward.shared.gate",
    "mlp.shared_expert.up_proj": "feed_forward.shared.up",
    "mlp.shared_expert.down_proj": "feed_forward.shared.down",
}


def sparse_blocks(*, shared: bool = False) -> Part:
    """Dense blocks among mixtures: those that ``mlp_only_layers`` lists, and all but every ``decoder_sparse_step``-th."""

    def read(fields: Fields) -> Choices:
        step, listed = fields.count("decoder_sparse_step"), fields.raw("mlp_only_layers")
        if listed is not None and not (isinstance(listed, (list, tuple)) and all(is_whole(one, 0) for one in listed)):
            raise fields.wrong("mlp_only_layers", "is not a list of block numbers")
        depth, only = fields.depth("num_hidden_layers"), set(listed or ())
        dense = [block in only or not step or (block + 1) % step != 0 for block in range(depth)]
        if not any(dense):
            return {}
        own = {"ffn": fields.whole("intermediate_size"), "experts": None, "shared_ffn": None, "shared_gate": False}
        return {"blocks": tuple(own if one else {} for one in dense)}

    def write(design: Design) -> dict[str, Any]:
        each = every_block(design)
        mixed = [one for one in each if one.experts is not None]
        dense = [block for block, one in enumerate(each) if one.experts is None]
        config: dict[str, Any] = {"decoder_sparse_step": 1, "mlp_only_layers": dense}
        if not mixed:
            config |= {"num_experts": 1, "num_experts_per_tok": 1, "moe_intermediate_size": 1, "norm_topk_prob": False}
            config |= {"shared_expert_intermediate_size": 1} if shared else {}
        if mixed:
            config |= {name: getattr(mixed[0], choice) for choice, name in EXPERT_FIELDS.items()}
            if mixed[0].shared_ffn is not None:
                config["shared_expert_intermediate_size"] = mixed[0].shared_ffn
        if dense:
            config["intermediate_size"] = each[dense[0]].ffn
        return config

    return Part(read, write)


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
    **EXPERT_FIELDS,
}

QWEN2_MOE = Family(
    "qwen2_moe",
    defaults={
        **_QWEN_DEFAULTS,
        **SPARSE_DEFAULTS,
        "intermediate_size": 5632,
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
    parts=(
        rope(),
        windows(lambda fields, block: block % 2 == 0 and not _late(fields, block), "use_sliding_window"),
        sparse_blocks(shared=True),
    ),
    weights=llama_weights(
        {
            **ATTENTION_WEIGHTS,
            **NORM_WEIGHTS,
            **GATED_WEIGHTS,
            **EXPERT_WEIGHTS,
            **SHARED_WEIGHTS,
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
        **without(_QWEN_DEFAULTS, "layer_types", "max_window_layers"),
        **SPARSE_DEFAULTS,
        "intermediate_size": 6144,
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
    parts=(rope(), _one_window(), sparse_blocks()),
    weights=llama_weights({**ATTENTION_WEIGHTS, **QK_NORM_WEIGHTS, **NORM_WEIGHTS, **GATED_WEIGHTS, **EXPERT_WEIGHTS}),
)
