"""BART, mBART and Blenderbot: each stack with learned positions of its own."""

from __future__ import annotations

from ..family import Family
from ..two_stacks import ALIASES, DEFAULTS, LOGIT_BIAS, NAMES, encoder_fields, models, scaled_tokens, tied_tables, weights

_LEARNED = {"positions": "learned", "source": "positions", "embedding_scale": 1.0, "norm_eps": 1e-5}

BART = Family(
    "bart",
    defaults={**DEFAULTS, "num_labels": 3},
    names=NAMES,
    aliases=ALIASES,
    # The position tables have two more rows than there are positions, a relic of padding.
    fixed={**_LEARNED, "position_offset": 2, "placement": "post", "embedding_norm": True},
    models=models("Bart", tasks=True),
    parts=(tied_tables(), encoder_fields(), scaled_tokens()),
    weights=weights(),
    buffers=LOGIT_BIAS,
    initial_field="init_std",
)

MBART = Family(
    "mbart",
    defaults=DEFAULTS,
    names=NAMES,
    aliases=ALIASES,
    fixed={**_LEARNED, "position_offset": 2, "embedding_norm": True},
    models=models("MBart", tasks=True),
    parts=(tied_tables(), encoder_fields(), scaled_tokens()),
    weights=weights(),
    buffers=LOGIT_BIAS,
    initial_field="init_std",
)

BLENDERBOT = Family(
    "blenderbot",
    defaults={
        **DEFAULTS,
        "vocab_size": 8008,
        "max_position_embeddings": 128,
        "encoder_layers": 2,
        "encoder_ffn_dim": 10240,
        "encoder_attention_heads": 32,
        "decoder_layers": 24,
        "decoder_ffn_dim": 10240,
        "decoder_attention_heads": 32,
        "d_model": 2560,
    },
    names=NAMES,
    aliases=ALIASES,
    fixed=_LEARNED,
    models=models("Blenderbot"),
    parts=(tied_tables(), encoder_fields(), scaled_tokens()),
    weights=weights(),
    buffers=LOGIT_BIAS,
    initial_field="init_std",
)
