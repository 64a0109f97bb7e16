"""The metadata of a GGUF header as a configuration of the Hugging Face family that it was converted from.

Choices that the header does not state, such as the activation, have the family's default, which is also what llama.cpp assumes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ...errors import InputError, nearest
from ...gguf_header import GGUFHeader
from ..transformer import Transformer
from .fields import NoTreeError, brief

_COMMON = {
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "vocab_size": "vocab_size",
}
_RMS = {**_COMMON, "attention.layer_norm_rms_epsilon": "rms_norm_eps"}
_LAYER = {**_COMMON, "attention.layer_norm_epsilon": "layer_norm_eps"}
_HEAD = {"attention.key_length": "head_dim"}
_WINDOW = {"attention.sliding_window": "sliding_window"}
_EXPERTS = {"expert_count": "num_experts", "expert_used_count": "num_experts_per_tok",
            "expert_feed_forward_length": "moe_intermediate_size"}  # fmt: skip
_CAPS = {"attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping"}

Own = Callable[[GGUFHeader, dict[str, Any]], dict[str, Any]]


def _bias(field: str) -> Own:
    """The field that is true if the first block's queries have a bias."""
    return lambda header, config: {field: "blk.0.attn_q.bias" in header.tensors or "blk.0.attn_qkv.bias" in header.tensors}


def _llama(header: GGUFHeader, config: dict[str, Any]) -> dict[str, Any]:
    """Mistral's models are converted as Llama's, and Mixtral's as Llama's with experts."""
    experts, used = (header.metadata.get(f"llama.{name}") for name in ("expert_count", "expert_used_count"))
    if not experts:
        return _bias("attention_bias")(header, config) | {"mlp_bias": "blk.0.ffn_up.bias" in header.tensors}
    return {"model_type": "mixtral", "num_local_experts": experts, "num_experts_per_tok": used}


def _shared_expert(header: GGUFHeader, config: dict[str, Any]) -> dict[str, Any]:
    size = header.metadata.get("qwen2moe.expert_shared_feed_forward_length")
    return {} if size is None else {"shared_expert_intermediate_size": size}


def _partial(field: str) -> Own:
    """The field for the share of a head that is rotated."""

    def read(header: GGUFHeader, config: dict[str, Any]) -> dict[str, Any]:
        name = header.metadata["general.architecture"]
        keys = ("rope.dimension_count", "embedding_length", "attention.head_count")
        sizes: list[Any] = [header.metadata.get(f"{name}.{key}") for key in keys]
        if not all(type(size) is int and size > 0 for size in sizes):
            return {}
        rotated, width, heads = sizes
        return {field: min(1.0, rotated * heads / width)}

    return read


def _gpt_neox(header: GGUFHeader, config: dict[str, Any]) -> dict[str, Any]:
    parallel = header.metadata.get("gptneox.use_parallel_residual")
    return _partial("rotary_pct")(header, config) | ({} if parallel is None else {"use_parallel_residual": parallel})


def _stablelm(header: GGUFHeader, config: dict[str, Any]) -> dict[str, Any]:
    parallel = header.metadata.get("stablelm.use_parallel_residual")
    return {
        **_partial("partial_rotary_factor")(header, config),
        **_bias("use_qkv_bias")(header, config),
        "qk_layernorm": "blk.0.attn_q_norm.weight" in header.tensors,
        **({} if parallel is None else {"use_parallel_residual": parallel}),
    }


ARCHITECTURES: dict[str, tuple[str, Mapping[str, str], Own | None]] = {
    "llama": ("llama", {**_RMS, **_HEAD}, _llama),
    "qwen2": ("qwen2", _RMS, None),
    "qwen2moe": ("qwen2_moe", {**_RMS, **_EXPERTS}, _shared_expert),
    "qwen3": ("qwen3", {**_RMS, **_HEAD}, _bias("attention_bias")),
    "qwen3moe": ("qwen3_moe", {**_RMS, **_HEAD, **_EXPERTS}, lambda header, config: {"norm_topk_prob": True}),
    "gemma": ("gemma", {**_RMS, **_HEAD}, None),
    "gemma2": ("gemma2", {**_RMS, **_HEAD, **_WINDOW, **_CAPS}, None),
    "gemma3": ("gemma3_text", {**_RMS, **_HEAD, **_WINDOW, **_CAPS}, None),
    "phi2": ("phi", _LAYER, _partial("partial_rotary_factor")),
    "phi3": ("phi3", {**_RMS, **_WINDOW}, None),
    "gpt2": (
        "gpt2",
        {
            "context_length": "n_positions", "embedding_length": "n_embd", "block_count": "n_layer", "vocab_size": "vocab_size",
            "feed_forward_length": "n_inner", "attention.head_count": "n_head",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        None,
    ),
    "gptneox": ("gpt_neox", _LAYER, _gpt_neox),
    "bloom": (
        "bloom",
        {
            "context_length": "seq_length", "embedding_length": "hidden_size", "block_count": "n_layer",
            "attention.head_count": "n_head", "vocab_size": "vocab_size",
            "attention.layer_norm_epsilon": "layer_norm_epsilon",
        },
        None,
    ),
    "stablelm": ("stablelm", _LAYER, _stablelm),
    "starcoder2": ("starcoder2", {**_COMMON, "attention.layer_norm_epsilon": "norm_epsilon"}, _bias("use_bias")),
    "olmo2": ("olmo2", _RMS, None),
    "smollm3": ("smollm3", _RMS, None),
}  # fmt: skip
"""The family of each architecture, the field of each key of its metadata, and a function for what is more than a copy."""


_TIED = ("gpt2", "bloom", "gemma", "gemma2", "gemma3_text")
"""Families with one table for the input and the output; older files store a copy of it."""


def fields_of_header(header: GGUFHeader) -> dict[str, Any]:
    """The configuration of a header.

    Raises
    ------
    InputError
        if it names no architecture; a :class:`~.fields.NoTreeError` if no family belongs to it.
    """
    name = header.metadata.get("general.architecture")
    if not isinstance(name, str):
        raise InputError(f"{header.label} names no architecture (general.architecture)")
    if name not in ARCHITECTURES:
        hint = f"{nearest(name, ARCHITECTURES)}; known are {', '.join(ARCHITECTURES)}"
        raise NoTreeError(f"the architecture {brief(name)} of {header.label} has no family here", hint)
    model_type, names, own = ARCHITECTURES[name]
    tied = model_type in _TIED or "output.weight" not in header.tensors
    config: dict[str, Any] = {"model_type": model_type, "tie_word_embeddings": tied}
    tokens = header.tensors.get("token_embd.weight")
    if tokens is not None:
        config["vocab_size"] = tokens.shape[0]
    for key, field in names.items():
        value = header.metadata.get(f"{name}.{key}")
        if value is not None:
            config[field] = value[0] if isinstance(value, list) and len(set(value)) == 1 else value
    if "num_key_value_heads" in names.values() and "num_key_value_heads" not in config:  # then each head has its own
        config["num_key_value_heads"] = config.get("num_attention_heads")
    return config | _rope(name, header.metadata) | ({} if own is None else own(header, config))


def _rope(name: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The base of the rotary positions, and their scaling if the metadata state all of it."""
    get = {key: metadata.get(f"{name}.rope.{key}") for key in ("freq_base", "scaling.type", "scaling.factor")}
    config = {} if get["freq_base"] is None else {"rope_theta": get["freq_base"]}
    kind, length = get["scaling.type"], metadata.get(f"{name}.rope.scaling.original_context_length")
    if kind in ("linear", "yarn") and get["scaling.factor"] not in (None, 0, 1):
        table = {"rope_type": kind, "factor": get["scaling.factor"]}
        stretched = length is not None and kind == "yarn"
        config["rope_scaling"] = {**table, "original_max_position_embeddings": length} if stretched else table
    return config


_FACTORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that are factors of rotary frequencies and no parameters."""
_BUFFERS = (".rope_freqs.weight", ".attn_rot_embd.weight", ".scale", ".input_scale")
"""Endings of others in a block."""
_STEM = ("token_embd", "position_embd", "token_types")


def notes_on_header(header: GGUFHeader, tree: Transformer) -> Iterator[str]:
    """A note if the shapes of the tensors disagree with the tree of the metadata, and one on positions that are not read."""
    groups = _groups(header, copied=tree.head is None or tree.head.parameters == 0)
    blocks = [block.parameters for stack in tree.stacks.values() for block in stack.blocks()]
    expected = {"stem": tree.stem.parameters, **{f"block {i}": size for i, size in enumerate(blocks)}}
    expected["rest"] = tree.parameters - sum(expected.values())
    held, planned = sum(groups.values()), tree.parameters
    differing = [name for name in {**expected, **groups} if expected.get(name, 0) != groups.get(name, 0)]
    if differing:
        first = differing[0]
        where = {"stem": "the embedding", "rest": "the last norm and the head"}.get(first, first)
        more = f" and in {len(differing) - 1} more parts" if len(differing) > 1 else ""
        yield (
            f"the header disagrees with itself: its tensors hold {held:,} parameters, and the model of its metadata has "
            f"{planned:,}; they differ in {where} ({groups.get(first, 0):,} and {expected.get(first, 0):,}){more}"
        )
    if any(name in header.tensors for name in _FACTORS):
        yield "the factors of the rotary frequencies are stored as tensors, which are not read: positions are not scaled"


def _groups(header: GGUFHeader, *, copied: bool) -> dict[str, int]:
    """Parameters of the stem, of each block and of the rest; without the output's table if it is a copy of the input's."""
    found: dict[str, int] = {}
    for name, tensor in header.tensors.items():
        if name in _FACTORS or name.endswith(_BUFFERS) or (copied and name == "output.weight"):
            continue
        first, _, rest = name.partition(".")
        block = rest.partition(".")[0]
        group = f"block {int(block)}" if first == "blk" and block.isdecimal() and len(block) < 10 else "rest"
        group = "stem" if first.startswith(_STEM) else group
        found[group] = found.get(group, 0) + math.prod(tensor.shape)
    return found
