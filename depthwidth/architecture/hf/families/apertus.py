"""Apertus."""

from __future__ import annotations

from typing import Any

from ....layers.activation_entries import spelling_of
from ...design import Design
from ..family import Choices, Family, Part, causal, without
from ..fields import Fields
from ..parts import rope_by_default
from .llama import ATTENTION_BIAS, ATTENTION_WEIGHTS, LLAMA_DEFAULTS, LLAMA_NAMES, QK_NORM_WEIGHTS, llama_weights

_ROPE: dict[str, Any] = {
    "rope_type": "llama3",
    "rope_theta": 12000000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
"""The table of a file that has none."""


def _activation() -> Part:
    """``hidden_act``, which may be xIELU: no other family has a place for its trained numbers."""

    def read(fields: Fields) -> Choices:
        own = fields.raw("hidden_act") == "xielu"
        return {"activation": "xielu" if own else fields.activation("hidden_act")}

    def write(design: Design) -> dict[str, Any]:
        return {"hidden_act": "xielu" if design.activation == "xielu" else spelling_of(design.activation)}

    return Part(read, write)


APERTUS = Family(
    "apertus",
    defaults={
        **LLAMA_DEFAULTS,
        "vocab_size": 131072,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "hidden_act": "xielu",
        "max_position_embeddings": 65536,
        "rms_norm_eps": 1e-5,
        "attention_bias": False,
    },
    names={**without(LLAMA_NAMES, "activation"), **ATTENTION_BIAS},
    fixed={"norm": "rmsnorm", "bias": False, "qk_norm": "head"},
    models=causal("Apertus", tasks=("TokenClassification",)),
    parts=(rope_by_default(12000000.0, _ROPE), _activation()),
    weights=llama_weights(
        {
            **without(ATTENTION_WEIGHTS, "input_layernorm"),
            **QK_NORM_WEIGHTS,
            "attention_layernorm": "attention.norm_in",
            "feedforward_layernorm": "feed_forward.norm_in",
            "mlp.up_proj": "feed_forward.up",
            "mlp.act_fn": "feed_forward.activation",
            "mlp.down_proj": "feed_forward.down",
        }
    ),
)
