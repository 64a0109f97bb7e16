# mypy: disable-error-code="no-any-return"
"""The parameters of a live model, ours or the transformers library's, and the tensors of a tree that they hold."""

from __future__ import annotations

import re

from torch import nn

from depthwidth.architecture import Transformer
from depthwidth.architecture.hf import find_family
from depthwidth.architecture.hf.family import Family
from depthwidth.architecture.hf.text_parts import by_family
from depthwidth.architecture.hf.weights import WeightNames
from depthwidth.errors import InputError, nearest
from depthwidth.initialization.named_tensors import Slice, named_tensors
from depthwidth.initialization.tensors import parameters, site_of

WRAPPERS = re.compile(r"(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\.|^module\.")
"""The prefixes that compilers and data-parallel wrappers add to a parameter's name."""


def unwrap(model: nn.Module) -> nn.Module:
    """The model without the wrappers of ``torch.compile`` and data parallelism."""
    while True:
        inner = getattr(model, "_orig_mod", None) or (getattr(model, "module", None) if not hasattr(model, "config") else None)
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def family_of(model: nn.Module) -> Family | None:
    """The Hugging Face family of a model, by its ``config.model_type``; None for a model without one."""
    model_type = getattr(getattr(unwrap(model), "config", None), "model_type", None)
    return find_family(by_family(model_type, {})["model_type"]) if isinstance(model_type, str) else None


def tree_of(model: nn.Module) -> Transformer:
    """The tree of a model of :func:`verify.build`, or of the transformers library.

    Raises
    ------
    InputError
        if the model has no configuration, or one that cannot be read.
    """
    inner = unwrap(model)
    tree = getattr(inner, "tree", None)
    if isinstance(tree, Transformer):
        return tree
    config = getattr(inner, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        raise InputError(f"{type(inner).__name__} has no configuration from which to read its tree: pass tree=")
    fields = {**config.to_dict(), "architectures": [type(inner).__name__]}
    if fields.get("sliding_window") == 0:  # the library's configuration of a model without windows
        fields["sliding_window"] = None
    return Transformer.from_config(fields)


def locate(model: nn.Module, tree: Transformer, names: WeightNames | None = None) -> dict[str, list[Slice]]:
    """The tensors of `tree` that each parameter of `model` holds.

    Parameters
    ----------
    model : any module; its parameters have the tree's names, or those of `names`.
    tree : the model's tree.
    names : weight names as in :mod:`depthwidth.architecture.hf.weights`; by default those of the model's family.

    Raises
    ------
    InputError
        if a parameter has no role, a tensor of the tree has no parameter, or their sizes differ.
    """
    inner = unwrap(model)
    if names is None:
        family = family_of(inner)
        names = {} if family is None else family.weights
    prefix = f"{getattr(inner, 'base_model_prefix', '')}."
    found: dict[str, list[Slice]] = {}
    arrays, full = {}, {}
    for name, parameter in model.named_parameters():
        plain = WRAPPERS.sub("", name)
        if plain.endswith(".alpha") and hasattr(inner, "apply_multipliers"):
            found[name] = []  # a trainable residual scale of ReZero's, which the tree does not have
        else:
            arrays[plain], full[plain] = parameter, name
    named = named_tensors(arrays, tree, names, prefix)
    kind = type(inner).__name__
    if named.strangers:
        plain = named.strangers[0]
        own = [site for site, *_ in parameters(tree)]
        raise InputError(f"there is no weight name for {full[plain]} of {kind}{nearest(plain, own)}")
    if named.missing:
        raise InputError(f"{kind} has no parameter for {site_of(*named.missing[0])}")
    return found | {full[plain]: slices for plain, slices in named.found.items()}
