"""EXAONE 4."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....layers import Rotary
from ....layers.positions import positions_as
from ...design import Design
from ..family import ALL_TASKS, Choices, Family, Part, causal
from ..fields import Fields
from ..parts import rope, sliding_pattern, windows
from .llama import LLAMA_CHOICES, LLAMA_DEFAULTS, LLAMA_NAMES, llama_weights
from .olmo import OLMO2_BLOCK


def _local_rope() -> Part:
    """Rotary positions, which blocks without a window leave out if ``sliding_window`` gives the others one."""

    def read(fields: Fields) -> Choices:
        rotary = rope().read(fields)["positions"]
        if fields.whole_or_none("sliding_window") is None:
            return {"positions": rotary}
        return {"positions": "none", "window_positions": rotary}

    def write(design: Design) -> dict[str, Any]:
        rotary = positions_as(Rotary, design.positions) or positions_as(Rotary, design.window_positions)
        config = {} if rotary is None else rope().write(replace(design, positions=rotary))
        if design.positions == "none" and design.window is None:
            return {**config, "sliding_window": 4096}  # of no block: it takes the positions away
        return config

    return Part(read, write)


EXAONE4 = Family(
    "exaone4",
    defaults={
        **LLAMA_DEFAULTS,
        "vocab_size": 102400,
        "intermediate_size": 16384,
        "num_key_value_heads": 32,
        "rms_norm_eps": 1e-5,
        "sliding_window": 4096,
        "sliding_window_pattern": 4,
        "layer_types": None,
    },
    names=LLAMA_NAMES,
    fixed={**LLAMA_CHOICES, "placement": "output", "qk_norm": "head"},
    models=causal("Exaone4", tasks=ALL_TASKS),
    parts=(windows(sliding_pattern), _local_rope()),
    weights=llama_weights(OLMO2_BLOCK),
)
