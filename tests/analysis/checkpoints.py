"""A small Llama's checkpoint by the library's names, made without torch."""

import json

import numpy as np
import pytest

CONFIG = {
    "model_type": "llama", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 8, "intermediate_size": 32, "vocab_size": 40, "tie_word_embeddings": True,
}  # fmt: skip
ATTENTION = {"q_proj": (32, 24), "k_proj": (16, 24), "v_proj": (16, 24), "o_proj": (24, 32)}


def llama_tensors(seed=0):
    """The tensors of CONFIG by the library's names."""
    draw = np.random.default_rng(seed).standard_normal
    found = {"model.embed_tokens.weight": draw((40, 24)), "model.norm.weight": draw(24)}
    for i in range(2):
        prefix = f"model.layers.{i}"
        found |= {f"{prefix}.self_attn.{name}.weight": draw(shape) for name, shape in ATTENTION.items()}
        found |= {f"{prefix}.mlp.{name}_proj.weight": draw((32, 24)) for name in ("gate", "up")}
        found[f"{prefix}.mlp.down_proj.weight"] = draw((24, 32))
        found |= {f"{prefix}.{name}.weight": draw(24) for name in ("input_layernorm", "post_attention_layernorm")}
    return {name: one.astype(np.float32) for name, one in found.items()}


def saved(folder, tensors, config=CONFIG):
    safetensors = pytest.importorskip("safetensors.numpy")
    folder.mkdir(exist_ok=True)
    safetensors.save_file({name: np.ascontiguousarray(one) for name, one in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder
