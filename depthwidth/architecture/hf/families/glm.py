"""GLM-4: the dense models of two generations, and the mixtures of GLM-4.5."""

from __future__ import annotations

from dataclasses import replace

from ..family import ALL_TASKS, Choices, Family, Part, causal, without
from ..fields import Fields
from ..parts import qk_norm, rope
from ..weights import Fused, WeightNames
from .deepseek import FURTHER_TOKENS, MIXTURE_DEFAULTS, MIXTURE_NAMES, MIXTURE_WEIGHTS, dense_first, sigmoid_router
from .llama import (
    ATTENTION_WEIGHTS,
    LLAMA_CHOICES,
    LLAMA_DEFAULTS,
    LLAMA_NAMES,
    NORM_WEIGHTS,
    QK_NORM_WEIGHTS,
    llama_weights,
)

_FUSED_WEIGHTS: WeightNames = {
    "mlp.gate_up_proj": Fused("halves", ("feed_forward.gate", "feed_forward.up")),
    "mlp.down_proj": "feed_forward.down",
}


def _whole_heads() -> Part:
    """A missing ``head_dim`` is the whole number in the width over the heads, as in the library."""

    def read(fields: Fields) -> Choices:
        own = fields.whole_or_none("head_dim")
        dims = fields.whole("hidden_size") // fields.whole("num_attention_heads") if own is None else own
        if not dims:
            raise fields.wrong("hidden_size", f"is less than {fields.spell('num_attention_heads')}")
        return {"head_dim": dims}

    return Part(read, lambda design: {})


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
    even_rotation=False,
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

GLM4_MOE = Family(
    "glm4_moe",
    defaults={
        **LLAMA_DEFAULTS,
        **MIXTURE_DEFAULTS,
        "vocab_size": 151552,
        "intermediate_size": 10944,
        "num_hidden_layers": 46,
        "num_attention_heads": 96,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "attention_bias": False,
        "use_qk_norm": False,
        "moe_intermediate_size": 1408,
        "n_routed_experts": 128,
        "routed_scaling_factor": 1.0,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
    names={**without(LLAMA_NAMES, "ffn"), **MIXTURE_NAMES, "attention_bias": "attention_bias"},
    aliases={"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"},
    fixed=LLAMA_CHOICES,
    models=causal("Glm4Moe"),
    noted=FURTHER_TOKENS,
    even_rotation=False,
    parts=(_whole_heads(), rope(fraction=0.5), qk_norm("use_qk_norm", "head"), dense_first(), sigmoid_router()),
    weights=llama_weights({**ATTENTION_WEIGHTS, **QK_NORM_WEIGHTS, **NORM_WEIGHTS, **MIXTURE_WEIGHTS}),
)
