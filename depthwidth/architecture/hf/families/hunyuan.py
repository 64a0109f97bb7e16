"""Hunyuan, dense and with mixtures of experts."""

from __future__ import annotations

from typing import Any

from ....layers import Rotary
from ...design import Design
from ..family import ALL_TASKS, Choices, Family, Part, causal
from ..fields import Fields
from ..parts import factor_before_norms, normed_later, rope
from ..rope import rope_table
from .llama import (
    ATTENTION_BIAS,
    ATTENTION_WEIGHTS,
    BLOCK_WEIGHTS,
    EXPERT_WEIGHTS,
    LLAMA_CHOICES,
    LLAMA_DEFAULTS,
    LLAMA_NAMES,
    NORM_WEIGHTS,
    llama_weights,
)


def _stretched_base() -> Part:
    """Rotary positions; the library calls a base that a fixed ``alpha`` stretches "dynamic" too."""

    def read(fields: Fields) -> Choices:
        table = rope_table(fields)
        if table.get("rope_type", table.get("type")) != "dynamic" or not table.get("alpha"):
            return rope().read(fields)
        plain = {**fields.values, "rope_scaling": None, "rope_parameters": {"rope_theta": table.get("rope_theta")}}
        rotary: Rotary = rope().read(Fields(fields.model_type, plain, fields.defaults, {}))["positions"]
        alpha = Fields(fields.model_type, table, {}, {}).positive("alpha")
        head_dim = fields.whole_or_none("head_dim") or fields.whole("hidden_size") // fields.whole("num_attention_heads")
        if head_dim <= 2:
            raise fields.wrong("head_dim", "is too small for positions stretched by alpha")
        return {"positions": rotary.replace(base=rotary.base * alpha ** (head_dim / (head_dim - 2)))}

    def write(design: Design) -> dict[str, Any]:
        return rope().write(design)

    return Part(read, write)


_LATE_NORMS = {
    "self_attn.query_layernorm": "attention.query_norm",
    "self_attn.key_layernorm": "attention.key_norm",
}


def _as_wide() -> Part:
    """A part that every token passes, as wide as an expert."""
    return Part(
        lambda fields: {"shared_ffn": fields.whole("intermediate_size")},
        lambda design: {},
    )


HUNYUAN_DENSE = Family(
    "hunyuan_v1_dense",
    defaults={**LLAMA_DEFAULTS, "vocab_size": 290943, "rms_norm_eps": 1e-5, "attention_bias": False},
    names={**LLAMA_NAMES, **ATTENTION_BIAS},
    fixed={**LLAMA_CHOICES, "qk_norm": "head"},
    models=causal("HunYuanDenseV1", tasks=ALL_TASKS[:1]),
    parts=(normed_later(_stretched_base()),),
    weights=llama_weights(
        {
            **BLOCK_WEIGHTS,
            **_LATE_NORMS,
        }
    ),
    settings={"late_norms": True, "rotary_factor": factor_before_norms(_stretched_base(), "hunyuan_v1_dense")},
)

HUNYUAN_MOE = Family(
    "hunyuan_v1_moe",
    defaults={**HUNYUAN_DENSE.defaults, "num_experts": 1, "moe_topk": 1},
    names={**HUNYUAN_DENSE.names, "experts": "num_experts", "top_k": "moe_topk"},
    aliases={"num_local_experts": "num_experts", "num_experts_per_tok": "moe_topk"},
    fixed=HUNYUAN_DENSE.fixed,
    models=causal("HunYuanMoEV1", tasks=ALL_TASKS[:1]),
    parts=(normed_later(_stretched_base()), _as_wide()),
    weights=llama_weights(
        {
            **ATTENTION_WEIGHTS,
            **_LATE_NORMS,
            **NORM_WEIGHTS,
            **EXPERT_WEIGHTS,
            "mlp.gate.wg": "feed_forward.router",
            "mlp.shared_mlp.gate_proj": "feed_forward.shared.gate",
            "mlp.shared_mlp.up_proj": "feed_forward.shared.up",
            "mlp.shared_mlp.down_proj": "feed_forward.shared.down",
        }
    ),
    settings=HUNYUAN_DENSE.settings,
)
