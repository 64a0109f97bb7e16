"""SmolLM3."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....checks import is_whole
from ....layers import Rotary
from ....layers.positions import positions_as
from ...design import Design
from ..family import ALL_TASKS, Choices, Family, Part, causal, every_block, per_block
from ..fields import Fields
from ..parts import rope, windows
from .llama import ATTENTION_BIAS, LLAMA_CHOICES, LLAMA_DEFAULTS, LLAMA_NAMES, llama_weights


def _has_rope(fields: Fields, block: int) -> bool:
    listed = fields.raw("no_rope_layers")  # a one for each block with positions
    if listed is None:
        return (block + 1) % fields.whole("no_rope_layer_interval") != 0
    if not isinstance(listed, (list, tuple)) or len(listed) <= block or not is_whole(listed[block], 0, 1):
        raise fields.wrong("no_rope_layers", "is not a list of zeros and ones, one for each block")
    return bool(listed[block])


def _nope() -> Part:
    """Rotary positions in most blocks, none in the others."""

    def read(fields: Fields) -> Choices:
        rotary = rope(2000000.0).read(fields)["positions"]
        marked = [_has_rope(fields, block) for block in range(fields.depth("num_hidden_layers"))]
        blocks = None if all(marked) else tuple({} if mark else {"positions": "none"} for mark in marked)
        return {"positions": rotary, "blocks": blocks}

    def write(design: Design) -> dict[str, Any]:
        each = []
        for block, window in zip(every_block(design), per_block(design.window, design.depth), strict=True):
            here = block.positions if window is None or block.window_positions is None else block.window_positions
            each.append(positions_as(Rotary, here))
        rotary = next((one for one in each if one is not None), None)
        config = {} if rotary is None else rope(2000000.0).write(replace(design, positions=rotary))
        return {**config, "no_rope_layers": [int(one is not None) for one in each]}

    return Part(read, write)


SMOLLM3 = Family(
    "smollm3",
    defaults={
        **LLAMA_DEFAULTS,
        "vocab_size": 128256,
        "hidden_size": 2048,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,
        "no_rope_layers": None,
        "no_rope_layer_interval": 4,
        "layer_types": None,
    },
    names={**LLAMA_NAMES, **ATTENTION_BIAS, "ffn_bias": "mlp_bias"},
    fixed=LLAMA_CHOICES,
    models=causal("SmolLM3", tasks=ALL_TASKS),
    parts=(windows(lambda fields, block: not _has_rope(fields, block), "use_sliding_window"), _nope()),
    weights=llama_weights(),
)
