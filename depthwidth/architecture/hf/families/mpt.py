"""MPT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...design import Design
from ..family import ALL_TASKS, TASK_WEIGHTS, Choices, Family, Part, causal
from ..fields import Fields
from ..weights import QKV, Fused, in_blocks


def _table(config: Mapping[str, Any]) -> Mapping[str, Any]:
    table = config.get("attn_config")
    return table if isinstance(table, Mapping) else {}


def _inner(fields: Fields) -> Fields:
    """The fields of ``attn_config``."""
    return Fields(fields.model_type, fields.table("attn_config"), {"softmax_scale": None, "attn_pdrop": 0.0}, {})


def _mpt_attention() -> Part:
    """The scale of scores and the one dropout rate, which are inside ``attn_config``."""

    def read(fields: Fields) -> Choices:
        inner = _inner(fields)
        rate = inner.rate("attn_pdrop")
        return {"logit_scale": inner.positive_or_none("softmax_scale"), "attention_dropout": rate, "dropout": rate}

    def write(design: Design) -> dict[str, Any]:
        return {"attn_config": {"softmax_scale": design.logit_scale, "attn_pdrop": design.attention_dropout or 0}}

    return Part(read, write)


MPT = Family(
    "mpt",
    defaults={
        "d_model": 2048,
        "n_heads": 16,
        "n_layers": 24,
        "max_seq_len": 2048,
        "vocab_size": 50368,
        "layer_norm_epsilon": 1e-5,
        "attn_config": None,
        "tie_word_embeddings": True,
    },
    names={
        "vocab": "vocab_size",
        "context": "max_seq_len",
        "width": "d_model",
        "depth": "n_layers",
        "heads": "n_heads",
        "norm_eps": "layer_norm_epsilon",
        "tied": "tie_word_embeddings",
    },
    aliases={"hidden_size": "d_model", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
    # The library builds no other model, whatever expansion_ratio, no_bias, learned_pos_emb and alibi say.
    fixed={"positions": "alibi", "bias": False, "norm_bias": False, "embedding_dropout": 0.0},
    models=causal("Mpt", tasks=ALL_TASKS),
    parts=(_mpt_attention(),),
    weights={
        "wte": "stem.tokens",
        "norm_f": "decoder.norm",
        "lm_head": "head.unembedding",
        **TASK_WEIGHTS,
        **in_blocks(
            "blocks.#",
            "decoder",
            {
                "norm_1": "attention.norm_in",
                "attn.Wqkv": Fused("rows", QKV),
                "attn.out_proj": "attention.out",
                "norm_2": "feed_forward.norm_in",
                "ffn.up_proj": "feed_forward.up",
                "ffn.down_proj": "feed_forward.down",
            },
        ),
    },
    settings={"qkv_clip": lambda config: _table(config).get("clip_qkv") or None},
)
