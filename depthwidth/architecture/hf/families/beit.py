"""BEiT."""

from __future__ import annotations

import math
from typing import Any

from ....layers import ImageBias
from ....layers.positions import positions_as
from ...design import Design
from ..family import Choices, Family, Part, without
from ..fields import Fields, as_number
from ..weights import in_blocks
from . import vit
from .dinov2 import DROPPED_PATHS, mask_token
from .vit import image_part


def _positions() -> Part:
    """Vectors for positions, and score biases by the difference of places: in each block, or shared by all."""
    own, shared = "use_relative_position_bias", "use_shared_relative_position_bias"

    def read(fields: Fields) -> Choices:
        vectors = {"patch_positions": "learned" if fields.flag("use_absolute_position_embeddings") else "none"}
        if not fields.flag(own) and not fields.flag(shared):
            return {**vectors, "positions": "none"}
        if fields.flag(own) and fields.flag(shared):
            raise fields.beyond(own, f"is not supported together with {shared}=True")
        sizes = image_part().read(fields)
        rows, columns = (side // sizes["patch"] for side in sizes["image"])
        if rows != columns:  # the library's code takes its height for its width
            raise fields.beyond("image_size", f"is not supported with {own} or {shared}, only square images")
        return {**vectors, "positions": ImageBias(rows, columns, fields.whole("num_attention_heads"), fields.flag(shared))}

    def write(design: Design) -> dict[str, Any]:
        bias = positions_as(ImageBias, design.positions)
        absolute = {"use_absolute_position_embeddings": design.patch_positions == "learned"}
        return {**absolute, own: bias is not None and not bias.shared, shared: bias is not None and bias.shared}

    return Part(read, write)


def _layer_scale() -> Part:
    """``layer_scale_init_value``, the start of the trained factors; there are none if it is not positive."""
    name = "layer_scale_init_value"

    def read(fields: Fields) -> Choices:
        start = as_number(fields.raw(name))
        if not math.isfinite(start):
            raise fields.wrong(name, "is not a number")
        return {"layer_scale": start if start > 0 else None}

    return Part(read, lambda design: {name: design.layer_scale or 0.0})


def _mean_pooling() -> Part:
    """``use_mean_pooling``: the mean of the patches and a norm of it, instead of the first token after a norm of all."""

    def read(fields: Fields) -> Choices:
        mean = fields.flag("use_mean_pooling")
        return {"pooler": mean, "pooler_reads": "patches", "final_norm": not mean}

    return Part(read, lambda design: {"use_mean_pooling": not design.final_norm})


def _codes() -> Part:
    """``vocab_size``, the number of codes for hidden patches."""
    return Part(
        lambda fields: {"classes": fields.whole("vocab_size")},
        lambda design: {"vocab_size": design.classes} if design.head == "patch-logits" else {},
    )


BEIT = Family(
    "beit",
    defaults={
        **without(vit.VIT.defaults, "qkv_bias", "pooler_output_size", "pooler_act"),
        "vocab_size": 8192,
        "use_mask_token": False,
        "use_absolute_position_embeddings": False,
        "use_relative_position_bias": False,
        "use_shared_relative_position_bias": False,
        "layer_scale_init_value": 0.1,
        "use_mean_pooling": True,
    },
    names=without(vit.VIT.names, "attention_bias", "pooler_width", "pooler_activation"),
    fixed={"kind": "encoder", "key_bias": False},
    models={
        "BeitForImageClassification": {"head": "classifier"},
        "BeitModel": {"head": "none"},
        "BeitForMaskedImageModeling": {"head": "patch-logits", "pooler": False},
    },
    noted={"drop_path_rate": (0.0, DROPPED_PATHS)},
    parts=(image_part(), mask_token(), _positions(), _layer_scale(), _mean_pooling(), _codes()),
    weights={
        **vit.STEM_WEIGHTS,
        "embeddings.mask_token": "stem.mask_token",
        "shared_position_bias.relative_position_bias_table": "encoder.position",
        "beit.layernorm": "encoder.norm",
        "layernorm": "head.norm|encoder.norm",
        "pooler.layernorm": "head.pooler.norm|head.norm",
        "classifier": "head.linear",
        "lm_head": "head.linear",
        **in_blocks(
            "layers.#",
            "encoder",
            {
                **vit.BLOCK_WEIGHTS,
                "relative_position_bias.relative_position_bias_table": "attention.position",
                "lambda_1": "attention.layer_scale",
                "lambda_2": "feed_forward.layer_scale",
            },
        ),
    },
    initial_rule="normal-zero-tables",
)
