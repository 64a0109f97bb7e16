"""Random fields of configurations of models of images."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from mixer_strategies import ACTIVATION_NAMES, FLAG


def images(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    side = st.integers(8, 30)
    return st.fixed_dictionaries({"image_size": side | st.tuples(side, side).map(list), "patch_size": st.integers(1, 8)})


def square_images(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    more = {"clip_vision_model": {"projection_dim": st.integers(1, 20)}, "siglip_vision_model": {"vision_use_head": FLAG}}
    sides = {"image_size": st.integers(8, 30), "patch_size": st.integers(1, 8)}
    return st.fixed_dictionaries({**sides, **more.get(config["model_type"], {})})


def hidden(config: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    # Sines and cosines of two coordinates need a width of a multiple of four.
    width = st.integers(1, 3).map(lambda n: 4 * n * config["num_attention_heads"])
    return st.fixed_dictionaries({"hidden_size": width, "mask_ratio": st.sampled_from([0.3, 0.5, 0.75])})


BIASED = st.sampled_from(["", "use_relative_position_bias", "use_shared_relative_position_bias"]).map(
    lambda name: {name: True} if name else {}
)
BEIT = st.fixed_dictionaries(
    {
        "use_mask_token": FLAG,
        "use_absolute_position_embeddings": FLAG,
        "use_mean_pooling": FLAG,
        "layer_scale_init_value": st.sampled_from([0.0, 0.1]),
        "vocab_size": st.integers(2, 20),
    }
)
MASKED = st.fixed_dictionaries(
    {
        "use_mask_token": FLAG,
        "mlp_ratio": st.integers(1, 5),
        "use_swiglu_ffn": FLAG,
        "hidden_act": ACTIVATION_NAMES,
        "layerscale_value": st.sampled_from([1.0, 1e-5, 0.1]),
    }
)
