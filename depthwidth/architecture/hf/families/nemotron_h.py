"""Nemotron-H: blocks of one branch, which is a Mamba 2 mixer, attention, a feed-forward part or a mixture of experts."""

from __future__ import annotations

import math
from typing import Any

from ....checks import DEEPEST
from ....layers import Mamba2
from ....layers.activation_entries import spelling_of
from ...design import Design
from ..family import Choices, Family, Part, causal, every_block, first_mixer
from ..fields import Fields, brief
from ..weights import in_blocks
from .deepseek import sigmoid_router
from .mamba import MAMBA2_WEIGHTS, of_mixer

_MIXER, _ATTENTION, _DENSE, _EXPERTS = "linear_attention", "full_attention", "mlp", "moe"
_WORDS = {_MIXER: _MIXER, _ATTENTION: _ATTENTION, _DENSE: _DENSE, _EXPERTS: _EXPERTS, "mamba": _MIXER, "attention": _ATTENTION}
_ROUTER = sigmoid_router()
_LETTERS = {"M": _MIXER, "*": _ATTENTION, "-": _DENSE, "E": _EXPERTS}


def kinds_of(fields: Fields) -> list[str]:
    """The kind of each block, from a list of words or a string of letters."""
    given, pattern = fields.raw("layers_block_type"), fields.values.get("hybrid_override_pattern")
    if given is None and pattern is not None:
        if not isinstance(pattern, str) or not pattern or any(letter not in _LETTERS for letter in pattern):
            raise fields.wrong("hybrid_override_pattern", f"is not a text of the letters {', '.join(_LETTERS)}")
        given = [_LETTERS[letter] for letter in pattern]
    if given is None:
        given = [_MIXER, _EXPERTS, _ATTENTION, _DENSE]
    if not isinstance(given, (list, tuple)) or not 0 < len(given) <= DEEPEST:
        raise fields.wrong("layers_block_type", "is not a list of words, one for each block")
    for word in given:
        if not isinstance(word, str) or word not in _WORDS:
            raise fields.wrong("layers_block_type", f"holds {brief(word)}; known are {', '.join(_WORDS)}")
    return [_WORDS[word] for word in given]


def _blocks() -> Part:
    def read(fields: Fields) -> Choices:
        kinds, width = kinds_of(fields), fields.whole("hidden_size")
        heads, groups = fields.whole("mamba_num_heads"), fields.whole("n_groups")
        if heads % groups:
            raise fields.wrong("mamba_num_heads", f"is not a multiple of {fields.spell('n_groups')}")
        mixer = Mamba2(
            width,
            heads,
            fields.whole("mamba_head_dim"),
            fields.whole("ssm_state_size"),
            groups,
            fields.whole("conv_kernel"),
            fields.activation("mamba_hidden_act"),
            fields.flag("use_bias"),
            fields.flag("use_bias"),
            fields.flag("use_conv_bias"),
            eps=fields.positive("layer_norm_epsilon"),
        )
        own: dict[str, Choices] = {
            _MIXER: {"mixer": mixer, "ffn": 0, "experts": None},
            _ATTENTION: {"mixer": "attention", "ffn": 0, "experts": None},
            _DENSE: {"mixer": "none", "ffn": fields.whole("intermediate_size"), "experts": None},
        }
        if _EXPERTS in kinds:
            if fields.flag("mlp_bias"):
                raise fields.beyond("mlp_bias", "is not supported beside experts, which have no biases")
            if fields.whole("num_experts_per_tok") > fields.whole("n_routed_experts"):
                raise fields.wrong("num_experts_per_tok", f"is more than {fields.spell('n_routed_experts')}")
            own[_EXPERTS] = {
                "mixer": "none",
                "ffn": fields.whole("moe_intermediate_size"),
                "experts": fields.whole("n_routed_experts"),
                "top_k": fields.whole("num_experts_per_tok"),
                "shared_ffn": fields.whole("moe_shared_expert_intermediate_size"),
                "renormalized": fields.flag("norm_topk_prob"),
                "choice_bias": True,
            }
        router = {"router": _ROUTER.read(fields)["router"]} if _EXPERTS in kinds else {}
        return {**router, "depth": len(kinds), **own[kinds[0]], "blocks": tuple(own[kind] for kind in kinds)}

    def write(design: Design) -> dict[str, Any]:
        each, mixer = every_block(design), first_mixer(Mamba2, design)
        kinds = [_kind(one) for one in each]
        config: dict[str, Any] = {"layers_block_type": kinds}
        for one, kind in zip(each, kinds, strict=True):
            if kind == _EXPERTS:
                config |= {
                    "moe_intermediate_size": one.ffn,
                    "n_routed_experts": one.experts,
                    "num_experts_per_tok": one.top_k,
                    "moe_shared_expert_intermediate_size": one.shared_ffn,
                    "norm_topk_prob": one.renormalized,
                    **_ROUTER.write(one),
                }
            elif kind == _DENSE:
                config["intermediate_size"] = one.ffn
        if mixer is None:
            return config
        return config | {
            "mamba_num_heads": mixer.heads,
            "mamba_head_dim": mixer.head_dim,
            "ssm_state_size": mixer.state,
            "n_groups": mixer.groups,
            "conv_kernel": mixer.kernel,
            "mamba_hidden_act": spelling_of(mixer.activation),
            "use_bias": mixer.bias,
            "use_conv_bias": mixer.kernel_bias,
        }

    return Part(read, write)


def _kind(block: Design) -> str:
    if block.mixer == "attention":
        return _ATTENTION
    if block.mixer != "none":
        return _MIXER
    return _DENSE if block.experts is None else _EXPERTS


NEMOTRON_H = Family(
    "nemotron_h",
    defaults={
        "vocab_size": 131072,
        "hidden_size": 4096,
        "layers_block_type": None,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 4096,
        "attention_dropout": 0.0,
        "intermediate_size": 21504,
        "mlp_hidden_act": "relu2",
        "mlp_bias": False,
        "ssm_state_size": 128,
        "mamba_num_heads": 128,
        "mamba_head_dim": 64,
        "mamba_hidden_act": "silu",
        "n_groups": 8,
        "conv_kernel": 4,
        "use_conv_bias": True,
        "n_routed_experts": 8,
        "moe_intermediate_size": 7688,
        "moe_shared_expert_intermediate_size": 7688,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "n_group": 1,
        "topk_group": 1,
        "routed_scaling_factor": 1.0,
        "use_bias": False,
        "layer_norm_epsilon": 1e-5,
    },
    names={
        "vocab": "vocab_size",
        "context": "max_position_embeddings",
        "width": "hidden_size",
        "heads": "num_attention_heads",
        "kv_heads": "num_key_value_heads",
        "head_dim": "head_dim",
        "attention_dropout": "attention_dropout",
        "activation": "mlp_hidden_act",
        "ffn_bias": "mlp_bias",
        "norm_eps": "layer_norm_epsilon",
    },
    aliases={
        "layer_types": "layers_block_type",
        "num_local_experts": "n_routed_experts",
        "mamba_n_groups": "n_groups",
        "mamba_d_conv": "conv_kernel",
        "mamba_conv_bias": "use_conv_bias",
    },
    only={"moe_latent_size": (None,)},
    fixed={"norm": "rmsnorm", "positions": "none", "bias": False, "tied": False},  # whatever the file says, as in the library
    models=causal("NemotronH", tasks=()),
    parts=(_blocks(),),
    weights={
        "embeddings": "stem.tokens",
        "norm_f": "decoder.norm",
        "lm_head": "head.unembedding",
        **in_blocks(
            "layers.#",
            "decoder",
            {
                "norm": "mixer.norm_in|attention.norm_in|feed_forward.norm_in",
                **of_mixer("mixer", MAMBA2_WEIGHTS),
                "mixer.q_proj": "attention.query",
                "mixer.k_proj": "attention.key",
                "mixer.v_proj": "attention.value",
                "mixer.o_proj": "attention.out",
                "mixer.up_proj": "feed_forward.up",
                "mixer.down_proj": "feed_forward.down",
                "mixer.gate": "feed_forward.router",
                "mixer.gate.e_score_correction_bias": "feed_forward.choice_bias",
                "mixer.experts.up_proj": "feed_forward.expert.up",
                "mixer.experts.down_proj": "feed_forward.expert.down",
                "mixer.shared_experts.up_proj": "feed_forward.shared.up",
                "mixer.shared_experts.down_proj": "feed_forward.shared.down",
            },
        ),
    },
    settings={"least_step": lambda config: config.get("time_step_min", 0.001), "most_step": math.inf},
    initial_rule="nemotron_h",
)
