"""Gemma 1, 2 and 3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..family import ALL_TASKS, SEQUENCE, Choices, Family, Part, causal, without
from ..fields import Fields
from ..parts import query_scale, rope, scaled_embedding, sliding_pattern, two_ropes, windows
from ..weights import WeightNames
from .llama import (
    ATTENTION_BIAS,
    ATTENTION_WEIGHTS,
    GATED_WEIGHTS,
    LLAMA_CHOICES,
    LLAMA_DEFAULTS,
    LLAMA_NAMES,
    QK_NORM_WEIGHTS,
    llama_weights,
)

_BOTH_WAYS = "every token sees all others; counts of all scores are the same, and moments are those of a causal model"
BOTH_WAYS = {"use_bidirectional_attention": (None, _BOTH_WAYS)}
"""Fields of models for embeddings (EmbeddingGemma)."""


def _sees_all(config: Mapping[str, Any]) -> str:
    """A reason why the logits are not those of a causal model."""
    return "every token sees all others" if config.get("use_bidirectional_attention") else ""


_GEMMA_DEFAULTS = {
    **LLAMA_DEFAULTS,
    "vocab_size": 256000,
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "attention_bias": False,
}
_GEMMA_CHOICES = {**LLAMA_CHOICES, "norm_unit_offset": True}


def _gemma_activation() -> Part:
    """Released files name gelu for its tanh form; a later field, which overrides the first, names the tanh form."""

    def read(fields: Fields) -> Choices:
        name = fields.activation("hidden_activation" if fields.has("hidden_activation") else "hidden_act")
        return {"activation": "gelu_tanh" if name == "gelu" else name}

    return Part(read, lambda design: {})


GEMMA = Family(
    "gemma",
    defaults=_GEMMA_DEFAULTS,
    names={**LLAMA_NAMES, **ATTENTION_BIAS},
    fixed=_GEMMA_CHOICES,
    models=causal("Gemma", tasks=ALL_TASKS[:2]),
    noted=BOTH_WAYS,
    unlike=_sees_all,
    parts=(rope(), scaled_embedding(), _gemma_activation()),
    weights=llama_weights(),
)

GEMMA2_DEFAULTS = {
    **without(_GEMMA_DEFAULTS, "hidden_act"),
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "layer_types": None,
    "final_logit_softcapping": 30.0,
    "attn_logit_softcapping": 50.0,
}
GEMMA2_NAMES = {
    **GEMMA.names,
    "activation": "hidden_activation",
    "score_softcap": "attn_logit_softcapping",
    "logit_softcap": "final_logit_softcapping",
}
_GEMMA2_CHOICES = {**_GEMMA_CHOICES, "placement": "sandwich"}

GEMMA2_BLOCK: WeightNames = {
    **ATTENTION_WEIGHTS,
    "post_attention_layernorm": "attention.norm_out",
    "pre_feedforward_layernorm": "feed_forward.norm_in",
    **GATED_WEIGHTS,
    "post_feedforward_layernorm": "feed_forward.norm_out",
}

GEMMA2 = Family(
    "gemma2",
    defaults=GEMMA2_DEFAULTS,
    names=GEMMA2_NAMES,
    fixed=_GEMMA2_CHOICES,
    models=causal("Gemma2", tasks=ALL_TASKS[:2]),
    noted=BOTH_WAYS,
    parts=(rope(), scaled_embedding(), query_scale(), windows(lambda fields, block: block % 2 == 0)),
    weights=llama_weights(GEMMA2_BLOCK),
)


GEMMA3 = Family(
    "gemma3_text",
    defaults={
        **GEMMA2_DEFAULTS,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
        "sliding_window_pattern": 6,
    },
    names=GEMMA2_NAMES,
    fixed={**_GEMMA2_CHOICES, "qk_norm": "head"},
    models={
        "Gemma3ForCausalLM": {"head": "lm", "pooler": False},
        "Gemma3TextModel": {"head": "none", "pooler": False},
        "Gemma3TextForSequenceClassification": SEQUENCE,
    },
    noted=BOTH_WAYS,
    unlike=_sees_all,
    parts=(two_ropes(1000000.0, 10000.0, "rope_local_base_freq"), scaled_embedding(), query_scale(), windows(sliding_pattern)),
    weights=llama_weights({**GEMMA2_BLOCK, **QK_NORM_WEIGHTS}),
    # The library reads attn_logit_softcapping and makes no use of it in this family (transformers 5); Gemma 3 has no such cap.
    settings={"score_softcap": None},
)
