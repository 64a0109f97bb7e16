# mypy: disable-error-code="no-any-return"
"""Models of the transformers library as our modules, with their weights: the same logits.

The library's weight names, and the settings that its logits need beyond the tree, are those of its
:class:`~depthwidth.architecture.hf.family.Family`. Stretched rotary positions are copied from the live model's own tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from depthwidth.architecture import Transformer
from depthwidth.architecture.hf.family import Family
from depthwidth.errors import InputError, shown
from depthwidth.initialization import parameters

from .locate import family_of, locate, tree_of, unwrap
from .model import Model, build


def from_hf(model: nn.Module) -> Model:
    """Our module with the weights of a transformers model: equal logits on equal inputs without padding.

    Parameters
    ----------
    model : a model of the transformers library, of any family that :mod:`depthwidth.architecture.hf` reads. It is not changed.

    Returns
    -------
    A :class:`~verify.models.model.Model` on the same device, in the same precision and mode, with copies of the weights. Its
    output is the library's ``logits``; without a head, the last hidden state or the pooler's output.

    Raises
    ------
    InputError
        if the family is unknown, the model has no weights yet, or its kind of rope scaling is not one that the tests compare.

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
    tree, family = _live_tree(inner), family_of(inner)
    first = next(inner.parameters())
    if first.is_meta:
        raise InputError(f"{type(inner).__name__} has no weights yet to copy: give it a device first")
    ours = build(tree, dtype=first.dtype, device="meta").to_empty(device=first.device)
    named = dict(ours.named_parameters())
    home = {(role, block): name for name, role, block, _ in parameters(tree)}
    theirs = dict(inner.named_parameters())
    with torch.no_grad():
        for name, slices in locate(inner, tree, unused=_unused(theirs, family)).items():
            value = theirs[name].detach()
            if type(inner.get_submodule(name.rpartition(".")[0])).__name__ == "Conv1D" and value.dim() == 2:
                slices = [one._replace(view=_transpose(one.view)) for one in slices]  # stored as (inputs, outputs)
            for one in slices:
                place = named[home[one.role, one.block]]
                place.copy_(one.view(value).reshape(place.shape))
    if family is not None:
        _stretch_positions(ours, inner, family)
        _apply_settings(ours, family, inner.config.to_dict())
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
    output, table = model.get_output_embeddings(), model.get_input_embeddings()
    tied = output is not None and output.weight is table.weight
    return tree if tied == unembedding.tied else tree.replace(head=head.replace(unembedding=unembedding.replace(tied=tied)))


def _unused(theirs: Mapping[str, nn.Parameter], family: Family | None) -> tuple[str, ...]:
    pairs = {} if family is None else family.unused
    return tuple(one for one, other in pairs.items() if one in theirs and other in theirs)


def _apply_settings(ours: Model, family: Family, config: Mapping[str, Any]) -> None:
    """Set the family's settings on each module with an attribute for them."""
    for part in ours.modules():
        for name, attribute in getattr(part, "settings", {}).items():
            if name in family.settings:
                setattr(part, attribute, family.setting(name, config))


def _stretch_positions(ours: Model, theirs: nn.Module, family: Family) -> None:
    """Copy the angles of rotary positions that are not the plain ones from the library's own tables."""
    config = theirs.config
    tables = getattr(config, "rope_parameters", None)
    every = [part for part in ours.modules() if getattr(getattr(part, "position", None), "rotates", False)]
    if not every or not tables:
        return
    turned = int(every[0].position.layer.fraction * every[0].layer.head_dim + 1e-6)
    if turned % 2 and family.even_rotation:
        raise InputError(f"from_hf: this model rotates {turned} dimensions of a head, which the library's code cannot pair")
    tables = tables if any(isinstance(one, dict) for one in tables.values()) else {"": tables}
    for attention in every:
        kind = "" if "" in tables else "full_attention" if attention.layer.window is None else "sliding_attention"
        table = tables.get(kind) or {}
        scaling = table.get("rope_type", table.get("type", "default"))
        if scaling not in SCALINGS:
            raise InputError(f"from_hf: rope_type={shown(scaling)} is not one of {', '.join(SCALINGS)}")
        if scaling != "default":
            _stretch(attention.position, scaling, kind, table, theirs)


def _stretch(position: nn.Module, scaling: str, kind: str, table: Mapping[str, Any], theirs: nn.Module) -> None:
    config = theirs.config
    position.name = kind
    if scaling == "dynamic":
        position.near, position.growth = int(config.max_position_embeddings), float(table["factor"])
        return
    prefix = f"{kind}_" if kind else ""
    source = next(one for one in theirs.modules() if hasattr(one, f"{prefix}inv_freq"))
    # LongRoPE overwrites its table in every pass, and keeps the first one.
    name = "original_inv_freq" if scaling == "longrope" else "inv_freq"
    first: torch.Tensor = getattr(source, f"{prefix}{name}").detach().to(torch.float32)
    device = next(theirs.parameters()).device
    position.frequencies = first.clone().to(device)
    position.amplitude = float(getattr(source, f"{prefix}attention_scaling", 1.0))
    if scaling == "longrope":
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        position.near = int(table["original_max_position_embeddings"])
        more = {"layer_type": kind} if kind else {}
        position.far_frequencies, _ = ROPE_INIT_FUNCTIONS[scaling](config, device, seq_len=position.near + 1, **more)


SCALINGS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
"""Kinds of rope scaling that the tests compare."""
