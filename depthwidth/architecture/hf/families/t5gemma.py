"""T5Gemma: an encoder and a decoder of Gemma 2's blocks, of different sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....layers.activation_entries import spelling_of
from ...design import ENCODER_CHOICES, Design
from ..family import READERS, TOKEN, Choices, Family, Part, without
from ..fields import Fields
from ..parts import query_scale, rope, scaled_embedding, windows
from ..weights import WeightNames, in_blocks
from . import gemma
from .llama import GATED_WEIGHTS

_NAMES = without(gemma.GEMMA2.names, "attention_dropout", "tied") | {
    "attention_bias": "attention_bias",
    "attention_out_bias": "attention_bias",
}
_DEFAULTS = {**gemma.GEMMA2.defaults, "num_key_value_heads": 4, "head_dim": 256, "attention_bias": False}
_PARTS = (rope(), scaled_embedding(), query_scale(), windows(lambda fields, block: block % 2 == 0))
_ALIKE = ("norm_eps", "attention_bias", "score_softcap")
"""Choices that a tree has for both stacks together."""


def _stack(fields: Fields, name: str) -> Choices:
    """The choices of one stack, from the table of its own."""
    own = Fields(f"{fields.model_type} {name}", fields.table(name), _DEFAULTS, {})
    heads, shared = own.whole("num_attention_heads"), own.whole("num_key_value_heads")
    own.whole("head_dim")
    if heads % shared:
        raise own.wrong("num_attention_heads", f"is not a multiple of {own.spell('num_key_value_heads')}")
    found: Choices = {choice: READERS[choice](own, field) for choice, field in _NAMES.items()}
    for part in _PARTS:
        found.update(part.read(own))
    return found


def _both_stacks() -> Part:
    def read(fields: Fields) -> Choices:
        encoder, decoder = _stack(fields, "encoder"), _stack(fields, "decoder")
        for choice in _ALIKE:
            if encoder[choice] != decoder[choice]:
                raise fields.beyond("encoder", f"differs from the decoder in {_NAMES[choice]}, which no tree describes")
        encoder["window"] = _lengthen_window(encoder["window"], 1)  # both ends of the window are inside
        own = {name: value for name, value in encoder.items() if name in ENCODER_CHOICES}
        return {**decoder, "encoder_depth": encoder["depth"], "encoder": own}

    def write(design: Design) -> dict[str, Any]:
        decoder = replace(design, encoder=None)
        encoder = replace(decoder, **{**(design.encoder or {}), "depth": design.encoder_depth or design.depth})
        encoder = replace(encoder, window=_lengthen_window(encoder.window, -1))
        return {"decoder": _table(decoder), "encoder": _table(encoder)}

    return Part(read, write)


def _table(design: Design) -> dict[str, Any]:
    """The fields of one stack."""
    config: dict[str, Any] = {field: getattr(design, choice) for choice, field in _NAMES.items()}
    config["hidden_activation"] = spelling_of(design.activation)
    for part in _PARTS:
        config.update(part.write(design))
    return config


def _lengthen_window(window: Any, by: int) -> Any:
    """A window, or each of several, longer by some positions; None stays None."""
    if isinstance(window, tuple):
        return tuple(_lengthen_window(one, by) for one in window)
    return None if window is None else window + by


def _block_weights(*branches: str) -> WeightNames:
    table: WeightNames = {
        **GATED_WEIGHTS,
        "pre_feedforward_layernorm": "feed_forward.norm_in",
        "post_feedforward_layernorm": "feed_forward.norm_out",
    }
    for name in branches:
        role = {"self_attn": "attention", "cross_attn": "cross_attention"}[name]
        parts: Mapping[str, str] = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}
        table = {
            **table,
            f"pre_{name}_layernorm": f"{role}.norm_in",
            f"post_{name}_layernorm": f"{role}.norm_out",
            **{f"{name}.{part}": f"{role}.{own}" for part, own in parts.items()},
        }
    return table


T5GEMMA = Family(
    "t5gemma",
    defaults={"encoder": None, "decoder": None, "dropout_rate": 0.0, "attention_dropout": 0.0},
    names={"dropout": "dropout_rate", "ffn_dropout": "dropout_rate", "attention_dropout": "attention_dropout"},
    only={"tie_word_embeddings": (True,), "is_encoder_decoder": (True,)},
    fixed={**gemma.GEMMA2.fixed, "source": "own", "tied": True},
    models={
        "T5GemmaForConditionalGeneration": {"head": "lm", "kind": "encoder-decoder", "pooler": False},
        "T5GemmaModel": {"head": "none", "kind": "encoder-decoder", "pooler": False},
        "T5GemmaForSequenceClassification": {**TOKEN, "kind": "encoder-decoder", "classifier_reads": "last"},
        "T5GemmaForTokenClassification": {**TOKEN, "kind": "encoder-decoder"},
    },
    parts=(_both_stacks(),),
    weights={
        "encoder.embed_tokens": "source.tokens",
        "decoder.embed_tokens": "stem.tokens",
        "encoder.norm": "encoder.norm",
        "decoder.norm": "decoder.norm",
        "lm_head.out_proj": "head.unembedding",
        "score.out_proj": "head.linear",
        **in_blocks("encoder.layers.#", "encoder", _block_weights("self_attn")),
        **in_blocks("decoder.layers.#", "decoder", _block_weights("self_attn", "cross_attn")),
    },
    initial_rule="normal-by-classes",
    initial_field="decoder.initializer_range",
)
