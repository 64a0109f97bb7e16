"""Hugging Face configurations: from a ``config.json`` to a tree, and back.

The transformers library is neither needed nor run: a configuration is data, and :mod:`.families` has a file for each family or
for a few related ones. ``auto_map`` and similar fields are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from ...errors import InputError, nearest
from ...plugins import plugins
from ..design import Design
from ..transformer import Transformer
from .families import FAMILIES
from .family import Family
from .fields import brief
from .files import read_json
from .writing import as_config

__all__ = ["FAMILIES", "families", "find_family", "read_config", "read_design", "read_json", "register_family", "write_config"]


def families() -> list[str]:
    """The model types that can be read and written, those of installed plug-ins included.

    >>> "llama" in families()
    True
    """
    _add_plugins()
    return sorted(FAMILIES)


def register_family(family: Family) -> Family:
    """Make a family known by its model type; a later registration replaces an earlier one.

    Raises
    ------
    InputError
        if it is no :class:`~depthwidth.architecture.hf.family.Family`.
    """
    if not isinstance(family, Family):
        raise InputError(f"register_family: {brief(family)} is not a Family")
    FAMILIES[family.model_type] = family
    return family


def find_family(model_type: str) -> Family | None:
    """The family of this model type, of the library or of an installed plug-in; None if there is none."""
    if model_type not in FAMILIES:
        _add_plugins()
    return FAMILIES.get(model_type)


def _add_plugins() -> None:
    for _, family in plugins("depthwidth.families"):
        if getattr(family, "model_type", None) not in FAMILIES:
            register_family(family)


def read_design(config: Mapping[str, Any] | str | PathLike[str]) -> Design:
    """The design of a configuration: a mapping, a ``config.json`` file, or a folder with one.

    Raises
    ------
    InputError
        if the file cannot be read, the model type is unknown, or a field makes no sense.

    Examples
    --------
    >>> read_design({"model_type": "gpt2", "n_layer": 24}).depth
    24
    """
    if not isinstance(config, Mapping):
        config = read_json(config)
    model_type = config.get("model_type")
    family = find_family(model_type) if isinstance(model_type, str) else None
    if family is None:
        known = f"known are {', '.join(families())}"
        if model_type is None:
            raise InputError(f"config: model_type is missing; {known}")
        hint = nearest(model_type, FAMILIES) if isinstance(model_type, str) else ""
        raise InputError(f"config: model_type={brief(model_type)} is not a family this can read{hint}; {known}")
    return family.design(config)


def read_config(config: Mapping[str, Any] | str | PathLike[str]) -> Transformer:
    """The tree of a configuration: a mapping, a ``config.json`` file, or a folder with one.

    Raises
    ------
    InputError
        if the file cannot be read, the model type is unknown, or a field makes no sense.

    Examples
    --------
    >>> read_config({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}).parameters
    6738415616
    """
    return Transformer.of_design(read_design(config))


def write_config(tree: Transformer, family: str) -> dict[str, Any]:
    """A configuration of `family` that describes `tree`; :func:`read_config` gives back an equal tree.

    Raises
    ------
    InputError
        if the family is unknown, or cannot express the tree; the sentence names the first part that it cannot express.

    Examples
    --------
    >>> write_config(Transformer(depth=2, width=64, heads=4), "llama")
    Traceback (most recent call last):
    depthwidth.errors.InputError: llama cannot express stem.positions=LearnedPositions, which it would read back as None
    """
    found = find_family(family) if isinstance(family, str) else None
    if found is None:
        hint = nearest(family, FAMILIES) if isinstance(family, str) else ""
        raise InputError(f"there is no family {brief(family)}{hint}; known are {', '.join(families())}")
    return as_config(tree, found)
