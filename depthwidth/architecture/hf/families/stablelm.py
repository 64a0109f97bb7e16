"""StableLM."""

from __future__ import annotations

from ..family import ALL_TASKS, Family, Part, causal, without
from ..parts import qk_norm, rope, usual_head_dim
from .llama import (
    BLOCK_WEIGHTS,
    LLAMA_DEFAULTS,
    LLAMA_NAMES,
    llama_weights,
)


def _stablelm_norms() -> Part:
    """Branches in parallel share one norm."""
    return Part(
        lambda fields: {"shared_norm": fields.flag("use_parallel_residual")},
        lambda design: {"use_parallel_residual": design.parallel},
    )


STABLELM = Family(
    "stablelm",
    defaults={
        **without(LLAMA_DEFAULTS, "rms_norm_eps", "head_dim"),
        "vocab_size": 50304,
        "intermediate_size": 6912,
        "hidden_size": 2560,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "layer_norm_eps": 1e-5,
        "use_qkv_bias": False,
        "use_parallel_residual": False,
        "qk_layernorm": False,
        "hidden_dropout": 0.0,
    },
    names={
        **without(LLAMA_NAMES, "head_dim"),
        "norm_eps": "layer_norm_eps",
        "attention_bias": "use_qkv_bias",
        "parallel": "use_parallel_residual",
        "dropout": "hidden_dropout",
    },
    fixed={"gated": True, "bias": False, "embedding_dropout": 0.0},
    models=causal("StableLm", tasks=ALL_TASKS[:2]),
    parts=(rope(fraction=0.25), usual_head_dim(), _stablelm_norms(), qk_norm("qk_layernorm", "heads")),
    weights=llama_weights({**BLOCK_WEIGHTS, "input_layernorm": "attention.norm_in|norm"}),
)
