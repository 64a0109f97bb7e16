"""EuroBERT: Llama's blocks without a causal mask."""

from __future__ import annotations

from typing import Any

from ...design import Design
from ..family import TASK_WEIGHTS, TOKEN, Choices, Family, Part
from ..fields import Fields
from ..parts import rope
from ..weights import in_blocks
from . import llama

_READS = {"late": "late", "bos": "first", "mean": "mean"}
"""The tokens that the classifier of a sequence reads, by ``classifier_pooling``."""


def _heads() -> Part:
    """A bias of the language head, which has the field of the feed-forward part's, and the tokens that a classifier reads."""

    def read(fields: Fields) -> Choices:
        choices: Choices = {"head_bias": fields.flag("mlp_bias")}
        if fields.model() == "EuroBertForSequenceClassification":
            choices["classifier_reads"] = _READS[fields.word("classifier_pooling", _READS)]
        return choices

    def write(design: Design) -> dict[str, Any]:
        kinds = {reads: kind for kind, reads in _READS.items()}
        return {"classifier_pooling": kinds.get(design.classifier_reads, "late")}

    return Part(read, write)


EUROBERT = Family(
    "eurobert",
    defaults={
        **llama.LLAMA.defaults,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "rms_norm_eps": 1e-5,
        "classifier_pooling": "late",
    },
    names=llama.LLAMA.names,
    fixed={**llama.LLAMA.fixed, "kind": "encoder", "pooler_activation": "gelu"},
    models={
        "EuroBertForMaskedLM": {"head": "lm", "pooler": False},
        "EuroBertModel": {"head": "none", "pooler": False},
        "EuroBertForSequenceClassification": {"head": "classifier", "pooler": True},
        "EuroBertForTokenClassification": TOKEN,
    },
    parts=(rope(), _heads()),
    weights={
        "embed_tokens": "stem.tokens",
        "norm": "encoder.norm",
        "lm_head": "head.unembedding",
        "dense": "head.pooler.linear",
        **TASK_WEIGHTS,
        **in_blocks("layers.#", "encoder", llama.BLOCK_WEIGHTS),
    },
)
