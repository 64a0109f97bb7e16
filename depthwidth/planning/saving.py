"""A planned model as files: a configuration that transformers loads, and the recipe of its initialisation beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..architecture import Transformer
from ..errors import InputError, shown

_FAMILIES = {"gpt3": "gpt2", "llama2": "llama", "llama3": "llama", "mixtral": "mixtral", "vit": "vit"}
"""The family that holds a preset's models."""


def save_model(
    tree: Transformer, architecture: str, path: str | os.PathLike[str], scheme: str = "shipped"
) -> tuple[Path, Path]:
    """Write a configuration to `path`, and the recipe to a file beside it: ``config.recipe.json`` beside ``config.json``.

    Parameters
    ----------
    tree : the model.
    architecture : a preset, or the model type of a configuration.
    path : a file whose name ends in ``.json``.
    scheme : the initialisation scheme of the recipe.

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
    config = write_config(tree, _FAMILIES.get(architecture, architecture))
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


def _text(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2) + "\n"
