"""ELECTRA: BERT's blocks after a narrower embedding, trained to find replaced tokens."""

from __future__ import annotations

from ..family import TOKEN, Choices, Family, Part
from ..fields import Fields
from . import bert


def _summary() -> Part:
    """The pooler of the class for choices among answers, whose activation is a field; no tree describes another kind."""
    usual = {"summary_type": "first", "summary_use_proj": True, "summary_activation": "gelu"}

    def read(fields: Fields) -> Choices:
        if fields.model() == "ElectraForMultipleChoice":
            for name, value in usual.items():
                if fields.raw(name) != value:
                    raise fields.beyond(name, f"is not supported, only {value!r}")
        return {}

    return Part(read, lambda design: {})


def _discriminator() -> Part:
    """The discriminator's map before its logits, which has the activation of the blocks; all others have a GELU."""

    def read(fields: Fields) -> Choices:
        own = fields.model() == "ElectraForPreTraining"
        return {"pooler_activation": fields.activation("hidden_act") if own else "gelu"}

    return Part(read, lambda design: {})


_POOLED: Choices = {"head": "classifier", "pooler": True, "classifier_reads": "first"}

ELECTRA = Family(
    "electra",
    defaults={
        **bert.DEFAULTS,
        **bert.DECODES,
        "embedding_size": 128,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
        "summary_type": "first",
        "summary_use_proj": True,
        "summary_activation": "gelu",
    },
    names={**bert.BERT.names, "embedding_width": "embedding_size"},
    fixed={**bert.BERT.fixed, "embedding_projection": "last", "head_activation": "gelu"},
    models={
        "ElectraForMaskedLM": bert.MASKED,
        "ElectraForCausalLM": bert.MASKED,
        "ElectraForPreTraining": {"head": "classifier", "pooler": True, "classifier_reads": "every", "classes": 1},
        "ElectraModel": {"head": "none", "pooler": False},
        "ElectraForSequenceClassification": _POOLED,
        "ElectraForTokenClassification": TOKEN,
        "ElectraForQuestionAnswering": TOKEN,
        "ElectraForMultipleChoice": {**_POOLED, "classes": 1},
    },
    parts=(bert.causal_mask(), _summary(), _discriminator(), bert.absolute_positions()),
    weights={
        **bert.BERT.weights,
        "embeddings_project": "stem.projection",
        "generator_predictions.dense": "head.transform",
        "generator_predictions.LayerNorm": "head.norm",
        "generator_lm_head": "head.unembedding",
        "discriminator_predictions.dense": "head.pooler.linear",
        "discriminator_predictions.dense_prediction": "head.linear",
        "sequence_summary.summary": "head.pooler.linear",
        "classifier.dense": "head.pooler.linear",
        "classifier.out_proj": "head.linear",
    },
)
