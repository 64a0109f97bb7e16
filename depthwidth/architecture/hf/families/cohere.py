"""Cohere: Command R and Command R7B."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....layers import Rotary
from ....layers.positions import positions_as
from ...design import Design
from ..family import Choices, Family, Part, causal, without
from ..fields import Fields
from ..parts import qk_norm, rope, sliding_pattern, windows
from .llama import ATTENTION_BIAS, BLOCK_WEIGHTS, LLAMA_DEFAULTS, LLAMA_NAMES, QK_NORM_WEIGHTS, llama_weights

_COHERE_DEFAULTS = {
    **without(LLAMA_DEFAULTS, "rms_norm_eps"),
    "vocab_size": 256000,
    "hidden_size": 8192,
    "intermediate_size": 22528,
    "logit_scale": 0.0625,
    "num_hidden_layers": 40,
    "num_attention_heads": 64,
    "max_position_embeddings": 8192,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "attention_bias": False,
}
_COHERE_NAMES = {
    **LLAMA_NAMES,
    **ATTENTION_BIAS,
    "norm_eps": "layer_norm_eps",
    "head_scale": "logit_scale",
}
# Both branches read one LayerNorm without a bias.
_COHERE_CHOICES = {"gated": True, "bias": False, "norm_bias": False, "parallel": True, "shared_norm": True}
_COHERE_BLOCK = {**without(BLOCK_WEIGHTS, "post_attention_layernorm"), "input_layernorm": "norm"}

COHERE = Family(
    "cohere",
    defaults={**_COHERE_DEFAULTS, "use_qk_norm": False},
    names=_COHERE_NAMES,
    fixed=_COHERE_CHOICES,
    models=causal("Cohere"),
    parts=(rope(500000.0, interleaved=True), qk_norm("use_qk_norm", "heads")),
    weights=llama_weights({**_COHERE_BLOCK, **QK_NORM_WEIGHTS}),
)


def _rope_in_windows() -> Part:
    """Rotary positions in blocks with a window, none in the others."""

    def read(fields: Fields) -> Choices:
        return {"positions": "none", "window_positions": rope(interleaved=True).read(fields)["positions"]}

    def write(design: Design) -> dict[str, Any]:
        rotary = positions_as(Rotary, design.window_positions)
        return {} if rotary is None else rope(interleaved=True).write(replace(design, positions=rotary))

    return Part(read, write)


COHERE2 = Family(
    "cohere2",
    defaults={**_COHERE_DEFAULTS, "sliding_window": 4096, "layer_types": None, "sliding_window_pattern": 4},
    names=_COHERE_NAMES,
    fixed=_COHERE_CHOICES,
    models=causal("Cohere2"),
    parts=(windows(sliding_pattern), _rope_in_windows()),
    weights=llama_weights(_COHERE_BLOCK),
)
