"""BLOOM."""

from __future__ import annotations

from ..family import ALL_TASKS, TASK_WEIGHTS, Family, causal
from ..weights import QKV, Fused, in_blocks

BLOOM = Family(
    "bloom",
    defaults={
        "vocab_size": 250880,
        "seq_length": 2048,  # what it was trained on; nothing in the model depends on it
        "hidden_size": 64,
        "n_layer": 2,
        "n_head": 8,
        "layer_norm_epsilon": 1e-5,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
    },
    names={
        "vocab": "vocab_size",
        "context": "seq_length",
        "width": "hidden_size",
        "depth": "n_layer",
        "heads": "n_head",
        "dropout": "hidden_dropout",
        "attention_dropout": "attention_dropout",
        "norm_eps": "layer_norm_epsilon",
        "tied": "tie_word_embeddings",
    },
    aliases={"n_embed": "hidden_size", "num_hidden_layers": "n_layer", "num_attention_heads": "n_head"},
    fixed={"positions": "alibi", "embedding_norm": True, "embedding_dropout": 0.0, "activation": "gelu_tanh"},
    models=causal("Bloom", tasks=ALL_TASKS),
    only={"apply_residual_connection_post_layernorm": (False,)},
    weights={
        "word_embeddings": "stem.tokens",
        "word_embeddings_layernorm": "stem.norm",
        "ln_f": "decoder.norm",
        "lm_head": "head.unembedding",
        **TASK_WEIGHTS,
        **in_blocks(
            "h.#",
            "decoder",
            {
                "input_layernorm": "attention.norm_in",
                "self_attention.query_key_value": Fused("key_groups", QKV),
                "self_attention.dense": "attention.out",
                "post_attention_layernorm": "feed_forward.norm_in",
                "mlp.dense_h_to_4h": "feed_forward.up",
                "mlp.dense_4h_to_h": "feed_forward.down",
            },
        ),
    },
)
