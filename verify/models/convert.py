# mypy: disable-error-code="no-any-return"
"""Models of the transformers library as our modules, with their weights: the same logits.

Which parameter is which tensor of the tree stands in :mod:`verify.models.initialize`. What a model's logits need beyond its
tree is
read here from its configuration, family by family: how positions are stretched, the activation of a pooler, a scale at the
head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from depthwidth.architecture import Transformer
from depthwidth.architecture.hf.fields import ACTIVATION_OF
from depthwidth.errors import InputError, shown
from depthwidth.initialization import parameters
from depthwidth.layers import LanguageHead

from .activations import Activation
from .attention import Attention, Mix
from .head import ClassifierHead, Pooler
from .head import LanguageHead as LanguageHeadModule
from .initialize import _unwrapped, locate, tree_of
from .model import Model, build
from .positions import ALiBi, Rotary


def from_hf(model: nn.Module) -> Model:
    """Our module with the weights of a transformers model; on the same inputs without padding it gives the same logits.

    Parameters
    ----------
    model : a model of the transformers library, of any family that :mod:`depthwidth.architecture.hf` reads. It stays as it is.

    Returns
    -------
    A :class:`~verify.models.model.Model` on the same device, in the same precision and mode, whose weights are copies.
    ``logits`` of a language or classification model, the last hidden state or the pooler's output of one without a head.

    Raises
    ------
    InputError
        if the family is not known, or its configuration asks for what no module here does: a kind of rope scaling that the
        tests do not compare.

    Notes
    -----
    Positions count from the first token of a sequence. Where a model skips padding tokens (RoBERTa), inputs must have none.
    In training mode a few of the library's dropouts that the tree does not hold, such as a classifier's, are absent.

    Examples
    --------
    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> theirs = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=50, n_positions=16)).eval()
    >>> ours, tokens = from_hf(theirs), torch.arange(16)[None]
    >>> bool((ours(tokens) - theirs(tokens).logits).abs().max() < 1e-5)
    True
    """
    inner = _unwrapped(model)
    config = getattr(inner, "config", None)
    tree = _live_tree(inner)
    first = next(inner.parameters())
    if first.is_meta:
        raise InputError(f"{type(inner).__name__} has no weights yet to copy: give it a device first")
    ours = build(tree, dtype=first.dtype, device="meta").to_empty(device=first.device)
    named = dict(ours.named_parameters())
    home = {(role, block): name for name, role, block, _ in parameters(tree)}
    theirs = dict(inner.named_parameters())
    with torch.no_grad():
        for name, slices in locate(inner, tree, unused=_unused(inner)).items():
            value = theirs[name].detach()
            if type(inner.get_submodule(name.rpartition(".")[0])).__name__ == "Conv1D" and value.dim() == 2:
                slices = [one._replace(view=_transposed(one.view)) for one in slices]  # stored as (inputs, outputs)
            for one in slices:
                place = named[home[one.role, one.block]]
                place.copy_(one.view(value).reshape(place.shape))
    _positions(ours, inner, config)
    setting = _SETTINGS.get(getattr(config, "model_type", ""))
    if setting is not None:
        setting(ours, config)
    return ours.train(inner.training)


def _transposed(view: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda tensor: view(tensor).T


def _live_tree(model: nn.Module) -> Transformer:
    """The tree of the model as it stands: T5's class ties its head whatever the configuration says."""
    tree = tree_of(model)
    if not isinstance(tree.head, LanguageHead) or not hasattr(model, "get_output_embeddings"):
        return tree
    output, table = model.get_output_embeddings(), model.get_input_embeddings()
    tied = output is not None and output.weight is table.weight
    if tied == tree.head.unembedding.tied:
        return tree
    return tree.replace(head=tree.head.replace(unembedding=tree.head.unembedding.replace(tied=tied)))


def _unused(model: nn.Module) -> tuple[str, ...]:
    """The first of two output biases, of which BERT's and RoBERTa's untied heads use the second."""
    names = dict(model.named_parameters())
    pairs = {"cls.predictions.bias": "cls.predictions.decoder.bias", "lm_head.bias": "lm_head.decoder.bias"}
    return tuple(one for one, other in pairs.items() if one in names and other in names)


def _positions(ours: Model, theirs: nn.Module, config: Any) -> None:
    """The angles of rotary positions that are not the plain ones: taken from the library's own tables."""
    every: list[tuple[Any, Any]] = [(part.layer, part.position) for part in ours.modules() if isinstance(part, Attention)]
    every = [(layer, position) for layer, position in every if isinstance(position, Rotary)]
    tables = getattr(config, "rope_parameters", None)
    if not every or not tables:
        return
    turned = int(every[0][1].layer.fraction * every[0][0].head_dim + 1e-6)
    if turned % 2 and getattr(config, "model_type", "") in ("phi", "stablelm"):
        raise InputError(f"from_hf: this model rotates {turned} dimensions of a head, which the library's code cannot pair")
    tables = tables if any(isinstance(one, dict) for one in tables.values()) else {"": tables}
    for layer, position in every:
        kind = "" if "" in tables else "full_attention" if layer.window is None else "sliding_attention"
        table = tables.get(kind) or {}
        scaling = table.get("rope_type", table.get("type", "default"))
        if scaling not in _SCALINGS:
            raise InputError(f"from_hf: rope_type={shown(scaling)} is not one of {', '.join(_SCALINGS)}")
        if scaling == "default":
            continue
        position.name = kind
        if scaling == "dynamic":
            position.near, position.growth = int(config.max_position_embeddings), float(table["factor"])
            continue
        prefix = f"{kind}_" if kind else ""
        source = next(one for one in theirs.modules() if hasattr(one, f"{prefix}inv_freq"))
        # LongRoPE writes over its table in every pass, and keeps the first one.
        name = "original_inv_freq" if scaling == "longrope" else "inv_freq"
        first: torch.Tensor = getattr(source, f"{prefix}{name}").detach().to(torch.float32)
        where = next(theirs.parameters()).device
        position.frequencies = first.clone().to(where)
        position.amplitude = float(getattr(source, f"{prefix}attention_scaling", 1.0))
        if scaling == "longrope":
            from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

            position.near = int(table["original_max_position_embeddings"])
            more = {"layer_type": kind} if kind else {}
            position.far_frequencies, _ = ROPE_INIT_FUNCTIONS[scaling](config, where, seq_len=position.near + 1, **more)


_SCALINGS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
"""Kinds of rope scaling that the tests compare."""


# What else a family's logits need.


def _activation(name: str) -> Activation:
    if name not in ACTIVATION_OF:
        raise InputError(f"from_hf: the activation {shown(name)} is not known")
    return Activation(ACTIVATION_OF[name])


def _pooler(ours: Model) -> Pooler | None:
    head = ours.head.pooler if isinstance(ours.head, ClassifierHead) else ours.head
    return head if isinstance(head, Pooler) else None


def _distilbert(ours: Model, config: Any) -> None:
    pooler = _pooler(ours)
    if pooler is not None:
        pooler.activation = Activation("relu")


def _vit(ours: Model, config: Any) -> None:
    pooler = _pooler(ours)
    if pooler is not None:
        pooler.activation = _activation(config.pooler_act)


def _t5(ours: Model, config: Any) -> None:
    if isinstance(ours.head, LanguageHeadModule) and getattr(config, "scale_decoder_outputs", config.tie_word_embeddings):
        ours.head.scale = config.d_model**-0.5


def _falcon(ours: Model, config: Any) -> None:
    for part in ours.modules():
        if isinstance(part, Attention) and isinstance(part.position, ALiBi):
            part.position.coarse = True


def _olmo(ours: Model, config: Any) -> None:
    for part in ours.modules():
        if isinstance(part, Attention):
            part.clip = config.clip_qkv


def _gemma3(ours: Model, config: Any) -> None:
    # The library reads attn_logit_softcapping and makes no use of it in this family (transformers 5); Gemma 3 has none.
    for part in ours.modules():
        if isinstance(part, Mix):
            part.softcap = None


_SETTINGS: dict[str, Callable[[Model, Any], None]] = {
    "distilbert": _distilbert, "vit": _vit, "t5": _t5, "falcon": _falcon, "olmo": _olmo,
    "gemma3_text": _gemma3,
}  # fmt: skip
