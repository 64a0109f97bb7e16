"""Helium."""

from __future__ import annotations

from typing import Any

from ...design import Design
from ..family import ALL_TASKS, Choices, Family, Part, causal, without
from ..fields import Fields
from ..parts import rope
from .llama import LLAMA_CHOICES, LLAMA_DEFAULTS, LLAMA_NAMES, llama_weights


def _whole_heads() -> Part:
    """The dimension of a head; the library's output map reads as many features as the stream has."""

    def read(fields: Fields) -> Choices:
        head_dim = fields.whole_or_none("head_dim")
        heads, width = fields.whole("num_attention_heads"), fields.whole("hidden_size")
        if head_dim is not None and heads * head_dim != width:
            raise fields.wrong("head_dim", f"times {fields.spell('num_attention_heads')} is not {fields.spell('hidden_size')}")
        return {"head_dim": head_dim}

    def write(design: Design) -> dict[str, Any]:
        return {"head_dim": design.head_dim}

    return Part(read, write)


HELIUM = Family(
    "helium",
    defaults={
        **LLAMA_DEFAULTS,
        "vocab_size": 48000,
        "hidden_size": 2560,
        "intermediate_size": 7040,
        "num_hidden_layers": 24,
        "num_attention_heads": 20,
        "num_key_value_heads": 20,
        "head_dim": 128,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-8,
        "attention_bias": False,
        "mlp_bias": False,
    },
    names={**without(LLAMA_NAMES, "head_dim"), "attention_bias": "attention_bias", "ffn_bias": "mlp_bias"},
    fixed=LLAMA_CHOICES,
    models=causal("Helium", tasks=ALL_TASKS[:2]),
    parts=(rope(100000.0, interleaved=True), _whole_heads()),
    weights=llama_weights(),
)
