"""Marian and Pegasus: sines and cosines, which the library stores for each stack."""

from __future__ import annotations

from typing import Any

from ...design import Design
from ..family import Choices, Family, Part
from ..fields import Fields
from ..two_stacks import (
    ALIASES,
    DEFAULTS,
    LOGIT_BIAS,
    NAMES,
    encoder_fields,
    is_alone,
    models,
    scaled_tokens,
    stored_positions,
    tied_tables,
    weights,
)


def _vocabularies() -> Part:
    """One table of tokens for both stacks, or one for each."""

    def read(fields: Fields) -> Choices:
        source, target = fields.whole("vocab_size"), fields.whole_or_none("decoder_vocab_size")
        if is_alone(fields):
            if target not in (None, source) and not fields.flag("tie_word_embeddings"):
                raise fields.beyond(
                    "decoder_vocab_size", f"differs from {fields.spell('vocab_size')}, the size of an untied output matrix"
                )
            return {"vocab": target or source}
        if fields.flag("share_encoder_decoder_embeddings"):
            if target not in (None, source):
                raise fields.wrong(
                    "decoder_vocab_size", f"differs from {fields.spell('vocab_size')}, and the stacks share a table"
                )
            return {"source": "positions", "vocab": source}
        encoder = {**encoder_fields().read(fields)["encoder"], "vocab": source}
        return {"source": "own", "vocab": target or source, "encoder": encoder}

    def write(design: Design) -> dict[str, Any]:
        shared = design.source != "own"
        source = design.vocab if shared else (design.encoder or {}).get("vocab", design.vocab)
        return {"share_encoder_decoder_embeddings": shared, "vocab_size": source, "decoder_vocab_size": design.vocab}

    return Part(read, write)


MARIAN = Family(
    "marian",
    defaults={
        **DEFAULTS,
        "vocab_size": 58101,
        "decoder_vocab_size": None,
        "share_encoder_decoder_embeddings": True,
    },
    names=NAMES,
    aliases=ALIASES,
    fixed={"placement": "post", "norm_eps": 1e-5},
    models=models("Marian", "MTModel"),
    parts=(tied_tables(), encoder_fields(), scaled_tokens(), stored_positions(), _vocabularies()),
    weights=weights(),
    buffers=LOGIT_BIAS,
    initial_field="init_std",
)

PEGASUS = Family(
    "pegasus",
    defaults=DEFAULTS,
    names=NAMES,
    aliases=ALIASES,
    fixed={"source": "positions", "norm_eps": 1e-5},
    models=models("Pegasus"),
    parts=(tied_tables(), encoder_fields(), scaled_tokens(), stored_positions()),
    weights=weights(),
    buffers=LOGIT_BIAS,
    initial_field="init_std",
)
