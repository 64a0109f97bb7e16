"""nanochat."""

from __future__ import annotations

from ..family import Family, causal
from ..parts import factor_before_norms, normed_later, rope
from .llama import ATTENTION_BIAS, ATTENTION_WEIGHTS, LLAMA_DEFAULTS, LLAMA_NAMES, llama_weights

NANOCHAT = Family(
    "nanochat",
    defaults={
        **LLAMA_DEFAULTS,
        "vocab_size": 50304,
        "hidden_size": 768,
        "intermediate_size": 8192,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "hidden_act": "relu2",
        "attention_bias": False,
        "final_logit_softcapping": 15.0,
    },
    names={**LLAMA_NAMES, **ATTENTION_BIAS, "logit_softcap": "final_logit_softcapping"},
    # No norm has weights; those of queries and keys follow the rotation, which does not change their length.
    fixed={"norm": "rmsnorm", "norm_affine": False, "bias": False, "embedding_norm": True, "qk_norm": "head"},
    models=causal("NanoChat"),
    parts=(normed_later(rope()),),
    weights=llama_weights({**ATTENTION_WEIGHTS, "mlp.fc1": "feed_forward.up", "mlp.fc2": "feed_forward.down"}),
    settings={"backward_rotation": True, "late_norms": True, "rotary_factor": factor_before_norms(rope(), "nanochat")},
    initial_rule="normal-attention-by-depth",
)
