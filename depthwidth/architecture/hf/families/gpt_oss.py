"""gpt-oss."""

from __future__ import annotations

import re
from typing import Any

from ...design import Design
from ..family import Choices, Family, Part, causal, without
from ..fields import Fields
from ..parts import rope_by_default, windows
from ..weights import Fused
from .llama import ATTENTION_BIAS, ATTENTION_WEIGHTS, LLAMA_DEFAULTS, LLAMA_NAMES, NORM_WEIGHTS, llama_weights

_ROPE: dict[str, Any] = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
"""The table of a file that has none."""


def _clamped_gate() -> Part:
    """The gate x sigmoid(a x) of an x up to a limit, times one plus a factor within the limits."""

    def read(fields: Fields) -> Choices:
        slope, limit = fields.positive("swiglu_alpha"), fields.positive("swiglu_limit")
        gate = f"min(x, {limit!r})*sigmoid({slope!r}*min(x, {limit!r}))"
        return {"activation": gate, "up_activation": f"1 + max(-{limit!r}, min(x, {limit!r}))"}

    def write(design: Design) -> dict[str, Any]:
        found = re.match(r"min\(x, (?P<limit>[^)]+)\)\*sigmoid\((?P<slope>[^*]+)\*", design.activation)
        if found is None:  # read back, it is another activation
            return {}
        return {"swiglu_alpha": float(found["slope"]), "swiglu_limit": float(found["limit"])}

    return Part(read, write)


GPT_OSS = Family(
    "gpt_oss",
    defaults={
        **without(LLAMA_DEFAULTS, "hidden_act"),
        "vocab_size": 201088,
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_hidden_layers": 36,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "attention_bias": True,
        "sliding_window": 128,
        "layer_types": None,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
    },
    names={
        **without(LLAMA_NAMES, "activation"),
        **ATTENTION_BIAS,
        "experts": "num_local_experts",
        "top_k": "num_experts_per_tok",
    },
    aliases={"num_experts": "num_local_experts"},
    fixed={"norm": "rmsnorm", "gated": True, "sinks": True, "router_bias": True},
    models=causal("GptOss", tasks=("SequenceClassification", "TokenClassification")),
    parts=(rope_by_default(150000.0, _ROPE), windows(lambda fields, block: block % 2 == 0), _clamped_gate()),
    weights=llama_weights(
        {
            **ATTENTION_WEIGHTS,
            "self_attn.sinks": "attention.sinks",
            **NORM_WEIGHTS,
            "mlp.router": "feed_forward.router",
            "mlp.experts.gate_up_proj": Fused("alternating", ("feed_forward.expert.gate", "feed_forward.expert.up")),
            "mlp.experts.gate_up_proj_bias": Fused(
                "alternating", ("feed_forward.expert.gate.bias", "feed_forward.expert.up.bias")
            ),
            "mlp.experts.down_proj": Fused("transposed", ("feed_forward.expert.down",)),
            "mlp.experts.down_proj_bias": "feed_forward.expert.down.bias",
        }
    ),
    initial_rule="normal-router-bias",
)
