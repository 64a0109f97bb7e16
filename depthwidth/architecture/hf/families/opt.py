"""OPT."""

from __future__ import annotations

from typing import Any

from ...design import Design
from ..family import TASK_WEIGHTS, Choices, Family, Part, causal
from ..fields import Fields
from ..weights import in_blocks


def _opt_norms() -> Part:
    """Norms before or after the branches; some early fine-tuned models have no final norm."""

    def read(fields: Fields) -> Choices:
        before, removed = fields.flag("do_layer_norm_before"), fields.flag("_remove_final_layer_norm")
        return {"placement": "pre" if before else "post", "final_norm": before and not removed}

    def write(design: Design) -> dict[str, Any]:
        before = design.placement == "pre"
        return {"do_layer_norm_before": before, "_remove_final_layer_norm": before and design.final_norm is False}

    return Part(read, write)


def _opt_projection() -> Part:
    """A narrower embedding. The model without a head projects down, too, which a tree without a head cannot describe."""

    def read(fields: Fields) -> Choices:
        narrow = fields.whole_or_none("word_embed_proj_dim")
        if narrow not in (None, fields.whole("hidden_size")) and fields.model() in _HEADLESS:
            raise fields.wrong(
                "word_embed_proj_dim", f"differs from {fields.spell('hidden_size')}; give it OPTForCausalLM's head"
            )
        return {"embedding_width": narrow}

    return Part(read, lambda design: {"word_embed_proj_dim": design.embedding_width or design.width})


_HEADLESS = ("OPTModel", "OPTForSequenceClassification", "OPTForQuestionAnswering")
"""Models that project the stream down to a narrower embedding without a language head."""

OPT = Family(
    "opt",
    defaults={
        "vocab_size": 50272,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "ffn_dim": 3072,
        "max_position_embeddings": 2048,
        "do_layer_norm_before": True,
        "_remove_final_layer_norm": False,
        "word_embed_proj_dim": None,
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "num_attention_heads": 12,
        "activation_function": "relu",
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
        "tie_word_embeddings": True,
    },
    names={
        "vocab": "vocab_size",
        "context": "max_position_embeddings",
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "ffn": "ffn_dim",
        "activation": "activation_function",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "bias": "enable_bias",
        "norm_affine": "layer_norm_elementwise_affine",
        "tied": "tie_word_embeddings",
    },
    # The position table has two more rows than there are positions, a relic of padding.
    fixed={"positions": "learned", "position_offset": 2, "embedding_dropout": 0.0, "norm_eps": 1e-5},
    models=causal("OPT", tasks=("SequenceClassification", "QuestionAnswering")),
    parts=(_opt_norms(), _opt_projection()),
    weights={
        "decoder.embed_tokens": "stem.tokens",
        "decoder.embed_positions": "stem.positions",
        "decoder.project_in": "stem.projection",
        "decoder.project_out": "head.transform",
        "decoder.final_layer_norm": "decoder.norm",
        "lm_head": "head.unembedding",
        **TASK_WEIGHTS,
        **in_blocks(
            "decoder.layers.#",
            "decoder",
            {
                "self_attn_layer_norm": "attention.norm_in|attention.norm_stream",
                "self_attn.q_proj": "attention.query",
                "self_attn.k_proj": "attention.key",
                "self_attn.v_proj": "attention.value",
                "self_attn.out_proj": "attention.out",
                "final_layer_norm": "feed_forward.norm_in|feed_forward.norm_stream",
                "fc1": "feed_forward.up",
                "fc2": "feed_forward.down",
            },
        ),
    },
    initial_field="init_std",
)
