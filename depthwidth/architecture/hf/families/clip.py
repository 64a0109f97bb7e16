"""The two towers of CLIP, one for images and one for texts."""

from __future__ import annotations

from ..family import Family, Part
from ..weights import in_blocks
from .vit import image_part


def projection(name: str = "projection_dim") -> Part:
    """The width of the space in which images and texts are compared; a class without a projection ignores it."""
    return Part(
        lambda fields: {"projection_width": fields.whole(name)},
        lambda design: {} if design.projection_width is None else {name: design.projection_width},
    )


TOWER_NAMES = {
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "activation": "hidden_act",
    "attention_dropout": "attention_dropout",
    "norm_eps": "layer_norm_eps",
}
IMAGE_NAMES = {**TOWER_NAMES, "channels": "num_channels"}
TEXT_NAMES = {**TOWER_NAMES, "vocab": "vocab_size", "context": "max_position_embeddings"}
_BLOCK = {
    "layer_norm1": "attention.norm_in",
    "self_attn.q_proj": "attention.query",
    "self_attn.k_proj": "attention.key",
    "self_attn.v_proj": "attention.value",
    "self_attn.out_proj": "attention.out",
    "layer_norm2": "feed_forward.norm_in",
    "mlp.fc1": "feed_forward.up",
    "mlp.fc2": "feed_forward.down",
}
IMAGE_WEIGHTS = {
    "embeddings.class_embedding": "stem.class_token",
    "embeddings.patch_embedding": "stem.patch",
    "embeddings.position_embedding": "stem.positions",
    "pre_layrnorm": "stem.norm",  # spelt like this there
    "post_layernorm": "encoder.norm",
    **in_blocks("encoder.layers.#", "encoder", _BLOCK),
}


def text_weights(stack: str) -> dict[str, str]:
    """The weight names of a tower for texts whose blocks are in `stack`."""
    return {
        "embeddings.token_embedding": "stem.tokens",
        "embeddings.position_embedding": "stem.positions",
        "final_layer_norm": f"{stack}.norm",
        **{name: str(role) for name, role in in_blocks("encoder.layers.#", stack, _BLOCK).items()},
    }


_DEFAULTS = {
    "num_hidden_layers": 12,
    "hidden_act": "quick_gelu",
    "attention_dropout": 0.0,
    "layer_norm_eps": 1e-5,
    "projection_dim": 512,
}

CLIP_IMAGES = Family(
    "clip_vision_model",
    defaults={
        **_DEFAULTS,
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "image_size": 224,
        "patch_size": 32,
        "num_channels": 3,
    },
    names=IMAGE_NAMES,
    fixed={"kind": "encoder", "positions": "none", "embedding_norm": True, "patch_bias": False},
    models={
        "CLIPVisionModel": {"head": "projection", "projection_width": None},
        "CLIPVisionModelWithProjection": {"head": "projection"},
    },
    parts=(image_part(), projection()),
    weights={**IMAGE_WEIGHTS, "visual_projection": "head.linear"},
    initial_rule="clip",
)

CLIP_TEXTS = Family(
    "clip_text_model",
    defaults={
        **_DEFAULTS,
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "hidden_size": 512,
        "num_attention_heads": 8,
        "intermediate_size": 2048,
    },
    names=TEXT_NAMES,
    fixed={"kind": "decoder", "positions": "learned"},
    models={
        # A text ends with its last token, whose features are compared.
        "CLIPTextModel": {"head": "projection", "projection_width": None, "projection_reads": "last"},
        "CLIPTextModelWithProjection": {"head": "projection", "projection_reads": "last"},
    },
    parts=(projection(),),
    weights={**text_weights("decoder"), "text_projection": "head.linear"},
    initial_rule="clip",
)
