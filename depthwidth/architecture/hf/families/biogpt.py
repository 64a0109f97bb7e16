"""BioGPT."""

from __future__ import annotations

from ..family import Family, causal
from ..two_stacks import block_weights, scaled_tokens
from ..weights import in_blocks

BIOGPT = Family(
    "biogpt",
    defaults={
        "vocab_size": 42384,
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "max_position_embeddings": 1024,
        "scale_embedding": True,
        "activation_dropout": 0.0,
        "tie_word_embeddings": True,
    },
    names={
        "vocab": "vocab_size",
        "context": "max_position_embeddings",
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "ffn": "intermediate_size",
        "activation": "hidden_act",
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
        "ffn_dropout": "activation_dropout",
        "tied": "tie_word_embeddings",
    },
    # The position table has two more rows than there are positions, a relic of padding.
    fixed={"positions": "learned", "position_offset": 2, "norm_eps": 1e-5},
    models=causal("BioGpt", tasks=("SequenceClassification", "TokenClassification")),
    parts=(scaled_tokens("hidden_size"),),
    weights={
        "embed_tokens": "stem.tokens",
        "embed_positions": "stem.positions",
        "layer_norm": "decoder.norm",
        "output_projection": "head.unembedding",
        "score": "head.linear",
        "classifier": "head.linear",
        **in_blocks("layers.#", "decoder", block_weights()),
    },
)
