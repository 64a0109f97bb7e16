"""StarCoder (GPT-BigCode) and StarCoder 2."""

from __future__ import annotations

from typing import Any

from ...design import Design
from ..family import ALL_TASKS, Choices, Family, Part, causal, without
from ..fields import Fields
from ..parts import rope, unread_attention, unscaled_scores
from ..weights import QKV, Fused, in_blocks
from . import gpt
from .llama import (
    ATTENTION_WEIGHTS,
    LLAMA_DEFAULTS,
    LLAMA_NAMES,
    NORM_WEIGHTS,
    WINDOW,
    llama_weights,
)


def _multi_query() -> Part:
    """One key head for all queries, or one for each."""

    def read(fields: Fields) -> Choices:
        alone = fields.flag("multi_query")
        if alone and fields.flag("add_cross_attention"):
            raise fields.wrong("add_cross_attention", "needs multi_query=False")
        return {"kv_heads": 1 if alone else None}

    def write(design: Design) -> dict[str, Any]:
        return {"multi_query": design.kv_heads == 1 and design.heads != 1}

    return Part(read, write)


GPT_BIGCODE = Family(
    "gpt_bigcode",
    defaults={
        **without(gpt.GPT2.defaults, "scale_attn_by_inverse_layer_idx"),
        "activation_function": "gelu_pytorch_tanh",
        "multi_query": True,
    },
    names=gpt.GPT2.names,
    aliases=gpt.GPT2.aliases,
    fixed=gpt.GPT2.fixed,
    models=causal("GPTBigCode", tasks=ALL_TASKS[:2]),
    parts=(_multi_query(), unscaled_scores(), unread_attention()),
    weights={
        **gpt.GPT2.weights,
        **in_blocks(
            "h.#",
            "decoder",
            {
                "attn.c_attn": Fused("key_groups", QKV),
                "crossattention.c_attn": Fused("rows", ("cross_attention.key", "cross_attention.value")),
            },
        ),
    },
    initial_rule="normal-by-depth",
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
    models=causal("Starcoder2", tasks=ALL_TASKS[:2]),
    parts=(rope(),),
    weights=llama_weights(
        {**ATTENTION_WEIGHTS, **NORM_WEIGHTS, "mlp.c_fc": "feed_forward.up", "mlp.c_proj": "feed_forward.down"}
    ),
    initial_std=0.018042,
)
