"""Falcon."""

from __future__ import annotations

from typing import Any

from ....layers import ALiBi
from ....layers.positions import positions_as
from ...design import Design
from ..family import ALL_TASKS, TASK_WEIGHTS, Choices, Family, Part, causal
from ..fields import Fields
from ..parts import rope
from ..weights import QKV, Fused, in_blocks


def _falcon_shape() -> Part:
    """Three generations: Falcon-RW (branches in sequence, ALiBi), 7B (parallel, one key head), 40B and later (grouped)."""

    def read(fields: Fields) -> Choices:
        grouped, parallel = fields.flag("new_decoder_architecture"), fields.flag("parallel_attn")
        heads, given = fields.whole("num_attention_heads"), fields.whole_or_none("num_kv_heads")
        if grouped and not parallel:
            raise fields.wrong("parallel_attn", f"does not go with {fields.spell('new_decoder_architecture')}")
        kv_heads = (given or heads) if grouped or not fields.flag("multi_query") else 1
        if not grouped and not fields.flag("multi_query") and kv_heads != heads:
            raise fields.wrong("num_kv_heads", f"needs new_decoder_architecture=True, or to be {heads}")
        norms = fields.raw("num_ln_in_parallel_attn")
        if norms is None:
            norms = 2 if grouped else 1
        if isinstance(norms, bool) or norms not in (1, 2):
            raise fields.wrong("num_ln_in_parallel_attn", "is neither 1 nor 2")
        places = {"parallel": parallel, "shared_norm": parallel and norms == 1}
        positions: Any = ALiBi(scaled=True) if fields.flag("alibi") else rope().read(fields)["positions"]
        return {**places, "kv_heads": kv_heads, "positions": positions}

    def write(design: Design) -> dict[str, Any]:
        one, all_of_them = design.kv_heads == 1, design.kv_heads == design.heads
        grouped = design.parallel and not (one or all_of_them)
        return {
            "new_decoder_architecture": grouped,
            "num_kv_heads": design.kv_heads if grouped else None,
            "multi_query": one,
            "parallel_attn": design.parallel,
            "num_ln_in_parallel_attn": 1 if design.shared_norm or not design.parallel else 2,
            "alibi": design.positions == "alibi" or positions_as(ALiBi, design.positions) is not None,
            **rope().write(design),
        }

    return Part(read, write)


FALCON = Family(
    "falcon",
    defaults={
        "vocab_size": 65024,
        "hidden_size": 4544,
        "num_hidden_layers": 32,
        "num_attention_heads": 71,
        "num_ln_in_parallel_attn": None,
        "layer_norm_epsilon": 1e-5,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "num_kv_heads": None,
        "alibi": False,
        "new_decoder_architecture": False,
        "multi_query": True,
        "parallel_attn": True,
        "bias": False,
        "max_position_embeddings": 2048,
        "ffn_hidden_size": None,
        "activation": "gelu",
        "tie_word_embeddings": True,
    },
    names={
        "vocab": "vocab_size",
        "context": "max_position_embeddings",
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "ffn": "ffn_hidden_size",
        "activation": "activation",
        "dropout": "hidden_dropout",
        "attention_dropout": "attention_dropout",
        "norm_eps": "layer_norm_epsilon",
        "bias": "bias",
        "tied": "tie_word_embeddings",
    },
    aliases={"n_embed": "hidden_size"},
    fixed={"embedding_dropout": 0.0},
    models=causal("Falcon", tasks=ALL_TASKS),
    parts=(_falcon_shape(),),
    weights={
        "word_embeddings": "stem.tokens",
        "ln_f": "decoder.norm",
        "lm_head": "head.unembedding",
        **TASK_WEIGHTS,
        **in_blocks(
            "h.#",
            "decoder",
            {
                "input_layernorm": "attention.norm_in|norm",
                "ln_attn": "attention.norm_in",
                "self_attention.query_key_value": Fused("key_groups", QKV),
                "self_attention.dense": "attention.out",
                "post_attention_layernorm": "feed_forward.norm_in",
                "ln_mlp": "feed_forward.norm_in",
                "mlp.dense_h_to_4h": "feed_forward.up",
                "mlp.dense_4h_to_h": "feed_forward.down",
            },
        ),
    },
    settings={"coarse_penalty": True},
)
