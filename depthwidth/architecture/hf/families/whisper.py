"""Whisper: an encoder of sound, and a decoder of text."""

from __future__ import annotations

from typing import Any

from ...design import Design
from ..family import Choices, Family, Part, without
from ..fields import Fields
from ..two_stacks import ALIASES, DEFAULTS, NAMES, encoder_fields, models, tied_tables, weights


def _sound() -> Part:
    """The encoder's spectrogram: numbers at each step, and positions of two steps each."""
    shape = encoder_fields()

    def read(fields: Fields) -> Choices:
        found = shape.read(fields)
        sound = {"mel_bins": fields.whole("num_mel_bins"), "context": fields.whole("max_source_positions"), "positions": "none"}
        return {**found, "encoder": {**found["encoder"], **sound}}

    def write(design: Design) -> dict[str, Any]:
        encoder = design.encoder or {}
        sound = {"num_mel_bins": encoder.get("mel_bins"), "max_source_positions": encoder.get("context", design.context)}
        return {**shape.write(design), **({} if design.lone_decoder else sound)}

    return Part(read, write)


WHISPER = Family(
    "whisper",
    defaults={
        **without(DEFAULTS, "max_position_embeddings", "scale_embedding"),
        "vocab_size": 51865,
        "num_mel_bins": 80,
        "max_source_positions": 1500,
        "max_target_positions": 448,
        "encoder_layers": 4,
        "encoder_ffn_dim": 1536,
        "encoder_attention_heads": 6,
        "decoder_layers": 4,
        "decoder_ffn_dim": 1536,
        "decoder_attention_heads": 6,
        "d_model": 384,
        "dropout": 0.0,
    },
    names={**NAMES, "context": "max_target_positions"},
    aliases={**ALIASES, "num_key_value_heads": "encoder_attention_heads"},
    # The class reads scale_embedding, and does not use it.
    fixed={"positions": "learned", "source": "own", "key_bias": False, "norm_eps": 1e-5},
    models=models("Whisper"),
    parts=(tied_tables(), _sound()),
    weights={**weights("proj_out"), "encoder.conv1": "source.first", "encoder.conv2": "source.second"},
    initial_field="init_std",
)
