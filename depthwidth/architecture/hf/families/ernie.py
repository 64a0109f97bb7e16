"""ERNIE 4.5, dense and with mixtures of experts."""

from __future__ import annotations

from typing import Any

from ...design import Design
from ..family import Choices, Family, Part, causal, every_block, without
from ..fields import Fields, as_number
from ..parts import rope
from .llama import BLOCK_WEIGHTS, EXPERT_WEIGHTS, LLAMA_CHOICES, LLAMA_DEFAULTS, LLAMA_NAMES, llama_weights

ERNIE4_5 = Family(
    "ernie4_5",
    defaults={
        **without(LLAMA_DEFAULTS, "attention_dropout"),
        "vocab_size": 103424,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 18,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "use_bias": False,
        "tie_word_embeddings": True,
    },
    names={**without(LLAMA_NAMES, "attention_dropout"), "bias": "use_bias"},
    fixed=without(LLAMA_CHOICES, "bias"),
    models=causal("Ernie4_5"),
    parts=(rope(500000.0, interleaved=True),),
    weights=llama_weights(),
)

_DENSE: Choices = {"experts": None, "shared_ffn": None, "choice_bias": False}


def _is_mixture(block: int, first: int, last: int, interval: int) -> bool:
    return (block + 1) % interval == 0 and first <= block <= last


def _weight_sum() -> Part:
    """``moe_norm_min``, the least sum by which weights of experts are divided; the largest of a softmax sum to k/n or more."""

    def read(fields: Fields) -> Choices:
        least = as_number(fields.raw("moe_norm_min"))
        if not least <= fields.whole("moe_k") / fields.whole("moe_num_experts"):
            raise fields.beyond("moe_norm_min", "is not supported above moe_k / moe_num_experts")
        return {}

    return Part(read, lambda design: {})


def _ernie_blocks() -> Part:
    """Mixtures with a shared part as wide as some experts, in every ``moe_layer_interval``-th block of a range of blocks."""

    def read(fields: Fields) -> Choices:
        depth = fields.depth("num_hidden_layers")
        last = -1 if fields.raw("moe_layer_end_index") == -1 else fields.count("moe_layer_end_index")
        span = fields.count("moe_layer_start_index"), depth - 1 if last == -1 else last, fields.whole("moe_layer_interval")
        dense = {**_DENSE, "ffn": fields.whole("intermediate_size")}
        each = tuple({} if _is_mixture(block, *span) else dense for block in range(depth))
        shared = fields.count("moe_num_shared_experts") * fields.whole("moe_intermediate_size")
        return {"shared_ffn": shared or None, "choice_bias": True, "blocks": each if any(each) else None}

    def write(design: Design) -> dict[str, Any]:
        each = every_block(design)
        mixed = [block for block, one in enumerate(each) if one.experts is not None]
        if not mixed:
            return {"moe_num_experts": 1, "moe_k": 1, "moe_intermediate_size": 1, "intermediate_size": each[0].ffn,
                    "moe_num_shared_experts": 0, "moe_layer_start_index": design.depth}  # fmt: skip
        one = each[mixed[0]]
        spans = ((mixed[0], mixed[-1], interval) for interval in range(1, design.depth + 1))
        found = [span for span in spans if [b for b in range(design.depth) if _is_mixture(b, *span)] == mixed]
        first, last, interval = found[0] if found else (0, design.depth - 1, 1)
        config = {
            "moe_num_experts": one.experts,
            "moe_k": one.top_k,
            "moe_intermediate_size": one.ffn,
            "moe_num_shared_experts": (one.shared_ffn or 0) // (one.ffn or 1),
            "moe_layer_start_index": first,
            "moe_layer_end_index": last,
            "moe_layer_interval": interval,
        }
        dense = next((other for other in each if other.experts is None), None)
        return config | ({} if dense is None else {"intermediate_size": dense.ffn})

    return Part(read, write)


ERNIE4_5_MOE = Family(
    "ernie4_5_moe",
    defaults={
        **without(ERNIE4_5.defaults, "use_bias"),
        "head_dim": None,
        "hidden_size": 2560,
        "intermediate_size": 12288,
        "num_hidden_layers": 28,
        "num_attention_heads": 20,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 1536,
        "moe_k": 6,
        "moe_norm_min": 1e-12,
        "moe_num_experts": 64,
        "moe_num_shared_experts": 2,
        "moe_layer_start_index": 1,
        "moe_layer_end_index": -1,
        "moe_layer_interval": 1,
    },
    names={
        **without(ERNIE4_5.names, "bias"),
        "ffn": "moe_intermediate_size",
        "experts": "moe_num_experts",
        "top_k": "moe_k",
    },
    aliases={"num_experts": "moe_num_experts", "num_experts_per_tok": "moe_k"},
    fixed=LLAMA_CHOICES,
    models=causal("Ernie4_5_Moe"),
    only={"use_bias": (False,)},  # of all maps but the experts'
    parts=(rope(500000.0, interleaved=True), _ernie_blocks(), _weight_sum()),
    weights=llama_weights(
        {
            **BLOCK_WEIGHTS,
            **EXPERT_WEIGHTS,
            "mlp.gate.moe_statics.e_score_correction_bias": "feed_forward.choice_bias",
            "mlp.shared_experts.gate_proj": "feed_forward.shared.gate",
            "mlp.shared_experts.up_proj": "feed_forward.shared.up",
            "mlp.shared_experts.down_proj": "feed_forward.shared.down",
        }
    ),
)
