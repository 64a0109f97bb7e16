"""Choices and weight names that families of an encoder and a decoder have in common (BART and its relatives)."""

from __future__ import annotations

import math
from typing import Any

from ...layers import SinusoidalTable
from ..design import Design
from .family import END, END_WEIGHTS, Choices, Part
from .fields import Fields
from .weights import WeightNames, in_blocks

NAMES = {
    "vocab": "vocab_size",
    "context": "max_position_embeddings",
    "width": "d_model",
    "depth": "decoder_layers",
    "heads": "decoder_attention_heads",
    "ffn": "decoder_ffn_dim",
    "activation": "activation_function",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "ffn_dropout": "activation_dropout",
}
"""The fields of choices."""

DEFAULTS: dict[str, Any] = {
    "vocab_size": 50265,
    "max_position_embeddings": 1024,
    "encoder_layers": 12,
    "encoder_ffn_dim": 4096,
    "encoder_attention_heads": 16,
    "decoder_layers": 12,
    "decoder_ffn_dim": 4096,
    "decoder_attention_heads": 16,
    "activation_function": "gelu",
    "d_model": 1024,
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "scale_embedding": False,
    "tie_word_embeddings": True,
}
"""BART's defaults, from which the others differ in a few."""

ALIASES = {
    "hidden_size": "d_model",
    "num_hidden_layers": "encoder_layers",
    "num_attention_heads": "encoder_attention_heads",
}
TIED: dict[str, tuple[Any, ...]] = {"tie_word_embeddings": (True,)}
"""Untied, the library keeps three tables of tokens, one of them unused."""
ALONE: Choices = {
    "head": "lm",
    "kind": "decoder",
    "lone_decoder": True,
    "pooler": False,
    **dict.fromkeys(("encoder", "encoder_depth")),
    "source": "shared",
}
"""A decoder without its encoder: its configuration has the fields of both, and its cross-attention has nothing to read."""


def is_alone(fields: Fields) -> bool:
    """True if the file names the class of a decoder alone."""
    return str(fields.model()).endswith("ForCausalLM")


def tied_tables() -> Part:
    """One table of tokens, or for a decoder alone one and an output matrix; two stacks are :data:`TIED`."""

    def read(fields: Fields) -> Choices:
        tied = fields.flag("tie_word_embeddings")
        if not tied and not is_alone(fields):
            raise fields.beyond("tie_word_embeddings", "is not supported, only True")
        return {"tied": tied}

    return Part(read, lambda design: {"tie_word_embeddings": design.tied})


def encoder_fields(**own: Any) -> Part:
    """The depth, heads and feed-forward width of the encoder; `own` are further choices of its own."""

    def read(fields: Fields) -> Choices:
        heads, width = fields.whole("encoder_attention_heads"), fields.whole("d_model")
        if width % heads:
            raise fields.wrong("d_model", f"is not a multiple of {fields.spell('encoder_attention_heads')}")
        found = {**own, "heads": heads, "ffn": fields.whole("encoder_ffn_dim")}
        return {"encoder_depth": fields.depth("encoder_layers"), "encoder": found}

    def write(design: Design) -> dict[str, Any]:
        heads, ffn = ((design.encoder or {}).get(name, getattr(design, name)) for name in ("heads", "ffn"))
        depth = design.encoder_depth or design.depth
        return {"encoder_layers": depth, "encoder_attention_heads": heads, "encoder_ffn_dim": ffn}

    return Part(read, write)


def scaled_tokens(width: str = "d_model", field: str = "scale_embedding") -> Part:
    """A field that multiplies the token embedding by the square root of the width."""
    return Part(
        lambda fields: {"embedding_scale": math.sqrt(fields.whole(width)) if fields.flag(field) else 1.0},
        lambda design: {field: design.embedding_scale != 1.0},
    )


def models(
    prefix: str, head: str = "ForConditionalGeneration", *, tasks: bool = False, alone: bool = True
) -> dict[str, Choices]:
    """The models with a language head and without one, and of a decoder `alone`.

    With `tasks` those for classes of a sequence and for answers, too.
    """
    both: Choices = {"kind": "encoder-decoder", "pooler": False}
    found = {f"{prefix}{head}": {"head": "lm", **both}, f"{prefix}Model": {"head": "none", **both}}
    if alone:
        found[f"{prefix}ForCausalLM"] = ALONE
    if tasks:
        found[f"{prefix}ForSequenceClassification"] = END
        found[f"{prefix}ForQuestionAnswering"] = {"head": "classifier", "classifier_reads": "every", "classes": 2, **both}
    return found


def stored_positions() -> Part:
    """Sines and cosines that are stored, the sines first (Marian, Pegasus)."""

    def read(fields: Fields) -> Choices:
        rows, width = fields.whole("max_position_embeddings"), fields.whole("d_model")
        return {"positions": SinusoidalTable(halves=True, rows=rows, width=width)}

    return Part(read, lambda design: {})


def weights(head: str = "lm_head") -> WeightNames:
    """The weight names of both stacks, of the tables and of the head."""
    own = {"embed_positions": "positions", "layernorm_embedding": "norm"}
    return {
        "shared": "stem.tokens",
        "decoder.embed_tokens": "stem.tokens",  # if the stacks have separate tables
        "encoder.embed_tokens": "source.tokens",
        **{f"decoder.{name}": f"stem.{role}" for name, role in own.items()},
        **{f"encoder.{name}": f"source.{role}" for name, role in own.items()},
        "decoder.layer_norm": "decoder.norm",
        "encoder.layer_norm": "encoder.norm",
        head: "head.unembedding",
        "qa_outputs": "head.linear",
        **END_WEIGHTS,
        **in_blocks("encoder.layers.#", "encoder", block_weights()),
        **in_blocks("decoder.layers.#", "decoder", block_weights("self_attn", "encoder_attn")),
    }


def block_weights(*attentions: str) -> WeightNames:
    """The weight names in one block, with self-attention alone or with these attentions."""
    table: WeightNames = {
        "fc1": "feed_forward.up",
        "fc2": "feed_forward.down",
        "final_layer_norm": "feed_forward.norm_in|feed_forward.norm_stream",
    }
    for name in attentions or ("self_attn",):
        role = {"self_attn": "attention", "encoder_attn": "cross_attention"}[name]
        parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
        table = {
            **table,
            **{f"{name}.{part}": f"{role}.{own}" for part, own in parts.items()},
            f"{name}_layer_norm": f"{role}.norm_in|{role}.norm_stream",
        }
    return table


LOGIT_BIAS = {"final_logits_bias": "head.offset"}
"""A term of the logits that is not a parameter: zero in a new model, and in most published ones."""
