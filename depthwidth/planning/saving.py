"""A planned model as files: a configuration that transformers loads, and the recipe of its initialisation next to it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..architecture import Transformer
from ..errors import InputError, shown

_FAMILIES = {"gpt3": "gpt2", "llama2": "llama", "llama3": "llama", "mixtral": "mixtral", "vit": "vit"}
"""The family that holds a preset's models."""
_OF_WEIGHTS = frozenset(("_name_or_path", "_commit_hash", "auto_map", "quantization_config", "transformers_version"))
"""Fields that describe trained weights or their files; a plan has neither."""


def family_of_preset(architecture: str) -> str:
    """The Hugging Face family that holds the models of a preset; another name is that of a family."""
    return _FAMILIES.get(architecture, architecture)


def save_model(
    tree: Transformer,
    architecture: str,
    path: str | os.PathLike[str],
    scheme: str = "shipped",
    source: Mapping[str, Any] | None = None,
) -> tuple[Path, Path]:
    """Write a configuration to `path`, and the recipe to a file in the same folder: ``config.recipe.json`` for ``config.json``.

    Parameters
    ----------
    tree : the model.
    architecture : a preset, or the model type of a configuration.
    path : a file whose name ends in ``.json``.
    scheme : the initialisation scheme of the recipe.
    source : a configuration of that family, whose fields are kept (the start of its weights, ids of special tokens, ...) unless
        the model would be another with them.

    Returns
    -------
    Both paths.

    Raises
    ------
    InputError
        if no family of this architecture can express the model, the scheme is unknown, or a file cannot be written.
    """
    from ..architecture.hf import write_config
    from ..files import open_whole
    from ..initialization import recipe, shipped_options

    target = Path(path)
    if target.suffix != ".json":
        raise InputError(f"save: {shown(str(path))} does not end in .json")
    config = with_fields_of(source or {}, write_config(tree, family_of_preset(architecture)), tree)
    options = shipped_options(config) if scheme == "shipped" else {}
    made = recipe(tree, scheme, **options).to_dict(tree)
    beside = target.with_suffix(".recipe.json")
    for file, data in ((target, config), (beside, made)):
        try:
            with open_whole(file) as opened:
                opened.write(_text(data).encode())
        except OSError as error:
            raise InputError(f"save: {shown(str(file))} cannot be written ({error.strerror})") from None
    return target, beside


def with_fields_of(source: Mapping[str, Any], config: Mapping[str, Any], tree: Transformer) -> dict[str, Any]:
    """A configuration of a tree with those fields of another of its family under which it still describes the tree.

    Left out are lists with an entry a layer of the other, ids of tokens beyond the vocabulary, and fields of trained weights.
    """
    found = dict(config)
    if source.get("model_type") != config.get("model_type"):
        return found
    depths = {source.get(name) for name in _DEPTHS} - {None, tree.depth}
    for name, value in source.items():
        per_layer = isinstance(value, (list, tuple)) and len(value) in depths
        if name in _OF_WEIGHTS or per_layer or _beyond(name, value, tree.vocab) or found.get(name, ...) == value:
            continue
        changed = {**found, name: value}
        try:
            if Transformer.from_config(changed) == tree:
                found = changed
        except InputError:  # the field belongs to the other shape
            continue
    return found


_DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def _beyond(name: str, value: Any, vocab: int | None) -> bool:
    """True for the id of a token that a vocabulary does not hold, or for a list with one."""
    ids = value if isinstance(value, (list, tuple)) else [value]
    return name.endswith("token_id") and any(isinstance(one, int) and one >= (vocab or 0) for one in ids)


def _text(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2) + "\n"
