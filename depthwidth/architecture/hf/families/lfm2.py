"""LFM2: short convolutions with gates, and attention in some blocks."""

from __future__ import annotations

from typing import Any

from ....layers import ShortConvolution
from ...design import Design
from ..family import Choices, Family, Part, causal, every_block, first_mixer, without
from ..fields import Fields
from ..parts import rope
from ..weights import Fused
from .llama import LLAMA_DEFAULTS, LLAMA_NAMES, llama_weights

_CONVOLUTION, _ATTENTION = "conv", "full_attention"


def _short_convolutions() -> Part:
    """A mixer in the blocks that ``layer_types`` names ``conv``, or that ``full_attn_idxs`` does not list."""

    def read(fields: Fields) -> Choices:
        depth = fields.depth("num_hidden_layers")
        kinds = fields.words("layer_types", (_CONVOLUTION, _ATTENTION), depth)
        if kinds is None:
            listed = fields.raw("full_attn_idxs")
            if listed is not None and (not isinstance(listed, (list, tuple)) or any(type(one) is not int for one in listed)):
                raise fields.wrong("full_attn_idxs", "is not a list of the numbers of blocks")
            kinds = [_ATTENTION if listed is None or block in listed else _CONVOLUTION for block in range(depth)]
        mixer = ShortConvolution(fields.whole("hidden_size"), fields.whole("conv_L_cache"), fields.flag("conv_bias"))
        own = tuple({"mixer": mixer} if kind == _CONVOLUTION else {} for kind in kinds)
        return {"mixer": mixer} if all(own) else {"blocks": own} if any(own) else {}

    def write(design: Design) -> dict[str, Any]:
        mixers = [block.mixer for block in every_block(design)]
        found = first_mixer(ShortConvolution, design)
        config: dict[str, Any] = {"layer_types": [_ATTENTION if mixer == "attention" else _CONVOLUTION for mixer in mixers]}
        return config | ({} if found is None else {"conv_L_cache": found.kernel, "conv_bias": found.bias})

    return Part(read, write)


def _rounded_feed_forward() -> Part:
    """A feed-forward width of two thirds of ``intermediate_size``, times a factor, rounded up to a multiple."""

    def read(fields: Fields) -> Choices:
        width = fields.whole("intermediate_size")
        if not fields.flag("block_auto_adjust_ff_dim"):
            return {"ffn": width}
        width = int(2 * width / 3)
        if fields.raw("block_ffn_dim_multiplier") is not None:
            multiple = fields.whole("block_multiple_of")
            width = multiple * -(-int(fields.positive("block_ffn_dim_multiplier") * width) // multiple)
        if width < 1:
            raise fields.wrong("intermediate_size", "leaves no hidden features")
        return {"ffn": width}

    return Part(read, lambda design: {"intermediate_size": design.ffn, "block_auto_adjust_ff_dim": False})


LFM2 = Family(
    "lfm2",
    defaults={
        **without(LLAMA_DEFAULTS, "hidden_act", "attention_dropout", "rms_norm_eps"),
        "vocab_size": 65536,
        "max_position_embeddings": 128000,
        "hidden_size": 2560,
        "num_key_value_heads": 8,
        "intermediate_size": 12288,
        "norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_multiple_of": 256,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": True,
        "full_attn_idxs": None,
        "layer_types": None,
    },
    names={
        **without(LLAMA_NAMES, "activation", "attention_dropout", "ffn"),
        "norm_eps": "norm_eps",
    },
    aliases={"tie_embedding": "tie_word_embeddings", "block_ff_dim": "intermediate_size"},
    fixed={"norm": "rmsnorm", "gated": True, "activation": "silu", "bias": False, "qk_norm": "head"},
    models=causal("Lfm2"),
    parts=(rope(1000000.0), _short_convolutions(), _rounded_feed_forward()),
    weights=llama_weights(
        {
            "operator_norm": "mixer.norm_in|attention.norm_in",
            "self_attn.q_proj": "attention.query",
            "self_attn.k_proj": "attention.key",
            "self_attn.v_proj": "attention.value",
            "self_attn.out_proj": "attention.out",
            "self_attn.q_layernorm": "attention.query_norm",
            "self_attn.k_layernorm": "attention.key_norm",
            "conv.in_proj": Fused("thirds", ("mixer.input_gate", "mixer.output_gate", "mixer.read")),
            "conv.conv": "mixer.convolution",
            "conv.out_proj": "mixer.write",
            "ffn_norm": "feed_forward.norm_in",
            "feed_forward.w1": "feed_forward.gate",
            "feed_forward.w3": "feed_forward.up",
            "feed_forward.w2": "feed_forward.down",
        },
        last_norm="embedding_norm",
    ),
)
