"""The initialisation of the library transformers, by family."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from importlib.util import find_spec
from os import PathLike
from typing import Any

from ..architecture import Transformer
from ..errors import InputError, nearest, shown
from ..layers import Fixed
from .draft import Choice, Draft, TensorRule, finite_number, refuse_special, scheme
from .shipped_mixers import MIXER_FIELDS, mixer_rule, rwkv_rule
from .shipped_towers import clip_rule, siglip_rule
from .tensor_rules import WRITING, normal_rule, stated_choice
from .tensors import Weight


@scheme(
    "shipped",
    "transformers 5, `_init_weights` of each family",
    "primary; measured on small models of every family (tests/verify/models/test_initialize.py)",
)
def shipped(
    tree: Transformer,
    family: str | None = None,
    initializer_range: float | None = None,
    version: str | None = None,
    fields: Mapping[str, Any] | None = None,
) -> Draft:
    """The rule of `family`, by default that with the nearest architecture, and `initializer_range`, by default the family's.

    `version` is that of transformers, by default the installed one, or the latest known if none is installed. `fields` are
    further ones of a configuration: those of state-space mixers (:data:`~.shipped_mixers.MIXER_FIELDS`), and CLIP's
    ``initializer_factor``.
    """
    from ..architecture.hf import FAMILIES, find_family

    name = _nearest_family(tree) if family is None else family
    entry = find_family(name) if isinstance(name, str) else None
    if entry is None:
        raise InputError(f"shipped: there is no family {shown(family)}{nearest(str(family), FAMILIES)}")
    if fields is not None and not isinstance(fields, Mapping):
        raise InputError(f"shipped: fields={shown(fields)} is not a mapping")
    # The library replaces a 0 in the file by its default.
    std = finite_number("shipped", "initializer_range", initializer_range or entry.initial_std)
    numbers, meant = _version(version) if version is not None or entry.other_rules else (None, "")
    rule = entry.initial_rule_of(numbers)
    draft = Draft(tree, _rule_of(rule, tree, std, name, fields))
    draft.extras["family"] = name
    for first, after, other in entry.other_rules:
        if rule == entry.initial_rule:
            elsewhere = f"from {first} until before {after} it is {other!r}"
        else:
            elsewhere = f"before {first} and from {after} on it is {entry.initial_rule!r}"
        draft.remarks.append(f"the rule is {rule!r}, that of transformers {meant}; {elsewhere}")
    if family is None:
        draft.remarks.append(f"no family was named; the rule is that of {name}, which has the nearest architecture")
    draft.remarks.append("the padding token's row of the token table starts at zero if the configuration names a padding token")
    return draft


def _rule_of(rule: str, tree: Transformer, std: float, family: str, fields: Mapping[str, Any] | None) -> TensorRule:
    """The settings of each tensor by one of the library's rules."""
    for name in fields or ():
        if name not in _FIELDS_OF.get(rule, ()):
            known = ", ".join(_FIELDS_OF.get(rule, ())) or "none"
            raise InputError(f"shipped: the rule of {family} reads no field {shown(name)}; it reads {known}")
    if rule == "rwkv":
        return rwkv_rule(tree)
    if rule == "clip":
        return clip_rule(tree, std, finite_number(family, "initializer_factor", (fields or {}).get("initializer_factor", 1.0)))
    plain = normal_rule(tree, std, deep=_DEEP.get(rule, ()), where=f"{family}: ")
    if rule in _OF_MIXERS:
        return mixer_rule(tree, rule, plain, family, fields)
    refuse_special("shipped", tree)
    if rule in _OWN:
        return _OWN[rule](tree, std)
    if rule == "normal-doubled-gains":
        return _doubled_gains(plain)
    if rule == "normal-zero-tables":
        return _zero_tables(plain)
    if rule == "normal-by-classes":
        return _smaller_by_classes(plain, std, family)
    return _drawn_router_biases(plain, std, family) if rule == "normal-router-bias" else plain


def _version(version: str | None) -> tuple[tuple[int, ...] | None, str]:
    """The numbers of a version of transformers, by default of the installed one, and words for it."""
    from ..architecture.hf.family import version_numbers

    if version is not None:
        numbers = version_numbers(version) if isinstance(version, str) else ()
        if not numbers:
            raise InputError(f"shipped: version={shown(version)} is not a version of transformers such as '5.15'")
        return numbers, str(version)
    found = installed_version("transformers")
    if found is None:
        return None, "in its latest version known here"
    return version_numbers(found), f"{found}, which is installed"


def installed_version(package: str) -> str | None:
    """The version of an installed package; None if it is not installed.

    It stands in the name of the folder ``PACKAGE-VERSION.dist-info``. ``importlib.metadata``, whose import takes as long as
    that of click, is used only if there is no such folder, or more than one.
    """
    folders = list[str]()
    for place in sys.path:
        with suppress(OSError):  # no folder
            folders = [name for name in os.listdir(place or ".") if name.startswith(f"{package}-") and name.endswith(_FOLDER)]
        if folders:
            break
    if len(folders) == 1:
        return folders[0][len(package) + 1 : -len(_FOLDER)]
    if not folders and find_spec(package) is None:
        return None
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


_FOLDER = ".dist-info"


_DEEP = {"normal-by-depth": WRITING, "normal-attention-by-depth": ("out",)}
"""The kinds of weights that each rule of the library draws smaller the deeper the stack."""


def _zero_tables(plain: TensorRule) -> TensorRule:
    """The library starts what does not depend on the image at zero."""

    def rule(weight: Weight) -> Choice:
        if weight.kind in ("class_token", "positions", "score_bias") and not isinstance(weight.start, Fixed):
            return Choice(0.0, "zero, whatever does not depend on the image")
        return plain(weight)

    return rule


def _doubled_gains(plain: TensorRule) -> TensorRule:
    """The library sets the stored numbers of gains to one, and then adds the one that they are stored without."""

    def rule(weight: Weight) -> Choice:
        if weight.kind == "gain" and weight.tensor.offset == 1:
            return Choice(0.0, "a gain of two: stored as one, its difference from one", weight_decay=0.0, mean=1.0)
        return plain(weight)

    return rule


def _drawn_router_biases(plain: TensorRule, std: float, family: str) -> TensorRule:
    def rule(weight: Weight) -> Choice:
        if weight.mixture is not None and weight.role.endswith(".router.bias"):
            return Choice(std, f"{family}: normal, as the router's matrix", weight_decay=0.0)
        return plain(weight)

    return rule


def _smaller_by_classes(plain: TensorRule, std: float, family: str) -> TensorRule:
    def rule(weight: Weight) -> Choice:
        if weight.kind == "classifier":
            return Choice(std / math.sqrt(weight.fan_out), f"{family}: normal, over the square root of the number of classes")
        return plain(weight)

    return rule


def _nearest_family(tree: Transformer) -> str:
    """The family with the architecture nearest to that of a tree."""
    stem, first = tree.stem, tree.stack.first
    if stem.images:
        return "vit"
    attention, feed_forward = first("as_attention"), first("as_feed_forward")
    if tree.stack.position is not None and attention is not None and attention.scale == 1.0:
        return "t5"
    if tree.kind != "decoder":
        return "bert"
    gated = feed_forward is not None and feed_forward.gated
    plain = stem.learned_positions and not gated and first("as_mixture") is None
    return "gpt2" if plain else "llama"


def shipped_options(config: Mapping[str, Any] | str | PathLike[str]) -> dict[str, Any]:
    """The options for which ``recipe(tree, "shipped")`` equals the initialisation of transformers for a configuration.

    Raises
    ------
    InputError
        if the configuration cannot be read.

    >>> shipped_options({"model_type": "opt", "init_std": 0.006})
    {'family': 'opt', 'initializer_range': 0.006}
    """
    from ..architecture.hf import find_family, read_design, read_source, text_part

    fields = text_part(config if isinstance(config, Mapping) else read_source(config))
    read_design(fields)  # a broken file gets a sentence about its fault
    family = find_family(fields["model_type"])
    table, name = ({}, "") if family is None else _stated(fields, family.initial_field)
    given = table.get(name)
    std = None if given is None else finite_number("config", name, given, closed=True)
    options: dict[str, Any] = {"family": fields["model_type"], "initializer_range": std}
    known = () if family is None else _FIELDS_OF.get(family.initial_rule, ())
    own = {name: fields[name] for name in known if fields.get(name) is not None}
    return options | ({"fields": own} if own else {})


def _stated(fields: Mapping[str, Any], path: str) -> tuple[Mapping[str, Any], str]:
    """The table of a configuration that holds a field, and the field's own name; `path` may be ``stack.name``.

    The library asks every configuration for ``initializer_range`` before ``init_std``.
    """
    stack, _, name = path.rpartition(".")
    if name == "init_std" and fields.get("initializer_range") is not None:
        name = "initializer_range"
    inner = fields.get(stack) if stack else fields
    return (inner if isinstance(inner, Mapping) else {}), name


def _t5_rule(tree: Transformer, factor: float) -> TensorRule:
    """T5's rule; scores have no 1/sqrt(head_dim), for which the standard deviation of the query compensates."""

    def rule(weight: Weight) -> Choice:
        if weight.kind == "gain":
            return Choice(0.0, "t5: a gain equal to the factor", weight_decay=0.0, mean=factor)
        if weight.kind == "query":
            attention = weight.owner.as_attention
            per_head = 1 if attention is None else attention.head_dim
            return Choice(factor / math.sqrt(weight.fan_in * per_head), "t5: factor / sqrt(width head_dim)")
        labels = weight.kind == "classifier" and tree.decoder is None  # of tokens; that of answers has fan-in
        if weight.kind in ("tokens", "unembedding") or labels:
            return Choice(factor, "t5: the factor itself")
        if weight.kind == "score_bias":
            return Choice(factor / math.sqrt(tree.width), "t5: factor / sqrt(width)", weight_decay=0.0)
        if weight.kind == "router":
            return Choice(factor, "switch: the factor itself")
        if weight.kind == "down" and weight.mixture is not None:
            return Choice(factor / math.sqrt(tree.width), "switch: factor / sqrt(width), whatever the experts' own width")
        return stated_choice(weight) or Choice(factor / math.sqrt(weight.fan_in), "t5: factor / sqrt(fan-in)")

    return rule


_CUT = math.sqrt(1 - 4 * math.exp(-2) / math.sqrt(2 * math.pi) / math.erf(math.sqrt(2)))
"""Standard deviation of a normal variable that is cut at two standard deviations, in units of the latter."""


def _modernbert_rule(tree: Transformer, std: float) -> TensorRule:
    """ModernBERT's rule: matrices that write to the stream, and the transform of a head, are smaller by the depth."""
    deep = 1 / math.sqrt(2 * tree.depth)

    def rule(weight: Weight) -> Choice:
        plain = stated_choice(weight)
        if plain is not None:
            return plain
        if weight.kind in WRITING or weight.kind in ("transform", "pooler", "unembedding"):
            return Choice(_CUT * std * deep, "modernbert: normal, cut at two standard deviations, over sqrt(2 depth)")
        if weight.kind == "classifier":
            return Choice(_CUT / math.sqrt(tree.width), "modernbert: 1/sqrt(width), cut at two standard deviations")
        return Choice(_CUT * std, "modernbert: normal, cut at two standard deviations")

    return rule


_OF_MIXERS = ("mamba", "mamba2", "jamba", "nemotron_h", "state-space", "gated-delta")
"""The rules for mixers; every other tensor has the plain one."""
_FIELDS_OF: dict[str, Collection[str]] = {**dict.fromkeys(_OF_MIXERS, MIXER_FIELDS), "clip": ("initializer_factor",)}
"""The fields of a configuration that each rule reads beyond the one that states its standard deviation."""
_OWN = {"t5": _t5_rule, "modernbert": _modernbert_rule, "siglip": siglip_rule}
"""The rules that differ between matrices otherwise than by depth, as functions of the tree and the standard deviation."""
