# mypy: disable-error-code="no-any-return"
"""Models of the transformers library as our modules, with their weights: the same logits.

The library's weight names, and the settings that its logits need beyond the tree, are those of its
:class:`~depthwidth.architecture.hf.family.Family`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from depthwidth.architecture import Transformer
from depthwidth.architecture.hf import FAMILIES, read_towers
from depthwidth.architecture.hf.family import Family
from depthwidth.errors import InputError
from depthwidth.initialization import parameters

from .base import set_multiplier
from .locate import family_of, locate, tree_of, unwrap
from .model import Model, build
from .towers import TwoTowers


def from_hf(model: nn.Module) -> Model | TwoTowers:
    """Our module with the weights of a transformers model: equal logits on equal inputs without padding.

    Parameters
    ----------
    model : a model of the transformers library, of any family that :mod:`depthwidth.architecture.hf` reads. It is not changed.

    Returns
    -------
    A :class:`~verify.models.model.Model` on the same device, in the same precision and mode, with copies of the weights. Its
    output is the library's ``logits``; without a head, the last hidden state or the pooler's output. Of a model of two towers
    it is a :class:`~verify.models.towers.TwoTowers`, whose output is the library's ``logits_per_image``.

    Raises
    ------
    InputError
        if the family is unknown, the model has no weights yet, or the module of its tree has other logits.

    Notes
    -----
    Positions count from the first token of a sequence. A model that skips padding tokens (RoBERTa) takes inputs without them.
    In training mode a few of the library's dropouts that the tree does not hold, such as a classifier's, are absent.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> theirs = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=50, n_positions=16)).eval()
    >>> ours, tokens = from_hf(theirs), torch.arange(16)[None]
    >>> bool((ours(tokens) - theirs(tokens).logits).abs().max() < 1e-5)
    True
    """
    inner = unwrap(model)
    if next(inner.parameters()).is_meta:
        raise InputError(f"{type(inner).__name__} has no weights yet to copy: give it a device first")
    if towers := _towers_of(inner):
        return towers
    family = family_of(inner)
    config = {} if family is None else inner.config.to_dict()
    reason = "" if family is None or family.unlike is None else family.unlike(config)
    if reason:
        name = type(inner).__name__
        raise InputError(f"from_hf: the logits of this {name} are not those of its tree's module: {reason}")
    return _copied(inner, _live_tree(inner), family, config)


def _towers_of(model: nn.Module) -> TwoTowers | None:
    """Both towers of a model; None for any other model."""
    config = getattr(model, "config", None)
    fields = config.to_dict() if config is not None and hasattr(config, "to_dict") else {}
    towers = read_towers({**fields, "architectures": [type(model).__name__]})
    if towers is None:
        return None
    trees, made = towers.trees, {}
    for name, own in towers.configs.items():
        part, family = nn.Module(), FAMILIES[own["model_type"]]
        for module in towers.modules[name]:
            part.add_module(module, model.get_submodule(module))
        part.base_model_prefix, part.training = towers.modules[name][0], model.training
        made[name] = _copied(part, trees[name], family, own)
    joint = {name: value.detach().clone() for name, value in model.named_parameters(recurse=False)}
    return TwoTowers(**made, **joint).train(model.training)


def _copied(inner: nn.Module, tree: Transformer, family: Family | None, config: Mapping[str, Any]) -> Model:
    """Our module of a `tree` with the weights of the library's module of a `config`."""
    first = next(inner.parameters())
    ours = build(tree, dtype=first.dtype, device="meta").to_empty(device=first.device)
    named = dict(ours.named_parameters())
    home = {(role, block): name for name, role, block, _ in parameters(tree)}
    theirs = dict(inner.named_parameters())
    with torch.no_grad():
        for name, slices in locate(inner, tree, None if family is None else family.weights).items():
            value = theirs[name].detach()
            if type(inner.get_submodule(name.rpartition(".")[0])).__name__ == "Conv1D" and value.dim() == 2:
                slices = [one._replace(view=_transpose(one.view)) for one in slices]  # stored as (inputs, outputs)
            for one in slices:
                place = named[home[one.role, one.block]]
                place = place if one.copy is None else place[one.copy]
                place.copy_(one.view(value).reshape(place.shape))
        _copy_buffers(ours, inner, family)
    if family is not None:
        for name, place in family.buffers.items():
            _copy_buffer(ours, place, inner, name)
        _check_pairs(ours, family)
        _apply_settings(ours, family, config)
        factors = {} if family.factors is None else family.factors(config)
        for (role, _), name in home.items():
            if role in factors:
                place, _, tensor = name.rpartition(".")
                set_multiplier(ours.get_submodule(place), tensor, factors[role])
    return ours.train(inner.training)


def _transpose(view: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: view(tensor).T


def _live_tree(model: nn.Module) -> Transformer:
    """The tree of the live model, which differs from the configuration's for T5: its class always ties the head."""
    tree = tree_of(model)
    head: Any = tree.head
    unembedding = getattr(head, "unembedding", None)
    if unembedding is None or not hasattr(model, "get_output_embeddings"):
        return tree
    if sum(parameter.numel() for parameter in model.parameters()) == tree.parameters:
        return tree  # DeBERTa's newer head names another matrix as that of its output
    output = model.get_output_embeddings()
    every = list(model.named_parameters(remove_duplicate=False))
    tied = output is not None and sum(parameter is output.weight for _, parameter in every) > 1
    return tree if tied == unembedding.tied else tree.replace(head=head.replace(unembedding=unembedding.replace(tied=tied)))


def _copy_buffers(ours: Model, theirs: nn.Module, family: Family | None) -> None:
    """Copy the buffers of our modules, by the names that the family has for them."""
    found = dict(theirs.named_buffers())
    names = {role: name for name, role in ({} if family is None else family.weights).items() if isinstance(role, str)}
    prefix = f"{getattr(theirs, 'base_model_prefix', '')}."
    for name, buffer in ours.named_buffers():
        block = re.search(r"\.(\d+)\.", name)
        role = re.sub(r"\.\d+\.", ".", name, count=1)
        other = names.get(role, "").replace("#", block[1] if block else "#")
        value = found.get(f"{prefix}{other}", found.get(other))
        if value is None:
            raise InputError(f"{type(theirs).__name__} has no buffer for {name}")
        buffer.copy_(value)


def _copy_buffer(ours: Model, place: str, theirs: nn.Module, name: str) -> None:
    """Copy numbers of a model that are not parameters; a model without a head has none for it."""
    owner, _, attribute = place.rpartition(".")
    if name in dict(theirs.named_buffers()):
        setattr(ours.get_submodule(owner), attribute, theirs.get_buffer(name).detach().flatten().clone())


def _apply_settings(ours: Model, family: Family, config: Mapping[str, Any]) -> None:
    """Set the family's settings on each module with an attribute for them."""
    for part in ours.modules():
        for name, attribute in getattr(part, "settings", {}).items():
            if name in family.settings:
                setattr(part, attribute, family.setting(name, config))


def _check_pairs(ours: Model, family: Family) -> None:
    """Refuse rotations of an odd number of dimensions if the library's code fails on them."""
    for part in ours.modules() if family.even_rotation else ():
        position, heads = getattr(part, "position", None), getattr(part, "layer", None)
        if position is None or heads is None:
            continue  # the positions of a stack are score biases
        latent = getattr(heads, "latent", None)  # whose heads have a part that is rotated, and another
        turned = position.rotated(heads.head_dim if latent is None else latent.rotary)
        if turned % 2:
            raise InputError(f"from_hf: this model rotates {turned} dimensions of a head, which the library's code cannot pair")
