"""GGUF files of small models, written with the format's own package as llama.cpp's converter writes them."""

import math
import struct

import numpy as np

SMALL = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_NO_GROUPS = {key: value for key, value in SMALL.items() if key != "num_key_value_heads"}
_GPT = {"vocab_size": 96, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
MODELS = {
    "llama": ("llama", "llama", {**SMALL, "head_dim": 16}),
    "llama, tied, biased, scaled": (
        "llama", "llama",
        {**SMALL, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True,
         "rope_scaling": {"rope_type": "linear", "factor": 4.0}, "rope_theta": 500000.0},
    ),
    "llama, yarn": (
        "llama", "llama",
        {**SMALL, "rope_theta": 10000.0,
         "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    ),
    "mixtral": ("llama", "mixtral", {**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": ("qwen2", "qwen2", SMALL),
    "qwen2_moe": ("qwen2moe", "qwen2_moe", {**SMALL, **_EXPERTS, "shared_expert_intermediate_size": 64}),
    "qwen3": ("qwen3", "qwen3", {**SMALL, "head_dim": 16}),
    "qwen3_moe": ("qwen3moe", "qwen3_moe", {**SMALL, **_EXPERTS, "head_dim": 16, "norm_topk_prob": True}),
    "gemma": ("gemma", "gemma", {**SMALL, "head_dim": 16}),
    "gemma2": ("gemma2", "gemma2", {**SMALL, "sliding_window": 16}),
    "gemma3": ("gemma3", "gemma3_text", {**SMALL, "num_hidden_layers": 7, "sliding_window": 32}),
    "phi": ("phi2", "phi", {**SMALL, "num_key_value_heads": 4}),
    "phi3": ("phi3", "phi3", {**SMALL, "sliding_window": 16}),
    "gpt2": ("gpt2", "gpt2", {**_GPT, "n_embd": 32, "n_positions": 64}),
    "gpt_neox": ("gptneox", "gpt_neox", {**_NO_GROUPS, "use_parallel_residual": False}),
    "bloom": ("bloom", "bloom", {**_GPT, "hidden_size": 32, "seq_length": 64}),
    "stablelm": ("stablelm", "stablelm", {**SMALL, "partial_rotary_factor": 0.5, "use_qkv_bias": True}),
    "starcoder2": ("starcoder2", "starcoder2", {**SMALL, "sliding_window": None}),
    "olmo2": ("olmo2", "olmo2", SMALL),
    "smollm3": ("smollm3", "smollm3", {**SMALL, "num_hidden_layers": 5}),
}  # fmt: skip
"""From a name to the architecture of GGUF, the family and the fields of a small model."""


def library_model(family, fields):
    """The configuration and the shapes of the weights of the library's own model, built without numbers."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(family, **fields)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    return config, {name: tuple(one.shape) for name, one in model.state_dict().items()}


def tensor_shapes(architecture, config, weights, *, output=None):
    """The names that a converter gives to weights, with their shapes; `output` keeps or drops the copy of a tied table."""
    import gguf

    blocks = getattr(config, "num_hidden_layers", None) or config.n_layer
    code = next(code for code, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(code, blocks)
    found = {}
    for name, shape in weights.items():
        if name == "lm_head.weight" and (config.tie_word_embeddings if output is None else not output):
            continue
        if name.endswith("experts.gate_up_proj"):  # the converter keeps the two apart
            block = name.split(".")[2]
            half = (shape[0], shape[1] // 2, shape[2])
            found |= {f"blk.{block}.ffn_gate_exps.weight": half, f"blk.{block}.ffn_up_exps.weight": half}
        elif name.endswith("experts.down_proj"):
            found[f"blk.{name.split('.')[2]}.ffn_down_exps.weight"] = shape
        else:
            bare = name.removeprefix("transformer.") if architecture == "bloom" else name
            known = names.get_name(bare, try_suffixes=(".weight", ".bias"))
            assert known is not None, name
            found[known] = shape
    return found


def first(config, *names, default=None):
    """The first of several fields that a configuration has."""
    return next((value for name in names if (value := getattr(config, name, None)) is not None), default)


def metadata(architecture, config):
    """The keys that the converter writes for an architecture, without its prefix."""
    heads = first(config, "num_attention_heads", "n_head")
    width = first(config, "hidden_size", "n_embd")
    found = {
        "block_count": first(config, "num_hidden_layers", "n_layer"),
        "context_length": first(config, "max_position_embeddings", "n_positions", "seq_length", default=64),
        "embedding_length": width,
        "feed_forward_length": first(config, "intermediate_size", "n_inner", default=4 * width),
        "attention.head_count": heads,
        "vocab_size": config.vocab_size,
    }
    if architecture not in ("gpt2", "gptneox", "bloom"):
        found["attention.head_count_kv"] = config.num_key_value_heads
    if hasattr(config, "rms_norm_eps"):
        found["attention.layer_norm_rms_epsilon"] = config.rms_norm_eps
    else:
        found["attention.layer_norm_epsilon"] = first(config, "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon")
    rope = getattr(config, "rope_parameters", None) or {}
    rope = rope.get("full_attention", rope)
    if "rope_theta" in rope:
        found["rope.freq_base"] = float(rope["rope_theta"])
        share = rope.get("partial_rotary_factor", 1.0)
        found["rope.dimension_count"] = int(share * (first(config, "head_dim") or width // heads))
    if rope.get("rope_type") in ("linear", "yarn"):
        found |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
        if rope["rope_type"] == "yarn":
            found["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
    if architecture in ("llama", "qwen3", "qwen3moe", "gemma", "gemma2", "gemma3") and getattr(config, "head_dim", None):
        found |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    if architecture in ("phi3", "gemma2", "gemma3"):
        found["attention.sliding_window"] = config.sliding_window
    if architecture in ("gptneox", "stablelm"):
        found["use_parallel_residual"] = config.use_parallel_residual
    caps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    return {**found, **expert_keys(config), **(caps if architecture == "gemma2" else {})}


def expert_keys(config):
    """The keys of a mixture of experts; none for a dense model."""
    experts = first(config, "num_local_experts", "num_experts")
    if not experts:
        return {}
    found = {"expert_count": experts, "expert_used_count": config.num_experts_per_tok}
    if hasattr(config, "moe_intermediate_size"):
        found["expert_feed_forward_length"] = config.moe_intermediate_size
    if hasattr(config, "shared_expert_intermediate_size"):
        found["expert_shared_feed_forward_length"] = config.shared_expert_intermediate_size
    return found


def write_file(path, architecture, keys, shapes, *, tokens=0, dtype=np.float16, **options):
    """A GGUF file by the format's own package; its weights are zeros."""
    import gguf

    writer = gguf.GGUFWriter(path, architecture, **options)
    for key, value in keys.items():
        whole = key if key.startswith(("general.", "split.")) else f"{architecture}.{key}"
        kind = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        kind.get(type(value), writer.add_array)(whole, value)
    if tokens:
        writer.add_token_list([f"token {i}" for i in range(tokens)])
        writer.add_token_scores([0.0] * tokens)
    for name, shape in shapes.items():
        writer.add_tensor(name, np.zeros(shape, dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_model(path, name, **options):
    """The file of one of :data:`MODELS`, and the library's configuration of it."""
    architecture, family, fields = MODELS[name]
    config, weights = library_model(family, fields)
    shapes = tensor_shapes(architecture, config, weights)
    write_file(path, architecture, metadata(architecture, config), shapes, **options)
    return config, sum(map(math.prod, shapes.values()))


# Files by hand, for what the package would not write.

KEYS = {
    "block_count": 2, "context_length": 64, "embedding_length": 32, "feed_forward_length": 64, "attention.head_count": 4,
    "attention.head_count_kv": 2, "attention.layer_norm_rms_epsilon": 1e-5,
}  # fmt: skip
BLOCK = {
    "attn_norm.weight": (32,), "attn_q.weight": (32, 32), "attn_k.weight": (16, 32), "attn_v.weight": (16, 32),
    "attn_output.weight": (32, 32), "ffn_norm.weight": (32,), "ffn_gate.weight": (64, 32), "ffn_up.weight": (64, 32),
    "ffn_down.weight": (32, 64),
}  # fmt: skip
SHAPES = {
    "token_embd.weight": (96, 32), "output_norm.weight": (32,), "output.weight": (96, 32),
    **{f"blk.{i}.{name}": shape for i in range(2) for name, shape in BLOCK.items()},
}  # fmt: skip


def header(*keys, tensors=(), version=3, counts=None):
    """A header by hand: entries of metadata and tensor infos as bytes."""
    numbers = (len(tensors), len(keys)) if counts is None else counts
    return b"GGUF" + struct.pack("<IQQ", version, *numbers) + b"".join(keys) + b"".join(tensors)


def word(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key, kind, data):
    return word(key) + struct.pack("<I", kind) + data


def info(name, shape, code=0, start=0):
    return word(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, code, start)


def llama_bytes():
    """The file of a small Llama by hand, in half precision: :data:`KEYS` and :data:`SHAPES`."""
    kinds = {int: (4, "<I"), float: (6, "<f")}
    keys = [
        entry("general.architecture", 8, word("llama")),
        entry("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 3) + word("a") * 3),
    ]
    for key, value in KEYS.items():
        kind, form = kinds[type(value)]
        keys.append(entry(f"llama.{key}", kind, struct.pack(form, value)))
    infos, start = [], 0
    for name, shape in SHAPES.items():
        infos.append(info(name, shape[::-1], 1, start))
        start += -(-2 * math.prod(shape) // 32) * 32
    data = header(*keys, tensors=infos)
    return data + bytes(-len(data) % 32 + start)
