"""The text stack of Llama 4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ....checks import is_whole
from ....layers import Rotary, RouterRule
from ....layers.positions import positions_as
from ...design import Design
from ..family import Choices, Family, Part, every_block, without
from ..fields import Fields
from ..parts import factor_before_norms, normed_later, rope
from ..rope import FULL
from ..weights import Fused, WeightNames
from .llama import ATTENTION_BIAS, ATTENTION_WEIGHTS, LLAMA_CHOICES, LLAMA_DEFAULTS, LLAMA_NAMES, NORM_WEIGHTS, llama_weights

_CHUNKED = "chunked_attention"
_PLAIN = rope(500000.0, interleaved=True)
_RULE = RouterRule(scores="sigmoid", scales_input=True)
_DENSE: Choices = {"experts": None, "shared_ffn": None}


def _marks(fields: Fields, name: str, depth: int, default: list[bool]) -> list[bool]:
    """A list of a zero or a one for each block; the default if there is none, or an empty one."""
    listed = fields.raw(name)
    if listed is None or listed == []:
        return default
    if not isinstance(listed, (list, tuple)) or len(listed) != depth or not all(is_whole(one, 0, 1) for one in listed):
        raise fields.wrong(name, f"is not a list of {depth} zeros and ones, one for each block")
    return [bool(one) for one in listed]


def _mixture_blocks(fields: Fields, depth: int) -> list[bool]:
    """True for each block with a mixture of experts."""
    listed = fields.raw("moe_layers")
    if listed is None:
        step = fields.whole("interleave_moe_layer_step")
        return [(block + 1) % step == 0 for block in range(depth)]
    if not isinstance(listed, (list, tuple)) or not all(is_whole(one, 0) for one in listed):
        raise fields.wrong("moe_layers", "is not a list of block numbers")
    return [block in listed for block in range(depth)]


def _blocks() -> Part:
    """Rotary positions, chunks and norms of queries and keys in most blocks, none in the others; mixtures in some of them."""

    def read(fields: Fields) -> Choices:
        depth = fields.depth("num_hidden_layers")
        interval = fields.whole("no_rope_layer_interval")
        turned = _marks(fields, "no_rope_layers", depth, [(block + 1) % interval != 0 for block in range(depth)])
        words = fields.words("layer_types", (FULL, _CHUNKED), depth)
        chunked = turned if words is None else [word == _CHUNKED for word in words]
        mixed = _mixture_blocks(fields, depth)
        chunk = fields.whole_or_none("attention_chunk_size")
        if chunk is None and any(chunked):
            raise fields.wrong("attention_chunk_size", "is missing, and blocks attend in chunks")
        normed = fields.flag("use_qk_norm")
        usual: Choices = {
            **(normed_later(_PLAIN) if normed else _PLAIN).read(fields),
            "qk_norm": "unit" if normed else "none",
            "chunk": chunk if any(chunked) else None,
            "ffn": fields.whole("intermediate_size"),
            "shared_ffn": fields.whole("intermediate_size"),
        }
        dense = {**_DENSE, "ffn": fields.whole("intermediate_size_mlp")}
        own = tuple(
            {
                **({} if turned[block] else {"positions": "none", "qk_norm": "none"}),
                **({} if chunked[block] else {"chunk": None}),
                **({} if mixed[block] else dense),
            }
            for block in range(depth)
        )
        return {**usual, "blocks": own if any(own) else None}

    def write(design: Design) -> dict[str, Any]:
        each = every_block(design)
        turned = [positions_as(Rotary, one.positions) for one in each]
        rotary = next((one for one in turned if one is not None), None)
        mixed = [one for one in each if one.experts is not None]
        dense = [one for one in each if one.experts is None]
        first, plain = (mixed or dense)[0], (dense or mixed)[0]
        config = {} if rotary is None else _PLAIN.write(replace(design, positions=rotary))
        if not mixed:
            config |= {"num_local_experts": 1, "num_experts_per_tok": 1}
        else:
            config |= {"num_local_experts": first.experts, "num_experts_per_tok": first.top_k}
        return config | {
            "no_rope_layers": [int(one is not None) for one in turned],
            "layer_types": [FULL if one.chunk is None else _CHUNKED for one in each],
            "attention_chunk_size": next((one.chunk for one in each if one.chunk is not None), None),
            "use_qk_norm": any(one.qk_norm == "unit" for one in each),
            "moe_layers": [block for block, one in enumerate(each) if one.experts is not None],
            "intermediate_size": first.ffn,
            "intermediate_size_mlp": plain.ffn,
        }

    return Part(read, write)


def _temperature(config: Mapping[str, Any]) -> tuple[float, float] | None:
    """The rate and the length by which queries of blocks without positions grow; None if they do not."""
    if not config.get("attn_temperature_tuning", True):
        return None
    return float(config.get("attn_scale", 0.1)), float(config.get("floor_scale", 8192))


_SHARED: WeightNames = {
    f"feed_forward.shared_expert.{name}_proj": f"feed_forward.shared.{name}" for name in ("gate", "up", "down")
}
_WEIGHTS = llama_weights(
    {
        **ATTENTION_WEIGHTS,
        **NORM_WEIGHTS,
        "feed_forward.gate_proj": "feed_forward.gate",
        "feed_forward.up_proj": "feed_forward.up",
        "feed_forward.down_proj": "feed_forward.down",
        "feed_forward.router": "feed_forward.router",
        "feed_forward.experts.gate_up_proj": Fused("transposed_halves", ("feed_forward.expert.gate", "feed_forward.expert.up")),
        "feed_forward.experts.down_proj": Fused("transposed", ("feed_forward.expert.down",)),
        **_SHARED,
    }
)

LLAMA4 = Family(
    "llama4_text",
    defaults={
        **LLAMA_DEFAULTS,
        "vocab_size": 202048,
        "hidden_size": 5120,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_hidden_layers": 48,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "num_experts_per_tok": 1,
        "num_local_experts": 16,
        "moe_layers": None,
        "interleave_moe_layer_step": 1,
        "use_qk_norm": True,
        "no_rope_layers": None,
        "no_rope_layer_interval": 4,
        "attention_chunk_size": 8192,
        "layer_types": None,
        "attention_bias": False,
    },
    names={
        **without(LLAMA_NAMES, "ffn"),
        **ATTENTION_BIAS,
        "experts": "num_local_experts",
        "top_k": "num_experts_per_tok",
    },
    fixed={**LLAMA_CHOICES, "router": _RULE, "renormalized": False},
    models={"Llama4ForCausalLM": {"head": "lm", "pooler": False}, "Llama4TextModel": {"head": "none", "pooler": False}},
    parts=(_blocks(),),
    # The class with a head has another prefix than its parameters.
    weights={**_WEIGHTS, **{f"model.{name}": role for name, role in _WEIGHTS.items()}},
    settings={"temperature": _temperature, "late_norms": True, "rotary_factor": factor_before_norms(_PLAIN, "llama4_text")},
)
