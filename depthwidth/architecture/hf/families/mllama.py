"""The text stack of Llama 3.2 Vision (mllama)."""

from __future__ import annotations

from typing import Any

from ....checks import is_whole
from ...design import Design
from ..family import Choices, Family, Part, every_block, without
from ..fields import Fields
from ..parts import rope, usual_head_dim
from .llama import BLOCK_WEIGHTS, LLAMA_CHOICES, LLAMA_DEFAULTS, LLAMA_NAMES, llama_weights

_USUAL = (3, 8, 13, 18, 23, 28, 33, 38)
"""The blocks that read images if a file names none."""
_SPARE = 8
"""Rows of the token table beyond the vocabulary, for images."""


def _memory_blocks() -> Part:
    """The blocks that read features of images; and the spare rows of the table."""

    def read(fields: Fields) -> Choices:
        listed = fields.raw("cross_attention_layers")
        listed = _USUAL if listed is None else listed
        if not isinstance(listed, (list, tuple)) or not all(is_whole(one, 0) for one in listed):
            raise fields.wrong("cross_attention_layers", "is not a list of block numbers")
        depth, reading = fields.depth("num_hidden_layers"), set(listed)
        if reading >= set(range(depth)):
            raise fields.wrong("cross_attention_layers", "leaves no block that reads the text")
        own = tuple({"memory_block": True} if block in reading else {} for block in range(depth))
        return {"spare_tokens": _SPARE, "blocks": own if any(own) else None}

    def write(design: Design) -> dict[str, Any]:
        reading = [block for block, one in enumerate(every_block(design)) if one.memory_block]
        return {"cross_attention_layers": reading, "vocab_size": design.vocab + design.spare_tokens - _SPARE}

    return Part(read, write)


_WEIGHTS = llama_weights(
    {
        **BLOCK_WEIGHTS,
        "input_layernorm": "attention.norm_in|cross_attention.norm_in",
        "cross_attn.q_proj": "cross_attention.query",
        "cross_attn.k_proj": "cross_attention.key",
        "cross_attn.v_proj": "cross_attention.value",
        "cross_attn.o_proj": "cross_attention.out",
        "cross_attn.q_norm": "cross_attention.query_norm",
        "cross_attn.k_norm": "cross_attention.key_norm",
        "cross_attn_attn_gate": "attention_gate",
        "cross_attn_mlp_gate": "feed_forward_gate",
    }
)

MLLAMA = Family(
    "mllama_text_model",
    defaults={
        **without(LLAMA_DEFAULTS, "head_dim", "attention_dropout"),
        "vocab_size": 128256,
        "num_hidden_layers": 40,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "dropout": 0.0,
        "cross_attention_layers": None,
    },
    names={**without(LLAMA_NAMES, "head_dim", "tied"), "attention_dropout": "dropout"},
    fixed={**LLAMA_CHOICES, "tied": False},
    models={"MllamaForCausalLM": {"head": "lm", "pooler": False}, "MllamaTextModel": {"head": "none", "pooler": False}},
    only={"tie_word_embeddings": (False,)},
    parts=(rope(500000.0), usual_head_dim(), _memory_blocks()),
    # The class with a head has another prefix than its parameters.
    weights={**_WEIGHTS, **{f"model.{name}": role for name, role in _WEIGHTS.items()}},
)
