"""ALBERT: BERT's blocks with one set of weights, after a narrower embedding."""

from __future__ import annotations

from typing import Any

from ...design import Design
from ..family import TASK_WEIGHTS, TOKEN, Choices, Family, Part, without
from ..fields import Fields
from ..weights import in_blocks
from . import bert


def _groups() -> Part:
    """Layers in equal consecutive parts, each with a group's weights; a layer passes through all blocks of its group."""

    def read(fields: Fields) -> Choices:
        rounds, groups = fields.depth("num_hidden_layers"), fields.whole("num_hidden_groups")
        blocks = fields.whole("inner_group_num")
        if groups > rounds:
            raise fields.wrong("num_hidden_groups", f"is more than {fields.spell('num_hidden_layers')}")
        return {"depth": rounds * blocks, "shared_groups": groups, "group_blocks": blocks}

    def write(design: Design) -> dict[str, Any]:
        rounds = design.depth // design.group_blocks
        groups = rounds if design.shared_groups is None else design.shared_groups
        return {"num_hidden_layers": rounds, "num_hidden_groups": groups, "inner_group_num": design.group_blocks}

    return Part(read, write)


_POOLED: Choices = {"head": "classifier", "pooler": True, "classifier_reads": "first"}

ALBERT = Family(
    "albert",
    defaults={
        **bert.DEFAULTS,
        "vocab_size": 30000,
        "embedding_size": 128,
        "hidden_size": 4096,
        "num_hidden_groups": 1,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
        "inner_group_num": 1,
        "hidden_act": "gelu_new",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    },
    names={**bert.BERT.names, "embedding_width": "embedding_size"},
    fixed={**bert.BERT.fixed, "embedding_projection": "always"},
    models={
        "AlbertForMaskedLM": {"head": "masked-lm", "head_bias": True, "pooler": False},
        "AlbertForPreTraining": {"head": "pretraining", "head_bias": True, "pooler": True, "classifier_reads": "first"},
        "AlbertModel": {"head": "none", "pooler": True},
        "AlbertForSequenceClassification": _POOLED,
        "AlbertForTokenClassification": TOKEN,
        "AlbertForQuestionAnswering": TOKEN,
        "AlbertForMultipleChoice": {**_POOLED, "classes": 1},
    },
    parts=(_groups(), bert.absolute_positions(), bert.second_bias()),
    weights={
        **without(bert.BERT.weights, "pooler.dense"),
        **TASK_WEIGHTS,
        "pooler": "head.pooler.linear|head.classifier.pooler.linear|head.linear",
        "sop_classifier.classifier": "head.classifier.linear",
        "encoder.embedding_hidden_mapping_in": "stem.projection",
        "predictions.bias": bert.FIRST_BIAS,
        "predictions.decoder": "head.unembedding",
        "predictions.dense": "head.transform",
        "predictions.LayerNorm": "head.norm",
        **in_blocks(
            "encoder.albert_layer_groups.#.albert_layers.#",
            "encoder",
            {
                "attention.query": "attention.query",
                "attention.key": "attention.key",
                "attention.value": "attention.value",
                "attention.dense": "attention.out",
                "attention.LayerNorm": "attention.norm_stream",
                "ffn": "feed_forward.up",
                "ffn_output": "feed_forward.down",
                "full_layer_layer_norm": "feed_forward.norm_stream",
            },
        ),
    },
)
