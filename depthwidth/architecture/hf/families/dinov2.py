"""DINOv2."""

from __future__ import annotations

import math
from typing import Any

from ....layers.activation_entries import spelling_of
from ...design import Design
from ..family import Choices, Family, Part, without
from ..fields import Fields, as_number
from ..weights import in_blocks
from . import vit
from .vit import image_part

DROPPED_PATHS = "whole branches are dropped at random in training, which moments leave out"


def _hidden(width: int, ratio: float, gated: bool) -> int:
    """Hidden features: a gated part has two thirds of them, rounded up to a multiple of eight."""
    hidden = int(width * ratio)
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden


def _feed_forward() -> Part:
    """``mlp_ratio``, and ``use_swiglu_ffn``, whose activation is SiLU whatever the value of ``hidden_act``."""

    def read(fields: Fields) -> Choices:
        gated = fields.flag("use_swiglu_ffn")
        hidden = _hidden(fields.whole("hidden_size"), fields.positive("mlp_ratio"), gated)
        if hidden < 1:
            raise fields.wrong("mlp_ratio", "leaves no hidden features")
        activation = fields.activation("hidden_act")
        return {"gated": gated, "activation": "silu" if gated else activation, "ffn": hidden}

    def write(design: Design) -> dict[str, Any]:
        hidden = 4 * design.width if design.ffn is None else design.ffn
        near = round(hidden * (1.5 if design.gated else 1.0) / design.width)
        ratios = (near, near - 1, near + 1)
        ratio = next((one for one in ratios if one > 0 and _hidden(design.width, one, design.gated) == hidden), max(near, 1))
        name = "gelu" if design.gated else spelling_of(design.activation)
        return {"mlp_ratio": ratio, "use_swiglu_ffn": design.gated, "hidden_act": name}

    return Part(read, write)


def _layer_scale() -> Part:
    """``layerscale_value``, the start of the trained factors, which may be any number."""

    def read(fields: Fields) -> Choices:
        start = as_number(fields.raw("layerscale_value"))
        if not math.isfinite(start):
            raise fields.wrong("layerscale_value", "is not a number")
        return {"layer_scale": start}

    def write(design: Design) -> dict[str, Any]:
        return {} if design.layer_scale is None else {"layerscale_value": design.layer_scale}

    return Part(read, write)


def mask_token() -> Part:
    """``use_mask_token``."""
    return Part(
        lambda fields: {"mask_token": fields.flag("use_mask_token")},
        lambda design: {"use_mask_token": design.mask_token},
    )


DINOV2 = Family(
    "dinov2",
    defaults={
        **without(vit.VIT.defaults, "intermediate_size", "pooler_output_size", "pooler_act"),
        "layer_norm_eps": 1e-6,
        "patch_size": 14,
        "mlp_ratio": 4,
        "use_swiglu_ffn": False,
        "layerscale_value": 1.0,
        "use_mask_token": True,
    },
    names={
        **without(vit.VIT.names, "ffn", "activation", "pooler_width", "pooler_activation", "dropout"),
        "embedding_dropout": "hidden_dropout_prob",
    },
    fixed=vit.VIT.fixed,
    models={
        "Dinov2ForImageClassification": {"head": "classifier", "classifier_reads": "first and mean"},
        "Dinov2Model": {"head": "none"},
    },
    noted={"drop_path_rate": (0.0, DROPPED_PATHS)},
    parts=(image_part(), _feed_forward(), _layer_scale(), mask_token()),
    weights={
        **vit.STEM_WEIGHTS,
        "embeddings.mask_token": "stem.mask_token",
        "layernorm": "encoder.norm",
        "classifier": "head.linear",
        **in_blocks(
            "encoder.layer.#",
            "encoder",
            {
                **vit.BRANCH_WEIGHTS,
                "norm1": "attention.norm_in",
                "layer_scale1.lambda1": "attention.layer_scale",
                "norm2": "feed_forward.norm_in",
                "mlp.gate_proj": "feed_forward.gate",
                "mlp.up_proj": "feed_forward.up",
                "mlp.down_proj": "feed_forward.down",
                "layer_scale2.lambda1": "feed_forward.layer_scale",
            },
        ),
    },
)
