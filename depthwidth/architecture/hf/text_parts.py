"""The text stacks inside models of several kinds of input: the family of each, and its own defaults.

Positions of three coordinates (``mrope``) are equal in a text, so such a stack is that of its family.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

TEXT_PARTS = {
    "qwen3_5": "qwen3_5_text",
    **dict.fromkeys(("deepseek_vl", "deepseek_vl_hybrid", "glmasr", "idefics3", "janus", "llava", "llava_next"), "llama"),
    **dict.fromkeys(("llava_next_video", "perception_lm", "smolvlm", "video_llava", "vipllava", "voxtral"), "llama"),
    **dict.fromkeys(("audioflamingo3", "fast_vlm", "got_ocr2", "internvl", "llava_onevision", "musicflamingo"), "qwen2"),
    **dict.fromkeys(("ovis2", "qwen2_audio", "vibevoice", "video_llama_3"), "qwen2"),
    **dict.fromkeys(("lighton_ocr", "qianfan_ocr", "qwen3_asr"), "qwen3"),
    **dict.fromkeys(("aya_vision", "cohere2_vision"), "cohere2"),
    **dict.fromkeys(("gemma3", "shieldgemma2"), "gemma3_text"),
    "gemma3n": "gemma3n_text",
    **dict.fromkeys(("granite_speech", "granite_speech_plus"), "granite"),
    **dict.fromkeys(("idefics2", "mistral3"), "mistral"),
    **dict.fromkeys(("blip-2", "instructblip", "instructblipvideo"), "opt"),
    "exaone4_5": "exaone4",
    "glm4v": "glm4v_text",
    "glm4v_moe": "glm4v_moe_text",
    "granite_docling": "granite_docling_text",
    "kimi_k25": "deepseek_v3",
    "lfm2_vl": "lfm2",
    "llama4": "llama4_text",
    "mllama": "mllama_text_model",
    "paligemma": "gemma",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen2_vl": "qwen2_vl_text",
    "qwen3_vl": "qwen3_vl_text",
    "qwen3_vl_moe": "qwen3_vl_moe_text",
}
"""The type of the text stack of models whose ``text_config`` may leave it out, by the defaults of transformers."""

FLAT = ("qwen2_vl", "qwen2_5_vl")
"""Models whose older files have the fields of the text stack at their top level."""
_OTHER_PARTS = ("vision_config", "audio_config", "architectures")


class TextStack(NamedTuple):
    """A type of text stack that is a family by another name."""

    family: str
    defaults: Mapping[str, Any]
    """The fields whose default is not the family's."""
    fixed: Mapping[str, Any] = {}
    """Fields of the family that this type does not read."""
    aliases: Mapping[str, str] = {}
    """Other spellings of fields with a default here."""


_QWEN2_VL = {
    "vocab_size": 152064,
    "hidden_size": 8192,
    "intermediate_size": 29568,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
    "max_window_layers": 80,
    "rope_theta": 1000000.0,
}
TEXT_STACKS = {
    "qwen2_vl_text": TextStack("qwen2", _QWEN2_VL),
    "qwen2_5_vl_text": TextStack("qwen2", _QWEN2_VL),
    "qwen3_vl_text": TextStack(
        "qwen3", {"max_position_embeddings": 128000, "rope_theta": 500000.0}, {"use_sliding_window": False, "layer_types": None}
    ),
    "qwen3_vl_moe_text": TextStack(
        "qwen3_moe",
        {
            "intermediate_size": 5632,
            "max_position_embeddings": 128000,
            "moe_intermediate_size": 1408,
            "num_attention_heads": 16,
            "num_experts": 60,
            "num_experts_per_tok": 4,
            "num_key_value_heads": 16,
            "tie_word_embeddings": True,
            "rope_theta": 500000.0,
        },
        {"use_sliding_window": False, "norm_topk_prob": True},
        {"num_local_experts": "num_experts"},
    ),
    "glm4v_text": TextStack("glm4", {"head_dim": None, "max_position_embeddings": 32768, "rms_norm_eps": 1e-5}),
    "glm4v_moe_text": TextStack(
        "glm4_moe",
        {"head_dim": None, "attention_bias": True, "max_position_embeddings": 65536, "vocab_size": 151424},
        {"use_qk_norm": False},
    ),
    "granite_docling_text": TextStack(
        "granite",
        {
            "attention_multiplier": 0.015625,
            "embedding_multiplier": 12.0,
            "hidden_size": 1024,
            "intermediate_size": 2048,
            "logits_scaling": 4.0,
            "max_position_embeddings": 32768,
            "num_attention_heads": 16,
            "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "residual_multiplier": 0.263,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
            "vocab_size": 133800,
        },
    ),
}
"""The text stacks that are a family by another name."""


def text_fields(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The fields of the text stack inside a configuration; None if it names none."""
    inner = config.get("text_config")
    if inner is None and config.get("model_type") in FLAT:
        return {name: value for name, value in config.items() if name not in (*_OTHER_PARTS, "model_type")}
    return inner if isinstance(inner, Mapping) else None


def by_family(model_type: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of a stack of this type as those of its family, with the family's ``model_type``.

    >>> by_family("qwen3_vl_text", {"hidden_size": 64})["model_type"]
    'qwen3'
    """
    stack = TEXT_STACKS.get(model_type)
    if stack is None:
        return {**fields, "model_type": model_type}
    given = {stack.aliases.get(name, name) for name in fields}
    usual = {name: value for name, value in stack.defaults.items() if name not in given}
    return {**usual, **fields, **stack.fixed, "model_type": stack.family}
