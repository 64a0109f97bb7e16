"""M2M-100 and NLLB, and XGLM: sines and cosines that nothing stores."""

from __future__ import annotations

from typing import Any

from ....layers import SinusoidalPositions
from ....layers.positions import positions_as
from ...design import Design
from ..family import Choices, Family, Part, causal
from ..fields import Fields
from ..parts import unread_attention
from ..two_stacks import ALIASES, DEFAULTS, NAMES, TIED, block_weights, encoder_fields, models, scaled_tokens, weights
from ..weights import in_blocks


def _sinusoids() -> Part:
    """Sines, then cosines; positions count from the number after the padding token's."""

    def read(fields: Fields) -> Choices:
        padding = 1 if fields.raw("pad_token_id") is None else fields.count("pad_token_id")
        return {"positions": SinusoidalPositions(halves=True, to_end=True, offset=padding + 1)}

    def write(design: Design) -> dict[str, Any]:
        waves = positions_as(SinusoidalPositions, design.positions)
        return {} if waves is None or not waves.offset else {"pad_token_id": waves.offset - 1}

    return Part(read, write)


M2M_100 = Family(
    "m2m_100",
    defaults={
        **DEFAULTS,
        "vocab_size": 128112,
        "activation_function": "relu",
        "attention_dropout": 0.1,
        "scale_embedding": True,
        "pad_token_id": 1,
    },
    names=NAMES,
    aliases=ALIASES,
    only=TIED,
    fixed={"norm_eps": 1e-5},
    models=models("M2M100", alone=False),
    parts=(encoder_fields(), scaled_tokens(), _sinusoids()),
    weights=weights(),
    initial_field="init_std",
)


XGLM = Family(
    "xglm",
    defaults={
        "vocab_size": 256008,
        "max_position_embeddings": 2048,
        "d_model": 1024,
        "ffn_dim": 4096,
        "num_layers": 24,
        "attention_heads": 16,
        "activation_function": "gelu",
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.0,
        "scale_embedding": True,
        "tie_word_embeddings": True,
        "add_cross_attention": False,
    },
    names={
        "vocab": "vocab_size",
        "context": "max_position_embeddings",
        "width": "d_model",
        "depth": "num_layers",
        "heads": "attention_heads",
        "ffn": "ffn_dim",
        "activation": "activation_function",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "ffn_dropout": "activation_dropout",
        "tied": "tie_word_embeddings",
    },
    aliases={"hidden_size": "d_model", "num_attention_heads": "attention_heads", "num_hidden_layers": "num_layers"},
    fixed={"norm_eps": 1e-5, "positions": SinusoidalPositions(halves=True, to_end=True, offset=2)},
    models=causal("XGLM"),
    parts=(scaled_tokens(), unread_attention()),
    weights={
        "embed_tokens": "stem.tokens",
        "layer_norm": "decoder.norm",
        "lm_head": "head.unembedding",
        **in_blocks("layers.#", "decoder", block_weights("self_attn", "encoder_attn")),
    },
    initial_field="init_std",
)
