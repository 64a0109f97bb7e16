"""ESM-1b and ESM-2, models of proteins: BERT with norms before the branches, and learned or rotary positions."""

from __future__ import annotations

from typing import Any

from ....layers import Rotary
from ....layers.positions import positions_as
from ...design import Design
from ..family import TOKEN, Choices, Family, Part, without
from ..fields import Fields
from ..parts import usual_head_dim
from ..weights import in_blocks
from . import bert

_KEPT = 1 - 0.15 * 0.8
"""The share of token vectors that are not masked in training."""


def _positions() -> Part:
    """A table of positions, which start after the padding token's number, or rotary positions."""

    def read(fields: Fields) -> Choices:
        kind, rows = fields.raw("position_embedding_type"), fields.whole("max_position_embeddings")
        if kind == "rotary":
            return {"positions": Rotary(base=fields.positive("rope_theta")), "context": rows}
        if kind != "absolute":
            raise fields.beyond("position_embedding_type", "is not supported, only 'absolute' or 'rotary'")
        offset = fields.count("pad_token_id") + 1
        if rows <= offset:
            raise fields.wrong("max_position_embeddings", f"leaves no positions after {fields.spell('pad_token_id')}")
        return {"positions": "learned", "context": rows - offset, "position_offset": offset}

    def write(design: Design) -> dict[str, Any]:
        rotary = positions_as(Rotary, design.positions)
        if rotary is not None:
            table = {"position_embedding_type": "rotary", "rope_theta": rotary.base}
            return {"max_position_embeddings": design.context, **table}
        offset = design.position_offset
        rows = {"max_position_embeddings": design.context + offset, "pad_token_id": max(offset - 1, 0)}
        return {"position_embedding_type": "absolute", **rows}

    return Part(read, write)


def _embedding() -> Part:
    """A norm of the embedding, and the factor on its vectors that makes up for masked tokens in training."""

    def read(fields: Fields) -> Choices:
        flags = {name: fields.has(name) and fields.flag(name) for name in ("emb_layer_norm_before", "token_dropout")}
        scale = _KEPT if flags["token_dropout"] else 1.0
        return {"embedding_norm": flags["emb_layer_norm_before"], "embedding_scale": scale}

    def write(design: Design) -> dict[str, Any]:
        return {"emb_layer_norm_before": design.embedding_norm, "token_dropout": design.embedding_scale == _KEPT}

    return Part(read, write)


ESM = Family(
    "esm",
    defaults={
        **without(bert.DEFAULTS, "type_vocab_size", "hidden_act"),
        "vocab_size": 33,  # the library has no default; all published models have this one
        "pad_token_id": 1,
        "max_position_embeddings": 1026,
        "position_embedding_type": "absolute",
        "rope_theta": 10000.0,
        "emb_layer_norm_before": None,
        "token_dropout": False,
    },
    names=without(bert.BERT.names, "context", "segments", "activation"),
    fixed={"kind": "encoder", "placement": "pre", "embedding_dropout": 0.0, "contacts": True},
    models={
        "EsmForMaskedLM": {"head": "masked-lm", "head_bias": True, "pooler": False},
        "EsmModel": {"head": "none", "pooler": True},
        "EsmForSequenceClassification": {"head": "classifier", "pooler": True},
        "EsmForTokenClassification": TOKEN,
    },
    only={"is_decoder": (False,), "add_cross_attention": (False,), "is_folding_model": (False,)},
    noted={"token_dropout": (False, "the factor on the embedding is that of a text without mask tokens")},
    parts=(_positions(), usual_head_dim(), _embedding()),
    weights={
        **{name: role for name, role in bert.ROBERTA.weights.items() if not name.startswith("encoder.")},
        "embeddings.layer_norm": "stem.norm",
        "encoder.emb_layer_norm_after": "encoder.norm",
        "contact_head.regression": "encoder.contacts",
        **in_blocks(
            "encoder.layer.#",
            "encoder",
            {
                "attention.LayerNorm": "attention.norm_in",
                "attention.self.query": "attention.query",
                "attention.self.key": "attention.key",
                "attention.self.value": "attention.value",
                "attention.output.dense": "attention.out",
                "LayerNorm": "feed_forward.norm_in",
                "intermediate.dense": "feed_forward.up",
                "output.dense": "feed_forward.down",
            },
        ),
    },
)
