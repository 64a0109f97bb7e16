"""Vision transformers: ViT and DeiT."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...design import Design
from ..family import Choices, Family, Part
from ..fields import Fields
from ..weights import in_blocks


def image_part() -> Part:
    """``image_size`` and ``patch_size``: one number, or height and width; patches are square."""

    def sides(fields: Fields, name: str) -> tuple[int, int]:
        value = fields.raw(name)
        pair = value if isinstance(value, (list, tuple)) else [value, value]
        one = Fields(fields.model_type, {name: pair[0] if pair else None}, {}, {})
        two = Fields(fields.model_type, {name: pair[-1] if pair else None}, {}, {})
        if len(pair) != 2:
            raise fields.wrong(name, "is not one number or a height and a width")
        return one.whole(name), two.whole(name)

    def read(fields: Fields) -> Choices:
        image, (patch, other) = sides(fields, "image_size"), sides(fields, "patch_size")
        if patch != other:
            raise fields.wrong("patch_size", "is not supported, only square patches")
        if patch > min(image):
            raise fields.wrong("patch_size", f"is larger than {fields.spell('image_size')}")
        return {"image": image, "patch": patch}

    def write(design: Design) -> dict[str, Any]:
        image = design.image if isinstance(design.image, tuple) else (design.image, design.image)
        return {"image_size": image[0] if image[0] == image[1] else list(image), "patch_size": design.patch}

    return Part(read, write)


STEM_WEIGHTS = {
    "embeddings.cls_token": "stem.class_token",
    "embeddings.position_embeddings": "stem.positions",
    "embeddings.patch_embeddings.projection": "stem.patch",
}
BRANCH_WEIGHTS = {
    "attention.q_proj": "attention.query",
    "attention.k_proj": "attention.key",
    "attention.v_proj": "attention.value",
    "attention.o_proj": "attention.out",
    "mlp.fc1": "feed_forward.up",
    "mlp.fc2": "feed_forward.down",
}
BLOCK_WEIGHTS = {**BRANCH_WEIGHTS, "layernorm_before": "attention.norm_in", "layernorm_after": "feed_forward.norm_in"}

VIT = Family(
    "vit",
    defaults={
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "head_dim": None,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": 1e-12,
        "image_size": 224,
        "patch_size": 16,
        "num_channels": 3,
        "qkv_bias": True,
        "pooler_output_size": None,
        "pooler_act": "tanh",
    },
    names={
        "width": "hidden_size",
        "depth": "num_hidden_layers",
        "heads": "num_attention_heads",
        "head_dim": "head_dim",
        "ffn": "intermediate_size",
        "activation": "hidden_act",
        "dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
        "norm_eps": "layer_norm_eps",
        "channels": "num_channels",
        "attention_bias": "qkv_bias",
        "pooler_width": "pooler_output_size",
        "pooler_activation": "pooler_act",
    },
    fixed={"kind": "encoder", "positions": "none"},  # the patches' own table of positions is part of the stem
    models={
        "ViTForImageClassification": {"head": "classifier", "pooler": False},
        "ViTModel": {"head": "none", "pooler": True},
    },
    parts=(image_part(),),
    weights={
        **STEM_WEIGHTS,
        "layernorm": "encoder.norm",
        "pooler.dense": "head.pooler.linear|head.linear",
        "classifier": "head.linear",
        **in_blocks("layers.#", "encoder", BLOCK_WEIGHTS),
    },
)

DEIT = replace(
    VIT,
    model_type="deit",
    fixed={**VIT.fixed, "distillation_token": True},
    models={
        "DeiTForImageClassification": {"head": "classifier", "pooler": False, "classifier_reads": "first"},
        "DeiTForImageClassificationWithTeacher": {"head": "classifier", "pooler": False, "classifier_reads": "first two"},
        "DeiTModel": {"head": "none", "pooler": True},
    },
    weights={
        **VIT.weights,
        "embeddings.distillation_token": "stem.distillation_token",
        "cls_classifier": "head.linear",
        "distillation_classifier": "head.distilled",
    },
    initial_rule="normal-zero-tables",
)
