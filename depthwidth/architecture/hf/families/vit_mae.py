"""The encoder of a masked autoencoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...design import Design
from ..family import Choices, Family, Part, without
from ..fields import Fields
from . import vit


def _hidden() -> Part:
    """``mask_ratio``, the share of the patches that are hidden; the encoder reads the others only."""

    def read(fields: Fields) -> Choices:
        ratio, sizes = fields.rate("mask_ratio"), vit.image_part().read(fields)
        if fields.whole("hidden_size") % 4:
            raise fields.wrong("hidden_size", "is not a multiple of 4, which sines and cosines of a grid need")
        rows, columns = (side // sizes["patch"] for side in sizes["image"])
        kept = int(rows * columns * (1 - ratio))
        return {"kept_patches": None if kept == rows * columns else kept}

    def write(design: Design) -> dict[str, Any]:
        if design.kept_patches is None:
            return {"mask_ratio": 0.0}
        height, width = design.image if isinstance(design.image, tuple) else (design.image, design.image)
        patches = (height // (design.patch or 1)) * (width // (design.patch or 1))
        return {"mask_ratio": 1 - (design.kept_patches + 0.5) / patches}

    return Part(read, write)


def _drawn_order(config: Mapping[str, Any]) -> str:
    """A reason why no order of the tokens is right."""
    return "" if config.get("mask_ratio", 0.75) else "its class puts the patches in an order that it draws"


VIT_MAE = Family(
    "vit_mae",
    defaults={**without(vit.VIT.defaults, "pooler_output_size", "pooler_act"), "mask_ratio": 0.75},
    names=without(vit.VIT.names, "pooler_width", "pooler_activation"),
    fixed={**vit.VIT.fixed, "patch_positions": "fixed", "embedding_dropout": 0.0},
    models={"ViTMAEModel": {"head": "none"}},
    parts=(vit.image_part(), _hidden()),
    unlike=_drawn_order,
    weights={name: role for name, role in vit.VIT.weights.items() if not str(role).startswith("head")},
    # Its class means to draw patches by Xavier's rule and the class token normally, and returns before it does.
    initial_rule="normal-zero-tables",
)
