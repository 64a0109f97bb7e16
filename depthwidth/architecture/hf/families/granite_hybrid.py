"""Granite 4: Mamba 2 mixers and attention, with or without mixtures of experts."""

from __future__ import annotations

from typing import Any

from ....layers import Mamba2
from ...design import Design
from ..family import Choices, Family, Part, causal, every_block, first_mixer, without
from ..fields import Fields
from ..parts import reciprocal, rope
from ..weights import Fused
from .granite import GRANITE_DEFAULTS, GRANITE_NAMES
from .llama import ATTENTION_WEIGHTS, EXPERT_WEIGHTS, LLAMA_CHOICES, llama_weights
from .mamba import MAMBA2_WEIGHTS, STEP_LIMITS, of_mixer

_MIXER, _ATTENTION = ("linear_attention", "mamba"), ("full_attention", "attention")


def head_features(fields: Fields, heads: str, inner: int, name: str = "mamba_d_head") -> int:
    """Features of one head of a mixer of `inner` features: a whole number, or ``auto``."""
    count = fields.whole(heads)
    each = inner // count if fields.raw(name) == "auto" else fields.whole(name)
    if each * count != inner:
        raise fields.wrong(heads, f"heads of {each} features are not the {inner} features of the mixer")
    return each


def _mixers() -> Part:
    def read(fields: Fields) -> Choices:
        width = fields.whole("hidden_size")
        heads, groups = fields.whole("mamba_n_heads"), fields.whole("mamba_n_groups")
        if heads % groups:
            raise fields.wrong("mamba_n_heads", f"is not a multiple of {fields.spell('mamba_n_groups')}")
        mixer = Mamba2(
            width,
            heads,
            head_features(fields, "mamba_n_heads", fields.whole("mamba_expand") * width),
            fields.whole("mamba_d_state"),
            groups,
            fields.whole("mamba_d_conv"),
            fields.activation("hidden_act"),
            fields.flag("mamba_proj_bias"),
            fields.flag("mamba_proj_bias"),
            fields.flag("mamba_conv_bias"),
            eps=fields.positive("rms_norm_eps"),
        )
        kinds = fields.words("layer_types", (*_MIXER, *_ATTENTION), fields.depth("num_hidden_layers"))
        if kinds is None or all(kind in _MIXER for kind in kinds):
            return {"mixer": mixer}
        return {"mixer": mixer, "blocks": tuple({"mixer": mixer if kind in _MIXER else "attention"} for kind in kinds)}

    def write(design: Design) -> dict[str, Any]:
        kinds = [_ATTENTION[0] if one.mixer == "attention" else _MIXER[0] for one in every_block(design)]
        mixer = first_mixer(Mamba2, design)
        if mixer is None:  # any sizes are right, and heads must divide the features
            return {"layer_types": kinds, "mamba_n_heads": 1}
        return {
            "layer_types": kinds,
            "mamba_n_heads": mixer.heads,
            "mamba_d_head": mixer.head_dim,
            "mamba_n_groups": mixer.groups,
            "mamba_expand": max(1, mixer.inner // design.width),
            "mamba_d_state": mixer.state,
            "mamba_d_conv": mixer.kernel,
            "mamba_proj_bias": mixer.bias,
            "mamba_conv_bias": mixer.kernel_bias,
        }

    return Part(read, write)


def _experts() -> Part:
    """Experts and a shared part, or the shared part alone."""

    def read(fields: Fields) -> Choices:
        shared, experts = fields.whole("shared_intermediate_size"), fields.count("num_local_experts")
        if not experts:
            return {"ffn": shared}
        if fields.whole("num_experts_per_tok") > experts:
            raise fields.wrong("num_experts_per_tok", f"is more than {fields.spell('num_local_experts')}")
        return {"ffn": fields.whole("intermediate_size"), "shared_ffn": shared, "experts": experts}

    def write(design: Design) -> dict[str, Any]:
        if design.experts is None:
            return {"num_local_experts": 0, "shared_intermediate_size": design.ffn}
        sizes = {"intermediate_size": design.ffn, "shared_intermediate_size": design.shared_ffn}
        return sizes | {"num_local_experts": design.experts}

    return Part(read, write)


def _positions() -> Part:
    """Rotary positions if ``position_embedding_type`` is ``rope``, otherwise none."""
    plain = rope()

    def read(fields: Fields) -> Choices:
        kind = fields.raw("position_embedding_type")
        if kind not in (None, "rope", "nope"):
            raise fields.wrong("position_embedding_type", "is neither null nor 'rope'")
        return plain.read(fields) if kind == "rope" else {"positions": "none"}

    def write(design: Design) -> dict[str, Any]:
        return {"position_embedding_type": None if design.positions == "none" else "rope", **plain.write(design)}

    return Part(read, write)


GRANITE_MOE_HYBRID = Family(
    "granitemoehybrid",
    defaults={
        **GRANITE_DEFAULTS,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "shared_intermediate_size": 1024,
        "position_embedding_type": None,
        "layer_types": None,
        "mamba_n_heads": 128,
        "mamba_n_groups": 1,
        "mamba_d_state": 256,
        "mamba_d_head": "auto",
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_conv_bias": True,
        "mamba_proj_bias": False,
    },
    names={**without(GRANITE_NAMES, "ffn"), "top_k": "num_experts_per_tok"},
    aliases={"layers_block_type": "layer_types"},
    fixed=LLAMA_CHOICES,
    models=causal("GraniteMoeHybrid"),
    parts=(_positions(), reciprocal("logits_scaling", "head_scale"), _mixers(), _experts()),
    weights=llama_weights(
        {
            **ATTENTION_WEIGHTS,
            "input_layernorm": "mixer.norm_in|attention.norm_in",
            **of_mixer("mamba", MAMBA2_WEIGHTS),
            "post_attention_layernorm": "feed_forward.norm_in",
            "block_sparse_moe.router": "feed_forward.router",
            **{name.replace("mlp.", "block_sparse_moe."): EXPERT_WEIGHTS[name] for name in without(EXPERT_WEIGHTS, "mlp.gate")},
            "shared_mlp.input_linear": Fused(
                "halves", ("feed_forward.shared.gate|feed_forward.gate", "feed_forward.shared.up|feed_forward.up")
            ),
            "shared_mlp.output_linear": "feed_forward.shared.down|feed_forward.down",
        }
    ),
    settings=STEP_LIMITS,
    initial_rule="state-space",
)
