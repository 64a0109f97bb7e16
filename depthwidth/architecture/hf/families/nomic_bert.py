"""Nomic BERT: BERT with rotary positions, gated feed-forward parts and no biases in its blocks."""

from __future__ import annotations

from ..family import TASK_WEIGHTS, TOKEN, Family, without
from ..parts import rope
from ..weights import in_blocks
from . import bert, llama

NOMIC_BERT = Family(
    "nomic_bert",
    defaults={
        **bert.DEFAULTS,
        "vocab_size": 30528,
        "max_position_embeddings": 2048,
        "hidden_act": "silu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "head_dim": None,
    },
    names={**bert.BERT.names, "head_dim": "head_dim"},
    fixed={**without(bert.BERT.fixed, "positions"), "gated": True, "bias": False},
    models={
        "NomicBertForMaskedLM": {"head": "masked-lm", "head_bias": True, "pooler": False},
        "NomicBertModel": {"head": "none", "pooler": False},
        "NomicBertForSequenceClassification": {"head": "classifier", "pooler": True},
        "NomicBertForTokenClassification": TOKEN,
    },
    parts=(rope(1000.0), bert.second_bias()),
    weights={
        **{name: role for name, role in bert.BERT.weights.items() if not name.startswith("encoder.")},
        **TASK_WEIGHTS,
        "cls.predictions.transform.layer_norm": "head.norm",
        **in_blocks(
            "layers.#",
            "encoder",
            {
                "self_attn.q_proj": "attention.query",
                "self_attn.k_proj": "attention.key",
                "self_attn.v_proj": "attention.value",
                "self_attn.o_proj": "attention.out",
                "post_attention_layernorm": "attention.norm_stream",
                **llama.GATED_WEIGHTS,
                "post_mlp_layernorm": "feed_forward.norm_stream",
            },
        ),
    },
)
