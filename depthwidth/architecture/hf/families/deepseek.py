"""DeepSeek-V2 and V3: latent attention, dense blocks below mixtures of many small experts and shared ones."""

from __future__ import annotations

import math
from typing import Any

from ....errors import InputError
from ....layers import Latent, RouterRule
from ...design import Design
from ..family import Choices, Family, Part, causal, every_block, without
from ..fields import Fields, as_number, brief
from ..parts import rope
from ..rope import rope_table
from ..weights import Fused, WeightNames
from .llama import (
    ATTENTION_BIAS,
    EXPERT_FIELDS,
    EXPERT_WEIGHTS,
    GATED_WEIGHTS,
    LLAMA_CHOICES,
    LLAMA_DEFAULTS,
    LLAMA_NAMES,
    NORM_WEIGHTS,
    llama_weights,
)

LATENT_DEFAULTS: dict[str, Any] = {
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}
LATENT_WEIGHTS: WeightNames = {
    "input_layernorm": "attention.norm_in",
    "self_attn.q_proj": "attention.query",
    "self_attn.q_a_proj": "attention.query_latent",
    "self_attn.q_a_layernorm": "attention.query_latent_norm",
    "self_attn.q_b_proj": "attention.query",
    "self_attn.kv_a_proj_with_mqa": Fused("latent", ("attention.latent_map", "attention.rotary_key")),
    "self_attn.kv_a_layernorm": "attention.latent_norm",
    "self_attn.kv_b_proj": Fused("latent_heads", ("attention.key", "attention.value")),
    "self_attn.o_proj": "attention.out",
}
MIXTURE_DEFAULTS: dict[str, Any] = {
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "routed_scaling_factor": 2.5,
    "n_group": 8,
    "topk_group": 4,
    "first_k_dense_replace": 3,
    "norm_topk_prob": True,
}
MIXTURE_NAMES = {**EXPERT_FIELDS, "experts": "n_routed_experts"}
MIXTURE_WEIGHTS: WeightNames = {
    **GATED_WEIGHTS,
    **EXPERT_WEIGHTS,
    "mlp.gate.e_score_correction_bias": "feed_forward.choice_bias",
    "mlp.shared_experts.gate_proj": "feed_forward.shared.gate",
    "mlp.shared_experts.up_proj": "feed_forward.shared.up",
    "mlp.shared_experts.down_proj": "feed_forward.shared.down",
}
FURTHER_TOKENS = {"num_nextn_predict_layers": (0, "the blocks that predict further tokens are not counted")}


def latent() -> Part:
    """The sizes of latent attention, whose queries and keys have a part with positions and one without."""

    def read(fields: Fields) -> Choices:
        heads = fields.whole("num_attention_heads")
        if fields.has("num_key_value_heads") and fields.whole("num_key_value_heads") != heads:
            raise fields.wrong(
                "num_key_value_heads", f"differs from {fields.spell('num_attention_heads')}: every head has a key"
            )
        rotary = fields.whole("qk_rope_head_dim")
        sizes = Latent(fields.whole("kv_lora_rank"), rotary, fields.whole_or_none("q_lora_rank"))
        own_value = fields.whole_or_none("v_head_dim")
        value = fields.whole("hidden_size") // heads if own_value is None else own_value
        if not value:
            raise fields.wrong("hidden_size", f"is less than {fields.spell('num_attention_heads')}")
        return {"latent": sizes, "head_dim": fields.whole("qk_nope_head_dim") + rotary, "value_dim": value}

    def write(design: Design) -> dict[str, Any]:
        config: dict[str, Any] = {"num_key_value_heads": design.heads, "v_head_dim": design.value_dim}
        sizes = design.latent
        if sizes is None or design.head_dim is None:
            return config
        ranks = {"kv_lora_rank": sizes.rank, "q_lora_rank": sizes.query_rank}
        return config | ranks | {"qk_rope_head_dim": sizes.rotary, "qk_nope_head_dim": design.head_dim - sizes.rotary}

    return Part(read, write)


def stretched_scores() -> Part:
    """A factor on the scores of stretched positions, the square of 1 + 0.1 ``mscale_all_dim`` ln(``factor``)."""

    def read(fields: Fields) -> Choices:
        table = rope_table(fields)
        kind, share = table.get("rope_type", table.get("type", "default")), table.get("mscale_all_dim")
        if kind in (None, "default") or not share:
            return {"logit_scale": None}
        numbers = {name: as_number(table.get(name)) for name in ("mscale_all_dim", "factor")}
        for name, number in numbers.items():
            if not 0 < number < math.inf:
                shown = f"{name}={brief(table.get(name))}"
                raise InputError(f"{fields.model_type} config: {shown} of its rope is not a positive number")
        head_dim = fields.whole("qk_nope_head_dim") + fields.whole("qk_rope_head_dim")
        return {"logit_scale": _scale(head_dim, numbers["mscale_all_dim"], numbers["factor"])}

    def write(design: Design) -> dict[str, Any]:
        # The other entries of the table are those of `rope`, after which this part is written.
        return {}

    return Part(read, write)


def _scale(head_dim: int, share: float, factor: float) -> float:
    grown = 0.1 * share * math.log(factor) + 1 if factor > 1 else 1.0
    return grown * grown / math.sqrt(head_dim)


def _share(head_dim: int, scale: float, factor: float) -> float | None:
    """The share from which :func:`_scale` makes this scale, or nearly; None if there is none."""
    grown = math.sqrt(scale * math.sqrt(head_dim))
    if not factor > 1 or not grown > 1:
        return None
    share = near = (grown - 1) / (0.1 * math.log(factor))
    for _ in range(8):
        near = math.nextafter(near, 0)
    for _ in range(17):
        if _scale(head_dim, near, factor) == scale:
            return near
        near = math.nextafter(near, math.inf)
    return share


def latent_rope(*, interleaved: bool, switch: str = "") -> Part:
    """Rotary positions of a part of each head, and their factor on the scores; `switch` names a field for `interleaved`."""
    plain, stretched = rope(interleaved=interleaved), stretched_scores()

    def read(fields: Fields) -> Choices:
        found = {**plain.read(fields), **stretched.read(fields)}
        if switch:
            found["positions"] = found["positions"].replace(interleaved=fields.flag(switch))
        return found

    def write(design: Design) -> dict[str, Any]:
        config = plain.write(design)
        if switch:
            config[switch] = bool(getattr(design.positions, "interleaved", interleaved))
        factor = config.get("rope_parameters", {}).get("factor")
        if design.logit_scale is not None and design.head_dim is not None and factor is not None:
            share = _share(design.head_dim, design.logit_scale, factor)
            if share is not None:
                config["rope_parameters"]["mscale_all_dim"] = share
        return config

    return Part(read, write)


def dense_first() -> Part:
    """The first ``first_k_dense_replace`` blocks dense, the others mixtures with a shared part as wide as some experts."""

    def read(fields: Fields) -> Choices:
        depth, first = fields.depth("num_hidden_layers"), fields.count("first_k_dense_replace")
        own = {"experts": None, "shared_ffn": None, "choice_bias": False, "ffn": fields.whole("intermediate_size")}
        shared = fields.count("n_shared_experts") * fields.whole("moe_intermediate_size")
        each = tuple(own if block < first else {} for block in range(depth))
        return {"shared_ffn": shared or None, "blocks": each if first else None}

    def write(design: Design) -> dict[str, Any]:
        each = every_block(design)
        first = next((block for block, one in enumerate(each) if one.experts is not None), design.depth)
        config: dict[str, Any] = {"first_k_dense_replace": first, "n_shared_experts": 0}
        if first == design.depth:
            config |= {"n_routed_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 1}
        else:
            one = each[first]
            width = one.ffn or 1
            config |= {"n_routed_experts": one.experts, "num_experts_per_tok": one.top_k, "moe_intermediate_size": width}
            config |= {"n_shared_experts": (one.shared_ffn or 0) // width, "norm_topk_prob": one.renormalized}
        return config | ({"intermediate_size": each[0].ffn} if first else {})

    return Part(read, write)


def _check_rule(rule: RouterRule, fields: Fields, top_k: int) -> RouterRule:
    """The rule itself, if it goes with the numbers of experts."""
    experts = fields.whole("n_routed_experts")
    if top_k <= experts and (misfit := rule.misfit(experts, top_k)):
        name = "topk_group" if rule.limited and not experts % rule.groups else "n_group"
        named = ("n_group", "topk_group", "n_routed_experts", "num_experts_per_tok")
        others = ", ".join(fields.spell(one) for one in named if one != name)
        raise fields.wrong(name, f"does not go with {others}: {misfit}")
    return rule


def sigmoid_router() -> Part:
    """Sigmoids of the scores, with a bias on the choice and groups of experts by their two largest values."""

    def read(fields: Fields) -> Choices:
        groups = fields.whole("n_group")
        factor = fields.positive("routed_scaling_factor")
        rule = RouterRule("sigmoid", groups, fields.whole("topk_group", largest=groups), 2, factor, untrained_bias=True)
        return {"router": _check_rule(rule, fields, fields.whole("num_experts_per_tok")), "choice_bias": True}

    def write(design: Design) -> dict[str, Any]:
        rule = design.router
        return {"n_group": rule.groups, "topk_group": rule.top_groups, "routed_scaling_factor": rule.factor}

    return Part(read, write)


_USUAL_CHOICES = 6
"""Experts of a token in every published DeepSeek-V2; the default of its class is null."""


def _softmax_router() -> Part:
    """The softmax over all experts; with ``group_limited_greedy``, experts of the groups of the largest maximum only."""

    def read(fields: Fields) -> Choices:
        method = fields.raw("topk_method")
        if method not in ("greedy", "group_limited_greedy"):
            raise fields.wrong("topk_method", "is neither 'greedy' nor 'group_limited_greedy'")
        groups = top_groups = 1
        if method != "greedy":
            groups = fields.whole("n_group")
            top_groups = fields.whole("topk_group", largest=groups)
        experts = fields.whole("n_routed_experts")
        own = fields.whole_or_none("num_experts_per_tok")
        top_k = min(_USUAL_CHOICES, experts) if own is None else own
        if top_k > experts:
            raise fields.wrong("num_experts_per_tok", f"is more than {fields.spell('n_routed_experts')}")
        rule = RouterRule("softmax", groups, top_groups, 1, fields.positive("routed_scaling_factor"))
        return {"router": _check_rule(rule, fields, top_k), "top_k": top_k}

    def write(design: Design) -> dict[str, Any]:
        rule = design.router
        config: dict[str, Any] = {"routed_scaling_factor": rule.factor, "topk_method": "greedy"}
        if rule.groups > 1:
            config |= {"topk_method": "group_limited_greedy", "n_group": rule.groups, "topk_group": rule.top_groups}
        return config

    return Part(read, write)


_NAMES = without(LLAMA_NAMES, "kv_heads", "head_dim", "ffn")

DEEPSEEK_V2 = Family(
    "deepseek_v2",
    defaults={
        **without(LLAMA_DEFAULTS, "head_dim"),
        **LATENT_DEFAULTS,
        **without(MIXTURE_DEFAULTS, "norm_topk_prob"),
        "vocab_size": 102400,
        "moe_intermediate_size": 1407,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_experts_per_tok": None,
        "routed_scaling_factor": 1.0,
        "topk_method": "greedy",
        "n_group": None,
        "topk_group": None,
        "first_k_dense_replace": 0,
        "attention_bias": False,
        "mlp_bias": False,
    },
    names={**_NAMES, **without(MIXTURE_NAMES, "renormalized", "top_k"), **ATTENTION_BIAS},
    aliases={"num_experts": "n_routed_experts"},
    only={"mlp_bias": (False,)},  # of all maps but the experts'
    fixed={**LLAMA_CHOICES, "renormalized": False},
    models=causal("DeepseekV2", tasks=("SequenceClassification",)),
    parts=(latent(), latent_rope(interleaved=True), dense_first(), _softmax_router()),
    weights=llama_weights({**LATENT_WEIGHTS, **NORM_WEIGHTS, **MIXTURE_WEIGHTS}),
)

DEEPSEEK_V3 = Family(
    "deepseek_v3",
    defaults={
        **without(LLAMA_DEFAULTS, "head_dim"),
        **LATENT_DEFAULTS,
        **MIXTURE_DEFAULTS,
        "vocab_size": 129280,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "num_hidden_layers": 61,
        "num_attention_heads": 128,
        "num_key_value_heads": 128,
        "max_position_embeddings": 4096,
        "rope_interleave": True,
        "attention_bias": False,
    },
    names={**_NAMES, **MIXTURE_NAMES, **ATTENTION_BIAS},
    aliases={"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"},
    fixed=LLAMA_CHOICES,
    models=causal("DeepseekV3", tasks=("SequenceClassification", "TokenClassification")),
    noted=FURTHER_TOKENS,
    parts=(latent(), latent_rope(interleaved=True, switch="rope_interleave"), dense_first(), sigmoid_router()),
    weights=llama_weights({**LATENT_WEIGHTS, **NORM_WEIGHTS, **MIXTURE_WEIGHTS}),
)
