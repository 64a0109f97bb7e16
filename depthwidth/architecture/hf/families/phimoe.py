"""Phi-3.5-MoE."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ....layers import Rotary
from ....layers.positions import positions_as
from ...design import Design
from ..family import Choices, Family, Part, causal, without
from ..fields import Fields, as_number
from ..parts import rope
from ..rope import rope_table
from .llama import (
    ATTENTION_BIAS,
    ATTENTION_WEIGHTS,
    EXPERT_WEIGHTS,
    LLAMA_DEFAULTS,
    LLAMA_NAMES,
    NORM_WEIGHTS,
    WINDOW,
    llama_weights,
)

_PLAIN = rope(1000000.0)
_FACTORS = ("short_mscale", "long_mscale")


def _own_factors() -> Part:
    """Rotary positions; stretched ones multiply queries and keys by a factor of their table, the same for every length."""

    def read(fields: Fields) -> Choices:
        table = rope_table(fields)
        rotary: Rotary = _PLAIN.read(fields)["positions"]
        if rotary.scaling is None:
            return {"positions": rotary}
        short, long = (as_number(table.get(name)) for name in _FACTORS)
        name = "rope_scaling" if fields.has("rope_scaling") else "rope_parameters"
        if not short > 0 or not long > 0:
            raise fields.wrong(name, "has no positive short_mscale and long_mscale")
        if short != long or (rotary.scaling.kind not in ("longrope", "yarn") and short != 1):
            raise fields.beyond(name, "multiplies queries and keys in a way that no component here has")
        return {"positions": rotary.replace(scaling=replace(rotary.scaling, amplitude=short))}

    def write(design: Design) -> dict[str, Any]:
        config, rotary = _PLAIN.write(design), positions_as(Rotary, design.positions)
        if rotary is not None and rotary.scaling is not None:
            table = config["rope_parameters"] = {**config["rope_parameters"], **dict.fromkeys(_FACTORS, rotary.amplitude)}
            table.setdefault("original_max_position_embeddings", design.context)  # without which the library's code fails
        return config

    return Part(read, write)


def _sparse_mixer() -> Part:
    """``router_jitter_noise``, the range of scores that the sparse mixer takes for near."""

    def read(fields: Fields) -> Choices:
        if fields.whole("num_local_experts") < 2:
            raise fields.wrong("num_local_experts", "is fewer than the two experts of a token")
        return {"mixer_jitter": fields.rate("router_jitter_noise"), "top_k": 2}

    return Part(read, lambda design: {} if design.mixer_jitter is None else {"router_jitter_noise": design.mixer_jitter})


def _head_bias() -> Part:
    """A bias of the output matrix; other heads have none."""

    def read(fields: Fields) -> Choices:
        named = fields.model()
        return {"head_bias": fields.flag("lm_head_bias") if named is None or named.endswith("CausalLM") else False}

    return Part(read, lambda design: {"lm_head_bias": design.head_bias})


PHIMOE = Family(
    "phimoe",
    defaults={
        **LLAMA_DEFAULTS,
        "vocab_size": 32064,
        "intermediate_size": 6400,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "sliding_window": None,
        "attention_bias": False,
        "num_local_experts": 16,
        "router_jitter_noise": 0.01,
        "lm_head_bias": False,
    },
    names={**LLAMA_NAMES, **ATTENTION_BIAS, **WINDOW, "experts": "num_local_experts"},
    only={"num_experts_per_tok": (2,)},
    fixed={"gated": True, "bias": False},
    models=causal("Phimoe", tasks=("SequenceClassification",)),
    parts=(_own_factors(), _sparse_mixer(), _head_bias()),
    weights=llama_weights(
        {
            **ATTENTION_WEIGHTS,
            **NORM_WEIGHTS,
            **without(EXPERT_WEIGHTS, "mlp.gate"),
            "mlp.router": "feed_forward.router",
        }
    ),
)
