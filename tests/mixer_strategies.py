"""Random configurations, and sizes of small models, of families with mixers in place of attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from depthwidth.architecture.hf import read_config
from depthwidth.initialization import weights
from depthwidth.layers import Special

ACTIVATION_NAMES = st.sampled_from(["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu", "swish", "quick_gelu", "tanh"])
FLAG = st.booleans()


def joined(tables: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    return {name: value for table in tables for name, value in table.items()}


def state_space(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    sizes = {"state_size": st.integers(1, 5), "conv_kernel": st.integers(1, 4), "use_bias": FLAG, "use_conv_bias": FLAG}
    more = {"time_step_rank": st.sampled_from(["auto", 1, 3]), "hidden_act": ACTIVATION_NAMES}
    inner = st.integers(1, 3).map(lambda n: {"expand": n}) | st.integers(1, 40).map(lambda n: {"intermediate_size": n})
    return st.tuples(inner, st.fixed_dictionaries(sizes | more)).map(joined)


def state_space_heads(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    def sized(groups: int, heads: int) -> dict[str, Any]:
        heads *= groups
        return {"n_groups": groups, "num_heads": heads, "expand": heads, "head_dim": config["hidden_size"], "chunk_size": 4}

    sizes = {"state_size": st.integers(1, 5), "conv_kernel": st.integers(1, 4), "use_bias": FLAG, "use_conv_bias": FLAG}
    heads = st.builds(sized, st.integers(1, 2), st.integers(1, 2))
    return st.tuples(heads, st.fixed_dictionaries(sizes)).map(joined)


def jamba(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    sizes = {
        "mamba_d_state": st.integers(1, 5), "mamba_d_conv": st.integers(1, 4), "mamba_expand": st.integers(1, 3),
        "mamba_dt_rank": st.sampled_from(["auto", 1, 3]), "mamba_proj_bias": FLAG, "mamba_conv_bias": FLAG,
        "num_experts": st.integers(1, 3).map(lambda n: n + (n > 1)), "attn_layer_period": st.integers(3, 5),
        "attn_layer_offset": st.integers(0, 2), "expert_layer_period": st.integers(2, 3),
        "expert_layer_offset": st.integers(0, 1),
    }  # fmt: skip
    return st.fixed_dictionaries(sizes)


def delta_nets(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    depth = config["num_hidden_layers"]
    kinds = st.lists(st.sampled_from(["linear_attention", "full_attention"]), min_size=depth, max_size=depth)
    where = kinds.map(lambda kinds: {"layer_types": kinds}) | st.just({}) | st.just({"full_attention_interval": 2})

    def sized(keys: int, share: int, key: int, value: int, taps: int) -> dict[str, Any]:
        return {"linear_num_key_heads": keys, "linear_num_value_heads": keys * share, "linear_key_head_dim": key,
                "linear_value_head_dim": value, "linear_conv_kernel_dim": taps, "head_dim": 8}  # fmt: skip

    few = st.integers(1, 3)
    return st.tuples(where, st.builds(sized, few, few, few, few, few)).map(joined)


def state_heads(config: dict[str, Any], inner: str) -> st.SearchStrategy[dict[str, Any]]:
    """Heads of a Mamba 2 mixer, in fields named after Bamba's."""

    def sized(groups: int, heads: int, state: int, taps: int) -> dict[str, Any]:
        found = {"mamba_n_groups": groups, "mamba_n_heads": groups * heads, "mamba_d_state": state, "mamba_d_conv": taps}
        return found | ({inner: groups * heads} if inner == "mamba_expand" else {inner: 3 * groups * heads})

    few, flags = st.integers(1, 3), {"mamba_conv_bias": FLAG, "mamba_proj_bias": FLAG, "mamba_chunk_size": st.just(4)}
    return st.tuples(st.builds(sized, few, few, few, few), st.fixed_dictionaries(flags)).map(joined)


def granite_hybrid(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    depth = config["num_hidden_layers"]
    kinds = st.none() | st.lists(st.sampled_from(["linear_attention", "full_attention"]), min_size=depth, max_size=depth)
    sizes = {
        "layer_types": kinds, "num_local_experts": st.sampled_from([0, 2, 3]), "shared_intermediate_size": st.integers(1, 9),
        "intermediate_size": st.integers(1, 20), "position_embedding_type": st.sampled_from([None, "rope"]),
    }  # fmt: skip
    return st.tuples(state_heads(config, "mamba_expand"), st.fixed_dictionaries(sizes)).map(joined)


def falcon_h1(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    flags = {"mamba_rms_norm": FLAG, "mamba_norm_before_gate": FLAG, "projectors_bias": FLAG}
    return st.tuples(state_heads(config, "mamba_d_ssm"), st.fixed_dictionaries(flags)).map(joined)


def nemotron_h(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    def sized(kinds: list[str], groups: int, heads: int, size: int, experts: int, bias: bool) -> dict[str, Any]:
        return {
            "layers_block_type": kinds, "n_groups": groups, "mamba_num_heads": groups * heads, "mamba_head_dim": size,
            "ssm_state_size": size, "chunk_size": 4, "n_routed_experts": experts, "num_experts_per_tok": 2, "use_bias": bias,
            "moe_intermediate_size": 3 + size, "moe_shared_expert_intermediate_size": 4 + size, "intermediate_size": 5 + size,
            "mlp_bias": bias and "moe" not in kinds, "routed_scaling_factor": float(size),
        }  # fmt: skip

    kinds = st.lists(st.sampled_from(["linear_attention", "full_attention", "mlp", "moe"]), min_size=1, max_size=5)
    few = st.integers(1, 3)
    return st.builds(sized, kinds, few, few, few, st.integers(2, 4), FLAG)


def rwkv(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    # The library's code fails for a single block, and for a single feature.
    sizes = {"attention_hidden_size": st.none() | st.integers(2, 20), "intermediate_size": st.none() | st.integers(1, 40)}
    return st.fixed_dictionaries({**sizes, "num_hidden_layers": st.integers(2, 4), "layer_norm_epsilon": st.just(1e-5)})


def convolutions(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    depth = config["num_hidden_layers"]
    kinds = st.lists(st.sampled_from(["conv", "full_attention"]), min_size=depth, max_size=depth)
    where = kinds.map(lambda kinds: {"layer_types": kinds}) | st.lists(st.integers(0, 3)).map(lambda k: {"full_attn_idxs": k})
    sizes = {
        "conv_bias": FLAG, "conv_L_cache": st.integers(1, 4), "intermediate_size": st.integers(4, 40),
        "block_multiple_of": st.integers(1, 5), "block_auto_adjust_ff_dim": FLAG,
        "block_ffn_dim_multiplier": st.sampled_from([1.0, 1.3]),
    }  # fmt: skip
    return st.tuples(where, st.fixed_dictionaries(sizes)).map(joined)


MIXED = ("mamba2", "jamba", "qwen3_next", "qwen3_5_text", "granitemoehybrid", "falcon_h1", "nemotron_h")
"""Families whose mixers have sizes of their own."""


def mixer_fields(family: str, width: int) -> dict[str, Any]:
    """The sizes of the mixers in a small model of a width, a multiple of 8; none for a family without such sizes."""
    heads = {"n_groups": 2, "chunk_size": 4, "head_dim": 8}
    named = {"mamba_n_groups": 2, "mamba_d_state": 5, "mamba_chunk_size": 4, "mamba_n_heads": width // 4}
    deltas = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 5, "linear_value_head_dim": 6,
              "head_dim": 8, "full_attention_interval": 2}  # fmt: skip
    own: dict[str, dict[str, Any]] = {
        "mamba2": {**heads, "num_heads": width // 4, "state_size": 5},
        "jamba": {"mamba_d_state": 5, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 3},
        "qwen3_next": {**deltas, "mlp_only_layers": [0], "intermediate_size": 6},
        "qwen3_5_text": deltas,
        "granitemoehybrid": {**named, "num_local_experts": 3, "shared_intermediate_size": 7, "intermediate_size": 10},
        "falcon_h1": {**named, "mamba_d_ssm": width, "key_multiplier": 0.5, "ssm_multipliers": [0.5, 0.6, 0.7, 0.8, 0.9]},
        "nemotron_h": {**heads, "mamba_num_heads": 4, "mamba_head_dim": 7, "ssm_state_size": 5, "intermediate_size": 9,
                       "n_routed_experts": 3, "moe_intermediate_size": 6, "moe_shared_expert_intermediate_size": 5,
                       "layers_block_type": ["linear_attention", "full_attention", "mlp", "moe", "linear_attention"]},
    }  # fmt: skip
    return own.get(family, {})


def has_recipe(config: Mapping[str, Any]) -> bool:
    """True if every scheme states how all tensors of a configuration's model start; otherwise only ``shipped`` does."""
    tree = read_config(config)
    return not any(isinstance(weight.start, Special) for weight in weights(tree))
