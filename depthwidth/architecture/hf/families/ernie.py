"""ERNIE 4.5."""

from __future__ import annotations

from ..family import Family, causal, without
from ..parts import rope
from .llama import LLAMA_CHOICES, LLAMA_DEFAULTS, LLAMA_NAMES, llama_weights

ERNIE4_5 = Family(
    "ernie4_5",
    defaults={
        **without(LLAMA_DEFAULTS, "attention_dropout"),
        "vocab_size": 103424,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 18,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "use_bias": False,
        "tie_word_embeddings": True,
    },
    names={**without(LLAMA_NAMES, "attention_dropout"), "bias": "use_bias"},
    fixed=without(LLAMA_CHOICES, "bias"),
    models=causal("Ernie4_5"),
    parts=(rope(500000.0, interleaved=True),),
    weights=llama_weights(),
)
