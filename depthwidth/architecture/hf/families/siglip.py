"""The two towers of SigLIP, one for images and one for texts."""

from __future__ import annotations

from typing import Any

from ...design import Design
from ..family import Choices, Family, Part, without
from ..fields import Fields
from ..weights import Fused
from . import clip
from .clip import IMAGE_NAMES, IMAGE_WEIGHTS, TEXT_NAMES, text_weights
from .vit import image_part


def _projection() -> Part:
    """``projection_size``, by default the width."""

    def read(fields: Fields) -> Choices:
        return {"projection_width": fields.whole_or_none("projection_size") or fields.whole("hidden_size")}

    return Part(read, lambda design: {"projection_size": design.projection_width})


def _head() -> Part:
    """``vision_use_head``: attention pooling, or the features of all tokens."""

    def read(fields: Fields) -> Choices:
        return {"head": "attention-pooling" if fields.flag("vision_use_head") else "none"}

    def write(design: Design) -> dict[str, Any]:
        return {"vision_use_head": design.head == "attention-pooling"}

    return Part(read, write)


_DEFAULTS = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072, "hidden_act": "gelu_pytorch_tanh",
             "layer_norm_eps": 1e-6}  # fmt: skip
_POOL = tuple(f"head.attention.{name}" for name in ("query", "key", "value"))

SIGLIP_IMAGES = Family(
    "siglip_vision_model",
    defaults={
        **without(clip.CLIP_IMAGES.defaults, "projection_dim"),
        **_DEFAULTS,
        "patch_size": 16,
        "vision_use_head": True,
    },
    names=IMAGE_NAMES,
    fixed={"kind": "encoder", "positions": "none", "class_token": False},
    models={"SiglipVisionModel": {}},
    parts=(image_part(), _head()),
    weights={
        **without(IMAGE_WEIGHTS, "embeddings.class_embedding", "pre_layrnorm"),
        "head.probe": "head.probe",
        "head.attention.in_proj_weight": Fused("rows", _POOL),
        "head.attention.in_proj_bias": Fused("rows", _POOL),
        "head.attention.out_proj": "head.attention.out",
        "head.layernorm": "head.norm",
        "head.mlp.fc1": "head.feed_forward.up",
        "head.mlp.fc2": "head.feed_forward.down",
    },
    initial_rule="siglip",
    initial_field="",
)

SIGLIP_TEXTS = Family(
    "siglip_text_model",
    defaults={
        **without(clip.CLIP_TEXTS.defaults, "projection_dim"),
        **_DEFAULTS,
        "vocab_size": 32000,
        "max_position_embeddings": 64,
        "projection_size": None,
    },
    names=TEXT_NAMES,
    fixed={"kind": "encoder", "positions": "learned"},  # no mask hides later tokens
    models={"SiglipTextModel": {"head": "projection", "projection_reads": "last", "projection_bias": True}},
    parts=(_projection(),),
    weights={**text_weights("encoder"), "head": "head.linear"},
    initial_rule="siglip",
    initial_field="",
)
