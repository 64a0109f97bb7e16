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
from .fields import NoTreeError, brief
from .meta import is_params, llama_of
from .sources import NoConfigError, SourcedFields, read_source, source_notes
from .text_parts import TEXT_PARTS, TEXT_STACKS, by_family, text_fields
from .towers import Towers, read_towers
from .writing import as_config

__all__ = [
    "FAMILIES",
    "NoConfigError",
    "NoTreeError",
    "SourcedFields",
    "Towers",
    "as_fields",
    "families",
    "find_family",
    "read_config",
    "read_design",
    "read_source",
    "read_towers",
    "register_family",
    "source_notes",
    "write_config",
]


def families() -> list[str]:
    """The model types that can be read and written, those of installed plug-ins included.

    >>> "llama" in families()
    True
    """
    _add_plugins()
    return sorted(FAMILIES)


def register_family(family: Family) -> Family:
    """Register a family by its model type; a later registration replaces an earlier one.

    Raises
    ------
    InputError
        if it is not a :class:`~depthwidth.architecture.hf.family.Family`.
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


def as_fields(config: Any) -> Mapping[str, Any]:
    """The fields of a configuration: a mapping, an object of transformers, or a source of :func:`read_source`.

    Raises
    ------
    InputError
        if the file cannot be read, or the object has no fields.
    """
    if isinstance(config, Mapping):
        return config
    to_dict = getattr(config, "to_dict", None)
    if not callable(to_dict) or isinstance(config, type):
        return read_source(config)
    found = to_dict()
    if not isinstance(found, Mapping):
        raise InputError(f"config: to_dict() of {brief(config)} is not a mapping")
    return found


def read_design(config: Mapping[str, Any] | str | PathLike[str]) -> Design:
    """The design of a configuration: a mapping, a ``config.json`` file, a folder with one, or an object of transformers.

    Raises
    ------
    InputError
        if the file cannot be read, the model type is unknown, or a field is invalid; a :class:`NoTreeError` if the
        configuration may be valid but no tree describes it.

    Examples
    --------
    >>> read_design({"model_type": "gpt2", "n_layer": 24}).depth
    24
    """
    config = text_part(as_fields(config))
    model_type = config.get("model_type")
    family = find_family(model_type) if isinstance(model_type, str) else None
    if family is None:
        known = _known_families()
        if model_type is None:
            raise InputError(f"config: model_type is missing; {known}")
        if not isinstance(model_type, str):
            raise InputError(f"config: model_type={brief(model_type)} is not a supported family; {known}")
        hint = _nearest_family(model_type)
        raise NoTreeError(f"config: model_type={brief(model_type)} is not a supported family", f"{hint}; {known}")
    return family.design(config)


def text_part(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration of the text stack inside a model of several kinds of input; any other configuration unchanged.

    Of a model of two towers it is the tower for texts. The stack of any other has a language head, tied if the file says so at
    its top level or in this part. A ``text_config`` without a model type has that of :data:`~.text_parts.TEXT_PARTS`; a model
    type that is another's name has that of :data:`OTHER_NAMES` or :data:`~.text_parts.TEXT_STACKS`. Meta's ``params.json`` is
    a Llama (:mod:`.meta`).

    >>> text_part({"model_type": "gemma3", "text_config": {"hidden_size": 640}})["model_type"]
    'gemma3_text'
    """
    if is_params(config):
        return llama_of(config)
    towers = read_towers(config)
    if towers is not None:
        return towers.configs["text"]
    model_type, inner = config.get("model_type"), text_fields(config)
    if isinstance(model_type, str) and model_type in OTHER_NAMES:
        return {**config, "model_type": OTHER_NAMES[model_type]}
    if isinstance(model_type, str) and model_type in TEXT_STACKS:  # saved on its own, by a class without a head
        headless = {"architectures": [_headless(TEXT_STACKS[model_type].family)]} if config.get("architectures") else {}
        return by_family(model_type, {**config, **headless})
    if not isinstance(model_type, str) or find_family(model_type) is not None or inner is None:
        return config
    inner_type = inner.get("model_type", TEXT_PARTS.get(model_type))
    inner_type = OTHER_NAMES.get(inner_type, inner_type) if isinstance(inner_type, str) else inner_type
    if not isinstance(inner_type, str) or find_family(by_family(inner_type, {})["model_type"]) is None:
        return config
    own = {name: value for name, value in inner.items() if name not in ("architectures", "model_type")}
    if isinstance(config.get("tie_word_embeddings"), bool) and own.get("tie_word_embeddings") is not True:
        own["tie_word_embeddings"] = config["tie_word_embeddings"]
    return by_family(inner_type, own)


def _headless(model_type: str) -> str:
    """The class of a family that has no head."""
    return next(name for name, choices in FAMILIES[model_type].models.items() if choices["head"] == "none")


OTHER_NAMES = {"kimi_k2": "deepseek_v3"}
"""The family of models whose type is that of code of their own, which transformers has under another name."""


def notes_on(config: Mapping[str, Any]) -> list[str]:
    """Notes on a configuration: the parts left out of its tree, one sentence each.

    >>> notes_on({"model_type": "gpt2"})
    []
    """
    part, towers = text_part(config), read_towers(config)
    found = list(source_notes(config))
    if is_params(config):
        found.append("params.json does not state the context, which is taken to be that of the library's Llama, 2048 tokens")
    elif towers is not None:
        found.append(
            f"this is the tower for texts of a {towers.model_type} model; that for images is a configuration of its own, "
            f"vision_config with the model_type {towers.configs['vision']['model_type']!r}"
        )
    elif part is not config and config.get("model_type") not in (*OTHER_NAMES, *TEXT_STACKS):
        place = ", its text_config," if config.get("text_config") is not None else ""
        found.append(
            f"this is the text stack of a {config['model_type']} model{place} with a language head; the rest of the "
            f"model is not counted{_vision_words(config.get('vision_config'))}"
        )
    family = find_family(str(part.get("model_type")))
    if family is not None and (named := _lone_decoder(family, part)):
        found.append(f"{named} is a decoder alone: the weights of its cross-attention are counted, and it has nothing to read")
    for name, (usual, sentence) in ({} if family is None else family.noted).items():
        if part.get(name) not in (usual, None, False):
            found.append(f"{name}={brief(part[name])}: {sentence}")
    return found


def _lone_decoder(family: Family, config: Mapping[str, Any]) -> str:
    """The class that a configuration names, if it is that of a decoder without its encoder; empty for any other."""
    named = config.get("architectures")
    first = str(named[0]) if isinstance(named, (list, tuple)) and named else next(iter(family.models))
    crosses = "add_cross_attention" in family.defaults and config.get("add_cross_attention") is True
    return first if crosses or family.models.get(first, {}).get("lone_decoder") else ""


def _vision_words(config: Any) -> str:
    """Words on the tower for images of a model of images and texts, if its family is known."""
    model_type = config.get("model_type") if isinstance(config, Mapping) else None
    family = find_family(model_type) if isinstance(model_type, str) else None
    if family is None:
        return ""
    try:
        bare = (name for name, choices in family.models.items() if choices.get("head") != "classifier")
        tree = Transformer.of_design(family.design({**config, "architectures": [next(bare, None)]}))
    except InputError:
        return ""
    return f", of which its tower for images, a {model_type}, has {tree.parameters:,} parameters" if tree.stem.images else ""


_FEW = 60
"""Families that one sentence can name."""


def _known_families() -> str:
    """Words on the families that can be read."""
    known = families()
    return f"known are {', '.join(known[:_FEW])}" + (f" and {len(known) - _FEW} more" if len(known) > _FEW else "")


def _nearest_family(word: str) -> str:
    """The hint at the family most like `word`: the text part of a model of several kinds of input before any other."""
    longer = sorted(name for name in FAMILIES if name.startswith(f"{word}_"))
    return nearest(longer[0] if longer else word, FAMILIES)


def read_config(config: Mapping[str, Any] | str | PathLike[str]) -> Transformer:
    """The tree of a configuration: a mapping, a ``config.json`` file, a folder with one, or an object of transformers.

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
        hint = _nearest_family(family) if isinstance(family, str) else ""
        raise InputError(f"there is no family {brief(family)}{hint}; {_known_families()}")
    return as_config(tree, found)
