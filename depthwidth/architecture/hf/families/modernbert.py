"""ModernBERT: gated blocks with alternating windows, and a first block whose attention reads the embedding's norm."""

from __future__ import annotations

from typing import Any

from ...design import Design
from ..family import Choices, Family, Part, per_block
from ..fields import Fields
from ..parts import two_ropes, usual_head_dim
from ..rope import FULL, SLIDING
from ..weights import Fused, in_blocks
from . import llama

_READS = {"cls": "first", "mean": "mean"}
"""The tokens that the classifier of a sequence reads, by ``classifier_pooling``."""
_POOLED: Choices = {"head": "classifier", "pooler": True}
_TOKENS: Choices = {**_POOLED, "classifier_reads": "every"}


def _windows() -> Part:
    """Half of ``local_attention`` tokens on each side, in the layers that ``layer_types`` names; by default two of three."""

    def read(fields: Fields) -> Choices:
        if fields.has("rope_scaling"):
            raise fields.beyond("rope_scaling", "is not supported for two kinds of layers")
        depth, step = fields.depth("num_hidden_layers"), fields.whole("global_attn_every_n_layers")
        kinds = fields.words("layer_types", (FULL, SLIDING), depth)
        marked = [kind == SLIDING for kind in kinds] if kinds else [block % step != 0 for block in range(depth)]
        window = fields.whole("local_attention") // 2 + 1
        blocks = ({"attention_norm": False}, *({},) * (depth - 1))  # the embedding has its norm
        return {"window": tuple(window if mark else None for mark in marked), "blocks": blocks}

    def write(design: Design) -> dict[str, Any]:
        each = per_block(design.window, design.depth)
        size = next((window for window in each if window is not None), 65)
        return {"local_attention": 2 * (size - 1) or 1, "layer_types": [FULL if one is None else SLIDING for one in each]}

    return Part(read, write)


def _heads() -> Part:
    """The transform of all heads: its activation and bias, and the token that a classifier of sequences reads."""

    def read(fields: Fields) -> Choices:
        activation, bias = fields.activation("classifier_activation"), fields.flag("classifier_bias")
        choices: Choices = {"head_activation": activation, "pooler_activation": activation}
        choices |= {"transform_bias": bias, "pooler_bias": bias, "head_bias": fields.flag("decoder_bias")}
        if fields.model() in ("ModernBertForSequenceClassification", "ModernBertForMultipleChoice"):
            choices["classifier_reads"] = _READS[fields.word("classifier_pooling", _READS)]
        return choices

    def write(design: Design) -> dict[str, Any]:
        from ....layers.activation_entries import spelling_of

        masked = design.head == "masked-lm"
        activation = (design.head_activation or design.activation) if masked else design.pooler_activation
        return {
            "classifier_activation": spelling_of(activation) if masked or design.pooler else "gelu",
            "classifier_bias": design.transform_bias if masked else design.pooler_bias and design.pooler,
            "decoder_bias": design.head_bias,
            "classifier_pooling": "mean" if design.classifier_reads == "mean" else "cls",
        }

    return Part(read, write)


MODERNBERT = Family(
    "modernbert",
    defaults={
        "vocab_size": 50368,
        "max_position_embeddings": 8192,
        "hidden_size": 768,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "intermediate_size": 1152,
        "hidden_activation": "gelu",
        "norm_eps": 1e-5,
        "norm_bias": False,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "embedding_dropout": 0.0,
        "mlp_bias": False,
        "mlp_dropout": 0.0,
        "layer_types": None,
        "local_attention": 128,
        "global_attn_every_n_layers": 3,
        "decoder_bias": True,
        "classifier_pooling": "cls",
        "classifier_bias": False,
        "classifier_activation": "gelu",
        "tie_word_embeddings": True,
    },
    names={
        "vocab": "vocab_size",
        "context": "max_position_embeddings",
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "ffn": "intermediate_size",
        "activation": "hidden_activation",
        "norm_eps": "norm_eps",
        "norm_bias": "norm_bias",
        **llama.ATTENTION_BIAS,
        "attention_dropout": "attention_dropout",
        "embedding_dropout": "embedding_dropout",
        "ffn_bias": "mlp_bias",
        "ffn_dropout": "mlp_dropout",
        "tied": "tie_word_embeddings",
    },
    aliases={"global_rope_theta": "rope_theta"},
    fixed={"kind": "encoder", "gated": True, "bias": False, "embedding_norm": True, "pooler_norm": True},
    models={
        "ModernBertForMaskedLM": {"head": "masked-lm", "pooler": False},
        "ModernBertModel": {"head": "none", "pooler": False},
        "ModernBertForTokenClassification": _TOKENS,
        "ModernBertForQuestionAnswering": {**_TOKENS, "classes": 2},
        "ModernBertForSequenceClassification": _POOLED,
        "ModernBertForMultipleChoice": {**_POOLED, "classes": 1},
    },
    parts=(two_ropes(160000.0, 10000.0, "local_rope_theta"), usual_head_dim(), _windows(), _heads()),
    weights={
        "embeddings.tok_embeddings": "stem.tokens",
        "embeddings.norm": "stem.norm",
        "final_norm": "encoder.norm",
        "head.dense": "head.transform|head.pooler.linear",
        "head.norm": "head.norm|head.pooler.norm",
        "decoder": "head.unembedding",
        "classifier": "head.linear",
        **in_blocks(
            "layers.#",
            "encoder",
            {
                "attn_norm": "attention.norm_in",
                "attn.Wqkv": Fused("rows", ("attention.query", "attention.key", "attention.value")),
                "attn.Wo": "attention.out",
                "mlp_norm": "feed_forward.norm_in",
                "mlp.Wi": Fused("halves", ("feed_forward.gate", "feed_forward.up")),
                "mlp.Wo": "feed_forward.down",
            },
        ),
    },
    initial_rule="modernbert",
)
