"""StarCoder 2."""

from __future__ import annotations

from ..family import Family, causal, without
from ..parts import rope
from .llama import (
    ATTENTION_WEIGHTS,
    LLAMA_DEFAULTS,
    LLAMA_NAMES,
    NORM_WEIGHTS,
    WINDOW,
    llama_weights,
)

STARCODER2 = Family(
    "starcoder2",
    defaults={
        **without(LLAMA_DEFAULTS, "rms_norm_eps"),
        "vocab_size": 49152,
        "hidden_size": 3072,
        "intermediate_size": 12288,
        "num_hidden_layers": 30,
        "num_attention_heads": 24,
        "num_key_value_heads": 2,
        "hidden_act": "gelu_pytorch_tanh",
        "max_position_embeddings": 4096,
        "norm_epsilon": 1e-5,
        "sliding_window": None,
        "residual_dropout": 0.0,
        "embedding_dropout": 0.0,
        "use_bias": True,
        "tie_word_embeddings": True,
    },
    names={
        **LLAMA_NAMES,
        **WINDOW,
        "norm_eps": "norm_epsilon",
        "dropout": "residual_dropout",
        "embedding_dropout": "embedding_dropout",
        "bias": "use_bias",
    },
    fixed={},
    models=causal("Starcoder2"),
    parts=(rope(),),
    weights=llama_weights(
        {**ATTENTION_WEIGHTS, **NORM_WEIGHTS, "mlp.c_fc": "feed_forward.up", "mlp.c_proj": "feed_forward.down"}
    ),
    initial_std=0.018042,
)
