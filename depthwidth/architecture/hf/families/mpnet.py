"""MPNet: RoBERTa with a table of score biases that all blocks share."""

from __future__ import annotations

from typing import Any

from ....layers import RelativeBias
from ...design import Design
from ..family import Choices, Family, Part, without
from ..fields import Fields
from ..weights import in_blocks
from . import bert

_OFFSET = 2
"""Rows of the position table before the first position: those up to the padding token's, whose number is 1 in the code."""


def _positions() -> Part:
    """Positions counted from the third row, and the table of score biases."""

    def read(fields: Fields) -> Choices:
        rows = fields.whole("max_position_embeddings", smallest=_OFFSET + 1)
        return {"context": rows - _OFFSET, "position_offset": _OFFSET, "score_bias": RelativeBias(1)}

    def write(design: Design) -> dict[str, Any]:
        return {"max_position_embeddings": design.context + design.position_offset}

    return Part(read, write)


MPNET = Family(
    "mpnet",
    defaults={**without(bert.DEFAULTS, "type_vocab_size"), "vocab_size": 30527},
    names=without(bert.BERT.names, "context", "segments"),
    fixed=bert.ROBERTA.fixed,
    models=bert.bert_models("MPNet"),
    # The code has 32 whatever the file says.
    only={"relative_attention_num_buckets": (32,)},
    parts=(_positions(), bert.second_bias()),
    weights={
        **{name: role for name, role in bert.ROBERTA.weights.items() if not name.startswith("encoder.")},
        "encoder.relative_attention_bias": "encoder.position",
        **in_blocks(
            "encoder.layer.#",
            "encoder",
            {
                "attention.attn.q": "attention.query",
                "attention.attn.k": "attention.key",
                "attention.attn.v": "attention.value",
                "attention.attn.o": "attention.out",
                "attention.LayerNorm": "attention.norm_stream",
                "intermediate.dense": "feed_forward.up",
                "output.dense": "feed_forward.down",
                "output.LayerNorm": "feed_forward.norm_stream",
            },
        ),
    },
)
