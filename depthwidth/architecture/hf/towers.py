"""Models of two towers, one for images and one for texts: a tree for each, and the weights that belong to neither."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import InputError
from ...values import frozen
from ..transformer import Transformer
from .families import FAMILIES
from .fields import NoTreeError, brief
from .sources import read_source


@frozen
class Kind:
    """A ``model_type`` of two towers."""

    model: str
    """The class of the whole model."""
    classes: Mapping[str, tuple[str, str]]
    """The family and the class of each tower, ``text`` and ``vision``."""
    modules: Mapping[str, tuple[str, ...]]
    """The modules of the whole model that make up each tower."""
    shared: tuple[str, ...] = ()
    """Fields of the whole model that replace those of both towers."""
    joint: int = 0
    """Weights outside both towers."""
    words: str = ""
    """These weights in words."""


KINDS = {
    "clip": Kind(
        "CLIPModel",
        {
            "text": ("clip_text_model", "CLIPTextModelWithProjection"),
            "vision": ("clip_vision_model", "CLIPVisionModelWithProjection"),
        },
        {"text": ("text_model", "text_projection"), "vision": ("vision_model", "visual_projection")},
        shared=("projection_dim",),
        joint=1,
        words="the factor on the similarity of an image and a text",
    ),
    "siglip": Kind(
        "SiglipModel",
        {
            "text": ("siglip_text_model", "SiglipTextModel"),
            "vision": ("siglip_vision_model", "SiglipVisionModel"),
        },
        {"text": ("text_model",), "vision": ("vision_model",)},
        joint=2,
        words="the factor on the similarity of an image and a text, and a bias",
    ),
}
"""The models of two towers by ``model_type``."""
_DEFAULTS = {"projection_dim": 512}


@frozen
class Towers:
    """A model of two towers."""

    model_type: str
    configs: Mapping[str, Mapping[str, Any]]
    """The configuration of each tower alone, ``text`` and ``vision``."""
    modules: Mapping[str, tuple[str, ...]]
    """The modules of the library's model that make up each tower."""
    joint: int
    """Weights outside both towers."""
    words: str
    """These weights in words."""

    @property
    def trees(self) -> dict[str, Transformer]:
        """The tree of each tower."""
        return {
            name: Transformer.of_design(FAMILIES[config["model_type"]].design(config)) for name, config in self.configs.items()
        }

    @property
    def parameters(self) -> int:
        """Number of weights of the whole model."""
        return self.joint + sum(tree.parameters for tree in self.trees.values())


def read_towers(config: Mapping[str, Any] | Any) -> Towers | None:
    """The two towers of a configuration: a mapping, a ``config.json`` file, or its folder; None for any other model.

    Raises
    ------
    InputError
        if the file cannot be read, or a tower's configuration is no object; a :class:`NoTreeError` if its first class is not
        that of the whole model.

    Examples
    --------
    >>> clip = read_towers({"model_type": "clip"})
    >>> {name: tree.parameters for name, tree in clip.trees.items()}, clip.parameters
    ({'text': 63428096, 'vision': 87849216}, 151277313)
    """
    fields = config if isinstance(config, Mapping) else read_source(config)
    model_type = fields.get("model_type")
    kind = KINDS.get(model_type) if isinstance(model_type, str) else None
    if kind is None or not isinstance(model_type, str):
        return None
    named = fields.get("architectures") or [kind.model]
    if named != [kind.model]:
        raise NoTreeError(f"{model_type} config: architectures={brief(named)}", f" is not supported, only {kind.model}")
    shared = {name: fields.get(name) or _DEFAULTS[name] for name in kind.shared}
    configs = {}
    for name, (family, model) in kind.classes.items():
        own = fields.get(f"{name}_config_dict") or fields.get(f"{name}_config") or {}
        if not isinstance(own, Mapping):
            raise InputError(f"{model_type} config: {name}_config={brief(own)} is not an object")
        configs[name] = {**own, "model_type": family, "architectures": [model], **shared}
    return Towers(model_type, configs, kind.modules, kind.joint, kind.words)
