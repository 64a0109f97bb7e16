"""MiniCPM 3: latent attention in dense blocks, with factors on embedding, branches and logits."""

from __future__ import annotations

import math
from typing import Any

from ...design import Design
from ..family import Choices, Family, Part, causal, without
from ..fields import Fields
from .deepseek import LATENT_WEIGHTS, latent, latent_rope
from .llama import ATTENTION_BIAS, GATED_WEIGHTS, LLAMA_CHOICES, LLAMA_DEFAULTS, LLAMA_NAMES, NORM_WEIGHTS, llama_weights


def _factors() -> Part:
    """Factors on branches by ``scale_depth`` and on the head's input by ``dim_model_base``."""

    def read(fields: Fields) -> Choices:
        depth, width = fields.depth("num_hidden_layers"), fields.whole("hidden_size")
        own, base = fields.positive_or_none("scale_depth"), fields.whole_or_none("dim_model_base")
        return {
            "residual_scale": 1.0 if own is None else own / math.sqrt(depth),
            "head_scale": 1.0 if base is None else 1 / (width / base),
        }

    def write(design: Design) -> dict[str, Any]:
        config: dict[str, Any] = {"scale_depth": None, "dim_model_base": None}
        if design.residual_scale != 1:
            scale, root = design.residual_scale, math.sqrt(design.depth)
            exact = scale * root
            near = exact, math.nextafter(exact, 0), math.nextafter(exact, math.inf)
            config["scale_depth"] = next((one for one in near if one / root == scale), exact)
        if design.head_scale != 1:
            config["dim_model_base"] = max(1, round(design.width * design.head_scale))
        return config

    return Part(read, write)


MINICPM3 = Family(
    "minicpm3",
    defaults={
        **without(LLAMA_DEFAULTS, "head_dim"),
        "vocab_size": 73448,
        "max_position_embeddings": 32768,
        "hidden_size": 2560,
        "intermediate_size": 6400,
        "num_hidden_layers": 62,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "kv_lora_rank": 256,
        "q_lora_rank": 768,
        "qk_nope_head_dim": 64,
        "qk_rope_head_dim": 32,
        "v_head_dim": None,
        "scale_emb": 12,
        "scale_depth": 1.4,
        "dim_model_base": 256,
    },
    names={
        **without(LLAMA_NAMES, "kv_heads", "head_dim"),
        **ATTENTION_BIAS,
        "ffn_bias": "mlp_bias",
        "embedding_scale": "scale_emb",
    },
    fixed=LLAMA_CHOICES,
    models=causal("MiniCPM3", tasks=("SequenceClassification",)),
    parts=(latent(), latent_rope(interleaved=False), _factors()),
    weights=llama_weights({**LATENT_WEIGHTS, **NORM_WEIGHTS, **GATED_WEIGHTS}),
    initial_std=0.1,
)
